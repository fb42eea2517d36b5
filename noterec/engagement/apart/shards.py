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

import os
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from noterec import storage
from noterec.config import PairsConfig
from noterec.engagement.apart.partial import load_events, load_sums, load_tally, save_events, save_sums, save_tally
from noterec.engagement.counting.events import Counts, Parts, read_events
from noterec.engagement.counting.histories import Events, HistoryBuilder, Rules, Tally
from noterec.engagement.counting.keys import DatasetNotes
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.mining import Block, names_of_dropped, pairs_table, placed, rule_of, rules_of
from noterec.engagement.counting.spill import Spill
from noterec.engagement.counting.walking import Notes, count_sums, merge_strongest, scratch
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
        config: what is counted.
        logs: calls of `cut_log`.
        people: calls of `count_people`.
        anchors: calls of `merge_anchors`.
        notes: notes of the dataset.
        rules, since: what the settings mean for this log.
    """

    dataset: str
    config: PairsConfig
    logs: int
    people: int
    anchors: int
    notes: int
    rules: Rules
    since: int | None

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
        out: the folder for the work, which all machines see too.
        config: as for `pairs`; its `memory` plays no part, as `people` and `anchors` bound what one call holds. A call of
            `count_people` holds about 60 bytes an event of its people and then 16 bytes a pair of notes that they share.
        people, anchors: into how many parts people and anchors are cut.
        logs: into how many parts the log's files are cut, at most one for each file.

    Raises:
        ConfigError: swing, which can't be added up from parts of the people, or per_category_pair, which looks at all pairs.
        InputError: as `pairs`, as far as it can be known now.
    """
    config = config or PairsConfig()
    if config.weighting == "swing" or config.per_category_pair is not None:
        raise ConfigError(
            "on several machines: expected another weighting than swing and no per_category_pair, which both look at everything at "
            "once; run `noterec pairs` on one machine instead"
        )
    data = Dataset(dataset)
    log = Log(data)
    rules, since = placed(rules_of(config, log.clock), config, log)
    logs = max(1, min(logs, len(data.engagement_files)))
    plan = Plan(str(data.path), config, logs, people, anchors, data.note_ids.n_unique(), rules, since)
    about = {**asdict(plan), "config": config.model_dump(mode="json"), "format": FORMAT}
    storage.write_json(storage.place(out) / PLAN_FILE, about)
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
    return Plan(**{**about, "config": PairsConfig(**about["config"]), "rules": Rules(**about["rules"])})


def cut_log(folder: str | os.PathLike[str], part: int) -> Counts:
    """Read every `plan.logs`-th file of the log, from file `part` on, and write its events by people.

    Returns:
        What was read and left out.

    Raises:
        InputError: as `pairs`.
    """
    work, plan = storage.place(folder), read_plan(folder)
    data = Dataset(plan.dataset)
    log = Log(data, files=tuple(data.engagement_files[part :: plan.logs]))
    with Spill() as spill, track(f"log {part}", None, "events") as bar:
        parts = Parts(plan.people, spill)
        counts = read_events(log, None, plan.rules.wanted, parts, since=plan.since, bar=bar)
        for number in range(plan.people):
            save_events(work / "events" / f"people-{number:05d}" / f"log-{part:05d}.parquet", parts.part(number))
    storage.write_json(work / "counts" / f"log-{part:05d}.json", asdict(counts))
    return counts


def count_people(folder: str | os.PathLike[str], part: int) -> Tally:
    """Add up what a part of the people do with every pair of notes; write their sums by anchors.

    Raises:
        InputError: a call of `cut_log` isn't done.
    """
    work, plan = storage.place(folder), read_plan(folder)
    notes = _notes(plan)
    tally = Tally(np.zeros(len(notes)))
    found = [
        load_events(_done(work / "events" / f"people-{part:05d}" / f"log-{log:05d}.parquet", "cut_log", log))
        for log in range(plan.logs)
    ]
    events = Events(
        *(np.concatenate([getattr(e, name) for e in found]) for name in ("person", "note", "time", "action"))
    )
    builder = HistoryBuilder(notes, len(events), plan.rules, tally)
    builder.add(Events(events.person, notes.find(events.note.view(np.uint64)), events.time, events.action))
    del found, events
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


def merge_anchors(folder: str | os.PathLike[str], part: int) -> pl.DataFrame:
    """Merge what all people do for a part of the anchors, and write their related notes below `pairs`.

    Returns:
        The pairs of these anchors.

    Raises:
        InputError: a call of `count_people` isn't done.
    """
    work, plan = storage.place(folder), read_plan(folder)
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
    found = merge_strongest(sums, begin, known, rule_of(plan.config), scratch(len(notes)))
    table = pairs_table(notes.ids[begin:end], notes.ids, found, plan.config.top)
    origin = {"config": plan.config.model_dump(mode="json"), "dataset": plan.dataset, **names_of_dropped(found.dropped)}
    write_pairs(table, work / "pairs" / f"anchors-{part:05d}.parquet", origin=origin)
    return table


def _notes(plan: Plan) -> DatasetNotes:
    notes = DatasetNotes(Dataset(plan.dataset).note_ids)
    if len(notes) != plan.notes:
        raise InputError(
            f"{plan.dataset}: has {len(notes)} notes, and had {plan.notes} when the count was planned; expected the same notes "
            "throughout: plan again"
        )
    return notes


def _done(file: storage.Place, step: str, part: int) -> storage.Place:
    if not file.is_file():
        raise InputError(f"{file}: isn't there; expected {step}(folder, {part}) to be done: run it")
    return file
