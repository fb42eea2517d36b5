"""One entry of a filter, such as {"exposure": {"max": 100}}, as a Polars expression over the attributes.

Filters come from people and over HTTP: every value is checked against the type of its attribute before Polars sees it.
"""

from __future__ import annotations

import contextlib
import datetime
import difflib
import operator
import re
import sys
from collections.abc import Mapping
from typing import Any

import polars as pl

from noterec.errors import InputError

ENDS: dict[str, Any] = {"min": operator.ge, "max": operator.le, "above": operator.gt, "below": operator.lt}

_CONDITIONS = 100  # of one filter
_DEPTH = 8  # of conditions inside each other
_SINGLE = 8  # values that are compared one by one
_TRUTH = {"true": True, "false": False}
_SURROGATE = re.compile("[\ud800-\udfff]")
_COMPOUND = (Mapping, list, tuple, set, frozenset)


def check_size(where: Mapping[Any, Any]) -> None:
    """Refuse a filter that would take long to put together, or that is nested without end: it may come from anywhere."""
    conditions, pending = 0, [(value, 1) for value in where.values()]
    while pending:
        value, depth = pending.pop()
        conditions += 1
        if isinstance(value, Mapping):
            pending += [(part, depth + 1) for part in value.values()]
        elif isinstance(value, list | tuple | set | frozenset):
            pending += [(part, depth + 1) for part in value if isinstance(part, _COMPOUND)]
        if conditions > _CONDITIONS or depth > _DEPTH:
            raise InputError(
                f"where has more than {_CONDITIONS} conditions, or more than {_DEPTH} of them inside each other; expected a "
                "smaller filter (a list of plain values may have any length)"
            )


def wanted(attributes: pl.DataFrame, name: str, value: Any) -> pl.Expr:
    """One entry of a mapping as an expression that is true, or else false or null."""
    if name not in attributes.columns:
        raise unknown(attributes, str(name))
    column, dtype = pl.col(name), attributes.schema[name]
    if value is None:
        return column.is_null()
    if isinstance(value, Mapping):
        return _condition(attributes, name, value)
    if isinstance(value, list | tuple | set | frozenset):
        nested = [item for item in value if item is None or isinstance(item, _COMPOUND)]
        plain = [item for item in value if not (item is None or isinstance(item, _COMPOUND))]
        parts = [wanted(attributes, name, item) for item in nested]
        return pl.any_horizontal([pl.lit(False), _one_of(column, dtype, name, plain), *parts])
    return _one_of(column, dtype, name, [value])


def _one_of(column: pl.Expr, dtype: pl.DataType, name: str, values: list[Any]) -> pl.Expr:
    """Whether a note has one of some plain values."""
    if not values:
        return pl.lit(False)
    inner = dtype.inner if isinstance(dtype, pl.List | pl.Array) else dtype
    assert isinstance(inner, pl.DataType)
    found = [_typed(value, inner, name) for value in values]
    if isinstance(dtype, pl.List | pl.Array):
        if len(found) > _CONDITIONS:
            raise InputError(f"where: {len(found)} values for {name}, which is {dtype}; expected at most {_CONDITIONS}")
        elements = column.list if isinstance(dtype, pl.List) else column.arr
        return pl.any_horizontal([elements.contains(pl.lit(value)) for value in found])
    if len(found) <= _SINGLE:
        return pl.any_horizontal([column.eq(pl.lit(value)) for value in found])
    if inner.is_integer():  # is_in compares values of one type
        found = [int(value) for value in found if value == int(value)]
    try:
        return column.is_in(pl.Series(found, dtype=inner, strict=True).implode())
    except (TypeError, OverflowError, pl.exceptions.PolarsError) as error:
        raise InputError(f"where: {name} is {dtype}; one of the {len(found)} values doesn't fit it: {error}") from error


