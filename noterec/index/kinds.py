"""The kinds of approximate index, all of FAISS: how each is made, what it holds, and the knob that buys recall with time.

Every kind but flat only proposes notes: their scores are computed from the vectors on disk (`searchers.Approximate`), so that
a coarse code costs recall and never a wrong score.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec.config.index import Kind
from noterec.errors import ConfigError
from noterec.index.bundle import import_faiss
from noterec.index.gpu import Device

Floats = NDArray[np.float32]

GRAPH_NEIGHBOURS = 16  # M of HNSW
GRAPH_EFFORT = 80  # efConstruction
TRAIN_CODES = 10_000  # product quantisation learns 256 codes a part
LEAST_CODED = 256
TRAIN_PER_LIST = 50  # k-means wants 39 at least; more than that changes little
ADD_ROWS = 1 << 16
LADDER = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Effort:
    """How hard a search tries.

    Attributes:
        knob: lists looked into (nprobe), or the width of the walk through the graph (efSearch).
        refine: notes proposed for each one wanted, of which the best by true cosine stay.
    """

    knob: int
    refine: int = 1

    def __str__(self) -> str:
        return f"{self.knob:,} lists or steps, {self.refine} proposals a note"


def lists_for(count: int) -> int:
    """How many lists N notes are divided into: the power of two nearest to 4 √N, each with notes enough for k-means."""
    most = max(1, count // 39)
    return int(min(2 ** round(np.log2(4 * np.sqrt(max(1, count)))), 2 ** int(np.log2(most))))


def subvectors(dimension: int) -> int:
    """Bytes of a product-quantised vector: one for every 4 dimensions, or for the next fewer that divide D.

    Raises:
        ConfigError: D has no divisor that would leave enough of a vector.
    """
    wanted = max(1, dimension // 4)
    found = max(number for number in range(1, wanted + 1) if dimension % number == 0)
    if found * 16 < dimension:
        raise ConfigError(
            f"kind ivf-pq: D = {dimension} can't be cut into equal parts of at most 16 dimensions; choose kind ivf-sq8, or embed "
            "with a dimension that 4 divides"
        )
    return found


def recipe(kind: Kind, dimension: int, count: int) -> str:
    """The name by which FAISS's index factory makes the kind.

    Raises:
        ConfigError: it can't be made of so few notes, or of such a dimension.
    """
    if kind == "ivf-pq" and count < LEAST_CODED:
        raise ConfigError(
            f"kind ivf-pq: {count} notes are too few to learn codes from, {LEAST_CODED} at least; choose kind auto"
        )
    lists = lists_for(count)
    recipes: dict[Kind, Callable[[], str]] = {
        "flat": lambda: "Flat",
        "ivf": lambda: f"IVF{lists},SQfp16",
        "ivf-sq8": lambda: f"IVF{lists},SQ8",
        # np: without the polysemous training, which takes a minute and is used by nothing here.
        "ivf-pq": lambda: f"IVF{lists},PQ{subvectors(dimension)}np",
        "hnsw": lambda: f"HNSW{GRAPH_NEIGHBOURS},Flat",
    }
    return recipes[kind]()


def bytes_per_note(kind: Kind, dimension: int, count: int) -> float:
    """Memory of a served index per note, without the attributes: codes, row numbers, centroids or links."""
    if kind == "flat":
        return 4 * dimension
    if kind == "hnsw":
        return 4 * dimension + 4 * (2 * GRAPH_NEIGHBOURS) + 16  # level 0 has twice M links; levels and offsets
    codes = {"ivf": 2 * dimension, "ivf-sq8": dimension, "ivf-pq": 0}[kind] or subvectors(dimension)
    tables = 4 * dimension * (lists_for(count) + (256 if kind == "ivf-pq" else 0))  # centroids, and those of the codes
    return codes + 8 + tables / max(1, count)


def make(
    kind: Kind, vectors: NDArray[Any], *, seed: int, advance: Callable[[int], None], device: Device | None = None
) -> Any:
    """Train and fill an index of a kind.

    Args:
        kind: any but flat.
        vectors: (N, D) float32 or float16, may be mapped from disk: read in blocks.
        seed: of the training sample and of k-means.
        advance: told how many notes were added.
        device: GPU to train and fill on, or None.

    Returns:
        A FAISS index on the CPU, whose ids are rows.
    """
    faiss = import_faiss()
    count, dimension = vectors.shape
    index = faiss.index_factory(dimension, recipe(kind, dimension, count), faiss.METRIC_INNER_PRODUCT)
    if kind == "hnsw":
        if device is not None and device.has_graphs:
            return device.graph(_float32(vectors), advance)
        index.hnsw.efConstruction = GRAPH_EFFORT
    else:
        lists = faiss.extract_index_ivf(index)
        lists.cp.seed = seed
        lists.cp.min_points_per_centroid = (
            1  # `lists_for` sees to it that there are enough; a tiny table needs no warning
        )
        wanted = max(TRAIN_PER_LIST * lists.nlist, TRAIN_CODES if kind == "ivf-pq" else 1)
        sample = np.sort(np.random.default_rng(seed).choice(count, min(count, wanted), replace=False))
        if device is not None:
            index = device.put(index)
        index.train(_float32(vectors[sample]))
    for low in range(0, count, ADD_ROWS):
        block = _float32(vectors[low : low + ADD_ROWS])
        index.add(block)
        advance(len(block))
    return index if device is None or kind == "hnsw" else device.fetch(index)


def _float32(vectors: NDArray[Any]) -> Floats:
    return np.ascontiguousarray(vectors, dtype=np.float32)


def parameters(index: Any, knob: int, fetch: int, selector: Any = None) -> Any:
    """FAISS's search parameters.

    Args:
        index: that is searched.
        knob: see `Effort`; a walk through a graph is at least as wide as what it has to bring.
        fetch: notes that the search has to bring.
        selector: of the rows that may be found, or None.
    """
    faiss = import_faiss()
    options = {} if selector is None else {"sel": selector}
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=max(knob, fetch), **options)
    return faiss.SearchParametersIVF(nprobe=min(knob, index.nlist), **options)


def most_effort(index: Any) -> int:
    """The knob beyond which nothing more is found: all lists, or the whole graph."""
    faiss = import_faiss()
    return int(index.ntotal if isinstance(index, faiss.IndexHNSW) else index.nlist)
