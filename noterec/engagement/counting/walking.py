"""The inner loops of counting: walk the histories of an anchor's people, then keep its strongest related notes.

One anchor at a time: its related notes are added up in an array as long as the catalogue, of which only the entries that were
touched are read and cleared again (Gustavson's way of multiplying sparse matrices, ACM TOMS 1978). Nothing is sorted, and the table
of all co-occurrences never exists.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from noterec.engagement.counting.compiled import compiled
from noterec.engagement.counting.folding import Floats, Ints, Places
from noterec.engagement.counting.histories import Histories
from noterec.engagement.counting.weightings import score

Scores = NDArray[np.float32]

BELOW_SUPPORT, OUT_OF_BOUNDS, BEYOND_TOP = range(3)  # places in the counts of what was dropped


class Rule(NamedTuple):
    """What makes a pair a related one. See `weightings`.

    The bounds are of float32, as scores are: 0.1 as the sum of ten times 0.01 is then within a bound of 0.1.
    """

    formula: int
    min_support: int
    lower: np.float32
    upper: np.float32
    top: int


class Notes(NamedTuple):
    """What is known of the N notes: `norms` (N,) float64 and `total` of `Tally`; `place` (N,) int32 decides ties, lower first,
    and is -1 for a note that nothing is related to; weights are multiplied by `scale` where they are the score."""

    norms: Floats
    total: float
    place: Places
    scale: float = 1.0


class Strongest(NamedTuple):
    """The related notes of A anchors in a row: `kept` (A,) int32 how many each has, and of all these, anchor after anchor and the
    strongest first, `related` int32 codes and `score` float32; `dropped` (3,) int64 says what each rule left out."""

    kept: Places
    related: Places
    score: Scores
    dropped: Ints


class Sums(NamedTuple):
    """What the people of one part add up to for A anchors in a row: `ends` (A,) int64 where each anchor's entries end, and of
    each entry the `related` code (int32), the `support` (int32 people) and the `weight` (float64)."""

    ends: Ints
    related: Places
    support: Places
    weight: Floats


class Scratch(NamedTuple):
    """What one thread adds up in: `sums` (N, 2) float64 weight and support, `used` (N,) bool the notes in use, listed in `touched`
    (N,) int32."""

    sums: Floats
    touched: Places
    used: NDArray[np.bool_]


SCRATCH_BYTES = 21  # of one note


def scratch(notes: int) -> Scratch:
    """Empty scratch for N notes."""
    return Scratch(np.zeros((notes, 2)), np.empty(notes, np.int32), np.zeros(notes, np.bool_))


def packed(top: int, kept: Places, related: Places, scores: Scores, dropped: Ints) -> Strongest:
    """What the loops found, who leave room for `top` related notes of each anchor, without that room."""
    there = (np.arange(top) < kept[:, None]).ravel()  # (A * top,)
    return Strongest(kept, related[there], scores[there], dropped)


def count_strongest(histories: Histories, begin: int, end: int, notes: Notes, rule: Rule, space: Scratch) -> Strongest:
    """The strongest related notes of the anchors [begin, end), where the histories are everyone's."""
    return packed(rule.top, *_count_strongest(histories, begin, end, notes, rule, space))


def count_sums(histories: Histories, begin: int, end: int, walked: int, space: Scratch) -> Sums:
    """What these histories add up to for the anchors [begin, end), where they are only a part.

    Args:
        histories: the rows of some people.
        begin, end: the anchors.
        walked: at least as many entries as may come, such as the costs of these anchors together.
        space: empty scratch, which is left empty.
    """
    size = min(walked, (end - begin) * len(space.used))
    ends, related, support, weight = _count_sums(histories, begin, end, size, space)
    size = int(ends[-1]) if len(ends) else 0
    return Sums(ends, related[:size].copy(), support[:size].copy(), weight[:size].copy())


