"""The plan of counting: events -> histories -> sums -> each anchor's strongest, in bounded memory.

    read      the log by batches; parts by person, on disk unless one is enough
    fold      part after part into packed histories, until a group of them is full
    count     block of anchors by block of anchors, in threads
    merge     only where the histories need several groups: a block's sums of all groups, from disk

With one group, which 1 GB gives to some fifty million events, a block's strongest are known at once and nothing is merged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl

from noterec import schema
from noterec.config import PairsConfig
from noterec.engagement.counting.compiled import interruptible
from noterec.engagement.counting.events import Parts, end_of_day, read_events, time_span
from noterec.engagement.counting.folding import Ints
from noterec.engagement.counting.histories import (
    DAY_US,
    MOST_ROWS,
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
from noterec.engagement.counting.searching import Search
from noterec.engagement.counting.spill import Spill
from noterec.engagement.counting.swing import Swing
from noterec.engagement.counting.walking import Notes, Rule, Strongest
from noterec.engagement.counting.weightings import FORMULAS, POWERS, bounds
from noterec.errors import ConfigError, InputError
from noterec.notes.dataset import Clock
from noterec.progress import track


@dataclass(frozen=True)
class Mined:
    """What was found.

    Attributes:
        table: a pairs table, ordered by anchor_id and rank.
        counts: what was read and what each rule left out, by the names of `PairsSummary`.
    """

    table: pl.DataFrame
    counts: dict[str, int]


@interruptible()
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
    search = Search(len(codes), rule_of(config, len(codes)), config.memory // 4, description)
    swing = None
    if config.weighting == "swing":
        if rules.weighted:
            raise ConfigError(
                "swing counts people, and knows no strengths: expected neither half_life_days nor strengths in actions other than "
                "0 and 1; leave them out, or take another weighting"
            )
        swing = Swing(config.swing_alpha, config.swing_people, related_mask)
        related_mask = _mask(codes, None)

    def builder(capacity: int) -> HistoryBuilder:
        return HistoryBuilder(codes, capacity, rules, tally, anchor_mask, related_mask)

    def notes() -> Notes:
        return Notes(tally.norms, tally.total, np.arange(len(codes), dtype=np.int32))

    with Spill() as spill:
        with track(f"{description}: reading", log.data.event_count, "events") as bar:
            parts = Parts.within(config.memory // 4, log.data.event_count, spill)
            counts = read_events(log, codes, rules, parts, since=since, bar=bar)
        counts.check()
        capacity = min(max(config.memory // row_bytes(rules), parts.largest, 1), MOST_ROWS)
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
            f"none of the {counts.events} events engages with a note of this dataset ({counts.events_outside_window} are before "
            "the window); expected the log's note_id to be those of notes/: the two come from different sources, or an id was "
            "rewritten on one side"
        )
    table = pairs_table(codes.ids, codes.ids, found)
    return Mined(table, {**counts.named(), **tally.counts(), **names_of_dropped(found.dropped)})


def rule_of(config: PairsConfig, notes: int) -> Rule:
    """What the settings say of pairs of so many notes."""
    lower, upper = (np.float32(bound) for bound in bounds(config))
    return Rule(FORMULAS[config.weighting], config.min_support, lower, upper, min(config.top, notes))


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


def pairs_table(anchors: pl.Series, ids: pl.Series, found: Strongest) -> pl.DataFrame:
    """The related notes of (A,) anchors as a pairs table: anchor_id, related_id, score, rank; `ids` are of all notes."""
    first = np.cumsum(found.kept) - found.kept  # (A,) the row of each anchor's strongest
    rank = np.arange(1, len(found.related) + 1) - np.repeat(first, found.kept)
    return pl.DataFrame(
        {
            "anchor_id": anchors.gather(np.repeat(np.arange(len(found.kept)), found.kept)),
            "related_id": ids.gather(found.related),
            "score": found.score,
            "rank": rank.astype(np.int32),
        }
    )
