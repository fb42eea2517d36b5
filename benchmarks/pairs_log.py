"""A week of a made-up platform: the log on which `benchmarks/pairs.py` measures, of any length, written piece by piece."""

from __future__ import annotations

import datetime as dt
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noterec import storage
from noterec.notes.dataset import DATASET_FILE, write_meta

DAYS, DAY_SECONDS = 7, 86_400
MONDAY = dt.datetime(2026, 1, 5, tzinfo=dt.UTC)
PIECE = 500_000  # rows written at a time
COUNTED = 5_000_000  # events whose co-occurrences are counted at a time
CATEGORIES = [f"Topic {topic:02d}/Part {part}" for topic in range(20) for part in range(3)]


@dataclass(frozen=True)
class Shape:
    """What a log looks like; equal shapes give equal logs.

    Attributes:
        events: rows, all of them clicks, at times uniform over the week, in whole seconds.
        users: people, each event being of anyone with equal probability.
        catalogue: notes.
        zipf: the r-th most popular note is drawn with probability ~ r^-zipf; which note that is, is drawn too.
        seed: of all draws.
    """

    events: int
    users: int
    catalogue: int
    zipf: float
    seed: int = 0

    @property
    def name(self) -> str:
        """Of the folder."""
        return f"events-{self.events}-notes-{self.catalogue}-zipf-{self.zipf}-seed-{self.seed}"


def prepare(folder: Path, shape: Shape) -> int:
    """Write the dataset unless it is there, and return how many co-occurring event pairs its log has."""
    if not (folder / DATASET_FILE).is_file():  # written last
        _write_notes(folder / "notes", shape)
        _write_events(folder / "engagement", shape)
        found = _cooccurrences(folder / "engagement", shape)
        write_meta(folder, clock="time", made_by="benchmarks/pairs.py", cooccurrences=found, **asdict(shape))
    return int(storage.read_json(folder / DATASET_FILE)["cooccurrences"])


def _ids(letter: str, numbers: np.ndarray, digits: int) -> pa.Array:
    """(len(numbers),) strings such as n0004711."""
    text = pc.utf8_lpad(pc.cast(pa.array(numbers), pa.string()), digits, padding="0")
    return pc.binary_join_element_wise(pa.scalar(letter), text, pa.scalar(""))


def _write_notes(folder: Path, shape: Shape) -> None:
    """Notes of the three months before the week."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, start in enumerate(range(0, shape.catalogue, PIECE)):
        random = np.random.default_rng([shape.seed, 1, number])
        rows = np.arange(start, min(start + PIECE, shape.catalogue))
        ages = random.integers(1, 90 * DAY_SECONDS, len(rows))
        table = pa.table(
            {
                "note_id": _ids("n", rows, 7),
                "title": pc.binary_join_element_wise("Note number", pc.cast(pa.array(rows), pa.string()), " "),
                "category": pa.array(CATEGORIES).take(pa.array(random.integers(0, len(CATEGORIES), len(rows)))),
                "created_at": _moments(-ages),
            }
        )
        pq.write_table(table, folder / f"part-{number}.parquet", compression="zstd")


def _write_events(folder: Path, shape: Shape) -> None:
    """A file for each day, ordered by time, as a platform would write it."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([shape.seed, 2])
    popularity = np.arange(1, shape.catalogue + 1, dtype=np.float64) ** -shape.zipf
    borders = np.cumsum(popularity) / popularity.sum()  # (catalogue,) cumulative probability by popularity
    note_of = random.permutation(shape.catalogue)  # so that ids say nothing about popularity
    week = DAYS * DAY_SECONDS
    for day in range(DAYS):
        begin, end = (shape.events * at // DAYS for at in (day, day + 1))
        writer = None
        for start in range(begin, end, PIECE):
            random = np.random.default_rng([shape.seed, 3, start])
            rows = np.arange(start, min(start + PIECE, end))
            places = np.minimum(np.searchsorted(borders, random.random(len(rows)), side="right"), shape.catalogue - 1)
            seconds = ((rows + random.random(len(rows))) * (week / shape.events)).astype(np.int64)
            table = pa.table(
                {
                    "user_id": _ids("u", random.integers(0, shape.users, len(rows)), 8),
                    "note_id": _ids("n", note_of[places], 7),
                    "action": pa.repeat("click", len(rows)),
                    "timestamp": _moments(seconds),
                }
            )
            if writer is None:
                date = MONDAY + dt.timedelta(days=day)
                writer = pq.ParquetWriter(folder / f"day-{date:%Y-%m-%d}.parquet", table.schema, compression="zstd")
            writer.write_table(table, row_group_size=storage.ROW_GROUP_ROWS)
        if writer is not None:
            writer.close()


def _moments(seconds: np.ndarray) -> pa.Array:
    """Seconds since the week began, as Arrow timestamps."""
    return pa.array((seconds + int(MONDAY.timestamp())) * 1_000_000).cast(pa.timestamp("us", tz="UTC"))


def _cooccurrences(folder: Path, shape: Shape) -> int:
    """How often a person saw a note A at or before the last time they engaged with another note B, over all A, B and people.

    This is what counting has to add up, however it does so. For each last time it is looked up how many of the person's first
    times are not later: person and time as one number make that one search in one sorted array.
    """
    log = pl.scan_parquet(folder / "*.parquet").select(
        pl.col("user_id").str.slice(1).cast(pl.UInt32).alias("user"),
        pl.col("note_id").str.slice(1).cast(pl.UInt32).alias("note"),
        pl.col("timestamp").dt.epoch("s").alias("time"),
    )
    step = -(-shape.users // -(-shape.events // COUNTED))  # people at a time
    total = 0
    for start in range(0, shape.users, step):
        rows = (
            log.filter(pl.col("user").is_between(start, start + step, closed="left"))
            .group_by("user", "note")
            .agg(first=pl.col("time").min(), last=pl.col("time").max())
            .collect(engine="streaming")
        )
        person = rows["user"].to_numpy().astype(np.int64) << 34  # above any time in seconds
        first = np.sort(person + rows["first"].to_numpy())
        not_later = np.searchsorted(first, np.sort(person + rows["last"].to_numpy()), side="right")
        before = np.searchsorted(first, np.sort(person), side="left")  # those of people with a lower number
        total += int((not_later - before - 1).sum())  # a note is not its own pair
    return total
