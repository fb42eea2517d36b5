"""Datasets in object stores: read, validated, and refused by the commands that need files."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from noterec import cli, schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Dataset, write_meta
from noterec.notes.validate import validate


def write(root: storage.Place) -> None:
    """Three notes, one of them twice and one deleted, in two files; two clicks."""
    notes = [
        [
            {"note_id": "a", "title": "old", "updated_at": datetime(2024, 1, 1, tzinfo=UTC)},
            {"note_id": "b", "title": "b"},
        ],
        [
            {"note_id": "a", "title": "new", "updated_at": datetime(2024, 1, 2, tzinfo=UTC)},
            {"note_id": "c", "deleted": True},
        ],
    ]
    for number, rows in enumerate(notes):
        table = pa.Table.from_pylist(rows, schema=schema.NOTES)
        storage.write_table(table, root / "notes" / f"{number}.parquet")
    log = {
        "user_id": ["u", "u"],
        "note_id": ["a", "b"],
        "timestamp": [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 2)],
    }
    storage.write_table(pa.table(log), root / "engagement" / "log.parquet")
    write_meta(root, clock="time", source_format="tests")


def test_a_dataset_lies_anywhere(root: storage.Place) -> None:
    write(root)
    data = Dataset(str(root))
    assert data.path == root
    assert data.note_files == [root / "notes" / "0.parquet", root / "notes" / "1.parquet"]
    assert [tuple(row) for row in data.notes(["title"]).sort("note_id").rows()] == [("a", "new"), ("b", "b")]
    assert data.engagement()["note_id"].to_list() == ["a", "b"]
    assert (data.clock, data.meta["source_format"]) == ("time", "tests")
    summary = validate(root)
    assert (summary.path, summary.notes, summary.events) == (str(root), 2, 2)


def test_a_dataset_of_shards(root: storage.Place) -> None:
    shards = storage.ShardFolder(root / "notes", origin={})
    for name in ("b", "a"):
        shards.append(pa.Table.from_pylist([{"note_id": name}], schema=schema.NOTES))
    data = Dataset(root)
    assert data.note_ids.to_list() == ["b", "a"]
    assert data.engagement().height == 0
    assert data.meta == {}


def test_no_dataset_there(s3: str) -> None:
    with pytest.raises(InputError, match=f"^{s3}/none: no dataset there"):
        Dataset(f"{s3}/none")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["noterec", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    return int(stopped.value.code or 0)


def test_the_command_line_takes_urls(
    s3: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(storage.place(s3) / "ds")
    assert run(monkeypatch, "validate", f"{s3}/ds", "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["path"], summary["notes"]) == (f"{s3}/ds", 2)


@pytest.mark.parametrize(
    "command",
    [
        ["split", "DATA", "--out", "s3://bucket/out"],
        ["index", "s3://bucket/e", "--out", "s3://bucket/out"],
        ["modalities", "DATA", "--model", "m", "--out", "s3://bucket/out"],
        ["train", "DATA", "--pairs", "p.parquet", "--out", "s3://bucket/out"],
        ["sample", "s3://bucket/out"],
        ["import", "csv", "s3://bucket/out", "data"],
        ["evaluate", "--notes", "DATA", "--split", "s3://bucket/out", "--out", "report"],
    ],
    ids=lambda command: command[0],
)
def test_commands_that_need_files_refuse_urls(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert run(monkeypatch, *[str(tmp_path / "data") if word == "DATA" else word for word in command]) == 2
    assert "s3://bucket/out: object-store URLs are not supported here" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["data"]
