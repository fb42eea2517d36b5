"""An embeddings table as it is read: which row of which file counts for each note, and the vectors of those, checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.storage.parquet import MissingError

Floats = NDArray[np.float32]
Make = Callable[[int, int], NDArray[Any]]

BATCH_ROWS = 65_536  # read at a time
NORM_TOLERANCE = 0.01  # float16 rounding moves a norm by less than 0.001; a vector that was never normalised by more


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The vectors of N notes, as one model version made them.

    Attributes:
        ids: (N,) string, ascending, each once.
        vectors: (N, D) float32, unit-norm rows in the order of `ids`.
        model_version: of the model that made all of them.
        superseded: rows that a later row of the same note replaced or withdrew, and tombstones.
        total: notes with a vector in the table, also those that the reader left out.
        dropped: those among them that the reader was told to leave out.
    """

    ids: pl.Series
    vectors: Floats
    model_version: str
    superseded: int = 0
    total: int = 0
    dropped: int = 0

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return int(self.vectors.shape[1])

    def __len__(self) -> int:
        return len(self.ids)


def read(
    files: list[storage.Place],
    path: str | os.PathLike[str],
    *,
    keep: pl.Series | None = None,
    drop: pl.Series | None = None,
    make: Make = lambda count, dimension: np.empty((count, dimension), dtype=np.float32),
    advance: Callable[[int], None] = lambda count: None,
) -> Embeddings:
    """First who counts, from ids and versions alone; then the vectors of those, file by file, each to its place.

    Args:
        files: of the table, the oldest first.
        path: of the table, for messages.
        keep, drop: ids, as in `vectors.write_vectors`.
        make: gives the (N, D) array to be filled, in float32 or float16.
        advance: told how many rows were read.
    """
    if not files:
        raise InputError(f"{path}: no Parquet files there; expected an embeddings table: make one with `noterec embed`")
    heads = [_head(file) for file in files]
    if not any(len(head.ids) for head in heads):
        raise InputError(f"{path}: the embeddings table is empty; expected at least one row: embed some notes first")
    frame = pl.DataFrame(
        {
            "note_id": pl.Series(pa.concat_arrays(_chunks([head.ids for head in heads]))),
            "version": pl.Series(pa.concat_arrays(_chunks([head.versions for head in heads]))),
            "gone": np.concatenate([head.gone for head in heads]),
            "file": np.repeat(np.arange(len(heads), dtype=np.int32), [len(head.ids) for head in heads]),
            "row": np.concatenate([np.arange(len(head.ids), dtype=np.int64) for head in heads]),
        }
    )
    rows, lengths = frame.height, [len(head.ids) for head in heads]
    del heads
    frame = frame.unique("note_id", keep="last", maintain_order=True).filter(~pl.col("gone"))
    if not frame.height:
        raise InputError(f"{path}: every note was withdrawn from this embeddings table; embed some notes first")
    version, total = _one_version(frame["version"], path), frame.height
    frame, dropped = _only(frame, keep, drop, path=path)
    frame = frame.sort("note_id").drop("version", "gone").with_row_index("place")
    ids = frame["note_id"].alias("note_id")
    vectors: NDArray[Any] | None = None
    sizes: dict[int, storage.Place] = {}
    for number, file in enumerate(files):
        mine = frame.filter(pl.col("file") == number).sort("row")
        if not mine.height:
            advance(lengths[number])
            continue
        wanted, places = mine["row"].to_numpy(), mine["place"].to_numpy()
        low = 0
        for table in _batches(file):
            part = slice(*np.searchsorted(wanted, [low, low + table.num_rows]))
            advance(table.num_rows)
            low += table.num_rows
            if part.start == part.stop:
                continue
            block = _matrix(table.take(pa.array(wanted[part] - low + table.num_rows)), file)
            sizes.setdefault(block.shape[1], file)
            if len(sizes) > 1:
                found = ", ".join(f"{length} in {place.name}" for length, place in sizes.items())
                raise InputError(
                    f"{path}: vectors of several lengths ({found}); expected one D: embed all notes with one model"
                )
            if vectors is None:
                vectors = make(frame.height, block.shape[1])
            vectors[places[part]] = _normalised(block, ids.gather(places[part]), path)
    assert vectors is not None, "every note that counts stands in some file"
    return Embeddings(ids, vectors, version, rows - total, total, dropped)


