"""What smaller vectors would cost in recall: their first dimensions only, and fewer bits for each number.

The vectors are those of the embeddings table, cut or rounded as a store would keep them, the query's included, and searched
exactly: what an approximate index loses besides, and what an encoder of lower precision loses (`noterec calibrate`), is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec import progress
from noterec.evaluation.arms import EmbeddingArm
from noterec.evaluation.protocol import Direction
from noterec.evaluation.resampling import resample
from noterec.ranking.metrics import Relevance, recall_at

Floats = NDArray[np.float32]

LEAST_DIMENSION = 16
_BLOCK_SCORES = 1 << 23  # scores of a block, 32 MiB


def fp16(vectors: Floats) -> Floats:
    """Each number rounded to 16-bit floating point."""
    return vectors.astype(np.float16).astype(np.float32)


def int8(vectors: Floats) -> Floats:
    """Each number as one of 255 steps between minus and plus the largest of its dimension."""
    step = np.abs(vectors).max(axis=0) / np.float32(127)  # (D,)
    step[step == 0] = 1
    rounded: Floats = np.rint(vectors / step).astype(np.float32) * step
    return rounded


def binary(vectors: Floats) -> Floats:
    """The sign of each number, zero counting as positive; an inner product then orders as the Hamming distance does."""
    return np.where(vectors < 0, np.float32(-1), np.float32(1))


PRECISIONS: dict[str, tuple[Callable[[Floats], Floats], float]] = {  # with the bytes of a number
    "fp32": (lambda vectors: vectors, 4),
    "fp16": (fp16, 2),
    "int8": (int8, 1),
    "binary": (binary, 1 / 8),
}


def prefix(dimension: int) -> Callable[[Floats], Floats]:
    """The first dimensions, divided by their length, as Matryoshka embeddings are cut; of nothing but zeros, zeros."""

    def cut(vectors: Floats) -> Floats:
        kept = vectors[:, :dimension]
        norms = np.linalg.norm(kept, axis=1, keepdims=True)
        unit: Floats = np.divide(kept, norms, out=np.zeros_like(kept), where=norms > 0)
        return unit

    return cut


def dimensions(whole: int) -> list[int]:
    """16, 32, 64, ... below the whole, and the whole."""
    found, size = [], LEAST_DIMENSION
    while size < whole:
        found.append(size)
        size *= 2
    return [*found, whole]


def compacted(
    arms: Sequence[EmbeddingArm], direction: Direction, *, at: int, queries: int, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Recall of each arm with cut and with rounded vectors, on the same queries.

    Args:
        arms: whose vectors are made smaller.
        direction: the main one.
        at: cut-off of the recall.
        queries: how many are asked at most; where there are more, they are drawn.
        resamples, seed: of the bootstrap, and the seed of the draw.

    Returns:
        By arm: "queries", "metric", and "dimensions" and "precisions": name -> bytes of a vector, mean recall with its interval,
        and "relative", what it is above that of the whole vectors, as a share of it (None where those find nothing).
    """
    chosen = np.arange(len(direction.queries))
    if len(chosen) > queries:
        chosen = np.sort(np.random.default_rng(seed).choice(len(chosen), queries, replace=False))
    found = {}
    whole = [(arm, dimensions(arm.dimension)) for arm in arms]
    steps = sum(len(sizes) + len(PRECISIONS) - 1 for _, sizes in whole)
    with progress.track("smaller vectors", steps, "searches") as bar:
        for arm, sizes in whole:
            forms: dict[str, Callable[[Floats], Floats]] = {str(size): prefix(size) for size in sizes[:-1]}
            forms |= {name: change for name, (change, _) in PRECISIONS.items()}
            columns = []
            for change in forms.values():
                columns.append(_recall(arm.stored_as(change), direction, chosen, at))
                bar.advance()
            drawn = resample(np.column_stack(columns), resamples=resamples, seed=seed)
            full = list(forms).index("fp32")

            def told(column: int, size: float, drawn: Any = drawn, full: int = full) -> dict[str, Any]:
                relative = None if column == full else drawn.relative(column, full)
                return {"bytes": int(np.ceil(size)), **drawn.interval(column), "relative": relative}

            cut = {str(size): told(place, 4 * size) for place, size in enumerate(sizes[:-1])}
            cut[str(sizes[-1])] = told(full, 4 * sizes[-1])
            rounded = {
                name: told(full + place, size * sizes[-1]) for place, (name, (_, size)) in enumerate(PRECISIONS.items())
            }
            found[arm.name] = {
                "metric": f"recall@{at}",
                "queries": len(chosen),
                "dimensions": cut,
                "precisions": rounded,
            }
    return found


def _recall(arm: EmbeddingArm, direction: Direction, chosen: NDArray[np.int64], at: int) -> NDArray[np.float64]:
    """(len(chosen),) recall of some queries, block by block."""
    rank = arm.over(direction.candidates)
    bounds = direction.relevance.indptr
    step = int(np.clip(_BLOCK_SCORES // max(1, len(direction.candidates)), 1, 512))
    parts = []
    for start in range(0, len(chosen), step):
        some = chosen[start : start + step]
        lists = [direction.relevance.rows[bounds[q] : bounds[q + 1]] for q in some]
        parts.append(recall_at(rank(direction.queries[some], at), Relevance.from_lists(lists), at))
    return np.concatenate(parts)
