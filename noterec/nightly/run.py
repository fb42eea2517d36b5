"""What a stage works with: the settings, the job's folder, the night, and the record of what was done so far."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from noterec.config import NightlyConfig
from noterec.errors import GateError
from noterec.nightly.home import Home
from noterec.nightly.identity import FIRM, GATES
from noterec.nightly.record import Figure, GateResult, Record, Verdict

LOG = "log.txt"  # of a run, in its folder


@dataclass(frozen=True)
class Done:
    """What a stage returns: what it says of itself, and what it leaves for later stages."""

    says: str
    figures: dict[str, Figure] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    status: Literal["done", "skipped"] = "done"


@dataclass(frozen=True, eq=False)
class Run:
    """One run of one night, as its stages see it.

    Attributes:
        config: the settings.
        home: the job's folder.
        date: the night.
        moment: what "now" is for it: the present on the day itself, the end of the day for an earlier one.
        record: what was done so far.
        accept: names of gates that a person lets through.
    """

    config: NightlyConfig
    home: Home
    date: dt.date
    moment: dt.datetime
    record: Record
    accept: frozenset[str]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.record.folder

    @property
    def name(self) -> str:
        """The run's name: the date, and a number from the second run on."""
        return self.folder.name

    def judge(self, name: str, value: float | None, *, bound: str, ok: bool, says: str) -> None:
        """Write down a gate, and stop the night where it isn't passed.

        Args:
            name: one of `GATES`.
            value: what was measured; None = nothing could be, which stops nothing.
            bound: what the value has to be.
            ok: whether it is.
            says: the value in words.

        Raises:
            GateError: it isn't, and nobody accepted it.
        """
        assert name in GATES
        verdict: Verdict = "passed"
        if value is None:
            verdict = "not measured"
        elif not ok:
            verdict = "accepted" if name in self.accept else "stopped"
        self.record.set_gate(GateResult(name, value, bound, verdict, says))
        if verdict == "stopped":
            way_on = "" if name == FIRM else f'; where this is meant, `noterec nightly ... --accept "{name}"` goes on'
            raise GateError(
                f"night {self.name}: the gate {name!r} stops it: {says}; expected {bound}. What was published before stays. Look "
                f"at {self.folder / 'report.html'}{way_on}"
            )

    def gates(self) -> list[GateResult]:
        """All gates in the order of `GATES`; one that wasn't reached yet is not among them."""
        return sorted(self.record.gates, key=lambda gate: GATES.index(gate.name))
