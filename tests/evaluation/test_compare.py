"""Better, worse, or can't tell; and refusing what can't be compared."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from noterec import cli, storage
from noterec.config import EvaluateConfig
from noterec.errors import ArtefactError, InputError
from noterec.evaluation import compare, evaluate
from noterec.ranking.bootstrap import paired

from .conftest import embeddings_table, pairs_table, write_notes

CONFIG = EvaluateConfig(at=[10, 50], builtin=["random"], fuse=False, resamples=300)
GROUPS, SIZE = 30, 4
IDS = [f"g{group:02d}-{member}" for group in range(GROUPS) for member in range(SIZE)]


def vectors(noise: float, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {note: np.eye(GROUPS)[int(note[1:3])] + noise * rng.normal(size=GROUPS) for note in IDS}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Reports `clear` and `noisy` on the same pairs."""
    write_notes(tmp_path / "dataset", dict.fromkeys(IDS, ("t", None, None)))
    pairs(tmp_path / "pairs.parquet", IDS[::SIZE])
    for name, noise in (("clear", 0.05), ("noisy", 1.0)):
        storage.write_table(embeddings_table(vectors(noise)), tmp_path / f"{name}.parquet")
        run(tmp_path, name)
    return tmp_path


def pairs(path: Path, anchors: list[str]) -> None:
    rows = [(anchor, other) for anchor in anchors for other in IDS if other[:3] == anchor[:3] and other != anchor]
    storage.write_table(pairs_table(rows), path)


def run(path: Path, name: str, out: str | None = None, config: EvaluateConfig = CONFIG, notes: str = "dataset") -> Path:
    target = path / (out or name)
    arms = {name: path / f"{name}.parquet"}
    evaluate(arms, notes=path / notes, pairs=path / "pairs.parquet", out=target, config=config)
    return target


def test_better_worse_and_cannot_tell(runs: Path) -> None:
    assert compare(runs / "noisy", runs / "clear").verdict == "better"
    worse = compare(runs / "clear", runs / "noisy")
    assert worse.verdict == "worse"
    assert (worse.arm_a, worse.arm_b, worse.unshared) == ("clear", "noisy", {"new -> all": 0})
    same = compare(runs / "clear", runs / "clear")
    assert {row.verdict for row in same.rows} == {"can't tell"}
    assert {row.difference for row in same.rows} == {0.0}
    assert [row.metric for row in same.rows] == ["recall@10", "recall@50", "hit@10", "hit@50", "mrr@10", "ndcg@10"]


def test_figures_are_those_of_the_paired_bootstrap(runs: Path) -> None:
    row = compare(runs / "noisy", runs / "clear").rows[0]
    values = {}
    for name in ("noisy", "clear"):
        table = pl.read_parquet(runs / name / "queries.parquet").filter(pl.col("arm") == name).sort("query_id")
        values[name] = table["recall@10"].to_numpy()
    plain = paired(values["clear"], values["noisy"], resamples=300, seed=0)
    assert (row.difference, row.low, row.high, row.n) == (plain.difference, plain.low, plain.high, GROUPS)
    assert (row.a, row.b) == (pytest.approx(values["noisy"].mean()), pytest.approx(values["clear"].mean()))


def test_arms_by_name(runs: Path) -> None:
    found = compare(runs / "clear", runs / "clear", arm_a="random")
    assert (found.arm_a, found.arm_b, found.verdict) == ("random", "clear", "better")
    with pytest.raises(InputError, match="no arm 'claer'; it has random, clear"):
        compare(runs / "clear", runs / "clear", arm_b="claer")


def test_only_common_queries_count(runs: Path) -> None:
    pairs(runs / "pairs.parquet", IDS[:: 2 * SIZE])
    run(runs, "noisy", "fewer")
    found = compare(runs / "clear", runs / "fewer")
    assert found.rows[0].n == GROUPS // 2
    assert found.unshared == {"new -> all": GROUPS // 2}
    pairs(runs / "pairs.parquet", IDS[1:2])
    run(runs, "noisy", "others")
    with pytest.raises(InputError, match="no query of 'new -> all' in common"):
        compare(runs / "clear", runs / "others")


def test_other_protocols_are_refused(runs: Path) -> None:
    run(runs, "clear", "cut", EvaluateConfig(**{**CONFIG.model_dump(), "at": [10, 20]}))
    with pytest.raises(ArtefactError, match=r"at = \[10, 50\].*\[10, 20\]; evaluate both with the same cut-offs"):
        compare(runs / "clear", runs / "cut")
    write_notes(runs / "more", dict.fromkeys([*IDS, "extra"], ("t", None, None)))
    run(runs, "clear", "wider", notes="more")
    with pytest.raises(ArtefactError, match=r"ranks 120 candidates of 'new -> all', .* 121"):
        compare(runs / "clear", runs / "wider")
    rows = [(anchor, IDS[place * SIZE + 1]) for place, anchor in enumerate(IDS[::SIZE])]
    storage.write_table(pairs_table(rows), runs / "pairs.parquet")
    run(runs, "clear", "other-truth")
    with pytest.raises(ArtefactError, match=r"30 of 30 common queries .* have other relevant notes"):
        compare(runs / "clear", runs / "other-truth")


def test_what_is_no_report_is_refused(runs: Path) -> None:
    with pytest.raises(InputError, match=r"no metrics.json there"):
        compare(runs / "dataset", runs / "clear")
    file = runs / "clear" / "metrics.json"
    record = json.loads(file.read_text())
    for broken in ([], {"protocol": {}}, {**record, "protocol": {**record["protocol"], "format_version": 99}}):
        file.write_text(json.dumps(broken))
        with pytest.raises(ArtefactError, match="not an evaluation of format version 1"):
            compare(runs / "clear", runs / "noisy")
    file.write_text(json.dumps({"protocol": record["protocol"]}))
    with pytest.raises(ArtefactError, match="incomplete"):
        compare(runs / "clear", runs / "noisy")


def test_the_verdict_is_named_first(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = compare(runs / "noisy", runs / "clear")
    row = found.rows[0]
    assert row.relative == pytest.approx(row.difference / row.a)
    assert found.says == (
        f"recall@10 is {100 * row.relative:.0f} % [{100 * row.relative_low:.0f}, {100 * row.relative_high:.0f}] higher: "
        f"{row.b:.4f} against {row.a:.4f} on 30 common queries"
    )
    monkeypatch.setattr(sys, "argv", ["noterec", "compare", str(runs / "noisy"), str(runs / "clear")])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{runs / 'clear'} (clear) against {runs / 'noisy'} (noisy): better"
    assert lines[1].strip() == found.says


def test_reports_with_a_page_compare_as_well(runs: Path) -> None:
    config = EvaluateConfig(**{**CONFIG.model_dump(), "html": True})
    run(runs, "clear", "drawn", config)
    assert (runs / "drawn" / "report.html").is_file()
    same = compare(runs / "clear", runs / "drawn")
    assert same.verdict == "can't tell" and same.rows[0].difference == 0
