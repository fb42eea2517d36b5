"""What generated categories and hashtags must beat: the vote of a new note's nearest training notes.

    python benchmarks/generation.py DATASET SPLIT hashtags --out runs/votes [--generated mine=TABLE ...]

DATASET is a folder that `noterec import` wrote, SPLIT one that `noterec split` wrote from it. A small sentence encoder embeds the
notes without their hashtags, and each of the k nearest training notes votes with its cosine for what it has; k, and how many
hashtags win, are chosen on the valid notes. Beside it stands what is most common in training, the same for every note. Both are
written under --out as tables like those of `noterec generate`, and the test notes are judged as `noterec evaluate` does.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

import noterec
from noterec import schema, storage
from noterec.embedding.engine import embed
from noterec.evaluation.answers import names_of
from noterec.evaluation.generation import measure_generated, overlap
from noterec.index.vectors import load_embeddings
from noterec.notes.note import content_hashes
from noterec.ranking.topk import top_k

NEIGHBOURS = (1, 3, 5, 10, 20, 50)
COUNTS = tuple(range(1, 11))
SHOWN = {
    "category": ("accuracy", "macro_f1", "illusory", "ece"),
    "hashtags": ("f1", "precision", "recall", "bleu4", "rouge1", "rouge2", "rougeL"),
}

Ranked = list[tuple[str, float]]  # names and their shares of the votes, best first


@dataclass(frozen=True)
class Side:
    """Some notes: their rows in the catalogue and what is true of each, in names that can be compared."""

    rows: np.ndarray
    names: list[list[str]]


def main() -> None:
    """Vote, write both baselines, judge them beside the tables of the command line, print and keep the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("split", type=Path)
    parser.add_argument("task", choices=["category", "hashtags"])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--generated", action="append", default=[], metavar="NAME=TABLE")
    parser.add_argument("--backbone", default="minilm", help="minilm, or a sentence encoder's folder")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    options = parser.parse_args()
    given = {name: Path(path) for name, _, path in (entry.partition("=") for entry in options.generated)}
    if "vote" in given or "majority" in given:
        parser.error("--generated: vote and majority are the baselines' own names")

    notes = pl.DataFrame(noterec.Dataset(options.dataset).notes(["title", "content", "hashtags", "category"]))
    notes = notes.sort("note_id")
    vectors = embedded(options, notes)
    sides = split_sides(notes, options.split, options.task)
    spelling = spellings(notes[sides["train"].rows], options.task)

    # Only training notes vote, so a valid or test note never votes for itself.
    valid = {k: votes(vectors, sides["train"], sides["valid"], k) for k in NEIGHBOURS}
    counts = COUNTS if options.task == "hashtags" else (1,)
    reached = {(k, n): score(valid[k], sides["valid"], n, options.task) for k in NEIGHBOURS for n in counts}
    best = {n: max(NEIGHBOURS, key=lambda k, n=n: (reached[k, n], -k)) for n in counts}
    count = max(counts, key=lambda n: (reached[best[n], n], -n))
    whole = Counter(name for names in sides["train"].names for name in names)
    common = sorted(whole.items(), key=lambda entry: (-entry[1], entry[0]))
    common_count = max(
        counts, key=lambda n: score([common] * len(sides["valid"].rows), sides["valid"], n, options.task)
    )

    tables: dict[str, Path] = {}
    test = {k: votes(vectors, sides["train"], sides["test"], k) for k in set(best.values())}
    total = len(sides["train"].rows)
    constant = [(name, times / total) for name, times in common]
    for name, ranked, n in (
        ("vote", test[best[count]], count),
        ("majority", [constant] * len(sides["test"].rows), common_count),
        *((f"vote-{n}", test[best[n]], n) for n in counts if options.task == "hashtags"),
    ):
        about = f"{name} {options.backbone} k={best.get(n)} n={n}" if name != "majority" else f"majority n={n}"
        tables[name] = options.out / name
        write(tables[name] / "answers.parquet", notes[sides["test"].rows], ranked, n, spelling, options.task, about)
    judged = {"vote": tables["vote"], "majority": tables["majority"], **given}
    report("chosen", judged, options)
    print(
        f"\nchosen on {len(sides['valid'].rows):,} valid notes: k = {best[count]}, n = {count}; majority: n = {common_count}"
    )
    if options.task == "hashtags":
        print("\nthe vote by how many hashtags it gives:\n")
        report("by-count", {name: path for name, path in tables.items() if "-" in name}, options, paired=False)
        print("\nk chosen on valid: " + ", ".join(f"n={n}: {best[n]}" for n in counts))


def embedded(options: argparse.Namespace, notes: pl.DataFrame) -> np.ndarray:
    """Unit vectors of all notes in their order, read from title and content alone: (N, D) float32, zeros without a text."""
    prompt = noterec.PromptConfig(hashtags_tokens=0)
    encoder = noterec.NoteEncoder.from_backbone(options.backbone, prompt=prompt)
    out = options.out / "embeddings"
    embed(options.dataset, model=encoder, out=out, config=noterec.EmbedConfig(precision=options.precision))
    table = load_embeddings(out)
    place = pl.DataFrame({"note_id": table.ids}).with_row_index("row")
    found = notes.select("note_id").join(place, on="note_id", how="left", maintain_order="left")["row"]
    vectors = np.zeros((notes.height, table.dimension), dtype=np.float32)
    has = found.is_not_null().to_numpy()
    vectors[has] = table.vectors[found.drop_nulls().to_numpy()]
    return vectors


