"""Publishing a bundle: built aside, renamed when it is whole, live in one step; older ones deleted last, or gone back to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.index.bundle import (
    BUNDLE_FILE,
    BUNDLES,
    CURRENT,
    FileRecord,
    bundles,
    find,
    live_name,
    number,
    read_info,
    verify,
)

CANDIDATE = ".candidate"  # a whole bundle that waits for a decision
PROMOTED = ".candidate.json"  # which name the candidate was given, and whether it has been live
_ASIDE = ".building-"


@contextlib.contextmanager
def building(index: Path) -> Iterator[Path]:
    """A fresh folder beside the bundles to build in, removed at the end unless `publish` moved it.

    Only one build at a time holds an index; what an earlier, killed build left behind is removed.

    Raises:
        InputError: the folder can't be made, or another build is running there.
    """
    folder = index / BUNDLES
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{index}: can't write there: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the system when the process dies
        except OSError as error:
            raise InputError(f"{index}: another build is writing there; wait for it, or give another folder") from error
        for leftover in folder.glob(f"{_ASIDE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=folder))
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o777 & ~mask)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Hash and size of a bundle's files, each synced to disk."""
    records = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        records[path.name] = FileRecord(sha256=storage.file_hash(path), bytes=path.stat().st_size)
    return records


def publish(index: Path, aside: Path) -> Path:
    """Give a whole bundle its name and make it the live one; returns its folder."""
    with _pointing(index):
        name = f"bundle-{max([0, *(number(folder) for folder in bundles(index))]) + 1:06d}"
        folder = index / BUNDLES / name
        aside.rename(folder)
        _point(index, name)
    return folder


def keep_aside(index: Path, aside: Path) -> Path:
    """Keep a whole bundle as the index's candidate, in place of an earlier one; returns its folder."""
    _drop_candidate(index)
    return aside.rename(index / BUNDLES / CANDIDATE)


def candidate(index: Path) -> Path:
    """The folder of the bundle that waits to be published.

    Raises:
        InputError: there is none.
    """
    folder = index / BUNDLES / CANDIDATE
    if not (folder / BUNDLE_FILE).is_file():
        raise InputError(f"{index}: no bundle waits to be published there; build one with publish=False")
    return folder


def promote(index: Path, check: Callable[[Path], None]) -> Path:
    """Make the candidate the live bundle, or finish what a killed process had begun; returns its folder.

    Done twice, it does nothing the second time, as long as that bundle is live.

    Args:
        index: the index's folder, which the caller is `building` in.
        check: raises where a folder must not go live.

    Raises:
        InputError: no bundle waits there.
        ArtefactError: the candidate has been live, and another bundle is now.
    """
    mark = index / BUNDLES / PROMOTED
    with _pointing(index):
        if (index / BUNDLES / CANDIDATE / BUNDLE_FILE).is_file() or not mark.is_file():
            folder = candidate(index)
            check(folder)
            name = f"bundle-{max([0, *(number(known) for known in bundles(index))]) + 1:06d}"
            storage.write_json(mark, {"bundle": name, "live": False})
            folder = folder.rename(index / BUNDLES / name)
        else:
            told = storage.read_json(mark)
            folder = index / BUNDLES / str(told["bundle"])
            if live_name(index) == folder.name:
                storage.write_json(mark, {"bundle": folder.name, "live": True})
                return folder
            if told["live"] or not folder.is_dir():
                raise ArtefactError(
                    f"{index}: its candidate was published as {folder.name}, and {live_name(index) or 'nothing'} is live now; "
                    f"go back to it with `noterec index rollback {index} --to {folder.name}`, or build it again"
                )
            check(folder)
        _point(index, folder.name)
        storage.write_json(mark, {"bundle": folder.name, "live": True})
    return folder


def discard(index: Path, names: Iterable[str], *, live: bool = False) -> None:
    """Delete bundles, and the candidate, which may hold what they held.

    Args:
        index: the index's folder.
        names: of the bundles; one that isn't there is no matter.
        live: the live one may be among them: then CURRENT goes first, and nothing is live.

    Raises:
        InputError: the live one is among them and must not be.
    """
    with _pointing(index):
        wanted = set(names)
        current = live_name(index)
        if current in wanted:
            if not live:
                raise InputError(f"{index}: {current} is live; publish or roll back to another bundle first")
            (index / CURRENT).unlink()
        _drop_candidate(index)
        for name in sorted(wanted):
            if (index / BUNDLES / name).is_dir():
                _delete(index / BUNDLES / name)


def _drop_candidate(index: Path) -> None:
    folder = index / BUNDLES / CANDIDATE
    (index / BUNDLES / PROMOTED).unlink(missing_ok=True)
    if folder.is_dir():
        _delete(folder)


def _delete(bundle: Path) -> None:
    # Renamed first: a removal that is cut short must not leave a bundle that looks whole.
    gone = bundle.rename(bundle.with_name(f"{_ASIDE}{secrets.token_hex(8)}"))
    shutil.rmtree(gone, ignore_errors=True)


def prune(index: Path, *, keep: int, before: str | None) -> list[str]:
    """Delete the oldest bundles beyond `keep`, but neither the live one nor the one that was live before it.

    Args:
        index: the index's folder.
        keep: bundles to keep.
        before: name of the bundle that was live before, which a rollback is for; None where there was none.

    Returns:
        The names of those deleted.
    """
    with _pointing(index):
        needed = {find(index).name, before if keep > 1 else None}
        old = [bundle for bundle in bundles(index)[:-keep] if bundle.name not in needed]
        for bundle in old:
            _delete(bundle)
        for leftover in index.glob(f".{CURRENT}.*.tmp"):  # of a killed process: we hold the lock of whoever writes it
            leftover.unlink(missing_ok=True)
    return [bundle.name for bundle in old]


def rollback(index: str | os.PathLike[str], *, to: str | None = None) -> tuple[str | None, str]:
    """Make an earlier bundle the live one, in one step. The later ones stay, and a rollback to one of them is a way forward.

    Args:
        index: the index's folder.
        to: the bundle's name; None = the one that was live when the live one was published.

    Returns:
        The names of the bundle that was live, None where CURRENT named none, and of the one that is now.

    Raises:
        InputError: there is no such bundle, or none before the live one.
        ArtefactError: a file of that bundle is missing or changed; the live one stays.
    """
    place = storage.local(index)
    with _pointing(place):
        names = [bundle.name for bundle in bundles(place)]
        live = live_name(place)
        if to is None:
            folder = find(place)
            earlier = [name for name in names if number(Path(name)) < number(folder)]
            before = read_info(folder).previous
            if not earlier:
                raise InputError(
                    f"{place}: no bundle is older than the live one, {live}; there is nothing to go back to"
                )
            to = before if before in earlier else earlier[-1]
        if to not in names:
            raise InputError(f"{place}: no bundle {to!r}; there are {', '.join(names)}")
        folder = place / BUNDLES / to
        verify(folder, read_info(folder), hashes=True)
        _point(place, to)
    return live, to


def _point(index: Path, name: str) -> None:
    with storage.atomic_write(index / CURRENT) as file:
        file.write(f"{name}\n".encode())


@contextlib.contextmanager
def _pointing(index: Path) -> Iterator[None]:
    """One change of CURRENT and of the list of bundles at a time: a rollback while another job publishes waits a moment."""
    try:
        lock = (index / BUNDLES / ".pointer").open("w")
    except FileNotFoundError as error:
        raise InputError(f"{index}: no index there; make one with `noterec index`") from error
    except OSError as error:
        raise InputError(f"{index}: can't write there: {error.strerror or error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
