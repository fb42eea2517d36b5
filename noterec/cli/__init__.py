"""The `noterec` command: arguments, progress bars and printing. Every command calls one public function.

Exit codes: 0 done; 1 a bug, with its traceback; 2 the input is wrong, said in one line; 3 a quality gate stopped the
job; 75 another job writes the same output; 130 interrupted.
"""

from __future__ import annotations

import contextlib
import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    import typer

    from noterec import progress
    from noterec.cli.commands import app
    from noterec.errors import NoterecError
    from noterec.training import processes

    try:
        with progress.shown() if processes.is_first() else contextlib.nullcontext():
            code = typer.main.get_command(app).main(standalone_mode=False)
    except NoterecError as error:
        sys.stderr.write(f"noterec: {' '.join(str(error).split())}\n")  # some libraries' reasons have several lines
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        show = getattr(error, "show", None)  # a usage error of the command-line library
        if show is None or not hasattr(error, "exit_code"):
            raise
        show()
        sys.exit(int(error.exit_code))
    if code == INTERRUPTED:  # the command-line library turns Ctrl-C into this code
        sys.stderr.write("noterec: interrupted; the same command continues where it can\n")
    sys.exit(code if isinstance(code, int) else 0)
