"""Searches over a closed set against the whole distribution, spelled out."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noterec.model.generation.search import Knowledge, Search, log_softmax, pick
from noterec.model.generation.tree import PrefixTree
from tests.model.generation.test_tree import ANSWERS


def answer(search: Search[Any], scores: list[np.ndarray]) -> tuple[Any, list[int]]:
    """A search's result, and the branches that it asked for."""
    asked: list[int] = []
    try:
        asked.append(next(search))
        while True:
            asked.append(search.send(scores[asked[-1]]))
    except StopIteration as stopped:
        return stopped.value, asked


def spelled_out(tree: PrefixTree, scores: list[np.ndarray]) -> np.ndarray:
    """The probability of every category: exponentials over sums of exponentials, multiplied along its way."""
    shares = [np.exp(values) / np.exp(values).sum() for values in scores]
    return np.array([np.prod([shares[b][place] for b, place in tree.way(n)]) for n in range(len(tree.names))])


def scored(answers: list[tuple[int, ...]], seed: int, spread: float = 2.0) -> tuple[PrefixTree, list[np.ndarray]]:
    tree = PrefixTree([str(n) for n in range(len(answers))], answers)
    random = np.random.default_rng(seed)
    return tree, [random.normal(scale=spread, size=len(branch.tokens)) for branch in tree.branches]


@given(ANSWERS.filter(bool), st.integers(0, 2**32))
def test_the_best_are_those_of_the_whole_distribution(answers: list[tuple[int, ...]], seed: int) -> None:
    tree, scores = scored(answers, seed)
    whole = spelled_out(tree, scores)
    assert whole.sum() == pytest.approx(1)
    for top in (1, 3, len(answers) + 5):
        found, asked = answer(Knowledge(tree).best(top), scores)
        order = np.argsort(-whole)[:top]
        assert [n for n, _ in found] == order.tolist()
        np.testing.assert_allclose([p for _, p in found], whole[order])
        assert len(asked) == len(set(asked)) <= len(tree.branches)
    for n in range(len(answers)):
        assert answer(Knowledge(tree).probability(n), scores)[0] == pytest.approx(whole[n])


def test_only_what_can_still_win_is_asked_for() -> None:
    answers = [(a, b, c, 0) for a in range(1, 5) for b in range(1, 5) for c in range(1, 5)]
    tree, _ = scored(answers, 0)
    sure = [np.array([5.0, 0.0, 0.0, 0.0]) for _ in tree.branches]
    knowledge = Knowledge(tree)
    found, asked = answer(knowledge.best(1), sure)
    assert (found[0][0], len(asked), len(tree.branches)) == (0, 3, 21)
    assert answer(knowledge.best(1), sure) == (found, [])  # what is known isn't asked again


def test_equal_ones_come_in_the_order_of_names() -> None:
    answers = [(1, 5, 0), (2, 0), (1, 4, 0), (3, 0), (1, 6, 0)]
    tree, _ = scored(answers, 0)
    scores = [np.log([0.6, 0.2, 0.2]), np.zeros(3)]
    found, _ = answer(Knowledge(tree).best(5), scores)
    assert [n for n, _ in found] == [0, 1, 2, 3, 4]
    tree, _ = scored([(1, 5, 0), (2, 0), (1, 4, 0)], 0)  # the first stands deeper than the second, exactly as probable
    found, _ = answer(Knowledge(tree).best(1), [np.zeros(2), np.array([-2000.0, 0.0])])
    assert found == [(0, 0.5)]


def test_one_category_is_certain_and_asks_nothing() -> None:
    tree, scores = scored([(4, 0)], 0)
    assert answer(Knowledge(tree).best(3), scores) == ([(0, 1.0)], [])
    assert answer(Knowledge(tree).draw(np.random.default_rng(0), 1.0), scores) == (0, [])


def test_samples_follow_the_distribution_and_the_temperature() -> None:
    answers = [(1, 0), (1, 2, 0), (1, 3, 0), (2, 0), (3, 1, 0), (3, 2, 0)]
    tree, scores = scored(answers, 4, spread=1.0)
    for temperature in (1.0, 0.4):
        knowledge = Knowledge(tree)
        drawn = Counter(
            answer(knowledge.draw(np.random.default_rng([7, n]), temperature), scores)[0] for n in range(6_000)
        )
        expected = spelled_out(tree, [values / temperature for values in scores])
        found = np.array([drawn[n] for n in range(len(answers))]) / 6_000
        np.testing.assert_allclose(found, expected, atol=4 * 0.5 / np.sqrt(6_000))


def test_pick_and_softmax() -> None:
    shares = np.array([0.25, 0.0, 0.5, 0.25])
    assert [pick(shares, u) for u in (0.0, 0.2499, 0.25, 0.7499, 0.75, 0.9999999)] == [0, 0, 2, 2, 3, 3]
    assert pick(shares, np.nextafter(1, 0)) == 3
    np.testing.assert_allclose(np.exp(log_softmax(np.array([1e4, 1e4]))), [0.5, 0.5])
