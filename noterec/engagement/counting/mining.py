"""The plan of counting: events -> histories -> sums -> each anchor's strongest, in bounded memory.

    read      the log by batches; parts by person, on disk unless one is enough
    fold      part after part into packed histories, until a group of them is full
    count     block of anchors by block of anchors, in threads
    merge     only where the histories need several groups: a block's sums of all groups, from disk

With one group, which 1 GB gives to some fifty million events, a block's strongest are known at once and nothing is merged.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np
import polars as pl

from noterec import schema
from noterec.config import PairsConfig
from noterec.engagement.counting.events import Parts, end_of_day, read_events, time_span
from noterec.engagement.counting.folding import Ints
from noterec.engagement.counting.histories import (
    DAY_US,
    Events,
    Histories,
    HistoryBuilder,
    Mask,
    Rules,
    Tally,
    row_bytes,
)
from noterec.engagement.counting.keys import DatasetNotes
from noterec.engagement.counting.log import Log
from noterec.engagement.counting.spill import Spill, Where
from noterec.engagement.counting.swing import Swing, count_swing
from noterec.engagement.counting.walking import (
    SCRATCH_BYTES,
    Notes,
    Rule,
    Scratch,
    Strongest,
    Sums,
    count_strongest,
    count_sums,
    merge_strongest,
    scratch,
)
from noterec.engagement.counting.weightings import FORMULAS, POWERS, bounds
from noterec.errors import ConfigError, InputError
from noterec.notes.dataset import Clock
from noterec.progress import track

T = TypeVar("T")
Block = tuple[int, int]  # anchors [begin, end)

SUM_BYTES = 16  # of one entry of Sums
_BLOCKS_PER_THREAD = 8  # so that a slow block doesn't leave the others waiting


@dataclass(frozen=True)
class Mined:
    """What was found.

    Attributes:
        table: a pairs table, ordered by anchor_id and rank.
        counts: what was read and what each rule left out, by the names of `PairsSummary`.
    """

    table: pl.DataFrame
    counts: dict[str, int]


def mine(
    log: Log,
    note_ids: pl.Series,
    config: PairsConfig,
    *,
    anchors: pl.Series | None = None,
    related: pl.Series | None = None,
    description: str = "pairs",
) -> Mined:
    """Find each anchor's strongest related notes.

    Args:
        log: what may be known of the log.
        note_ids: ids of all notes that count as known.
        config: weighting, bounds, window, caps, memory.
        anchors: the ids whose related notes are wanted; None = all.
        related: the ids that may be related; None = all.
        description: label of the progress bar.

    Raises:
        InputError: no engagement in the log or none on these notes, a window or a half-life without real times, too many events
            without a time, a full disk; swing where the histories don't fit into memory.
    """
    codes = DatasetNotes(note_ids)
    anchor_mask, related_mask = _mask(codes, anchors), _mask(codes, related)
    rules, since = placed(rules_of(config, log.clock), config, log)
    tally = Tally(np.zeros(len(codes)))
    search = Search(len(codes), rule_of(config), config.memory // 4, description)

    swing = Swing(config.swing_alpha, config.swing_people) if config.weighting == "swing" else None
    if swing is not None and rules.weighted:
        raise ConfigError(
            "swing counts people, and knows no strengths: expected neither half_life_days nor strengths in actions other than 0 "
            "and 1; leave them out, or take another weighting"
        )

    def builder(capacity: int) -> HistoryBuilder:
        return HistoryBuilder(codes, capacity, rules, tally, anchor_mask, related_mask)

    def notes() -> Notes:
        return Notes(tally.norms, tally.total, np.arange(len(codes), dtype=np.int32))

    with Spill() as spill:
        with track(f"{description}: reading", log.data.event_count, "events") as bar:
            parts = Parts.within(config.memory // 4, log.data.event_count, spill)
            counts = read_events(log, codes, rules.wanted, parts, since=since, bar=bar)
        capacity = max(config.memory // row_bytes(rules), parts.largest, 1)
        groups = _groups(parts, min(capacity, parts.events), builder)
        if parts.events <= capacity:
            histories = next(groups)
            found = search.strongest(histories, notes(), swing)
        elif swing is not None:
            raise InputError(
                f"swing compares people with each other and needs all histories in memory: {parts.events} events take about "
                f"{parts.events * row_bytes(rules) / 1e9:.2f} GB, memory is {config.memory / 1e9:.2f} GB; raise memory, shorten "
                "the window, or take another weighting"
            )
        else:
            found = search.merged(groups, parts.events, notes, spill)
    if not tally.norms.any():
        raise InputError(
            f"none of the {counts.events} events engages with a note of this dataset; expected the log's note_id to be "
            "those of notes/: the two come from different sources, or an id was rewritten on one side"
        )
    table = pairs_table(codes.ids, codes.ids, found, config.top)
    return Mined(table, {**asdict(counts), **tally.counts(), **names_of_dropped(found.dropped)})


def rule_of(config: PairsConfig) -> Rule:
    """What the settings say of pairs."""
    lower, upper = (np.float32(bound) for bound in bounds(config))
    return Rule(FORMULAS[config.weighting], config.min_support, lower, upper, config.top)


def names_of_dropped(dropped: Ints) -> dict[str, int]:
    """How many pairs each rule left out, by the names of `PairsSummary`."""
    names = ("pairs_below_support", "pairs_out_of_bounds", "pairs_beyond_top")
    return dict(zip(names, map(int, dropped), strict=True))


def rules_of(config: PairsConfig, clock: Clock) -> Rules:
    """What the settings say of people and events, for a log whose end isn't known yet.

    Raises:
        InputError: a window or a half-life, and a log without real times.
    """
    for name, days in (("window_days", config.window_days), ("half_life_days", config.half_life_days)):
        if days is not None and clock != "time":
            raise InputError(
                f"{name}={days} needs real times, but this log's clock is {clock!r}; leave it out, or import the log with its "
                "timestamps"
            )
    strengths = tuple(config.actions.get(a, float(a in schema.ENGAGED)) for a in schema.ACTIONS)
    directional = config.weighting == "notellm"
    return Rules(
        directional=directional,
        power=POWERS.get(config.weighting, 0.0),
        strengths=strengths,
        cap=config.max_notes_per_user,
        has_clock=clock != "none",
        half_life_us=(config.half_life_days or 0.0) * DAY_US,
    )


def placed(rules: Rules, config: PairsConfig, log: Log) -> tuple[Rules, int | None]:
    """The rules with the end of the log's last day as their `now`, and where the window begins (microseconds; None = no window)."""
    if config.window_days is None and config.half_life_days is None:
        return rules, None
    span = time_span(log, rules.wanted)
    end = end_of_day(span[1]) if span else 0
    return replace(rules, now=end), None if config.window_days is None else end - config.window_days * DAY_US


