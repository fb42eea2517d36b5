"""Charts drawn as SVG, without a script: they keep the width that they are given, and their text its size.

Places are percentages of the drawing, so nothing has to be measured; only lines and bands lie in a drawing that is stretched. Every
dot says its value under the pointer, and the whole chart says what it shows to those who can't see it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from noterec.errors import InputError
from noterec.pages import drawing
from noterec.pages.drawing import LANE_PX, NOTHING, Point, Row
from noterec.pages.palette import chosen
from noterec.pages.scale import Scale, around, over_values
from noterec.pages.text import marked_up, number

__all__ = ["Point", "Row", "curves", "history", "intervals"]

_LABELS = 4  # along the axis of a history, at most


def curves(
    series: Mapping[str, Sequence[Point]],
    *,
    x_label: str,
    y_label: str,
    log_x: bool = False,
    colours: Mapping[str, int] | None = None,
) -> Markup:
    """A line for each series, its intervals as a band, or as whiskers where it is a single point.

    Args:
        series: name -> points, in any order; a series without points is left out of the drawing, not of the legend.
        x_label, y_label: what the axes are, with the unit.
        log_x: whether equal steps along x are equal factors.
        colours: name -> style, of `palette`; in their order unless given.

    Raises:
        InputError: no point at all, a value that isn't finite, half an interval, or an x that isn't above zero where `log_x`.
    """
    points = [point for line in series.values() for point in line]
    if not points:
        raise InputError(f"a chart of {y_label} without a point; expected at least one")
    drawing.check(y_label, (value for point in points for value in (point.x, point.y)))
    drawing.check_intervals(y_label, points)
    if log_x and min(point.x for point in points) <= 0:
        raise InputError(
            f"a chart of {y_label} has an x of {min(p.x for p in points)}; a logarithm needs it above zero"
        )
    across = over_values([point.x for point in points], log=log_x)
    up = around([value for point in points for value in (point.y, point.low, point.high) if value is not None])
    styles = chosen(series, colours)
    drawn, dots, told = [], [], []
    for name, line in series.items():
        ordered = sorted(line, key=lambda point: point.x)
        if not ordered:
            continue
        spots = [drawing.Spot.of(point, across, up, name, x_label) for point in ordered]
        drawn.append(drawing.line(spots, styles[name]))
        dots += [drawing.dot(spot, styles[name], whisker=len(spots) == 1) for spot in spots]
        told.append(f"{name}: {number(ordered[0].y)} at {number(ordered[0].x)}")
        told[-1] += f" to {number(ordered[-1].y)} at {number(ordered[-1].x)}" if len(ordered) > 1 else ""
    ticks = [(across.place(tick), number(tick)) for tick in across.ticks]
    says = f"{y_label} by {x_label}. {'; '.join(told)}."
    return drawing.frame(drawn, dots, ticks, up, styles, says, x_label=x_label, y_label=y_label)


def history(
    series: Mapping[str, Sequence[tuple[str, float | None]]],
    *,
    y_label: str,
    x_label: str = "",
    colours: Mapping[str, int] | None = None,
) -> Markup:
    """A value for each label along the way, such as each night: a line that is interrupted where there is none.

    Args:
        series: name -> (label, value) in order, None = not measured. Labels that only some series have are put where they
            first come.
        y_label: what the values are, with the unit.
        x_label: what the labels are.
        colours: as in `curves`.

    Returns:
        The chart; a sentence instead where no value was measured yet.

    Raises:
        InputError: a value that isn't finite, or a label that a series has twice.
    """
    labels = list(dict.fromkeys(label for line in series.values() for label, _ in line))
    values = [value for line in series.values() for _, value in line if value is not None]
    if not values:
        return Markup('<p class="muted">{}: not measured yet.</p>').format(marked_up(y_label))
    drawing.check(y_label, values)
    place = {label: number for number, label in enumerate(labels)}
    across = Scale(0, len(labels) - 1, False, 3.0, ())
    up = around(values)
    styles = chosen(series, colours)
    drawn, dots, told = [], [], []
    for name, line in series.items():
        known = dict(line)
        if len(known) < len(line):
            raise InputError(f"a history of {y_label}: {name} has a label twice; expected one value for each")
        runs = itertools.groupby(labels, key=lambda label: known.get(label) is not None)
        for measured, run in runs:
            if not measured:
                continue
            spots = [
                drawing.Spot(
                    across.place(place[label]),
                    up.place(value),
                    None,
                    None,
                    f"{name}, {label}: {number(value)}".lstrip(", "),
                )
                for label in run
                if (value := known[label]) is not None
            ]
            drawn.append(drawing.line(spots, styles[name]))
            dots += [drawing.dot(spot, styles[name]) for spot in spots]
        last = next(((label, value) for label, value in reversed(line) if value is not None), None)
        if last is not None:
            told.append(f"{name}: {number(last[1])} at {last[0]}, the last")
    step = max(1, math.ceil((len(labels) - 1) / (_LABELS - 1)))
    shown = [label for at, label in enumerate(labels) if (len(labels) - 1 - at) % step == 0]
    ticks = [(across.place(place[label]), label) for label in shown]
    return drawing.frame(
        drawn, dots, ticks, up, styles, f"{y_label}. {'; '.join(told)}.", x_label=x_label, y_label=y_label
    )


def intervals(
    rows: Sequence[Row], *, x_label: str, colours: Mapping[str, int] | None = None, legend: bool = True
) -> Markup:
    """A dot with its interval for each row, one below the other, on a common axis; zero is marked where it lies within.

    Args:
        rows: at least one; a label that several rows in succession have stands once.
        x_label: what the values are, with the unit.
        colours: series -> style, as in `curves`.
        legend: whether the series are named; False where a legend stands nearby.

    Raises:
        InputError: no row, a value that isn't finite, or half an interval.
    """
    if not rows:
        raise InputError(f"a chart of {x_label} without a row; expected at least one")
    drawing.check(x_label, (row.mean for row in rows))
    drawing.check_intervals(x_label, rows)
    scale = around([value for row in rows for value in (row.mean, row.low, row.high) if value is not None])
    names = dict.fromkeys(row.series for row in rows)
    styles = chosen(names, colours)
    decimals = drawing.decimals_for(max(abs(row.mean) for row in rows))
    sign = "+" if scale.low < 0 else ""  # where values stand on both sides of zero
    lanes = []
    for label, group in itertools.groupby(rows, key=lambda row: row.label):
        own = list(group)
        marks = [drawing.grid(scale)]
        for lane, row in enumerate(own):
            spot = drawing.Spot.across(row, scale, (lane + 0.5) * LANE_PX)
            marks.append(drawing.bar(spot, styles[row.series]))
        values = Markup("").join(Markup("<span>{}</span>").format(f"{row.mean:{sign},.{decimals}f}") for row in own)
        lanes.append(
            Markup(
                '<div class="lane"><span class="label"><bdi>{}</bdi></span><svg height="{}">{}</svg>'
                '<span class="values">{}</span></div>'
            ).format(marked_up(label), LANE_PX * len(own), Markup("").join(marks), values)
        )
    axis = Markup("").join(drawing.tick_text(scale.place(tick), number(tick)) for tick in scale.ticks)
    says = f"{x_label}. " + "; ".join(drawing.says_of(row) for row in rows) + "."
    return Markup(
        '<figure class="chart">{}<div class="lanes" role="img" aria-label="{}">{}<div class="lane axis"><span></span>'
        '<svg height="18">{}</svg><span></span></div></div><p class="axis-label">{}</p></figure>'
    ).format(
        drawing.keys(styles) if legend and len(names) > 1 else NOTHING,
        marked_up(says),
        Markup("\n").join(lanes),
        axis,
        marked_up(x_label),
    )
