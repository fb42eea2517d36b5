from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from noterec.config import NightlyConfig
from noterec.errors import ConfigError, GateError, InputError, LockedError
from noterec.index.search import Index
from noterec.nightly import GATES, STAGES, Night, nightly_status, rollback_nightly, run_nightly
from noterec.nightly import stages as nightly_stages
from noterec.nightly.preview import preview
from noterec.storage.locks import only_job
from tests.nightly.conftest import FIRST, Town, date

Settings = Callable[..., NightlyConfig]


def home_of(config: NightlyConfig) -> Path:
    return Path(config.home)


def published(config: NightlyConfig) -> set[str]:
    index = Index.open(home_of(config) / "index")
    ids = index.ids.filter(pl.Series(index.live)).to_list()
    assert len(ids) == len(set(ids))
    return set(ids)


def state(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(file): (file.stat().st_size, file.stat().st_mtime_ns)
        for file in folder.rglob("*")
        if file.is_file() and ".lock" not in file.name
    }


def test_a_night_publishes_an_index_and_both_tables(town: Town, settings: Settings) -> None:
    config = settings()
    summary = run_nightly(config, night=date(FIRST))
    assert (summary.outcome, summary.bundle) == ("published", "bundle-000001")
    assert [outcome.stage for outcome in summary.stages] == list(STAGES)
    assert published(config) == town.live
    week = dt.datetime.combine(date(FIRST), dt.time(), dt.UTC) - dt.timedelta(days=6)
    new = set(town.notes.filter((pl.col("created_at") >= week) & pl.col("note_id").is_in(list(town.live)))["note_id"])
    forward = pl.read_parquet(home_of(config) / "neighbours/new-to-all.parquet")
    back = pl.read_parquet(home_of(config) / "neighbours/warm-to-new.parquet")
    assert set(forward["query_id"]) == new and set(forward["note_id"]) <= town.live
    assert set(back["query_id"]) == town.live - new and set(back["note_id"]) <= new
    assert (home_of(config) / "pairs.parquet").is_file() and summary.report.is_file()


