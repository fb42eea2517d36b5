"""Adding notes to an index and removing them, between its builds: each change is on disk when the call returns."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.index import bundle
from noterec.index.changes import ATTRIBUTES, COLUMNS, ORIGIN, Changes, read
from noterec.index.filters import id_series
from noterec.index.table import NORM_TOLERANCE, Floats, unit_rows

logger = logging.getLogger(__name__)

FOLD_SHARDS = 32  # so many shards are made one: each is a file to open
MAX_ID_BYTES = 4096


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
    info, wanted = bundle.settled(place, lambda folder: (bundle.read_info(folder), _attribute_types(place, folder)))
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
    ids = _checked(frame["note_id"])
    vectors = _vectors(frame["embedding"], ids, info.dimension)
    kept = [name for name in wanted if name in frame.columns and name != "note_id"]
    try:
        attributes = frame.select([pl.col(name).cast(wanted[name]) for name in kept])
    except pl.exceptions.PolarsError as error:
        raise InputError(f"an attribute is of another type than in the index: {str(error).splitlines()[0]}") from error
    if wanted.get("new") == pl.Boolean and "new" not in kept:
        new = pl.Series("new", [True] * len(ids))
        attributes = attributes.hstack([new]) if kept else pl.DataFrame([new])
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
    wanted = _checked(id_series(ids, "ids").unique(maintain_order=True))

    def there(folder: Path) -> pl.Series:
        _attribute_types(place, folder)
        known = pl.Series(storage.read_table(folder / bundle.NOTES_FILE, columns=["note_id"])["note_id"])
        before = read(place)
        found = known.filter(~known.is_in(before.removed.implode()))
        return found.append(before.added(folder, bundle.read_info(folder), known)["note_id"])

    had = int(wanted.is_in(bundle.settled(place, there).implode()).sum())
    if len(wanted):
        _append(place, wanted, pa.nulls(len(wanted), pa.list_(pa.float32())), None, pl.DataFrame())
    return had


def keep_out(index: str | os.PathLike[str], ids: Iterable[str]) -> None:
    """Keep notes out of all bundles to come of an index that has none yet; on disk when this returns.

    Args:
        index: the index's folder, which is made where there is none.
        ids: of the notes.

    Raises:
        InputError: an id is no id, or the folder can't be made.
    """
    place = storage.local(index)
    wanted = _checked(id_series(ids, "ids").unique(maintain_order=True))
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{place}: can't write there: {error.strerror or error}") from error
    if len(wanted):
        _append(place, wanted, pa.nulls(len(wanted), pa.list_(pa.float32())), None, pl.DataFrame())


def collect(index: Path) -> None:
    """Write down which additions a bundle confirms, drop those that count over no bundle, and make few shards of many.

    Called between making a bundle live and deleting older ones, whose notes must still be known.
    """
    if not (index / bundle.CHANGES).is_dir():
        return
    with _changing(index):
        found = read(index)
        frame, used = found.frame, found.frame.filter("removed")
        for folder in bundle.bundles(index):
            try:
                info = bundle.read_info(folder)
                ids = pl.Series(storage.read_table(folder / bundle.NOTES_FILE, columns=["note_id"])["note_id"])
            except (ArtefactError, InputError) as error:
                logger.warning("%s can't be read; no addition is dropped on its account: %s", folder.name, error)
                used = frame
                continue
            confirmed = (
                pl.col("confirmed_by").is_null()
                & (pl.col("sequence") <= info.changes_through)
                & (pl.col("model_version") == info.model_version)
                & pl.col("note_id").is_in(ids.implode())
            )
            frame = frame.with_columns(
                pl.when(confirmed).then(pl.lit(bundle.number(folder))).otherwise("confirmed_by").alias("confirmed_by")
            )
            used = pl.concat([used, Changes(frame, found.parts, 0).added(folder, info, ids)])
        counting = frame.filter(pl.col("sequence").is_in(used["sequence"].implode()))
        _replace(index, Changes(counting, found.parts, found.through))


def _attribute_types(place: Path, folder: Path) -> pl.Schema:
    """The attributes of a bundle; refuses a bundle's own folder, which never changes."""
    if folder == place:
        raise InputError(f"{place}: a bundle never changes; give the index's folder, {place.parent.parent}")
    try:
        return pl.Schema(pl.read_parquet_schema(folder / bundle.NOTES_FILE))
    except (FileNotFoundError, pl.exceptions.PolarsError) as error:
        raise ArtefactError(
            f"{folder / bundle.NOTES_FILE}: missing or damaged; the bundle is incomplete: build the index again"
        ) from error


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
            pa.nulls(len(ids), pa.int64()),
        ]
        table = pa.table(
            [column.cast(field.type) for column, field in zip(columns, COLUMNS, strict=True)], schema=COLUMNS
        )
        folder.state["through"] = first + len(ids) - 1
        folder.append(_with_attributes(table, attributes))
        if len(folder.shards) >= FOLD_SHARDS:
            _replace(place, read(place))


def _with_attributes(table: pa.Table, attributes: pl.DataFrame) -> pa.Table:
    if not attributes.columns:
        return table
    struct = attributes.to_struct(ATTRIBUTES).to_arrow(compat_level=pl.CompatLevel.oldest())
    return table.append_column(ATTRIBUTES, struct)


def _replace(place: Path, kept: Changes) -> None:
    """Swap all shards for one of each set of attribute types, and remove what killed changes left behind."""
    folder = storage.ShardFolder(place / bundle.CHANGES, origin=ORIGIN)
    groups: dict[tuple[Any, ...], list[tuple[pl.DataFrame, pl.DataFrame]]] = {}
    for number in kept.frame["part"].unique():
        rows = kept.frame.filter(pl.col("part") == number)
        attributes = kept.parts[number][rows["row"].to_numpy()]
        groups.setdefault(tuple(attributes.schema.items()), []).append((rows, attributes))
    records = []
    for parts in groups.values():
        rows = pl.concat([rows for rows, _ in parts])
        core = rows.select(COLUMNS.names).to_arrow(compat_level=pl.CompatLevel.oldest()).cast(COLUMNS)
        table = _with_attributes(core, pl.concat([attributes for _, attributes in parts]))
        records.append(storage.write_shard(folder.path, table, origin=ORIGIN))
    folder.replace(records)
    with folder.claim("noterec index"):
        pass  # a claim sweeps the files that no manifest names


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


def _checked(column: pl.Series) -> pl.Series:
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
    norms, vectors = unit_rows(vectors)
    bad = ~(np.abs(norms - 1) <= NORM_TOLERANCE)
    if bad.any():
        raise InputError(
            f"{int(bad.sum())} of {len(ids)} vectors are not finite and unit-norm, the first is that of {ids.filter(bad)[0]!r} "
            f"(norm {norms[bad][0]:.4g}); expected 1 ± {NORM_TOLERANCE}"
        )
    return vectors
