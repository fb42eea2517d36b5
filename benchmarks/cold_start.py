"""Cold-start recall on data sets of one's own: every arm, every split seed, pooled paired intervals.

    python benchmarks/cold_start.py DATASET --out runs/mine --seeds 5 --arm minilm-head --arm minilm-words

DATASET is a folder that `noterec import` wrote. Every seed gets its own split, pairs, models and report under --out; what exists is
reused, so a run that was stopped continues. The table pools the queries of all seeds.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import polars as pl

import noterec
from noterec.config import load
from noterec.embedding.engine import embed
from noterec.embedding.intake import cache_root
from noterec.engagement.pairs import pairs
from noterec.engagement.split import split
from noterec.evaluation.evaluate import evaluate
from noterec.ranking.bootstrap import interval, paired
from noterec.training.train import train

# name -> settings of `noterec train`; "zero" arms are the backbone as it is.
ARMS: dict[str, dict[str, object]] = {
    "minilm-zero": {"backbone": "minilm"},
    "minilm-head": {"backbone": "minilm", "lexicon": 0},
    "minilm-branch": {"backbone": "minilm", "lexicon": 0, "head_branch": 512},
    "minilm-words": {"backbone": "minilm"},
    "minilm-words-128": {"backbone": "minilm", "dimension": 128},
    "minilm-full": {"backbone": "minilm", "way": "full", "lexicon": 0, "batch_notes": 192},
    "minilm-full-words": {"backbone": "minilm", "way": "full", "lexicon": 100_000, "batch_notes": 192},
    "smollm2-zero": {"backbone": "SMOLLM2", "layers": 6},
    "smollm2-head": {"backbone": "SMOLLM2", "layers": 6, "lexicon": 0},
    "smollm2-words": {"backbone": "SMOLLM2", "layers": 6},
}

# One step at a time, each on top of the one before: pairs on cached states, as the paper takes them, then what the field added.
PAIRS: dict[str, object] = {"backbone": "minilm", "objective": "pairs", "batch_notes": 1024}
LADDER: list[tuple[str, dict[str, object]]] = [
    ("1-contrastive", {"negatives": {"mask_related": False}}),
    ("2-mask", {"negatives": {}}),
    ("3-logq", {"negatives": {"logq": 1.0}}),
    ("4-hard", {"negatives": {"logq": 1.0, "hard": 1}}),
    ("5-matryoshka", {"negatives": {"logq": 1.0, "hard": 1}, "matryoshka": [32, 64, 128]}),
    ("mask-hard", {"negatives": {"hard": 1}}),
    ("mask-matryoshka", {"negatives": {}, "matryoshka": [32, 64, 128]}),
]
ARMS |= {f"ladder-{name}": {**PAIRS, **changes} for name, changes in LADDER}
ARMS |= {
    "graph-512": {"backbone": "minilm", "objective": "graph", "dimension": 512},
    "hard-512": {**PAIRS, "negatives": {"logq": 1.0, "hard": 1}, "dimension": 512},
    "hard-smollm2-512": {
        **PAIRS,
        "backbone": "SMOLLM2",
        "layers": 6,
        "negatives": {"logq": 1.0, "hard": 1},
        "dimension": 512,
    },
    "graph": {"backbone": "minilm", "objective": "graph"},
    "graph-matryoshka": {"backbone": "minilm", "objective": "graph", "matryoshka": [32, 64, 128]},
}
# A language model whose weights move: the contrastive loss alone, and writing hashtags and categories beside it.
MOVING: dict[str, object] = {"backbone": "SMOLLM2", "layers": 6, "way": "full", "lexicon": 0, "batch_notes": 64}
ARMS |= {
    "smollm2-contrastive": {**MOVING, "tasks": {"alpha": 0}},
    "smollm2-csft": {**MOVING, "tasks": {"alpha": 0.01}},
    "tiny-contrastive": {"backbone": "tiny", "tasks": {"alpha": 0}},
    "tiny-csft": {"backbone": "tiny", "tasks": {"alpha": 0.01}},
    "tiny-csft-1": {"backbone": "tiny", "tasks": {"alpha": 1}},
    "tiny-all": {
        "backbone": "tiny",
        "tasks": {"alpha": 0.01},
        "negatives": {"logq": 1.0, "hard": 1},
        "matryoshka": [32, 64],
        "chunk_notes": 64,
    },
}
METRICS = ("recall@10", "recall@50", "recall@100")


def main() -> None:
    """Run the arms of the command line and write table.md and table.json under --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", action="append", choices=sorted(ARMS), required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="to run seeds apart; a run of all then pools them")
    parser.add_argument("--min-support", type=int, default=2)
    parser.add_argument("--weighting", action="append", choices=["notellm", "count", "cosine", "lift"])
    parser.add_argument("--dimension", type=int, default=256)
    parser.add_argument("--smollm2", type=Path, help="folder of SmolLM2-135M, for the smollm2 arms")
    parser.add_argument("--pairs-set", action="append", default=[], help="KEY=VALUE for the training pairs")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for every training")
    parser.add_argument(
        "--against", action="append", default=[], metavar="A/B", help="paired difference of arm A to arm B"
    )
    parser.add_argument("--sum", action="append", default=[], metavar="A+B", help="the cosines of two arms, added")
    parser.add_argument("--precision", default="bf16", help="of the states of a frozen backbone")
    options = parser.parse_args()
    settings = {
        key: str(value)
        for key, value in vars(options).items()
        if key not in ("arm", "against", "seeds", "first_seed", "weighting", "sum")
    }
    keep_settings(options.out, settings)
    per_query = pl.concat([run(options, options.first_seed + number) for number in range(options.seeds)])
    lines, record = arms_table(per_query)
    for entry in options.against:
        first, _, second = entry.partition("/")
        lines += ["", *(difference(per_query, first, second, metric) for metric in METRICS)]
    write_table(options.out, lines, record)


