"""Pixels in uint8, scaled and shifted, are what the model's own image processor gives, and every other processor is refused."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor, BeitConfig, CLIPImageProcessorPil, ViTImageProcessorPil
from transformers.image_processing_utils import BaseImageProcessor

from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.model.vision.fit import Fit
from noterec.model.vision.transform import Carried, Transform, load_transform, square
from noterec.model.vision.trying import Transformed
from tests import vision_models
from tests.vision_models import MEAN, STD

WITH_PROCESSOR = [
    kind for kind in vision_models.KINDS if not kind.startswith(("dinov3", "siglip2")) and not kind.endswith("whole")
]


def normalised(transform: Transform, picture: Image.Image) -> np.ndarray:
    return transform(picture) * transform.scale + transform.offset


def folder_of(processor: Any, folder: Path) -> str:
    processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", WITH_PROCESSOR)
def test_equals_the_processors_own_output(kind: str, tmp_path: Path) -> None:
    own = vision_models.processor(kind)
    transform = load_transform(folder_of(own, tmp_path), "m")
    assert transform.shape == (3, 32, 32)
    for picture in vision_models.pictures(6):
        levels = transform(picture)
        assert (levels.dtype, levels.shape, levels.flags.c_contiguous) == (np.uint8, (3, 32, 32), True)
        np.testing.assert_allclose(normalised(transform, picture), own(picture)["pixel_values"][0], atol=1e-5)


def test_a_processor_for_torchvision_alone_is_done_by_pillow(tmp_path: Path) -> None:
    vision_models.write_processor(tmp_path, **vision_models.standard("DINOv3ViTImageProcessorFast"))
    transform = load_transform(str(tmp_path), "m")
    for picture in vision_models.pictures(3):
        resized = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR)).transpose(2, 0, 1)  # (3, 32, 32)
        np.testing.assert_array_equal(transform(picture), resized)
        expected = (resized / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
        np.testing.assert_allclose(normalised(transform, picture), expected, atol=1e-5)


def test_the_settings_of_an_early_clip_folder(tmp_path: Path) -> None:
    """As the hub has it: one number for a size, and the name of a class that is gone."""
    vision_models.write_processor(
        tmp_path, crop_size=24, do_center_crop=True, do_normalize=True, do_resize=True, resample=3, size=24,
        feature_extractor_type="CLIPFeatureExtractor", image_mean=MEAN, image_std=STD,
    )  # fmt: skip
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (48, 96, 3), dtype=np.uint8))
    expected = np.asarray(picture.resize((48, 24), Image.Resampling.BICUBIC).crop((12, 0, 36, 24))).transpose(2, 0, 1)
    np.testing.assert_array_equal(load_transform(str(tmp_path), "m")(picture), expected)


def test_another_size_keeps_the_share_that_is_cropped(tmp_path: Path) -> None:
    source = folder_of(vision_models.processor("dinov2"), tmp_path)  # shorter side to 40, the middle 32 kept
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (60, 90, 3), dtype=np.uint8))
    expected = np.asarray(picture.resize((90, 60), Image.Resampling.BICUBIC).crop((21, 6, 69, 54))).transpose(2, 0, 1)
    np.testing.assert_array_equal(load_transform(source, "m", 48)(picture), expected)


@pytest.mark.parametrize("kind", ["siglip", "clip", "convnext", "efficientnet", "swin", "siglip2"])
@pytest.mark.parametrize("side", [16, 48])
def test_another_size_of_every_kind(kind: str, side: int, tmp_path: Path) -> None:
    source = folder_of(vision_models.processor(kind), tmp_path)
    assert load_transform(source, "m", side).shape == (3, side, side)


def test_the_number_of_patches_decides_the_size_of_naflex(tmp_path: Path) -> None:
    own = vision_models.processor("siglip2")  # 16 patches of 8 px
    transform = load_transform(folder_of(own, tmp_path), "m")
    assert transform.shape == (3, 32, 32)
    picture = vision_models.pictures(1)[0].resize((64, 64))
    cells = own(picture)["pixel_values"][0].reshape(4, 4, 8, 8, 3).transpose(4, 0, 2, 1, 3).reshape(3, 32, 32)
    np.testing.assert_allclose(normalised(transform, picture), cells, atol=1e-5)


def test_pictures_of_no_fixed_shape_need_a_size(tmp_path: Path) -> None:
    source = folder_of(ViTImageProcessorPil(size={"shortest_edge": 32}), tmp_path)
    with pytest.raises(InputError, match=r"expected one shape .*give vision\.image_px"):
        load_transform(source, "somebody/model")
    assert load_transform(source, "m", 40).shape == (3, 40, 40)


class Stubborn(BaseImageProcessor):
    """A user's own processor, with a size of its own, in whatever way."""

    def __init__(self, gamma: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.gamma = gamma

    def preprocess(self, images: Any, **kwargs: Any) -> Any:
        values = np.asarray(images.resize((24, 24))).transpose(2, 0, 1)[::-1] / 255
        return {"pixel_values": [values**self.gamma - 0.5]}


def test_a_users_own_processor(tmp_path: Path) -> None:
    AutoImageProcessor.register(BeitConfig, image_processor_classes={"pil": Stubborn}, exist_ok=True)
    transform = load_transform(folder_of(Stubborn(), tmp_path), "m")
    picture = vision_models.pictures(1)[0]
    np.testing.assert_array_equal(transform(picture), np.asarray(picture.resize((24, 24))).transpose(2, 0, 1)[::-1])
    with pytest.raises(ConfigError, match=r"image_px=48: the image processor of m takes no other size"):
        load_transform(str(tmp_path), "m", 48)


def test_what_a_users_own_processor_does_is_not_guessed(caplog: pytest.LogCaptureFixture) -> None:
    """It may do as its settings say with some pictures, and something else with others."""

    class Trimming(ViTImageProcessorPil):
        pass

    with caplog.at_level(logging.INFO):
        transform = Transform.of(Trimming(size={"height": 32, "width": 32}), "m")
    assert isinstance(transform.pixels, Carried) and "m: its image processor (Trimming) is not known" in caplog.text


def test_a_processor_that_does_more_is_refused() -> None:
    with pytest.raises(InputError, match="does more than resize, crop, and scale and shift"):
        Transform.of(Stubborn(gamma=2.2), "m")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"mask_size": {"height": 4, "width": 4}}, InputError, "torchvision alone, and mask_size can't be done"),
        ({"image_mean": None}, ArtefactError, "says nothing about image_mean"),
    ],
)
def test_a_processor_for_torchvision_that_pillow_can_not_do(
    change: dict[str, Any], error: type[Exception], match: str, tmp_path: Path
) -> None:
    vision_models.write_processor(tmp_path, **{**vision_models.standard("DINOv3ViTImageProcessorFast"), **change})
    with pytest.raises(error, match=match):
        load_transform(str(tmp_path), "m")


