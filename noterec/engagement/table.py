"""Pairs tables: anchor_id, related_id, score, rank, as training and evaluation read them."""

from __future__ import annotations

import os
from typing import Any

import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.engagement.counting.log import REJECT_LIMIT
from noterec.errors import InputError


def write_pairs(table: pl.DataFrame, out: str | os.PathLike[str], *, origin: dict[str, Any]) -> None:
    """Write a pairs table with its origin; equal content gives equal bytes."""
    storage.write_table(schema.conform(table.to_arrow(), schema.PAIRS, name="pairs"), out, origin=origin)


def load_pairs(path: str | os.PathLike[str], known_ids: pl.Series) -> tuple[pl.DataFrame, int]:
    """Read a pairs table and leave out the pairs that name a note which isn't known.

    Args:
        path: a Parquet file or a folder of them.
        known_ids: ids of the notes at hand.

    Returns:
        The pairs (anchor_id, related_id, score, rank) in file order, and how many were left out.

    Raises:
        InputError: the table is empty, relates a note to itself, or more than 5 % of its pairs (or all) are unknown.
    """
    arrow: pa.Table = storage.read_table(path, schema.PAIRS, columns=schema.PAIRS.names)
    table = pl.DataFrame(arrow.select(schema.PAIRS.names))
    if not table.height:
        raise InputError(f"{path}: holds no pairs; expected anchor_id and related_id: make them with `noterec pairs`")
    own = table.filter(pl.col("anchor_id") == pl.col("related_id"))
    if own.height:
        raise InputError(
            f"{path}: {own.height} pairs relate a note to itself (the first is {own['anchor_id'][0]!r}); leave them out"
        )
    known = known_ids.unique().implode()
    found = table.filter(pl.col("anchor_id").is_in(known) & pl.col("related_id").is_in(known))
    unknown = table.height - found.height
    if not found.height or unknown > REJECT_LIMIT * table.height:
        raise InputError(
            f"{path}: {unknown} of {table.height} pairs name notes that are not in the dataset; expected at most "
            f"{REJECT_LIMIT:.0%}: these pairs were made from another dataset, or its notes have gone since"
        )
    return found, unknown
