"""What the built-in arm BM25 knows: the notes' words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import progress
from noterec.index.words import WordCounter, query_weights

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

BUILTIN = ("random", "popularity", "bm25")
_BATCH = 8192  # notes tokenised at a time


class Bm25:
    """BM25 scores of every word in every note of a catalogue (Lucene's variant), and each note as a query.

    Attributes:
        has_words: (N,) bool, whether a note has any token.
    """

    def __init__(self, title: pl.Series, content: pl.Series, hashtags: pl.Series) -> None:
        """Tokenise and index N notes.

        Args:
            title: (N,) string.
            content: (N,) string.
            hashtags: (N,) list of string.
        """
        import scipy.sparse as sp

        counter = WordCounter()
        with progress.track("tokenise", len(title), "notes") as bar:
            for start in range(0, len(title), _BATCH):
                part = [column[start : start + _BATCH].to_list() for column in (title, content, hashtags)]
                counter.add(range(start, start + len(part[0])), zip(*part, strict=True))
                bar.advance(len(part[0]))
        counts = counter.finish(len(title))
        starts, notes, scores = counts.lists()
        self.has_words = np.diff(counts.offsets) > 0
        shape = (len(title), len(counts.words))
        self._queries: Any = sp.csr_matrix((query_weights(counts.count), counts.word, counts.offsets), shape=shape)
        self._words: Any = sp.csr_matrix((scores, notes, starts), shape=shape[::-1])

    def scorer(self, candidates: Rows | None) -> Callable[[Rows], Floats]:
        """A function from (Q,) rows of query notes to (Q, C) BM25 scores of the candidates; None = all notes."""
        words = self._words if candidates is None else self._words[:, candidates]
        return lambda queries: np.asarray((self._queries[queries] @ words).toarray(), dtype=np.float32)
