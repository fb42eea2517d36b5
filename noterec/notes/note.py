"""One note as a Python object, and any collection of notes as the notes table."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema
from noterec.errors import InputError

ENCODED_COLUMNS = ("title", "hashtags", "content")  # the text that an embedding depends on
BATCH_ROWS = 8192
NOTHING = pa.scalar(b"", pa.large_binary())


@dataclasses.dataclass(frozen=True, slots=True)
class Note:
    """A note as a person posts it: `Note(title="Cold brew at home", content="...", hashtags=["coffee"])`.

    Text may be anything, of any length: it can't break the prompt, and what is beyond the model's limits is cut. An image is a
    file's bytes, or a mapping with `bytes` or `path`, as in the images column.
    """

    title: str | None = None
    content: str | None = None
    hashtags: list[str] = dataclasses.field(default_factory=list)
    note_id: str = ""
    category: str | None = None
    author_id: str | None = None
    language: str | None = None
    created_at: dt.datetime | None = None
    images: list[Any] = dataclasses.field(default_factory=list)


def as_table(notes: Any) -> pa.Table:
    """Any collection of notes as a table of the notes schema.

    Args:
        notes: a pyarrow.Table, a polars.DataFrame, one `Note` or dict, or an iterable of them. A note without an id gets
            its position as one.

    Returns:
        A table of B rows in the order given.

    Raises:
        InputError: an item is no note, or a field has the wrong type.
    """
    if isinstance(notes, pa.Table):
        table = notes
    elif hasattr(notes, "to_arrow"):
        table = notes.to_arrow()
    else:
        items = [notes] if isinstance(notes, Note | Mapping) else notes
        if isinstance(items, str) or not isinstance(items, Iterable):
            raise InputError(
                f"notes: given {type(notes).__name__}; expected a table, or an iterable of noterec.Note or dict"
            )
        table = _from_items(items)
    if "note_id" not in table.column_names:
        ids = pa.array([str(row) for row in range(table.num_rows)])
        table = table.add_column(0, "note_id", ids)
    return schema.conform(table, schema.NOTES, name="notes")


def _from_items(items: Iterable[Any]) -> pa.Table:
    rows: list[dict[str, Any]] = []
    for position, item in enumerate(items):
        if isinstance(item, Note):
            row = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
        elif isinstance(item, Mapping):
            row = dict(item)
            unknown = [key for key in row if key not in schema.NOTES.names]
            if unknown:
                raise InputError(
                    f"notes[{position}]: unknown field {unknown[0]!r}; expected some of {', '.join(schema.NOTES.names)}"
                )
        else:
            raise InputError(f"notes[{position}]: given {type(item).__name__}; expected noterec.Note or dict")
        given = row.get("note_id")
        row["note_id"] = str(position if given is None or given == "" else given)
        if isinstance(row.get("hashtags"), str):
            raise InputError(f"notes[{position}]: hashtags is one string; expected a list of strings")
        row["images"] = _images(row.get("images"), position)
        rows.append({key: _sound(value) for key, value in row.items()})
    try:
        return pa.Table.from_pylist(rows, schema=schema.NOTES)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeEncodeError) as error:
        raise InputError(f"notes: a field has the wrong type: {error}") from error


def _images(images: Any, position: int) -> list[dict[str, Any]] | None:
    """Images as the images column holds them."""
    if images is None:
        return None
    if not isinstance(images, list | tuple):
        raise InputError(
            f"notes[{position}]: images is {type(images).__name__}; expected a list of bytes, or of mappings with bytes or path"
        )
    entries = []
    for image in images:
        if isinstance(image, Mapping):
            entries.append({"bytes": image.get("bytes"), "path": image.get("path")})
        elif isinstance(image, bytes | bytearray | memoryview):
            entries.append({"bytes": bytes(image), "path": None})
        else:
            raise InputError(
                f"notes[{position}]: an image is {type(image).__name__}; expected a file's bytes, or {{'path': ...}} together with "
                "an image root"
            )
    return entries


def _sound(value: Any) -> Any:
    """Text without lone surrogates, which JSON from elsewhere may hold and UTF-8 can't."""
    if isinstance(value, list):
        return [_sound(part) for part in value]
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def texts(table: pa.Table) -> list[tuple[str, list[str], str]]:
    """(title, hashtags, content) of every note, nulls as empty."""
    columns = [table.column(name).to_pylist() for name in ENCODED_COLUMNS]
    return [
        (title or "", [tag for tag in hashtags or [] if tag], content or "")
        for title, hashtags, content in zip(*columns, strict=True)
    ]


