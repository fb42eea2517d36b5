"""`conform`: what converts without doubt does, the rest is refused in a sentence."""

from __future__ import annotations

import datetime as dt
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from noterec import schema
from noterec.errors import InputError


def conform(columns: dict[str, Any], target: pa.Schema = schema.NOTES, **more: Any) -> pa.Table:
    return schema.conform(pa.table(columns), target, name="the table", **more)


def test_absent_columns_are_null_and_unknown_ones_are_kept() -> None:
    table = conform({"price": [1.5], "title": ["a"], "note_id": ["n"]})
    assert table.column_names == [*schema.NOTES.names, "price"]
    assert table.schema.field("created_at").type == schema.TIMESTAMP
    assert table.to_pylist()[0] == {**dict.fromkeys(schema.NOTES.names), "note_id": "n", "title": "a", "price": 1.5}


def test_integer_ids_become_text_and_floats_are_refused() -> None:
    assert conform({"note_id": pa.array([7, 2**60], pa.int64())})["note_id"].to_pylist() == ["7", str(2**60)]
    with pytest.raises(InputError, match=r"column 'note_id' is double, expected string, .*1\.0 and 1 would differ"):
        conform({"note_id": [7.0]})


def test_null_ids_are_counted() -> None:
    with pytest.raises(InputError, match="the table: 2 of 3 rows have no note_id"):
        conform({"note_id": ["a", None, None]})


def test_a_missing_id_column_names_what_is_there() -> None:
    with pytest.raises(InputError, match=r"no column 'note_id'; the columns are id, title.*--map note_id=COLUMN"):
        conform({"id": ["a"], "title": ["b"]})
    with pytest.raises(InputError, match="no column 'timestamp'"):
        conform({"user_id": ["u"], "note_id": ["n"]}, schema.ENGAGEMENT, required=("timestamp",))


def test_times() -> None:
    moment = dt.datetime(2024, 5, 1, 12, 30, 0, 123456)
    naive = pa.array([moment], pa.timestamp("us"))
    zoned = pa.array([moment.replace(tzinfo=dt.UTC)], pa.timestamp("us", tz="Europe/Paris"))
    fine = pa.array([moment], pa.timestamp("ns"))
    for times in (naive, zoned, fine):
        table = conform({"note_id": ["a"], "created_at": times})
        assert table["created_at"].to_pylist() == [moment.replace(tzinfo=dt.UTC)]
    with pytest.raises(InputError, match="column 'created_at' is string"):
        conform({"note_id": ["a"], "created_at": ["yesterday"]})


def test_other_types_that_mean_the_same() -> None:
    frame = pl.DataFrame(
        {"note_id": ["a"], "hashtags": [["x", "y"]], "category": pl.Series(["c"], dtype=pl.Categorical)}
    )
    table = schema.conform(frame.to_arrow(), schema.NOTES, name="frame")
    assert table.schema.field("hashtags").type == pa.list_(pa.string())
    assert table.to_pylist()[0]["category"] == "c"
    assert conform({"note_id": ["a"], "title": pa.nulls(1)})["title"].to_pylist() == [None]
    pairs = conform({"anchor_id": [1], "related_id": [2], "score": [0.5], "rank": [1]}, schema.PAIRS)
    assert pairs.schema.field("score").type == pa.float32()


@pytest.mark.parametrize(
    ("column", "values", "said"),
    [
        ("hashtags", ["one", "two"], r"column 'hashtags' is string, expected list"),
        ("title", [["a"], ["b"]], r"column 'title' is list"),
        ("exposure", ["many", "few"], r"column 'exposure' is string, expected int64"),
        ("exposure", [1.5, 2.0], r"column 'exposure' is double, expected int64"),
        ("title", [1.5, 2.5], r"column 'title' is double, expected string"),
        ("title", pa.array([b"\xff", b"a"]), r"column 'title' is binary"),
    ],
)
def test_what_does_not_convert(column: str, values: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        conform({"note_id": ["a", "b"], column: values})


def test_actions_and_embeddings() -> None:
    assert set(schema.ENGAGED) == {"click", "like", "save", "comment", "share", "follow"}
    assert schema.embeddings_schema(8, pa.float16()).field("embedding").type == pa.list_(pa.float16(), 8)
