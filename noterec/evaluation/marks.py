"""A report's figures as charts and tables take them, and which arms stand where."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from noterec import pages
from noterec.evaluation.modalities import MISSING, arm_name
from noterec.evaluation.protocol import MAIN
from noterec.evaluation.report import Report
from noterec.evaluation.tables import interval, number
from noterec.pages import Figure, Point, Row

RELEVANT = "the relevant notes"
MOST_ARMS = 4  # of a plot with several lanes for each


def colours_of(report: Report) -> dict[str, int]:
    """The user's arms come first, so that they have the clearest colours; the relevant notes, which are no arm, the last."""
    own = [arm for arm in report.arms if report.arms[arm]["kind"] != "builtin"]
    return pages.palette([*own, *(arm for arm in report.arms if arm not in own), RELEVANT])


def partial_arms(report: Report) -> set[str]:
    """The arms that see a part of the note, or a wrong one: views of a model other than the whole."""
    return {arm_name(name, view) for name in report.modalities for view in MISSING}


def leading(report: Report) -> list[str]:
    """Arms for a plot with many lanes: the user's, fusions after them, and the best built-in one; at most MOST_ARMS in all.

    Where the user brings none, the first built-in ones.
    """
    builtin = [arm for arm in report.arms if report.arms[arm]["kind"] == "builtin"]
    own = [arm for arm in report.arms if arm not in builtin and arm not in partial_arms(report)]
    if not own or not builtin:
        return (own or builtin)[:MOST_ARMS]
    first = report.protocol["directions"][MAIN]["first"]
    return [*own[: MOST_ARMS - 1], max(builtin, key=lambda arm: float(report.arms[arm][first]["mean"]))]


def own_rows(report: Report, arms: Mapping[str, Any]) -> list[int]:
    """Which of some arms, the first being 0, are the user's."""
    return [place for place, arm in enumerate(arms) if arm in report.protocol["user_arms"]]


def row(label: str, value: Mapping[str, Any], series: str, name: str = "") -> Row:
    """A mean with its interval as a row of a chart."""
    says = f"{name or f'{label}, {series}'}: {interval(value)}"
    return Row(label, value["mean"], value["low"], value["high"], says, series)


def point(x: float, value: Mapping[str, Any], says: str = "") -> Point:
    """A mean with its interval as a point of a curve."""
    return Point(x, value["mean"], value["low"], value["high"], says)


def figure(value: Mapping[str, Any], *, best: bool = False) -> Figure:
    """A mean with its interval as a cell of a table."""
    small = "" if value["low"] is None else f"{number(value['low'])} – {number(value['high'])}"
    return Figure(number(value["mean"]), small, best)


def kept(value: Mapping[str, Any]) -> str:
    """A recall with its interval, and what it is against the whole vectors."""
    relative = change(value)
    return interval(value) + ("" if relative is None else f", {relative.text} % [{relative.small}]")


def change(value: Mapping[str, Any]) -> Figure | None:
    """A relative difference in percent; None of the whole itself, or where it finds nothing."""
    relative = value["relative"]
    if relative is None:
        return None
    mean, low, high = (100 * relative[key] for key in ("mean", "low", "high"))
    return Figure(f"{mean:+.1f}", f"{low:+.1f} – {high:+.1f}")


def arrow(direction: str) -> str:
    """The name of a direction as people write it."""
    return direction.replace("->", "→")
