"""Whether what a run has done still holds: the same bundle is live, and the one that it built still waits."""

from __future__ import annotations

from pathlib import Path

from noterec import storage
from noterec.errors import InputError
from noterec.index.bundle import BUNDLE_FILE, find, live_name
from noterec.index.publishing import candidate
from noterec.nightly.home import Home
from noterec.nightly.record import Record

BOUND = ("validate", "embed", "choose", "index", "evaluate", "gate")  # what is done against, or about, a bundle


def mark(bundle: Path) -> str:
    """What a bundle is known by, whatever its folder is called."""
    return storage.file_hash(bundle / BUNDLE_FILE)[:16]


def is_out(home: Home, record: Record) -> bool:
    """Whether the bundle that the run built is live."""
    built = record.outcome_of("index") and record.result("index")["bundle"]
    return bool(built) and live_name(home.index) is not None and mark(find(home.index)) == built


def lost(home: Home, record: Record) -> str | None:
    """Why what the run has done doesn't hold any more; None where it does."""
    if record.outcome_of("validate") is None or record.outcome_of("publish") is not None or is_out(home, record):
        return None
    before, live = record.result("validate")["live"], live_name(home.index)
    if before != live:
        return f"{before or 'nothing'} was live when it was measured, and {live or 'nothing'} is now"
    if record.outcome_of("index") is not None:
        try:
            waiting = mark(candidate(home.index))
        except InputError:
            return "the bundle that was built isn't there any more"
        if waiting != record.result("index")["bundle"]:
            return "the bundle that waits is of another night"
    return None
