"""Approximate indexes against brute force: recall, filters, scores, seeds, and the gate that keeps a bad one from being live."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noterec.config import IndexConfig
from noterec.errors import ConfigError, DependencyError, GateError
from noterec.index import Index, build_index, gate, gpu, kinds, searchers
from noterec.index.plan import plan
from noterec.index.searchers import Approximate, Exact

from .conftest import embeddings_table, unit, write_shards

N, D, K = 3000, 16, 10
APPROXIMATE: list[Any] = ["ivf", "ivf-sq8", "ivf-pq", "hnsw"]


def clustered(count: int, seed: int = 0) -> np.ndarray:
    """Vectors around 60 centres, as notes on 60 topics have them."""
    centres = np.random.default_rng(99).normal(size=(60, D))
    random = np.random.default_rng(seed)
    return unit(centres[random.integers(60, size=count)] + 0.5 * random.normal(size=(count, D)))


VECTORS = clustered(N)


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = embeddings_table([f"n{row:05d}" for row in range(N)], VECTORS)
    return write_shards(tmp_path_factory.mktemp("kinds") / "e", table)


@pytest.fixture(scope="module", params=APPROXIMATE)
def index(request: pytest.FixtureRequest, embeddings: Path) -> Index:
    out = embeddings.parent / request.param
    build_index(embeddings, out=out, config=IndexConfig(kind=request.param, recall_at=K, gate_queries=400))
    return Index.open(out)


def test_recall_is_what_the_gate_measured_and_scores_are_true(index: Index) -> None:
    queries = clustered(200, seed=1)
    scores, rows = index.search_rows(queries, K)
    exact = queries.astype(np.float64) @ VECTORS.astype(np.float64).T
    best = np.sort(exact, axis=1)[:, -K]
    assert (scores >= best[:, None] - 1e-6).mean() > 0.9  # of new vectors; the gate's are the table's own
    np.testing.assert_allclose(scores, np.take_along_axis(exact, rows, axis=1), atol=1e-6)
    assert (np.diff(scores, axis=1) <= 0).all()
    assert index.info.recall.value >= index.info.recall.target == 0.95
    assert (index.info.recall.at, index.info.recall.queries) == (K, 200)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.5, 0.99])
def test_a_filter_is_never_broken_and_never_comes_up_short(
    index: Index, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searchers, "EXACT_FLOATS", 0)  # nothing is small enough to be searched exactly
    random = np.random.default_rng(int(1000 * share))
    mask = random.random(N) < share
    queries = clustered(40, seed=2)
    scores, rows = index.search_rows(queries, K, mask=mask)
    found = rows >= 0
    assert mask[rows[found]].all()
    assert (found.sum(axis=1) == min(K, mask.sum())).all()
    exact = np.where(mask, queries @ VECTORS.T, -np.inf)
    best = np.sort(exact, axis=1)[:, -min(K, int(mask.sum()))]
    assert (scores[found] >= np.repeat(best, found.sum(axis=1)) - 1e-6).mean() > 0.9


def test_a_small_remainder_is_searched_exactly(index: Index) -> None:
    mask = np.zeros(N, dtype=bool)
    mask[::7] = True
    queries = clustered(30, seed=3)
    for _ in range(2):  # the second time from what was kept
        _, rows = index.search_rows(queries, K, mask=mask)
        exact = np.where(mask, queries.astype(np.float64) @ VECTORS.astype(np.float64).T, -np.inf)
        assert (rows == np.argsort(-exact, axis=1)[:, :K]).all()


def test_all_notes_are_found_when_all_are_asked_for(index: Index) -> None:
    _, rows = index.search_rows(VECTORS[:2], N + 5)
    assert sorted(rows[1][:N].tolist()) == list(range(N))
    assert (rows[:, N:] == -1).all()


def test_the_same_seed_gives_the_same_index(embeddings: Path, tmp_path: Path) -> None:
    hashes = set()
    for name in ("a", "b"):
        build_index(embeddings, out=tmp_path / name, config=IndexConfig(kind="ivf-pq", recall_at=K, seed=3))
        hashes.add(Index.open(tmp_path / name).info.files["index.faiss"].sha256)
    assert len(hashes) == 1


def test_a_bad_index_is_not_published(embeddings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = IndexConfig(kind="hnsw", recall_at=K, gate_queries=100)
    build_index(embeddings, out=tmp_path / "i", config=config)
    real = gate.recall
    monkeypatch.setattr(gate, "recall", lambda searcher, known: real(searcher, known) * 0.5)
    with pytest.raises(GateError, match=r"hnsw index finds 0\.\d+ of the 10 nearest.*0\.95.*bundle-000001 stays live"):
        build_index(embeddings, out=tmp_path / "i", config=config)
    assert Index.open(tmp_path / "i").folder.name == "bundle-000001"
    assert [folder.name for folder in (tmp_path / "i" / "bundles").glob("*undle*")] == ["bundle-000001"]
    with pytest.raises(GateError, match="nothing is live"):
        build_index(embeddings, out=tmp_path / "other", config=config)


def test_recall_counts_what_exact_search_finds() -> None:
    """Two searchers by hand: the exact one, and one that can't see every second note."""
    known = gate.truth(VECTORS, IndexConfig(recall_at=K, gate_queries=50))
    exact = VECTORS.astype(np.float64) @ VECTORS.astype(np.float64).T
    np.fill_diagonal(exact, -np.inf)
    np.testing.assert_allclose(known.bounds, np.sort(exact[known.rows], axis=1)[:, -K], atol=1e-6)
    assert gate.recall(Exact(VECTORS), known).tolist() == [1.0] * 50

    class HalfBlind:
        vectors = VECTORS

        def top(self, queries: Any, k: int, allowed: Any) -> Any:
            return Exact(VECTORS).top(queries, k, np.arange(N) % 2 == 0)

    nearest = np.argsort(-exact[known.rows], axis=1)[:, :K]
    expected = (nearest % 2 == 0).mean(axis=1)
    np.testing.assert_allclose(gate.recall(HalfBlind(), known), expected, atol=1e-6)


