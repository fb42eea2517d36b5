"""Embeddings to a searchable index: `noterec index E --notes DATASET --out I`.

Rows of the index are ordered by note_id, so equal scores break by id. Attributes of the notes lie beside the vectors in
the same order; a search filters on them exactly.
"""

from __future__ import annotations

import datetime
import difflib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from noterec import progress, schema, storage
from noterec.config import IndexConfig
from noterec.errors import InputError
from noterec.index import bundle
from noterec.index.vectors import Embeddings, load_embeddings
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

NOTE_IDS = pa.schema([schema.NOTES.field("note_id")])
New = str | os.PathLike[str] | Iterable[str]


@dataclass(frozen=True)
class IndexSummary:
    """What was built.

    Attributes:
        path: the index, to be given to `Index.open`.
        bundle: the live bundle's name.
        notes: notes in it.
        dimension: D.
        model_version: of the vectors.
        left_out: vectors whose note the dataset no longer has.
        without_vector: notes of the dataset that have no vector.
        new: notes marked as new, None where nothing marks them.
        bytes_per_note: size of the bundle's files per note.
        seconds: wall-clock time of the build.
        removed: older bundles that were removed.
    """

    path: Path
    bundle: str
    notes: int
    dimension: int
    model_version: str
    left_out: int
    without_vector: int
    new: int | None
    bytes_per_note: float
    seconds: float
    removed: list[str]


def build_index(
    embeddings: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    notes: str | os.PathLike[str] | None = None,
    new: New | None = None,
    config: IndexConfig = IndexConfig(),
) -> IndexSummary:
    """Build an exact inner-product index and make it the live one; the old one stays live until then.

    Args:
        embeddings: the embeddings table.
        out: folder of the index, new or with earlier bundles.
        notes: dataset whose live notes are kept, with the attribute columns named in `config`; None keeps every vector
            and has no attributes.
        new: which notes are new: a Parquet table with a note_id column, or the ids. Kept as boolean attribute `new`.
        config: the settings.

    Returns:
        Counts, size and seconds.

    Raises:
        InputError: the embeddings, the dataset or the `new` table don't fit or have no note in common.
        ArtefactError: the embeddings mix model versions.
        DependencyError: faiss isn't installed.
    """
    faiss = bundle.import_faiss()
    target = storage.local(out)
    with progress.stage("index") as stage, progress.track("index", 3, "steps") as bar:
        found = load_embeddings(embeddings)
        bar.advance()
        rows, without_vector = _rows(found, notes, config)
        if new is not None:
            rows = _mark_new(rows, new)
        vectors = found.vectors if rows.height == len(found) else found.vectors[rows["row"].to_numpy()]
        index = faiss.IndexFlatIP(found.dimension)
        index.add(vectors)
        bar.advance()
        left_out = len(found) - rows.height
        with bundle.building(target) as aside:
            faiss.write_index(index, str(aside / bundle.FAISS_FILE))
            storage.write_table(
                rows.drop("row").to_arrow(compat_level=pl.CompatLevel.oldest()), aside / bundle.NOTES_FILE
            )
            files = bundle.record_files(aside)
            info = bundle.BundleInfo(
                kind="flat",
                model_version=found.model_version,
                dimension=found.dimension,
                count=rows.height,
                new_from=None if new is None else (str(new) if isinstance(new, str | os.PathLike) else "a list of ids"),
                left_out=left_out,
                without_vector=without_vector,
                files=files,
                bytes_per_note=round(sum(record.bytes for record in files.values()) / rows.height, 1),
                build_seconds=round(stage.seconds, 3),
                created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                config=config.model_dump(mode="json"),
                origin={
                    "embeddings": str(embeddings),
                    "notes": None if notes is None else str(notes),
                    "embeddings_origin": storage.read_origin(embeddings),
                },
            )
            storage.write_json(aside / bundle.BUNDLE_FILE, info.model_dump(mode="json"))
            folder, removed = bundle.publish(target, aside, keep=config.keep)
        bar.advance()
        stage.counts.update(rows_in=len(found) + found.superseded, rows_out=rows.height, left_out=left_out)
        stage.counts.update(without_vector=without_vector, bundle=folder.name)
        return IndexSummary(
            path=target,
            bundle=folder.name,
            notes=rows.height,
            dimension=found.dimension,
            model_version=found.model_version,
            left_out=left_out,
            without_vector=without_vector,
            new=int(rows["new"].sum()) if "new" in rows.columns and rows["new"].dtype == pl.Boolean else None,
            bytes_per_note=info.bytes_per_note,
            seconds=stage.seconds,
            removed=removed,
        )


def _rows(found: Embeddings, notes: str | os.PathLike[str] | None, config: IndexConfig) -> tuple[pl.DataFrame, int]:
    """The notes of the index by note_id: their row in `found`, and their attributes; and how many have no vector."""
    rows = pl.DataFrame({"note_id": found.ids}).with_row_index("row")
    if notes is None:
        return rows, 0
    dataset = Dataset(notes)
    live = dataset.notes(_known_attributes(dataset, config.attributes))
    kept = rows.join(live, on="note_id", how="inner", maintain_order="left")
    if not kept.height:
        raise InputError(
            f"{notes}: has none of the {len(found)} notes that have a vector (the first is {found.ids[0]!r}); expected "
            "the dataset that was embedded"
        )
    return kept, live.height - kept.height


def _known_attributes(dataset: Dataset, attributes: list[str]) -> list[str]:
    """The attribute columns, after a check that each is a column of the notes schema or of some file."""
    known = dict.fromkeys(schema.NOTES.names)
    for file in dataset.note_files:
        with storage.open_parquet(file) as parquet:
            known.update(dict.fromkeys(parquet.schema_arrow.names))
    for name in attributes:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"the columns are {', '.join(known)}"
            raise InputError(f"{dataset.path}: the notes have no column {name!r} to keep as an attribute; {hint}")
    return [name for name in dict.fromkeys(attributes) if name != "note_id"]


def _mark_new(rows: pl.DataFrame, new: New) -> pl.DataFrame:
    if "new" in rows.columns:
        raise InputError("`new` is given and is also an attribute column of the notes; leave one of the two out")
    name = "the list of new notes"
    if isinstance(new, str | os.PathLike):
        name = str(new)
        table = schema.conform(storage.read_table(new), NOTE_IDS, name=name)
        marked = pl.Series("note_id", table["note_id"]).cast(pl.String)
    else:
        marked = pl.Series("note_id", list(new), dtype=pl.String)
    rows = rows.with_columns(pl.col("note_id").is_in(marked.unique().to_list()).alias("new"))
    count = int(rows["new"].sum())
    if marked.len() and not count:
        raise InputError(
            f"{name}: none of its {marked.len()} notes is in the index (the first is {marked[0]!r}); expected new notes "
            "of the same dataset that have been embedded"
        )
    if count < marked.n_unique():
        logger.warning("%s: %d of %d notes are not in the index", name, marked.n_unique() - count, marked.n_unique())
    return rows
