"""What passes between the parts of a count, done in other processes or other nights: events, sums and tallies as files.

All are Parquet, written whole or not at all, and hold keys and numbers only: no id of a person or a note.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from noterec import storage
from noterec.engagement.counting.histories import Events, Tally
from noterec.engagement.counting.walking import Sums
from noterec.errors import InputError

_EVENTS = pa.schema([("person", pa.uint64()), ("note", pa.uint64()), ("time", pa.int64()), ("action", pa.uint8())])
_SUMS = pa.schema([("anchor", pa.int32()), ("related", pa.int32()), ("support", pa.int32()), ("weight", pa.float64())])
_COUNTS = ("total", "people", "capped", "rows_capped", "cooccurrences_capped", "events_unknown")


def save_events(file: storage.Place, events: Events) -> None:
    """Write events, whose `note` are keys."""
    columns = [events.person, events.note.view(np.uint64), events.time, events.action]
    storage.write_table(pa.table(columns, schema=_EVENTS), file)


def load_events(file: storage.Place) -> Events:
    """Read events that `save_events` wrote; `note` are keys, as int64 of the same bits."""
    table = storage.read_table(file)
    person, note, time, action = (table[name].to_numpy() for name in _EVENTS.names)
    return Events(person, note.view(np.int64), time, action)


def save_sums(file: storage.Place, sums: Sums, begin: int) -> None:
    """Write the sums of anchors from `begin` on."""
    sizes = np.diff(sums.ends, prepend=0)
    anchor = np.repeat(np.arange(begin, begin + len(sizes), dtype=np.int32), sizes)
    columns = [anchor, sums.related, sums.support, sums.weight]
    storage.write_table(pa.table(columns, schema=_SUMS), file)


def load_sums(file: storage.Place, begin: int, end: int) -> Sums:
    """Read the sums of the anchors [begin, end).

    Raises:
        InputError: there are others in the file.
    """
    table = storage.read_table(file)
    anchor, related, support, weight = (table[name].to_numpy() for name in _SUMS.names)
    if len(anchor) and not begin <= anchor.min() <= anchor.max() < end:
        raise InputError(
            f"{file}: holds sums of the anchors {anchor.min()} to {anchor.max()}; expected {begin} to {end}"
        )
    ends = np.cumsum(np.bincount(anchor - begin, minlength=end - begin))
    return Sums(ends.astype(np.int64), related, support, weight)


def no_sums(anchors: int) -> Sums:
    """The sums of nobody."""
    return Sums(np.zeros(anchors, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0))


def save_tally(file: storage.Place, tally: Tally, **about: Any) -> None:
    """Write a tally, and what else is to be known of it."""
    counts = {name: getattr(tally, name) for name in _COUNTS}
    storage.write_table(pa.table({"norm": tally.norms}), file, origin={**counts, **about})


def load_tally(file: storage.Place) -> tuple[Tally, dict[str, Any]]:
    """Read a tally that `save_tally` wrote, and what else it says."""
    about = dict(storage.read_origin(file) or {})
    counts = {name: about.pop(name) for name in _COUNTS}
    return Tally(storage.read_table(file)["norm"].to_numpy().copy(), **counts), about