def keep_settings(out: Path, settings: dict[str, str]) -> None:
    """Refuse a folder with the results of other settings."""
    known = out / "settings.json"
    if known.is_file() and json.loads(known.read_text()) != settings:
        raise SystemExit(f"{out} holds a run of other settings; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    known.write_text(json.dumps(settings))


def arms_table(per_query: pl.DataFrame) -> tuple[list[str], dict[str, object]]:
    """The recalls of every arm over the queries of all seeds, as lines of Markdown and as what JSON can hold."""
    lines = ["| arm | " + " | ".join(METRICS) + " | queries |", "|---|" + "---|" * (len(METRICS) + 1)]
    record: dict[str, object] = {}
    for arm in per_query["arm"].unique(maintain_order=True).to_list():
        rows = per_query.filter(pl.col("arm") == arm)
        cells, entry = [], {}
        for metric in METRICS:
            value = interval(rows[metric].to_numpy())
            cells.append(f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]")
            entry[metric] = [value.mean, value.low, value.high, value.n]
        record[arm] = entry
        lines.append(f"| {arm} | " + " | ".join(cells) + f" | {rows.height} |")
    return lines, record


def write_table(out: Path, lines: list[str], record: dict[str, object]) -> None:
    """Print the lines, and keep them and the record under `out`."""
    (out / "table.md").write_text("\n".join(lines) + "\n")
    (out / "table.json").write_text(json.dumps(record, indent=1))
    print("\n".join(lines))


def values_of(per_query: pl.DataFrame, arm: str, metric: str) -> np.ndarray:
    """An arm's values of all seeds, (Q,), in an order of queries that all arms share."""
    return per_query.filter(pl.col("arm") == arm).sort("seed", "query_id")[metric].to_numpy()


def difference(per_query: pl.DataFrame, first: str, second: str, metric: str) -> str:
    """How an arm compares with another on the same queries, in a line."""
    values = [values_of(per_query, arm, metric) for arm in (first, second)]
    ratio = bootstrap_ratio(values[0], values[1])
    verdict = paired(*values).verdict
    return f"{metric}: {first} / {second} = {ratio[0]:.3f} [{ratio[1]:.3f}, {ratio[2]:.3f}], {verdict}"


def held_out(dataset: Path, folder: Path, seed: int, min_support: int) -> Path:
    """The split of a seed, made unless it is there."""
    held = folder / "split"
    if not (held / "split.json").is_file():
        split(dataset, out=held, config=noterec.SplitConfig(seed=seed, min_support=min_support))
    return held


def related_pairs(held: Path, folder: Path, min_support: int, weighting: str, settings: list[str]) -> Path:
    """The training pairs of a split, made unless they are there."""
    related = folder / f"pairs-{weighting}.parquet"
    if not related.is_file():
        given = [f"weighting={weighting}", f"min_support={min_support}"]
        pairs(held / "train", out=related, config=load(noterec.PairsConfig, None, given + settings))
    return related


def queries_of(report: Path, seed: int) -> pl.DataFrame:
    """The per-query values of every arm of a report."""
    frame = pl.read_parquet(report / "queries.parquet").filter(pl.col("direction") == "new -> all")
    return frame.select("arm", "query_id", *METRICS).with_columns(seed=pl.lit(seed))


def run(options: argparse.Namespace, seed: int) -> pl.DataFrame:
    """One split seed: per-query values of every arm."""
    folder = options.out / f"seed-{seed}"
    held = held_out(options.dataset, folder, seed, options.min_support)
    found: dict[str, Path] = {}
    for weighting in options.weighting or ["cosine"]:
        related = related_pairs(held, folder, options.min_support, weighting, options.pairs_set)
        for arm in options.arm:
            if arm.endswith("-zero") and f"{arm}" in found:
                continue
            name = arm if weighting == "cosine" or arm.endswith("-zero") else f"{arm}-{weighting}"
            found[name] = embeddings(options, folder, held, related, arm, name, seed)
    report = folder / "report"
    evaluate(found, split=held, notes=options.dataset, out=report, config=noterec.EvaluateConfig(sums=options.sum))
    return queries_of(report, seed)


def embeddings(
    options: argparse.Namespace, folder: Path, held: Path, related: Path, arm: str, name: str, seed: int
) -> Path:
    """Train an arm's model and embed all notes with it; returns the embeddings."""
    settings = {"dimension": options.dimension, "seed": seed, **ARMS[arm]}
    if settings["backbone"] == "SMOLLM2":
        if options.smollm2 is None:
            raise SystemExit("the smollm2 arms need --smollm2 FOLDER")
        settings["backbone"] = str(options.smollm2)
    out = folder / f"embeddings-{name}"
    config = noterec.EmbedConfig(precision=options.precision)
    cache = cache_root()
    if arm.endswith("-zero"):
        layers = settings.get("layers")
        encoder = noterec.NoteEncoder.from_backbone(str(settings["backbone"]), layers=layers)  # type: ignore[arg-type]
        embed(options.dataset, model=encoder, out=out, config=config, cache=cache)
        return out
    if settings.get("way") != "full" and settings["backbone"] != "tiny":
        settings["precision"] = options.precision
    model = folder / f"model-{name}"
    summary = train(
        held / "train",
        pairs=related,
        out=model,
        valid_pairs=held / "valid-pairs.parquet",
        valid_notes=options.dataset,
        config=load(noterec.TrainConfig, None, options.set, **settings),
    )
    print(f"seed {seed} {name}: first {summary.first}, best {summary.best}, {summary.seconds:.0f} s", flush=True)
    embed(options.dataset, model=model, out=out, config=config, cache=None if settings.get("way") == "full" else cache)
    return out


def bootstrap_ratio(a: np.ndarray, b: np.ndarray, resamples: int = 2000) -> tuple[float, float, float]:
    """Ratio of two means on the same queries, with its 95 % interval."""
    random = np.random.default_rng(0)
    draws = random.integers(0, len(a), (resamples, len(a)))
    ratios = a[draws].mean(axis=1) / b[draws].mean(axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(a.mean() / b.mean()), float(low), float(high)


if __name__ == "__main__":
    main()
