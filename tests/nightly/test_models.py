"""Which model a night works with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from noterec.config import NightlyConfig
from noterec.errors import ArtefactError, NoterecError
from noterec.index.search import Index
from noterec.nightly import Night, rollback_nightly, run_nightly
from noterec.nightly.preview import preview
from noterec.training.train import train
from tests.conftest import FEW_STEPS
from tests.nightly.conftest import FIRST, Town, date

Settings = Callable[..., NightlyConfig]
OWN = {
    "steps": 2, "batch_notes": 32, "vocabulary": 300, "dimension": 16, "valid_every": 2, "checkpoint_every": 2, "device": "cpu"
}  # fmt: skip


@pytest.fixture(scope="module")
def rival(platform: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model, as good or bad as the first."""
    out = tmp_path_factory.mktemp("rival") / "model"
    train(
        platform / "split/train", pairs=platform / "pairs.parquet", out=out,
        config=FEW_STEPS.model_copy(update={"seed": 3}),
    )  # fmt: skip
    return out


def version(config: NightlyConfig) -> str:
    return Index.open(Path(config.home) / "index").model_version


def test_another_model_is_published_only_if_it_wins(town: Town, settings: Settings, rival: Path) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    first = version(config)
    town.deliver(FIRST + 1)
    loses = settings(model=str(rival), training={"win": 100.0})
    summary = run_nightly(loses, night=date(FIRST + 1))
    choose = next(outcome for outcome in summary.stages if outcome.stage == "choose")
    assert choose.status == "done" and "the live one stays" in choose.says and version(loses) == first
    # It is embedded side by side all the same, so that tomorrow's comparison costs little.
    embedded = next(outcome for outcome in summary.stages if outcome.stage == "embed").figures
    assert embedded["encoded_by_other"] == len(town.live) > embedded["encoded"]
    town.deliver(FIRST + 2)
    wins = settings(model=str(rival), training={"win": -1.0}, gates={"loss": 1.0})
    summary = run_nightly(wins, night=date(FIRST + 2))
    assert "it takes its place" in next(outcome.says for outcome in summary.stages if outcome.stage == "choose")
    assert version(wins) != first
    assert set(Index.open(Path(wins.home) / "index").ids) == town.live
    town.deliver(FIRST + 3)
    summary = run_nightly(wins, night=date(FIRST + 3))
    assert next(outcome.status for outcome in summary.stages if outcome.stage == "choose") == "skipped"
    assert {gate.name: gate.verdict for gate in summary.gates}["canaries"] == "passed"


def test_after_a_rollback_the_older_model_goes_on(town: Town, settings: Settings, rival: Path, trained: Path) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    first = version(config)
    town.deliver(FIRST + 1)
    wins = settings(model=str(rival), training={"win": -1.0}, gates={"loss": 1.0})
    run_nightly(wins, night=date(FIRST + 1))
    assert version(wins) != first
    link = Path(wins.home) / "live-model"
    assert link.resolve() == rival.resolve()
    rollback_nightly(wins)
    assert link.resolve() == trained.resolve()
    town.deliver(FIRST + 2)
    run_nightly(config, night=date(FIRST + 2))
    assert version(config) == first and set(Index.open(Path(config.home) / "index").ids) == town.live


def test_the_first_model_is_trained_here_and_the_next_when_it_is_due(town: Town, settings: Settings) -> None:
    config = settings(model=None, training={"every_days": 2, "valid_days": 3, "settings": OWN})
    summary = run_nightly(config, night=date(FIRST))
    trained = next(outcome for outcome in summary.stages if outcome.stage == "train")
    assert trained.status == "done" and "there is no model yet" in trained.says
    home = Path(config.home)
    assert (home / "live-model").readlink() == Path(f"models/{date(FIRST)}")
    names = {model["run"] for model in json.loads((home / "models.json").read_text())["models"].values()}
    assert names == {date(FIRST).isoformat()}
    split = json.loads((home / f"training/{date(FIRST)}/split/split.json").read_text())
    limit = split["config"]["valid_from"]
    known = town.notes.filter(pl.col("created_at").dt.strftime("%Y-%m-%dT%H:%M:%S") < limit[:19])
    assert trained.figures["train_notes"] == known.height < len(town.live)
    assert not (home / f"training/{date(FIRST)}/split/train").exists()  # a copy of the notes
    town.deliver(FIRST + 1)
    summary = run_nightly(config, night=date(FIRST + 1))
    assert next(outcome.status for outcome in summary.stages if outcome.stage == "train") == "skipped"
    town.deliver(FIRST + 2)
    summary = run_nightly(config, night=date(FIRST + 2))
    stages = {outcome.stage: outcome for outcome in summary.stages}
    assert stages["train"].status == "done" and stages["choose"].status == "done"


def test_a_training_that_fails_does_not_stop_the_night(
    town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from noterec.errors import DivergenceError
    from noterec.nightly import vectors

    run_nightly(settings(), night=date(FIRST))
    town.deliver(FIRST + 1)

    def diverges(*given: object, **named: object) -> None:
        raise DivergenceError("the loss is no number")

    monkeypatch.setattr(vectors, "train", diverges)
    summary = run_nightly(settings(training={"every_days": 1, "settings": OWN}), night=date(FIRST + 1))
    trained = next(outcome for outcome in summary.stages if outcome.stage == "train")
    assert "the loss is no number" in trained.says and summary.outcome == "published"


def test_a_model_that_is_gone_is_named(town: Town, settings: Settings, trained: Path, tmp_path: Path) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    (Path(config.home) / "models.json").unlink()
    town.deliver(FIRST + 1)
    with pytest.raises(ArtefactError, match=r"models\.json doesn't know"):
        run_nightly(settings(model=None), night=date(FIRST + 1))
    assert run_nightly(config, night=date(FIRST + 1)).outcome == "published"  # the settings name it


def test_a_model_that_cannot_be_loaded_is_named_first(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    town.deliver(FIRST + 1)
    wrong = settings(model="modle")
    with pytest.raises(NoterecError, match="modle"):
        preview(wrong, night=date(FIRST + 1))
    with pytest.raises(NoterecError, match="modle"):
        run_nightly(wrong, night=date(FIRST + 1))
    assert "embed" not in Night.open(wrong, date(FIRST + 1)).record.facts["stages"]


def test_another_length_of_the_vectors_is_another_model(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    town.deliver(FIRST + 1)
    shorter = settings(embed={"dimension": 16}, training={"win": -1.0}, gates={"loss": 1.0})
    summary = run_nightly(shorter, night=date(FIRST + 1))
    assert next(outcome.status for outcome in summary.stages if outcome.stage == "choose") == "done"
    assert Index.open(Path(shorter.home) / "index").dimension == 16
    shutil.rmtree(Path(shorter.home) / "runs")  # what earlier nights did is no input of the next one
    town.deliver(FIRST + 2)
    assert run_nightly(shorter, night=date(FIRST + 2)).outcome == "published"
    assert Night.open(shorter, date(FIRST + 2)).finished
