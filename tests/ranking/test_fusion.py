"""Reciprocal-rank fusion, by hand and against a dictionary."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.ranking.fusion import best_columns, fuse


def test_by_hand() -> None:
    near, alike = np.array([[4, 2, 9]]), np.array([[2, 7, -1, -1]])
    rows, scores = fuse([near, alike], 10, (2, 1), 6)
    assert rows.tolist() == [[2, 4, 9, 7, -1, -1]]
    np.testing.assert_allclose(scores[0, :4], [2 / 12 + 1 / 11, 2 / 11, 2 / 13, 1 / 12])
    assert np.isneginf(scores[0, 4:]).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(0, 15), unique=True, max_size=10), min_size=1, max_size=3), st.integers(1, 20))
def test_it_equals_a_dictionary_of_sums(rankings: list[list[int]], depth: int) -> None:
    weights = [2.0, 1.0, 0.5][: len(rankings)]
    total: dict[int, float] = {}
    for weight, ranking in zip(weights, rankings, strict=True):
        for rank, row in enumerate(ranking, start=1):
            total[row] = total.get(row, 0.0) + weight / (10 + rank)
    expected = sorted(total, key=lambda row: (-total[row], row))[:depth]
    padded = [np.array([ranking + [-1] * (10 - len(ranking))]) for ranking in rankings]
    rows, scores = fuse(padded, 10, weights, depth)
    assert rows[0].tolist() == expected + [-1] * (depth - len(expected))
    np.testing.assert_allclose(scores[0, : len(expected)], [total[row] for row in expected])


def test_best_columns_leaves_out_what_scores_nothing() -> None:
    scores = np.array([[0, 3, 1, 3, 0], [0, 0, 0, 0, 0]], dtype=np.float32)
    assert best_columns(scores, 4).tolist() == [[1, 3, 2, -1], [-1, -1, -1, -1]]
    assert best_columns(np.empty((1, 0), dtype=np.float32), 2).tolist() == [[-1, -1]]
