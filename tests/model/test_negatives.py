"""Popularity as a logarithm, and hard negatives by hand, against brute force, and on data with a relation that was hidden."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix

from noterec.errors import InputError
from noterec.model import negatives
from noterec.model.negatives import hard_negatives, log_q


def graph(notes: int, *edges: tuple[int, int]) -> Any:
    """A symmetric graph with scores of 1."""
    both = [*edges, *((b, a) for a, b in edges)]
    first, second = zip(*both, strict=True) if both else ((), ())
    return csr_matrix((np.ones(len(both), dtype=np.float32), (first, second)), shape=(notes, notes))


def around(*degrees: float) -> np.ndarray:
    """Unit vectors of the plane."""
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_log_q_by_hand() -> None:
    found = log_q(np.array([4, 2, 1, 1]))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.log([0.5, 0.25, 0.125, 0.125]), rtol=1e-6)


def test_a_note_of_no_pair_counts_as_the_rarest() -> None:
    found = log_q(np.array([6, 0, 1]))
    np.testing.assert_allclose(np.exp(found), [6 / 8, 1 / 8, 1 / 8], rtol=1e-6)


@pytest.mark.parametrize("counts", [[0, 0], [], [3, -1]])
def test_counts_without_a_pair_are_refused(counts: list[int]) -> None:
    with pytest.raises(InputError, match="expected counts of at least 0, and a pair"):
        log_q(np.array(counts))


# Anchor 0 is related to note 3, at 30 degrees: cosine .866. Others lie at 10, 20, 35, 40, 50, 60, 80 degrees.
PLANE = around(0, 10, 20, 30, 35, 40, 50, 60, 80)
KNOWN = graph(9, (0, 3))


def mined(low: int, high: int, margin: float, count: int = 9, **more: Any) -> list[int]:
    """Hard negatives of note 0, without the padding."""
    found = hard_negatives(PLANE, KNOWN, count=count, low=low, high=high, margin=margin, seed=0, **more)
    assert (found.shape, found.dtype) == ((9, count), np.int64)
    return [int(row) for row in found[0] if row >= 0]


def test_the_band_and_the_bound_by_hand() -> None:
    assert mined(0, 9, 1.0) == [4, 5, 6, 7, 8]  # all that lie farther than the relation
    assert mined(0, 9, 0.9) == [5, 6, 7, 8]  # .9 x .866 = .779: 35 degrees (.819) is too near, 40 (.766) isn't
    assert mined(0, 9, 0.5) == [8]  # .433: only 80 degrees (.174) is left; 60 has .5
    assert mined(0, 5, 1.0) == [4, 5]  # ranks 0 to 4 are notes 1 to 5
    assert mined(4, 6, 1.0) == [5, 6]
    assert mined(3, 4, 0.9) == []
    assert mined(100, 200, 1.0) == []  # there are not so many notes


def test_the_padding_comes_last() -> None:
    found = hard_negatives(PLANE, KNOWN, count=4, low=4, high=6, margin=1.0, seed=0)
    assert found[0].tolist() == [5, 6, -1, -1]


def test_the_bound_is_of_the_mean_over_relations() -> None:
    both = graph(9, (0, 3), (0, 8))  # (.866 + .174) / 2 = .52: 60 degrees (.5) is far enough, 50 (.643) isn't
    found = hard_negatives(PLANE, both, count=3, low=0, high=9, margin=1.0, seed=0)
    assert found[0].tolist() == [7, -1, -1]


def test_relations_on_the_other_side_keep_the_bound_below_their_mean() -> None:
    plane = around(0, 120, 125, 128, 130, 170)
    found = hard_negatives(plane, graph(6, (0, 1)), count=5, low=0, high=5, margin=0.8, seed=0)
    # The relation's cosine is -.5; a fifth of it lower is -.6: 125 degrees (-.574) is too near, 128 (-.616) isn't.
    assert found[0].tolist() == [3, 4, 5, -1, -1]


def test_without_relations_there_are_no_negatives() -> None:
    found = hard_negatives(PLANE, KNOWN, count=2, low=0, high=9, margin=1.0, seed=0)
    assert {int(row) for row in np.flatnonzero((found >= 0).any(axis=1))} == {0, 3}
    # A note beside itself is no relation, neither is a score of 0.
    loop = csr_matrix(([1.0, 0.0, 0.0], ([4, 5, 6], [4, 6, 5])), shape=(9, 9))
    assert loop.nnz == 3
    assert (hard_negatives(PLANE, loop, count=2, low=0, high=9, margin=1.0, seed=0) == -1).all()


def test_equal_content_is_no_negative() -> None:
    contents = np.arange(9)
    contents[6] = contents[0]  # a copy of the anchor
    contents[7] = contents[3]  # a copy of its relation
    assert mined(0, 9, 1.0, contents=contents) == [4, 5, 8]
    assert mined(0, 9, 1.0, contents=contents * 10**15 - 7) == [4, 5, 8]  # any numbers will do


def test_what_a_copy_of_the_anchor_is_related_to_is_no_negative() -> None:
    contents = np.arange(9)
    contents[1] = contents[0]
    known = graph(9, (0, 3), (1, 5))
    found = hard_negatives(PLANE, known, count=6, low=0, high=9, margin=1.0, contents=contents, seed=0)
    assert found[0].tolist() == [4, 6, 7, 8, -1, -1]


def test_a_hidden_relation_among_the_nearest_is_not_taken() -> None:
    """Topics of 12 notes; each note knows 8 of its 11 relations, the three nearest are hidden from the graph."""
    random = np.random.default_rng(0)
    centres = random.standard_normal((30, 16))
    topics = np.repeat(np.arange(30), 12)
    vectors = centres[topics] + 0.35 * random.standard_normal((360, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    same = (topics[:, None] == topics) & ~np.eye(360, dtype=bool)
    cosines = np.where(same, vectors @ vectors.T, -np.inf)
    hidden = np.zeros_like(same)
    np.put_along_axis(hidden, np.argsort(-cosines, axis=1)[:, :3], True, axis=1)
    hidden |= hidden.T
    known = csr_matrix((same & ~hidden).astype(np.float32))
    found = hard_negatives(vectors, known, count=8, low=0, high=60, margin=0.95, seed=1)
    anchors, places = np.nonzero(found >= 0)
    assert len(anchors) > 2000
    taken = np.zeros_like(same)
    taken[anchors, found[anchors, places]] = True
    assert not (taken & same & ~hidden).any()  # known relations never
    nearest = np.zeros_like(same)
    np.put_along_axis(nearest, np.argsort(-cosines, axis=1)[:, :1], True, axis=1)
    assert (nearest & hidden).sum() == 360
    assert (taken & nearest).sum() == 0  # nor the nearest of the hidden ones
    naive = hard_negatives(vectors, known, count=8, low=0, high=60, margin=100.0, seed=1)
    wrong = same[np.nonzero(naive >= 0)[0], naive[naive >= 0]].mean()
    assert same[anchors, found[anchors, places]].mean() < wrong / 2  # the bound is what keeps most of them out


def brute(
    vectors: np.ndarray, known: np.ndarray, low: int, high: int, margin: float, contents: np.ndarray
) -> list[Any]:
    """All that may be taken for each note, one note at a time."""
    allowed = []
    for a in range(len(vectors)):
        cosines = vectors.astype(np.float64) @ vectors[a]
        order = [int(b) for b in np.argsort(-cosines, kind="stable") if b != a][low:high]
        relations = np.flatnonzero(known[a])
        if not len(relations):
            allowed.append([])
            continue
        mean = cosines[relations].mean()
        bound = mean - (1 - margin) * abs(mean)
        twins = np.flatnonzero(contents == contents[a])
        taboo = {
            int(c) for t in twins for r in np.flatnonzero(known[t]) for c in np.flatnonzero(contents == contents[r])
        }
        allowed.append([b for b in order if cosines[b] < bound and b not in taboo and contents[b] != contents[a]])
    return allowed


@settings(max_examples=30, deadline=None)
@given(
    notes=st.integers(2, 40),
    seed=st.integers(0, 2**16),
    low=st.integers(0, 6),
    width=st.integers(1, 30),
    margin=st.floats(0.3, 1.0),
    groups=st.integers(1, 60),
)
def test_against_brute_force(notes: int, seed: int, low: int, width: int, margin: float, groups: int) -> None:
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((notes, 5)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = random.random((notes, notes)) < 0.08
    known = (known | known.T) & ~np.eye(notes, dtype=bool)
    contents = random.integers(0, groups, notes)
    arguments: dict[str, Any] = dict(low=low, high=low + width, margin=margin, contents=contents, seed=seed)
    sparse = csr_matrix(known.astype(np.float32))
    expected = brute(vectors, known, low, low + width, margin, contents)
    everything = hard_negatives(vectors, sparse, count=notes, **arguments)
    assert [[int(b) for b in row if b >= 0] for row in everything] == expected
    few = hard_negatives(vectors, sparse, count=2, **arguments)
    for row, whole in zip(few, expected, strict=True):
        taken = [int(b) for b in row if b >= 0]
        assert len(taken) == min(2, len(whole))
        assert taken == [b for b in whole if b in taken]  # distinct, and nearest first


def test_the_sample_is_of_the_seed_not_of_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    vectors = random.standard_normal((60, 6)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    known = csr_matrix(np.kron(np.eye(20), np.ones((3, 3))).astype(np.float32))

    def mine(seed: int, **more: Any) -> np.ndarray:
        return hard_negatives(vectors, known, count=2, low=0, high=60, margin=1.0, seed=seed, **more)

    whole = mine(1)
    assert not np.array_equal(whole, mine(2))
    monkeypatch.setattr(negatives, "_ANCHORS", 7)
    np.testing.assert_array_equal(mine(1), whole)
    some = mine(1, anchors=np.array([3, 8]))
    assert set(np.flatnonzero((some >= 0).any(axis=1)).tolist()) <= {3, 8}


def test_every_survivor_is_drawn_about_equally_often() -> None:
    drawn = [
        int(hard_negatives(PLANE, KNOWN, count=1, low=0, high=9, margin=1.0, seed=seed)[0, 0]) for seed in range(500)
    ]
    counts = np.bincount(drawn, minlength=9)
    assert counts[:4].sum() == 0
    assert (abs(counts[4:] - 100) < 40).all()  # 500 draws of five: 4.5 standard deviations


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"9 vectors, a graph of shape \(8, 8\)"):
        hard_negatives(PLANE, graph(8), count=1, low=0, high=2, margin=1.0, seed=0)
    with pytest.raises(InputError, match="and 3 contents"):
        hard_negatives(PLANE, KNOWN, count=1, low=0, high=2, margin=1.0, contents=np.arange(3), seed=0)
