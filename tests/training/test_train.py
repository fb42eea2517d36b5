"""Training finds a planted truth, resumes exactly, never keeps weights worse than its start, and says what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from noterec import schema, storage
from noterec.config import LoraConfig, NegativesConfig, PromptConfig, TasksConfig, TrainConfig
from noterec.errors import ArtefactError, InputError
from noterec.model.encoder import NoteEncoder
from noterec.training import fit as fitting
from noterec.training.module import ContrastiveModule, _warm_then_cosine
from noterec.training.train import train
from tests.training import planted
from tests.training.planted import run

Folder = Callable[[str], Path]
LIMITS = PromptConfig(title_tokens=24, hashtags_tokens=4, content_tokens=4)
TINY = TrainConfig(
    vocabulary=400,
    dimension=32,
    batch_notes=64,
    lexicon=0,
    prompt=LIMITS,
    tasks=TasksConfig(alpha=0.0),
    valid_every=4,
    checkpoint_every=4,
    device="cpu",
)


def frozen(folder: Path, **more: Any) -> TrainConfig:
    """A head and word vectors on a frozen backbone."""
    settings: dict[str, Any] = dict(
        backbone=str(folder),
        dimension=24,
        batch_notes=64,
        head_branch=4,
        prompt=LIMITS,
        valid_every=4,
        checkpoint_every=4,
    )
    return TrainConfig(device="cpu", **{**settings, **more})


def weights(model: Path) -> dict[str, torch.Tensor]:
    """Everything that was trained."""
    encoder = NoteEncoder.from_pretrained(model, device="cpu")
    return {key: value.clone() for key, value in encoder.state_dict().items()}


class StoppedError(Exception):
    """Stands for whatever ends a process."""


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the training step of this number fail."""
    original = ContrastiveModule.training_step

    def failing(self: ContrastiveModule, batch: Any, batch_idx: int) -> Any:
        if int(batch) == step:
            raise StoppedError
        return original(self, batch, batch_idx)

    monkeypatch.setattr(ContrastiveModule, "training_step", failing)


def ways(backbone_folder: Folder) -> dict[str, TrainConfig]:
    return {
        "tiny full pairs": TINY.model_copy(update={"steps": 10}),
        "frozen graph": frozen(backbone_folder("llama"), steps=10),
        "full pairs with dropout": frozen(
            backbone_folder("bert"), steps=10, way="full", lexicon=20, backbone_lr=1e-3, layers=1
        ),
        "frozen pairs, hard negatives mined twice": frozen(
            backbone_folder("llama"),
            steps=10,
            objective="pairs",
            matryoshka=[8],
            negatives=NegativesConfig(logq=0.5, hard=2, hard_from=2, hard_to=30, hard_every=5),
        ),
        "lora that writes, in chunks": frozen(
            backbone_folder("qwen3"),
            steps=10,
            way="lora",
            lora=LoraConfig(rank=4, dropout=0.1),
            tasks=TasksConfig(alpha=0.5),
            chunk_notes=24,
            layers=2,
        ),
    }


def test_a_frozen_backbone_learns_what_text_cannot_tell(truth: Path, backbone_folder: Folder, tmp_path: Path) -> None:
    summary = run(
        truth, tmp_path / "m", frozen(backbone_folder("llama"), steps=40, valid_every=10, lr=1e-2, words_lr=5e-2)
    )
    assert (summary.way, summary.objective) == ("frozen", "graph")
    assert summary.zero_shot is not None
    assert summary.first is not None
    assert summary.best is not None
    # Four relevant notes a query, none sharing a word with it: what has only words finds them by chance.
    assert summary.first.recall_at_10 < 0.3
    assert summary.best.recall_at_10 > 0.6
    assert summary.best.recall_at_10 > summary.zero_shot.recall_at_10 + 0.3
    bare = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu").model.state_dict()
    start = NoteEncoder.from_pretrained(backbone_folder("llama"), device="cpu").model.state_dict()
    assert all(torch.equal(bare[key], start[key]) for key in start)  # frozen is frozen


def test_tiny_learns_what_text_cannot_tell(truth: Path, tmp_path: Path) -> None:
    summary = run(
        truth, tmp_path / "m", TINY.model_copy(update={"steps": 40, "valid_every": 10, "lr": 5e-3, "lexicon": None})
    )
    assert (summary.way, summary.objective) == ("full", "pairs")
    assert summary.first is not None
    assert summary.best is not None
    assert summary.first.recall_at_10 < 0.4
    assert summary.best.recall_at_10 > 0.7


