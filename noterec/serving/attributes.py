"""Attributes of the index and JSON: what is kept of a note, and what a new note brings."""

from __future__ import annotations

import datetime as dt
import difflib
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from noterec.index.search import Index
from noterec.index.searchable import Floats
from noterec.serving.messages import NewNote
from noterec.serving.refusals import Refusal

OF_CONTENT = ("title", "content", "hashtags", "images")  # come from the note itself


def attributes_of(index: Index, row: int) -> dict[str, Any]:
    """The attributes of one note as JSON knows them, without its id."""
    values = index.attributes.row(row, named=True)
    return {name: plain(value) for name, value in values.items() if name != "note_id"}


def change_table(index: Index, note: NewNote, vector: Floats | None) -> pa.Table:
    """A note as `add_notes` takes it.

    Args:
        index: whose attributes it gets; one that isn't given is missing, but for `new`, which a new note is.
        note: with its attributes.
        vector: (D,) float32, unit-norm; None only checks.

    Returns:
        One row: note_id, embedding, and the index's attributes in their types.

    Raises:
        Refusal: 422 for an attribute that the index doesn't keep, that the note itself has, or of a wrong type.
    """
    kept = {name: dtype for name, dtype in index.attributes.schema.items() if name != "note_id"}
    for name in note.attributes:
        if name in OF_CONTENT or name == "note_id":
            raise Refusal(422, f"attributes.{name}: is a field of the note itself; give it there")
        if name not in kept:
            near = difflib.get_close_matches(name, kept, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"it keeps {', '.join(kept) or 'none'}"
            raise Refusal(422, f"attributes: the index keeps no {name[:80]!r}; {hint}")
    given: dict[str, Any] = {"title": note.title, "content": note.content, "hashtags": note.hashtags, **note.attributes}
    if kept.get("new") == pl.Boolean:
        given.setdefault("new", True)
    columns = {name: _column(name, given.get(name), dtype) for name, dtype in kept.items()}
    frame = pl.DataFrame([pl.Series("note_id", [note.note_id], dtype=pl.String), *columns.values()])
    table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    values = np.zeros(index.dimension, dtype=np.float32) if vector is None else vector
    embedding = pa.FixedSizeListArray.from_arrays(pa.array(values, pa.float32()), index.dimension)
    return table.add_column(1, "embedding", embedding)


def plain(value: Any) -> Any:
    """An attribute's value as JSON knows it: times as ISO 8601, what isn't a finite number as null."""
    if isinstance(value, float):
        return value if np.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, dict):
        return {str(key): plain(part) for key, part in value.items()}
    return str(value)


def _column(name: str, value: Any, dtype: pl.DataType) -> pl.Series:
    """One value in its attribute's type."""
    try:
        if value is not None and dtype.is_temporal():
            value = _time(value, dtype)
        elif dtype.is_integer() and isinstance(value, float) and value.is_integer():
            value = int(value)
        elif dtype.is_numeric() and isinstance(value, bool):
            raise TypeError("a truth value is no number")
        return pl.Series(name, [value], dtype=dtype, strict=True)
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise Refusal(422, f"attributes.{name}: is {dtype}; expected such a value, a time as ISO 8601 text") from error


def _time(value: Any, dtype: pl.DataType) -> Any:
    """A time that was sent as text, without a zone where the attribute has none, else in UTC."""
    if not isinstance(value, str):
        raise TypeError("times are text")
    if isinstance(dtype, pl.Datetime):
        time = dt.datetime.fromisoformat(value)
        zoned = time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)
        return zoned if dtype.time_zone is not None else zoned.replace(tzinfo=None)
    if isinstance(dtype, pl.Date):
        return dt.date.fromisoformat(value)
    if isinstance(dtype, pl.Time):
        return dt.time.fromisoformat(value)
    raise TypeError("lengths of time can't be sent")
