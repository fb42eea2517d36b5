"""Accelerated copies: what they compute, what they share with the original, and what they refuse."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from noterec.config import LoraConfig, PromptConfig
from noterec.errors import ConfigError
from noterec.model import kernels, linears, rounding
from noterec.model.encoder import NoteEncoder
from noterec.model.linears import Columns, HalfLinear, Int8Linear, Int8WeightLinear, PackedLinear, Slot
from noterec.model.lora import add_adapters
from noterec.notes.note import Note
from tests import backbones
from tests.model.test_seeing import NOTES as SHOWN
from tests.model.test_seeing import seeing

Folder = Callable[[str], Path]
LIMITS = PromptConfig(title_tokens=12, hashtags_tokens=12, content_tokens=24)
NOTES = [Note(title=f"Note {i}", content="cold brew, films " * (i % 5)) for i in range(10)]


@pytest.fixture
def encoder(backbone_folder: Folder) -> NoteEncoder:
    return NoteEncoder.from_backbone(str(backbone_folder("llama")), prompt=LIMITS, device="cpu")


def layer(outputs: int, inputs: int, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = nn.Linear(inputs, outputs, bias=bias)
        nn.init.normal_(made.weight)
    return made.requires_grad_(False)


def rows(count: int, size: int, *, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("transposed", [True, False])
def test_every_kind_multiplies_like_the_layer_it_replaces(bias: bool, transposed: bool) -> None:
    from transformers.pytorch_utils import Conv1D

    plain: Any = layer(48, 64, bias=bias or transposed)
    if transposed:
        conv = Conv1D(48, 64).requires_grad_(False)
        conv.weight.copy_(plain.weight.T)
        conv.bias.copy_(plain.bias)
        plain = conv
    x = rows(30, 64).view(5, 6, 64)
    expected = plain(x)
    size = float(expected.std())
    kinds = {PackedLinear(plain): 1e-6, HalfLinear(plain): 2e-2, Int8WeightLinear(plain): 3e-2}
    kinds[Int8Linear(plain, Columns(torch.ones(64)), Slot())] = 5e-2
    for replaced, tolerance in kinds.items():
        found = replaced(x)
        assert found.dtype == torch.float32 and found.shape == expected.shape
        assert float((found - expected).abs().max()) < tolerance * size * 3, type(replaced).__name__


def test_integers_are_what_they_are_by_hand() -> None:
    """Too few columns for spare ones: one scale a row and one an output, as anybody would do it."""
    plain = nn.Linear(2, 2, bias=False).requires_grad_(False)
    plain.weight.copy_(torch.tensor([[1.0, -2.0], [0.5, 0.25]]))
    x = torch.tensor([[4.0, -1.0]])
    found = Int8Linear(plain, Columns(torch.ones(2)), Slot())(x)
    # x in steps of 4/127: 127, -32 (31.75 rounds up in size); weights: 64 (63.5), -127 in steps of 2/127; 127, 64 of 0.5/127.
    products = np.array([127 * 64 + 32 * 127, 127 * 127 - 32 * 64])
    np.testing.assert_allclose(found.numpy()[0], products * (4 / 127) * np.array([2, 0.5]) / 127, rtol=1e-5)


def test_a_split_column_is_as_fine_as_a_whole_one_with_more_levels() -> None:
    """Hermite's identity: the copies of a column add up to its value in the steps of the small ones."""
    size = 64
    sizes = torch.ones(size)
    sizes[7] = 9.0
    columns = Columns(sizes)
    x = rows(200, size)
    x[:, 7] *= 9
    steps, scale = columns.rounded(x)  # (M, K'), (M, 1)
    assert steps.shape[1] == 96  # 64 and an eighth, up to a multiple of 32
    source = columns._source
    added = torch.zeros(200, size).index_add(1, source, steps.float())  # (M, K)
    np.testing.assert_array_less((added * scale - x).abs().numpy(), 0.5001 * scale.expand(-1, size).numpy())
    one = x.abs().amax(dim=1, keepdim=True) / 127
    assert float((scale / one).mean()) < 0.5  # so much finer


def test_a_row_of_zeros_and_rows_of_any_size_keep_their_own_scale() -> None:
    plain = layer(32, 64, bias=False)
    exact = Int8Linear(plain, Columns(torch.ones(64)), Slot())
    x = rows(3, 64) * torch.tensor([[0.0], [1e-8], [1e8]])
    found, expected = exact(x), plain(x)
    assert not found[0].any()
    for row in (1, 2):
        assert float((found[row] - expected[row]).norm() / expected[row].norm()) < 0.03
    np.testing.assert_array_equal(found[1:2].numpy(), exact(x[1:2].clone()).numpy())


