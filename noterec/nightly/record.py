"""What a night did so far: `run.json` in its run folder, from which a stage reads what the stages before it left."""

from __future__ import annotations

import dataclasses
import datetime as dt
import logging
import os
import platform
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from noterec import progress, storage
from noterec.errors import ArtefactError, InputError

logger = logging.getLogger(__name__)

FORMAT, FORMAT_VERSION = "noterec night", 1
FILE = "run.json"
PACKAGES = ("noterec", "torch", "transformers", "pyarrow", "numpy")
Verdict = Literal["passed", "stopped", "accepted", "not measured"]
Figure = int | float | str


@dataclass(frozen=True)
class Outcome:
    """What a stage did.

    Attributes:
        stage: its name.
        status: "done", or "skipped" where there was nothing to do.
        seconds: wall-clock time.
        says: in a sentence.
        figures: counts and measures, by name.
    """

    stage: str
    status: Literal["done", "skipped"]
    seconds: float
    says: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class GateResult:
    """What a gate measured.

    Attributes:
        name: of the gate, as `--accept` takes it.
        value: what was measured; None where nothing could be.
        bound: what it has to be, in words.
        verdict: "passed", "stopped", "accepted" (it would have stopped, and a person let it through), "not measured".
        says: what the value is, in a sentence.
    """

    name: str
    value: float | None
    bound: str
    verdict: Verdict
    says: str


class Record:
    """The record of one run, on disk after every change.

    Attributes:
        folder: the run's folder.
        facts: what run.json says.
    """

    def __init__(self, folder: Path, facts: dict[str, Any]) -> None:
        self.folder, self.facts = folder, facts

    @classmethod
    def begin(cls, folder: Path, **facts: Any) -> Record:
        """Make the folder of a new run."""
        record = cls(
            folder,
            {
                "format": FORMAT,
                "format_version": FORMAT_VERSION,
                "outcome": "running",
                "started": now(),
                **facts,
                "host": socket.gethostname(),
                "cores": os.cpu_count(),
                "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
                "stages": {},
                "gates": {},
            },
        )
        record.save()
        return record

    @classmethod
    def read(cls, folder: Path) -> Record:
        """Read an earlier run.

        Raises:
            InputError: there is no run.json.
            ArtefactError: it is damaged.
        """
        facts = storage.read_json(folder / FILE)
        if (
            not isinstance(facts, dict)
            or facts.get("format") != FORMAT
            or facts.get("format_version") != FORMAT_VERSION
        ):
            raise ArtefactError(f"{folder / FILE}: no record of a night; it was damaged: remove the folder")
        return cls(folder, facts)

    @classmethod
    def last(cls, runs: Sequence[Path]) -> Record | None:
        """The record of the last of some runs; None where there is none, or it can't be read: then another run begins."""
        if not runs:
            return None
        try:
            return cls.read(runs[-1])
        except (ArtefactError, InputError) as error:  # killed before its first word, or damaged
            logger.warning("%s; the night begins again in another run", error)
            return None

    def save(self) -> None:
        """Write run.json."""
        storage.write_json(self.folder / FILE, self.facts)

    @property
    def outcome(self) -> str:
        """running, published, stopped, failed or interrupted."""
        return str(self.facts["outcome"])

    def outcome_of(self, stage: str) -> Outcome | None:
        """What a stage did; None where it hasn't ended well."""
        found = self.facts["stages"].get(stage)
        if found is None or found["status"] not in ("done", "skipped"):
            return None
        return Outcome(stage, found["status"], found["seconds"], found["says"], found["figures"])

    def result(self, stage: str) -> dict[str, Any]:
        """What a stage left for the later ones."""
        return dict(self.facts["stages"][stage]["result"])

    def set_stage(self, stage: str, **values: Any) -> None:
        """Write down how a stage stands."""
        self.facts["stages"][stage] = values
        self.save()

    def forget(self, stages: Iterable[str]) -> None:
        """Take stages for not done, and gates for not measured; on disk with the next `save`."""
        for stage in stages:
            self.facts["stages"].pop(stage, None)
        self.facts["gates"] = {}

    def undo(self, stages: Iterable[str]) -> None:
        """`forget`, and write it down."""
        self.forget(stages)
        self.save()

    def set_gate(self, gate: GateResult) -> None:
        """Write down what a gate measured."""
        self.facts["gates"][gate.name] = dataclasses.asdict(gate)
        self.save()

    @property
    def gates(self) -> list[GateResult]:
        """What was measured so far."""
        return [GateResult(**gate) for gate in self.facts["gates"].values()]

    def end(self, outcome: str, error: str | None) -> None:
        """Write down how the run ended."""
        self.facts.update(outcome=outcome, error=error, ended=now(), peak_memory_mb=round(progress.peak_memory_mb(), 1))
        self.save()


def now() -> str:
    """The present, in UTC, ISO 8601."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
