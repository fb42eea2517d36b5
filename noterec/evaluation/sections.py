"""The sections of report.html that have plots: directions, slices, smaller vectors, and what is shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from noterec import pages
from noterec.evaluation.marks import (
    RELEVANT,
    arrow,
    change,
    colours_of,
    figure,
    kept,
    leading,
    own_rows,
    point,
    row,
)
from noterec.evaluation.popularity import WORDS as POPULARITY
from noterec.evaluation.protocol import MAIN
from noterec.evaluation.report import Report
from noterec.evaluation.slices import FIRST_STEP
from noterec.evaluation.tables import SENTENCES
from noterec.pages import Row, charts


@dataclass(frozen=True)
class Panel:
    """A chart with its heading, a sentence below it, and the same as a table, folded."""

    title: str
    chart: Markup
    says: str = ""
    table: Markup | None = None


@dataclass(frozen=True)
class Part:
    """A section of the page."""

    anchor: str
    title: str
    says: list[str]
    panels: list[Panel]
    tables: list[Markup]


def directions(report: Report) -> Iterator[Part]:
    """Recall and paired differences in each direction."""
    colours = colours_of(report)
    for place, (name, record) in enumerate(report.protocol["directions"].items(), start=1):
        arms = {arm: report.metrics(arm, name) for arm in report.arms}
        says = [
            f"{SENTENCES[name][0].upper()}{SENTENCES[name][1:]}. {record['queries']:,} queries, {record['relevant']:,} relevant "
            f"notes, {record['candidates']:,} candidates."
        ]
        if record["left_out_at"]:
            cut = ", ".join(f"{k:,}" for k in record["left_out_at"])
            says.append(f"Cut-offs {cut} are left out: in so small a pool every arm would reach 1.")
        if name != MAIN and "popularity" in arms:
            says.append("Popularity knows no new note: nobody has clicked one yet.")
        missing = {arm: entry["unasked"].get(name, 0) for arm, entry in report.arms.items()}
        if any(missing.values()):
            told = ", ".join(f"{arm} {count:,}" for arm, count in missing.items() if count)
            says.append(f"Queries without a vector or a word, counted as misses: {told}.")
        # A single metric is in the chart already.
        metrics, single = _metrics(report, arms), all(len(found) == 1 for found in arms.values())
        panels = [Panel(f"Recall of {arrow(name)}", _recalls(record, arms, colours), table=metrics if single else None)]
        panels += _against(report, name, record["first"])
        yield Part(f"d{place}", arrow(name), says, panels, [] if single else [metrics])


def _recalls(record: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]], colours: Mapping[str, int]) -> Markup:
    """Recall against its cut-off; where there is only one, as intervals."""
    cuts = record["at"]
    if len(cuts) == 1:
        metric = f"recall@{cuts[0]}"
        rows = [row(arm, metrics[metric], arm) for arm, metrics in arms.items()]
        return charts.intervals(rows, x_label=metric, colours=colours, legend=False)
    lines = {arm: [point(k, metrics[f"recall@{k}"]) for k in cuts] for arm, metrics in arms.items()}
    return charts.curves(lines, x_label="K, places that count", y_label="recall@K", log_x=cuts[0] > 0, colours=colours)


def _against(report: Report, direction: str, metric: str) -> Iterator[Panel]:
    """Paired differences to the best built-in arm, or else to the user's first."""
    entries = [entry for entry in report.paired if (entry["direction"], entry["metric"]) == (direction, metric)]
    builtin = [entry for entry in entries if report.arms[entry["against"]].get("kind") == "builtin"]
    entries = builtin or entries
    if not entries:
        return
    other = entries[0]["against"]
    relative = all(entry.get("relative") is not None for entry in entries)
    rows = []
    for entry in entries:
        value = entry["relative"] if relative else {**entry, "mean": entry["difference"]}
        scaled = {end: 100 * value[end] if relative else value[end] for end in ("mean", "low", "high")}
        says = (
            f"{entry['arm']}: {scaled['mean']:+.4g} [{scaled['low']:+.4g}, {scaled['high']:+.4g}], {entry['verdict']}"
        )
        rows.append(Row(entry["arm"], scaled["mean"], scaled["low"], scaled["high"], says, entry["arm"]))
    unit = f"% of {other}'s {metric}" if relative else f"difference of {metric}"
    chart = charts.intervals(rows, x_label=unit, colours=colours_of(report), legend=False)
    verdicts = "; ".join(f"{entry['arm']} {entry['verdict']}" for entry in entries)
    yield Panel(f"{metric} against {other}, query by query", chart, f"On the same queries, 95 %: {verdicts}.")


def _metrics(report: Report, arms: Mapping[str, Mapping[str, Any]]) -> Markup:
    """All metrics but hits, which say little beside recall and are in metrics.json."""
    names = [name for name in next(iter(arms.values())) if not name.startswith("hit@")]
    best = {name: max(metrics[name]["mean"] for metrics in arms.values()) for name in names}
    rows = [
        [
            arm,
            *(
                figure(metrics[name], best=not name.startswith("coverage") and metrics[name]["mean"] == best[name])
                for name in names
            ),
        ]
        for arm, metrics in arms.items()
    ]
    return pages.table(["arm", *names], rows, caption="metrics", own=own_rows(report, arms))


