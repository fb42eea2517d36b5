"""Arms: what is compared. An arm ranks candidates for queries, best first, the query itself never among them.

Notes are named by their row in the catalogue, which is ordered by note_id; every arm breaks ties by the lower row. What an
arm can't rank (a note without a vector, one that shares no word) is not ranked: it comes back as -1, and counts as a miss.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from noterec.config import EvaluateConfig
from noterec.errors import ConfigError, InputError
from noterec.evaluation.baselines import BUILTIN, Bm25
from noterec.ranking.fusion import best_columns, fuse
from noterec.ranking.topk import top_k

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Kind = Literal["builtin", "user", "fused"]

Ranker = Callable[[Rows, int], Rows]
"""(Q,) catalogue rows of queries and a depth K -> (Q, K) catalogue rows of candidates, best first, padded with -1."""


class Arm(Protocol):
    """Anything that ranks notes by itself."""

    name: str
    kind: Kind

    def over(self, candidates: Rows) -> Ranker:
        """A ranker over some candidates, given as ascending catalogue rows."""
        ...

    def can_ask(self, queries: Rows) -> Mask:
        """Which queries the arm can represent at all, (Q,) bool; the others are misses."""
        ...


class EmbeddingArm:
    """Exact cosine over the vectors of an embeddings table."""

    kind: Kind = "user"

    def __init__(self, name: str, vectors: Floats, row_of: Rows) -> None:
        """Args: vectors (V, D) float32, unit-norm; row_of (N,) int64, each catalogue note's row in them, -1 = it has none."""
        self.name = name
        self._vectors = vectors
        self._row_of = row_of

    @classmethod
    def summed(cls, name: str, arms: Sequence[EmbeddingArm]) -> EmbeddingArm:
        """Rank by the sum of several arms' cosines: their vectors one behind the other, for notes that have all of them."""
        everywhere = np.logical_and.reduce([arm._row_of >= 0 for arm in arms])  # (N,)
        rows = np.flatnonzero(everywhere)
        vectors = np.concatenate([arm._vectors[arm._row_of[rows]] for arm in arms], axis=1)  # (C, sum of D)
        row_of = np.full(len(everywhere), -1, dtype=np.int64)
        row_of[rows] = np.arange(len(rows))
        return cls(name, vectors / np.sqrt(np.float32(len(arms))), row_of)

    def stored_as(self, change: Callable[[Floats], Floats]) -> EmbeddingArm:
        """The same arm over changed vectors: (V, D) float32 -> (V, d) float32."""
        return EmbeddingArm(self.name, change(self._vectors), self._row_of)

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return int(self._vectors.shape[1])

    def can_ask(self, queries: Rows) -> Mask:
        """Queries that have a vector."""
        return self._row_of[queries] >= 0

    def over(self, candidates: Rows) -> Ranker:
        """Rank the candidates that have a vector."""
        known = candidates[self._row_of[candidates] >= 0]
        vectors = self._vectors[self._row_of[known]]  # (C, D)

        def rank(queries: Rows, depth: int) -> Rows:
            ranked = np.full((len(queries), depth), -1, dtype=np.int64)
            asked = np.flatnonzero(self.can_ask(queries))
            if len(asked) and len(known):
                own = _position(queries[asked], known)
                _, columns = top_k(self._vectors[self._row_of[queries[asked]]], vectors, depth, exclude=own)
                ranked[asked] = np.where(columns >= 0, known[columns], -1)
            return ranked

        return rank


class RandomArm:
    """Candidates in an order that depends on the seed and the query only: what chance alone reaches."""

    name = "random"
    kind: Kind = "builtin"

    def __init__(self, seed: int) -> None:
        self._seed = seed

    def can_ask(self, queries: Rows) -> Mask:
        """Every query."""
        return np.ones(len(queries), dtype=bool)

    def over(self, candidates: Rows) -> Ranker:
        """Shuffle the candidates anew for every query."""

        def rank(queries: Rows, depth: int) -> Rows:
            ranked = np.full((len(queries), depth), -1, dtype=np.int64)
            for number, query in enumerate(queries):
                rng = np.random.default_rng([self._seed, int(query)])
                order = rng.permutation(candidates)  # whole, so that the first ranks don't depend on the depth
                order = order[order != query][:depth]
                ranked[number, : len(order)] = order
            return ranked

        return rank


