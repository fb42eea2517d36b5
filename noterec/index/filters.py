"""Which notes a search may find: a filter on attributes, and the candidates "all", "new" or a list of ids."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.errors import InputError
from noterec.index.conditions import ENDS, check_size, shown, unknown, wanted

Mask = NDArray[np.bool_]
Where = pl.Expr | Mapping[str, Any]
Candidates = Literal["all", "new"] | Iterable[str]

_RANGES = {">=": "min", "<=": "max", ">": "above", "<": "below"}
_ENTRY = re.compile(r"\s*([^=<>!]*[^=<>!\s])\s*(!=|<=|>=|=|<|>)(.*)", re.DOTALL)
_QUOTED = re.compile(r'\s*"((?:[^"]|"")*)"\s*(?=,|$)')

NEW_DAYS = 7  # what counts as new where nothing marks the new notes: created in the last days before the newest note


def where_mask(attributes: pl.DataFrame, where: Where) -> Mask:
    """The notes that a filter lets through.

    Args:
        attributes: (N, ...) one row per note.
        where: a Polars expression over the attributes, or a mapping from attribute to what is wanted:

            - a value; of a list, such as hashtags, one of its elements. A number, a time in ISO 8601 (UTC unless it says
              otherwise) and a truth value may be given as text.
            - None for "missing".
            - {"min": a, "max": b}, both included, or {"above": a, "below": b}, both excluded; one end or two.
            - {"under": "Travel"} for "Travel" itself and all paths below it, such as "Travel/Asia".
            - a list of any of these: one of them must hold.
            - {"all": [...]}: each of them must hold. {"not": ...}: what that doesn't let through, missing ones included.

            All entries of a mapping must hold.

    Returns:
        (N,) bool. A comparison with a missing attribute lets nothing through.

    Raises:
        InputError: an unknown attribute, a value of a wrong type, more than 100 conditions, or an expression that isn't true
            or false per note.
    """
    if isinstance(where, pl.Expr):
        condition = where
    elif isinstance(where, Mapping):
        check_size(where)
        condition = pl.all_horizontal([pl.lit(True), *(wanted(attributes, name, where[name]) for name in where)])
    else:
        raise InputError(f"where is {type(where).__name__}; expected a polars expression or a mapping of attributes")
    try:
        kept = attributes.lazy().select(condition.alias("kept")).collect()["kept"]
    except pl.exceptions.ColumnNotFoundError as error:
        strange = [name for name in condition.meta.root_names() if name not in attributes.columns]
        raise unknown(attributes, ", ".join(strange) or str(error).splitlines()[0]) from error
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise InputError(f"where can't be applied to the attributes: {str(error).splitlines()[0]}") from error
    if kept.dtype != pl.Boolean or len(kept) not in (1, attributes.height):
        raise InputError(
            f"where gives {len(kept)} values of type {kept.dtype} for {attributes.height} notes; expected true or false "
            "for every note, for example pl.col('category') == 'Travel'"
        )
    return np.broadcast_to(kept.fill_null(False).to_numpy(), (attributes.height,))


def parse_where(entries: Iterable[str]) -> dict[str, Any]:
    """What a person types, as the mapping that `where_mask` reads; all entries must hold.

    `category=Food` · `language=en,de` one of these · `category=Travel/*` that and all below it · `exposure<=100` and `<`, `>=`,
    `>` · `created_at>=2026-11-01` · `category!=Ads` · `author_id=` it is missing · `author_id!=` it is not. A value in double
    quotes is taken as it stands, with commas and stars: `title="A, B"`; a quote inside is written twice.

    Args:
        entries: COLUMN OPERATOR VALUE each.

    Raises:
        InputError: an entry has no column or no operator, a range end isn't one value, or a quote isn't closed.
    """
    where: dict[str, Any] = {}
    for entry in entries:
        match = _ENTRY.fullmatch(entry) if isinstance(entry, str) else None
        if match is None:
            raise InputError(
                f"where {shown(entry)}: expected COLUMN=VALUE, or one of != <= >= < > between them, such as exposure<=100"
            )
        column, operator, text = match.group(1).strip(), match.group(2), match.group(3)
        values = _values(entry, text)
        condition: Any
        if operator in _RANGES:
            if len(values) != 1 or not isinstance(values[0], str):
                raise InputError(f"where {shown(entry)}: expected one value behind {operator}")
            condition = {_RANGES[operator]: values[0]}
        else:
            condition = values[0] if len(values) == 1 else values
            condition = {"not": condition} if operator == "!=" else condition
        where[column] = _joined(where[column], condition) if column in where else condition
    return where


def _joined(first: Any, second: Any) -> Any:
    """Two conditions on one attribute: both ends of a range, or all of them."""
    ranges = [isinstance(part, dict) and part.keys() <= ENDS.keys() for part in (first, second)]
    if all(ranges) and not first.keys() & second.keys():
        return first | second
    before = first["all"] if isinstance(first, dict) and "all" in first else [first]
    return {"all": [*before, second]}


def _values(entry: str, text: str) -> list[Any]:
    """The comma-separated values of an entry: None where there is nothing, a path and all below it as {"under": ...}."""
    values: list[Any] = []
    place = 0
    while True:
        quoted = _QUOTED.match(text, place)
        if quoted is not None:
            values.append(quoted.group(1).replace('""', '"'))
            place = quoted.end()
        else:
            end = text.find(",", place)
            end = len(text) if end < 0 else end
            plain = text[place:end].strip()
            place = end
            if plain.startswith('"'):
                raise InputError(f"where {shown(entry)}: a quote is not closed, or something stands behind it")
            if plain.endswith("/*"):
                values.append({"under": plain[:-2]})
            else:
                values.append(plain or None)
        if place >= len(text):
            return values
        place += 1  # behind the comma
        if place == len(text):
            raise InputError(f"where {shown(entry)}: nothing behind the last comma; expected a value")


def id_series(ids: Iterable[str], name: str) -> pl.Series:
    """Note ids as a string series.

    Args:
        ids: the ids.
        name: what they are, for the message.

    Raises:
        InputError: one of them is no text, or `ids` is one text and no list.
    """
    given = ids if isinstance(ids, str | bytes) or not isinstance(ids, Iterable) else list(ids)
    if not isinstance(given, list) or not all(isinstance(note_id, str) for note_id in given):
        odd = next((part for part in given if not isinstance(part, str)), None) if isinstance(given, list) else given
        raise InputError(f"{name}: {shown(odd)} is {type(odd).__name__}; expected a list of note ids, each a text")
    try:
        return pl.Series("note_id", given, dtype=pl.String)
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: an id holds half a character (a lone surrogate); expected valid text") from error


def new_mask(attributes: pl.DataFrame, live: Mask | None = None) -> Mask:
    """The new notes: those marked when the index was built, else those created in the last 7 days before the newest.

    Args:
        attributes: (N, ...) one row per note.
        live: (N,) bool, the rows that count: one that was removed isn't the newest. None = all.

    Raises:
        InputError: the index has neither a `new` mark nor creation times.
    """
    if "new" in attributes.columns and attributes.schema["new"] == pl.Boolean:
        return attributes["new"].fill_null(False).to_numpy()
    if "created_at" in attributes.columns and attributes["created_at"].null_count() < attributes.height:
        created = attributes["created_at"]
        counting = created if live is None else created.filter(pl.Series(live))
        newest = pl.lit(counting.max(), created.dtype)
        recent = attributes.select(pl.col("created_at") > newest - datetime.timedelta(days=NEW_DAYS)).to_series()
        return recent.fill_null(False).to_numpy()
    raise InputError(
        "this index can't tell which notes are new: it has neither a `new` mark nor created_at; build it with new=FILE "
        "(a table of the new notes' ids), or with a dataset that has created_at"
    )
