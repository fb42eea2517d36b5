"""What is kept of pictures, by row, in parts of 64 MiB: arrays in memory, or shards of a cache on disk.

However few pictures come at a time, a part is filled to the end before it is written, so a long run makes few, large shards. Its
rows can be taken from the moment they come; what a kill costs is the part that is being filled.
"""

from __future__ import annotations

import array
import copy
import math
from collections.abc import Sequence

import numpy as np

from noterec.model.vision.cache import FeatureCache

PART_BYTES = 64 * 2**20


class Shelf:
    """Arrays of one shape by the hash of a picture, each with a row.

    Attributes:
        shape, dtype: of what is kept of one picture.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, cache: FeatureCache | None = None) -> None:
        """Begin empty.

        Args:
            shape: of one picture's array.
            dtype: of the arrays.
            cache: where full parts go, and where `find` looks; None keeps all in memory.
        """
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        self._cache = cache
        self._room = max(1, PART_BYTES // (math.prod(self.shape) * self.dtype.itemsize))  # rows of a part
        self._begin()

    def _begin(self) -> None:
        self._rows: dict[str, int] = {}  # hash -> row
        self._names: list[str] = []  # row -> hash
        self._parts: list[np.ndarray] = []  # (n, *shape) each, in memory or mapped
        self._part, self._place = array.array("i"), array.array("i")  # of a row: which part, and where in it
        self._part_of_shard: dict[int, int] = {}
        self._filling: list[str] = []  # hashes of the part that isn't full, in the order of its places
        self._open = -1  # which part that is

    def __len__(self) -> int:
        """How many pictures have a row."""
        return len(self._part)

    def row(self, name: str) -> int:
        """The row of a picture that has one."""
        return self._rows[name]

    def names(self, rows: np.ndarray) -> list[str]:
        """Hashes by row: (n,) int64 to n of them."""
        return [self._names[row] for row in rows]

    def find(self, name: str) -> bool:
        """Whether a picture has a row, or gets one now from the cache."""
        if name in self._rows:
            return True
        found = None if self._cache is None else self._cache.find(name)
        if found is None or self._cache is None:
            return False
        shard, place = found
        if shard not in self._part_of_shard:
            self._part_of_shard[shard] = len(self._parts)
            self._parts.append(self._cache.values(shard))
        self._new_row(name, self._part_of_shard[shard], place)
        return True

    def put(self, names: Sequence[str], values: np.ndarray) -> None:
        """Give pictures rows.

        Args:
            names: hashes of n pictures that have none.
            values: (n, *shape), what is kept of them.

        Raises:
            InputError: a part was full, and the cache's disk is; the pictures up to that part have their rows.
        """
        for name, value in zip(names, values, strict=True):
            if len(self._filling) == self._room:
                self.write()
                self._filling = []
            if not self._filling:
                self._open = len(self._parts)
                # Pages that nothing was written to take no memory, so a few pictures cost no more than they are.
                self._parts.append(np.empty((self._room, *self.shape), self.dtype))
            self._parts[self._open][len(self._filling)] = value
            self._new_row(name, self._open, len(self._filling))
            self._filling.append(name)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """What is kept of pictures, by row: (n,) int64 to (n, *shape).

        Raises:
            IndexError: there is no such row.
        """
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.shape), self.dtype)
        if not len(rows):
            return out
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows from {rows.min()} to {rows.max()}; expected 0 to {len(self) - 1}")
        part = np.frombuffer(self._part, np.int32)[rows]  # (n,)
        place = np.frombuffer(self._place, np.int32)[rows]  # (n,)
        order = np.argsort(part, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):  # each of one part
            out[group] = self._parts[part[group[0]]][place[group]]
        return out

    def write(self) -> None:
        """Write the part that is being filled to the cache, where there is one; all rows stay.

        Raises:
            InputError: the cache's disk is full.
        """
        if self._cache is None or not self._filling:
            return
        shard = self._cache.add(self._filling, self._parts[self._open][: len(self._filling)])
        self._part_of_shard[shard] = self._open
        self._parts[self._open] = self._cache.values(shard)
        self._filling = []

    def set_aside(self) -> Shelf:
        """All rows as a shelf of their own, for which nothing is written any more; this one begins again without any.

        What isn't in the cache yet is written to it, and what other processes have written since is seen.

        Raises:
            InputError: the cache's disk is full.
        """
        self.write()
        aside = copy.copy(self)  # its lists stay with it: `_begin` makes new ones here
        aside._cache, aside._filling = None, []
        self._begin()
        if self._cache is not None:
            self._cache.release()
            self._cache.refresh()
        return aside

    def _new_row(self, name: str, part: int, place: int) -> None:
        self._rows[name] = len(self._part)
        self._names.append(name)
        self._part.append(part)
        self._place.append(place)
