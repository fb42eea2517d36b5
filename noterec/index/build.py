"""Embeddings to a searchable index: `noterec index E --notes DATASET --out I`.

Rows of the index are ordered by note_id, so equal scores break by id. Attributes of the notes lie beside the vectors in
the same order; a search filters on them exactly.
"""

from __future__ import annotations

import datetime
import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from numpy.typing import NDArray

from noterec import progress, storage
from noterec.config import IndexConfig
from noterec.config.index import Kind
from noterec.index import bundle, changes, gate, gpu, kinds, publishing
from noterec.index.attributes import New, known_attributes, mark_new
from noterec.index.changing import collect
from noterec.index.lexical import build_lexical
from noterec.index.plan import plan
from noterec.index.searchers import Approximate, Exact
from noterec.index.vectors import write_vectors
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexSummary:
    """What was built.

    Attributes:
        path: the index, to be given to `Index.open`.
        bundle: its name; .candidate where it wasn't published.
        kind: of the index, and why it was chosen.
        effort: the tuned search effort, None for an exact index.
        recall: share of the exact neighbours that are found.
        query_ms: one query alone, median.
        notes: notes in it.
        dimension: D.
        model_version: of the vectors.
        left_out: vectors whose note the dataset no longer has.
        removed: vectors whose note was removed from the index.
        without_vector: notes of the dataset that have no vector.
        new: notes marked as new, None where nothing marks them.
        memory_per_note: bytes of the served index, attributes not counted.
        disk_per_note: bytes of the bundle's files.
        predicted: the same figures as they were expected before.
        seconds: wall-clock time of the build.
        dropped: older bundles that were deleted.
    """

    path: Path
    bundle: str
    kind: str
    effort: str | None
    recall: str
    query_ms: float
    notes: int
    dimension: int
    model_version: str
    left_out: int
    removed: int
    without_vector: int
    new: int | None
    memory_per_note: float
    disk_per_note: float
    predicted: dict[str, float]
    seconds: float
    dropped: list[str]


def build_index(
    embeddings: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    notes: str | os.PathLike[str] | None = None,
    new: New | None = None,
    config: IndexConfig = IndexConfig(),
    publish: bool = True,
    say: Callable[[str], None] = logger.info,
) -> IndexSummary:
    """Build an inner-product index and make it the live one if its recall is good enough; the old one stays live until then.

    Args:
        embeddings: the embeddings table; it may be larger than memory.
        out: folder of the index, new or with earlier bundles.
        notes: dataset whose live notes are kept, with the attribute columns named in `config`; None keeps every vector
            and has no attributes.
        new: which notes are new: a Parquet table with a note_id column, or the ids. Kept as boolean attribute `new`.
        config: the settings.
        publish: False = keep the bundle beside the live one, as the candidate that `publish_candidate` makes live; one at a time.
        say: told the choice of the kind and its predicted cost before it is built.

    Returns:
        Counts, recall, sizes and seconds.

    Raises:
        InputError: the embeddings, the dataset or the `new` table don't fit or have no note in common.
        ArtefactError: the embeddings mix model versions.
        ConfigError: the kind doesn't fit the memory or the dimension.
        GateError: the recall is below its target; the old bundle stays live.
        DependencyError: faiss isn't installed.
    """
    bundle.import_faiss()
    chosen = gpu.choose(config.device)
    target = storage.local(out)
    files = storage.parquet_files(embeddings)
    dataset = None if notes is None else Dataset(notes)
    columns = [] if dataset is None else known_attributes(dataset, config.attributes)
    with progress.stage("index") as stage, publishing.building(target) as aside:
        live_before = bundle.live_name(target)
        before = changes.read(target)  # first: what is changed from here on counts over what is read from here on
        live = None if dataset is None else dataset.notes(columns)
        keep = None if live is None else live["note_id"]
        with progress.track("read", _rows(files), "vectors") as bar:
            found = write_vectors(
                embeddings,
                aside / bundle.VECTORS_FILE,
                keep=keep,
                drop=before.removed,
                dtype=config.dtype,
                advance=bar.advance,
            )
        removed = found.dropped
        rows = pl.DataFrame({"note_id": found.ids})
        if live is not None:
            rows = rows.join(live, on="note_id", how="left", maintain_order="left")
        without_vector = 0 if live is None else live.height - rows.height - _common(live["note_id"], before.removed)
        if new is not None:
            rows = mark_new(rows, new)
        storage.write_table(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), aside / bundle.NOTES_FILE)
        planned = plan(found.vectors, config)
        say(
            f"{planned.kind}: {planned.reason}. Expected: {planned.bytes_per_note:,.0f} bytes of memory a note, "
            f"{planned.build_seconds:,.1f} s to build, {planned.query_ms:.2f} ms a query"
        )
        built = searchable(found.vectors, planned.kind, aside, config, chosen, live=live_before)
        if dataset is not None and config.lexical:
            build_lexical(dataset, found.ids, aside)
        records = publishing.record_files(aside)
        info = bundle.BundleInfo(
            kind=planned.kind,
            reason=planned.reason,
            recipe=kinds.recipe(planned.kind, found.dimension, len(found)),
            knob=built.effort.knob,
            refine=built.effort.refine,
            recall=built.recall,
            query_ms=round(built.query_ms, 4),
            predicted={
                "bytes_per_note": planned.bytes_per_note,
                "build_seconds": planned.build_seconds,
                "query_ms": planned.query_ms,
            },
            model_version=found.model_version,
            dimension=found.dimension,
            count=len(found),
            previous=live_before,
            changes_through=before.through,
            added_days=config.added_days,
            removed=removed,
            new_from=None if new is None else (str(new) if isinstance(new, str | os.PathLike) else "a list of ids"),
            left_out=found.total - len(found) - removed,
            without_vector=without_vector,
            files=records,
            bytes_per_note=round(sum(record.bytes for record in records.values()) / len(found), 1),
            build_seconds=round(built.seconds, 3),
            created=datetime.datetime.now(datetime.UTC),
            config=config.model_dump(mode="json"),
            origin={
                "embeddings": str(embeddings),
                "notes": None if notes is None else str(notes),
                "embeddings_origin": storage.read_origin(embeddings),
            },
        )
        storage.write_json(aside / bundle.BUNDLE_FILE, info.model_dump(mode="json"))
        dropped: list[str] = []
        if publish:
            folder = publishing.publish(target, aside)
            collect(target)
            dropped = publishing.prune(target, keep=config.keep, before=live_before)
        else:
            folder = publishing.keep_aside(target, aside)
        stage.counts.update(rows_in=found.total + found.superseded, rows_out=len(found), left_out=info.left_out)
        stage.counts.update(without_vector=without_vector, removed=removed, bundle=folder.name, kind=info.kind)
        return IndexSummary(
            path=target,
            bundle=folder.name,
            kind=f"{info.kind} ({info.recipe}): {info.reason}",
            effort=None if info.kind == "flat" else str(built.effort),
            recall=f"{info.recall.value:.4f} of the {info.recall.at} nearest, target {info.recall.target}",
            query_ms=info.query_ms,
            notes=len(found),
            dimension=found.dimension,
            model_version=found.model_version,
            left_out=info.left_out,
            removed=removed,
            without_vector=without_vector,
            new=int(rows["new"].sum()) if "new" in rows.columns and rows["new"].dtype == pl.Boolean else None,
            memory_per_note=built.memory_per_note,
            disk_per_note=info.bytes_per_note,
            predicted=info.predicted,
            seconds=stage.seconds,
            dropped=dropped,
        )


