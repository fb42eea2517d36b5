"""Fourteen nights of a platform: is what people see in the morning right, whatever happened in the night?

    python benchmarks/fourteen_nights.py OUT [--notes 6000 --users 6000]

A synthetic platform runs for four weeks; then `noterec nightly` runs for fourteen nights, each as a process of its own, on what had
come by then: new, edited and deleted notes and the day's log. Some nights go wrong (see INCIDENTS). Every morning the published
index is compared with what should be in it, and the published neighbour tables with what people engage with on the next day, which
the job hasn't seen: recall@10 of the notes that came this night, beside BM25's on the same questions.
"""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

import noterec
from noterec import schema, storage
from noterec.engagement.counting.log import Log
from noterec.engagement.pairs import relevant
from noterec.engagement.table import write_pairs
from noterec.notes.dataset import Dataset, write_meta
from noterec.notes.sample.platform import START
from noterec.ranking.bootstrap import paired

DAYS_BEFORE, NIGHTS = 28, 14
EDITED, DELETED = 0.01, 0.003  # of the notes, every day
K = 10
INCIDENTS = {
    3: "killed",  # the process dies while it works
    5: "broken file",  # the day's notes are cut off
    6: "empty texts",  # an exporter loses the text of every tenth note
    8: "vanished",  # a third of the notes is marked deleted
    10: "bad model",  # the settings name a model that was never trained
    11: "cut texts",  # an exporter keeps the first word of every text
    12: "rolled back",  # somebody goes back to the day before, by hand
}


@dataclass
class Row:
    """One night, as the table shows it."""

    night: int
    notes: int = 0
    new: int = 0
    edited: int = 0
    deleted: int = 0
    encoded: int = 0
    seconds: float = 0.0
    what: str = ""
    mine: dict[str, np.ndarray] = field(default_factory=dict)  # direction -> recall of each question
    bm25: dict[str, np.ndarray] = field(default_factory=dict)


