"""What a vision encoder made of pictures, on disk: computed once, read by every later run of the same encoder.

    folder / <version of the encoder> / <random name>.arrow

A shard is an Arrow IPC file and never changes. Arrow, because its footer comes last (a file that was cut short is told at once),
its schema says whose features these are, and its buffers are used where they are mapped: opening a cache touches the pages of the
pictures' hashes and no others. Shards are written aside, synced and renamed under names that nobody else has, so processes and
threads add at the same time without a lock; a picture that is in two shards is in both the same.

Whoever adds keeps the cache below its bound, all versions together: the shards that were used longest ago are removed. A process
that has one of them mapped doesn't notice, its pages stay until it lets go (POSIX).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import os
import threading
import time
import uuid
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from noterec import storage
from noterec.errors import InputError

logger = logging.getLogger(__name__)

SUFFIX = ".arrow"
LEFTOVER_SECONDS = 24 * 3600  # an unfinished file that is older has no writer any more
_HASH_BYTES = 16


class FeatureCache:
    """Features of pictures by the hash of their bytes, for one version of one vision encoder."""

    def __init__(
        self, folder: str | os.PathLike[str], version: str, shape: tuple[int, ...], dtype: np.dtype, limit_bytes: int
    ) -> None:
        """Open the cache of a version below `folder`; what is there is found, nothing is created before the first `add`.

        Args:
            folder: where the caches of all versions live.
            version: of the encoder; the name of its folder.
            shape: of one picture's features.
            dtype: of the features.
            limit_bytes: bound of all versions' shards together, kept to at `refresh` and after each `add`, where what other
                processes have added since `refresh` isn't counted.

        Raises:
            InputError: the limit leaves no room.
        """
        if limit_bytes <= 0:
            raise InputError(f"a cache of {limit_bytes} bytes holds nothing; give a positive limit, or use no cache")
        self.root = storage.local(folder)
        self.folder = self.root / version
        self.shape, self.dtype, self.limit_bytes = tuple(shape), np.dtype(dtype), limit_bytes
        self._origin: dict[str, object] = {
            "kind": "features",
            "version": version,
            "shape": list(shape),
            "dtype": self.dtype.str,
        }
        self._shards: list[_Shard] = []
        self._places: dict[bytes, tuple[int, int]] = {}  # hash -> shard, row in it
        self._seen: set[str] = set()
        self._total = 0  # bytes of all versions' shards, as far as seen
        self._all_used = False  # beyond the bound, and nothing can be removed before `release`
        self._warned = False
        self._lock = threading.RLock()
        self._clean()
        self.refresh()

    def __len__(self) -> int:
        """How many pictures are here, as far as seen (see `refresh`)."""
        return len(self._places)

    def refresh(self) -> None:
        """See the shards that others have added since, and keep to the bound."""
        with self._lock:
            for entry in _files(self.folder):
                if entry.name.endswith(SUFFIX) and entry.name not in self._seen:
                    self._open(Path(entry.path))
            self._shrink()

    def find(self, image_hash: str) -> tuple[int, int] | None:
        """Where the features of a picture are: a shard's number and a row of it, or None where they are to be computed.

        The row's checksum is verified at its first use; a shard in which one is wrong is removed with a warning, and those of its
        pictures that weren't asked for yet are computed again.
        """
        key = bytes.fromhex(image_hash)
        with self._lock:
            place = self._places.get(key)
            if place is None:
                return None
            shard = self._shards[place[0]]
            if not shard.verified[place[1]]:
                if _checksum(key, shard.values[place[1]]) != shard.checksums[place[1]]:
                    self._forget(shard)
                    _remove_damaged(shard.path, "a checksum is wrong")
                    return None
                shard.verified[place[1]] = True
            self._use(shard)
            return place

    def values(self, shard: int) -> np.ndarray:
        """The features of a shard that `find` or `add` named: (n, *shape), read-only, mapped; they outlive the file."""
        return self._shards[shard].values

    def add(self, hashes: Sequence[str], values: np.ndarray) -> int:
        """Write a shard, then remove what was used longest ago where the bound is exceeded.

        Args:
            hashes: of n distinct pictures (`image_hash`).
            values: (n, *shape), their features.

        Returns:
            The new shard's number, for `values`; its rows are in the order given.

        Raises:
            InputError: the folder can't be written to, or the disk is full.
        """
        keys = [bytes.fromhex(image_hash) for image_hash in hashes]
        values = np.ascontiguousarray(values, self.dtype).reshape(len(keys), *self.shape)
        path = self.folder / f"{uuid.uuid4().hex}{SUFFIX}"
        batch = _batch(keys, values, self._origin)
        try:
            with storage.atomic_write(path) as file:
                with pa.ipc.new_file(file, batch.schema) as writer:
                    writer.write_batch(batch)
                size = file.tell()
        except InputError as error:
            raise InputError(f"{error}; free some space there, or set images.cache_gib=0 to keep no cache") from error
        with self._lock:
            shard = self._open(path)
            if shard is None:
                raise InputError(f"{path}: can't be read back; check that disk, or set images.cache_gib=0")
            shard.verified[:] = True
            self._use(shard)
            self._total += size
            # A running total: looking at every file after every shard would take ever longer.
            if self._total > self.limit_bytes and not self._all_used:
                self._shrink()
            return shard.number

    def release(self) -> None:
        """Nothing that was found so far is used any more: its shards may be removed to make room."""
        with self._lock:
            self._all_used = False
            for shard in self._shards:
                shard.used = False

    def _open(self, path: Path) -> _Shard | None:
        self._seen.add(path.name)
        try:
            origin, keys, values, checksums = _read(path, self.shape, self.dtype, self._origin)
        except FileNotFoundError:
            return None  # removed by another process since the folder was listed
        except (pa.ArrowException, ValueError, OSError) as error:
            # Arrow reports damage as an OSError too, but one without a number of the system's.
            if getattr(error, "errno", None) is not None:
                logger.warning("%s: can't be read (%s); its pictures are computed again", path, error)
            else:
                _remove_damaged(path, str(error))
            return None
        if origin != self._origin:
            logger.warning("%s: holds features of %s, expected %s; not used, remove it", path, origin, self._origin)
            return None
        shard = _Shard(len(self._shards), path, keys, values, checksums, np.zeros(len(keys), dtype=bool))
        self._shards.append(shard)
        for row, key in enumerate(keys):
            self._places.setdefault(key, (shard.number, row))
        return shard

    def _use(self, shard: _Shard) -> None:
        if not shard.used:
            shard.used = True
            with contextlib.suppress(OSError):  # removed by another process, or a folder that is only read
                os.utime(shard.path)

    def _forget(self, shard: _Shard) -> None:
        for key in shard.keys:
            if self._places.get(key, (-1, 0))[0] == shard.number:
                del self._places[key]

    def _shrink(self) -> None:
        files = [file for file in self._files() if file[1].suffix == SUFFIX]
        total = sum(size for _, _, size in files)
        mine = {shard.path: shard for shard in self._shards}
        for _, path, size in sorted(files):
            if total <= self.limit_bytes:
                break
            shard = mine.get(path)
            if shard is not None and shard.used:
                continue
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
            total -= size
            if shard is not None:
                self._forget(shard)
                shard.values = np.empty((0, *self.shape), self.dtype)  # its disk space is free when nobody maps it
        self._total, self._all_used = total, total > self.limit_bytes
        if self._all_used and not self._warned:
            self._warned = True
            logger.warning(
                "%s: this run's pictures alone take %.2f GiB, more than the bound of %.2f GiB; nothing of them is removed while it "
                "runs, but the next run will find only a part: raise images.cache_gib",
                self.root,
                total / 2**30,
                self.limit_bytes / 2**30,
            )

    def _clean(self) -> None:
        for modified_ns, path, _ in self._files():
            if path.suffix == ".tmp" and modified_ns < (time.time() - LEFTOVER_SECONDS) * 1e9:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _files(self) -> Iterator[tuple[int, Path, int]]:
        """Time of last use in nanoseconds, path and size of the shards of all versions, and of what was to become one."""
        for folder in _files(self.root):
            if folder.is_dir():
                for entry in _files(Path(folder.path)):
                    # Named as `add` names them: nothing else that may lie there is ours to remove.
                    if entry.name.endswith(SUFFIX) or (SUFFIX in entry.name and entry.name.endswith(".tmp")):
                        with contextlib.suppress(FileNotFoundError):
                            found = entry.stat()
                            yield found.st_mtime_ns, Path(entry.path), found.st_size


@dataclasses.dataclass
class _Shard:
    """A mapped file; `used` since the last release."""

    number: int
    path: Path
    keys: list[bytes]
    values: np.ndarray  # (n, *shape)
    checksums: np.ndarray  # (n,) uint32
    verified: np.ndarray  # (n,) bool
    used: bool = False


def _schema(width: int) -> pa.Schema:
    """Columns of a shard of features of `width` bytes."""
    return pa.schema(
        [("image_hash", pa.binary(_HASH_BYTES)), ("checksum", pa.uint32()), ("features", pa.binary(width))]
    )


def _batch(keys: list[bytes], values: np.ndarray, origin: dict[str, object]) -> pa.RecordBatch:
    width = values[0].nbytes
    checksums = np.array([_checksum(*row) for row in zip(keys, values, strict=True)], np.uint32)
    # No copy: a shard of features is large.
    features = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(width), len(keys), [None, pa.py_buffer(values.reshape(-1).view(np.uint8))]
    )
    schema = _schema(width).with_metadata({storage.ORIGIN: json.dumps(origin).encode()})
    return pa.record_batch([pa.array(keys, pa.binary(_HASH_BYTES)), pa.array(checksums), features], schema=schema)


def _read(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, origin: dict[str, object]
) -> tuple[dict[str, object], list[bytes], np.ndarray, np.ndarray]:
    """Origin, hashes, mapped features and checksums of a shard; of another origin's only the origin."""
    with pa.memory_map(str(path)) as file:  # closed, its pages stay for as long as the arrays, but no descriptor does
        reader = pa.ipc.open_file(file)
        found = storage.origin_of(reader.schema)
        if "version" not in found:
            raise ValueError("it doesn't say whose features it holds")
        if found != origin:
            return found, [], np.empty((0, *shape), dtype), np.empty(0, np.uint32)
        numbers = math.prod(shape)
        if not reader.schema.equals(_schema(numbers * dtype.itemsize)):
            raise ValueError("other columns than a shard's")
        batch = reader.get_batch(0)
        batch.validate()
        if any(column.null_count for column in batch.columns):
            raise ValueError("values are missing")
        keys, checksums, features = batch.columns
        values = np.frombuffer(features.buffers()[1], dtype, count=batch.num_rows * numbers)
        return found, keys.to_pylist(), values.reshape(-1, *shape), checksums.to_numpy().copy()


def _checksum(key: bytes, values: np.ndarray) -> int:
    return zlib.crc32(values.reshape(-1).view(np.uint8).data, zlib.crc32(key))


def _remove_damaged(path: Path, why: str) -> None:
    logger.warning("%s: damaged (%s); removed, its pictures are computed again", path, why)
    with contextlib.suppress(OSError):
        path.unlink()


def _files(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
