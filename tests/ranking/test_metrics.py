"""Metrics by hand, and against ir-measures on random rankings."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.ranking.metrics import Relevance, coverage, hit_at, mrr_at, ndcg_at, recall_at


def test_by_hand():
    ranked = np.array([[7, 3, 9, 1], [5, 6, 7, 8], [-1, -1, -1, -1]])
    relevant = [[3, 1, 100], [5], [2, 4]]
    assert recall_at(ranked, relevant, 2).tolist() == [1 / 3, 1.0, 0.0]
    assert recall_at(ranked, relevant, 4).tolist() == [2 / 3, 1.0, 0.0]
    assert hit_at(ranked, relevant, 1).tolist() == [0.0, 1.0, 0.0]
    assert mrr_at(ranked, relevant, 4).tolist() == [0.5, 1.0, 0.0]
    assert mrr_at(ranked, relevant, 1).tolist() == [0.0, 1.0, 0.0]
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    np.testing.assert_allclose(ndcg_at(ranked, relevant, 4), [(1 / np.log2(3) + 1 / np.log2(5)) / ideal, 1, 0])


def test_recall_divides_by_all_relevant_rows_not_by_k():
    assert recall_at([[0, 1]], [[0, 1, 2, 3]], 2).tolist() == [0.5]


def test_minus_one_is_never_a_hit():
    assert hit_at([[-1, -1, 4]], [[0, 9]], 3).tolist() == [0.0]
    assert mrr_at([[-1, -1, 9]], [[0, 9]], 3).tolist() == [1 / 3]


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 30), st.integers(0, 10_000))
def test_agrees_with_ir_measures(queries, candidates, seed):
    rng = np.random.default_rng(seed)
    depth = int(rng.integers(1, candidates + 1))
    ranked = np.full((queries, depth + 2), -1)
    relevant = []
    for q in range(queries):
        filled = int(rng.integers(0, depth + 1))
        ranked[q, :filled] = rng.permutation(candidates)[:filled]
        relevant.append(rng.permutation(candidates)[: rng.integers(1, candidates + 1)])
    qrels = [ir_measures.Qrel(str(q), str(row), 1) for q, rows in enumerate(relevant) for row in rows]
    run = [
        ir_measures.ScoredDoc(str(q), str(row), -float(place))
        for q in range(queries)
        for place, row in enumerate(ranked[q])
        if row >= 0
    ]
    for k in {1, min(3, depth), depth}:
        ours = {
            ir_measures.R @ k: recall_at(ranked, relevant, k),
            ir_measures.Success @ k: hit_at(ranked, relevant, k),
            ir_measures.RR @ k: mrr_at(ranked, relevant, k),
            ir_measures.nDCG @ k: ndcg_at(ranked, relevant, k),
        }
        theirs = {measure: np.zeros(queries) for measure in ours}
        for metric in ir_measures.iter_calc(list(ours), qrels, run):
            theirs[metric.measure][int(metric.query_id)] = metric.value
        for measure, values in ours.items():
            np.testing.assert_allclose(values, theirs[measure], atol=1e-9, err_msg=str(measure))


def test_lists_and_compressed_rows_are_the_same():
    ranked = np.array([[0, 1, 2], [2, 1, 0]])
    compressed = Relevance(np.array([0, 1, 3]), np.array([2, 0, 1]))
    np.testing.assert_array_equal(ndcg_at(ranked, compressed, 3), ndcg_at(ranked, [[2], [0, 1]], 3))
    assert compressed.counts.tolist() == [1, 2]


def test_coverage_counts_distinct_rows():
    ranked = [[0, 1, 5], [0, 2, 5], [-1, -1, -1]]
    assert coverage(ranked, 10, 2) == 0.3
    assert coverage(ranked, 10, 3) == 0.4
    with pytest.raises(InputError, match="rows up to 5 of 5"):
        coverage(ranked, 5, 3)


@pytest.mark.parametrize(
    ("ranked", "relevant", "k", "message"),
    [
        ([[0, 1]], [[0]], 3, "rank deeper"),
        ([[0, 1]], [[0]], 0, "cut-off 0"),
        ([[0, 1]], [[0], [1]], 1, "1 ranked queries and 2"),
        ([[0, 1], [0, 1]], [[0], []], 1, "no relevant row .*query 1"),
        ([[0, 0]], [[0]], 2, "same row twice"),
        ([[0, 1]], [[0, 0]], 2, "same relevant row twice"),
        ([[0, 1]], [[-1]], 2, "negative"),
        ([0, 1], [[1]], 2, "shape"),
    ],
)
def test_what_has_no_meaning_is_refused(ranked, relevant, k, message):
    with pytest.raises(InputError, match=message):
        recall_at(ranked, relevant, k)


def test_offsets_must_span_the_rows():
    with pytest.raises(InputError, match="span"):
        Relevance(np.array([0, 1]), np.array([1, 2]))
    with pytest.raises(InputError, match="fall"):
        Relevance(np.array([0, 2, 1, 3]), np.array([1, 2, 3]))
