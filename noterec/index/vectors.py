"""An embeddings table in memory or in one mapped file: one checked, unit-norm vector per note, ordered by note_id.

Everything that searches reads vectors through `load_embeddings` or `write_vectors`, so that a NaN, a zero vector or a second
model version is named once, and never becomes a strange neighbour later.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import storage
from noterec.errors import InputError
from noterec.index import table
from noterec.index.table import Embeddings

__all__ = ["Embeddings", "load_embeddings", "write_vectors"]


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
    return storage.read_files(path, lambda files: table.read(files, path))


def write_vectors(
    path: str | os.PathLike[str],
    file: Path,
    *,
    keep: pl.Series | None = None,
    drop: pl.Series | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    advance: Callable[[int], None] = lambda count: None,
) -> Embeddings:
    """Write the vectors of an embeddings table to one file on disk, shard by shard: the table may be larger than memory.

    Memory: about 100 bytes a note for ids, and one batch of vectors.

    Args:
        path: as in `load_embeddings`, which reads and checks alike.
        file: a NumPy file, (N, D) in the order of the ids, to be mapped into memory.
        keep: ids of the only notes to write; None = all.
        drop: ids of notes to leave out.
        dtype: of the file. Rows are unit-norm before they are rounded to it.
        advance: told how many rows were read, for a progress bar.

    Returns:
        The ids with the vectors mapped from `file`, read-only.

    Raises:
        InputError: as `load_embeddings`, and where no note is left.
        ArtefactError: as `load_embeddings`.
    """

    def make(count: int, dimension: int) -> NDArray[Any]:
        try:
            return np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=(count, dimension))
        except OSError as error:
            raise InputError(f"{file}: can't write there: {error.strerror or error}") from error

    found = storage.read_files(
        path, lambda files: table.read(files, path, keep=keep, drop=drop, make=make, advance=advance)
    )
    cast(np.memmap, found.vectors).flush()
    return Embeddings(
        found.ids, np.load(file, mmap_mode="r"), found.model_version, found.superseded, found.total, found.dropped
    )
