"""The neighbours table: for every query note its k nearest, computed in batches and streamed to Parquet.

`noterec neighbours I --queries warm --candidates new --out N -k 100` says which new notes belong beside a note that
people are reading; `--queries new` describes a new note by the notes that exist already.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from noterec import progress, schema, storage
from noterec.errors import InputError
from noterec.index.search import Floats, Index, Rows
from noterec.index.vectors import load_embeddings

BATCH_QUERIES = 1024
SHARD_QUERIES = 64 * BATCH_QUERIES  # the unit that a killed job loses


@dataclass(frozen=True)
class NeighboursSummary:
    """What was written.

    Attributes:
        path: the table.
        queries: notes that were asked for.
        rows: neighbours written, at most k per query.
        short: queries with fewer than k neighbours, because there were fewer candidates.
        k: neighbours per query.
        candidates: notes that could be found.
        model_version: of the vectors.
        seconds: wall-clock time.
    """

    path: Path
    queries: int
    rows: int
    short: int
    k: int
    candidates: int
    model_version: str
    seconds: float


def neighbours(
    index: str | os.PathLike[str] | Index,
    *,
    out: str | os.PathLike[str],
    queries: Literal["all", "new", "warm"] | str | os.PathLike[str] = "all",
    candidates: Literal["all", "new"] = "all",
    k: int = 100,
) -> NeighboursSummary:
    """Find the k nearest notes of every query note, never the note itself, and write them in `schema.NEIGHBOURS`.

    Args:
        index: the index, or its folder.
        out: a file ending in .parquet, which is replaced when the table is whole; or else a folder of shards, in which a
            killed job goes on where its last whole shard ends.
        queries: "all", "new" or "warm" (not new) notes of the index; or a Parquet table: with an embedding column its
            vectors are the queries, else its note_id column names notes of the index.
        candidates: which notes may be found.
        k: neighbours per query, at least 1.

    Raises:
        InputError: no way to tell new notes, query ids that the index doesn't have, k below 1.
        ArtefactError: query vectors of another model version, or `out` holds neighbours of another index or choice.
    """
    opened = index if isinstance(index, Index) else Index.open(index)
    if candidates not in ("all", "new"):
        raise InputError(f"candidates={candidates!r}; expected 'all' or 'new'")
    if k < 1:
        raise InputError(f"k={k}; expected at least 1")
    mask = opened.new() if candidates == "new" else None
    ids, vectors, own = _queries(opened, queries)
    target = storage.local(out)
    origin = {
        "stage": "neighbours",
        "bundle": opened.folder.name,
        "index_sha256": {name: record.sha256 for name, record in opened.info.files.items()},
        "model_version": opened.model_version,
        "queries": str(queries),
        "queries_hash": storage.value_hash(ids.to_list()),
        "candidates": candidates,
        "k": k,
    }
    with progress.stage("neighbours") as stage, progress.track("neighbours", len(ids), "notes") as bar:

        def batches(start: int, stop: int) -> Iterator[pa.Table]:
            for low in range(start, stop, BATCH_QUERIES):
                part = slice(low, min(low + BATCH_QUERIES, stop))
                block = opened.vectors(own[part]) if vectors is None else vectors[part]
                scores, rows = opened.search_rows(block, k, mask=mask, exclude=own[part])
                bar.advance(len(block))
                yield _table(ids[part], opened.ids, scores, rows)

        if target.suffix == ".parquet":
            written = _write_file(target, batches(0, len(ids)), origin)
        else:
            folder = storage.ShardFolder(target, origin=origin)
            bar.advance(min(len(folder.shards) * SHARD_QUERIES, len(ids)))
            for start in range(len(folder.shards) * SHARD_QUERIES, len(ids), SHARD_QUERIES):
                folder.append(pa.concat_tables(batches(start, min(start + SHARD_QUERIES, len(ids)))))
            folder.commit()
            written = folder.rows
        # A query finds every candidate but itself, so who falls short of k is known without reading the table again.
        available = len(opened) if mask is None else int(mask.sum())
        itself = (own >= 0) if mask is None else (own >= 0) & mask[own]  # (Q,)
        short = int((available - itself < k).sum())
        stage.counts.update(rows_in=len(ids), rows_out=written, short=short)
        return NeighboursSummary(
            path=target,
            queries=len(ids),
            rows=written,
            short=short,
            k=k,
            candidates=available,
            model_version=opened.model_version,
            seconds=stage.seconds,
        )


def _queries(index: Index, queries: str | os.PathLike[str]) -> tuple[pl.Series, Floats | None, Rows]:
    """Query ids; their vectors, None = those of the index; and each query's own row in the index, -1 = it isn't there."""
    if queries == "all":
        return index.ids, None, np.arange(len(index), dtype=np.int64)
    if queries in ("new", "warm"):
        new = index.new()
        rows = np.flatnonzero(new if queries == "new" else ~new).astype(np.int64)
        return index.ids.gather(rows), None, rows
    files = storage.parquet_files(_existing(queries))
    if files and "embedding" in pq.read_schema(files[0]).names:
        found = load_embeddings(queries)
        index.require_model(found.model_version)
        if found.dimension != index.dimension:
            raise InputError(f"{queries}: vectors of D = {found.dimension}, the index has D = {index.dimension}")
        return found.ids, found.vectors, _rows_of(index, found.ids)
    table = schema.conform(storage.read_table(queries), pa.schema([schema.NOTES.field("note_id")]), name=str(queries))
    ids = pl.Series("note_id", table["note_id"]).cast(pl.String).unique().sort()
    rows = _rows_of(index, ids)
    if (rows < 0).any():
        raise InputError(
            f"{queries}: {int((rows < 0).sum())} of {len(ids)} query notes are not in the index, the first is "
            f"{ids.filter(rows < 0)[0]!r}; leave them out, or give an embeddings table with their vectors"
        )
    return ids, None, rows


def _existing(queries: str | os.PathLike[str]) -> Path:
    path = storage.local(queries)
    if not path.exists():
        raise InputError(f"queries={str(queries)!r}: no such file; expected 'all', 'new', 'warm' or a Parquet table")
    return path


def _rows_of(index: Index, ids: pl.Series) -> Rows:
    places = pl.DataFrame({"note_id": index.ids}).with_row_index("row")
    joined = pl.DataFrame({"note_id": ids}).join(places, on="note_id", how="left", maintain_order="left")
    return joined["row"].cast(pl.Int64).fill_null(-1).to_numpy()


def _table(query_ids: pl.Series, ids: pl.Series, scores: Floats, rows: NDArray[np.int64]) -> pa.Table:
    query, rank = np.nonzero(rows >= 0)
    frame = pl.DataFrame(
        {
            "query_id": query_ids.gather(query),
            "note_id": ids.gather(rows[query, rank]),
            "rank": rank + 1,
            "score": scores[query, rank],
        }
    )
    return frame.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(schema.NEIGHBOURS)


def _write_file(target: Path, tables: Iterator[pa.Table], origin: dict[str, object]) -> int:
    written = 0
    metadata = {storage.ORIGIN: json.dumps(origin).encode()}
    with (
        storage.atomic_write(target) as file,
        pq.ParquetWriter(file, schema.NEIGHBOURS.with_metadata(metadata), compression="zstd") as writer,
    ):
        for table in tables:
            writer.write_table(table.replace_schema_metadata(metadata))
            written += table.num_rows
    return written
