"""The ids of an index in order, to be looked up by bisection: without a dictionary, which would cost 150 bytes a note."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa


class SortedIds:
    """N note ids, ascending by their UTF-8 bytes, as Polars sorts them."""

    def __init__(self, ids: pl.Series) -> None:
        """Keep a view of the ids; nothing is copied but their offsets where they lie in several pieces."""
        array = ids.rechunk().to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.large_string())
        _, offsets, data = array.buffers()
        self._offsets = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
        self._data = memoryview(data) if data is not None else memoryview(b"")

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def find(self, note_id: str) -> int | None:
        """The place of an id, None where it isn't among them."""
        place = self.place(note_id)
        if place == len(self):
            return None
        there = bytes(self._data[self._offsets[place] : self._offsets[place + 1]])
        return place if there == _bytes(note_id) else None

    def place(self, note_id: str) -> int:
        """Where an id stands, or would stand: 0 to N."""
        wanted = _bytes(note_id)
        offsets, data = self._offsets, self._data
        low, high = 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if bytes(data[offsets[middle] : offsets[middle + 1]]) < wanted:
                low = middle + 1
            else:
                high = middle
        return low


def _bytes(note_id: str) -> bytes:
    return note_id.encode("utf-8", "surrogatepass")  # half of a pair of surrogates is in no table, and found in none
