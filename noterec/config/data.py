"""Settings of the stages that make data: the sample, pictures, pairs, splits."""

from __future__ import annotations

import datetime as dt
import math
from typing import Annotated, Literal, Self

import pydantic
from pydantic import Field

from noterec.config.settings import Settings
from noterec.schema import ACTIONS, ENGAGED


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


Weighting = Literal["notellm", "count", "cosine", "lift", "pmi", "npmi", "swing"]


def _size(given: object, read: pydantic.ValidatorFunctionWrapHandler) -> object:
    try:
        size = read(given)
    except pydantic.ValidationError:
        size = 0
    if size < 1:
        raise ValueError("expected a size with its unit, such as 500MB or 2GB")
    return size


Memory = Annotated[pydantic.ByteSize, pydantic.WrapValidator(_size)]
MEMORY = Field(
    "1GB",
    validate_default=True,
    description="bound of what counting holds; what doesn't fit goes through temporary files",
)


class PairsConfig(Settings):
    """Related pairs from a log (`noterec pairs`)."""

    weighting: Weighting = Field("cosine", description="how a pair of notes is scored; notellm is directional")
    min_support: int = Field(2, ge=1, description="people who must share a pair")
    top: int = Field(10, ge=1, description="related notes kept per anchor (t in arXiv:2403.01744)")
    lower: float | None = Field(None, description="scores below are dropped; notellm: 0.01 unless set")
    upper: float | None = Field(None, description="scores above are dropped; notellm: 30 unless set")
    actions: dict[str, float] = Field(
        {},
        description="strength of actions, such as {save: 2, view: -0.1}; engagement counts 1 unless set, views and impressions 0, "
        "and a negative one is evidence against a note that somebody saw and left",
    )
    window_days: int | None = Field(
        None,
        ge=1,
        description="only the last days of the log, whole days in UTC, that of its last event included; none = all",
    )
    half_life_days: float | None = Field(
        None,
        gt=0,
        description="engagement so much older than the end of the log's last day (UTC) counts half; none = age doesn't matter",
    )
    max_notes_per_user: int = Field(1000, ge=2, description="a person's most recent notes; older ones are left out")
    per_category_pair: int | None = Field(
        None, ge=1, description="pairs kept for each combination of two categories, as in arXiv:2403.01744; none = all"
    )
    swing_alpha: float = Field(
        1.0, gt=0, description="swing: added to what two people share besides, α in arXiv:2010.05525"
    )
    swing_people: int = Field(
        200, ge=2, description="swing: people looked at per note, chosen by a hash where there are more"
    )
    memory: Memory = MEMORY

    @pydantic.model_validator(mode="after")
    def _bounds_leave_something(self) -> Self:
        lower = -math.inf if self.lower is None else self.lower
        upper = math.inf if self.upper is None else self.upper
        if not lower <= upper:  # nor where one is no number
            raise ValueError(
                f"lower is {self.lower} and upper is {self.upper}, which no score is between; swap or raise them"
            )
        return self

    @pydantic.field_validator("actions")
    @classmethod
    def _known_actions(cls, actions: dict[str, float]) -> dict[str, float]:
        for action, strength in actions.items():
            if action not in ACTIONS:
                raise ValueError(f"unknown action {action!r}; expected some of {', '.join(ACTIONS)}")
            if not math.isfinite(strength):
                raise ValueError(f"the strength of {action!r} is {strength}; expected a number")
            if (action in ENGAGED) != (strength > 0) and strength != 0:
                raise ValueError(
                    f"the strength of {action!r} is {strength}; expected at least 0 for engagement ({', '.join(ENGAGED)}), and "
                    "at most 0 for what is only seen"
                )
        if not any(actions.get(action, 1.0) > 0 for action in ENGAGED):
            raise ValueError(f"no engagement has a strength; expected one above 0 among {', '.join(ENGAGED)}")
        return actions


class SplitConfig(Settings):
    """Leak-proof splits (`noterec split`)."""

    by: Literal["random", "time", "user"] = Field(
        "random",
        description="which notes are new: drawn at random, or the last created; user: drawn at random too, and what is relevant is "
        "counted by people of whom training saw nothing",
    )
    cold: float = Field(0.2, gt=0, lt=1, description="share of the notes held out as new for test")
    valid: float = Field(0.1, ge=0, lt=1, description="share of the notes held out as new for model choice")
    users: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="by user: share of the people held out; valid and test share them as they share the new notes",
    )
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
    memory: Memory = MEMORY
    seed: int = Field(0, ge=0)

    @pydantic.model_validator(mode="after")
    def _people_are_held_out(self) -> Self:
        if self.users != 0.5 and self.by != "user":
            raise ValueError(f"users is for by=user, and by is {self.by}; give by=user too, or leave users out")
        return self

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
