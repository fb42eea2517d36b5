"""Ids as 64-bit keys, so that a log of any length is counted with integers.

The key of an id is the same on every machine and in every version, which lets processes that never meet cut a log by people.
n ids share a key with a probability of about n² / 2⁶⁵: 3 in 10,000 for a hundred million people, who would then count as one
person less. The ids of the dataset's notes are compared when they are read, so theirs are certain.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from noterec.engagement.counting.compiled import compiled
from noterec.errors import InputError

Keys = NDArray[np.uint64]
Codes = NDArray[np.int64]

UNKNOWN = 1 << 62  # codes from here on are notes that the dataset doesn't have: the rest of their key


def keys(ids: pa.Array | pa.ChunkedArray) -> Keys:
    """(len(ids),) uint64: the key of each id, which must not be null."""
    chunks = ids.chunks if isinstance(ids, pa.ChunkedArray) else [ids]
    parts = [np.zeros(0, dtype=np.uint64)]
    for chunk in chunks:
        array = chunk.cast(pa.large_string())
        _, offsets, text = array.buffers()
        at = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)
        parts.append(_hash(at, np.frombuffer(text or b"", dtype=np.uint8)))
    return np.concatenate(parts)


@compiled
def _finish(x: np.uint64) -> np.uint64:
    """The finaliser of splitmix64: every bit of the input moves every bit of the output."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@compiled
def _hash(offsets: NDArray[np.int64], text: NDArray[np.uint8]) -> Keys:
    """FNV-1a over the bytes, then a finaliser, as its high bits are poor."""
    out = np.empty(len(offsets) - 1, dtype=np.uint64)
    for i in range(len(out)):
        key = np.uint64(0xCBF29CE484222325)
        for j in range(offsets[i], offsets[i + 1]):
            key = (key ^ np.uint64(text[j])) * np.uint64(0x100000001B3)
        out[i] = _finish(key)
    return out


@compiled
def mixed(key: np.uint64, other: np.uint64) -> np.uint64:
    """A fixed 64-bit hash of two keys, to choose among rows without any order; of one pair, for compiled code."""
    return _finish(key * np.uint64(0x9E3779B97F4A7C15) + other + np.uint64(1))


@compiled
def mix(key: Keys, other: Keys) -> Keys:
    """(n,) uint64: `mixed` of arrays."""
    out = np.empty(len(key), dtype=np.uint64)
    for i in range(len(key)):
        out[i] = mixed(key[i], other[i])
    return out


class NoteCodes:
    """Notes by number: the code of a note is the place of its key.

    Attributes:
        keys: (N,) uint64.
    """

    def __init__(self, found: Keys) -> None:
        """Number some keys, all different, in their order."""
        self.keys = found
        size = 1 << max(4, int(2 * len(found)).bit_length())  # open addressing; at most half full
        self._slots, self._codes = np.zeros(size, dtype=np.uint64), np.full(size, -1, dtype=np.int32)
        self.clash = _fill(found, self._slots, self._codes)

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, found: Keys) -> Codes:
        """(len(found),) int64: the code of each key; from UNKNOWN on for notes that aren't here, equal keys giving equal codes."""
        return _find(found, self._slots, self._codes)


class DatasetNotes(NoteCodes):
    """The notes of a dataset, numbered in the order of their ids, so that codes are ordered as ids are.

    Attributes:
        ids: (N,) ids, ascending.
    """

    def __init__(self, ids: pl.Series) -> None:
        """Number the notes; ids that stand there twice count once.

        Raises:
            InputError: two ids share a key.
        """
        self.ids = ids.unique().sort()
        super().__init__(keys(self.ids.to_arrow()))
        if self.clash >= 0:
            raise InputError(
                f"the notes {self.ids[self.clash]!r} and another share a 64-bit key, which happens to one of 10¹⁹ pairs of ids; "
                "expected distinct keys: give one of them another id"
            )


@compiled
def _fill(found: Keys, slots: Keys, codes: NDArray[np.int32]) -> int:
    """Enter keys; returns the first that is there already, or -1."""
    mask = np.uint64(len(slots) - 1)
    for code in range(len(found)):
        at = found[code] & mask
        while codes[at] >= 0:
            if slots[at] == found[code]:
                return code
            at = (at + np.uint64(1)) & mask
        slots[at], codes[at] = found[code], code
    return -1


@compiled
def _find(found: Keys, slots: Keys, codes: NDArray[np.int32]) -> Codes:
    out = np.empty(len(found), dtype=np.int64)
    mask = np.uint64(len(slots) - 1)
    for i in range(len(found)):
        at = found[i] & mask
        while codes[at] >= 0 and slots[at] != found[i]:
            at = (at + np.uint64(1)) & mask
        out[i] = codes[at] if codes[at] >= 0 else np.int64(UNKNOWN | (found[i] >> np.uint64(2)))
    return out
