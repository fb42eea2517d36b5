"""One night of a window: count again who has to be, add that to the sums, and find every anchor's strongest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl

from noterec.config import PairsConfig
from noterec.engagement.apart.arrivals import arrivals
from noterec.engagement.apart.partial import save_events, save_sums, save_tally
from noterec.engagement.apart.standing import Day, Standing
from noterec.engagement.counting.events import Parts, read_events
from noterec.engagement.counting.events import joined as joined_events
from noterec.engagement.counting.folding import Ints
from noterec.engagement.counting.histories import DAY_US, Events, Histories, HistoryBuilder, Rules, Tally, row_bytes
from noterec.engagement.counting.keys import UNKNOWN, DatasetNotes, Keys, NoteCodes
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.merging import NOTHING, merge_strongest, merge_sums
from noterec.engagement.counting.mining import names_of_dropped, pairs_table, rule_of, rules_of
from noterec.engagement.counting.searching import Block, Search, SpilledSums
from noterec.engagement.counting.spill import Spill
from noterec.engagement.counting.walking import Notes, Scratch, Strongest
from noterec.engagement.counting.weightings import FORMULAS, PLAIN
from noterec.notes.dataset import Dataset
from noterec.progress import track


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


@dataclass(eq=False)
class Night:
    """One call.

    Attributes:
        data, config: what is counted.
        rules: what the settings say; ages are counted back from the state's reference.
        since: where the window begins now, in microseconds; None = it has no beginning.
        log: the files to read.
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
        """Find out what was added to the log since the last call.

        Raises:
            InputError: as `arrivals`, and `rules_of`.
        """
        rules = rules_of(config, data.clock)
        found = arrivals(data, config, rules, folder, spill)
        before = found.before
        reference = before.reference if before.notes else found.end
        now = replace(before, run=before.run + 1, end=found.end, reference=reference, files=found.files)
        if not before.notes:
            now.people = Parts.within(config.memory // 4, data.event_count, spill).count
        log = Log(data, files=found.fresh)
        return cls(data, config, replace(rules, now=reference), found.since, log, before, now, found.anew, spill)

    def count(self) -> tuple[pl.DataFrame, WindowSummary]:
        """Count again who has to be, add that to the sums, and find every anchor's strongest."""
        entered = Parts(self.now.people, self.spill)
        with track("pairs: reading", None, "events") as bar:
            read = read_events(self.log, None, self.rules, entered, since=self.since, bar=bar)
        read.check(kept=self.before.events_kept)
        codes = NoteCodes(_more_keys(self.before.keys(), entered))
        tally = self.before.tally(len(codes))
        search = Search(len(codes), rule_of(self.config, len(codes)), self.config.memory // 4, "pairs")

        def blocks(histories: Histories, costs: Ints) -> list[Block]:
            if self.before.blocks:
                return self.before.grown(len(codes), search.block_bytes)
            return search.blocks(entered.events, histories, costs)

        changes = search.spilled(self._groups(entered, codes, tally), blocks, self.spill)
        self.now.write_keys(codes.keys)
        save_tally(self.now.folder / f"tally-{self.now.run}.parquet", tally)
        known = DatasetNotes(self.data.note_ids)
        found, names = self._merged(search, changes, codes, known, tally)
        self.now.blocks = names
        table = _named(found, codes, known)
        counts = tally.counts()
        del counts["events_unknown_note"]
        return table, WindowSummary(
            pairs=table.height,
            anchors=table["anchor_id"].n_unique(),
            notes=len(known),
            users_changed=self.users_changed,
            **counts,
            events=self.now.events_kept,
            events_entered=entered.events,
            events_left=self.before.events_kept + entered.events - self.now.events_kept,
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
        age = 1.0  # what is left today of a strength that counts in full in the sums
        if self.config.half_life_days is not None:
            age = 0.5 ** ((self.now.end - self.now.reference) / self.rules.half_life_us)
        # All other formulas divide by sums that have the same age.
        notes = Notes(tally.norms, tally.total, place, age if FORMULAS[self.config.weighting] == PLAIN else 1.0)
        names: dict[Block, str] = {}

        def merge(block: Block, space: Scratch) -> Strongest:
            added = changes.read(block)
            name = self.before.blocks.get(block)
            if name is not None and not any(len(part.related) for part in added):
                names[block] = name
                return merge_strongest([self.before.sums(block)], block[0], notes, search.rule, space)
            names[block] = f"sums-{self.now.run}/anchors-{block[0]:08d}.npz"
            parts = [self.before.sums(block), *added]
            sums, found = merge_sums(parts, block[0], notes, search.rule, NOTHING / age, space)
            save_sums(self.now.folder / names[block], sums)
            return found

        return search.together(list(changes.places), None, merge), names


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


def _named(found: Strongest, codes: NoteCodes, known: DatasetNotes) -> pl.DataFrame:
    """The pairs table of what was found by codes that don't follow the ids."""
    by_code = pl.DataFrame({"code": codes.find(known.keys), "id": known.ids}).filter(pl.col("code") < UNKNOWN)
    ids = pl.Series("id", [""] * len(codes), dtype=pl.String)
    ids = ids.scatter(by_code["code"], by_code["id"])
    return pairs_table(ids, ids, found).sort("anchor_id", "rank")
