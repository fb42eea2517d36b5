"""Which notes a filter lets through, and what it says of a filter that doesn't fit."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from noterec.errors import InputError
from noterec.index.filters import candidate_mask, new_mask, where_mask

DAY = datetime(2024, 3, 10, tzinfo=UTC)
NOTES = pl.DataFrame(
    {
        "note_id": ["a", "b", "c", "d"],
        "category": ["Food", "Travel", None, "Food"],
        "exposure": [5, 50, 500, None],
        "created_at": [DAY, DAY - timedelta(days=7), DAY - timedelta(days=6, hours=23), None],
        "ad": [True, False, None, False],
    },
    schema_overrides={"created_at": pl.Datetime("us", "UTC")},
)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({}, "abcd"),
        ({"category": "Food"}, "ad"),
        ({"category": ["Travel", None]}, "bc"),
        ({"category": []}, ""),
        ({"category": None}, "c"),
        ({"exposure": {"min": 50}}, "bc"),
        ({"exposure": {"min": 5, "max": 50.0}}, "ab"),
        ({"exposure": {"max": 49}, "category": "Food"}, "a"),
        ({"ad": False}, "bd"),
        ({"created_at": {"min": "2024-03-03T00:30"}}, "ac"),
        ({"created_at": {"max": "2024-03-03T00:00:00+00:00"}}, "b"),
        ({"created_at": DAY}, "a"),
        (pl.col("category").str.starts_with("F"), "ad"),
        (pl.col("exposure") > 5, "bc"),
        (pl.lit(True), "abcd"),
    ],
)
def test_where(where: Any, kept: str) -> None:
    assert "".join(NOTES["note_id"].filter(where_mask(NOTES, where))) == kept


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"categry": "Food"}, "no attribute 'categry'; did you mean 'category'"),
        (pl.col("categry") == "Food", "no attribute 'categry'; did you mean 'category'"),
        ({"zzz": 1}, "it has note_id, category, exposure"),
        ({"exposure": "many"}, "exposure is Int64, and 'many' is str"),
        ({"exposure": True}, "exposure is Int64"),
        ({"category": 3}, "category is String, and 3 is int"),
        ({"ad": "yes"}, "ad is Boolean"),
        ({"created_at": "soon"}, "'soon' is not one; expected ISO 8601"),
        ({"exposure": {"from": 3}}, "a range has 'min' and 'max'"),
        ({"exposure": {}}, "a range has 'min' and 'max'"),
        (pl.col("exposure") + 1, "4 values of type Int64 for 4 notes; expected true or false"),
        (pl.col("category") > 3, "can't be applied"),
        ("category == 'Food'", "where is str; expected a polars expression or a mapping"),
    ],
)
def test_a_filter_that_does_not_fit_is_named(where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        where_mask(NOTES, where)


def test_candidates() -> None:
    assert candidate_mask(NOTES, "all") is None
    mask = candidate_mask(NOTES, ["d", "b"])
    assert mask is not None
    assert mask.tolist() == [False, True, False, True]
    with pytest.raises(InputError, match="1 of 2 candidate ids are not in the index, the first is 'z'"):
        candidate_mask(NOTES, ["a", "z"])
    with pytest.raises(InputError, match="candidates='news'; expected 'all', 'new' or a list"):
        candidate_mask(NOTES, "news")


def test_new_is_the_mark_or_the_last_seven_days() -> None:
    assert new_mask(NOTES).tolist() == [True, False, True, False]  # exactly seven days before is no longer new
    marked = NOTES.with_columns(pl.Series("new", [None, True, False, False]))
    assert new_mask(marked).tolist() == [False, True, False, False]
    for blind in (NOTES.drop("created_at"), NOTES.with_columns(pl.lit(None, pl.Datetime("us")).alias("created_at"))):
        with pytest.raises(InputError, match="neither a `new` mark nor created_at"):
            new_mask(blind)
