"""A log as one row per person and note: when they first saw it, when they last engaged with it.

Everything that counts co-engagement starts here, so that duplicates, views, windows and caps mean the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import schema
from noterec.errors import InputError
from noterec.notes.dataset import Clock

Ints = NDArray[np.int64]

NEVER = int(np.iinfo(np.int64).min)  # the "last engaged" of a note that was only viewed: before all times
REJECT_LIMIT = 0.05  # share of unusable rows above which a job stops
DAY_US = 86_400_000_000


@dataclass(frozen=True)
class History:
    """E distinct (person, note) rows, ordered by person, then note.

    Attributes:
        note_ids: (N,) ids of the dataset's notes, ascending; a note's code is its place here, so codes order as ids do.
        user: (E,) int64 person codes, ascending, from 0; people whose every note is unknown have no row.
        note: (E,) int64 note codes.
        seen: (E,) int64, first view in microseconds; an engagement is a view too. 0 where the log has no clock.
        engaged: (E,) int64, last engagement in microseconds, NEVER where there is none. 0 where the log has no clock.
        weight: (users,) float64, 1 / N_u, N_u = the distinct notes that a person engaged with inside the window, before
            the cap and whether or not the dataset has them; 0 where there are none.
        counts: what was read and what each rule left out.
    """

    note_ids: pl.Series
    user: Ints
    note: Ints
    seen: Ints
    engaged: Ints
    weight: NDArray[np.float64]
    counts: dict[str, int]


def history(
    log: pl.DataFrame,
    note_ids: pl.Series,
    *,
    clock: Clock,
    views: bool,
    max_notes_per_user: int,
    window_days: float | None = None,
) -> History:
    """Reduce a log to one row per person and note.

    Several events of a person on a note become one row. The cap keeps a person's most recent notes, by the last event on
    each, equal times by note_id; a log without a clock has no recent ones, and a fixed hash chooses instead.

    Args:
        log: an engagement table, as `Dataset.engagement()` returns it.
        note_ids: ids of the dataset's notes, in any order; events on other notes are left out and counted.
        clock: what the log's times mean.
        views: whether notes that were only viewed count too; impressions never do.
        max_notes_per_user: the cap.
        window_days: only the days before the log's last event; needs clock "time".

    Returns:
        The rows; `counts` has events, events_not_engaged (impressions, and views unless `views`), events_undated,
        events_outside_window, events_unknown_note, users, users_capped, rows_capped.

    Raises:
        InputError: no engagement in the log or none on the dataset's notes, more than 5 % of the events lack the time
            that the clock promises, or a window without real times.
    """
    if window_days is not None and clock != "time":
        raise InputError(
            f"window_days={window_days} needs real times, but this log's clock is {clock!r}; leave the window out, or "
            "import the log with its timestamps"
        )
    counts = {"events": log.height}
    wanted = [*schema.ENGAGED, "view"] if views else list(schema.ENGAGED)
    log = log.filter(pl.col("action").is_in(wanted))
    counts["events_not_engaged"] = counts["events"] - log.height
    if not log["action"].is_in(list(schema.ENGAGED)).any():
        raise InputError(
            f"the log has {counts['events']} events and no engagement among them; expected clicks or stronger actions "
            f"({', '.join(schema.ENGAGED)}): import the engagement too"
        )
    log, counts["events_undated"] = _dated(log, clock)
    before = log.height
    if window_days is not None:
        last = log["timestamp"].max()
        log = log.filter(pl.col("timestamp") > pl.lit(last) - pl.duration(microseconds=int(window_days * DAY_US)))
    counts["events_outside_window"] = before - log.height
    return _reduce(log, note_ids.unique().sort(), clock, max_notes_per_user, counts)


def _dated(log: pl.DataFrame, clock: Clock) -> tuple[pl.DataFrame, int]:
    """The events that have the time that the clock promises, and how many have not."""
    undated = log["timestamp"].null_count()
    if clock == "none" or not undated:
        return log, 0
    if undated > REJECT_LIMIT * log.height:
        raise InputError(
            f"{undated} of {log.height} events have no timestamp though the log's clock is {clock!r}; expected at most "
            f"{REJECT_LIMIT:.0%}: repair the timestamps, or import the log with clock none"
        )
    return log.filter(pl.col("timestamp").is_not_null()), undated


def _reduce(log: pl.DataFrame, note_ids: pl.Series, clock: Clock, cap: int, counts: dict[str, int]) -> History:
    all_notes = pl.concat([note_ids.alias("id"), log["note_id"].alias("id")]).unique().sort()
    users = log["user_id"].unique().sort()
    time = pl.lit(0, pl.Int64) if clock == "none" else pl.col("timestamp").dt.epoch("us")
    rows = (
        log.select(
            pl.col("user_id").cast(pl.Enum(users)).to_physical().cast(pl.UInt32).alias("user"),
            pl.col("note_id").cast(pl.Enum(all_notes)).to_physical().cast(pl.UInt32).alias("note"),
            time.alias("time"),
            pl.when(pl.col("action").is_in(list(schema.ENGAGED))).then(time).alias("engaged_time"),
        )
        .group_by("user", "note")
        .agg(
            pl.len().alias("events"),
            pl.col("time").min().alias("seen"),
            pl.col("time").max().alias("last"),
            pl.col("engaged_time").max().fill_null(NEVER).alias("engaged"),
        )
    )
    engaged_users = rows.filter(pl.col("engaged") != NEVER)["user"].to_numpy()
    distinct = np.bincount(engaged_users, minlength=len(users))  # (users,) N_u
    weight = np.divide(1.0, distinct, out=np.zeros(len(users)), where=distinct > 0)

    is_known = all_notes.is_in(note_ids.implode()).to_numpy()
    code_of = np.where(is_known, np.cumsum(is_known) - 1, -1)  # place among all ids -> place among the dataset's ids
    rows = rows.with_columns(pl.Series("note", code_of[rows["note"].to_numpy()]))
    counts["events_unknown_note"] = int(rows.filter(pl.col("note") < 0)["events"].sum())
    rows = rows.filter(pl.col("note") >= 0)
    if not (rows["engaged"] != NEVER).any():
        raise InputError(
            f"none of the {log.height} events engages with a note of this dataset; expected the log's note_id to be "
            "those of notes/: the two come from different sources, or an id was rewritten on one side"
        )
    counts["users"] = rows["user"].n_unique()
    kept = _capped(rows, clock, cap, counts).sort("user", "note")
    user, note, seen, engaged = (kept[name].to_numpy().astype(np.int64) for name in ("user", "note", "seen", "engaged"))
    return History(note_ids, user, note, seen, engaged, weight, counts)


def _capped(rows: pl.DataFrame, clock: Clock, cap: int, counts: dict[str, int]) -> pl.DataFrame:
    over = pl.len().over("user") > cap
    heavy = rows.filter(over)
    counts["users_capped"] = heavy["user"].n_unique()
    counts["rows_capped"] = 0
    if not heavy.height:
        return rows
    order = pl.col("last")
    if clock == "none":
        mixed = _mix(heavy["user"].to_numpy(), heavy["note"].to_numpy())
        heavy, order = heavy.with_columns(pl.Series("hash", mixed)), pl.col("hash")
    recent = (
        heavy.sort("user", order, "note", descending=[False, True, False])
        .filter(pl.int_range(pl.len()).over("user") < cap)
        .select(rows.columns)
    )
    counts["rows_capped"] = heavy.height - recent.height
    return pl.concat([rows.filter(~over), recent])


def _mix(user: Ints, note: Ints) -> NDArray[np.uint64]:
    """A fixed 64-bit hash of (person, note) codes: splitmix64's finaliser, the same on every machine and version."""
    with np.errstate(over="ignore"):
        x = user.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + note.astype(np.uint64) + np.uint64(1)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return x ^ (x >> np.uint64(31))
