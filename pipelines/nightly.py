"""The nightly job in Dagster: a stage is an asset, a night is a partition, a gate is an asset check.

    pip install -e '.[cpu,dagster]'
    dagster dev                                         # a small synthetic platform, made on first use
    NOTEREC_NIGHTLY=/srv/noterec/nightly.yaml dagster dev

Nothing is decided here. `noterec.nightly` knows what is done already, keeps everything between stages in the run's folder, and
judges the gates; this file tells Dagster about it. A night can be begun here and finished with `noterec nightly`, or the other way.
"""

import datetime as dt
import os
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg

from noterec.errors import GateError, LockedError, NoterecError
from noterec.nightly import STAGES, GateResult, Night, Outcome
from noterec.nightly.stages import STAGE_WORK
from pipelines.demo import DEMO, make_platform

CONFIG = os.environ.get("NOTEREC_NIGHTLY", str(DEMO))
FIRST_NIGHT = os.environ.get("NOTEREC_FIRST_NIGHT", "2026-11-01")
GROUP = "nightly"

# Which gates a stage judges. A gate that two stages judge is a check of both.
JUDGED = {
    "validate": ("rejects", "notes", "deleted notes", "new notes"),
    "embed": ("canaries", "rejects"),
    "index": ("index recall",),
    "gate": ("recall new -> all", "recall warm -> new", "staleness"),
}

# Tonight's partition is there from midnight UTC, and tonight is the night that a schedule at 03:00 runs.
NIGHTS = dg.DailyPartitionsDefinition(start_date=FIRST_NIGHT, timezone="UTC", end_offset=1)

RETRIES, RETRY_SECONDS = 2, 300

Event = dg.AssetCheckResult | dg.MaterializeResult[None]


class NightlyJob(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Settings of the job; a run may be launched with others.

    Attributes:
        config: YAML file, as `noterec nightly` takes it.
        accept: names of gates that shall not stop the run, once a person has looked.
    """

    config: str = CONFIG
    accept: list[str] = []  # noqa: RUF012 (pydantic copies it)

    def open(self, night: str) -> Night:
        """Tonight's run, begun or gone on with."""
        if self.config == str(DEMO):
            make_platform()
        return Night.open(self.config, dt.date.fromisoformat(night), self.accept)


def check_name(gate: str) -> str:
    """A gate's name as Dagster allows it."""
    return re.sub(r"\W+", "_", gate)


def stage_asset(stage: str) -> dg.AssetsDefinition:
    """The asset of a stage, which depends on the one before.

    Args:
        stage: one of `noterec.nightly.STAGES`.
    """
    place = STAGES.index(stage)
    gates = JUDGED.get(stage, ())

    @dg.asset(
        name=stage,
        deps=STAGES[place - 1 : place] if place else (),
        group_name=GROUP,
        partitions_def=NIGHTS,
        description=(STAGE_WORK[stage].__doc__ or "").strip(),
        check_specs=[
            dg.AssetCheckSpec(check_name(gate), asset=stage, description=f"the gate {gate!r}") for gate in gates
        ],
    )
    def done(context: dg.AssetExecutionContext, job: NightlyJob) -> Iterator[Event]:
        try:
            night = job.open(context.partition_key)
        except NoterecError as error:
            raise ending(error) from error
        try:
            outcome = night.do(stage)
            if stage == STAGES[-1] and not night.finished:
                night.finish()
        except LockedError as error:  # another job's night: not ours to end
            raise ending(error) from error
        except BaseException as error:
            report = night.finish(error)
            yield from _checks(night, stage, stopped=True)
            if (told := ending(error, report)) is not error:
                raise told from error
            raise
        yield from _checks(night, stage)
        yield dg.MaterializeResult(metadata=_metadata(night, outcome))

    return done


def ending(error: BaseException, report: Path | None = None) -> BaseException:
    """How an error ends a stage: what may pass by itself is asked again, a gate or a wrong input never; a bug keeps its traceback.

    Args:
        error: of `noterec.nightly`.
        report: the night's page.
    """
    if isinstance(error, LockedError | OSError):
        return dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=RETRY_SECONDS)
    if not isinstance(error, NoterecError):
        return error
    metadata = {} if report is None else {"report": dg.MetadataValue.path(str(report))}
    if isinstance(error, GateError):
        metadata["stopped by"] = dg.MetadataValue.text("a gate; what was published before stays")
    return dg.Failure(str(error), metadata=metadata, allow_retries=False)


