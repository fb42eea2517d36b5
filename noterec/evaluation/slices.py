"""Slices of the main direction: are relevant notes that few people know found as well, and short notes as well as long?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from noterec.evaluation.protocol import Direction, Rows
from noterec.ranking.metrics import Relevance

TERCILES = ("relevant_low_clicks", "relevant_middle_clicks", "relevant_high_clicks")
HALVES = ("query_short_text", "query_long_text")


@dataclass(frozen=True, eq=False)
class Slice:
    """Some queries of a direction, each with some of its relevant notes.

    Attributes:
        name: as in metrics.json.
        says: its bounds in words.
        queries: (q,) positions among the direction's queries.
        relevance: the relevant rows that count here, at least one per query.
    """

    name: str
    says: str
    queries: Rows
    relevance: Relevance


def slices(direction: Direction, clicks: Rows | None, text_lengths: Rows) -> list[Slice]:
    """Relevant notes by terciles of training clicks (arXiv:2403.01744 slices by exposure), queries by halves of text length.

    Args:
        direction: the main one.
        clicks: (N,) training clicks of each catalogue note, None = not known: no terciles then.
        text_lengths: (N,) characters of each catalogue note.

    Returns:
        The slices that hold any query; where many notes have equally many clicks, a tercile may hold none.
    """
    relevance = direction.relevance
    owner = np.repeat(np.arange(len(direction.queries)), relevance.counts)
    found: list[Slice] = []
    if clicks is not None:
        known = clicks[relevance.rows]
        first, second = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf")
        bounds = (known <= first, (known > first) & (known <= second), known > second)
        says = (f"clicks <= {first:g}", f"{first:g} < clicks <= {second:g}", f"clicks > {second:g}")
        found += [
            _of_relevant(name, text, owner, relevance.rows, kept)
            for name, text, kept in zip(TERCILES, says, bounds, strict=True)
            if kept.any()
        ]
    lengths = text_lengths[direction.queries]
    middle = float(np.median(lengths))
    for name, kept, text in zip(
        HALVES, (lengths <= middle, lengths > middle), (f"<= {middle:g}", f"> {middle:g}"), strict=True
    ):
        if kept.any():
            found.append(_of_queries(name, f"{text} characters", owner, relevance.rows, np.flatnonzero(kept)))
    return found


def _of_relevant(name: str, says: str, owner: Rows, rows: Rows, kept: NDArray[np.bool_]) -> Slice:
    queries, counts = np.unique(owner[kept], return_counts=True)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Slice(name, says, queries, Relevance(indptr, rows[kept]))


def _of_queries(name: str, says: str, owner: Rows, rows: Rows, queries: Rows) -> Slice:
    return _of_relevant(name, says, owner, rows, np.isin(owner, queries))