@pytest.mark.parametrize("content", [None, "{", json.dumps({"image_processor_type": "Nonsense"})])
def test_a_folder_without_a_processor(content: str | None, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "nonsense"}))
    if content is not None:
        (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(InputError, match=r"no image processor there .*expected preprocessor_config\.json"):
        load_transform(str(tmp_path), "m")


SQUEEZED = Transform.of(square(32, MEAN, STD, resample=2), "m")
CROPPED = Transform.of(CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}), "m")


@settings(max_examples=40, deadline=None)
@given(width=st.integers(1, 300), height=st.integers(1, 300), colour=st.tuples(*[st.integers(0, 255)] * 3))
def test_any_shape_of_picture(width: int, height: int, colour: tuple[int, int, int]) -> None:
    for transform in (SQUEEZED, CROPPED):
        levels = transform(Image.new("RGB", (width, height), colour))
        assert levels.shape == (3, 32, 32)
        assert (levels == np.array(colour)[:, None, None]).all()


def processors() -> dict[str, Any]:
    """The library's own, by the way in which they fit a picture into 32 x 32, or a size of their own."""
    import transformers as hf

    square_, crop = {"height": 32, "width": 32}, {"height": 33, "width": 28}
    return {
        "clip": vision_models.processor("clip"),
        "siglip": vision_models.processor("siglip"),
        "vit": vision_models.processor("vit"),
        "dinov2": vision_models.processor("dinov2"),
        "swin": ViTImageProcessorPil(size=square_, resample=3),
        "convnext": vision_models.processor("convnext"),
        "convnext-384": hf.ConvNextImageProcessorPil(size={"shortest_edge": 384}),
        "efficientnet": hf.EfficientNetImageProcessorPil(
            size={"height": 40, "width": 36}, do_center_crop=True, crop_size=crop
        ),
        "deit": hf.DeiTImageProcessorPil(size={"height": 37, "width": 37}, crop_size=square_),
        "smaller than its crop": hf.CLIPImageProcessorPil(size={"shortest_edge": 21}, crop_size=crop),
        "cropped alone": hf.CLIPImageProcessorPil(do_resize=False, crop_size=crop),
        "lanczos": hf.CLIPImageProcessorPil(size={"shortest_edge": 33}, crop_size=square_, resample=1),
    }


