"""`noterec serve` on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from noterec.cli.commands import app
from noterec.config import ServeConfig
from noterec.errors import InputError


def test_the_help_gives_examples_and_takes_no_token() -> None:
    text = CliRunner().invoke(app, ["serve", "--help"], terminal_width=200).output
    assert "noterec serve index --model model --notes data/mine" in text
    assert "curl" in text and "NOTEREC_TOKEN" in text and "--token-file" in text
    assert "--token " not in text


def test_its_settings_are_shown() -> None:
    text = CliRunner().invoke(app, ["settings", "serve"]).output
    assert text.strip() == ServeConfig.described().strip()


def test_what_is_wrong_is_said_before_anything_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEREC_TOKEN", "short")
    found = CliRunner().invoke(app, ["serve", str(tmp_path), "--port", "0"])
    assert isinstance(found.exception, InputError) and "at least 16" in str(found.exception)
