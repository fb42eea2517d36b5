"""Cold recall against brute force."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from noterec.errors import InputError
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Inputs
from noterec.training.cold_recall import ColdRecall, Look
from noterec.training.material import Material

N = 150


@pytest.fixture(scope="module")
def encoder(backbone_folder: Callable[[str], Path]) -> NoteEncoder:
    return NoteEncoder.from_pretrained(backbone_folder("llama"), device="cpu")  # no head: the state is the embedding


def material() -> Material:
    states = np.random.default_rng(0).standard_normal((N, 32)).astype(np.float32)
    ids = np.array([f"n{i:03d}" for i in range(N)], dtype=object)
    none = np.empty(0, dtype=np.int64)
    tokens = [np.empty(0, dtype=np.int64)] * N
    return Material(ids, 120, Inputs(tokens, None), states, none, none, np.empty(0, dtype=np.float32))


def pairs() -> pl.DataFrame:
    random = np.random.default_rng(1)
    rows = [
        (f"n{q:03d}", f"n{r:03d}", 1.0)
        for q in range(120, N)
        for r in random.choice(120, random.integers(1, 9), replace=False)
    ]
    shuffled = [rows[i] for i in random.permutation(len(rows))]
    return pl.DataFrame(shuffled, schema=["anchor_id", "related_id", "score"], orient="row")


def brute_force(states: np.ndarray, relevant: pl.DataFrame, k: int) -> float:
    """Mean share of a query's relevant notes among its k nearest others."""
    unit = states / np.linalg.norm(states, axis=1, keepdims=True)
    recalls = []
    for query, rows in relevant.group_by("anchor_id"):
        number = int(str(query[0])[1:])
        cosines = unit @ unit[number]
        cosines[number] = -np.inf
        nearest = {f"n{i:03d}" for i in np.argsort(-cosines)[:k]}
        wanted = set(rows["related_id"])
        recalls.append(len(nearest & wanted) / len(wanted))
    return float(np.mean(recalls))


def test_recall_equals_brute_force(encoder: NoteEncoder) -> None:
    data = material()
    look = ColdRecall(data, pairs(), queries=None, pool=None, batch_tokens=500, seed=0).look(encoder, 7)
    assert data.states is not None
    assert look.step == 7
    assert look.recall_at_10 == pytest.approx(brute_force(data.states, pairs(), 10))
    assert look.recall_at_100 == pytest.approx(brute_force(data.states, pairs(), 100))
    assert 0 < look.recall_at_10 < look.recall_at_100 < 1
    assert look.value == pytest.approx((look.recall_at_10 + look.recall_at_100) / 2)


def test_a_drawn_pool_holds_queries_and_relevant_notes(encoder: NoteEncoder) -> None:
    recall = ColdRecall(material(), pairs(), queries=5, pool=60, batch_tokens=500, seed=0)
    kept = pairs().filter(pl.col("anchor_id").is_in([f"n{q:03d}" for q in recall._rows if q >= 120]))
    assert len(recall._rows) == 60
    assert len(recall._queries) == 5
    needed = {int(i[1:]) for i in kept["related_id"]}
    asked = {f"n{recall._rows[q]:03d}" for q in recall._queries}
    needed = {int(i[1:]) for i in kept.filter(pl.col("anchor_id").is_in(asked))["related_id"]}
    assert needed <= set(recall._rows.tolist())
    again = ColdRecall(material(), pairs(), queries=5, pool=60, batch_tokens=500, seed=0)
    assert again.look(encoder, 0) == recall.look(encoder, 0)
    assert again._rows.tolist() == recall._rows.tolist()


def test_no_pairs_are_refused() -> None:
    with pytest.raises(InputError, match="valid pairs are an empty table"):
        ColdRecall(material(), pairs().head(0), queries=None, pool=None, batch_tokens=500, seed=0)


def test_the_value_is_what_is_maximised() -> None:
    assert Look(0, 0.2, 0.6).value == pytest.approx(0.4)
