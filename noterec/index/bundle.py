"""A bundle: one immutable folder with the vectors, the note ids in row order, their attributes, and what they are.

    INDEX/CURRENT                       one line, the live bundle's name
    INDEX/bundles/bundle-000007/        vectors.npy, notes.parquet, bundle.json; index.faiss unless it is flat; the words' index
    INDEX/changes/                      what was added and removed since (`changes.py`)

A bundle is written aside and renamed when it is whole, and CURRENT is replaced last: whoever opens the index finds the
old one or the new one, never half of one. FAISS reads a file only after its hash matched bundle.json.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic

from noterec import storage
from noterec.errors import ArtefactError, DependencyError, InputError
from noterec.storage.manifest import manifest_stamp

FORMAT = "noterec index"
FORMAT_VERSION = 2
CURRENT = "CURRENT"
BUNDLES = "bundles"
CHANGES = "changes"
BUNDLE_FILE = "bundle.json"
FAISS_FILE = "index.faiss"
VECTORS_FILE = "vectors.npy"
NOTES_FILE = "notes.parquet"
_ASIDE = ".building-"
_TRIES = 5

T = TypeVar("T")
_NAME = re.compile(r"bundle-(\d{6,})")
_FILE = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)+")


class FileRecord(pydantic.BaseModel):
    """One file of a bundle, as it was when the bundle was made."""

    sha256: str
    bytes: int


class RecallRecord(pydantic.BaseModel):
    """What the gate measured before the bundle was published."""

    value: float = pydantic.Field(ge=0, le=1)  # mean share of the `at` exact neighbours that are found
    at: int = pydantic.Field(ge=1)
    target: float
    queries: int  # sampled notes; none of them was used for tuning


class BundleInfo(pydantic.BaseModel):
    """What bundle.json says of N = count notes. Fields of a later version that this one doesn't know are ignored."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    kind: Literal["flat", "ivf", "ivf-sq8", "ivf-pq", "hnsw"]
    reason: str = ""  # why this kind
    recipe: str = "Flat"  # FAISS's name of it
    knob: int = pydantic.Field(1, ge=1)  # the tuned search effort: lists looked into, or width of the walk
    refine: int = pydantic.Field(1, ge=1)  # notes proposed for each one wanted
    recall: RecallRecord
    query_ms: float  # one query alone, median, on the machine that built it
    predicted: dict[str, float] = {}  # bytes_per_note, build_seconds, query_ms, before it was built
    model_version: str
    dimension: int = pydantic.Field(ge=1)
    count: int = pydantic.Field(ge=1)
    previous: str | None = None  # the bundle that was live when this one was published
    changes_through: int = 0  # the last change that had been made when its vectors began to be read
    added_days: float = 7  # how long an addition that no build confirms counts over it
    removed: int = 0  # vectors left out because their note was removed from the index
    new_from: str | None = None  # where the `new` mark comes from, if there is one
    left_out: int = 0  # vectors whose note the dataset no longer has
    without_vector: int = 0  # notes of the dataset that have no vector
    files: dict[str, FileRecord]
    bytes_per_note: float  # of its files
    build_seconds: float
    created: pydantic.AwareDatetime
    config: dict[str, Any]
    origin: dict[str, Any]


