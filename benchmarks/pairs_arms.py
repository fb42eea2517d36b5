"""One arm of `benchmarks/pairs.py`: a log's related pairs, written as Parquet; prints seconds and peak memory as JSON.

Temporary files go to $TMPDIR.

python benchmarks/pairs_arms.py duckdb DATASET pairs.parquet --threads 2
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LOWER, UPPER, TOP = 0.01, 30.0, 10  # arXiv:2403.01744 §4.3, as `noterec pairs` has them unless told otherwise
BLOCK = 2000  # anchors whose sparse product is held at a time


@dataclass(frozen=True)
class Task:
    """What an arm is given: a dataset, the file to write, and bounds."""

    data: Path
    out: Path
    threads: int
    memory: str | None  # of noterec and of DuckDB; None = their own default


def noterec(task: Task) -> None:
    """`noterec pairs`."""
    from noterec.config import PairsConfig
    from noterec.engagement.pairs import pairs

    memory = {"memory": task.memory} if task.memory else {}
    pairs(task.data, out=task.out, config=PairsConfig(weighting="notellm", min_support=1, top=TOP, **memory))


SEEN = """
    SELECT user_id AS person, note_id AS note, min(timestamp) AS first, max(timestamp) AS last
    FROM read_parquet('{data}/engagement/*.parquet') GROUP BY ALL
"""
SEEN_NUMBERED = """
    SELECT person.number AS person, note.number AS note, min(timestamp) AS first, max(timestamp) AS last
    FROM read_parquet('{data}/engagement/*.parquet') JOIN person USING (user_id) JOIN note USING (note_id) GROUP BY ALL
"""
WEIGHTED = """
    seen AS ({seen}), weighted AS (SELECT *, 1 / (count(*) OVER (PARTITION BY person))::DOUBLE AS weight FROM seen)
"""
STRONGEST = """
    WITH {weighted}, scored AS (
        SELECT a.note AS anchor, b.note AS related, sum(a.weight)::FLOAT AS score
        FROM weighted AS a JOIN weighted AS b ON a.person = b.person AND a.first <= b.last AND a.note <> b.note
        GROUP BY ALL
    )
    SELECT anchor, related, score, (row_number() OVER (PARTITION BY anchor ORDER BY score DESC, related))::INTEGER AS rank
    FROM scored WHERE score BETWEEN {lower}::FLOAT AND {upper}::FLOAT
    QUALIFY rank <= {top}
"""
NUMBERS = """
    CREATE TEMP TABLE {table} AS SELECT {column}, (row_number() OVER (ORDER BY {column}))::INTEGER AS number
    FROM (SELECT DISTINCT {column} FROM read_parquet('{data}/engagement/*.parquet'))
"""
NAMED = """
    SELECT a.note_id AS anchor_id, b.note_id AS related_id, score, rank
    FROM ({strongest}) JOIN note AS a ON anchor = a.number JOIN note AS b ON related = b.number