def _only(
    frame: pl.DataFrame, keep: pl.Series | None, drop: pl.Series | None, path: object
) -> tuple[pl.DataFrame, int]:
    """The rows of the notes that are wanted, and how many of them `drop` took."""
    first, total = frame["note_id"].min(), frame.height
    if keep is not None:
        frame = frame.join(keep.rename("note_id").to_frame().unique(), on="note_id", how="semi", maintain_order="left")
        if not frame.height:
            raise InputError(
                f"{path}: the dataset has none of the {total} notes that have a vector there (the first is {first!r}); expected "
                "the dataset that was embedded"
            )
    kept = frame.height
    if drop is not None:
        frame = frame.join(drop.rename("note_id").to_frame(), on="note_id", how="anti", maintain_order="left")
        if not frame.height:
            raise InputError(
                f"{path}: each of its {total} notes was removed from the index; there is nothing left to index"
            )
    return frame, kept - frame.height


class _Head(NamedTuple):
    """What one file says of its R rows, but for the vectors."""

    ids: pa.ChunkedArray  # (R,) string
    versions: pa.ChunkedArray  # (R,) string
    gone: NDArray[np.bool_]  # (R,) which are tombstones


def _head(file: storage.Place) -> _Head:
    with storage.open_parquet(file) as parquet:
        names = parquet.schema_arrow.names
    for name in ("embedding", "model_version"):
        if name not in names:
            raise InputError(
                f"{file}: no column {name!r}; expected an embeddings table with note_id, embedding and model_version, "
                "as `noterec embed` writes it"
            )
    wanted = pa.schema([schema.NOTES.field("note_id"), ("model_version", pa.string())])
    table = schema.conform(
        storage.read_table(file, columns=["note_id", "content_hash", "model_version"]), wanted, name=str(file)
    )
    return _Head(table["note_id"], table["model_version"], _tombstones(table, file))


def _tombstones(table: pa.Table, file: storage.Place) -> NDArray[np.bool_]:
    """Which rows withdraw their note: (rows,) bool. A table without content hashes, of another maker, has none."""
    if "content_hash" not in table.column_names or not table["content_hash"].null_count:
        return np.zeros(table.num_rows, dtype=bool)
    no_vector = [np.asarray(pc.is_null(part["embedding"]).to_numpy(), dtype=bool) for part in _batches(file)]
    no_hash = np.asarray(pc.is_null(table["content_hash"]).to_numpy(), dtype=bool)
    both: NDArray[np.bool_] = np.concatenate(no_vector) & no_hash
    return both


def _batches(file: storage.Place) -> Iterator[pa.Table]:
    """Ids and vectors of one file, some rows at a time."""
    with storage.open_parquet(file) as parquet:
        try:
            for batch in parquet.iter_batches(BATCH_ROWS, columns=["note_id", "embedding"]):
                yield pa.Table.from_batches([batch])
        except FileNotFoundError as error:  # from a store, where an open file can vanish
            raise MissingError(f"{file}: no such file") from error
        except (pa.ArrowInvalid, OSError) as error:
            raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error


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


def _normalised(block: NDArray[Any], ids: pl.Series, path: str | os.PathLike[str]) -> Floats:
    """Unit-norm float32 rows, after a check that they are finite and were meant to be unit-norm."""
    norms, vectors = unit_rows(block)
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
    return vectors


def unit_rows(block: NDArray[Any]) -> tuple[NDArray[np.float64], Floats]:
    """Norms (n,) of the rows, and the rows as float32 divided by them: the same numbers wherever a vector comes from."""
    exact = np.asarray(block, dtype=np.float64)
    norms = np.sqrt(np.einsum("nd,nd->n", exact, exact))  # (n,)
    with np.errstate(divide="ignore", invalid="ignore"):  # whoever asks looks at the norms
        return norms, (exact / norms[:, None]).astype(np.float32)


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
