"""Finding notes of the live index: by id, and by what they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from noterec.serving.explorer.cards import Shelf
from noterec.serving.explorer.spool import fold, sound

if TYPE_CHECKING:
    from noterec.index.search import Index


def rows_of(index: Index, ids: Iterable[str]) -> dict[str, int]:
    """The rows of those of some notes that the index has; in one pass, and without `Index.row`'s slow search for ids alike."""
    wanted = pl.Series([sound(note_id) for note_id in ids], dtype=pl.String)
    found = index.ids.is_in(wanted.implode()).to_numpy() & index.live  # (N,)
    return {index.ids[int(row)]: int(row) for row in np.flatnonzero(found)}


def search(shelf: Shelf, text: str, limit: int) -> list[tuple[str, int]]:
    """Ids and rows of notes of the index that fit a search."""
    if shelf.catalogue is not None:
        ids = [card.note_id for card in shelf.catalogue.search(text, 4 * limit)]  # some may not be in the index
    else:
        ids = _search_attributes(shelf.index, text, limit)
    rows = rows_of(shelf.index, ids)
    return [(note_id, rows[note_id]) for note_id in ids if note_id in rows][:limit]


def _search_attributes(index: Index, text: str, limit: int) -> list[str]:
    """Ids of notes that a search finds where there is no catalogue: by id, or by title where the index keeps it."""
    wanted = fold(text)
    if not wanted:
        return []
    has = pl.col("note_id").str.starts_with(text.strip())
    if index.attributes.schema.get("title") == pl.String:
        for_word = [pl.col("title").str.to_lowercase().str.contains(word, literal=True) for word in wanted.split()[:8]]
        has = has | pl.all_horizontal(for_word)
    found = (
        index.attributes.filter(pl.Series(index.live))
        .lazy()
        .filter(has)
        .select("note_id")
        .head(limit)
        .collect()["note_id"]
        .to_list()
    )
    return [str(note_id) for note_id in found]
