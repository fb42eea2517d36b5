"""Object stores behind the part of `pathlib.Path` that tables need: s3://, gs:// and az:// through obstore.

Stores have no folders and no rename. A folder is a prefix under which something lies; an object appears whole or not at all;
and a conditional put (create, or swap what one has read) is what keeps two writers apart.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from noterec.errors import InputError
from noterec.storage.stores import SCHEMES, ConflictError, client

if TYPE_CHECKING:
    from obstore import UpdateVersion
    from obstore.store import ObjectStore

READ_BYTES = 16 * 2**20  # of one request: it has to fit into obstore's 30 s, also on a slow line


class Listed(NamedTuple):
    """An object as a listing shows it."""

    path: ObjectPath
    size: int


class Content(NamedTuple):
    """An object's bytes, with what a conditional put needs to replace exactly these, and when they were put there."""

    data: bytes
    version: UpdateVersion
    modified: datetime


@dataclass(frozen=True, order=True)
class ObjectPath:
    """A place in an object store, such as s3://bucket/folder/file.

    Attributes:
        scheme: s3, gs or az.
        bucket: its name.
        key: what follows, without a slash at either end; empty for the bucket itself.
    """

    scheme: str
    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, url: str) -> ObjectPath:
        """Read a URL; of `s3:/bucket`, which is what a local path makes of one, too.

        Raises:
            InputError: another scheme, no bucket, or a step to a parent folder in it.
        """
        scheme, _, rest = url.partition(":")
        bucket, *steps = [step for step in rest.split("/") if step] or [""]
        if scheme.lower() not in SCHEMES:
            raise InputError(f"{url}: expected a local path or a URL of {', '.join(f'{s}://' for s in SCHEMES)}")
        if not bucket or {".", ".."} & {bucket, *steps}:
            raise InputError(f"{url}: expected {scheme}://BUCKET/PATH, without . or .. in it")
        return cls(scheme.lower(), bucket, "/".join(steps))

    def __str__(self) -> str:
        return f"{self.scheme}://{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __fspath__(self) -> str:
        """The URL, so that functions which take paths take this one, or refuse it as the URL that it is."""
        return str(self)

    def __truediv__(self, other: str | os.PathLike[str]) -> ObjectPath:
        return ObjectPath.parse(f"{self}/{os.fspath(other)}")

    @property
    def name(self) -> str:
        """The last step."""
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The file extension with its dot, or nothing."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> ObjectPath:
        """One step up; a bucket is its own parent."""
        return ObjectPath(self.scheme, self.bucket, self.key.rpartition("/")[0])

    def is_file(self) -> bool:
        """Whether an object of this name exists."""
        try:
            self._head()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether anything lies below."""
        with self._requests("list") as store:
            return any(store.list(self._prefix, chunk_size=1))

    def exists(self) -> bool:
        """Whether it is a file or a folder."""
        return (bool(self.key) and self.is_file()) or self.is_dir()

    def listing(self) -> list[Listed]:
        """The objects directly below, by name."""
        with self._requests("list") as store:
            found = store.list_with_delimiter(self._prefix)["objects"]
        entries = [Listed(ObjectPath(self.scheme, self.bucket, entry["path"]), entry["size"]) for entry in found]
        return sorted(entry for entry in entries if entry.path != self)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        """The objects directly below whose name matches, by name."""
        return (entry.path for entry in self.listing() if fnmatch.fnmatchcase(entry.path.name, pattern))

    def stat(self) -> os.stat_result:
        """Size and time of change; all else is 0.

        Raises:
            FileNotFoundError: no such object.
        """
        meta = self._head()
        changed = int(meta["last_modified"].timestamp())
        return os.stat_result((0, 0, 0, 0, 0, 0, meta["size"], changed, changed, changed))

    def open(self, mode: str = "rb") -> ObjectReader:
        """Open for reading; every read is one request, so that of a Parquet file only the columns asked for travel.

        Raises:
            FileNotFoundError: no such object.
        """
        if mode != "rb":
            raise ValueError(f"{self}: opened with mode {mode!r}; objects are read with 'rb' and put whole")
        return ObjectReader(self)

    def fetch(self) -> Content:
        """Its bytes and version.

        Raises:
            FileNotFoundError: no such object.
        """
        with self._requests("read") as store:
            answer = store.get(self.key)
            return Content(bytes(answer.bytes()), _version(answer.meta), answer.meta["last_modified"])

    def chunks(self) -> Iterator[bytes]:
        """Its bytes, a few megabytes at a time.

        Raises:
            FileNotFoundError: no such object.
        """
        with self.open() as file:
            while data := file.read(READ_BYTES):
                yield data

    def read_bytes(self) -> bytes:
        """Its bytes."""
        return self.fetch().data

    def read_text(self, encoding: str = "utf-8") -> str:
        """Its text."""
        return self.read_bytes().decode(encoding)

    def put(self, data: bytes) -> None:
        """Write it whole, whatever was there."""
        with self._requests("write") as store:
            store.put(self.key, data)

    def put_if(self, data: bytes, expected: UpdateVersion | None) -> UpdateVersion:
        """Write it whole if it is still as expected.

        Args:
            data: new content.
            expected: the version that this replaces; None if there must be none yet.

        Returns:
            The version that was written.

        Raises:
            ConflictError: it is another version by now, or gone.
        """
        try:
            with self._requests("write") as store:
                result = store.put(self.key, data, mode="create" if expected is None else expected)
        except (ConflictError, FileNotFoundError) as error:
            # A put that got through while its answer was lost is repeated by the client, and fails against itself.
            with contextlib.suppress(FileNotFoundError):
                there = self.fetch()
                if there.data == data:
                    return there.version
            raise ConflictError(f"{self}: another job changed it meanwhile") from error
        return _version(result)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove it; that a store doesn't tell a missing one apart is no error."""
        try:
            with self._requests("remove") as store:
                store.delete(self.key)
        except FileNotFoundError:
            if not missing_ok:
                raise

    @property
    def _prefix(self) -> str | None:
        return self.key or None

    def _head(self) -> Any:
        with self._requests("read") as store:
            return store.head(self.key)

    def _range(self, start: int, stop: int) -> bytes:
        with self._requests("read") as store:
            return bytes(store.get_range(self.key, start=start, end=stop))

    def _requests(self, verb: str) -> AbstractContextManager[ObjectStore]:
        return client(self.scheme, self.bucket, key=self.key, verb=verb)


class ObjectReader(io.RawIOBase):
    """An object as a seekable file; a read is one request, large ones several."""

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._at = path, 0
        self.size = path.stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self.size if size is None or size < 0 else min(self.size, self._at + size)
        starts = range(self._at, stop, READ_BYTES)
        parts = [self._path._range(start, min(stop, start + READ_BYTES)) for start in starts]
        self._at = max(self._at, stop)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _version(meta: Any) -> UpdateVersion:
    """What identifies the content: an etag, on some stores a version."""
    return cast("UpdateVersion", {key: meta[key] for key in ("e_tag", "version") if meta.get(key)})
