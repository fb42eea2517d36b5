"""`noterec generate` from the command line."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noterec import cli, schema, storage
from tests.embedding.test_engine import rows, write


def run(monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> int:
    monkeypatch.setattr(sys, "argv", ["noterec", "generate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_categories_and_hashtags(
    backbone_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, model = write(tmp_path / "d", rows(5)), backbone_folder("llama")
    (tmp_path / "names.txt").write_text("Food\nTravel\n")
    given = [data, "--model", model, "--set", "device=cpu", "--json"]
    category = ["--task", "category", "--categories", tmp_path / "names.txt", "--samples", "4", "--out", tmp_path / "c"]
    assert run(monkeypatch, *given, *category) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["written"], summary["categories"], summary["samples_fixed"]) == (5, 2, 20)
    for row in storage.read_table(tmp_path / "c", schema.GENERATED).to_pylist():
        assert row["answers"][0] in ("Food", "Travel")
        assert row["samples"] == 4
    hashtags = ["--task", "hashtags", "--n", "2", "--set", "max_tokens=6", "--out", tmp_path / "h"]
    assert run(monkeypatch, *given, *hashtags) == 0
    assert json.loads(capsys.readouterr().out)["fewer"] is not None
    assert all(len(row["answers"]) <= 2 for row in storage.read_table(tmp_path / "h").to_pylist())
    free = ["--task", "category", "--decoding", "free", "--set", "max_tokens=6", "--out", tmp_path / "f"]
    assert run(monkeypatch, *given, *free) == 0
    assert all(row["text"] is not None for row in storage.read_table(tmp_path / "f").to_pylist())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--task", "topics"], "task 'topics': expected category or hashtags"),
        (["--task", "category"], "the model has no categories of its own; give --categories"),
        (["--task", "category", "--categories", "NOWHERE.txt"], "NOWHERE.txt: no readable text"),
        (["--task", "category", "--decoding", "beam"], "decoding: "),
        (["--task", "hashtags", "--n", "0"], "n: "),
    ],
)
def test_wrong_input_is_one_line(
    backbone_folder: Callable[[str], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    data = write(tmp_path / "d", rows(5))
    capsys.readouterr()
    assert run(monkeypatch, data, "--model", backbone_folder("llama"), "--out", tmp_path / "t", *arguments) == 2
    out, err = capsys.readouterr()
    line = err.splitlines()[-1]
    assert (out, said in line) == ("", True)
    assert not (tmp_path / "t").exists()
