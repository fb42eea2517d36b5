"""A bundle: one immutable folder with the vectors, the note ids in row order, their attributes, and what they are.

    INDEX/CURRENT                       one line, the live bundle's name
    INDEX/bundles/bundle-000007/        vectors.npy, notes.parquet, bundle.json; index.faiss unless it is flat; the words' index
    INDEX/changes/                      what was added and removed since (`changes.py`)

A bundle is written aside and renamed when it is whole, and CURRENT is replaced last: whoever opens the index finds the
old one or the new one, never half of one. FAISS reads a file only after its hash matched bundle.json.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
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
