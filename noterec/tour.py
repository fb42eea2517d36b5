"""`noterec demo`: the road from notes to neighbours on the synthetic platform, with nothing to download or configure."""

from __future__ import annotations

import dataclasses
import json
import os
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import polars as pl

from noterec import progress, storage
from noterec.config import PairsConfig, SampleConfig, SplitConfig, TrainConfig, VisionConfig
from noterec.embedding.engine import embed
from noterec.embedding.modalities import modalities
from noterec.engagement.pairs import pairs
from noterec.engagement.split import split
from noterec.errors import InputError
from noterec.evaluation.evaluate import evaluate
from noterec.evaluation.report import Report
from noterec.evaluation.tables import table
from noterec.index.build import build_index
from noterec.index.neighbours import neighbours
from noterec.index.search import Index
from noterec.notes.dataset import Dataset
from noterec.notes.sample import sample
from noterec.serving.query import query
from noterec.training.train import train

EXAMPLES = 5
MAIN_METRIC = "recall@10"
MARK = "demo.json"  # marks a folder as the demo's own, to be replaced by the next one

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class DemoSummary:
    """What the demo reached."""

    out: str
    recall: float  # recall@10 of the trained model on cold queries
    best_possible: float  # of the planted truth
    bm25: float
    seconds: dict[str, float]  # per stage

    @property
    def share(self) -> float:
        """The trained model's share of the best possible score."""
        return self.recall / self.best_possible


def demo(
    out: str | os.PathLike[str] = "demo",
    *,
    notes: int = 3000,
    users: int = 1500,
    images: bool = False,
    config: TrainConfig | None = None,
    seed: int = 0,
    write: Callable[[str], None] = lambda line: None,
    as_json: bool = False,
) -> DemoSummary:
    """Run the whole road and say what happens.

    Args:
        out: folder for everything that is made; an earlier demo there is replaced.
        notes, users: size of the synthetic platform.
        images: the encoder sees the notes' pictures too.
        config: training settings; the tiny backbone, and tiny's eyes, from scratch unless given.
        seed: of everything random.
        write: takes the lines that a person reads.
        as_json: write one JSON object at the end, and nothing else.

    Raises:
        InputError: `out` holds something else.
    """
    say: Callable[[str], None] = (lambda line: None) if as_json else write
    road = _Road(_fresh(out), say)
    config = config or TrainConfig(seed=seed, vision=VisionConfig(encoder="tiny") if images else VisionConfig())
    say(f"noterec demo: from notes to neighbours on a synthetic platform, in {road.folder}/\n")
    made = road.step(
        "sample", "notes, pictures, people and four weeks of engagement, with the truth planted",
        lambda: sample(road.at("platform"), SampleConfig(notes=notes, users=users, seed=seed)),
    )  # fmt: skip
    say(f"    {made.notes:,} notes on {made.topics} topics, {made.users:,} people, {made.clicks:,} clicks")
    held = road.step(
        "split", "a fifth of the notes become new: training sees neither them nor their engagement",
        lambda: split(road.at("platform"), out=road.at("split"), config=SplitConfig(seed=seed)),
    )  # fmt: skip
    say(
        f"    {held.train_notes:,} notes to train on, {held.valid_notes:,} new ones to choose by, {held.test_notes:,} to test"
    )
    mined = road.step(
        "pairs", "notes that the same people engage with",
        lambda: pairs(road.at("split/train"), out=road.at("pairs.parquet"), config=PairsConfig()),
    )  # fmt: skip
    say(f"    {mined.pairs:,} related pairs around {mined.anchors:,} notes")
    trained = road.step(
        "train", "a tiny language model from scratch, so that notes engaged with together lie close",
        lambda: train(
            road.at("split/train"),
            pairs=road.at("pairs.parquet"),
            out=road.at("model"),
            valid_pairs=road.at("split/valid-pairs.parquet"),
            valid_notes=road.at("platform"),
            config=config,
        ),
    )  # fmt: skip
    if trained.first is not None and trained.best is not None:
        say(f"    recall@10 of cold notes {trained.first.recall_at_10:.3f} -> {trained.best.recall_at_10:.3f}")
    embedded = road.step(
        "embed", f"every note, new ones included, {'by text and picture' if config.vision.on else 'from its text alone'}",
        lambda: embed(road.at("platform"), model=road.at("model"), out=road.at("embeddings")),
    )  # fmt: skip
    say(f"    {embedded.encoded:,} vectors of {embedded.dimension} dimensions")
    built = road.step(
        "index", "a FAISS bundle, published by one pointer",
        lambda: build_index(
            road.at("embeddings"), notes=road.at("platform"), new=road.at("split/new-notes.parquet"), out=road.at("index")
        ),
    )  # fmt: skip
    say(f"    {built.notes:,} notes, {built.new or 0:,} of them new, {built.disk_per_note:,.0f} bytes a note")
    told = road.step(
        "neighbours", "both ways: new -> all describes a new note, warm -> new delivers it",
        lambda: [
            neighbours(road.at("index"), queries="new", candidates="all", out=road.at("new-to-all.parquet"), k=20),
            neighbours(road.at("index"), queries="warm", candidates="new", out=road.at("warm-to-new.parquet"), k=20),
        ],
    )  # fmt: skip
    say(f"    {told[0].rows:,} and {told[1].rows:,} neighbours")
    arms = {"best possible": road.at("platform/truth/oracle.parquet")}
    views = {}
    if config.vision.on:
        views["noterec"] = road.at("views")
        road.step(
            "modalities", "the same by text alone, by picture alone, and with other notes' pictures",
            lambda: modalities(road.at("platform"), model=road.at("model"), out=road.at("views")),
        )  # fmt: skip
    else:
        arms = {"noterec": road.at("embeddings"), **arms}
    report = road.step(
        "evaluate", "do new notes find what people will engage with beside them?",
        lambda: evaluate(
            arms,
            modalities=views,
            notes=road.at("platform"),
            split=road.at("split"),
            out=road.at("report"),
        ),
    )  # fmt: skip
    summary = DemoSummary(
        out=str(road.folder),
        recall=_mean(report, "noterec"),
        best_possible=_mean(report, "best possible"),
        bm25=_mean(report, "bm25"),
        seconds=road.seconds,
    )
    seen = report.modalities["noterec"]["says"] if config.vision.on else []
    for line in _results(report, summary, seen):
        say(line)
    for line in _examples(road):
        say(line)
    for line in _next(road.folder, Index.open(road.at("index")).ids[0]):
        say(line)
    if as_json:
        write(json.dumps({**dataclasses.asdict(summary), "share": summary.share}, indent=2))
    return summary


