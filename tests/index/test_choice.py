"""Choosing among the notes that were found, against a slow and plain version of the same rules."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.index.choice import ROUNDING, Limits, choose

from .conftest import unit


def slowly(relevance: list[float], cosines: np.ndarray, authors: list[int], k: int, limits: Limits) -> list[int]:
    """The same rules, note by note."""
    chosen: list[int] = []
    while len(chosen) < k:
        best, best_gain = -1, -np.inf
        for place in range(len(relevance)):
            if place in chosen:
                continue
            near = max((cosines[place, other] for other in chosen), default=np.float32(0))
            repeats = (
                limits.duplicates is not None and bool(chosen) and near >= np.float32(limits.duplicates) - ROUNDING
            )
            if repeats or (limits.per_author or 99) <= sum(authors[other] == authors[place] for other in chosen):
                continue
            gain = (1 - limits.diversity) * np.float32(relevance[place]) - limits.diversity * near
            if not limits.diversity:
                gain = -place
            if gain > best_gain:
                best, best_gain = place, gain
        if best < 0:
            break
        chosen.append(best)
    return chosen + [-1] * (k - len(chosen))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 12),
    per_author=st.none() | st.integers(1, 3),
    duplicates=st.none() | st.sampled_from([0.2, 0.9, 1.0]),
    diversity=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_choose_follows_the_rules(
    seed: int, k: int, per_author: int | None, duplicates: float | None, diversity: float
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.normal(size=(3, 9, 3)).reshape(27, 3)).reshape(3, 9, 3)
    vectors[:, 4] = vectors[:, 1]  # reposts
    relevance = -np.sort(-rng.normal(size=(3, 9)).astype(np.float32), axis=1)
    cosines = (vectors @ vectors.transpose(0, 2, 1)).astype(np.float32)
    authors = rng.integers(0, 4, size=(3, 9))
    there = np.arange(9) < np.array([[9], [5], [0]])
    limits = Limits(per_author, duplicates, diversity)
    found = choose(relevance, there, k, limits, cosines=cosines, authors=authors)
    for row, width in enumerate((9, 5, 0)):
        expected = slowly(relevance[row, :width].tolist(), cosines[row], authors[row].tolist(), k, limits)
        assert found[row].tolist() == expected


def test_what_was_taken_stays_and_counts() -> None:
    authors = np.array([[0, 1, 0, 1, 2]])
    relevance = np.array([[0.5, 0.4, 0.9, 0.8, 0.7]], dtype=np.float32)
    found = choose(relevance, np.ones((1, 5), dtype=bool), 4, Limits(per_author=1), authors=authors, taken=2)
    assert found.tolist() == [[0, 1, 4, -1]]


def test_maximal_marginal_relevance_by_hand() -> None:
    # The second note repeats the first; with half the weight on novelty the third, less relevant one comes before it.
    cosines = np.array([[[1, 0.9, 0.1], [0.9, 1, 0.2], [0.1, 0.2, 1]]], dtype=np.float32)
    relevance = np.array([[0.9, 0.8, 0.5]], dtype=np.float32)
    there = np.ones((1, 3), dtype=bool)
    # 0.5 · 0.8 - 0.5 · 0.9 = -0.05 < 0.5 · 0.5 - 0.5 · 0.1 = 0.2
    assert choose(relevance, there, 3, Limits(diversity=0.5), cosines=cosines).tolist() == [[0, 2, 1]]
    # 0.9 · 0.8 - 0.1 · 0.9 = 0.63 > 0.9 · 0.5 - 0.1 · 0.1 = 0.44
    assert choose(relevance, there, 3, Limits(diversity=0.1), cosines=cosines).tolist() == [[0, 1, 2]]