def test_what_was_rounded_last_is_used_for_the_same_input_alone() -> None:
    slot = Slot()
    columns = Columns(torch.ones(64))
    one, other = rows(4, 64), rows(4, 64, seed=2)
    assert slot.rounded(columns, one) is slot.rounded(columns, one)
    assert slot.rounded(columns, other) is not slot.rounded(Columns(torch.ones(64)), other)
    np.testing.assert_array_equal(slot.rounded(columns, one)[0].numpy(), columns.rounded(one)[0].numpy())


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999999), ("bf16", 0.999), ("int8", 0.999)])
def test_every_architecture_in_every_precision(
    backbone_folder: Folder, architecture: str, precision: Any, least: float
) -> None:
    encoder = NoteEncoder.from_backbone(str(backbone_folder(architecture)), prompt=LIMITS, device="cpu")
    fast = encoder.accelerated(precision)
    found = fast.encode(NOTES)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    assert (found * encoder.encode(NOTES)).sum(axis=1).min() > least
    left = [module for module in fast.backbone.trunk.modules() if linears.is_linear(module)]
    assert precision == "fp32" or all(module.weight.shape[0] == 32 for module in left)  # bert's pooler
    assert (fast.model_version, fast.states_version) == (encoder.model_version, encoder.states_version)


def test_a_trunk_that_reaches_for_its_weights_is_refused_or_left_alone(
    encoder: NoteEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    block: Any = type(encoder.backbone.trunk.layers[0].mlp)  # type: ignore[union-attr, index]
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda self, x: forward(self, x + 0 * self.up_proj.weight.sum()))
    monkeypatch.setattr(kernels, "_packing_pays", lambda *_, **__: True)
    monkeypatch.setattr(rounding, "rounded_layers", lambda *_: {})  # all are packed: none has a weight any more
    monkeypatch.setattr(kernels, "fast_bf16", lambda _: False)
    with pytest.raises(ConfigError, match=r"precision=int8: LlamaModel doesn't run so .*weight.*"):
        encoder.accelerated("int8")
    with caplog.at_level(logging.WARNING):
        fast = encoder.accelerated("fp32")
    assert "stay as they are" in caplog.text
    np.testing.assert_allclose(fast.encode(NOTES), encoder.encode(NOTES), atol=1e-6)


