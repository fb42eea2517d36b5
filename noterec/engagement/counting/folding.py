"""The inner loops of folding events into histories. See `histories` for what comes out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from noterec.engagement.counting.compiled import compiled
from noterec.engagement.counting.keys import UNKNOWN, Keys, mixed

Ints = NDArray[np.int64]
Places = NDArray[np.int32]
Floats = NDArray[np.float64]
Columns = tuple[Keys, Ints, Ints, NDArray[np.uint8]]  # person, note, time, action: see `Events`

NEVER = np.iinfo(np.int64).min
_FEW = 40  # values up to which sorting by insertion is the fastest
_OLDEST = 200.0  # half-lives; older counts as so old, since float32 can't hold what would be left of the strength


class Plan(NamedTuple):
    """How events are folded: the fields of `Rules` and of `HistoryBuilder` as the loops read them.

    Attributes:
        strengths, levels: of each action, (A,) float64 and int64.
        keys: (N,) uint64 of each known note.
        anchors, related: (N,) bool, or empty for all.
    """

    directional: bool
    weighted: bool
    has_clock: bool
    power: float
    cap: int
    half_life: float
    now: int
    strengths: Floats
    levels: Ints
    keys: Keys
    anchors: NDArray[np.bool_]
    related: NDArray[np.bool_]


class Rows(NamedTuple):
    """Where rows are written: of the notes that count as B, and of those that count as A. See `Histories`."""

    note: Places
    strength: NDArray[np.float32]
    left_note: Places
    left_first: Places
    left_strength: NDArray[np.float32]


class Entries(NamedTuple):
    """One entry for each note of one person, in the order of codes; long enough for the person with the most events.

    Attributes:
        code: of the note.
        seen: when it was first seen; the largest integer where it wasn't.
        last: the time of the last event on it.
        when: when it was last engaged with; where it never was, when it was last seen and left.
        strength: the strongest engagement, else the strongest evidence against it.
        engaged: whether there was any engagement.
    """

    code: Ints
    seen: Ints
    last: Ints
    when: Ints
    strength: Floats
    engaged: NDArray[np.bool_]


@compiled
def fold(
    events: Columns, order: Ints, plan: Plan, sign: float, norms: Floats, rows: Rows, row: int, left: int
) -> tuple[Ints, Ints, Floats, Ints, float]:
    """Reduce each person's events to rows, written from `row` and `left` on.

    Args:
        order: (E,) int64, the events by person.
        plan, rows: see there.
        sign: 1 to count these people, -1 to take back what they counted.
        norms: (N,) float64, to which each note's squared strengths are added.

    Returns:
        (P + 1,) where each person's rows begin, on both sides; (P,) N_u to the power of the plan; the counts of `Tally`; its total.
        People who add no pair are left out of these: those without a row on both sides, or with one note only.
    """
    person, note, time, action = events
    starts, left_starts, shares = [row], [left], [1.0]
    counts = np.zeros(5, np.int64)
    total = 0.0
    most = _most(person, order)
    entries = Entries(
        np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64), np.empty(most, np.int64),
        np.empty(most, np.float64), np.empty(most, np.bool_),
    )  # fmt: skip
    begin = 0
    while begin < len(order):
        who = person[order[begin]]
        end = begin
        while end < len(order) and person[order[end]] == who:
            end += 1
        mine = order[begin:end]
        begin = end
        size, unknown = _entries(mine, note, time, action, plan, entries)
        counts[4] += unknown
        counts[0] += unknown < len(mine)
        engaged = int(np.sum(entries.engaged[:size]))  # N_u
        kept = np.arange(size)
        if size > plan.cap:
            kept = _recent(who, entries, size, plan)
            counts[1] += 1
            counts[2] += size - plan.cap
            counts[3] += size * (size - 1) - plan.cap * (plan.cap - 1)
        if plan.half_life > 0:
            for i in kept:
                if entries.strength[i] != 0:  # what wasn't engaged with, nor left, has no `when`
                    entries.strength[i] *= _aged(entries.when[i], plan)
        total += sign * _add_norms(entries, kept, sign, norms)
        kept = kept[entries.code[kept] < UNKNOWN]
        end_row, end_left = _write(entries, kept, plan, rows, row, left)
        alone = end_row == row + 1 and end_left == left + 1 and rows.note[row] == rows.left_note[left]
        if end_row > row and end_left > left and not alone:
            row, left = end_row, end_left
            starts.append(row)
            left_starts.append(left)
            shares.append(float(max(engaged, 1)) ** plan.power)
    return np.array(starts), np.array(left_starts), np.array(shares)[1:], counts, total


@compiled
def _most(person: Keys, order: Ints) -> int:
    """The events of the person who has the most."""
    most = run = 0
    for i in range(len(order)):
        run = run + 1 if i and person[order[i]] == person[order[i - 1]] else 1
        most = max(most, run)
    return most


@compiled
def _entries(
    mine: Ints, note: Ints, time: Ints, action: NDArray[np.uint8], plan: Plan, entries: Entries
) -> tuple[int, int]:
    """Fill one entry per note from a person's events; returns how many, and how many events are on unknown notes."""
    codes = note[mine]
    at = -1
    unknown = 0
    for i in argsort(codes):
        unknown += codes[i] >= UNKNOWN
        event = mine[i]
        if at < 0 or entries.code[at] != codes[i]:
            at += 1
            entries.code[at], entries.seen[at] = codes[i], np.iinfo(np.int64).max
            entries.last[at] = entries.when[at] = NEVER
            entries.strength[at], entries.engaged[at] = 0.0, False
        moment, strength = time[event], plan.strengths[action[event]]
        entries.last[at] = max(entries.last[at], moment)
        if plan.levels[action[event]] >= 1:
            entries.seen[at] = min(entries.seen[at], moment)
        if strength > 0:
            entries.when[at] = max(entries.when[at], moment) if entries.engaged[at] else moment
            entries.strength[at] = max(entries.strength[at], strength)
            entries.engaged[at] = True
        elif strength < 0 and not entries.engaged[at]:
            entries.when[at] = max(entries.when[at], moment)
            entries.strength[at] = min(entries.strength[at], strength)
    return at + 1, unknown


