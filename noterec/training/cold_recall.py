"""Cold recall: do notes that training never saw find the notes that people engage with beside them?

It is what chooses the model: training stops when it no longer rises, and the weights of the best look are kept.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import polars as pl

from noterec import progress
from noterec.errors import InputError
from noterec.model.encoder import NoteEncoder
from noterec.model.head import Visual
from noterec.ranking.metrics import Relevance, recall_at
from noterec.ranking.topk import top_k
from noterec.training.material import Material, rows_of_pairs

CUTOFFS = (10, 100)


@dataclasses.dataclass(frozen=True)
class Look:
    """Recall of the cold queries at one step."""

    step: int
    recall_at_10: float
    recall_at_100: float

    @property
    def value(self) -> float:
        """What is maximised: the mean of both."""
        return (self.recall_at_10 + self.recall_at_100) / 2


class ColdRecall:
    """Ranks a pool of notes for cold queries with an encoder as it is now."""

    def __init__(
        self,
        material: Material,
        valid_pairs: pl.DataFrame,
        *,
        queries: int | None,
        pool: int | None,
        batch_tokens: int,
        bf16: bool = False,
        seed: int,
    ) -> None:
        """Choose queries and pool.

        Args:
            material: all notes that the pairs name.
            valid_pairs: relevant notes (related_id) of cold queries (anchor_id).
            queries: at most so many queries, drawn with the seed; None = all.
            pool: rank among about so many notes, the relevant ones always included; None = all.
            batch_tokens: tokens of a batch when notes are encoded.
            bf16: encode in bfloat16.
            seed: for both draws.
        """
        anchors, related, _ = rows_of_pairs(valid_pairs, material.ids)
        if not len(anchors):
            raise InputError("the valid pairs are an empty table; expected relevant notes of cold queries")
        random = np.random.default_rng(seed)
        chosen = np.unique(anchors)
        if queries is not None and queries < len(chosen):
            chosen = np.sort(random.choice(chosen, queries, replace=False))
        keep = np.isin(anchors, chosen)
        anchors, related = anchors[keep], related[keep]
        rows = np.arange(len(material.ids))
        if pool is not None and pool < len(rows):
            needed = np.union1d(chosen, related)
            others = np.setdiff1d(rows, needed)
            extra = random.choice(others, min(len(others), max(0, pool - len(needed))), replace=False)
            rows = np.union1d(needed, extra)
        self._rows, self._material, self._batch_tokens, self._bf16 = rows, material, batch_tokens, bf16
        self._queries = np.searchsorted(rows, chosen)
        order = np.argsort(anchors, kind="stable")
        counts = np.bincount(np.searchsorted(chosen, anchors), minlength=len(chosen))
        indptr = np.concatenate([[0], np.cumsum(counts)])
        self._relevance = Relevance(indptr, np.searchsorted(rows, related[order]))

    def states(self, encoder: NoteEncoder, material: Material | None = None) -> np.ndarray:
        """The pool's states, for several looks at heads on the same backbone: (pool, H) float32.

        Args:
            encoder: gives the states.
            material: the same notes read in another way; None = those that the pool was chosen from.
        """
        return states_of(encoder, material or self._material, self._rows, self._batch_tokens, bf16=self._bf16)

    def look(self, encoder: NoteEncoder, step: int, *, states: np.ndarray | None = None) -> Look:
        """Encode the pool, or project its `states`, and rank it for every query."""
        if states is None:
            vectors = vectors_of(encoder, self._material, self._rows, self._batch_tokens, bf16=self._bf16)
        else:
            data, rows = self._material, self._rows
            vectors = encoder.project_states(states, _words_of(encoder, data, rows), _visual_of(data, rows))
        deepest = min(max(CUTOFFS), len(vectors))
        _, ranked = top_k(vectors[self._queries], vectors, deepest, exclude=self._queries)
        recalls = [float(recall_at(ranked, self._relevance, min(k, deepest)).mean()) for k in CUTOFFS]
        return Look(step, *recalls)


def vectors_of(
    encoder: NoteEncoder,
    material: Material,
    rows: np.ndarray,
    batch_tokens: int,
    *,
    bf16: bool = False,
    bar: progress.Bar | None = None,
) -> np.ndarray:
    """Embeddings of some of the notes, from their states where those are known: (len(rows), D) float32."""
    words = _words_of(encoder, material, rows)
    if material.states is None:
        inputs = dataclasses.replace(material.inputs.take(rows), words=words)
        vectors = np.empty((len(rows), encoder.dimension), dtype=np.float32)
        for batch, part in encoder.run(inputs, batch_tokens=batch_tokens, bf16=bf16):
            vectors[batch] = part
            if bar is not None:
                bar.advance(len(batch))
        return vectors
    return encoder.project_states(material.states[rows], words, _visual_of(material, rows))


def states_of(
    encoder: NoteEncoder, material: Material, rows: np.ndarray, batch_tokens: int, *, bf16: bool = False
) -> np.ndarray:
    """Readout states of some of the notes, computed where they aren't known: (len(rows), H) float32."""
    if material.states is not None:
        return np.asarray(material.states[rows])
    states = np.empty((len(rows), encoder.backbone.hidden_size), dtype=np.float32)
    inputs = dataclasses.replace(material.inputs.take(rows), words=None)
    with progress.track("first states", len(rows), "notes") as bar:
        for batch, part in encoder.run(inputs, batch_tokens=batch_tokens, project=False, bf16=bf16):
            states[batch] = part
            bar.advance(len(batch))
    return states


def _words_of(encoder: NoteEncoder, material: Material, rows: np.ndarray) -> Any:
    return None if material.inputs.words is None or encoder.lexicon is None else material.inputs.words[rows]


def _visual_of(material: Material, rows: np.ndarray) -> Visual | None:
    return None if material.visual is None else material.visual.take(rows)
