"""Exact top-k by inner product, the reference that every approximate search is compared with.

`scores, rows = top_k(queries, candidates, 10)` in plain NumPy. The score matrix is built block by block and never
whole, so that memory depends on the block and not on the catalogue.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noterec.errors import InputError

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

_BLOCK_SCORES = 1 << 23  # scores held at a time: 32 MiB of float32, and about three times that while selecting


def top_k(
    queries: ArrayLike,
    candidates: ArrayLike,
    k: int,
    *,
    exclude: ArrayLike | None = None,
    block_rows: int = 32_768,
) -> tuple[Floats, Rows]:
    """The k candidates with the largest inner product for every query; equal scores keep the lower candidate row first.

    With candidates ordered by note_id, ties therefore break by note_id. The result doesn't depend on `block_rows`, up
    to the last bits in which a matrix product may differ from one block shape to another.

    Args:
        queries: (Q, D) float, cast to float32. Unit-norm rows make the scores cosines.
        candidates: (N, D) float, cast to float32.
        k: how many to keep, at least 1; may be larger than N.
        exclude: (Q,) int64, the candidate row that a query must not find (itself), -1 = none; or None.
        block_rows: candidate rows scored at a time.

    Returns:
        scores: (Q, k) float32, descending; -inf where there were fewer than k candidates.
        rows: (Q, k) int64, candidate rows; -1 where the score is -inf.

    Raises:
        InputError: a shape doesn't fit, k is below 1, a value isn't finite, or `exclude` names a row that isn't there.
    """
    left, right = _matrix(queries, "queries"), _matrix(candidates, "candidates")
    if left.shape[1] != right.shape[1]:
        raise InputError(
            f"queries have {left.shape[1]} dimensions and candidates {right.shape[1]}; expected the same number: "
            "embed both with the same model"
        )
    if k < 1 or block_rows < 1:
        raise InputError(f"k={k}, block_rows={block_rows}: both must be at least 1")
    if _largest(left) * _largest(right) * left.shape[1] > float(np.finfo(np.float32).max):
        raise InputError("inner products may overflow float32; expected vectors of moderate length: normalise them")
    left_out = _excluded(exclude, len(left), len(right))
    scores = np.full((len(left), k), -np.inf, dtype=np.float32)  # (Q, k)
    rows = np.full((len(left), k), -1, dtype=np.int64)  # (Q, k)
    query_rows = max(1, _BLOCK_SCORES // max(1, min(block_rows, len(right))))
    for start in range(0, len(left), query_rows):
        part = slice(start, start + query_rows)
        scores[part], rows[part] = _search(left[part], right, k, left_out[part], block_rows)
    return scores, rows


def _search(queries: Floats, candidates: Floats, k: int, exclude: Rows, block_rows: int) -> tuple[Floats, Rows]:
    """Top k for one block of queries (q, D), merging candidate blocks in ascending row order."""
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)  # (q, k)
    rows = np.full((len(queries), k), -1, dtype=np.int64)  # (q, k)
    for low in range(0, len(candidates), block_rows):
        block = candidates[low : low + block_rows]
        scores = queries @ block.T  # (q, n)
        here = np.flatnonzero((exclude >= low) & (exclude < low + len(block)))
        scores[here, exclude[here] - low] = -np.inf
        block_best, block_columns = _select(scores, min(k, len(block)))
        # Earlier blocks have lower rows and stand first, so a stable sort keeps the lower row first among equals.
        merged = np.concatenate([best, block_best], axis=1)  # (q, k + k')
        merged_rows = np.concatenate([rows, block_columns + low], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, :k]
        best, rows = np.take_along_axis(merged, order, axis=1), np.take_along_axis(merged_rows, order, axis=1)
    rows[np.isneginf(best)] = -1
    return best, rows


def _select(scores: Floats, k: int) -> tuple[Floats, Rows]:
    """The k largest of each row of (q, n) scores, k <= n, descending, the lower column first among equals."""
    count, width = scores.shape
    # argpartition alone would choose among the scores equal to the k-th one at random: take all of them, then cut.
    kth = np.partition(scores, width - k, axis=1)[:, width - k]  # (q,)
    found, columns = np.nonzero(scores >= kth[:, None])  # columns ascend within a query
    values = scores[found, columns]
    order = np.lexsort((-values, found))  # stable
    found, columns, values = found[order], columns[order], values[order]
    starts = np.searchsorted(found, np.arange(count))  # (q,)
    kept = np.arange(len(found)) - starts[found] < k
    return values[kept].reshape(count, k), columns[kept].reshape(count, k)


def _matrix(values: ArrayLike, name: str) -> Floats:
    matrix = np.ascontiguousarray(values, dtype=np.float32)
    if matrix.ndim != 2:
        raise InputError(f"{name} has shape {matrix.shape}; expected two dimensions, (rows, D)")
    if not np.isfinite(_largest(matrix)):
        bad = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        raise InputError(
            f"{name}: {len(bad)} of {len(matrix)} rows hold NaN or infinity (the first is row {bad[0]}); "
            "expected finite numbers: leave notes without a vector out, or embed them again"
        )
    return matrix


def _largest(matrix: Floats) -> float:
    """The largest absolute value, NaN if there is one, without a copy of the matrix."""
    return max(float(matrix.max()), -float(matrix.min())) if matrix.size else 0.0


def _excluded(exclude: ArrayLike | None, queries: int, candidates: int) -> Rows:
    if exclude is None:
        return np.full(queries, -1, dtype=np.int64)
    rows = np.asarray(exclude, dtype=np.int64)
    if rows.shape != (queries,):
        raise InputError(f"exclude has shape {rows.shape}; expected one candidate row per query, ({queries},)")
    if len(rows) and (rows.min() < -1 or rows.max() >= candidates):
        raise InputError(
            f"exclude names rows {rows.min()} to {rows.max()}; expected -1 (none) or a row below {candidates}"
        )
    return rows
