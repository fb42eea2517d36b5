"""A dataset on disk: the newest version of each note counts, deleted ones don't, and empty ones say so."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Dataset, write_meta


def day(number: int) -> dt.datetime:
    return dt.datetime(2024, 1, number, tzinfo=dt.UTC)


def write(path: Path, *files: list[dict[str, Any]], log: dict[str, Any] | None = None) -> Dataset:
    """A dataset with one notes file per list of rows."""
    for number, rows in enumerate(files):
        table = pa.Table.from_pylist(rows, schema=schema.NOTES)
        storage.write_table(table, path / "notes" / f"{number}.parquet")
    if log is not None:
        storage.write_table(pa.table(log), path / "engagement" / "log.parquet")
    return Dataset(path)


def titles(data: Dataset, **more: Any) -> list[tuple[str, str]]:
    return [tuple(row) for batch in data.note_batches(["title"], **more) for row in pl.DataFrame(batch).rows()]  # type: ignore[arg-type, union-attr]


def test_the_latest_version_wins_and_ties_keep_the_first(tmp_path: Path) -> None:
    data = write(
        tmp_path,
        [
            {"note_id": "a", "title": "new", "updated_at": day(3)},
            {"note_id": "b", "title": "first of equals", "updated_at": day(2)},
            {"note_id": "c", "title": "undated"},
            {"note_id": "d", "title": "undated first"},
        ],
        [
            {"note_id": "a", "title": "old", "updated_at": day(1)},
            {"note_id": "b", "title": "second of equals", "updated_at": day(2)},
            {"note_id": "c", "title": "dated", "updated_at": day(1)},
            {"note_id": "d", "title": "undated second"},
        ],
    )
    expected = [("a", "new"), ("b", "first of equals"), ("d", "undated first"), ("c", "dated")]
    assert titles(data) == expected
    assert titles(data, batch_rows=1) == expected  # whatever the batches
    assert data.note_ids.to_list() == [note_id for note_id, _ in expected]


def test_a_deletion_takes_older_versions_with_it(tmp_path: Path) -> None:
    data = write(
        tmp_path,
        [{"note_id": "a", "updated_at": day(1)}, {"note_id": "b", "updated_at": day(1), "deleted": True}],
        [{"note_id": "a", "updated_at": day(2), "deleted": True}, {"note_id": "b", "updated_at": day(2)}],
    )
    assert data.note_ids.to_list() == ["b"]


def test_deleted_notes_are_those_whose_newest_version_says_so(tmp_path: Path) -> None:
    data = write(
        tmp_path,
        [{"note_id": "a", "updated_at": day(1)}, {"note_id": "b", "updated_at": day(1), "deleted": True}],
        [{"note_id": "a", "updated_at": day(2), "deleted": True}, {"note_id": "b", "updated_at": day(2)}],
        [{"note_id": "c", "deleted": True}, {"note_id": "d"}],
    )
    assert [batch["note_id"].to_pylist() for batch in data.deleted_batches()] == [["a"], ["c"]]
    assert data.note_count == len(data.note_ids) == 2
    undeleted = tmp_path / "plain"
    storage.write_table(pa.table({"note_id": ["a", "b"]}), undeleted / "notes" / "a.parquet")
    assert (list(Dataset(undeleted).deleted_batches()), Dataset(undeleted).note_count) == ([], 2)


ROW = st.fixed_dictionaries(
    {
        "note_id": st.sampled_from(["a", "b", "c", "d", "e"]),
        "updated_at": st.none() | st.integers(1, 3).map(day),
        "deleted": st.none() | st.booleans(),
    }
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(ROW, max_size=5), min_size=1, max_size=4),
    st.sampled_from(["all", "some", "none"]),
    st.integers(1, 4),
)
def test_versions_are_settled_as_row_by_row(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[dict[str, Any]]], collide: str, batch_rows: int
) -> None:
    """Also where hashes of different ids are the same, which only costs time."""
    rows = [
        (row, {**entry, "title": f"{number} {row}"})
        for number, file in enumerate(files)
        for row, entry in enumerate(file)
    ]
    newest: dict[str, dict[str, Any]] = {}
    for _, row in rows:
        best = newest.get(row["note_id"])
        if best is None or (row["updated_at"] or day(1) - dt.timedelta(1)) > (
            best["updated_at"] or day(1) - dt.timedelta(1)
        ):
            newest[row["note_id"]] = row
    titled = [
        [{**entry, "title": f"{number} {row}"} for row, entry in enumerate(file)] for number, file in enumerate(files)
    ]
    data = write(tmp_path_factory.mktemp("data"), *titled)
    hashed = Dataset._id_hashes
    masks = {"all": 0, "some": 1, "none": 2**64 - 1}

    def colliding(self: Dataset, file: Any) -> Any:
        return hashed(self, file) & np.uint64(masks[collide])

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Dataset, "_id_hashes", colliding)
        patched.setattr(storage, "ROW_GROUP_ROWS", batch_rows)
        expected = [
            (row["note_id"], row["title"]) for _, row in rows if newest[row["note_id"]] is row and not row["deleted"]
        ]
        assert titles(data, batch_rows=batch_rows) == expected
        gone = [row["note_id"] for _, row in rows if newest[row["note_id"]] is row and row["deleted"]]
        assert [note_id for batch in data.deleted_batches() for note_id in batch["note_id"].to_pylist()] == gone


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    """Parquet promises nothing: a string column may hold any bytes."""
    wrong = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"], pa.binary()).buffers())
    storage.write_table(pa.table({"note_id": ["a"], "title": wrong}), tmp_path / "notes" / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: damaged Parquet file .*UTF"):
        list(Dataset(tmp_path).note_batches(["title"]))


def test_unknown_columns_and_missing_ones(tmp_path: Path) -> None:
    storage.write_table(pa.table({"note_id": [1, 2], "price": [5, 6]}), tmp_path / "notes" / "a.parquet")
    storage.write_table(pa.table({"note_id": ["x"], "title": ["t"]}), tmp_path / "notes" / "b.parquet")
    notes = Dataset(tmp_path).notes(["title", "price"])
    assert notes.rows() == [("1", None, 5), ("2", None, 6), ("x", "t", None)]
    assert set(Dataset(tmp_path).notes().columns) == {*schema.NOTES.names, "price"}


def test_empty_datasets(tmp_path: Path) -> None:
    for place, files in (("empty", [[]]), ("deleted", [[{"note_id": "a", "deleted": True}]])):
        with pytest.raises(InputError, match="has no notes"):
            write(tmp_path / place, *files).notes()
    with pytest.raises(InputError, match="no dataset there; expected a folder with notes"):
        Dataset(tmp_path / "none")
    (tmp_path / "bare" / "notes").mkdir(parents=True)
    with pytest.raises(InputError, match="notes/ holds no Parquet file"):
        Dataset(tmp_path / "bare")


def test_the_log(tmp_path: Path) -> None:
    log = {
        "user_id": [1, 1, 2],
        "note_id": ["a", "b", "a"],
        "action": [None, "view", "like"],
        "timestamp": [day(1)] * 3,
    }
    data = write(tmp_path, [{"note_id": "a"}], log=log)
    assert data.engagement()["action"].to_list() == ["click", "view", "like"]
    assert data.engagement(engaged=True)["user_id"].to_list() == ["1", "2"]
    assert write(tmp_path / "silent", [{"note_id": "a"}]).engagement().height == 0


@pytest.mark.parametrize(
    ("log", "said"),
    [
        (
            {"user_id": ["u"], "note_id": ["a"], "action": ["stare"]},
            "unknown action 'stare' in 1 rows; expected one of",
        ),
        ({"user": ["u"], "note_id": ["a"]}, "no column 'user_id'"),
        ({"user_id": [None], "note_id": ["a"]}, "rows have no user_id"),
    ],
)
def test_logs_that_are_wrong(tmp_path: Path, log: dict[str, Any], said: str) -> None:
    data = write(tmp_path, [{"note_id": "a"}], log=log)
    with pytest.raises(InputError, match=said):
        data.engagement()


def test_the_clock(tmp_path: Path) -> None:
    timed = {"user_id": ["u"], "note_id": ["a"], "timestamp": [day(1)]}
    assert write(tmp_path / "timed", [{"note_id": "a"}], log=timed).clock == "time"
    assert write(tmp_path / "bare", [{"note_id": "a"}], log={"user_id": ["u"], "note_id": ["a"]}).clock == "none"
    write(tmp_path / "stated", [{"note_id": "a"}], log=timed)
    write_meta(tmp_path / "stated", clock="position", made="by hand")
    assert Dataset(tmp_path / "stated").clock == "position"
    assert Dataset(tmp_path / "stated").meta["made"] == "by hand"
    storage.write_json(tmp_path / "stated" / "dataset.json", {"clock": "sundial"})
    with pytest.raises(InputError, match="clock is 'sundial'; expected time, position or none"):
        _ = Dataset(tmp_path / "stated").clock


def test_damaged_files_are_named(tmp_path: Path) -> None:
    data = write(tmp_path, [{"note_id": str(i), "title": str(i * 7919)} for i in range(3000)])
    file = tmp_path / "notes" / "0.parquet"
    whole = file.read_bytes()
    third = len(whole) // 3
    file.write_bytes(whole[:8] + bytes(third) + whole[8 + third :])
    with pytest.raises(InputError, match=r"0\.parquet: damaged Parquet file"):
        data.notes(["title"])


def test_images_are_counted_without_being_read(tmp_path: Path) -> None:
    """A file whose image bytes are destroyed still tells how many there are."""
    picture = b"\xff\xd8 bytes of a picture" * 50_000
    data = write(
        tmp_path,
        [
            {"note_id": "a", "images": [{"bytes": picture}, {"path": "b.jpg"}], "updated_at": day(2)},
            {"note_id": "b", "images": [None]},
            {"note_id": "c", "images": []},
            {"note_id": "d"},
            {"note_id": "gone", "images": [{"path": "x"}], "deleted": True},
        ],
        [{"note_id": "a", "images": [{"path": "old"}] * 5, "updated_at": day(1)}],
    )
    storage.write_table(pa.table({"note_id": ["bare"]}), tmp_path / "notes" / "2.parquet")
    expected = [("a", 2), ("b", 1)]
    assert Dataset(tmp_path).image_counts().rows() == expected
    with storage.open_parquet(data.note_files[0]) as parquet:
        leaves = {parquet.schema.column(i).path: i for i in range(len(parquet.schema))}
        column = parquet.metadata.row_group(0).column(leaves["images.list.element.bytes"])
        start, size = column.dictionary_page_offset or column.data_page_offset, column.total_compressed_size
    whole = bytearray(data.note_files[0].read_bytes())
    whole[start : start + size] = bytes(size)
    data.note_files[0].write_bytes(whole)
    assert Dataset(tmp_path).image_counts().rows() == expected
    with pytest.raises(InputError, match="damaged Parquet file"):
        Dataset(tmp_path).notes(["images"])


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.string()), pa.large_list(schema.IMAGE), pa.list_(pa.struct([("bytes", pa.binary())]))]
)
def test_images_are_counted_however_they_are_stored(tmp_path: Path, kind: pa.DataType) -> None:
    entry: Any = "x.jpg" if kind == pa.list_(pa.string()) else {"bytes": b"x"}
    table = pa.table({"note_id": [1, 2, 3], "images": pa.array([[entry, entry], [], None], kind)})
    storage.write_table(table, tmp_path / "notes" / "0.parquet")
    assert Dataset(tmp_path).image_counts().rows() == [("1", 2)]
    storage.write_table(pa.table({"note_id": ["a"], "images": ["x.jpg"]}), tmp_path / "notes" / "0.parquet")
    with pytest.raises(InputError, match="column 'images' is string; expected a list"):
        Dataset(tmp_path).image_counts()


def test_no_images_at_all(tmp_path: Path) -> None:
    assert write(tmp_path, [{"note_id": "a"}]).image_counts().rows() == []


def test_files_beside_a_manifest_count(tmp_path: Path) -> None:
    """A platform adds a file a day to a dataset that noterec imported."""
    for table, schema_of, rows in (
        ("notes", schema.NOTES, {"note_id": ["a", "b"], "title": ["one", "two"]}),
        ("engagement", schema.ENGAGEMENT, {"user_id": ["u"], "note_id": ["a"], "action": ["click"]}),
    ):
        whole = schema.conform(pa.table(rows), schema_of, name=table)
        storage.ShardFolder(tmp_path / table, origin={"made by": "test"}).append(whole)
    later = {"note_id": ["b", "c"], "title": ["newer", "three"], "updated_at": [1, 1]}
    later["updated_at"] = pa.array(later["updated_at"], pa.timestamp("us", "UTC"))
    storage.write_table(pa.table(later), tmp_path / "notes/day-1.parquet")
    storage.write_table(pa.table({"user_id": ["v"], "note_id": ["c"]}), tmp_path / "engagement/day-1.parquet")
    data = Dataset(tmp_path)
    titles = dict(data.notes(["title"]).select("note_id", "title").iter_rows())
    assert titles == {"a": "one", "b": "newer", "c": "three"}
    assert sorted(data.engagement()["user_id"]) == ["u", "v"]
    assert storage.erase_rows(tmp_path / "notes", storage.named({"b"}, "note_id"), columns=["note_id"]) == 2
    assert set(Dataset(tmp_path).note_ids) == {"a", "c"}
    (tmp_path / "notes/shard-000009.parquet").write_bytes((tmp_path / "notes/day-1.parquet").read_bytes())
    with pytest.raises(InputError, match=r"shard-000009\.parquet: has a shard's name"):
        Dataset(tmp_path)
