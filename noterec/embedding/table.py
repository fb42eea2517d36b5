"""The upkeep of a table of shards that grows with every run: how it is, a smaller copy of it in its place, and its repair.

For the outputs of `noterec embed` and of `noterec generate` alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa

from noterec import progress, storage
from noterec.embedding.done import Done, read_shard
from noterec.embedding.epoch import Epoch
from noterec.embedding.record import FOLDER
from noterec.errors import ArtefactError, InputError
from noterec.storage.manifest import read_manifest

KINDS = ("embeddings", "generated")


@dataclasses.dataclass(frozen=True)
class EmbeddingsStatus:
    """How a table is."""

    path: str
    kind: str  # embeddings or generated
    rows: int  # of the shards that can be read
    notes: int  # that have a row which counts
    superseded: int  # rows that a later one of the same note replaced or withdrew
    tombstones: int  # rows that withdraw a note
    compactable: float  # share of the rows that `compact` would free
    bytes: int
    shards: int
    model_version: str
    dimension: int | None  # of embeddings
    dtype: str | None
    precision: str | None
    epoch: int  # how many full runs were begun on top of the first
    complete: bool  # whether a run over a snapshot has been through all notes in this epoch
    incomplete: str | None  # why not
    last_run: str | None  # when it began
    last_outcome: str | None  # "done", or the error that ended it
    checked: str  # "sizes", or "checksums"
    damage: dict[str, str]  # file -> what is wrong with it


@dataclasses.dataclass(frozen=True)
class CompactSummary:
    """What `compact` freed."""

    path: str
    notes: int
    rows_freed: int
    bytes_freed: int
    shards_before: int
    shards: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class RepairSummary:
    """What `repair` struck out."""

    path: str
    struck: dict[str, str]  # file -> what was wrong with it
    rows_struck: int  # whose notes the next run over a snapshot makes again
    shards: int  # that are left
    rows: int


def embeddings_status(path: str | os.PathLike[str], *, deep: bool = False) -> EmbeddingsStatus:
    """Say how a table is: what of it counts, what compacting would free, what is damaged. Writes nothing.

    Args:
        path: the folder that `noterec embed` or `noterec generate` wrote, or its URL.
        deep: compare every file's checksum, too.

    Raises:
        InputError: there is no such table.
    """
    with progress.stage("status") as record:
        folder = open_table(path)
        damage = {found.name: found.reason for found in folder.check(deep=deep)}
        try:
            done = Done(folder.path, _without(folder, damage))
        except ArtefactError:  # what a listing doesn't show
            damage |= _unreadable(folder, damage)
            done = Done(folder.path, _without(folder, damage))
        epoch = Epoch.of(folder)
        run = _last_run(folder.path)
        record.counts.update(rows_in=done.rows, rows_out=done.notes, damaged=len(damage))
        return EmbeddingsStatus(
            path=str(folder.path),
            kind=folder.origin["kind"],
            rows=done.rows,
            notes=done.notes,
            superseded=done.rows - done.notes - done.tombstones,
            tombstones=done.tombstones,
            compactable=1 - done.notes / done.rows if done.rows else 0.0,
            bytes=_bytes(folder.path, folder.shards, damage),
            shards=len(folder.shards),
            model_version=folder.origin["model_version"],
            dimension=folder.origin.get("dimension"),
            dtype=folder.origin.get("dtype"),
            precision=folder.origin.get("precision"),
            epoch=epoch.number,
            complete=epoch.complete,
            incomplete=epoch.incomplete,
            last_run=run.get("started"),
            last_outcome=run.get("outcome"),
            checked="checksums" if deep else "sizes",
            damage=damage,
        )


def compact_embeddings(path: str | os.PathLike[str], *, shard_rows: int = 10_000) -> CompactSummary:
    """Drop the rows that no longer count: superseded ones, withdrawn notes and their tombstones.

    Rows are copied shard by shard into new shards of the same origin, which then take the old ones' place in one commit of the
    manifest. A compaction that is killed has changed nothing. A shard that is full already and all of which counts stays.

    Args:
        path: the folder that `noterec embed` or `noterec generate` wrote, or its URL.
        shard_rows: rows of a new shard; so many are in memory at a time.

    Returns:
        What was freed.

    Raises:
        InputError: there is no such table, or `shard_rows` is less than 1.
        ArtefactError: a shard is missing or damaged; nothing was changed.
        LockedError: a job is writing the table.
    """
    if shard_rows < 1:
        raise InputError(f"shard_rows={shard_rows}: expected at least 1")
    folder = open_table(path)
    with progress.stage("compact") as record, folder.claim("noterec embeddings compact"):
        before = folder.shards
        done = Done(folder.path, before)
        # One small shard is what any table ends with: to write it again would free nothing.
        tidy = done.notes == done.rows and sum(shard["rows"] < shard_rows for shard in before) <= 1
        after = before if tidy else _copied(folder, done, shard_rows)
        bytes_before = _bytes(folder.path, before)
        if after != before:
            folder.replace(after)
        record.counts.update(rows_in=done.rows, rows_out=done.notes)
        return CompactSummary(
            path=str(folder.path),
            notes=done.notes,
            rows_freed=done.rows - done.notes,
            bytes_freed=bytes_before - _bytes(folder.path, after),
            shards_before=len(before),
            shards=len(after),
            seconds=record.seconds,
        )


def repair_embeddings(path: str | os.PathLike[str]) -> RepairSummary:
    """Strike missing and damaged shards out of a table; the next run over a snapshot makes their notes again.

    Every byte is read and compared with its checksum. The table isn't complete until that run: a delta, which doesn't name these
    notes, can't make them. What a struck shard had replaced comes back meanwhile: an older row of a note that has changed since has
    another content, so the note is due; a note whose tombstone was lost is withdrawn again by that run, or by a delta that says
    once more that it is deleted.

    Args:
        path: the folder that `noterec embed` or `noterec generate` wrote, or its URL.

    Raises:
        InputError: there is no such table.
        LockedError: a job is writing it.
    """
    folder = open_table(path)
    with progress.stage("repair") as record, folder.claim("noterec embeddings repair"):
        damage = {found.name: found.reason for found in folder.check(deep=True)}
        damage |= _unreadable(folder, damage)
        rows = folder.rows
        if damage:
            Epoch.of(folder).without(len(damage)).keep(folder)
            folder.replace(_without(folder, damage))
        record.counts.update(rows_in=rows, rows_out=folder.rows, damaged=len(damage))
        return RepairSummary(
            path=str(folder.path),
            struck=damage,
            rows_struck=rows - folder.rows,
            shards=len(folder.shards),
            rows=folder.rows,
        )


def _copied(folder: storage.ShardFolder, done: Done, shard_rows: int) -> list[storage.ShardRecord]:
    """Shards with the rows that count, some of them the old ones; the manifest doesn't know the new ones yet."""
    records: list[storage.ShardRecord] = []
    with progress.track("compact", done.notes, "notes") as bar:
        writer = _Writer(folder, shard_rows, records, bar)
        numbers, rows = done.places()
        ends = np.searchsorted(numbers, np.arange(len(done.shards) + 1))
        for number, shard in enumerate(done.shards):
            kept = rows[ends[number] : ends[number + 1]]
            if len(kept) == shard["rows"] >= shard_rows:
                records.append(shard)
                bar.advance(len(kept))
            elif len(kept):
                writer.copy(shard, kept)
        writer.flush()
    return records