@pytest.mark.parametrize(
    "way",
    [
        "tiny full pairs",
        "frozen graph",
        "full pairs with dropout",
        "frozen pairs, hard negatives mined twice",
        "lora that writes, in chunks",
    ],
)
def test_a_stopped_run_ends_as_an_uninterrupted_one(
    truth: Path, backbone_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    config = ways(backbone_folder)[way]
    whole = run(truth, tmp_path / "whole", config)
    for step in (2, 6, 7, 9):  # before the first checkpoint, between checkpoints, just resumed, at the end
        with monkeypatch.context() as patched:
            stop_at(patched, step)
            with pytest.raises(StoppedError):
                run(truth, tmp_path / "m", config)
        assert not (tmp_path / "m" / "noterec.json").exists()
        torch.manual_seed(step)  # another process has another state of the global generator
    resumed = run(truth, tmp_path / "m", config)
    expected = weights(tmp_path / "whole")
    found = weights(tmp_path / "m")
    assert {key for key in expected if not torch.equal(expected[key], found[key])} == set()
    assert resumed.model_version == whole.model_version
    assert (resumed.steps, resumed.best, resumed.first) == (whole.steps, whole.best, whole.first)
    assert not (tmp_path / "m" / "training" / "last.ckpt").exists()


def test_a_stop_while_saving_repeats_no_step(truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY.model_copy(update={"steps": 4})
    whole = run(truth, tmp_path / "whole", config)
    with monkeypatch.context() as patched:
        patched.setattr(NoteEncoder, "save_pretrained", lambda *_, **__: (_ for _ in ()).throw(StoppedError))
        with pytest.raises(StoppedError):
            run(truth, tmp_path / "m", config)
    with monkeypatch.context() as patched:
        patched.setattr(ContrastiveModule, "training_step", lambda *_: pytest.fail("a step was repeated"))
        resumed = run(truth, tmp_path / "m", config)
    assert resumed.model_version == whole.model_version


@pytest.mark.parametrize("way", ["tiny full pairs", "frozen graph"])
def test_training_that_only_harms_is_undone(truth: Path, backbone_folder: Folder, tmp_path: Path, way: str) -> None:
    # The relevant notes are now those of the query's own words, and the pairs pull these apart.
    own = pl.read_parquet(truth / "valid.parquet").with_columns(
        (pl.col("anchor_id").str.slice(0, 1) + pl.col("related_id").str.slice(1)).alias("related_id")
    )
    storage.write_table(schema.conform(own.to_arrow(), schema.PAIRS, name="pairs"), tmp_path / "own.parquet")
    config = ways(backbone_folder)[way].model_copy(update={"lr": 50.0, "words_lr": 50.0, "warmup": 0.0, "lexicon": 500})
    summary = run(truth, tmp_path / "m", config, valid_pairs=tmp_path / "own.parquet")
    untouched = config.model_copy(update={"steps": 0})
    start = run(truth, tmp_path / "start", untouched, valid_pairs=tmp_path / "own.parquet")
    assert summary.best is not None
    assert summary.steps > 0
    assert summary.best.step == 0
    assert summary.best == summary.first == start.best
    assert summary.model_version == start.model_version


def test_patience_ends_a_run_early(truth: Path, backbone_folder: Folder, tmp_path: Path) -> None:
    config = frozen(backbone_folder("llama"), steps=100, valid_every=2, patience=3, lr=50.0, words_lr=50.0)
    summary = run(truth, tmp_path / "m", config)
    assert summary.best is not None
    assert summary.steps == summary.best.step + 2 * 3


def test_a_finished_run_is_not_repeated(truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TINY.model_copy(update={"steps": 2})
    first = run(truth, tmp_path / "m", config)
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "m").rglob("*") if file.is_file()}
    monkeypatch.setattr(fitting, "fit", lambda *_: pytest.fail("it was trained again"))
    assert run(truth, tmp_path / "m", config) == first
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "m").rglob("*") if file.is_file()} == files


def test_other_settings_or_input_need_another_folder_or_restart(
    truth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TINY.model_copy(update={"steps": 1})
    with monkeypatch.context() as patched:
        stop_at(patched, 0)
        with pytest.raises(StoppedError):
            run(truth, tmp_path / "m", config)
    other = config.model_copy(update={"seed": 1})
    with pytest.raises(ArtefactError, match="holds an unfinished training of other settings or input"):
        run(truth, tmp_path / "m", other)
    first = run(truth, tmp_path / "m", config)
    with pytest.raises(ArtefactError, match="holds a model of other settings or input"):
        run(truth, tmp_path / "m", other)
    fewer = pl.read_parquet(truth / "pairs.parquet").head(100)
    storage.write_table(fewer.to_arrow(), tmp_path / "fewer.parquet")
    with pytest.raises(ArtefactError, match="other settings or input"):
        run(truth, tmp_path / "m", config, pairs=tmp_path / "fewer.parquet")
    replaced = run(truth, tmp_path / "m", other, restart=True)
    assert replaced.model_version != first.model_version
    assert NoteEncoder.from_pretrained(tmp_path / "m", device="cpu").model_version == replaced.model_version


def test_the_same_seed_gives_the_same_model(truth: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"steps": 3})
    versions = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        torch.manual_seed(len(name) + seed)
        versions.append(run(truth, tmp_path / name, config.model_copy(update={"seed": seed})).model_version)
    assert versions[0] == versions[1] != versions[2]


