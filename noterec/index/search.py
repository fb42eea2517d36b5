"""Search in a bundle and what was changed since: filtered, and the same answer whatever the batch.

    index = Index.open("index")
    index.search(vectors, 10, where={"category": "Travel/Asia"}, candidates="new")

The rows of an open index are the bundle's notes in the order of their ids, then the notes that were added since; a row whose
note was removed or replaced stays where it is and is never found. Scores are true cosines; ties break by note_id.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.index import bundle, changes, gpu
from noterec.index.filters import new_mask
from noterec.index.ids import SortedIds
from noterec.index.kinds import Effort
from noterec.index.lexical import LEXICAL_FILE, Lexical
from noterec.index.searchable import unit_queries
from noterec.index.searchers import Approximate, Exact, Floats, Mask, Rows, Searcher
from noterec.index.selection import Selection, find

RESULT = pa.schema([("query", pa.int64()), ("note_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32())])


class Index:
    """An open bundle with what was added to it and removed from it since it was built.

    Attributes:
        folder: the bundle.
        info: what bundle.json says.
        version: the bundle's name and the number of the last change, such as "bundle-000007+12".
        attributes: (N, ...) one row per row of the index: note_id, and what was kept beside it.
        live: (N,) bool, false where a note was removed, or replaced by a later row.
    """

    def __init__(
        self, folder: Path, info: bundle.BundleInfo, base: Searcher, attributes: pl.DataFrame, made: changes.Changes
    ) -> None:
        """Use `Index.open`."""
        self._opened: tuple[Path, pl.DataFrame, Literal["auto", "cpu", "cuda"]] | None = None  # where, what and how
        self.folder = folder
        self.info = info
        self.version = f"{folder.name}+{made.through}" if made.through else folder.name
        self._base = base
        self._count = attributes.height
        self._sorted = SortedIds(attributes["note_id"])
        added = made.added(info, attributes["note_id"])
        gone = pl.concat([made.removed, added["note_id"]])
        live = np.ones(attributes.height + added.height, dtype=bool)
        live[: attributes.height] = ~attributes["note_id"].is_in(gone.implode()).to_numpy()
        self.live: Mask = live
        self._all_live = bool(live.all())
        self._places = {note_id: attributes.height + place for place, note_id in enumerate(added["note_id"])}
        self._added = (
            Exact(added["embedding"].list.to_array(info.dimension).to_numpy()) if added.height else None
        )  # (A, D)
        if added.height:
            missing = [pl.lit(None).alias(name) for name in attributes.columns if name not in added.columns]
            beside = added.with_columns(missing).select(pl.col(n).cast(t) for n, t in attributes.schema.items())
            attributes = pl.concat([attributes, beside])
        self.attributes = attributes
        self._ids_ascend = not added.height
        # The place of each row in the order of ids, by which ties break.
        self._order: Rows = (
            np.arange(len(live))
            if self._ids_ascend
            else attributes["note_id"].rank("ordinal").to_numpy().astype(np.int64)
        )
        self._lexical: Lexical | None = None

    @classmethod
    def open(
        cls, path: str | os.PathLike[str], *, verify: bool = True, device: Literal["auto", "cpu", "cuda"] = "cpu"
    ) -> Index:
        """Open the live bundle of an index with the changes since, or one bundle as it was built.

        Args:
            path: the index folder, or a bundle's own.
            verify: hash the files before anything reads them; without it only their presence and size are checked.
            device: where vectors are compared; "auto" = a GPU where there is one that faiss can use.

        Raises:
            InputError: no index there.
            ArtefactError: a file is missing, changed, or of another format.
            DependencyError: faiss isn't installed, or a GPU was asked for and it has none.
        """
        faiss = bundle.import_faiss()
        place = storage.local(path)
        folder = bundle.find(path)
        info = bundle.read_info(folder)
        bundle.verify(folder, info, hashes=verify)
        attributes = pl.DataFrame(storage.read_table(folder / bundle.NOTES_FILE))
        file = folder / bundle.VECTORS_FILE
        try:
            vectors: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)  # (N, D)
        except (ValueError, OSError) as error:
            raise ArtefactError(f"{file}: not a readable array ({error}); build the index again") from error
        shape = (info.count, info.dimension)
        if vectors.shape != shape or vectors.dtype not in (np.float32, np.float16) or attributes.height != info.count:
            raise ArtefactError(
                f"{folder}: {vectors.shape} numbers of {vectors.dtype} and {attributes.height} notes, expected {shape}; its parts "
                "don't belong together: build the index again"
            )
        chosen = gpu.choose(device)
        base: Searcher
        if info.kind == "flat":
            base = Exact(vectors, device=chosen)
        else:
            try:
                index = faiss.read_index(str(folder / bundle.FAISS_FILE))
            except RuntimeError as error:
                raise ArtefactError(
                    f"{folder / bundle.FAISS_FILE}: faiss can't read it; build the index again"
                ) from error
            if (index.ntotal, index.d) != shape or index.metric_type != faiss.METRIC_INNER_PRODUCT:
                raise ArtefactError(
                    f"{folder}: a {type(index).__name__} of {index.ntotal} vectors of {index.d} dimensions, expected inner "
                    f"products of {shape}; its parts don't belong together: build the index again"
                )
            base = Approximate(index, vectors, Effort(info.knob, info.refine), info.recall.at, device=chosen)
        made = changes.Changes.none() if folder == place else changes.read(place)
        index = cls(folder, info, base, attributes, made)
        index._opened = place, attributes, device
        return index

    def refreshed(self) -> Index:
        """The index as it is now on disk: this bundle, not read again, with the changes since; or another one that is live.

        Returns:
            A new object; this one stays as it is.

        Raises:
            ArtefactError, InputError: as `open`.
        """
        assert self._opened is not None, "made by `open`"
        place, attributes, device = self._opened
        if bundle.find(place) != self.folder:
            return Index.open(place, device=device)
        made = changes.Changes.none() if self.folder == place else changes.read(place)
        index = Index(self.folder, self.info, self._base, attributes, made)
        index._opened, index._lexical = self._opened, self._lexical
        return index

    def __len__(self) -> int:
        return int(self.live.sum())

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
        """(N,) note ids in the order of the rows: ascending but for the notes that were added, which stand at the end."""
        return self.attributes["note_id"]

    @property
    def lexical(self) -> Lexical | None:
        """The words of the bundle's notes; None where it was built without (`lexical: false`, or no dataset)."""
        if self._lexical is None and LEXICAL_FILE in self.info.files:
            self._lexical = Lexical.open(self.folder)
        return self._lexical

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
        found = self._places.get(note_id)
        if found is None and isinstance(note_id, str):
            found = self._sorted.find(note_id)
        if found is not None and self.live[found]:
            return found
        near = difflib.get_close_matches(str(note_id), self.ids.to_list(), n=3) if len(self.ids) <= 50_000 else []
        near = [name for name in near if name != note_id]
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "it may be new: embed and index it first"
        raise InputError(f"the index has no note {note_id!r}; {hint}")

    def vector(self, note_id: str) -> Floats:
        """The vector of a note: (D,) float32, unit-norm, a copy. Raises as `row`."""
        vector: Floats = self.vectors([self.row(note_id)])[0]
        return vector

    def vectors(self, rows: ArrayLike) -> Floats:
        """The vectors of some rows: (R, D) float32, unit-norm, a copy."""
        wanted = np.asarray(rows, dtype=np.int64)
        if self._added is None or not len(wanted) or wanted.max() < self._count:
            found: Floats = np.array(self._base.vectors[wanted], dtype=np.float32)
            return found
        found = np.empty((len(wanted), self.dimension), dtype=np.float32)
        late = wanted >= self._count
        found[~late] = self._base.vectors[wanted[~late]]
        found[late] = self._added.vectors[wanted[late] - self._count]
        return found

    def new(self) -> Mask:
        """Which notes are new, (N,) bool.

        Raises:
            InputError: the index has neither a `new` mark nor creation times.
        """
        return new_mask(self.attributes)

    def search(self, vectors: ArrayLike, k: int, *, selection: Selection | None = None, **options: Any) -> pa.Table:
        """The k notes with the largest cosine for every query; ties break by note_id.

        Args:
            vectors: (Q, D) or (D,) float; rows are normalised.
            k: notes per query, at least 1. Fewer come back where fewer may be found.
            selection: which notes may be found and how they are chosen; or give its fields one by one: where, candidates, exclude,
                per_author, duplicates, diversity.

        Returns:
            Columns query int64 (row of `vectors`), note_id, rank int32 from 1, score float32 (cosine), by query and rank.

        Raises:
            InputError: another D, NaN, infinity or a zero vector, k below 1, or a filter that doesn't fit.
        """
        scores, rows = find(self, unit_queries(vectors, self), k, selection or Selection(**options))
        return self.table(scores, rows)

    def similar(self, note_id: str, k: int, *, selection: Selection | None = None, **options: Any) -> pa.Table:
        """The k nearest notes to a note of the index, itself left out; arguments and result as in `search`.

        Raises:
            InputError: the index doesn't have the note, and as `search`.
        """
        row = self.row(note_id)
        chosen = selection or Selection(**options)
        return self.table(*find(self, self.vectors([row]), k, chosen, exclude=np.array([row])))

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
        allowed = None if mask is None and self._all_live else self.live if mask is None else mask & self.live
        wanted = min(int(k) + (exclude is not None), len(self.live))
        scores, rows = self._base.top(queries, wanted, None if allowed is None else allowed[: self._count])
        if self._added is not None:
            late_scores, late = self._added.top(queries, wanted, None if allowed is None else allowed[self._count :])
            scores = np.concatenate([scores, late_scores], axis=1)
            rows = np.concatenate([rows, np.where(late >= 0, late + self._count, -1)], axis=1)
        if exclude is not None:
            scores[(rows == exclude[:, None]) & (rows >= 0)] = -np.inf
        rows = np.where(np.isneginf(scores), -1, rows)
        order = np.lexsort((np.where(rows >= 0, self._order[rows], len(self.live)), -scores), axis=1)[:, :k]
        best, best_rows = np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        best[:, : order.shape[1]] = np.take_along_axis(scores, order, axis=1)
        best_rows[:, : order.shape[1]] = np.take_along_axis(rows, order, axis=1)
        return best, best_rows

    def table(self, scores: Floats, rows: Rows) -> pa.Table:
        """What `search_rows` found, as `search` returns it."""
        query, rank = np.nonzero(rows >= 0)
        ids = self.ids.gather(rows[query, rank]).cast(pl.String)
        columns = [
            query,
            ids.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(pa.string()),
            rank + 1,
            scores[query, rank],
        ]
        return pa.table(columns, names=RESULT.names).cast(RESULT)
