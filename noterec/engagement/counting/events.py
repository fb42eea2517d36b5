"""The events of a log that count, as integers, cut into parts by person so that each part fits into memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema
from noterec.engagement.counting.histories import DAY_US, Events
from noterec.engagement.counting.keys import NoteCodes, keys
from noterec.engagement.counting.log import REJECT_LIMIT, Log
from noterec.engagement.counting.spill import Spill, Where
from noterec.errors import InputError
from noterec.progress import Bar

EVENT_BYTES = 60  # of one event while its part is read and folded
_MOST_PARTS = 4096
_ACTIONS = pa.array(list(schema.ACTIONS))
_RECORD = np.dtype([("person", "<u8"), ("note", "<i8"), ("time", "<i8"), ("action", "u1")])


@dataclass
class Counts:
    """What was read, and what was left out before anything was counted. See `PairsSummary`."""

    events: int = 0
    events_not_engaged: int = 0
    events_undated: int = 0
    events_outside_window: int = 0


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
    _places: list[list[Where]] = field(default_factory=list)

    def add(self, found: Events) -> None:
        """Put events where they belong."""
        self.events += len(found)
        if self.spill is None:
            self._held.append(found)
            return
        if not self._places:
            self._places = [[] for _ in range(self.count)]
        part = ((found.person >> np.uint64(32)) * np.uint64(self.count) >> np.uint64(32)).astype(np.uint16)
        order = np.argsort(part, kind="stable")
        record = np.empty(len(found), _RECORD)
        for name in _RECORD.names or ():
            record[name] = getattr(found, name)[order]
        ends = np.cumsum(np.bincount(part, minlength=self.count))
        for number, (end, size) in enumerate(zip(ends, np.diff(ends, prepend=0), strict=True)):
            if size:
                self._places[number].append(self.spill.write(record[end - size : end]))

    @classmethod
    def within(cls, memory: int, events: int, spill: Spill) -> Self:
        """As many parts of so many events as it takes to fold each within so many bytes of memory."""
        count = min(-(-events * EVENT_BYTES // max(memory, 1)), _MOST_PARTS)
        return cls(max(count, 1), None if count <= 1 else spill)

    @property
    def largest(self) -> int:
        """Events of the largest part."""
        if self.spill is None:
            return self.events
        return max((sum(where.size for where in places) for places in self._places), default=0)

    def __iter__(self) -> Iterator[Events]:
        for number in range(self.count):
            part = self.part(number)
            if len(part):
                yield part

    def part(self, number: int) -> Events:
        """The events of one part; there may be none."""
        if self.spill is None:
            return joined(self._held)
        places = self._places[number] if self._places else []
        record = np.concatenate([np.zeros(0, _RECORD), *(self.spill.read(where) for where in places)])
        return Events(*(np.ascontiguousarray(record[name]) for name in _RECORD.names or ()))


def joined(parts: Sequence[Events]) -> Events:
    """All events of some parts."""
    none = np.zeros(0, _RECORD)
    names = _RECORD.names or ()
    return Events(*(np.concatenate([none[name], *(getattr(part, name) for part in parts)]) for name in names))


def read_events(
    log: Log, codes: NoteCodes | None, wanted: list[str], parts: Parts, *, since: int | None, bar: Bar
) -> Counts:
    """Read what counts of a log.

    Args:
        log: what may be known of it.
        codes: the notes by number; None = events keep the keys of their notes, as int64 of the same bits.
        wanted: the actions that count.
        parts: where the events go.
        since: microseconds; earlier events are outside the window; None = no window.
        bar: advanced by the events read.

    Raises:
        InputError: no engagement in the log, more than 5 % of its events lack the time that the clock promises, a damaged file.
    """
    counts, engaged = Counts(), 0
    kinds = np.array([action in wanted for action in schema.ACTIONS])
    levels = np.array([action in schema.ENGAGED for action in schema.ACTIONS])
    for table in log.batches():
        bar.advance(table.num_rows)
        counts.events += table.num_rows
        action = pc.index_in(table["action"], value_set=_ACTIONS).to_numpy().astype(np.uint8)
        keep = kinds[action]
        engaged += int(np.count_nonzero(levels[action]))
        counts.events_not_engaged += int(np.count_nonzero(~keep))
        time = np.zeros(table.num_rows, dtype=np.int64)
        if log.clock != "none":
            dated = table["timestamp"].is_valid().to_numpy()
            counts.events_undated += int(np.count_nonzero(keep & ~dated))
            keep &= dated
            time = pc.fill_null(table["timestamp"].cast(pa.int64()), 0).to_numpy()
        if since is not None:
            inside = time >= since
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
                time[keep],
                action[keep],
            )
        )
    if not engaged:
        raise InputError(
            f"the log has {counts.events} events and no engagement among them; expected clicks or stronger actions "
            f"({', '.join(schema.ENGAGED)}): import the engagement too"
        )
    used = counts.events - counts.events_not_engaged
    if counts.events_undated > REJECT_LIMIT * used:
        raise InputError(
            f"{counts.events_undated} of {used} events have no timestamp though the log's clock is {log.clock!r}; expected at most "
            f"{REJECT_LIMIT:.0%}: repair the timestamps, or import the log with clock none"
        )
    return counts


def time_span(log: Log, wanted: list[str]) -> tuple[int, int] | None:
    """The times of the first and the last event that counts, in microseconds; None where none has a time."""
    spans = []
    for table in log.batches():
        times = table["timestamp"].filter(pc.is_in(table["action"], value_set=pa.array(wanted)))
        span = pc.min_max(times.cast(pa.int64())).as_py()
        if span["min"] is not None:
            spans.append((span["min"], span["max"]))
    return (min(first for first, _ in spans), max(last for _, last in spans)) if spans else None


def end_of_day(time: int) -> int:
    """The end of the day (UTC) of a time, both in microseconds."""
    return (time // DAY_US + 1) * DAY_US