def test_a_few_unknown_pairs_are_counted_and_many_refused(truth: Path, tmp_path: Path) -> None:
    pairs = pl.read_parquet(truth / "pairs.parquet")

    def with_unknown(count: int) -> Path:
        strange = pairs.head(count).with_columns(pl.lit("nobody").alias("related_id"))
        file = tmp_path / f"pairs-{count}.parquet"
        storage.write_table(pl.concat([pairs, strange]).to_arrow(), file)
        return file

    config = TINY.model_copy(update={"steps": 1})
    summary = run(truth, tmp_path / "m", config, pairs=with_unknown(10))
    assert (summary.pairs, summary.unknown_pairs) == (pairs.height, 10)
    with pytest.raises(InputError, match="name notes that are not in the dataset"):
        run(truth, tmp_path / "n", config, pairs=with_unknown(pairs.height // 10))


def test_valid_pairs_need_their_notes(truth: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"notes that the valid pairs name are not in .* \(--valid-notes\)"):
        run(truth, tmp_path / "m", TINY.model_copy(update={"steps": 1}), valid_notes=None)


def test_without_valid_pairs_the_last_weights_are_kept(truth: Path, tmp_path: Path, caplog: Any) -> None:
    summary = run(truth, tmp_path / "m", TINY.model_copy(update={"steps": 3}), valid_pairs=None, valid_notes=None)
    assert (summary.steps, summary.zero_shot, summary.first, summary.best) == (3, None, None, None)
    assert "the last weights kept, better or not" in caplog.text


def test_batches_larger_than_the_data(truth: Path, backbone_folder: Folder, tmp_path: Path) -> None:
    for name, config in (("a", TINY), ("b", frozen(backbone_folder("llama")))):
        summary = run(truth, tmp_path / name, config.model_copy(update={"steps": 1, "batch_notes": 100_000}))
        assert summary.steps == 1


def test_a_valid_note_teaches_nothing(truth: Path, backbone_folder: Folder, tmp_path: Path) -> None:
    """Tokenizer, lexicon and first weights come from the training notes: other cold texts give the same ones."""
    other = tmp_path / "other"
    notes = pl.read_parquet(truth / "data" / "notes" / "notes.parquet")
    cold = pl.col("note_id").str.slice(4).cast(pl.Int64) < planted.COLD_EACH
    changed = notes.with_columns(pl.when(cold).then(pl.lit("leaked leaked")).otherwise("title").alias("title"))
    table = schema.conform(changed.to_arrow(), schema.NOTES, name="notes")
    storage.write_table(table, other / "notes" / "notes.parquet")
    for config in (TINY, frozen(backbone_folder("llama"), lexicon=50)):
        start = config.model_copy(update={"steps": 0})
        encoders = []
        for place in (truth / "data", other):
            run(truth, tmp_path / f"{place.name}-{config.hash}", start, valid_notes=place)
            encoders.append(NoteEncoder.from_pretrained(tmp_path / f"{place.name}-{config.hash}", device="cpu"))
        one, two = encoders
        assert one.states_version == two.states_version  # the tokenizer among other things
        if one.lexicon is not None and two.lexicon is not None:
            assert one.lexicon.words == two.lexicon.words
            assert not any("leaked" in word for word in two.lexicon.words)
            np.testing.assert_array_equal(one.lexicon.idf, two.lexicon.idf)


@pytest.mark.parametrize("update", [{"layers": 1}, {"way": "frozen"}])
def test_tiny_has_neither_layers_nor_frozen_states(truth: Path, tmp_path: Path, update: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="backbone tiny is trained from scratch"):
        run(truth, tmp_path / "m", TINY.model_copy(update=update))


def test_folders_that_are_not_ours_are_left_alone(truth: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no noterec model"):
        run(truth, tmp_path / "full", TINY)
    with pytest.raises(InputError, match="is a file"):
        run(truth, tmp_path / "full" / "thesis.txt", TINY)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.txt"]


def test_a_dataset_without_words(tmp_path: Path, truth: Path) -> None:
    table = schema.conform(pl.DataFrame({"note_id": ["a00-02", "b00-02"]}).to_arrow(), schema.NOTES, name="notes")
    storage.write_table(table, tmp_path / "d" / "notes" / "n.parquet")
    with pytest.raises(InputError, match="no note has anything to train on"):
        train(tmp_path / "d", pairs=truth / "pairs.parquet", out=tmp_path / "m", config=TINY)


def test_the_learning_rate_rises_then_falls_to_a_tenth() -> None:
    factor = _warm_then_cosine(100, 0.1)
    assert [round(factor(step), 6) for step in (0, 4, 9, 10, 55, 100)] == [0.1, 0.5, 1.0, 1.0, 0.55, 0.1]


def test_the_summary_survives_its_file(truth: Path, tmp_path: Path) -> None:
    summary = run(truth, tmp_path / "m", TINY.model_copy(update={"steps": 0}))
    record = storage.read_json(tmp_path / "m" / "training" / "train.json")
    assert record["summary"] == dataclasses.asdict(summary)
    vectors = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu").encode([{"title": "a00word1"}])
    assert np.isfinite(vectors).all()