def test_layers_that_lose_too_much_are_kept(encoder: NoteEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """One group's products are made most of the states, so its rounding is most of their noise."""
    trunk: Any = encoder.backbone.trunk
    with torch.no_grad():
        for block in trunk.layers:
            block.mlp.down_proj.weight.mul_(50)
    monkeypatch.setattr(rounding, "MAX_NOISE", 1e-4)
    fast: Any = encoder.accelerated("int8").backbone.trunk
    kinds = {name: type(module).__name__ for name, module in fast.layers[0].named_modules()}
    assert kinds["self_attn.q_proj"] == "Int8Linear"
    assert kinds["mlp.down_proj"] != "Int8Linear"
    query, key = fast.layers[0].self_attn.q_proj, fast.layers[0].self_attn.k_proj
    assert query._columns is key._columns and query._slot is fast.layers[2].self_attn.k_proj._slot
    assert query._columns is not fast.layers[1].self_attn.q_proj._columns


def test_the_choice_asks_no_clock(encoder: NoteEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_clock(_: Any) -> float:
        raise AssertionError("a clock decides")

    monkeypatch.setattr(kernels, "_seconds", no_clock)
    monkeypatch.setattr(kernels, "fast_bf16", lambda _: False)
    one, other = encoder.accelerated("int8").encode(NOTES), encoder.accelerated("int8").encode(NOTES)
    np.testing.assert_array_equal(one, other)


def test_adapters_are_merged_in_the_copy_alone(encoder: NoteEncoder) -> None:
    add_adapters(encoder.backbone, LoraConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, parameter in encoder.model.named_parameters():
            if "lora_B" in name:
                nn.init.normal_(parameter, std=0.1)
    state = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    frozen = {name: parameter.requires_grad for name, parameter in encoder.model.named_parameters()}
    expected = encoder.encode(NOTES)
    np.testing.assert_allclose(encoder.accelerated().encode(NOTES), expected, atol=1e-5)
    assert (encoder.accelerated("int8").encode(NOTES) * expected).sum(axis=1).min() > 0.99
    assert {name: parameter.requires_grad for name, parameter in encoder.model.named_parameters()} == frozen
    for name, value in encoder.model.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_original_stays_as_it_was(encoder: NoteEncoder, precision: Any) -> None:
    encoder.train()
    version, modes = encoder.model_version, [module.training for module in encoder.modules()]
    grads = [parameter.requires_grad for parameter in encoder.parameters()]
    fast = encoder.accelerated(precision)
    fast.encode(NOTES)
    assert [module.training for module in encoder.modules()] == modes
    assert [parameter.requires_grad for parameter in encoder.parameters()] == grads
    encoder.weights_changed()
    assert encoder.model_version == version


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_encoder_that_sees(backbone_folder: Folder, precision: Any) -> None:
    """Visual tokens stand before the prompt, so such a note is computed whole, beside others that aren't."""
    encoder = seeing(backbone_folder("qwen3"), lexicon=True).train()
    many = SHOWN + [Note(title=f"Text {i}") for i in range(8)]
    fast = encoder.accelerated(precision)
    cosines = (fast.encode(many) * encoder.encode(many)).sum(axis=1)
    assert cosines.min() > (0.999 if precision == "int8" else 0.99999)
    assert encoder.head is not None and encoder.head.training and encoder.sight is not None and encoder.sight.training
    assert fast.sight is not None
    ours, theirs = next(encoder.sight.tower.parameters()), next(fast.sight.tower.parameters())
    assert ours.data_ptr() == theirs.data_ptr()


def test_weights_are_shared_and_freed(backbone_folder: Folder) -> None:
    encoder = NoteEncoder.from_backbone(
        str(backbone_folder("llama")), prompt=LIMITS, device="cpu"
    )  # no fixture holds it
    fast = encoder.accelerated("int8")
    trunk: Any = encoder.backbone.trunk
    assert fast.backbone.trunk.embed_tokens.weight.data_ptr() == trunk.embed_tokens.weight.data_ptr()  # type: ignore[union-attr]
    replaced = weakref.ref(trunk.layers[0].self_attn.q_proj.weight)
    expected = fast.encode(NOTES)
    del encoder, trunk
    gc.collect()
    assert replaced() is None
    np.testing.assert_array_equal(fast.encode(NOTES), expected)


def test_what_a_copy_cannot_do(encoder: NoteEncoder, tmp_path: Path) -> None:
    fast = encoder.accelerated("bf16")
    for wrong, said in (
        (lambda: fast.accelerated("int8"), "accelerated already"),
        (lambda: fast.save_pretrained(tmp_path), "save the encoder itself"),
        (fast.weights_changed, "change the encoder itself"),
        (lambda: fast.generate(NOTES), "write with the encoder itself"),
    ):
        with pytest.raises(ConfigError, match=said):
            wrong()


def test_what_a_device_or_a_model_does_not_have(
    encoder: NoteEncoder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ConfigError, match="fp16: a CPU doesn't multiply it"):
        encoder.accelerated("fp16")
    with pytest.raises(ConfigError, match="expected one of fp32, bf16, fp16, int8"):
        encoder.accelerated("int4")  # type: ignore[arg-type]
    monkeypatch.setattr(kernels, "fast_bf16", lambda _: False)
    with caplog.at_level(logging.WARNING):
        encoder.accelerated("bf16")
    assert "no hardware for it" in caplog.text
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: torch.zeros(len(a), b.shape[1], dtype=torch.int32))
    with pytest.raises(ConfigError, match="overflow"):
        encoder.accelerated("int8")
    monkeypatch.setattr(kernels, "is_linear", lambda _: False)
    with pytest.raises(ConfigError, match="no linear layers"):
        encoder.accelerated("int8")


def test_packing_is_used_where_it_is_right_and_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([1.0, 2.0, 1.0, 1.0])
    monkeypatch.setattr(kernels, "_seconds", lambda _: next(seconds))
    assert kernels._packing_pays(layer(64, 64), timed=True)
    assert not kernels._packing_pays(layer(64, 64), timed=True)
    assert kernels._packing_pays(layer(64, 64), timed=False)
    monkeypatch.setattr(PackedLinear, "forward", lambda self, x: x + 1)
    assert not kernels._packing_pays(layer(64, 64), timed=False)
