"""The map: principal components of a sample, the same for the same vectors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from noterec.serving.explorer import atlas as module
from noterec.serving.explorer.atlas import Atlases, draw


class Vectors:
    """As much of an index as a map needs."""

    def __init__(self, vectors: Any, live: Any = None, version: str = "v1") -> None:
        self.all = np.asarray(vectors, dtype=np.float32)
        self.live = np.ones(len(self.all), dtype=bool) if live is None else np.asarray(live)
        self.version, self.dimension = version, self.all.shape[1]
        self.attributes = pl.DataFrame({"note_id": [str(i) for i in range(len(self.all))]})

    def vectors(self, rows: Any) -> np.ndarray:
        return self.all[np.asarray(rows)]


def made(count: int, dimension: int = 16, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, dimension)) * np.linspace(3, 0.1, dimension)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_it_is_the_plane_of_a_singular_value_decomposition() -> None:
    vectors = made(200).astype(np.float32)
    atlas = draw(Vectors(vectors))  # type: ignore[arg-type]
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    _, values, axes = np.linalg.svd(centred, full_matrices=False)
    signs = np.sign(axes[np.arange(2), np.abs(axes[:2]).argmax(axis=1)])
    expected = centred @ (axes[:2] * signs[:, None]).T
    np.testing.assert_allclose(atlas.points, expected / np.abs(expected).max(), atol=1e-5)
    np.testing.assert_allclose(atlas.explained, (values**2 / (values**2).sum())[:2], atol=1e-6)
    assert np.abs(atlas.points).max() == pytest.approx(1)
    np.testing.assert_allclose(atlas.place(vectors[17]), atlas.points[17:18], atol=1e-5)


def test_by_hand() -> None:
    # The notes differ by 4 along the second axis and by 2 along the first.
    atlas = draw(Vectors([[1, 2, 0], [1, -2, 0], [-1, 2, 0], [-1, -2, 0]]))  # type: ignore[arg-type]
    np.testing.assert_allclose(atlas.points, [[1, 0.5], [-1, 0.5], [1, -0.5], [-1, -0.5]], atol=1e-6)
    np.testing.assert_allclose(atlas.explained, (0.8, 0.2), atol=1e-6)


def test_the_sample_is_seeded_and_holds_live_notes_alone() -> None:
    live = np.arange(300) % 3 != 0
    index = Vectors(made(300), live)
    one, again, other = (draw(index, sample=50, seed=seed) for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert len(one.rows) == len(set(one.rows)) == 50
    assert live[one.rows].all() and (np.diff(one.rows) > 0).all()
    np.testing.assert_array_equal(one.points, again.points)
    assert set(one.rows) != set(other.rows)
    assert draw(index, sample=1000).rows.tolist() == np.flatnonzero(live).tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_notes(count: int) -> None:
    atlas = draw(Vectors(made(3)[:count].reshape(count, 16)))  # type: ignore[arg-type]
    assert atlas.points.shape == (count, 2)
    assert np.isfinite(atlas.points).all()
    assert np.isfinite(atlas.place(made(3))).all()
    assert sum(atlas.explained) == pytest.approx(1 if count == 2 else 0, abs=1e-6)


def test_equal_notes_lie_in_one_point() -> None:
    atlas = draw(Vectors(np.tile(made(1), (5, 1))))  # type: ignore[arg-type]
    assert np.isfinite(atlas.points).all()
    assert np.ptp(atlas.points, axis=0).max() == 0


def test_it_is_drawn_once_per_version(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    original = module.draw
    monkeypatch.setattr(module, "draw", lambda index, **kw: (drawn.append(index.version), original(index, **kw))[1])
    atlases, index = Atlases(sample=20), Vectors(made(40))
    threads = [threading.Thread(target=atlases.of, args=(index,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert drawn == ["v1"]
    assert atlases.of(Vectors(made(40), version="v2")).version == "v2"  # type: ignore[arg-type]
    assert drawn == ["v1", "v2"]


def test_of_a_real_index(built: Path) -> None:
    from noterec.index.search import Index

    index = Index.open(built)
    atlas = draw(index, sample=100)
    assert atlas.version == index.version
    np.testing.assert_allclose(atlas.place(index.vectors(atlas.rows)), atlas.points, atol=1e-5)
