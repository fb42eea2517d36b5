"""Exact top-k against a full, slow sort; small integers make every score exact, and ties frequent."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.ranking.topk import top_k


def brute_force(queries, candidates, k, exclude):
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    rows = np.full((len(queries), k), -1, dtype=np.int64)
    for q, query in enumerate(queries):
        ranked = sorted((-float(query @ vector), n) for n, vector in enumerate(candidates) if n != exclude[q])
        for place, (score, n) in enumerate(ranked[:k]):
            scores[q, place], rows[q, place] = -score, n
    return scores, rows


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 6),
    st.integers(0, 23),
    st.integers(1, 4),
    st.integers(1, 30),
    st.integers(1, 25),
    st.integers(0, 999),
)
def test_equals_a_full_sort_with_ties(queries, candidates, dimension, k, block_rows, seed):
    rng = np.random.default_rng(seed)
    q = rng.integers(-1, 2, (queries, dimension)).astype(np.float32)
    c = rng.integers(-1, 2, (candidates, dimension)).astype(np.float32)
    exclude = rng.integers(-1, candidates, queries)
    scores, rows = top_k(q, c, k, exclude=exclude, block_rows=block_rows)
    expected_scores, expected_rows = brute_force(q, c, k, exclude)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64


def test_many_queries_cross_query_blocks(monkeypatch):
    monkeypatch.setattr("noterec.ranking.topk._BLOCK_SCORES", 64)
    rng = np.random.default_rng(1)
    q, c = rng.integers(-3, 4, (37, 5)).astype(np.float32), rng.integers(-3, 4, (29, 5)).astype(np.float32)
    scores, rows = top_k(q, c, 7, exclude=np.arange(37) % 29, block_rows=10)
    expected_scores, expected_rows = brute_force(q, c, 7, np.arange(37) % 29)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)


def test_all_equal_scores_come_in_row_order():
    scores, rows = top_k(np.zeros((2, 3)), np.ones((100, 3)), 5, exclude=[-1, 2], block_rows=30)
    assert rows.tolist() == [[0, 1, 2, 3, 4], [0, 1, 3, 4, 5]]
    assert (scores == 0).all()


def test_padding_is_minus_one_and_minus_infinity():
    scores, rows = top_k([[1.0]], [[2.0], [3.0]], 4, exclude=[0])
    assert rows.tolist() == [[1, -1, -1, -1]]
    assert scores.tolist() == [[3.0, -np.inf, -np.inf, -np.inf]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_vector_that_is_not_finite_is_named(bad):
    vectors = np.ones((4, 2))
    vectors[2, 1] = bad
    with pytest.raises(InputError, match=r"candidates: 1 of 4 rows hold NaN or infinity .*row 2"):
        top_k(np.ones((1, 2)), vectors, 1)
    with pytest.raises(InputError, match="queries"):
        top_k(vectors, np.ones((1, 2)), 1)


@pytest.mark.parametrize(
    ("queries", "candidates", "k", "exclude", "message"),
    [
        (np.ones((1, 2)), np.ones((1, 3)), 1, None, "2 dimensions and candidates 3"),
        (np.ones(2), np.ones((1, 2)), 1, None, "shape"),
        (np.ones((1, 2)), np.ones((1, 2)), 0, None, "at least 1"),
        (np.ones((1, 2)), np.ones((1, 2)), 1, [1], "below 1"),
        (np.ones((1, 2)), np.ones((1, 2)), 1, [-2], "-1"),
        (np.ones((1, 2)), np.ones((1, 2)), 1, [0, 0], "one candidate row per query"),
        (np.full((1, 2), 1e25), np.full((1, 2), 1e25), 1, None, "overflow"),
    ],
)
def test_wrong_arguments_are_refused(queries, candidates, k, exclude, message):
    with pytest.raises(InputError, match=message):
        top_k(queries, candidates, k, exclude=exclude)