def content_hashes(table: pa.Table, stamps: Sequence[Sequence[bytes]] | None = None) -> np.ndarray:
    """A hash of what an embedding depends on: (B,) uint64, the same on every machine and in every version.

    Nulls count as empty. Fields are separated by their lengths, so no text can be moved from one to the next.

    Args:
        table: B notes.
        stamps: what tells each note's pictures from others (`ImageSource.stamp`); None = text alone. A note without pictures has
            the hash of its text.
    """
    hashes = np.empty(table.num_rows, dtype=np.uint64)
    start = 0
    for batch in _text_batches(table):
        contents = _contents(batch)
        if stamps is not None:
            pictures = (_stamped(entries) for entries in stamps[start : start + len(contents)])
            contents = [before + content for before, content in zip(pictures, contents, strict=True)]
        digests = b"".join([hashlib.blake2b(content, digest_size=8).digest() for content in contents])
        hashes[start : start + len(contents)] = np.frombuffer(digests, dtype="<u8")
        start += len(contents)
    return hashes


def _text_batches(table: pa.Table) -> list[pa.RecordBatch]:
    """The encoded columns in parts without chunks, small enough that working on one costs no memory to speak of."""
    batches: list[pa.RecordBatch] = table.select(ENCODED_COLUMNS).to_batches(max_chunksize=BATCH_ROWS)
    return batches


def _contents(batch: pa.RecordBatch) -> list[bytes]:
    """Title, content and hashtags of every note as one string of bytes, each part behind its length.

    Put together by Arrow, column by column: several times as fast as note by note in Python.
    """
    tags, owners = _hashtags(batch["hashtags"])
    full = np.asarray(pc.binary_length(tags).fill_null(0).to_numpy(zero_copy_only=False)) > 0
    parts = _measured(tags.filter(pa.array(full, pa.bool_())))
    ends = np.searchsorted(owners[full], np.arange(batch.num_rows + 1))  # (B + 1,) in tags, since owners ascend
    lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), parts)
    joined = pc.binary_join(lists, NOTHING)
    whole = pc.binary_join_element_wise(_measured(batch["title"]), _measured(batch["content"]), joined, NOTHING)
    contents: list[bytes] = whole.to_pylist()
    return contents


def _hashtags(lists: pa.Array) -> tuple[pa.Array, np.ndarray]:
    """All hashtags of B notes in a row, and the note of each: (t,) int64, ascending."""
    return pc.list_flatten(lists), np.asarray(pc.list_parent_indices(lists).to_numpy(), dtype=np.int64)


def _measured(column: pa.Array) -> pa.Array:
    """Texts as bytes, nulls as empty, each behind its length as eight bytes."""
    data = column.cast(pa.large_binary()).fill_null(NOTHING)
    lengths = np.asarray(pc.binary_length(data).to_numpy(zero_copy_only=False), dtype="<i8")
    eights = np.arange(0, 8 * len(data) + 1, 8, dtype=np.int64)
    buffers = [None, pa.py_buffer(eights), pa.py_buffer(lengths)]
    return pc.binary_join_element_wise(pa.Array.from_buffers(pa.large_binary(), len(data), buffers), data, NOTHING)


def _stamped(stamps: Sequence[bytes]) -> bytes:
    """What stands before the text of a note with pictures; nothing for one without."""
    if not stamps:
        return b""
    return b"images" + b"".join(len(stamp).to_bytes(8, "little") + stamp for stamp in stamps)


def image_counts(table: pa.Table) -> np.ndarray:
    """How many entries each note's images have, usable or not: (B,) int64."""
    if "images" not in table.column_names:
        return np.zeros(table.num_rows, dtype=np.int64)
    return np.asarray(pc.list_value_length(table["images"]).fill_null(0).to_numpy(), dtype=np.int64)


def has_text(table: pa.Table) -> np.ndarray:
    """Which notes have anything to read besides white space: (B,) bool."""
    found = np.zeros(table.num_rows, dtype=bool)
    start = 0
    for batch in _text_batches(table):
        some = found[start : start + batch.num_rows]
        tags, owners = _hashtags(batch["hashtags"])
        some |= _says(batch["title"]) | _says(batch["content"])
        some[owners[_says(tags)]] = True
        start += batch.num_rows
    return found


def _says(column: pa.Array) -> np.ndarray:
    """Which texts are more than white space (as `str.strip` has it): (n,) bool."""
    kept = pc.binary_length(pc.utf8_trim_whitespace(column)).fill_null(0)
    return np.asarray(kept.to_numpy(zero_copy_only=False)) > 0


def blanked(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A table with nulls in some columns."""
    for name in columns:
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.nulls(table.num_rows, table.schema.field(name).type))
    return table
