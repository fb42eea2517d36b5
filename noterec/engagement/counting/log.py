"""The part of a dataset's log that a reader may know: without some notes, before some moment, of some people."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.engagement.counting.keys import Keys, keys, mix
from noterec.notes.dataset import Clock, Dataset

REJECT_LIMIT = 0.05  # share of unusable rows above which a job stops


@dataclass(frozen=True)
class People:
    """A share of all people, chosen by a hash of their id, so that nobody has to list them.

    Attributes:
        low, high: those whose hash, as a share of all hashes, is in [low, high); 0 and 1 = everyone.
        seed: another one gives another choice.
    """

    low: float
    high: float
    seed: int = 0

    def of(self, people: Keys) -> np.ndarray:
        """(len(people),) bool: who of them is meant, by their keys."""
        share = mix(people, np.full(len(people), self.seed, dtype=np.uint64)) / 2.0**64
        return np.asarray((share >= self.low) & (share < self.high))


@dataclass(frozen=True, eq=False)
class Log:
    """What counts of a dataset's log. It is read by batches, as often as wanted, and never held.

    Attributes:
        data: the dataset.
        hidden: ids of notes on which no event is seen, as if they didn't exist.
        before: only events before this moment, and none without a time.
        people: only theirs.
        files: only the events of these of the dataset's files.
    """

    data: Dataset
    hidden: pl.Series | None = None
    before: dt.datetime | None = None
    people: People | None = None
    files: tuple[storage.Place, ...] | None = None

    @property
    def clock(self) -> Clock:
        """What the log's times mean."""
        return self.data.clock

    def batches(self, columns: Sequence[str] = schema.ENGAGEMENT.names) -> Iterator[pa.Table]:
        """The events in file order, as conformed tables; some may be empty.

        Args:
            columns: those that are wanted; others come along where it takes them to choose the events.

        Raises:
            InputError: as `Dataset.engagement_batches`.
        """
        choosing = {"note_id": self.hidden, "timestamp": self.before, "user_id": self.people}
        read = [name for name in schema.ENGAGEMENT.names if name in columns or choosing.get(name) is not None]
        hidden = None if self.hidden is None else self.hidden.unique().implode()
        for table in self.data.engagement_batches(read, files=self.files):
            keep = np.ones(table.num_rows, dtype=bool)
            if hidden is not None:
                keep &= ~pl.Series(table["note_id"], dtype=pl.String).is_in(hidden).to_numpy()
            if self.before is not None:
                times = pl.Series(table["timestamp"])
                keep &= (times < self.before).fill_null(False).to_numpy()
            if self.people is not None:
                keep &= self.people.of(keys(table["user_id"]))
            yield table if keep.all() else table.filter(pa.array(keep))
