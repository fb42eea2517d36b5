"""Which notes a filter lets through, and what it says of a filter that doesn't fit."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.index.filters import new_mask, parse_where, where_mask

DAY = datetime(2024, 3, 10, tzinfo=UTC)
NOTES = pl.DataFrame(
    {
        "note_id": ["a", "b", "c", "d"],
        "category": ["Food", "Travel", None, "Food"],
        "exposure": [5, 50, 500, None],
        "created_at": [DAY, DAY - timedelta(days=7), DAY - timedelta(days=6, hours=23), None],
        "ad": [True, False, None, False],
        "tags": [["x", "y"], ["z"], ["x"], None],
    },
    schema_overrides={"created_at": pl.Datetime("us", "UTC")},
)


def nested(depth: int) -> dict[str, Any]:
    """{"not": {"not": ...}}, as deep as that."""
    return {"not": nested(depth - 1) if depth else "Food"}


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
        ({"created_at": datetime(2024, 3, 10)}, "a"),
        ({"created_at": {"min": "2024-03-10"}}, "a"),
        ({"created_at": {"above": "2024-03-10"}}, ""),
        ({"created_at": {"min": "2024-03-10T01:00+01:00"}}, "a"),
        ({"created_at": {"min": "0001-01-01T00:00+14:00"}}, "abc"),
        ({"exposure": {"above": 5}}, "bc"),
        ({"exposure": {"above": 5, "below": 500}}, "b"),
        ({"exposure": {"min": 5, "max": None}}, "abc"),
        ({"exposure": "50"}, "b"),
        ({"exposure": " 5e1 "}, "b"),
        ({"exposure": 5.5}, ""),
        ({"exposure": [5, 500.0, None]}, "acd"),
        ({"exposure": [*range(40, 60), 0.5]}, "b"),
        ({"ad": "TRUE"}, "a"),
        ({"category": {"under": "Foo"}}, ""),
        ({"category": {"under": "Food/"}}, "ad"),
        ({"category": {"not": "Food"}}, "bc"),
        ({"category": {"not": None}}, "abd"),
        ({"category": {"not": ["Food", None]}}, "b"),
        ({"category": [{"under": "Travel"}, None]}, "bc"),
        ({"exposure": {"all": [{"min": 5}, {"not": 50}]}}, "ac"),
        ({"category": [f"c{i}" for i in range(50)] + ["Food"]}, "ad"),
        ({"tags": "x"}, "ac"),
        ({"tags": ["y", "z"]}, "ab"),
        ({"tags": {"not": "x"}}, "bd"),
        ({"tags": None}, "d"),
        ({"note_id": "'; DROP TABLE notes; -- \U0001f98a"}, ""),
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
        ({"exposure": 2**63}, "exposure is Int64, and 9223372036854775808 is int"),
        ({"exposure": "9" * 5000}, "exposure is Int64, and inf is float"),
        ({"exposure": "x" * 5000}, r"exposure is Int64, and 'x{79}\.\.\. is str"),
        ({"exposure": 10**5000}, "exposure is Int64, and a int is int"),
        ({"exposure": float("nan")}, "exposure is Int64, and nan is float"),
        ({"exposure": [1] * 20 + ["many"]}, "'many' is str"),
        ({"exposure": {"under": "Travel"}}, "'under' is for paths"),
        ({"category": {"under": "/"}}, "expected the beginning of a path"),
        ({"category": {"under": 3}}, "expected the beginning of a path"),
        ({"category": "\ud800"}, "category is String"),
        ({"category": {"all": []}}, "expected {'under': path}"),
        ({"exposure": {"min": None}}, "a range has 'min' and 'max'"),
        ({"ad": {"min": True}}, "ad is Boolean, which has no order"),
        ({"tags": 3}, "tags is String, and 3 is int"),
        ({"tags": {"min": "x"}}, "which has no order"),
        ({"category": [{"under": "a"}] * 200}, "more than 100 conditions"),
        ({"category": nested(50)}, "more than 8 of them inside each other"),
        ({3: "a"}, "no attribute '3'"),
        ({"x" * 10_000: 1}, "no attribute 'x{80}'"),
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


@pytest.mark.parametrize(
    ("entries", "where"),
    [
        ([], {}),
        (["category=Food"], {"category": "Food"}),
        ([" category = Food "], {"category": "Food"}),
        (["language=en,de"], {"language": ["en", "de"]}),
        (["category=Travel/*"], {"category": {"under": "Travel"}}),
        (["category=Travel/*,Food"], {"category": [{"under": "Travel"}, "Food"]}),
        (["category!=Ads"], {"category": {"not": "Ads"}}),
        (["category!=Ads,Spam"], {"category": {"not": ["Ads", "Spam"]}}),
        (["author_id="], {"author_id": None}),
        (["author_id!="], {"author_id": {"not": None}}),
        (['title=""'], {"title": ""}),
        (['title="A, B",C'], {"title": ["A, B", "C"]}),
        (['title="say ""hi"""'], {"title": 'say "hi"'}),
        (['category="Travel/*"'], {"category": "Travel/*"}),
        (["exposure<=100"], {"exposure": {"max": "100"}}),
        (["exposure>=1", "exposure<100"], {"exposure": {"min": "1", "below": "100"}}),
        (["exposure>1", "exposure>2"], {"exposure": {"all": [{"above": "1"}, {"above": "2"}]}}),
        (
            ["category=Travel/*", "category!=Travel/Asia", "category!="],
            {"category": {"all": [{"under": "Travel"}, {"not": "Travel/Asia"}, {"not": None}]}},
        ),
        (["created_at>=2026-11-01"], {"created_at": {"min": "2026-11-01"}}),
        (["title=a=b<c"], {"title": "a=b<c"}),
        (["标题=猫🦊"], {"标题": "猫🦊"}),
        (["title=a\nb"], {"title": "a\nb"}),
    ],
)
def test_typed_conditions(entries: list[str], where: dict[str, Any]) -> None:
    assert parse_where(entries) == where


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("category", "expected COLUMN=VALUE"),
        ("=Food", "expected COLUMN=VALUE"),
        ("", "expected COLUMN=VALUE"),
        ("exposure<=1,2", "expected one value behind <="),
        ("exposure<=", "expected one value behind <="),
        ('title="open', "a quote is not closed"),
        ('title="a" b', "a quote is not closed, or something stands behind it"),
        ("language=en,", "nothing behind the last comma"),
    ],
)
def test_what_can_not_be_read_is_named(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_where([entry])


def test_typed_conditions_filter() -> None:
    kept = where_mask(NOTES, parse_where(["exposure>=5", "exposure<500", "category=Food,Travel/*", "ad=true,false"]))
    assert kept.tolist() == [True, True, False, False]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30) | st.from_regex(r"[a-z_]+(=|!=|<=|>)[a-z\",/*0-9 ]*", fullmatch=True))
def test_any_text_is_a_condition_or_an_input_error(entry: str) -> None:
    with contextlib.suppress(InputError):
        where_mask(NOTES, parse_where([entry]))


def test_new_is_the_mark_or_the_last_seven_days() -> None:
    assert new_mask(NOTES).tolist() == [True, False, True, False]  # exactly seven days before is no longer new
    marked = NOTES.with_columns(pl.Series("new", [None, True, False, False]))
    assert new_mask(marked).tolist() == [False, True, False, False]
    dates = pl.DataFrame({"created_at": [datetime(2026, 1, day) for day in (1, 5, 31)]})
    assert new_mask(dates).tolist() == [False, False, True]
    assert new_mask(dates, np.array([True, True, False])).tolist() == [True, True, True]  # the newest was removed
    for blind in (NOTES.drop("created_at"), NOTES.with_columns(pl.lit(None, pl.Datetime("us")).alias("created_at"))):
        with pytest.raises(InputError, match="neither a `new` mark nor created_at"):
            new_mask(blind)
