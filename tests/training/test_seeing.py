"""Training with pictures: what they teach is learned, what stands still stands still, and every loss is the one it says."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from noterec.config import ImagesConfig, NegativesConfig, TasksConfig, TrainConfig, VisionConfig
from noterec.engagement.table import load_pairs
from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.model.backbone import Backbone
from noterec.model.encoder import NoteEncoder
from noterec.model.vision.sight import new_tower
from noterec.notes.dataset import Dataset
from noterec.training import forward as forwarding
from noterec.training import start
from noterec.training.batches import PairBatches
from noterec.training.callbacks import KeepBest
from noterec.training.cold_recall import ColdRecall, vectors_of
from noterec.training.module import ContrastiveModule
from noterec.training.notes import new_intake, notes_of_pairs, train_notes
from noterec.training.plan import Plan, decided
from noterec.training.train import TrainSummary, train
from tests import colours, vision_models
from tests.colours import BAD, EYE, SMALL, held, named, planted, png, write_notes
from tests.training.test_train import StoppedError, stop_at, weights

Folder = Callable[[str], Path]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted platform, one picture a note."""
    return colours.write(tmp_path_factory.mktemp("colours"))


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The planted platform, with notes of none, one and two pictures."""
    return colours.write(tmp_path_factory.mktemp("several"), images=2)


@pytest.fixture(scope="module")
def eye_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pretrained vision model."""
    return vision_models.make("clip", tmp_path_factory.mktemp("clip"))


def run(platform: Path, out: Path, config: TrainConfig, **more: Any) -> TrainSummary:
    """Train on the planted platform, the cold notes being the valid ones."""
    given: dict[str, Any] = dict(
        pairs=platform / "pairs.parquet",
        valid_pairs=platform / "valid.parquet",
        valid_notes=platform / "data",
        cache=out.parent / "cache",
    )
    return train(more.pop("dataset", platform / "train"), out=out, config=config, **{**given, **more})


def changed(config: TrainConfig = SMALL, vision: dict[str, Any] | None = None, **update: Any) -> TrainConfig:
    """Other settings, of vision too."""
    seeing = config.vision.model_copy(update=vision or {})
    return config.model_copy(update={"vision": seeing, **update})


def module_of(platform: Path, config: TrainConfig) -> tuple[ContrastiveModule, PairBatches]:
    """What `train` trains, before the first step."""
    tower, intake = new_intake(config, CPU, cache=platform / "cache", image_root=None)
    notes = train_notes(Dataset(platform / "train"), intake)
    backbone = start.new_backbone(config, notes)
    plan = Plan.of(config, notes.num_rows, backbone.kind, CPU)
    encoder = start.new_encoder(config, plan, backbone, notes, tower)
    known, _ = load_pairs(platform / "pairs.parquet", pl.Series(notes["note_id"].to_pylist()))
    extra = notes.slice(0, 0)
    data = start.material(encoder, notes, extra, known, frozen=False, cache=None, batch_tokens=512, intake=intake)
    batches = PairBatches(data, plan.batch_notes, 0)
    tasks = start.new_tasks(encoder, plan, config, notes)
    return ContrastiveModule(encoder, data, batches, config, plan, tasks=tasks), batches


