"""What is known about the live index as a whole: its facts, its categories, which notes are new, and what can be chosen by."""

from __future__ import annotations

import dataclasses
import datetime as dt
import threading
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.errors import InputError

if TYPE_CHECKING:
    from noterec.index.search import Index

MAX_CATEGORIES = 300  # offered; an address may name any
COLOURS = 8  # of the map; categories beyond them are grey


@dataclasses.dataclass(frozen=True)
class Outline:
    """An index from afar.

    Attributes:
        version: of the index.
        count: live notes.
        columns: attributes beside note_id.
        new: (N,) bool, which live rows are new; None where nothing tells.
        fresh: how many they are.
        now: when the newest note was created, which is what ages are counted from; None where no note has a time.
        categories: every category, and every path above one, with its notes; the largest first within each parent.
        has_authors: whether a result can be limited by author.
        tops: first parts of categories with their notes, the largest first.
    """

    version: str
    count: int
    columns: tuple[str, ...]
    new: NDArray[np.bool_] | None
    fresh: int
    now: dt.datetime | None
    categories: list[tuple[str, int]]
    tops: list[tuple[str, int]]
    has_authors: bool

    def colour(self, category: str | None) -> int:
        """Which colour of the map a category has, from 0; COLOURS = grey."""
        top = top_of(category)
        places = [name for name, _ in self.tops[:COLOURS]]
        return places.index(top) if top in places else COLOURS


class Outlines:
    """The outline of the index that is live: made once per version."""

    def __init__(self) -> None:
        """Nothing is known yet."""
        self._lock = threading.Lock()
        self._last: Outline | None = None

    def of(self, index: Index) -> Outline:
        """The outline of an index."""
        with self._lock:
            if self._last is None or self._last.version != index.version:
                self._last = outline(index)
            return self._last


def outline(index: Index) -> Outline:
    """Sum up an index."""
    live = index.live
    attributes = index.attributes.filter(pl.Series(live))
    try:
        new: NDArray[np.bool_] | None = np.asarray(index.new(), dtype=bool) & live
    except InputError:
        new = None
    now = None
    if isinstance(attributes.schema.get("created_at"), pl.Datetime):
        newest = attributes["created_at"].max()
        now = newest if isinstance(newest, dt.datetime) else None
    categories: list[tuple[str, int]] = []
    tops: list[tuple[str, int]] = []
    if attributes.schema.get("category") == pl.String:
        categories, tops = _categories(attributes["category"])
    columns = tuple(name for name in attributes.columns if name != "note_id")
    authors = "author_id" in columns and attributes["author_id"].null_count() < attributes.height
    fresh = 0 if new is None else int(new.sum())
    return Outline(index.version, attributes.height, columns, new, fresh, now, categories, tops, authors)


def _categories(column: pl.Series) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """All categories in the order of a tree, and those of its first level."""
    counts: dict[str, int] = {}
    for name, count in column.drop_nulls().value_counts().iter_rows():
        parts = name.split("/")
        for depth in range(1, len(parts) + 1):
            path = "/".join(parts[:depth])
            counts[path] = counts.get(path, 0) + count
    tops = sorted(
        ((name, n) for name, n in counts.items() if "/" not in name and name), key=lambda item: (-item[1], item[0])
    )

    def place(name: str) -> tuple[tuple[int, str], ...]:
        parts = name.split("/")
        above = ["/".join(parts[:depth]) for depth in range(1, len(parts) + 1)]
        return tuple((-counts[path], path) for path in above)

    return [(name, counts[name]) for name in sorted(filter(None, counts), key=place)][:MAX_CATEGORIES], tops


def top_of(category: str | None) -> str | None:
    """The first part of a category: Travel of Travel/Asia."""
    return category.split("/")[0] if category else None
