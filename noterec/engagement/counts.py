"""Co-occurrence of notes in people's histories, anchor by anchor, in bounded memory.

Work is cut along the anchors, not along the people: when a piece is done its anchors are complete, so their weak pairs can
be dropped at once and the whole table of co-occurrences, often a thousand times larger than what is kept, never exists.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.engagement.history import NEVER, History, Ints
from noterec.progress import Bar

Mask = NDArray[np.bool_]

_COOCCURRENCES_PER_EVENT = 4  # a piece holds at most so many co-occurrences for each of its `partition_events`


def note_counts(rows: History) -> Ints:
    """(N,) int64: how many people engaged with each note."""
    return np.bincount(rows.note[rows.engaged != NEVER], minlength=len(rows.note_ids)).astype(np.int64)


def cooccurrences(
    rows: History,
    *,
    directional: bool,
    anchors: Mask | None = None,
    related: Mask | None = None,
    partition_events: int = 250_000,
    bar: Bar | None = None,
) -> Iterator[pl.DataFrame]:
    """Yield, for complete anchors in ascending order, every note that shares a person with them.

    A person adds to (A, B), A ≠ B, if they engaged with both; `directional` asks instead that some view of A is at or
    before some engagement with B (the first view against the last engagement), which is "viewed A and then engaged with
    B" of arXiv:2403.01744 §4.3. Equal times count in both directions, and so does everything in a log without a clock.

    Args:
        rows: the histories.
        directional: see above.
        anchors: (N,) bool, the notes wanted as A; None = all.
        related: (N,) bool, the notes wanted as B; None = all.
        partition_events: events (and 4 times as many co-occurrences) held at a time. A person's cap bounds what one
            event can add, so memory is bounded whatever the log.
        bar: advanced by the co-occurrences looked at; its total is set here.

    Yields:
        anchor int64, related int64 (codes), support int64 (people), weight float64 (their sum of 1 / N_u; 0 unless
        `directional`).
    """
    is_engaged = rows.engaged != NEVER
    is_left = np.ones(len(rows.note), dtype=bool) if directional else is_engaged
    left = np.flatnonzero(is_left if anchors is None else is_left & anchors[rows.note])  # (L,) rows that serve as A
    right = np.flatnonzero(is_engaged if related is None else is_engaged & related[rows.note])  # (R,) rows for B
    left = left[np.lexsort((rows.user[left], rows.note[left]))]
    starts = np.searchsorted(rows.user[right], np.arange(len(rows.weight) + 1))  # (users + 1,) into `right`
    sizes = np.diff(starts)[rows.user[left]]  # (L,) co-occurrences that each A row opens, itself included
    ends = np.cumsum(sizes)
    bar = bar or Bar()
    bar.set_total(int(ends[-1]) if len(ends) else 0)

    carry: pl.DataFrame | None = None  # partial sums of an anchor that the next piece goes on with
    begin = 0
    while begin < len(left):
        done = int(ends[begin - 1]) if begin else 0
        fit = int(np.searchsorted(ends, done + partition_events * _COOCCURRENCES_PER_EVENT, side="right"))
        end = max(begin + 1, min(fit, begin + partition_events))
        piece = left[begin:end]
        sums = _count(rows, piece, right, starts[rows.user[piece]], sizes[begin:end], directional)
        if carry is not None:  # all of one anchor, the lowest of this piece
            goes_on = pl.col("anchor") == carry["anchor"][0]
            head = pl.concat([carry, sums.filter(goes_on)])
            head = head.group_by("anchor", "related", maintain_order=True).agg(pl.col("support", "weight").sum())
            sums = pl.concat([head, sums.filter(~goes_on)])
        last = int(rows.note[left[end - 1]])
        if end < len(left) and rows.note[left[end]] == last:
            carry, sums = sums.filter(pl.col("anchor") == last), sums.filter(pl.col("anchor") != last)
            carry = carry if carry.height else None
        else:
            carry = None
        bar.advance(int(ends[end - 1]) - done)
        begin = end
        if sums.height:
            yield sums


def _count(rows: History, piece: Ints, right: Ints, starts: Ints, sizes: Ints, directional: bool) -> pl.DataFrame:
    """Sums over the pieces' rows: every row (A of one person) meets that person's B rows, right[start : start + size]."""
    offsets = np.cumsum(sizes) - sizes
    a = np.repeat(piece, sizes)  # (C,)
    b = right[np.arange(len(a)) - np.repeat(offsets - starts, sizes)]  # (C,)
    keep = a != b  # a row stands for one note of one person
    if directional:
        keep &= rows.seen[a] <= rows.engaged[b]
    a, b = a[keep], b[keep]
    notes = len(rows.note_ids)
    key = rows.note[a] * notes + rows.note[b]  # (C,) one integer per pair: sorting those beats any grouping by columns
    if directional:
        order = np.argsort(key)
        key, weight = key[order], rows.weight[rows.user[a[order]]]
    else:
        key, weight = np.sort(key), None
    first = np.flatnonzero(np.diff(key, prepend=-1))  # where each pair begins
    columns = {
        "anchor": key[first] // notes,
        "related": key[first] % notes,
        "support": np.diff(first, append=len(key)),
        "weight": np.zeros(len(first)) if weight is None else np.add.reduceat(weight, first) if len(first) else weight,
    }
    return pl.DataFrame(columns)
