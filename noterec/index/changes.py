"""What was added to an index and removed from it since its bundles were built: fresh notes and takedowns within seconds.

    INDEX/changes/      a table that grows by one small shard a change; `Index.open` lays it over the live bundle

A change counts from the moment it is on disk, and outlives the bundle that it was made on:

- A removed note stays out of this bundle and of every later one, whatever the embeddings say, until it is added again.
- An added note stays until a later build finds it among the embeddings, whose vector then counts; an addition that was made while
  that build was already reading them overrides it. One that no build ever confirms goes after `IndexConfig.added_days`.
- An addition of another model version than the live bundle's is kept aside: it has no place there.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.index import bundle
from noterec.index.table import NORM_TOLERANCE, Floats

logger = logging.getLogger(__name__)

ORIGIN = {"stage": "index changes"}
FOLD_SHARDS = 32  # so many shards are made one: each is a file to open
MAX_ID_BYTES = 4096
_COLUMNS = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("removed", pa.bool_(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("made_at", schema.TIMESTAMP, nullable=False),
        ("embedding", pa.list_(pa.float32())),
        ("model_version", pa.string()),
    ]
)


@dataclass(frozen=True, eq=False)
class Changes:
    """The last change of every note, in the order in which they were made.

    Attributes:
        frame: one row per changed note: the columns of `_COLUMNS`, and the attributes of added notes.
        through: number of the last change, 0 if there was none.
    """

    frame: pl.DataFrame
    through: int

    @classmethod
    def none(cls) -> Changes:
        """No change at all."""
        return cls(pl.DataFrame(_COLUMNS.empty_table()), 0)

    @property
    def removed(self) -> pl.Series:
        """Ids of the notes that were removed."""
        return self.frame.filter("removed")["note_id"]

    def added(self, info: bundle.BundleInfo, ids: pl.Series) -> pl.DataFrame:
        """The additions that count over a bundle with these notes, by note_id."""
        built = datetime.datetime.fromisoformat(info.created)
        expires = built - datetime.timedelta(days=float(info.config.get("added_days", 7)))
        known = pl.col("note_id").is_in(ids.implode())
        later = pl.col("sequence") > info.changes_through
        return self.frame.filter(
            ~pl.col("removed") & (pl.col("model_version") == info.model_version),
            later | (~known & (pl.col("made_at") > expires)),
        ).sort("note_id")


def read(index: Path) -> Changes:
    """All changes of an index; none where there is no such table."""
    folder = index / bundle.CHANGES
    if not folder.is_dir():
        return Changes.none()
    through = int(
        storage.ShardFolder(folder, origin=ORIGIN).state.get("through", 0)
    )  # first: what comes meanwhile is later
    tables = storage.read_files(folder, lambda files: [storage.read_table(file) for file in files])
    frames = [Changes.none().frame, *(pl.DataFrame(table) for table in tables)]
    every = pl.concat(frames, how="diagonal_relaxed").sort("sequence", maintain_order=True)
    return Changes(every.unique("note_id", keep="last", maintain_order=True), through)


def add_notes(index: str | os.PathLike[str], notes: Any, *, model_version: str) -> int:
    """Add notes to an index, or replace what it holds of them; they are on disk when this returns.

    Args:
        index: the index's folder.
        notes: a pyarrow.Table or polars.DataFrame with note_id, embedding (unit-norm, of the index's D) and, if known, the columns
            that the index carries as attributes; other columns are of no use to it.
        model_version: of the model that made the vectors.

    Returns:
        How many notes were added.

    Raises:
        InputError: an id or a vector is missing, stands there twice or is of no use.
        ArtefactError: the index is of another model version.
    """
    place = storage.local(index)
    folder = bundle.find(place)
    if folder == place:
        raise InputError(f"{place}: a bundle never changes; give the index's folder, {place.parent.parent}")
    info = bundle.read_info(folder)
    if model_version != info.model_version:
        raise ArtefactError(
            f"vectors of model version {model_version}, and the index {place} holds those of {info.model_version}; they can't be "
            "compared: encode the notes with the same model"
        )
    frame = pl.DataFrame(notes)
    for name in ("note_id", "embedding"):
        if name not in frame.columns:
            raise InputError(
                f"no column {name!r} among {', '.join(frame.columns) or 'none'}; expected note_id and embedding"
            )
    ids = _ids(frame["note_id"])
    vectors = _vectors(frame["embedding"], ids, info.dimension)
    rows = pl.read_parquet_schema(folder / bundle.NOTES_FILE)
    kept = [name for name in rows if name in frame.columns and name != "note_id"]
    try:
        attributes = frame.select([pl.col(name).cast(rows[name]) for name in kept])
    except pl.exceptions.PolarsError as error:
        raise InputError(f"an attribute is of another type than in the index: {str(error).splitlines()[0]}") from error
    if "new" in rows and "new" not in kept and rows["new"] == pl.Boolean:
        attributes = (
            attributes.hstack([pl.Series("new", [True] * len(ids))])
            if kept
            else pl.DataFrame({"new": [True] * len(ids)})
        )
    values = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), info.dimension).cast(pa.list_(pa.float32()))
    _append(place, ids, values, model_version, attributes)
    return len(ids)


def remove_notes(index: str | os.PathLike[str], ids: Iterable[str]) -> int:
    """Take notes out of an index, now and in all later builds, until they are added again; on disk when this returns.

    An id that the index doesn't have is kept all the same: its vector may be on the way.

    Args:
        index: the index's folder.
        ids: of the notes.

    Returns:
        How many of them the index had.

    Raises:
        InputError: there is no index, or an id is no id.
    """
    place = storage.local(index)
    folder = bundle.find(place)
    if folder == place:
        raise InputError(f"{place}: a bundle never changes; give the index's folder, {place.parent.parent}")
    wanted = _ids(pl.Series("note_id", list(ids), dtype=pl.String).unique(maintain_order=True))
    known = pl.Series(storage.read_table(folder / bundle.NOTES_FILE, columns=["note_id"])["note_id"])
    before = read(place)
    there = known.filter(~known.is_in(before.removed.implode())).append(
        before.added(bundle.read_info(folder), known)["note_id"]
    )
    if len(wanted):
        _append(place, wanted, pa.nulls(len(wanted), pa.list_(pa.float32())), None, pl.DataFrame())
    return int(wanted.is_in(there.implode()).sum())


def collect(index: Path) -> None:
    """Drop the additions that count over none of the bundles that are kept, and make few shards of many."""
    if not (index / bundle.CHANGES).is_dir():
        return
    with _changing(index):
        found = read(index)
        used = found.frame.filter("removed")
        for folder in bundle.bundles(index):
            ids = pl.Series(storage.read_table(folder / bundle.NOTES_FILE, columns=["note_id"])["note_id"])
            used = pl.concat([used, found.added(bundle.read_info(folder), ids)])
        _replace(index, used.unique("note_id", keep="first", maintain_order=True).sort("sequence"))


def _append(place: Path, ids: pl.Series, values: pa.Array, version: str | None, attributes: pl.DataFrame) -> None:
    with _changing(place):
        folder = storage.ShardFolder(place / bundle.CHANGES, origin=ORIGIN)
        first = int(folder.state.get("through", 0)) + 1
        columns = [
            ids.to_arrow(compat_level=pl.CompatLevel.oldest()),
            pa.array([version is None] * len(ids)),
            pa.array(range(first, first + len(ids))),
            pa.array([datetime.datetime.now(datetime.UTC)] * len(ids), schema.TIMESTAMP),
            values,
            pa.array([version] * len(ids), pa.string()),
        ]
        table = pa.table(
            [column.cast(field.type) for column, field in zip(columns, _COLUMNS, strict=True)], schema=_COLUMNS
        )
        for name in attributes.columns:
            table = table.append_column(name, attributes[name].to_arrow(compat_level=pl.CompatLevel.oldest()))
        folder.state["through"] = first + len(ids) - 1
        folder.append(table)
        if len(folder.shards) >= FOLD_SHARDS:
            _replace(place, read(place).frame)


def _replace(place: Path, frame: pl.DataFrame) -> None:
    folder = storage.ShardFolder(place / bundle.CHANGES, origin=ORIGIN)
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    folder.replace([storage.write_shard(folder.path, table, origin=ORIGIN)] if frame.height else [])


@contextlib.contextmanager
def _changing(place: Path) -> Iterator[None]:
    """One change at a time, whichever process makes it; the others wait."""
    try:
        lock = (place / ".changing").open("w")
    except OSError as error:
        raise InputError(f"{place}: can't write there: {error.strerror or error}") from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released by the system when the process dies
        yield


def _ids(column: pl.Series) -> pl.Series:
    if column.dtype != pl.String or column.null_count():
        raise InputError(
            f"note ids are {column.dtype} with {column.null_count()} missing; expected a text for every note"
        )
    ids = column.alias("note_id")
    if (bad := ids.filter((ids.str.len_bytes() == 0) | (ids.str.len_bytes() > MAX_ID_BYTES))).len():
        raise InputError(
            f"{len(bad)} note ids are empty or longer than {MAX_ID_BYTES} bytes, the first is {bad[0][:40]!r}"
        )
    if (twice := ids.filter(ids.is_duplicated())).len():
        raise InputError(f"note {twice[0]!r} stands there twice; expected each once")
    return ids


def _vectors(column: pl.Series, ids: pl.Series, dimension: int) -> Floats:
    """(A, D) float32, unit-norm."""
    lists = column.dtype
    if not isinstance(lists, pl.List | pl.Array) or not isinstance(lists.inner, pl.Float32 | pl.Float64 | pl.Float16):
        raise InputError(f"embedding is {lists}; expected a list of {dimension} floats for every note")
    lengths = column.cast(pl.List(pl.Float32)).list.len()
    wrong = lengths.is_null() | (lengths != dimension)
    if wrong.any():
        raise InputError(
            f"note {ids.filter(wrong)[0]!r} has a vector of length {lengths.filter(wrong)[0]}; the index holds D = {dimension}"
        )
    values = column.cast(pl.List(pl.Float32)).explode() if len(column) else pl.Series([], dtype=pl.Float32)
    vectors: Floats = values.to_numpy().astype(np.float32).reshape(len(ids), dimension)  # a null is NaN here
    norms = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = ~(np.abs(norms - 1) <= NORM_TOLERANCE)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of {len(ids)} vectors are not finite and unit-norm, the first is that of {ids.filter(bad)[0]!r} "
            f"(norm {norms[bad][0]:.4g}); expected 1 ± {NORM_TOLERANCE}"
        )
    return np.asarray(vectors / norms[:, None], dtype=np.float32)
