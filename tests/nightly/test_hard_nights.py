"""Nights that go wrong at the worst moment: killed between two writes, resumed after a change, begun beside a person's hand."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from noterec.config import NightlyConfig
from noterec.errors import ConfigError, GateError, InputError, LockedError
from noterec.index.bundle import live_name
from noterec.index.changing import remove_notes
from noterec.index.manage import roll_back
from noterec.index.search import Index
from noterec.nightly import STAGES, Night, nightly_status, rollback_nightly, run_nightly
from noterec.nightly import stages as nightly_stages
from noterec.nightly.home import Home
from noterec.nightly.record import Record
from tests.conftest import FEW_STEPS
from tests.nightly.conftest import FIRST, Town, date

Settings = Callable[..., NightlyConfig]
OWN = {
    "steps": 2, "batch_notes": 32, "vocabulary": 300, "dimension": 16, "valid_every": 2, "checkpoint_every": 2, "device": "cpu"
}  # fmt: skip


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """The town's settings without the evaluation's page, which these nights don't need."""

    def made(**given: Any) -> NightlyConfig:
        given["evaluate"] = {"html": False, "builtin": [], "fuse": False, **given.get("evaluate", {})}
        return settings(**given)

    return made


class Killed(BaseException):
    """The process is gone: nothing is written down any more."""


