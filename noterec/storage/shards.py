"""Folders of shards: tables that grow shard by shard and survive a kill at any moment.

A shard is written under a name that nobody else uses, and counts from the moment the manifest names it. Whatever dies between
leaves a file that no one reads, and that the next job which claims the folder removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from noterec.errors import ArtefactError, InputError
from noterec.storage.files import Hashing, atomic_write, file_hash
from noterec.storage.locks import Lease, only_job
from noterec.storage.manifest import Manifest, manifest_stamp, read_manifest, write_manifest
from noterec.storage.objects import ObjectPath
from noterec.storage.parquet import write_parquet
from noterec.storage.place import Place, place

if TYPE_CHECKING:
    from obstore import UpdateVersion

logger = logging.getLogger(__name__)

ShardRecord = dict[str, Any]  # name, rows, bytes, sha256, and what facts the writer adds

SHARD = re.compile(r"shard-([0-9a-f]{16}|[0-9]{6,})\.parquet")  # write_shard, append
UNFINISHED = re.compile(r"\.(shard-[0-9a-f]+\.parquet|manifest\.json|rejects\.parquet)\.[a-z0-9_]{8,16}\.tmp")


@dataclass(frozen=True)
class Damage:
    """What is wrong with one shard.

    Attributes:
        name: of its file.
        reason: in a few words.
    """

    name: str
    reason: str


def write_shard(
    folder: str | os.PathLike[str], table: pa.Table, *, origin: dict[str, Any], name: str | None = None
) -> ShardRecord:
    """Write one shard under a fresh name; it counts when a manifest names it. Any process, any machine may call it.

    Args:
        folder: of the shards.
        table: its rows.
        origin: kept in the file's metadata.
        name: of the file, by a writer that knows it to be free; None = one that nobody else thinks of.

    Returns:
        What the manifest will say of it: name, rows, bytes, and the sha256 of the bytes as they were written.

    Raises:
        InputError: it can't be written; nothing is left of it.
    """
    name = name or f"shard-{uuid.uuid4().hex[:16]}.parquet"
    with atomic_write(place(folder) / name) as file:
        hashing = Hashing(file)
        write_parquet(table, hashing, origin=origin)
    return {"name": name, "rows": table.num_rows, "bytes": hashing.size, "sha256": hashing.sha256}


class ShardFolder:
    """A table that grows shard by shard: only shards that the manifest names count.

    Attributes:
        path: the folder, local or in an object store.
        origin: what makes the table; a folder with shards of another origin is refused.
        shards: the record of each shard, oldest first.
        state: JSON values that are kept in the manifest; written by the next commit.
    """

    def __init__(self, path: str | os.PathLike[str], *, origin: dict[str, Any]) -> None:
        """Open the folder, or say where it will be: nothing is written yet.

        Raises:
            ArtefactError: the folder holds shards of another origin.
            InputError: the path is a file, or a folder of other things.
        """
        self.path = place(path)
        self.origin = origin
        self.shards: list[ShardRecord] = []
        self.state: dict[str, Any] = {}
        self._there: dict[str, Any] | None = None  # the origin in the manifest; None where there is no manifest
        self._replaced = False  # shards were taken out of the list at some time
        self._version: UpdateVersion | None = None  # of the manifest in an object store
        self._stamp: tuple[int, ...] | None = None  # of the manifest in a local folder
        self._lease: Lease | None = None
        self._open()

    @property
    def rows(self) -> int:
        """Rows in all shards."""
        return sum(shard["rows"] for shard in self.shards)

    def files(self) -> list[Place]:
        """The shards' paths, oldest first."""
        return [self.path / shard["name"] for shard in self.shards]

    def append(self, table: pa.Table, **facts: Any) -> ShardRecord:
        """Write one more shard, then name it in the manifest; returns its record.

        Several processes may append to one local folder at once: each sees the others' shards before it names its own.
        """
        with self._locked():
            self._refresh()
            if self._there != self.origin:
                self._write(self.shards)  # from here on, a shard that isn't named is known to be ours
            record = write_shard(self.path, table, origin=self.origin, name=self._next_name())
            return self._add([record], facts)[0]

    def add(self, record: ShardRecord, **facts: Any) -> ShardRecord:
        """Name a written shard in the manifest, in one step.

        Args:
            record: as `write_shard` returned it.
            facts: further JSON values, kept with it.

        Returns:
            The record with its facts.

        Raises:
            LockedError: the claim was lost to another job.
            ConflictError: another job changed the manifest meanwhile (object stores).
        """
        return self.extend([record], **facts)[0]

    def extend(self, records: Sequence[ShardRecord], **facts: Any) -> list[ShardRecord]:
        """Name several written shards in one step, which costs as much as to name one.

        Args:
            records: as `write_shard` returned them; with none, nothing is written.
            facts: further JSON values, kept with each of them.

        Returns:
            The records with their facts.

        Raises:
            LockedError, ConflictError: as for `add`.
        """
        with self._locked():
            self._refresh()
            return self._add(records, facts)

    def commit(self) -> None:
        """Write the manifest as it stands, with the state (also for a table without any shard)."""
        with self._locked():
            self._write(self.shards)

    def replace(self, records: Iterable[ShardRecord]) -> None:
        """Swap the list of shards in one step, then remove the files that are no longer named.

        `read_files` lets a reader of the old list begin anew; no later shard gets a name of the old list.

        Args:
            records: all shards from now on, old ones and ones that `write_shard` returned.
        """
        with self._locked():
            before, after = self.shards, list(records)
            self._replaced = True
            self._write(after)
            kept = {shard["name"] for shard in after}
            self._remove(self.path / shard["name"] for shard in before if shard["name"] not in kept)

    def check(self, *, deep: bool = False) -> list[Damage]:
        """Compare the files with the manifest.

        Args:
            deep: read every byte, too, and compare its SHA-256; else only what a listing shows.

        Returns:
            What is wrong, in the order of the shards.
        """
        found = []
        sizes = self._sizes()
        for shard, file in zip(self.shards, self.files(), strict=True):
            name, size = shard["name"], sizes.get(shard["name"])
            wanted = shard.get("bytes", size)  # earlier versions didn't write it down
            if size is None:
                found.append(Damage(name, "is missing"))
            elif size != wanted:
                found.append(Damage(name, f"has {size} bytes instead of {wanted}"))
            elif deep:
                try:
                    same = file_hash(file) == shard["sha256"]
                except OSError as error:
                    found.append(Damage(name, f"can't be read: {error.strerror or error}"))
                else:
                    if not same:
                        found.append(Damage(name, "holds other bytes than were written"))
        return found

    @contextlib.contextmanager
    def claim(self, what: str) -> Iterator[None]:
        """Be the only job that writes this output, from here to the end of the block.

        The manifest is read again, as the job before left it, and shards that it was killed over are removed.

        Args:
            what: the job, such as "noterec embed", for the message that others get.

        Raises:
            LockedError: another job is writing it; the message names its process, host and start.
            InputError: the folder can't be written to.
        """
        with only_job(self.path, what) as lease:
            self._lease = lease
            try:
                with self._locked():
                    self._open()
                    if self._there != self.origin:
                        self._write(self.shards)
                    self._sweep()
                yield
            finally:
                self._lease = None

    def _open(self) -> None:
        """Take over shards and state as they stand there."""
        self._refresh(state=True)
        if self._there is not None or not self.path.exists():
            return
        if not self.path.is_dir() or any(True for _ in self.path.glob("*.parquet")):
            raise InputError(f"{self.path}: exists and was not written by noterec; give another output")

    def _refresh(self, *, state: bool = False) -> None:
        """Take over what others have named meanwhile."""
        stamp = manifest_stamp(self.path)
        unchanged = stamp is not None and stamp == self._stamp
        if (unchanged or self._version is not None) and not state:  # in a store the conditional put tells
            return
        manifest = read_manifest(self.path)
        if manifest is None:
            self._there = None
            return
        if manifest.origin != self.origin and manifest.shards:  # without any, it is of a run that made nothing
            raise ArtefactError(
                f"{self.path}: holds a table of another origin ({manifest.origin}, this run: {self.origin}); "
                "give another output folder, or delete this one"
            )
        self.shards, self._version, self._stamp = manifest.shards, manifest.version, stamp
        self._there, self._replaced = manifest.origin, manifest.replaced
        if state:
            self.state = manifest.state if manifest.origin == self.origin else {}

    def _next_name(self) -> str | None:
        """The next number, so that the same steps leave the same files; None = a name that nobody else thinks of.

        That is for a store, where nobody can keep a number for us, and for a folder where numbers have become free again: who
        reads it may still have a list with these names.
        """
        name = f"shard-{len(self.shards):06d}.parquet"
        unsafe = isinstance(self.path, ObjectPath) or self._replaced or any(s["name"] == name for s in self.shards)
        return None if unsafe else name

    def _add(self, records: Sequence[ShardRecord], facts: dict[str, Any]) -> list[ShardRecord]:
        entries = [{**record, **facts} for record in records]
        if entries:
            self._write([*self.shards, *entries])
        return entries

    def _write(self, shards: list[ShardRecord]) -> None:
        """Commit these shards and the state; `self.shards` are those that the manifest names, also when this fails."""
        if self._lease is not None:
            self._lease.check()
        self._version = write_manifest(
            self.path, Manifest(self.origin, shards, self.state, self._replaced, self._version)
        )
        self.shards, self._there, self._stamp = shards, self.origin, manifest_stamp(self.path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One change of a local folder at a time; in an object store the conditional put sees to it."""
        if isinstance(self.path, ObjectPath):
            yield
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise InputError(f"{self.path}: can't write there: {error.strerror or error}") from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system when the process dies
            yield

    def _sizes(self) -> dict[str, int]:
        """File name -> bytes, of all files of the folder."""
        if isinstance(self.path, ObjectPath):
            return {entry.path.name: entry.size for entry in self.path.listing()}
        if not self.path.is_dir():
            return {}
        return {file.name: file.stat().st_size for file in self.path.iterdir() if file.is_file()}

    def _sweep(self) -> None:
        """Remove what a killed job was writing: our own names, that the manifest doesn't know."""
        named = {shard["name"] for shard in self.shards}
        left = [n for n in self._sizes() if UNFINISHED.fullmatch(n) or (SHARD.fullmatch(n) and n not in named)]
        if left:
            logger.info("%s: removing %d files that a stopped job left unfinished", self.path, len(left))
        self._remove(self.path / name for name in left)

    def _remove(self, files: Iterable[Place]) -> None:
        for file in files:
            try:
                file.unlink(missing_ok=True)
            except (OSError, InputError) as error:  # nobody reads it; the next claim tries again
                logger.warning("%s: could not be removed: %s", file, error)
