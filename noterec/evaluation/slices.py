"""Slices of the main direction: are relevant notes that few people know found as well, short notes as well as long, and notes
without an image as well as those with one?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from noterec.evaluation.protocol import Direction, Mask, Rows
from noterec.ranking.metrics import Relevance

TERCILES = ("relevant_low_clicks", "relevant_middle_clicks", "relevant_high_clicks")
HALVES = ("query_short_text", "query_long_text")
IMAGES = ("query_with_image", "query_without_image")


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


def slices(direction: Direction, clicks: Rows | None, text_lengths: Rows, with_image: Mask) -> list[Slice]:
    """Relevant notes by terciles of training clicks (arXiv:2403.01744 slices by exposure), queries by text length and images.

    Args:
        direction: the main one.
        clicks: (N,) training clicks of each catalogue note, None = not known: no terciles then.
        text_lengths: (N,) characters of each catalogue note; the queries are halved by them.
        with_image: (N,) which catalogue notes have an image; no slices by it where all queries agree.

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
    seen = with_image[direction.queries]
    halves = (
        (HALVES[0], f"<= {middle:g} characters", lengths <= middle),
        (HALVES[1], f"> {middle:g} characters", lengths > middle),
    )
    images = ((IMAGES[0], "at least one image", seen), (IMAGES[1], "no image", ~seen)) if len(set(seen)) > 1 else ()
    for name, text, kept in (*halves, *images):
        if kept.any():
            found.append(_of_queries(name, text, owner, relevance.rows, np.flatnonzero(kept)))
    return found


def _of_relevant(name: str, says: str, owner: Rows, rows: Rows, kept: Mask) -> Slice:
    queries, counts = np.unique(owner[kept], return_counts=True)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Slice(name, says, queries, Relevance(indptr, rows[kept]))


def _of_queries(name: str, says: str, owner: Rows, rows: Rows, queries: Rows) -> Slice:
    return _of_relevant(name, says, owner, rows, np.isin(owner, queries))
