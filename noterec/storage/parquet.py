"""Tables as Parquet, with their origin inside: single files, and folders of them, local or in an object store."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, cast

import pyarrow as pa
import pyarrow.parquet as pq

from noterec.errors import ArtefactError, InputError
from noterec.schema import conform
from noterec.storage.files import Hashing, atomic_write
from noterec.storage.manifest import read_manifest
from noterec.storage.objects import ObjectPath
from noterec.storage.place import Place, place

ORIGIN = b"noterec"  # the key of the origin record in a Parquet file's schema metadata
ROW_GROUP_ROWS = 64 * 1024

T = TypeVar("T")


class MissingError(InputError):
    """A file isn't there, or no longer."""


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
        raise MissingError(f"{source}: no such file or folder; expected a Parquet file or a folder of them")
    return sorted(files)


def read_files(path: str | os.PathLike[str], read: Callable[[list[Place]], T]) -> T:
    """Read the Parquet files behind a path, also while a job replaces them.

    Such a job names new shards in the manifest and removes the old ones. Who had begun to read these begins anew, once, with
    the manifest as it is by then; names are never given again, so no shard is taken for another.

    Args:
        path: a file or a folder, as `parquet_files` takes it.
        read: makes the result of the files, in their order.

    Returns:
        What `read` returned.

    Raises:
        ArtefactError: a shard that the manifest names is missing.
        InputError: nothing there.
    """
    files = parquet_files(path)
    try:
        return read(files)
    except MissingError as error:
        if (now := parquet_files(path)) == files:
            raise _incomplete(path, error) from error
    try:
        return read(now)
    except MissingError as error:
        raise _incomplete(path, error) from error


def _incomplete(path: str | os.PathLike[str], error: MissingError) -> ArtefactError:
    return ArtefactError(
        f"{path}: shards that it lists are missing ({error}); in a table of `noterec embed` or `noterec generate`, "
        f"`noterec embeddings repair {path}` strikes them out and the next run makes their notes again; make any other again"
    )


def open_parquet(file: Place) -> pq.ParquetFile:
    """Open one Parquet file.

    Raises:
        InputError: it is missing, truncated or no Parquet file at all.
    """
    try:
        return pq.ParquetFile(file.open("rb") if isinstance(file, ObjectPath) else file)
    except FileNotFoundError as error:
        raise MissingError(f"{file}: no such file") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{file}: not a readable Parquet file ({error}); write it again, or remove it") from error


def read_table(
    path: str | os.PathLike[str], schema: pa.Schema | None = None, *, columns: list[str] | None = None
) -> pa.Table:
    """Read a Parquet file or a folder of shards whole, conformed to `schema` where one is given.

    Raises:
        InputError: nothing there, a file is damaged, or the columns don't fit.
        ArtefactError: a shard that the folder's manifest names is missing.
    """
    tables = read_files(path, lambda files: [_table(file, schema, columns) for file in files])
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


def _table(file: Place, schema: pa.Schema | None, columns: list[str] | None) -> pa.Table:
    """One Parquet file, whole."""
    with open_parquet(file) as parquet:
        wanted = None if columns is None else [c for c in columns if c in parquet.schema_arrow.names]
        try:
            table = parquet.read(columns=wanted)
        except FileNotFoundError as error:  # from a store, where an open file can vanish
            raise MissingError(f"{file}: no such file") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error
    return table if schema is None else conform(table, schema, name=str(file))


def read_origin(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The origin record that `write_table` put into a Parquet file; empty for a file of another maker."""
    return read_files(path, _first_origin)


def _first_origin(files: list[Place]) -> dict[str, Any]:
    if not files:
        return {}
    with open_parquet(files[0]) as parquet:
        return origin_of(parquet.schema_arrow)


def origin_of(schema: pa.Schema) -> dict[str, Any]:
    """The origin record in a schema's metadata; empty where there is none."""
    record = (schema.metadata or {}).get(ORIGIN)
    return cast(dict[str, Any], json.loads(record)) if record else {}
