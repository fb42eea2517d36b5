"""The notes as a person looks at them: cards by id, a search over titles and hashtags, and their picture files.

    catalogue = Catalogue.open("data/mine")
    catalogue.search("cold brew", 8)

The texts lie in a nameless file that is mapped, not read: what a note takes of the memory are the 12 bytes (a hash of its id
and its row) by which it is found, whatever its text. Pictures stay where the dataset has them, and are read one at a time.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import progress
from noterec.config import ImagesConfig
from noterec.errors import InputError
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import ImageSource
from noterec.notes.images.stored import changed, stored_images
from noterec.serving.explorer.spool import fold, sound, spooled

logger = logging.getLogger(__name__)

MAX_QUERY, MAX_WORDS = 200, 8  # of a search
MAX_MATCHES = 2000  # that are put in order; what a search beyond them would find is too much to look at anyway


@dataclasses.dataclass(frozen=True)
class Card:
    """What a person sees of a note. Text is as its author wrote it: hostile until it is escaped.

    Attributes:
        note_id: its id.
        title, content: cut to so many characters as a page can bear; None where it has none.
        content_length: characters of the whole content.
        hashtags: the first ones.
        category, author_id, language, created_at, exposure: None where unknown.
        images: how many it has, usable or not.
    """

    note_id: str
    title: str | None = None
    content: str | None = None
    content_length: int = 0
    hashtags: tuple[str, ...] = ()
    category: str | None = None
    author_id: str | None = None
    language: str | None = None
    created_at: dt.datetime | None = None
    exposure: int | None = None
    images: int = 0


class Catalogue:
    """The live notes of a dataset, as they were when it was opened."""

    def __init__(self, dataset: Dataset, source: ImageSource, batches: list[pa.RecordBatch]) -> None:
        """Use `Catalogue.open`."""
        self.path = dataset.path
        self._files, self._source, self._batches = dataset.note_files, source, batches
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])  # (batches + 1,)
        hashes = np.concatenate(
            [np.zeros(0, np.uint64), *(pl.Series(b["note_id"]).hash().to_numpy() for b in self._batches)]
        )
        self._order = np.argsort(hashes, kind="stable").astype(np.int32)  # (N,)
        self._hashes = hashes[self._order]  # (N,) ascending
        # One at a time, so that memory is bounded by one picture's, however many a page asks for.
        self._reading = threading.Lock()

    @classmethod
    def open(
        cls,
        dataset: str | os.PathLike[str],
        *,
        image_root: str | os.PathLike[str] | None = None,
        images: ImagesConfig = ImagesConfig(),
    ) -> Self:
        """Read a dataset's texts, whatever columns it has, into a mapped file of no name.

        Args:
            dataset: the folder, or its URL.
            image_root: the folder below which pictures that are given by path are read; None refuses them.
            images: what a picture may be.

        Raises:
            InputError: no dataset, a damaged file, columns that don't fit, or no such image root.
        """
        opened = Dataset(dataset)
        source = ImageSource.below(image_root, images)
        with progress.stage("catalogue") as stage:
            made = cls(opened, source, spooled(opened))
            stage.counts.update(rows_out=len(made))
        return made

    def close(self) -> None:
        """Let go of the file: from now on there are no notes. What was handed out stays."""
        self._hashes, self._order = self._hashes[:0], self._order[:0]
        self._batches = []

    def __len__(self) -> int:
        return len(self._order)

    def card(self, note_id: str) -> Card | None:
        """The card of a note; None where the dataset doesn't have it."""
        row = self._row(note_id)
        return None if row is None else self._card(row)

    def search(self, text: str, limit: int = 8) -> list[Card]:
        """Notes whose titles and hashtags hold every word of a text, or whose id is the text.

        Order: the note with that id; titles that begin with the text; titles and hashtags that have it at the start of a word; the
        others; among equals the shorter, then the lower id. Where more than 2,000 notes match, those that stand first in the
        dataset are put in order.

        Args:
            text: letters of either case; `#` before a word asks for hashtags. Beyond 200 characters or 8 words it is cut.
            limit: cards at most.
        """
        exact = self._row(text.strip())
        found = [] if exact is None else [exact]
        phrase = fold(text[:MAX_QUERY])
        words = phrase.split()[:MAX_WORDS]
        matches = [row for row in self._matches(words) if row != exact] if words else []
        keyed = sorted(
            ((*closeness(self._value(row, "folded"), phrase), self._value(row, "note_id")), row) for row in matches
        )
        found += [row for _, row in keyed[: max(0, limit - len(found))]]
        return [self._card(row) for row in found[:limit]]

    def image(self, note_id: str, number: int) -> bytes:
        """The file of a note's picture, the first being 0.

        Raises:
            InputError: no such note, not so many pictures, or the dataset was written to since it was opened.
            ImageError: the picture can't be read.
        """
        row = self._row(note_id)
        count = 0 if row is None else self._value(row, "images")
        if row is None or not 0 <= number < count:
            raise InputError(
                f"note {note_id[:80]!r} has {count} pictures; there is no picture {number}, the first is 0"
            )
        file, place = self._files[self._value(row, "file")], self._value(row, "row")
        with self._reading:
            entries = stored_images(file, place, note_id)
        if number >= len(entries):
            raise changed(file)
        return self._source.read(entries[number])

    def _row(self, note_id: str) -> int | None:
        if not isinstance(note_id, str) or not note_id:
            return None
        wanted = pl.Series([sound(note_id)]).hash().to_numpy()[0]
        first, last = (int(np.searchsorted(self._hashes, wanted, side=side)) for side in ("left", "right"))
        for row in self._order[first:last]:  # one, but for hashes that collide
            if self._value(int(row), "note_id") == note_id:
                return int(row)
        return None

    def _value(self, row: int, column: str) -> Any:
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._batches[batch][column][row - int(self._starts[batch])].as_py()

    def _card(self, row: int) -> Card:
        batch = int(np.searchsorted(self._starts, row, side="right")) - 1
        (fields,) = self._batches[batch].slice(row - int(self._starts[batch]), 1).to_pylist()
        for name in ("file", "row", "folded"):
            del fields[name]
        return Card(**{**fields, "hashtags": tuple(fields["hashtags"])})

    def _matches(self, words: list[str]) -> Iterator[int]:
        count = 0
        for batch, start in zip(self._batches, self._starts, strict=False):
            mask = np.ones(batch.num_rows, dtype=bool)
            for word in words:
                mask &= pc.match_substring(batch["folded"], word).to_numpy(zero_copy_only=False)
            for row in np.flatnonzero(mask):
                yield int(start + row)
                count += 1
                if count >= MAX_MATCHES:
                    return


def closeness(folded: str, phrase: str) -> tuple[int, int]:
    """How well a note fits a search, both as `fold` makes them; the lower the better."""
    if folded.startswith(phrase):
        return 0, len(folded)
    return (1 if f" {phrase}" in folded or f"#{phrase}" in folded else 2), len(folded)