def slices(report: Report) -> Iterator[Part]:
    """Where an arm works, and where not."""
    says = report.protocol["slices"]
    if not says:
        return
    metric = f"recall@{report.protocol['at'][-1]}"
    arms = leading(report)
    colours = colours_of(report)
    families: dict[str, list[str]] = {}
    for name, record in says.items():
        families.setdefault(record["by"], []).append(name)
    panels = []
    for family, names in families.items():
        rows = [
            row(says[name]["label"], report.arms[arm]["slices"][name][metric], arm, f"{says[name]['label']} ({arm})")
            for name in names
            for arm in arms
        ]
        told = "; ".join(
            f"{says[name]['label']}: {says[name]['queries']:,} queries" + _bounds(says[name]) for name in names
        )
        cells = [
            [
                says[name]["label"],
                says[name]["queries"],
                *(figure(entry["slices"][name][metric]) for entry in report.arms.values()),
            ]
            for name in names
        ]
        table = pages.table(["slice", "queries", *report.arms], cells, caption=f"{metric} by {family}")
        panels.append(Panel(f"By {family}", charts.intervals(rows, x_label=metric, colours=colours), f"{told}.", table))
    sentence = (
        f"{metric} of {arrow(MAIN)} on some of the queries, or of their relevant notes. Intervals that overlap may still differ: "
        "the arms are asked the same queries."
    )
    yield Part("slices", "Where it works, and where not", [sentence], panels, [])


def _bounds(record: Mapping[str, Any]) -> str:
    return "" if record["says"] == FIRST_STEP else f", {record['says']}"


def compact(report: Report) -> Iterator[Part]:
    """What shorter and rounder vectors would cost."""
    found = {arm: entry["compact"] for arm, entry in report.arms.items() if entry.get("compact")}
    if not found:
        return
    colours = colours_of(report)
    first = next(iter(found.values()))
    metric, queries = first["metric"], first["queries"]
    panels = []
    if any(len(record["dimensions"]) > 1 for record in found.values()):
        lines = {
            arm: [
                point(int(size), value, f"{arm}, {size} dimensions, {value['bytes']:,} bytes: {kept(value)}")
                for size, value in record["dimensions"].items()
            ]
            for arm, record in found.items()
        }
        chart = charts.curves(lines, x_label="dimensions kept", y_label=metric, log_x=True, colours=colours)
        rows = [
            [arm, int(size), value["bytes"], figure(value), change(value)]
            for arm, record in found.items()
            for size, value in record["dimensions"].items()
        ]
        table = pages.table(
            ["arm", "dimensions", "bytes per note", metric, "against the whole, %"], rows, caption="dimensions"
        )
        panels.append(
            Panel(
                f"{metric} by dimension", chart, "The first dimensions of each vector, divided by their length.", table
            )
        )
    stored = [(arm, name, record["precisions"][name]) for name in first["precisions"] for arm, record in found.items()]
    lanes = [row(f"{name}, {value['bytes']:,} bytes", value, arm) for arm, name, value in stored]
    cells = [[arm, name, value["bytes"], figure(value), change(value)] for arm, name, value in stored]
    panels.append(
        Panel(
            f"{metric} by precision of the stored vectors",
            charts.intervals(lanes, x_label=metric, colours=colours),
            "int8: 255 steps, scaled per dimension; binary: the sign of each number.",
            pages.table(
                ["arm", "precision", "bytes per note", metric, "against the whole, %"], cells, caption="precision"
            ),
        )
    )
    asked = report.protocol["directions"][MAIN]["queries"]
    drawn = f"{queries:,} of the {asked:,} queries, drawn at random" if queries < asked else f"all {asked:,} queries"
    says = (
        f"{arrow(MAIN)}, {drawn}, searched exactly. This is the precision of storage, the query's vector included. What an "
        "encoder loses by running in a lower precision is another question, which noterec calibrate answers."
    )
    yield Part("smaller", "What smaller vectors would cost", [says], panels, [])


def shown(report: Report) -> Iterator[Part]:
    """Which notes are shown: coverage and popularity."""
    record = report.protocol.get("popularity")
    if record is None:
        return
    at, least = record["at"], record["least_clicks"]
    found = [(arm, entry["popularity"]) for arm, entry in report.arms.items() if entry.get("popularity")]
    beside = [(RELEVANT, record["relevant"]), *found]
    plotted = {RELEVANT, "popularity", *leading(report)}
    colours = colours_of(report)
    rows = [
        row(words, values[name], arm) for name, words in POPULARITY.items() for arm, values in beside if arm in plotted
    ]
    coverage = f"coverage@{at}"
    covered = [
        Row(arm, metrics[coverage]["mean"], None, None, series=arm)
        for arm, metrics in ((arm, report.metrics(arm)) for arm in report.arms)
        if coverage in metrics
    ]
    table = pages.table(
        ["", *POPULARITY.values()],
        [[arm, *(figure(values[name]) for name in POPULARITY)] for arm, values in beside],
        caption="popularity",
    )
    panels = [
        Panel(
            f"Where the first {at} places go",
            charts.intervals(rows, x_label="share of the notes shown", colours=colours),
            f"Clicks are those of the training log. The most clicked 1 % have at least {least[0]:,}, the most clicked 10 % at "
            f"least {least[1]:,}; {record['unclicked_notes']:,} notes have none. Percentile: the share of notes with fewer clicks.",
            table,
        ),
        Panel(
            f"Share of the catalogue in the first {at} places",
            charts.intervals(covered, x_label=f"{coverage}, over all queries", colours=colours, legend=False),
            "A random list has most of it; so it is no aim by itself.",
        ),
    ]
    says = (
        f"{RELEVANT.capitalize()} are what people really engaged with beside the queries. An arm that shows popular notes whatever "
        "was asked stands far from them."
    )
    yield Part("shown", "What it shows", [says], panels, [])
