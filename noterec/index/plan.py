"""Which kind of index: chosen by count, dimension, memory and recall, with figures of this machine and these vectors.

The predictions come from two speeds that are measured in a fraction of a second on the vectors themselves: reading through
vectors for one query, and multiplying blocks of them.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec.config import IndexConfig
from noterec.config.index import Kind
from noterec.errors import ConfigError
from noterec.index import kinds
from noterec.index.bundle import import_faiss

# Up to here one exact query reads 8 MiB, a fifth of a millisecond: lists would gain little and lose exactness (docs/benchmarks.md).
FLAT_FLOATS = 1 << 21
LESS_MEMORY: tuple[Kind, ...] = ("ivf", "ivf-sq8", "ivf-pq")  # each half of the one before it, or less
GRAPH_RECALL = 0.995  # above it lists would have to be searched nearly all
_SAMPLE = 20_000
_KMEANS_ITERATIONS = 10  # FAISS's own number for lists
_BLOCKS = 2.5  # the blocks of k-means and of filling lists run so many times as fast as the search that is measured
_PROBED = 16  # lists looked into for the usual targets
_OVERHEAD = 50e-6  # seconds of a query for what isn't search: parameters, true scores, order
_WALK = 2000  # distances computed on the way through a graph of 100,000 notes
_SCATTERED = 5  # a vector that lies somewhere costs so many times one that lies behind the one before


@dataclass(frozen=True)
class Plan:
    """What will be built, and what it is expected to cost.

    Attributes:
        kind: of the index.
        reason: why, in a sentence.
        bytes_per_note: memory of the served index, its attributes not counted.
        build_seconds: training and filling.
        query_ms: one query alone.
    """

    kind: Kind
    reason: str
    bytes_per_note: float
    build_seconds: float
    query_ms: float


def plan(vectors: NDArray[Any], config: IndexConfig) -> Plan:
    """Choose the kind (config.kind, or the best for these vectors) and predict its cost.

    Args:
        vectors: (N, D) float32 or float16.
        config: the settings.

    Raises:
        ConfigError: the kind that was asked for doesn't fit into the memory that was given.
    """
    count, dimension = vectors.shape
    memory = config.memory_gib * 2**30 if config.memory_gib is not None else available_bytes() / 2
    needs = {kind: kinds.bytes_per_note(kind, dimension, count) * count for kind in ("flat", "ivf", "ivf-sq8", "hnsw")}
    kind: Kind
    if config.kind != "auto":
        kind, reason = config.kind, "asked for"
        need = kinds.bytes_per_note(kind, dimension, count) * count
        if config.memory_gib is not None and need > memory:
            raise ConfigError(
                f"kind {kind}: {count:,} notes of D = {dimension} take {_size(need)}, and memory_gib is {config.memory_gib}; give "
                "it more, or choose kind auto"
            )
    elif count * dimension <= FLAT_FLOATS and needs["flat"] <= memory:
        kind, reason = "flat", f"{count:,} notes of D = {dimension} are few enough to be searched exactly"
    elif config.recall_target > GRAPH_RECALL and needs["hnsw"] <= memory:
        kind = "hnsw"
        reason = f"a recall of {config.recall_target} would make lists be searched nearly all; a graph reaches it"
    else:
        kind = next((kind for kind in LESS_MEMORY[:-1] if needs[kind] <= memory), "ivf-pq")
        need = kinds.bytes_per_note(kind, dimension, count) * count
        if need > memory:
            raise ConfigError(
                f"{count:,} notes of D = {dimension} take {_size(need)} as {kind}, the smallest kind, and {_size(memory)} may be "
                "used; give memory_gib, or split the notes into several indexes and search them together"
            )
        reason = (
            f"{count:,} notes of D = {dimension} are too many to search exactly; {kind} is the fastest that fits into "
            f"{_size(memory)}"
        )
    scan, multiply = _speeds(vectors)
    threads = import_faiss().omp_get_max_threads()
    lists = kinds.lists_for(count)
    trained = min(count, kinds.TRAIN_PER_LIST * lists)
    if kind == "flat":
        build, query = count * dimension / scan, count * dimension / scan
    elif kind == "hnsw":
        walk = _WALK * np.log2(count) / np.log2(100_000) * _SCATTERED * dimension / scan
        build, query = count * walk / threads, walk
    else:
        build = (_KMEANS_ITERATIONS * trained + count) * lists * dimension / multiply / _BLOCKS
        query = (lists + _PROBED * count / lists) * dimension / scan
    return Plan(
        kind=kind,
        reason=reason,
        bytes_per_note=round(kinds.bytes_per_note(kind, dimension, count), 1),
        build_seconds=float(f"{build:.2g}"),
        query_ms=float(f"{1000 * (query + _OVERHEAD):.2g}"),
    )


def _speeds(vectors: NDArray[Any]) -> tuple[float, float]:
    """Numbers per second: of vectors read for one query, and of products of blocks."""
    faiss = import_faiss()
    sample = np.ascontiguousarray(vectors[:_SAMPLE], dtype=np.float32)
    index = faiss.IndexFlatIP(sample.shape[1])
    index.add(sample)
    queries = sample[:512]
    index.search(queries[:1], 1)
    one, many = math.inf, math.inf
    for _ in range(3):
        start = time.perf_counter()
        index.search(queries[:1], 1)
        middle = time.perf_counter()
        index.search(queries, 1)
        one, many = min(one, middle - start), min(many, time.perf_counter() - middle)
    return sample.size / one, sample.size * len(queries) / many


def available_bytes() -> int:
    """Free memory of this machine or container, in bytes."""
    limit, used = _number("/sys/fs/cgroup/memory.max"), _number("/sys/fs/cgroup/memory.current")
    free = int(os.sysconf("SC_PAGE_SIZE")) * int(os.sysconf("SC_AVPHYS_PAGES"))
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pass
    return free if limit is None or used is None else min(free, max(0, limit - used))


def _number(file: str) -> int | None:
    try:
        return int(Path(file).read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such group, or "max"
        return None


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
