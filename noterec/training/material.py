"""What a training run reads, in memory: notes as the encoder reads them, the pair graph, and batches by step number.

A batch is a function of (seed, step) alone. That is what makes resuming exact: a run that starts at step 120 sees just the batches
that the uninterrupted run saw from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import polars as pl
from torch.utils.data import IterableDataset

from noterec.errors import InputError
from noterec.model.encoder import Inputs


@dataclasses.dataclass(frozen=True)
class Material:
    """N notes, of which the first are for training and the rest, if any, for model choice only.

    Attributes:
        ids: (N,) note ids.
        train: how many of them are training notes; the pair graph lives among these.
        inputs: the notes' tokens and words.
        states: (N, H) float32 readout states where the backbone is frozen, else None.
        anchors, related, scores: (E,) the pairs, as rows of training notes, with their scores.
    """

    ids: np.ndarray
    train: int
    inputs: Inputs
    states: np.ndarray | None
    anchors: np.ndarray
    related: np.ndarray
    scores: np.ndarray

    @cached_property
    def graph(self) -> Any:
        """Scores of known relations: scipy CSR (train, train) float32, symmetric by the larger of the two directions."""
        from scipy.sparse import csr_matrix

        shape = (self.train, self.train)
        directed = csr_matrix((self.scores.astype(np.float32), (self.anchors, self.related)), shape=shape)
        return directed.maximum(directed.T).tocsr()


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


@dataclasses.dataclass  # not frozen: Lightning refuses frozen ones when it moves a batch to its device
class Batch:
    """Rows of one step (b,) int64, and (b, b) float32 weights of what is known to be related among them."""

    rows: np.ndarray
    weights: np.ndarray


class Batches(Protocol):
    """A source of batches by step number."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""
        ...


class GraphBlocks:
    """Blocks of notes drawn at random among those that have a relation, without repeats in a block."""

    def __init__(self, material: Material, batch_notes: int, seed: int) -> None:
        """Draw blocks of `batch_notes` notes, or of all of them where there are fewer."""
        self._graph, self._seed = material.graph, seed
        self._connected = np.flatnonzero(np.diff(material.graph.indptr))
        self.batch_notes = min(batch_notes, len(self._connected))

    def batch(self, step: int) -> Batch:
        """The block of a step: (b,) rows, ascending, and their relations' scores."""
        random = np.random.default_rng([self._seed, step])
        rows = np.sort(random.choice(self._connected, self.batch_notes, replace=False))
        return Batch(rows, self._graph[rows][:, rows].toarray())


class PairBatches:
    """Related pairs in a new random order every epoch, rows 2p and 2p+1 of a batch being pair p."""

    def __init__(self, material: Material, batch_notes: int, seed: int) -> None:
        """Make batches of `batch_notes` // 2 pairs, or of all of them where there are fewer.

        Raises:
            InputError: fewer than two pairs.
        """
        once = material.anchors < material.related
        # A relation known in both directions is one pair: seeing it twice an epoch would weigh it double.
        edges = np.unique(
            np.stack(
                [
                    np.where(once, material.anchors, material.related),
                    np.where(once, material.related, material.anchors),
                ]
            ),
            axis=1,
        )
        if edges.shape[1] < 2:
            raise InputError(
                f"{edges.shape[1]} pairs to train on; expected at least two: lower --min-support of `noterec pairs`"
            )
        self._edges, self._graph, self._seed = edges.T, material.graph, seed
        self.pairs = min(batch_notes // 2, len(self._edges))
        self._epoch: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> Batch:
        """The pairs of a step, and what is known to be related across them; the same note counts as related to itself."""
        per_epoch = len(self._edges) // self.pairs
        epoch, place = divmod(step, per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            random = np.random.default_rng([self._seed, epoch])
            self._epoch = (epoch, random.permutation(len(self._edges)))
        rows = self._edges[self._epoch[1][place * self.pairs : (place + 1) * self.pairs]].reshape(-1)  # (2P,)
        weights = self._graph[rows][:, rows].toarray()
        weights[rows[:, None] == rows[None, :]] = 1.0
        return Batch(rows, weights)


class Steps(IterableDataset[tuple[int, Batch]]):
    """The steps of a run from `start` on, for a data loader."""

    def __init__(self, batches: Batches, steps: int) -> None:
        """Yield (step, batch) up to step `steps`; set `start` to resume."""
        self.batches, self.steps, self.start = batches, steps, 0

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for step in range(self.start, self.steps):
            yield step, self.batches.batch(step)
