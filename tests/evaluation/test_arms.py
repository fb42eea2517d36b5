"""Each arm's ranking against a slow one, and what no arm may do: find the query, rank twice, leave the candidates."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noterec.evaluation.arms import Arm, EmbeddingArm, FusionArm, LexicalArm, PopularityArm, RandomArm, best_columns
from noterec.evaluation.baselines import Bm25
from noterec.index.words import K1, B
from noterec.notes.terms import note_tokens

from .conftest import TEXTS

N = 40


def vectors(seed: int = 0) -> np.ndarray:
    matrix = np.random.default_rng(seed).normal(size=(N, 5))
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def lexicon(texts: list[tuple[str | None, str | None, list[str] | None]]) -> Bm25:
    title, content, hashtags = zip(*texts, strict=True)
    return Bm25(pl.Series(title), pl.Series(content), pl.Series(hashtags, dtype=pl.List(pl.String)))


def all_arms() -> list[Arm]:
    row_of = np.arange(N)
    row_of[[3, 8]] = -1
    words = [(f"word{i % 5} word{i % 3}", "common", [f"tag{i % 7}"]) for i in range(N)]
    return [
        EmbeddingArm("e", vectors(), row_of),
        RandomArm(4),
        PopularityArm(np.arange(N) // 3),
        LexicalArm(lexicon(words)),  # type: ignore[arg-type]
    ]


@given(data=st.data(), depth=st.integers(1, 60))
@settings(max_examples=60, deadline=None)
def test_no_arm_finds_the_query_ranks_twice_or_leaves_the_candidates(data: st.DataObject, depth: int) -> None:
    candidates = np.array(sorted(data.draw(st.sets(st.integers(0, N - 1), min_size=1))))
    queries = np.array(data.draw(st.lists(st.integers(0, N - 1), min_size=1, max_size=6)))
    arms = all_arms()
    rankings = {arm.name: arm.over(candidates)(queries, depth) for arm in arms}
    fusion = FusionArm("f", ("e", "bm25"), 60.0)
    rankings["f"] = fusion.fuse([rankings["e"], rankings["bm25"]], depth)
    for ranked in rankings.values():
        assert ranked.shape == (len(queries), depth)
        for query, row in zip(queries, ranked, strict=True):
            found = row[row >= 0]
            assert len(set(found)) == len(found)
            assert set(found) <= set(candidates) - {query}
            assert (row[len(found) :] == -1).all()
    assert all(arm.can_ask(queries).shape == queries.shape for arm in arms)


def test_embedding_arm_is_exact_cosine() -> None:
    found = EmbeddingArm("e", vectors(), np.arange(N)).over(np.arange(0, N, 2))(np.array([1, 4]), 6)
    for query, row in zip([1, 4], found, strict=True):
        order = sorted((c for c in range(0, N, 2) if c != query), key=lambda c: -float(vectors()[c] @ vectors()[query]))
        assert row.tolist() == order[:6]


def test_what_has_no_vector_is_neither_ranked_nor_answered() -> None:
    row_of = np.array([0, -1, 1])
    arm = EmbeddingArm("e", np.eye(2, dtype=np.float32), row_of)
    assert arm.over(np.arange(3))(np.array([0, 1]), 3).tolist() == [[2, -1, -1], [-1, -1, -1]]
    assert arm.can_ask(np.array([0, 1])).tolist() == [True, False]


def test_a_sum_of_arms_ranks_by_the_sum_of_their_cosines() -> None:
    one, other = vectors(1), vectors(2)
    row_of, reverse = np.arange(N), np.arange(N)[::-1].copy()
    row_of[4] = -1  # in one of the tables only
    summed = EmbeddingArm.summed(
        "a+b", [EmbeddingArm("a", one, row_of), EmbeddingArm("b", other[::-1].copy(), reverse)]
    )
    assert summed.can_ask(np.array([3, 4])).tolist() == [True, False]
    scores = one @ one[7] + other @ other[7]
    scores[[4, 7]] = -9
    np.testing.assert_array_equal(summed.over(np.arange(N))(np.array([7]), 6)[0], np.argsort(-scores)[:6])


def test_popularity_ranks_by_clicks_then_id_and_not_what_was_never_clicked() -> None:
    arm = PopularityArm(np.array([0, 5, 9, 5, 0]))
    assert arm.over(np.arange(5))(np.array([0, 2, 3]), 3).tolist() == [[2, 1, 3], [1, 3, -1], [2, 1, -1]]
    assert arm.over(np.array([0, 4]))(np.array([1]), 2).tolist() == [[-1, -1]]


def test_random_depends_on_seed_and_query_only() -> None:
    whole = RandomArm(1).over(np.arange(N))(np.arange(N), 10)
    assert RandomArm(1).over(np.arange(N))(np.array([7]), 10).tolist() == whole[7:8].tolist()
    assert RandomArm(1).over(np.arange(N))(np.array([7]), 3).tolist() == whole[7:8, :3].tolist()
    assert (RandomArm(2).over(np.arange(N))(np.arange(N), 10) != whole).any()
    # Every candidate is as likely at every place: over many queries each stands first about equally often.
    first = RandomArm(0).over(np.arange(4))(np.arange(100, 4100), 2)[:, 0]
    assert np.bincount(first, minlength=4) == pytest.approx([1000] * 4, abs=150)


def test_bm25_scores_follow_the_formula() -> None:
    texts = list(TEXTS.values())
    words = [note_tokens(*text) for text in texts]
    scores = lexicon(texts).scorer(None)(np.array([0, 1]))  # type: ignore[arg-type]
    mean = np.mean([len(tokens) for tokens in words])
    for row, query in zip(scores, words[:2], strict=True):
        for score, note in zip(row, words, strict=True):
            expected = 0.0
            for term in set(query):
                tf, df = note.count(term), sum(term in other for other in words)
                idf = np.log(1 + (len(words) - df + 0.5) / (df + 0.5))
                weight = tf / (tf + K1 * (1 - B + B * len(note) / mean))
                expected += (1 + np.log(query.count(term))) * idf * weight
            assert score == pytest.approx(expected, rel=1e-5)


def test_bm25_ranks_only_notes_that_share_a_word() -> None:
    ids = sorted(TEXTS)
    arm = LexicalArm(lexicon([TEXTS[note] for note in ids]))  # type: ignore[arg-type]
    row = arm.over(np.arange(len(ids)))(np.array([ids.index("n1")]), 9)[0]
    assert [ids[r] for r in row if r >= 0] == ["w1", "n3", "w2"]
    assert arm.over(np.arange(len(ids)))(np.array([ids.index("w5")]), 9).max() == -1


def test_notes_without_any_word() -> None:
    empty = lexicon([(None, None, None), ("", "!!", [])])
    assert empty.has_words.tolist() == [False, False]
    assert LexicalArm(empty).over(np.arange(2))(np.array([0]), 2).tolist() == [[-1, -1]]
    mixed = lexicon([(None, None, None), ("a b", "", []), ("b", None, None)])
    assert LexicalArm(mixed).over(np.arange(3))(np.array([0, 1]), 2).tolist() == [[-1, -1], [2, -1]]


def test_fusion_by_hand() -> None:
    fusion = FusionArm("f", ("a", "b"), 60.0)
    a, b = np.array([[5, 3, 8, -1]]), np.array([[3, 9, 5, -1]])
    # 3: 1/62 + 1/61; 5: 1/61 + 1/63; 9: 1/62; 8: 1/63
    assert fusion.fuse([a, b], 4).tolist() == [[3, 5, 9, 8]]
    assert fusion.fuse([a, np.full((1, 4), -1)], 5).tolist() == [[5, 3, 8, -1, -1]]
    # Mirrored ranks score the same: the lower row goes first.
    assert fusion.fuse([np.array([[7, 2]]), np.array([[2, 7]])], 2).tolist() == [[2, 7]]


@given(st.integers(0, 1000), st.sampled_from([2, 3]))
@settings(max_examples=50, deadline=None)
def test_fusion_equals_a_dictionary(seed: int, parts: int) -> None:
    rng = np.random.default_rng(seed)
    rankings = [np.stack([rng.permutation(12)[:6] for _ in range(3)]) for _ in range(parts)]
    fused = FusionArm("f", tuple("abc"[:parts]), 10.0).fuse(rankings, 18)
    for query in range(3):
        scores: dict[int, float] = {}
        for ranking in rankings:
            for rank, row in enumerate(ranking[query], start=1):
                scores[int(row)] = scores.get(int(row), 0.0) + 1 / (10.0 + rank)
        found = [int(row) for row in fused[query] if row >= 0]
        assert sorted(found) == sorted(scores)
        assert [scores[row] for row in found] == pytest.approx(sorted(scores.values(), reverse=True))


@given(st.lists(st.sampled_from([0.0, -1.0, 0.25, 0.5, 0.5000001, 3e9]), min_size=1, max_size=30), st.integers(1, 40))
def test_best_columns_equals_sorting(values: list[float], depth: int) -> None:
    scores = np.array([values], dtype=np.float32)
    order = sorted((c for c in range(len(values)) if scores[0, c] > 0), key=lambda c: (-scores[0, c], c))[:depth]
    assert best_columns(scores, depth).tolist() == [order + [-1] * (depth - len(order))]
