"""Choosing k of the notes that a search found: not too many of an author, no reposts, not all alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]

ROUNDING = np.float32(1e-6)  # what identical unit vectors may lack to a cosine of 1


@dataclass(frozen=True)
class Limits:
    """What may stand together in a result.

    Attributes:
        per_author: notes of one author; None = any number.
        duplicates: cosine from which on a note repeats another; None = no note does.
        diversity: 0..1, weight of novelty.
    """

    per_author: int | None = None
    duplicates: float | None = None
    diversity: float = 0.0


def choose(
    relevance: Floats,
    there: Mask,
    k: int,
    limits: Limits,
    *,
    cosines: Floats | None = None,
    authors: Rows | None = None,
    taken: int = 0,
) -> Rows:
    """Take k of F notes one after the other, for Q queries at once.

    Each step takes the first open note, or with diversity λ the one with the largest (1 - λ) · relevance - λ · (its largest cosine
    to what was taken), equal ones in their order; it then closes what may no longer follow.

    Args:
        relevance: (Q, F) float32, of notes in their order.
        there: (Q, F) bool, false where a query has fewer notes.
        k: how many to take.
        limits: what may stand together.
        cosines: (Q, F, F) float32 among the notes; needed for duplicates and diversity.
        authors: (Q, F) int64, equal where the author is; needed for per_author.
        taken: so many at the beginning are taken already, in their order.

    Returns:
        (Q, k) int64 places in F, in the order of choice, -1 where nothing was left.
    """
    count, width = there.shape
    each = np.arange(count)
    chosen = np.full((count, k), -1, dtype=np.int64)
    is_open = there.copy()  # (Q, F)
    nearest = np.zeros(there.shape, dtype=np.float32)  # (Q, F) largest cosine to a note that was taken
    published = np.zeros(there.shape, dtype=np.int64)  # (Q, F) notes of its author that were taken
    for step in range(min(k, width)):
        if step < taken:
            place = np.full(count, step)
        elif limits.diversity:
            gain = (1 - limits.diversity) * relevance - limits.diversity * nearest
            place = np.argmax(np.where(is_open, gain, -np.inf), axis=1)  # the first among equals
        else:
            place = np.argmax(is_open, axis=1)
        found = is_open[each, place] | (step < taken)
        if not found.any():
            break
        chosen[found, step] = place[found]
        is_open[each, place] = False
        if cosines is not None:
            to_it = cosines[each, place]  # (Q, F)
            nearest = to_it.copy() if step == 0 else np.maximum(nearest, to_it)
            if limits.duplicates is not None:
                is_open &= to_it < np.float32(limits.duplicates) - ROUNDING
        if authors is not None and limits.per_author is not None:
            published += authors == authors[each, place][:, None]
            is_open &= published < limits.per_author
    return chosen
