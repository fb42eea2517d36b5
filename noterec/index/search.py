"""Search in a bundle: exact, filtered, and the same answer whatever the batch.

    index = Index.open("index")
    index.search(vectors, 10, where={"category": "Travel/Asia"}, candidates="new")

FAISS finds; the scores that are returned are computed once more for the notes found, so that equal vectors have equal
scores and ties break by note_id, however FAISS blocked its matrix products.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.index import bundle
from noterec.index.filters import Candidates, Mask, Where, candidate_mask, new_mask, where_mask

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

RESULT = pa.schema([("query", pa.int64()), ("note_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32())])
_NOISE = np.float32(3e-6)  # more than two ways of summing D products in float32 differ by, for unit vectors
_MARGIN = 8  # notes fetched beyond those wanted, so that few queries must be asked again because of equal scores
_BLOCK_FLOATS = 1 << 24  # gathered vectors held at a time: 64 MiB


class Index:
    """An open bundle.

    Attributes:
        folder: the bundle.
        info: what bundle.json says.
        attributes: (N, ...) one row per note in the index's order: note_id, and what was kept beside it.
    """

    def __init__(self, folder: Path, info: bundle.BundleInfo, faiss_index: Any, attributes: pl.DataFrame) -> None:
        """Use `Index.open`."""
        self.folder = folder
        self.info = info
        self.attributes = attributes
        self._faiss = bundle.import_faiss()
        self._index = faiss_index
        count, dimension = attributes.height, info.dimension
        # A view of FAISS's own memory: reading a vector copies nothing.
        flat = self._faiss.rev_swig_ptr(faiss_index.get_xb(), count * dimension)
        self._vectors: Floats = flat.reshape(count, dimension)  # (N, D)

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, verify: bool = True) -> Index:
        """Open the live bundle of an index, or one bundle.

        Args:
            path: the index folder, or a bundle's own.
            verify: hash the files before FAISS reads them; without it only their presence and size are checked.

        Raises:
            InputError: no index there.
            ArtefactError: a file is missing, changed, or of another format.
            DependencyError: faiss isn't installed.
        """
        faiss = bundle.import_faiss()
        folder = bundle.find(path)
        info = bundle.read_info(folder)
        bundle.verify(folder, info, hashes=verify)
        attributes = pl.DataFrame(storage.read_table(folder / bundle.NOTES_FILE))
        try:
            index = faiss.read_index(str(folder / bundle.FAISS_FILE))
        except RuntimeError as error:
            raise ArtefactError(f"{folder / bundle.FAISS_FILE}: faiss can't read it; build the index again") from error
        if not isinstance(index, faiss.IndexFlat) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ArtefactError(
                f"{folder}: holds a {type(index).__name__}; expected exact inner product: build it again"
            )
        if (index.ntotal, index.d, attributes.height) != (info.count, info.dimension, info.count):
            raise ArtefactError(
                f"{folder}: {index.ntotal} vectors of {index.d} dimensions and {attributes.height} notes, expected "
                f"{info.count} of {info.dimension}; its parts don't belong together: build the index again"
            )
        return cls(folder, info, index, attributes)

    def __len__(self) -> int:
        return self.info.count

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.info.dimension

    @property
    def model_version(self) -> str:
        """Of the model that made the vectors."""
        return self.info.model_version

    @property
    def ids(self) -> pl.Series:
        """(N,) note ids, ascending, in the order of the rows."""
        return self.attributes["note_id"]

    def require_model(self, model_version: str) -> None:
        """Refuse vectors of another model.

        Raises:
            ArtefactError: `model_version` isn't that of this index.
        """
        if model_version != self.model_version:
            raise ArtefactError(
                f"vectors of model version {model_version}, and the index {self.folder} holds those of "
                f"{self.model_version}; they can't be compared: embed and index the notes with the same model"
            )

    def row(self, note_id: str) -> int:
        """The row of a note.

        Raises:
            InputError: the index doesn't have it; the message names ids like it.
        """
        found = self.ids.search_sorted(note_id)
        if isinstance(note_id, str) and found < len(self) and self.ids[found] == note_id:
            return int(found)
        near = difflib.get_close_matches(str(note_id), self.ids.to_list(), n=3) if len(self) <= 50_000 else []
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "it may be new: embed and index it first"
        raise InputError(f"the index has no note {note_id!r}; {hint}")

    def vector(self, note_id: str) -> Floats:
        """The vector of a note: (D,) float32, unit-norm, a copy. Raises as `row`."""
        return np.array(self._vectors[self.row(note_id)])

    def vectors(self, rows: ArrayLike) -> Floats:
        """The vectors of some rows: (R, D) float32, unit-norm, a copy."""
        return self._vectors[np.asarray(rows, dtype=np.int64)]

    def new(self) -> Mask:
        """Which notes are new, (N,) bool.

        Raises:
            InputError: the index has neither a `new` mark nor creation times.
        """
        return new_mask(self.attributes)

    def search(
        self, vectors: ArrayLike, k: int, *, where: Where | None = None, candidates: Candidates = "all"
    ) -> pa.Table:
        """The k notes with the largest cosine for every query; ties break by note_id.

        Args:
            vectors: (Q, D) or (D,) float; rows are normalised.
            k: notes per query, at least 1. Fewer come back where fewer may be found.
            where: a filter on the attributes, see `filters.where_mask`.
            candidates: "all", "new", or note ids.

        Returns:
            Columns query int64 (row of `vectors`), note_id, rank int32 from 1, score float32 (cosine), by query and rank.

        Raises:
            InputError: another D, NaN, infinity or a zero vector, k below 1, or a filter that doesn't fit.
        """
        queries = self._queries(vectors)
        scores, rows = self.search_rows(queries, k, mask=self._mask(where, candidates))
        return self._table(scores, rows)

    def similar(self, note_id: str, k: int, *, where: Where | None = None, candidates: Candidates = "all") -> pa.Table:
        """The k nearest notes to a note of the index, itself left out; arguments and result as in `search`.

        Raises:
            InputError: the index doesn't have the note, and as `search`.
        """
        row = self.row(note_id)
        mask = self._mask(where, candidates)
        scores, rows = self.search_rows(self._vectors[row : row + 1], k, mask=mask, exclude=np.array([row]))
        return self._table(scores, rows)

    def search_rows(
        self, queries: Floats, k: int, *, mask: Mask | None = None, exclude: Rows | None = None
    ) -> tuple[Floats, Rows]:
        """`search` for unit-norm queries in terms of rows, for callers that go on computing.

        Args:
            queries: (Q, D) float32, unit-norm.
            k: notes per query.
            mask: (N,) bool, the notes that may be found; None = all.
            exclude: (Q,) int64, a row that a query must not find, -1 = none.

        Returns:
            (Q, k) float32 scores, descending, -inf where there are no more; (Q, k) int64 rows, -1 there.
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k={k!r}; expected a whole number of at least 1")
        available = len(self) if mask is None else int(mask.sum())
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)  # (Q, k)
        rows = np.full((len(queries), k), -1, dtype=np.int64)  # (Q, k)
        if not available:
            return scores, rows
        left_out = np.full(len(queries), -1, dtype=np.int64) if exclude is None else exclude  # (Q,)
        parameters = None
        if mask is not None:
            bits = np.packbits(mask, bitorder="little")
            selector = self._faiss.IDSelectorBitmap(bits)
            parameters = self._faiss.SearchParameters(sel=selector)
        wanted = min(k + 1, available)  # one more, for the note itself
        fetch = min(wanted + _MARGIN, available)
        pending = np.arange(len(queries))
        while len(pending):
            step = max(1, _BLOCK_FLOATS // (fetch * self.dimension))
            again = []
            for start in range(0, len(pending), step):
                part = pending[start : start + step]
                raw, found = self._index.search(queries[part], fetch, params=parameters)  # (q, fetch)
                # Were the last one fetched as good as the last one wanted, an equal one may have stayed behind.
                tied = (raw[:, -1] >= raw[:, wanted - 1] - _NOISE) & (fetch < available)
                again.append(part[tied])
                done = ~tied
                scores[part[done]], rows[part[done]] = self._exact(
                    queries[part[done]], found[done], k, left_out[part[done]]
                )
            pending = np.concatenate(again)
            fetch = min(4 * fetch, available)
        return scores, rows

    def _exact(self, queries: Floats, found: Rows, k: int, exclude: Rows) -> tuple[Floats, Rows]:
        """Order what FAISS found by score, then row: (q, k) scores and rows."""
        gathered = self._vectors[found].astype(np.float64)  # (q, fetch, D)
        exact = np.einsum("qfd,qd->qf", gathered, queries.astype(np.float64)).astype(np.float32)  # (q, fetch)
        exact[found == exclude[:, None]] = -np.inf
        order = np.lexsort((found, -exact), axis=1)[:, :k]  # (q, <= k)
        best = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        best[:, : order.shape[1]] = np.take_along_axis(exact, order, axis=1)
        rows[:, : order.shape[1]] = np.take_along_axis(found, order, axis=1)
        rows[np.isneginf(best)] = -1
        return best, rows

    def _mask(self, where: Where | None, candidates: Candidates) -> Mask | None:
        mask = candidate_mask(self.attributes, candidates)
        if where is None:
            return mask
        kept = where_mask(self.attributes, where)
        return kept if mask is None else mask & kept

    def _queries(self, vectors: ArrayLike) -> Floats:
        queries = np.atleast_2d(np.asarray(vectors, dtype=np.float32))  # (Q, D)
        if queries.ndim != 2 or queries.shape[1] != self.dimension:
            raise InputError(
                f"queries have shape {queries.shape}; the index holds vectors of D = {self.dimension} of model version "
                f"{self.model_version}: encode the queries with that model"
            )
        norms = np.sqrt(np.einsum("qd,qd->q", queries, queries, dtype=np.float64))  # (Q,)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if len(bad):
            raise InputError(
                f"{len(bad)} of {len(queries)} query vectors hold NaN or infinity or are all zero, the first is row "
                f"{bad[0]}; expected finite vectors: leave such queries out"
            )
        return np.asarray(queries / norms[:, None], dtype=np.float32)

    def _table(self, scores: Floats, rows: Rows) -> pa.Table:
        query, rank = np.nonzero(rows >= 0)
        ids = self.ids.gather(rows[query, rank]).cast(pl.String)
        columns = [
            query,
            ids.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string()),
            rank + 1,
            scores[query, rank],
        ]
        return pa.table(columns, names=RESULT.names).cast(RESULT)
