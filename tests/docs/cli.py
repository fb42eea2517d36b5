"""Whether a `noterec` command line is one that the program would take, without running it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import typer
from typer.main import get_command

from noterec.cli.commands import app


def complaint(arguments: Sequence[str], *, lax: bool = False) -> str:
    """What the program would say against its arguments, or "".

    Args:
        arguments: what follows `noterec`.
        lax: text between commands: arguments may be left out, values too.
    """
    command: Any = get_command(app)
    rest, name, parent = list(arguments), "noterec", None
    while True:
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # --help is printed at once
                context = command.make_context(name, list(rest), parent=parent)
        except typer.Exit:  # --help
            return ""
        except Exception as error:  # the usage errors of whichever click typer brings
            if not hasattr(error, "format_message"):
                raise
            bare = type(error).__name__ == "NoArgsIsHelpError"  # its message is the whole help
            message = "expects a command" if bare else str(error.format_message())
            forgiven = bare or type(error).__name__ == "MissingParameter" or "requires an argument" in message
            return "" if lax and forgiven else f"{name}: {message}"
        if not hasattr(command, "resolve_command"):
            return ""
        left = [*context._protected_args, *context.args]
        if not left:
            return "" if lax else f"{name}: expects a command"
        try:
            name, command, rest = command.resolve_command(context, left)
        except Exception as error:
            if not hasattr(error, "format_message"):
                raise
            return f"{name}: {error.format_message()}"
        parent = context


def helps() -> list[tuple[str, Any, Any]]:
    """Every command that does something, in the help page's order: its name, itself, its context."""
    found: list[tuple[str, Any, Any]] = []

    def walk(command: Any, name: str, parent: Any) -> None:
        context = command.context_class(command, info_name=name, parent=parent)
        for inner, below in getattr(command, "commands", {}).items():
            walk(below, inner, context)
        if not hasattr(command, "commands"):
            found.append((context.command_path, command, context))

    walk(get_command(app), "noterec", None)
    return found
