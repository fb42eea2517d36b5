"""Small datasets for the tests of this folder."""

from __future__ import annotations

import datetime as dt
import random

import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.notes.dataset import write_meta

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


def make_dataset(folder, note_ids, events, *, clock="time", created=None, **columns):
    """A dataset of `events`: (user, note), (user, note, minute) or (user, note, minute, action), minute None = no time."""
    rows = [(*event, *(None, None)[len(event) - 2 :]) for event in events]
    notes = {"note_id": list(note_ids), "title": [f"title of {i}" for i in note_ids], **columns}
    if created is not None:
        notes["created_at"] = [None if day is None else START + dt.timedelta(days=day) for day in created]
    storage.write_table(schema.conform(pa.table(notes), schema.NOTES, name="notes"), folder / "notes" / "a.parquet")
    log = pa.table(
        {
            "user_id": pa.array([row[0] for row in rows], pa.string()),
            "note_id": pa.array([row[1] for row in rows], pa.string()),
            "timestamp": pa.array(
                [None if row[2] is None else START + dt.timedelta(minutes=row[2]) for row in rows], schema.TIMESTAMP
            ),
            "action": pa.array([row[3] or "click" for row in rows], pa.string()),
        }
    )
    storage.write_table(schema.conform(log, schema.ENGAGEMENT, name="log"), folder / "engagement" / "a.parquet")
    if clock is not None:
        write_meta(folder, clock=clock)
    return folder


def random_events(seed, *, users=30, notes=20, events=200, minutes=60, actions=("view", "click")):
    """Random events on notes n00, n01, ...; few minutes, so that equal times are common."""
    rng = random.Random(seed)
    return [
        (
            f"u{rng.randrange(users):02d}",
            f"n{min(rng.randrange(notes), rng.randrange(notes)):02d}",
            rng.randrange(minutes),
            rng.choice(actions),
        )
        for _ in range(events)
    ]


def note_ids(count):
    """n00, n01, ..."""
    return [f"n{i:02d}" for i in range(count)]


def as_dict(table):
    """{(anchor, related): score} of a pairs table."""
    frame = table if isinstance(table, pl.DataFrame) else pl.DataFrame(table)
    return {(row["anchor_id"], row["related_id"]): row["score"] for row in frame.iter_rows(named=True)}
