"""What goes after a night, and what has to stay."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noterec import storage
from noterec.config import IndexConfig, NightlyConfig
from noterec.config.settings import make
from noterec.index.build import build_index
from noterec.nightly.home import Home
from noterec.nightly.models import REGISTRY, trained_models
from noterec.nightly.night import Night
from noterec.nightly.record import Record
from noterec.nightly.retention import collect
from tests.index.conftest import embeddings_table, unit

TONIGHT = dt.date(2025, 3, 31)
IDS = [f"n{number}" for number in range(20)]
VECTORS = unit(np.random.default_rng(0).normal(size=(20, 4)))

Make = Callable[..., Night]


def table(home: Path, name: str, *, superseded: bool = False) -> Path:
    """An embeddings table of a model version."""
    version, _, precision = name.rpartition("-")
    origin = {"kind": "embeddings", "model_version": version, "dimension": 4, "precision": precision}
    folder = storage.ShardFolder(home / "embeddings" / name, origin=origin)
    for _ in range(1 + superseded):
        folder.append(embeddings_table(IDS, VECTORS, version))
    return home / "embeddings" / name


@pytest.fixture
def night(tmp_path: Path) -> Make:
    """A night whose stages are done but for the last; bundles are of the model versions that are given."""
    home = tmp_path / "home"
    (tmp_path / "data/notes").mkdir(parents=True)

    def made(
        *,
        bundles: Sequence[str] = ("live-fp32",),
        trained: Sequence[str] = (),
        chosen: str = "live",
        other: str | None = None,
        **retention: Any,
    ) -> Night:
        Home.open(home, create=True)
        for name in bundles:
            folder = home / "embeddings" / name
            build_index(
                folder if folder.is_dir() else table(home, name),
                out=home / "index",
                config=IndexConfig(kind="flat", lexical=False),
                say=str,
            )
        known = {}
        for number, version in enumerate(trained, start=1):
            run = f"2025-01-{number:02d}"
            for part in ("models", "training"):
                (home / part / run).mkdir(parents=True)
                (home / part / run / "a.bin").write_bytes(b"12345")
            known[version] = {"path": str(home / "models" / run), "dimension": None, "run": run, "stamp": ""}
        storage.write_json(home / REGISTRY, {"models": known, "last_training": None})
        record = Record.begin(home / "runs" / TONIGHT.isoformat(), night=TONIGHT.isoformat(), fingerprint="")
        models = {
            version: version and {"version": version, "path": "", "dimension": None, "run": None}
            for version in (chosen, other)
        }
        record.set_stage("embed", result={"live": models[chosen], "other": models[other]})
        record.set_stage("choose", result={"model": models[chosen]})
        values = {"dataset": str(tmp_path / "data"), "home": str(home), "retention": retention}
        config = make(NightlyConfig, values, where="test")
        moment = dt.datetime(2025, 3, 31, tzinfo=dt.UTC)
        return Night(config, Home(home), TONIGHT, moment, record, frozenset())

    return made


def runs(home: Path, *names: str) -> None:
    for name in names:
        Record.begin(home / "runs" / name, night=name[:10], fingerprint="")


def there(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []


def test_runs_go_by_number_and_age(night: Make) -> None:
    tonight = night(runs=3, days=30)
    home = tonight.home.path
    runs(home, "2025-01-01", "2025-01-02", "2025-03-01", "2025-03-01.2", "2025-03-02", "2025-03-30")
    done = collect(tonight)
    # The newest three stay, whatever their age, tonight's among them; of the rest those of the last 30 days.
    assert there(home / "runs") == ["2025-03-01", "2025-03-01.2", "2025-03-02", "2025-03-30", "2025-03-31"]
    assert done.figures["runs"] == 2 and done.figures["bytes_freed"] > 0


def test_few_runs_stay_however_old(night: Make) -> None:
    tonight = night(runs=3, days=1)
    runs(tonight.home.path, "2020-01-01", "2020-01-02", "2020-01-03")
    collect(tonight)
    assert there(tonight.home.path / "runs") == ["2020-01-02", "2020-01-03", "2025-03-31"]


@pytest.mark.parametrize("days", [1e9, float("inf")])
def test_for_ever(night: Make, days: float) -> None:
    tonight = night(runs=1, days=days)
    runs(tonight.home.path, "2020-01-01")
    collect(tonight)
    assert there(tonight.home.path / "runs") == ["2020-01-01", "2025-03-31"]


def test_what_is_in_the_runs_folder_besides(night: Make) -> None:
    tonight = night(runs=1, days=1)
    for name in ("notes of mine", "2020-01-01-copy"):
        (tonight.home.path / "runs" / name).mkdir()
    collect(tonight)
    assert there(tonight.home.path / "runs") == ["2020-01-01-copy", "2025-03-31", "notes of mine"]


def test_models_stay_that_are_young_or_that_a_bundle_needs(night: Make) -> None:
    tonight = night(bundles=("a-fp32", "live-fp32"), trained=["a", "b", "c", "d", "live"], models=2)
    home = tonight.home.path
    for version in "bcd":
        table(home, f"{version}-fp32")
    done = collect(tonight)
    assert [model.version for model in trained_models(tonight.home)] == ["a", "d", "live"]
    assert there(home / "models") == there(home / "training") == ["2025-01-01", "2025-01-04", "2025-01-05"]
    assert there(home / "embeddings") == ["a-fp32", "d-fp32", "live-fp32"]
    assert done.figures["models"] == 2


def test_a_model_that_was_given_is_never_removed(night: Make, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    tonight = night()
    entry = {"path": str(tmp_path / "theirs"), "dimension": None, "run": None, "stamp": ""}
    storage.write_json(tonight.home.path / REGISTRY, {"models": {"theirs": entry}, "last_training": None})
    collect(tonight)
    assert (tmp_path / "theirs").is_dir()
    assert json.loads((tonight.home.path / REGISTRY).read_text())["models"].keys() == {"theirs"}


def test_vectors_of_the_model_that_may_win_tomorrow_stay(night: Make) -> None:
    tonight = night(other="rival")
    for name in ("rival-fp32", "lost-fp32"):
        table(tonight.home.path, name)
    collect(tonight)
    assert there(tonight.home.path / "embeddings") == ["live-fp32", "rival-fp32"]


def test_tables_of_another_precision_stay_while_a_bundle_is_made_of_them(night: Make) -> None:
    tonight = night(bundles=("live-bf16", "live-fp32"))
    table(tonight.home.path, "live-fp16")
    collect(tonight)
    assert there(tonight.home.path / "embeddings") == ["live-bf16", "live-fp32"]


def test_a_table_is_compacted_where_much_of_it_no_longer_counts(night: Make) -> None:
    home = night().home.path
    folder = storage.ShardFolder(
        home / "embeddings/live-fp32",
        origin=storage.read_json(home / "embeddings/live-fp32/manifest.json")["origin"],
    )
    folder.append(embeddings_table(IDS[:8], VECTORS[:8], "live"))  # 8 of 28 rows are superseded
    assert collect(night(bundles=())).figures["compacted"] == 0
    folder.append(embeddings_table(IDS[:8], VECTORS[:8], "live"))  # 16 of 36
    assert collect(night(bundles=())).figures["compacted"] == 1
    assert storage.ShardFolder(home / "embeddings/live-fp32", origin=folder.origin).rows == 20


def test_what_strangers_put_there_stays(night: Make, caplog: pytest.LogCaptureFixture) -> None:
    tonight = night()
    home = tonight.home.path
    for name in ("backup", "live-notes", "models-of-mine"):
        (home / "embeddings" / name).mkdir()
        (home / "embeddings" / name / "a.txt").write_text("mine")
    (home / "embeddings/live-readme.txt").write_text("mine")
    (home / "models").mkdir()
    (home / "models/mine").mkdir()
    with caplog.at_level(logging.WARNING):
        collect(tonight)
    assert there(home / "embeddings") == ["backup", "live-fp32", "live-notes", "live-readme.txt", "models-of-mine"]
    assert there(home / "models") == ["mine"] and "backup: no table of embeddings, left alone" in caplog.text


def test_what_is_damaged_stays_and_is_told(night: Make, caplog: pytest.LogCaptureFixture) -> None:
    tonight = night(bundles=("old-fp32", "live-fp32"), trained=["old", "x", "y", "live"], models=1)
    home = tonight.home.path
    (home / "index/bundles/bundle-000001/bundle.json").write_text("{")
    broken = table(home, "live-fp16", superseded=True)
    (broken / "manifest.json").write_text("{")
    for file in (home / "embeddings/live-fp32").glob("*.parquet"):
        file.write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        collect(tonight)
    assert "bundle-000001 can't be read" in caplog.text and "live-fp16 is damaged" in caplog.text
    assert there(home / "embeddings") == ["live-fp16", "live-fp32"]
    assert [model.version for model in trained_models(tonight.home)] == ["live"]


def test_trainings_that_made_no_model_go_with_their_run(night: Make) -> None:
    tonight = night(trained=["live"])
    home = tonight.home.path
    runs(home, "2025-02-02")
    for name in ("2025-02-01", "2025-02-02", TONIGHT.isoformat()):
        (home / "models" / name).mkdir()
        (home / "training" / name).mkdir()
    collect(tonight)
    assert there(home / "models") == there(home / "training") == ["2025-01-01", "2025-02-02", "2025-03-31"]


def test_neighbours_go_with_their_bundle(night: Make) -> None:
    tonight = night(bundles=("live-fp32", "live-fp32"))
    for name in ("bundle-000001", "bundle-000002", "bundle-000009", "mine"):
        (tonight.home.neighbours / name).mkdir(parents=True)
    (tonight.home.neighbours / "new-to-all.parquet").write_text("")
    collect(tonight)
    assert there(tonight.home.neighbours) == ["bundle-000001", "bundle-000002", "mine", "new-to-all.parquet"]


def test_once_more_does_nothing(night: Make) -> None:
    tonight = night(trained=["a", "b", "live"], models=1)
    assert collect(tonight).figures["models"] == 2
    assert dataclasses.asdict(collect(tonight))["figures"] == {
        "runs": 0, "models": 0, "compacted": 0, "bytes_freed": 0
    }  # fmt: skip
