"""How good a ranking is, one number per query, as ir-measures and trec_eval define them for binary relevance.

Every function takes `ranked`, (Q, K) int64 candidate rows, best first, padded with -1 as `top_k` does, and the relevant
rows of the same Q queries. A query without a vector is a row of -1: it counts as a miss, it isn't left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noterec.errors import InputError

Values = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Relevance:
    """The relevant candidate rows of Q queries, in compressed rows: query q has `rows[indptr[q]:indptr[q + 1]]`.

    A row number that no ranking can hold (a relevant note outside the candidates) is legal and never found.

    Attributes:
        indptr: (Q + 1,) int64, from 0 to len(rows), never falling.
        rows: int64, at least 0, no row twice within a query.
    """

    indptr: Rows
    rows: Rows

    def __post_init__(self) -> None:
        indptr, rows = np.asarray(self.indptr, dtype=np.int64), np.asarray(self.rows, dtype=np.int64)
        object.__setattr__(self, "indptr", indptr)
        object.__setattr__(self, "rows", rows)
        if indptr.ndim != 1 or rows.ndim != 1 or not len(indptr) or indptr[0] != 0 or indptr[-1] != len(rows):
            raise InputError(
                f"relevance: indptr of shape {indptr.shape} doesn't span {rows.size} rows; expected (Q + 1,) offsets "
                "from 0 to the number of relevant rows"
            )
        counts = np.diff(indptr)
        if (counts < 0).any() or (rows < 0).any():
            raise InputError("relevance: offsets fall or a row is negative; expected offsets that rise and rows >= 0")
        owner = np.repeat(np.arange(len(counts)), counts)
        order = np.lexsort((rows, owner))
        if ((np.diff(owner[order]) == 0) & (np.diff(rows[order]) == 0)).any():
            raise InputError("relevance: a query names the same relevant row twice; expected each one once")

    @classmethod
    def from_lists(cls, lists: Sequence[ArrayLike]) -> Relevance:
        """Relevance from one list of relevant rows per query."""
        parts = [np.asarray(rows, dtype=np.int64).ravel() for rows in lists]
        indptr = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)]).astype(np.int64)
        return cls(indptr, np.concatenate(parts) if parts else np.empty(0, dtype=np.int64))

    @property
    def counts(self) -> Rows:
        """(Q,) int64, relevant rows per query."""
        return np.diff(self.indptr)


Relevant = Relevance | Sequence[ArrayLike]


def recall_at(ranked: ArrayLike, relevance: Relevant, k: int) -> Values:
    """Share of a query's relevant rows that stand in its first k: (Q,) float64, over all relevant rows, not min(k, n).

    Raises:
        InputError: K < k, the numbers of queries differ, a query has no relevant row, or a row is ranked twice.
    """
    hits, counts = _hits(ranked, relevance, k)
    return np.asarray(hits.sum(axis=1) / counts, dtype=np.float64)


def hit_at(ranked: ArrayLike, relevance: Relevant, k: int) -> Values:
    """1 where at least one relevant row stands in a query's first k, else 0: (Q,) float64. Raises as `recall_at`."""
    hits, _ = _hits(ranked, relevance, k)
    return np.asarray(hits.any(axis=1), dtype=np.float64)


def mrr_at(ranked: ArrayLike, relevance: Relevant, k: int) -> Values:
    """1 / rank of the first relevant row among the first k, 0 if there is none: (Q,) float64. Raises as `recall_at`."""
    hits, _ = _hits(ranked, relevance, k)
    return np.asarray(hits.any(axis=1) / (1.0 + hits.argmax(axis=1)), dtype=np.float64)


def ndcg_at(ranked: ArrayLike, relevance: Relevant, k: int) -> Values:
    """Normalised discounted cumulative gain of the first k with gains 0 and 1: (Q,) float64. Raises as `recall_at`.

    A hit at rank r gains 1 / log2(r + 1); the ideal ranking has its min(k, n) first ranks all relevant.
    """
    hits, counts = _hits(ranked, relevance, k)
    gains = 1.0 / np.log2(np.arange(k) + 2.0)  # (k,)
    ideal = np.concatenate([[0.0], np.cumsum(gains)])[np.minimum(counts, k)]  # (Q,)
    return np.asarray(hits @ gains / ideal, dtype=np.float64)


def coverage(ranked: ArrayLike, n_candidates: int, k: int) -> float:
    """Share of the catalogue of `n_candidates` rows that stands in the first k of at least one query.

    Raises:
        InputError: K < k, a row lies outside the catalogue, or the catalogue is empty.
    """
    top = _top(ranked, k)
    shown = np.unique(top[top >= 0])
    if n_candidates < 1 or (len(shown) and shown[-1] >= n_candidates):
        raise InputError(f"coverage: rows up to {top.max(initial=-1)} of {n_candidates} candidates; expected all below")
    return len(shown) / n_candidates


def _top(ranked: ArrayLike, k: int) -> Rows:
    rows = np.asarray(ranked, dtype=np.int64)
    if rows.ndim != 2:
        raise InputError(f"ranked has shape {rows.shape}; expected (Q, K)")
    if not 1 <= k <= rows.shape[1]:
        raise InputError(
            f"cut-off {k} with {rows.shape[1]} ranks per query; expected 1 to {rows.shape[1]}: rank deeper"
        )
    return rows[:, :k]


def _hits(ranked: ArrayLike, relevance: Relevant, k: int) -> tuple[NDArray[np.bool_], Rows]:
    """Which of the first k ranks hold a relevant row, (Q, k) bool, and how many rows are relevant, (Q,) int64."""
    top = _top(ranked, k)
    known = relevance if isinstance(relevance, Relevance) else Relevance.from_lists(relevance)
    counts = known.counts
    if len(counts) != len(top):
        raise InputError(f"{len(top)} ranked queries and {len(counts)} lists of relevant rows; expected one list each")
    if (counts == 0).any():
        raise InputError(
            f"{int((counts == 0).sum())} of {len(counts)} queries have no relevant row (the first is query "
            f"{int(counts.argmin())}); their recall is undefined: leave them out, and say how many"
        )
    in_order = np.sort(top, axis=1)
    if ((np.diff(in_order, axis=1) == 0) & (in_order[:, 1:] >= 0)).any():
        raise InputError("a query ranks the same row twice; expected every candidate at most once")
    # One number per (query, row), so that a single lookup serves all queries.
    stride = int(max(top.max(initial=-1), known.rows.max(initial=-1))) + 1
    keys = np.repeat(np.arange(len(counts)), counts) * stride + known.rows
    hits = np.isin(np.arange(len(top))[:, None] * stride + top, keys) & (top >= 0)  # (Q, k)
    return hits, counts
