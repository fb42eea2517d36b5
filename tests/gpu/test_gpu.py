"""What only a CUDA device can show: the same vectors as on the CPU, and training that runs and resumes there."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from noterec.config import (
    EmbedConfig,
    GenerateConfig,
    LoraConfig,
    NegativesConfig,
    PromptConfig,
    TasksConfig,
    TrainConfig,
)
from noterec.embedding.engine import embed
from noterec.index.vectors import load_embeddings
from noterec.model.encoder import NoteEncoder
from noterec.notes.note import as_table
from noterec.training.train import train
from tests import backbones
from tests.training import planted

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Folder = Callable[[str], Path]
NOTES = [{"title": text, "content": text * 3} for text in backbones.TEXTS[:7]]
LIMITS = PromptConfig(title_tokens=24, hashtags_tokens=4, content_tokens=4)


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted")
    planted.write(folder)
    return folder


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of row i of one with row i of the other; both have unit norm."""
    return np.asarray((a * b).sum(axis=1))


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
def test_vectors_agree_with_the_cpu(backbone_folder: Folder, architecture: str) -> None:
    """Weights are float32 on both; only the order of sums differs, and in bfloat16 cosines stay above 0.999."""
    cpu = NoteEncoder.from_pretrained(backbone_folder(architecture), device="cpu").encode(NOTES)
    gpu = NoteEncoder.from_pretrained(backbone_folder(architecture), device="cuda")
    found = gpu.encode(NOTES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, cpu, atol=1e-4)
    inputs = gpu.prepare(as_table(NOTES))
    for rows, vectors in gpu.run(inputs, batch_tokens=4096, bf16=True):
        assert cosines(cpu[rows], vectors).min() > 0.999


@pytest.mark.parametrize("way", ["tiny", "frozen", "full"])
def test_training_runs_and_learns_there(truth: Path, backbone_folder: Folder, tmp_path: Path, way: str) -> None:
    shared = dict(dimension=32, batch_notes=64, steps=40, valid_every=10, lr=1e-2, words_lr=5e-2, prompt=LIMITS)
    if way == "tiny":
        config = TrainConfig(**{**shared, "lr": 5e-3, "vocabulary": 400, "device": "cuda"})
    else:
        config = TrainConfig(
            **{**shared, "backbone": str(backbone_folder("llama")), "way": way, "lexicon": 200, "device": "cuda"}
        )
    summary = train(
        truth / "train", pairs=truth / "pairs.parquet", valid_pairs=truth / "valid.parquet", valid_notes=truth / "data",
        out=tmp_path / "m", config=config, cache=tmp_path / "cache",
    )  # fmt: skip
    assert summary.first is not None
    assert summary.best is not None
    assert summary.best.recall_at_10 > summary.first.recall_at_10 + 0.1
    # The model goes back and forth between machines, with the same version on both.
    gpu, cpu = (NoteEncoder.from_pretrained(tmp_path / "m", device=place) for place in ("cuda", "cpu"))
    assert gpu.model_version == cpu.model_version == summary.model_version
    assert cosines(gpu.encode(NOTES), cpu.encode(NOTES)).min() > 0.99


def test_a_backbone_that_moves_is_trained_in_float32(truth: Path, backbone_folder: Folder, tmp_path: Path) -> None:
    config = TrainConfig(
        backbone=str(backbone_folder("llama")), way="full", dimension=16, batch_notes=32, steps=2, lexicon=0, prompt=LIMITS,
        backbone_lr=1e-6, device="cuda",
    )  # fmt: skip
    train(truth / "train", pairs=truth / "pairs.parquet", out=tmp_path / "m", config=config)
    before = NoteEncoder.from_pretrained(backbone_folder("llama"), device="cpu").model.state_dict()
    after = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu").model.state_dict()
    key = "model.layers.0.mlp.up_proj.weight"
    moved = (after[key] - before[key]).abs()
    assert 0 < float(moved.max()) < 1e-4  # steps of a millionth are below what bfloat16 weights can take


def test_embedding_with_and_without_the_cache(truth: Path, backbone_folder: Folder, tmp_path: Path) -> None:
    config = EmbedConfig(device="cuda", shard_rows=50)
    model = backbone_folder("qwen3")
    embed(truth / "data", model=model, out=tmp_path / "a", config=config)
    embed(truth / "data", model=model, out=tmp_path / "b", config=config, cache=tmp_path / "cache")
    cached = embed(truth / "data", model=model, out=tmp_path / "c", config=config, cache=tmp_path / "cache")
    assert cached.from_cache == cached.notes
    a, b, c = (load_embeddings(tmp_path / name).vectors for name in "abc")
    np.testing.assert_array_equal(b, c)
    assert cosines(a, b).min() > 0.999


@pytest.mark.parametrize("architecture", backbones.CAUSAL)
def test_what_is_written_agrees_with_the_cpu(backbone_folder: Folder, architecture: str) -> None:
    names = ["Food", "Food/Coffee", "Films", "Outdoors/Climbing"]
    cpu, gpu = (NoteEncoder.from_pretrained(backbone_folder(architecture), device=place) for place in ("cpu", "cuda"))
    for one, other in zip(cpu.generate(NOTES, categories=names), gpu.generate(NOTES, categories=names), strict=True):
        assert one.probabilities is not None
        assert other.probabilities is not None
        assert one.answers == other.answers
        assert abs(one.probabilities[0] - other.probabilities[0]) < 1e-3
    sampled = gpu.generate(NOTES, "hashtags", config=GenerateConfig(samples=6, max_tokens=12))
    assert sampled == gpu.generate(NOTES, "hashtags", config=GenerateConfig(samples=6, max_tokens=12))


@pytest.mark.parametrize("way", ["full", "lora"])
def test_writing_in_chunks_with_hard_negatives_trains_there(
    truth: Path, backbone_folder: Folder, tmp_path: Path, way: str
) -> None:
    config = TrainConfig(
        backbone=str(backbone_folder("qwen3")), way=way, dimension=16, batch_notes=64, steps=6, prompt=LIMITS,
        lora=LoraConfig(rank=4), tasks=TasksConfig(alpha=0.5), negatives=NegativesConfig(logq=1.0, hard=1),
        matryoshka=[8], chunk_notes=16, gradient_checkpointing=True, device="cuda",
    )  # fmt: skip
    given = dict(pairs=truth / "pairs.parquet", config=config)
    assert train(truth / "train", out=tmp_path / "m", **given).steps == 6


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_two_gpus_train_the_model_that_one_does(truth: Path, tmp_path: Path) -> None:
    found = []
    for devices in (1, 2):
        command = [
            sys.executable,
            "-m",
            "noterec",
            "train",
            str(truth / "train"),
            "--out",
            str(tmp_path / str(devices)),
        ]
        command += ["--pairs", str(truth / "pairs.parquet"), "--steps", "4", "--dimension", "16"]
        for setting in (f"devices={devices}", "vocabulary=400", "batch_notes=32", "precision=fp32", "device=cuda"):
            command += ["--set", setting]
        subprocess.run(command, check=True, timeout=600)
        found.append(NoteEncoder.from_pretrained(tmp_path / str(devices), device="cpu").encode(NOTES))
    assert cosines(*found).min() > 0.999
