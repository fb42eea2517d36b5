"""What is lost when embeddings are made smaller: recall of new notes against length and number format.

    python benchmarks/compact.py SPLIT EMBEDDINGS [EMBEDDINGS ...] --lengths 32 64 128 256

Several embeddings are of several split seeds, one SPLIT each, in the same order. A prefix of a vector is normalised anew. int8 has
one scale per row, binary is the sign of each dimension (centred on the mean of all notes), compared by Hamming distance. The
ratio to float32 at full length is paired by query.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import polars as pl

from noterec.index.vectors import load_embeddings
from noterec.ranking.bootstrap import interval, paired
from noterec.ranking.metrics import Relevance, recall_at
from noterec.ranking.topk import top_k


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", type=Path, nargs="+", help="SPLIT EMBEDDINGS, and more such pairs for more seeds")
    parser.add_argument("--lengths", type=int, nargs="+", default=[32, 64, 128, 256])
    parser.add_argument("--at", type=int, default=10)
    options = parser.parse_args()
    runs = list(zip(options.paths[::2], options.paths[1::2], strict=True))
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    for split, embeddings in runs:
        for key, values in recalls(split, embeddings, options.lengths, options.at).items():
            found.setdefault(key, []).append(values)
    full = max(found, key=lambda key: (key[0], key[1] == "float32"))
    base = np.concatenate(found[full])
    print(f"| D | format | bytes | recall@{options.at} | of {full[0]} float32 | verdict |\n|---|---|---|---|---|---|")
    for (length, kind), parts in found.items():
        values = np.concatenate(parts)
        mean = interval(values)
        size = {"float32": 4.0, "float16": 2.0, "int8": 1.0, "binary": 1 / 8}[kind] * length + (
            4 if kind == "int8" else 0
        )
        verdict = "" if (length, kind) == full else paired(values, base).verdict
        print(
            f"| {length} | {kind} | {size:.0f} | {mean.mean:.3f} [{mean.low:.3f}, {mean.high:.3f}] | "
            f"{values.mean() / base.mean():.3f} | {verdict} |"
        )


def recalls(split: Path, embeddings: Path, lengths: list[int], at: int) -> dict[tuple[int, str], np.ndarray]:
    """(length, format) -> (Q,) recall of every new note."""
    loaded = load_embeddings(embeddings)
    vectors = loaded.vectors
    place = {name: row for row, name in enumerate(loaded.ids)}
    pairs = pl.read_parquet(split / "test-pairs.parquet").sort("anchor_id", maintain_order=True)
    queries = pairs["anchor_id"].unique(maintain_order=True).to_list()
    counts = pairs.group_by("anchor_id", maintain_order=True).len()["len"].to_numpy()
    relevance = Relevance(
        np.concatenate([[0], np.cumsum(counts)]),
        np.array([place[name] for name in pairs["related_id"]], dtype=np.int64),
    )
    rows = np.array([place[name] for name in queries], dtype=np.int64)
    found = {}
    for length in lengths:
        if length > vectors.shape[1]:
            continue
        prefix = vectors[:, :length].astype(np.float32)
        prefix /= np.maximum(np.linalg.norm(prefix, axis=1, keepdims=True), 1e-12)
        for kind in ("float32", "float16", "int8", "binary"):
            stored = as_stored(prefix, kind)
            _, ranked = top_k(stored[rows], stored, at, exclude=rows)
            found[length, kind] = recall_at(ranked, relevance, at)
    return found


def as_stored(vectors: np.ndarray, kind: str) -> np.ndarray:
    """Vectors as they read back from a format, (N, D) float32."""
    if kind == "float16":
        return vectors.astype(np.float16).astype(np.float32)
    if kind == "int8":
        scale = np.abs(vectors).max(axis=1, keepdims=True) / 127
        return (np.round(vectors / np.maximum(scale, 1e-12)) * scale).astype(np.float32)
    if kind == "binary":
        return np.where(vectors > vectors.mean(axis=0), 1.0, -1.0).astype(np.float32) / np.sqrt(vectors.shape[1])
    return vectors


if __name__ == "__main__":
    main()
