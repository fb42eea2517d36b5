"""Search in a bundle and what was changed since: filtered, and the same answer whatever the batch.

    index = Index.open("index")
    index.search(vectors, 10, where={"category": "Travel/Asia"}, candidates="new")

The rows of an open index are the bundle's notes in the order of their ids, then the notes that were added since; a row whose
note was removed or replaced stays where it is and is never found. Scores are true cosines; ties break by note_id.
"""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import ArrayLike

from noterec import storage
from noterec.errors import ArtefactError, InputError
from noterec.index import bundle, changes, gpu
from noterec.index.conditions import shown
from noterec.index.filters import new_mask
from noterec.index.ids import SortedIds
from noterec.index.opening import OpenBundle, open_bundle
from noterec.index.searchable import unit_queries
from noterec.index.searchers import Exact, Floats, Mask, Rows, as_unit
from noterec.index.selection import Selection, find

_JOINED_IDS = 10_000  # more of them are looked up by one join
_NEAR_IDS = 2000  # looked through for ids like one that isn't there
RESULT = pa.schema([("query", pa.int64()), ("note_id", pa.string()), ("rank", pa.int32()), ("score", pa.float32())])


class Index:
    """An open bundle with what was added to it and removed from it since it was built.

    Attributes:
        folder: the bundle.
        info: what bundle.json says.
        version: the bundle's name and the number of the last change, such as "bundle-000007+12".
        attributes: (N, ...) one row per row of the index: note_id, and what was kept beside it.
        live: (N,) bool, false where a note was removed, or replaced by a later row.
        lexical: the words of the bundle's notes; None where it was built without (`lexical: false`, or no dataset).
    """

    def __init__(self, opened: OpenBundle, made: changes.Changes) -> None:
        """Use `Index.open`."""
        self._place: tuple[Path, Literal["auto", "cpu", "cuda"]] | None = None  # what was opened, and how
        self._bundle = opened
        self.folder, self.info, self.lexical = opened.folder, opened.info, opened.lexical
        folder, info, attributes = opened.folder, opened.info, opened.attributes
        self.version = f"{folder.name}+{made.through}" if made.through else folder.name
        self._base = opened.base
        self._count = attributes.height
        self._sorted = SortedIds(attributes["note_id"])
        added = made.added(folder, info, attributes["note_id"])
        gone = pl.concat([made.removed, added["note_id"]])
        live = np.ones(attributes.height + added.height, dtype=bool)
        live[: attributes.height] = ~attributes["note_id"].is_in(gone.implode()).to_numpy()
        self.live: Mask = live
        self._living = None if live.all() else (live[: attributes.height], live[attributes.height :])
        self._places = {note_id: attributes.height + place for place, note_id in enumerate(added["note_id"])}
        self._added = (
            Exact(added["embedding"].list.to_array(info.dimension).to_numpy()) if added.height else None
        )  # (A, D)
        if added.height:
            attributes = pl.concat([attributes, made.attributes(added, attributes.schema)])
        self.attributes = attributes
        self._ids_ascend = not added.height
        # The place of each row in the order of ids, by which ties break.
        self._order: Rows = (
            np.arange(len(live))
            if self._ids_ascend
            else attributes["note_id"].rank("ordinal").to_numpy().astype(np.int64)
        )

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
        place = storage.local(path)
        chosen = gpu.choose(device)

        def read(folder: Path) -> Index:
            opened = open_bundle(folder, verify=verify, device=chosen)
            made = changes.Changes.none() if folder == place else changes.read(place)
            index = cls(opened, made)
            index._place = place, device
            return index

        return bundle.settled(place, read)

    def refreshed(self) -> Index:
        """The index as it is now on disk: this bundle, not read again, with the changes since; or another one that is live.

        Returns:
            A new object; this one stays as it is.

        Raises:
            ArtefactError, InputError: as `open`.
        """
        assert self._place is not None, "made by `open`"
        place, device = self._place
        if bundle.find(place) != self.folder:
            return Index.open(place, device=device)
        made = changes.Changes.none() if self.folder == place else changes.read(place)
        index = Index(self._bundle, made)
        index._place = self._place
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
        found = self._row(note_id)
        if found >= 0:
            return found
        raise InputError(f"the index has no note {shown(str(note_id))}; {self._hint(str(note_id))}")

    def __contains__(self, note_id: str) -> bool:
        """Whether the index has a note of this id."""
        return self._row(note_id) >= 0

    def rows_of(self, note_ids: Iterable[str]) -> Rows:
        """The rows of some notes: (R,) int64, -1 where the index has none of this id."""
        wanted = list(note_ids)
        if len(wanted) <= _JOINED_IDS:
            return np.fromiter((self._row(note_id) for note_id in wanted), dtype=np.int64)
        places = pl.DataFrame({"note_id": self.ids}).with_row_index("row").filter(pl.Series(self.live))
        joined = pl.DataFrame({"note_id": wanted}).join(places, on="note_id", how="left", maintain_order="left")
        return joined["row"].cast(pl.Int64).fill_null(-1).to_numpy()

    def _row(self, note_id: str) -> int:
        found = self._places.get(note_id)
        if found is None and isinstance(note_id, str):
            found = self._sorted.find(note_id)
        return found if found is not None and self.live[found] else -1

    def _hint(self, note_id: str) -> str:
        """Ids like one that isn't there, of those that stand near it in the order."""
        start = max(0, self._sorted.place(note_id) - _NEAR_IDS // 2)
        around = self.ids.slice(start, _NEAR_IDS).filter(pl.Series(self.live[start : start + _NEAR_IDS]))
        near = difflib.get_close_matches(note_id[:100], around.to_list(), n=3)
        return f"did you mean {', '.join(map(shown, near))}?" if near else "it may be new: embed and index it first"

    def vector(self, note_id: str) -> Floats:
        """The vector of a note: (D,) float32, unit-norm, a copy. Raises as `row`."""
        vector: Floats = self.vectors([self.row(note_id)])[0]
        return vector

    def vectors(self, rows: ArrayLike) -> Floats:
        """The vectors of some rows: (R, D) float32, unit-norm, a copy."""
        wanted = np.asarray(rows, dtype=np.int64)
        if self._added is None or not len(wanted) or wanted.max() < self._count:
            return as_unit(self._base.vectors[wanted])
        found = np.empty((len(wanted), self.dimension), dtype=np.float32)
        late = wanted >= self._count
        found[~late] = as_unit(self._base.vectors[wanted[~late]])
        found[late] = self._added.vectors[wanted[late] - self._count]
        return found

    def new(self) -> Mask:
        """Which notes are new, (N,) bool.

        Raises:
            InputError: the index has neither a `new` mark nor creation times.
        """
        return new_mask(self.attributes, self.live)

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
        return self.table(*find(self, unit_queries(vectors, self), self._most(k), _selection(selection, options)))

    def similar(self, note_id: str, k: int, *, selection: Selection | None = None, **options: Any) -> pa.Table:
        """The k nearest notes to a note of the index, itself left out; arguments and result as in `search`.

        Raises:
            InputError: the index doesn't have the note, and as `search`.
        """
        row = self.row(note_id)
        chosen = _selection(selection, options)
        return self.table(*find(self, self.vectors([row]), self._most(k), chosen, exclude=np.array([row])))

    def _most(self, k: int) -> int:
        """k, or as many notes as there are; what is no number is left to be refused."""
        return min(k, max(1, len(self.ids))) if isinstance(k, int) else k

    def search_rows(
        self, queries: Floats, k: int, *, mask: Mask | None = None, exclude: Rows | None = None
    ) -> tuple[Floats, Rows]:
        """`search` for unit-norm queries in terms of rows, for callers that go on computing.

        Args:
            queries: (Q, D) float32, unit-norm.
            k: notes per query.
            mask: (N,) bool, the notes that may be found; None = all.
            exclude: (Q,) or (Q, E) int64, rows that a query must not find, -1 = none; many are better left out by the mask.

        Returns:
            (Q, k) float32 scores, descending, -inf where there are no more; (Q, k) int64 rows, -1 there. k is at most the number
            of rows.
        """
        if not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k={k!r}; expected a whole number of at least 1")
        allowed = self._living
        if mask is not None:
            both = mask & self.live
            allowed = both[: self._count], both[self._count :]
        k = min(int(k), max(1, len(self.live)))
        left_out = np.empty((len(queries), 0), dtype=np.int64) if exclude is None else np.atleast_2d(exclude.T).T
        wanted = min(k + left_out.shape[1], len(self.live))
        scores, rows = self._base.top(queries, wanted, None if allowed is None else allowed[0])
        if self._added is not None:
            late_scores, late = self._added.top(queries, wanted, None if allowed is None else allowed[1])
            scores = np.concatenate([scores, late_scores], axis=1)
            rows = np.concatenate([rows, np.where(late >= 0, late + self._count, -1)], axis=1)
        for column in left_out.T:  # (Q,)
            scores[rows == column[:, None]] = -np.inf
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


def _selection(given: Selection | None, options: dict[str, Any]) -> Selection:
    if given is not None and options:
        raise InputError(f"a selection and {', '.join(options)} were given; expected one or the other")
    known = [field.name for field in dataclasses.fields(Selection)]
    for name in options:
        if name not in known:
            raise InputError(f"no option {name!r}; expected some of {', '.join(known)}")
    return given or Selection(**options)
