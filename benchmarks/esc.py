"""Early-stopped self-consistency (ESC, arXiv:2401.10480) against a fixed number of samples: what it saves and what it changes.

    python benchmarks/esc.py MODEL DATASET --task category --categories DATASET --notes 200 --samples 20 --window 4

Both runs draw the same samples of a note in the same order, so ESC's are the first of the fixed number. The answer of the fixed
number is the reference.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np

import noterec
from noterec.model.generation.consistency import saved_share
from noterec.model.generation.writer import Generation
from noterec.model.tasks import normal
from noterec.notes.note import has_text
from noterec.ranking.bootstrap import interval


def main() -> None:
    """Compare both ways on some notes of a dataset, and print one JSON record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--task", choices=["category", "hashtags"], default="category")
    parser.add_argument("--categories", type=Path, help="the closed set; default: the model's own")
    parser.add_argument("--decoding", choices=["constrained", "free"], default="constrained")
    parser.add_argument("--notes", type=int, default=200)
    parser.add_argument("--samples", type=int, default=20)
    parser.add_argument("--window", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    encoder = noterec.NoteEncoder.from_pretrained(options.model)
    notes = noterec.Dataset(options.dataset).notes(["title", "content", "hashtags"]).sort("note_id")
    readable = has_text(notes.select("title", "content", "hashtags").to_arrow())
    if (
        options.task == "hashtags"
    ):  # whose prompt may show neither the note's own hashtags nor anything else of some notes
        readable &= has_text(notes.with_columns(hashtags=None).select("title", "content", "hashtags").to_arrow())
    notes = notes.filter(readable).sample(min(options.notes, int(readable.sum())), seed=options.seed)
    runs: dict[str, list[Generation]] = {}
    seconds = {}
    for name, early in (("esc", True), ("fixed", False)):
        config = noterec.GenerateConfig(
            decoding=options.decoding,
            samples=options.samples,
            window=options.window,
            temperature=options.temperature,
            seed=options.seed,
            early_stopping=early,
        )
        started = time.perf_counter()
        runs[name] = encoder.generate(notes, options.task, categories=options.categories, config=config)
        seconds[name] = round(time.perf_counter() - started, 1)
    drawn, fixed = (sum(found.samples for found in runs[name]) for name in ("esc", "fixed"))
    same = interval(np.array([agrees(*pair) for pair in zip(runs["esc"], runs["fixed"], strict=True)], dtype=float))
    record = {
        **{key: str(value) for key, value in vars(options).items()},
        "notes_compared": notes.height,
        "samples_esc": drawn,
        "samples_fixed": fixed,
        "saved_share": saved_share(drawn, fixed),
        "same_answer": [same.mean, same.low, same.high],
        "confidence": {name: float(np.mean([g.confidence or 0.0 for g in found])) for name, found in runs.items()},
        "seconds": seconds,
    }
    print(json.dumps(record, indent=1))


def agrees(one: Generation, other: Generation) -> bool:
    """Whether two answers say the same: one category, or the same hashtags in whatever order."""
    return set(map(normal, one.answers)) == set(map(normal, other.answers))


if __name__ == "__main__":
    main()