def test_tuning_takes_the_least_effort_that_suffices() -> None:
    known = gate.truth(VECTORS, IndexConfig(recall_at=K, gate_queries=200))
    index = kinds.make("ivf", VECTORS, seed=0, advance=lambda count: None)
    tuned = gate.tune(index, "ivf", VECTORS, known, 0.8)
    harder = gate.tune(index, "ivf", VECTORS, known, 0.98)
    assert 0.8 <= gate.recall(tuned, known).mean() < gate.recall(harder, known).mean()
    assert tuned.effort.knob < harder.effort.knob <= index.nlist
    less = Approximate(index, VECTORS, kinds.Effort(tuned.effort.knob - 1), K)
    if tuned.effort.knob > 1:
        assert gate.recall(less, known).mean() < 0.99


@pytest.mark.parametrize(
    ("count", "dimension", "options", "kind"),
    [
        (1000, 64, {}, "flat"),
        (300_000, 64, {"memory_gib": 1}, "ivf"),
        (300_000, 64, {"memory_gib": 0.025}, "ivf-sq8"),
        (300_000, 64, {"memory_gib": 0.01}, "ivf-pq"),
        (300_000, 64, {"memory_gib": 1, "recall_target": 0.999}, "hnsw"),
        (1000, 64, {"kind": "hnsw"}, "hnsw"),
    ],
)
def test_auto_chooses_by_count_memory_and_recall(
    count: int, dimension: int, options: dict[str, Any], kind: str
) -> None:
    vectors = np.zeros((count, dimension), dtype=np.float16)
    vectors[:, 0] = 1
    chosen = plan(vectors, IndexConfig(**options))
    assert chosen.kind == kind
    assert chosen.reason
    assert chosen.build_seconds > 0 < chosen.query_ms


