"""What pictures add to cold-start recall, and whether a model looks at them: every arm, every split seed, pooled paired intervals.

    python benchmarks/multimodal.py DATASET --out runs/films --seeds 5 --min-support 5 --arm text --arm plain --arm micl \\
        --arm late --arm both
    python benchmarks/multimodal.py DATASET --out runs/films-lite0 --vision models/lite0 --register efficientnet_lite0 \\
        --arm frozen-text --arm frozen-late --arm colour --arm vision-zero

DATASET is a folder that `noterec import` wrote, with pictures. Models that see are measured in every view, as arms of their own:
NAME by text and picture, NAME:text and NAME:image by either alone, NAME:shuffled by the text and another note's picture, and
NAME:visual by the image word of multimodal in-context learning. Every seed gets its own split, pairs, models and report under
--out; what exists is reused, so a run that was stopped continues. The tables pool the queries of all seeds.
"""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from typing import Any

import polars as pl
import yaml
from cold_start import (
    METRICS,
    arms_table,
    bootstrap_ratio,
    difference,
    held_out,
    keep_settings,
    queries_of,
    related_pairs,
    values_of,
    write_table,
)
from untrained_images import FILE as UNTRAINED_FILE
from untrained_images import write as write_untrained

import noterec
from noterec.config import load
from noterec.embedding.engine import embed
from noterec.embedding.intake import cache_root
from noterec.embedding.modalities import modalities
from noterec.evaluation.evaluate import evaluate
from noterec.ranking.bootstrap import paired
from noterec.training.train import train

# How each arm's model sees (arXiv:2405.16789, table 4 takes mICL and late fusion away in turns); None = it reads text only.
TRAINED: dict[str, dict[str, Any] | None] = {
    "text": None,
    "plain": {"micl": False, "fusion": "none"},
    "micl": {"micl": True, "fusion": "none"},
    "late": {"micl": False, "fusion": "gate"},
    "both": {"micl": True, "fusion": "gate"},
    # A head on the cached states of a sentence encoder, without and with the picture's summary beside them.
    "frozen-text": None,
    "frozen-late": {"tokens": 0, "fusion": "head"},
}
UNTRAINED = ("colour", "vision-zero")
MISSING = {"shuffled": "by shuffling pictures", "text": "without pictures", "image": "without text"}


