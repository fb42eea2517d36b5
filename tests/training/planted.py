"""A platform whose truth text alone can't tell: every topic has two vocabularies, and people read across them.

Half of a topic's notes use one set of words, half the other, with none in common. Whoever has seen the engagement knows that
both belong together; whoever has only the words can't.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from noterec import schema, storage
from noterec.config import TrainConfig
from noterec.training.train import TrainSummary, train

TOPICS, NOTES_EACH, COLD_EACH = 20, 6, 2


def write(folder: Path) -> None:
    """Write `data` (all notes), `train` (without the cold ones), `pairs.parquet` and `valid.parquet` into a folder."""
    random = np.random.default_rng(0)
    rows: list[dict[str, object]] = []  # a category says little: five topics share one
    for topic in range(TOPICS):
        for side in "ab":
            vocabulary = [f"{side}{topic:02d}word{i}" for i in range(4)]
            for number in range(NOTES_EACH):
                words = " ".join(random.choice(vocabulary, 3, replace=False))
                rows.append(
                    {
                        "note_id": f"{side}{topic:02d}-{number:02d}",
                        "title": words,
                        "topic": topic,
                        "category": f"kind/{topic % 4}",
                    }
                )
    notes = pl.DataFrame(rows)
    cold = pl.col("note_id").str.slice(4).cast(pl.Int64) < COLD_EACH
    train = notes.filter(~cold)
    _write_notes(notes, folder / "data")
    _write_notes(train, folder / "train")
    other_side = (
        train.join(train, on="topic")
        .filter(pl.col("note_id").str.slice(0, 1) != pl.col("note_id_right").str.slice(0, 1))
        .select(anchor_id="note_id", related_id="note_id_right")
    )
    _write_pairs(other_side, folder / "pairs.parquet")
    relevant = (
        notes.filter(cold)
        .join(train, on="topic")
        .filter(pl.col("note_id").str.slice(0, 1) != pl.col("note_id_right").str.slice(0, 1))
        .select(anchor_id="note_id", related_id="note_id_right")
    )
    _write_pairs(relevant, folder / "valid.parquet")


def run(truth: Path, out: Path, config: TrainConfig, **more: Any) -> TrainSummary:
    """Train on what `write` wrote, the cold notes being the valid ones."""
    given: dict[str, Any] = dict(
        pairs=truth / "pairs.parquet",
        valid_pairs=truth / "valid.parquet",
        valid_notes=truth / "data",
        cache=out / ".." / "cache",
    )
    return train(truth / "train", out=out, config=config, **{**given, **more})


def _write_notes(notes: pl.DataFrame, folder: Path) -> None:
    table = schema.conform(notes.select("note_id", "title", "category").to_arrow(), schema.NOTES, name="notes")
    storage.write_table(table, folder / "notes" / "notes.parquet")


def _write_pairs(pairs: pl.DataFrame, file: Path) -> None:
    ranked = pairs.sort("anchor_id", "related_id").with_columns(score=pl.lit(1.0), rank=pl.lit(1))
    storage.write_table(schema.conform(ranked.to_arrow(), schema.PAIRS, name="pairs"), file)
