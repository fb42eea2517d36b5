"""Images on a GPU: the vectors are those of the CPU, and an encoder that sees learns there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from noterec.config import TrainConfig
from noterec.embedding.engine import embed
from noterec.engagement.pairs import pairs
from noterec.engagement.split import split
from noterec.model.encoder import NoteEncoder
from noterec.notes.dataset import Dataset
from noterec.notes.sample import sample
from noterec.training.train import train

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def test_an_encoder_that_sees_learns_on_a_gpu_and_reads_the_same_on_the_cpu(tmp_path: Path) -> None:
    from noterec.config import SampleConfig

    sample(tmp_path / "d", SampleConfig(notes=300, users=200, image_px=32))
    split(tmp_path / "d", out=tmp_path / "s")
    pairs(tmp_path / "s" / "train", out=tmp_path / "p.parquet")
    config = TrainConfig.model_validate(
        {
            "steps": 20,
            "batch_notes": 64,
            "device": "cuda",
            "precision": "fp32",
            "vision": {"encoder": "tiny", "image_px": 32, "augment": True},
        }
    )
    summary = train(
        tmp_path / "s" / "train",
        pairs=tmp_path / "p.parquet",
        out=tmp_path / "m",
        valid_pairs=tmp_path / "s" / "valid-pairs.parquet",
        valid_notes=tmp_path / "d",
        config=config,
    )
    assert summary.first is not None and summary.best is not None and summary.best.value > summary.first.value
    notes = next(iter(Dataset(tmp_path / "d").note_batches()))
    vectors = [NoteEncoder.from_pretrained(tmp_path / "m", device=device).encode(notes) for device in ("cpu", "cuda")]
    # Features are kept in float16: where the two devices round differently, a vector moves by a little more than by itself.
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-3)
    first = embed(tmp_path / "d", model=tmp_path / "m", out=tmp_path / "e")
    assert first.pictures > 0 and first.pictures_rejected == 0
