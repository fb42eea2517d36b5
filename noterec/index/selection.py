"""Which of the near notes are shown: filters, left-out ids, authors, reposts, variety, and words beside vectors.

    find(index, queries, 10, Selection(where={"language": "en"}, per_author=2, duplicates=0.95))

A search gives notes in the order of their cosine. `find` takes from that order what the selection allows, and searches
deeper where too much of it falls away.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.config import EvaluateConfig
from noterec.errors import InputError
from noterec.index.choice import Limits, choose
from noterec.index.conditions import shown
from noterec.index.filters import Candidates, Mask, Where, id_series, where_mask
from noterec.index.lexical import Terms
from noterec.index.searchable import Searchable
from noterec.ranking.fusion import best_columns, fuse

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

MOST_CHOSEN = 1000  # the largest k where vectors are compared among each other: duplicates and diversity
LOOKED_AT = 65_536  # notes that are looked at for one query, at most
_FETCH = 2048  # of them at a time
_FEW = 64  # excluded notes that are struck out of what is found
_POOL = 5  # notes from which diversity chooses, per note wanted
_BLOCK_FLOATS = 1 << 23  # gathered vectors and cosines held at a time: 64 MiB of float64

_FUSION = EvaluateConfig()  # `noterec evaluate` measures the fusion that is served


@dataclass(frozen=True)
class Selection:
    """Which notes a query may find, and how many alike.

    Attributes:
        where: a condition on the attributes, see `filters.where_mask`.
        candidates: "all", "new", or the ids that may be found.
        exclude: ids that must not be found; those that the index doesn't have are no error.
        per_author: at most so many notes of one author_id; a note without one is its own author's.
        duplicates: a note whose cosine to a better one in the result is at least this is left out: a repost. Identical
            vectors count as 1.
        diversity: 0..1, the weight of novelty in maximal marginal relevance (Carbonell & Goldstein, SIGIR'98): each note is
            the one with the largest (1 - diversity) · relevance - diversity · (its largest cosine to a note before it), chosen
            among the nearest 5 k, at most 2,048. 0 is off.
    """

    where: Where | None = None
    candidates: Candidates = "all"
    exclude: Iterable[str] = ()
    per_author: int | None = None
    duplicates: float | None = None
    diversity: float = 0.0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: one is of a wrong type or out of range.
        """
        object.__setattr__(self, "exclude", tuple(id_series(self.exclude, "exclude")))
        if not isinstance(self.candidates, str):
            object.__setattr__(self, "candidates", tuple(id_series(self.candidates, "candidates")))
        if self.per_author is not None and (not _whole(self.per_author) or self.per_author < 1):
            raise InputError(f"per_author={self.per_author!r}; expected a whole number of at least 1, or None")
        if self.duplicates is not None and not (_number(self.duplicates) and 0 < self.duplicates <= 1):
            raise InputError(
                f"duplicates={self.duplicates!r}; expected the cosine from which on two notes are the same, above 0 and up to 1, "
                "such as 0.95, or None"
            )
        if not (_number(self.diversity) and 0 <= self.diversity <= 1):
            raise InputError(f"diversity={self.diversity!r}; expected the weight of novelty, from 0 (off) to 1")

    @property
    def plain(self) -> bool:
        """Whether the nearest notes that may be found are the answer as they are."""
        return self.per_author is None and self.duplicates is None and not self.diversity


def _whole(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return isinstance(value, int | float | np.floating) and not isinstance(value, bool)


def find(
    index: Searchable,
    queries: Floats,
    k: int,
    selection: Selection = Selection(),
    *,
    exclude: Rows | None = None,
    words: Sequence[Terms] | None = None,
) -> tuple[Floats, Rows]:
    """The k best notes of every query that a selection allows.

    Args:
        index: where to search.
        queries: (Q, D) float32, unit-norm, as `unit_queries` gives them.
        k: notes per query, at least 1.
        selection: which.
        exclude: (Q,) int64, a row that a query must not find (itself), -1 = none.
        words: of each query, for a fusion with BM25: notes are ranked by reciprocal ranks in the order of the cosine and of BM25,
            1000 deep, with the constants of `EvaluateConfig`. A query without words is answered by the vectors.

    Returns:
        (Q, k) float32 cosines and (Q, k) int64 rows, best first, -inf and -1 where there are no more. Equal notes stand by
        note_id. With `diversity` and `words` the order is another than that of the cosines. With per_author, duplicates or
        diversity at most the nearest 65,536 notes of a query are looked at.

    Raises:
        InputError: k or the selection doesn't fit the index.
    """
    return Finder(index, selection).find(queries, k, exclude=exclude, words=words)


class Finder:
    """A selection applied to one index, for many batches of queries.

    Attributes:
        available: notes that may be found.
    """

    def __init__(self, index: Searchable, selection: Selection = Selection()) -> None:
        """Work out which notes may be found.

        Raises:
            InputError: the filter, the candidates or per_author don't fit the index.
        """
        self._index, self._selection = index, selection
        mask = self._candidates()
        if selection.where is not None:
            kept = where_mask(index.attributes, selection.where)
            mask = kept if mask is None else mask & kept
        excluded = index.rows_of(selection.exclude)  # (E,)
        excluded = excluded[excluded >= 0]
        self.may_be_found: Mask = index.live.copy() if mask is None else mask & index.live  # (N,)
        self.may_be_found[excluded] = False
        # A few are struck out of what is found: a mask of nearly all notes makes the search slower.
        self._excluded = excluded if len(excluded) <= _FEW else excluded[:0]
        self._mask = mask if len(self._excluded) == len(excluded) else self.may_be_found  # None = all that are live
        self.available = int(self.may_be_found.sum())
        self._authors: pl.Series | None = None
        if selection.per_author is not None:
            if "author_id" not in index.attributes.columns:
                raise InputError(
                    "per_author: the index keeps no author_id; build it with author_id among the attributes and a dataset that "
                    "has it, or leave per_author out"
                )
            self._authors = index.attributes["author_id"]

    def _candidates(self) -> Mask | None:
        """(N,) bool, the candidates; None = all.

        Raises:
            InputError: an id that the index doesn't have, another word than "all" and "new", or no way to tell new notes.
        """
        index, candidates = self._index, self._selection.candidates
        if isinstance(candidates, str):
            if candidates not in ("all", "new"):
                raise InputError(f"candidates={shown(candidates)}; expected 'all', 'new' or a list of note ids")
            return index.new() if candidates == "new" else None
        wanted = tuple(candidates)
        rows = index.rows_of(wanted)
        if (rows < 0).any():
            raise InputError(
                f"{int((rows < 0).sum())} of {len(wanted)} candidate ids are not in the index, the first is "
                f"{shown(wanted[int((rows < 0).argmax())])}; leave them out, or embed and index these notes"
            )
        mask = np.zeros(len(index.live), dtype=bool)
        mask[rows] = True
        return mask

    def find(
        self, queries: Floats, k: int, *, exclude: Rows | None = None, words: Sequence[Terms] | None = None
    ) -> tuple[Floats, Rows]:
        """As the function `find`."""
        selection = self._selection
        if not _whole(k) or k < 1:
            raise InputError(f"k={k!r}; expected a whole number of at least 1")
        wanted = min(k, max(self.available, 1))
        if wanted > MOST_CHOSEN and (selection.duplicates is not None or selection.diversity):
            raise InputError(f"k={k} with duplicates or diversity; expected at most {MOST_CHOSEN}")
        own = np.full((len(queries), 1), -1, dtype=np.int64) if exclude is None else exclude[:, None]
        own = np.concatenate(
            [own, np.broadcast_to(self._excluded, (len(queries), len(self._excluded)))], axis=1
        )  # (Q, 1 + E)
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)  # (Q, k)
        rows = np.full((len(queries), k), -1, dtype=np.int64)  # (Q, k)
        if not self.available or not len(queries):
            return scores, rows
        asked = (
            np.array([len(terms) > 0 for terms in words], dtype=bool)
            if words is not None
            else np.zeros(len(queries), bool)
        )
        for number in np.flatnonzero(asked).tolist():
            assert words is not None
            part = slice(number, number + 1)
            scores[part, :wanted], rows[part, :wanted] = self._fused(queries[part], wanted, own[part], words[number])
        plain = np.flatnonzero(~asked)
        if not len(plain):
            return scores, rows
        if selection.plain:
            found = self._index.search_rows(queries[plain], wanted, mask=self._mask, exclude=own[plain])
        else:
            found = self._chosen(queries[plain], wanted, own[plain])
        scores[plain, :wanted], rows[plain, :wanted] = found
        return scores, rows

    def _chosen(self, queries: Floats, k: int, own: Rows) -> tuple[Floats, Rows]:
        """Fetch and choose; what comes up short is fetched deeper, first together, then query by query."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        fetch = min(max(_POOL * k, 50), _FETCH) if self._selection.diversity else 2 * k + 16
        deepest = max(fetch, _FETCH)
        pending = np.arange(len(queries))
        while len(pending):
            fetch = min(fetch, self.available)
            block = max(1, _BLOCK_FLOATS // (fetch * self._width(fetch)))
            short = []
            for start in range(0, len(pending), block):
                part = pending[start : start + block]
                near, found = self._index.search_rows(queries[part], fetch, mask=self._mask, exclude=own[part])
                scores[part], rows[part] = self._choose(near, found, near, k)
                ended = (found[:, -1] < 0) | (fetch >= self.available)
                short.append(part[(rows[part, -1] < 0) & ~ended])
            pending = np.concatenate(short)
            if fetch >= deepest:
                break
            fetch = min(4 * fetch, deepest)
        for number in pending.tolist():
            one = slice(number, number + 1)
            scores[one], rows[one] = self._deeper(queries[one], scores[one], rows[one], own[one], deepest)
        return scores, rows

    def _deeper(self, query: Floats, scores: Floats, rows: Rows, own: Rows, looked: int) -> tuple[Floats, Rows]:
        """Go on for one query (1, D) whose `looked` nearest gave too few (1, k): mask these out, and the full authors."""
        k = rows.shape[1]
        left = self.may_be_found.copy()  # (N,)
        _, seen = self._index.search_rows(query, looked, mask=self._mask, exclude=own)
        while rows[0, -1] < 0 and looked < LOOKED_AT:
            left[seen[0][seen[0] >= 0]] = False
            if self._authors is not None and self._selection.per_author is not None:
                counted = self._authors.gather(rows[0][rows[0] >= 0]).drop_nulls().value_counts()
                full = counted.filter(pl.col("count") >= self._selection.per_author)["author_id"]
                left &= ~self._authors.is_in(full.implode()).fill_null(False).to_numpy()
            near, seen = self._index.search_rows(query, _FETCH, mask=left, exclude=own)
            if seen[0, 0] < 0:
                break
            looked += seen.shape[1]
            kept = rows[0] >= 0
            pool_scores = np.concatenate([scores[:, kept], near], axis=1)
            pool_rows = np.concatenate([rows[:, kept], seen], axis=1)
            scores, rows = self._choose(pool_scores, pool_rows, pool_scores, k, taken=int(kept.sum()))
        return scores, rows

    def _fused(self, query: Floats, k: int, own: Rows, terms: Terms) -> tuple[Floats, Rows]:
        """One query (1, D) by vectors and words: (1, k) cosines and rows."""
        lexical = self._index.lexical
        if lexical is None:
            raise InputError(
                "words were given for a fusion, and the index keeps none; see `noterec.serving.query.words_of`"
            )
        depth = max(_FUSION.fuse_depth, k)
        _, near = self._index.search_rows(
            query, min(depth, self.available), mask=self._mask, exclude=own
        )  # (1, <= depth)
        bm25 = lexical.scores(terms)
        bm25[~self.may_be_found[: lexical.notes]] = 0.0
        if 0 <= own[0, 0] < lexical.notes:
            bm25[own[0, 0]] = 0.0
        alike = best_columns(bm25[None], min(depth, lexical.notes))  # (1, <= depth)
        rows, ranks = fuse([near, alike], _FUSION.rrf_k, (_FUSION.fuse_weight, 1.0), near.shape[1] + alike.shape[1])
        count = int((rows[0] >= 0).sum())
        pool, relevance = rows[0, :count], ranks[0, :count]
        # Rows of notes that were added later are not in the order of their ids.
        ordered = pl.DataFrame({"rank": -relevance, "id": self._index.ids.gather(pool)})
        order = ordered.select(pl.arg_sort_by("rank", "id")).to_series().to_numpy()
        pool, relevance = pool[order][None], relevance[order][None]  # (1, P)
        vectors = self._index.vectors(pool[0]).astype(np.float64)  # (P, D)
        cosines = (vectors @ query[0].astype(np.float64)).astype(np.float32)[None]  # (1, P)
        # In the range of a cosine: 1 for a note that leads both rankings.
        best = (_FUSION.fuse_weight + 1) / (_FUSION.rrf_k + 1)
        return self._choose(cosines, pool, (relevance / best).astype(np.float32), k)

    def _width(self, fetch: int) -> int:
        """Numbers that are held for each of `fetch` notes of a query while choosing."""
        alike = self._selection.duplicates is not None or self._selection.diversity
        return self._index.dimension + fetch if alike else 1

    def _choose(self, scores: Floats, rows: Rows, relevance: Floats, k: int, *, taken: int = 0) -> tuple[Floats, Rows]:
        """The k to keep of (Q, F) notes in their order; the first `taken` are kept already."""
        selection = self._selection
        cosines = None
        if selection.duplicates is not None or selection.diversity:
            vectors = self._index.vectors(np.maximum(rows, 0).ravel()).astype(np.float64)  # (Q · F, D)
            vectors = vectors.reshape(*rows.shape, -1)  # (Q, F, D)
            # Rounded to float32, so that the same notes give the same numbers in every batch.
            cosines = (vectors @ vectors.transpose(0, 2, 1)).astype(np.float32)  # (Q, F, F)
        authors = None
        if self._authors is not None:
            names = self._authors.gather(np.maximum(rows, 0).ravel())
            codes = names.rank("dense").cast(pl.Int64).fill_null(0).to_numpy().reshape(rows.shape)
            nobody = -1 - np.arange(rows.shape[1], dtype=np.int64)  # each its own
            authors = np.where(names.is_null().to_numpy().reshape(rows.shape), nobody, codes)  # (Q, F)
        limits = Limits(selection.per_author, selection.duplicates, selection.diversity)
        places = choose(relevance, rows >= 0, k, limits, cosines=cosines, authors=authors, taken=taken)  # (Q, k)
        kept = places >= 0
        chosen = np.maximum(places, 0)
        return (
            np.where(kept, np.take_along_axis(scores, chosen, axis=1), -np.inf).astype(np.float32),
            np.where(kept, np.take_along_axis(rows, chosen, axis=1), -1),
        )
