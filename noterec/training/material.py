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
    contents: np.ndarray | None = None  # (N,) int64, equal for notes of equal content; None: all differ

    def same(self, rows: np.ndarray) -> np.ndarray:
        """(b, b) bool: the same note, or notes of the same content, which no encoder can tell apart."""
        groups = rows if self.contents is None else self.contents[rows]
        return np.asarray(groups[:, None] == groups[None, :])

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
    """Rows of one step (b,) int64, (b, b) float32 weights of what is known to be related, (b, b) bool what is the same."""

    rows: np.ndarray
    weights: np.ndarray
    same: np.ndarray


class Batches(Protocol):
    """A source of batches by step number."""

    def batch(self, step: int) -> Batch:
        """The batch of a step, the same whenever it is asked for."""
        ...


class GraphBlocks:
    """Blocks of training notes drawn at random, without repeats in a block.

    Notes without any relation are drawn too: as negatives they teach what nobody engages with beside other notes.

    Where the graph is so large that a note would rarely meet a relation in a uniform block, half of the block is drawn and each of
    these notes brings one of its relations along.
    """

    def __init__(self, material: Material, batch_notes: int, seed: int) -> None:
        """Draw blocks of `batch_notes` notes, or of all of them where there are fewer.

        Raises:
            InputError: there is no relation at all.
        """
        self._material, self._graph, self._seed = material, material.graph, seed
        self._connected = np.flatnonzero(np.diff(material.graph.indptr))
        if not len(self._connected):
            raise InputError("no pair of different notes to train on; lower --min-support of `noterec pairs`")
        self.batch_notes = min(batch_notes, material.train)
        share = self.batch_notes / material.train
        self._bring_relations = self._graph.nnz / len(self._connected) * share < 1

    def batch(self, step: int) -> Batch:
        """The block of a step: (b,) rows, ascending, and their relations' scores."""
        random = np.random.default_rng([self._seed, step])
        if self._bring_relations:
            seeds = min(len(self._connected), max(1, self.batch_notes // 2))
            drawn = random.choice(self._connected, seeds, replace=False)
            first, last = self._graph.indptr[drawn], self._graph.indptr[drawn + 1]
            brought = np.union1d(drawn, self._graph.indices[random.integers(first, last)])
            others = np.setdiff1d(random.choice(self._material.train, self.batch_notes, replace=False), brought)
            rows = np.union1d(brought, random.permutation(others)[: self.batch_notes - len(brought)])
        else:
            rows = np.sort(random.choice(self._material.train, self.batch_notes, replace=False))
        return Batch(rows, self._graph[rows][:, rows].toarray(), self._material.same(rows))


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
        self._material, self._edges, self._graph, self._seed = material, edges.T, material.graph, seed
        self.pairs = min(batch_notes // 2, len(self._edges))
        self._epoch: tuple[int, np.ndarray] | None = None

    def batch(self, step: int) -> Batch:
        """The pairs of a step, what is known to be related across them, and what is the same."""
        per_epoch = len(self._edges) // self.pairs
        epoch, place = divmod(step, per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            random = np.random.default_rng([self._seed, epoch])
            self._epoch = (epoch, random.permutation(len(self._edges)))
        rows = self._edges[self._epoch[1][place * self.pairs : (place + 1) * self.pairs]].reshape(-1)  # (2P,)
        return Batch(rows, self._graph[rows][:, rows].toarray(), self._material.same(rows))


class Steps(IterableDataset[tuple[int, Batch]]):
    """The steps of a run from `start` on, for a data loader."""

    def __init__(self, batches: Batches, steps: int) -> None:
        """Yield (step, batch) up to step `steps`; set `start` to resume."""
        self.batches, self.steps, self.start = batches, steps, 0

    def __iter__(self) -> Iterator[tuple[int, Batch]]:
        for step in range(self.start, self.steps):
            yield step, self.batches.batch(step)