def _checks(night: Night, stage: str, *, stopped: bool = False) -> Iterator[dg.AssetCheckResult]:
    """The stage's gates, each with what was measured; after a stop only those that were reached."""
    found = {gate.name: gate for gate in night.gates()}
    for name in JUDGED.get(stage, ()):
        gate = found.get(name)
        if gate is None and stopped:
            continue
        yield _check(gate or GateResult(name, None, "", "not measured", "nothing to compare with yet"), stage)


def _check(gate: GateResult, stage: str) -> dg.AssetCheckResult:
    metadata: dict[str, dg.MetadataValue] = {  # type: ignore[type-arg]
        "verdict": dg.MetadataValue.text(gate.verdict),
        "bound": dg.MetadataValue.text(gate.bound),
    }
    if gate.value is not None:
        metadata["value"] = dg.MetadataValue.float(float(gate.value))
    return dg.AssetCheckResult(
        asset_key=stage,
        check_name=check_name(gate.name),
        passed=gate.verdict in ("passed", "not measured"),
        # What a person let through stays visible, without looking like a night that was stopped.
        severity=dg.AssetCheckSeverity.WARN if gate.verdict == "accepted" else dg.AssetCheckSeverity.ERROR,
        description=gate.says,
        metadata=metadata,
    )


def _metadata(night: Night, outcome: Outcome) -> dict[str, dg.MetadataValue]:  # type: ignore[type-arg]
    """What a stage says, its figures (Dagster draws them over the nights), and where to read more."""
    found: dict[str, dg.MetadataValue] = {  # type: ignore[type-arg]
        "says": dg.MetadataValue.text(outcome.says),
        "status": dg.MetadataValue.text(outcome.status),
        "seconds": dg.MetadataValue.float(float(outcome.seconds)),
        "run": dg.MetadataValue.path(str(night.folder)),
    }
    for name, value in outcome.figures.items():
        found[name] = _figure(value)
    if outcome.stage == "evaluate" and outcome.status == "done":
        found["evaluation"] = dg.MetadataValue.md(
            (night.folder / "evaluation" / "report.md").read_text(encoding="utf-8")
        )
    if outcome.stage == STAGES[-1]:
        found["report"] = dg.MetadataValue.path(str(night.folder / "report.html"))
    return found


def _figure(value: int | float | str) -> dg.MetadataValue:  # type: ignore[type-arg]
    if isinstance(value, str):
        return dg.MetadataValue.text(value)
    return dg.MetadataValue.int(value) if isinstance(value, int) else dg.MetadataValue.float(value)


assets = [stage_asset(stage) for stage in STAGES]
job = dg.define_asset_job("nightly", selection=dg.AssetSelection.groups(GROUP), description="All stages of a night")


@dg.schedule(job=job, cron_schedule="0 3 * * *", execution_timezone="UTC")
def every_night(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Tonight, at 03:00 UTC. Off until it is turned on, in the page or with `dagster schedule start every_night`."""
    night = context.scheduled_execution_time.date().isoformat()
    return dg.RunRequest(run_key=night, partition_key=night)


# One process for all stages: they follow one another anyway, and each would have to load the model's libraries again.
defs = dg.Definitions(
    assets=assets, jobs=[job], schedules=[every_night], resources={"job": NightlyJob()}, executor=dg.in_process_executor
)