@pytest.mark.parametrize("kind", processors())
def test_pixels_are_the_processors_to_the_bit(kind: str) -> None:
    processor = processors()[kind]
    transform = Transform.of(processor, kind)
    assert isinstance(transform.pixels, Fit)
    carried = Carried(processor, transform.scale, transform.offset)
    random = np.random.default_rng(5)
    sides = [(1, 1), (1, 2), (2, 1), (200, 1), (1, 200), (800, 9), (3, 3), (4, 3), (27, 34), (33, 28), (640, 427)]
    for width, height in sides + [tuple(pair) for pair in random.integers(1, 150, (12, 2)).tolist()]:
        picture = Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))
        np.testing.assert_array_equal(transform(picture), carried(picture), err_msg=f"{width} x {height}")


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessorPil(size={"shortest_edge": 32, "longest_edge": 48}, crop_size={"height": 32, "width": 32}),
        Stubborn(),
    ],
)
def test_what_settings_do_not_say_is_left_to_the_processor(processor: Any) -> None:
    transform = Transform.of(processor, "m")
    assert isinstance(transform.pixels, Carried)
    for picture in vision_models.pictures(3):
        np.testing.assert_allclose(normalised(transform, picture), processor(picture)["pixel_values"][0], atol=1e-5)


def test_a_class_that_heeds_its_settings_in_another_way_is_carried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is the library's own, and cuts a white margin off before it does as its settings say."""
    original = ViTImageProcessorPil.resize

    def trimmed(self: Any, image: np.ndarray, **options: Any) -> Any:
        rows, columns = ((image < 255).any(axis=(0, axis)) for axis in (2, 1))
        if rows.any():
            image = image[:, rows][:, :, columns]
        return original(self, image=image, **options)

    monkeypatch.setattr(ViTImageProcessorPil, "resize", trimmed)
    assert isinstance(Transform.of(square(32, MEAN, STD, resample=2), "m").pixels, Carried)


WORKER = """
import pickle, sys
from PIL import Image
pixels = pickle.load(sys.stdin.buffer)(Image.new("RGB", (70, 50), (1, 2, 3)), b"")
assert pixels.shape == (3, 32, 32) and pixels[2].max() == 3
print(sorted({"torch", "transformers"} & set(sys.modules)))
"""


@pytest.mark.parametrize("transform", [SQUEEZED, CROPPED])
def test_a_process_that_decodes_loads_no_torch(transform: Transform) -> None:
    sent = pickle.dumps(Transformed(transform))
    done = subprocess.run([sys.executable, "-c", WORKER], input=sent, check=True, capture_output=True, timeout=60)
    assert done.stdout.decode().strip() == "[]"


def test_the_signature_tells_transforms_apart(tmp_path: Path) -> None:
    source = folder_of(vision_models.processor("clip"), tmp_path)
    assert load_transform(source, "a").signature == load_transform(source, "b").signature
    others = [load_transform(source, "m", 16), Transform.of(square(32, MEAN, STD, resample=3), "m"), SQUEEZED]
    signatures = [json.dumps(found.signature, sort_keys=True) for found in [load_transform(source, "m"), *others]]
    assert len(set(signatures)) == 4
