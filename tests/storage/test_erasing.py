"""Rows that are erased are in no byte of a table any more, and all others are as they were."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noterec import storage
from noterec.errors import InputError, LockedError
from noterec.storage import erase_rows, named
from noterec.storage.locks import only_job

IDS = ["n1", "n10", None, "n2", 'it\'s "n1"\n*', "x" * 4096]


def table(ids: list[str | None] = IDS) -> pa.Table:
    return pa.table({"note_id": pa.array(ids, pa.string()), "value": list(range(len(ids)))})


def gone(ids: set[str], path: storage.Place) -> int:
    return erase_rows(path, named(ids, "note_id"), columns=["note_id"])


def words(path: storage.Place, column: str = "note_id") -> list[str]:
    """All that a Parquet file says of a text column: its dictionary pages, its statistics, its metadata."""
    with path.open("rb") as opened:
        file = pq.ParquetFile(opened, read_dictionary=[column])
        found = [str(chunk.dictionary) for chunk in file.read()[column].chunks]
        place = file.schema_arrow.names.index(column)
        groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
        return [*found, *(str(group.column(place).statistics) for group in groups), str(file.schema_arrow.metadata)]


def test_files_lose_these_rows_and_no_others(root: storage.Place) -> None:
    storage.write_table(table(), root / "t/a.parquet", origin={"made": "here"})
    storage.write_table(table(["n3", "n10"]), root / "t/b.parquet")
    before = (root / "t/b.parquet").read_bytes()
    assert gone({"n1", "nobody", IDS[4] or "", IDS[5] or ""}, root / "t") == 3
    kept = storage.read_table(root / "t/a.parquet")
    assert kept["note_id"].to_pylist() == ["n10", None, "n2"] and kept["value"].to_pylist() == [1, 2, 3]
    assert storage.read_origin(root / "t/a.parquet") == {"made": "here"}
    assert (root / "t/b.parquet").read_bytes() == before
    assert gone({"n1"}, root / "t") == 0


def test_shards_are_replaced_in_one_step(root: storage.Place) -> None:
    folder = storage.ShardFolder(root / "t", origin={"a": 1})
    for number, ids in enumerate((IDS, ["n3"], ["n1"])):
        folder.append(table(ids), epoch=number)
    untouched = folder.shards[1]
    assert gone({"n1"}, root / "t") == 2
    after = storage.ShardFolder(root / "t", origin={"a": 1})
    assert after.check(deep=True) == []
    assert [shard["epoch"] for shard in after.shards] == [0, 1] and after.shards[1] == untouched
    assert storage.read_table(root / "t")["note_id"].to_pylist() == [*IDS[1:], "n3"]
    names = {entry.name for entry in (root / "t").glob("*.parquet")}
    assert names == {shard["name"] for shard in after.shards}


def test_a_table_without_any_row_left_is_still_one(root: storage.Place) -> None:
    storage.ShardFolder(root / "shards", origin={}).append(table(["n1", "n2"]))
    storage.ShardFolder(root / "shards", origin={}).append(table(["n2"]))
    storage.write_table(table(["n1"]), root / "files/a.parquet")
    for name, rows in (("shards", 3), ("files", 1)):
        assert gone({"n1", "n2"}, root / name) == rows
        assert storage.read_table(root / name).schema.names == ["note_id", "value"]
        assert gone({"n1", "n2"}, root / name) == 0


@pytest.mark.parametrize("kind", ["arrow", "polars", "enum"])
def test_no_dictionary_keeps_what_is_gone(tmp_path: Path, kind: str) -> None:
    """A file of categories lists them all, also those that no row has any more."""
    ids = ["secret", "b", "b", "c"]
    file = tmp_path / "t.parquet"
    if kind == "arrow":
        tags = pa.array([["secret"], ["b"], [], ["c"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
        pq.write_table(pa.table({"note_id": pa.array(ids).dictionary_encode(), "tags": tags}), file)
    else:
        dtype = pl.Categorical() if kind == "polars" else pl.Enum(["secret", "b", "c"])
        pl.DataFrame({"note_id": pl.Series(ids, dtype=dtype), "tags": ids}).write_parquet(file)
    assert gone({"secret"}, file) == 1
    assert pq.read_table(file)["note_id"].to_pylist() == ["b", "b", "c"]
    assert "secret" not in "".join(words(file)) and b"secret" not in file.read_bytes()
    if kind == "arrow":
        assert pq.read_table(file)["tags"].to_pylist() == [["b"], [], ["c"]]


def test_large_rows_are_streamed_and_small_ones_share_a_row_group(tmp_path: Path) -> None:
    count = 10_000
    storage.write_table(table([f"n{i}" for i in range(count)]), tmp_path / "t.parquet")
    assert gone({"n7", f"n{count - 1}"}, tmp_path / "t.parquet") == 2
    metadata = pq.read_metadata(tmp_path / "t.parquet")
    assert (metadata.num_rows, metadata.num_row_groups) == (count - 2, 1)


def test_ids_of_other_types_and_columns_that_are_not_there(tmp_path: Path) -> None:
    pq.write_table(pa.table({"note_id": [1, 2, 10]}), tmp_path / "t.parquet")
    assert gone({"1"}, tmp_path / "t.parquet") == 1
    assert erase_rows(tmp_path / "t.parquet", named({"1", "2"}, "user_id", "x"), columns=["user_id", "x"]) == 0
    pq.write_table(pa.table({"a": ["1", None, "3"], "b": ["4", "1", None]}), tmp_path / "u.parquet")
    assert erase_rows(tmp_path / "u.parquet", named({"1"}, "a", "b"), columns=["a", "b"]) == 2
    assert pq.read_table(tmp_path / "u.parquet")["a"].to_pylist() == ["3"]


def test_a_damaged_file_is_named_and_stays(tmp_path: Path) -> None:
    file = tmp_path / "t.parquet"
    storage.write_table(table([f"n{i}" for i in range(5000)]), file)
    data = bytearray(file.read_bytes())
    data[100:2000] = bytes(1900)
    file.write_bytes(data)
    with pytest.raises(InputError, match=r"t\.parquet"):
        gone({"n1"}, file)
    assert file.read_bytes() == bytes(data) and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_a_job_writes_is_left_to_it(tmp_path: Path) -> None:
    storage.ShardFolder(tmp_path / "t", origin={}).append(table())
    with only_job(tmp_path / "t", "noterec import"), pytest.raises(LockedError, match="noterec import"):
        gone({"n1"}, tmp_path / "t")
