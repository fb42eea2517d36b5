"""Finding notes of the live index: by id, and by what they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import polars as pl

from noterec.serving.explorer.cards import Shelf
from noterec.serving.explorer.catalogue import MAX_MATCHES, MAX_QUERY, MAX_WORDS, closeness
from noterec.serving.explorer.spool import MAX_TITLE, fold, folded, sound

if TYPE_CHECKING:
    from noterec.index.search import Index


def rows_of(index: Index, ids: Iterable[str]) -> dict[str, int]:
    """The rows of those of some notes that the index has."""
    wanted = list(ids)
    return {note_id: int(row) for note_id, row in zip(wanted, index.rows_of(wanted), strict=True) if row >= 0}


def search(shelf: Shelf, text: str, limit: int) -> list[tuple[str, int]]:
    """Ids and rows of notes of the index that fit a search: the note of that id first, then in the catalogue's order.

    Titles and hashtags are the catalogue's. Of notes that were posted since, and of all where there is no catalogue, it is the
    titles that the index keeps; there, ids that begin with the text are found, too.
    """
    index, wanted, phrase = shelf.index, text.strip(), fold(text[:MAX_QUERY])
    if not phrase:
        return []
    first = [wanted]
    if shelf.catalogue is None:
        first += _begun(index, sound(wanted), limit)
        words = _titles(index, phrase, 0)
    else:
        cards = {card.note_id: card for card in shelf.catalogue.search(text, 4 * limit)}  # some may not be in the index
        rows = rows_of(index, cards)
        words = {
            note_id: folded(cards[note_id].title, cards[note_id].hashtags)
            for note_id, row in rows.items()
            if not shelf.posted(row)
        }
        words.update(_titles(index, phrase, index.info.count))
    ids = dict.fromkeys([*first, *sorted(words, key=lambda i: (*closeness(words[i], phrase), i))])
    return list(rows_of(index, ids).items())[:limit]


def _begun(index: Index, start: str, limit: int) -> list[str]:
    """Ids of notes that begin with a text."""
    return index.ids.filter(index.ids.str.starts_with(start) & pl.Series(index.live)).head(limit).to_list()


def _titles(index: Index, phrase: str, start: int) -> dict[str, str]:
    """The folded titles that hold every word of a folded text, by note, of the live rows from one on."""
    if index.attributes.schema.get("title") != pl.String:
        return {}
    title = pl.col("title").str.slice(0, MAX_TITLE)
    has = [
        title.str.normalize("NFKC").str.to_lowercase().str.contains(word, literal=True)
        for word in phrase.split()[:MAX_WORDS]
    ]
    late = index.attributes.slice(start).filter(pl.Series(index.live[start:])).lazy()
    found = late.filter(pl.all_horizontal(has)).select("note_id", title).head(MAX_MATCHES).collect()
    return {note_id: folded(text, ()) for note_id, text in found.iter_rows()}
