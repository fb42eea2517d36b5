"""`noterec nightly CONFIG`: all stages of a night, what became of earlier nights, and the way back."""

from __future__ import annotations

import datetime as dt
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from noterec import progress
from noterec.config import NightlyConfig, load
from noterec.errors import InputError
from noterec.index.bundle import bundles, live_name
from noterec.index.manage import roll_back
from noterec.nightly.bundles import show_tables
from noterec.nightly.history import records
from noterec.nightly.home import Home
from noterec.nightly.identity import clock, known_gates
from noterec.nightly.models import note_rollback, show_model
from noterec.nightly.night import Night
from noterec.nightly.record import GateResult, Outcome
from noterec.nightly.report import write_report
from noterec.nightly.run import Run
from noterec.nightly.stages import STAGES

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class NightSummary:
    """What a night did.

    Attributes:
        run: its name.
        outcome: "published", or "nothing to do" where this run was done before and nothing is newer since.
        bundle: the live bundle.
        stages: what each stage did.
        gates: what each gate measured.
        report: the night's page.
        seconds: wall-clock time of this call.
    """

    run: str
    outcome: str
    bundle: str | None
    stages: list[Outcome]
    gates: list[GateResult]
    report: Path
    seconds: float


@dataclass(frozen=True)
class NightLine:
    """One run, as `noterec nightly status` lists it; None where its stages didn't come so far.

    `stage` is the last one that was begun, `gate` the one that stopped it.
    """

    run: str
    outcome: str
    stage: str
    gate: str | None
    bundle: str | None
    notes: int | None
    added: int | None
    deleted: int | None
    encoded: int | None
    recall: float | None
    seconds: float


@dataclass(frozen=True)
class NightlyRollback:
    """Which bundle was live and which one is now, and whether the neighbour tables went back with it."""

    was: str | None
    live: str
    tables: bool


def run_nightly(
    config: NightlyConfig | str | os.PathLike[str],
    *,
    night: dt.date | None = None,
    accept: Sequence[str] = (),
) -> NightSummary:
    """Take in what is newer, and publish it if it is good enough; a night that was stopped or killed goes on where it was.

    Args:
        config: the settings, or their YAML file.
        night: the date, today's (UTC) unless given.
        accept: names of gates that shall not stop this run.

    Returns:
        What was done. Where this night's run was finished and no file is newer, nothing is done.

    Raises:
        GateError: a gate stopped the night; what was published before stays.
        InputError: the dataset or the settings can't be used; likewise.
        LockedError: another process is at it.
    """
    settings = config if isinstance(config, NightlyConfig) else load(NightlyConfig, config)
    clock(night)  # what can't be right is refused before a folder is made
    known_gates(accept)
    with progress.stage("nightly") as record, _home(settings, create=True).claimed():
        tonight = Night.open(settings, night, accept)
        done_before = tonight.finished
        if not done_before:
            try:
                for stage in STAGES:
                    progress.say(f"night {tonight.name}: {stage}")
                    tonight.do(stage)
            except BaseException as error:
                try:
                    tonight.finish(error)
                except Exception as another:  # such as a full disk; what ended the night is what has to be told
                    logger.error("night %s: its page could not be written: %s", tonight.name, another)
                raise
            tonight.finish()
        stages = [outcome for stage in STAGES if (outcome := tonight.record.outcome_of(stage)) is not None]
        record.counts.update(run=tonight.name, stages=0 if done_before else len(stages))
        return NightSummary(
            run=tonight.name,
            outcome="nothing to do" if done_before else "published",
            bundle=live_name(tonight.home.index),
            stages=stages,
            gates=tonight.gates(),
            report=tonight.folder / "report.html",
            seconds=record.seconds,
        )


def nightly_status(config: NightlyConfig | str | os.PathLike[str]) -> list[NightLine]:
    """All runs, the oldest first.

    Raises:
        InputError: there is no nightly folder yet.
    """
    settings = config if isinstance(config, NightlyConfig) else load(NightlyConfig, config)
    home = _home(settings, create=False)
    if not home.path.is_dir():
        raise InputError(f"{home.path}: no night has run yet; run one with `noterec nightly CONFIG`")
    lines = []
    for record in records(home):
        stages = record.facts["stages"]
        figures: dict[str, int | float | str] = {}
        for name in stages:
            figures.update(stages[name].get("figures") or {})
        recall = next((value for key, value in figures.items() if key.startswith("recall@")), None)
        lines.append(
            NightLine(
                run=record.folder.name,
                outcome="unfinished" if record.outcome == "running" and not home.busy else record.outcome,
                stage=list(stages)[-1] if stages else "",
                gate=next((gate.name for gate in record.gates if gate.verdict == "stopped"), None),
                bundle=_text(figures.get("bundle")),
                notes=_whole(figures.get("notes")),
                added=_whole(figures.get("added")),
                deleted=_whole(figures.get("deleted")),
                encoded=_whole(figures.get("encoded")),
                recall=None if recall is None else float(recall),
                seconds=round(sum(stage.get("seconds", 0.0) for stage in stages.values()), 1),
            )
        )
    return lines


def rollback_nightly(config: NightlyConfig | str | os.PathLike[str], *, to: str | None = None) -> NightlyRollback:
    """Make an earlier bundle live again, and its neighbour tables with it; the next night works with that bundle's model.

    Where the bundle that one goes back from was of another model, that model doesn't take its place again by itself: only once a
    bundle of it is made live again by hand.

    Args:
        config: the settings, or their YAML file.
        to: the bundle's name; the one that was live before unless given.

    Raises:
        InputError: there is no such bundle, or none before the live one.
        LockedError: a night is running.
    """
    settings = config if isinstance(config, NightlyConfig) else load(NightlyConfig, config)
    home = _home(settings, create=False)
    if live_name(home.index) is None and not bundles(home.index):
        raise InputError(f"{home.path}: no night has published anything yet; run one with `noterec nightly CONFIG`")
    with home.claimed():
        change = roll_back(home.index, to=to)
        note_rollback(home, change.was, change.live)
        show_model(home)
        folder = home.neighbours / change.live
        show_tables(home.neighbours, folder)
        if (last := next(reversed(list(records(home))), None)) is not None:  # its page says what is live
            night = dt.date.fromisoformat(last.facts["night"])
            write_report(Run(settings, home, night, clock(night)[1], last, frozenset()))
        return NightlyRollback(change.was, change.live, folder.is_dir())


def _home(config: NightlyConfig, *, create: bool) -> Home:
    return Home.open(config.home, create=create)


def _whole(value: int | float | str | None) -> int | None:
    return None if value is None else int(value)


def _text(value: int | float | str | None) -> str | None:
    return None if value is None else str(value)
