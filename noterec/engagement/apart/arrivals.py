"""What has come to a log since its window was last counted, and whether the kept sums can be gone on with."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from noterec import storage
from noterec.config import PairsConfig
from noterec.engagement.apart.standing import Standing
from noterec.engagement.counting.events import Parts, end_of_day, time_span
from noterec.engagement.counting.histories import DAY_US, Rules
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.spill import Spill
from noterec.errors import InputError
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

_MOST_HALF_LIVES = 100  # between the reference and the end, before strengths outgrow what float32 can hold


@dataclass(frozen=True)
class Arrivals:
    """What is new.

    Attributes:
        before: the state to go on from; an empty one where everything is counted anew.
        anew: why, else "".
        fresh: the files to read.
        files: as `Standing.files`, of all files.
        end: the end of the last day, in microseconds.
        since: where the window begins, in microseconds; None = it has no beginning.
    """

    before: Standing
    anew: str
    fresh: tuple[storage.Place, ...]
    files: dict[str, list[Any]]
    end: int
    since: int | None


def arrivals(data: Dataset, config: PairsConfig, rules: Rules, folder: Path, spill: Spill) -> Arrivals:
    """Compare a log with the state of its window.

    Files are known by their names, sizes and times, so the dataset may move. One whose events that counted are all before the
    window may change or go; it is read again if it changed, since what counts of it now was never counted.

    Raises:
        InputError: no event counts; the folder holds something else, or is damaged.
    """
    settings = storage.value_hash([asdict(rules), config.window_days])
    before = Standing.read(folder) or Standing(folder, settings)
    before.sweep()
    stamps = {file.name: storage.stamp_of(file)[1:] for file in data.engagement_files}
    fresh = [file for file in data.engagement_files if before.files.get(file.name, [])[:2] != stamps[file.name]]
    spans = _spans(data, rules, fresh)
    ends = _ends(spans)
    end = max([*([before.end] if before.notes else []), *ends], default=0)  # it stays where nothing that counts is new
    anew = _why_anew(before, settings, stamps, config, end, Parts.within(config.memory // 4, before.events_kept, spill))
    if anew:
        logger.warning("%s: everything is counted anew: %s", folder, anew)
        before = Standing(folder, settings, run=before.run)
        fresh = list(data.engagement_files)
        spans = _spans(data, rules, fresh)
        ends = _ends(spans)
        end = max(ends, default=0)
    if not before.notes and not ends:
        raise InputError(
            f"{data.path}: no event of the log counts; expected clicks or stronger actions: import them too"
        )
    files = {name: known for name, known in before.files.items() if name in stamps}
    files |= {name: [*stamps[name], *span] for name, span in spans.items()}
    return Arrivals(before, anew, tuple(fresh), files, end, _begin(config, end))


def _spans(data: Dataset, rules: Rules, files: Iterable[storage.Place]) -> dict[str, list[int]]:
    """The times of the first and the last event that counts of each file; empty where there is none."""
    return {file.name: list(time_span(Log(data, files=(file,)), rules.wanted) or ()) for file in files}


def _ends(spans: dict[str, list[int]]) -> list[int]:
    """The end of the last day; nothing where nothing counts."""
    last = [span[1] for span in spans.values() if span]
    return [end_of_day(max(last))] if last else []


def _begin(config: PairsConfig, end: int) -> int | None:
    return None if config.window_days is None else end - config.window_days * DAY_US


def _why_anew(
    before: Standing, settings: str, stamps: dict[str, list[Any]], config: PairsConfig, end: int, parts: Parts
) -> str:
    """Why the sums of a state can't be gone on with; "" where they can. `parts` are as many as its events would be cut into now."""
    if not before.notes:
        return ""
    if before.settings != settings:
        return "the settings are others"
    if parts.count > 2 * before.people:
        return (
            f"the window has outgrown the memory: {before.people} parts of its people were enough at first, "
            f"{parts.count} are needed now"
        )
    half_life = (config.half_life_days or np.inf) * DAY_US
    if (end - before.reference) / half_life > _MOST_HALF_LIVES:
        return f"{_MOST_HALF_LIVES} half-lives have passed since the first count"
    since = _begin(config, end)
    for name, (*stamp, last) in ((name, known) for name, known in before.files.items() if len(known) > 2):
        if (since is None or last >= since) and stamps.get(name) != stamp[:2]:
            what = "changed" if name in stamps else "removed"
            return f"{name} was {what} after it was read, and the window still reaches into it"
    return ""
