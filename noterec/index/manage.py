"""What an operator does with an index: add embedded notes, remove notes, go back, look."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.index import bundle, changes, publishing
from noterec.index.attributes import NOTE_IDS
from noterec.index.changing import add_notes, collect, remove_notes
from noterec.index.vectors import load_embeddings
from noterec.notes.dataset import Dataset


@dataclass(frozen=True)
class ChangeSummary:
    """What was changed.

    Attributes:
        path: the index.
        added: notes that were added or replaced.
        removed: notes that the index had and has no longer.
        unknown: ids that it didn't have; they stay out of later builds too.
        change: number of the last change.
    """

    path: Path
    added: int
    removed: int
    unknown: int
    change: int


@dataclass(frozen=True)
class RollbackSummary:
    """Which bundle was live, and which one is now, after a rollback or a publication.

    Attributes:
        path: the index.
        was: name of the bundle that was live, None where there was none or CURRENT was damaged.
        live: name of the one that is now.
    """

    path: Path
    was: str | None
    live: str


@dataclass(frozen=True)
class BundleLine:
    """One bundle, as `noterec index status` lists it; fields as in `BundleInfo`, `recall` as its value.

    Where it can't be read, `kind` says why.
    """

    live: bool
    bundle: str
    kind: str
    notes: int
    recall: float
    query_ms: float
    created: str
    model_version: str


@dataclass(frozen=True)
class IndexStatus:
    """The state of an index.

    Attributes:
        path: the index.
        bundles: oldest first.
        notes: that can be found now.
        added: notes that were added since the live bundle was built and count over it.
        removed: ids that are kept out of this bundle and of every later one.
        change: number of the last change.
    """

    path: Path
    bundles: list[BundleLine]
    notes: int
    added: int
    removed: int
    change: int


def add_embeddings(
    index: str | os.PathLike[str],
    embeddings: str | os.PathLike[str],
    *,
    notes: str | os.PathLike[str] | None = None,
) -> ChangeSummary:
    """Add the notes of an embeddings table to an index; on disk when this returns (see `changing.add_notes`).

    Args:
        index: the index's folder.
        embeddings: table of the notes, of the index's model version.
        notes: dataset with these notes, for the attributes that the index carries; a note of the table that it doesn't have, or
            that is deleted there, is refused. None = no attributes.

    Raises:
        InputError: a note is missing in the dataset, or the vectors don't fit.
        ArtefactError: the vectors are of another model version.
    """
    place = storage.local(index)
    found = load_embeddings(embeddings)
    values = pl.Series("embedding", found.vectors).cast(pl.List(pl.Float32))
    frame = pl.DataFrame([found.ids.alias("note_id"), values])
    if notes is not None:
        columns = [
            name
            for name in pl.read_parquet_schema(bundle.find(place) / bundle.NOTES_FILE)
            if name not in ("note_id", "new")
        ]
        live = Dataset(notes).notes(columns)
        missing = frame.join(live, on="note_id", how="anti")["note_id"]
        if len(missing):
            raise InputError(
                f"{notes}: {len(missing)} of the {frame.height} notes to add are not there, the first is {missing[0]!r}; expected "
                "the dataset that was embedded"
            )
        frame = frame.join(live, on="note_id", how="left", maintain_order="left")
    added = add_notes(place, frame, model_version=found.model_version)
    return ChangeSummary(place, added, 0, 0, changes.read(place).through)


def remove_ids(
    index: str | os.PathLike[str], ids: Iterable[str] = (), *, table: str | os.PathLike[str] | None = None
) -> ChangeSummary:
    """Take notes out of an index, for good (see `changing.remove_notes`).

    Args:
        index: the index's folder.
        ids: of the notes.
        table: a table with a note_id column, with further ids.

    Raises:
        InputError: no id was given, or there is no index.
    """
    place = storage.local(index)
    wanted = list(ids)
    if table is not None:
        found = schema.conform(storage.read_table(table), NOTE_IDS, name=str(table))
        wanted += found["note_id"].to_pylist()
    wanted = list(dict.fromkeys(wanted))
    if not wanted:
        raise InputError("no note to remove; give ids, or a table of them (--ids)")
    removed = remove_notes(place, wanted)
    return ChangeSummary(place, 0, removed, len(wanted) - removed, changes.read(place).through)


def publish_candidate(index: str | os.PathLike[str]) -> RollbackSummary:
    """Make the bundle that was built with `publish=False` the live one, in one step.

    Where a killed process had begun it, this ends it; where it was done and that bundle is live, nothing changes.

    Raises:
        InputError: no bundle waits there, or a build is running.
        ArtefactError: another bundle went live since it was built, or a file of it changed; the live one stays.
    """
    place = storage.local(index)

    def check(folder: Path) -> None:
        info, live = bundle.read_info(folder), bundle.live_name(place)
        if live != info.previous:
            raise ArtefactError(
                f"{folder}: was built while {info.previous or 'nothing'} was live, and {live or 'nothing'} is now; build it again"
            )
        bundle.verify(folder, info, hashes=True)

    with publishing.building(place):
        published = publishing.promote(place, check)
        info = bundle.read_info(published)
        collect(place)
        publishing.prune(place, keep=int(info.config["keep"]), before=info.previous)
    return RollbackSummary(place, info.previous, published.name)


def roll_back(index: str | os.PathLike[str], *, to: str | None = None) -> RollbackSummary:
    """Make an earlier bundle the live one; arguments and errors as `publishing.rollback`."""
    was, live = publishing.rollback(index, to=to)
    return RollbackSummary(storage.local(index), was, live)


def index_status(index: str | os.PathLike[str]) -> IndexStatus:
    """The bundles of an index and the changes since.

    Raises:
        InputError: there is no index.
        ArtefactError: a bundle.json is damaged.
    """
    place = storage.local(index)
    live = bundle.find(place)
    lines = []
    for folder in [live] if live == place else bundle.bundles(place):
        try:
            info = bundle.read_info(folder)
        except ArtefactError as error:
            if folder == live:
                raise
            lines.append(BundleLine(False, folder.name, f"unreadable: {error}", 0, 0.0, 0.0, "", ""))
            continue
        lines.append(
            BundleLine(
                live=folder == live,
                bundle=folder.name,
                kind=info.kind,
                notes=info.count,
                recall=info.recall.value,
                query_ms=info.query_ms,
                created=info.created.isoformat(timespec="seconds"),
                model_version=info.model_version,
            )
        )
    made = changes.Changes.none() if live == place else changes.read(place)
    ids = pl.Series(storage.read_table(live / bundle.NOTES_FILE, columns=["note_id"])["note_id"])
    added = made.added(live, bundle.read_info(live), ids)
    gone = pl.concat([made.removed, added["note_id"]])
    notes = len(ids) - int(ids.is_in(gone.implode()).sum()) + added.height
    return IndexStatus(place, lines, notes, added.height, len(made.removed), made.through)
