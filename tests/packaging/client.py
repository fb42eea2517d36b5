"""A user's program under mypy --strict, checked by `make package` against the installed package: the main functions are typed.

Nothing here runs.
"""

from pathlib import Path
from typing import assert_type

import numpy as np

import noterec
from noterec.embedding.engine import EmbedSummary
from noterec.evaluation.report import Report
from noterec.index.build import IndexSummary
from noterec.training.run_folder import TrainSummary


def road(folder: Path) -> None:
    """Each stage returns a type of its own, not Any."""
    trained = noterec.train(
        folder, pairs=folder / "pairs.parquet", out=folder / "model", config=noterec.TrainConfig(seed=1)
    )
    assert_type(trained, TrainSummary)
    assert_type(noterec.embed(folder, model=folder / "model", out=folder / "embeddings"), EmbedSummary)
    assert_type(noterec.build_index(folder / "embeddings", notes=folder, out=folder / "index"), IndexSummary)
    arms = {"mine": folder / "embeddings"}
    assert_type(noterec.evaluate(arms, split=folder / "split", notes=folder, out=folder / "report"), Report)


def vectors(model: Path, index: Path) -> None:
    """What comes out of an encoder and of an index."""
    encoder = noterec.NoteEncoder.from_pretrained(model)
    assert_type(encoder, noterec.NoteEncoder)
    found = encoder.encode([noterec.Note(title="Cold brew at home", hashtags=["coffee"])])
    assert_type(found, np.ndarray)
    noterec.Index.open(index).search(found, k=10, candidates="new")


wrong = noterec.nothing  # type: ignore[attr-defined]  # a misspelt name is an error, so strict mypy needs this comment