def test_what_can_not_be_built_is_said_before() -> None:
    vectors = np.zeros((300_000, 64), dtype=np.float16)
    with pytest.raises(ConfigError, match=r"take \d+ MiB as ivf-pq, the smallest kind, and 1 MiB may be used"):
        plan(vectors, IndexConfig(memory_gib=0.001))
    with pytest.raises(ConfigError, match=r"kind hnsw: 300,000 notes of D = 64 take .* memory_gib is 0.1"):
        plan(vectors, IndexConfig(kind="hnsw", memory_gib=0.1))
    with pytest.raises(ConfigError, match="D = 127 can't be cut"):
        kinds.recipe("ivf-pq", 127, 1000)
    with pytest.raises(DependencyError, match="device cuda: this faiss was built without GPU support"):
        gpu.choose("cuda")


@pytest.mark.parametrize("kind", APPROXIMATE)
def test_predicted_memory_is_that_of_the_file(kind: Any, index: Index) -> None:
    if index.info.kind == kind:
        held = index.info.files["index.faiss"].bytes / N
        assert index.info.predicted["bytes_per_note"] == pytest.approx(held, rel=0.15)


def test_half_precision_on_disk_keeps_the_neighbours(embeddings: Path, tmp_path: Path) -> None:
    build_index(embeddings, out=tmp_path / "i", config=IndexConfig(kind="ivf", dtype="float16", recall_at=K))
    index = Index.open(tmp_path / "i")
    assert index.info.files["vectors.npy"].bytes == 128 + 2 * N * D
    scores, rows = index.search_rows(VECTORS[:50], K)
    np.testing.assert_allclose(scores, np.take_along_axis(VECTORS[:50] @ VECTORS.T, rows, axis=1), atol=1e-3)
    assert (rows[:, 0] == np.arange(50)).mean() > 0.98
    own = index.vectors(np.arange(50))
    np.testing.assert_allclose(np.linalg.norm(own, axis=1), 1, atol=1e-6)
    scores, _ = index.search_rows(own, 1)
    np.testing.assert_allclose(scores[:, 0], 1, atol=2e-7)  # a cosine, though the file was rounded


@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-sq8", "hnsw"])
def test_an_index_of_one_of_any_kind(tmp_path: Path, kind: Any) -> None:
    write_shards(tmp_path / "e", embeddings_table(["only"], VECTORS[:1]))
    build_index(tmp_path / "e", out=tmp_path / "i", config=IndexConfig(kind=kind))
    index = Index.open(tmp_path / "i")
    assert index.search(VECTORS[0], 5)["note_id"].to_pylist() == ["only"]
    assert index.similar("only", 5).num_rows == 0


def test_codes_are_learnt_from_a_few_hundred_notes_and_not_from_fewer(tmp_path: Path) -> None:
    for count in (255, 300):
        table = embeddings_table([f"n{row:03d}" for row in range(count)], VECTORS[:count])
        write_shards(tmp_path / f"e{count}", table)
    config = IndexConfig(kind="ivf-pq", recall_at=K)
    with pytest.raises(ConfigError, match="255 notes are too few to learn codes from, 256 at least"):
        build_index(tmp_path / "e255", out=tmp_path / "i", config=config)
    build_index(tmp_path / "e300", out=tmp_path / "i", config=config)
    assert Index.open(tmp_path / "i").search(VECTORS[3], 1)["note_id"].to_pylist() == ["n003"]


def test_a_gpu_that_ignores_filters_is_found_out() -> None:
    class Deaf:
        """A GPU index as it is reported: it takes a selector and returns whatever is near."""

        ntotal, d = 4, 2

        def search(self, queries: Any, k: int, params: Any = None) -> Any:
            return np.zeros((len(queries), k)), np.arange(k)[None].repeat(len(queries), 0)

    flat = Exact(unit([[1, 0], [0, 1], [1, 1], [1, 2]]))._cpu
    assert gpu.heeds_filters(flat)
    assert not gpu.heeds_filters(Deaf())
    mirror = gpu.Mirror(flat, Deaf())
    exact = Exact(unit([[1, 0], [0, 1], [1, 1], [1, 2]]))
    exact._index = mirror
    _, rows = exact.top(unit([[1, 0]]), 2, np.array([False, True, True, False]))
    assert rows.tolist() == [[2, 1]]
