"""A map of an embedding: the plane in which its notes differ most, by principal components of a sample.

A plane shows little of a hundred dimensions, and two notes that lie close on it needn't be neighbours; the share of the
variance that it holds is given with it, and neighbours are always found in all dimensions.
"""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noterec import progress

if TYPE_CHECKING:
    from noterec.index.search import Index

Floats = NDArray[np.float32]

SAMPLE = 4000  # notes on the map, at most


@dataclasses.dataclass(frozen=True)
class Atlas:
    """A map of an index.

    Attributes:
        version: of the index.
        rows: (M,) int64, the sampled notes' rows in the index, ascending.
        points: (M, 2) float32, where they lie; the farthest coordinate of the sample is 1 or -1.
        explained: share of the sample's variance along the first and the second direction.
        mean: (D,) float32.
        directions: (2, D) float32, divided by the scale of `points`.
    """

    version: str
    rows: NDArray[np.int64]
    points: Floats
    explained: tuple[float, float]
    mean: Floats
    directions: Floats

    def place(self, vectors: ArrayLike) -> Floats:
        """Where other vectors lie on this map: (R, D) -> (R, 2) float32."""
        centred = np.atleast_2d(np.asarray(vectors, dtype=np.float32)) - self.mean  # (R, D)
        return np.asarray(centred @ self.directions.T, dtype=np.float32)  # (R, 2)


def draw(index: Index, *, sample: int = SAMPLE, seed: int = 0) -> Atlas:
    """Map an index: principal components of a seeded sample of its live notes.

    The sign of each direction is such that its largest component is positive, so the same vectors give the same map.

    Args:
        index: an open index.
        sample: notes at most; an index with fewer is mapped whole.
        seed: of the sample.

    Returns:
        The map; without notes it has no points, and with fewer than three of them a direction may be zero.
    """
    live = np.flatnonzero(index.live)
    if len(live) > sample:
        live = np.sort(np.random.default_rng(seed).choice(live, sample, replace=False))
    with progress.stage("atlas") as stage:
        stage.counts.update(rows_out=len(live))
        dimension = index.dimension
        if not len(live):
            empty = np.zeros((0, 2), np.float32)
            nothing = np.zeros((2, dimension), np.float32)
            return Atlas(index.version, live, empty, (0.0, 0.0), nothing[0], nothing)
        vectors = np.asarray(index.vectors(live), dtype=np.float64)  # (M, D)
        mean = vectors.mean(axis=0)  # (D,)
        centred = vectors - mean
        values, axes = np.linalg.eigh(centred.T @ centred)  # (D,) ascending, (D, D) in columns
        directions = np.zeros((2, dimension))
        directions[: min(2, dimension)] = axes.T[::-1][:2]
        largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
        directions *= np.where(largest < 0, -1, 1)
        total = float(values.clip(0).sum())
        shares = [*(values.clip(0)[::-1][:2] / total if total > 0 else ()), 0.0, 0.0]
        points = centred @ directions.T  # (M, 2)
        scale = float(np.abs(points).max())
        directions /= scale if scale > 0 else 1.0
        return Atlas(
            version=index.version,
            rows=live,
            points=(centred @ directions.T).astype(np.float32),
            explained=(float(shares[0]), float(shares[1])),
            mean=mean.astype(np.float32),
            directions=directions.astype(np.float32),
        )


class Atlases:
    """The map of the index that is live: drawn once per version, by whoever asks first, while the others wait."""

    def __init__(self, *, sample: int = SAMPLE, seed: int = 0) -> None:
        """Args: as `draw`."""
        self._sample, self._seed = sample, seed
        self._lock = threading.Lock()
        self._last: Atlas | None = None

    def of(self, index: Index) -> Atlas:
        """The map of an index; call it in a thread."""
        last = self._last
        if last is not None and last.version == index.version:
            return last
        with self._lock:
            if self._last is None or self._last.version != index.version:
                self._last = draw(index, sample=self._sample, seed=self._seed)
            return self._last