@compiled
def _recent(who: np.uint64, entries: Entries, size: int, plan: Plan) -> Ints:
    """The places of a person's most recent notes, ascending; a fixed hash decides among equal times."""
    rank = np.empty(size, np.int64)
    for i in range(size):
        code = entries.code[i]
        key = plan.keys[code] >> np.uint64(2) if code < UNKNOWN else np.uint64(code - UNKNOWN)
        rank[i] = np.int64(mixed(who, key) >> np.uint64(1))
    order = argsort(rank)
    if plan.has_clock:
        order = order[argsort(-entries.last[order])]
    kept = np.zeros(size, np.bool_)
    kept[order[: plan.cap]] = True
    return np.flatnonzero(kept)


@compiled
def _aged(moment: np.int64, plan: Plan) -> float:
    """What age leaves of a strength: its square halves with every half-life, so that of a pair of them halves too."""
    half_lives = max((moment - plan.now) / plan.half_life, -_OLDEST)
    return float(2.0 ** (half_lives / 2))


@compiled
def _add_norms(entries: Entries, kept: Ints, sign: float, norms: Floats) -> float:
    """Add a person's squared strengths of engagement to the notes'; returns their mean."""
    mean, count = 0.0, 0
    for i in kept:
        if entries.engaged[i]:
            square = entries.strength[i] * entries.strength[i]
            if entries.code[i] < UNKNOWN:
                norms[entries.code[i]] += sign * square
            mean += square
            count += 1
    return mean / count if count else 0.0


@compiled
def _write(entries: Entries, kept: Ints, plan: Plan, rows: Rows, row: int, left: int) -> tuple[int, int]:
    """Write one person's rows; returns where the next person's go."""
    begin = row
    chosen = np.empty(len(kept), np.int64)
    size = 0
    for i in kept:
        if entries.strength[i] != 0 and (len(plan.related) == 0 or plan.related[entries.code[i]]):
            chosen[size] = i
            size += 1
    chosen = chosen[:size]
    moments = entries.when[chosen]
    if plan.directional:
        order = argsort(moments)
        chosen, moments = chosen[order], moments[order]
    for i in chosen:
        rows.note[row] = entries.code[i]
        if plan.weighted:
            rows.strength[row] = entries.strength[i]
        row += 1
    for i in kept:
        if len(plan.anchors) and not plan.anchors[entries.code[i]]:
            continue
        if plan.directional:
            first = np.searchsorted(moments, entries.seen[i])
            if first == size:  # nothing was engaged with since, or it was never seen
                continue
            rows.left_first[left] = begin + first
        elif not entries.engaged[i]:
            continue
        rows.left_note[left] = entries.code[i]
        if plan.weighted:
            aged = _aged(entries.seen[i], plan) if plan.half_life > 0 else 1.0
            rows.left_strength[left] = aged if plan.directional else entries.strength[i]
        left += 1
    return row, left


@compiled
def argsort(values: Ints) -> Ints:
    """The order of some values, equal ones as they stand; quick where they are few, as with most people."""
    if len(values) > _FEW:
        return np.argsort(values, kind="mergesort")
    order = np.arange(len(values))
    for i in range(1, len(values)):
        j = i
        while j > 0 and values[order[j - 1]] > values[i]:
            order[j] = order[j - 1]
            j -= 1
        order[j] = i
    return order


@compiled
def by_note(
    left_starts: Ints, note: Places, first: Places, strength: NDArray[np.float32], notes: int
) -> tuple[Ints, Places, Places, NDArray[np.float32]]:
    """Order the rows of the left side by note, people ascending within one: the fields of `Histories` from `anchors` on."""
    anchors = np.zeros(notes + 1, np.int64)
    for code in note:
        anchors[code + 1] += 1
    anchors = np.cumsum(anchors)
    at = anchors[:-1].copy()
    person = np.empty(len(note), np.int32)
    firsts, strengths = np.empty(len(first), np.int32), np.empty(len(strength), np.float32)
    for who in range(len(left_starts) - 1):
        for i in range(left_starts[who], left_starts[who + 1]):
            place = at[note[i]]
            at[note[i]] += 1
            person[place] = who
            if len(first):
                firsts[place] = first[i]
            if len(strength):
                strengths[place] = strength[i]
    return anchors, person, firsts, strengths


@compiled
def walk_costs(starts: Ints, anchors: Ints, person: Places, first: Places) -> Ints:
    """(N,) int64: the rows that are walked for each note as A."""
    costs = np.zeros(len(anchors) - 1, np.int64)
    for note in range(len(costs)):
        for i in range(anchors[note], anchors[note + 1]):
            costs[note] += starts[person[i] + 1] - (first[i] if len(first) else starts[person[i]])
    return costs
