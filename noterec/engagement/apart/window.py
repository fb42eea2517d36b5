"""Pairs of a sliding window, night by night: only people who did something on a day that entered or left are counted again.

`windowed_pairs("data", state="state", out="pairs.parquet", config=PairsConfig(window_days=28))` gives what `pairs` gives with the
same settings. A score isn't a sum of days: N_u spans the window, and pairs cross days. So what such a person added before is taken
back, and what they add now is added, to sums of all pairs that are kept in the folder `state`.

What it saves is reading and folding the whole window; what it costs is keeping and reading all sums, some 16 bytes for each pair of
notes that anyone shares. docs/benchmarks.md says from where on it pays.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from noterec import storage
from noterec.config import PairsConfig
from noterec.engagement.apart.partial import save_events, save_sums, save_tally
from noterec.engagement.apart.standing import Day, Standing
from noterec.engagement.counting.events import Counts, Parts, end_of_day, read_events, time_span
from noterec.engagement.counting.events import joined as joined_events
from noterec.engagement.counting.folding import Ints
from noterec.engagement.counting.histories import DAY_US, Events, Histories, HistoryBuilder, Rules, Tally, row_bytes
from noterec.engagement.counting.keys import UNKNOWN, DatasetNotes, Keys, NoteCodes
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.mining import (
    Block,
    Search,
    SpilledSums,
    joined,
    names_of_dropped,
    pairs_table,
    rule_of,
    rules_of,
)
from noterec.engagement.counting.spill import Spill
from noterec.engagement.counting.walking import Notes, Scratch, Strongest, merge_strongest, merge_sums
from noterec.engagement.counting.weightings import FORMULAS, PLAIN
from noterec.engagement.table import write_pairs
from noterec.errors import ConfigError, InputError, NoPairsError
from noterec.notes.dataset import Dataset
from noterec.progress import stage, track
from noterec.storage.locks import only_job

logger = logging.getLogger(__name__)

_MOST_HALF_LIVES = 100  # between the reference and the end, before strengths outgrow what float32 can hold


@dataclass(frozen=True)
class WindowSummary:
    """What a night wrote, and what it took.

    Attributes:
        pairs, anchors, notes: as in `PairsSummary`.
        users: people with an event in the window, on whatever note.
        users_changed: people who were counted again.
        users_capped, rows_capped, cooccurrences_capped: as in `PairsSummary`, of the window.
        events: events in the window.
        events_entered: events that were new.
        events_left: events that left with their day.
        events_read: rows of the files that were read; events_not_engaged, events_undated, events_outside_window: of those.
        pairs_below_support, pairs_out_of_bounds, pairs_beyond_top: as in `PairsSummary`.
        days: days of the window that have events.
        anew: why everything was counted anew; "" where it wasn't.
    """

    pairs: int
    anchors: int
    notes: int
    users: int
    users_changed: int
    users_capped: int
    rows_capped: int
    cooccurrences_capped: int
    events: int
    events_entered: int
    events_left: int
    events_read: int
    events_not_engaged: int
    events_undated: int
    events_outside_window: int
    pairs_below_support: int
    pairs_out_of_bounds: int
    pairs_beyond_top: int
    days: int
    anew: str


def windowed_pairs(
    dataset: str | os.PathLike[str],
    *,
    state: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: PairsConfig | None = None,
) -> WindowSummary:
    """Bring the pairs of a window up to date with the files that were added to the log since the last call.

    Args:
        dataset: a dataset folder whose log grows by files, such as one a day. A file that was read and has changed since, or that
            is gone though its days are in the window, makes everything be counted anew.
        state: a local folder that only this function writes; it begins empty. A call that dies leaves it as it was.
        out: the Parquet file to write, as `pairs` writes it.
        config: as for `pairs`.

    Returns:
        The counts.

    Raises:
        ConfigError: swing, which isn't a sum over people, or per_category_pair.
        InputError: a log without real times, or as `pairs`.
        NoPairsError: no pair is left after the rules.
        LockedError: another call is at this state.
    """
    config = config or PairsConfig()
    if config.weighting == "swing" or config.per_category_pair is not None:
        raise ConfigError(
            "a window that is kept: expected another weighting than swing and no per_category_pair, which both look at everything "
            "at once; leave the state out"
        )
    data = Dataset(dataset)
    if data.clock != "time":
        raise InputError(
            f"{data.path}: a window that is kept needs real times, but this log's clock is {data.clock!r}; leave the state out, or "
            "import the log with its timestamps"
        )
    folder = storage.local(state)
    folder.mkdir(parents=True, exist_ok=True)
    with stage("pairs") as record, only_job(folder, "noterec pairs"), Spill() as spill:
        night = Night.begin(data, config, folder, spill)
        table, summary = night.count()
        if not table.height:
            raise NoPairsError(
                f"{data.path}: no related pair is left in the window: {summary.pairs_below_support} were shared by fewer than "
                f"{config.min_support} people, {summary.pairs_out_of_bounds} out of bounds; lower min_support or the bounds, or "
                "take a longer window"
            )
        write_pairs(table, out, origin={"config": config.model_dump(), "dataset": data.path.name, **asdict(summary)})
        night.now.write()
        numbers = {name: value for name, value in asdict(summary).items() if name != "anew"}
        record.counts.update(rows_in=summary.events_read, rows_out=summary.pairs, **numbers)
    return summary


@dataclass(eq=False)
class Night:
    """One call.

    Attributes:
        data, config: what is counted.
        rules: what the settings say; ages are counted back from the state's reference.
        since: where the window begins now, in microseconds; None = it never ends.
        log: the files that weren't read before.
        before, now: the state as it was and as it will be.
        anew: why everything is counted anew, else "".
        spill: for what memory doesn't hold.
        users_changed: people who were counted again.
    """

    data: Dataset
    config: PairsConfig
    rules: Rules
    since: int | None
    log: Log
    before: Standing
    now: Standing
    anew: str
    spill: Spill
    users_changed: int = 0

    @classmethod
    def begin(cls, data: Dataset, config: PairsConfig, folder: Path, spill: Spill) -> Night:
        """Find out what was added to the log since the last call."""
        rules = rules_of(config, data.clock)
        settings = storage.value_hash([asdict(rules), config.window_days])
        stamps = {str(file): storage.stamp_of(file)[1:] for file in data.engagement_files}
        before = Standing.read(folder) or Standing(folder, settings)
        spans: dict[str, list[int]] = {}

        def look(files: Iterable[storage.Place]) -> int:
            """Note the times of files; returns the end of the window with them."""
            for file in files:
                spans[str(file)] = list(time_span(Log(data, files=(file,)), rules.wanted) or ())
            return max([before.end, *(end_of_day(span[1]) for span in spans.values() if span)])

        fresh = [file for file in data.engagement_files if str(file) not in before.files]
        end = look(fresh)
        anew = _why_anew(before, settings, stamps, config, end)
        if anew:
            logger.warning("%s: everything is counted anew: %s", folder, anew)
            before = Standing(folder, settings, run=before.run)
            fresh = list(data.engagement_files)
            spans.clear()
            end = look(fresh)
        if not end:
            raise InputError(
                f"{data.path}: no event of the log counts; expected clicks or stronger actions: import them too"
            )
        reference = before.reference or end
        now = replace(before, settings=settings, run=before.run + 1, end=end, reference=reference)
        now.files = {name: known for name, known in before.files.items() if name in stamps}
        now.files |= {str(file): [*stamps[str(file)], *spans[str(file)]] for file in fresh}
        if not before.notes:
            now.people = Parts.within(config.memory // 4, data.event_count, spill).count
        since = None if config.window_days is None else end - config.window_days * DAY_US
        log = Log(data, files=tuple(fresh))
        return cls(data, config, replace(rules, now=reference), since, log, before, now, anew, spill)

    def count(self) -> tuple[pl.DataFrame, WindowSummary]:
        """Count again who has to be, add that to the sums, and find every anchor's strongest."""
        entered, read = Parts(self.now.people, self.spill), Counts()
        if self.log.files:
            with track("pairs: reading", None, "events") as bar:
                read = read_events(self.log, None, self.rules.wanted, entered, since=self.since, bar=bar)
        codes = NoteCodes(_more_keys(self.before.keys(), entered))
        tally = self.before.tally(len(codes))
        search = Search(len(codes), rule_of(self.config), self.config.memory // 4, "pairs")

        def blocks(histories: Histories, costs: Ints) -> list[Block]:
            return (
                self.before.grown(len(codes)) if self.before.blocks else search.blocks(entered.events, histories, costs)
            )

        changes = search.spilled(self._groups(entered, codes, tally), blocks, self.spill)
        self.now.write_keys(codes.keys)
        save_tally(self.now.folder / f"tally-{self.now.run}.parquet", tally)
        known = DatasetNotes(self.data.note_ids)
        found, names = self._merged(search, changes, codes, known, tally)
        self.now.blocks = names
        table = _named(found, codes, known, self.config.top)
        counts = tally.counts()
        del counts["events_unknown_note"]
        events, before = (sum(day.events for day in standing.days) for standing in (self.now, self.before))
        return table, WindowSummary(
            pairs=table.height,
            anchors=table["anchor_id"].n_unique(),
            notes=len(known),
            users_changed=self.users_changed,
            **counts,
            events=events,
            events_entered=entered.events,
            events_left=before + entered.events - events,
            events_read=read.events,
            events_not_engaged=read.events_not_engaged,
            events_undated=read.events_undated,
            events_outside_window=read.events_outside_window,
            **names_of_dropped(found.dropped),
            days=len({day.day for day in self.now.days}),
            anew=self.anew,
        )

    def _groups(self, entered: Parts, codes: NoteCodes, tally: Tally) -> Iterator[Histories]:
        """The people who changed, as they were, to be taken back, and as they are; on the way the new days are kept."""
        staying, leaving = self.before.kept(self.since)
        new_days: dict[int, Day] = {}
        capacity = self.config.memory // row_bytes(self.rules)
        group = HistoryBuilder(codes, capacity, self.rules, tally)
        for part in range(self.now.people):
            came = entered.part(part)
            left = joined_events([self.before.events(day, part) for day in leaving])
            changed = np.unique(np.concatenate([came.person, left.person]))
            self.users_changed += len(changed)
            self._keep(came, part, new_days)
            if not len(changed):
                continue
            stayed = [_of(self.before.events(day, part), changed) for day in staying]
            old, new = (_coded(joined_events([*stayed, part_events]), codes) for part_events in (left, came))
            if not group.fits(len(old) + len(new)):
                yield group.build()
                group = HistoryBuilder(codes, max(capacity, len(old) + len(new)), self.rules, tally)
            group.add(old, sign=-1.0)
            group.add(new)
        yield group.build()
        self.now.days = [*staying, *sorted(new_days.values(), key=lambda day: day.day)]

    def _keep(self, came: Events, part: int, new_days: dict[int, Day]) -> None:
        """Write the events of a part of the people, day by day."""
        day_of = came.time // DAY_US
        for number in np.unique(day_of).tolist():
            day = new_days.get(number) or Day(number, f"day-{number}-{self.now.run}", 0, [])
            events = _where(came, day_of == number)
            file = self.now.folder / day.folder / f"people-{part:05d}.parquet"
            save_events(file, events)
            new_days[number] = replace(day, events=day.events + len(events), parts=[*day.parts, part])

    def _merged(
        self, search: Search, changes: SpilledSums, codes: NoteCodes, known: DatasetNotes, tally: Tally
    ) -> tuple[Strongest, dict[Block, str]]:
        """Add the changes to the sums and keep these; the strongest of each anchor, and where the sums of each block are."""
        place = np.full(len(codes), -1, np.int32)
        code = codes.find(known.keys)
        seen = code < UNKNOWN
        place[code[seen]] = np.flatnonzero(seen)
        scale = 1.0
        if self.config.half_life_days is not None and FORMULAS[self.config.weighting] == PLAIN:
            scale = 0.5 ** ((self.now.end - self.now.reference) / self.rules.half_life_us)
        notes = Notes(tally.norms, tally.total, place, scale)
        names: dict[Block, str] = {}

        def merge(block: Block, space: Scratch) -> Strongest:
            added = changes.read(block)
            name = self.before.blocks.get(block)
            if name is not None and not any(len(part.related) for part in added):
                names[block] = name
                return merge_strongest([self.before.sums(block)], block[0], notes, search.rule, space)
            names[block] = f"sums-{self.now.run}/anchors-{block[0]:08d}.npz"
            sums, found = merge_sums([self.before.sums(block), *added], block[0], notes, search.rule, space)
            save_sums(self.now.folder / names[block], sums)
            return found

        return joined(search.over(list(changes.places), None, merge), search.rule.top), names


def _why_anew(before: Standing, settings: str, stamps: dict[str, list[Any]], config: PairsConfig, end: int) -> str:
    """Why the sums of a state can't be gone on with; "" where they can."""
    if not before.notes:
        return ""
    if before.settings != settings:
        return "the settings are others"
    half_life = (config.half_life_days or np.inf) * DAY_US
    if (end - before.reference) / half_life > _MOST_HALF_LIVES:
        return f"{_MOST_HALF_LIVES} half-lives have passed since the first count"
    since = -np.inf if config.window_days is None else end - config.window_days * DAY_US
    for name, (*stamp, last) in ((name, known) for name, known in before.files.items() if len(known) > 2):
        if last >= since and stamps.get(name) != stamp[:2]:
            what = "changed" if name in stamps else "removed"
            return f"{name} was {what} after it was read, and the window still reaches into it"
    return ""


def _more_keys(before: Keys, entered: Parts) -> Keys:
    """The keys that have codes, and after them those that come up now."""
    found = [np.unique(part.note.view(np.uint64)) for part in entered]
    new = np.setdiff1d(np.concatenate([np.zeros(0, np.uint64), *found]), before)
    return np.concatenate([before, new])


def _where(events: Events, mask: np.ndarray) -> Events:
    return Events(events.person[mask], events.note[mask], events.time[mask], events.action[mask])


def _of(events: Events, people: Keys) -> Events:
    """The events of some people, whose keys ascend."""
    return _where(events, np.isin(events.person, people))


def _coded(events: Events, codes: NoteCodes) -> Events:
    """Events with the codes of their notes instead of the keys."""
    return Events(events.person, codes.find(events.note.view(np.uint64)), events.time, events.action)


def _named(found: Strongest, codes: NoteCodes, known: DatasetNotes, top: int) -> pl.DataFrame:
    """The pairs table of what was found by codes that don't follow the ids."""
    by_code = pl.DataFrame({"code": codes.find(known.keys), "id": known.ids}).filter(pl.col("code") < UNKNOWN)
    ids = pl.Series("id", [""] * len(codes), dtype=pl.String)
    ids = ids.scatter(by_code["code"], by_code["id"])
    return pairs_table(ids, ids, found, top).sort("anchor_id", "rank")
