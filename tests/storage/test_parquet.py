"""Tables: their origin inside, damage named, and of those in object stores only the columns that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from noterec import schema, storage
from noterec.errors import InputError
from noterec.storage.objects import ObjectPath

TABLE = pa.table({"x": [1, 2, 3]})


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


def test_tables_in_stores(root: storage.Place) -> None:
    for name in ("b", "a"):
        table = pa.table({"note_id": [name], "price": [1]})
        storage.write_table(table, root / "notes" / f"{name}.parquet", origin={"seed": 4})
    assert storage.read_table(str(root / "notes"), schema.NOTES)["note_id"].to_pylist() == ["a", "b"]
    assert storage.read_table(root / "notes" / "b.parquet")["note_id"].to_pylist() == ["b"]
    assert storage.read_origin(root / "notes") == {"seed": 4}
    with pytest.raises(InputError, match="none: no such file or folder"):
        storage.parquet_files(root / "none")
    with pytest.raises(InputError, match="none: no such file"):
        storage.open_parquet(root / "none")
    with storage.atomic_write(root / "bad.parquet") as file:
        file.write(b"a,b\n")
    with pytest.raises(InputError, match=r"bad\.parquet: not a readable Parquet file"):
        storage.open_parquet(root / "bad.parquet")


def test_only_the_columns_asked_for_travel(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 2_000_000, dtype=np.uint8)
    table = pa.table({"small": pa.array(range(1000)), "large": [row.tobytes() for row in noise.reshape(1000, -1)]})
    storage.write_table(table, f"{s3}/t.parquet")
    read: list[int] = []
    ranges = ObjectPath._range

    def counted(self: ObjectPath, start: int, stop: int) -> bytes:
        read.append(stop - start)
        return ranges(self, start, stop)

    monkeypatch.setattr(ObjectPath, "_range", counted)
    assert storage.read_table(f"{s3}/t.parquet", columns=["small"])["small"].to_pylist() == list(range(1000))
    assert sum(read) < 100_000
    assert storage.read_table(f"{s3}/t.parquet").equals(table)
    assert sum(read) > 2_000_000


def test_a_file_above_one_part_of_an_upload(s3: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, 6 * 2**20, dtype=np.uint8).tobytes()
    with storage.atomic_write(f"{s3}/a") as file:
        file.write(noise)
    assert storage.place(f"{s3}/a").read_bytes() == noise
