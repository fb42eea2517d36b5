"""A window that is kept night by night, against counting it anew: time, memory and room on disk.

    python benchmarks/window.py --folder runs/window --events 4e6

A synthetic log of 28 days and a few nights more: every person is there on some days (--active-days), with 25 events in 28 days, on
notes of Zipf popularity. The first call builds the state; then, for each further night, the day's file is added and both ways run
in processes of their own. Their tables must agree: the same pairs, scores within 1e-6. The fewer people come on a day, the fewer
are counted again.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.config import PairsConfig
from noterec.engagement.apart.window import windowed_pairs
from noterec.engagement.pairs import pairs
from noterec.notes.dataset import write_meta

DAYS, EVENTS_PER_PERSON, DAY_US = 28, 25, 86_400_000_000
START_US = 20_000 * DAY_US


def main() -> None:
    """Make the log, run the nights, print the table and write it under --folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--events", type=lambda text: int(float(text)), default=1_000_000, help="in 28 days")
    parser.add_argument("--active-days", type=int, nargs="+", default=[3, 12], help="of 28, on which a person is there")
    parser.add_argument("--nights", type=int, default=2)
    parser.add_argument("--weighting", default="notellm")
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)  # one call in a process of its own: how, dataset, out
    given = parser.parse_args()
    if given.run:
        print(json.dumps(call(*given.run, given.weighting)))
        return
    lines = [
        "| active days of 28 | night | people counted again | kept: s | anew: s | anew / kept | kept: peak MiB | anew: peak MiB | "
        "state, MB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for active in given.active_days:
        data, work = given.folder / f"active-{active}", given.folder / f"work-{active}"
        shutil.rmtree(data, ignore_errors=True)
        shutil.rmtree(work, ignore_errors=True)
        days = log_days(given.events, active, DAYS + given.nights)
        write_notes(data, given.events // 50)
        for day in range(DAYS):
            write_day(data, day, days[day])
        for night in range(given.nights + 1):
            if night:
                write_day(data, DAYS + night - 1, days[DAYS + night - 1])
            kept, anew = (run(how, data, work, given) for how in ("kept", "anew"))
            same(work)
            size = sum(file.stat().st_size for file in (work / "state").rglob("*") if file.is_file()) / 1e6
            lines.append(
                f"| {active} | {night or 'first'} | {kept['changed'] / kept['users']:.0%} | {kept['seconds']:.1f} | "
                f"{anew['seconds']:.1f} | {anew['seconds'] / kept['seconds']:.2f} | {kept['mib']:,.0f} | {anew['mib']:,.0f} | "
                f"{size:,.0f} |"
            )
            print(lines[-1], flush=True)
    (given.folder / "table.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def call(how: str, data: str, out: str, weighting: str) -> dict[str, float]:
    """One night, one way."""
    config = PairsConfig(weighting=weighting, min_support=1, window_days=DAYS)
    pairs_of = dict(out=Path(out) / f"{how}.parquet", config=config)
    start = time.perf_counter()
    changed = users = 1
    if how == "kept":
        summary = windowed_pairs(data, state=Path(out) / "state", **pairs_of)
        changed, users = summary.users_changed, summary.users
    else:
        pairs(data, **pairs_of)
    seconds = time.perf_counter() - start
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "mib": mib, "changed": changed, "users": users}


def run(how: str, data: Path, work: Path, given: argparse.Namespace) -> dict[str, float]:
    """The same in a process of its own."""
    work.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, __file__, "--folder", str(given.folder), "--weighting", given.weighting]
    done = subprocess.run([*command, "--run", how, data, work], check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def same(work: Path) -> None:
    """Refuse tables that differ by more than rounding."""
    kept, anew = (pl.read_parquet(work / f"{how}.parquet") for how in ("kept", "anew"))
    both = kept.join(anew, on=["anchor_id", "related_id"], how="full")
    odd = both.filter((pl.col("score") - pl.col("score_right")).abs().fill_null(1.0) > 1e-6)
    ties = odd.filter(pl.any_horizontal(pl.col("score", "score_right").is_null()))  # equal scores at the end of a list
    if odd.height > ties.height or ties.height > 1e-4 * anew.height:
        raise SystemExit(f"the tables differ in {odd.height} of {anew.height} rows")


def log_days(events: int, active: int, days: int) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """People, notes and microseconds of each day's events."""
    random = np.random.default_rng(0)
    users, notes = events // EVENTS_PER_PERSON, events // 50
    there = random.random((days, users)) < active / DAYS
    popularity = np.cumsum(1 / np.arange(1, notes + 1) ** 0.8)
    found = []
    for day in range(days):
        people = np.flatnonzero(there[day])
        count = round(len(people) * EVENTS_PER_PERSON / active)
        note = np.searchsorted(popularity, random.random(count) * popularity[-1])
        found.append((random.choice(people, count), note, START_US + day * DAY_US + random.integers(0, DAY_US, count)))
    return found


def write_notes(data: Path, notes: int) -> None:
    """The catalogue."""
    table = pa.table({"note_id": [f"n{number:08d}" for number in range(notes)]})
    storage.write_table(schema.conform(table, schema.NOTES, name="notes"), data / "notes" / "all.parquet")
    write_meta(data, clock="time")


def write_day(data: Path, day: int, events: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    """A day's file of the log."""
    people, notes, times = events
    frame = pl.DataFrame({"user": people, "note": notes, "time": times}).select(
        pl.format("u{}", pl.col("user").cast(pl.String).str.zfill(8)).alias("user_id"),
        pl.format("n{}", pl.col("note").cast(pl.String).str.zfill(8)).alias("note_id"),
        pl.lit("click").alias("action"),
        pl.col("time").cast(pl.Datetime("us", "UTC")).alias("timestamp"),
    )
    table = schema.conform(frame.to_arrow(), schema.ENGAGEMENT, name="log")
    storage.write_table(table, data / "engagement" / f"day-{day:02d}.parquet")


if __name__ == "__main__":
    main()
