"""Which notes a step sees.

A batch is a function of (seed, step) alone. That is what makes resuming exact: a run that starts at step 120 sees just the batches
that the uninterrupted run saw from there. It is also what lets several processes share a batch without a word: each knows the
whole of it and takes its part.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from torch.utils.data import IterableDataset

from noterec.errors import InputError
from noterec.training.material import Material


class Batches(Protocol):
    """A source of batches by step number.

    Attributes:
        notes: how many notes a batch holds.
        per_epoch: how many steps see every pair, or as many notes as there are, once.
    """

    notes: int
    per_epoch: int

    def rows(self, step: int) -> np.ndarray:
        """(b,) int64, rows of the notes of a step, the same whenever it is asked for."""
        ...


class GraphBlocks:
    """Blocks of training notes drawn at random, without repeats in a block.

    Notes without any relation are drawn too: as negatives they teach what nobody engages with beside other notes.

    Where the graph is so large that a note would rarely meet a relation in a uniform block, half of the block is drawn and each of
    these notes brings one of its relations along.
    """

    def __init__(self, material: Material, batch_notes: int, seed: int, *, world: int = 1) -> None:
        """Draw blocks of `batch_notes` notes, or of all of them where there are fewer, divisible by `world` processes.

        Raises:
            InputError: there is no relation at all.
        """
        self._material, self._graph, self._seed = material, material.graph, seed
        self._connected = np.flatnonzero(np.diff(material.graph.indptr))
        if not len(self._connected):
            raise InputError("no pair of different notes to train on; lower --min-support of `noterec pairs`")
        self.notes = min(batch_notes, material.train) // world * world
        self.per_epoch = max(1, material.train // self.notes)
        share = self.notes / material.train
        self._bring_relations = self._graph.nnz / len(self._connected) * share < 1

    def rows(self, step: int) -> np.ndarray:
        """The block of a step: (b,) rows, ascending."""
        random = np.random.default_rng([self._seed, step])
        if not self._bring_relations:
            return np.sort(random.choice(self._material.train, self.notes, replace=False))
        seeds = min(len(self._connected), max(1, self.notes // 2))
        drawn = random.choice(self._connected, seeds, replace=False)
        first, last = self._graph.indptr[drawn], self._graph.indptr[drawn + 1]
        brought = np.union1d(drawn, self._graph.indices[random.integers(first, last)])
        others = np.setdiff1d(random.choice(self._material.train, self.notes, replace=False), brought)
        return np.union1d(brought, random.permutation(others)[: self.notes - len(brought)])


class PairBatches:
    """Related pairs in a new random order every epoch, rows 2p and 2p+1 of a batch being pair p."""

    def __init__(self, material: Material, batch_notes: int, seed: int, *, world: int = 1) -> None:
        """Make batches of `batch_notes` // 2 pairs, or of all of them where there are fewer, divisible by `world` processes.

        Raises:
            InputError: fewer than two pairs, or fewer than there are processes.
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
        self._pairs = min(batch_notes // 2, edges.shape[1]) // world * world
        if self._pairs < max(2, world):
            raise InputError(
                f"{edges.shape[1]} pairs to train on, {batch_notes // 2} in a batch, {world} processes; expected at least "
                "two pairs, and one per process: lower --min-support of `noterec pairs`, or raise batch_notes"
            )
        self._edges, self._seed = edges.T, seed
        self.notes = 2 * self._pairs
        self.per_epoch = len(self._edges) // self._pairs
        self._epoch: tuple[int, np.ndarray] | None = None

    def rows(self, step: int) -> np.ndarray:
        """The pairs of a step: (2P,) rows."""
        epoch, place = divmod(step, self.per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            random = np.random.default_rng([self._seed, epoch])
            self._epoch = (epoch, random.permutation(len(self._edges)))
        return self._edges[self._epoch[1][place * self._pairs : (place + 1) * self._pairs]].reshape(-1)


class Steps(IterableDataset[int]):
    """The numbers of the steps of a run from `start` on, for a data loader."""

    def __init__(self, steps: int, start: int = 0) -> None:
        """Yield from `start` up to, not including, `steps`."""
        self.steps, self.start = steps, start

    def __iter__(self) -> Iterator[int]:
        yield from range(self.start, self.steps)
