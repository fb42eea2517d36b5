"""What the images give, on planted views whose recall is known by hand."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec import cli, schema, storage
from noterec.config import EvaluateConfig
from noterec.embedding.modalities import FORMAT, FORMAT_VERSION, RECORD_FILE, VIEWS
from noterec.errors import ArtefactError, InputError
from noterec.evaluation import Report, compare, evaluate, load_report
from noterec.evaluation.modalities import percent, sentence, use_of
from noterec.ranking.bootstrap import paired

from .conftest import embeddings_table, pairs_table

CONFIG = EvaluateConfig(at=[3], builtin=["random"], fuse=False, resamples=300)
GROUPS, SIZE = 40, 4
IDS = [f"g{group:02d}-{member}" for group in range(GROUPS) for member in range(SIZE)]
Knows = Callable[[int], bool]


def vectors(knows: Knows, has: Knows) -> dict[str, np.ndarray]:
    """Who belongs together, of the groups that are known; the first note of another stands among the group before it."""
    found = {}
    for note in IDS:
        group, member = int(note[1:3]), int(note[4])
        if has(group):
            found[note] = np.eye(GROUPS)[group if member or knows(group) else group - 1]
    return found


def write_views(path: Path, known: dict[str, Knows], has: dict[str, Knows], version: str) -> Path:
    """A folder as `noterec modalities` writes it: of each view, the groups that it knows and those that it has vectors of."""
    versions = {view: version if view == "both" else f"{version}-{view}" for view in VIEWS}
    for view in VIEWS:
        table = embeddings_table(vectors(known[view], has.get(view, lambda _: True)), versions[view])
        storage.write_table(table, path / view / "part.parquet")
    record = {"format": FORMAT, "format_version": FORMAT_VERSION, "dataset": "d", "model_version": version}
    storage.write_json(path / RECORD_FILE, {**record, "versions": versions})
    return path


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """`dataset` and `pairs.parquet`; `sees`, whose images matter, and `blind`, which is the same whatever the image.

    The first note of each of 40 groups asks for the other three. Groups below 10 have images, those below 20 short texts.
    """
    rows = [
        {
            "note_id": note,
            "title": "short" if int(note[1:3]) < GROUPS / 2 else "a longer text",
            "images": [{"path": "x.jpg"}] if int(note[1:3]) < GROUPS / 4 else None,
        }
        for note in IDS
    ]
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), tmp_path / "dataset" / "notes" / "0.parquet")
    pairs = [(anchor, other) for anchor in IDS[::SIZE] for other in IDS if other[:3] == anchor[:3] and other != anchor]
    storage.write_table(pairs_table(pairs), tmp_path / "pairs.parquet")
    every: Knows = lambda _: True  # noqa: E731
    even: Knows = lambda group: group % 2 == 0  # noqa: E731
    fourth: Knows = lambda group: group % 4 == 0  # noqa: E731
    pictured: dict[str, Knows] = {"image": lambda group: group < GROUPS / 4}
    sees = {"both": every, "text": even, "image": every, "shuffled": fourth}
    write_views(tmp_path / "sees", sees, pictured, "m1")
    write_views(tmp_path / "blind", {**sees, "text": every, "shuffled": every}, pictured, "m2")
    return tmp_path


def run(planted: Path, *names: str, arms: dict[str, Any] | None = None, config: EvaluateConfig = CONFIG) -> Report:
    return evaluate(
        arms or {},
        notes=planted / "dataset",
        pairs=planted / "pairs.parquet",
        out=planted / "report",
        modalities={name: planted / name for name in names or ("sees",)},
        config=config,
    )


def reached(record: dict[str, Any]) -> dict[str, float]:
    return {view: found["recall@3"]["mean"] for view, found in record["views"].items()}


def lost(record: dict[str, Any]) -> dict[str, float]:
    return {view: found["recall@3"]["share"]["mean"] for view, found in record["lost"].items()}


def test_figures_by_hand(planted: Path) -> None:
    report = run(planted, "sees", "blind")
    assert list(report.arms) == [
        "random",
        *("sees", "sees:text", "sees:image", "sees:shuffled"),
        *("blind", "blind:text", "blind:image", "blind:shuffled"),
    ]
    sees = report.modalities["sees"]
    assert reached(sees) == pytest.approx({"both": 1, "text": 1 / 2, "image": 1 / 4, "shuffled": 1 / 4})
    assert lost(sees) == pytest.approx({"text": 1 / 2, "image": 3 / 4, "shuffled": 3 / 4})
    assert (sees["queries"], sees["queries_with_image"], sees["images"]) == (40, 10, "used")
    assert report.arms["sees:image"]["unasked"] == {"new -> all": 30}  # misses, as everywhere
    blind = report.modalities["blind"]
    assert lost(blind) == pytest.approx({"text": 0, "image": 3 / 4, "shuffled": 0})
    assert blind["images"] == "neglected"
    assert blind["lost"]["shuffled"]["recall@3"]["verdict"] == "can't tell"
    assert sees["lost"]["shuffled"]["recall@3"]["verdict"] == "better"


def test_intervals_are_those_of_the_paired_bootstrap(planted: Path) -> None:
    found = run(planted).modalities["sees"]["lost"]["text"]["recall@3"]
    text = np.arange(GROUPS) % 2 == 0
    plain = paired(text, np.ones(GROUPS), resamples=300, seed=0)
    assert plain.relative_low is not None
    assert plain.relative_high is not None
    assert (found["difference"], found["low"], found["high"]) == pytest.approx((0.5, -plain.high, -plain.low))
    assert found["share"] == pytest.approx({"mean": 0.5, "low": -plain.relative_high, "high": -plain.relative_low})


def test_slices_by_hand(planted: Path) -> None:
    slices = run(planted).modalities["sees"]["slices"]
    assert {name: part["queries"] for name, part in slices.items()} == {
        "query_short_text": 20,
        "query_long_text": 20,
        "query_with_image": 10,
        "query_without_image": 30,
    }
    assert lost(slices["query_short_text"]) == pytest.approx({"text": 1 / 2, "image": 1 / 2, "shuffled": 3 / 4})
    assert lost(slices["query_long_text"]) == pytest.approx({"text": 1 / 2, "image": 1, "shuffled": 3 / 4})
    # Of the groups 0 to 9 the text knows 0 2 4 6 8, shuffled images leave 0 4 8.
    assert reached(slices["query_with_image"]) == pytest.approx({"both": 1, "text": 0.5, "image": 1, "shuffled": 0.3})
    assert slices["query_with_image"]["says"][2].endswith("can't be told from none: the text is neglected.")


def test_the_report_says_it_in_words(planted: Path) -> None:
    report = run(planted, "sees", "blind")
    text = (planted / "report" / "report.md").read_text()
    section = text[text.index("## What the images give") : text.index("## Slices")]
    assert "Of 40 queries 10 have an image." in section
    share = report.modalities["sees"]["lost"]["shuffled"]["recall@3"]["share"]
    told = f"75 % [{100 * share['low']:.0f}, {100 * share['high']:.0f}]"
    assert f"Shuffling the images costs {told} of recall@3: the images are used." in section
    none = "Shuffling the images costs 0.0 % [0.0, 0.0] of recall@3, which can't be told from none"
    assert f"{none}: the images are neglected. Leaving the images out costs 0.0 % [0.0, 0.0]" in section
    assert "| both | 1.0000 [1.0000, 1.0000] |  |" in section
    assert f"| {told} |" in next(line for line in section.splitlines() if line.startswith("| images shuffled |"))
    assert "| long text | 20 | 1.0000 [1.0000, 1.0000] |" in section
    assert load_report(planted / "report") == report
    assert "modalities" not in json.loads((other(planted) / "metrics.json").read_text())


def other(planted: Path) -> Path:
    """The report of an evaluation without views."""
    arms = {"plain": planted / "sees" / "both"}
    out = planted / "other"
    evaluate(arms, notes=planted / "dataset", pairs=planted / "pairs.parquet", out=out, config=CONFIG)
    return out


def test_compare_reads_such_reports(planted: Path) -> None:
    run(planted, "sees")
    found = compare(planted / "report", other(planted))
    assert (found.arm_a, found.arm_b, found.verdict) == ("sees", "plain", "can't tell")
    assert compare(planted / "report", planted / "report", arm_a="sees:text").verdict == "better"


def test_only_whole_notes_are_fused(planted: Path) -> None:
    config = EvaluateConfig(at=[3], builtin=["bm25"], resamples=100, sums=["sees:text+sees:image"])
    report = run(planted, arms={"mine": planted / "blind" / "both"}, config=config)
    fused = [name for name, entry in report.arms.items() if entry["kind"] == "fused"]
    assert fused == ["mine+bm25", "sees+bm25"]
    assert report.arms["sees:text+sees:image"]["kind"] == "summed"
    assert report.protocol["user_arms"] == ["mine", "sees", "sees:text", "sees:image", "sees:shuffled"]


def test_names_that_collide_are_refused(planted: Path) -> None:
    for name in ("sees", "sees:image"):
        with pytest.raises(
            InputError, match=f"the views of 'sees' need the arm '{name}', and there is one of that name"
        ):
            run(planted, arms={name: planted / "sees" / "both"})
    (planted / "bm25").symlink_to(planted / "sees")
    with pytest.raises(InputError, match="an arm can't be called 'bm25'"):
        run(planted, "bm25")


def test_views_of_several_models_are_refused(planted: Path) -> None:
    storage.write_table(embeddings_table(vectors(bool, bool), "m2-text"), planted / "sees" / "text" / "part.parquet")
    with pytest.raises(ArtefactError, match=r"text: vectors of model version m2-text, modalities.json says m1-text"):
        run(planted)
    (planted / "blind" / RECORD_FILE).unlink()
    with pytest.raises(
        InputError, match=r"no modalities.json there; expected a folder that `noterec modalities` wrote"
    ):
        run(planted, "blind")


def loss(mean: float, low: float, high: float, verdict: str, n: int = 1000) -> dict[str, Any]:
    return {"share": {"mean": mean, "low": low, "high": high}, "verdict": verdict, "n": n}


@pytest.mark.parametrize(
    ("found", "use", "said"),
    [
        (
            loss(0.38, 0.334, 0.42, "better"),
            "used",
            "Shuffling the images costs 38 % [33, 42] of recall@10: the images are used.",
        ),
        (
            loss(0.021, 0.004, 0.04, "better"),
            "barely used",
            "Shuffling the images costs 2.1 % [0.4, 4.0] of recall@10: the images are used, but barely.",
        ),
        (
            loss(0.004, -0.008, 0.016, "can't tell"),
            "neglected",
            "Shuffling the images costs 0.4 % [-0.8, 1.6] of recall@10, which can't be told from none: the images are neglected.",
        ),
        (
            loss(0.04, -0.02, 0.12, "can't tell"),
            "can't tell",
            "[-2, 12] of recall@10, which can't be told from none: the images are neglected, or 1,000 queries are too few to tell.",
        ),
        (loss(0, 0, 0, "can't tell", n=1), "can't tell", "1 query is too few to tell."),
        (
            loss(-0.2, -0.3, -0.1, "worse"),
            "harmful",
            "Shuffling the images gains 20 % [10, 30] of recall@10: the images do harm.",
        ),
        (
            {"share": None, "verdict": "better", "n": 9},
            "used",
            "Shuffling the images: no share can be told, as recall@10 with both is zero, or nearly so.",
        ),
    ],
)
def test_what_a_loss_means(found: dict[str, Any], use: str, said: str) -> None:
    assert use_of(found) == use
    assert sentence("shuffled", found, "recall@10").endswith(said)


def test_the_other_views_have_words_of_their_own() -> None:
    gone = loss(0.3, 0.2, 0.4, "better")
    assert (
        sentence("text", gone, "hit@1") == "Leaving the images out costs 30 % [20, 40] of hit@1: they add to the text."
    )
    assert sentence("image", gone, "hit@1") == "Leaving the text out costs 30 % [20, 40] of hit@1: the text is used."


def test_percent() -> None:
    assert percent(0.0004, -0.0004, 0.0999) == "0.0 % [0.0, 10.0]"
    assert percent(-0.004, -0.1, 0.2) == "0 % [-10, 20]"


def test_command(planted: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def noterec(*arguments: Any) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["noterec", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return int(stopped.value.code or 0), capsys.readouterr().out

    common = ["--notes", planted / "dataset", "--pairs", planted / "pairs.parquet", "--out", planted / "report"]
    quick = ["--set", "at=[3,10]", "--set", "builtin=[bm25]", "--set", "resamples=100"]
    views = ["--modalities", f"sees={planted / 'sees'}", "--modalities", f"blind={planted / 'blind'}"]
    code, out = noterec("evaluate", *common, *views, *quick)
    assert code == 0
    first = out[out.index("what the images give: sees") : out.index("what the images give: blind")].splitlines()
    assert first[1].split() == ["view", "recall@3", "lost", "of", "recall@3"]
    assert [line.split("  ")[0].rstrip() for line in first[2:6]] == [
        "both",
        "text only",
        "image only",
        "images shuffled",
    ]
    assert "0.2500 [" in first[4]
    assert "  75 % [" in first[4]
    assert any(line.startswith("with image ") and " used" in line for line in first)
    assert any(line.endswith("of recall@3: the images are used.") for line in first)
    code, out = noterec("compare", planted / "report", planted / "report", "--json")
    assert (code, json.loads(out)["verdict"]) == (0, "can't tell")
