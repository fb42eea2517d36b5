"""People's histories, packed for counting: who engaged with what, and what everyone had seen before.

A log of any length is folded person by person into one row per person and note, of 4 to 16 bytes. Two views of the rows are kept:

    by person   the notes that a person engaged with, ordered by their last engagement
    by note     the people who saw a note, each with the place from where on, in their own order, they engaged with others after it

"Viewed A and then engaged with B" (arXiv:2403.01744 §4.3) is then a run of neighbouring rows, from that place to the person's end,
and counting is a walk along such runs: the pairs that the direction forbids are never looked at, and no pair is ever stored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from noterec import schema
from noterec.engagement.counting.folding import Floats, Ints, Places, Plan, Rows, by_note, fold, walk_costs
from noterec.engagement.counting.keys import Codes, Keys, NoteCodes
from noterec.errors import InputError

Mask = NDArray[np.bool_]

DAY_US = 86_400_000_000
MOST_ROWS = 2**31 - 1  # of one group: places in it are 32-bit integers


@dataclass(frozen=True, eq=False)
class Events:
    """E events on notes: what counting needs to know of them.

    Attributes:
        person: (E,) uint64 keys.
        note: (E,) int64 codes; from UNKNOWN on, notes that the dataset doesn't have.
        time: (E,) int64 microseconds; 0 in a log without a clock.
        action: (E,) uint8 places in `schema.ACTIONS`.
    """

    person: Keys
    note: Codes
    time: Ints
    action: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.person)


@dataclass(frozen=True)
class Rules:
    """What counts, and how much.

    Attributes:
        directional: A counts for B only where it was seen at or before B's last engagement; else both directions count.
        power: a person adds N_u to this power to a pair, N_u = the distinct notes they engaged with: 0 gives 1, -1 gives 1 / N_u.
        strengths: of each action, in the order of `schema.ACTIONS`; negative = evidence against a note that was seen and left.
        cap: the most recent notes of a person that count.
        has_clock: whether times say which notes are recent; else a fixed hash of person and note chooses.
        half_life_us: engagement so much older than `now` counts half, up to 200 times so old; 0 = age doesn't matter.
        now: microseconds; the end of the log.
    """

    directional: bool
    power: float
    strengths: tuple[float, ...] = tuple(float(level >= 2) for level in schema.ACTIONS.values())
    cap: int = 1000
    has_clock: bool = True
    half_life_us: float = 0.0
    now: int = 0

    @property
    def weighted(self) -> bool:
        """Whether rows differ in strength."""
        return self.half_life_us > 0 or any(s not in (0.0, 1.0) for s in self.strengths)

    @property
    def wanted(self) -> list[str]:
        """The actions that have any part in the counting."""
        seen = {"view"} if self.directional else set()
        return [a for a, s in zip(schema.ACTIONS, self.strengths, strict=True) if s != 0 or a in seen]


@dataclass(eq=False)
class Tally:
    """What counting needs besides the rows; sums over people, so that those of several parts may be added.

    Attributes:
        norms: (N,) float64, each note's sum of squared strengths of engagement: the people who engaged with it, where all are 1.
        total: the sum over people of their mean squared strength: the people who engaged, where all are 1.
        people: people with an event on a note of the dataset.
        capped: people with more notes than the cap.
        rows_capped: notes left out of the histories of those people.
        cooccurrences_capped: ordered pairs of notes that those people would have added.
        events_unknown: events on notes that the dataset doesn't have.
    """

    norms: Floats
    total: float = 0.0
    people: int = 0
    capped: int = 0
    rows_capped: int = 0
    cooccurrences_capped: int = 0
    events_unknown: int = 0

    def add(self, counts: Ints) -> None:
        """Add the counts of `folding.fold`."""
        people, capped, rows_capped, cooccurrences_capped, events_unknown = map(int, counts)
        self.people += people
        self.capped += capped
        self.rows_capped += rows_capped
        self.cooccurrences_capped += cooccurrences_capped
        self.events_unknown += events_unknown

    def counts(self) -> dict[str, int]:
        """By the names of `PairsSummary`."""
        return {
            "events_unknown_note": self.events_unknown,
            "users": self.people,
            "users_capped": self.capped,
            "rows_capped": self.rows_capped,
            "cooccurrences_capped": self.cooccurrences_capped,
        }


class Histories(NamedTuple):
    """The packed rows of P people over N notes. Empty arrays stand for "all 1" and "from the person's first row".

    Attributes:
        starts: (P + 1,) int64, where each person's rows begin in `note`.
        note: (R,) int32 codes of notes that count as B, of each person by their last engagement.
        strength: (R,) float32, or empty.
        share: (P,) float64, what a person adds to a pair, N_u to the power of the rules; negative where an earlier count of the
            person is taken back.
        anchors: (N + 1,) int64, where each note's rows begin in `person`.
        person: (L,) int32, the people for whom the note counts as A.
        first: (L,) int32 rows of `note` from where on others count as B for them, or empty.
        seen: (L,) float32 strength of A, or empty.
    """

    starts: Ints
    note: Places
    strength: NDArray[np.float32]
    share: Floats
    anchors: Ints
    person: Places
    first: Places
    seen: NDArray[np.float32]

    def costs(self) -> Ints:
        """(N,) int64: the rows that are walked for each note as A, which is what counting it costs."""
        return walk_costs(self.starts, self.anchors, self.person, self.first)


def row_bytes(rules: Rules) -> int:
    """Bytes that one row takes while a group of histories is put in order, which is when they take the most."""
    return 12 + 8 * rules.directional + 12 * rules.weighted


@dataclass(eq=False)
class HistoryBuilder:
    """Folds events of people into rows until it is full.

    Attributes:
        codes: the N notes.
        capacity: events that may be added at most, all together.
        rules: what counts.
        tally: where people, norms and what was left out are added up.
        anchors, related: (N,) bool, the notes wanted as A and as B; empty = all.
    """

    codes: NoteCodes
    capacity: int
    rules: Rules
    tally: Tally
    anchors: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))
    related: Mask = field(default_factory=lambda: np.zeros(0, dtype=bool))

    def __post_init__(self) -> None:
        rules, capacity = self.rules, self.capacity
        self._plan = Plan(
            rules.directional,
            rules.weighted,
            rules.has_clock,
            rules.power,
            rules.cap,
            rules.half_life_us,
            rules.now,
            np.array(rules.strengths),
            np.array(list(schema.ACTIONS.values())),
            self.codes.keys,
            self.anchors,
            self.related,
        )
        # Memory is taken only where it is written, so a generous capacity costs nothing.
        self._rows = Rows(
            np.empty(capacity, np.int32),
            np.empty(capacity * rules.weighted, np.float32),
            np.empty(capacity, np.int32),
            np.empty(capacity * rules.directional, np.int32),
            np.empty(capacity * rules.weighted, np.float32),
        )
        self._row = self._left = self.events = 0
        self._parts: list[tuple[Ints, Ints, Floats]] = []

    def fits(self, events: int) -> bool:
        """Whether so many more events may be added."""
        return self.events + events <= min(self.capacity, MOST_ROWS)

    def add(self, events: Events, *, sign: float = 1.0) -> None:
        """Fold the events of some people, of each all of them; `sign` -1 takes back what they counted before.

        Raises:
            InputError: more events than places in a group can be numbered.
        """
        self.events += len(events)
        if self.events > MOST_ROWS:
            raise InputError(
                f"{self.events} events of one part of the people; expected at most {MOST_ROWS}: cut the people into more parts"
            )
        found = fold(
            (events.person, events.note, events.time, events.action), np.argsort(events.person), self._plan, sign,
            self.tally.norms, self._rows, self._row, self._left,
        )  # fmt: skip
        starts, left_starts, shares, counts, total = found
        self._row, self._left = int(starts[-1]), int(left_starts[-1])
        self._parts.append((starts[1:], left_starts[1:], sign * shares))
        self.tally.total += total
        self.tally.add(int(sign) * counts)

    def build(self) -> Histories:
        """The rows of everyone who was added; the builder can't be used any more."""
        none = np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(0)
        starts, left_starts, share = (np.concatenate(found) for found in zip(none, *self._parts, strict=True))
        rules, rows, left = self.rules, self._rows, self._left
        note, strength = rows.note[: self._row], rows.strength[: self._row * rules.weighted]
        anchors, person, first, seen = by_note(
            left_starts,
            rows.left_note[:left],
            rows.left_first[: left * rules.directional],
            rows.left_strength[: left * rules.weighted],
            len(self.codes),
        )
        del self._rows, self._parts
        return Histories(starts, note, strength, share, anchors, person, first, seen)
