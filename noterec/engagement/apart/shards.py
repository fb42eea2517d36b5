"""Counting on several machines: three functions of files to files, each of which may run anywhere and be run again.

    plan    = plan_pairs("data", out="work", people=8, anchors=4)   once
    cut_log("work", 0) ... cut_log("work", plan.logs - 1)           files of the log -> events by people
    count_people("work", 0) ... count_people("work", 7)             events of a part of the people -> sums by anchors
    merge_anchors("work", 0) ... merge_anchors("work", 3)           sums of a part of the anchors -> pairs

The calls of a line may run at the same time, when all calls of the line before are done. They share nothing but the folder, which
may be in an object store. `work/pairs` is then the pairs table, the same as that of `pairs`.

In Ray each line is a list of tasks, and waiting for the list is the step to the next line:

    ray.get([ray.remote(cut_log).remote("s3://work", n) for n in range(plan.logs)])

A task that died is simply run again, which is what Ray does with it: a file appears whole or not at all, and writing it twice gives
the same bytes.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from noterec import storage
from noterec.config import PairsConfig
from noterec.engagement.apart.partial import load_events, load_sums, load_tally, save_events, save_sums, save_tally
from noterec.engagement.counting.compiled import interruptible
from noterec.engagement.counting.events import MOST_PARTS, Counts, Parts, joined, read_events
from noterec.engagement.counting.histories import Events, HistoryBuilder, Rules, Tally
from noterec.engagement.counting.keys import DatasetNotes
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.merging import merge_strongest
from noterec.engagement.counting.mining import names_of_dropped, pairs_table, placed, rule_of, rules_of
from noterec.engagement.counting.searching import Block
from noterec.engagement.counting.spill import Spill
from noterec.engagement.counting.walking import Notes, count_sums, scratch
from noterec.engagement.table import write_pairs
from noterec.errors import ConfigError, InputError
from noterec.notes.dataset import Dataset
from noterec.progress import track

FORMAT = "noterec pairs plan"
PLAN_FILE = "plan.json"


@dataclass(frozen=True)
class Plan:
    """How a count is cut into parts; `plan.json` in its folder.

    Attributes:
        dataset: the dataset's folder.
        files: the names of the log's files; those that come later don't count.
        config: what is counted.
        logs: calls of `cut_log`.
        people: calls of `count_people`.
        anchors: calls of `merge_anchors`.
        notes: notes of the dataset.
        catalogue: a hash of their ids.
        rules, since: what the settings mean for this log.
    """

    dataset: str
    files: tuple[str, ...]
    config: PairsConfig
    logs: int
    people: int
    anchors: int
    notes: int
    catalogue: str
    rules: Rules
    since: int | None

    def log(self, part: int) -> Log:
        """A part of the log.

        Raises:
            InputError: a file of it has gone.
        """
        data = Dataset(self.dataset)
        there = {file.name: file for file in data.engagement_files}
        for name in self.files:
            if name not in there:
                raise InputError(
                    f"{self.dataset}: the log's file {name} is gone; expected the files of the time of the plan throughout: plan "
                    "again, in another folder"
                )
        return Log(data, files=tuple(there[name] for name in self.files[part :: self.logs]))

    def block(self, part: int) -> Block:
        """The anchors [begin, end) of a part."""
        return part * self.notes // self.anchors, (part + 1) * self.notes // self.anchors


def plan_pairs(
    dataset: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    config: PairsConfig | None = None,
    people: int = 8,
    anchors: int = 8,
    logs: int = 8,
) -> Plan:
    """Begin a count on several machines.

    Args:
        dataset: a dataset folder that all machines see.
        out: the folder for the work, which all machines see too; an empty one, or one with the same plan.
        config: as for `pairs`; its `memory` plays no part, as `people` and `anchors` bound what one call holds. A call of
            `count_people` holds about 60 bytes an event of its people and then 16 bytes a pair of notes that they share.
        people, anchors: into how many parts people and anchors are cut.
        logs: into how many parts the log's files are cut, at most one for each file.

    Raises:
        ConfigError: swing, which can't be added up from parts of the people, or per_category_pair, which looks at all pairs; no
            parts, or too many.
        InputError: as `pairs`, as far as it can be known now; the folder holds another plan.
    """
    config = config or PairsConfig()
    for name, parts in (("people", people), ("anchors", anchors), ("logs", logs)):
        if not 1 <= parts <= MOST_PARTS:
            raise ConfigError(f"{name}={parts}; expected 1 to {MOST_PARTS} parts")
    if config.weighting == "swing" or config.per_category_pair is not None:
        raise ConfigError(
            "on several machines: expected another weighting than swing and no per_category_pair, which both look at everything at "
            "once; run `noterec pairs` on one machine instead"
        )
    data = Dataset(dataset)
    log = Log(data)
    rules, since = placed(rules_of(config, log.clock), config, log)
    files = tuple(file.name for file in data.engagement_files)
    logs = max(1, min(logs, len(files)))
    path = data.path.absolute() if isinstance(data.path, Path) else data.path  # other machines start elsewhere
    notes = DatasetNotes(data.note_ids)
    plan = Plan(str(path), files, config, logs, people, anchors, len(notes), _catalogue(notes), rules, since)
    file = storage.place(out) / PLAN_FILE
    if file.is_file() and read_plan(out) != plan:
        raise InputError(
            f"{file}: is another plan, whose files would be taken for those of this one; expected an empty folder: remove it, or "
            "take another"
        )
    storage.write_json(file, {**asdict(plan), "config": config.model_dump(mode="json"), "format": FORMAT})
    return plan


def read_plan(folder: str | os.PathLike[str]) -> Plan:
    """The plan of a folder that `plan_pairs` began.

    Raises:
        InputError: there is none.
    """
    file = storage.place(folder) / PLAN_FILE
    about: dict[str, Any] = dict(storage.read_json(file)) if file.is_file() else {}
    if about.pop("format", None) != FORMAT:
        raise InputError(f"{file}: no plan there; expected a folder that plan_pairs began")
    about["rules"]["strengths"] = tuple(about["rules"]["strengths"])
    try:
        return Plan(
            **{
                **about,
                "files": tuple(about["files"]),
                "config": PairsConfig(**about["config"]),
                "rules": Rules(**about["rules"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{file}: no plan of this version ({error}); plan again, in another folder") from error


@interruptible()
def cut_log(folder: str | os.PathLike[str], part: int) -> Counts:
    """Read every `plan.logs`-th file of the log, from file `part` on, and write its events by people.

    Returns:
        What was read and left out.

    Raises:
        InputError: there is no such part; a file has gone since the plan, or is damaged.
    """
    work, plan = storage.place(folder), read_plan(folder)
    log = plan.log(_of(part, plan.logs, "log"))
    with Spill() as spill, track(f"log {part}", None, "events") as bar:
        parts = Parts(plan.people, spill)
        counts = read_events(log, None, plan.rules, parts, since=plan.since, bar=bar)
        for number in range(plan.people):
            save_events(work / "events" / f"people-{number:05d}" / f"log-{part:05d}.parquet", parts.part(number))
    storage.write_json(work / "counts" / f"log-{part:05d}.json", asdict(counts))
    return counts


@interruptible()
def count_people(folder: str | os.PathLike[str], part: int) -> Tally:
    """Add up what a part of the people do with every pair of notes; write their sums by anchors.

    Raises:
        InputError: there is no such part; a call of `cut_log` isn't done; what they read can't be counted, as in `pairs`.
    """
    work, plan = storage.place(folder), read_plan(folder)
    _of(part, plan.people, "people")
    read = Counts()
    for log in range(plan.logs):
        read += Counts(**storage.read_json(_done(work / "counts" / f"log-{log:05d}.json", "cut_log", log)))
    read.check()
    notes = _notes(plan)
    tally = Tally(np.zeros(len(notes)))
    of_part = work / "events" / f"people-{part:05d}"
    events = joined([load_events(of_part / f"log-{log:05d}.parquet") for log in range(plan.logs)])
    builder = HistoryBuilder(notes, len(events), plan.rules, tally)
    builder.add(Events(events.person, notes.find(events.note.view(np.uint64)), events.time, events.action))
    del events
    histories = builder.build()
    costs, space = histories.costs(), scratch(len(notes))
    with track(f"people {part}", int(costs.sum()), "co-occurrences") as bar:
        for number in range(plan.anchors):
            begin, end = plan.block(number)
            walked = int(costs[begin:end].sum())
            sums = count_sums(histories, begin, end, walked, space)
            save_sums(work / "sums" / f"anchors-{number:05d}" / f"people-{part:05d}.npz", sums)
            bar.advance(walked)
    save_tally(work / "tally" / f"people-{part:05d}.parquet", tally)
    return tally


@interruptible()
def merge_anchors(folder: str | os.PathLike[str], part: int) -> pl.DataFrame:
    """Merge what all people do for a part of the anchors, and write their related notes below `pairs`.

    Returns:
        The pairs of these anchors.

    Raises:
        InputError: there is no such part; a call of `count_people` isn't done.
    """
    work, plan = storage.place(folder), read_plan(folder)
    _of(part, plan.anchors, "anchors")
    notes = _notes(plan)
    norms, total = np.zeros(len(notes)), 0.0
    for people in range(plan.people):
        tally, _ = load_tally(_done(work / "tally" / f"people-{people:05d}.parquet", "count_people", people))
        norms += tally.norms
        total += tally.total
    begin, end = plan.block(part)
    sums = [
        load_sums(work / "sums" / f"anchors-{part:05d}" / f"people-{people:05d}.npz", end - begin)
        for people in range(plan.people)
    ]
    known = Notes(norms, total, np.arange(len(notes), dtype=np.int32))
    found = merge_strongest(sums, begin, known, rule_of(plan.config, len(notes)), scratch(len(notes)))
    table = pairs_table(notes.ids[begin:end], notes.ids, found)
    origin = {"config": plan.config.model_dump(mode="json"), "dataset": plan.dataset, **names_of_dropped(found.dropped)}
    write_pairs(table, work / "pairs" / f"anchors-{part:05d}.parquet", origin=origin)
    return table


def _notes(plan: Plan) -> DatasetNotes:
    notes = DatasetNotes(Dataset(plan.dataset).note_ids)
    if _catalogue(notes) != plan.catalogue:
        raise InputError(
            f"{plan.dataset}: has {len(notes)} notes, and had {plan.notes} others when the count was planned; expected the same "
            "throughout: plan again, in another folder"
        )
    return notes


def _catalogue(notes: DatasetNotes) -> str:
    return storage.value_hash([len(notes), hashlib.sha256(notes.keys.tobytes()).hexdigest()])


def _of(part: int, parts: int, what: str) -> int:
    if not 0 <= part < parts:
        raise InputError(f"part {part} of {what}; the plan has {parts}: expected 0 to {parts - 1}")
    return part


def _done(file: storage.Place, step: str, part: int) -> storage.Place:
    if not file.is_file():
        raise InputError(f"{file}: isn't there; expected {step}(folder, {part}) to be done: run it")
    return file
