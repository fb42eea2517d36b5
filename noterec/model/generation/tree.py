"""A closed set of categories as a prefix tree over token ids, in which only places of decision are kept.

Every answer ends in the end token, so a category that begins another one parts from it there: "Travel" ends where
"Travel/Asia" goes on.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np

from noterec.errors import InputError
from noterec.model.prompts import Prompt


@dataclasses.dataclass(frozen=True)
class Branch:
    """A place where categories part.

    Attributes:
        path: the ids from the root to here.
        tokens: (C,) int64, the C >= 2 ids that may follow.
        targets: where each of them leads: a branch's number, or ~n for category n. Ids that leave no choice are passed over.
    """

    path: tuple[int, ...]
    tokens: np.ndarray
    targets: tuple[int, ...]


class PrefixTree:
    """N categories; branch 0 is the first decision.

    Attributes:
        names: the categories, in the order given; ties between equally probable ones go to the earlier.
        branches: at most N - 1.
    """

    def __init__(self, names: Sequence[str], answers: Sequence[Sequence[int]]) -> None:
        """Take names and the ids that spell them, each ending in the end token.

        Raises:
            InputError: no categories, one without a token of its own, or two that are spelled alike.
        """
        if not names:
            raise InputError(
                "the closed set of categories is empty; give at least one category, or --decoding free to let the model choose"
                " its own words"
            )
        self.names = list(names)
        order = sorted(range(len(names)), key=lambda n: tuple(answers[n]))
        for n in order:
            *written, end = answers[n]
            if not written or end in written:
                raise InputError(f"category {names[n]!r} has no ids that this model could write; remove or rename it")
        for one, other in itertools.pairwise(order):
            if tuple(answers[one]) == tuple(answers[other]):
                first, second = sorted((one, other))
                raise InputError(
                    f"categories {names[first]!r} and {names[second]!r} are the same ids to this model's tokenizer; "
                    "remove or rename one of them"
                )
        self.branches: list[Branch] = []
        self.root = ~order[0] if len(order) == 1 else 0
        self._grow([tuple(answers[n]) for n in order], order)
        self._above = {
            target: (number, place)
            for number, branch in enumerate(self.branches)
            for place, target in enumerate(branch.targets)
        }

    @classmethod
    def of(cls, names: Sequence[str], prompt: Prompt) -> PrefixTree:
        """The tree of categories as a prompt's tokenizer spells them."""
        return cls(names, [prompt.answer_ids("category", (name,)) for name in names])

    @property
    def depth(self) -> int:
        """Ids that are read behind a prompt at most, to decide at the deepest branch."""
        return max((len(branch.path) for branch in self.branches), default=0)

    def way(self, category: int) -> list[tuple[int, int]]:
        """The decisions that lead to a category, from the root: (branch, place among its tokens)."""
        way, target = [], ~category
        while target in self._above:
            way.append(self._above[target])
            target = way[-1][0]
        return way[::-1]

    def _grow(self, answers: list[tuple[int, ...]], order: list[int]) -> None:
        """Split the sorted answers [start, end) at the first id where they part, and so on within the parts."""
        waiting = [(0, len(order), 0)]  # a stack of (start, end, depth): a chain of prefixes may be as long as the set
        numbers = {(0, len(order)): 0}
        splits: list[tuple[int, list[int]]] = []
        while waiting:
            start, end, depth = waiting.pop()
            if end - start == 1:
                continue
            first, last = answers[start], answers[end - 1]
            while first[depth] == last[depth]:  # sorted: what the outermost share, all share
                depth += 1
            cuts = [start] + [n for n in range(start + 1, end) if answers[n][depth] != answers[n - 1][depth]] + [end]
            numbers[start, end] = len(splits)
            splits.append((depth, cuts))
            waiting.extend((low, high, depth + 1) for low, high in itertools.pairwise(cuts))
        for depth, cuts in splits:
            parts = list(itertools.pairwise(cuts))
            self.branches.append(
                Branch(
                    path=answers[cuts[0]][:depth],
                    tokens=np.array([answers[low][depth] for low, _ in parts], dtype=np.int64),
                    targets=tuple(~order[low] if high - low == 1 else numbers[low, high] for low, high in parts),
                )
            )
