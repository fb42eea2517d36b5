"""One job at a time on one output.

On a local folder the operating system holds the lock and drops it when the process dies, however it dies; what stands in the
lock file is for people. An object store knows no processes: there a lock is an object that is created conditionally and renewed
while the job lives, and one that nobody has renewed for five minutes may be taken over; sooner if its holder is seen to be dead.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from noterec.errors import InputError, LockedError, NoterecError
from noterec.storage.objects import Content, ObjectPath
from noterec.storage.place import Place
from noterec.storage.stores import ConflictError

if TYPE_CHECKING:
    from obstore import UpdateVersion

logger = logging.getLogger(__name__)

JOB_LOCK = ".job.lock"
RENEW_SECONDS = 30.0
STALE_SECONDS = 300.0

_held: set[int] = set()  # descriptors of local locks
_tokens: set[str] = set()  # of this process's locks in object stores


class Lease(Protocol):
    """The right to write an output, while it lasts."""

    def check(self) -> None:
        """Raise LockedError if the output is no longer ours."""


@contextlib.contextmanager
def only_job(folder: Place, what: str) -> Iterator[Lease]:
    """Be the only job that writes a folder.

    Args:
        folder: the output.
        what: the job's name, for the message that another one gets.

    Raises:
        LockedError: another job is at it.
        InputError: the folder can't be written to.
    """
    lock = folder / JOB_LOCK
    with _in_store(lock, what) if isinstance(lock, ObjectPath) else _in_folder(lock, what) as lease:
        yield lease


def _about(what: str) -> dict[str, Any]:
    return {"what": what, "pid": os.getpid(), "host": socket.gethostname(), "started": _now()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()


def _holder(data: bytes) -> dict[str, Any]:
    """What a lock says of its holder; empty where it was read half-written or is somebody else's file."""
    with contextlib.suppress(ValueError):
        record = json.loads(data)
        if isinstance(record, dict):
            return record
    return {}


def _refusal(lock: Place, holder: dict[str, Any], advice: str) -> LockedError:
    who = "another job"
    if holder:
        who = "`{what}` (process {pid} on {host}, since {started})".format_map(
            {key: holder.get(key, "?") for key in ("what", "pid", "host", "started")}
        )
    return LockedError(
        f"{lock.parent}: {who} is writing this output; wait for it, or stop it{advice}, or give another output"
    )


class _FolderLease:
    """A lock file that this process has open."""

    def __init__(self, lock: Path, handle: int) -> None:
        self._lock, self._handle = lock, handle

    def check(self) -> None:
        """Raise LockedError if the lock file was removed: a second job could then have begun."""
        if not _same_file(self._lock, self._handle):
            raise LockedError(
                f"{self._lock}: was removed while this job was running, so that others may write the same output; it stopped. "
                "What it wrote is kept: run it again, and leave the file where it is"
            )


@contextlib.contextmanager
def _in_folder(lock: Path, what: str) -> Iterator[_FolderLease]:
    handle = _locked(lock)
    _held.add(handle)
    try:
        with contextlib.suppress(OSError):  # a full disk; the lock holds without a word in it
            os.ftruncate(handle, 0)
            os.pwrite(handle, _json(_about(what)), 0)
        yield _FolderLease(lock, handle)
    finally:
        if handle in _held:  # else this is a fork, and the lock is the parent's
            _held.discard(handle)
            if _same_file(lock, handle):
                lock.unlink()  # while it is ours: who opened it meanwhile finds it gone, and makes a new one
            os.close(handle)


def _locked(lock: Path) -> int:
    """The lock file, open and locked."""
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise InputError(f"{lock.parent}: can't write there: {error.strerror or error}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _same_file(lock, handle):
                return handle
        except BlockingIOError as error:
            holder = _holder(os.pread(handle, 4096, 0))
            pid = holder.get("pid")
            os.close(handle)
            raise _refusal(lock, holder, f" (kill {pid} there)" if pid else "") from error
        except OSError as error:
            os.close(handle)
            raise InputError(
                f"{lock.parent}: this file system has no locks ({error.strerror or error}); write to another one, and copy"
            ) from error
        os.close(handle)  # its holder removed it between our two steps


def _same_file(lock: Path, handle: int) -> bool:
    try:
        there, ours = lock.stat(), os.fstat(handle)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino)


