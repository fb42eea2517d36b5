"""An embeddings table in memory: one checked, unit-norm vector per note, ordered by note_id.

Everything that searches reads vectors through `load_embeddings`, so that a NaN, a zero vector or a second model version is
named here, once, and never becomes a strange neighbour later.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError

Floats = NDArray[np.float32]

NORM_TOLERANCE = 0.01  # float16 rounding moves a norm by less than 0.001; a vector that was never normalised by more


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The vectors of N notes, as one model version made them.

    Attributes:
        ids: (N,) string, ascending, each once.
        vectors: (N, D) float32, unit-norm rows in the order of `ids`.
        model_version: of the model that made all of them.
        superseded: rows that a later row of the same note replaced or withdrew, and tombstones.
    """

    ids: pl.Series
    vectors: Floats
    model_version: str
    superseded: int = 0

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.ids)


def load_embeddings(path: str | os.PathLike[str]) -> Embeddings:
    """Read an embeddings table and check every vector of it.

    Args:
        path: a folder of shards or one Parquet file in `schema.embeddings_schema(D)`, float32 or float16. Where a note
            stands in it more than once, its last row counts; a note whose last row is a tombstone was withdrawn and has no vector.

    Returns:
        The vectors ordered by note_id. Norms within 0.01 of 1 are taken as unit norms that were rounded, and are made
        exact; scores are then cosines.

    Raises:
        InputError: nothing there, no rows, vectors of several lengths, a null, NaN or infinity, or a vector that isn't
            unit-norm; the message names the first notes concerned.
        ArtefactError: the rows come from several model versions, or a shard that the manifest names is missing.
    """
    parts = storage.read_files(path, lambda files: [_part(file) for file in files])
    if not parts:
        raise InputError(f"{path}: no Parquet files there; expected an embeddings table: make one with `noterec embed`")
    dimensions = {part.vectors.shape[1]: part.file for part in reversed(parts) if len(part.vectors)}
    if not dimensions:
        raise InputError(f"{path}: the embeddings table is empty; expected at least one row: embed some notes first")
    if len(dimensions) > 1:
        found = ", ".join(f"{length} in {file.name}" for length, file in dimensions.items())
        raise InputError(
            f"{path}: vectors of several lengths ({found}); expected one D: embed all notes with one model"
        )
    gone = np.concatenate([part.gone for part in parts])
    frame = pl.DataFrame(
        {
            "note_id": pl.Series(pa.concat_arrays(_chunks([part.ids for part in parts]))),
            "version": pl.Series(pa.concat_arrays(_chunks([part.versions for part in parts]))),
            "gone": gone,
            "row": np.cumsum(~gone) - 1,  # of the vectors: a tombstone has none
        }
    )
    kept = frame.unique("note_id", keep="last", maintain_order=True).filter(~pl.col("gone")).sort("note_id")
    if not kept.height:
        raise InputError(f"{path}: every note was withdrawn from this embeddings table; embed some notes first")
    stacked = np.concatenate([part.vectors for part in parts if len(part.vectors)])
    del parts
    vectors = stacked[kept["row"].to_numpy()].astype(np.float32, copy=False)  # (N, D)
    del stacked
    note_ids = kept["note_id"].alias("note_id")
    _check(vectors, note_ids, path)
    return Embeddings(note_ids, vectors, _one_version(kept["version"], path), frame.height - kept.height)


class _Part(NamedTuple):
    """What one file says of its R rows."""

    file: storage.Place
    ids: pa.ChunkedArray  # (R,) string
    versions: pa.ChunkedArray  # (R,) string
    gone: NDArray[np.bool_]  # (R,) which are tombstones
    vectors: NDArray[Any]  # (R - tombstones, D)


def _part(file: storage.Place) -> _Part:
    table = _read(file)
    gone = _tombstones(table)
    return _Part(file, table["note_id"], table["model_version"], gone, _matrix(table.filter(pa.array(~gone)), file))


def _read(file: storage.Place) -> pa.Table:
    """The columns of one file that matter, with their ids and versions as strings."""
    table = storage.read_table(file, columns=["note_id", "embedding", "content_hash", "model_version"])
    for name in ("embedding", "model_version"):
        if name not in table.column_names:
            raise InputError(
                f"{file}: no column {name!r}; expected an embeddings table with note_id, embedding and model_version, "
                "as `noterec embed` writes it"
            )
    wanted = pa.schema([schema.NOTES.field("note_id"), ("model_version", pa.string())])
    return schema.conform(table, wanted, name=str(file))


