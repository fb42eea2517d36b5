"""What a step computes: chunks and what is written, ways that move, forecasts, and what stops a run."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from noterec import schema, storage
from noterec.config import LoraConfig, NegativesConfig, PromptConfig, TasksConfig, TrainConfig
from noterec.engagement.table import load_pairs
from noterec.errors import ConfigError, DivergenceError, InputError
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Inputs
from noterec.notes.dataset import Dataset
from noterec.training import start
from noterec.training.batches import PairBatches
from noterec.training.forecast import forecast
from noterec.training.loggers import make_loggers
from noterec.training.module import ContrastiveModule
from noterec.training.notes import train_notes
from noterec.training.plan import Plan
from tests.training import planted
from tests.training.planted import run

Folder = Callable[[str], Path]
CPU = torch.device("cpu")
SMALL = TrainConfig(
    vocabulary=400,
    dimension=16,
    batch_notes=32,
    lexicon=0,
    prompt=PromptConfig(title_tokens=24, hashtags_tokens=4, content_tokens=4),
    tasks=TasksConfig(alpha=0.01),
    valid_every=4,
    checkpoint_every=2,
    precision="fp32",
    device="cpu",
)


def module_of(truth: Path, config: TrainConfig) -> tuple[ContrastiveModule, PairBatches, Any, Plan]:
    """What `train` trains, before the first step."""
    notes = train_notes(Dataset(truth / "train"))
    backbone = start.new_backbone(config, notes)
    plan = Plan.of(config, notes.num_rows, backbone.kind, CPU)
    encoder = start.new_encoder(config, plan, backbone, notes)
    known, _ = load_pairs(truth / "pairs.parquet", pl.Series(notes["note_id"].to_pylist()))
    data = start.material(encoder, notes, notes.slice(0, 0), known, frozen=False, cache=None, batch_tokens=512)
    batches = PairBatches(data, plan.batch_notes, 0)
    tasks = start.new_tasks(encoder, plan, config, notes)
    return ContrastiveModule(encoder, data, batches, config, plan, tasks=tasks), batches, data, plan


def gradients(truth: Path, config: TrainConfig) -> tuple[float, dict[str, torch.Tensor]]:
    module, batches, _, _ = module_of(truth, config)
    rows = batches.rows(0)
    loss, parts = module.loss(rows, np.arange(6), module.requests(rows, 0))
    assert set(parts) == {"contrastive", "generation"}
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}


def test_chunks_change_neither_loss_nor_gradients(truth: Path) -> None:
    config = SMALL.model_copy(update={"tasks": TasksConfig(alpha=0.7), "matryoshka": [4, 8]})
    loss, expected = gradients(truth, config)
    for chunk in (5, 16, 1000):
        chunked, found = gradients(truth, config.model_copy(update={"chunk_notes": chunk}))
        assert chunked == pytest.approx(loss, abs=1e-6)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(found[name], gradient, atol=1e-6, rtol=1e-4)


def test_the_embedding_is_the_one_of_inference_whatever_is_written(truth: Path) -> None:
    module, batches, data, _ = module_of(
        truth, SMALL.model_copy(update={"tasks": TasksConfig(alpha=0.01, hashtag_share=0.0)})
    )
    module.eval()
    rows = batches.rows(0)
    with torch.no_grad():
        embeddings, written, count = module._forward(rows, module.requests(rows, 0))
    assert int(count) > len(rows)
    assert float(written) > 0
    tokens = [data.inputs.tokens[row] for row in rows]
    expected = np.empty(embeddings.shape, dtype=np.float32)
    for batch, part in module.encoder.run(Inputs(tokens, None), batch_tokens=100):
        expected[batch] = part[:, None]
    np.testing.assert_allclose(embeddings.numpy(), expected, atol=1e-5)


def test_the_written_loss_is_hugging_faces_own(truth: Path) -> None:
    module, batches, _, _ = module_of(truth, SMALL)
    module.eval()
    rows = batches.rows(0)
    examples = module._forward.examples(rows, module.requests(rows, 0))
    with torch.no_grad():
        _, written, count = module._forward(rows, module.requests(rows, 0))
        total, tokens = 0.0, 0
        for example in examples:
            ids = torch.from_numpy(example.ids)[None]
            labels = ids.clone()
            labels[:, : example.output] = -100
            n = len(example.ids) - example.output
            total += float(module.encoder.model(input_ids=ids, labels=labels).loss) * n
            tokens += n
    assert int(count) == tokens
    assert float(written) == pytest.approx(total, rel=1e-4)


def test_tiny_learns_to_write_the_category_of_notes_it_never_saw(truth: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(
        update={"steps": 60, "batch_notes": 64, "tasks": TasksConfig(alpha=10.0), "lr": 5e-3, "valid_every": 60}
    )
    run(truth, tmp_path / "m", config)
    encoder = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    assert encoder.categories == [f"kind/{number}" for number in range(4)]
    notes = pl.read_parquet(truth / "data" / "notes" / "*.parquet")
    cold = notes.filter(pl.col("note_id").str.slice(4).cast(pl.Int64) < planted.COLD_EACH)
    answers = [generation.answers[0] for generation in encoder.generate(cold.drop("category"), "category")]
    assert np.mean([a == b for a, b in zip(answers, cold["category"], strict=True)]) > 0.9  # chance is a quarter


@pytest.mark.parametrize("keep", [True, False])
def test_lora_moves_adapters_only(truth: Path, backbone_folder: Folder, tmp_path: Path, keep: bool) -> None:
    folder = backbone_folder("qwen3")
    config = SMALL.model_copy(
        update={"backbone": str(folder), "way": "lora", "steps": 6, "lora": LoraConfig(rank=2, keep=keep), "lr": 1e-2}
    )
    summary = run(truth, tmp_path / "m", config, cache=tmp_path / "cache")
    assert summary.way == "lora"
    files = {file.name for file in (tmp_path / "m").iterdir()}
    assert ("adapter_model.safetensors" in files) == keep
    assert ("model.safetensors" in files) != keep
    trained = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    assert trained.model_version == summary.model_version
    if keep:
        base = NoteEncoder.from_pretrained(folder, device="cpu").model.state_dict()
        kept = {k.replace(".base_layer", ""): v for k, v in trained.model.state_dict().items() if "lora_" not in k}
        assert all(torch.equal(base[key], kept[key]) for key in base)


def test_a_loss_that_is_no_number_stops_names_the_notes_and_loses_nothing(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = SMALL.model_copy(update={"steps": 8})
    original = ContrastiveModule.loss
    calls: list[np.ndarray] = []

    def broken(self: ContrastiveModule, rows: np.ndarray, *rest: Any) -> Any:
        loss, parts = original(self, rows, *rest)
        calls.append(rows)
        return (loss * float("nan"), parts) if len(calls) == 6 else (loss, parts)

    with monkeypatch.context() as patched:
        patched.setattr(ContrastiveModule, "loss", broken)
        with pytest.raises(DivergenceError) as caught:
            run(truth, tmp_path / "m", config)
    message = str(caught.value)
    assert caught.value.exit_code == 3
    notes = train_notes(Dataset(truth / "train"))["note_id"].to_pylist()
    assert "step 5: the loss is no number" in message
    assert all(repr(notes[row]) in message for row in calls[-1][:10])
    assert "22 more" in message
    assert "last.ckpt is of step 4" in message
    assert "the weights of step" in message
    assert (tmp_path / "m" / "training" / "last.ckpt").is_file()
    assert (tmp_path / "m" / "training" / "best.safetensors").is_file()
    assert run(truth, tmp_path / "m", config).steps == 8  # a fault of the machine is over: it goes on from step 4


def test_all_pairs_from_one_note_and_a_batch_larger_than_everything(truth: Path, tmp_path: Path) -> None:
    ids = pl.read_parquet(truth / "train" / "notes" / "*.parquet")["note_id"].sort().to_list()
    star = pl.DataFrame({"anchor_id": [ids[0]] * 9, "related_id": ids[1:10], "score": 1.0, "rank": 1})
    storage.write_table(schema.conform(star.to_arrow(), schema.PAIRS, name="pairs"), tmp_path / "star.parquet")
    config = SMALL.model_copy(update={"steps": 3, "batch_notes": 4000})
    summary = run(truth, tmp_path / "m", config, pairs=tmp_path / "star.parquet")
    assert summary.steps == 3
    one = pl.DataFrame({"anchor_id": ids[:1], "related_id": ids[1:2], "score": 1.0, "rank": 1})
    storage.write_table(schema.conform(one.to_arrow(), schema.PAIRS, name="pairs"), tmp_path / "one.parquet")
    with pytest.raises(InputError, match="1 pairs to train on"):
        run(truth, tmp_path / "n", config, pairs=tmp_path / "one.parquet")


def test_the_forecast_counts_what_a_step_will_do(truth: Path) -> None:
    module, batches, data, plan = module_of(truth, SMALL)
    before = torch.get_rng_state()
    weights = {name: value.clone() for name, value in module.state_dict().items()}
    told = forecast(module, data, batches, SMALL, plan)
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(value, module.state_dict()[name]) for name, value in weights.items())
    assert all(parameter.grad is None for parameter in module.parameters())
    assert (told.steps, told.notes_per_step) == (plan.steps, 32)
    rows = batches.rows(0)
    assert 32 - 8 < told.negatives < 32 - 1  # without itself, its partner and what else is known
    written = sum(len(example.ids) for example in module._forward.examples(rows, module.requests(rows, 0)))
    assert told.tokens_per_step == pytest.approx(written, rel=0.1)
    moving = sum(parameter.numel() for parameter in module.parameters())
    assert told.memory_bytes > 12 * moving
    cached = SMALL.model_copy(update={"chunk_notes": 4})
    less = forecast(module, data, batches, cached, plan)
    assert less.memory_bytes - 12 * moving < (told.memory_bytes - 12 * moving) / 4
    assert "effective negatives" in str(told)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "graph", "negatives": NegativesConfig(hard=1)}, "need objective=pairs"),
        ({"objective": "graph", "negatives": NegativesConfig(logq=1.0)}, "need objective=pairs"),
        ({"backbone": "x", "way": "frozen", "chunk_notes": 8}, "for a backbone whose weights move"),
        ({"backbone": "x", "way": "frozen", "tasks": TasksConfig(alpha=0.1)}, "found way=frozen"),
        ({"way": "lora"}, "trained from scratch"),
    ],
)
def test_settings_that_exclude_each_other(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Plan.of(TrainConfig(**settings), 100, "causal", CPU)


def test_an_encoder_cannot_be_asked_to_write() -> None:
    with pytest.raises(ConfigError, match="found a sentence encoder"):
        Plan.of(TrainConfig(backbone="x", way="full", tasks=TasksConfig(alpha=0.1)), 100, "encoder", CPU)
    assert Plan.of(TrainConfig(backbone="x", way="full"), 100, "encoder", CPU).alpha == 0
    assert Plan.of(TrainConfig(backbone="x", way="full"), 100, "causal", CPU).alpha == 0.01
    assert Plan.of(TrainConfig(), 100, "causal", CPU).alpha == 0


def test_loggers_by_name(truth: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"steps": 5, "loggers": {"csv": {}}, "matryoshka": [4]})
    run(truth, tmp_path / "m", config)
    (file,) = (tmp_path / "m" / "training" / "logs").rglob("metrics.csv")
    with file.open() as lines:
        rows = list(csv.DictReader(lines))
    assert {"loss", "contrastive", "generation", "logit_scale", "cold_recall_10"} <= rows[0].keys()
    assert not list((tmp_path / "m").rglob("events.out.tfevents*"))
    with pytest.raises(ConfigError, match=r"there is no 'os\.system'; known are"):
        make_loggers({"os.system": {}}, tmp_path, "v")
    with pytest.raises(ConfigError, match="does not take"):
        make_loggers({"csv": {"colour": 1}}, tmp_path, "v")


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_does(truth: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        SMALL.model_copy(update={"steps": 6, "objective": "pairs", "negatives": NegativesConfig(hard=1)}).to_yaml()
    )
    for name, devices in (("one", 1), ("two", 2)):
        command = [sys.executable, "-m", "noterec", "train", str(truth / "train"), "--config", str(tmp_path / "c.yaml")]
        command += ["--pairs", str(truth / "pairs.parquet"), "--valid-pairs", str(truth / "valid.parquet")]
        command += ["--valid-notes", str(truth / "data"), "--out", str(tmp_path / name), "--set", f"devices={devices}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("model version") == 1  # one of them speaks
    one, two = (NoteEncoder.from_pretrained(tmp_path / name, device="cpu").state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, atol=2e-4, rtol=1e-3)
