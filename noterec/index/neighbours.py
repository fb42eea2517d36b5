"""The neighbours table: for every query note its k nearest, computed in batches and streamed to Parquet.

`noterec neighbours I --queries warm --candidates new --out N -k 100` says which new notes belong beside a note that
people are reading; `--queries new` describes a new note by the notes that exist already.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from noterec import progress, schema, storage
from noterec.errors import InputError
from noterec.index.filters import Where
from noterec.index.merged import MergedIndex
from noterec.index.search import Index
from noterec.index.searchable import Floats, Rows, Searchable
from noterec.index.selection import Finder, Selection
from noterec.index.vectors import load_embeddings

BATCH_QUERIES = 1024
NOTE_IDS = pa.schema([schema.NOTES.field("note_id")])
SHARD_QUERIES = 64 * BATCH_QUERIES  # the unit that a killed job loses


@dataclass(frozen=True)
class NeighboursSummary:
    """What was written.

    Attributes:
        path: the table.
        queries: notes that were asked for.
        rows: neighbours written, at most k per query.
        short: queries with fewer than k neighbours, because there were fewer candidates, or too many fell away.
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
    index: str | os.PathLike[str] | Searchable,
    *,
    out: str | os.PathLike[str],
    queries: Literal["all", "new", "warm"] | str | os.PathLike[str] = "all",
    candidates: Literal["all", "new"] = "all",
    k: int = 100,
    where: Where | None = None,
    exclude: str | os.PathLike[str] | Iterable[str] = (),
    per_author: int | None = None,
    duplicates: float | None = None,
    diversity: float = 0.0,
) -> NeighboursSummary:
    """Find the k nearest notes of every query note, never the note itself, and write them in `schema.NEIGHBOURS`.

    Args:
        index: the index, a `MergedIndex`, or an index's folder.
        out: a file ending in .parquet, which is replaced when the table is whole; or else a folder of shards, in which a
            killed job goes on where its last whole shard ends.
        queries: "all", "new" or "warm" (not new) notes of the index; or a Parquet table: with an embedding column its
            vectors are the queries, else its note_id column names notes of the index.
        candidates: which notes may be found.
        k: neighbours per query, at least 1.
        where: a condition on the attributes of the notes that may be found, see `filters.where_mask`.
        exclude: notes that may not be found: their ids, or a Parquet table with a note_id column.
        per_author, duplicates, diversity: see `selection.Selection`.

    Raises:
        InputError: no way to tell new notes, query ids that the index doesn't have, k below 1, a selection that doesn't fit.
        ArtefactError: query vectors of another model version, or `out` holds neighbours of another index or choice.
    """
    opened = Index.open(index) if isinstance(index, str | os.PathLike) else index
    if candidates not in ("all", "new"):
        raise InputError(f"candidates={candidates!r}; expected 'all' or 'new'")
    if k < 1:
        raise InputError(f"k={k}; expected at least 1")
    left_out = _given_ids(exclude)
    finder = Finder(opened, Selection(where, candidates, left_out, per_author, duplicates, diversity))
    ids, vectors, own = _queries(opened, queries)
    target = storage.local(out)
    origin = {
        "stage": "neighbours",
        "index": opened.version,
        "index_sha256": _hashes(opened),
        "model_version": opened.model_version,
        "queries": str(queries),
        "queries_hash": storage.value_hash(ids.to_list()),
        "vectors_sha256": None if vectors is None else hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest(),
        "candidates": candidates,
        "k": k,
        "where": str(where) if isinstance(where, pl.Expr) else json.loads(json.dumps(where, default=_plain)),
        "exclude_hash": storage.value_hash(sorted(left_out)) if left_out else None,
        "per_author": per_author,
        "duplicates": duplicates,
        "diversity": diversity,
    }
    with progress.stage("neighbours") as stage, progress.track("neighbours", len(ids), "notes") as bar:
        width = min(k, max(finder.available, 1))

        def find(start: int, stop: int) -> tuple[list[pa.Table], int]:
            """The neighbours of some queries, and how many of these have fewer than k."""
            tables, short = [], 0
            for low in range(start, stop, BATCH_QUERIES):
                part = slice(low, min(low + BATCH_QUERIES, stop))
                block = opened.vectors(own[part]) if vectors is None else vectors[part]
                scores, rows = finder.find(block, width, exclude=own[part])
                bar.advance(len(block))
                tables.append(_table(ids[part], opened.ids, scores, rows))
                short += int((rows[:, -1] < 0).sum()) if width == k else len(rows)
            return tables, short

        starts = range(0, len(ids), SHARD_QUERIES)
        if target.suffix == ".parquet":
            parts = (find(start, min(start + SHARD_QUERIES, len(ids))) for start in starts)
            written, short = _write_file(target, parts, origin)
        else:
            folder = storage.ShardFolder(target, origin=origin)
            done = len(folder.shards)
            bar.advance(min(done * SHARD_QUERIES, len(ids)))
            for start in starts[done:]:
                tables, few = find(start, min(start + SHARD_QUERIES, len(ids)))
                folder.append(pa.concat_tables(tables), short=few)
            folder.commit()
            written, short = folder.rows, sum(shard["short"] for shard in folder.shards)
        stage.counts.update(rows_in=len(ids), rows_out=written, short=short)
        return NeighboursSummary(
            path=target,
            queries=len(ids),
            rows=written,
            short=short,
            k=k,
            candidates=finder.available,
            model_version=opened.model_version,
            seconds=stage.seconds,
        )


