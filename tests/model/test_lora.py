"""Adapters change nothing at first, train alone, merge into the same function, and come back from a folder of their own."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from noterec.config import LoraConfig
from noterec.errors import ArtefactError, DependencyError, InputError
from noterec.model.backbone import Backbone, load_backbone
from noterec.model.batching import pad
from noterec.model.encoder import NoteEncoder
from noterec.model.head import Head
from noterec.model.lora import add_adapters, has_adapters, merge_adapters
from tests import backbones
from tests.model.test_encoder import LIMITS, NOTES

Folder = Callable[[str], Path]
CONFIG = LoraConfig(rank=3, alpha=6.0)
LINEAR = {"llama": 7, "qwen3": 7, "gemma2": 7, "gpt2": 4, "bert": 6}  # of a layer: attention's and the MLP's
IDS, LENGTHS = pad([np.arange(5, 25), np.arange(9, 18), np.arange(30, 71)], 0)
architectures = pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)


def adapted(folder: Path, *, layers: int | None = None, config: LoraConfig = CONFIG, noise: float = 0.05) -> Backbone:
    """A backbone whose adapters do something."""
    backbone = load_backbone(str(folder), layers=layers)
    add_adapters(backbone, config, 1)
    random = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in backbone.model.named_parameters():
            if "lora_B" in name:
                weight.copy_(noise * torch.randn(weight.shape, generator=random))
    return backbone


def encoder_of(backbone: Backbone) -> NoteEncoder:
    """With a head of its own."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return NoteEncoder(backbone, Head(backbone.hidden_size, 8), LIMITS).eval()


@torch.no_grad()
def outputs(backbone: Backbone) -> list[torch.Tensor]:
    """Hidden states, readouts, and next-token scores where there are any."""
    states = backbone.hidden(IDS, LENGTHS)
    found = [states[0, : LENGTHS[0]], backbone.readout(IDS, LENGTHS)]
    return [*found, backbone.logits(states[0, :5])] if backbone.kind == "causal" else found


@architectures
def test_new_adapters_change_nothing_and_train_alone(backbone_folder: Folder, architecture: str) -> None:
    backbone = load_backbone(str(backbone_folder(architecture)))
    before, whole = outputs(backbone), sum(weight.numel() for weight in backbone.model.parameters())
    assert not has_adapters(backbone)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # peft warns where it had to guess, as about GPT-2's transposed weights
        add_adapters(backbone, CONFIG, 1)
    assert has_adapters(backbone)
    for one, other in zip(outputs(backbone), before, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    moving = {name: weight for name, weight in backbone.model.named_parameters() if weight.requires_grad}
    assert all(".lora_A." in name or ".lora_B." in name for name in moving)
    assert len(moving) == 2 * 3 * LINEAR[architecture]  # two matrices for each linear layer of three layers
    assert not any("lm_head" in name or "pooler" in name for name in moving)
    still = sum(weight.numel() for weight in backbone.model.parameters() if not weight.requires_grad)
    assert still == whole

    backbone.readout(IDS, LENGTHS).square().sum().backward()  # every adapter is reached: none is beside an unused layer
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in moving.values())
    assert all(bool((weight.grad != 0).any()) for name, weight in moving.items() if "lora_B" in name)
    with torch.no_grad():
        for weight in moving.values():
            weight -= weight.grad
    assert not torch.allclose(outputs(backbone)[1], before[1], atol=1e-3)


def test_the_update_is_scaled_by_alpha_over_rank(backbone_folder: Folder) -> None:
    backbone = adapted(backbone_folder("llama"))
    layer: Any = backbone.model.get_submodule("model.layers.1.mlp.up_proj")
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    assert (a.shape, b.shape) == ((3, 32), (64, 3))
    expected = x @ layer.base_layer.weight.T + 2.0 * x @ a.T @ b.T
    torch.testing.assert_close(layer(x), expected)


def test_the_same_seed_draws_the_same_adapters(backbone_folder: Folder) -> None:
    def drawn(seed: int, before: int) -> list[torch.Tensor]:
        backbone = load_backbone(str(backbone_folder("gpt2")))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(before)  # whatever was drawn before
            add_adapters(backbone, CONFIG, seed)
        return [weight for name, weight in backbone.model.named_parameters() if "lora_A" in name]

    one, two, other = drawn(4, before=0), drawn(4, before=1), drawn(5, before=1)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_drawing_adapters_leaves_the_random_state_alone(backbone_folder: Folder) -> None:
    backbone = load_backbone(str(backbone_folder("llama")))
    before = torch.get_rng_state()
    add_adapters(backbone, CONFIG, 4)
    assert torch.equal(torch.get_rng_state(), before)


