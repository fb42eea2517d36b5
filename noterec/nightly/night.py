"""One night: which run it is, what it may still do, and how it is written down.

`Night.open(config)` finds tonight's unfinished run, or begins one; `do(stage)` does one stage, once. Whatever stages tell each
other stands in run.json and in files, so that each may run in a process of its own, and a killed night goes on at the stage that it
was in.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from noterec.config import NightlyConfig, load
from noterec.errors import GateError, InputError, NoterecError
from noterec.index.bundle import CURRENT, find
from noterec.nightly.home import Home
from noterec.nightly.identity import clock, fingerprint, known_gates
from noterec.nightly.record import Outcome, Record, now
from noterec.nightly.report import write_report
from noterec.nightly.run import LOG, Done, Run
from noterec.nightly.stages import STAGE_WORK, STAGES
from noterec.nightly.standing import BOUND, lost
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Night(Run):
    """A run that can be begun, gone on with and ended."""

    @classmethod
    def open(
        cls,
        config: NightlyConfig | str | os.PathLike[str],
        night: dt.date | None = None,
        accept: Sequence[str] = (),
    ) -> Night:
        """Find the run of a night whose input is as it is now, or begin one.

        Args:
            config: the settings, or their YAML file.
            night: the date, today's (UTC) unless given.
            accept: names of gates that shall not stop this run.

        Raises:
            InputError: no dataset, a night in the future, an unknown gate, or a home that is something else's.
            ArtefactError: the index's CURRENT is damaged, so that nobody knows what is live.
            LockedError: another job is at it.
        """
        settings = config if isinstance(config, NightlyConfig) else load(NightlyConfig, config)
        date, moment = clock(night)
        allowed = known_gates(accept)
        Dataset(settings.dataset)  # before anything is made
        home = Home.open(settings.home, create=True)
        with home.claimed():
            if (home.index / CURRENT).is_file():
                find(home.index)
            mark = fingerprint(settings, date)
            record = Record.last(home.runs(date))
            if record is None or record.facts["fingerprint"] != mark:
                record = Record.begin(
                    home.new_run(date),
                    night=date.isoformat(),
                    moment=moment.isoformat(),
                    fingerprint=mark,
                    config=settings.model_dump(mode="json"),
                )
            if (why := lost(home, record)) is not None:
                logger.warning("night %s: %s; it is done again from the first stage on", record.folder.name, why)
                record.undo(BOUND)
        began = dt.datetime.fromisoformat(record.facts["moment"])  # of a run that goes on: what was new stays new
        return cls(settings, home, date, began, record, allowed)

    @property
    def finished(self) -> bool:
        """Whether there is nothing left to do."""
        return self.record.outcome == "published"

    def do(self, stage: str) -> Outcome:
        """Do a stage, unless this run has done it already.

        Returns:
            What was done, now or then.

        Raises:
            InputError: no such stage, or one before it isn't done.
            GateError: a gate stopped the night.
        """
        if stage not in STAGE_WORK:
            raise InputError(f"nightly: no stage {stage!r}; expected one of {', '.join(STAGE_WORK)}")
        if (before := self.record.outcome_of(stage)) is not None:
            return before
        missing = [
            name for name in list(STAGE_WORK)[: list(STAGE_WORK).index(stage)] if self.record.outcome_of(name) is None
        ]
        if missing:
            raise InputError(
                f"night {self.name}: {missing[0]} has to be done before {stage}; where the dataset has changed since, begin with "
                "the first stage again"
            )
        with self.home.claimed(), self._logged():
            return self._work(stage, STAGE_WORK[stage])

    def _work(self, stage: str, work: Callable[[Run], Done]) -> Outcome:
        started, clock_start = now(), time.perf_counter()
        self.record.facts.update(outcome="running", error=None)
        self.record.set_stage(stage, status="running", started=started)
        logger.info("night %s: %s", self.name, stage)
        try:
            done = work(self)
        except BaseException as error:
            seconds = round(time.perf_counter() - clock_start, 3)
            status = "stopped" if isinstance(error, GateError) else "failed"
            told = " ".join(f"{type(error).__name__}: {error}".split())
            bug = None if isinstance(error, NoterecError) else error  # only its traceback says where
            logger.info("night %s: %s %s: %s", self.name, stage, status, told, exc_info=bug)
            self.record.set_stage(stage, status=status, started=started, seconds=seconds, says=told)
            raise
        seconds = round(time.perf_counter() - clock_start, 3)
        self.record.set_stage(
            stage,
            status=done.status,
            started=started,
            seconds=seconds,
            says=done.says,
            figures=done.figures,
            result=done.result,
        )
        logger.info("night %s: %s %s in %.1f s: %s", self.name, stage, done.status, seconds, done.says)
        return Outcome(stage, done.status, seconds, done.says, done.figures)

    def finish(self, error: BaseException | None = None) -> Path:
        """End the run: write down how, and its page.

        Args:
            error: what ended it; None = all stages are done.

        Returns:
            The page, report.html in the run's folder.

        Raises:
            InputError: nothing ended it, and a stage isn't done.
        """
        undone = [stage for stage in STAGES if self.record.outcome_of(stage) is None]
        if error is None and undone:
            raise InputError(f"night {self.name}: {undone[0]} isn't done, so it hasn't ended; do it first")
        outcome = "published"
        if isinstance(error, GateError):
            outcome = "stopped"
        elif isinstance(error, KeyboardInterrupt):
            outcome = "interrupted"
        elif error is not None:
            outcome = "failed"
        told = None if error is None else " ".join(f"{type(error).__name__}: {error}".split())
        with self.home.claimed():
            self.record.end(outcome, told)
            return write_report(self)

    @contextlib.contextmanager
    def _logged(self) -> Iterator[None]:
        """Everything that noterec logs at INFO also goes to log.txt of the run."""
        handler = logging.FileHandler(self.folder / LOG, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        package = logging.getLogger("noterec")
        level = package.level
        # The console keeps its own level: a handler there filters by the root's, which is above INFO unless --verbose.
        quiet = [h for h in logging.getLogger().handlers if h.level == logging.NOTSET]
        levels = logging.getLogger().getEffectiveLevel()
        for other in quiet:
            other.setLevel(levels)
        package.setLevel(logging.INFO)
        package.addHandler(handler)
        try:
            yield
        finally:
            package.removeHandler(handler)
            package.setLevel(level)
            for other in quiet:
                other.setLevel(logging.NOTSET)
            handler.close()
