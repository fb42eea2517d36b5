"""The page of a night: what came of it, stage by stage and gate by gate, beside the nights before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from noterec import pages, storage
from noterec.errors import NoterecError
from noterec.index.bundle import live_name
from noterec.index.search import Index
from noterec.nightly.bundles import EVALUATION
from noterec.nightly.history import records
from noterec.nightly.home import TABLES
from noterec.nightly.identity import GATES
from noterec.nightly.record import Record
from noterec.nightly.run import LOG, Run
from noterec.nightly.stages import STAGES

FILE = "report.html"
NIGHTS = 30  # of the curves
EXAMPLES, SHOWN = 8, 4  # new notes, and neighbours of each
CURVES = {
    "Notes encoded and notes that came": ("encoded", "added"),
    "Seconds": ("seconds",),
}
WORDS = {
    "published": "Published",
    "stopped": "Stopped by a gate; what was published before stays",
    "failed": "Failed; what was published before stays",
    "interrupted": "Interrupted; the same command goes on",
    "running": "Running",
}
STYLE = {"published": "passed", "stopped": "stopped", "failed": "stopped", "interrupted": "accepted"}


def write_report(night: Run) -> Path:
    """Write report.html in the run's folder, and as the last night in the job's folder."""
    record = night.record
    live = live_name(night.home.index)
    history = list(records(night.home))[-NIGHTS:]
    told = {
        "title": f"Night {night.name}",
        "night": night,
        "facts": record.facts,
        "outcome": _outcome(night),
        "style": STYLE.get(record.outcome, ""),
        "live": live,
        "error": record.facts.get("error"),
        "figures": _figures(record),
        "stages": _stages(night),
        "gates": _gates(night),
        "curves": _curves(history),
        "examples": _examples(night) if record.outcome == "published" else [],
        "evaluation": _evaluation(night),
        "logged": (night.folder / LOG).is_file(),
    }
    runs = night.folder.parent
    for file in (night.folder / FILE, night.home.report):
        way = os.path.relpath(runs, file.parent)  # links go from where the page is
        text = pages.render(
            "night.html",
            package="noterec.nightly",
            own=f"{way}/{night.name}",
            nights=_nights(history, night.name, way),
            **told,
        )
        with storage.atomic_write(file) as out:
            out.write(text.encode())
    return night.folder / FILE


def _outcome(night: Run) -> str:
    """How the run stands; the bundle that it made live is out even where a later stage failed."""
    out = night.record.outcome_of("publish")
    if out is not None and night.record.outcome in ("failed", "interrupted"):
        return "The bundle is published, and a later stage failed; the same command goes on"
    return WORDS[night.record.outcome]


def _evaluation(night: Run) -> str | None:
    """The evaluation's page, or else its text, as this page names it."""
    files = (f"{EVALUATION}/{name}" for name in ("report.html", "report.md"))
    return next((file for file in files if (night.folder / file).is_file()), None)


def _figures(record: Record) -> dict[str, Any]:
    """What all stages counted, the later ones winning."""
    found: dict[str, Any] = {}
    for stage in record.facts["stages"].values():
        found.update(stage.get("figures") or {})
    return found


def _stages(night: Run) -> Markup:
    rows: list[list[object]] = []
    for name in STAGES:
        stage = night.record.facts["stages"].get(name)
        if stage is None:
            rows.append([name, "not reached", None, None])
        else:
            rows.append([name, stage["status"], stage.get("seconds"), stage.get("says")])
    return pages.table(["stage", "", "seconds", "what"], rows, caption="Stages")


def _gates(night: Run) -> Markup:
    found = {gate.name: gate for gate in night.gates()}
    rows: list[list[object]] = []
    for name in GATES:
        gate = found.get(name)
        if gate is None:
            rows.append([name, "not reached", None, None, None])
            continue
        css = {"passed": "good", "stopped": "bad", "accepted": "warn"}.get(gate.verdict, "muted")
        verdict = Markup('<span class="{}">{}</span>').format(css, gate.verdict)
        rows.append([name, verdict, gate.value, gate.bound, gate.says])
    return pages.table(["gate", "verdict", "value", "bound", "measured"], rows, caption="Gates")


