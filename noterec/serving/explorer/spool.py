"""The texts of a dataset's notes as one Arrow file, cut to what a person looks at, with where each note stands in the dataset.

The file has no name and is mapped into memory: whatever the dataset's size, only what is looked at is ever read, and nothing
stays behind, however the process ends.
"""

from __future__ import annotations

import mmap
import tempfile
import unicodedata
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema
from noterec.notes.dataset import Dataset

MAX_TITLE, MAX_CONTENT, MAX_TAGS, MAX_TAG = 500, 10_000, 50, 100  # what a card shows: characters, and hashtags
MAX_NAME = 500  # characters of a category, an author, a language
_MAX_FOLDED = 400  # characters of a note that a search looks through
_BATCH_ROWS = 8192
_COLUMNS = ["title", "content", "hashtags", "category", "author_id", "language", "created_at", "exposure"]
SPOOL = pa.schema(
    [
        ("note_id", pa.string()),
        ("title", pa.string()),
        ("content", pa.string()),
        ("content_length", pa.int64()),
        ("hashtags", pa.list_(pa.string())),
        ("category", pa.string()),
        ("author_id", pa.string()),
        ("language", pa.string()),
        ("created_at", schema.TIMESTAMP),
        ("exposure", pa.int64()),
        ("images", pa.int64()),
        ("file", pa.int32()),
        ("row", pa.int64()),
        ("folded", pa.string()),
    ]
)


def spooled(dataset: Dataset) -> list[pa.RecordBatch]:
    """What cards show of the live notes, in the dataset's order: batches of the schema `SPOOL`, on disk and mapped.

    `folded` is what a search compares; `file` (its number among `note_files`) and `row` say where the note's pictures are. The
    disk is given back when the last batch is let go.

    Raises:
        InputError: a file is damaged, or its columns don't fit.
    """
    with tempfile.TemporaryFile() as file:
        _write(dataset, file)
        file.flush()
        reader = pa.ipc.open_file(pa.py_buffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
        return [reader.get_batch(number) for number in range(reader.num_record_batches)]


def _write(dataset: Dataset, file: BinaryIO) -> None:
    counts = dataset.image_counts()
    with pa.ipc.new_file(file, SPOOL) as writer:
        for number, rows, table in dataset.located_batches(_COLUMNS, batch_rows=_BATCH_ROWS):
            conformed = schema.conform(table, schema.NOTES, name="notes")
            ids = pl.DataFrame({"note_id": pl.Series(conformed["note_id"], dtype=pl.String)})
            images = ids.join(counts, on="note_id", how="left", maintain_order="left")["images"].fill_null(0)
            writer.write_batch(_shown(conformed, images.to_list(), number, rows))


def _shown(table: pa.Table, images: Iterable[int], number: int, rows: np.ndarray) -> pa.RecordBatch:
    content = table["content"]
    tags = [[tag[:MAX_TAG] for tag in (tags or [])[:MAX_TAGS] if tag] for tags in table["hashtags"].to_pylist()]
    titles = pc.utf8_slice_codeunits(table["title"], 0, MAX_TITLE)
    words = [folded(title, some) for title, some in zip(titles.to_pylist(), tags, strict=True)]
    columns = {
        "note_id": table["note_id"],
        "title": titles,
        "content": pc.utf8_slice_codeunits(content, 0, MAX_CONTENT),
        "content_length": pc.utf8_length(content).fill_null(0),
        "hashtags": pa.array(tags, pa.list_(pa.string())),
        **{name: pc.utf8_slice_codeunits(table[name], 0, MAX_NAME) for name in ("category", "author_id", "language")},
        "created_at": table["created_at"],
        "exposure": table["exposure"],
        "images": pa.array(images, pa.int64()),
        "file": pa.array(np.full(len(rows), number, dtype=np.int32)),
        "row": pa.array(rows),
        "folded": pa.array(words, pa.string()),
    }
    whole = pa.table({name: columns[name] for name in SPOOL.names}).cast(SPOOL).combine_chunks()
    (batch,) = whole.to_batches(max_chunksize=max(1, len(rows)))
    return batch


def folded(title: str | None, hashtags: Iterable[str]) -> str:
    """What a search looks through of a note: its title, then its hashtags."""
    tags = (f"#{fold(tag.lstrip('#'))}" for tag in hashtags)
    return " ".join([fold((title or "")[:_MAX_FOLDED]), *tags])[:_MAX_FOLDED].strip()


def fold(text: str) -> str:
    """Text as a search compares it: case, width and spacing don't count."""
    return " ".join(unicodedata.normalize("NFKC", sound(text)).casefold().split())


def sound(text: str) -> str:
    """Text without lone surrogates, which a query string or JSON may hold and UTF-8 can't."""
    return text.encode("utf-8", "replace").decode()
