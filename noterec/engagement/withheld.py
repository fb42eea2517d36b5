"""What training sees of a dataset that is split: the notes and events that are left, and how many each rule withholds.

Both tables are read and written by batches; of the whole dataset only the note ids are held.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noterec import schema, storage
from noterec.engagement.counting.compiled import interruptible
from noterec.engagement.counting.keys import UNKNOWN, DatasetNotes, Keys, keys
from noterec.engagement.newness import HeldPeople, Parts
from noterec.notes.dataset import Dataset
from noterec.progress import track

Mask = NDArray[np.bool_]

_FILE_BYTES, _FILE_NOTES = 64 << 20, 1 << 16  # of one notes file; images make rows large
_FILE_EVENTS = 1 << 20  # of one engagement file
_VALID, _TEST = 1, 2  # a note that is new, by its part; 0 = old, or not in the dataset
_PERSON_BYTES = 32  # held for each distinct person while people are counted
_MOST_PEOPLE = 1 << 16  # held at a time however little memory may be used: 2 MB


@dataclass
class EventCounts:
    """Where every event of the log went: `train` and the five that are withheld add up to all of them.

    Attributes:
        train: events that training sees.
        on_valid, on_test: on new notes.
        of_held_people: on other notes, by people who are held out for valid or test.
        undated: on other notes, without a timestamp; only by time.
        too_late: on other notes, since the creation of the first new note; only by time.
        for_valid, for_test: events that the lists of valid and of test are counted on.
        engaged: clicks and stronger actions among those of train, valid and test, by these names.
    """

    train: int = 0
    on_valid: int = 0
    on_test: int = 0
    of_held_people: int = 0
    undated: int = 0
    too_late: int = 0
    for_valid: int = 0
    for_test: int = 0
    engaged: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("train", "valid", "test"), 0))

    @property
    def events(self) -> int:
        """Rows of the log."""
        return self.train + self.on_valid + self.on_test + self.of_held_people + self.undated + self.too_late


@interruptible()
def write_events(data: Dataset, parts: Parts, folder: Path) -> EventCounts:
    """Write the events that training may see, in the log's order, and count the others by the rule that withholds them."""
    counts = EventCounts()
    with track("train events", data.event_count, "events") as bar:

        def seen() -> Iterator[pa.Table]:
            codes = DatasetNotes(data.note_ids)
            part_of = np.zeros(len(codes), dtype=np.int8)  # (N,)
            for number, ids in ((_VALID, parts.valid), (_TEST, parts.test)):
                part_of[codes.ids.is_in(ids.implode()).to_numpy()] = number
            for table in data.engagement_batches():
                code = codes.find(keys(table["note_id"]))
                part = np.where(code < UNKNOWN, part_of[np.minimum(code, len(codes) - 1)], 0)
                yield table.filter(pa.array(_sort_out(table, part, parts, counts)))
                bar.advance(table.num_rows)

        for number, table in enumerate(_tables_of(seen(), _FILE_EVENTS)):
            storage.write_table(table, folder / f"part-{number:05d}.parquet")
    return counts


def _sort_out(table: pa.Table, part: NDArray[np.int8], parts: Parts, counts: EventCounts) -> Mask:
    """Count a batch of events; which of them training may see, (events,) bool."""
    everyone = np.ones(table.num_rows, dtype=bool)
    by_train = by_valid = by_test = everyone
    if parts.people is not None:
        person = keys(table["user_id"])
        by_valid, by_test = parts.people.valid.of(person), parts.people.test.of(person)
        by_train = ~(by_valid | by_test)
    old, dated = part == 0, table["timestamp"].is_valid().to_numpy()
    counts.on_valid += int(np.count_nonzero(part == _VALID))
    counts.on_test += int(np.count_nonzero(part == _TEST))
    counts.of_held_people += int(np.count_nonzero(old & ~by_train))
    early = _before(table, parts.first_new)
    if parts.first_new is not None:
        counts.undated += int(np.count_nonzero(old & by_train & ~dated))
        counts.too_late += int(np.count_nonzero(old & by_train & dated & ~early))
    views = {
        "train": old & by_train & early,
        "valid": (part != _TEST) & by_valid & _before(table, parts.first_test),
        "test": by_test,
    }
    engaged = pc.is_in(table["action"], value_set=pa.array(list(schema.ENGAGED))).to_numpy()
    for name, view in views.items():
        counts.engaged[name] += int(np.count_nonzero(view & engaged))
    counts.train += int(np.count_nonzero(views["train"]))
    counts.for_valid += int(np.count_nonzero(views["valid"]))
    counts.for_test += int(np.count_nonzero(views["test"]))
    seen: Mask = views["train"]
    return seen


