"""What a table of shards holds: which note, with which content, in which row of which shard.

A note takes 33 bytes in memory however long its id is, and 16 more for every distinct content once equal ones are looked for: an
output of a hundred million notes is compared with its dataset on one machine. A row without a content hash is a tombstone: the
note was withdrawn. The last row of a note counts.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from noterec import storage
from noterec.errors import ArtefactError, InputError

READ_ROWS = 64 * 1024

Words = NDArray[np.uint64]
Numbers = NDArray[np.int64]
Mask = NDArray[np.bool_]


def keys_of(ids: pa.ChunkedArray | pa.Array) -> Words:
    """What stands for ids: (B, 2) uint64, their BLAKE2b digests of 128 bits.

    Ids are strangers' strings: with a lesser hash, somebody could make up one that passes for another's.
    """
    digests = b"".join([hashlib.blake2b(text.encode(), digest_size=16).digest() for text in ids.to_pylist()])
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def read_shard(
    folder: storage.Place, record: dict[str, Any], columns: list[str] | None = None, *, batch_rows: int = READ_ROWS
) -> Iterator[pa.Table]:
    """Read a shard of an output, or say that it is damaged and how to go on.

    Args:
        folder: the output.
        record: the shard's, of the manifest.
        columns: which to read; None = all.
        batch_rows: rows read at a time.

    Yields:
        Its rows, in order.

    Raises:
        ArtefactError: it is missing or damaged, or has another number of rows than the manifest says.
    """
    file = folder / record["name"]
    try:
        with storage.open_parquet(file) as parquet:
            if parquet.metadata.num_rows != record["rows"]:
                raise InputError(f"{file}: has {parquet.metadata.num_rows} rows and the manifest says {record['rows']}")
            for batch in parquet.iter_batches(batch_rows, columns=columns):
                batch.validate(full=True)
                yield pa.Table.from_batches([batch])
    except (InputError, pa.ArrowException, OSError) as error:
        said = " ".join(str(error).split()).rstrip(".")  # Arrow speaks in several lines
        why = said if str(file) in said else f"{file}: {said}"
        raise ArtefactError(
            f"{why}. It is a shard of an output: `noterec embeddings repair {folder}` strikes out what is damaged, and the next "
            "run over a snapshot makes it again"
        ) from error


def column_of(folder: storage.Place, record: dict[str, Any], name: str) -> pa.ChunkedArray:
    """One column of a shard of an output; arguments and errors as in `read_shard`."""
    return pa.chunked_array([chunk for table in read_shard(folder, record, [name]) for chunk in table[name].chunks])


@dataclass(frozen=True)
class _Contents:
    """Where contents stand: (n,) distinct hashes ascending, and a shard and row of each."""

    hashes: Words
    shards: NDArray[np.uint32]
    rows: NDArray[np.uint32]

    @classmethod
    def of(cls, hashes: Words, shards: NDArray[np.uint32], rows: NDArray[np.uint32]) -> _Contents:
        """The first place of every content."""
        distinct, first = np.unique(hashes, return_index=True)
        return cls(distinct, shards[first], rows[first])

    def with_(self, other: _Contents) -> _Contents:
        """Both."""
        hashes = np.concatenate((self.hashes, other.hashes))
        shards = np.concatenate((self.shards, other.shards))
        rows = np.concatenate((self.rows, other.rows))
        return _Contents.of(hashes, shards, rows)


class Done:
    """The notes of an output, as its shards stood when it was opened, and the contents that were added since.

    One thread may ask while another one adds.

    Attributes:
        shards: their records, by their number here.
        rows: in all shards.
        tombstones: of them, rows that withdraw a note.
        notes: that have a row and weren't withdrawn after it.
    """

    def __init__(self, folder: storage.Place, shards: Sequence[dict[str, Any]], *, epoch: int | None = None) -> None:
        """Read the ids and content hashes of an output.

        Args:
            folder: the output.
            shards: their records, oldest first.
            epoch: rows of shards of another one aren't known, and not found by content; None = all are alike.

        Raises:
            ArtefactError: a shard is missing or damaged.
        """
        self.shards = list(shards)
        self._current = np.array([epoch is None or shard.get("epoch", 0) == epoch for shard in shards], dtype=bool)
        self.rows = sum(shard["rows"] for shard in shards)
        self._first, self._second, self._hashes = (np.empty(self.rows, dtype=np.uint64) for _ in range(3))
        self._shards = np.repeat(
            np.arange(len(shards), dtype=np.uint32), np.array([shard["rows"] for shard in shards], dtype=np.int64)
        )
        self._rows = np.empty(self.rows, dtype=np.uint32)
        live = np.empty(self.rows, dtype=bool)
        start = 0
        for shard in shards:
            first = start
            for table in read_shard(folder, shard, ["note_id", "content_hash"]):
                part = slice(start, start + table.num_rows)
                column = table["content_hash"]
                self._first[part], self._second[part] = keys_of(table["note_id"]).T
                live[part] = column.is_valid().to_numpy()
                self._hashes[part] = column.fill_null(0).to_numpy()
                self._rows[part] = np.arange(part.start - first, part.stop - first)
                start = part.stop
        self.tombstones = int(self.rows - live.sum())
        self._keep_last(live)
        self.notes = len(self._first)
        self._seen = np.zeros(self.notes, dtype=bool)
        self._contents: list[_Contents] | None = None
        self._lock = threading.Lock()

    def _keep_last(self, live: Mask) -> None:
        """Order rows by key and keep each note's last one, unless it is a tombstone."""
        order = np.lexsort(
            (self._second, self._first)
        )  # stable: a note's rows stay in the order in which they were written
        self._first = self._first[order]  # one by one, so that no two of them are in memory twice
        self._second = self._second[order]
        last = np.ones(self.rows, dtype=bool)
        last[:-1] = (self._first[1:] != self._first[:-1]) | (self._second[1:] != self._second[:-1])
        last &= live[order]
        order = order[last]
        self._first = self._first[last]
        self._second = self._second[last]
        self._hashes = self._hashes[order]
        self._shards = self._shards[order]
        self._rows = self._rows[order]

    def known(self, keys: Words, hashes: Words) -> Mask:
        """Which notes are here with this content, in a shard of the epoch: (B,) bool, from (B, 2) keys and (B,) hashes."""
        at, here = self._places(keys)
        here[here] = (self._hashes[at[here]] == hashes[here]) & self._current[self._shards[at[here]]]
        return here

    def see(self, keys: Words, seen: bool = True) -> int:
        """Mark notes as seen, or as not seen, by their (B, 2) keys; returns how many of them are here."""
        at, here = self._places(keys)
        self._seen[at[here]] = seen
        return int(here.sum())

    def see_all(self) -> None:
        """Mark all notes as seen."""
        self._seen[:] = True

    @property
    def unseen(self) -> int:
        """How many notes weren't seen."""
        return self.notes - int(self._seen.sum())

    def places(self, *, unseen: bool = False) -> tuple[Numbers, Numbers]:
        """Where the notes stand, or those that weren't seen: shards and rows, (n,) int64 each, ascending."""
        which = np.flatnonzero(~self._seen) if unseen else np.arange(self.notes)
        shards, rows = self._shards[which].astype(np.int64), self._rows[which].astype(np.int64)
        order = np.lexsort((rows, shards))
        return shards[order], rows[order]

    def find(self, hashes: Words) -> tuple[Numbers, Numbers]:
        """Where contents stand, of whichever note: (B,) hashes to shards and rows, (B,) int64 each, -1 where nowhere."""
        shards, rows = np.full(len(hashes), -1), np.full(len(hashes), -1)
        with self._lock:
            parts = tuple(self._by_content())  # what a part holds never changes
        for part in parts:
            if len(part.hashes):
                at = np.searchsorted(part.hashes, hashes).clip(max=len(part.hashes) - 1)
                here = part.hashes[at] == hashes
                shards[here], rows[here] = part.shards[at[here]], part.rows[at[here]]
        return shards, rows

    def add(self, shard: dict[str, Any], hashes: Words) -> None:
        """A shard was written whose rows have these contents, (B,) uint64: from now on they are found.

        Its notes are not asked about again, since a run meets each note once.
        """
        rows = np.arange(len(hashes), dtype=np.uint32)
        with self._lock:
            parts = self._by_content()
            part = _Contents.of(hashes, np.full(len(hashes), len(self.shards), dtype=np.uint32), rows)
            self.shards.append(shard)
            while len(parts) > 1 and len(parts[-1].hashes) <= 2 * len(
                part.hashes
            ):  # so there are never more than a few dozen
                part = parts.pop().with_(part)
            parts.append(part)

    def _by_content(self) -> list[_Contents]:
        """The contents that stand here already, then those that were added, in parts that grow smaller."""
        if self._contents is None:
            current = self._current[self._shards]
            self._contents = [_Contents.of(self._hashes[current], self._shards[current], self._rows[current])]
        return self._contents

    def _places(self, keys: Words) -> tuple[Numbers, Mask]:
        """The position of each note among those that are here, and whether it is: (B,) int64 and (B,) bool."""
        at = np.searchsorted(self._first, keys[:, 0])
        here = np.zeros(len(keys), dtype=bool)
        left = np.flatnonzero(at < self.notes)
        while len(left):  # ends after one step, unless the first halves of two keys are the same
            left = left[self._first[at[left]] == keys[left, 0]]
            same = self._second[at[left]] == keys[left, 1]
            here[left[same]] = True
            left = left[~same]
            at[left] += 1
            left = left[at[left] < self.notes]
        return at, here
