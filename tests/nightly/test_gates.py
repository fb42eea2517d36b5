"""Each gate stops what it is for: the index that was live before stays, and the run's page names the gate."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from noterec.config import NightlyConfig
from noterec.errors import GateError
from noterec.index.bundle import live_name
from noterec.nightly import Night, run_nightly
from noterec.nightly.history import changed_counts
from noterec.nightly.intake import _usual_range
from noterec.nightly.record import Record
from noterec.nightly.rivals import rivals
from noterec.training.train import train
from tests.conftest import FEW_STEPS
from tests.nightly.conftest import FIRST, Town, date

Settings = Callable[..., NightlyConfig]


def stopped_by(config: NightlyConfig, day: int, gate: str) -> Night:
    """Run a night that a gate has to stop; what was live before still is."""
    index = Path(config.home) / "index"
    before = live_name(index)
    with pytest.raises(GateError, match=f"the gate '{gate}' stops it"):
        run_nightly(config, night=date(day))
    assert live_name(index) == before
    night = Night.open(config, date(day))
    assert [found.name for found in night.gates() if found.verdict == "stopped"] == [gate]
    page = (night.folder / "report.html").read_text()
    assert "Stopped by a gate" in page and gate.replace(">", "&gt;") in page
    return night


def test_rejects(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    empty = sorted(town.live)[: len(town.live) // 10]
    town.change("empty", empty, title=None, content=None, hashtags=None)
    night = stopped_by(config, FIRST + 1, "rejects")
    assert night.gates()[0].value == pytest.approx(len(empty) / len(town.live))
    assert night.record.outcome_of("embed") is None  # before anything was withdrawn


def test_notes_and_deleted_notes(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    gone = town.change("gone", sorted(town.live)[: len(town.live) // 3], deleted=True)
    stopped_by(config, FIRST + 1, "notes")
    wide = settings(gates={"notes": 0.5})
    night = stopped_by(wide, FIRST + 1, "deleted notes")
    assert {g.name: g.value for g in night.gates()}["deleted notes"] == pytest.approx(1 / 3, abs=0.01)
    summary = run_nightly(config, night=date(FIRST + 1), accept=["notes", "deleted notes"])
    assert [gate.name for gate in summary.gates if gate.verdict == "accepted"] == ["notes", "deleted notes"]
    gone.unlink()


def test_new_notes_outside_their_usual_range(town: Town, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    usual = [{"added": 400, "deleted": 0}] * 4
    monkeypatch.setattr("noterec.nightly.intake.changed_counts", lambda night: (usual, {"added": 0, "deleted": 0}))
    town.deliver(FIRST + 1)
    stopped_by(config, FIRST + 1, "new notes")


def test_the_usual_range() -> None:
    assert _usual_range([10, 10, 10], 4, floor=3) == (0, np.inf)  # too few nights to say
    assert _usual_range([8, 10, 12, 500], 4, floor=3) == (2, 44)  # the median is 11
    assert _usual_range([1, 2, 1, 2], 4, floor=30) == (0, 30)  # of few notes, twice as many are still few


def test_runs_of_one_night_count_together(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    town.deliver(FIRST + 1)
    run_nightly(config, night=date(FIRST + 1))
    added = len(town.live)
    later = sorted(town.notes["note_id"])[-5:]
    town.change("late", later, created_at=town.notes["created_at"].min())
    run_nightly(config, night=date(FIRST + 1))
    earlier, tonight = changed_counts(Night.open(config, date(FIRST + 2)))
    first = len(pl.read_parquet(town.path / f"notes/day-{FIRST:02d}.parquet"))
    assert earlier == [{"added": added - first + 5, "deleted": 0}]
    assert tonight == {"added": 0, "deleted": 0}


def test_canaries_tell_an_encoder_that_is_another(
    town: Town, settings: Settings, trained: Path, platform: Path, tmp_path: Path
) -> None:
    """Weights are overwritten, and the job takes them for those that it knows: sizes and times are as they were."""
    model, other = tmp_path / "model", tmp_path / "other"
    shutil.copytree(trained, model)
    config = settings(model=str(model))
    run_nightly(config, night=date(FIRST))
    train(
        platform / "split/train", pairs=platform / "pairs.parquet", out=other,
        config=FEW_STEPS.model_copy(update={"seed": 5}),
    )  # fmt: skip
    for weights in other.rglob("*.safetensors"):
        place = model / weights.relative_to(other)
        before = place.stat()
        shutil.copyfile(weights, place)
        assert place.stat().st_size == before.st_size
        os.utime(place, ns=(before.st_atime_ns, before.st_mtime_ns))
    night = stopped_by(config, FIRST + 1, "canaries")
    value = night.gates()[-1].value
    assert value is not None and value < 0.99


def test_index_recall(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import noterec.index.gate as gate

    monkeypatch.setattr(gate, "recall", lambda searcher, known: np.full(len(known.rows), 0.5))
    night = stopped_by(settings(), FIRST, "index recall")
    assert {g.name: g.value for g in night.gates()}["index recall"] == 0.5


def test_recall_against_the_live_bundle(town: Town, settings: Settings) -> None:
    config = settings(gates={"at": 50})
    run_nightly(config, night=date(FIRST))
    town.deliver(FIRST + 1)
    town.change("cut", sorted(town.live), title="a", content=None, hashtags=None)
    night = stopped_by(config, FIRST + 1, "recall new -> all")
    assert (night.folder.parents[1] / "index/bundles/.candidate").is_dir()
    (town.path / "notes/cut.parquet").unlink()
    assert run_nightly(config, night=date(FIRST + 1)).outcome == "published"


def test_what_is_not_measured_stops_nothing(settings: Settings) -> None:
    gates = {gate.name: gate for gate in run_nightly(settings(gates={"canaries": 0}), night=date(FIRST)).gates}
    for name in ("recall new -> all", "recall warm -> new"):
        assert (gates[name].verdict, gates[name].value, gates[name].says) == (
            "not measured",
            None,
            "nothing is live yet",
        )


def test_rivals_by_hand(tmp_path: Path) -> None:
    """Two bundles of five notes: one finds both answers, one finds none; what only one of them has doesn't count."""
    from noterec import schema, storage
    from noterec.index.build import build_index
    from tests.index.conftest import embeddings_table

    right = [[1, 0, 0], [1, 0.1, 0], [0, 1, 0], [0, 1, 0.1], [0, 0, 1]]
    wrong = [[1, 0, 0], [0, 1, 0], [1, 0.1, 0], [0, 1, 0.1], [0, 0, 1]]
    ids = list("abcde")
    folders = []
    for name, rows, extra in (("live", right, "x"), ("tonight", wrong, "y")):
        vectors = np.array([*rows, [1, 0.01, 0]], dtype=np.float32)  # an id of its own, nearer to `a` than any other
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        table = tmp_path / f"{name}.parquet"
        storage.write_table(embeddings_table([*ids, extra], vectors), table)
        build_index(table, out=tmp_path / name)
        folders.append(tmp_path / name / "bundles/bundle-000001")
    pairs = tmp_path / "pairs.parquet"
    rows: dict[str, Any] = {
        "anchor_id": ["a", "d", "x"], "related_id": ["b", "c", "a"], "score": [1.0, 1.0, 1.0], "rank": [1, 1, 1]
    }  # fmt: skip
    import pyarrow as pa

    storage.write_table(schema.conform(pa.table(rows), schema.PAIRS, name="pairs"), pairs)
    found = rivals(*folders, pairs, "new -> all", k=1)
    assert found is not None
    assert (found.live, found.tonight, found.questions) == (1.0, 0.0, 2)
    assert found.upper == -1.0
    same = rivals(folders[0], folders[0], pairs, "new -> all", k=1)
    assert same is not None and same.upper == 0.0


def test_a_damaged_record_is_no_history(town: Town, settings: Settings) -> None:
    config = settings()
    run_nightly(config, night=date(FIRST))
    record = Record.read(Path(config.home) / f"runs/{date(FIRST)}")
    (record.folder / "run.json").write_text("{")
    town.deliver(FIRST + 1)
    assert run_nightly(config, night=date(FIRST + 1)).outcome == "published"
