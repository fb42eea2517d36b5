"""Calibration: neighbours and recall against a count by hand, the sample, and a precision that is measured as what it is."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from noterec import cli
from noterec.config import PromptConfig, SampleConfig, SplitConfig
from noterec.engagement.split import split
from noterec.errors import ConfigError, InputError
from noterec.evaluation import calibration
from noterec.evaluation.calibration import calibrate, overlap
from noterec.model.encoder import NoteEncoder
from noterec.notes.dataset import Dataset
from noterec.notes.sample import sample


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `data`, 160 notes, and its `split`."""
    folder = tmp_path_factory.mktemp("synthetic")
    sample(folder / "data", SampleConfig(notes=160, users=120, image_px=16))
    split(folder / "data", out=folder / "split", config=SplitConfig())
    return folder


@pytest.fixture(scope="module")
def encoder(backbone_folder: Callable[[str], Path]) -> NoteEncoder:
    limits = PromptConfig(title_tokens=16, hashtags_tokens=12, content_tokens=32)
    return NoteEncoder.from_backbone(str(backbone_folder("qwen3")), prompt=limits, device="cpu")


def test_overlap_by_hand() -> None:
    exact = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    rough = np.array([[4, 1, 9, 2], [0, 1, 2, 3]])
    assert overlap(exact, rough) == pytest.approx((3 / 4 + 0) / 2)


def test_float32_against_itself_costs_nothing(synthetic: Path, encoder: NoteEncoder) -> None:
    found = calibrate(
        synthetic / "data", model=encoder, precision="fp32", notes=60, pairs=synthetic / "split" / "test-pairs.parquet"
    )
    assert (found.notes, found.overlap, found.precision) == (60, 1.0, "fp32")
    assert found.cosine_min == pytest.approx(1, abs=1e-6)
    assert found.recall == found.recall_fp32 and found.recall_change in (0.0, None)
    assert found.notes_per_second > 0 and found.notes_per_second_fp32 > 0
    assert found.model_version == encoder.model_version


def test_recall_is_that_of_a_slow_count(synthetic: Path, encoder: NoteEncoder) -> None:
    pairs = synthetic / "split" / "test-pairs.parquet"
    found = calibrate(synthetic / "data", model=encoder, precision="int8", notes=100_000, pairs=pairs)
    notes = Dataset(synthetic / "data").notes(["title", "content", "hashtags"]).sort("note_id")
    ids = notes["note_id"].to_list()
    for name, precision in (("recall_fp32", "fp32"), ("recall", "int8")):
        vectors = encoder.accelerated(precision).encode(notes)  # type: ignore[arg-type]
        scores = vectors @ vectors.T
        np.fill_diagonal(scores, -np.inf)
        shares = []
        for (anchor,), part in pl.read_parquet(pairs).group_by("anchor_id"):
            best = np.argsort(-scores[ids.index(anchor)], kind="stable")[:10]
            wanted = {ids.index(one) for one in part["related_id"]}
            shares.append(len(wanted & set(best.tolist())) / len(wanted))
        assert getattr(found, name) == pytest.approx(np.mean(shares), abs=1e-9)
        assert found.queries == len(shares)
    assert found.cosine_p1 >= found.cosine_min and 0.9 < found.cosine_mean <= 1.000001
    assert found.recall_low is None or found.recall_low <= found.recall_change <= found.recall_high  # type: ignore[operator]


def test_the_sample_is_seeded_and_takes_notes_of_pairs_first(synthetic: Path) -> None:
    dataset = Dataset(synthetic / "data")
    pairs = calibration._pairs(synthetic / "split" / "test-pairs.parquet")
    one, same, other = (calibration._sample(dataset, pairs, 40, seed)["note_id"].to_list() for seed in (0, 0, 1))
    assert one == same == sorted(one) and one != other and len(one) == 40
    involved = set(pairs["anchor_id"]) | set(pairs["related_id"])
    assert len(involved) >= 40 and set(one) <= involved
    whole = calibration._sample(dataset, pairs, 100_000, 0)
    assert whole.height == dataset.note_count
    without = calibration._sample(dataset, None, 40, 0)["note_id"].to_list()
    assert not set(without) <= involved


def test_wrong_input_is_told(synthetic: Path, encoder: NoteEncoder, tmp_path: Path) -> None:
    data: dict[str, Any] = {"dataset": synthetic / "data", "model": encoder}
    with pytest.raises(ConfigError, match="notes=10: expected more than 10"):
        calibrate(**data, notes=10)
    pl.DataFrame({"anchor": ["a"]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no column 'anchor_id'"):
        calibrate(**data, pairs=tmp_path / "a.parquet")
    pl.DataFrame({"anchor_id": ["nobody"], "related_id": ["none"]}).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="none of the 1 pairs has both"):
        calibrate(**data, pairs=tmp_path / "b.parquet")


def test_the_command(
    synthetic: Path,
    backbone_folder: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = [
        "noterec",
        "calibrate",
        synthetic / "data",
        "--model",
        backbone_folder("llama"),
        "--precision",
        "bf16",
        "--notes",
        "20",
    ]
    for options in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", [*map(str, line), "--set", "device=cpu", *options])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code
    lines, _, record = capsys.readouterr().out.partition("{")
    assert "overlap" in lines and "recall" not in lines
    found = json.loads("{" + record)
    assert (found["precision"], found["notes"], found["recall"]) == ("bf16", 20, None)