class Platform:
    """The synthetic platform, delivered day by day to a dataset's folder."""

    def __init__(self, folder: Path, *, notes: int, users: int, seed: int) -> None:
        weeks = (DAYS_BEFORE + NIGHTS) // 7 + 2
        config = noterec.SampleConfig(notes=notes, users=users, weeks=weeks, arrival="steady", seed=seed)
        noterec.sample(folder / "all", config)
        self.data = folder / "data"
        self.all = (
            pl.read_parquet(folder / "all/notes/*.parquet").drop("images").with_columns(exposure=pl.lit(None, pl.Int64))
        )
        self.log = pl.read_parquet(folder / "all/engagement/*.parquet").sort("timestamp")
        self.live: dict[str, str] = {}  # note_id -> its content now
        self._rng = np.random.default_rng(seed)
        for part in ("notes", "engagement"):
            (self.data / part).mkdir(parents=True)
        (self.data / "dataset.json").write_text(json.dumps({"format": "noterec dataset", "clock": "time"}))

    def deliver(self, day: int, row: Row) -> Path:
        """The notes that came, changed and went on a day, and its log; the first delivery holds all days before."""
        begin, end = moment(day), moment(day + 1)
        fresh = self.all.filter(pl.col("created_at") < end)
        if self.live:
            fresh = fresh.filter(pl.col("created_at") >= begin)
        changed = [fresh]
        if self.live:
            ids = self._rng.permutation(sorted(self.live))
            count = len(ids)
            gone, edited = np.split(ids[: int((DELETED + EDITED) * count)], [int(DELETED * count)])
            changed.append(
                self.all.filter(pl.col("note_id").is_in(gone)).with_columns(
                    deleted=pl.lit(True), updated_at=pl.lit(end)
                )
            )
            changed.append(
                self.all.filter(pl.col("note_id").is_in(edited)).with_columns(
                    content=pl.concat_str("content", pl.lit(f" Update of day {day}.")), updated_at=pl.lit(end)
                )
            )
            for note_id in gone:
                del self.live[note_id]
            row.edited, row.deleted = len(edited), len(gone)
        for part in (fresh, changed[-1]) if len(changed) > 1 else (fresh,):
            self.live.update(zip(part["note_id"], part["content"], strict=True))
        row.new, row.notes = fresh.height, len(self.live)
        file = self.data / f"notes/day-{day:02d}.parquet"
        pl.concat(changed, how="diagonal_relaxed").write_parquet(file)
        seen = self.log.filter(
            (pl.col("timestamp") < end) & (pl.col("timestamp") >= (begin if row.night > 1 else moment(-999)))
        )
        seen.write_parquet(self.data / f"engagement/day-{day:02d}.parquet")
        return file

    def spoil(self, incident: str, file: Path) -> Path:
        """Break the delivery; returns the file that has to be put right."""
        if incident == "broken file":
            file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            return file
        current = self.all.filter(pl.col("note_id").is_in(list(self.live)))
        later = pl.lit(dt.datetime(2030, 1, 1, tzinfo=dt.UTC))
        if incident == "empty texts":
            spoilt = current.gather_every(10).with_columns(title=None, content=None, hashtags=None, updated_at=later)
        elif incident == "vanished":
            spoilt = current.gather_every(3).with_columns(deleted=pl.lit(True), updated_at=later)
        else:
            first = pl.col("title").str.split(" ").list.first()
            spoilt = current.with_columns(title=first, content=None, hashtags=None, updated_at=later)
        bad = file.with_name("day-99-bad.parquet")
        spoilt.cast({name: self.all.schema[name] for name in ("title", "content", "hashtags")}).write_parquet(bad)
        return bad

    def questions(self, day: int, folder: Path, arrived: pl.Series) -> dict[str, Path]:
        """What the next day's engagement relates the notes that came on a day to, and known notes to them."""
        seen = self.log.filter(pl.col("timestamp") < moment(day + 2))
        seen = seen.filter(~pl.col("note_id").is_in(arrived.implode()) | (pl.col("timestamp") >= moment(day + 1)))
        known = pa.table({"note_id": sorted(self.live)})
        storage.write_table(
            schema.conform(known, schema.NOTES, name="notes"), folder / "seen" / "notes" / "all.parquet"
        )
        log = schema.conform(seen.to_arrow(), schema.ENGAGEMENT, name="log")
        storage.write_table(log, folder / "seen" / "engagement" / "all.parquet")
        write_meta(folder / "seen", clock="time")
        strongest = functools.partial(relevant, Log(Dataset(folder / "seen")), top=K, min_support=2)
        old = pl.Series("note_id", sorted(set(self.live) - set(arrived)))
        found = {
            "new -> all": strongest(anchors=arrived),
            "warm -> new": strongest(anchors=old, candidates=arrived),
        }
        files = {}
        for name, table in found.items():
            files[name] = folder / f"questions-{name.split()[0]}.parquet"
            write_pairs(table, files[name], origin={"day": day})
        return files


def moment(day: int) -> dt.datetime:
    return START + dt.timedelta(days=day)


def nightly(config: Path, day: int, *, kill: bool = False) -> tuple[int, str]:
    """Run a night as a process of its own: its exit code, and what it said on standard error."""
    command = [sys.executable, "-m", "noterec", "nightly", str(config), "--night", f"{moment(day):%Y-%m-%d}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    record = config.parent / f"home/runs/{moment(day):%Y-%m-%d}/run.json"
    while kill and process.poll() is None:
        if record.is_file() and '"index"' in record.read_text():
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.002)
    told = process.communicate()[1]
    return process.returncode, told.strip().splitlines()[-1] if told.strip() else ""


def check_morning(platform: Platform, home: Path, edited: list[str], expected: set[str]) -> None:
    """The published index holds what it should, each note once and as its text is now; the tables name nothing else."""
    index = noterec.Index.open(home / "index")
    ids = index.ids.filter(pl.Series(index.live)).to_list()
    assert len(ids) == len(set(ids)), "a note is doubled"
    assert set(ids) == expected, f"{len(set(ids) ^ expected)} notes are wrong"
    for file in ("new-to-all", "warm-to-new"):
        table = pl.read_parquet(home / f"neighbours/{file}.parquet")
        assert set(table["query_id"]) | set(table["note_id"]) <= expected, f"{file} names a note that is gone"
        assert table.select("query_id", "note_id").is_unique().all(), f"{file} names a note twice"
    if edited:
        models = json.loads((home / "models.json").read_text())["models"]
        encoder = noterec.NoteEncoder.from_pretrained(home / models[index.model_version]["path"])
        rows = platform.all.filter(pl.col("note_id").is_in(edited)).sort("note_id")
        rows = rows.with_columns(content=pl.col("note_id").replace_strict(platform.live))
        vectors = encoder.encode(rows.select("note_id", "title", "content", "hashtags"))
        cosines = (vectors * index.vectors(index.rows_of(rows["note_id"]))).sum(axis=1)
        assert cosines.min() > 0.9999, f"an edited note has an old vector: {cosines.min()}"


