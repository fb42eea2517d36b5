"""The events of a log that count, as integers, cut into parts by person so that each part fits into memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema
from noterec.engagement.counting.compiled import say_if_first
from noterec.engagement.counting.folding import Ints, fold
from noterec.engagement.counting.histories import DAY_US, MOST_ROWS, Events, Rules
from noterec.engagement.counting.keys import NoteCodes, keys
from noterec.engagement.counting.log import REJECT_LIMIT, Log
from noterec.engagement.counting.spill import Spill, Where
from noterec.errors import InputError
from noterec.progress import Bar

logger = logging.getLogger(__name__)

EVENT_BYTES = 60  # of one event while its part is read and folded
MOST_PARTS = 4096
_ACTIONS = pa.array(list(schema.ACTIONS))
_RECORD = np.dtype([("person", "<u8"), ("note", "<i8"), ("time", "<i8"), ("action", "u1")])


@dataclass
class Counts:
    """What was read, and what was left out before anything was counted. See `PairsSummary`.

    Attributes:
        engaged: events that are clicks or stronger, whatever they count.
    """

    events: int = 0
    events_not_engaged: int = 0
    events_undated: int = 0
    events_outside_window: int = 0
    engaged: int = 0

    def __add__(self, other: Counts) -> Counts:
        """The counts of two parts of a log together."""
        mine, others = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + others[name] for name in mine})

    def named(self) -> dict[str, int]:
        """By the names of `PairsSummary`."""
        found = asdict(self)
        del found["engaged"]
        return found

    def check(self, *, kept: int = 0) -> None:
        """Refuse a log that can't be counted; `kept` are events of it that were read before, and counted.

        Raises:
            InputError: no engagement, or more than 5 % of the events lack the time that the clock promises.
        """
        if not self.engaged and not kept:
            raise InputError(
                f"the log has {self.events} events and no engagement among them; expected clicks or stronger actions "
                f"({', '.join(schema.ENGAGED)}): import the engagement too"
            )
        used = self.events - self.events_not_engaged
        if self.events_undated > REJECT_LIMIT * (used + kept):
            raise InputError(
                f"{self.events_undated} of {used + kept} events have no timestamp though the log has a clock; expected at most "
                f"{REJECT_LIMIT:.0%}: repair the timestamps, or import the log with clock none"
            )
        if self.events_undated > REJECT_LIMIT * used:
            logger.warning("%d of %d new events have no timestamp and are left out", self.events_undated, used)


@dataclass(eq=False)
class Parts:
    """Events in parts by person: all events of a person are in one part, and their keys ascend from part to part.

    Attributes:
        count: parts.
        largest: events of the largest part.
        events: events of all parts.
    """

    count: int
    spill: Spill | None  # None: one part, which stays in memory
    events: int = 0
    _held: list[Events] = field(default_factory=list)
    _places: list[tuple[Where, Ints]] = field(default_factory=list)  # events ordered by part, and where the parts begin

    def add(self, found: Events) -> None:
        """Put events where they belong."""
        self.events += len(found)
        if self.spill is None:
            self._held.append(found)
            return
        part = ((found.person >> np.uint64(32)) * np.uint64(self.count) >> np.uint64(32)).astype(np.uint16)
        order = np.argsort(part, kind="stable")
        record = np.empty(len(found), _RECORD)
        for name in _RECORD.names or ():
            record[name] = getattr(found, name)[order]
        edges = np.concatenate([[0], np.cumsum(np.bincount(part, minlength=self.count))])
        self._places.append((self.spill.write(record), edges))

    @classmethod
    def within(cls, memory: int, events: int, spill: Spill) -> Self:
        """As many parts of so many events as it takes to fold each within so many bytes of memory."""
        size = max(min(memory // EVENT_BYTES, MOST_ROWS // 2), 1)  # people don't fall into parts quite evenly
        count = min(-(-events // size), MOST_PARTS)
        return cls(max(count, 1), None if count <= 1 else spill)

    @property
    def largest(self) -> int:
        """Events of the largest part."""
        if self.spill is None:
            return self.events
        return int(sum((np.diff(edges) for _, edges in self._places), np.zeros(self.count, np.int64)).max())

    def __iter__(self) -> Iterator[Events]:
        for number in range(self.count):
            part = self.part(number)
            if len(part):
                yield part

    def part(self, number: int) -> Events:
        """The events of one part; there may be none."""
        if self.spill is None:
            return joined(self._held)
        places = [where.slice(int(edges[number]), int(edges[number + 1])) for where, edges in self._places]
        record = np.concatenate([np.zeros(0, _RECORD), *(self.spill.read(where) for where in places if where.size)])
        return Events(*(np.ascontiguousarray(record[name]) for name in _RECORD.names or ()))


def joined(parts: Sequence[Events]) -> Events:
    """All events of some parts."""
    none = np.zeros(0, _RECORD)
    names = _RECORD.names or ()
    return Events(*(np.concatenate([none[name], *(getattr(part, name) for part in parts)]) for name in names))


def read_events(
    log: Log, codes: NoteCodes | None, rules: Rules, parts: Parts, *, since: int | None, bar: Bar
) -> Counts:
    """Read what counts of a log; whether it can be counted, its `Counts.check` says.

    Args:
        log: what may be known of it.
        codes: the notes by number; None = events keep the keys of their notes, as int64 of the same bits.
        rules: which actions count, and whether events have times.
        parts: where the events go.
        since: microseconds; earlier events are outside the window; None = no window.
        bar: advanced by the events read.

    Raises:
        InputError: a damaged file.
    """
    say_if_first(fold)
    counts = Counts()
    kinds = np.array([action in rules.wanted for action in schema.ACTIONS])
    levels = np.array([action in schema.ENGAGED for action in schema.ACTIONS])
    for table in log.batches():
        bar.advance(table.num_rows)
        counts.events += table.num_rows
        action = pc.index_in(table["action"], value_set=_ACTIONS).to_numpy().astype(np.uint8)
        keep = kinds[action]
        counts.engaged += int(np.count_nonzero(levels[action]))
        counts.events_not_engaged += int(np.count_nonzero(~keep))
        moment = np.zeros(table.num_rows, dtype=np.int64)
        if rules.has_clock:
            dated = table["timestamp"].is_valid().to_numpy()
            counts.events_undated += int(np.count_nonzero(keep & ~dated))
            keep &= dated
            moment = pc.fill_null(table["timestamp"].cast(pa.int64()), 0).to_numpy()
        if since is not None:
            inside = moment >= since
            counts.events_outside_window += int(np.count_nonzero(keep & ~inside))
            keep &= inside
        if not keep.any():
            continue
        rows = pa.array(keep)
        note = keys(table["note_id"].filter(rows))
        parts.add(
            Events(
                keys(table["user_id"].filter(rows)),
                note.view(np.int64) if codes is None else codes.find(note),
                moment[keep],
                action[keep],
            )
        )
    return counts


def time_span(log: Log, wanted: list[str]) -> tuple[int, int] | None:
    """The times of the first and the last event that counts, in microseconds; None where none has a time."""
    spans = []
    for table in log.batches(["action", "timestamp"]):
        times = table["timestamp"].filter(pc.is_in(table["action"], value_set=pa.array(wanted)))
        span = pc.min_max(times.cast(pa.int64())).as_py()
        if span["min"] is not None:
            spans.append((span["min"], span["max"]))
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def end_of_day(last: int) -> int:
    """The end of the day (UTC) of the last event, whose time is in microseconds as well; says so where that is yet to come."""
    if last > time.time_ns() // 1000 + DAY_US:
        logger.warning(
            "the last event of the log is dated %s, which is yet to come; windows and ages are counted from there: repair the "
            "times of such events, or remove them",
            np.datetime64(last, "us"),
        )
    return (last // DAY_US + 1) * DAY_US
