"""Pages that are made from the program itself when the site is built, and so can't go stale: commands, settings, Python."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

import noterec
from noterec import config
from noterec.cli import commands
from noterec.cli.settings import STAGES

# The stages of the road, and how a page calls them; what has no stage comes first.
TITLES = {
    "notes": "Notes",
    "engagement": "Engagement",
    "model": "The model",
    "embedding": "Embedding and writing",
    "training": "Training",
    "index": "The index",
    "evaluation": "Evaluation",
    "serving": "Serving",
    "nightly": "Every night",
    "tour": "Around it",
    "checkup": "Around it",
    "config": "Settings",
    "errors": "Errors",
}


def api() -> str:
    """The page of everything that `import noterec` offers, by stage."""
    groups: dict[str, list[str]] = {title: [] for title in dict.fromkeys(TITLES.values())}
    for name in noterec.__all__:
        if name != "__version__":
            groups[TITLES[noterec._HOME[name].split(".")[0]]].append(name)
    lines = [
        "# Python",
        "",
        "What `import noterec` offers. Every command is one of these functions: the same name, a settings object, "
        "a small summary in return. "
        "Letters of array shapes: " + _letters() + ".",
        "",
    ]
    for title, names in groups.items():
        if names:
            lines += [f"## {title}", ""]
        for name in names:
            options = f"    options:\n      heading: noterec.{name}\n      toc_label: {name}\n"
            if name.endswith("Config"):
                options += "      members: false\n      show_bases: false\n      show_signature: false\n"
            lines += [f"::: noterec.{noterec._HOME[name]}.{name}", options]
            stage = name.removesuffix("Config").lower()
            if name.endswith("Config") and stage in STAGES:
                lines += [f"    Its fields: [settings](configuration.md#{stage}).", ""]
    return "\n".join(lines)


def configuration() -> str:
    """The page of all settings: `noterec settings STAGE` as tables."""
    lines = [
        "# Settings",
        "",
        "Every stage has a settings class in Python and takes the same on the command line: `--config FILE.yaml`, then "
        "`--set key=value`, which is stronger. "
        "A mistyped key is an error. `noterec settings STAGE` prints these as a YAML file to start from; "
        "keys of a group are written with a dot, "
        "as in `--set prompt.title_tokens=20`.",
        "",
    ]
    for stage in STAGES:
        kind = getattr(config, f"{stage.capitalize()}Config")
        lines += [
            f"## {stage}",
            "",
            f"`{kind.__name__}`: {_first(kind)}",
            "",
            "| key | default | meaning |",
            "|---|---|---|",
        ]
        lines += [f"| `{key}` | {default} | {meaning} |" for key, default, meaning in _fields(kind)]
        lines.append("")
    return "\n".join(lines)


def cli() -> str:
    """The page of all commands: their help."""
    lines = [
        "# Commands",
        "",
        "What `noterec COMMAND --help` says. Exit codes: 0 done; 1 a bug, with its traceback; "
        "2 the input is wrong, said in one line; "
        "3 a quality gate stopped the job; 130 interrupted.",
        "",
    ]

    def walk(command: Any, name: str, parent: Any) -> None:
        context = command.context_class(
            command, info_name=name, parent=parent, terminal_width=110, max_content_width=110
        )
        if parent is not None:
            lines.extend([f"## {context.command_path}", "", "```text", command.get_help(context).strip(), "```", ""])
        for inner, below in getattr(command, "commands", {}).items():
            walk(below, inner, context)

    walk(get_command(commands.app), "noterec", None)
    return "\n".join(lines)


PAGES = {"api.md": api, "configuration.md": configuration, "cli.md": cli}


def _fields(kind: type[config.Settings], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in kind.model_fields.items():
        default = field.get_default(call_default_factory=True)
        meaning = _cell(field.description or "")
        if isinstance(default, config.Settings):
            yield f"{prefix}{name}", "", f"{meaning or _cell(_first(type(default)))}"
            yield from _fields(type(default), f"{prefix}{name}.")
        else:
            shown = "required" if field.is_required() else f"`{_cell(_plain(default))}`"
            yield f"{prefix}{name}", shown, meaning


def _plain(value: Any) -> str:
    """A default as YAML writes it."""
    import yaml

    return (
        yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
        .strip()
        .removesuffix("...")
        .strip()
    )


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _first(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").split("\n\n")[0]


def _letters() -> str:
    text = inspect.getdoc(importlib.import_module("noterec")) or ""
    return " ".join(text.split("docstrings:")[1].split()).rstrip(".")
