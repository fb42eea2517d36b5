"""Several indexes searched as one: each is asked, and the answers are merged.

    merged = MergedIndex.open(["index-a", "index-b"])
    query(merged, vector=v, k=10)

For a catalogue that one machine can't build at once, or parts of it that change at their own pace. All hold vectors of one
model, and a note stands in one of them only.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from noterec.errors import ArtefactError, InputError
from noterec.index.filters import Mask, new_mask
from noterec.index.search import Index

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class MergedIndex:
    """Several open indexes; the rows of the first come first, then those of the second, and so on.

    Attributes:
        shards: the indexes.
        attributes: (N, ...) one row per note: note_id, and whatever any shard keeps beside it, null where a shard doesn't.
        lexical: None: BM25 counts words over a whole catalogue, and each shard knows its own only.
    """

    lexical = None

    def __init__(self, shards: Sequence[Index]) -> None:
        """Join open indexes.

        Raises:
            InputError: none was given, or a note stands in two of them.
            ArtefactError: they are of different model versions or dimensions, or keep an attribute in different types.
        """
        if not shards:
            raise InputError("no index was given; expected at least one")
        self.shards = tuple(shards)
        first = self.shards[0]
        for shard in self.shards[1:]:
            shard.require_model(first.model_version)
            if shard.dimension != first.dimension:
                raise ArtefactError(
                    f"{shard.folder}: vectors of D = {shard.dimension}, and those of {first.folder} have D = {first.dimension}; "
                    "they can't be searched together"
                )
        self._starts = np.concatenate(
            [[0], np.cumsum([shard.attributes.height for shard in self.shards])]
        )  # (shards + 1,)
        try:
            self.attributes = pl.concat([shard.attributes for shard in self.shards], how="diagonal")
        except pl.exceptions.PolarsError as error:
            raise ArtefactError(
                f"{', '.join(str(shard.folder) for shard in self.shards)}: an attribute has different types in them "
                f"({str(error).splitlines()[0]}); build them from datasets with the same column types"
            ) from error
        self._refuse_repeated()

    @classmethod
    def open(cls, paths: Sequence[str | os.PathLike[str]], *, verify: bool = True) -> MergedIndex:
        """Open the live bundles of several indexes.

        Args:
            paths: their folders.
            verify: as in `Index.open`.

        Raises:
            InputError, ArtefactError: as `Index.open` and the constructor.
        """
        return cls([Index.open(path, verify=verify) for path in paths])

    def _refuse_repeated(self) -> None:
        place = np.repeat(np.arange(len(self.shards)), np.diff(self._starts))  # (N,)
        live = pl.DataFrame({"note_id": self.ids, "shard": place}).filter(pl.Series(self.live))
        twice = live.filter(pl.col("note_id").is_duplicated()).sort("note_id", "shard")
        if twice.height:
            note_id, number = twice.row(0)
            other = twice.row(1)[1]
            raise InputError(
                f"note {note_id[:80]!r} stands in {self.shards[number].folder} and in {self.shards[other].folder} "
                f"({twice['note_id'].n_unique()} notes do); expected each note in one index: remove it from the other"
            )

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    @property
    def dimension(self) -> int:
        """D, the length of a vector."""
        return self.shards[0].dimension

    @property
    def model_version(self) -> str:
        """Of the model that made the vectors."""
        return self.shards[0].model_version

    @property
    def version(self) -> str:
        """The versions of the shards."""
        return "+".join(shard.version for shard in self.shards)

    @property
    def ids(self) -> pl.Series:
        """(N,) note ids by row."""
        return self.attributes["note_id"]

    @cached_property
    def live(self) -> Mask:
        """(N,) bool, false for rows that were removed or replaced."""
        return np.concatenate([shard.live for shard in self.shards])

    @cached_property
    def _order(self) -> Rows:
        """(N,) each row's place among the note ids in ascending order."""
        return self.ids.rank("ordinal").cast(pl.Int64).to_numpy()

    def require_model(self, model_version: str) -> None:
        """Refuse vectors of another model; raises as `Index.require_model`."""
        self.shards[0].require_model(model_version)

    def row(self, note_id: str) -> int:
        """The row of a note.

        Raises:
            InputError: none of the indexes has it.
        """
        for start, shard in zip(self._starts, self.shards, strict=False):
            try:
                return int(start) + shard.row(note_id)
            except InputError as error:
                refused = error
        raise InputError(f"none of the {len(self.shards)} indexes has the note; the last says: {refused}")

    def rows_of(self, note_ids: Iterable[str]) -> Rows:
        """The rows of some notes: (R,) int64, -1 where none of the indexes has one of this id."""
        wanted = list(note_ids)
        found = np.full(len(wanted), -1, dtype=np.int64)
        for start, shard in zip(self._starts, self.shards, strict=False):
            here = shard.rows_of(wanted)
            found = np.where(here >= 0, here + start, found)
        return found

    def vectors(self, rows: ArrayLike) -> Floats:
        """The vectors of some rows: (R, D) float32, unit-norm, a copy."""
        wanted = np.asarray(rows, dtype=np.int64)
        found = np.empty((len(wanted), self.dimension), dtype=np.float32)
        for number, shard in enumerate(self.shards):
            here = (wanted >= self._starts[number]) & (wanted < self._starts[number + 1])
            if here.any():
                found[here] = shard.vectors(wanted[here] - self._starts[number])
        return found

    def new(self) -> Mask:
        """Which notes are new, (N,) bool: by their marks, or by the newest note of all.

        Raises:
            InputError: nothing tells new notes, or only some of the indexes mark them.
        """
        unmarked = [shard for shard in self.shards if "new" not in shard.attributes.columns]
        if unmarked and len(unmarked) < len(self.shards):
            raise InputError(
                f"{unmarked[0].folder}: doesn't mark its new notes, and another of the indexes does; build all of them with "
                "`--new`, or none"
            )
        return new_mask(self.attributes, self.live)

    def search_rows(
        self, queries: Floats, k: int, *, mask: Mask | None = None, exclude: Rows | None = None
    ) -> tuple[Floats, Rows]:
        """As `Index.search_rows`; equal scores stand by note_id, in whichever index they are."""
        scores, rows = [], []
        for number, shard in enumerate(self.shards):
            start, end = int(self._starts[number]), int(self._starts[number + 1])
            own = None if exclude is None else np.where((exclude >= start) & (exclude < end), exclude - start, -1)
            near, found = shard.search_rows(queries, k, mask=None if mask is None else mask[start:end], exclude=own)
            scores.append(near)
            rows.append(np.where(found >= 0, found + start, -1))
        every, where = np.concatenate(scores, axis=1), np.concatenate(rows, axis=1)  # (Q, shards · k)
        place = np.where(where >= 0, self._order[np.maximum(where, 0)] if len(self._order) else 0, len(self._order) + 1)
        best = np.lexsort((place, -every), axis=1)[:, :k]  # (Q, k)
        return np.take_along_axis(every, best, axis=1), np.take_along_axis(where, best, axis=1)
