"""What the built-in arms know: BM25 over the notes' words, and training clicks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import progress
from noterec.notes.terms import note_tokens

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

BUILTIN = ("random", "popularity", "bm25")
K1, B = 1.5, 0.75  # the usual values; not tuned to any data set


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

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        import bm25s

        logging.getLogger("bm25s").setLevel(logging.WARNING)
        vocabulary: dict[str, int] = {}
        ids: list[list[int]] = []
        with progress.track("tokenise", len(title), "notes") as bar:
            for parts in zip(title.to_list(), content.to_list(), hashtags.to_list(), strict=True):
                ids.append([vocabulary.setdefault(token, len(vocabulary)) for token in note_tokens(*parts)])
                bar.advance()
        counts = np.array([len(tokens) for tokens in ids], dtype=np.int64)
        self.has_words = counts > 0
        flat = np.fromiter((token for tokens in ids for token in tokens), dtype=np.int64, count=int(counts.sum()))
        shape = (len(ids), len(vocabulary))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        self._queries: Any = sp.csr_matrix((np.ones(len(flat), dtype=np.float32), flat, indptr), shape=shape)
        self._queries.sum_duplicates()
        # A note as a query is long: a word's second mention says less than its first (BM25's own k3 does the same).
        self._queries.data = 1 + np.log(self._queries.data)
        if vocabulary:
            model = bm25s.BM25(k1=K1, b=B, method="lucene", backend="numpy")
            model.index((ids, vocabulary), create_empty_token=False, show_progress=False)
            scores = model.scores
            self._words: Any = sp.csr_matrix((scores["data"], scores["indices"], scores["indptr"]), shape=shape[::-1])
        else:
            self._words = sp.csr_matrix(shape[::-1], dtype=np.float32)

    def scorer(self, candidates: Rows | None) -> Callable[[Rows], Floats]:
        """A function from (Q,) rows of query notes to (Q, C) BM25 scores of the candidates; None = all notes."""
        words = self._words if candidates is None else self._words[:, candidates]
        return lambda queries: np.asarray((self._queries[queries] @ words).toarray(), dtype=np.float32)


def training_clicks(note_ids: pl.Series, log: pl.DataFrame) -> Rows:
    """How many engagements each note has in the training log, people counted once per note: (N,) int64."""
    counts = log.select("user_id", "note_id").unique().group_by("note_id").len("clicks")
    found = pl.DataFrame({"note_id": note_ids}).join(counts, on="note_id", how="left", maintain_order="left")
    return found["clicks"].fill_null(0).cast(pl.Int64).to_numpy()