@architectures
def test_merging_gives_the_same_function_in_an_ordinary_model(
    backbone_folder: Folder, architecture: str, tmp_path: Path
) -> None:
    folder = backbone_folder(architecture)
    plain = load_backbone(str(folder))
    backbone = adapted(folder)
    before = outputs(backbone)
    merge_adapters(backbone)
    assert not has_adapters(backbone)
    for one, other in zip(outputs(backbone), before, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert list(backbone.model.state_dict()) == list(plain.model.state_dict())
    assert [type(module) for module in backbone.model.modules()] == [type(module) for module in plain.model.modules()]
    assert all(weight.requires_grad for weight in backbone.model.parameters())
    assert not torch.allclose(before[1], outputs(plain)[1], atol=1e-3)

    backbone.model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("adapter*"))
    backbone.tokenizer.save_pretrained(tmp_path)
    for one, other in zip(outputs(load_backbone(str(tmp_path))), outputs(backbone), strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)
    add_adapters(backbone, CONFIG, 2)  # and it can be adapted again


def test_merging_without_adapters_does_nothing(backbone_folder: Folder) -> None:
    backbone = load_backbone(str(backbone_folder("llama")))
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    merge_adapters(backbone)
    assert all(torch.equal(value, before[key]) for key, value in backbone.model.state_dict().items())


def test_adapters_upon_adapters_are_refused(backbone_folder: Folder) -> None:
    with pytest.raises(InputError, match="has adapters already"):
        add_adapters(adapted(backbone_folder("llama")), CONFIG, 1)


def test_a_model_without_linear_layers_is_refused(backbone_folder: Folder) -> None:
    backbone = load_backbone(str(backbone_folder("llama")))
    model: Any = backbone.model
    model.model.layers = nn.ModuleList()
    with pytest.raises(InputError, match="LlamaForCausalLM has no linear layers to adapt"):
        add_adapters(backbone, CONFIG, 1)


@architectures
def test_activation_checkpointing_gives_the_same_gradients(backbone_folder: Folder, architecture: str) -> None:
    gradients = []
    for checkpointing in (False, True):
        backbone = adapted(backbone_folder(architecture))
        model: Any = backbone.model
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        backbone.readout(IDS, LENGTHS).square().sum().backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.requires_grad})
        model.eval()
        with torch.inference_mode():  # as notes are encoded between two steps
            backbone.readout(IDS, LENGTHS)
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-6, rtol=1e-5)