def split_sides(notes: pl.DataFrame, split: Path, task: str) -> dict[str, Side]:
    """The train, valid and test notes that have a category, or hashtags."""
    parts = pl.read_parquet(split / "new-notes.parquet")
    part = (
        notes.select("note_id").join(parts, on="note_id", how="left", maintain_order="left")["part"].fill_null("train")
    )
    known = set(noterec.Dataset(split / "train").note_ids)
    strange = notes.filter((part == "train") & ~pl.col("note_id").is_in(list(known))).height
    if strange:
        raise SystemExit(f"{split}: {strange} notes are neither new nor in train; give the split of this dataset")
    values = notes[task].to_list()
    names = [names_of(task, [value] if task == "category" else value) for value in values]
    sides = {}
    for side in ("train", "valid", "test"):
        rows = np.flatnonzero((part == side).to_numpy() & np.array([bool(found) for found in names]))
        sides[side] = Side(rows, [names[row] for row in rows])
    return sides


def spellings(notes: pl.DataFrame, task: str) -> dict[str, str]:
    """How each name is most often written in training, ties by spelling."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for value in notes[task].to_list():
        for text in [value] if task == "category" else value:
            for name in names_of(task, [text]):
                counts[name][text] += 1
    return {name: min(found, key=lambda text: (-found[text], text)) for name, found in counts.items()}


def votes(vectors: np.ndarray, train: Side, asked: Side, k: int) -> list[Ranked]:
    """What the k nearest training notes of each note say: every name with its share of the votes, best first, ties by name."""
    scores, rows = top_k(vectors[asked.rows], vectors[train.rows], k)  # (Q, k)
    weights = np.maximum(scores, 1e-6)  # a neighbour at a right angle still counts before none at all
    ranked = []
    for weight, row in zip(weights, rows, strict=True):
        total: dict[str, float] = defaultdict(float)
        for value, neighbour in zip(weight, row, strict=True):
            if neighbour >= 0:
                for name in train.names[neighbour]:
                    total[name] += float(value)
        whole = float(weight[row >= 0].sum())
        ranked.append([(name, total[name] / whole) for name in sorted(total, key=lambda name: (-total[name], name))])
    return ranked


def score(ranked: Sequence[Ranked], side: Side, n: int, task: str) -> float:
    """Accuracy of the first name, or mean F1 of the first n."""
    if task == "category":
        return float(np.mean([found[0][0] == true[0] for found, true in zip(ranked, side.names, strict=True)]))
    pairs = zip(ranked, side.names, strict=True)
    return float(np.mean([overlap([name for name, _ in found[:n]], true)[2] for found, true in pairs]))


def write(
    path: Path, notes: pl.DataFrame, ranked: Sequence[Ranked], n: int, spelling: dict[str, str], task: str, about: str
) -> None:
    """A table as `noterec generate` writes it."""
    rows = [found[:n] for found in ranked]
    columns = {
        "note_id": notes["note_id"].to_list(),
        "task": [task] * len(rows),
        "answers": [[spelling[name] for name, _ in row] for row in rows],
        "probabilities": [[share for _, share in row] for row in rows],
        "content_hash": pa.array(content_hashes(schema.conform(notes.to_arrow(), schema.NOTES, name="notes"))),
        "model_version": [about] * len(rows),
    }
    storage.write_table(schema.conform(pa.table(columns), schema.GENERATED, name="answers"), path)


def report(name: str, tables: dict[str, Path], options: argparse.Namespace, *, paired: bool = True) -> None:
    """Judge tables on the test notes, print one Markdown table with intervals and one of differences to the first; keep both."""
    sides = {"new_notes": options.split / "new-notes.parquet", "training": options.split / "train"}
    record = measure_generated(tables, notes=options.dataset, **sides)[0][options.task]
    lines = [
        f"{record['notes']:,} test notes",
        "",
        "| table | " + " | ".join(SHOWN[options.task]) + " |",
        "|---|" + "---|" * len(SHOWN[options.task]),
    ]
    for table, entry in record["tables"].items():
        cells = []
        for metric in SHOWN[options.task]:
            value = entry["metrics"].get(metric)
            interval = f" [{value['low']:.4f}, {value['high']:.4f}]" if value and value["low"] is not None else ""
            cells.append(f"{value['mean']:.4f}{interval}" if value else "")
        lines.append(f"| {table} | " + " | ".join(cells) + " |")
    if paired and record["paired"]:
        lines += ["", "| table | against | metric | difference | verdict |", "|---|---|---|---|---|"]
        for entry in record["paired"]:
            if entry["metric"] in SHOWN[options.task]:
                gap = f"{entry['difference']:+.4f} [{entry['low']:+.4f}, {entry['high']:+.4f}]"
                lines.append(
                    f"| {entry['table']} | {entry['against']} | {entry['metric']} | {gap} | {entry['verdict']} |"
                )
    (options.out / f"{name}.md").write_text("\n".join(lines) + "\n")
    (options.out / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