def main() -> None:
    """Run the arms of the command line and write table.md and table.json under --out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--arm", action="append", choices=[*TRAINED, *UNTRAINED], required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--first-seed", type=int, default=0, help="to run seeds apart; a run of all then pools them")
    parser.add_argument("--min-support", type=int, default=2)
    parser.add_argument("--pairs-set", action="append", default=[], help="KEY=VALUE for the training pairs")
    parser.add_argument("--backbone", default="tiny", help="of the arms whose weights move")
    parser.add_argument(
        "--way", default="full", choices=["full", "lora"], help="in which those of another than tiny do"
    )
    parser.add_argument("--frozen-backbone", default="minilm", help="of the frozen arms")
    parser.add_argument(
        "--vision", default="tiny", help="tiny, or folder or hub id of a vision encoder, which is frozen"
    )
    parser.add_argument("--register", action="append", default=[], help="module that knows the encoder's kind")
    parser.add_argument("--vision-set", action="append", default=[], help="KEY=VALUE for the arms that see (tokens=8)")
    parser.add_argument("--dimension", type=int, default=128)
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE for every training")
    parser.add_argument("--image-root", type=Path, help="the folder below which pictures that are given by path are")
    parser.add_argument(
        "--against", action="append", default=[], metavar="A/B", help="paired ratio of two arms; arms to text always"
    )
    options = parser.parse_args()
    if options.vision == "tiny" and {"frozen-late", "vision-zero"} & set(options.arm):
        raise SystemExit("frozen-late and vision-zero need a vision encoder that has learned: --vision FOLDER")
    for module in options.register:
        importlib.import_module(module)
    keep_settings(
        options.out,
        {
            key: str(value)
            for key, value in vars(options).items()
            if key not in ("arm", "against", "seeds", "first_seed", "register")
        },
    )
    per_query = pl.concat([run(options, options.first_seed + number) for number in range(options.seeds)])
    lines, arms = arms_table(per_query)
    ratios = [entry.partition("/")[::2] for entry in options.against]
    ratios += [(arm, base) for arm in options.arm if (base := base_of(arm)) in options.arm and arm != base]
    for first, second in ratios:
        lines += ["", *(difference(per_query, first, second, metric) for metric in METRICS)]
    seeing = [arm for arm in options.arm if sees(arm)]
    lost = {arm: {view: losses(per_query, arm, view) for view in MISSING} for arm in seeing}
    if seeing:
        lines += ["", "| share of recall lost | " + " | ".join(METRICS) + " |", "|---|" + "---|" * len(METRICS)]
    for arm, views in lost.items():
        for view, found in views.items():
            cells = [f"{mean:.1%} [{low:.1%}, {high:.1%}] {verdict}" for mean, low, high, verdict in found.values()]
            lines.append(f"| {arm}, {MISSING[view]} | " + " | ".join(cells) + " |")
    write_table(options.out, lines, {"arms": arms, "lost": lost})


def base_of(arm: str) -> str:
    """The arm that reads text only and is otherwise the same."""
    return "frozen-text" if arm.startswith("frozen-") else "text"


def sees(arm: str) -> bool:
    """Whether it is a trained model with a vision encoder."""
    return TRAINED.get(arm) is not None


def losses(per_query: pl.DataFrame, arm: str, view: str) -> dict[str, tuple[float, float, float, str]]:
    """Metric -> the share of recall that is lost in a view, its 95 % interval, and how the whole note compares with the view."""
    found: dict[str, tuple[float, float, float, str]] = {}
    for metric in METRICS:
        whole, part = (values_of(per_query, name, metric) for name in (arm, f"{arm}:{view}"))
        ratio, low, high = bootstrap_ratio(part, whole)
        found[metric] = (1 - ratio, 1 - high, 1 - low, paired(whole, part).verdict)
    return found


def run(options: argparse.Namespace, seed: int) -> pl.DataFrame:
    """One split seed: per-query values of every arm and view."""
    folder = options.out / f"seed-{seed}"
    held = held_out(options.dataset, folder, seed, options.min_support)
    related = related_pairs(held, folder, options.min_support, "cosine", options.pairs_set)
    tables: dict[str, Path] = {}
    views: dict[str, Path] = {}
    for arm in options.arm:
        if arm in UNTRAINED:
            tables[arm] = untrained(options, arm)
            continue
        model = trained(options, folder, held, related, arm, seed)
        # Only a frozen backbone's states serve more than one model.
        cache = cache_root() if arm.startswith("frozen-") else None
        out = folder / f"embeddings-{arm}"
        if not sees(arm):
            embed(options.dataset, model=model, out=out, cache=cache)
            tables[arm] = out
            continue
        modalities(options.dataset, model=model, out=out, cache=cache, image_root=options.image_root)
        views[arm] = out
        if (TRAINED[arm] or {}).get("micl"):
            config = noterec.EmbedConfig(view="visual")
            embed(options.dataset, model=model, out=out / "visual", config=config, image_root=options.image_root)
            tables[f"{arm}:visual"] = out / "visual"
    report = folder / "report"
    evaluate(
        tables,
        modalities=views,
        split=held,
        notes=options.dataset,
        out=report,
        config=noterec.EvaluateConfig(fuse=False),
    )
    return queries_of(report, seed)


def untrained(options: argparse.Namespace, arm: str) -> Path:
    """The vectors of an arm without any training, the same for every seed, made unless they are there."""
    out: Path = options.out / f"embeddings-{arm}"
    if not (out / UNTRAINED_FILE).is_file():
        vision = None if arm == "colour" else options.vision
        write_untrained(options.dataset, out=out, vision=vision, image_root=options.image_root)
    return out


def trained(options: argparse.Namespace, folder: Path, held: Path, related: Path, arm: str, seed: int) -> Path:
    """The folder of an arm's model, trained unless it is there."""
    frozen = arm.startswith("frozen-")
    given: dict[str, Any] = {
        "backbone": options.frozen_backbone if frozen else options.backbone,
        "dimension": options.dimension,
        "seed": seed,
    }
    if given["backbone"] != "tiny":
        given["way"] = "frozen" if frozen else options.way
    if sees(arm):
        chosen = {key: yaml.safe_load(value) for key, _, value in (text.partition("=") for text in options.vision_set)}
        given["vision"] = {"encoder": options.vision, **chosen, **(TRAINED[arm] or {})}
    model = folder / f"model-{arm}"
    summary = train(
        held / "train",
        pairs=related,
        out=model,
        valid_pairs=held / "valid-pairs.parquet",
        valid_notes=options.dataset,
        config=load(noterec.TrainConfig, None, options.set, **given),
        cache=cache_root() if frozen else None,
        image_root=options.image_root if sees(arm) else None,
    )
    print(f"seed {seed} {arm}: first {summary.first}, best {summary.best}, {summary.seconds:.0f} s", flush=True)
    return model


if __name__ == "__main__":
    main()