def _before(table: pa.Table, moment: dt.datetime | None) -> Mask:
    """Which events are before a moment; all where it is None, else none without a time."""
    if moment is None:
        return np.ones(table.num_rows, dtype=bool)
    early = pl.Series(table["timestamp"]) < moment
    return np.asarray(early.fill_null(False), dtype=bool)


def _tables_of(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in the same order, `rows` in each table but the last."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        while (count := sum(part.num_rows for part in held)) >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows).combine_chunks()
            held = [whole.slice(rows, count - rows)]
    if sum(part.num_rows for part in held):
        yield pa.concat_tables(held).combine_chunks()


def count_people(data: Dataset, held: HeldPeople, *, memory: int) -> dict[str, int]:
    """How many people of the log belong to train, valid and test, by these names.

    Where they are too many to be held, they are counted range by range of their keys, and the log is read once for each.
    """
    counts = dict.fromkeys(("train", "valid", "test"), 0)
    bits = number = 0  # the range: keys whose first `bits` bits are `number`
    while number < 1 << bits:
        people = _people(data, bits, number, most=max(_MOST_PEOPLE, memory // _PERSON_BYTES))
        if people is None:
            bits, number = bits + 1, 2 * number
            continue
        valid, test = (int(np.count_nonzero(share.of(people))) for share in (held.valid, held.test))
        counts["valid"] += valid
        counts["test"] += test
        counts["train"] += len(people) - valid - test
        number += 1
    return counts


def _people(data: Dataset, bits: int, number: int, *, most: int) -> Keys | None:
    """The distinct keys of a range in the log; None if there are more than `most`."""
    known = np.zeros(0, dtype=np.uint64)
    fresh: list[Keys] = []
    size = 0
    for table in data.engagement_batches(["user_id"]):
        found = np.unique(keys(table["user_id"]))
        if bits:
            found = found[found >> np.uint64(64 - bits) == number]
        fresh.append(found)
        size += len(found)
        if size > min(most, len(known)):  # rarely, as each time what is known about doubles
            known, fresh, size = np.unique(np.concatenate([known, *fresh])), [], 0
            if len(known) > most:
                return None
    return np.unique(np.concatenate([known, *fresh]))


def write_notes(data: Dataset, new: set[str], folder: Path) -> None:
    """Copy the notes that aren't new, columns unchanged, without ever holding more than one output file of them."""
    held: list[pa.Table] = []
    files = 0

    def flush() -> None:
        nonlocal files
        if held:
            storage.write_table(pa.concat_tables(held), folder / f"part-{files:05d}.parquet")
            files += 1
            held.clear()

    with track("train notes", len(data.note_ids), "notes") as bar:
        for table in data.note_batches(batch_rows=512):
            bar.advance(table.num_rows)
            kept = table.filter(pa.array([note_id not in new for note_id in table["note_id"].to_pylist()]))
            if held and held[0].schema != kept.schema:  # the next source file has other columns
                flush()
            if kept.num_rows:
                held.append(kept)
            if sum(t.nbytes for t in held) > _FILE_BYTES or sum(t.num_rows for t in held) > _FILE_NOTES:
                flush()
        flush()