def _mask(codes: DatasetNotes, chosen: pl.Series | None) -> Mask:
    """(N,) bool: which of all notes are chosen; empty = all."""
    return np.zeros(0, dtype=bool) if chosen is None else codes.ids.is_in(chosen.unique().implode()).to_numpy()


def _groups(parts: Iterable[Events], capacity: int, builder: Callable[[int], HistoryBuilder]) -> Iterator[Histories]:
    """Fold parts into groups of at most `capacity` events; at least one group comes."""
    group = builder(capacity)
    for events in parts:
        if not group.fits(len(events)):
            yield group.build()
            group = builder(capacity)
        group.add(events)
    yield group.build()


@dataclass(frozen=True, eq=False)
class SpilledSums:
    """Sums of several groups of people on disk.

    Attributes:
        places: of each block of anchors, for each group, where its arrays lie.
    """

    spill: Spill
    places: dict[Block, list[list[Where]]]

    def read(self, block: Block) -> list[Sums]:
        """One block's sums of each group."""
        return [Sums(*(self.spill.read(where) for where in wheres)) for wheres in self.places[block]]


@dataclass(eq=False)
class Search:
    """Counting over blocks of anchors, in threads.

    Attributes:
        notes: N.
        rule: what makes a pair a related one.
        memory: bytes that the sums of all blocks in work may take.
        description: label of the progress bar.
    """

    notes: int
    rule: Rule
    memory: int
    description: str

    def __post_init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, min(cores, self.memory // (SCRATCH_BYTES * max(self.notes, 1))))

    def strongest(self, histories: Histories, notes: Notes, swing: Swing | None) -> Strongest:
        """The related notes of all anchors, where one group holds all people."""
        costs = histories.costs()
        blocks = cut(costs, self.threads * _BLOCKS_PER_THREAD)
        work = partial(self._count, histories, notes, swing)
        return joined(self.over(blocks, costs, work), self.rule.top)

    def _count(
        self, histories: Histories, notes: Notes, swing: Swing | None, block: Block, space: Scratch
    ) -> Strongest:
        if swing is not None:
            return count_swing(histories, *block, notes, self.rule, swing, space)
        return count_strongest(histories, *block, notes, self.rule, space)

    def merged(self, groups: Iterable[Histories], events: int, notes: Callable[[], Notes], spill: Spill) -> Strongest:
        """The same from several groups, which hold so many events together; `notes` is called when all have been folded."""

        written = self.spilled(groups, partial(self.blocks, events), spill)
        known = notes()

        def merge(block: Block, space: Scratch) -> Strongest:
            return merge_strongest(written.read(block), block[0], known, self.rule, space)

        return joined(self.over(list(written.places), None, merge), self.rule.top)

    def blocks(self, events: int, histories: Histories, costs: Ints) -> list[Block]:
        """Blocks of anchors whose sums over so many events may be in memory, to judge from a first group and its costs."""
        share = max(len(histories.note) / max(events, 1), 1e-3)  # of all rows, that this group holds
        entries = self.memory / SUM_BYTES / self.threads
        return cut(costs, max(int(costs.sum() / share / entries), self.threads * _BLOCKS_PER_THREAD))

    def spilled(
        self, groups: Iterable[Histories], blocks: Callable[[Histories, Ints], list[Block]], spill: Spill
    ) -> SpilledSums:
        """The sums of each group on disk, block by block; `blocks` are made from the first group and its costs."""
        written: SpilledSums | None = None
        for histories in groups:
            costs = histories.costs()
            written = written or SpilledSums(spill, {block: [] for block in blocks(histories, costs)})

            def count(block: Block, space: Scratch, histories: Histories = histories, costs: Ints = costs) -> Sums:
                return count_sums(histories, *block, int(costs[slice(*block)].sum()), space)

            places = written.places
            for block, sums in zip(places, self.over(list(places), costs, count), strict=True):
                places[block].append([spill.write(array) for array in sums])
        assert written is not None  # at least one group comes
        return written

    def over(self, blocks: list[Block], costs: Ints | None, work: Callable[[Block, Scratch], T]) -> Iterator[T]:
        """What `work` makes of each block, in order; a few blocks are ahead of the reader at most."""
        own = threading.local()

        def run(block: Block) -> T:
            if not hasattr(own, "space"):
                own.space = scratch(self.notes)
            return work(block, own.space)

        label = f"{self.description}: {'merging' if costs is None else 'counting'}"
        total = None if costs is None else int(costs.sum())
        unit = "anchors" if costs is None else "co-occurrences"
        with track(label, total, unit) as bar, ThreadPoolExecutor(self.threads) as pool:
            ahead: deque[tuple[Block, Future[T]]] = deque()
            for block in [*blocks, None]:
                while ahead and (block is None or len(ahead) > self.threads):
                    done, future = ahead.popleft()
                    yield future.result()
                    bar.advance(done[1] - done[0] if costs is None else int(costs[slice(*done)].sum()))
                if block is not None:
                    ahead.append((block, pool.submit(run, block)))


def cut(costs: Ints, count: int) -> list[Block]:
    """Blocks of neighbouring anchors, [begin, end), about `count` of them and about equally costly."""
    ends = np.cumsum(costs)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.linspace(0, total, count + 1)[1:-1], side="left")
    edges = np.unique(np.concatenate([[0], cuts, [len(costs)]]))
    return [(int(begin), int(end)) for begin, end in pairwise(edges)]


def joined(blocks: Iterable[Strongest], top: int) -> Strongest:
    """All blocks as one."""
    found = list(blocks)
    empty = Strongest(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(3, np.int64))
    kept, related, scores, _ = (np.concatenate(arrays) for arrays in zip(empty, *found, strict=True))
    return Strongest(kept, related, scores, sum((block.dropped for block in found), empty.dropped))


def pairs_table(anchors: pl.Series, ids: pl.Series, found: Strongest, top: int) -> pl.DataFrame:
    """The related notes of (A,) anchors as a pairs table: anchor_id, related_id, score, rank; `ids` are of all notes."""
    there = np.arange(top) < found.kept[:, None]  # (A, top)
    anchor = np.repeat(np.arange(len(found.kept)), found.kept)
    return pl.DataFrame(
        {
            "anchor_id": anchors.gather(anchor),
            "related_id": ids.gather(found.related[there.ravel()]),
            "score": found.score[there.ravel()],
            "rank": np.broadcast_to(np.arange(1, top + 1, dtype=np.int32), there.shape)[there],
        }
    )
