"""Files that are never half-written: atomic replacement, Parquet with its origin inside, and folders of shards.

A file is written beside its final name, synced and renamed. A folder of shards counts what its `manifest.json` names
and nothing else, so a job that was killed leaves at most an unnamed file behind, which the next run replaces.
Paths are local; object-store URLs are refused with a message.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from noterec.errors import ArtefactError, InputError
from noterec.schema import conform

ORIGIN = b"noterec"  # the key of the origin record in a Parquet file's schema metadata
MANIFEST = "manifest.json"
URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: a Path has swallowed the other
ROW_GROUP_ROWS = 64 * 1024


def local(path: str | os.PathLike[str]) -> Path:
    """A local path, or a clear refusal of a URL."""
    text = os.fspath(path)
    if URL.match(text):
        raise InputError(
            f"{text}: object-store URLs are not supported in this version; copy or mount it, give a folder"
        )
    return Path(text).expanduser()


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path`; when the block ends well, sync it and rename it into place.

    Raises:
        InputError: the folder can't be written to, or the disk is full. `path` is then as it was before.
    """
    target = local(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    except OSError as error:
        raise InputError(f"{target}: can't write there: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        Path(name).chmod(0o666 & ~mask)  # mkstemp makes files private; published ones follow the user's umask
        Path(name).replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"{target}: could not be written: {error.strerror or error}; nothing was changed") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems can't sync a folder; the rename itself is done
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write a value as readable JSON, atomically."""
    with atomic_write(path) as file:
        file.write((json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n").encode())


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        InputError: it is not there.
        ArtefactError: it is not JSON.
    """
    source = local(path)
    try:
        return json.loads(source.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{source}: not valid JSON ({error}); it was damaged or is another file") from error


def write_table(table: pa.Table, path: str | os.PathLike[str], *, origin: dict[str, Any] | None = None) -> None:
    """Write one Parquet file atomically, with `origin` (settings, counts, hashes) inside its metadata."""
    if origin is not None:
        metadata = dict(table.schema.metadata or {})
        metadata[ORIGIN] = json.dumps(origin, default=str).encode()
        table = table.replace_schema_metadata(metadata)
    with atomic_write(path) as file:
        pq.write_table(table, file, compression="zstd", row_group_size=ROW_GROUP_ROWS)


def parquet_files(path: str | os.PathLike[str]) -> list[Path]:
    """The Parquet files behind a path: the file itself, the shards that a folder's manifest names, or `*.parquet`."""
    source = local(path)
    if source.is_file():
        return [source]
    if not source.exists():
        raise InputError(f"{source}: no such file or folder; expected a Parquet file or a folder of them")
    manifest = source / MANIFEST
    if manifest.is_file():
        return [source / shard["name"] for shard in _manifest(manifest)["shards"]]
    return sorted(file for file in source.glob("*.parquet") if not file.name.startswith("."))


def _manifest(file: Path) -> dict[str, Any]:
    record = read_json(file)
    try:
        shards = list(record["shards"])
        # A name is only ever a file beside the manifest: no path leads out of the folder.
        whole = all(Path(shard["name"]).name == shard["name"] and int(shard["rows"]) >= 0 for shard in shards)
        found = {"origin": record["origin"], "shards": shards}
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise ArtefactError(f"{file}: no manifest of noterec's; remove it to have all *.parquet beside it read")
    return found


def open_parquet(file: Path) -> pq.ParquetFile:
    """Open one Parquet file.

    Raises:
        InputError: it is missing, truncated or no Parquet file at all.
    """
    try:
        return pq.ParquetFile(file)
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


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with local(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """A short stable hash of any JSON value: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class ShardFolder:
    """A table that grows shard by shard and survives a kill: only shards that the manifest names count.

    The manifest is a JSON file `{"origin": {...}, "shards": [{"name", "rows", "sha256"}, ...]}` and is replaced
    atomically after every shard.
    """

    def __init__(self, path: str | os.PathLike[str], *, origin: dict[str, Any]) -> None:
        """Open or create the folder.

        Raises:
            ArtefactError: the folder holds shards of another origin.
            InputError: the path is a file, or a folder of other things.
        """
        self.path = local(path)
        self._manifest = self.path / MANIFEST
        if self._manifest.is_file():
            record = _manifest(self._manifest)
            if record["origin"] != origin:
                raise ArtefactError(
                    f"{self.path}: holds a table of another origin ({record['origin']}, this run: {origin}); "
                    "give another output folder, or delete this one"
                )
            self.shards: list[dict[str, Any]] = record["shards"]
        else:
            if self.path.exists() and (not self.path.is_dir() or any(self.path.glob("*.parquet"))):
                raise InputError(f"{self.path}: exists and was not written by noterec; give another output")
            self.shards = []
        self.origin = origin

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard["rows"] for shard in self.shards)

    def append(self, table: pa.Table) -> Path:
        """Write one more shard, then name it in the manifest; returns its path.

        Several processes may append to one folder: each sees the others' shards before it names its own.
        """
        with self._locked():
            if self._manifest.is_file():
                self.shards = _manifest(self._manifest)["shards"]
            return self._append(table)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise InputError(f"{self.path}: can't write there: {error.strerror or error}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system when the process dies
            yield

    def _append(self, table: pa.Table) -> Path:
        name = f"shard-{len(self.shards):06d}.parquet"
        write_table(table, self.path / name, origin=self.origin)
        self.shards.append({"name": name, "rows": table.num_rows, "sha256": file_hash(self.path / name)})
        self.commit()
        return self.path / name

    def commit(self) -> None:
        """Write the manifest as it stands (also for a table without any shard)."""
        write_json(self._manifest, {"origin": self.origin, "shards": self.shards})

    def files(self) -> list[Path]:
        """The shards' paths, oldest first."""
        return [self.path / shard["name"] for shard in self.shards]
