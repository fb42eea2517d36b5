"""`noterec index`: building without a word more, and changing what is there."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec import storage
from noterec.cli import main
from tests.index.conftest import embeddings_table, unit, write_dataset, write_shards

IDS = ["a", "b", "c", "d"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_shards(tmp_path / "e", embeddings_table(IDS, unit(np.eye(4))))
    write_dataset(tmp_path / "ds", one={"note_id": [*IDS, "x"], "title": [*IDS, "late"]})
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0, plain: bool = False) -> Any:
    with pytest.MonkeyPatch.context() as patched, pytest.raises(SystemExit) as stop:
        patched.setattr(sys, "argv", ["noterec", *arguments, *([] if plain else ["--json"])])
        main()
    assert stop.value.code == code
    printed = capsys.readouterr()
    if code:
        return printed.err
    return printed.out if plain else json.loads(printed.out)


def test_build_change_and_go_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = run(capsys, "index", "e", "--notes", "ds", "--out", "i")  # `build` goes without saying
    assert (built["bundle"], built["notes"]) == ("bundle-000001", 4)
    run(capsys, "index", "build", "e", "--notes", "ds", "--out", "i", "--kind", "ivf", "--recall-target", "0.5")
    write_shards(folder / "fresh", embeddings_table(["x"], unit([[1, 1, 0, 0]])))
    assert run(capsys, "index", "add", "i", "fresh", "--notes", "ds")["added"] == 1
    removed = run(capsys, "index", "remove", "i", "b", "nobody")
    assert (removed["removed"], removed["unknown"], removed["change"]) == (1, 1, 3)
    storage.write_table(pa.table({"note_id": ["c", "c"]}), folder / "ids.parquet")
    assert run(capsys, "index", "remove", "i", "--ids", "ids.parquet")["removed"] == 1
    status = run(capsys, "index", "status", "i")
    assert [(line["bundle"], line["live"], line["kind"]) for line in status["bundles"]] == [
        ("bundle-000001", False, "flat"),
        ("bundle-000002", True, "ivf"),
    ]
    assert (status["notes"], status["added"], status["removed"]) == (3, 1, 3)
    assert [row["note_id"] for row in run(capsys, "query", "i", "--note-id", "x", "-k", "9")] == ["a", "d"]
    assert run(capsys, "index", "rollback", "i") == {"path": "i", "was": "bundle-000002", "live": "bundle-000001"}
    assert run(capsys, "index", "status", "i")["notes"] == 3
    listed = run(capsys, "index", "status", "i", plain=True)
    assert "since: 1 notes added, 3 removed for good, 3 to be found" in listed


def test_a_gate_stops_with_its_own_code(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from noterec.index import gate

    monkeypatch.setattr(gate, "recall", lambda searcher, known: np.zeros(len(known.rows), dtype=np.float32))
    assert "not published" in run(capsys, "index", "e", "--out", "i", code=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["index", "add", "i", "nowhere"], "nowhere"),
        (["index", "add", "i", "e", "--notes", "other"], "4 of the 4 notes to add are not there, the first is 'a'"),
        (["index", "remove", "i"], "no note to remove; give ids"),
        (["index", "rollback", "i"], "nothing to go back to"),
        (["index", "status", "nowhere"], "no index there"),
        (["index", "stauts", "i"], "did you mean 'status'?"),
        (["index", "e", "--out", "i", "--kind", "faiss"], "kind: Input should be 'auto', 'flat'"),
    ],
)
def test_what_is_wrong_is_said(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    write_dataset(folder / "other", one={"note_id": ["q"], "title": ["q"]})
    run(capsys, "index", "e", "--out", "i")
    assert message in run(capsys, *arguments, code=2)
