"""Tables as Parquet, with their origin inside: single files, and folders of them, local or in an object store."""

from __future__ import annotations

import json
import os
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from noterec.errors import InputError
from noterec.schema import conform
from noterec.storage.files import Hashing, atomic_write
from noterec.storage.manifest import read_manifest
from noterec.storage.objects import ObjectPath
from noterec.storage.place import Place, place

ORIGIN = b"noterec"  # the key of the origin record in a Parquet file's schema metadata
ROW_GROUP_ROWS = 64 * 1024


def write_table(table: pa.Table, path: str | os.PathLike[str], *, origin: dict[str, Any] | None = None) -> None:
    """Write one Parquet file atomically, with `origin` (settings, counts, hashes) inside its metadata."""
    with atomic_write(path) as file:
        write_parquet(table, file, origin=origin)


def write_parquet(table: pa.Table, file: BinaryIO | Hashing, *, origin: dict[str, Any] | None) -> None:
    """Write a table as Parquet into an open file."""
    if origin is not None:
        metadata = dict(table.schema.metadata or {})
        metadata[ORIGIN] = json.dumps(origin, default=str).encode()
        table = table.replace_schema_metadata(metadata)
    pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def parquet_files(path: str | os.PathLike[str]) -> list[Place]:
    """The Parquet files behind a path: the file itself, the shards that a folder's manifest names, or `*.parquet`."""
    source = place(path)
    if source.is_file():
        return [source]
    manifest = read_manifest(source)
    if manifest is not None:
        return [source / shard["name"] for shard in manifest.shards]
    files: list[Place] = [file for file in source.glob("*.parquet") if not file.name.startswith(".")]
    if not files and not source.exists():
        raise InputError(f"{source}: no such file or folder; expected a Parquet file or a folder of them")
    return sorted(files)


def open_parquet(file: Place) -> pq.ParquetFile:
    """Open one Parquet file.

    Raises:
        InputError: it is missing, truncated or no Parquet file at all.
    """
    try:
        return pq.ParquetFile(file.open("rb") if isinstance(file, ObjectPath) else file)
    except FileNotFoundError as error:
        raise InputError(f"{file}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); write it again, or remove it") from error


def read_table(
    path: str | os.PathLike[str], schema: pa.Schema | None = None, *, columns: list[str] | None = None
) -> pa.Table:
    """Read a Parquet file or a folder of shards whole, conformed to `schema` where one is given.

    Raises:
        InputError: nothing there, a file is damaged, or the columns don't fit.
    """
    tables = []
    for file in parquet_files(path):
        with open_parquet(file) as parquet:
            wanted = None if columns is None else [c for c in columns if c in parquet.schema_arrow.names]
            try:
                table = parquet.read(columns=wanted)
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error
        tables.append(table if schema is None else conform(table, schema, name=str(file)))
    if not tables:
        if schema is not None:
            return schema.empty_table()
        raise InputError(f"{path}: no Parquet files there")
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise InputError(
            f"{path}: a column has different types in different files ({error}); write it with one type"
        ) from error


def read_origin(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The origin record that `write_table` put into a Parquet file; empty for a file of another maker."""
    files = parquet_files(path)
    if not files:
        return {}
    with open_parquet(files[0]) as parquet:
        return origin_of(parquet.schema_arrow)


def origin_of(schema: pa.Schema) -> dict[str, Any]:
    """The origin record in a schema's metadata; empty where there is none."""
    record = (schema.metadata or {}).get(ORIGIN)
    return cast(dict[str, Any], json.loads(record)) if record else {}
