"""Who engaged with two notes, and which are mined pairs, against counting by hand."""

from __future__ import annotations

import logging
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec import schema
from noterec.errors import InputError
from noterec.serving.explorer.related import Bond, Related

EVENTS = st.lists(
    st.tuples(
        st.sampled_from("uvwxyz"), st.sampled_from("abcd"), st.sampled_from(["impression", "view", "click", "save"])
    ),
    max_size=40,
)


def dataset(folder: Path, events: list[tuple[str, str, str]]) -> Path:
    for name in ("notes", "engagement"):
        (folder / name).mkdir(parents=True)
    pq.write_table(pa.table({"note_id": ["a", "b", "c", "d"]}), folder / "notes" / "0.parquet")
    rows = [{"user_id": user, "note_id": note, "action": action} for user, note, action in events]
    pq.write_table(pa.Table.from_pylist(rows, schema=schema.ENGAGEMENT), folder / "engagement" / "0.parquet")
    return folder


def pairs(file: Path, rows: list[tuple[str, str, float | None, int | None]]) -> Path:
    columns = dict(zip(schema.PAIRS.names, map(list, zip(*rows, strict=True)), strict=True))
    pq.write_table(pa.table(columns, schema=schema.PAIRS), file)
    return file


@settings(max_examples=40, deadline=None)
@given(EVENTS)
def test_people_are_counted_once_and_only_those_who_engaged(
    tmp_path_factory: pytest.TempPathFactory, events: list[tuple[str, str, str]]
) -> None:
    related = Related.open(dataset=dataset(tmp_path_factory.mktemp("d"), events))
    people = {note: {u for u, n, action in events if n == note and action in ("click", "save")} for note in "abcde"}
    for one in "abcde":
        assert related.engaged(one) == len(people[one])
        for other in "abcde":
            assert related.bond(one, other) == Bond(people=len(people[one] & people[other]))


def test_a_pair_has_its_rank(tmp_path: Path) -> None:
    table = [("b", "a", 0.2, 2), ("b", "c", 0.9, 1), ("a", "b", 0.5, 1), ("z", "a", 0.5, 1)]
    related = Related.open(pairs(tmp_path / "pairs.parquet", table))
    assert related.pairs and not related.people
    assert related.bond("b", "c") == Bond(pair=True, rank=1)
    assert related.bond("b", "a") == Bond(pair=True, rank=2)
    assert related.bond("c", "b") == Bond(pair=False)  # pairs are directed
    assert related.bond("nobody", "b") == related.bond("b", "nobody") == Bond(pair=False)
    assert related.engaged("a") is None


def test_without_ranks_the_score_orders_then_the_id(tmp_path: Path) -> None:
    table = [("a", "d", 0.5, None), ("a", "c", 0.9, None), ("a", "b", 0.5, None)]
    related = Related.open(pairs(tmp_path / "pairs.parquet", table))
    assert [related.bond("a", other).rank for other in "cbd"] == [1, 2, 3]


def test_a_log_that_is_too_long_is_left_out_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = dataset(tmp_path / "d", [("u", "a", "click"), ("u", "b", "click")])
    assert Related.open(dataset=folder, max_events=2).bond("a", "b") == Bond(people=1)
    with caplog.at_level(logging.WARNING):
        related = Related.open(dataset=folder, max_events=1)
    assert related.bond("a", "b") == Bond()
    assert "2 events, more than 1" in caplog.text


def test_nothing_to_go_by(tmp_path: Path) -> None:
    assert Related.open().bond("a", "b") == Bond()
    assert Related.open(dataset=dataset(tmp_path / "d", [])).bond("a", "b") == Bond(people=0)
    pq.write_table(schema.PAIRS.empty_table(), tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="holds no pairs"):
        Related.open(tmp_path / "empty.parquet")
    with pytest.raises(InputError, match="no such file"):
        Related.open(tmp_path / "none.parquet")
