"""A bundle: one immutable folder with a FAISS file, the note ids in row order, their attributes, and what they are.

    INDEX/CURRENT                       one line, the live bundle's name
    INDEX/bundles/bundle-000007/        index.faiss, notes.parquet, bundle.json

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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydantic

from noterec import storage
from noterec.errors import ArtefactError, DependencyError, InputError

FORMAT = "noterec index"
FORMAT_VERSION = 1
CURRENT = "CURRENT"
BUNDLES = "bundles"
BUNDLE_FILE = "bundle.json"
FAISS_FILE = "index.faiss"
NOTES_FILE = "notes.parquet"
_ASIDE = ".building-"
_NAME = re.compile(r"bundle-(\d{6,})")


class FileRecord(pydantic.BaseModel):
    """One file of a bundle, as it was when the bundle was made."""

    sha256: str
    bytes: int


class BundleInfo(pydantic.BaseModel):
    """What bundle.json says. Fields of a later version that this one doesn't know are ignored."""

    format: str = FORMAT
    format_version: int = FORMAT_VERSION
    kind: str
    model_version: str
    dimension: int
    count: int
    new_from: str | None = None  # where the `new` mark comes from, if there is one
    left_out: int = 0  # vectors whose note the dataset no longer has
    without_vector: int = 0  # notes of the dataset that have no vector
    files: dict[str, FileRecord]
    bytes_per_note: float
    build_seconds: float
    created: str  # ISO 8601, UTC
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
    bundles = index / BUNDLES
    try:
        bundles.mkdir(parents=True, exist_ok=True)
        lock = (bundles / ".lock").open("w")
    except OSError as error:
        raise InputError(f"{index}: can't write there: {error.strerror or error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # released by the system when the process dies
        except OSError as error:
            raise InputError(f"{index}: another build is writing there; wait for it, or give another folder") from error
        for leftover in bundles.glob(f"{_ASIDE}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=bundles))
        mask = os.umask(0)
        os.umask(mask)
        aside.chmod(0o777 & ~mask)
        try:
            yield aside
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def publish(index: Path, aside: Path, *, keep: int) -> tuple[Path, list[str]]:
    """Give a whole bundle its name, make it the live one, and remove the oldest beyond `keep`.

    Returns:
        The bundle's folder, and the names of the bundles that were removed.
    """
    name = f"bundle-{max([0, *(_number(folder) for folder in _all(index))]) + 1:06d}"
    folder = index / BUNDLES / name
    aside.rename(folder)
    with storage.atomic_write(index / CURRENT) as file:
        file.write(f"{name}\n".encode())
    old = [bundle for bundle in _all(index)[:-keep] if bundle.name != name]
    for bundle in old:
        # Renamed first: a removal that is cut short must not leave a bundle that looks whole.
        gone = bundle.rename(bundle.with_name(f"{_ASIDE}gone-{bundle.name}"))
        shutil.rmtree(gone, ignore_errors=True)
    return folder, [bundle.name for bundle in old]


def _all(index: Path) -> list[Path]:
    """The bundles of an index, oldest first."""
    folders = [folder for folder in (index / BUNDLES).iterdir() if _NAME.fullmatch(folder.name) and folder.is_dir()]
    return sorted(folders, key=_number)


def _number(folder: Path) -> int:
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
    if not current.is_file():
        raise InputError(f"{place}: no index there (no {CURRENT} file); make one with `noterec index`")
    name = current.read_text(encoding="utf-8", errors="replace").strip()
    if not _NAME.fullmatch(name):  # never follow a path out of the folder
        raise ArtefactError(f"{current}: says {name[:80]!r}; expected a bundle's name such as bundle-000001")
    folder = place / BUNDLES / name
    if not folder.is_dir():
        known = ", ".join(bundle.name for bundle in _all(place)) if (place / BUNDLES).is_dir() else ""
        raise ArtefactError(
            f"{current}: names {name}, which is not in {place / BUNDLES} ({known or 'nothing'} is); build the index "
            "again, or write the name of an existing bundle into CURRENT"
        )
    return folder


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
    if missing := {FAISS_FILE, NOTES_FILE} - info.files.keys():
        raise ArtefactError(f"{file}: lists no hash of {', '.join(sorted(missing))}; build the index again")
    return info


def verify(folder: Path, info: BundleInfo, *, hashes: bool) -> None:
    """Check that the files of a bundle are there and, with `hashes`, that every byte is what it was.

    Raises:
        ArtefactError: a file is missing, of another size, or its SHA-256 differs.
    """
    for name in (FAISS_FILE, NOTES_FILE):
        file, record = folder / name, info.files[name]
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
    for name in (FAISS_FILE, NOTES_FILE):
        with (folder / name).open("rb") as file:
            os.fsync(file.fileno())
        records[name] = FileRecord(sha256=storage.file_hash(folder / name), bytes=(folder / name).stat().st_size)
    return records
