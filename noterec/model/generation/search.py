"""What a model thinks of a closed set, asked branch by branch: the most probable categories, and samples.

At every branch the model's scores are renormalised over the ids that may follow. The products of these probabilities along the
paths are a distribution over the closed set: they sum to 1. A search doesn't run the model: it yields the number of a branch whose
scores it needs and is sent them, so that whoever drives many searches can ask for the scores of all at once.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator
from typing import TypeVar

import numpy as np

from noterec.model.generation.tree import PrefixTree

T = TypeVar("T")
Search = Generator[int, np.ndarray, T]  # yields a branch's number, is sent (C,) float scores of its ids


class Knowledge:
    """One note's scores at the branches that were asked for so far; no branch is asked for twice."""

    def __init__(self, tree: PrefixTree) -> None:
        self._tree = tree
        self._scores: dict[int, np.ndarray] = {}

    def best(self, top: int) -> Search[list[tuple[int, float]]]:
        """The `top` most probable categories with their probabilities, exactly, most probable first.

        Best-first: the most probable open place is opened next, and no place below another is more probable, so a category that
        comes up is the most probable one left. Equally probable ones come in the order of the tree's names.
        """
        tree = self._tree
        # Of equally probable places branches come first, then categories in order: -~n rises with n.
        open_places = [(-0.0, -tree.root)]
        found: list[tuple[int, float]] = []
        while open_places and len(found) < top:
            cost, negated = heapq.heappop(open_places)
            target = -negated
            if target < 0:
                found.append((~target, float(np.exp(-cost))))
                continue
            steps = log_softmax((yield from self._scores_of(target)))
            for after, step in zip(tree.branches[target].targets, steps.tolist(), strict=True):
                heapq.heappush(open_places, (cost - step, -after))
        return found

    def draw(self, random: np.random.Generator, temperature: float) -> Search[int]:
        """One category, drawn id by id at a temperature, as a model writes freely."""
        target = self._tree.root
        while target >= 0:
            shares = np.exp(log_softmax((yield from self._scores_of(target)) / temperature))
            target = self._tree.branches[target].targets[pick(shares, random.random())]
        return ~target

    def probability(self, category: int) -> Search[float]:
        """The probability of one category."""
        total = 0.0
        for branch, place in self._tree.way(category):
            total += float(log_softmax((yield from self._scores_of(branch)))[place])
        return float(np.exp(total))

    def _scores_of(self, branch: int) -> Search[np.ndarray]:
        if branch not in self._scores:
            self._scores[branch] = np.asarray((yield branch), dtype=np.float64)
        return self._scores[branch]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    """(C,) float64 scores to log probabilities."""
    shifted = scores - scores.max()
    return np.asarray(shifted - np.log(np.exp(shifted).sum()))


def pick(shares: np.ndarray, uniform: float) -> int:
    """The place in (C,) shares that a number from [0, 1) falls on."""
    edges = np.cumsum(shares)
    return min(int(np.searchsorted(edges, uniform * edges[-1], side="right")), len(shares) - 1)
