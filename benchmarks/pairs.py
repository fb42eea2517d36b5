"""Seconds and memory from a week's log to its related pairs, beside what one would write instead of `noterec pairs`.

    python benchmarks/pairs.py --folder /tmp/pairs --events 1e6 4e6 --rounds 3
    python benchmarks/pairs.py --folder /tmp/pairs --out /tmp/pairs/growth --events 1e6 4e6 1e7 4e7 --catalogue 500000 --zipf 1 \\
        --most polars=4e6
    python benchmarks/pairs_plot.py /tmp/pairs/growth/table.json pairs.svg

Logs are made into FOLDER/data, once: 25 events a person over one week, a note for 50 events unless `--catalogue` says otherwise.
Each arm reads the same Parquet files and writes as Parquet the pairs of arXiv:2403.01744 §4.3 (A seen before B is engaged with,
1 / N_u for each person, 0.01 to 30, the ten strongest of each anchor, ties by id), in a process of its own on `--threads` cores:

- noterec: `noterec pairs` with weighting=notellm, min_support=1;
- duckdb: one query, ids as they are;
- duckdb-numbered: the same, ids numbered first and named again at the end, so that it joins and groups by integers;
- polars: the same as a lazy query of its streaming engine, ids as they are;
- sparse: scipy's sparse product, some rows at a time, which knows no direction: what comes out is something else.

All events are on notes of the dataset and nobody reaches noterec's cap of notes per person, so the queries needn't look at either.
Seconds count from after the imports to the file, the best of `--rounds`; in each round every arm runs once, noterec's loops having
been compiled before. Memory is the largest resident size of the whole process, as the kernel counts it, of all rounds.

Every arm but sparse must give the same rows: anchor, related note, rank and float32 score. All add doubles in whatever order their
threads come, which is wrong in the 16th digit; the score is rounded to float32 before it is compared, so the order shows only
where a sum falls that close to the border between two float32 numbers. Such rows are counted apart, once an exact sum has confirmed
it; any other difference ends the run. No arm is made to add in a fixed order: DuckDB would have to sort all that it counts.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pairs_arms
import polars as pl
from pairs_log import Shape, prepare

Line = dict[str, Any]

ROW = ["anchor_id", "rank", "related_id", "score"]
MOST_ROUNDED = (
    1000  # anchors about which rounding may make two tables differ; a few are expected in hundreds of millions of sums
)
ERROR = 1e-12  # that a sum of doubles may have, relative to it, whatever the order of its terms
UNDIRECTED = "sparse"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="logs are made and kept here, gigabytes of them")
    parser.add_argument("--out", type=Path, help="of table.md and table.json; FOLDER unless given")
    parser.add_argument("--events", type=_count, nargs="+", default=[1_000_000])
    parser.add_argument("--catalogue", type=_count, help="notes; events / 50 unless given")
    parser.add_argument("--zipf", type=float, default=0.8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--arm", action="append", choices=list(pairs_arms.ARMS), help="repeatable; all unless given")
    parser.add_argument("--most", nargs="+", default=[], metavar="ARM=EVENTS", help="leave an arm out above so many")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory", default="1GB", help="noterec's bound")
    parser.add_argument("--duckdb-memory", help="DuckDB's bound, such as 4GB; its own default unless given")
    given = parser.parse_args()
    most = dict(_limit(parser, text) for text in given.most)
    names = list(dict.fromkeys(given.arm or pairs_arms.ARMS))
    out = given.out or given.folder
    out.mkdir(parents=True, exist_ok=True)
    head = {
        "command": shlex.join(["python", *sys.argv]),
        "date": f"{dt.datetime.now(dt.UTC):%Y-%m-%d}",
        "machine": _machine(given.threads),
        "load_before": os.getloadavg()[0],
        "memory": {"noterec": given.memory, "duckdb": given.duckdb_memory},
        "versions": {name: version(name) for name in ("noterec", "duckdb", "polars", "scipy", "numba", "pyarrow")},
    }
    if "noterec" in names:
        small = Shape(5000, 200, 100, 0.8, given.seed)
        prepare(given.folder / "data" / small.name, small)
        measured("noterec", given.folder / "data" / small.name, given)
    lines: list[Line] = []
    for events in given.events:
        shape = Shape(events, max(1, events // 25), given.catalogue or max(2, events // 50), given.zipf, given.seed)
        data = given.folder / "data" / shape.name
        log = asdict(shape) | {"cooccurrences": prepare(data, shape), "catalogue_given": given.catalogue is not None}
        present = [name for name in names if events <= most.get(name, math.inf)]
        lines += [log | line for line in compared(present, data, given)]
        text = report(lines, head)
        (out / "table.md").write_text(text)
        (out / "table.json").write_text(json.dumps(head | {"lines": lines}, indent=1))
    print("\n" + text)


def compared(names: list[str], data: Path, given: argparse.Namespace) -> list[Line]:
    """A line for each arm: its seconds and memory, or why it failed, and what `same_rows` says of its answer."""
    lines: dict[str, Line] = {name: {"arm": name, "failed": None, "all_seconds": [], "peak_mib": 0.0} for name in names}
    for number in range(given.rounds):
        for name, line in lines.items():
            if line["failed"]:
                continue
            run = measured(name, data, given)
            if isinstance(run, str):
                line["failed"] = shown = run
            else:
                line["all_seconds"].append(run["seconds"])
                line["seconds"], line["peak_mib"] = min(line["all_seconds"]), max(line["peak_mib"], run["peak_mib"])
                shown = f"{run['seconds']:.2f} s, {run['peak_mib']:,.0f} MiB"
            print(f"{data.name}, round {number + 1}, {name}: {shown}", flush=True)
    directed = [name for name in names if name != UNDIRECTED and not lines[name]["failed"]]
    reference = next((name for name in directed if name.startswith("duckdb")), None)
    for name, line in lines.items():
        line["answer"] = "another" if name == UNDIRECTED else "the reference" if name == reference else "not compared"
        if reference is not None and name in directed and name != reference:
            line["answer"] = f"as {reference}"
            line |= same_rows(answer(name, data, given), answer(reference, data, given), data)
            print(f"{data.name}, {name}: the rows of {reference}, {line['rounded']} rounded otherwise", flush=True)
    return list(lines.values())


def measured(name: str, data: Path, given: argparse.Namespace) -> Line | str:
    """Run an arm once, in a process of its own: its seconds and peak_mib, or how it failed for want of memory."""
    command = [sys.executable, pairs_arms.__file__, name, str(data), str(answer(name, data, given))]
    memory = given.memory if name == "noterec" else given.duckdb_memory if name.startswith("duckdb") else None
    command += ["--threads", str(given.threads), *(["--memory", memory] if memory else [])]
    with tempfile.TemporaryDirectory(dir=given.folder, prefix="spill-") as spill:  # removed whatever becomes of the arm
        environment = os.environ | {"TMPDIR": spill}
        process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if process.returncode == 0:
        return dict(json.loads(process.stdout.splitlines()[-1]))
    if process.returncode == -9:
        return "killed by the system"
    if "OutOfMemoryException" in process.stderr or "MemoryError" in process.stderr:
        return "out of memory"
    sys.exit(f"{shlex.join(command)} failed with exit code {process.returncode}:\n{process.stderr}")


def answer(name: str, data: Path, given: argparse.Namespace) -> Path:
    """Where an arm writes its pairs."""
    return Path(given.folder) / f"{data.name}-{name}.parquet"


def same_rows(file: Path, reference: Path, data: Path) -> Line:
    """Compare two pairs tables: rows, and rounded, those that only one of them has because of a sum's last digit.

    Ends the program where they differ otherwise.

    Where the tables differ about an anchor, all its scores are summed anew without an error of rounding. Then in both tables each
    has to be the float32 number next to its sum, and at least one sum has to lie between two of them.
    """
    mine, theirs = (pl.read_parquet(f, columns=ROW).sort(ROW) for f in (file, reference))
    if mine.equals(theirs):
        return {"rows": mine.height, "rounded": 0}
    only = [mine.join(theirs, on=ROW, how="anti"), theirs.join(mine, on=ROW, how="anti")]
    anchors = pl.concat(only)["anchor_id"].unique().sort()
    some = anchors.head(MOST_ROUNDED)
    rows = pl.concat([mine, theirs]).filter(pl.col("anchor_id").is_in(some.implode())).unique()
    sums = exact_sums(rows.select("anchor_id", "related_id").unique(), data)
    low, high = ((pl.col("sum") * (1 + sign * ERROR)).cast(pl.Float32) for sign in (-1, 1))
    rows = rows.join(sums, on=["anchor_id", "related_id"]).with_columns(low=low, high=high)
    right = pl.col("score").is_between("low", "high").all() & (pl.col("low") != pl.col("high")).any()
    wrong = rows.filter(~right.over("anchor_id")).sort(ROW)
    if wrong.height or len(some) < len(anchors) or mine.height - only[0].height != theirs.height - only[1].height:
        sys.exit(
            f"{file} differs from {reference}: {only[0].height} of {mine.height} rows only here, {only[1].height} of "
            f"{theirs.height} only there, and not by rounding; the first of both:\n{wrong.head(20)}"
        )
    return {"rows": mine.height, "rounded": max(table.height for table in only)}


def exact_sums(pairs: pl.DataFrame, data: Path) -> pl.DataFrame:
    """anchor_id, related_id, sum: the scores of some pairs, 0 where nobody shares one, rounded once at the end (math.fsum)."""
    import duckdb

    weighted = pairs_arms.WEIGHTED.format(seen=pairs_arms.SEEN.format(data=data))
    connection = duckdb.connect()
    connection.register("pair", pairs.to_arrow())
    found = connection.execute(
        f"WITH {weighted} SELECT anchor_id, related_id, list(a.weight) FROM pair JOIN weighted AS a ON a.note = anchor_id "
        "JOIN weighted AS b ON b.note = related_id AND a.person = b.person AND a.first <= b.last GROUP BY ALL"
    ).fetchall()
    schema = {"anchor_id": pl.String, "related_id": pl.String, "sum": pl.Float64}
    sums = pl.DataFrame([(*pair, math.fsum(weights)) for *pair, weights in found], schema=schema, orient="row")
    return pairs.join(sums, on=["anchor_id", "related_id"], how="left").with_columns(pl.col("sum").fill_null(0.0))


def report(lines: list[Line], head: dict[str, Any]) -> str:
    """The table as Markdown."""
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    bounds = ", ".join(f"{name} {bound or 'its default'}" for name, bound in head["memory"].items())
    text = [
        f"`{head['command']}`, {head['date']}; {head['machine']}, load {head['load_before']:.1f} before; {versions}; memory "
        f"bounds: {bounds}",
        "",
        "| events | notes | Zipf | co-occurring event pairs | arm | seconds | over noterec's | peak MiB | over noterec's | ns a "
        "co-occurring pair | rows rounded otherwise |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        start = f"| {line['events']:,} | {line['catalogue']:,} | {line['zipf']} | {line['cooccurrences']:,} | {line['arm']} |"
        if line["failed"]:
            text.append(f"{start} {line['failed']} | | | | | |")
            continue
        own = next(
            (o for o in lines if (o["arm"], o["events"]) == ("noterec", line["events"]) and not o["failed"]), None
        )
        time_ratio, memory_ratio = (f"{line[what] / own[what]:.2f}" if own else "" for what in ("seconds", "peak_mib"))
        each = f"{1e9 * line['seconds'] / line['cooccurrences']:.1f}" if line["arm"] == "noterec" else ""
        same = f"{line['rounded']} of {line['rows']:,}" if "rows" in line else line["answer"]
        text.append(
            f"{start} {line['seconds']:.2f} | {time_ratio} | {line['peak_mib']:,.0f} | {memory_ratio} | {each} | {same} |"
        )
    return "\n".join(text) + "\n"


def _machine(threads: int) -> str:
    """What was measured on."""
    info = Path("/proc/cpuinfo")
    models = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    name = models[0].partition(": ")[2] if models else platform.machine()
    return f"{name}, {threads} of {os.cpu_count()} cores"


def _count(text: str) -> int:
    """4e6 as well as 4000000."""
    return int(float(text))


def _limit(parser: argparse.ArgumentParser, text: str) -> tuple[str, int]:
    name, _, events = text.partition("=")
    if name not in pairs_arms.ARMS or not events:
        parser.error(f"--most {text}: expected ARM=EVENTS, with one of {', '.join(pairs_arms.ARMS)}")
    return name, _count(events)


if __name__ == "__main__":
    main()
