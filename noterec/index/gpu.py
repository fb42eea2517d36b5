"""FAISS on a GPU: training, filling and searching there, saving and filtering through the CPU where it must be.

Nothing here runs on a machine without a GPU; tests/gpu/test_index.py is what verifies it. Indexes of one device share one
resource object, which must not be used by two searches at once: one thread owns an open index on a GPU.
"""

from __future__ import annotations

import logging
from typing import Any, Literal

import numpy as np

from noterec.errors import DependencyError
from noterec.index.bundle import import_faiss

logger = logging.getLogger(__name__)

GPU_LIMIT = 2048  # of k and of nprobe, in faiss's GPU code


def choose(device: Literal["auto", "cpu", "cuda"]) -> Device | None:
    """The GPU to use, None for the CPU.

    Raises:
        DependencyError: "cuda" was asked for, and there is no GPU or faiss was built without.
    """
    if device == "cpu":
        return None
    faiss = import_faiss()
    count = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if count:
        return Device()
    if device == "cuda":
        built = (
            "it sees no GPU" if hasattr(faiss, "StandardGpuResources") else "this faiss was built without GPU support"
        )
        raise DependencyError(f"device cuda: {built}; install noterec[gpu] or noterec[gpu-cuvs], or choose device auto")
    return None


class Device:
    """The first GPU that faiss sees.

    Attributes:
        has_graphs: whether faiss was built with cuVS, whose CAGRA makes graphs on the GPU.
    """

    def __init__(self) -> None:
        self._faiss = import_faiss()
        self._resources = self._faiss.StandardGpuResources()
        self.has_graphs = "CUVS" in self._faiss.get_compile_options()

    def put(self, index: Any) -> Any:
        """A copy of an index on the GPU."""
        options = self._faiss.GpuClonerOptions()
        options.useFloat16 = False
        return self._faiss.index_cpu_to_gpu(self._resources, 0, index, options)

    def fetch(self, index: Any) -> Any:
        """A copy of an index on the CPU: the form that is saved."""
        return self._faiss.index_gpu_to_cpu(index)

    def graph(self, vectors: Any, advance: Any) -> Any:
        """A CAGRA graph of (N, D) float32 vectors, made on the GPU, as the HNSW index that a CPU searches."""
        faiss = self._faiss
        config = faiss.GpuIndexCagraConfig()
        index = faiss.GpuIndexCagra(self._resources, vectors.shape[1], faiss.METRIC_INNER_PRODUCT, config)
        index.train(vectors)
        graph = faiss.IndexHNSWCagra()
        index.copyTo(graph)
        advance(len(vectors))
        return graph

    def mirror(self, index: Any) -> Any:
        """An index to search on the GPU, and on the CPU where the GPU would ignore a filter; graphs stay on the CPU."""
        if isinstance(index, self._faiss.IndexHNSW):
            return index
        return Mirror(index, self.put(index))


class Mirror:
    """One index on both sides.

    What is too wide for the GPU runs on the CPU, and so do filtered searches unless a real one showed that it heeds the filter.
    """

    def __init__(self, cpu: Any, gpu: Any) -> None:
        self._cpu, self._gpu = cpu, gpu
        self.filters = heeds_filters(gpu)

    def search(self, queries: np.ndarray, k: int, *, params: Any = None) -> Any:
        """As FAISS's own."""
        filtered = params is not None and params.sel is not None
        wide = max(k, getattr(params, "nprobe", 1)) > GPU_LIMIT
        side = self._cpu if wide or (filtered and not self.filters) else self._gpu
        return side.search(queries, k, params=params)


def heeds_filters(index: Any) -> bool:
    """Whether a search that may find only row 0 finds nothing else.

    Some GPU builds are reported to ignore selectors without an error (faiss issue 3924).
    """
    faiss = import_faiss()
    if index.ntotal < 2:
        return False
    selector = faiss.IDSelectorBitmap(np.array([1], dtype=np.uint8))
    parameters = (
        faiss.SearchParametersIVF(sel=selector, nprobe=index.nlist)
        if hasattr(index, "nlist")
        else faiss.SearchParameters(sel=selector)
    )
    query = np.ones((1, index.d), dtype=np.float32)
    try:
        _, rows = index.search(query, min(10, index.ntotal), params=parameters)
    except RuntimeError as error:
        logger.info("faiss filters on the CPU: the GPU refused a filtered search (%s)", str(error).splitlines()[0])
        return False
    heeded = bool(((rows == 0) | (rows == -1)).all() and (rows == 0).any())
    if not heeded:
        logger.info("faiss filters on the CPU: the GPU ignored a filter")
    return heeded
