"""Shorter and rounder vectors against a search by hand, number by number."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from noterec.evaluation.arms import EmbeddingArm
from noterec.evaluation.compact import PRECISIONS, binary, compacted, dimensions, fp16, int8, prefix
from noterec.evaluation.protocol import Direction
from noterec.ranking.metrics import Relevance

NOTES, D, AT = 60, 40, 5


def planted() -> tuple[NDArray[np.float32], Direction]:
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(6, D))
    vectors = topics[np.arange(NOTES) % 6] + 2.5 * rng.normal(size=(NOTES, D))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    queries = np.arange(20, dtype=np.int64)
    lists = [[row for row in range(NOTES) if row % 6 == q % 6 and row != q] for q in queries]
    everything = np.arange(NOTES, dtype=np.int64)
    return vectors, Direction(
        "new -> all", queries, Relevance.from_lists(lists), everything, (AT,), (), sum(map(len, lists)), 0
    )


def by_hand(vectors: NDArray[np.float64], direction: Direction, query: int) -> float:
    """Recall@AT of one query, candidate by candidate."""
    scores = [(-float(vectors[query] @ vectors[row]), row) for row in range(NOTES) if row != query]
    found = {row for _, row in sorted(scores)[:AT]}
    bounds = direction.relevance.indptr
    relevant = set(direction.relevance.rows[bounds[query] : bounds[query + 1]].tolist())
    return len(found & relevant) / len(relevant)


def rounded(vectors: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    exact = vectors.astype(np.float64)
    if name == "binary":
        return np.array([[1.0 if x >= 0 else -1.0 for x in row] for row in exact])
    if name == "int8":
        steps = [max(abs(row[d]) for row in exact) / 127 for d in range(D)]
        return np.array([[round(x / step) * step for x, step in zip(row, steps, strict=True)] for row in exact])
    return np.array([[float(np.float16(x)) for x in row] for row in vectors]) if name == "fp16" else exact


def test_recall_is_that_of_a_search_by_hand() -> None:
    vectors, direction = planted()
    arm = EmbeddingArm("mine", vectors, np.arange(NOTES))
    found = compacted([arm], direction, at=AT, queries=100, resamples=100, seed=0)["mine"]
    assert (found["metric"], found["queries"]) == ("recall@5", 20)
    assert list(found["dimensions"]) == ["16", "32", "40"]
    assert list(found["precisions"]) == list(PRECISIONS)
    for size, record in found["dimensions"].items():
        cut = vectors[:, : int(size)].astype(np.float64)
        cut /= np.linalg.norm(cut, axis=1, keepdims=True)
        expected = np.mean([by_hand(cut, direction, q) for q in range(20)])
        assert record["mean"] == pytest.approx(expected), size
        assert record["bytes"] == 4 * int(size)
        assert record["low"] <= record["mean"] <= record["high"] and record["n"] == 20
    for name, record in found["precisions"].items():
        expected = np.mean([by_hand(rounded(vectors, name), direction, q) for q in range(20)])
        assert record["mean"] == pytest.approx(expected), name
    assert [record["bytes"] for record in found["precisions"].values()] == [160, 80, 40, 5]
    means = {name: record["mean"] for name, record in found["precisions"].items()}
    assert means["binary"] < means["fp32"]  # so that the planted notes can tell the two apart
    assert found["dimensions"]["40"]["relative"] is None is found["precisions"]["fp32"]["relative"]
    relative = found["dimensions"]["16"]["relative"]["mean"]
    assert relative == pytest.approx(found["dimensions"]["16"]["mean"] / means["fp32"] - 1)


def test_queries_are_drawn_and_misses_count() -> None:
    vectors, direction = planted()
    arm = EmbeddingArm("mine", vectors, np.arange(NOTES))
    some = compacted([arm], direction, at=AT, queries=7, resamples=100, seed=3)["mine"]
    assert some["queries"] == 7
    assert some == compacted([arm], direction, at=AT, queries=7, resamples=100, seed=3)["mine"]
    drawn = np.sort(np.random.default_rng(3).choice(20, 7, replace=False))
    expected = np.mean([by_hand(vectors.astype(np.float64), direction, q) for q in drawn])
    assert some["precisions"]["fp32"]["mean"] == pytest.approx(expected)
    gone = np.arange(NOTES)
    gone[:10] = -1  # half of the queries have no vector
    half = compacted([EmbeddingArm("gap", vectors, gone)], direction, at=AT, queries=100, resamples=100, seed=0)
    assert 0 < half["gap"]["precisions"]["fp32"]["mean"] < 0.5


def test_rounding() -> None:
    vectors = np.array([[1.0, -0.5, 0.0], [0.1, 0.25, 0.0]], dtype=np.float32)
    assert int8(vectors) == pytest.approx(np.array([[1.0, -0.5, 0], [13 / 127, 64 * 0.5 / 127, 0]]), abs=1e-6)
    assert binary(vectors).tolist() == [[1, -1, 1], [1, 1, 1]]
    assert fp16(np.array([[0.1]], dtype=np.float32))[0, 0] == np.float32(np.float16(0.1))
    assert prefix(2)(np.array([[3.0, 4.0, 9.0], [0, 0, 1]], dtype=np.float32)).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0, 0],
    ]


def test_dimensions_double() -> None:
    assert dimensions(8) == [8]
    assert dimensions(16) == [16]
    assert dimensions(64) == [16, 32, 64]
    assert dimensions(100) == [16, 32, 64, 100]
