"""What an index keeps of its notes beside their vectors: columns of the dataset, and the mark of the new ones."""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Iterable

import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.errors import InputError
from noterec.index.filters import id_series
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

NOTE_IDS = pa.schema([schema.NOTES.field("note_id")])
New = str | os.PathLike[str] | Iterable[str]


def known_attributes(dataset: Dataset, attributes: list[str]) -> list[str]:
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


def mark_new(rows: pl.DataFrame, new: New) -> pl.DataFrame:
    """The notes of an index with a boolean column `new`.

    Args:
        rows: note_id and attributes.
        new: a Parquet table with a note_id column, or the ids.

    Raises:
        InputError: none of the new notes is in the index.
    """
    if "new" in rows.columns:
        raise InputError("`new` is given and is also an attribute column of the notes; leave one of the two out")
    name = "the list of new notes"
    if isinstance(new, str | os.PathLike):
        name = str(new)
        table = schema.conform(storage.read_table(new), NOTE_IDS, name=name)
        marked = pl.Series("note_id", table["note_id"]).cast(pl.String)
    else:
        marked = id_series(new, "new")
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
