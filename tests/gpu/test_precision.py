"""Precisions on a GPU: near the CPU's float32, in half the memory, and batches that are in flight come back in order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from noterec.model.encoder import NoteEncoder
from tests import backbones

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
Folder = Callable[[str], Path]
NOTES = [{"title": text, "content": text * (1 + place % 4)} for place, text in enumerate(backbones.TEXTS)]


@pytest.mark.parametrize("architecture", backbones.ARCHITECTURES)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8"])
def test_vectors_are_near_those_of_the_cpu(backbone_folder: Folder, architecture: str, precision: Any) -> None:
    expected = NoteEncoder.from_pretrained(backbone_folder(architecture), device="cpu").encode(NOTES)
    encoder = NoteEncoder.from_pretrained(backbone_folder(architecture), device="cuda")
    fast = encoder.accelerated(precision)
    for budget in (256, None):  # many batches, of which one is in flight; and one
        found = fast.encode(NOTES, batch_tokens=budget)
        assert found.dtype == np.float32
        assert (found * expected).sum(axis=1).min() > (0.9999 if precision == "fp32" else 0.995)
    np.testing.assert_allclose(encoder.encode(NOTES), expected, atol=1e-4)  # the original is as it was


def test_weights_take_half_the_memory(backbone_folder: Folder) -> None:
    encoder = NoteEncoder.from_pretrained(backbone_folder("llama"), device="cuda")
    fast = encoder.accelerated("bf16")
    assert {parameter.dtype for parameter in fast.backbone.trunk.parameters()} == {torch.bfloat16}
    assert {parameter.dtype for parameter in encoder.model.parameters()} == {torch.float32}
    packed: Any = encoder.accelerated("int8").backbone.trunk
    assert packed.layers[0].mlp.up_proj.weight.dtype == torch.int8
