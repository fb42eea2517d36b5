"""What the log says about two notes: how many people engaged with both, and whether they are a mined pair.

Shown beside a neighbour, so that a person sees what the model had to go by, and what it found without it.
"""

from __future__ import annotations

import dataclasses
import logging
import os
from typing import Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import progress, schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

MAX_EVENTS = 20_000_000  # of a log whose people are kept, about 4 bytes each; of a longer one only pairs are told


@dataclasses.dataclass(frozen=True)
class Bond:
    """What is known about a note and a neighbour.

    Attributes:
        people: who engaged with both; None where no log is at hand.
        pair: whether the neighbour is among the note's mined pairs; None where no pairs are at hand.
        rank: among the note's pairs, 1 = the strongest; None where it is none of them.
    """

    people: int | None = None
    pair: bool | None = None
    rank: int | None = None


class Related:
    """Bonds between notes.

    Attributes:
        people: whether it can tell how many people engaged with both.
        pairs: whether it knows mined pairs.
    """

    def __init__(self, log: _Grouped | None, pairs: _Grouped | None) -> None:
        """Use `Related.open`."""
        self._log, self._pairs = log, pairs

    @property
    def people(self) -> bool:
        """Whether it can tell how many people engaged with both."""
        return self._log is not None

    @property
    def pairs(self) -> bool:
        """Whether it knows mined pairs."""
        return self._pairs is not None

    @classmethod
    def open(
        cls,
        pairs: str | os.PathLike[str] | None = None,
        *,
        dataset: str | os.PathLike[str] | None = None,
        max_events: int = MAX_EVENTS,
    ) -> Self:
        """Read a pairs table, and a dataset's log. In memory lie 8 bytes a pair, 4 for a person and a note they engaged with, and
        the ids.

        Args:
            pairs: a pairs table; None = mined pairs are unknown.
            dataset: whose log says who engaged with what; None, or one without a log = unknown.
            max_events: with more of them in the log, who engaged stays unknown, with a warning.

        Raises:
            InputError: a table isn't there, is damaged, or its columns don't fit.
        """
        with progress.stage("related") as stage:
            mined = None if pairs is None else _read_pairs(pairs)
            log = None if dataset is None else _read_log(Dataset(dataset), max_events)
            stage.counts.update(
                pairs=0 if mined is None else len(mined.members), engaged=0 if log is None else len(log.members)
            )
        return cls(log, mined)

    def bond(self, note_id: str, other_id: str) -> Bond:
        """What is known about a note and another; both may be unknown here."""
        people = pair = rank = None
        if self._log is not None:
            mine, theirs = self._log.of(note_id), self._log.of(other_id)
            people = len(np.intersect1d(mine, theirs, assume_unique=True))
        if self._pairs is not None:
            others = self._pairs.of(note_id)  # by rank
            found = np.flatnonzero(others == self._pairs.code(other_id))
            pair = len(found) > 0
            rank = int(found[0]) + 1 if pair else None
        return Bond(people, pair, rank)

    def engaged(self, note_id: str) -> int | None:
        """How many people engaged with a note; None where no log is at hand."""
        return None if self._log is None else len(self._log.of(note_id))


class _Grouped:
    """For every note some numbers: members[starts[n] : starts[n + 1]] for the n-th of the ascending ids."""

    def __init__(self, ids: pl.Series, notes: NDArray[np.int64], members: NDArray[np.int32]) -> None:
        self.ids, self.members = ids, members  # members in the order of ascending notes
        self._starts = np.searchsorted(notes, np.arange(len(ids) + 1))  # (N + 1,)

    def code(self, note_id: str) -> int:
        """A note's place among the ids, -1 where it isn't there."""
        place = int(self.ids.search_sorted(note_id)) if len(self.ids) else 0
        return place if place < len(self.ids) and self.ids[place] == note_id else -1

    def of(self, note_id: str) -> NDArray[np.int32]:
        code = self.code(note_id)
        return self.members[:0] if code < 0 else self.members[self._starts[code] : self._starts[code + 1]]


def _codes(column: pl.Series, ids: pl.Series) -> NDArray[np.int64]:
    """The place of each value of a column among the ascending ids that hold them all."""
    return np.asarray(ids.search_sorted(column).to_numpy(), dtype=np.int64)


def _read_pairs(path: str | os.PathLike[str]) -> _Grouped:
    table = pl.DataFrame(storage.read_table(path, schema.PAIRS, columns=schema.PAIRS.names))
    if not table.height:
        raise InputError(f"{path}: holds no pairs; expected anchor_id and related_id: make them with `noterec pairs`")
    order = ["anchor_id", "rank", "score", "related_id"]
    table = table.sort(order, descending=[False, False, True, False], nulls_last=True)
    ids = pl.concat([table["anchor_id"], table["related_id"]]).unique().sort()
    return _Grouped(ids, _codes(table["anchor_id"], ids), _codes(table["related_id"], ids).astype(np.int32))


def _read_log(dataset: Dataset, max_events: int) -> _Grouped | None:
    if not dataset.engagement_files:
        return None
    if dataset.event_count > max_events:
        logger.warning(
            "%s: its log has %d events, more than %d; how many people engaged with two notes will not be shown",
            dataset.path,
            dataset.event_count,
            max_events,
        )
        return None
    engaged = dataset.engagement(engaged=True).select("note_id", "user_id").unique()
    ids = engaged["note_id"].unique().sort()
    users = engaged["user_id"].rank("dense").to_numpy().astype(np.int32)
    notes = _codes(engaged["note_id"], ids)
    order = np.lexsort((users, notes))
    return _Grouped(ids, notes[order], users[order])
