"""report.html: its figures are those of metrics.json, it loads nothing, and what strangers wrote stays text."""

from __future__ import annotations

import base64
import datetime as dt
import io
import json
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from noterec import cli, schema, storage
from noterec.config import EvaluateConfig
from noterec.errors import ConfigError
from noterec.evaluation import Report, evaluate, pictures
from noterec.evaluation.examples import worst_queries
from noterec.evaluation.html import page
from noterec.evaluation.protocol import Direction
from noterec.evaluation.verdict import outcome
from noterec.ranking.metrics import Relevance, recall_at

from .conftest import TEXTS, embeddings_table

CONFIG = EvaluateConfig(at=[1, 3], rank_at=3, resamples=200, html=True, examples=3)
HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>\x00\x1b\u202e"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Read(HTMLParser):
    """A page as its tags, attributes, text and table cells."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.text: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "small" and {"td", "th"} & set(self.open):
            self.rows[-1][-1] += "|"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def picture() -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((400, 300, 3), 80, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shown(platform: Path) -> Path:
    """The platform with hostile words, dates, categories and pictures: one that is fine, one of a stranger's path, one damaged."""
    images = {"n1": [{"bytes": picture()}], "w1": [{"path": "/etc/passwd"}], "w3": [{"bytes": b"nothing"}]}
    rows = [
        {
            "note_id": note,
            "title": HOSTILE if note in ("n1", "w3") else title,
            "content": HOSTILE if note == "n2" else content,
            "hashtags": [*(tags or ()), HOSTILE],
            "category": f"{HOSTILE}/x" if note == "n3" else "Food/Soup",
            "created_at": dt.datetime(2026, 1, 10 + place, tzinfo=dt.UTC),
            "images": images.get(note),
        }
        for place, (note, (title, content, tags)) in enumerate(TEXTS.items())
    ]
    table = pa.Table.from_pylist(rows, schema=schema.NOTES)
    storage.write_table(table, platform / "dataset" / "notes" / "part.parquet")
    return platform


def run(platform: Path, config: EvaluateConfig = CONFIG, **given: Any) -> Report:
    arms = given.pop("arms", {"good": platform / "good.parquet"})
    return evaluate(
        arms,
        notes=platform / "dataset",
        out=platform / "report",
        split=platform / "split",
        config=config,
        **given,
    )


def read(platform: Path) -> tuple[str, Read]:
    text = (platform / "report" / "report.html").read_text(encoding="utf-8")
    return text, Read(text)


def test_every_figure_is_that_of_metrics_json(platform: Path) -> None:
    run(platform)
    record = json.loads((platform / "report" / "metrics.json").read_text())
    _, found = read(platform)

    def told(value: dict[str, Any]) -> str:
        small = "" if value["low"] is None else f"|{value['low']:.4f} – {value['high']:.4f}"
        return f"{value['mean']:.4f}{small}"

    main = ["recall@1", "recall@3", "mrr@3", "ndcg@3", "coverage@3"]
    heads = [place for place, row in enumerate(found.rows) if row == ["arm", *main]]
    assert len(heads) == 2  # new -> all, warm -> new
    for arm, place in zip(record["arms"], range(heads[0] + 1, heads[1]), strict=False):
        assert found.rows[place] == [arm, *(told(record["arms"][arm][name]) for name in main)]
    for offset, (arm, entry) in enumerate(record["arms"].items(), start=1):
        warm = entry["directions"]["warm -> new"]
        assert found.rows[heads[1] + offset] == [arm, *(told(warm[name]) for name in main)]
    for name, part in record["protocol"]["slices"].items():
        figures = [told(entry["slices"][name]["recall@3"]) for entry in record["arms"].values()]
        assert [part["label"], str(part["queries"]), *figures] in found.rows
    for arm, entry in record["arms"].items():
        if entry["popularity"] is not None:
            assert [arm, *map(told, entry["popularity"].values())] in found.rows
    for name, value in record["arms"]["good"]["compact"]["precisions"].items():
        assert any(row[:4] == ["good", name, str(value["bytes"]), told(value)] for row in found.rows)
    assert record["arms"]["good"]["compact"]["precisions"]["fp32"]["mean"] == record["arms"]["good"]["recall@1"]["mean"]
    titles = "\n".join(found.text)
    recall = record["arms"]["good"]["recall@3"]
    assert f"good, K, places that count 3: {recall['mean']:g}" in titles


