"""What charts are drawn with: dots, lines and bands, and the axes around them, as SVG in percent of its size."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from noterec.errors import InputError
from noterec.pages.palette import css
from noterec.pages.scale import Scale
from noterec.pages.text import marked_up, number

LANE_PX = 17  # of one interval
NOTHING = Markup("")


@dataclass(frozen=True)
class Point:
    """A place of a curve: `y` at `x`, its interval (None = it has none), and what it says; its numbers unless given."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    says: str = ""


@dataclass(frozen=True)
class Row:
    """A value with its interval (None = it has none), and what it says; its numbers unless given.

    Attributes:
        series: what it is of, where a label has several rows; gives the colour. Rows of one label that follow one another
            share it.
    """

    label: str
    mean: float
    low: float | None
    high: float | None
    says: str = ""
    series: str = ""


@dataclass(frozen=True)
class Spot:
    """A dot: x, y and the ends of its interval in percent (or y in pixels, of a lane), and what it says."""

    x: float
    y: float
    low: float | None
    high: float | None
    says: str

    @classmethod
    def of(cls, point: Point, across: Scale, up: Scale, name: str, x_label: str) -> Spot:
        """A point of the curve `name`."""
        ends = [None if end is None else up.place(end) for end in (point.low, point.high)]
        says = point.says or f"{name}, {x_label} {number(point.x)}: {told(point.y, point.low, point.high)}"
        return cls(across.place(point.x), up.place(point.y), ends[0], ends[1], says)

    @classmethod
    def across(cls, row: Row, scale: Scale, y_px: float) -> Spot:
        """A row of a lane, so many pixels below its top."""
        ends = [None if end is None else scale.place(end) for end in (row.low, row.high)]
        return cls(scale.place(row.mean), y_px, ends[0], ends[1], says_of(row))


def says_of(row: Row) -> str:
    """What a row says under the pointer."""
    name = ", ".join(part for part in (row.label, row.series) if part)
    return row.says or f"{name}: {told(row.mean, row.low, row.high)}"


def told(mean: float, low: float | None, high: float | None) -> str:
    """A value with its interval."""
    return number(mean) if low is None or high is None else f"{number(mean)} [{number(low)}, {number(high)}]"


def line(spots: Sequence[Spot], style: int) -> Markup:
    """The band of the intervals, where every point has one, and the line; in a drawing of 100 by 100 that is stretched."""
    if len(spots) < 2:
        return NOTHING
    drawn = NOTHING
    if all(spot.low is not None for spot in spots):
        ends = [f"{spot.x:g},{100 - (spot.high or 0):g}" for spot in spots]
        ends += [f"{spot.x:g},{100 - (spot.low or 0):g}" for spot in reversed(spots)]
        drawn += Markup('<polygon class="band {}" points="{}"/>').format(css(style), " ".join(ends))
    path = " ".join(f"{spot.x:g},{100 - spot.y:g}" for spot in spots)
    return drawn + Markup('<polyline class="line {}" points="{}"/>').format(css(style), path)


def dot(spot: Spot, style: int, *, whisker: bool = False) -> Markup:
    """A dot of a curve, with its interval where it stands alone."""
    bar = NOTHING
    if whisker and spot.low is not None and spot.high is not None:
        bar = Markup('<line class="whisker {}" x1="{:g}%" x2="{:g}%" y1="{:g}%" y2="{:g}%"/>').format(
            css(style), spot.x, spot.x, 100 - spot.low, 100 - spot.high
        )
    return Markup('<g><title>{}</title>{}<circle class="dot {}" cx="{:g}%" cy="{:g}%" r="3.5"/></g>').format(
        marked_up(spot.says), bar, css(style), spot.x, 100 - spot.y
    )


def bar(spot: Spot, style: int) -> Markup:
    """A dot of a lane with its interval."""
    bar = NOTHING
    if spot.low is not None and spot.high is not None:
        bar = Markup('<line class="whisker {}" x1="{:g}%" x2="{:g}%" y1="{:g}" y2="{:g}"/>').format(
            css(style), spot.low, spot.high, spot.y, spot.y
        )
    return Markup('<g><title>{}</title>{}<circle class="dot {}" cx="{:g}%" cy="{:g}" r="4"/></g>').format(
        marked_up(spot.says), bar, css(style), spot.x, spot.y
    )


