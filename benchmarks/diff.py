"""How long it takes to find the few notes that are due among many that are not, and how much memory.

    python benchmarks/diff.py [--notes 1000000] [--due 1000] [--keep FOLDER]

Notes of about 26 words and two hashtags are written to a folder, and an output that holds all but `--due` of them. Then `diff` is
timed: what `noterec embed` does before it encodes, that is, read the output's ids and hashes, read the notes, settle duplicate ids,
hash contents, compare, look for deleted notes. Its peers, each in a process of its own with one thread, are

- read: pyarrow reads the same columns of the notes, batch by batch, and nothing is done with them;
- join: polars reads notes and known hashes into memory, hashes the notes' text and anti-joins by id and hash.

Memory is how much the peak grew after the imports.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

COLUMNS = ["note_id", "title", "content", "hashtags"]
FILE_NOTES, SHARD_ROWS, DIMENSION, WORDS = 250_000, 10_000, 16, 5000
ORIGIN = {
    "kind": "embeddings",
    "model_version": "benchmark",
    "dimension": DIMENSION,
    "dtype": "float16",
    "precision": "fp32",
}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=1_000_000)
    parser.add_argument("--due", type=int, default=1000)
    parser.add_argument("--keep", type=Path, help="write the notes here, or take those that are here already")
    options = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.keep or Path(scratch)
        if not (folder / "ready").exists():
            _in_process(write, folder, options.notes, options.due)
        found = {task.__name__: _in_process(_measured, task, folder) for task in (diff, read, join)}
    print("| | seconds | notes/s | against read | memory, MiB | due |\n|---|---|---|---|---|---|")
    for name, (seconds, memory, due) in found.items():
        rate, ratio = options.notes / seconds, seconds / found["read"][0]
        print(f"| {name} | {seconds:.2f} | {rate:,.0f} | {ratio:.1f} x | {memory:.0f} | {'' if due is None else due} |")
    time_ratio, memory_ratio = (found["diff"][part] / found["join"][part] for part in (0, 1))
    print(f"diff takes {time_ratio:.1f} x the time of join and {memory_ratio:.2f} x its memory")


def diff(folder: Path) -> int:
    """The notes that are due, as `embed` finds them."""
    from noterec import progress, storage
    from noterec.embedding.incremental import Increment
    from noterec.embedding.intake import Intake
    from noterec.notes.dataset import Dataset

    out = storage.ShardFolder(folder / "out", origin=ORIGIN)
    source = Dataset(folder)
    increment = Increment("embed", "encode", source, out, intake=Intake(), max_rejected=0, read_only=True)
    due = sum(table.num_rows for table in increment.shards(SHARD_ROWS, progress.Bar()))
    increment.finish()
    assert increment.notes == source.note_count and not increment.deleted
    return due


def read(folder: Path) -> None:
    """Read the columns and do nothing with them."""
    import pyarrow.parquet as pq

    for file in sorted((folder / "notes").glob("*.parquet")):
        for _ in pq.ParquetFile(file).iter_batches(8192, columns=COLUMNS):
            pass


def join(folder: Path) -> int:
    """The notes that are due, by an anti-join in memory."""
    import polars as pl

    known = pl.read_parquet(folder / "known.parquet")
    notes = pl.read_parquet(folder / "notes" / "*.parquet", columns=COLUMNS)
    return notes.with_columns(hash=_polars_hash()).join(known, on=["note_id", "hash"], how="anti").height


def write(folder: Path, notes: int, due: int) -> None:
    """Write the notes, and outputs that know all but some of them."""
    import numpy as np
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq

    from noterec import schema, storage
    from noterec.notes.note import content_hashes

    rng = np.random.default_rng(0)
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    words = np.array(["".join(rng.choice(letters, length)) for length in rng.integers(2, 10, WORDS)])
    unknown = set(rng.choice(notes, due, replace=False).tolist())
    out = storage.ShardFolder(folder / "out", origin=ORIGIN)
    (folder / "notes").mkdir(parents=True, exist_ok=True)
    known = []
    for start in range(0, notes, FILE_NOTES):
        rows = min(FILE_NOTES, notes - start)
        titles, contents, tags = (words[rng.integers(0, WORDS, (rows, count))] for count in (6, 20, 2))
        table = pa.table(
            {
                "note_id": [f"note-{start + row:09d}" for row in range(rows)],
                "title": [" ".join(text) for text in titles],
                "content": [" ".join(text) for text in contents],
                "hashtags": pa.array(tags.tolist(), pa.list_(pa.string())),
            }
        )
        pq.write_table(table, folder / "notes" / f"{start:09d}.parquet", compression="zstd", row_group_size=50_000)
        kept = table.filter(pa.array([start + row not in unknown for row in range(rows)]))
        known.append(pl.DataFrame(kept).select("note_id", hash=_polars_hash()))
        for first in range(0, kept.num_rows, SHARD_ROWS):
            part = kept.slice(first, SHARD_ROWS)
            vectors = pa.array(rng.normal(size=part.num_rows * DIMENSION).astype(np.float16))
            columns = [
                part["note_id"],
                pa.FixedSizeListArray.from_arrays(vectors, DIMENSION),
                pa.array(content_hashes(part)),
                pa.array(["benchmark"] * part.num_rows),
            ]
            out.append(pa.table(columns, schema=schema.embeddings_schema(DIMENSION, pa.float16())))
    pl.concat(known).write_parquet(folder / "known.parquet")
    (folder / "ready").touch()


def _polars_hash():  # type: ignore[no-untyped-def]
    import polars as pl

    return pl.struct("title", "content", pl.col("hashtags").list.join(" ")).hash().cast(pl.String)


def _measured(task: Callable[[Path], int | None], folder: Path) -> tuple[float, float, int | None]:
    """Seconds, growth of the peak in MiB, and what the task found."""
    import polars  # noqa: F401
    import pyarrow
    import pyarrow.parquet

    import noterec.embedding.incremental  # noqa: F401
    from noterec.progress import peak_memory_mb

    pyarrow.set_cpu_count(1)
    before, started = peak_memory_mb(), time.perf_counter()
    due = task(folder)
    return time.perf_counter() - started, peak_memory_mb() - before, due


def _in_process(task, *given):  # type: ignore[no-untyped-def]
    """What a function returns in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, given)


if __name__ == "__main__":
    main()
