"""Indexes on a GPU: what they find, that filters hold, and that what is saved is searched by a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noterec.config import IndexConfig
from noterec.index import Index, build_index, gpu, kinds
from noterec.index.searchers import Exact
from tests.index.conftest import embeddings_table, unit, write_shards

N, D, K = 20_000, 64, 50


def vectors(count: int, seed: int) -> np.ndarray:
    centres = np.random.default_rng(9).normal(size=(100, D))
    random = np.random.default_rng(seed)
    return unit(centres[random.integers(100, size=count)] + 0.5 * random.normal(size=(count, D)))


@pytest.fixture(scope="module")
def device() -> gpu.Device:
    faiss = pytest.importorskip("faiss")
    if not hasattr(faiss, "StandardGpuResources") or not faiss.get_num_gpus():
        pytest.skip("faiss sees no GPU")
    found = gpu.choose("cuda")
    assert found is not None
    return found


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    table = embeddings_table([f"n{row:05d}" for row in range(N)], vectors(N, 0))
    return write_shards(tmp_path_factory.mktemp("gpu") / "e", table)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-sq8", "ivf-pq", "hnsw"])
def test_built_on_the_gpu_and_searched_on_both_sides(
    kind: Any, device: gpu.Device, embeddings: Path, tmp_path: Path
) -> None:
    config = IndexConfig(kind=kind, recall_at=K, device="cuda")
    build_index(embeddings, out=tmp_path / "i", config=config)
    queries = vectors(300, 1)
    on_cpu, on_gpu = Index.open(tmp_path / "i"), Index.open(tmp_path / "i", device="cuda")
    exact, _ = Exact(on_cpu.vectors(np.arange(N))).top(queries, K, None)
    for index in (on_cpu, on_gpu):
        scores, rows = index.search_rows(queries, K)
        assert (scores >= exact[:, -1:] - 1e-5).mean() > 0.9
        assert (rows >= 0).all()


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["flat", "ivf", "ivf-pq"])
def test_a_filter_holds_on_the_gpu_whatever_faiss_makes_of_it(
    kind: Any, device: gpu.Device, embeddings: Path, tmp_path: Path
) -> None:
    build_index(embeddings, out=tmp_path / "i", config=IndexConfig(kind=kind, recall_at=K))
    index = Index.open(tmp_path / "i", device="cuda")
    for share in (0.001, 0.3, 0.9):
        mask = np.random.default_rng(3).random(N) < share
        _, rows = index.search_rows(vectors(50, 2), K, mask=mask)
        assert mask[rows[rows >= 0]].all()
        assert ((rows >= 0).sum(axis=1) == min(K, mask.sum())).all()


@pytest.mark.gpu
def test_more_than_the_gpu_can_hold_is_answered_by_the_cpu(
    device: gpu.Device, embeddings: Path, tmp_path: Path
) -> None:
    build_index(embeddings, out=tmp_path / "i", config=IndexConfig(kind="ivf", recall_at=K))
    index = Index.open(tmp_path / "i", device="cuda")
    _, rows = index.search_rows(vectors(2, 4), 3000)
    assert (rows >= 0).all()


@pytest.mark.gpu
def test_a_graph_of_cagra_is_saved_as_one_that_a_cpu_walks(device: gpu.Device, tmp_path: Path) -> None:
    if not device.has_graphs:
        pytest.skip("this faiss was built without cuVS")
    base = vectors(N, 0)
    index = kinds.make("hnsw", base, seed=0, advance=lambda count: None, device=device)
    _, found = index.search(base[:100], 1)
    assert (found[:, 0] == np.arange(100)).mean() > 0.95
