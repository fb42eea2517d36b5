"""A vision encoder of a few numbers, with the interface of the real one."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tests.model.vision.eight import SIDE, eight

PATCHES, SIZE = 4, 6


class FakeTower(nn.Module):
    """Rows are the patches' means of three colours through a random matrix; the summary is the rows' mean."""

    def __init__(self, seed: int = 0, scale: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(scale * torch.randn(3, SIZE, generator=torch.Generator().manual_seed(seed)))
        self.name = "fake"
        self.version = f"fake-{seed}"
        self.pixel_shape, self.feature_shape = (3, SIDE, SIDE), (1 + PATCHES, SIZE)
        self.transform = eight
        self.batches: list[int] = []

    def forward(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8
        self.batches.append(len(pixels))
        half = SIDE // 2
        cells = (pixels.float() / 255).unfold(2, half, half).unfold(3, half, half).mean((4, 5))  # (I, 3, 2, 2)
        patches = cells.flatten(2).transpose(1, 2) @ self.weight  # (I, S, V)
        return torch.cat([patches.mean(1, keepdim=True), patches], 1)


def features_of(tower: FakeTower, data: bytes) -> np.ndarray:
    """What a gallery should hold of one picture, computed alone: (1+S, V) float16."""
    with torch.no_grad():
        pixels = torch.from_numpy(eight(Image.open(io.BytesIO(data)).convert("RGB")))
        return np.asarray(tower(pixels[None])[0].half())


def png(number: int, size: tuple[int, int] = (12, 10)) -> bytes:
    """A noisy picture file, another one for every number."""
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    return buffer.getvalue()


def entry(data: bytes) -> dict[str, Any]:
    """As the images column holds it."""
    return {"bytes": data, "path": None}
