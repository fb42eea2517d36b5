"""Adding up the sums of several groups of people, or of a state and what changed in it: anchor by anchor, as they were counted."""

from __future__ import annotations

import numpy as np

from noterec.engagement.counting.compiled import compiled
from noterec.engagement.counting.folding import Floats, Ints, Places
from noterec.engagement.counting.walking import Notes, Rule, Scores, Scratch, Strongest, Sums, emit, packed, settle

NOTHING = 1e-9  # a weight below this, and nobody's, is what rounding leaves of one that was taken back


def merge_strongest(parts: list[Sums], begin: int, notes: Notes, rule: Rule, space: Scratch) -> Strongest:
    """The strongest related notes of anchors from `begin` on, from what all parts add up to for them."""
    return packed(rule.top, *_merge(*_stacked(parts), begin, notes, rule, False, 0.0, space)[4:])


def merge_sums(
    parts: list[Sums], begin: int, notes: Notes, rule: Rule, nothing: float, space: Scratch
) -> tuple[Sums, Strongest]:
    """What parts add up to together, and the strongest as `merge_strongest`.

    Entries that nobody supports any more and whose weight is at most `nothing` are left out.
    """
    found = _merge(*_stacked(parts), begin, notes, rule, True, nothing, space)
    ends, related, support, weight = found[:4]
    size = int(ends[-1]) if len(ends) else 0
    return Sums(ends, related[:size], support[:size], weight[:size]), packed(rule.top, *found[4:])


def _stacked(parts: list[Sums]) -> tuple[Ints, Ints, Places, Places, Floats]:
    """(parts, A) begins and ends, into entries of all parts in a row."""
    sizes = [len(part.related) for part in parts]
    offsets = np.cumsum([0, *sizes[:-1]])
    ends = np.stack([part.ends for part in parts])
    begins = np.concatenate([np.zeros((len(parts), 1), np.int64), ends[:, :-1]], axis=1)
    joined = [np.concatenate(arrays) for arrays in list(zip(*parts, strict=True))[1:]]
    return begins + offsets[:, None], ends + offsets[:, None], joined[0], joined[1], joined[2]


@compiled
def _add(
    begins: Ints, ends: Ints, related: Places, support: Places, weight: Floats, column: int, space: Scratch
) -> int:
    """Add up the entries of all parts for one anchor; returns how many notes were touched."""
    sums, touched, used = space
    count = 0
    for part in range(len(begins)):
        for i in range(begins[part, column], ends[part, column]):
            other = related[i]
            if not used[other]:
                used[other] = True
                touched[count] = other
                count += 1
            sums[other, 0] += weight[i]
            sums[other, 1] += support[i]
    return count


@compiled
def _merge(
    begins: Ints,
    ends: Ints,
    related: Places,
    support: Places,
    weight: Floats,
    begin: int,
    notes: Notes,
    rule: Rule,
    keep: bool,
    nothing: float,
    space: Scratch,
) -> tuple[Ints, Places, Places, Floats, Places, Places, Scores, Ints]:
    """The fields of `Sums`, empty unless `keep`, and what `packed` takes."""
    size, entries = ends.shape[1], len(related) if keep else 0
    kept, dropped = np.zeros(size, np.int32), np.zeros(3, np.int64)
    best, scores = np.empty(size * rule.top, np.int32), np.empty(size * rule.top, np.float32)
    out_ends = np.zeros(size, np.int64)
    out = np.empty(entries, np.int32), np.empty(entries, np.int32), np.empty(entries, np.float64)
    entry = 0
    for column in range(size):
        at = column * rule.top
        count = _add(begins, ends, related, support, weight, column, space)
        if keep:
            entry = emit(count, space, nothing, entry, out[0], out[1], out[2])
            out_ends[column] = entry
        kept[column] = settle(
            begin + column, count, space, notes, rule, best[at : at + rule.top], scores[at : at + rule.top], dropped
        )
    return out_ends, out[0], out[1], out[2], kept, best, scores, dropped