"""


def duckdb(task: Task) -> None:
    """A query that joins the log with itself."""
    strongest = _strongest(SEEN.format(data=task.data))
    _sql(task, [], f"SELECT anchor AS anchor_id, related AS related_id, score, rank FROM ({strongest})")


def duckdb_numbered(task: Task) -> None:
    """The same on numbers in the order of the ids."""
    columns = {"person": "user_id", "note": "note_id"}
    numbers = [NUMBERS.format(table=table, column=column, data=task.data) for table, column in columns.items()]
    _sql(task, numbers, NAMED.format(strongest=_strongest(SEEN_NUMBERED.format(data=task.data))))


def _strongest(seen: str) -> str:
    return STRONGEST.format(weighted=WEIGHTED.format(seen=seen), lower=LOWER, upper=UPPER, top=TOP)


def _sql(task: Task, before: list[str], query: str) -> None:
    import duckdb

    connection = duckdb.connect()
    connection.execute(f"SET threads = {task.threads}; SET temp_directory = '{tempfile.gettempdir()}'")
    connection.execute("SET preserve_insertion_order = false")  # the order of rows means nothing here
    if task.memory:
        connection.execute(f"SET memory_limit = '{task.memory}'")
    for statement in before:
        connection.execute(statement)
    connection.execute(f"COPY ({query}) TO '{task.out}' (FORMAT parquet)")


def polars(task: Task) -> None:
    """A lazy query that joins the log with itself."""
    import polars as pl

    seen = (
        pl.scan_parquet(task.data / "engagement" / "*.parquet")
        .group_by("user_id", anchor_id="note_id")
        .agg(first=pl.col("timestamp").min(), last=pl.col("timestamp").max())
        .with_columns(weight=1 / pl.len().over("user_id"))
    )
    after = seen.select("user_id", "last", related_id="anchor_id")
    (
        seen.join(after, on="user_id", suffix="_related")
        .filter(pl.col("first") <= pl.col("last_related"), pl.col("anchor_id") != pl.col("related_id"))
        .group_by("anchor_id", "related_id")
        .agg(score=pl.col("weight").sum().cast(pl.Float32))
        .filter(pl.col("score").is_between(pl.lit(LOWER, pl.Float32), pl.lit(UPPER, pl.Float32)))
        .sort("anchor_id", "score", "related_id", descending=[False, True, False])
        .with_columns(rank=pl.int_range(1, pl.len() + 1, dtype=pl.Int32).over("anchor_id"))
        .filter(pl.col("rank") <= TOP)
        .sink_parquet(task.out, engine="streaming")
    )


def sparse(task: Task) -> None:
    """A sparse product: (notes x people) by (people x notes), weighted by 1 / N_u, without direction."""
    import numpy as np
    import polars as pl
    import scipy.sparse as sp

    log = pl.scan_parquet(task.data / "engagement" / "*.parquet").select("user_id", "note_id").unique()
    rows = log.with_columns(pl.col("user_id", "note_id").rank("dense") - 1).collect(engine="streaming")
    names = log.select(pl.col("note_id").unique().sort()).collect(engine="streaming")["note_id"]
    person, note = (rows[column].to_numpy().astype(np.int32) for column in ("user_id", "note_id"))
    weight = 1 / np.bincount(person)[person]
    after = sp.csr_array((weight, (person, note)), dtype=np.float64)  # (people, notes)
    before = sp.csr_array((np.ones(len(note)), (note, person)), dtype=np.float64)  # (notes, people)
    parts = []
    for start in range(0, len(names), BLOCK):
        product = (before[start : start + BLOCK] @ after).tocsr()  # (anchors, notes)
        for anchor in range(product.shape[0]):
            own = slice(product.indptr[anchor], product.indptr[anchor + 1])
            related, score = product.indices[own], product.data[own].astype(np.float32)
            kept = (score >= np.float32(LOWER)) & (score <= np.float32(UPPER)) & (related != start + anchor)
            related, score = related[kept], score[kept]
            if len(score) > TOP:
                kept = score >= np.partition(score, -TOP)[-TOP]  # ties of the last one too
                related, score = related[kept], score[kept]
            order = np.lexsort((related, -score))[:TOP]
            parts.append(
                (np.full(len(order), start + anchor), related[order], score[order], np.arange(1, len(order) + 1))
            )
    anchors, others, scores, ranks = (np.concatenate(column) for column in zip(*parts, strict=True))
    table = {"anchor_id": names.gather(anchors), "related_id": names.gather(others), "score": scores}
    pl.DataFrame(table | {"rank": ranks.astype(np.int32)}).write_parquet(task.out)


ARMS: dict[str, tuple[Callable[[Task], None], tuple[str, ...]]] = {  # what runs, and what is imported before the clock
    "noterec": (noterec, ("noterec.engagement.pairs",)),
    "duckdb": (duckdb, ("duckdb",)),
    "duckdb-numbered": (duckdb_numbered, ("duckdb",)),
    "polars": (polars, ("polars",)),
    "sparse": (sparse, ("polars", "scipy.sparse")),
}


def peak_mib() -> float:
    """Largest resident memory of this process, in MiB.

    Linux carries the parent's peak over into getrusage's, so the program's own is read from /proc where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("arm", choices=list(ARMS))
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--memory")
    given = parser.parse_args()
    for variable in ("OMP_NUM_THREADS", "POLARS_MAX_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = str(given.threads)
    if hasattr(os, "sched_setaffinity"):  # whatever a library makes of its settings, it gets no more cores
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: given.threads])
    run, modules = ARMS[given.arm]
    for module in modules:
        importlib.import_module(module)
    given.out.unlink(missing_ok=True)
    task = Task(given.data, given.out, given.threads, given.memory)
    started = time.perf_counter()
    run(task)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()
