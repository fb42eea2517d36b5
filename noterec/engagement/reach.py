"""How many people engaged with each note, of a log of any length."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from noterec import schema
from noterec.engagement.counting.compiled import interruptible
from noterec.engagement.counting.keys import UNKNOWN, DatasetNotes, keys, mix
from noterec.notes.dataset import Dataset
from noterec.progress import track

EVENTS_AT_ONCE = 32_000_000  # 8 bytes each, and as much again while they are sorted


@interruptible()
def people_per_note(data: Dataset, codes: DatasetNotes, *, events_at_once: int = EVENTS_AT_ONCE) -> NDArray[np.int64]:
    """(N,) int64: how many distinct people have a click or stronger action on each note, over the whole log.

    A log of more than `events_at_once` events is read several times, each time for a part of the people by a hash of their
    id, so memory doesn't grow with it. People are told apart by the bits of their key that a note's code leaves free: 45 of
    them for 500,000 notes, where one of 70 notes with a million people counts one too few.

    Args:
        data: the dataset whose log is read.
        codes: its notes; events on others don't count.
        events_at_once: events that are held.

    Raises:
        InputError: as `Dataset.engagement_batches`.
    """
    parts = max(1, -(-data.event_count // events_at_once))
    person_bits = np.uint64(64 - max(1, (len(codes) - 1).bit_length()))
    person_mask = (np.uint64(1) << person_bits) - np.uint64(1)
    engaged = pa.array(list(schema.ENGAGED))
    counts = np.zeros(len(codes), dtype=np.int64)
    with track("popularity", parts * data.event_count, "events") as bar:
        for part in range(parts):
            found = [np.zeros(0, dtype=np.uint64)]
            for table in data.engagement_batches(["user_id", "note_id", "action"]):
                bar.advance(table.num_rows)
                events = table.filter(pc.is_in(table["action"], value_set=engaged))
                note, person = codes.find(keys(events["note_id"])), keys(events["user_id"])
                chosen = note < UNKNOWN
                if parts > 1:
                    chosen &= mix(person, np.zeros_like(person)) % np.uint64(parts) == part
                found.append(note[chosen].astype(np.uint64) << person_bits | person[chosen] & person_mask)
            rows = np.concatenate(found)  # person and note in one number
            found.clear()
            rows.sort()
            first = np.ones(len(rows), dtype=bool)
            first[1:] = rows[1:] != rows[:-1]
            counts += np.bincount((rows[first] >> person_bits).astype(np.int64), minlength=len(codes))
    return counts