class _Writer:
    """Rows of many shards into new ones, each full but for the last of an epoch: a shard belongs to one."""

    def __init__(
        self, folder: storage.ShardFolder, shard_rows: int, records: list[storage.ShardRecord], bar: progress.Bar
    ) -> None:
        self._folder, self._shard_rows, self._records, self._bar = folder, shard_rows, records, bar
        self._waiting: list[pa.Table] = []
        self._epoch: dict[str, Any] = {}

    def copy(self, shard: storage.ShardRecord, rows: np.ndarray) -> None:
        """Copy these rows of a shard: (n,) int64, ascending."""
        epoch = {key: shard[key] for key in ("epoch",) if key in shard}
        if epoch != self._epoch:
            self.flush()
            self._epoch = epoch
        start = 0
        for table in read_shard(self._folder.path, shard, batch_rows=self._shard_rows):
            first, end = np.searchsorted(rows, [start, start + table.num_rows])
            self._waiting.append(table.take(pa.array(rows[first:end] - start)))
            start += table.num_rows
            while (count := self._count()) >= self._shard_rows:
                whole = pa.concat_tables(self._waiting)
                self._write(whole.slice(0, self._shard_rows))
                self._waiting = [whole.slice(self._shard_rows)] if count > self._shard_rows else []

    def flush(self) -> None:
        """Write what is left."""
        if self._count():
            self._write(pa.concat_tables(self._waiting))
        self._waiting = []

    def _count(self) -> int:
        return sum(table.num_rows for table in self._waiting)

    def _write(self, table: pa.Table) -> None:
        record = storage.write_shard(self._folder.path, table, origin=self._folder.origin)
        self._records.append({**record, **self._epoch})
        self._bar.advance(table.num_rows)


def open_table(path: str | os.PathLike[str]) -> storage.ShardFolder:
    """The table in a folder, whatever its origin."""
    place = storage.place(path)
    manifest = read_manifest(place)
    origin = None if manifest is None else manifest.origin
    if not isinstance(origin, dict) or origin.get("kind") not in KINDS:
        found = "nothing there" if origin is None else "another table of noterec's"
        raise InputError(f"{path}: {found}; expected the folder that `noterec embed` or `noterec generate` wrote")
    return storage.ShardFolder(place, origin=origin)


def is_table(path: str | os.PathLike[str]) -> bool:
    """Whether `noterec embed` or `noterec generate` wrote a folder.

    Raises:
        ArtefactError: its manifest is damaged.
    """
    manifest = read_manifest(storage.place(path))
    return manifest is not None and isinstance(manifest.origin, dict) and manifest.origin.get("kind") in KINDS


def _without(folder: storage.ShardFolder, damage: Collection[str]) -> list[storage.ShardRecord]:
    """The shards but for the damaged ones."""
    return [shard for shard in folder.shards if shard["name"] not in damage]


def _unreadable(folder: storage.ShardFolder, known: dict[str, str]) -> dict[str, str]:
    """Shards besides the known ones that are what was written and yet can't be read."""
    found = {}
    for shard in _without(folder, known):
        try:
            for _ in read_shard(folder.path, shard, ["note_id", "content_hash"]):
                pass
        except ArtefactError as error:
            found[shard["name"]] = str(error.__cause__)
    return found


def _bytes(folder: storage.Place, shards: list[storage.ShardRecord], missing: Collection[str] = ()) -> int:
    """Of the files of shards; earlier versions didn't write sizes down."""
    total = 0
    for shard in shards:
        if "bytes" in shard:
            total += int(shard["bytes"])
        elif shard["name"] not in missing:
            total += (folder / shard["name"]).stat().st_size
    return total


def _last_run(folder: storage.Place) -> dict[str, Any]:
    """What the last run said of itself; nothing where none did."""
    files = sorted((folder / FOLDER).glob("*.json"), key=lambda file: file.name)
    if not files:
        return {}
    with contextlib.suppress(InputError, ArtefactError):
        return dict(storage.read_json(files[-1]))
    return {}
