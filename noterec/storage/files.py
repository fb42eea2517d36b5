"""Files that are never half-written: a temporary file beside it, synced and renamed; on an object store one put."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from noterec.errors import ArtefactError, InputError
from noterec.storage.objects import ObjectPath
from noterec.storage.place import place


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a new file; when the block ends well, it takes the place of what was at `path`, whole.

    Raises:
        InputError: the folder can't be written to, or the disk is full. `path` is then as it was before.
    """
    target = place(path)
    if isinstance(target, ObjectPath):
        memory = io.BytesIO()
        yield memory
        target.put(memory.getvalue())
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
        # Not tempfile's, whose files are private: with this mode the system applies the user's umask, which a process can't
        # ask for without changing it for all its threads.
        handle = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except OSError as error:
        raise InputError(f"{target}: can't write there: {error.strerror or error}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        aside.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise InputError(f"{target}: could not be written: {error.strerror or error}; nothing was changed") from error
    finally:
        aside.unlink(missing_ok=True)


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
    source = place(path)
    try:
        return parse_json(source.read_bytes(), source)
    except FileNotFoundError as error:
        raise InputError(f"{source}: no such file") from error


def parse_json(data: bytes, source: object) -> Any:
    """Read JSON.

    Raises:
        ArtefactError: it is none; the message names `source`.
    """
    try:
        return json.loads(data)
    except ValueError as error:
        raise ArtefactError(f"{source}: not valid JSON ({error}); it was damaged or is another file") from error


def file_hash(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    source = place(path)
    if isinstance(source, ObjectPath):
        digest = hashlib.sha256()
        for chunk in source.chunks():
            digest.update(chunk)
        return digest.hexdigest()
    with source.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def value_hash(value: Any) -> str:
    """A short stable hash of any JSON value: 16 hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Hashing(io.RawIOBase):
    """A file to write to that knows the SHA-256 and the number of the bytes that went through."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest = file, hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._file.write(data)
        self._digest.update(data)
        written = memoryview(data).nbytes
        self.size += written
        return written

    def tell(self) -> int:
        return self.size

    @property
    def sha256(self) -> str:
        """Of everything written so far, in hexadecimal."""
        return self._digest.hexdigest()
