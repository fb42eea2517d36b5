"""Files that are never half-written, and folders of shards that survive a kill."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError

TABLE = pa.table({"x": [1, 2, 3]})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    for error in (ValueError, KeyboardInterrupt):
        with pytest.raises(error), storage.atomic_write(file) as out:
            out.write(b"half of the n")
            raise error
    assert (file.read_text(), names(tmp_path)) == ("old", ["a.json"])


def test_a_full_disk_is_said_in_one_line_and_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("old")
    said = "could not be written: No space left on device; nothing was changed"
    with pytest.raises(InputError, match=said), storage.atomic_write(file):
        raise OSError(28, "No space left on device")
    assert (file.read_text(), names(tmp_path)) == ("old", ["a.json"])


def test_a_written_file_has_the_usual_rights(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    storage.write_json(tmp_path / "new" / "a.json", {"ü": 1})
    assert json.loads((tmp_path / "new" / "a.json").read_text(encoding="utf-8")) == {"ü": 1}
    rights = [stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "usual", tmp_path / "new" / "a.json")]
    assert rights[0] == rights[1]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="can't write there"):
        storage.write_json(tmp_path / "file" / "a.json", {})


def test_urls_are_refused() -> None:
    with pytest.raises(InputError, match="object-store URLs are not supported"):
        storage.local("s3://bucket/a")


def test_reading_json(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        storage.read_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_bytes(b"\xff{")
    with pytest.raises(ArtefactError, match="not valid JSON"):
        storage.read_json(tmp_path / "bad.json")


def test_the_origin_travels_in_the_file(tmp_path: Path) -> None:
    storage.write_table(TABLE, tmp_path / "a.parquet", origin={"seed": 3})
    assert storage.read_origin(tmp_path / "a.parquet") == {"seed": 3}
    pq.write_table(TABLE, tmp_path / "foreign.parquet")
    assert storage.read_origin(tmp_path / "foreign.parquet") == {}


def test_reading_tables(tmp_path: Path) -> None:
    for name in ("b", "a", ".hidden"):
        storage.write_table(pa.table({"note_id": [name], "price": [1]}), tmp_path / f"{name}.parquet")
    table = storage.read_table(tmp_path, schema.NOTES)
    assert table["note_id"].to_pylist() == ["a", "b"]  # by name, hidden ones left out
    assert table.column_names == [*schema.NOTES.names, "price"]
    assert storage.read_table(tmp_path, columns=["price", "absent"]).column_names == ["price"]
    (tmp_path / "empty").mkdir()
    assert storage.read_table(tmp_path / "empty", schema.NOTES).num_rows == 0
    for place, said in (("empty", "no Parquet files there"), ("none", "no such file or folder")):
        with pytest.raises(InputError, match=said):
            storage.read_table(tmp_path / place)


@pytest.mark.parametrize("damage", ["text", "truncated", "pages"])
def test_damaged_parquet_is_named(tmp_path: Path, damage: str) -> None:
    file = tmp_path / "a.parquet"
    storage.write_table(pa.table({"x": [str(i * 7919) for i in range(5000)]}), file)
    whole = file.read_bytes()
    third = len(whole) // 3
    damaged = {"text": b"a,b\n", "truncated": whole[:-9], "pages": whole[:8] + bytes(third) + whole[8 + third :]}
    file.write_bytes(damaged[damage])
    with pytest.raises(InputError, match=r"a\.parquet: .*(not a readable|damaged) Parquet file"):
        storage.read_table(file)


def test_hashes() -> None:
    assert storage.value_hash({"a": 1, "b": 2}) == storage.value_hash({"b": 2, "a": 1})
    assert storage.value_hash({"a": 1}) != storage.value_hash({"a": "1"})
    assert len(storage.value_hash(None)) == 16


def test_the_hash_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert storage.file_hash(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_shards_grow_and_only_named_ones_count(tmp_path: Path) -> None:
    folder = storage.ShardFolder(tmp_path / "s", origin={"v": 1})
    for start in (0, 10):
        folder.append(pa.table({"x": [start, start + 1]}))
    pq.write_table(pa.table({"x": [99]}), tmp_path / "s" / "shard-000002.parquet")  # of a job that was killed here
    again = storage.ShardFolder(tmp_path / "s", origin={"v": 1})
    assert again.rows == 4
    assert storage.read_table(tmp_path / "s")["x"].to_pylist() == [0, 1, 10, 11]
    again.append(pa.table({"x": [20]}))
    assert storage.read_table(tmp_path / "s")["x"].to_pylist() == [0, 1, 10, 11, 20]
    record: dict[str, Any] = storage.read_json(tmp_path / "s" / "manifest.json")
    for shard in record["shards"]:
        assert storage.file_hash(tmp_path / "s" / shard["name"]) == shard["sha256"]


def test_a_table_without_shards_is_a_table(tmp_path: Path) -> None:
    storage.ShardFolder(tmp_path / "s", origin={}).commit()
    assert storage.parquet_files(tmp_path / "s") == []
    assert storage.read_origin(tmp_path / "s") == {}


def test_shards_of_another_origin_are_refused(tmp_path: Path) -> None:
    storage.ShardFolder(tmp_path / "s", origin={"v": 1}).append(TABLE)
    with pytest.raises(ArtefactError, match="holds a table of another origin"):
        storage.ShardFolder(tmp_path / "s", origin={"v": 2})


def test_folders_of_others_are_refused(tmp_path: Path) -> None:
    pq.write_table(TABLE, tmp_path / "mine.parquet")
    with pytest.raises(InputError, match="was not written by noterec"):
        storage.ShardFolder(tmp_path, origin={})
    with pytest.raises(InputError, match="was not written by noterec"):
        storage.ShardFolder(tmp_path / "mine.parquet", origin={})


@pytest.mark.parametrize("record", [[], {"files": []}, {"origin": {}, "shards": "all"}])
def test_a_manifest_of_others_is_refused(tmp_path: Path, record: Any) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps(record))
    with pytest.raises(ArtefactError, match="no manifest of noterec's"):
        storage.parquet_files(tmp_path)
    with pytest.raises(ArtefactError, match="no manifest of noterec's"):
        storage.ShardFolder(tmp_path, origin={})