@architectures
def test_kept_adapters_come_back_with_their_backbone(
    backbone_folder: Folder, architecture: str, tmp_path: Path
) -> None:
    encoder = encoder_of(adapted(backbone_folder(architecture), layers=2))
    encoder.save_pretrained(tmp_path / "m", origin={"by": "test"})
    files = {path.name for path in (tmp_path / "m").iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "head.safetensors", "tokenizer.json"} <= files
    assert not files & {"config.json", "model.safetensors"}  # nothing of the backbone itself
    record = json.loads((tmp_path / "m" / "noterec.json").read_text())["adapter"]
    assert (record["backbone"], record["layers"]) == (str(backbone_folder(architecture).resolve()), 2)
    again = NoteEncoder.from_pretrained(tmp_path / "m", device="cpu")
    np.testing.assert_array_equal(again.encode(NOTES), encoder.encode(NOTES))
    version = encoder.model_version
    assert again.model_version == version
    again.weights_changed()  # computed afresh from what was loaded, not read from the file
    assert again.model_version == version
    assert has_adapters(again.backbone)
    again.save_pretrained(tmp_path / "copy")
    assert NoteEncoder.from_pretrained(tmp_path / "copy", device="cpu").model_version == version

    expected = encoder.encode(NOTES)
    merge_adapters(again.backbone)
    again.weights_changed()
    again.save_pretrained(tmp_path / "merged")
    merged = NoteEncoder.from_pretrained(tmp_path / "merged", device="cpu")
    assert not has_adapters(merged.backbone)
    np.testing.assert_allclose(merged.encode(NOTES), expected, atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_peft_itself_reads_a_kept_folder(backbone_folder: Folder, architecture: str, tmp_path: Path) -> None:
    import peft
    from transformers import AutoModelForCausalLM

    encoder = encoder_of(adapted(backbone_folder(architecture)))
    encoder.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(backbone_folder(architecture)).eval()
    theirs = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    with torch.no_grad():
        hidden = encoder.backbone.hidden(IDS[2:], LENGTHS[2:])
        found = theirs(input_ids=IDS[2:]).logits[0]
        torch.testing.assert_close(encoder.backbone.logits(hidden[0]), found, atol=1e-5, rtol=1e-5)


def test_saving_one_kind_over_the_other_leaves_nothing_of_it(backbone_folder: Folder, tmp_path: Path) -> None:
    kept = encoder_of(adapted(backbone_folder("qwen3")))
    whole = encoder_of(load_backbone(str(backbone_folder("qwen3"))))
    (tmp_path / "mine.txt").write_text("a reader's own file")
    for encoder in (whole, kept, whole):
        encoder.save_pretrained(tmp_path)
        assert NoteEncoder.from_pretrained(tmp_path, device="cpu").model_version == encoder.model_version
        names = {path.name for path in tmp_path.iterdir()}
        assert ("adapter_model.safetensors" in names) == (encoder is kept)
        assert ("model.safetensors" in names) == ("config.json" in names) == (encoder is whole)
        assert "mine.txt" in names


@pytest.fixture
def kept(backbone_folder: Folder, tmp_path: Path) -> tuple[Path, Path]:
    """A folder of kept adapters, and that of their backbone, both free to be damaged."""
    base = shutil.copytree(backbone_folder("llama"), tmp_path / "base")
    encoder_of(adapted(base)).save_pretrained(tmp_path / "m")
    return tmp_path / "m", base


def test_another_backbone_is_refused(kept: tuple[Path, Path]) -> None:
    folder, base = kept
    weights = load_file(base / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][0, 0] += 1e-3
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        ArtefactError, match=r"m: its adapters were trained on weights \w{12} of .*base, but .*base now"
    ):
        NoteEncoder.from_pretrained(folder, device="cpu")


def test_a_backbone_that_is_gone_is_named(kept: tuple[Path, Path]) -> None:
    folder, base = kept
    base.rename(base.with_name("elsewhere"))
    with pytest.raises(DependencyError, match=r"m: holds adapters only, their backbone '.*base' does not load"):
        NoteEncoder.from_pretrained(folder, device="cpu")
    file = folder / "noterec.json"
    record = json.loads(file.read_text())
    record["adapter"]["backbone"] = str(base.with_name("elsewhere"))
    file.write_text(json.dumps(record))
    assert NoteEncoder.from_pretrained(folder, device="cpu").dimension == 8


@pytest.mark.parametrize("damage", ["missing", "truncated", "another", "partial", "config"])
def test_damaged_adapters_are_said_to_be_so(kept: tuple[Path, Path], damage: str) -> None:
    folder, _ = kept
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    if damage == "missing":
        file.unlink()
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "another":
        save_file({key: torch.zeros(2, 2) for key in weights}, file)
    elif damage == "partial":
        save_file(dict(list(weights.items())[1:]), file)
    else:
        (folder / "adapter_config.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"copy the model again"):
        NoteEncoder.from_pretrained(folder, device="cpu")


def test_adapters_never_replace_their_own_backbone(kept: tuple[Path, Path]) -> None:
    _, base = kept
    with pytest.raises(InputError, match="holds the backbone that the adapters need"):
        encoder_of(adapted(base)).save_pretrained(base)
    assert load_backbone(str(base)).hidden_size == 32


def test_adapters_of_a_backbone_made_in_memory_cannot_be_kept(backbone_folder: Folder, tmp_path: Path) -> None:
    backbone = adapted(backbone_folder("llama"))
    backbone.name = None
    with pytest.raises(InputError, match="could never be read again; merge them"):
        encoder_of(backbone).save_pretrained(tmp_path)


def test_a_folder_of_adapters_is_no_backbone(kept: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="holds adapters, no whole model"):
        load_backbone(str(kept[0]))


def test_dropout_of_adapters_is_off_while_encoding(backbone_folder: Folder) -> None:
    backbone = adapted(backbone_folder("llama"), config=CONFIG.model_copy(update={"dropout": 0.5}))
    encoder = encoder_of(backbone)
    expected = encoder.encode(NOTES)
    encoder.train()
    np.testing.assert_array_equal(encoder.encode(NOTES), expected)
    assert not torch.allclose(backbone.readout(IDS, LENGTHS), backbone.readout(IDS, LENGTHS))