def test_the_same_night_again_does_nothing(settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    before = state(home_of(config))
    again = run_nightly(config, night=date(FIRST))
    assert again.outcome == "nothing to do"
    assert state(home_of(config)) == before


def test_the_next_night_encodes_what_is_new_or_changed(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    before = set(town.live)
    town.deliver(FIRST + 1)
    edited, gone = sorted(before)[:3], sorted(before)[3:5]
    town.change("edits", edited, content="Quite another text about tents.")
    town.change("gone", gone, deleted=True)
    summary = run_nightly(config, night=date(FIRST + 1))
    figures = {outcome.stage: outcome.figures for outcome in summary.stages}
    came = len(town.live - before)
    assert figures["validate"]["added"] == came > 0 and figures["validate"]["deleted"] == 2
    assert figures["embed"]["encoded"] == came + 3 and figures["embed"]["withdrawn"] == 2
    assert published(config) == town.live - set(gone)
    assert {gate.verdict for gate in summary.gates} <= {"passed", "not measured"}
    assert {"canaries", "recall new -> all", "staleness"} <= {g.name for g in summary.gates if g.verdict == "passed"}


@pytest.mark.parametrize("stage", ["embed", "index", "gate", "publish", "neighbours"])
def test_a_failed_night_goes_on_where_it_failed(
    settings: Settings, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings()

    def broken(night: Night) -> Any:
        raise RuntimeError("the power went")

    whole = nightly_stages.STAGE_WORK[stage]
    monkeypatch.setitem(nightly_stages.STAGE_WORK, stage, broken)
    with pytest.raises(RuntimeError, match="the power went"):
        run_nightly(config, night=date(FIRST))
    record = json.loads((home_of(config) / f"runs/{date(FIRST)}/run.json").read_text())
    assert record["outcome"] == "failed" and record["stages"][stage]["status"] == "failed"
    assert "the power went" in (home_of(config) / "report.html").read_text()
    assert (home_of(config) / "index/CURRENT").exists() == (stage == "neighbours")
    done_before = {name: entry["started"] for name, entry in record["stages"].items() if entry["status"] == "done"}
    monkeypatch.setitem(nightly_stages.STAGE_WORK, stage, whole)
    summary = run_nightly(config, night=date(FIRST))
    assert summary.outcome == "published" and summary.run == date(FIRST).isoformat()
    record = json.loads((home_of(config) / f"runs/{date(FIRST)}/run.json").read_text())
    assert {name: record["stages"][name]["started"] for name in done_before} == done_before
    assert record["error"] is None and record["outcome"] == "published"


def test_new_input_on_the_same_day_is_another_run(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    town.change("edit", sorted(town.live)[:1], content="Another text altogether.")
    summary = run_nightly(config, night=date(FIRST))
    assert (summary.run, summary.bundle) == (f"{date(FIRST)}.2", "bundle-000002")
    lines = nightly_status(config)
    assert [(line.run, line.outcome) for line in lines] == [
        (f"{date(FIRST)}", "published"),
        (f"{date(FIRST)}.2", "published"),
    ]


def test_a_broken_file_leaves_what_is_published(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    before = published(config)
    file = town.deliver(FIRST + 1)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=file.name):
        run_nightly(config, night=date(FIRST + 1))
    assert published(config) == before
    file.write_bytes(whole)
    assert run_nightly(config, night=date(FIRST + 1)).outcome == "published"
    assert published(config) == town.live


def test_stages_one_by_one_each_from_a_fresh_start(town: Town, settings: Settings) -> None:
    """As an orchestrator runs them, each in a process of its own."""
    config = settings()
    with pytest.raises(InputError, match="validate has to be done before embed"):
        Night.open(config, date(FIRST)).do("embed")
    for stage in STAGES:
        assert Night.open(config, date(FIRST)).do(stage).status in ("done", "skipped")
    page = Night.open(config, date(FIRST)).finish()
    assert "Published" in page.read_text()
    assert published(config) == town.live
    assert run_nightly(config, night=date(FIRST)).outcome == "nothing to do"


def test_a_rollback_takes_the_tables_along_and_lasts(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    first = set(town.live)
    tables = {
        name: (home_of(config) / f"neighbours/{name}.parquet").read_bytes() for name in ("new-to-all", "warm-to-new")
    }
    town.deliver(FIRST + 1)
    run_nightly(config, night=date(FIRST + 1))
    assert published(config) == town.live != first
    back = rollback_nightly(config)
    assert (back.was, back.live, back.tables) == ("bundle-000002", "bundle-000001", True)
    assert "bundle-000001 is live" in (home_of(config) / "report.html").read_text()
    assert published(config) == first
    for name, data in tables.items():
        assert (home_of(config) / f"neighbours/{name}.parquet").read_bytes() == data
    assert run_nightly(config, night=date(FIRST + 1)).outcome == "nothing to do"
    assert published(config) == first
    town.deliver(FIRST + 2)
    assert run_nightly(config, night=date(FIRST + 2)).outcome == "published"
    assert published(config) == town.live


def test_a_preview_writes_nothing(settings: Settings) -> None:
    config = settings()
    assert [line.would for line in preview(config, night=date(FIRST))][:4] == ["read", "mine", "skip", "encode"]
    assert not home_of(config).exists()
    run_nightly(config, night=date(FIRST))
    before = state(home_of(config))
    assert [line.would for line in preview(config, night=date(FIRST))] == ["nothing"]
    lines = {line.stage: line for line in preview(config, night=date(FIRST + 1))}
    assert lines["embed"].would == "look" and lines["embed"].why.startswith("0 of")
    assert state(home_of(config)) == before


def test_only_one_night_at_a_time(settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    with only_job(home_of(config), "noterec nightly"), pytest.raises(LockedError, match="noterec nightly"):
        run_nightly(config, night=date(FIRST + 1))


def test_what_cannot_be_right_is_refused_before_anything_is_made(
    town: Town, settings: Settings, tmp_path: Path
) -> None:
    config = settings()
    tomorrow = dt.datetime.now(dt.UTC).date() + dt.timedelta(days=1)
    with pytest.raises(InputError, match="in the future"):
        run_nightly(config, night=tomorrow)
    with pytest.raises(InputError, match=r"no gate 'everything'.*rejects"):
        run_nightly(config, accept=["everything"])
    with pytest.raises(InputError, match="no night has run yet"):
        nightly_status(config)
    with pytest.raises(InputError, match="no night has published anything yet"):
        rollback_nightly(config)
    assert not home_of(config).exists()
    with pytest.raises(InputError, match="wasn't made by the nightly job"):
        run_nightly(settings(home=str(town.path)))
    for given, words in (
        ({"embed": {"source": "delta"}}, "snapshot"),
        ({"embed": {"view": "text"}}, "whole notes"),
        ({"evaluate": {"builtin": ["popularity"]}}, "popularity"),
        ({"index": {"attributes": ["title"]}}, "created_at"),
        ({"gates": {"rejcts": 0.1}}, "rejects"),
    ):
        with pytest.raises(ConfigError, match=words):
            settings(**given)


def test_notes_without_a_date_are_refused(town: Town, settings: Settings) -> None:
    town.change("undated", sorted(town.live)[:40], created_at=None)
    with pytest.raises(InputError, match="created_at"):
        run_nightly(settings(), night=date(FIRST))


def test_without_engagement_a_night_publishes_and_says_what_it_could_not_measure(
    town: Town, settings: Settings
) -> None:
    for file in (town.path / "engagement").iterdir():
        file.unlink()
    summary = run_nightly(settings(), night=date(FIRST))
    skipped = {outcome.stage for outcome in summary.stages if outcome.status == "skipped"}
    assert {"pairs", "evaluate"} <= skipped and summary.outcome == "published"
    assert {gate.name: gate.verdict for gate in summary.gates}["recall new -> all"] == "not measured"


def test_the_page_tells_the_night_and_trusts_no_note(town: Town, settings: Settings) -> None:
    config = settings()
    town.change("hostile", sorted(town.live), title="<script>alert('x')</script> \x00 \u202e")
    run_nightly(config, night=date(FIRST))
    town.deliver(FIRST + 1)
    page = run_nightly(config, night=date(FIRST + 1)).report.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page and "\x00" not in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    for name in (*STAGES, *GATES):
        assert f">{name.replace('>', '&gt;')}<" in page
    assert f'href="../{date(FIRST)}/report.html"' in page
    record = json.loads((home_of(config) / f"runs/{date(FIRST + 1)}/run.json").read_text())
    recall = record["stages"]["evaluate"]["figures"]["recall@10 new -> all"]
    assert f"{recall:.4f}" in page


def test_the_log_of_a_night_is_in_its_folder(settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    log = (home_of(config) / f"runs/{date(FIRST)}/log.txt").read_text()
    assert all(f"night {date(FIRST)}: {stage}" in log for stage in STAGES)
    assert "index: rows_in=" in log  # a stage's own line


def test_a_gate_that_stops_keeps_its_value(town: Town, settings: Settings) -> None:
    config = settings(gates={"stale_hours": 0.001})
    with pytest.raises(GateError, match=r"'staleness'.*--accept") as stopped:
        run_nightly(config, night=date(FIRST))
    assert stopped.value.exit_code == 3
    night = Night.open(config, date(FIRST))
    gate = {gate.name: gate for gate in night.gates()}["staleness"]
    assert gate.verdict == "stopped" and gate.value is not None and gate.value > 0.001
    assert not (home_of(config) / "index/CURRENT").exists()
    summary = run_nightly(config, night=date(FIRST), accept=["staleness"])
    assert summary.outcome == "published"
    assert {gate.name: gate.verdict for gate in summary.gates}["staleness"] == "accepted"