def _condition(attributes: pl.DataFrame, name: str, value: Mapping[Any, Any]) -> pl.Expr:
    """{"min": 3}, {"under": "Travel"}, {"not": ...} or {"all": [...]} as an expression."""
    column, dtype = pl.col(name), attributes.schema[name]
    if value.keys() == {"not"}:
        return ~wanted(attributes, name, value["not"]).fill_null(False)
    if value.keys() == {"all"} and isinstance(value["all"], list | tuple) and value["all"]:
        return pl.all_horizontal([wanted(attributes, name, part) for part in value["all"]])
    if value.keys() == {"under"}:
        top = value["under"]
        if not isinstance(top, str) or not top.strip("/") or _SURROGATE.search(top):
            raise InputError(f"where: {name} under {shown(top)}; expected the beginning of a path, such as 'Travel'")
        if not isinstance(dtype, pl.String):
            raise InputError(f"where: {name} is {dtype}; 'under' is for paths such as 'Travel/Asia'")
        top = top.rstrip("/")
        return column.eq(pl.lit(top)) | column.str.starts_with(pl.lit(top + "/"))
    if not value or value.keys() - ENDS.keys():
        raise InputError(
            f"where: {name} is {shown(dict(value))}; a range has 'min' and 'max', or one of them ('above' and 'below' "
            "where the end is not included); else expected {'under': path}, {'not': ...} or {'all': [...]}"
        )
    if isinstance(dtype, pl.List | pl.Array | pl.Boolean):
        raise InputError(f"where: {name} is {dtype}, which has no order; expected a value instead of a range")
    ends = [(end, limit) for end, limit in value.items() if limit is not None]
    if not ends:
        raise InputError(f"where: {name} is {shown(dict(value))}; a range has 'min' and 'max', or one of them")
    return pl.all_horizontal([ENDS[end](column, pl.lit(_typed(limit, dtype, name))) for end, limit in ends])


def _typed(value: Any, dtype: pl.DataType, name: str) -> Any:
    """A wanted value in the type of its attribute."""
    if isinstance(dtype, pl.Datetime | pl.Date):
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value.strip())
            except ValueError as error:
                raise InputError(
                    f"where: {name} is a time, and {shown(value)} is not one; expected ISO 8601, such as 2026-11-01"
                ) from error
        if isinstance(value, datetime.date) and not isinstance(value, datetime.datetime):
            value = datetime.datetime.combine(value, datetime.time())
        if isinstance(value, datetime.datetime):
            zoned = getattr(dtype, "time_zone", None) is not None
            with contextlib.suppress(OverflowError):  # the first or last day of the calendar: near enough
                value = value.astimezone(datetime.UTC) if value.tzinfo is not None else value
            value = value.replace(tzinfo=datetime.UTC if zoned else None)
        fits = isinstance(value, datetime.datetime)
    elif isinstance(dtype, pl.Boolean):
        value = _TRUTH.get(value.strip().lower(), value) if isinstance(value, str) else value
        fits = isinstance(value, bool)
    elif dtype.is_numeric():
        value = _number(value) if isinstance(value, str) else value
        limit = 2**63 if dtype.is_integer() else sys.float_info.max
        fits = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < limit  # not if NaN
    elif isinstance(dtype, pl.String | pl.Categorical | pl.Enum):
        fits = isinstance(value, str) and not _SURROGATE.search(value)  # half a character, which Polars can't hold
    else:
        fits = isinstance(value, bool | int | float | str | bytes | datetime.date | datetime.time | datetime.timedelta)
    if not fits:
        raise InputError(
            f"where: {name} is {dtype}, and {shown(value)} is {type(value).__name__}; expected a value like it"
        )
    return value


def _number(text: str) -> Any:
    """The number that a text says, or the text itself."""
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def shown(value: Any) -> str:
    """A value for a message, cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:80]}..."


def unknown(attributes: pl.DataFrame, name: str) -> InputError:
    """The error that an attribute's name deserves which the index doesn't have."""
    near = difflib.get_close_matches(name, attributes.columns, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(attributes.columns)}"
    return InputError(f"where: the index has no attribute {name[:80]!r}; {hint}")
