"""The two ways to find the nearest rows: exactly, or by what an approximate index proposes.

Both return true cosines, computed from the vectors in float64 and rounded once, so that equal vectors have equal scores and the
lower row comes first, however FAISS blocked its matrix products. Rows are in the order of note ids.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from noterec.index import kinds
from noterec.index.bundle import import_faiss
from noterec.index.gpu import Device
from noterec.index.table import unit_rows

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

_NOISE = np.float32(3e-6)  # more than two ways of summing D products in float32 differ by, for unit vectors
_MARGIN = 8  # notes fetched beyond those wanted, so that few queries must be asked again because of equal scores
_BLOCK_FLOATS = 1 << 24  # gathered vectors held at a time: 64 MiB
EXACT_FLOATS = 1 << 24  # a filter that leaves so few numbers is searched exactly: about 2 ms a query
_FEW = 4  # ... if it leaves less than a quarter; else the whole index finds them without a copy
_KEPT_PARTS = 4  # exact indexes of what recent filters left, `new` among them


class Searcher(Protocol):
    """What an `Index` searches its rows with.

    Attributes:
        vectors: (N, D) float32 or float16.
    """

    vectors: NDArray[Any]

    def top(self, queries: Floats, k: int, allowed: Mask | None) -> tuple[Floats, Rows]:
        """The k best rows of those allowed: (Q, k) scores, -inf and row -1 where there are no more."""
        ...


class Exact:
    """Exact inner-product search.

    Attributes:
        vectors: (N, D) float32, a view of FAISS's own memory.
    """

    def __init__(self, vectors: NDArray[Any], *, device: Device | None = None) -> None:
        """Copy (N, D) vectors, which may be mapped from disk, block by block."""
        faiss = import_faiss()
        count, dimension = vectors.shape
        index = faiss.IndexFlatIP(dimension)
        for low in range(0, count, kinds.ADD_ROWS):
            index.add(as_unit(vectors[low : low + kinds.ADD_ROWS]))
        flat = faiss.rev_swig_ptr(index.get_xb(), count * dimension) if count else np.empty(0, np.float32)
        self.vectors: NDArray[Any] = flat.reshape(count, dimension)
        self._cpu = index
        self._index = index if device is None else device.mirror(index)

    def top(self, queries: Floats, k: int, allowed: Mask | None) -> tuple[Floats, Rows]:
        faiss = import_faiss()
        count, dimension = self.vectors.shape
        available = count if allowed is None else int(allowed.sum())
        scores, rows = _nothing(len(queries), k)
        if not available:
            return scores, rows
        parameters = None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            parameters = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))
        wanted = min(k, available)
        fetch = min(wanted + _MARGIN, available)
        pending = np.arange(len(queries))
        while len(pending):
            step = max(1, _BLOCK_FLOATS // (fetch * dimension))
            again = []
            for start in range(0, len(pending), step):
                part = pending[start : start + step]
                raw, found = self._index.search(queries[part], fetch, params=parameters)  # (q, fetch)
                # Were the last one fetched as good as the last one wanted, an equal one may have stayed behind.
                tied = (raw[:, -1] >= raw[:, wanted - 1] - _NOISE) & (fetch < available)
                again.append(part[tied])
                done = ~tied
                scores[part[done]], rows[part[done]] = _ordered(self.vectors, queries[part[done]], found[done], k)
            pending = np.concatenate(again)
            fetch = min(4 * fetch, available)
        return scores, rows


class Approximate:
    """What a FAISS index proposes, scored by the vectors themselves.

    A filter that leaves little is searched exactly; one that leaves more makes the search look so much further as it leaves less.
    """

    def __init__(
        self, index: Any, vectors: NDArray[Any], effort: kinds.Effort, k: int, *, device: Device | None = None
    ) -> None:
        """Search a trained and filled index.

        Args:
            index: of FAISS, whose ids are rows.
            vectors: (N, D) float32 or float16, mapped from disk.
            effort: what reaches the recall that was asked for at k.
            k: neighbours for which `effort` was tuned; more of them take more effort.
            device: GPU to search on, or None.
        """
        self.vectors = vectors
        self.effort = effort
        self._k = k
        self._cpu = index
        self._index = index if device is None else device.mirror(index)
        self._most = kinds.most_effort(index)
        self._allowed: Mask | None = None
        self._bits: NDArray[np.uint8] | None = None  # of `_allowed`, as FAISS takes them
        self._parts: OrderedDict[bytes, tuple[Exact, Rows]] = OrderedDict()

    def top(self, queries: Floats, k: int, allowed: Mask | None) -> tuple[Floats, Rows]:
        count, dimension = self.vectors.shape
        available = count if allowed is None else int(allowed.sum())
        if not available or not len(queries):
            return _nothing(len(queries), k)
        if allowed is not None and available <= count // _FEW and available * dimension <= EXACT_FLOATS:
            return self._exact(queries, k, allowed)
        wanted = min(k, available)
        knob = max(self.effort.knob, self.effort.knob * wanted // self._k) * count // available
        scores, rows = self._propose(queries, k, allowed, min(knob, self._most))
        short = rows[:, wanted - 1] < 0  # the lists looked into held too few
        if short.any():
            scores[short], rows[short] = self._by_blocks(queries[short], k, allowed)
        return scores, rows

    def _propose(self, queries: Floats, k: int, allowed: Mask | None, knob: int) -> tuple[Floats, Rows]:
        fetch = min(self.effort.refine * k + _MARGIN, len(self.vectors))
        selector = None
        if allowed is not None:
            if allowed is not self._allowed:  # the rows that live are the same from query to query
                self._allowed, self._bits = allowed, np.packbits(allowed, bitorder="little")
            bits = self._bits  # the selector doesn't keep it alive
            selector = import_faiss().IDSelectorBitmap(bits)
        parameters = kinds.parameters(self._cpu, knob, fetch, selector)
        step = max(1, _BLOCK_FLOATS // (fetch * self.vectors.shape[1]))
        parts = []
        for start in range(0, len(queries), step):
            part = queries[start : start + step]
            _, found = self._index.search(part, fetch, params=parameters)  # (q, fetch)
            if allowed is not None:  # whatever a build of faiss makes of a selector, nothing else is ever returned
                found = np.where((found >= 0) & allowed[found], found, -1)
            parts.append(_ordered(self.vectors, part, found, k))
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([best for best, _ in parts]), np.concatenate([rows for _, rows in parts])

    def _exact(self, queries: Floats, k: int, allowed: Mask) -> tuple[Floats, Rows]:
        """Search the rows that a filter left with an index of their own, kept for the next query with this filter."""
        key = hashlib.blake2b(np.packbits(allowed).tobytes(), digest_size=16).digest()
        part = self._parts.pop(key, None)
        if part is None:
            rows = np.flatnonzero(allowed)
            part = Exact(self.vectors[rows]), rows
        self._parts[key] = part
        while len(self._parts) > _KEPT_PARTS:
            self._parts.popitem(last=False)
        exact, rows_of = part
        scores, found = exact.top(queries, k, None)
        return scores, np.where(found >= 0, rows_of[found], -1)

    def _by_blocks(self, queries: Floats, k: int, allowed: Mask | None) -> tuple[Floats, Rows]:
        """Exact search over all rows, a block of them at a time: for queries whose proposals fell short."""
        best, best_rows = _nothing(len(queries), k)
        step = max(1, EXACT_FLOATS // self.vectors.shape[1])
        for low in range(0, len(self.vectors), step):
            rows = np.arange(low, min(low + step, len(self.vectors)))
            if allowed is not None:
                rows = rows[allowed[rows]]
            scores, found = Exact(self.vectors[rows]).top(queries, k, None)
            both = np.concatenate([best, scores], axis=1)  # (q, 2k), earlier blocks have lower rows and stand first
            both_rows = np.concatenate([best_rows, np.where(found >= 0, rows[found] if len(rows) else -1, -1)], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            best, best_rows = np.take_along_axis(both, order, axis=1), np.take_along_axis(both_rows, order, axis=1)
        return best, best_rows


def as_unit(vectors: NDArray[Any]) -> Floats:
    """Vectors of the file (n, D) as float32, unit-norm also where they were rounded to 16 bits."""
    if vectors.dtype == np.float16:
        return unit_rows(vectors)[1]
    return np.ascontiguousarray(vectors, dtype=np.float32)


def _nothing(queries: int, k: int) -> tuple[Floats, Rows]:
    return np.full((queries, k), -np.inf, dtype=np.float32), np.full((queries, k), -1, dtype=np.int64)


def _ordered(vectors: NDArray[Any], queries: Floats, found: Rows, k: int) -> tuple[Floats, Rows]:
    """Order proposed rows by true score, then row: (q, k) scores and rows; -1 among `found` is none."""
    gathered = vectors[found].astype(np.float64)  # (q, fetch, D); what -1 gathers is struck out below
    if vectors.dtype == np.float16:
        gathered /= np.sqrt(np.einsum("qfd,qfd->qf", gathered, gathered))[:, :, None]
    exact = np.einsum("qfd,qd->qf", gathered, queries.astype(np.float64)).astype(np.float32)  # (q, fetch)
    none = found < 0
    if none.any():
        exact[none] = -np.inf
    order = np.lexsort((found, -exact), axis=1)[:, :k]  # (q, <= k)
    at = np.arange(len(found))[:, None]
    best, rows = exact[at, order], found[at, order]
    if order.shape[1] == k:
        return best, rows
    scores, padded = _nothing(len(queries), k)
    scores[:, : order.shape[1]], padded[:, : order.shape[1]] = best, rows
    return scores, padded
