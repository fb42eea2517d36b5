"""Self-consistency: how often a model gives the same answer when it is asked again (Wang et al., arXiv:2203.11171).

Sampling stops early when it would hardly change the vote (ESC; Li et al., arXiv:2401.10480 §3): answers are drawn window by window,
and the first window that is of one mind is the last. Answers are whatever can be compared; nothing here knows of models.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

A = TypeVar("A", bound=Hashable)


@dataclasses.dataclass(frozen=True)
class Vote(Generic[A]):
    """The answer with the most votes, the first seen of several; `share` of all answers gave it."""

    winner: A
    share: float


def more(answers: Sequence[Hashable], *, samples: int, window: int, early_stopping: bool = True) -> int:
    """How many answers are to be drawn next; 0 = enough.

    Args:
        answers: those drawn so far, as this function asked for them.
        samples: never more than so many in all; the last window may be shorter for it.
        window: answers of a window.
        early_stopping: False draws all samples whatever they say.

    Returns:
        The size of the next window, or everything at once without early stopping.
    """
    left = samples - len(answers)
    if not early_stopping:
        return max(0, left)
    if len(answers) >= window and len(set(answers[-window:])) == 1:
        return 0
    return max(0, min(window, left))


def majority(answers: Sequence[A]) -> Vote[A]:
    """The vote of at least one answer."""
    winner, votes = Counter(answers).most_common(1)[0]  # equal counts stand in the order in which they were first seen
    return Vote(winner, votes / len(answers))


def shares(answers: Sequence[Iterable[A]]) -> dict[A, float]:
    """For answers of several parts: which share of them names a part, the largest first, then the first seen."""
    votes = Counter(part for answer in answers for part in dict.fromkeys(answer))
    return {part: count / len(answers) for part, count in votes.most_common()}


def saved_share(drawn: int, fixed: int) -> float | None:
    """The share of a fixed number of samples that was not drawn; None where none were asked for."""
    return 1.0 - drawn / fixed if fixed else None
