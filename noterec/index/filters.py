"""Which notes a search may find: a filter on attributes, and the candidates "all", "new" or a list of ids."""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.errors import InputError

Mask = NDArray[np.bool_]
Where = pl.Expr | Mapping[str, Any]
Candidates = Literal["all", "new"] | Iterable[str]

NEW_DAYS = 7  # what counts as new where nothing marks the new notes: created in the last days before the newest note


def where_mask(attributes: pl.DataFrame, where: Where) -> Mask:
    """The notes that a filter lets through.

    Args:
        attributes: (N, ...) one row per note.
        where: a Polars expression over the attributes, or a mapping from attribute to what is wanted: a value, a list
            of values, None for "missing", or {"min": a, "max": b} with one or both ends, both included. All entries of a
            mapping must hold. A time may be given as ISO 8601 text; without a zone it is UTC.

    Returns:
        (N,) bool. A comparison with a missing attribute lets nothing through.

    Raises:
        InputError: an unknown attribute, a value of a wrong type, or an expression that isn't true or false per note.
    """
    if isinstance(where, pl.Expr):
        condition = where
    elif isinstance(where, Mapping):
        condition = pl.all_horizontal([pl.lit(True), *(_wanted(attributes, name, where[name]) for name in where)])
    else:
        raise InputError(f"where is {type(where).__name__}; expected a polars expression or a mapping of attributes")
    try:
        kept = attributes.lazy().select(condition.alias("kept")).collect()["kept"]
    except pl.exceptions.ColumnNotFoundError as error:
        unknown = [name for name in condition.meta.root_names() if name not in attributes.columns]
        raise _unknown(attributes, ", ".join(unknown) or str(error).splitlines()[0]) from error
    except (pl.exceptions.PolarsError, TypeError) as error:
        raise InputError(f"where can't be applied to the attributes: {str(error).splitlines()[0]}") from error
    if kept.dtype != pl.Boolean or len(kept) not in (1, attributes.height):
        raise InputError(
            f"where gives {len(kept)} values of type {kept.dtype} for {attributes.height} notes; expected true or false "
            "for every note, for example pl.col('category') == 'Travel'"
        )
    return np.broadcast_to(kept.fill_null(False).to_numpy(), (attributes.height,))


def _wanted(attributes: pl.DataFrame, name: str, value: Any) -> pl.Expr:
    """One entry of a mapping as an expression."""
    if name not in attributes.columns:
        raise _unknown(attributes, name)
    column, dtype = pl.col(name), attributes.schema[name]
    if value is None:
        return column.is_null()
    if isinstance(value, Mapping):
        if not value or value.keys() - {"min", "max"}:
            raise InputError(f"where: {name} is {dict(value)}; a range has 'min' and 'max', or one of them")
        low, high = (None if end not in value else _literal(value[end], dtype, name) for end in ("min", "max"))
        parts = [column >= low] if low is not None else []
        parts += [column <= high] if high is not None else []
        return pl.all_horizontal(parts)
    if isinstance(value, list | tuple | set | frozenset):
        return pl.any_horizontal([pl.lit(False), *(_wanted(attributes, name, item) for item in value)])
    return column.eq(_literal(value, dtype, name))


def _literal(value: Any, dtype: pl.DataType, name: str) -> pl.Expr:
    """A wanted value in the type of its attribute."""
    if isinstance(dtype, pl.Datetime):
        if isinstance(value, str):
            try:
                value = datetime.datetime.fromisoformat(value)
            except ValueError as error:
                raise InputError(f"where: {name} is a time, and {value!r} is not one; expected ISO 8601") from error
        if isinstance(value, datetime.datetime) and value.tzinfo is None and dtype.time_zone is not None:
            value = value.replace(tzinfo=datetime.UTC)
        fits = isinstance(value, datetime.date)
    elif isinstance(dtype, pl.Boolean):
        fits = isinstance(value, bool)
    elif dtype.is_numeric():
        fits = isinstance(value, int | float) and not isinstance(value, bool)
    elif isinstance(dtype, pl.String):
        fits = isinstance(value, str)
    else:
        fits = True
    if not fits:
        raise InputError(f"where: {name} is {dtype}, and {value!r} is {type(value).__name__}; expected a value like it")
    return pl.lit(value)


def candidate_mask(attributes: pl.DataFrame, candidates: Candidates) -> Mask | None:
    """The notes that may be found, (N,) bool, or None where all may.

    Raises:
        InputError: an id that the index doesn't have, another word than "all" and "new", or no way to tell new notes.
    """
    if isinstance(candidates, str):
        if candidates == "all":
            return None
        if candidates == "new":
            return new_mask(attributes)
        raise InputError(f"candidates={candidates!r}; expected 'all', 'new' or a list of note ids")
    wanted = pl.Series("note_id", list(candidates), dtype=pl.String)
    ids = attributes["note_id"]
    if len(missing := wanted.filter(~wanted.is_in(ids.implode()))):
        raise InputError(
            f"{len(missing)} of {len(wanted)} candidate ids are not in the index, the first is {missing[0]!r}; leave them "
            "out, or embed and index these notes"
        )
    return ids.is_in(wanted.implode()).to_numpy()


def new_mask(attributes: pl.DataFrame) -> Mask:
    """The new notes: those marked when the index was built, else those created in the last 7 days before the newest.

    Raises:
        InputError: the index has neither a `new` mark nor creation times.
    """
    if "new" in attributes.columns and attributes.schema["new"] == pl.Boolean:
        return attributes["new"].fill_null(False).to_numpy()
    if "created_at" in attributes.columns and attributes["created_at"].null_count() < attributes.height:
        created = attributes["created_at"]
        newest = pl.lit(created.max(), created.dtype)
        recent = attributes.select(pl.col("created_at") > newest - datetime.timedelta(days=NEW_DAYS)).to_series()
        return recent.fill_null(False).to_numpy()
    raise InputError(
        "this index can't tell which notes are new: it has neither a `new` mark nor created_at; build it with new=FILE "
        "(a table of the new notes' ids), or with a dataset that has created_at"
    )


def _unknown(attributes: pl.DataFrame, name: str) -> InputError:
    near = difflib.get_close_matches(name, attributes.columns, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(attributes.columns)}"
    return InputError(f"where: the index has no attribute {name[:80]!r}; {hint}")
