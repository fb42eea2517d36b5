"""A small platform that is delivered day by day, and the nightly job's settings for it."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from noterec.config import NightlyConfig, SampleConfig
from noterec.config.settings import make
from noterec.notes.sample import sample
from noterec.notes.sample.platform import START

FIRST = 14  # the day of the first night: two weeks of engagement have passed
LATER = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)  # of an edit that wins over all others


@dataclass
class Town:
    """A dataset that grows.

    Attributes:
        path: the dataset.
        notes, log: of all days.
    """

    path: Path
    notes: pl.DataFrame
    log: pl.DataFrame
    live: set[str] = field(default_factory=set)

    def deliver(self, day: int, *, everything: bool = False) -> Path:
        """The notes and events of a day, or of all days up to it."""
        end = START + dt.timedelta(days=day + 1)
        begin = START - dt.timedelta(days=9999) if everything else end - dt.timedelta(days=1)
        fresh = self.notes.filter((pl.col("created_at") >= begin) & (pl.col("created_at") < end))
        file = self.path / f"notes/day-{day:02d}.parquet"
        fresh.write_parquet(file)
        events = self.log.filter((pl.col("timestamp") >= begin) & (pl.col("timestamp") < end))
        events.write_parquet(self.path / f"engagement/day-{day:02d}.parquet")
        self.live |= set(fresh["note_id"])
        return file

    def change(self, name: str, ids: list[str], **columns: Any) -> Path:
        """One more notes file: newer versions of some notes."""
        rows = self.notes.filter(pl.col("note_id").is_in(ids)).with_columns(updated_at=pl.lit(LATER))
        rows = rows.with_columns(pl.lit(value).alias(column) for column, value in columns.items())
        file = self.path / f"notes/{name}.parquet"
        rows.cast({column: self.notes.schema[column] for column in columns}).write_parquet(file)
        return file


def date(day: int) -> dt.date:
    """The night of a day of the log."""
    return (START + dt.timedelta(days=day)).date()


@pytest.fixture(scope="session")
def all_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("town") / "all"
    sample(folder, SampleConfig(notes=300, users=200, weeks=4, arrival="steady", image_px=16))
    return folder


@pytest.fixture
def town(all_days: Path, tmp_path: Path) -> Town:
    """A dataset with the first two weeks; no pictures, which would only be read and written."""
    data = tmp_path / "data"
    for part in ("notes", "engagement"):
        (data / part).mkdir(parents=True)
    (data / "dataset.json").write_text(json.dumps({"format": "noterec dataset", "clock": "time"}))
    notes = pl.read_parquet(all_days / "notes/*.parquet").drop("images")
    made = Town(data, notes, pl.read_parquet(all_days / "engagement/*.parquet"))
    made.deliver(FIRST, everything=True)
    return made


@pytest.fixture
def settings(town: Town, tmp_path: Path, trained: Path) -> Callable[..., NightlyConfig]:
    """Settings for the town with a trained model; keywords are further settings."""

    def made(**given: Any) -> NightlyConfig:
        values: dict[str, Any] = {
            "dataset": str(town.path),
            "home": str(tmp_path / "home"),
            "model": str(trained),
            "embed": {"device": "cpu"},
            "gates": {"canaries": 16},
            "evaluate": {"resamples": 200},
            "neighbours": {"k": 10},
        }
        for name, value in given.items():
            both = isinstance(value, dict) and isinstance(values.get(name), dict)
            values[name] = {**values[name], **value} if both else value
        return make(NightlyConfig, values, where="test")

    return made
