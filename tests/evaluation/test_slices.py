"""Slices of queries by age and by category, worked out by hand; those by clicks, text and images are in test_protocol."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.evaluation.protocol import Catalogue, Direction
from noterec.evaluation.slices import AGE, KIND, LEAST_QUERIES, Slice, slices
from noterec.ranking.metrics import Relevance

NOW = dt.datetime(2026, 1, 31, tzinfo=dt.UTC)


def asked(queries: int, notes: int) -> Direction:
    """The first notes ask, each for the note before the last."""
    rows = np.arange(queries, dtype=np.int64)
    relevance = Relevance.from_lists([[notes - 2]] * queries)
    return Direction("new -> all", rows, relevance, np.arange(notes), (1,), (), queries, 0)


def by(kind: str, found: list[Slice]) -> dict[str, list[int]]:
    return {part.label: part.queries.tolist() for part in found if part.by == kind}


def sliced(direction: Direction, notes: int, **given: object) -> list[Slice]:
    return slices(direction, None, np.ones(notes, np.int64), np.zeros(notes, bool), **given)  # type: ignore[arg-type]


def test_ages_are_days_before_the_newest_note(tmp_path: Path) -> None:
    created = [NOW - dt.timedelta(days=days) for days in (0, 1.5, 10)]
    rows = [{"note_id": f"n{n}", "title": "t", "created_at": when} for n, when in enumerate([*created, None])]
    rows += [{"note_id": "n9", "title": "t", "category": " Travel /Asia"}, {"note_id": "n8", "category": "/Asia"}]
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), tmp_path / "notes" / "part.parquet")
    catalogue = Catalogue.read(tmp_path)
    assert catalogue.ids.to_list() == ["n0", "n1", "n2", "n3", "n8", "n9"]
    assert catalogue.ages()[:3].tolist() == [0, 1.5, 10]
    assert np.isnan(catalogue.ages()[3:]).all()
    assert catalogue.categories().to_list() == [None, None, None, None, None, "Travel"]
    cards = catalogue.cards(np.array([5, 0]))
    assert cards["note_id"].to_list() == ["n9", "n0"]
    assert cards["category"].to_list() == [" Travel /Asia", None]
    assert cards["created_at"][1] == NOW


def test_no_dates_no_ages(tmp_path: Path) -> None:
    storage.write_table(pa.table({"note_id": ["a", "b"], "title": ["x", "y"]}), tmp_path / "notes" / "part.parquet")
    catalogue = Catalogue.read(tmp_path)
    assert np.isnan(catalogue.ages()).all()
    assert not by(AGE, sliced(asked(1, 2), 2, ages=catalogue.ages(), categories=catalogue.categories()))


def test_queries_by_thirds_of_age() -> None:
    days = np.array([0, 1, 2, 3, 4, 50, np.nan, 100.0])
    found = sliced(asked(7, 8), 8, ages=days)
    assert by(AGE, found) == {"newest": [0, 1], "middle": [2, 3], "oldest": [4, 5]}
    told = [part.says for part in found if part.by == AGE]
    assert told == [
        "at most 1 days before the newest note (left out, without a date: 1)",
        "1 to 3 days before it",
        "more than 3 days before it",
    ]
    assert not by(AGE, sliced(asked(7, 8), 8, ages=np.ones(8)))


def test_queries_by_the_commonest_categories() -> None:
    least = LEAST_QUERIES
    names = ["Food"] * least + ["Art"] * (least + 1) + ["Rare"] * (least - 1) + [None] * 2
    notes = len(names) + 2
    categories = pl.Series("category", [*names, "Food", "Food"])  # of notes that don't ask: they don't count
    found = by(KIND, sliced(asked(len(names), notes), notes, categories=categories))
    assert list(found) == ["Art", "Food", "all others"]  # the commonest first
    assert found["Art"] == list(range(least, 2 * least + 1))
    assert found["all others"] == list(range(2 * least + 1, len(names)))
    parts = {part.name: part for part in sliced(asked(len(names), notes), notes, categories=categories)}
    assert parts["query_other_categories"].says.endswith("of which 2 have none")
    assert len(parts["query_category: Food"].relevance.rows) == least


@pytest.mark.parametrize("names", [["Food"] * LEAST_QUERIES, ["Food"] * (LEAST_QUERIES - 1), [None] * 40])
def test_one_category_is_no_slice(names: list[str | None]) -> None:
    notes = len(names) + 2
    categories = pl.Series("category", [*names, None, None], dtype=pl.String)
    assert not by(KIND, sliced(asked(len(names), notes), notes, categories=categories))


def test_no_more_than_twelve_categories() -> None:
    names = [f"c{number:02d}" for number in range(14) for _ in range(LEAST_QUERIES)]
    notes = len(names) + 2
    categories = pl.Series("category", [*names, None, None])
    found = by(KIND, sliced(asked(len(names), notes), notes, categories=categories))
    assert list(found) == [*(f"c{number:02d}" for number in range(12)), "all others"]  # ties by name
    assert len(found["all others"]) == 2 * LEAST_QUERIES