def next_day(platform: Platform, home: Path, day: int, row: Row, folder: Path) -> None:
    """Recall of the published tables, and of BM25, by what people engage with on the day after."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    arrived = platform.all.filter(pl.col("created_at").is_between(moment(day), moment(day + 1), closed="left"))[
        "note_id"
    ]
    arrived = arrived.filter(arrived.is_in(list(platform.live)))
    files = platform.questions(day, folder, arrived)
    table = pl.DataFrame({"note_id": arrived, "part": ["test"] * len(arrived)})
    table.write_parquet(folder / "new.parquet")
    noterec.evaluate(
        {},
        notes=platform.data,
        pairs=files["new -> all"],
        warm_pairs=files["warm -> new"],
        new_notes=folder / "new.parquet",
        out=folder / "bm25",
        config=noterec.EvaluateConfig(at=[K], builtin=["bm25"], fuse=False),
    )
    queries = pl.read_parquet(folder / "bm25/queries.parquet").filter(pl.col("arm") == "bm25")
    for name, published in (("new -> all", "new-to-all"), ("warm -> new", "warm-to-new")):
        asked = queries.filter(pl.col("direction") == name).sort("query_id")
        wanted = pl.read_parquet(files[name]).group_by("anchor_id").agg("related_id")
        found = pl.read_parquet(home / f"neighbours/{published}.parquet").sort("query_id", "rank")
        if (
            name == "warm -> new"
        ):  # the table's candidates are the notes of the last week, the question's those of this day
            found = found.filter(pl.col("note_id").is_in(arrived.implode()))
        top = found.group_by("query_id", maintain_order=True).head(K).group_by("query_id").agg("note_id")
        both = (
            asked.select("query_id")
            .join(top, on="query_id", how="left")
            .join(wanted, left_on="query_id", right_on="anchor_id")
        )
        both = both.sort("query_id")
        hits = [
            len(set(near or []) & set(right)) / len(right)
            for near, right in both.select("note_id", "related_id").rows()
        ]
        row.mine[name], row.bm25[name] = np.array(hits), asked[f"recall@{K}"].to_numpy()
        assert len(hits) == asked.height


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--notes", type=int, default=6000)
    parser.add_argument("--users", type=int, default=6000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a setting of the nightly job, KEY=VALUE")
    args = parser.parse_args()
    out: Path = args.out.absolute()
    if out.exists():
        sys.exit(f"{out} exists; give a new folder")
    platform = Platform(out, notes=args.notes, users=args.users, seed=args.seed)
    home, config = out / "home", out / "nightly.yaml"
    from noterec.config import NightlyConfig, load

    def settings(**given: object) -> None:
        overrides = ["training.every_days=7", *args.set]
        made = load(NightlyConfig, None, overrides, dataset=str(platform.data), home=str(home), **given)
        config.write_text(made.to_yaml())

    settings()
    noterec.train(
        out / "all",
        pairs=_any_pairs(out),
        out=out / "untrained",
        config=noterec.TrainConfig(steps=0),
    )
    rows: list[Row] = []
    expected: set[str] = set()
    for night in range(1, NIGHTS + 1):
        day, incident, row = DAYS_BEFORE + night - 1, INCIDENTS.get(night), Row(night)
        before = dict(platform.live)
        file = platform.deliver(day, row)
        edited = [note_id for note_id, text in platform.live.items() if before.get(note_id, text) != text]
        started = time.perf_counter()
        if incident in ("broken file", "empty texts", "vanished", "cut texts"):
            whole = file.read_bytes()
            bad = platform.spoil(incident, file)
            code, told = nightly(config, day)
            assert code == (2 if incident == "broken file" else 3), f"{incident}: exit {code}: {told}"
            check_morning(platform, home, [], expected)  # yesterday's index stays, whole
            row.what = f"{incident}: exit {code}, {_reason(told)}; yesterday's index stayed, then put right"
            bad.unlink()
            file.write_bytes(whole)
        elif incident == "killed":
            code, _ = nightly(config, day, kill=True)
            assert code == -signal.SIGKILL, f"the process ended by itself, with {code}"
            check_morning(platform, home, [], expected)
            row.what = "killed with SIGKILL while it built the index; the same command went on"
        elif incident == "bad model":
            settings(model=str(out / "untrained"))
        started = time.perf_counter()
        code, told = nightly(config, day)
        row.seconds = time.perf_counter() - started
        assert code == 0, f"night {night}: exit {code}: {told}"
        expected = set(platform.live)
        check_morning(platform, home, edited, expected)
        record = json.loads(
            sorted((home / "runs").glob(f"{moment(day):%Y-%m-%d}*"))[-1].joinpath("run.json").read_text()
        )
        row.encoded = record["stages"]["embed"]["figures"]["encoded"]
        choice, trained = record["stages"]["choose"], record["stages"]["train"]
        if trained["status"] == "done" or choice["status"] == "done":
            row.what = "; ".join(
                x for x in (row.what, "trained" if trained["status"] == "done" else "", _choice(choice)) if x
            )
        if incident == "bad model":
            assert record["stages"]["choose"]["result"]["won"] is False
            settings()
        if incident == "rolled back":
            noterec_cli = [sys.executable, "-m", "noterec", "nightly"]
            subprocess.run([*noterec_cli, "rollback", str(config)], check=True, stdout=subprocess.DEVNULL)
            assert set(noterec.Index.open(home / "index").ids) == set(before), "not yesterday's notes"
            again, _ = nightly(config, day)
            assert again == 0, "the same night again, with nothing newer"
            assert set(noterec.Index.open(home / "index").ids) == set(before), "a rollback was undone"
            row.what = "rolled back by hand to the bundle of the night before; the next night goes on"
            subprocess.run(
                [*noterec_cli, "rollback", str(config), "--to", _latest(home)], check=True, stdout=subprocess.DEVNULL
            )
            check_morning(platform, home, edited, expected)
        next_day(platform, home, day, row, out / "next-day")
        again, said = nightly(config, day)
        assert again == 0, f"night {night} once more: exit {again}: {said}"
        rows.append(row)
        print(f"night {night}: {row.what or 'as planned'}; {told}", file=sys.stderr)
    _print(rows)


def _any_pairs(out: Path) -> Path:
    noterec.pairs(out / "all", out=out / "untrained-pairs.parquet")
    return out / "untrained-pairs.parquet"


def _reason(told: str) -> str:
    return f"gate {told.split('the gate ')[1].split(' stops')[0]}" if "the gate " in told else "the file is named"


def _choice(stage: dict[str, object]) -> str:
    if stage["status"] != "done":
        return "the first model"
    return str(stage["says"]).split(": ", 1)[1]


def _latest(home: Path) -> str:
    return sorted(path.name for path in (home / "index/bundles").glob("bundle-*"))[-1]


def _print(rows: list[Row]) -> None:
    """The table in Markdown, and the pooled figures."""
    print(
        "| night | notes | new | edited | deleted | encoded | s | new -> all, BM25 | warm -> new, BM25 | what happened |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [f"{row.mine[name].mean():.3f}, {row.bm25[name].mean():.3f}" for name in row.mine]
        counts = [row.night, row.notes, row.new, row.edited, row.deleted, row.encoded]
        print(f"| {' | '.join(f'{n:,}' for n in counts)} | {row.seconds:.1f} | {' | '.join(cells)} | {row.what} |")
    print()
    for name in rows[0].mine:
        mine, words = (np.concatenate([getattr(row, arm)[name] for row in rows]) for arm in ("mine", "bm25"))
        gain = paired(mine, words)
        ratio = [1 + float(x) for x in (gain.relative, gain.relative_low, gain.relative_high)]
        print(
            f"{name}: recall@{K} {mine.mean():.4f}, BM25 {words.mean():.4f}, {ratio[0]:.2f} times "
            f"[{ratio[1]:.2f}, {ratio[2]:.2f}] on {gain.n:,} questions of {len(rows)} nights"
        )


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
