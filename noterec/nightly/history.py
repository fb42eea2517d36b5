"""What earlier nights did."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator

from noterec.errors import ArtefactError, InputError
from noterec.nightly.home import Home
from noterec.nightly.record import Record
from noterec.nightly.run import Run


def records(home: Home) -> Iterator[Record]:
    """The records of all runs, the oldest first; one that is damaged is left out."""
    for folder in home.runs():
        try:
            yield Record.read(folder)
        except (ArtefactError, InputError):
            continue


def nights_since(night: Run) -> int:
    """How many nights there are from the last one that published something to this one: 1, and more where some are missing."""
    found = [
        dt.date.fromisoformat(record.facts["night"]) for record in records(night.home) if record.outcome == "published"
    ]
    before = max((date for date in found if date < night.date), default=None)
    return 1 if before is None else (night.date - before).days


def changed_counts(night: Run) -> tuple[list[dict[str, int]], dict[str, int]]:
    """How many notes came (`added`) and went (`deleted`) in earlier nights, and so far tonight.

    Runs that published something on top of an earlier bundle count; the runs of one night are one.

    Returns:
        A mapping for each earlier night, the oldest first, and tonight's.
    """
    nights: dict[str, dict[str, int]] = {}
    for record in records(night.home):
        if record.folder == night.folder or record.outcome != "published" or record.result("validate")["first"]:
            continue
        outcome = record.outcome_of("validate")
        assert outcome is not None  # nothing is published without it
        sums = nights.setdefault(record.facts["night"], {"added": 0, "deleted": 0})
        for name in sums:
            sums[name] += int(outcome.figures[name])
    tonight = nights.pop(night.date.isoformat(), {"added": 0, "deleted": 0})
    return [nights[date] for date in sorted(nights)], tonight