def gradients(
    module: ContrastiveModule, rows: np.ndarray, extra: int = 0
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The loss and its parts, and every gradient."""
    torch.manual_seed(0)
    mined = np.arange(extra)
    loss, parts = module.loss(rows, mined, module.requests(rows, 0))
    module.zero_grad()
    loss.backward()
    values = {name: float(part) for name, part in {"loss": loss.detach(), **parts}.items()}
    return values, {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def mixed_rows(module: ContrastiveModule, counts: set[int]) -> np.ndarray:
    """Pairs of the platform whose notes have all these numbers of pictures, and are of all colours."""
    data = module._material
    pictures = data.inputs.pictures
    assert pictures is not None
    order = np.argsort(
        [-abs(int(pictures.counts[a]) - int(pictures.counts[b])) for a, b in _edges(data)], kind="stable"
    )
    rows: list[int] = []
    for a, b in np.array(_edges(data))[order]:
        if a not in rows and b not in rows:
            rows += [int(a), int(b)]
    assert set(pictures.counts[rows]) == counts
    return np.array(rows[:24])


def _edges(data: Any) -> list[tuple[int, int]]:
    return [(a, b) for a, b in zip(data.anchors, data.related, strict=True) if a < b]


# What is learned


def test_a_truth_that_only_pictures_tell_is_learned(seen: Path, tmp_path: Path) -> None:
    config = changed(steps=16, valid_every=8, batch_notes=32, lr=4e-3)
    found = {}
    for name, vision in {
        "gate": EYE.model_copy(update={"micl": True, "fusion": "gate"}),
        "head": VisionConfig(encoder="tiny", image_px=colours.SIDE, tokens=0, fusion="head"),
        "blind": VisionConfig(),
    }.items():
        summary = run(seen, tmp_path / name, config.model_copy(update={"vision": vision}))
        assert summary.first is not None
        assert summary.best is not None
        found[name] = (summary.first.recall_at_10, summary.best.recall_at_10)
    # Eight of the pool's 59 others have the query's colour: chance finds a sixth of them among ten.
    assert max(found["blind"]) < 0.35
    assert found["gate"][1] > 0.9
    assert found["head"][1] > max(0.7, found["head"][0] + 0.3)


def test_a_head_on_cached_states_starts_with_what_the_pictures_tell(
    seen: Path, backbone_folder: Folder, eye_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vision = VisionConfig(encoder=str(eye_folder))
    config = SMALL.model_copy(update={"backbone": str(backbone_folder("llama")), "vision": vision, "steps": 6})
    texts: list[int] = []
    hidden = Backbone.hidden

    def counted(self: Backbone, ids: Tensor, lengths: Tensor, visual: Tensor | None = None, **options: Any) -> Tensor:
        assert visual is None
        texts.append(len(ids))
        return hidden(self, ids, lengths, visual, **options)

    monkeypatch.setattr(Backbone, "hidden", counted)
    summary = run(seen, tmp_path / "m", config)
    assert (summary.way, summary.objective) == ("frozen", "graph")
    assert summary.zero_shot is not None
    assert summary.first is not None
    assert summary.zero_shot.recall_at_10 < 0.4  # words say nothing
    assert summary.first.recall_at_10 > summary.zero_shot.recall_at_10 + 0.3
    distinct = len({row["title"] for row in planted()})
    assert sum(texts) == distinct + 2  # and a made-up note, both ways: whether the prompt's beginning can be shared
    texts.clear()
    again = run(seen, tmp_path / "n", config.model_copy(update={"seed": 1}))
    assert again.model_version != summary.model_version
    assert texts == []  # states know nothing of pictures, seeds or heads

    encoder = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    assert encoder.model_version == summary.model_version
    assert encoder.head is not None
    assert float(encoder.head.image.weight.detach().abs().max()) > 0
    assert float(encoder.head.visual_mean.abs().max()) > 0
    rows = [row for row in planted() if row["note_id"] != "0-5"]
    vectors = encoder.encode(rows)
    encoder.save_pretrained(tmp_path / "again")
    np.testing.assert_allclose(
        NoteEncoder.from_pretrained(tmp_path / "again", device="cpu").encode(rows), vectors, atol=1e-6
    )


def test_zero_shot_is_the_backbone_reading_the_text_alone(
    seen: Path, backbone_folder: Folder, eye_folder: Path, tmp_path: Path
) -> None:
    """And not what a connector and a gate that are random yet make of it."""
    base = changed(backbone=str(backbone_folder("llama")), way="full", steps=0)
    blind = run(seen, tmp_path / "blind", base.model_copy(update={"vision": VisionConfig()}))
    for fusion in ("gate", "none"):
        vision = {"encoder": str(eye_folder), "image_px": None, "fusion": fusion}
        config = changed(base, vision=vision)
        tower, intake = new_intake(config, CPU, cache=seen / "cache", image_root=None)
        notes = train_notes(Dataset(seen / "train"), intake)
        valid = pl.read_parquet(seen / "valid.parquet")
        extra, valid = notes_of_pairs(valid, Dataset(seen / "data"), intake, train=notes)
        plan = Plan.of(config, notes.num_rows, "causal", CPU)
        encoder = start.new_encoder(config, plan, start.new_backbone(config, notes), notes, tower)
        known, _ = load_pairs(seen / "pairs.parquet", pl.Series(notes["note_id"].to_pylist()))
        data = start.material(encoder, notes, extra, known, frozen=False, cache=None, batch_tokens=512, intake=intake)
        recall = ColdRecall(data, valid, queries=None, pool=None, batch_tokens=512, seed=0)
        head, sight = encoder.head, encoder.sight
        look = start.set_geometry(encoder, data, recall, config, bf16=False)
        assert look is not None
        assert (encoder.head, encoder.sight) == (head, sight)
        bare = NoteEncoder.from_backbone(config.backbone, prompt=encoder.prompt.saved, device="cpu")
        text = encoder.without_pictures(data.inputs)
        states = np.empty((len(text), bare.dimension), dtype=np.float32)
        for batch, part in bare.run(text, batch_tokens=512):
            states[batch] = part
        encoder.head = None
        assert recall.look(encoder, 0, states=states) == look
        assert recall.look(encoder, 0) != look  # as it sees at the start
    assert blind.zero_shot is not None  # a note more: one has a picture alone
    assert abs(blind.zero_shot.value - look.value) < 0.1


def test_a_batch_is_bounded_in_pictures_too(several: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(vision={"images": 2}, way="full")
    module, _ = module_of(several, config)
    encoder, inputs = module.encoder, module._material.inputs
    assert inputs.pictures is not None and encoder.sight is not None
    tower, longest = encoder.sight.tower, max(len(ids) for ids in inputs.tokens)
    assert tower.tokens == 1 + 4  # 16 px in patches of 8, and the CLS token
    counts = inputs.pictures.counts
    costs = encoder.costs([len(ids) for ids in inputs.tokens], inputs.pictures)
    assert costs.tolist() == [
        len(ids) + 5 * k for ids, k in zip(inputs.tokens, counts, strict=True)
    ]  # its weights move
    taken: list[tuple[int, int]] = []
    read = encoder.read

    def watched(ids: Tensor, lengths: Tensor, readouts: Any = None, seen: Any = None, **options: Any) -> Any:
        pictures = 0 if seen is None else len(seen.values)
        taken.append((ids.numel() + 5 * pictures, len(ids)))
        return read(ids, lengths, readouts, seen, **options)

    monkeypatch.setattr(encoder, "read", watched)
    budget = 2 * (longest + 10)
    for _ in encoder.run(inputs, batch_tokens=budget):
        pass
    rows = mixed_rows(module, {0, 1, 2})
    forward = forwarding.Forward(encoder, module._material, chunk_notes=None, batch_tokens=budget)
    with torch.no_grad():
        forward(rows)
    assert sum(notes for _, notes in taken) == len(inputs) + len(rows)
    assert all(cost <= budget for cost, _ in taken)
    assert max(notes for _, notes in taken) > 1


# What is decided


@pytest.mark.parametrize(
    ("given", "frozen", "kind", "expected"),
    [
        ({"encoder": "tiny"}, False, "causal", {"tokens": 16, "micl": True, "fusion": "gate", "train": True}),
        ({"encoder": "x"}, False, "causal", {"tokens": 16, "micl": True, "fusion": "gate", "train": False}),
        ({"encoder": "x"}, False, "encoder", {"tokens": 16, "micl": False, "fusion": "gate", "train": False}),
        ({"encoder": "x"}, True, "causal", {"tokens": 0, "micl": False, "fusion": "head", "train": False}),
        ({"encoder": "x"}, True, "encoder", {"tokens": 0, "micl": False, "fusion": "head", "train": False}),
        ({"encoder": "x", "train": True}, False, "causal", {"train": True}),
        ({"encoder": "tiny", "train": False}, True, "causal", {"tokens": 0, "fusion": "head", "train": False}),
        ({"encoder": "tiny", "tokens": 0}, False, "causal", {"tokens": 0, "micl": False, "fusion": "gate"}),
        ({"encoder": "tiny", "fusion": "none"}, False, "causal", {"tokens": 16, "micl": True, "fusion": "none"}),
        ({"encoder": "tiny", "fusion": "head"}, False, "causal", {"tokens": 16, "fusion": "head"}),
        ({"encoder": "tiny", "micl": False, "tokens": 4}, False, "causal", {"tokens": 4, "micl": False}),
        ({"encoder": "x", "tokens": 0, "fusion": "head"}, True, "causal", {"tokens": 0, "fusion": "head"}),
        ({"encoder": "tiny", "augment": True}, False, "causal", {"augment": True, "train": True}),
        ({}, True, "causal", {"encoder": "none"}),
    ],
)
def test_what_is_left_open_is_decided(given: dict[str, Any], frozen: bool, kind: Any, expected: dict[str, Any]) -> None:
    vision = VisionConfig(**given)
    plan = decided(vision, frozen=frozen, kind=kind)
    assert {name: getattr(plan, name) for name in expected} == expected
    # All that was given stays.
    assert {name: getattr(plan, name) for name in vision.model_fields_set} == given
    if vision.on:
        assert None not in (plan.tokens, plan.micl, plan.train)
        assert plan.fusion != "auto"
        assert decided(plan, frozen=frozen, kind=kind) == plan


@pytest.mark.parametrize(
    ("given", "frozen", "kind", "message"),
    [
        ({"encoder": "tiny"}, True, "causal", "way=frozen trains a head on cached states"),
        ({"encoder": "x", "tokens": 4}, True, "causal", "way=frozen trains a head on cached states"),
        ({"encoder": "x", "fusion": "gate"}, True, "causal", "way=frozen trains a head on cached states"),
        ({"encoder": "x", "fusion": "none"}, True, "causal", "way=frozen trains a head on cached states"),
        ({"encoder": "x", "train": True}, True, "causal", "way=frozen trains a head on cached states"),
        ({"encoder": "x", "micl": True}, False, "encoder", "found a sentence encoder"),
        ({"encoder": "x", "micl": True, "tokens": 0}, False, "causal", "found tokens=0"),
        ({"encoder": "x", "micl": True}, True, "causal", "found tokens=0"),
        ({"encoder": "x", "tokens": 0, "fusion": "none"}, False, "causal", "leaves the images out"),
        (
            {"encoder": "x", "tokens": 0, "connector": "mlp"},
            False,
            "causal",
            r"vision\.connector=mlp needs visual tokens",
        ),
        ({"encoder": "x", "connector_layers": 3}, True, "causal", r"vision\.connector_layers=3 needs visual tokens"),
        ({"encoder": "x", "tokens": 0, "grid": 4}, False, "causal", r"vision\.grid=4 needs visual tokens"),
        ({"encoder": "x", "visual_weight": 1.0}, True, "causal", r"vision\.visual_weight=1\.0 needs an image word"),
        ({"encoder": "x", "visual_weight": 1.0}, False, "encoder", r"vision\.visual_weight=1\.0 needs an image word"),
        (
            {"encoder": "x", "connector": "mlp", "connector_layers": 3},
            False,
            "causal",
            r"needs vision\.connector=qformer",
        ),
        ({"encoder": "x", "augment": True}, False, "causal", r"vision\.augment needs vision\.train"),
        ({"encoder": "tiny", "train": False, "augment": True}, False, "causal", r"needs vision\.train"),
    ],
)
def test_settings_that_exclude_each_other(given: dict[str, Any], frozen: bool, kind: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        decided(VisionConfig(**given), frozen=frozen, kind=kind)


def test_the_plan_decides_by_the_way_of_the_backbone() -> None:
    plan = Plan.of(TrainConfig(backbone="x", vision=VisionConfig(encoder="y")), 100, "causal", CPU)
    assert (plan.way, plan.vision.fusion, plan.vision.tokens) == ("frozen", "head", 0)
    plan = Plan.of(TrainConfig(backbone="x", way="lora", vision=VisionConfig(encoder="y")), 100, "causal", CPU)
    assert (plan.vision.fusion, plan.vision.tokens, plan.vision.micl) == ("gate", 16, True)
    with pytest.raises(ConfigError, match=r"or use way full or lora"):
        Plan.of(TrainConfig(backbone="x", vision=VisionConfig(encoder="tiny")), 100, "causal", CPU)


# What moves


def test_every_part_gets_gradients_and_a_tiny_eye_learns(seen: Path) -> None:
    module, batches = module_of(seen, SMALL)
    _, found = gradients(module, batches.rows(0))
    alive = {name for name, gradient in found.items() if float(gradient.abs().max()) > 0}
    for part in ("sight.tower.model.embeddings.patch", "sight.connector.queries", "sight.connector.map", "sight.gate"):
        assert any(part in name for name in alive), part
    assert "logit_scale" in alive
    assert any(name.endswith("head.linear.weight") for name in alive)
    fused, batches = module_of(seen, changed(vision={"fusion": "head"}))
    _, found = gradients(fused, batches.rows(0))
    (image,) = [gradient for name, gradient in found.items() if name.endswith("head.image.weight")]
    assert float(image.abs().max()) > 0
    optimiser = fused.configure_optimizers()["optimizer"]
    held_by = [id(p) for group in optimiser.param_groups for p in group["params"]]
    assert sorted(held_by) == sorted({id(p) for p in fused.parameters() if p.requires_grad})  # each once


def test_an_eye_that_stands_still_is_neither_moved_nor_kept_in_checkpoints(
    seen: Path, eye_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = changed(vision={"encoder": str(eye_folder), "image_px": None}, steps=6)
    kept: list[set[str]] = []
    with monkeypatch.context() as patched:
        stop_at(patched, 5)
        with pytest.raises(StoppedError):
            run(seen, tmp_path / "m", config)
    checkpoint = torch.load(tmp_path / "m" / "training" / "last.ckpt", weights_only=True)
    kept.append(set(checkpoint["state_dict"]))
    kept.append(set(load_file(tmp_path / "m" / "training" / "best.safetensors")))
    for names in kept:
        assert any("sight.connector" in name for name in names)
        assert any("sight.gate" in name for name in names)
        assert not any("tower" in name for name in names)
    run(seen, tmp_path / "m", config)
    trained = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    before = new_tower(config.vision, seed=0, device=CPU)
    assert trained.sight is not None
    assert trained.sight.tower.version == before.version
    assert not any(parameter.requires_grad for parameter in trained.sight.tower.parameters())
    moving, batches = module_of(seen, changed(vision={"encoder": str(eye_folder), "image_px": None, "train": True}))
    _, found = gradients(moving, batches.rows(0))
    assert any("sight.tower" in name and float(gradient.abs().max()) > 0 for name, gradient in found.items())
    groups = moving.configure_optimizers()["optimizer"].param_groups
    of_tower = {id(p) for p in moving.encoder.sight.tower.parameters() if p.requires_grad}  # type: ignore[union-attr]
    (group,) = [g for g in groups if of_tower & {id(p) for p in g["params"]}]
    assert {id(p) for p in group["params"]} == of_tower
    assert group["initial_lr"] == 5e-5  # pretrained weights move slowly


def test_a_pretrained_eye_keeps_its_own_rate_beside_adapters_or_a_rate_that_was_given(
    seen: Path, backbone_folder: Folder, eye_folder: Path
) -> None:
    vision = {"encoder": str(eye_folder), "image_px": None, "train": True}
    for way, given, expected in (("lora", None, 3e-4), ("lora", 1e-3, 1e-3), ("full", 2e-4, 2e-4)):
        config = changed(vision=vision, backbone=str(backbone_folder("llama")), way=way, backbone_lr=given)
        module, _ = module_of(seen, config)
        groups = module.configure_optimizers()["optimizer"].param_groups
        rate = {id(p): group["initial_lr"] for group in groups for p in group["params"]}
        assert module.encoder.sight is not None
        assert {rate[id(p)] for p in module.encoder.sight.tower.parameters() if p.requires_grad} == {5e-5}
        assert {rate[id(p)] for p in module.encoder.model.parameters() if p.requires_grad} == {expected}


# The loss of the image word


def _by_hand(vectors: np.ndarray, scale: float, related: np.ndarray) -> float:
    """The symmetric contrastive loss of rows in pairs (arXiv:2403.01744, eq. 2), known relations left out."""
    losses = []
    for anchor in range(len(vectors)):
        partner = anchor ^ 1
        others = [j for j in range(len(vectors)) if j != anchor and (j == partner or not related[anchor, j])]
        logits = np.array([scale * vectors[anchor] @ vectors[j] for j in others])
        losses.append(np.log(np.exp(logits).sum()) - scale * vectors[anchor] @ vectors[partner])
    return float(np.mean(losses))


@pytest.mark.parametrize("weight", [1 / 9, 1.0, 0.0])
def test_the_image_words_loss_is_that_of_pairs_that_can_both_be_seen(seen: Path, weight: float) -> None:
    module, _ = module_of(seen, changed(vision={"visual_weight": weight}))
    data = module._material
    row = {str(name): place for place, name in enumerate(data.ids[: data.train])}
    # By colour: 0-3 and 2-5 have no picture, 0-5 a bad one.
    names = ["0-2", "0-4", "1-2", "1-3", "0-3", "0-6", "2-2", "2-5", "3-2", "3-4", "0-5", "0-8"]
    rows = np.array([row[name] for name in names])
    assert [names[i] for i in np.flatnonzero(~data.pictured[rows])] == ["0-3", "2-5", "0-5"]
    vectors = F.normalize(torch.randn(len(rows), 5, generator=torch.Generator().manual_seed(0)), dim=1)
    parts: dict[str, Tensor] = {}
    nothing = np.zeros(0, dtype=np.int64)
    loss = module._with_images(torch.tensor(2.0), vectors, rows, nothing, parts)
    seen_rows = [0, 1, 2, 3, 8, 9]  # pairs 0, 1 and 4
    colour = np.array([names[i][0] for i in seen_rows])
    scale = float(module.logit_scale.detach().exp())
    expected = _by_hand(vectors[seen_rows].double().numpy(), scale, colour[:, None] == colour)
    assert float(parts["visual"]) == pytest.approx(expected, rel=1e-5)
    assert float(loss.detach()) == pytest.approx((2.0 + weight * expected) / (1 + weight), rel=1e-5)

    for few in ([0, 1, 4, 5], [4, 5, 6, 7], [0, 1]):  # fewer than two pairs: no negative
        parts = {}
        alone = module._with_images(torch.tensor(2.0), vectors[few], rows[few], nothing, parts)
        assert (float(alone), parts) == (2.0, {})


def test_mined_negatives_of_the_image_word_have_pictures_too(seen: Path) -> None:
    module, _ = module_of(seen, changed(negatives=NegativesConfig(mask_related=False)))
    data = module._material
    row = {str(name): place for place, name in enumerate(data.ids[: data.train])}
    rows = np.array([row[name] for name in ("0-2", "0-4", "1-2", "1-3")])
    extra = np.array([row[name] for name in ("2-5", "4-2")])  # without and with a picture
    vectors = F.normalize(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)), dim=1)
    found: list[float] = []
    for change in (0.0, 3.0):  # what the word of a note without a picture says, says nothing
        parts: dict[str, Tensor] = {}
        vectors[4] += change
        module._with_images(torch.tensor(2.0), vectors, rows, extra, parts)
        found.append(float(parts["visual"]))
    assert found[0] == found[1]
    scale = float(module.logit_scale.detach().exp())
    cosines = scale * (vectors[:4] @ vectors[[0, 1, 2, 3, 5]].T).double().numpy()
    losses = [
        np.log(np.exp(np.delete(cosines[anchor], anchor)).sum()) - cosines[anchor, anchor ^ 1] for anchor in range(4)
    ]
    assert found[0] == pytest.approx(float(np.mean(losses)), rel=1e-5)


def test_a_step_has_both_losses_in_the_papers_proportion(seen: Path) -> None:
    module, batches = module_of(seen, SMALL)
    values, _ = gradients(module, batches.rows(0))
    expected = (9 * values["contrastive"] + values["visual"]) / 10
    assert values["loss"] == pytest.approx(expected, rel=1e-6)
    wordless, batches = module_of(seen, changed(vision={"micl": False}))
    assert set(gradients(wordless, batches.rows(0))[0]) == {"loss", "contrastive"}


def test_the_embeddings_of_a_step_are_those_of_inference(several: Path) -> None:
    module, _ = module_of(several, changed(vision={"images": 2, "augment": True}, lexicon=20))
    rows = mixed_rows(module, {0, 1, 2})
    module.eval()  # so nothing is augmented
    with torch.no_grad():
        embeddings, _, _ = module._forward(rows)
    assert embeddings.shape[1] == 2
    inputs = module._material.inputs.take(rows)
    pictured = np.flatnonzero(module._material.pictured[rows])
    for image_word, chosen in ((False, np.arange(len(rows))), (True, pictured)):
        expected = np.empty((len(chosen), 16), dtype=np.float32)
        for batch, part in module.encoder.run(inputs.take(chosen), batch_tokens=100, image_word=image_word):
            expected[batch] = part
        np.testing.assert_allclose(embeddings[chosen, int(image_word)].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("fusion", ["gate", "head"])
def test_chunks_change_neither_loss_nor_gradients(several: Path, fusion: str) -> None:
    config = changed(vision={"images": 2, "fusion": fusion}, tasks=TasksConfig(alpha=0.5), lexicon=20)
    module, _ = module_of(several, config)
    rows = mixed_rows(module, {0, 1, 2})
    values, expected = gradients(module, rows, extra=5)
    assert {"contrastive", "visual", "generation"} < set(values)
    for chunk in (1, 7, 1000):
        chunked, _ = module_of(several, config.model_copy(update={"chunk_notes": chunk}))
        again, found = gradients(chunked, rows, extra=5)
        assert again == pytest.approx(values, abs=1e-5)
        assert found.keys() == expected.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(
                found[name], gradient, atol=2e-6, rtol=1e-3, msg=lambda told, name=name: f"{name}: {told}"
            )


def test_the_written_loss_is_hugging_faces_own(several: Path) -> None:
    module, _ = module_of(several, changed(vision={"images": 2}, tasks=TasksConfig(alpha=0.5)))
    rows = mixed_rows(module, {0, 1, 2})
    module.eval()
    encoder, pictures = module.encoder, module._material.inputs.pictures
    assert encoder.sight is not None
    assert pictures is not None
    examples = module._forward.examples(rows, module.requests(rows, 0))
    table = encoder.model.get_input_embeddings().weight
    with torch.no_grad():
        _, written, count = module._forward(rows, module.requests(rows, 0))
        total, tokens = 0.0, 0
        for row, example in zip(rows, examples, strict=True):
            embedded = torch.stack([table[max(int(i), 0)] for i in example.ids])  # (T, H)
            slots = np.flatnonzero(example.ids < 0)
            assert len(slots) == 2 * len(pictures.rows[row])
            if len(slots):
                pixels = torch.from_numpy(pictures.gallery.take(pictures.rows[row]))
                visual = encoder.sight.connector(encoder.sight.tower(pixels))  # type: ignore[misc]
                embedded[slots] = visual.flatten(0, 1)
            labels = torch.from_numpy(example.ids.copy())[None]
            labels[:, : example.output] = -100
            n = len(example.ids) - example.output
            total += float(encoder.model(inputs_embeds=embedded[None], labels=labels).loss) * n
            tokens += n
    assert int(count) == tokens > len(rows)
    assert float(written) == pytest.approx(total, rel=1e-4)


# Runs


@pytest.mark.parametrize("eye", ["tiny, augmented", "standing still"])
def test_a_stopped_run_ends_as_an_uninterrupted_one(
    seen: Path, eye_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eye: str
) -> None:
    vision = {"augment": True} if eye != "standing still" else {"encoder": str(eye_folder), "image_px": None}
    config = changed(vision=vision, steps=5, chunk_notes=10, checkpoint_every=2, valid_every=2)
    whole = run(seen, tmp_path / "whole", config)
    for step in (1, 3, 4):  # before the first checkpoint, between checkpoints, at the end
        with monkeypatch.context() as patched:
            stop_at(patched, step)
            with pytest.raises(StoppedError):
                run(seen, tmp_path / "m", config)
        torch.manual_seed(step)
    resumed = run(seen, tmp_path / "m", config)
    expected, found = weights(tmp_path / "whole"), weights(tmp_path / "m")
    assert {key for key in expected if not torch.equal(expected[key], found[key])} == set()
    assert resumed.model_version == whole.model_version
    assert (resumed.steps, resumed.best) == (whole.steps, whole.best)


def test_training_pictures_are_changed_by_the_seed_and_looks_see_them_as_they_are(
    seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []
    original = forwarding.augment

    def counted(pixels: Tensor, seed: Any) -> Tensor:
        seeds.append(seed)
        return original(pixels, seed)

    looks: list[int] = []
    look = KeepBest._look

    def watched(self: KeepBest, *rest: Any) -> None:
        before = len(seeds)
        look(self, *rest)
        looks.append(len(seeds) - before)

    monkeypatch.setattr(forwarding, "augment", counted)
    monkeypatch.setattr(KeepBest, "_look", watched)
    config = changed(vision={"augment": True}, steps=3, valid_every=1)
    versions = [run(seen, tmp_path / name, config).model_version for name in ("a", "b")]
    assert versions[0] == versions[1]
    assert looks == [0] * 8  # four looks a run
    steps = [seed for seed in seeds if seed < 1_000_003]
    assert set(steps) >= {0, 1, 2}  # another draw at every step
    seeds.clear()
    assert run(seen, tmp_path / "c", changed(steps=3, valid_every=1)).model_version != versions[0]
    assert seeds == []

    module, batches = module_of(seen, config)
    rows = batches.rows(0)
    inference = module.encoder.encode([row for row in planted() if row["note_id"] in set(module._material.ids[rows])])
    ids = [row["note_id"] for row in planted() if row["note_id"] in set(module._material.ids[rows])]
    at_look = vectors_of(module.encoder, module._material, rows, 512)
    of = dict(zip(module._material.ids[rows], at_look, strict=True))
    np.testing.assert_allclose([of[name] for name in ids], inference, atol=1e-3)  # where features are in float16


def test_other_pictures_are_another_run(seen: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = changed(steps=1)
    rows = [row for row in planted() if int(row["note_id"][2:]) >= colours.COLD_EACH]
    data = write_notes(tmp_path / "d", rows)
    with monkeypatch.context() as patched:
        stop_at(patched, 0)
        with pytest.raises(StoppedError):
            run(seen, tmp_path / "m", config, dataset=data)
    (place,) = [i for i, row in enumerate(rows) if row["note_id"] == "1-2"]
    other = [{**row, "images": [held(png(1, 500))]} if i == place else row for i, row in enumerate(rows)]
    write_notes(data, other)
    with pytest.raises(ArtefactError, match="holds an unfinished training of other settings or input"):
        run(seen, tmp_path / "m", config, dataset=data)
    write_notes(data, rows)
    strict = config.model_copy(update={"images": ImagesConfig(min_side_px=colours.SIDE)})
    with pytest.raises(ArtefactError, match="other settings or input"):  # limits decide which pictures are seen
        run(seen, tmp_path / "m", strict, dataset=data)
    faster = config.model_copy(update={"images": ImagesConfig(cache_gib=1, workers=0)})
    assert run(seen, tmp_path / "m", faster, dataset=data).steps == 1


def test_another_eye_in_the_same_folder_is_another_run(
    seen: Path, backbone_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    eye = vision_models.make("clip", tmp_path / "eye")
    vision = VisionConfig(encoder=str(eye))
    config = SMALL.model_copy(update={"backbone": str(backbone_folder("llama")), "vision": vision, "steps": 1})
    with monkeypatch.context() as patched:
        stop_at(patched, 0)
        with pytest.raises(StoppedError):
            run(seen, tmp_path / "m", config)
    other = load_file(eye / "model.safetensors")
    name = min(other)
    save_file({**other, name: other[name] + 0.1}, eye / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ArtefactError, match="holds an unfinished training of other settings or input"):
        run(seen, tmp_path / "m", config)


def test_without_a_usable_picture_there_is_nothing_to_see(seen: Path, tmp_path: Path) -> None:
    config = changed(steps=1)
    rows = [row for row in planted() if int(row["note_id"][2:]) >= colours.COLD_EACH and row["title"]]
    bare = write_notes(tmp_path / "bare", [{**row, "images": None} for row in rows])
    with pytest.raises(InputError, match="no note has a usable picture: the images column is empty"):
        run(seen, tmp_path / "m", config, dataset=bare)
    bad = write_notes(tmp_path / "bad", [{**row, "images": [held(BAD)]} for row in rows])
    with pytest.raises(InputError, match=r"no note has a usable picture; the first: .*JPEG"):
        run(seen, tmp_path / "m", config, dataset=bad)
    assert not (tmp_path / "m").exists()


def test_pictures_by_path_need_their_folder(seen: Path, tmp_path: Path) -> None:
    root = tmp_path / "files"
    root.mkdir()
    rows = [row for row in planted() if int(row["note_id"][2:]) >= colours.COLD_EACH]
    by_path = []
    for row in rows:
        for entry in row["images"] or []:
            (root / f"{row['note_id']}.png").write_bytes(entry["bytes"])
        by_path.append({**row, "images": [named(f"{row['note_id']}.png")] if row["images"] else None})
    data = write_notes(tmp_path / "d", by_path)
    config = changed(steps=1)
    with pytest.raises(InputError, match="--image-root"):
        run(seen, tmp_path / "none", config, dataset=data)
    there = run(seen, tmp_path / "m", config, dataset=data, image_root=root)
    held_version = run(seen, tmp_path / "bytes", config).model_version
    assert there.model_version == held_version  # the same pictures, however they came
    with pytest.raises(ConfigError, match="image_root is given"):
        blind = config.model_copy(update={"vision": VisionConfig()})
        run(seen, tmp_path / "blind", blind, dataset=data, image_root=root)
    with pytest.raises(InputError, match="no such folder"):
        run(seen, tmp_path / "gone", config, dataset=data, image_root=tmp_path / "nowhere")


def test_notes_with_pictures_alone_are_trained_on(seen: Path, tmp_path: Path) -> None:
    summary = run(seen, tmp_path / "m", changed(steps=1))
    assert summary.train_notes == 48  # one has a bad picture and its words, one has a picture and no words
    assert (
        run(seen, tmp_path / "blind", changed(steps=1).model_copy(update={"vision": VisionConfig()})).train_notes == 47
    )


@pytest.mark.slow
def test_two_processes_train_the_model_that_one_does(several: Path, tmp_path: Path) -> None:
    config = changed(vision={"images": 2, "augment": False}, steps=6, tasks=TasksConfig(alpha=0.1))
    (tmp_path / "c.yaml").write_text(config.to_yaml())
    for name, devices in (("one", 1), ("two", 2)):
        command = [
            sys.executable,
            "-m",
            "noterec",
            "train",
            str(several / "train"),
            "--config",
            str(tmp_path / "c.yaml"),
        ]
        command += ["--pairs", str(several / "pairs.parquet"), "--valid-pairs", str(several / "valid.parquet")]
        command += ["--valid-notes", str(several / "data"), "--out", str(tmp_path / name)]
        done = subprocess.run(
            [*command, "--set", f"devices={devices}"], capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("model version") == 1
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        if not name.endswith(("k_proj.bias", "key.bias")):  # no softmax feels them: their gradients are rounding
            torch.testing.assert_close(
                two[name], value, atol=2e-4, rtol=1e-3, msg=lambda told, name=name: f"{name}: {told}"
            )


def test_what_is_left_open_is_decided_once_for_training_and_for_the_saved_model(seen: Path, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(
        {**SMALL.model_dump(), "steps": 2, "vision": {"encoder": "tiny", "image_px": 16}}
    )
    run(seen, tmp_path / "m", config)
    loaded = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    saved = loaded.model_version
    loaded.weights_changed()
    assert loaded.model_version == saved
    assert loaded.sight is not None and loaded.sight.tower.feature_shape[0] == 1 + 4  # patches, not the summary alone


def test_notes_that_show_the_same_picture_are_no_negatives_of_each_others_image_words(seen: Path) -> None:
    module, _ = module_of(seen, changed(vision={"micl": True}))
    data = module._material
    assert data.inputs.pictures is not None
    first, second = np.flatnonzero(data.pictured)[:2]
    data.inputs.pictures.rows[second] = data.inputs.pictures.rows[first]
    assert data.same_images(np.array([first]), np.array([second])).all()
    assert not data.same(np.array([first]), np.array([second])).any()


def test_processes_that_could_use_other_pictures_do_not_train_together(
    seen: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, _ = module_of(seen, changed())
    module.on_train_start()
    monkeypatch.setattr("noterec.training.module.from_first", lambda table, device: table + 1)
    with pytest.raises(InputError, match="other notes or pictures than process 0"):
        module.on_train_start()
    signature = module._material.signature
    other, _ = module_of(seen, changed())
    pictures = other._material.inputs.pictures
    assert pictures is not None and other._material.signature == signature
    del other._material.__dict__["signature"]
    pictures.rows[int(np.flatnonzero(other._material.pictured)[0])] = np.zeros(0, dtype=np.int64)
    assert other._material.signature != signature
