"""Resident memory while a million notes are embedded: it must not grow with their number.

    python benchmarks/memory.py --notes 1000000 --folder /tmp/memory

The notes are generated into FOLDER/data, `noterec embed` runs as a process of its own with a `tiny` encoder of random weights, and
its resident memory is read from /proc every second. A second run finds everything done: the cost of a diff. Printed as a table over
the share of notes that are done, and as a ratio of the last quarter's median to the second quarter's, the first holding what is
loaded and allocated once. What may grow is 32 bytes a note of bookkeeping, 30 MiB for the million.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WORDS = 5000
PAGE = os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--shard-rows", type=int, default=10_000)
    given = parser.parse_args()
    data, model = given.folder / "data", given.folder / "model"
    if not data.is_dir():
        write_notes(data, given.notes)
    if not model.is_dir():
        write_model(model, data)
    for name in ("first run", "second run, nothing due"):
        seconds, samples, summary = watched(data, model, given.folder / "embeddings", given.shard_rows)
        print(f"\n{name}: {summary['encoded']:,} encoded, {summary['unchanged']:,} unchanged, {seconds:.0f} s, "
              f"{summary['notes'] / seconds:,.0f} notes/s")  # fmt: skip
        print("| share of the time | resident MiB |\n|---|---|")
        for tenth in range(1, 11):
            print(f"| {10 * tenth} % | {samples[max(0, len(samples) * tenth // 10 - 1)]:.0f} |")
        quarter = max(1, len(samples) // 4)
        early, late = statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])
        print(
            f"last quarter / second quarter: {late / early:.3f} ({late - early:+.0f} MiB); peak {max(samples):.0f} MiB"
        )


def write_notes(folder: Path, count: int) -> None:
    """Notes of 3 to 24 words in files of 100,000."""
    random = np.random.default_rng(0)
    words = np.array([f"{'bcdfghklmnprstvz'[n % 16]}{'aeiou'[n % 5]}{n:x}" for n in range(WORDS)])
    (folder / "notes").mkdir(parents=True)
    for start in range(0, count, 100_000):
        size = min(100_000, count - start)
        lengths = random.integers(3, 25, size)
        drawn = words[random.zipf(1.3, int(lengths.sum())) % WORDS]
        ends = np.cumsum(lengths)
        texts = [" ".join(drawn[end - length : end]) for end, length in zip(ends, lengths, strict=True)]
        ids = [f"note-{number:09d}" for number in range(start, start + size)]
        pq.write_table(
            pa.table({"note_id": ids, "content": texts}),
            folder / "notes" / f"{start:09d}.parquet",
            row_group_size=10_000,
        )


def write_model(folder: Path, data: Path) -> None:
    """A tiny encoder: its tokenizer learned from some of the notes, random weights, D = 128."""
    from noterec import Dataset, NoteEncoder, PromptConfig
    from noterec.model import tiny
    from noterec.model.backbone import Backbone
    from noterec.model.head import Head

    some = next(Dataset(data).note_batches(["content"], batch_rows=20_000))
    tokenizer = tiny.tiny_tokenizer(some["content"].to_pylist(), 4000)
    backbone = Backbone(tiny.tiny_model(tokenizer, 0), tokenizer, "causal")
    NoteEncoder(backbone, Head(backbone.hidden_size, 128), PromptConfig(style="short")).save_pretrained(folder)


def watched(data: Path, model: Path, out: Path, shard_rows: int) -> tuple[float, list[float], dict[str, int]]:
    """Run the job; its seconds, resident MiB at every second, and its summary."""
    command = [sys.executable, "-m", "noterec", "embed", data, "--model", model, "--out", out, "--json"]
    command += ["--set", f"shard_rows={shard_rows}", "--set", "dtype=float16"]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    samples = []
    while process.poll() is None:
        try:
            samples.append(int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * PAGE / 2**20)
        except (FileNotFoundError, ProcessLookupError):
            break
        time.sleep(1)
    seconds = time.perf_counter() - started
    printed = process.communicate()[0]
    if process.returncode:
        sys.exit(f"noterec embed failed with exit code {process.returncode}")
    return seconds, samples, json.loads(printed)


if __name__ == "__main__":
    main()