def test_it_loads_nothing_and_runs_nothing(shown: Path) -> None:
    run(shown)
    text, found = read(shown)
    assert not found.open
    assert not {"script", "link", "iframe", "object", "embed", "form", "base", "style"} & set(found.tags) - {"style"}
    for tag, name, value in found.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "srcset", "href", "xlink:href", "action", "data", "poster", "background"):
            assert value.startswith(("data:image/webp;base64,", "#")), (tag, name, value)
    anchors = {value for _, name, value in found.attributes if name == "id"}
    assert {value[1:] for _, name, value in found.attributes if name == "href"} <= anchors
    assert not re.search(r"url\(|@import", text)
    assert "default-src 'none'" in text


def test_what_strangers_wrote_stays_text(shown: Path) -> None:
    run(shown, given := CONFIG.model_copy(update={"examples": 9}))
    assert given.html
    text, found = read(shown)
    assert "<script" not in text and "onerror=alert(2)>" not in text
    assert not re.search("[\x00\x1b\u202e]", text)
    said = "".join(found.text)
    assert "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>\ufffd" in said
    markdown = (shown / "report" / "report.md").read_text()
    assert "<script" not in markdown


def test_pictures_or_why_there_are_none(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(shown)
    text, found = read(shown)
    (uri,) = {value for tag, name, value in found.attributes if (tag, name) == ("img", "src")}
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as small:
        assert (small.format, small.size) == ("WEBP", (120, 160))
    assert "no picture: no-root" in text and "no picture: unknown-format" in text
    monkeypatch.setattr(pictures, "TOTAL_BYTES", 10)
    run(shown)
    text, found = read(shown)
    assert "no picture: page-full" in text and "img" not in found.tags
    (shown / "photos").mkdir()
    run(shown, image_root=shown / "photos")
    assert "no picture: outside-root" in read(shown)[0]


def test_the_verdict_comes_first(platform: Path) -> None:
    report = run(platform)
    text, _ = read(platform)
    told = outcome(report)
    assert told is not None and told.verdict == "can't tell"
    assert told.headline.startswith("Can't tell good from ")
    other = told.headline.split("from ")[1].split(",")[0]
    means = [report.arms[arm]["recall@1"]["mean"] for arm in ("good", other)]
    assert f"{means[0]:.4f} against {means[1]:.4f} on the same 3 queries" in told.figures
    assert text.index("Can&#39;t tell good from") < text.index("<h2>")
    assert (platform / "report" / "report.md").read_text().splitlines()[2].startswith("**Can't tell good from")


def test_verdicts_in_words(platform: Path) -> None:
    report = run(platform)
    arms = {"good": {"kind": "user", "recall@1": {"mean": 0.3}}, "bm25": {"kind": "builtin", "recall@1": {"mean": 0.2}}}
    where = {"direction": "new -> all", "metric": "recall@1", "arm": "good", "against": "bm25", "n": 9}

    def told(verdict: str, difference: list[float], relative: list[float] | None) -> str:
        ends = ("mean", "low", "high")
        entry = {**where, "verdict": verdict, **dict(zip(("difference", "low", "high"), difference, strict=True))}
        entry["relative"] = None if relative is None else dict(zip(ends, relative, strict=True))
        found = outcome(Report(report.path, report.protocol, arms, [entry]))
        assert found is not None
        return f"{found.headline}. {found.figures}"

    assert told("better", [0.1, 0.05, 0.15], [0.5, 0.25, 0.75]).startswith(
        "good is better than bm25, the best built-in arm. recall@1 is 50 % [25, 75] higher: 0.3000 against 0.2000"
    )
    assert "is worse than bm25" in (worse := told("worse", [-0.1, -0.15, -0.05], [-0.5, -0.75, -0.25]))
    assert "recall@1 is 50 % [25, 75] lower" in worse
    assert "differs by +5.0 % [-2.0, 9.0]" in told("can't tell", [0.01, -0.01, 0.02], [0.05, -0.02, 0.09])
    assert "differs by +0.1000 [+0.0500, +0.1500]" in told("better", [0.1, 0.05, 0.15], None)


def test_only_what_was_measured_is_told(platform: Path) -> None:
    bare = {"pairs": platform / "split" / "test-pairs.parquet", "notes": platform / "dataset"}
    config = EvaluateConfig(at=[2], rank_at=2, resamples=100, builtin=["bm25"], html=True, examples=0)
    evaluate({}, out=platform / "report", config=config, **bare)
    text, found = read(platform)
    for absent in ("By exposure", "By age", "By category", "By images", "smaller vectors", "What it shows", "built-in"):
        assert absent not in text, absent
    assert "By text length" in text and "Queries to look at" not in text
    assert "polyline" not in found.tags  # one cut-off is no curve
    config = config.model_copy(update={"html": False})
    evaluate({}, out=platform / "report", config=config, **bare)
    assert not (platform / "report" / "report.html").exists()  # that of an older report


def test_an_older_report_can_be_drawn(platform: Path) -> None:
    """One whose differences have no share of the mean, and no popularity."""
    report = run(platform)
    for entry in report.paired:
        del entry["relative"]
    report.protocol.pop("popularity")
    assert "difference of recall@1" in page(report, None)


def test_pictures_without_a_page_are_refused(platform: Path) -> None:
    with pytest.raises(ConfigError, match="--html"):
        run(platform, CONFIG.model_copy(update={"html": False}), image_root=platform)


def test_the_worst_queries_by_hand() -> None:
    lists = [[5, 6, 7], [5, 6, 7], [5, 6], [5, 6, 7], [5, 6, 7], [5, 6, 8]]
    top = np.array(
        [
            [5, 0, 0, 0],  # recall@2 1/3
            [1, 2, 3, 5],  # 0, first at 4
            [1, 2, 3, 4],  # two relevant notes are too few
            [1, 2, 3, 4],  # 0, none
            [-1, -1, -1, -1],  # nothing was found
            [1, 2, 9, 4],  # 0, none: a tie, and a later id
        ]
    )
    top[0, 1:] = [1, 2, 3]
    direction = Direction("new -> all", np.arange(6), Relevance.from_lists(lists), np.arange(10), (2,), (), 17, 0)
    recall = recall_at(top, direction.relevance, 2)
    eligible, worst = worst_queries(direction, top, recall, 3)
    assert (eligible, worst.tolist()) == (4, [3, 5, 1])
    assert worst_queries(direction, top, recall, 9)[1].tolist() == [3, 5, 1, 0]


def test_examples_show_hits_and_places(platform: Path) -> None:
    run(platform)
    _, found = read(platform)
    said = " ".join(" ".join(found.text).split())
    worst = said[said.index("The worst") : said.index("Drawn at random")]
    assert "Of the 1 queries with at least three relevant notes" in worst
    assert "Ramen in Tokyo" in worst and "recall@1 0.3333" in worst
    for hit in ("1 Soup at home n3 ✓ relevant", "2 Noodle bar w1 ✓ relevant", "3 Udon w2 ✓ relevant"):
        assert hit in worst
    assert "Soup at home n3 place 1" in worst and "Udon w2 place 3" in worst


def test_tables_of_vectors_are_searched_in_the_page_only(platform: Path) -> None:
    plain = run(platform, CONFIG.model_copy(update={"html": False}))
    assert "compact" not in plain.arms["good"]
    gone = embeddings_table({note: [1.0, 0.1 * place] for place, note in enumerate(TEXTS)})
    storage.write_table(gone, platform / "flat.parquet")
    both = run(platform, arms={"good": platform / "good.parquet", "flat": platform / "flat.parquet"})
    assert [arm for arm, entry in both.arms.items() if "compact" in entry] == ["good", "flat"]
    assert list(both.arms["flat"]["compact"]["dimensions"]) == ["2"]


def test_the_command_writes_the_page(
    platform: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--split", "split", "--notes", "dataset", "--arm", "good=good.parquet", "--out", "report", "--html"]
    settings = ["--set", "at=[1,3]", "--set", "rank_at=3", "--set", "resamples=100"]
    monkeypatch.chdir(platform)
    monkeypatch.setattr(sys, "argv", ["noterec", "evaluate", *words, *settings])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    assert capsys.readouterr().out.rstrip().endswith("report/report.html: plots, and queries to be read")
    assert "Evaluation of good" in read(platform)[0]


def test_generated_tables_alone(tmp_path: Path) -> None:
    rows = [{"note_id": f"n{number}", "title": "t", "category": "Food"} for number in range(4)]
    notes = pa.Table.from_pylist(rows, schema=schema.NOTES)
    storage.write_table(notes, tmp_path / "dataset" / "notes" / "part.parquet")
    written = [
        {"note_id": f"n{n}", "task": "category", "answers": ["Food" if n else "<b>Soup</b>"], "model_version": "m"}
        for n in range(4)
    ]
    storage.write_table(pa.Table.from_pylist(written, schema=schema.GENERATED), tmp_path / "written.parquet")
    report = evaluate(
        {},
        notes=tmp_path / "dataset",
        engagement=tmp_path / "dataset",
        generated={"<i>mine</i>": tmp_path / "written.parquet"},
        out=tmp_path / "report",
        config=EvaluateConfig(html=True, resamples=100),
    )
    text, found = read(tmp_path)
    accuracy = next(iter(report.generation["category"]["tables"].values()))["metrics"]["accuracy"]["mean"]
    assert accuracy == 0.75
    assert any(row[0] == "<i>mine</i>" and "0.7500" in row[1] for row in found.rows if len(row) > 1)
    assert "<i>mine" not in text and 'svg class="plot' not in text and "Queries to look at" not in text
