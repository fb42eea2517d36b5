"""What a run is known by: its night, and the input and settings that it works with."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from noterec import storage
from noterec.config import NightlyConfig
from noterec.errors import InputError
from noterec.notes.dataset import Dataset

FIRM = "index recall"  # the gate that nobody can let through: there is no index then
GATES = (
    "rejects",
    "notes",
    "deleted notes",
    "new notes",
    "canaries",
    FIRM,
    "recall new -> all",
    "recall warm -> new",
    "staleness",
)


def clock(night: dt.date | None) -> tuple[dt.date, dt.datetime]:
    """The night's date, and what "now" is for it.

    Raises:
        InputError: it is in the future.
    """
    present = dt.datetime.now(dt.UTC)
    date = night or present.date()
    if date > present.date():
        raise InputError(
            f"nightly: {date} is in the future (it is {present:%Y-%m-%d %H:%M} UTC); give a date up to today"
        )
    end = dt.datetime.combine(date, dt.time(), dt.UTC) + dt.timedelta(days=1)
    return date, min(present, end)


def known_gates(accept: Sequence[str]) -> frozenset[str]:
    """Names of gates, checked.

    Raises:
        InputError: there is no such gate, or none that can be let through.
    """
    for name in accept:
        if name == FIRM:
            raise InputError(
                f"nightly: {name!r} can't be accepted, as no index is there then; lower index.recall_target, or give another "
                "index.kind"
            )
        if name not in GATES:
            raise InputError(f"nightly: no gate {name!r} to accept; expected one of {', '.join(map(repr, GATES))}")
    return frozenset(accept)


def fingerprint(config: NightlyConfig, date: dt.date) -> str:
    """Differs once a file of the dataset or of the model, a setting, or the night is another."""
    data = Dataset(config.dataset)
    files: list[Any] = [storage.stamp_of(file) for file in (*data.note_files, *data.engagement_files)]
    return storage.value_hash([files, model_stamp(config.model), config.model_dump(mode="json"), date.isoformat()])


def model_stamp(model: str | None) -> list[Any]:
    """What tells that a model's folder was written again; a name on a hub stands for itself."""
    if model is None or not Path(model).is_dir():
        return [model]
    return [str(model), *(storage.stamp_of(file)[1:] for file in sorted(Path(model).rglob("*")) if file.is_file())]
