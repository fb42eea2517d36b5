"""What passes between the parts of a count, done in other processes or other nights: events, sums and tallies as files.

All are written whole or not at all, and hold keys and numbers only: no id of a person or a note.
"""

from __future__ import annotations

import zipfile
from typing import Any

import numpy as np
import pyarrow as pa

from noterec import storage
from noterec.engagement.counting.histories import Events, Tally
from noterec.engagement.counting.walking import Sums
from noterec.errors import InputError

_EVENTS = pa.schema([("person", pa.uint64()), ("note", pa.uint64()), ("time", pa.int64()), ("action", pa.uint8())])
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


def save_sums(file: storage.Place, sums: Sums) -> None:
    """Write the sums of some anchors; not compressed, as they are read and written as a whole every night."""
    with storage.atomic_write(file) as opened:
        np.savez(opened, **sums._asdict())


def load_sums(file: storage.Place, anchors: int) -> Sums:
    """Read the sums of A anchors; those that the file doesn't have yet have none.

    Raises:
        InputError: the file is missing or damaged, or of more anchors.
    """
    try:
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            found = Sums(*(arrays[name] for name in Sums._fields))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"{file}: missing or damaged ({error})") from error
    if len(found.ends) > anchors:
        raise InputError(f"{file}: holds sums of {len(found.ends)} anchors; expected at most {anchors}")
    ends = np.full(anchors, len(found.related), np.int64)
    ends[: len(found.ends)] = found.ends
    return found._replace(ends=ends)


def piece(sums: Sums, begin: int, end: int) -> Sums:
    """The sums of the anchors [begin, end) of some."""
    entries = slice(int(sums.ends[begin - 1]) if begin else 0, int(sums.ends[end - 1]))
    ends = sums.ends[begin:end] - entries.start
    return Sums(ends, sums.related[entries], sums.support[entries], sums.weight[entries])


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
