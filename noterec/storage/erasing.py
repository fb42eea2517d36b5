"""Rows out of tables that exist: a deletion that has to reach the bytes, not only what readers see."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noterec.storage.files import atomic_write
from noterec.storage.manifest import read_manifest
from noterec.storage.parquet import open_parquet, parquet_files
from noterec.storage.place import Place, place
from noterec.storage.shards import ShardFolder, write_shard

Doomed = Callable[[pa.Table], pa.Array]

_BATCH_ROWS = 4096


def named(column: str, ids: set[str]) -> Doomed:
    """Rows whose `column` is one of these ids; none in a table without it."""
    wanted = pa.array(sorted(ids), pa.string())

    def doomed(table: pa.Table) -> pa.Array:
        if column not in table.column_names:
            return pa.repeat(pa.scalar(False), table.num_rows)
        return pc.is_in(table[column].cast(pa.string()), value_set=wanted)

    return doomed


def erase_rows(path: str | os.PathLike[str], doomed: Doomed, *, columns: list[str]) -> int:
    """Write every file of a table that holds such rows anew without them; files without any stay as they are.

    Each file is replaced in one step. In a folder with a manifest that is one step for all of its shards.

    Args:
        path: a Parquet file, or a folder of them, with a manifest or without.
        doomed: which rows of a table go, (rows,) bool.
        columns: what `doomed` looks at; read first, so that a file that has none of these rows is not read whole.

    Returns:
        How many rows went.

    Raises:
        InputError: a file is damaged or can't be written.
    """
    target = place(path)
    manifest = read_manifest(target)
    if manifest is not None:
        return _from_shards(ShardFolder(target, origin=manifest.origin), doomed, columns)
    return sum(_from_file(file, doomed) for file in parquet_files(target) if _count(file, doomed, columns))


def _count(file: Place, doomed: Doomed, columns: list[str]) -> int:
    with open_parquet(file) as parquet:
        wanted = [name for name in columns if name in parquet.schema_arrow.names]
        if not wanted:
            return 0
        table = parquet.read(columns=wanted)
    return int(pc.sum(doomed(table).fill_null(False)).as_py() or 0)


def _from_shards(folder: ShardFolder, doomed: Doomed, columns: list[str]) -> int:
    gone = 0
    with folder.claim("noterec forget"):
        records: list[dict[str, Any]] = []
        for shard, file in zip(folder.shards, folder.files(), strict=True):
            count = _count(file, doomed, columns)
            if not count:
                records.append(shard)
                continue
            gone += count
            with open_parquet(file) as parquet:
                table = parquet.read()
            kept = table.filter(pc.invert(doomed(table).fill_null(False)))
            facts = {key: value for key, value in shard.items() if key not in ("name", "rows", "bytes", "sha256")}
            if kept.num_rows:
                records.append({**write_shard(folder.path, kept, origin=folder.origin), **facts})
        if gone:
            folder.replace(records)
    return gone


def _from_file(file: Place, doomed: Doomed) -> int:
    """Stream a file into its successor, some rows at a time: pictures make rows large."""
    gone = 0
    with open_parquet(file) as parquet, atomic_write(file) as out:
        schema = parquet.schema_arrow
        with pq.ParquetWriter(out, schema, compression="zstd") as writer:
            for batch in parquet.iter_batches(_BATCH_ROWS):
                table = pa.Table.from_batches([batch], schema=schema)
                kept = table.filter(pc.invert(doomed(table).fill_null(False)))
                gone += table.num_rows - kept.num_rows
                writer.write_table(kept)
    return gone