def grid(scale: Scale) -> Markup:
    """The upright lines behind a lane."""
    return Markup("").join(
        Markup('<line class="{}" x1="{:g}%" x2="{:g}%" y1="0" y2="100%"/>').format(
            "zero" if tick == 0 and scale.low < 0 else "grid", scale.place(tick), scale.place(tick)
        )
        for tick in scale.ticks
    )


def tick_text(place: float, text: str) -> Markup:
    """A label below an axis."""
    return Markup('<text x="{:g}%" y="14" text-anchor="middle">{}</text>').format(place, marked_up(text))


def frame(
    drawn: Sequence[Markup],
    dots: Sequence[Markup],
    ticks: Sequence[tuple[float, str]],
    up: Scale,
    styles: Mapping[str, int],
    says: str,
    *,
    x_label: str,
    y_label: str,
) -> Markup:
    """Axes, their labels and a legend around what is drawn."""
    heights = [(100 - up.place(tick), number(tick)) for tick in up.ticks]
    grid = Markup("").join(
        Markup('<line class="grid" x1="0" x2="100%" y1="{:g}%" y2="{:g}%"/>').format(y, y) for y, _ in heights
    )
    left = Markup("").join(
        Markup('<text x="100%" y="{:g}%" dy="4" text-anchor="end">{}</text>').format(y, text) for y, text in heights
    )
    below = Markup("").join(tick_text(x, text) for x, text in ticks)
    return Markup(
        '<figure class="chart">{}<p class="axis-label">{}</p><div class="frame" role="img" aria-label="{}">'
        '<svg class="left">{}</svg><svg class="plot">{}<svg viewBox="0 0 100 100" preserveAspectRatio="none">{}</svg>{}</svg>'
        '<svg class="below">{}</svg></div>{}</figure>'
    ).format(
        keys(styles) if len(styles) > 1 else NOTHING,
        marked_up(y_label),
        marked_up(says),
        left,
        grid,
        Markup("\n").join(drawn),
        Markup("\n").join(dots),
        below,
        Markup('<p class="axis-label x">{}</p>').format(marked_up(x_label)) if x_label else NOTHING,
    )


def keys(styles: Mapping[str, int]) -> Markup:
    """A legend: the style and the name of each series."""
    keys = [
        Markup(
            '<li><svg width="20" height="10" aria-hidden="true"><line class="line {}" x1="0" x2="20" y1="5" y2="5"/>'
            '<circle class="dot {}" cx="10" cy="5" r="3.5"/></svg><bdi>{}</bdi></li>'
        ).format(css(style), css(style), marked_up(name))
        for name, style in styles.items()
    ]
    return Markup('<ul class="legend">{}</ul>').format(Markup("").join(keys))


def decimals_for(largest: float) -> int:
    """So many that the largest value has three digits that count, and all stand in one column; a share has three at least."""
    if not largest:
        return 0
    before = math.floor(math.log10(largest)) + 1 if largest > 1 else math.ceil(math.log10(largest))
    return min(6, max(0, 3 - before))


def check(what: str, values: Iterable[float]) -> None:
    """Refuse values that no axis has a place for."""
    for value in values:
        if not math.isfinite(value):
            raise InputError(
                f"a chart of {what} has the value {value}; expected finite numbers: leave out what is unknown"
            )


def check_intervals(what: str, marks: Iterable[Point | Row]) -> None:
    """Refuse intervals with one end, or ends that no axis has a place for."""
    for mark in marks:
        if (mark.low is None) != (mark.high is None):
            raise InputError(
                f"a chart of {what} has half an interval ({mark.low}, {mark.high}); expected both ends or none"
            )
        if mark.low is not None and mark.high is not None:
            check(what, (mark.low, mark.high))
