"""Rows out of tables that exist: a deletion that has to reach the bytes, not only what readers see."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noterec.errors import InputError
from noterec.storage.files import atomic_write
from noterec.storage.manifest import read_manifest
from noterec.storage.parquet import ROW_GROUP_ROWS, open_parquet, parquet_files
from noterec.storage.place import Place, place
from noterec.storage.shards import ShardFolder, write_shard

Doomed = Callable[[pa.Table], pa.Array]

_BATCH_ROWS = 4096
_GROUP_BYTES = 64 << 20  # of a row group that is written: pictures make rows large


def named(ids: Collection[str], *columns: str) -> Doomed:
    """Rows in which one of these ids stands in one of these columns; a column that a table doesn't have names none."""
    wanted = pa.array(sorted(ids), pa.string())

    def doomed(table: pa.Table) -> pa.Array:
        found = pa.repeat(pa.scalar(False), table.num_rows)
        for column in columns:
            if column in table.column_names:
                found = pc.or_(found, pc.is_in(table[column].cast(pa.string()), value_set=wanted))
        return found

    return doomed


def erase_rows(path: str | os.PathLike[str], doomed: Doomed, *, columns: Collection[str]) -> int:
    """Write every file of a table that holds such rows anew without them; files without any stay as they are.

    Each file is replaced in one step. In a folder with a manifest that is one step for all of its shards.

    Args:
        path: a Parquet file, or a folder of them, with a manifest or without; files beside those that it names count too.
        doomed: which rows of a table go, (rows,) bool; a null is no.
        columns: what `doomed` looks at; read first, so that a file that has none of these rows is not read whole.

    Returns:
        How many rows went.

    Raises:
        InputError: a file is damaged or can't be written; the files before it are done.
        LockedError: a job is writing the folder.
    """
    target = place(path)
    manifest = read_manifest(target)
    files, gone = parquet_files(target), 0
    if manifest is not None:
        beside = sorted(file for file in target.glob("*.parquet") if file not in set(files))
        gone = _from_shards(ShardFolder(target, origin=manifest.origin), doomed, columns)
        files = [file for file in beside if file.is_file()]  # a claim has removed what a stopped job left
    return gone + sum(_from_file(file, doomed) for file in files if _count(file, doomed, columns))


def _count(file: Place, doomed: Doomed, columns: Collection[str]) -> int:
    count = 0
    for table in _tables(file, columns, ROW_GROUP_ROWS):
        count += int(pc.sum(doomed(table)).as_py() or 0)
    return count


def _from_shards(folder: ShardFolder, doomed: Doomed, columns: Collection[str]) -> int:
    gone = 0
    with folder.claim("noterec forget"):
        records: list[dict[str, Any]] = []
        for shard, file in zip(folder.shards, folder.files(), strict=True):
            count = _count(file, doomed, columns)
            if not count:
                records.append(shard)
                continue
            gone += count
            kept = pa.concat_tables(_kept(table, doomed) for table in _tables(file, None, _BATCH_ROWS))
            facts = {key: value for key, value in shard.items() if key not in ("name", "rows", "bytes", "sha256")}
            if kept.num_rows or len(folder.shards) == 1 or (not records and shard is folder.shards[-1]):
                # A table of no rows still says what its columns are.
                records.append({**write_shard(folder.path, kept, origin=folder.origin), **facts})
        if gone:
            folder.replace(records)
    return gone


def _from_file(file: Place, doomed: Doomed) -> int:
    """Stream a file into its successor, a row group at a time."""
    gone = 0
    with open_parquet(file) as parquet:
        schema = _plain(parquet.schema_arrow)
    with atomic_write(file) as out, pq.ParquetWriter(out, schema, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for table in _tables(file, None, _BATCH_ROWS):
            kept = _kept(table, doomed)
            gone += table.num_rows - kept.num_rows
            waiting.append(kept)
            if sum(t.num_rows for t in waiting) >= ROW_GROUP_ROWS or sum(t.nbytes for t in waiting) >= _GROUP_BYTES:
                writer.write_table(pa.concat_tables(waiting))
                waiting.clear()
        if sum(table.num_rows for table in waiting):
            writer.write_table(pa.concat_tables(waiting))
    return gone


def _tables(file: Place, columns: Collection[str] | None, rows: int) -> Iterator[pa.Table]:
    """The rows of a file, some at a time: all columns, or those of the named ones that it has."""
    with open_parquet(file) as parquet:
        wanted = None if columns is None else [name for name in columns if name in parquet.schema_arrow.names]
        if wanted == []:
            return
        try:
            for batch in parquet.iter_batches(rows, columns=wanted):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error


def _kept(table: pa.Table, doomed: Doomed) -> pa.Table:
    """The other rows, in plain types: the dictionary of a column is written whole, with values that no row has any more."""
    kept = table.filter(pc.invert(doomed(table).fill_null(False)))
    return kept.cast(_plain(table.schema))


def _plain(schema: pa.Schema) -> pa.Schema:
    fields = [_plain_field(field) for field in schema]
    return pa.schema(fields, metadata=schema.metadata)


def _plain_field(field: pa.Field) -> pa.Field:
    kind = _plain_type(field.type)
    # What polars and pandas say of a column's categories stands in its metadata.
    return field if kind == field.type else pa.field(field.name, kind, nullable=field.nullable)


def _plain_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain_type(kind.value_type)
    if pa.types.is_list(kind):
        return pa.list_(_plain_field(kind.value_field))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain_field(kind.value_field))
    if pa.types.is_struct(kind):
        return pa.struct([_plain_field(kind.field(number)) for number in range(kind.num_fields)])
    return kind
