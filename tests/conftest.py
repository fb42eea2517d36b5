"""What all tests share: no network, a cache of their own, a small platform, random model folders, one trained encoder."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from noterec.config import PairsConfig, PromptConfig, SampleConfig, SplitConfig, TrainConfig

os.environ["HF_HUB_OFFLINE"] = "1"  # read when huggingface_hub is imported, which nothing above does
_CACHE = tempfile.TemporaryDirectory(prefix="noterec-tests-")
os.environ["NOTEREC_CACHE"] = _CACHE.name

# Few steps of a narrow `tiny`: enough to be another model than its start.
FEW_STEPS = TrainConfig(
    steps=4, batch_notes=32, vocabulary=500, dimension=32, valid_every=2, checkpoint_every=2, device="cpu"
)
SHORT_LIMITS = PromptConfig(title_tokens=16, hashtags_tokens=12, content_tokens=48)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # matrices are tiny: two threads wait for each other longer than they work


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data` (240 notes, 150 people), its `split` and `pairs.parquet` of the training side."""
    from noterec.engagement.pairs import pairs
    from noterec.engagement.split import split
    from noterec.notes.sample import sample

    folder = tmp_path_factory.mktemp("platform")
    sample(folder / "data", SampleConfig(notes=240, users=150, image_px=16))
    split(folder / "data", out=folder / "split", config=SplitConfig())
    pairs(folder / "split" / "train", out=folder / "pairs.parquet", config=PairsConfig())
    return folder


@pytest.fixture(scope="session")
def trained(platform: Path) -> Path:
    """The folder of a tiny encoder that was trained a few steps on the platform."""
    from noterec.training.train import train

    out = platform / "model"
    train(
        platform / "split" / "train",
        pairs=platform / "pairs.parquet",
        valid_pairs=platform / "split" / "valid-pairs.parquet",
        valid_notes=platform / "data",
        out=out,
        config=FEW_STEPS,
    )
    return out


@pytest.fixture(scope="session")
def backbone_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give an architecture's name, get its random model folder."""
    from tests import backbones

    made: dict[str, Path] = {}

    def folder(architecture: str) -> Path:
        if architecture not in made:
            made[architecture] = backbones.make(architecture, tmp_path_factory.mktemp(architecture))
        return made[architecture]

    return folder
