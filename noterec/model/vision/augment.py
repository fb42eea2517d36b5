"""Training pictures changed a little, in ways that leave what they show: mirrored, cropped, brighter or darker.

For training alone. Vectors are made from pictures as they are, so the same note always has the same vector.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from noterec.errors import InputError

MIN_AREA = 0.7  # share of the picture that is kept at least
BRIGHTNESS = 0.1  # at most so much brighter or darker


def augment(pixels: Tensor, seed: int | torch.Generator) -> Tensor:
    """A changed copy of every picture: half are mirrored, 70 to 100 % of the area is kept, brightness moves by up to 10 %.

    Args:
        pixels: (I, 3, h, w) uint8, on any device.
        seed: the same seed changes the same pictures in the same way; a generator must be on the CPU.

    Returns:
        (I, 3, h, w) uint8, on the same device.

    Raises:
        InputError: not pictures of this kind.
    """
    if pixels.ndim != 4 or pixels.dtype != torch.uint8:
        raise InputError(f"augment: expected (I, 3, h, w) uint8, got {tuple(pixels.shape)} {pixels.dtype}")
    if not pixels.numel():
        return pixels.clone()
    generator = seed if isinstance(seed, torch.Generator) else torch.Generator().manual_seed(seed)
    # Drawn on the CPU, so that a seed means the same on every device.
    mirror, area, across, down, light = torch.rand(5, len(pixels), generator=generator)  # (I,) each, in [0, 1)
    side = (MIN_AREA + (1 - MIN_AREA) * area).sqrt()  # of the kept part, of the whole
    flip = torch.where(mirror < 0.5, -1.0, 1.0)
    # The kept part in coordinates where the picture goes from -1 to 1: its middle may move by what is cut off.
    zero = torch.zeros_like(side)
    place = torch.stack(
        [
            torch.stack([flip * side, zero, (2 * across - 1) * (1 - side)], dim=1),
            torch.stack([zero, side, (2 * down - 1) * (1 - side)], dim=1),
        ],
        dim=1,
    )  # (I, 2, 3)
    points = F.affine_grid(place.to(pixels.device), list(pixels.shape), align_corners=False)  # (I, h, w, 2)
    kept = F.grid_sample(pixels.float(), points, mode="bilinear", padding_mode="border", align_corners=False)
    brightness = (1 + BRIGHTNESS * (2 * light - 1)).to(pixels.device)[:, None, None, None]
    return torch.as_tensor((kept * brightness).round().clamp(0, 255).to(torch.uint8))