@dataclass(frozen=True)
class Built:
    """What training, filling and measuring gave."""

    effort: kinds.Effort
    recall: bundle.RecallRecord
    query_ms: float
    memory_per_note: float
    seconds: float


def searchable(
    vectors: NDArray[Any], kind: Kind, aside: Path, config: IndexConfig, chosen: gpu.Device | None, *, live: str | None
) -> Built:
    """Build the FAISS index of a bundle into its folder, tune it, and let it through the gate.

    Raises:
        GateError: its recall is below the target.
    """
    start = time.perf_counter()
    count = len(vectors)
    index = None
    if kind == "flat":
        searcher: Exact | Approximate = Exact(vectors, device=chosen)
        effort, memory = kinds.Effort(1), float(4 * vectors.shape[1])
    else:
        with progress.track(kind, count, "notes") as bar:
            index = kinds.make(kind, vectors, seed=config.seed, advance=bar.advance, device=chosen)
        file = aside / bundle.FAISS_FILE
        bundle.import_faiss().write_index(index, str(file))
        memory = round(file.stat().st_size / count, 1)
    seconds = time.perf_counter() - start
    if count == 1:  # nobody to miss
        record = bundle.RecallRecord(value=1.0, at=config.recall_at, target=config.recall_target, queries=0)
        return Built(kinds.Effort(1), record, 0.0, memory, seconds)
    known = gate.truth(vectors, config)
    if index is not None:
        searcher = gate.tune(index, kind, vectors, known.half(0), config.recall_target, device=chosen)
        effort = searcher.effort
    measured = known.half(1)
    record = gate.check(searcher, measured, config, kind=kind, live=live)
    return Built(effort, record, gate.query_ms(searcher, measured), memory, seconds)


def _rows(files: list[storage.Place]) -> int:
    total = 0
    for file in files:
        with storage.open_parquet(file) as parquet:
            total += parquet.metadata.num_rows
    return total


def _common(ids: pl.Series, others: pl.Series) -> int:
    return int(ids.is_in(others.implode()).sum()) if len(others) else 0
