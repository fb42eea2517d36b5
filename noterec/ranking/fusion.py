"""Several rankings into one, by ranks alone: what a lexical and a vector search find is brought together here."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]


def fuse(rankings: Sequence[Rows], k: float, weights: Sequence[float], depth: int) -> tuple[Rows, Doubles]:
    """Reciprocal-rank fusion (Cormack et al., SIGIR'09): a candidate scores the sum of w / (k + its rank) over the rankings.

    Args:
        rankings: (Q, K) rows of candidates, best first, padded with -1; each ranking may have its own K and names a
            candidate at most once per query.
        k: the constant, 60 in the paper.
        weights: w of each ranking.
        depth: how many to keep.

    Returns:
        (Q, depth) rows, best first, equal scores with the lower row first, padded with -1; (Q, depth) float64 scores, -inf there.
    """
    rows = np.concatenate(rankings, axis=1)  # (Q, sum of K)
    ranks = np.concatenate([np.arange(1.0, ranking.shape[1] + 1) for ranking in rankings])
    gains = np.repeat(weights, [ranking.shape[1] for ranking in rankings]) / (k + ranks)
    scores = np.broadcast_to(gains, rows.shape)
    order = np.argsort(rows, axis=1, kind="stable")
    rows = np.take_along_axis(rows, order, axis=1)
    scores = np.where(rows >= 0, np.take_along_axis(scores, order, axis=1), 0.0)
    # A candidate stands at most once in each ranking, so its scores lie in runs as long as there are rankings, at most.
    first = np.ones(rows.shape, dtype=bool)
    first[:, 1:] = rows[:, 1:] != rows[:, :-1]
    total = scores.copy()
    for step in range(1, len(rankings)):
        same = rows[:, step:] == rows[:, :-step]
        total[:, :-step] += np.where(same, scores[:, step:], 0.0)
    total = np.where(first & (rows >= 0), total, -np.inf)
    best = np.argsort(-total, axis=1, kind="stable")[:, :depth]  # rows ascend, so stable = the lower row first
    fused = np.full((len(rows), depth), -1, dtype=np.int64)
    fused_scores = np.full((len(rows), depth), -np.inf)
    fused_scores[:, : best.shape[1]] = np.take_along_axis(total, best, axis=1)
    fused[:, : best.shape[1]] = np.take_along_axis(rows, best, axis=1)
    fused[np.isneginf(fused_scores)] = -1
    return fused, fused_scores


def best_columns(scores: Floats, depth: int) -> Rows:
    """The columns of the largest positive scores of each row, (Q, depth), ties by the lower column, padded with -1."""
    count, width = scores.shape
    kept = min(depth, width)
    best = np.full((count, depth), -1, dtype=np.int64)
    if not kept:
        return best
    # Positive floats order as their bits do: one integer holds the score above and the column below, so no two are equal.
    bits = np.ascontiguousarray(np.maximum(scores, 0), dtype=np.float32).view(np.int32).astype(np.int64)
    keys = (bits << 32) | (width - 1 - np.arange(width))  # (Q, C)
    keys = np.sort(np.partition(keys, width - kept, axis=1)[:, width - kept :], axis=1)[:, ::-1]
    best[:, :kept] = np.where(keys >> 32 > 0, width - 1 - (keys & 0xFFFFFFFF), -1)
    return best