def _plain(value: Any) -> Any:
    """A value of a filter that JSON doesn't know."""
    return sorted(map(str, value)) if isinstance(value, set | frozenset) else str(value)


def _hashes(index: Searchable) -> Any:
    """What the files of an index were, so that a resumed job sees that they still are."""
    shards = index.shards if isinstance(index, MergedIndex) else (index,)
    return [
        {name: record.sha256 for name, record in shard.info.files.items()}
        for shard in shards
        if isinstance(shard, Index)
    ]


def _given_ids(ids: str | os.PathLike[str] | Iterable[str]) -> list[str]:
    """Ids as they are given, or those of a table, each once."""
    if not isinstance(ids, str | os.PathLike):
        return list(ids)
    table = schema.conform(storage.read_table(ids), NOTE_IDS, name=str(ids))
    return pl.Series(table["note_id"]).cast(pl.String).unique().to_list()


def _queries(index: Searchable, queries: str | os.PathLike[str]) -> tuple[pl.Series, Floats | None, Rows]:
    """Query ids; their vectors, None = those of the index; and each query's own row in the index, -1 = it isn't there."""
    if queries in ("all", "new", "warm"):
        asked = index.live
        if queries != "all":
            asked = asked & (index.new() if queries == "new" else ~index.new())
        rows = np.flatnonzero(asked).astype(np.int64)
        return index.ids.gather(rows), None, rows
    files = storage.parquet_files(_existing(queries))
    if files and "embedding" in pq.read_schema(files[0]).names:
        found = load_embeddings(queries)
        index.require_model(found.model_version)
        if found.dimension != index.dimension:
            raise InputError(f"{queries}: vectors of D = {found.dimension}, the index has D = {index.dimension}")
        return found.ids, found.vectors, _rows_of(index, found.ids)
    ids = pl.Series("note_id", _given_ids(queries), dtype=pl.String).sort()
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


def _rows_of(index: Searchable, ids: pl.Series) -> Rows:
    return index.rows_of(ids)


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


def _write_file(
    target: Path, parts: Iterable[tuple[list[pa.Table], int]], origin: dict[str, object]
) -> tuple[int, int]:
    """Write one file; returns its rows, and how many queries came up short."""
    written = short = 0
    metadata = {storage.ORIGIN: json.dumps(origin).encode()}
    with (
        storage.atomic_write(target) as file,
        pq.ParquetWriter(file, schema.NEIGHBOURS.with_metadata(metadata), compression="zstd") as writer,
    ):
        for tables, few in parts:
            for table in tables:
                writer.write_table(table.replace_schema_metadata(metadata))
                written += table.num_rows
            short += few
    return written, short
