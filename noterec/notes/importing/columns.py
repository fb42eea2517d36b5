"""Whole columns of a foreign file, converted at once where every cell is plain, and cell by cell where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema
from noterec.notes.importing import values


def each(column: Any, field: str, convert: Any, problems: dict[int, str]) -> list[Any]:
    """Convert value by value; a bad one becomes None and its reason goes to `problems`."""
    cells = column.to_pylist() if isinstance(column, pa.Array) else column
    found: list[Any] = []
    for at, cell in enumerate(cells):
        try:
            found.append(convert(cell, field))
        except values.BadValueError as error:
            problems.setdefault(at, str(error))
            found.append(None)
    return found


def ids(column: Any, field: str, problems: dict[int, str]) -> pa.Array:
    """A column of ids as text, the clean ones all at once; the rules are those of `values.identifier`."""
    if isinstance(column, pa.Array) and (
        pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_binary(column.type)
    ):
        try:
            text = column.cast(pa.string())
        except pa.ArrowInvalid:  # some cell is no UTF-8
            text = None
        if text is not None and not text.null_count:
            odd = pc.any(pc.match_substring_regex(text, r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|^\s*$"))
            if not odd.as_py():
                return text
    return pa.array(each(column, field, values.identifier, problems), pa.string())


def moments(column: Any) -> pa.Array | None:
    """A column of plain times all at once, by the rules of `values.microseconds`; None where some cell is not plain."""
    if not isinstance(column, pa.Array):
        return None
    try:
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            times = column.cast(pa.timestamp("us", getattr(column.type, "tz", None)))
            return times.cast(schema.TIMESTAMP)
        if pa.types.is_binary(column.type) or pa.types.is_string(column.type):
            column = column.cast(pa.string()).cast(pa.int64())
        if not pa.types.is_integer(column.type):
            return None
        stamps = column.cast(pa.int64())
    except pa.ArrowInvalid:
        return None
    if stamps.null_count or not len(stamps):
        return None
    numbers = stamps.to_numpy()
    size = np.abs(numbers)
    if (size > values.MAX_MICROSECONDS).any() or (numbers == np.iinfo(np.int64).min).any():
        return None
    scaled = numbers * np.where(size >= 10**14, 1, np.where(size >= 10**11, 1000, 1_000_000))
    return None if (np.abs(scaled) > values.MAX_MICROSECONDS).any() else pa.array(scaled).cast(schema.TIMESTAMP)
