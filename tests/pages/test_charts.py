"""Charts: values at their places, gaps, lone points, and what is refused."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from noterec.errors import InputError
from noterec.pages import Point, Row, charts, palette
from noterec.pages.scale import around, over_values


def tree(chart: Markup) -> ElementTree.Element:
    """The chart as XML: it must be well formed whatever it was given."""
    return ElementTree.fromstring(str(chart))


def found(chart: Markup, tag: str, kind: str) -> list[ElementTree.Element]:
    return [e for e in tree(chart).iter(tag) if kind in e.get("class", "").split() and e.get("r") != "legend"]


def plot(chart: Markup) -> ElementTree.Element:
    return next(e for e in tree(chart).iter("svg") if e.get("class") == "plot")


def dots(chart: Markup) -> list[tuple[float, float]]:
    return [
        (float(e.get("cx", "").rstrip("%")), float(e.get("cy", "").rstrip("%"))) for e in plot(chart).iter("circle")
    ]


def test_a_curve_has_its_points_where_they_belong() -> None:
    line = [Point(100, 1.0, 0.8, 1.0), Point(1, 0.0, 0.0, 0.1), Point(10, 0.5, 0.4, 0.6)]
    chart = charts.curves({"mine": line}, x_label="K", y_label="recall", log_x=True)
    assert dots(chart) == [(3, 100), (50, 50), (97, 0)]  # from left to right; y counts from the top
    (path,) = found(chart, "polyline", "line")
    assert path.get("points") == "3,100 50,50 97,0"
    (band,) = found(chart, "polygon", "band")
    assert band.get("points") == "3,90 50,40 97,0 97,20 50,60 3,100"
    assert [e.text for e in tree(chart).iter("title")][2] == "mine, K 100: 1 [0.8, 1]"
    assert "recall by K. mine: 0 at 1 to 1 at 100." in str(chart)
    assert dots(charts.curves({"mine": line}, x_label="K", y_label="recall"))[1][0] == pytest.approx(
        3 + 94 * 9 / 99, abs=1e-3
    )


def test_one_point_stands_in_the_middle_with_whiskers() -> None:
    chart = charts.curves({"a": [Point(10, 0.5, 0.25, 1.0)], "b": []}, x_label="K", y_label="recall", log_x=True)
    assert dots(chart) == [(50, 50)]
    assert not found(chart, "polyline", "line") and not found(chart, "polygon", "band")
    (whisker,) = found(chart, "line", "whisker")
    assert (whisker.get("y1"), whisker.get("y2")) == ("75%", "0%")


def test_a_curve_without_intervals_has_no_band() -> None:
    chart = charts.curves({"a": [Point(1, 1), Point(2, 2, 1, 3)]}, x_label="x", y_label="y")
    assert not found(chart, "polygon", "band") and len(found(chart, "polyline", "line")) == 1


@pytest.mark.parametrize(
    ("series", "message"),
    [
        ({}, "without a point"),
        ({"a": []}, "without a point"),
        ({"a": [Point(1, math.nan)]}, "has the value nan"),
        ({"a": [Point(math.inf, 1)]}, "has the value inf"),
        ({"a": [Point(1, 1, 0, math.nan)]}, "has the value nan"),
        ({"a": [Point(1, 1, 0.5)]}, "half an interval"),
        ({"a": [Point(0, 1)]}, "logarithm"),
    ],
)
def test_curves_refuse_what_has_no_place(series: dict[str, list[Point]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        charts.curves(series, x_label="x", y_label="y", log_x=True)


def test_intervals_share_an_axis_and_a_label() -> None:
    rows = [Row("low", 0.5, 0.25, 0.75, series="a"), Row("low", 1.0, None, None, series="b"), Row("high", 0.25, 0, 0.5)]
    chart = charts.intervals(rows, x_label="recall")
    assert [e.text for e in tree(chart).iter("bdi")][-2:] == ["low", "high"]
    lanes = [e for e in tree(chart).iter("div") if e.get("class") == "lane"]
    assert [[c.get("cx") for c in lane.iter("circle")] for lane in lanes] == [["50%", "100%"], ["25%"]]
    bars = [e for lane in lanes for e in lane.iter("line") if "whisker" in e.get("class", "")]
    assert [(e.get("x1"), e.get("x2")) for e in bars] == [("25%", "75%"), ("0%", "50%")]
    assert [e.text for e in lanes[0].iter("title")] == ["low, a: 0.5 [0.25, 0.75]", "low, b: 1"]
    assert [e.text for lane in lanes for e in lane.iter("span") if not e.get("class")] == ["0.500", "1.000", "0.250"]
    assert not found(chart, "line", "zero")


def test_differences_have_a_zero_and_signs() -> None:
    chart = charts.intervals([Row("a", 10.0, -5.0, 20.0), Row("b", -2.5, -5.0, -1.0)], x_label="%")
    assert len(found(chart, "line", "zero")) == 2
    assert ">+10.0<" in chart and ">-2.5<" in chart


def test_intervals_refuse_what_has_no_place() -> None:
    for rows, message in (
        ([], "without a row"),
        ([Row("a", math.nan, None, None)], "has the value nan"),
        ([Row("a", 1, None, 2)], "half an interval"),
        ([Row("a", 1, 0, math.inf)], "has the value inf"),
    ):
        with pytest.raises(InputError, match=message):
            charts.intervals(rows, x_label="x")


def test_a_history_is_interrupted_where_nothing_was_measured() -> None:
    nights = [f"2026-01-{day:02d}" for day in range(1, 8)]
    values = [1.0, 2.0, None, 4.0, None, 2.0, 1.0]
    chart = charts.history({"recall": list(zip(nights, values, strict=True))}, y_label="recall")
    lines = found(chart, "polyline", "line")
    assert [len((line.get("points") or "").split()) for line in lines] == [2, 2]  # a lone night is a dot
    assert len(dots(chart)) == 5
    assert [e.text for e in tree(chart).iter("text")][-4:] == ["2026-01-01", "2026-01-03", "2026-01-05", "2026-01-07"]
    assert "recall: 1 at 2026-01-07, the last" in chart


def test_a_history_of_one_night_or_of_none() -> None:
    assert dots(charts.history({"a": [("first", 0.5)]}, y_label="y"))[0][0] == 50
    assert "y: not measured yet" in charts.history({"a": [("first", None)]}, y_label="y")
    assert "not measured yet" in charts.history({}, y_label="y")
    with pytest.raises(InputError, match="has the value nan"):
        charts.history({"a": [("first", math.nan)]}, y_label="y")
    with pytest.raises(InputError, match="has a label twice"):
        charts.history({"a": [("first", 1.0), ("first", 2.0)]}, y_label="y")


def test_hostile_names_are_text() -> None:
    bad = "<script>\"'&\x00\ud800\u202e"
    for chart in (
        charts.curves({bad: [Point(1, 1, says=bad)], "b": [Point(2, 1)]}, x_label=bad, y_label=bad),
        charts.intervals([Row(bad, 1, None, None, bad, bad), Row("b", 1, None, None, series="c")], x_label=bad),
        charts.history({bad: [(bad, 1.0)], "b": [(bad, 2.0)]}, y_label=bad, x_label=bad),
    ):
        assert "<script" not in chart and not re.search("[\x00\ud800\u202e]", chart)
        assert "<script>\"'&\ufffd\ufffd\ufffd" in "".join(tree(chart).itertext())
        chart.encode()


def test_a_name_keeps_its_style() -> None:
    colours = palette(["a", "b", "a", "c"])
    assert colours == {"a": 0, "b": 1, "c": 2}
    chart = charts.curves({"c": [Point(1, 1)], "new": [Point(2, 2)]}, x_label="x", y_label="y", colours=colours)
    assert [e.get("class") for e in plot(chart).iter("circle")] == ["dot k2", "dot k0"]  # the free style for the other
    many = palette(map(str, range(20)))
    assert (many["7"], many["8"], many["16"]) == (7, 8, 0)
    chart = charts.curves({"8": [Point(1, 1)]}, x_label="x", y_label="y", colours=many)
    assert [e.get("class") for e in plot(chart).iter("circle")] == ["dot k0 second"]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=20))
def test_an_axis_holds_its_values_and_its_ticks_are_few(values: list[float]) -> None:
    scale = around(values)
    room = 1e-9 * max(map(abs, values)) + 1e-200
    assert scale.low <= min(values) + room and scale.high >= max(values) - room
    assert 2 <= len(scale.ticks) <= 8
    assert all(-0.01 <= scale.place(value) <= 100.01 for value in values)


def test_an_axis_begins_at_zero_unless_all_is_far_from_it() -> None:
    assert around([0.1, 0.5]).ticks == (0, 0.1, 0.2, 0.3, 0.4, 0.5)
    assert around([0.45, 0.5]).ticks == (0.45, 0.46, 0.47, 0.48, 0.49, 0.5)
    assert around([0, 0]).ticks == (0, 0.2, 0.4, 0.6, 0.8, 1.0)
    assert around([7, 7]).low < 7 < around([7, 7]).high


def test_labels_that_would_meet_are_left_out() -> None:
    assert over_values([1, 2, 1000], log=False).ticks == (2, 1000)
    assert over_values([10, 50, 100], log=True).ticks == (10, 50, 100)
