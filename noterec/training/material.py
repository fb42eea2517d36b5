"""What a training run reads, in memory: notes as the encoder reads them, and the pair graph.

Which of them a step sees is in batches.py.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from noterec import storage
from noterec.errors import InputError
from noterec.model.head import Visual
from noterec.model.inputs import Inputs


@dataclasses.dataclass(frozen=True)
class Material:
    """N notes, of which the first are for training and the rest, if any, for model choice only.

    Attributes:
        ids: (N,) note ids.
        train: how many of them are training notes; the pair graph lives among these.
        inputs: the notes' tokens and words.
        states: (N, H) float32 readout states where the backbone is frozen, else None.
        anchors, related, scores: (E,) the pairs, as rows of training notes, with their scores.
        contents: (N,) int64, equal for notes of equal content; None = all differ.
        visual: image summaries of all notes, where the head takes them in and the vision tower stands still; else None.
    """

    ids: np.ndarray
    train: int
    inputs: Inputs
    states: np.ndarray | None
    anchors: np.ndarray
    related: np.ndarray
    scores: np.ndarray
    contents: np.ndarray | None = None
    visual: Visual | None = None

    @cached_property
    def signature(self) -> int:
        """Changes with the notes and the pictures that could be used."""
        pictures = self.inputs.pictures
        shown = None if pictures is None else pictures.signature
        return int(storage.value_hash([self.ids.tolist(), shown])[:15], 16)

    @cached_property
    def pictured(self) -> np.ndarray:
        """Which notes have a usable picture: (N,) bool."""
        pictures = self.inputs.pictures
        return np.zeros(len(self.ids), dtype=bool) if pictures is None else pictures.counts > 0

    @cached_property
    def _shown(self) -> np.ndarray:
        """(N,) int64, equal for notes that show the same pictures."""
        pictures = self.inputs.pictures
        shown = [()] * len(self.ids) if pictures is None else [tuple(rows.tolist()) for rows in pictures.rows]
        codes: dict[tuple[int, ...], int] = {}
        return np.array([codes.setdefault(rows, len(codes)) for rows in shown], dtype=np.int64)

    def same_images(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(b, c) bool: the same note, or notes that show the same pictures, whose image words can't be told apart."""
        return np.asarray(self._shown[rows][:, None] == self._shown[columns][None, :])

    def same(self, rows: np.ndarray, columns: np.ndarray | None = None) -> np.ndarray:
        """(b, c) bool: the same note, or notes of the same content, which no encoder can tell apart."""
        columns = rows if columns is None else columns
        left, right = (rows, columns) if self.contents is None else (self.contents[rows], self.contents[columns])
        return np.asarray(left[:, None] == right[None, :])

    def relations(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """(b, c) float32: scores of what is known to be related, 0 elsewhere."""
        return np.asarray(self.graph[rows][:, columns].toarray(), dtype=np.float32)

    @cached_property
    def graph(self) -> Any:
        """Scores of known relations: scipy CSR (train, train) float32, symmetric by the larger of the two directions."""
        from scipy.sparse import csr_matrix

        shape = (self.train, self.train)
        directed = csr_matrix((self.scores.astype(np.float32), (self.anchors, self.related)), shape=shape)
        return directed.maximum(directed.T).tocsr()

    @cached_property
    def appearances(self) -> np.ndarray:
        """How often each training note stands in a pair, which is how often a batch of pairs draws it: (train,) int64."""
        return np.asarray(np.diff(self.graph.indptr), dtype=np.int64)


def rows_of_pairs(pairs: pl.DataFrame, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs as rows of `ids`: anchors (E,), related (E,) int64 and scores (E,) float32. All ids must be known."""
    places = pl.DataFrame({"id": ids, "row": np.arange(len(ids), dtype=np.int64)})
    table = pairs.join(places.rename({"row": "anchor"}), left_on="anchor_id", right_on="id", how="left").join(
        places.rename({"row": "other"}), left_on="related_id", right_on="id", how="left"
    )
    missing = table.filter(pl.col("anchor").is_null() | pl.col("other").is_null())
    if missing.height:
        raise InputError(
            f"{missing.height} of {pairs.height} pairs name unknown notes, the first {missing['anchor_id'][0]!r} and "
            f"{missing['related_id'][0]!r}; expected pairs among the notes that were given"
        )
    return table["anchor"].to_numpy(), table["other"].to_numpy(), table["score"].fill_null(1.0).to_numpy()
