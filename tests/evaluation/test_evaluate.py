"""The whole evaluation on a platform whose figures can be worked out by hand, and against ir-measures."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import polars as pl
import pytest
from ir_measures import RR, R, nDCG

from noterec import storage
from noterec.config import EvaluateConfig
from noterec.engagement.counting.keys import DatasetNotes
from noterec.engagement.reach import people_per_note
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.evaluation import Report, evaluate, load_report, table
from noterec.evaluation.lineup import lineup
from noterec.evaluation.measure import measure
from noterec.evaluation.protocol import Catalogue, Inputs, directions
from noterec.notes.dataset import Dataset

from .conftest import embeddings_table, pairs_table, write_log, write_notes

CONFIG = EvaluateConfig(at=[1, 3], rank_at=3, resamples=200)


def run(platform: Path, arms: dict[str, Any] | None = None, config: EvaluateConfig = CONFIG, **given: Any) -> Report:
    arms = {"good": platform / "good.parquet"} if arms is None else arms
    given = {"split": platform / "split", **given}
    return evaluate(arms, notes=platform / "dataset", out=platform / "report", config=config, **given)


def means(report: Report, arm: str, direction: str = "new -> all") -> dict[str, float]:
    return {name: value["mean"] for name, value in report.metrics(arm, direction).items()}


def test_figures_by_hand(platform: Path) -> None:
    report = run(platform)
    # n1 finds n3 w1 w2, all relevant; n2 finds v1 w3 w4, the last two relevant; n3 finds n1 w1 w2, the last relevant.
    log3 = 1 / np.log2(3)
    expected = {
        "recall@1": (1 / 3 + 0 + 0) / 3,
        "recall@3": 1.0,
        "hit@1": 1 / 3,
        "hit@3": 1.0,
        "mrr@3": (1 + 1 / 2 + 1 / 3) / 3,
        "ndcg@3": (1 + (log3 + 0.5) / (1 + log3) + 0.5) / 3,
        "coverage@3": 7 / 9,
    }
    assert means(report, "good") == pytest.approx(expected)
    # w1 finds n3 n1, both relevant; w3 finds n2.
    warm = means(report, "good", "warm -> new")
    assert warm["recall@1"] == pytest.approx((1 / 2 + 1) / 2)
    assert warm["coverage@3"] == 1.0
    # n1 -> n3 and n3 -> n1 are first, n1 -> n2 and n2 -> n3 are not.
    assert means(report, "good", "paper") == pytest.approx({"recall@1": 2 / 4})
    # Popularity: w5 w1 w3 for everybody; it knows no new note.
    assert means(report, "popularity")["recall@3"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert means(report, "popularity", "warm -> new")["recall@3"] == 0
    assert list(report.arms) == ["random", "popularity", "bm25", "good", "good+bm25"]


def test_every_arm_agrees_with_ir_measures(platform: Path) -> None:
    """The rankings are read back through a second library, arm by arm."""
    report = run(platform)
    catalogue = Catalogue.read(platform / "dataset")
    main = directions(catalogue, Inputs.collect(platform / "split"), CONFIG)[0]
    clicks = people_per_note(Dataset(platform / "split" / "train"), DatasetNotes(catalogue.ids))
    arms = lineup({"good": platform / "good.parquet"}, catalogue, clicks, CONFIG, {})
    bounds = main.relevance.indptr
    qrels = [
        ir_measures.Qrel(str(q), str(row), 1)
        for q in range(len(main.queries))
        for row in main.relevance.rows[bounds[q] : bounds[q + 1]]
    ]
    for arm, measured in measure(main, arms, [], notes=len(catalogue), config=CONFIG).items():
        ranked = [
            ir_measures.ScoredDoc(str(q), str(row), -float(rank))
            for q, rows in enumerate(measured.top)
            for rank, row in enumerate(rows)
            if row >= 0
        ]
        ranked = ranked or [ir_measures.ScoredDoc("0", "none", 0.0)]
        found = ir_measures.calc_aggregate([R @ 1, R @ 3, RR @ 3, nDCG @ 3], qrels, ranked)
        ours = means(report, arm)
        assert {str(name): value for name, value in found.items()} == pytest.approx(
            {"R@1": ours["recall@1"], "R@3": ours["recall@3"], "RR@3": ours["mrr@3"], "nDCG@3": ours["ndcg@3"]}
        )


def test_a_missing_query_vector_is_a_miss_and_counted(platform: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = pl.read_parquet(platform / "good.parquet").filter(pl.col("note_id") != "n1")
    found.write_parquet(platform / "gap.parquet")
    with caplog.at_level(logging.WARNING):
        report = run(platform, {"good": platform / "good.parquet", "gap": platform / "gap.parquet"})
    assert report.arms["gap"]["unasked"] == {"new -> all": 1, "warm -> new": 0, "paper": 2}
    assert report.arms["gap"]["notes_without_vector"] == 1
    assert means(report, "gap")["recall@3"] == pytest.approx((0 + 1 + 1) / 3)  # n3 finds w1 w2 v1
    assert means(report, "gap+bm25")["hit@3"] == 1.0  # BM25 alone answers n1
    assert report.metrics("gap")["recall@3"]["n"] == 3
    assert "gap 1" in (platform / "report" / "report.md").read_text()
    assert "arm gap: 1 of 9 notes have no vector" in caplog.text


def test_files_and_their_shapes(platform: Path) -> None:
    report = run(platform)
    record = json.loads((platform / "report" / "metrics.json").read_text())
    assert set(record) == {"protocol", "arms", "paired"}
    recall = record["arms"]["good"]["recall@1"]
    assert set(recall) == {"mean", "low", "high", "n"}
    assert recall["low"] <= recall["mean"] <= recall["high"]
    assert set(record["arms"]["good"]["slices"]) == set(record["protocol"]["slices"]) >= {"relevant_low_clicks"}
    assert record["arms"]["good"]["model_version"] == "m1"
    assert record["protocol"]["directions"]["warm -> new"]["candidates"] == 3
    assert load_report(platform / "report") == report
    queries = pl.DataFrame(storage.read_table(platform / "report" / "queries.parquet"))
    assert queries.height == 5 * (3 + 2 + 4)
    one = queries.filter((pl.col("arm") == "good") & (pl.col("direction") == "new -> all")).sort("query_id")
    assert one["recall@1"].to_list() == pytest.approx([1 / 3, 0, 0])
    paper = queries.filter((pl.col("arm") == "good") & (pl.col("direction") == "paper"))
    assert paper.select("query_id", "related_id").rows() == [("n1", "n2"), ("n1", "n3"), ("n2", "n3"), ("n3", "n1")]
    rows = table(report)
    assert [row["arm"] for row in rows] == list(report.arms)
    assert list(rows[0]) == ["arm", "recall@1", "recall@3", "mrr@3", "ndcg@3", "coverage@3"]
    assert rows[3]["recall@3"] == "1.0000"
    assert rows[3]["recall@1"].startswith("0.1111 [0.0000, ")
    with pytest.raises(InputError, match="no direction 'sideways'"):
        table(report, "sideways")
    text = (platform / "report" / "report.md").read_text()
    assert "## warm -> new" in text
    assert "| good+bm25 |" in text


def test_paired_differences_are_against_the_best_built_in_and_the_first_arm(platform: Path) -> None:
    report = run(platform)
    main = [entry for entry in report.paired if entry["direction"] == "new -> all"]
    best = max(["random", "popularity", "bm25"], key=lambda arm: means(report, arm)["recall@1"])
    assert {entry["against"] for entry in main} == {best, "good"}
    for entry in main:
        gap = means(report, entry["arm"])[entry["metric"]] - means(report, entry["against"])[entry["metric"]]
        assert entry["difference"] == pytest.approx(gap)
        assert entry["low"] <= entry["difference"] <= entry["high"]
    assert len(main) == 2 * 4 * 6


def test_slices_are_measured_on_their_own_relevant_notes(platform: Path) -> None:
    sliced = run(platform).arms["popularity"]["slices"]
    # Popularity's first three are w5 w1 w3: of the best-known relevant notes (w1 of n1, w3 of n2) it finds both.
    assert sliced["relevant_high_clicks"]["recall@3"]["mean"] == 1.0
    assert sliced["relevant_low_clicks"]["recall@3"]["mean"] == 0.0
    assert sliced["relevant_low_clicks"]["recall@3"]["n"] == 2


def test_built_in_arms_alone(platform: Path) -> None:
    report = run(platform, {})
    assert list(report.arms) == ["random", "popularity", "bm25"]
    assert report.protocol["user_arms"] == []


def test_the_result_is_the_same_every_time(platform: Path) -> None:
    first, second = run(platform), run(platform)
    assert first.arms == second.arms
    assert first.paired == second.paired


def test_blocks_do_not_matter(platform: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(platform)
    monkeypatch.setattr(sys.modules["noterec.evaluation.measure"], "_BLOCK_SCORES", 1)
    assert run(platform).arms == whole.arms


def test_queries_that_training_saw_are_said(platform: Path) -> None:
    write_log(platform / "split" / "train", {"w1": 2, "n1": 1})
    report = run(platform)
    assert report.protocol["queries_in_training"] == 1
    assert "They are not cold" in (platform / "report" / "report.md").read_text()


def test_without_engagement(platform: Path) -> None:
    inputs = {"split": None, "pairs": platform / "split" / "test-pairs.parquet"}
    with pytest.raises(ConfigError, match="popularity arm needs engagement"):
        run(platform, **inputs)
    config = EvaluateConfig(**{**CONFIG.model_dump(), "builtin": ["bm25"]})
    report = run(platform, config=config, **inputs)
    assert list(report.arms) == ["bm25", "good", "good+bm25"]
    assert set(report.protocol["not_measured"]) == {"warm -> new", "paper"}
    assert list(report.protocol["slices"]) == ["query_short_text", "query_long_text"]


def configured(**changes: Any) -> EvaluateConfig:
    return EvaluateConfig(**{**CONFIG.model_dump(), **changes})


def test_arms_that_do_not_fit_are_refused(platform: Path) -> None:
    good = platform / "good.parquet"
    with pytest.raises(ConfigError, match="no built-in arm 'popularty'; did you mean 'popularity'"):
        run(platform, config=configured(builtin=["popularty"]))
    with pytest.raises(ConfigError, match="expected each sum once"):
        run(platform, config=configured(sums=["good+good", "good+good"]))
    with pytest.raises(ConfigError, match="sums are of arms, and none is given"):
        run(platform, {}, config=configured(sums=["a+b"]), generated={"mine": good})
    with pytest.raises(ConfigError, match="expected each arm once"):
        run(platform, config=configured(builtin=["bm25", "bm25"]))
    for name in ("bm25", "a+b", " "):
        with pytest.raises(InputError, match="an arm can't be called"):
            run(platform, {name: good})
    with pytest.raises(ConfigError, match="fuse needs bm25"):
        run(platform, config=configured(builtin=["random"]))
    assert list(run(platform, config=configured(builtin=["random"], fuse=False)).arms) == ["random", "good"]
    with pytest.raises(InputError, match="nothing to evaluate"):
        run(platform, {}, config=configured(builtin=[]))
    storage.write_table(embeddings_table({"other": [1.0, 0.0]}), platform / "other.parquet")
    with pytest.raises(InputError, match=r"arm x: .* has vectors of none of the 9 notes .*its first is 'other'"):
        run(platform, {"x": platform / "other.parquet"})
    mixed = pl.concat(
        [pl.DataFrame(embeddings_table({"n1": [1.0, 0.0]})), pl.DataFrame(embeddings_table({"n2": [1.0, 0.0]}, "m2"))]
    )
    mixed.write_parquet(platform / "mixed.parquet")
    with pytest.raises(ArtefactError, match="2 model versions"):
        run(platform, {"x": platform / "mixed.parquet"})
    with pytest.raises(InputError, match="no such file"):
        run(platform, {"x": platform / "missing"})


def test_planted_truth_is_recovered(tmp_path: Path) -> None:
    """An arm that knows who belongs together reaches 1; a random one about K / N."""
    groups, size = 40, 5
    ids = [f"g{group:02d}-{member}" for group in range(groups) for member in range(size)]
    write_notes(tmp_path / "dataset", dict.fromkeys(ids, ("same words", None, None)))
    anchors = ids[::size]
    rows = [(anchor, other) for anchor in anchors for other in ids if other[:3] == anchor[:3] and other != anchor]
    storage.write_table(pairs_table(rows), tmp_path / "pairs.parquet")
    vectors = {note: np.eye(groups)[int(note[1:3])] + 1e-3 for note in ids}
    storage.write_table(embeddings_table(vectors), tmp_path / "oracle.parquet")
    config = EvaluateConfig(at=[4, 50], builtin=["random"], fuse=False, resamples=200)
    report = evaluate(
        {"oracle": tmp_path / "oracle.parquet"},
        notes=tmp_path / "dataset",
        pairs=tmp_path / "pairs.parquet",
        out=tmp_path / "report",
        config=config,
    )
    assert means(report, "oracle")["recall@4"] == 1.0
    assert means(report, "oracle")["ndcg@10"] == 1.0
    assert means(report, "random")["recall@50"] == pytest.approx(50 / 199, abs=0.08)
    against = [
        e for e in report.paired if e["arm"] == "oracle" and e["against"] == "random" and e["metric"] == "recall@4"
    ]
    assert against[0]["verdict"] == "better"
