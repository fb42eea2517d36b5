"""`tiny` for pictures: a small vision transformer from scratch, for a machine without any weights and for tests.

It knows nothing of the world. Trained end to end, it learns what the pictures of one platform look like: colours, layouts,
styles.
"""

from __future__ import annotations

from typing import Any

import torch

from noterec.errors import ConfigError
from noterec.model.vision.tower import VisionTower
from noterec.model.vision.transform import Transform, square

PATCH_PX = 8
SHAPE: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
}
# A linear map of 96 inputs then keeps their scale. At the usual 0.02 the patches' arrangement hardly reaches the summary, and
# telling stripes of eight kinds apart takes three times as many steps to learn.
INITIAL_STD = 0.1


def tiny_tower(image_px: int = 64, grid: int | None = None, seed: int = 0) -> VisionTower:
    """A randomly initialised ViT of about 300,000 weights, the same for the same seed.

    Args:
        image_px: side of the square that it sees; the shorter side of a picture is resized to it and the middle kept.
        grid: patch states are averaged to a grid of this side; 0 = none is given; None = one state per 8 x 8 pixels.
        seed: of the weights.

    Raises:
        ConfigError: the side is no multiple of a patch, or the grid has more cells than there are patches.
    """
    from PIL import Image
    from transformers import ViTConfig, ViTModel

    if image_px % PATCH_PX:
        raise ConfigError(f"image_px={image_px}: expected a multiple of {PATCH_PX}, the side of tiny's patches")
    config = ViTConfig(image_size=image_px, patch_size=PATCH_PX, num_channels=3, initializer_range=INITIAL_STD, **SHAPE)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViTModel(config, add_pooling_layer=False)
    resample = int(Image.Resampling.BILINEAR)
    processor = square(image_px, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), resample=resample, crop=True)
    return VisionTower(model, Transform.of(processor, "tiny"), name="tiny", grid=grid)
