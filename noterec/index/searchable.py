"""What can be searched: one index, or several that are searched as one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from noterec.errors import InputError
from noterec.index.filters import Mask
from noterec.index.lexical import Lexical

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Searchable(Protocol):
    """What `find` needs of an index; `Index` and `MergedIndex` have it."""

    attributes: pl.DataFrame

    def __len__(self) -> int: ...

    @property
    def ids(self) -> pl.Series:
        """(N,) note ids by row."""
        ...

    @property
    def dimension(self) -> int:
        """D."""
        ...

    @property
    def model_version(self) -> str:
        """Of the vectors."""
        ...

    @property
    def version(self) -> str:
        """Which state of the index this is."""
        ...

    @property
    def live(self) -> Mask:
        """(N,) bool, false for rows that were removed or replaced."""
        ...

    @property
    def lexical(self) -> Lexical | None:
        """The words of the notes, where the index keeps them."""
        ...

    def require_model(self, model_version: str) -> None:
        """Refuse vectors of another model."""
        ...

    def row(self, note_id: str) -> int:
        """The row of a note."""
        ...

    def rows_of(self, note_ids: Iterable[str]) -> Rows:
        """(R,) the rows of some notes, -1 where there is none."""
        ...

    def vectors(self, rows: ArrayLike) -> Floats:
        """(R, D) float32, unit-norm."""
        ...

    def new(self) -> Mask:
        """(N,) bool, which notes are new."""
        ...

    def search_rows(
        self, queries: Floats, k: int, *, mask: Mask | None = None, exclude: Rows | None = None
    ) -> tuple[Floats, Rows]:
        """(Q, k) scores and rows, best first, equal scores by note_id, -inf and -1 where there are no more."""
        ...


def unit_queries(vectors: ArrayLike, index: Searchable) -> Floats:
    """Query vectors as a search takes them: (Q, D) float32, unit-norm.

    Args:
        vectors: (Q, D) or (D,) numbers.
        index: which they are for.

    Raises:
        InputError: no numbers, another D, NaN, infinity, or all zero.
    """
    try:
        queries = np.atleast_2d(np.asarray(vectors, dtype=np.float64))  # (Q, D)
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(
            f"the query vector is no list of numbers ({error}); expected {index.dimension} numbers"
        ) from error
    if queries.ndim != 2 or queries.shape[1] != index.dimension:
        raise InputError(
            f"queries have shape {queries.shape}; the index holds vectors of D = {index.dimension} of model version "
            f"{index.model_version}: encode the queries with that model"
        )
    largest = np.abs(queries).max(axis=1, initial=0)  # (Q,)
    bad = np.flatnonzero(~np.isfinite(largest) | (largest == 0))
    if len(bad):
        raise InputError(
            f"{len(bad)} of {len(queries)} query vectors hold NaN or infinity or are all zero, the first is row {bad[0]}; expected "
            "finite vectors: leave such queries out"
        )
    queries = queries / largest[:, None]  # so that squares neither overflow nor vanish
    norms = np.sqrt(np.einsum("qd,qd->q", queries, queries))  # (Q,)
    unit: Floats = (queries / norms[:, None]).astype(np.float32)
    return unit
