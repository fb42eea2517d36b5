"""An index into a vector database: `noterec export INDEX --to milvus --uri notes.db`.

Ids, vectors and attributes go into a Milvus collection with inner product, the index's own metric. It is filled under another
name, asked the same questions as the index, and takes its name only if it answers alike.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import progress
from noterec.errors import GateError, InputError
from noterec.index.milvus import NAME, Field, attribute_fields, connected, create, entities, named, stored
from noterec.index.search import Index
from noterec.index.searchable import Searchable
from noterec.index.selection import find

IndexType = Literal["FLAT", "HNSW", "IVF_FLAT", "AUTOINDEX"]

BATCH_ROWS = 2000
BATCH_BYTES = 8 << 20  # Milvus takes 64 MiB in one message
SAMPLE = 100  # queries that both must answer alike
K = 10
TOLERANCE = 1e-4  # between cosines of two ways of summing float32
AGREEMENT = {"FLAT": 0.999}  # share of the ranks; an approximate index of Milvus may miss some
APPROXIMATE = 0.95


@dataclass(frozen=True)
class ExportSummary:
    """What was exported.

    Attributes:
        to: the kind of database.
        uri: where, without a password.
        collection: its name.
        notes: rows in it.
        dimension: D.
        fields: its columns and their types.
        model_version: of the vectors.
        queries: notes that were asked for in both.
        agreement: share of their first 10 ranks at which the collection found a note as good as the index did.
        seconds: wall-clock time.
    """

    to: str
    uri: str
    collection: str
    notes: int
    dimension: int
    fields: dict[str, str]
    model_version: str
    queries: int
    agreement: float
    seconds: float


def export(
    index: str | os.PathLike[str] | Searchable,
    *,
    uri: str,
    to: Literal["milvus"] = "milvus",
    collection: str = "noterec",
    token: str | None = None,
    index_type: IndexType = "FLAT",
    overwrite: bool = False,
    seed: int = 0,
) -> ExportSummary:
    """Copy the live notes of an index into a collection, and check that it answers as the index does.

    The collection has a VARCHAR primary key note_id, a FLOAT_VECTOR embedding (metric IP; vectors are unit-norm, so a score is a
    cosine), and a nullable field for every attribute: text as VARCHAR, whole numbers as INT64, others as FLOAT or DOUBLE,
    truth values as BOOL, times as INT64 microseconds since 1970 UTC, lists as ARRAY. A killed export leaves a collection
    NAME_building_... that the next one removes, and never half of the collection that was asked for.

    Args:
        index: the index, a `MergedIndex`, or an index's folder.
        uri: a server such as http://localhost:19530, or a file ending in .db for Milvus Lite.
        to: the kind of database.
        collection: its name.
        token: as the server wants it, "user:password" or an API key.
        index_type: of the vector field. FLAT is exact; the others may miss notes.
        overwrite: replace a collection that has this name.
        seed: of the sample of queries.

    Raises:
        InputError: the collection exists, the name or an attribute doesn't fit Milvus, or the server can't be reached.
        DependencyError: pymilvus, or milvus-lite for a file, isn't installed.
        GateError: the collection answers otherwise than the index; it was removed again, and an older one still stands.
    """
    if to != "milvus":
        raise InputError(f"to={to!r}; expected 'milvus'")
    if index_type not in get_args(IndexType):
        raise InputError(f"index_type={index_type!r}; expected one of {', '.join(get_args(IndexType))}")
    if not re.fullmatch(NAME, collection):
        raise InputError(
            f"collection {collection[:80]!r}: Milvus wants a letter or _ first, then letters, digits and _, up to 200 in all"
        )
    opened = Index.open(index) if isinstance(index, str | os.PathLike) else index
    rows = np.flatnonzero(opened.live)  # (R,)
    attributes = opened.attributes[rows]
    fields = attribute_fields(attributes)
    building = f"{collection}_building_"
    with (
        progress.stage("export") as stage,
        progress.track("export", len(rows), "notes") as bar,
        connected(uri, token) as client,
    ):
        there = client.list_collections()
        if collection in there and not overwrite:
            raise InputError(
                f"{named(uri)}: there is a collection {collection!r} already; give another name, or --overwrite to replace it"
            )
        for leftover in (name for name in there if name.startswith(building)):
            client.drop_collection(leftover)
        aside = building + secrets.token_hex(4)
        create(client, aside, fields, opened.dimension, index_type)
        try:
            for part in _batches(attributes, opened.dimension):
                client.insert(aside, entities(attributes[part], opened.vectors(rows[part]), fields))
                bar.advance(part.stop - part.start)
            client.flush(aside)
            client.load_collection(aside)
            queries, agreement = _compare(client, aside, opened, rows, fields, seed)
            wanted = AGREEMENT.get(index_type, APPROXIMATE)
            if agreement < wanted:
                raise GateError(
                    f"{named(uri)}: the collection finds {agreement:.1%} of what the index finds (first {K} of {queries} sampled "
                    f"notes); expected {wanted:.1%}; it was not put in place: choose index type FLAT, which is exact"
                )
            _put_in_place(client, aside, collection, replace=collection in there)
        except BaseException:
            with contextlib.suppress(Exception):  # where the server is gone, the next export removes it
                client.drop_collection(aside)
            raise
        stage.counts.update(rows_in=len(opened), rows_out=len(rows), agreement=agreement)
        return ExportSummary(
            to=to,
            uri=named(uri),
            collection=collection,
            notes=len(rows),
            dimension=opened.dimension,
            fields={name: field.shown for name, field in fields.items()},
            model_version=opened.model_version,
            queries=queries,
            agreement=agreement,
            seconds=stage.seconds,
        )


def _batches(attributes: pl.DataFrame, dimension: int) -> Iterator[slice]:
    """Parts of the rows, each at most 2,000 and about 8 MiB, however long the texts are."""
    texts = [pl.col(name).str.len_bytes().fill_null(0) for name, kind in attributes.schema.items() if kind == pl.String]
    sizes = (
        attributes.select(pl.sum_horizontal(texts).cast(pl.Int64)).to_series().to_numpy() + 4 * dimension
    )  # (R,) bytes
    start = size = 0
    for row, more in enumerate(sizes.tolist()):
        if row > start and (row - start >= BATCH_ROWS or size + more > BATCH_BYTES):
            yield slice(start, row)
            start, size = row, 0
        size += more
    if start < len(sizes):
        yield slice(start, len(sizes))


def _compare(
    client: Any, collection: str, index: Searchable, rows: NDArray[np.int64], fields: dict[str, Field], seed: int
) -> tuple[int, float]:
    """Ask a sample of notes in both: how many were asked, and the share of ranks at which the collection is as good.

    Raises:
        GateError: a row is missing, or a note has another vector or attribute there than in the index.
    """
    count = client.query(collection, filter="", output_fields=["count(*)"])[0]["count(*)"]
    if count != len(rows):
        raise GateError(f"the collection has {count} rows after {len(rows)} were written; it was removed: export again")
    if not len(rows):
        return 0, 1.0
    sample = np.sort(np.random.default_rng(seed).choice(rows, size=min(SAMPLE, len(rows)), replace=False))
    queries = index.vectors(sample)  # (Q, D)
    k = min(K, len(rows))
    scores, _ = find(index, queries, k)
    hits = client.search(collection, data=list(queries), limit=k, output_fields=list(fields))
    found = pl.DataFrame(
        {
            "query": np.repeat(np.arange(len(hits)), [len(part) for part in hits]),
            "note_id": pl.Series([hit["note_id"] for part in hits for hit in part], dtype=pl.String),
            "score": pl.Series([hit["distance"] for part in hits for hit in part], dtype=pl.Float64),
        }
    )
    places = pl.DataFrame({"note_id": index.ids}).with_row_index("row")[rows]
    found = found.join(places, on="note_id", how="left", maintain_order="left")
    if found["row"].null_count():
        raise GateError(
            f"the collection has a note {found.filter(pl.col('row').is_null())['note_id'][0][:80]!r} of its own"
        )
    own = found["row"].to_numpy()
    cosines = np.einsum("hd,hd->h", index.vectors(own), queries[found["query"].to_numpy()], dtype=np.float64)
    wrong = np.abs(cosines - found["score"].to_numpy()) > TOLERANCE
    if wrong.any():
        first = int(np.argmax(wrong))
        raise GateError(
            f"note {found['note_id'][first][:80]!r} scores {found['score'][first]:.6f} in the collection and {cosines[first]:.6f} "
            "in the index; the vectors differ: export again"
        )
    kept = index.attributes[own]
    for name, field in fields.items():
        there = [stored(hit["entity"].get(name)) for part in hits for hit in part]
        here = [stored(value) for value in field.values(kept[name])]
        if (
            differs := next((i for i, pair in enumerate(zip(there, here, strict=True)) if pair[0] != pair[1]), None)
        ) is not None:
            raise GateError(
                f"note {found['note_id'][differs][:80]!r} has {name} = {str(there[differs])[:80]} in the collection and "
                f"{str(here[differs])[:80]} in the index; export again"
            )
    best = np.full((len(hits), k), -np.inf)
    for number, part in enumerate(hits):
        best[number, : len(part)] = [hit["distance"] for hit in part]
    return len(sample), round(float((best >= scores - TOLERANCE).mean()), 6)


def _put_in_place(client: Any, aside: str, collection: str, *, replace: bool) -> None:
    """Give a filled collection its name; the old one goes only when the new one stands."""
    if not replace:
        client.rename_collection(aside, collection)
        return
    old = f"{aside}_old"
    client.rename_collection(collection, old)
    try:
        client.rename_collection(aside, collection)
    except BaseException:
        client.rename_collection(old, collection)
        raise
    client.drop_collection(old)