def import_faiss() -> Any:
    """The faiss module.

    Raises:
        DependencyError: it isn't installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise DependencyError(
            f"faiss is not installed ({error}); install exactly one of noterec[cpu], noterec[gpu], noterec[gpu-cuvs], "
            'for example: pip install "noterec[cpu]"'
        ) from error
    return faiss


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


def publish(index: Path, aside: Path) -> Path:
    """Give a whole bundle its name and make it the live one; returns its folder."""
    with _pointing(index):
        name = f"bundle-{max([0, *(number(folder) for folder in bundles(index))]) + 1:06d}"
        folder = index / BUNDLES / name
        aside.rename(folder)
        _point(index, name)
    return folder


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
            # Renamed first: a removal that is cut short must not leave a bundle that looks whole.
            gone = bundle.rename(bundle.with_name(f"{_ASIDE}gone-{bundle.name}"))
            shutil.rmtree(gone, ignore_errors=True)
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


def stamp(index: str | os.PathLike[str]) -> tuple[Any, ...]:
    """What differs once another bundle is live, or notes were added or removed: cheap enough to ask every second."""
    place = storage.local(index)
    try:
        current = (place / CURRENT).read_bytes()
    except OSError:
        current = b""
    return current, manifest_stamp(place / CHANGES)


def bundles(index: Path) -> list[Path]:
    """The bundles of an index, oldest first."""
    if not (index / BUNDLES).is_dir():
        return []
    folders = [folder for folder in (index / BUNDLES).iterdir() if _NAME.fullmatch(folder.name) and folder.is_dir()]
    return sorted(folders, key=number)


def number(folder: Path) -> int:
    """Which bundle of its index it is, counted from 1; 0 for a folder of another name."""
    match = _NAME.fullmatch(folder.name)
    return int(match.group(1)) if match else 0


def find(path: str | os.PathLike[str]) -> Path:
    """The folder of the live bundle of an index, or `path` itself where it is a bundle.

    Raises:
        InputError: there is no index.
        ArtefactError: CURRENT names something that isn't a bundle or isn't there.
    """
    place = storage.local(path)
    if (place / BUNDLE_FILE).is_file():
        return place
    current = place / CURRENT
    for _ in range(_TRIES):
        if not current.is_file():
            raise InputError(f"{place}: no index there (no {CURRENT} file); make one with `noterec index`")
        name = current.read_text(encoding="utf-8", errors="replace").strip()
        if not _NAME.fullmatch(name):  # never follow a path out of the folder
            raise ArtefactError(
                f"{current}: says {name[:80]!r}; expected a bundle's name such as bundle-000001: build the index again, or "
                f"`noterec index rollback {place} --to NAME`"
            )
        folder = place / BUNDLES / name
        if folder.is_dir():
            return folder
        # It may have been deleted since CURRENT was read: then CURRENT names another one by now.
    known = ", ".join(bundle.name for bundle in bundles(place))
    raise ArtefactError(
        f"{current}: names {name}, which is not in {place / BUNDLES} ({known or 'nothing'} is); build the index again, or "
        f"`noterec index rollback {place} --to NAME`"
    )


def live_name(index: Path) -> str | None:
    """The name of the live bundle; None where there is none, or CURRENT is damaged."""
    try:
        return find(index).name
    except (ArtefactError, InputError):
        return None


def settled(index: Path, read: Callable[[Path], T]) -> T:
    """Read from the live bundle; anew from the next one if it was replaced and deleted meanwhile.

    Args:
        index: the index's folder, or a bundle.
        read: makes the result from the bundle's folder.

    Returns:
        What `read` returned.
    """
    for _ in range(_TRIES):
        folder = find(index)
        try:
            return read(folder)
        except (ArtefactError, OSError):
            if find(index) == folder:
                raise
    return read(find(index))


def read_info(folder: Path) -> BundleInfo:
    """Read bundle.json.

    Raises:
        ArtefactError: it is missing, damaged, or of a format that this version doesn't read.
    """
    file = folder / BUNDLE_FILE
    if not file.is_file():
        raise ArtefactError(f"{file}: missing; the bundle is incomplete: build the index again")
    record = storage.read_json(file)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ArtefactError(f"{file}: not a noterec index (format is not {FORMAT!r}); give the folder of an index")
    if record.get("format_version") != FORMAT_VERSION:
        raise ArtefactError(
            f"{file}: format version {record.get('format_version')!r}; this noterec reads version {FORMAT_VERSION}: "
            "build the index again, or use the noterec version that made it"
        )
    try:
        info = BundleInfo.model_validate(record)
    except pydantic.ValidationError as error:
        where = ", ".join(".".join(map(str, item["loc"])) for item in error.errors())
        raise ArtefactError(f"{file}: {where}: missing or of a wrong kind; build the index again") from error
    if odd := [name for name in info.files if not _FILE.fullmatch(name)]:
        raise ArtefactError(
            f"{file}: names {odd[0][:80]!r} as one of its files; expected names in the bundle's own folder"
        )
    if missing := {VECTORS_FILE, NOTES_FILE, *([] if info.kind == "flat" else [FAISS_FILE])} - info.files.keys():
        raise ArtefactError(f"{file}: lists no hash of {', '.join(sorted(missing))}; build the index again")
    return info


def verify(folder: Path, info: BundleInfo, *, hashes: bool) -> None:
    """Check that the files of a bundle are there and, with `hashes`, that every byte is what it was.

    Raises:
        ArtefactError: a file is missing, of another size, or its SHA-256 differs.
    """
    for name, record in info.files.items():
        file = folder / name
        if not file.is_file():
            raise ArtefactError(f"{file}: missing; the bundle is incomplete: build the index again")
        size = file.stat().st_size
        if size != record.bytes:
            raise ArtefactError(
                f"{file}: {size} bytes, expected {record.bytes}; it was cut or replaced: build it again"
            )
        if hashes and storage.file_hash(file) != record.sha256:
            raise ArtefactError(
                f"{file}: its bytes changed since it was built (SHA-256 differs from {BUNDLE_FILE}); it is not read: "
                "copy the bundle again, or build the index again"
            )


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Hash and size of a bundle's files, each synced to disk."""
    records = {}
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        records[path.name] = FileRecord(sha256=storage.file_hash(path), bytes=path.stat().st_size)
    return records
