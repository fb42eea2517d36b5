"""Random Hugging Face vision folders of several architectures, each with the image processor of its kind, all 32 px wide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SIDE, PATCH, HIDDEN = 32, 8, 32
SHAPE: dict[str, Any] = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": SIDE,
    "patch_size": PATCH,
}
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 50,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# Kind: how many tokens stand before its patches (None: a feature map), and patches of a picture of 32 px.
KINDS: dict[str, tuple[int | None, int]] = {
    "clip": (1, 16),
    "clip-whole": (1, 16),
    "siglip": (0, 16),
    "siglip-whole": (0, 16),
    "siglip2": (0, 16),
    "siglip2-whole": (0, 16),
    "dinov2": (1, 16),
    "dinov2-registers": (5, 16),
    "dinov3": (4, 16),
    "dinov3-convnext": (1, 4),
    "vit": (1, 16),
    "vit-bare": (1, 16),
    "swin": (0, 4),
    "convnext": (None, 4),
    "efficientnet": (None, 1),
}


def make(kind: str, folder: Path) -> Path:
    """Write a model folder; the weights are the same at every call."""
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = _model(kind)
        for name, tensor in model.state_dict().items():  # what starts at zero or one would hide mistakes
            if tensor.is_floating_point() and "running_var" not in name:
                tensor.add_(torch.randn_like(tensor), alpha=0.05)
        _settle(model)
    model.save_pretrained(folder)
    if kind.startswith("dinov3"):  # its processor's class needs torchvision: its file, as the hub has it
        write_processor(folder, **standard("DINOv3ViTImageProcessorFast"))
    else:
        processor(kind).save_pretrained(folder)
    return folder


def _settle(model: Any) -> None:
    """Fit batch norms to noise: with those of a new model, hardly anything of a picture gets through."""
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
            torch.nn.init.ones_(norm.weight)
        with torch.no_grad():
            model.train()(torch.randn(32, 3, SIDE, SIDE))


def standard(kind: str) -> dict[str, Any]:
    """Settings of a processor that squeezes pictures into a square."""
    return {
        "image_processor_type": kind,
        "size": {"height": SIDE, "width": SIDE},
        "resample": 2,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "do_center_crop": None,
        "image_mean": MEAN,
        "image_std": STD,
    }


def write_processor(folder: Path, **settings: Any) -> None:
    """Write preprocessor_config.json by hand."""
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def processor(kind: str) -> Any:
    """The library's own image processor of a kind, as it is used without this package; none for DINOv3."""
    import transformers as hf

    square = {"height": SIDE, "width": SIDE}
    if kind.startswith("clip"):
        return hf.CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)
    if kind.startswith("siglip2"):
        return hf.Siglip2ImageProcessorPil(patch_size=PATCH, max_num_patches=16)
    if kind.startswith("siglip"):
        return hf.SiglipImageProcessorPil(size=square)
    if kind.startswith("dinov2"):
        return hf.BitImageProcessorPil(size={"shortest_edge": 40}, crop_size=square, image_mean=MEAN, image_std=STD)
    if kind == "convnext":
        return hf.ConvNextImageProcessorPil(size={"shortest_edge": SIDE}, crop_pct=0.875)
    if kind == "efficientnet":
        return hf.EfficientNetImageProcessorPil(size=square, image_mean=MEAN, image_std=STD)
    return hf.ViTImageProcessorPil(size=square)


def _model(kind: str) -> Any:
    import transformers as hf

    patches = {**SHAPE, "num_patches": 16}
    if kind in ("clip", "clip-whole"):
        return (
            hf.CLIPVisionModel(hf.CLIPVisionConfig(**SHAPE))
            if kind == "clip"
            else hf.CLIPModel(hf.CLIPConfig(text_config=TEXT, vision_config=SHAPE))
        )
    if kind in ("siglip", "siglip-whole"):
        return (
            hf.SiglipVisionModel(hf.SiglipVisionConfig(**SHAPE))
            if kind == "siglip"
            else hf.SiglipModel(hf.SiglipConfig(text_config=TEXT, vision_config=SHAPE))
        )
    if kind in ("siglip2", "siglip2-whole"):
        return (
            hf.Siglip2VisionModel(hf.Siglip2VisionConfig(**patches))
            if kind == "siglip2"
            else hf.Siglip2Model(hf.Siglip2Config(text_config=TEXT, vision_config=patches))
        )
    narrow = {"image_size": SIDE, "hidden_sizes": [8, 16, HIDDEN], "depths": [1, 1, 1]}
    layers = {key: value for key, value in SHAPE.items() if key != "intermediate_size"}
    made = {
        "dinov2": lambda: hf.Dinov2Model(hf.Dinov2Config(**{**layers, "image_size": 40})),
        "dinov2-registers": lambda: hf.Dinov2WithRegistersModel(
            hf.Dinov2WithRegistersConfig(num_register_tokens=4, **layers)
        ),
        "dinov3": lambda: hf.DINOv3ViTModel(hf.DINOv3ViTConfig(num_register_tokens=3, **SHAPE)),
        "dinov3-convnext": lambda: hf.DINOv3ConvNextModel(hf.DINOv3ConvNextConfig(**narrow)),
        "vit": lambda: hf.ViTModel(hf.ViTConfig(**SHAPE)),
        "vit-bare": lambda: hf.ViTModel(hf.ViTConfig(**SHAPE), add_pooling_layer=False),
        "swin": lambda: hf.SwinModel(
            hf.SwinConfig(
                image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1, 1], num_heads=[2, 2, 2], window_size=2
            )
        ),
        "convnext": lambda: hf.ConvNextModel(hf.ConvNextConfig(num_stages=3, **narrow)),
        "efficientnet": lambda: hf.EfficientNetModel(
            hf.EfficientNetConfig(image_size=SIDE, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128)
        ),
    }
    return made[kind]()


def pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Pictures of various shapes, each a noisy gradient of its own colours."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        width, height = (int(side) for side in random.integers(20, 90, 2))
        across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
        colours = random.uniform(0, 255, (3, 3))
        values = (
            colours[0]
            + across[..., None] * (colours[1] - colours[0]) / 2
            + down[..., None] * (colours[2] - colours[0]) / 2
        )
        noise = random.normal(0, 12, (height, width, 3))
        made.append(Image.fromarray((values + noise).clip(0, 255).astype(np.uint8)))
    return made


def pixels(transform: Any, chosen: list[Image.Image]) -> Tensor:
    """(I, 3, h, w) uint8 of pictures."""
    return torch.from_numpy(np.stack([transform(picture) for picture in chosen]))
