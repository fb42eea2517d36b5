"""Recall against queries per second of every kind of index, beside hnswlib and usearch, on vectors of the sample's notes.

    noterec demo --out demo
    python benchmarks/index.py --folder /tmp/index --model demo/model --counts 100000 1000000 --dimensions 64 128

Notes of the sample's topics are written into FOLDER/data and embedded with the model into FOLDER/embeddings, once (ten minutes
for a million). 1,000 of them are left out of every index and are the queries: notes that the index has never seen. One thread, one
query at a time, from the vector to rows and scores. `auto` is what `noterec index` would publish, its effort tuned on other notes.
Peers are built with as many links as their authors advise. Printed as tables, with the ratio to hnswlib at the same recall;
`--plot FILE.svg` draws them. Needs: pip install hnswlib usearch matplotlib.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from noterec.config import EmbedConfig, IndexConfig
from noterec.index import gate, kinds
from noterec.index.plan import plan
from noterec.index.searchers import Approximate, Exact
from noterec.index.vectors import load_embeddings

K, QUERIES, SEED = 100, 1000, 0
TARGET = 0.95

Point = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--model", type=Path, help="needed to make the embeddings")
    parser.add_argument("--counts", type=int, nargs="+", default=[100_000])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64])
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    faiss.omp_set_num_threads(1)
    table = given.folder / "embeddings"
    if not table.is_dir():
        make_embeddings(given.folder, max(given.counts), given.model)
    whole = load_embeddings(table).vectors
    results = []
    for count in given.counts:
        for dimension in given.dimensions:
            vectors = whole[:count, :dimension]
            vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            results.append({"count": count, "dimension": dimension, "lines": measured(vectors)})
            report(results[-1])
    (given.folder / "index-benchmark.json").write_text(json.dumps(results, indent=1))
    if given.plot:
        draw(results, given.plot)


def make_embeddings(folder: Path, count: int, model: Path) -> None:
    """Notes on the sample's topics from the sample's angles, embedded."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from noterec.embedding.engine import embed
    from noterec.notes.sample import text
    from noterec.notes.sample.topics import all_topics

    topics, random = list(all_topics()), np.random.default_rng(SEED)
    cells = random.permutation(np.arange(count) % (len(topics) * len(text.ANGLES)))
    (folder / "data" / "notes").mkdir(parents=True, exist_ok=True)
    for start in range(0, count, 50_000):
        rows = []
        for at in range(start, min(start + 50_000, count)):
            note = text.write(topics[cells[at] % len(topics)], int(cells[at] // len(topics)), topics, random)
            rows.append(
                {"note_id": f"n{at:08d}", "title": note.title, "content": note.content, "hashtags": note.hashtags}
            )
        pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "notes" / f"part-{start // 50_000:04d}.parquet")
    embed(folder / "data", model=model, out=folder / "embeddings", config=EmbedConfig())


def measured(vectors: np.ndarray) -> list[dict[str, Any]]:
    """A line per index: its name, seconds to build, bytes a note, and its points (effort, recall, queries a second)."""
    chosen = np.random.default_rng(SEED + 1).permutation(len(vectors))
    queries = np.ascontiguousarray(vectors[chosen[:QUERIES]])
    base = np.ascontiguousarray(vectors[np.sort(chosen[QUERIES:])])
    scores, _ = faiss.knn(queries, base, K, faiss.METRIC_INNER_PRODUCT)
    bounds = scores[:, -1]  # (Q,) the score of the K-th exact neighbour

    def point(effort: Any, search: Callable[[np.ndarray], np.ndarray]) -> Point:
        rows = []
        seconds = math.inf
        for _ in range(2):
            start = time.perf_counter()
            rows = [search(queries[at : at + 1]) for at in range(QUERIES)]
            seconds = min(seconds, time.perf_counter() - start)
        right = [
            min(K, int((base[found[found >= 0]] @ query >= bound - 1e-6).sum())) / K
            for found, query, bound in zip(rows, queries, bounds, strict=True)
        ]
        return {"effort": effort, "recall": float(np.mean(right)), "qps": QUERIES / seconds}

    config = IndexConfig(recall_target=TARGET, recall_at=K)
    lines = []
    auto = plan(base, config)
    for kind in ("flat", "ivf", "ivf-sq8", "ivf-pq", "hnsw"):
        start = time.perf_counter()
        if kind == "flat":
            exact = Exact(base)
            seconds = time.perf_counter() - start
            points = [point("exact", rows_of(exact))]
            memory = 4 * base.shape[1]
            tuned = kinds.Effort(0)
        else:
            index = kinds.make(kind, base, seed=SEED, advance=lambda added: None)  # type: ignore[arg-type]
            seconds = time.perf_counter() - start
            memory = faiss.serialize_index(index).nbytes / len(base)
            tuned = gate.tune(index, kind, base, gate.truth(base, config).half(0), TARGET).effort
            points = []
            for refine in {"ivf-pq": (4, 16), "ivf-sq8": (1, 2)}.get(kind, (1,)):
                for knob in [100, 150, 200, 300, 500] if kind == "hnsw" else [2, 4, 8, 16, 32, 64, 128]:
                    searcher = Approximate(index, base, kinds.Effort(knob, refine), K)
                    points.append(point([knob, refine], rows_of(searcher)))
                    if points[-1]["recall"] > 0.997:
                        break
        line = {"name": kind, "build_seconds": seconds, "bytes_per_note": memory, "points": points}
        if kind == auto.kind:
            if kind != "flat":
                searcher = Approximate(index, base, tuned, K)
                line["auto"] = point([tuned.knob, tuned.refine], rows_of(searcher))
            else:
                line["auto"] = points[0]
            line["predicted"] = [auto.bytes_per_note, auto.build_seconds, auto.query_ms]
        lines.append(line)
        print(f"  {kind}: built in {seconds:.1f} s", flush=True)
    lines += [hnswlib_line(base, point), usearch_line(base, point)]
    return lines


def rows_of(searcher: Approximate | Exact) -> Callable[[np.ndarray], np.ndarray]:
    return lambda query: searcher.top(query, K, None)[1][0]


def hnswlib_line(base: np.ndarray, point: Callable[..., Point]) -> dict[str, Any]:
    import hnswlib

    start = time.perf_counter()
    index = hnswlib.Index(space="ip", dim=base.shape[1])
    index.init_index(max_elements=len(base), M=16, ef_construction=100, random_seed=SEED)
    index.set_num_threads(1)
    index.add_items(base)
    line = {"name": "hnswlib", "build_seconds": time.perf_counter() - start, "points": []}
    print(f"  hnswlib: built in {line['build_seconds']:.1f} s", flush=True)
    for width in (100, 150, 200, 300, 500, 800):
        index.set_ef(width)
        line["points"].append(point(width, lambda query: index.knn_query(query, k=K)[0][0].astype(np.int64)))
        if line["points"][-1]["recall"] > 0.997:
            break
    line["bytes_per_note"] = 4 * base.shape[1] + 4 * 2 * 16 + 16
    return line


def usearch_line(base: np.ndarray, point: Callable[..., Point]) -> dict[str, Any]:
    from usearch.index import Index

    start = time.perf_counter()
    index = Index(ndim=base.shape[1], metric="ip", dtype="f32", connectivity=16, expansion_add=100)
    index.add(np.arange(len(base)), base, threads=1)
    line = {
        "name": "usearch",
        "build_seconds": time.perf_counter() - start,
        "bytes_per_note": index.memory_usage / len(base),
        "points": [],
    }
    print(f"  usearch: built in {line['build_seconds']:.1f} s", flush=True)
    for width in (100, 150, 200, 300, 500, 800):
        index.expansion_search = width
        line["points"].append(point(width, lambda query: index.search(query[0], K, threads=1).keys.astype(np.int64)))
        if line["points"][-1]["recall"] > 0.997:
            break
    return line


def at_recall(points: list[Point], recall: float) -> float:
    """Queries a second at a recall, between the two points around it on a log scale; NaN where it isn't reached."""
    best = math.nan
    ordered = sorted(points, key=lambda p: p["recall"])
    for low, high in itertools.pairwise(ordered):
        if low["recall"] <= recall <= high["recall"] and high["recall"] > low["recall"]:
            share = (recall - low["recall"]) / (high["recall"] - low["recall"])
            value = math.exp((1 - share) * math.log(low["qps"]) + share * math.log(high["qps"]))
            best = value if math.isnan(best) else max(best, value)
    above = [p["qps"] for p in ordered if p["recall"] >= recall]
    return max([value for value in [best, *above] if not math.isnan(value)], default=math.nan)


def report(result: dict[str, Any]) -> None:
    print(f"\n{result['count']:,} notes, D = {result['dimension']}; recall@{K} and queries a second, one thread")
    peer = next(line for line in result["lines"] if line["name"] == "hnswlib")
    print("| index | build s | bytes a note | at .95 | at .99 | against hnswlib at .95 | points: recall (queries/s) |")
    print("|---|---|---|---|---|---|---|")
    for line in result["lines"]:
        at, high = at_recall(line["points"], 0.95), at_recall(line["points"], 0.99)
        points = ", ".join(f"{p['recall']:.3f} ({p['qps']:,.0f})" for p in line["points"])
        print(
            f"| {line['name']} | {line['build_seconds']:.1f} | {line['bytes_per_note']:.0f} | {at:,.0f} | {high:,.0f} | "
            f"{at / at_recall(peer['points'], 0.95):.2f} | {points} |"
        )
        if "auto" in line:
            auto, (memory, seconds, query_ms) = line["auto"], line["predicted"]
            print(
                f"| **auto = {line['name']}** | {seconds} predicted | {memory:.0f} predicted | | | | **{auto['recall']:.3f} "
                f"({auto['qps']:,.0f})**: {1000 / auto['qps']:.3f} ms, {query_ms} predicted |"
            )


def frontier(points: list[Point]) -> list[Point]:
    """The points that no other one beats in both recall and speed, by recall."""
    return [
        point
        for point in sorted(points, key=lambda p: p["recall"])
        if not any(other["recall"] >= point["recall"] and other["qps"] > point["qps"] for other in points)
    ]


def draw(results: list[dict[str, Any]], file: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    colours = {"flat": "#777777", "ivf": "#0072b2", "ivf-sq8": "#56b4e9", "ivf-pq": "#009e73", "hnsw": "#e69f00"}
    colours |= {"hnswlib": "#d55e00", "usearch": "#cc79a7"}
    rows = -(-len(results) // 2)
    figure, axes = plt.subplots(
        rows, min(2, len(results)), figsize=(11, 4.2 * rows), squeeze=False, layout="constrained"
    )
    for axis, result in zip(axes.flat, results, strict=False):
        for line in result["lines"]:
            points = [p for p in frontier(line["points"]) if p["recall"] > 0.8]
            style = "--" if line["name"] in ("hnswlib", "usearch") else "-"
            axis.plot(
                [p["recall"] for p in points], [p["qps"] for p in points], style, marker="o", markersize=3,
                color=colours[line["name"]], label=line["name"],
            )  # fmt: skip
            if "auto" in line:
                axis.plot(
                    line["auto"]["recall"],
                    line["auto"]["qps"],
                    "*",
                    markersize=15,
                    color="black",
                    label="auto",
                    zorder=5,
                )
        axis.set_yscale("log")
        axis.set_title(f"{result['count']:,} notes, D = {result['dimension']}")
        axis.set_xlabel(f"recall@{K}")
        axis.set_ylabel("queries per second")
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)


if __name__ == "__main__":
    main()
