"""Ids are found where they stand."""

from __future__ import annotations

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from noterec.index.ids import SortedIds


@given(ids=st.sets(st.text(max_size=6), max_size=40), other=st.text(max_size=6), pieces=st.integers(1, 3))
def test_every_id_is_found_at_its_place(ids: set[str], other: str, pieces: int) -> None:
    column = pl.Series("note_id", sorted(ids, key=str.encode), dtype=pl.String)
    assert column.to_list() == pl.Series(list(ids), dtype=pl.String).sort().to_list()
    step = -(-max(1, len(column)) // pieces)
    chunked = pl.concat([column.slice(low, step) for low in range(0, max(1, len(column)), step)], rechunk=False)
    found = SortedIds(chunked)
    assert [found.find(note_id) for note_id in column] == list(range(len(column)))
    assert found.find(other) == (column.to_list().index(other) if other in ids else None)
    assert SortedIds(column.slice(1)).find("\ud800") is None
