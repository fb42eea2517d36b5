"""Batches are functions of seed and step, cover the pairs, and know what is related in them."""

from __future__ import annotations

import dataclasses

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.errors import InputError
from noterec.model.inputs import Inputs
from noterec.training.batches import GraphBlocks, PairBatches, Steps
from noterec.training.material import Material, rows_of_pairs


def material(edges: list[tuple[int, int]], scores: list[float] | None = None, notes: int = 12) -> Material:
    """Notes without any text, and these pairs among them."""
    anchors, related = np.array(edges, dtype=np.int64).reshape(-1, 2).T
    given_scores = np.array(scores if scores is not None else [1.0] * len(edges), dtype=np.float32)
    ids = np.array([f"n{i}" for i in range(notes)], dtype=object)
    return Material(ids, notes, Inputs([], None), None, anchors, related, given_scores)


EDGES = [(0, 1), (1, 0), (1, 2), (3, 4), (5, 6), (7, 8), (8, 3)]  # notes 9, 10 and 11 have no relation


def test_the_graph_is_symmetric_by_the_larger_direction() -> None:
    graph = material([(0, 1), (1, 0), (1, 2)], [0.2, 0.7, 0.5]).graph.toarray()
    expected = np.zeros((12, 12), dtype=np.float32)
    expected[0, 1] = expected[1, 0] = 0.7
    expected[1, 2] = expected[2, 1] = 0.5
    np.testing.assert_array_equal(graph, expected)


@pytest.mark.parametrize("kind", [GraphBlocks, PairBatches])
def test_a_batch_depends_on_seed_and_step_alone(kind: type[GraphBlocks] | type[PairBatches]) -> None:
    one, other = (kind(material(EDGES), 6, seed=3) for _ in range(2))
    wanted = [0, 5, 1, 40, 5, 0]
    for step in wanted:
        other.rows(step + 1)  # looked at in another order
        np.testing.assert_array_equal(one.rows(step), other.rows(step))
    assert any(one.rows(0).tolist() != one.rows(step).tolist() for step in range(1, 10))
    assert any(one.rows(s).tolist() != kind(material(EDGES), 6, seed=4).rows(s).tolist() for s in range(5))


@settings(max_examples=60, deadline=None)
@given(size=st.integers(4, 40), seed=st.integers(0, 99), step=st.integers(0, 50), notes=st.sampled_from([12, 300]))
def test_blocks_hold_training_notes_without_repeats(size: int, seed: int, step: int, notes: int) -> None:
    data = material(EDGES, notes=notes)
    rows = GraphBlocks(data, size, seed).rows(step)
    assert len(rows) == len(set(rows.tolist())) == min(size, notes)
    assert set(rows.tolist()) <= set(range(notes))
    relations = data.relations(rows, rows)
    np.testing.assert_array_equal(relations, data.graph.toarray()[np.ix_(rows, rows)])
    np.testing.assert_array_equal(data.same(rows), np.eye(len(rows), dtype=bool))
    if notes == 300:  # few of so many have a relation, but every block holds some
        assert relations.any()


def test_a_graph_without_relations_is_refused() -> None:
    with pytest.raises(InputError, match="no pair of different notes to train on"):
        GraphBlocks(material([]), 8, seed=0)


def test_notes_of_equal_content_are_the_same() -> None:
    contents = np.array([0, 1, 0, 2])
    data = dataclasses.replace(material([(0, 1), (2, 3)], notes=4), contents=contents)
    for kind in (GraphBlocks, PairBatches):
        rows = kind(data, 8, seed=0).rows(0)
        np.testing.assert_array_equal(data.same(rows), contents[rows][:, None] == contents[rows][None, :])
        np.testing.assert_array_equal(data.same(rows, rows[:2]), contents[rows][:, None] == contents[rows[:2]][None, :])


@pytest.mark.parametrize("batch_notes", [4, 6, 400])
def test_an_epoch_has_every_pair_once(batch_notes: int) -> None:
    batches = PairBatches(material(EDGES), batch_notes, seed=1)
    distinct = {frozenset(edge) for edge in EDGES}  # (0, 1) and (1, 0) are one
    pairs = batches.notes // 2
    assert pairs == min(batch_notes // 2, len(distinct))
    assert batches.per_epoch == len(distinct) // pairs
    seen = []
    for step in range(batches.per_epoch):
        seen += [frozenset(pair) for pair in batches.rows(step).reshape(-1, 2).tolist()]
    assert len(seen) == len(set(seen))
    assert set(seen) <= distinct
    assert len(seen) > len(distinct) - pairs  # what is left over is less than a batch


def test_a_batch_of_pairs_knows_relations_and_repeats() -> None:
    data = material(EDGES)
    rows = PairBatches(data, 400, seed=0).rows(0)
    graph, relations, same = data.graph.toarray(), data.relations(rows, rows), data.same(rows)
    for i, a in enumerate(rows):
        for j, b in enumerate(rows):
            assert (relations[i, j] > 0) == (graph[a, b] > 0)
            assert same[i, j] == (a == b)


def test_a_note_appears_once_for_each_of_its_relations() -> None:
    assert material(EDGES).appearances.tolist() == [1, 2, 1, 2, 1, 1, 1, 1, 2, 0, 0, 0]


@pytest.mark.parametrize("kind", [GraphBlocks, PairBatches])
def test_processes_share_a_batch_evenly(kind: type[GraphBlocks] | type[PairBatches]) -> None:
    alone, shared = kind(material(EDGES), 8, seed=0), kind(material(EDGES), 8, seed=0, world=2)
    assert shared.notes % 2 == 0
    if alone.notes == shared.notes:  # the same global batch, however many processes there are
        np.testing.assert_array_equal(alone.rows(3), shared.rows(3))
    assert kind(material(EDGES), 11, seed=0, world=3).notes % 3 == 0


def test_one_pair_is_too_few() -> None:
    with pytest.raises(InputError, match="1 pairs to train on, 4 in a batch, 1 processes; expected at least two"):
        PairBatches(material([(0, 1), (1, 0)]), 8, seed=0)


def test_steps_resume_where_they_are_told() -> None:
    assert list(Steps(6)) == [0, 1, 2, 3, 4, 5]
    assert list(Steps(6, 4)) == [4, 5]


def test_rows_of_pairs() -> None:
    ids = np.array(["b", "a", "c"], dtype=object)
    pairs = pl.DataFrame({"anchor_id": ["a", "c"], "related_id": ["b", "a"], "score": [0.5, None]})
    anchors, related, scores = rows_of_pairs(pairs, ids)
    assert (anchors.tolist(), related.tolist(), scores.tolist()) == ([1, 2], [0, 1], [0.5, 1.0])
    with pytest.raises(InputError, match=r"1 of 2 pairs name unknown notes, the first 'c' and 'a'"):
        rows_of_pairs(pairs, ids[:2])