def _forget() -> None:
    """In a fork: close the parent's locks, which would outlive it here."""
    for handle in _held:
        os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_forget)


class _StoreLease:
    """A lock object, renewed by a thread."""

    def __init__(self, lock: ObjectPath, record: dict[str, Any], version: UpdateVersion) -> None:
        self._lock, self._record, self._version = lock, record, version
        self._renewed = time.monotonic()
        self._lost = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, name=f"lock {lock}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise LockedError if another job took the lock over, or may have."""
        if self._lost or time.monotonic() - self._renewed > STALE_SECONDS:
            raise LockedError(
                f"{self._lock}: this job was away from the store for too long, or its lock was removed: another one may write the "
                "output now, and this one stopped. What it wrote is kept: run it again when the other one has ended"
            )

    def end(self) -> None:
        """Stop renewing, and remove the lock if it is still ours."""
        self._stop.set()
        self._thread.join()
        try:
            if not self._lost and self._is_ours(_read(self._lock)):
                self._lock.unlink(missing_ok=True)
        except NoterecError as error:
            logger.warning("%s: the lock could not be removed and runs out by itself: %s", self._lock, error)

    def _live(self) -> None:
        while not self._lost and not self._stop.wait(RENEW_SECONDS):
            try:
                self._renew()
            except NoterecError as error:
                logger.warning("%s: could not be renewed, trying again: %s", self._lock, error)

    def _renew(self) -> None:
        asked = time.monotonic()
        try:
            self._version = self._lock.put_if(_json({**self._record, "renewed": _now()}), self._version)
        except ConflictError:
            there = _read(self._lock)  # an earlier put of ours may have got through, and only its answer been lost
            if there is None or not self._is_ours(there):
                self._lost = True
                return
            self._version = there.version
        self._renewed = asked

    def _is_ours(self, there: Content | None) -> bool:
        return there is not None and _holder(there.data).get("token") == self._record["token"]


@contextlib.contextmanager
def _in_store(lock: ObjectPath, what: str) -> Iterator[_StoreLease]:
    record = {**_about(what), "token": secrets.token_hex(8), "renewed": _now()}
    version = _taken(lock, record)
    _tokens.add(record["token"])
    lease = _StoreLease(lock, record, version)
    try:
        yield lease
    finally:
        lease.end()
        _tokens.discard(record["token"])


def _taken(lock: ObjectPath, record: dict[str, Any]) -> UpdateVersion:
    """Put our lock: where there is none, or in place of one that nobody holds any more."""
    while True:
        there = _read(lock)
        if there is not None and not _is_stale(there):
            advice = f" (if it was killed, its lock runs out within {STALE_SECONDS / 60:.0f} minutes)"
            raise _refusal(lock, _holder(there.data), advice)
        with contextlib.suppress(ConflictError):  # another job was faster: read again, its lock is not stale
            return lock.put_if(_json(record), None if there is None else there.version)


def _read(lock: ObjectPath) -> Content | None:
    try:
        return lock.fetch()
    except FileNotFoundError:
        return None


def _is_stale(lock: Content) -> bool:
    """Whether its holder is dead: seen on this machine, or by the store's clock, so that the holder's needs no trust."""
    holder = _holder(lock.data)
    pid = holder.get("pid")
    age = (datetime.now(UTC) - lock.modified).total_seconds()
    if holder.get("host") == socket.gethostname() and isinstance(pid, int):
        if pid == os.getpid():  # of a container with our name, dead before this one began or alive beside it
            return holder.get("token") not in _tokens and age > 2 * RENEW_SECONDS
        if not _is_alive(pid):
            return True
    return age > STALE_SECONDS


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    return True
