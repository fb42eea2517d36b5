"""A command line, run in this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from noterec import cli

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def noterec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments: Any) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["noterec", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        out, err = capsys.readouterr()
        return int(stopped.value.code or 0), out, err

    return run
