"""The nightly job in Dagster: stages as assets, gates as checks, a stop as a failed run. `make test-dagster` runs it."""

import datetime as dt
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml

dg = pytest.importorskip("dagster", reason="needs `pip install 'noterec[dagster]'`: make test-dagster")

from noterec.errors import GateError, InputError, LockedError  # noqa: E402
from noterec.nightly import GATES, STAGES  # noqa: E402
from pipelines import nightly as pipeline  # noqa: E402
from pipelines.demo import DEMO, make_platform  # noqa: E402

pytestmark = pytest.mark.dagster
ROOT = Path(__file__).parents[2]
TODAY = dt.datetime.now(dt.UTC).date().isoformat()


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of the demo, smaller still, below a folder of their own."""
    folder = tmp_path_factory.mktemp("nightly")
    settings = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    settings.update(dataset=str(folder / "platform"), home=str(folder / "home"))
    settings["training"] = {
        "settings": {
            "steps": 2,
            "batch_notes": 16,
            "vocabulary": 500,
            "dimension": 16,
            "valid_every": 1,
            "device": "cpu",
        }
    }
    settings["evaluate"] = {"at": [10], "resamples": 100}
    settings["gates"]["canaries"] = 16
    file = folder / "nightly.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    make_platform(file, notes=200, users=120)
    return file


@pytest.fixture
def instance() -> Iterator[Any]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def _run(instance: Any, config: Path, *, accept: tuple[str, ...] = ()) -> Any:
    return pipeline.defs.resolve_job_def("nightly").execute_in_process(
        instance=instance,
        partition_key=TODAY,
        run_config={"resources": {"job": {"config": {"config": str(config), "accept": list(accept)}}}},
        raise_on_error=False,
    )


def _checks(result: Any) -> dict[tuple[str, str], Any]:
    return {
        (found.asset_key.to_user_string(), found.check_name): found for found in result.get_asset_check_evaluations()
    }


def _materialized(result: Any) -> dict[str, Any]:
    return {
        event.asset_key.to_user_string(): event.materialization for event in result.get_asset_materialization_events()
    }


def test_every_gate_is_a_check_of_the_stages_that_judge_it() -> None:
    declared = {key.asset_key.to_user_string(): set() for asset in pipeline.assets for key in asset.check_keys}
    for asset in pipeline.assets:
        for key in asset.check_keys:
            declared[key.asset_key.to_user_string()].add(key.name)
    assert declared == {
        stage: {pipeline.check_name(gate) for gate in gates} for stage, gates in pipeline.JUDGED.items()
    }
    assert {gate for gates in pipeline.JUDGED.values() for gate in gates} == set(GATES)


def test_stages_are_a_chain_in_the_jobs_order() -> None:
    graph = pipeline.defs.resolve_asset_graph()
    for before, stage in zip((None, *STAGES), STAGES, strict=False):
        parents = {key.to_user_string() for key in graph.get(dg.AssetKey(stage)).parent_keys}
        assert parents == ({before} if before else set())


def test_the_schedule_runs_tonights_partition() -> None:
    context = dg.build_schedule_context(scheduled_execution_time=dt.datetime.now(dt.UTC).replace(hour=3))
    request = pipeline.every_night(context)
    assert request.partition_key == TODAY
    assert TODAY in pipeline.NIGHTS.get_partition_keys()


def test_the_demo_ends_today(config: Path) -> None:
    folder = Path(yaml.safe_load(config.read_text(encoding="utf-8"))["dataset"])
    last = pl.read_parquet(folder / "engagement" / "*.parquet")["timestamp"].max()
    assert isinstance(last, dt.datetime)
    assert dt.timedelta(0) <= dt.datetime.now(dt.UTC) - last < dt.timedelta(days=2)


def test_nights_that_are_published_stopped_and_let_through(config: Path, instance: Any) -> None:
    """One night after the other, as a person would meet them."""
    settings = yaml.safe_load(config.read_text(encoding="utf-8"))
    home = Path(settings["home"])

    # The first night: everything is made and published.
    result = _run(instance, config)
    assert result.success
    made = _materialized(result)
    assert list(made) == list(STAGES)
    run = home / "runs" / TODAY
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert facts["outcome"] == "published"
    for stage in STAGES:
        figures = facts["stages"][stage]["figures"]
        assert {name: made[stage].metadata[name].value for name in figures} == figures
    assert made["collect"].metadata["report"].value == str(run / "report.html")
    assert "| noterec |" in made["evaluate"].metadata["evaluation"].value
    checks = _checks(result)
    assert all(check.passed for check in checks.values())
    assert checks["validate", "notes"].metadata["verdict"].value == "not measured"
    index_recall = checks["index", "index_recall"].metadata
    assert index_recall["value"].value == facts["gates"]["index recall"]["value"]
    live = (home / "index" / "CURRENT").read_text(encoding="utf-8")

    # Once more: nothing is newer, so nothing is done, and nothing is written twice.
    again = _run(instance, config)
    assert again.success
    assert json.loads((run / "run.json").read_text(encoding="utf-8")) == facts

    # Every second note is gone: a gate stops the night, as a failed check and a failed run.
    part = next(Path(settings["dataset"], "notes").glob("*.parquet"))
    whole = pl.read_parquet(part)
    whole.gather_every(2).write_parquet(part)
    stopped = _run(instance, config)
    assert not stopped.success
    assert _materialized(stopped) == {}
    check = _checks(stopped)["validate", "notes"]
    assert not check.passed
    assert check.severity is dg.AssetCheckSeverity.ERROR
    assert check.metadata["value"].value == pytest.approx(-0.5)
    assert check.metadata["bound"].value.startswith("within ±25% of the live index")
    failure = next(event for event in stopped.all_events if event.is_step_failure)
    assert failure.step_key == "validate"
    assert "the gate 'notes' stops it" in failure.step_failure_data.user_failure_data.description
    assert not [event for event in stopped.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"]
    assert (home / "runs" / f"{TODAY}.2" / "report.html").is_file()
    assert (home / "index" / "CURRENT").read_text(encoding="utf-8") == live

    # A person looks, and lets it through: the checks still say so.
    let = _run(instance, config, accept=("notes", "deleted notes"))
    assert let.success
    accepted = _checks(let)["validate", "notes"]
    assert not accepted.passed
    assert accepted.severity is dg.AssetCheckSeverity.WARN
    assert accepted.metadata["verdict"].value == "accepted"
    # Every gate that this night judged was judged by a stage that has a check for it.
    judged = json.loads((home / "runs" / f"{TODAY}.2" / "run.json").read_text(encoding="utf-8"))["gates"]
    reported = {name for _, name in _checks(let)}
    assert {pipeline.check_name(name) for name in judged} <= reported


def test_only_what_may_pass_by_itself_is_asked_again() -> None:
    for error in (LockedError("at it"), TimeoutError("no answer")):
        assert isinstance(pipeline.ending(error), dg.RetryRequested)
    for error in (GateError("stopped"), InputError("no such folder")):
        failure = pipeline.ending(error, Path("report.html"))
        assert isinstance(failure, dg.Failure)
        assert (failure.description, failure.allow_retries) == (str(error), False)
    bug = KeyError("bug")
    assert pipeline.ending(bug) is bug


def test_what_comes_with_a_checkout_says_no_to_telemetry(tmp_path: Path) -> None:
    from dagster._core.instance import InstanceRef

    found = InstanceRef.from_dir(str(tmp_path), config_dir=str(ROOT))  # as `dagster dev` reads it, without DAGSTER_HOME
    with dg.DagsterInstance.from_ref(found) as instance:
        assert not instance.telemetry_enabled
