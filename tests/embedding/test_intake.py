"""Processes that decode last as long as a stage reads, however many batches that takes, and are gone when it ends."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch

from noterec.config import EmbedConfig, ImagesConfig
from noterec.embedding import intake
from noterec.embedding.engine import embed
from noterec.embedding.units import Coder
from noterec.notes import note
from noterec.notes.dataset import Dataset
from noterec.notes.images import workers
from noterec.training.notes import new_intake, train_notes
from tests import colours

IMAGES = ImagesConfig(workers=1)
ROWS = [row for row in colours.planted() if row["images"] and row["title"]][:24]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many worker processes at most, at every time that some were started."""
    counts: list[int] = []
    original = workers._started

    def counted(count: int) -> Any:
        counts.append(count)
        return original(count)

    monkeypatch.setattr(workers, "_started", counted)
    monkeypatch.setattr(intake, "READ_ROWS_WITH_IMAGES", 4)
    return counts


def test_embed_starts_them_once(tmp_path: Path, started: list[int]) -> None:
    data = colours.write_notes(tmp_path / "d", [row for row in ROWS if row["images"][0]["bytes"] != colours.BAD])
    config = EmbedConfig(images=IMAGES, device="cpu")
    found = embed(data, model=colours.new_encoder(), out=tmp_path / "e", config=config, cache=tmp_path / "c")
    assert found.pictures > 20 and started == [1]
    assert multiprocessing.active_children() == []


def test_an_error_ends_them(tmp_path: Path, started: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(*_: Any) -> int:
        raise RuntimeError("a bug")

    monkeypatch.setattr(Coder, "encode", failing)
    data = colours.write_notes(tmp_path / "d", ROWS)
    config = EmbedConfig(images=IMAGES, device="cpu", shard_rows=10)
    with pytest.raises(RuntimeError, match="a bug") as error:
        embed(data, model=colours.new_encoder(), out=tmp_path / "e", config=config, cache=tmp_path / "c")
    assert error and started == [1] and multiprocessing.active_children() == []


def test_training_starts_them_once_for_its_notes(tmp_path: Path, started: list[int]) -> None:
    data = Dataset(colours.write_notes(tmp_path / "d", ROWS))
    config = colours.SMALL.model_copy(update={"images": IMAGES})
    _, taking = new_intake(config, torch.device("cpu"), cache=tmp_path / "c", image_root=None)
    assert train_notes(data, taking).num_rows == len(ROWS) and started == [1]
    assert multiprocessing.active_children() == []
    assert taking.gallery is not None and len(taking.gallery) > 20


def test_encode_ends_them(started: list[int]) -> None:
    encoder = colours.new_encoder()
    table = note.as_table(ROWS)
    alone, helped = encoder.encode(table), encoder.encode(table, images=IMAGES)
    assert started == [1] and multiprocessing.active_children() == []
    assert abs(alone - helped).max() < 1e-5
