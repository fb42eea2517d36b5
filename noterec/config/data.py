"""Settings of the stages that make data: the sample, pictures, pairs, splits."""

from __future__ import annotations

import datetime as dt
from typing import Literal, Self

import pydantic
from pydantic import Field

from noterec.config.settings import Settings


class SampleConfig(Settings):
    """The synthetic platform (`noterec sample`)."""

    notes: int = Field(3000, ge=50, description="notes, the last week's new ones included")
    users: int = Field(1500, ge=10, description="people")
    weeks: int = Field(4, ge=2, le=52, description="length of the log in weeks; the last one brings the new notes")
    arrival: Literal["last-week", "steady"] = Field(
        "last-week",
        description="last-week: a fifth of the notes comes in the last week; steady: notes come every day, and are engaged with "
        "most in their first days",
    )
    image_px: int = Field(64, ge=16, le=512, description="side of the square pictures, in pixels")
    seed: int = Field(0, ge=0)


class ImagesConfig(Settings):
    """How pictures are read, and what they may be; one beyond a limit is rejected before any of its pixels is decoded."""

    max_bytes: int = Field(20_000_000, ge=1, description="size of the file, in bytes")
    # Above 89 megapixels Pillow has a limit of its own, for the whole process.
    max_pixels: int = Field(50_000_000, ge=1, le=89_000_000, description="width x height")
    min_side_px: int = Field(1, ge=1, description="the shorter side, in pixels")
    max_aspect_ratio: float = Field(200, ge=1, description="longer side / shorter side; beyond it nothing can be seen")
    fetch: bool = Field(False, description="load pictures whose path is an http(s) URL; never from private addresses")
    fetch_seconds: float = Field(10, gt=0, description="time limit of one such picture")
    workers: int | None = Field(
        None, ge=0, description="processes that decode; 0 = none but this one; none: up to 8 beside a GPU, else 0"
    )
    cache_gib: float = Field(20, ge=0, description="bound of the cache of what vision encoders made of pictures")


Weighting = Literal["notellm", "count", "cosine", "lift"]


class PairsConfig(Settings):
    """Related pairs from a log (`noterec pairs`)."""

    weighting: Weighting = Field("cosine", description="how a pair of notes is scored; notellm is directional")
    min_support: int = Field(2, ge=1, description="people who must share a pair")
    top: int = Field(10, ge=1, description="related notes kept per anchor (t in arXiv:2403.01744)")
    lower: float | None = Field(None, description="scores below are dropped; notellm: 0.01 unless set")
    upper: float | None = Field(None, description="scores above are dropped; notellm: 30 unless set")
    window_days: float | None = Field(None, gt=0, description="only the last days of the log; none = all of it")
    max_notes_per_user: int = Field(1000, ge=2, description="a person's most recent notes; older ones are left out")
    partition_events: int = Field(
        250_000, ge=1000, description="co-occurrences are built for about this many events at a time"
    )


class SplitConfig(Settings):
    """Leak-proof splits (`noterec split`)."""

    by: Literal["random", "time"] = Field(
        "random", description="which notes are new: drawn at random, or the last created"
    )
    cold: float = Field(0.2, gt=0, lt=1, description="share of the notes held out as new for test")
    valid: float = Field(0.1, ge=0, lt=1, description="share of the notes held out as new for model choice")
    test_from: dt.datetime | None = Field(
        None,
        description="by time: notes created since then are test, in place of the share `cold`; UTC where it has no zone",
    )
    valid_from: dt.datetime | None = Field(
        None,
        description="by time: notes created since then and before test_from are valid, in place of the share `valid`",
    )
    top: int = Field(10, ge=1, description="relevant notes per query")
    min_support: int = Field(2, ge=1, description="people who must share a relevant pair")
    max_notes_per_user: int = Field(1000, ge=2, description="as in pairs; for the relevant notes only")
    seed: int = Field(0, ge=0)

    @pydantic.model_validator(mode="after")
    def _some_must_stay(self) -> Self:
        if self.cold + self.valid >= 1:
            raise ValueError("cold + valid must be below 1, so that some notes are left to train on")
        return self

    @pydantic.field_validator("test_from", "valid_from")
    @classmethod
    def _in_utc(cls, moment: dt.datetime | None) -> dt.datetime | None:
        if moment is None:
            return None
        return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)

    @pydantic.model_validator(mode="after")
    def _moments_fit(self) -> Self:
        if (self.test_from is None) != (self.valid_from is None):
            raise ValueError("test_from and valid_from belong together; give both, or neither")
        if self.test_from is not None and self.valid_from is not None:
            if self.by != "time":
                raise ValueError("test_from and valid_from are for by=time")
            if self.valid_from > self.test_from:
                raise ValueError("valid_from must not be later than test_from")
        return self
