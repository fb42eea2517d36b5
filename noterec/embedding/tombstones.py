"""Rows that withdraw a note: its id, and nulls."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from noterec import storage
from noterec.embedding.done import Done, column_of

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


def _bury(ids: pa.ChunkedArray, folder: storage.ShardFolder, epoch: int) -> None:
    """Write one shard of tombstones."""
    with storage.open_parquet(folder.files()[0]) as parquet:
        columns = parquet.schema_arrow.remove_metadata()
    nulls = [ids if field.name == "note_id" else pa.nulls(len(ids), field.type) for field in columns]
    folder.append(pa.table(nulls, schema=columns), epoch=epoch, tombstones=len(ids))