class PopularityArm:
    """The candidates with the most training clicks, for every query the same. It can't rank what was never clicked."""

    name = "popularity"
    kind: Kind = "builtin"

    def __init__(self, clicks: Rows) -> None:
        """Args: clicks (N,) int64, training clicks of each catalogue note."""
        self._clicks = clicks

    def can_ask(self, queries: Rows) -> Mask:
        """Every query."""
        return np.ones(len(queries), dtype=bool)

    def over(self, candidates: Rows) -> Ranker:
        """Rank the candidates that were clicked at all."""
        clicked = candidates[self._clicks[candidates] > 0]
        order = clicked[np.lexsort((clicked, -self._clicks[clicked]))]

        def rank(queries: Rows, depth: int) -> Rows:
            best = np.full(depth + 1, -1, dtype=np.int64)
            best[: min(depth + 1, len(order))] = order[: depth + 1]
            ranked = np.tile(best, (len(queries), 1))  # (Q, depth + 1)
            # A stable sort moves the query itself, and nothing else, to the end.
            last = np.argsort(ranked == queries[:, None], axis=1, kind="stable")
            ranked = np.take_along_axis(ranked, last, axis=1)[:, :depth]
            ranked[ranked == queries[:, None]] = -1
            return ranked

        return rank


class LexicalArm:
    """BM25 with the query note's own words as the query. It can't rank notes that share no word with it."""

    name = "bm25"
    kind: Kind = "builtin"

    def __init__(self, bm25: Bm25) -> None:
        self._bm25 = bm25

    def can_ask(self, queries: Rows) -> Mask:
        """Queries that have a word."""
        return self._bm25.has_words[queries]

    def over(self, candidates: Rows) -> Ranker:
        """Rank the candidates that share a word with the query."""
        everything = len(candidates) == len(self._bm25.has_words)
        scores_of = self._bm25.scorer(None if everything else candidates)

        def rank(queries: Rows, depth: int) -> Rows:
            scores = scores_of(queries)  # (Q, C)
            own = _position(queries, candidates)
            here = np.flatnonzero(own >= 0)
            scores[here, own[here]] = 0.0
            columns = best_columns(scores, depth)
            return np.where(columns >= 0, candidates[columns], -1)

        return rank


class FusionArm:
    """Reciprocal-rank fusion of other arms' rankings (Cormack et al., SIGIR'09): a note scores the sum of w / (k + rank).

    A query that one part can't ask is answered by the others alone.
    """

    kind: Kind = "fused"

    def __init__(self, name: str, parts: tuple[str, ...], k: float, weights: tuple[float, ...] = ()) -> None:
        """Args: parts, names of the arms that are fused; k, the constant, 60 in the paper; weights, w of each, 1 unless given."""
        self.name = name
        self.parts = parts
        self._k = k
        self._weights = weights or (1.0,) * len(parts)

    def fuse(self, rankings: Sequence[Rows], depth: int) -> Rows:
        """(Q, K) catalogue rows of every part -> (Q, depth) fused, best first; equal scores keep the lower row first."""
        return fuse(rankings, self._k, self._weights, depth)[0]


def check_names(arms: Iterable[str], config: EvaluateConfig) -> None:
    """Refuse arms that can't be told apart, that don't exist, or that need one that is missing.

    Raises:
        ConfigError: an unknown or repeated built-in arm, a repeated sum, or fusion without bm25.
        InputError: a name that is noterec's own, or no arm at all.
    """
    arms = list(arms)
    for name in config.builtin:
        if name not in BUILTIN:
            near = difflib.get_close_matches(name, BUILTIN, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(BUILTIN)}"
            raise ConfigError(f"builtin: no built-in arm {name!r}; {hint}")
    if len(set(config.builtin)) < len(config.builtin):
        raise ConfigError(f"builtin: {', '.join(config.builtin)}; expected each arm once")
    for name in arms:
        if name in BUILTIN or "+" in name or not name.strip():
            raise InputError(
                f"an arm can't be called {name!r}: {', '.join(BUILTIN)} and names with + are noterec's own; give --arm "
                "NAME=EMBEDDINGS another name"
            )
    if len(set(config.sums)) < len(config.sums):
        raise ConfigError(f"sums: {', '.join(config.sums)}; expected each sum once")
    if not arms and not config.builtin:
        raise InputError("nothing to evaluate: no arm was given and builtin is empty; give --arm NAME=EMBEDDINGS")
    if arms and config.fuse and "bm25" not in config.builtin:
        raise ConfigError("fuse needs bm25 among the built-in arms; add it to builtin, or set fuse=false")


def _position(rows: Rows, candidates: Rows) -> Rows:
    """Where each row stands among ascending candidates, -1 where it doesn't."""
    if not len(candidates):
        return np.full(len(rows), -1, dtype=np.int64)
    place: Any = np.minimum(np.searchsorted(candidates, rows), len(candidates) - 1)
    return np.where(candidates[place] == rows, place, -1).astype(np.int64)