@compiled
def _walk(histories: Histories, anchor: int, space: Scratch) -> int:
    """Add up one anchor's related notes; returns how many were touched."""
    count = 0
    sums, touched, used = space
    starts, note, strength = histories.starts, histories.note, histories.strength
    weighted, directional = len(strength) > 0, len(histories.first) > 0
    for i in range(histories.anchors[anchor], histories.anchors[anchor + 1]):
        who = histories.person[i]
        share = histories.share[who]
        unit = 1.0 if share > 0 else -1.0
        if weighted:
            share *= histories.seen[i]
        for row in range(histories.first[i] if directional else starts[who], starts[who + 1]):
            other = note[row]
            if not used[other]:
                used[other] = True
                touched[count] = other
                count += 1
            if not weighted:
                sums[other, 0] += share
                sums[other, 1] += unit
            else:
                sums[other, 0] += share * strength[row]
                if strength[row] > 0:
                    sums[other, 1] += unit
    return count


@compiled
def settle(
    anchor: int, count: int, space: Scratch, notes: Notes, rule: Rule, related: Places, scores: Scores, dropped: Ints
) -> int:
    """Keep an anchor's strongest of the touched notes, by insertion, and clear the scratch; returns how many are kept."""
    sums, touched, used = space
    kept = 0
    for i in range(count):
        other = touched[i]
        weight, support = sums[other, 0], sums[other, 1]
        sums[other, 0] = sums[other, 1] = 0.0
        used[other] = False
        place = notes.place[other]
        if other == anchor or place < 0 or notes.place[anchor] < 0 or support < 0.5:
            continue
        if support < rule.min_support:
            dropped[BELOW_SUPPORT] += 1
            continue
        found = np.float32(-np.inf)
        if weight > 0:
            found = score(rule.formula, weight * notes.scale, notes.norms[anchor], notes.norms[other], notes.total)
        if not (rule.lower <= found <= rule.upper) or weight <= 0:
            dropped[OUT_OF_BOUNDS] += 1
            continue
        if kept == rule.top:
            dropped[BEYOND_TOP] += 1
            last = related[kept - 1]
            if found < scores[kept - 1] or (found == scores[kept - 1] and place > notes.place[last]):
                continue
            kept -= 1
        at = kept
        while at > 0 and (scores[at - 1] < found or (scores[at - 1] == found and notes.place[related[at - 1]] > place)):
            scores[at], related[at] = scores[at - 1], related[at - 1]
            at -= 1
        scores[at], related[at] = found, other
        kept += 1
    return kept


@compiled
def _count_strongest(
    histories: Histories, begin: int, end: int, notes: Notes, rule: Rule, space: Scratch
) -> tuple[Places, Places, Scores, Ints]:
    kept = np.zeros(end - begin, np.int32)
    related = np.empty((end - begin) * rule.top, np.int32)
    scores = np.empty((end - begin) * rule.top, np.float32)
    dropped = np.zeros(3, np.int64)
    for anchor in range(begin, end):
        at = (anchor - begin) * rule.top
        count = _walk(histories, anchor, space)
        kept[anchor - begin] = settle(
            anchor, count, space, notes, rule, related[at : at + rule.top], scores[at : at + rule.top], dropped
        )
    return kept, related, scores, dropped


@compiled
def emit(count: int, space: Scratch, nothing: float, at: int, related: Places, support: Places, weight: Floats) -> int:
    """Write the touched notes from `at` on, unless nothing is left of them; returns where the next entry goes."""
    sums, touched, _ = space
    for i in range(count):
        other = touched[i]
        if np.rint(sums[other, 1]) != 0 or abs(sums[other, 0]) > nothing:
            related[at], support[at], weight[at] = other, np.rint(sums[other, 1]), sums[other, 0]
            at += 1
    return at


@compiled
def _clear(count: int, space: Scratch) -> None:
    """Leave the scratch as it was."""
    sums, touched, used = space
    for i in range(count):
        sums[touched[i], 0] = sums[touched[i], 1] = 0.0
        used[touched[i]] = False


@compiled
def _count_sums(
    histories: Histories, begin: int, end: int, size: int, space: Scratch
) -> tuple[Ints, Places, Places, Floats]:
    ends = np.empty(end - begin, np.int64)
    related, support, weight = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float64)
    at = 0
    for anchor in range(begin, end):
        count = _walk(histories, anchor, space)
        at = emit(count, space, 0.0, at, related, support, weight)
        _clear(count, space)
        ends[anchor - begin] = at
    return ends, related, support, weight
