"""Swing (arXiv:2010.05525 §3.2): two people who share little but these two notes say more than two who share everything.

Its sum runs over pairs of people, so it can't be added up from parts of them: all histories must be at hand. For an anchor, each
person's notes are marked, and every other of its people is compared with the marks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from noterec.engagement.counting.compiled import compiled
from noterec.engagement.counting.folding import Ints, Places
from noterec.engagement.counting.histories import Histories, Mask
from noterec.engagement.counting.keys import mixed
from noterec.engagement.counting.walking import Notes, Rule, Scores, Scratch, Strongest, packed, settle


class Swing(NamedTuple):
    """`alpha` is added to what two people share; at most `people` of a note are compared, those of the lowest hash.

    `related` (N,) bool are the notes that may be related, empty = all. The histories must hold the others as well, since people
    share them.
    """

    alpha: float
    people: int
    related: Mask


def count_swing(
    histories: Histories, begin: int, end: int, notes: Notes, rule: Rule, swing: Swing, space: Scratch
) -> Strongest:
    """The strongest related notes of the anchors [begin, end) by Swing.

    Support counts all people who share a pair.
    """
    return packed(rule.top, *_count_swing(histories, begin, end, notes, rule, swing, space))


@compiled
def _count_swing(
    histories: Histories, begin: int, end: int, notes: Notes, rule: Rule, swing: Swing, space: Scratch
) -> tuple[Places, Places, Scores, Ints]:
    sums, touched, used = space
    starts, note = histories.starts, histories.note
    kept = np.zeros(end - begin, np.int32)
    related = np.empty((end - begin) * rule.top, np.int32)
    scores = np.empty((end - begin) * rule.top, np.float32)
    dropped = np.zeros(3, np.int64)
    mark = np.full(len(notes.place), -1, np.int32)  # the person whose notes are marked
    for anchor in range(begin, end):
        people = histories.person[histories.anchors[anchor] : histories.anchors[anchor + 1]]
        count = 0
        for who in people:
            for row in range(starts[who], starts[who + 1]):
                if not used[note[row]]:
                    used[note[row]] = True
                    touched[count] = note[row]
                    count += 1
                sums[note[row], 1] += 1
        if len(people) > swing.people:
            rank = np.empty(len(people), np.uint64)
            for i in range(len(people)):
                rank[i] = mixed(np.uint64(people[i]), np.uint64(anchor))
            people = people[np.sort(np.argsort(rank)[: swing.people])]
        for i in range(1, len(people)):
            one = people[i]
            for row in range(starts[one], starts[one + 1]):
                mark[note[row]] = one
            for other in people[:i]:
                shared = 0
                for row in range(starts[other], starts[other + 1]):
                    shared += mark[note[row]] == one
                weight = histories.share[one] * histories.share[other] / (swing.alpha + shared)
                for row in range(starts[other], starts[other + 1]):
                    if mark[note[row]] == one:
                        sums[note[row], 0] += weight
            for row in range(starts[one], starts[one + 1]):
                mark[note[row]] = -1
        if len(swing.related):
            for other in touched[:count]:
                if not swing.related[other]:
                    sums[other, 1] = 0.0  # without support it isn't looked at
        at = (anchor - begin) * rule.top
        kept[anchor - begin] = settle(
            anchor, count, space, notes, rule, related[at : at + rule.top], scores[at : at + rule.top], dropped
        )
    return kept, related, scores, dropped
