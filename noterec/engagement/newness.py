"""Which notes count as new in a split, drawn at random or the last created, and which people are held out with them."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import cast

import numpy as np
import polars as pl

from noterec.config import SplitConfig
from noterec.engagement.counting.log import People
from noterec.errors import InputError
from noterec.notes.dataset import UNDATED_SHARE, Dataset


@dataclass(frozen=True)
class HeldPeople:
    """The people of whom training sees nothing.

    Attributes:
        valid, test: those who say what is relevant to the notes of each part; nobody is in both.
    """

    valid: People
    test: People


@dataclass(frozen=True)
class Parts:
    """Which note belongs where.

    Attributes:
        train, valid, test: ids of each part, ascending; together all notes of the dataset.
        undated: notes of train that have no created_at; 0 unless by time.
        first_new: when the first note of valid and test was created; None unless by time.
        first_test: when the first note of test was created; None unless by time.
        people: who is held out; None unless by user.
    """

    train: pl.Series
    valid: pl.Series
    test: pl.Series
    undated: int = 0
    first_new: dt.datetime | None = None
    first_test: dt.datetime | None = None
    people: HeldPeople | None = None

    @property
    def new(self) -> pl.DataFrame:
        """note_id, part ("valid" or "test"), ordered by note_id."""
        parts = [
            pl.DataFrame({"note_id": ids}).with_columns(pl.lit(part).alias("part"))
            for part, ids in (("valid", self.valid), ("test", self.test))
        ]
        return pl.concat(parts).sort("note_id")


def choose(data: Dataset, config: SplitConfig) -> Parts:
    """Choose the new notes: `config.cold` of all notes for test, `config.valid` of them for valid, both rounded.

    By random, the sorted ids are shuffled with the seed: test comes first, then valid, so the choice depends on nothing but the ids
    and the seed. By time, notes are ordered by created_at, then note_id: the last are test, those before them valid; notes without
    created_at stay in train. By time, `config.test_from` and `config.valid_from` choose by moments instead of shares. By user, the
    notes are those of random, and `config.users` of all people are held out, chosen by a hash of their id and the seed; valid and
    test share them as they share the new notes.

    Raises:
        InputError: too few notes for a part; by time, a log without real times, or more than 5 % of the notes without
            created_at.
    """
    return _by_time(data, config) if config.by == "time" else _at_random(data, config)


def _at_random(data: Dataset, config: SplitConfig) -> Parts:
    ids = data.note_ids.sort()
    test, valid = _sizes(len(ids), config, data)
    shuffled = ids.gather(np.random.default_rng(config.seed).permutation(len(ids)))
    people = None
    if config.by == "user":
        cut = config.users * config.valid / (config.valid + config.cold)
        people = HeldPeople(People(0.0, cut, config.seed), People(cut, config.users, config.seed))
    return Parts(
        train=shuffled[test + valid :].sort(),
        valid=shuffled[test : test + valid].sort(),
        test=shuffled[:test].sort(),
        people=people,
    )


def _by_time(data: Dataset, config: SplitConfig) -> Parts:
    if data.clock != "time":
        raise InputError(
            f"{data.path}: a split by time needs real times, but this log's clock is {data.clock!r}; split at random, or "
            "import the log with its timestamps"
        )
    notes = data.notes(["created_at"])
    undated = notes["created_at"].null_count()
    if undated > UNDATED_SHARE * notes.height:
        raise InputError(
            f"{data.path}: {undated} of {notes.height} notes have no created_at; a split by time expects at most "
            f"{UNDATED_SHARE:.0%} such: import it with --map created_at=COLUMN, or split at random"
        )
    dated = notes.drop_nulls("created_at").sort("created_at", "note_id")
    if config.test_from is None:
        test, valid = _sizes(notes.height, config, data)
    else:
        test, valid = _since(dated["created_at"], config, data)
    old = dated.height - test - valid
    if old < 1:
        raise InputError(f"{data.path}: only {dated.height} notes have created_at; expected more than {test + valid}")
    times = dated["created_at"]
    return Parts(
        train=pl.concat([dated["note_id"][:old], notes.filter(pl.col("created_at").is_null())["note_id"]]).sort(),
        valid=dated["note_id"][old : old + valid].sort(),
        test=dated["note_id"][old + valid :].sort(),
        undated=undated,
        first_new=config.valid_from or cast(dt.datetime, times[old]),
        first_test=config.test_from or cast(dt.datetime, times[old + valid]),
    )


def _since(created: pl.Series, config: SplitConfig, data: Dataset) -> tuple[int, int]:
    """How many notes are test and valid, by the moments of the settings."""
    test = int((created >= config.test_from).sum())
    valid = int((created >= config.valid_from).sum()) - test
    if not test or (not valid and config.valid_from != config.test_from) or test + valid >= len(created):
        raise InputError(
            f"{data.path}: {test} notes were created since {config.test_from} (test), {valid} more since {config.valid_from} "
            f"(valid), {len(created) - test - valid} before; expected at least one of each: give other moments"
        )
    return test, valid


def _sizes(notes: int, config: SplitConfig, data: Dataset) -> tuple[int, int]:
    """How many notes are test and valid."""
    test, valid = round(config.cold * notes), round(config.valid * notes)
    if test < 1 or (config.valid > 0 and valid < 1) or test + valid >= notes:
        raise InputError(
            f"{data.path}: {notes} notes give {test} test, {valid} valid and {notes - test - valid} train notes with "
            f"cold={config.cold} and valid={config.valid}; expected at least one of each: hold out another share, or "
            "bring more notes"
        )
    return test, valid
