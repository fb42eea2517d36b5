"""How much of the exact answer an approximate index finds: measured on notes of the table, for tuning and for the gate.

Effort is tuned on one half of the sampled notes and the gate looks at the other, so that an index isn't published because its
effort happens to suit the notes that it was chosen by.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec.config import IndexConfig
from noterec.errors import GateError
from noterec.index import kinds
from noterec.index.bundle import RecallRecord, import_faiss
from noterec.index.gpu import Device
from noterec.index.searchers import Approximate, Floats, Rows, Searcher, as_unit

_ROUNDING = 1e-6  # scores nearer than this are one score: either note is a right answer
_SAFETY = 0.01  # tuned recall lies so far above the target, so that the other half of the notes rarely falls below it
_REFINES = {"ivf-pq": (4, 8, 16), "ivf-sq8": (1, 2, 4)}
_TIMED_QUERIES = 100


@dataclass(frozen=True)
class Truth:
    """Q sampled notes and the exact score of their k-th neighbour.

    Attributes:
        rows: (Q,) their rows.
        queries: (Q, D) float32, their vectors.
        bounds: (Q,) float32: a note with this score or a better one is among the k nearest.
        k: neighbours, the note itself not counted; fewer than asked for in a small table.
    """

    rows: Rows
    queries: Floats
    bounds: Floats
    k: int

    def half(self, number: int) -> Truth:
        """Every second query: 0 for tuning, 1 for the gate."""
        return Truth(self.rows[number::2], self.queries[number::2], self.bounds[number::2], self.k)


def truth(vectors: NDArray[Any], config: IndexConfig) -> Truth:
    """Sample notes and find their neighbours exactly, reading the vectors once, in blocks.

    Args:
        vectors: (N, D) float32 or float16 in the order of note ids, N at least 2.
        config: how many notes, k and the seed.
    """
    faiss = import_faiss()
    count = len(vectors)
    rows = np.random.default_rng(config.seed).choice(count, min(config.gate_queries, count), replace=False)
    queries = as_unit(vectors[rows])  # (Q, D)
    k = min(config.recall_at, count - 1)
    best = np.empty((len(rows), 0), dtype=np.float32)
    for low in range(0, count, kinds.ADD_ROWS):
        block = as_unit(vectors[low : low + kinds.ADD_ROWS])
        scores, found = faiss.knn(queries, block, min(k + 1, len(block)), faiss.METRIC_INNER_PRODUCT)
        scores[found + low == rows[:, None]] = -np.inf  # a note isn't its own neighbour
        best = -np.sort(-np.concatenate([best, scores], axis=1), axis=1)[:, :k]
    return Truth(rows, queries, best[:, -1], k)


def recall(searcher: Searcher, known: Truth) -> NDArray[np.float64]:
    """Share of the k exact neighbours that a searcher finds: (Q,) float64. Equal scores are equally right."""
    scores, rows = searcher.top(known.queries, known.k + 1, None)  # one more, for the note itself
    right = (scores >= known.bounds[:, None] - _ROUNDING) & (rows != known.rows[:, None]) & (rows >= 0)
    return np.asarray(np.minimum(right.sum(axis=1), known.k) / known.k, dtype=np.float64)


def tune(
    index: Any, kind: str, vectors: NDArray[Any], known: Truth, target: float, *, device: Device | None = None
) -> Approximate:
    """The fastest effort that reaches a recall on some notes.

    Args:
        index: a filled FAISS index.
        kind: of it.
        vectors: (N, D), as for `truth`.
        known: the notes to tune on.
        target: mean recall wanted.
        device: GPU to search on, or None.

    Returns:
        The index with the effort set; where none reaches the target, with the one that comes nearest.
    """
    wanted = min(target + _SAFETY, 1.0)
    tried: list[tuple[bool, float, Approximate]] = []
    for refine in _REFINES.get(kind, (1,)):
        for knob in _ladder(index, kind, known.k):
            searcher = Approximate(index, vectors, kinds.Effort(knob, refine), known.k, device=device)
            found = float(recall(searcher, known).mean())
            if found >= wanted:
                tried.append((True, query_ms(searcher, known), searcher))
                break
            tried.append((False, 1 - found, searcher))
    return min(tried, key=lambda entry: (not entry[0], entry[1]))[2]


def query_ms(searcher: Searcher, known: Truth) -> float:
    """Median milliseconds of one query for k notes, asked alone."""
    seconds = []
    for query in known.queries[:_TIMED_QUERIES]:
        start = time.perf_counter()
        searcher.top(query[None], known.k, None)
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds) * 1000)


def check(searcher: Searcher, known: Truth, config: IndexConfig, *, kind: str, live: str | None) -> RecallRecord:
    """Measure the recall of what is about to be published.

    Raises:
        GateError: it is below the target; `live` names the bundle that stays.
    """
    found = recall(searcher, known)
    value = float(found.mean())
    if value < config.recall_target:
        stays = f"{live} stays live" if live else "nothing is live"
        raise GateError(
            f"the {kind} index finds {value:.4f} of the {known.k} nearest notes of {len(found)} sampled notes, and the "
            f"target is {config.recall_target}: not published, {stays}. Choose another kind (`--kind flat` is exact), more memory "
            "(memory_gib), or a lower recall_target",
            value=value,
        )
    return RecallRecord(value=round(value, 5), at=known.k, target=config.recall_target, queries=len(found))


def _ladder(index: Any, kind: str, k: int) -> list[int]:
    most = kinds.most_effort(index)
    start = k if kind == "hnsw" else 1
    steps = sorted({min(max(start, step), most) for step in (*kinds.LADDER, *(3 * step // 2 for step in kinds.LADDER))})
    return steps if steps[-1] == most or kind == "hnsw" else [*steps, most]