def _curves(history: list[Record]) -> list[tuple[str, Markup]]:
    """Recall of the nights that were published, and their sizes and times; one night is no curve."""
    history = [record for record in history if record.outcome == "published"]
    if len(history) < 2:
        return []
    figures = [(record.folder.name, {**_figures(record), "seconds": _seconds(record)}) for record in history]
    names = {name for _, found in figures for name in found}
    drawn = []
    for direction in ("new -> all", "warm -> new"):
        wanted = sorted(name for name in names if "recall@" in name and name.endswith(direction))
        if wanted:
            series = {
                ("BM25" if name.startswith("bm25") else "noterec"): [(run, found.get(name)) for run, found in figures]
                for name in reversed(wanted)
            }
            metric = wanted[-1].split()[0]
            drawn.append(
                (f"{direction}: {metric} on tonight's new notes", pages.charts.history(series, y_label=metric))
            )
    for title, keys in CURVES.items():
        series = {key: [(run, found.get(key)) for run, found in figures] for key in keys if key in names}
        if any(value is not None for points in series.values() for _, value in points):
            drawn.append((title, pages.charts.history(series, y_label=title.partition(" ")[0].lower())))
    return drawn


def _nights(history: list[Record], own: str, way: str) -> Markup:
    rows: list[list[object]] = []
    mark = 0
    for place, record in enumerate(reversed(history)):
        figures = _figures(record)
        recall = next((value for key, value in figures.items() if key.startswith("recall@")), None)
        link = Markup('<a href="{}">{}</a>').format(f"{way}/{record.folder.name}/{FILE}", record.folder.name)
        if record.folder.name == own:
            mark, link = place, Markup("{}").format(own)
        rows.append(
            [
                link, record.outcome, figures.get("notes"), figures.get("added"), figures.get("deleted"),
                figures.get("encoded"), recall, _seconds(record), figures.get("bundle"),
            ]
        )  # fmt: skip
    columns = ["run", "outcome", "notes", "came", "went", "encoded", "recall", "seconds", "bundle"]
    return pages.table(columns, rows, caption="Nights", own=[mark])


def _seconds(record: Record) -> float:
    return round(sum(stage.get("seconds") or 0.0 for stage in record.facts["stages"].values()), 1)


def _examples(night: Run) -> list[dict[str, Any]]:
    """A few new notes with their nearest ones, to be read by a person."""
    table = night.home.neighbours / TABLES[0]
    if night.record.outcome_of("neighbours") is None or not table.is_file():
        return []
    try:
        index = Index.open(night.home.index, verify=False)
    except NoterecError:  # somebody changed the index meanwhile; the page is about the night all the same
        return []
    found = pl.read_parquet(table).filter(pl.col("rank") <= SHOWN).sort("query_id", "rank")
    asked = found["query_id"].unique().sort()
    chosen = asked.gather_every(max(1, len(asked) // EXAMPLES))[:EXAMPLES]
    wanted = pl.concat([chosen, found.filter(pl.col("query_id").is_in(chosen.implode()))["note_id"]]).unique()
    named = _named(index).filter(pl.col("note_id").is_in(wanted.implode()))
    titles = {row["note_id"]: row for row in named.to_dicts()}
    examples = []
    for query_id in chosen:
        rows = found.filter(pl.col("query_id") == query_id).to_dicts()
        near = [{**titles.get(row["note_id"], {"note_id": row["note_id"]}), "score": row["score"]} for row in rows]
        examples.append({"note": titles.get(query_id, {"note_id": query_id}), "near": near})
    return examples


def _named(index: Index) -> pl.DataFrame:
    wanted = [name for name in ("note_id", "title", "category", "created_at") if name in index.attributes.columns]
    return index.attributes.select(wanted)