class _Road:
    """The demo's folder, and its steps one by one."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder, self._say = folder, say
        self.seconds: dict[str, float] = {}

    def at(self, name: str) -> Path:
        return self.folder / name

    def step(self, name: str, meaning: str, work: Callable[[], T]) -> T:
        self._say(f"{name:<11}{meaning}")
        with progress.stage(f"demo {name}") as record:
            result = work()
        self.seconds[name] = round(record.seconds, 1)
        return result


def _fresh(out: str | os.PathLike[str]) -> Path:
    import shutil

    folder = storage.local(out)
    if folder.exists():
        if not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).is_file()):
            raise InputError(f"{folder}: exists and was not made by the demo; give another --out")
        shutil.rmtree(folder)
    storage.write_json(folder / MARK, {"made by": "noterec demo"})
    return folder


def _mean(report: Report, arm: str) -> float:
    return float(report.metrics(arm)[MAIN_METRIC]["mean"])


def _results(report: Report, summary: DemoSummary, seen: Sequence[str]) -> list[str]:
    rows = [row for row in table(report) if row["arm"] != "best possible+bm25"]
    columns = list(rows[0])
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns}
    lines = ["", "New notes looking for their related notes among all, 95 % intervals:", ""]
    lines.append("  ".join(column.ljust(widths[column]) for column in columns))
    lines += ["  ".join(row[column].ljust(widths[column]) for column in columns) for row in rows]
    beside = f"{summary.recall / summary.bm25:.1f} times BM25" if summary.bm25 else "BM25 finds nothing"
    whence = "by text and picture" if seen else "from text alone"
    lines += ["", f"The model reaches {summary.share:.0%} of the best possible score {whence}; {beside}."]
    lines += seen
    return lines


def _examples(road: _Road) -> list[str]:
    """Five new notes with their neighbours."""
    index = Index.open(road.at("index"))
    notes = {
        row["note_id"]: row for row in Dataset(road.at("platform")).notes(["title", "content", "category"]).to_dicts()
    }
    found = pl.read_parquet(road.at("new-to-all.parquet"))
    asked = sorted(found["query_id"].unique())
    lines = ["", "Five notes that nobody had engaged with, and their neighbours:"]
    for query_id in asked[:: max(1, len(asked) // EXAMPLES)][:EXAMPLES]:
        note = notes[query_id]
        lines += ["", f"  {query_id}  {note['title']}  [{note['category']}]"]
        lines += textwrap.wrap(
            note["content"] or "", 100, initial_indent="      ", subsequent_indent="      ", max_lines=2
        )
        for row in query(index, note_id=query_id, k=3).to_dicts():
            lines.append(f"      {row['score']:.2f}  {row['title']}  [{row['category']}]")
    return lines


def _next(folder: Path, first: str) -> list[str]:
    return [
        "",
        "What to type next:",
        f'  noterec query {folder}/index --model {folder}/model --title "First rope weekend" --content "Learned to belay"',
        f"  noterec query {folder}/index --note-id {first} --candidates new",
        f"  noterec serve {folder}/index --model {folder}/model --notes {folder}/platform   # HTTP, and a page to look at",
        f"  less {folder}/report/report.md",
        "  noterec import csv YOUR_FOLDER data/mine --map note_id=... --map content=...   # your own notes and log",
    ]