def killed_after(stage: str, config: NightlyConfig, day: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a night whose process dies when a stage has done its work, and run.json doesn't say so yet."""
    whole = nightly_stages.STAGE_WORK[stage]

    with monkeypatch.context() as patch:

        def works_and_dies(night: Night) -> Any:
            whole(night)
            patch.setattr(Record, "set_stage", lambda *given, **named: None)
            patch.setattr(Night, "finish", lambda *given: None)
            raise Killed

        patch.setitem(nightly_stages.STAGE_WORK, stage, works_and_dies)
        with pytest.raises(Killed):
            run_nightly(config, night=date(day))


def fails_at(stage: str, config: NightlyConfig, day: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(night: Night) -> Any:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setitem(nightly_stages.STAGE_WORK, stage, broken)
        with pytest.raises(RuntimeError, match="the power went"):
            run_nightly(config, night=date(day))


def index_of(config: NightlyConfig) -> Path:
    return Path(config.home) / "index"


def verdicts(gates: list[Any]) -> dict[str, str]:
    return {gate.name: gate.verdict for gate in gates}


@pytest.mark.parametrize("stage", ["pairs", "embed", "index", "gate", "publish", "collect"])
def test_killed_between_the_work_and_the_word(
    town: Town, settings: Settings, stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings()
    killed_after(stage, config, FIRST, monkeypatch)
    assert run_nightly(config, night=date(FIRST)).outcome == "published"
    assert live_name(index_of(config)) == "bundle-000001"  # published once
    assert set(Index.open(index_of(config)).ids) == town.live


def test_a_bundle_that_was_named_and_not_pointed_at(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed within the publication: the candidate is gone, and CURRENT doesn't name it."""
    config = settings()
    fails_at("publish", config, FIRST, monkeypatch)
    bundles = index_of(config) / "bundles"
    (bundles / ".candidate").rename(bundles / "bundle-000001")
    assert run_nightly(config, night=date(FIRST)).bundle == "bundle-000002"


def test_killed_before_the_first_word(settings: Settings) -> None:
    config = settings()
    Home.open(config.home, create=True)
    (Path(config.home) / f"runs/{date(FIRST)}").mkdir(parents=True)
    assert run_nightly(config, night=date(FIRST)).run == f"{date(FIRST)}.2"


def test_edits_of_a_stopped_night_are_no_other_encoder(town: Town, settings: Settings) -> None:
    """The stopped night encoded them; the next one must not compare their new vectors with the live index's old ones."""
    config = settings(gates={"canaries": 500, "stale_hours": 20})
    run_nightly(config, night=date(FIRST))
    town.change("edits", sorted(town.live)[:5], content="Quite another text about tents.")
    with pytest.raises(GateError, match="staleness"):
        run_nightly(config, night=date(FIRST + 1))
    town.deliver(FIRST + 1)
    assert verdicts(run_nightly(config, night=date(FIRST + 1)).gates)["canaries"] == "passed"


def test_somebody_rolls_back_meanwhile(town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured against a bundle that isn't live any more is measured again, and the night ends well."""
    config = settings()
    run_nightly(config, night=date(FIRST))
    town.deliver(FIRST + 1)
    run_nightly(config, night=date(FIRST + 1))
    town.deliver(FIRST + 2)
    fails_at("publish", config, FIRST + 2, monkeypatch)
    roll_back(index_of(config))
    summary = run_nightly(config, night=date(FIRST + 2))
    assert (summary.outcome, summary.bundle) == ("published", "bundle-000003")
    record = json.loads((summary.report.parent / "run.json").read_text())
    assert record["stages"]["validate"]["result"]["live"] == "bundle-000001"


def test_another_nights_candidate_is_not_published(
    town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings()
    fails_at("gate", config, FIRST, monkeypatch)
    fails_at("gate", config, FIRST + 1, monkeypatch)
    later = Record.read(Path(config.home) / f"runs/{date(FIRST + 1)}").result("index")["bundle"]
    run_nightly(config, night=date(FIRST))
    record = Record.read(Path(config.home) / f"runs/{date(FIRST)}")
    assert record.result("index")["bundle"] != later  # built again: the one that waited was of another night


def test_a_night_that_is_not_done_cannot_be_ended_well(settings: Settings) -> None:
    night = Night.open(settings(), date(FIRST))
    with pytest.raises(InputError, match="validate isn't done"):
        night.finish()
    assert night.record.outcome == "running"


def test_a_page_that_fails_hides_no_reason(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(night: Night) -> Path:
        raise OSError("no space")

    monkeypatch.setattr("noterec.nightly.report.write_report", broken)
    with pytest.raises(GateError, match="staleness"):
        run_nightly(settings(gates={"stale_hours": 0.001}), night=date(FIRST))


def test_two_threads_are_two_jobs(settings: Settings) -> None:
    home = Home.open(settings().home, create=True)
    told: list[BaseException] = []

    def other() -> None:
        try:
            with home.claimed():
                pass
        except LockedError as error:
            told.append(error)

    with home.claimed(), home.claimed():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(told) == 1 and isinstance(told[0], LockedError)
    assert told[0].exit_code == os.EX_TEMPFAIL


def test_a_damaged_pointer_is_no_first_night(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    (index_of(config) / "CURRENT").write_text("bundle-000777\n")
    with pytest.raises(Exception, match="rollback"):
        run_nightly(config, night=date(FIRST + 1))


def test_links_of_both_pages_lead_somewhere(town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    run_nightly(settings(), night=date(FIRST))
    config = settings(evaluate={"html": True})
    fails_at("collect", config, FIRST + 1, monkeypatch)
    home = Path(config.home)
    for page in (home / "report.html", home / f"runs/{date(FIRST + 1)}/report.html"):
        links = re.findall(r'href="([^"#]+)"', page.read_text())
        assert len(links) >= 3 and all((page.parent / link).is_file() for link in links), links
    assert "Traceback" in (home / f"runs/{date(FIRST + 1)}/log.txt").read_text()


def test_status_tells_a_dead_night_from_a_running_one(settings: Settings) -> None:
    config = settings(gates={"stale_hours": 0.001})
    Night.open(config, date(FIRST)).do("validate")
    assert [(line.outcome, line.gate) for line in nightly_status(config)] == [("unfinished", None)]
    with Home.open(config.home, create=False).claimed():
        assert nightly_status(config)[0].outcome == "running"
    with pytest.raises(GateError):
        run_nightly(config, night=date(FIRST))
    assert [(line.outcome, line.gate) for line in nightly_status(config)] == [("stopped", "staleness")]


# gates


def test_of_few_notes_any_change_is_small(town: Town, settings: Settings) -> None:
    """Ten notes, of which one is deleted and four come after four quiet nights."""
    few = sorted(town.live)
    for file in (town.path / "notes").iterdir():
        file.unlink()
    town.notes.filter(pl.col("note_id").is_in(few[:10])).write_parquet(town.path / "notes/ten.parquet")
    config = settings(gates={"stale_hours": 1e6, "canaries": 0})
    for night in range(5):
        town.change("again", few[:1], content=f"Another text {night}.")
        run_nightly(config, night=date(FIRST + night))
    town.change("gone", few[1:2], deleted=True)
    town.notes.filter(pl.col("note_id").is_in(few[10:14])).write_parquet(town.path / "notes/more.parquet")
    gates = verdicts(run_nightly(config, night=date(FIRST + 5)).gates)
    assert {gates[name] for name in ("notes", "deleted notes", "new notes")} == {"passed"}


def test_a_missed_night_brings_the_notes_of_two(
    town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    usual = [{"added": 100, "deleted": 40}] * 4
    monkeypatch.setattr("noterec.nightly.intake.changed_counts", lambda night: (usual, {"added": 500, "deleted": 0}))
    with pytest.raises(GateError, match="new notes"):
        run_nightly(config, night=date(FIRST + 1))
    night = Night.open(config, date(FIRST + 2))  # the day between is missing
    night.do("validate")
    assert verdicts(night.gates())["new notes"] == "passed"


def test_what_can_never_be_in_the_index_does_not_come_every_night(town: Town, settings: Settings) -> None:
    config = settings(gates={"rejects": 0.5})
    gone, empty = sorted(town.live)[:3], sorted(town.live)[3:6]
    town.change("empty", empty, title=None, content=None, hashtags=None)
    run_nightly(config, night=date(FIRST))
    remove_notes(index_of(config), gone)
    town.deliver(FIRST + 1)
    run_nightly(config, night=date(FIRST + 1))
    night = Night.open(config, date(FIRST + 2))
    outcome = night.do("validate")
    assert outcome.figures["added"] == 0 and outcome.figures["deleted"] == 0
    assert {gate.name: gate.value for gate in night.gates()}["notes"] == pytest.approx(0)


def test_a_clock_that_is_ahead_makes_no_index_fresh(town: Town, settings: Settings) -> None:
    config = settings(gates={"stale_hours": 48})
    ahead = sorted(town.live)[:2]
    town.change("ahead", ahead, created_at=dt.datetime(2099, 1, 1, tzinfo=dt.UTC))
    with pytest.raises(GateError, match="staleness"):
        run_nightly(config, night=date(FIRST + 5))
    night = Night.open(config, date(FIRST + 5))
    outcome = night.record.outcome_of("validate")
    assert outcome is not None and outcome.figures["ahead"] == 2
    new = pl.read_parquet(night.folder / "new-notes.parquet")["note_id"]
    assert not set(ahead) & set(new)


def test_an_index_below_its_target_is_not_accepted(settings: Settings) -> None:
    with pytest.raises(InputError, match=r"recall_target"):
        run_nightly(settings(), accept=["index recall"])


# the first week of a platform


def test_a_first_day_of_views_alone(town: Town, settings: Settings) -> None:
    log = pl.read_parquet(town.path / "engagement/*.parquet").with_columns(action=pl.lit("view"))
    for file in (town.path / "engagement").iterdir():
        file.unlink()
    log.write_parquet(town.path / "engagement/day.parquet")
    summary = run_nightly(settings(), night=date(FIRST))
    assert summary.outcome == "published" and {s.stage: s.status for s in summary.stages}["pairs"] == "skipped"


def test_nobody_shares_anything_yet(town: Town, settings: Settings) -> None:
    log = pl.read_parquet(town.path / "engagement/*.parquet").head(3)
    for file in (town.path / "engagement").iterdir():
        file.unlink()
    log.with_columns(action=pl.lit("click")).write_parquet(town.path / "engagement/day.parquet")
    summary = run_nightly(settings(), night=date(FIRST))
    assert "no related pair" in {s.stage: s.says for s in summary.stages}["pairs"]


def test_all_notes_are_new_then_none(town: Town, settings: Settings) -> None:
    config = settings(new_days=400, gates={"stale_hours": 1e6})
    run_nightly(config, night=date(FIRST))
    shown = Path(config.home) / "neighbours"
    assert set(pl.read_parquet(shown / "new-to-all.parquet")["query_id"]) == town.live
    assert pl.read_parquet(shown / "warm-to-new.parquet").height == 0
    none = settings(new_days=0.001, gates={"stale_hours": 1e6})
    run_nightly(none, night=date(FIRST + 2))
    assert pl.read_parquet(shown / "new-to-all.parquet").height == 0  # not those of an earlier night
    nobody = settings(model=None, home=str(town.path.parent / "other"), new_days=400, training={"settings": OWN})
    with pytest.raises(InputError, match=r"no model can be trained yet.*model:"):
        run_nightly(nobody, night=date(FIRST))


# models


def test_another_precision_is_embedded_anew(town: Town, settings: Settings) -> None:
    run_nightly(settings(), night=date(FIRST))
    town.deliver(FIRST + 1)
    config = settings(embed={"precision": "bf16"}, gates={"canary_cosine": 0.9})
    assert verdicts(run_nightly(config, night=date(FIRST + 1)).gates)["canaries"] == "passed"


@pytest.mark.slow
def test_a_model_overwritten_in_place_and_a_home_that_moves(
    town: Town, settings: Settings, trained: Path, platform: Path, tmp_path: Path
) -> None:
    from noterec.training.train import train

    model = tmp_path / "model"
    shutil.copytree(trained, model)
    run_nightly(settings(model=str(model)), night=date(FIRST))
    first = Index.open(tmp_path / "home/index").model_version
    model.rename(tmp_path / "moved")  # the same model at another place is the same model
    town.deliver(FIRST + 1)
    (tmp_path / "home").rename(tmp_path / "home2")
    moved = settings(model=str(tmp_path / "moved"), home=str(tmp_path / "home2"))
    run_nightly(moved, night=date(FIRST + 1))
    assert Index.open(index_of(moved)).model_version == first
    shutil.rmtree(tmp_path / "moved")
    train(
        platform / "split/train", pairs=platform / "pairs.parquet", out=tmp_path / "moved",
        config=FEW_STEPS.model_copy(update={"seed": 7}),
    )  # fmt: skip
    town.deliver(FIRST + 2)
    with pytest.raises(GateError, match=r"canaries.*another model is there now"):
        run_nightly(moved, night=date(FIRST + 2))
    wide = settings(model=moved.model, home=moved.home, gates={"loss": 1.0})
    run_nightly(wide, night=date(FIRST + 2), accept=["canaries"])
    assert Index.open(index_of(moved)).model_version != first
    shutil.rmtree(tmp_path / "moved")
    with pytest.raises(InputError, match="moved"):
        run_nightly(wide, night=date(FIRST + 3))


@pytest.mark.slow
def test_a_trained_model_is_compared_whatever_became_of_its_night(
    town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_nightly(settings(), night=date(FIRST))
    town.deliver(FIRST + 1)
    due = settings(training={"every_days": 7, "settings": OWN})
    killed_after("train", due, FIRST + 1, monkeypatch)  # the model is there, and run.json doesn't know it
    night = Night.open(due, date(FIRST + 1))
    for stage in STAGES[:3]:
        night.do(stage)
    assert night.record.result("train")["model"]["run"] == date(FIRST + 1).isoformat()
    town.deliver(FIRST + 2)  # another run, in which no training is due
    summary = run_nightly(due, night=date(FIRST + 2))
    stages = {outcome.stage: outcome for outcome in summary.stages}
    assert stages["train"].status == "skipped" and stages["choose"].status == "done"
    town.deliver(FIRST + 3)
    summary = run_nightly(due, night=date(FIRST + 3))  # compared once
    assert {outcome.stage: outcome.status for outcome in summary.stages}["choose"] == "skipped"


@pytest.mark.slow
def test_a_model_that_a_person_went_back_from_does_not_return_by_itself(
    town: Town, settings: Settings, trained: Path, platform: Path, tmp_path: Path
) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    first = Index.open(index_of(config)).model_version
    shorter = settings(embed={"dimension": 16}, training={"win": -1.0}, gates={"loss": 1.0})
    town.deliver(FIRST + 1)
    run_nightly(shorter, night=date(FIRST + 1))
    assert Index.open(index_of(config)).model_version != first
    rollback_nightly(shorter)
    town.deliver(FIRST + 2)
    summary = run_nightly(shorter, night=date(FIRST + 2))
    assert Index.open(index_of(config)).model_version == first
    assert "went back from" in {s.stage: s.says for s in summary.stages}["choose"]
    rollback_nightly(shorter, to="bundle-000002")
    town.deliver(FIRST + 3)
    run_nightly(shorter, night=date(FIRST + 3))
    assert Index.open(index_of(config)).model_version != first


def test_too_few_notes_to_train_on_stop_no_night(town: Town, settings: Settings) -> None:
    run_nightly(settings(), night=date(FIRST))
    town.deliver(FIRST + 1)
    config = settings(training={"every_days": 1, "valid_days": 5000, "settings": OWN})
    summary = run_nightly(config, night=date(FIRST + 1))
    assert "the live model stays" in {s.stage: s.says for s in summary.stages}["train"]


def test_the_first_night_publishes_the_model_that_is_named(settings: Settings) -> None:
    summary = run_nightly(settings(training={"every_days": 1, "settings": OWN}), night=date(FIRST))
    assert {s.stage: s.status for s in summary.stages}["train"] == "skipped"


def test_settings_that_would_do_nothing_are_refused(settings: Settings) -> None:
    for given in ({"max_rejected": 0.5}, {"max_deleted": 0.5}):
        with pytest.raises(ConfigError, match=r"gates\."):
            settings(embed=given)


def test_settings_that_would_fail_after_hours_fail_at_once(settings: Settings) -> None:
    for given in ({"builtin": [], "fuse": True}, {"builtin": ["bn25"]}, {"sums": ["noterec+bm25"]}):
        with pytest.raises(ConfigError, match=r"evaluate\."):
            settings(evaluate=given)
