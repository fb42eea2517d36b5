"""Rows that withdraw a note: its id, and nulls."""

from __future__ import annotations

import os
from collections.abc import Collection

import numpy as np
import pyarrow as pa

from noterec import storage
from noterec.embedding.done import Done, column_of, keys_of
from noterec.embedding.epoch import Epoch
from noterec.embedding.table import compact_embeddings, open_table

ROWS = 8192  # of a shard of them: in memory, a null vector takes as much as any other


def withdraw_unseen(folder: storage.ShardFolder, done: Done, *, epoch: int) -> None:
    """Write a tombstone for every note of an output that wasn't seen.

    Args:
        folder: the output.
        done: what it holds, and which notes were seen.
        epoch: of the shards that are written.

    Raises:
        ArtefactError: a shard is missing or damaged.
    """
    shards, rows = done.places(unseen=True)
    ids = pa.chunked_array([], pa.string())
    for number in np.unique(shards).tolist():
        found = column_of(folder.path, done.shards[number], "note_id").take(pa.array(rows[shards == number]))
        ids = pa.chunked_array([*ids.chunks, *found.chunks], pa.string())
        while len(ids) >= ROWS:
            _bury(ids.slice(0, ROWS), folder, epoch)
            ids = ids.slice(ROWS)
    if len(ids):
        _bury(ids, folder, epoch)


def withdraw_notes(path: str | os.PathLike[str], ids: Collection[str]) -> int:
    """Take notes out of a table, their older rows included: tombstones first, then a compaction.

    Args:
        path: the folder that `noterec embed` or `noterec generate` wrote.
        ids: of the notes; those that it doesn't have are no matter.

    Returns:
        How many notes it had.

    Raises:
        InputError: there is no such table.
        LockedError: a job is writing it.
    """
    folder = open_table(path)
    with folder.claim("noterec forget"):
        done = Done(folder.path, folder.shards)
        done.see_all()
        done.see(keys_of(pa.array(sorted(ids), pa.string())), False)
        gone = done.unseen
        if gone:
            withdraw_unseen(folder, done, epoch=Epoch.of(folder).number)
    compact_embeddings(path)
    return gone


def _bury(ids: pa.ChunkedArray, folder: storage.ShardFolder, epoch: int) -> None:
    """Write one shard of tombstones."""
    with storage.open_parquet(folder.files()[0]) as parquet:
        columns = parquet.schema_arrow.remove_metadata()
    nulls = [ids if field.name == "note_id" else pa.nulls(len(ids), field.type) for field in columns]
    folder.append(pa.table(nulls, schema=columns), epoch=epoch, tombstones=len(ids))
