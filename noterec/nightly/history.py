"""What earlier nights did."""

from __future__ import annotations

from collections.abc import Iterator

from noterec.errors import ArtefactError, InputError
from noterec.nightly.home import Home
from noterec.nightly.night import Night
from noterec.nightly.record import Outcome, Record


def records(home: Home) -> Iterator[Record]:
    """The records of all runs, the oldest first; one that is damaged is left out."""
    for folder in home.runs():
        try:
            yield Record.read(folder)
        except (ArtefactError, InputError):
            continue


def published_nights(night: Night, stage: str) -> list[Outcome]:
    """What a stage did in the earlier runs that published something on top of something, the oldest first."""
    found = []
    for record in records(night.home):
        if record.folder == night.folder or record.outcome != "published" or record.result("validate")["first"]:
            continue
        outcome = record.outcome_of(stage)
        if outcome is not None:
            found.append(outcome)
    return found
