"""Draw what `benchmarks/pairs.py` measured: seconds and peak memory over the length of the log, both axes in equal factors.

    python benchmarks/pairs_plot.py /tmp/pairs/growth/table.json pairs.svg

A row of two charts for each kind of log in the tables. A dashed line shows what noterec would take if its time grew exactly
with the number of co-occurring event pairs. The ground is white, so that a dark page can show it too.
Needs: pip install matplotlib.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

Line = dict[str, Any]

COLOURS = {
    "noterec": "#00796b",
    "duckdb": "#d55e00",
    "duckdb-numbered": "#e69f00",
    "polars": "#0072b2",
    "sparse": "#777777",
}
MARKS = {
    "noterec": "o",
    "duckdb": "s",
    "duckdb-numbered": "D",
    "polars": "^",
    "sparse": "v",
}  # for those who see no colours
NAMES = {"sparse": "sparse (no direction)"}
MEASURES = {"seconds": "seconds", "peak_mib": "peak memory, MiB"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path, nargs="+", help="table.json of a run")
    parser.add_argument("svg", type=Path)
    given = parser.parse_args()
    lines: list[Line] = [line for table in given.table for line in json.loads(table.read_text())["lines"]]
    kinds: dict[str, list[Line]] = {}
    for line in lines:
        kinds.setdefault(_kind(line), []).append(line)
    plt.rcParams |= {"svg.hashsalt": "noterec", "font.size": 10}  # equal tables give equal files
    figure, grid = plt.subplots(len(kinds), 2, figsize=(10, 0.6 + 4 * len(kinds)), squeeze=False, layout="constrained")
    for row, (kind, own) in zip(grid, kinds.items(), strict=True):
        for axis, measure in zip(row, MEASURES, strict=True):
            draw(axis, own, measure)
            axis.set_title(kind, fontsize=10)
    named = {
        name: handle for axis in grid[:, 0] for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(named.values(), named.keys(), loc="outside upper center", ncols=3, frameon=False)
    given.svg.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(given.svg, metadata={"Date": None})


def draw(axis: Axes, lines: list[Line], measure: str) -> None:
    """One measure of all arms on one kind of log."""
    for arm in dict.fromkeys(line["arm"] for line in lines):
        own = sorted((line for line in lines if line["arm"] == arm), key=lambda line: line["events"])
        done = [line for line in own if not line["failed"]]
        failed = next((line for line in own if line["failed"]), None)
        if not done:
            continue
        places = [line["events"] for line in done], [line[measure] for line in done]
        width = 2.5 if arm == "noterec" else 1.5
        axis.plot(
            *places, marker=MARKS[arm], markersize=5, linewidth=width, color=COLOURS[arm], label=NAMES.get(arm, arm)
        )
        if failed:
            axis.annotate(
                f"{failed['failed']} at {_millions(failed['events'])}",
                (places[0][-1], places[1][-1]),
                xytext=(0, 8),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color=COLOURS[arm],
                path_effects=[withStroke(linewidth=3, foreground="white")],
            )
        if arm == "noterec" and measure == "seconds" and len(done) > 1:
            each = done[0]["seconds"] / done[0]["cooccurrences"]
            straight = [each * line["cooccurrences"] for line in done]
            axis.plot(places[0], straight, "--", color="#222222", linewidth=1, label="noterec, if in step with pairs")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xlabel("events of the log")
    axis.set_ylabel(MEASURES[measure])
    axis.set_xticks(sorted({line["events"] for line in lines}))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda events, _: _millions(events)))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)


def _kind(line: Line) -> str:
    notes = f"{line['catalogue']:,} notes" if line["catalogue_given"] else "50 events a note"
    return f"{notes}, Zipf exponent {line['zipf']}"


def _millions(events: float) -> str:
    return f"{events / 1e6:g} M"


if __name__ == "__main__":
    main()