def _tombstones(table: pa.Table) -> NDArray[np.bool_]:
    """Which rows withdraw their note: (rows,) bool. A table without content hashes, of another maker, has none."""
    if "content_hash" not in table.column_names:
        return np.zeros(table.num_rows, dtype=bool)
    nulls = pc.and_(pc.is_null(table["embedding"]), pc.is_null(table["content_hash"]))
    return np.asarray(nulls.to_numpy(), dtype=bool)


def _chunks(columns: list[pa.ChunkedArray]) -> list[pa.Array]:
    return [chunk.cast(pa.large_string()) for column in columns for chunk in column.chunks]


def _matrix(table: pa.Table, file: storage.Place) -> NDArray[Any]:
    """One file's vectors as (rows, D), in the file's own float type."""
    column = table["embedding"]
    kind = column.type
    lists = pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not lists or not pa.types.is_floating(kind.value_type):
        raise InputError(
            f"{file}: embedding is {kind}; expected fixed_size_list<float>[D], as `noterec embed` writes it"
        )
    if column.null_count:
        first = _first(table["note_id"].filter(pc.is_null(column)))
        raise InputError(f"{file}: {column.null_count} notes have no embedding (null): {first}; leave such notes out")
    lengths = pc.unique(pc.list_value_length(column)).to_pylist()
    if len(lengths) > 1:
        odd = pc.not_equal(pc.list_value_length(column), lengths[0])
        raise InputError(
            f"{file}: vectors of several lengths ({', '.join(map(str, sorted(lengths)))}), first at "
            f"{_first(table['note_id'].filter(odd))}; expected one D: embed all notes with one model"
        )
    if lengths == [0]:
        raise InputError(f"{file}: vectors of length 0; expected at least one dimension")
    values = pc.list_flatten(column).combine_chunks()
    if values.null_count:
        raise InputError(f"{file}: {values.null_count} elements of the vectors are null; expected numbers: embed again")
    dtype = np.float16 if pa.types.is_float16(kind.value_type) else np.float32
    flat: NDArray[Any] = values.to_numpy(zero_copy_only=False).astype(dtype, copy=False)
    return flat.reshape(table.num_rows, *(lengths or [0]))  # (rows, D)


def _check(vectors: Floats, ids: pl.Series, path: str | os.PathLike[str]) -> None:
    """Refuse NaN and infinity, then norms that aren't 1; make the others exact in place."""
    norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float32))  # (N,)
    broken = ~np.isfinite(norms)
    if broken.any():
        raise InputError(
            f"{path}: {int(broken.sum())} of {len(ids)} vectors hold NaN or infinity: {_first(ids.filter(broken))}; "
            "expected finite numbers: embed these notes again"
        )
    off = np.abs(norms - 1) > NORM_TOLERANCE
    if off.any():
        worst = float(norms[off][0])
        raise InputError(
            f"{path}: {int(off.sum())} of {len(ids)} vectors are not unit-norm (the first has norm {worst:.4g}): "
            f"{_first(ids.filter(off))}; expected 1 ± {NORM_TOLERANCE}: divide each vector by its norm"
        )
    vectors /= norms[:, None]


def _one_version(versions: pl.Series, path: str | os.PathLike[str]) -> str:
    if versions.null_count():
        raise InputError(
            f"{path}: {versions.null_count()} rows have no model_version; expected the version of the model that made "
            "them in every row, so that an index can refuse vectors of another model"
        )
    found = versions.unique().sort()
    if len(found) > 1:
        raise ArtefactError(
            f"{path}: vectors of {len(found)} model versions ({', '.join(found.head(4))}); they can't be compared: "
            "embed all notes with one model into a new folder"
        )
    return str(found[0])


def _first(ids: Any, count: int = 5) -> str:
    """The first few ids, for a message."""
    names = ids.to_list() if isinstance(ids, pl.Series) else ids.to_pylist()
    return ", ".join(map(repr, names[:count])) + (", ..." if len(names) > count else "")
