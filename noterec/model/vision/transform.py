"""From any RGB picture to the pixels that a vision model takes in: the resizing and cropping that the model was trained with.

What is done to a picture is in its model's folder (preprocessor_config.json), and the library's own image processors say what that
means, on Pillow alone. Their last step, from 0..255 to normalised numbers, is a scale and an offset per channel. It is left to the
device that runs the model, so that what travels and is stored is uint8, a quarter of the size. What comes before is, for nearly all
of them, a resize and a crop. `Fit` does the same without them, so that a process that decodes needs neither torch nor transformers,
which take seconds to load.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from noterec.errors import ArtefactError, ConfigError, InputError
from noterec.model.vision.fit import Fit

if TYPE_CHECKING:
    from PIL import Image

logger = logging.getLogger(__name__)

FILE = "preprocessor_config.json"
# Beside the settings of every processor: what names the file's kind, and says nothing about pixels.
_NAMES = {"image_processor_type", "feature_extractor_type", "processor_class"}
# Width and height of pictures on which a `Fit` must do what the processor does; to them come some about as large as the result.
_TRIED = ((640, 480), (479, 641), (1, 1), (3, 5), (6, 3), (31, 700), (901, 40))


@dataclasses.dataclass(frozen=True, eq=False)
class Carried:
    """A processor that does more to a picture than `Fit` can, its normalised numbers brought back to grey levels."""

    processor: Any
    scale: np.ndarray
    offset: np.ndarray

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """An RGB picture as (3, h, w) uint8."""
        normalised = _run(self.processor, picture)  # (3, h, w) float
        # Undone exactly: the processor started from whole grey levels.
        levels: np.ndarray = np.rint((normalised - self.offset) / self.scale)
        return np.ascontiguousarray(levels, dtype=np.uint8)


@dataclasses.dataclass(frozen=True, eq=False)
class Transform:
    """What an image processor does to a picture before it normalises, the same every time.

    Attributes:
        pixels: does it: a `Fit`, or the processor itself, `Carried`.
        settings: the processor's, the text of a preprocessor_config.json.
        scale, offset: (3, 1, 1) float32; uint8 pixels times scale plus offset are what the processor gives.
        shape: (3, h, w), whatever the picture's.
    """

    pixels: Callable[[Image.Image], np.ndarray]
    settings: str
    scale: np.ndarray
    offset: np.ndarray
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, processor: Any, name: str) -> Transform:
        """Measure a processor's scale and offset, and make sure that it does nothing else to the numbers.

        They are measured rather than read, because classes differ in which of their settings they heed, and how often.

        Args:
            processor: Hugging Face's, of any class: takes a Pillow picture, gives `pixel_values` (1, 3, h, w) float.
            name: of the model, for messages.

        Raises:
            InputError: pictures of different shapes come out, or normalising is not a scale and an offset per channel.
        """
        from PIL import Image

        sides = [(640, 480), (480, 640)]
        shapes = {tuple(_run(processor, Image.new("RGB", side)).shape) for side in sides}
        shape = shapes.pop()
        if shapes or len(shape) != 3 or shape[0] != 3:
            raise InputError(
                f"{name}: its image processor gives pixels of shape {[*shapes, shape]}; expected one shape (3, height, width) for "
                "every picture: give vision.image_px, or a model whose processor crops"
            )
        middle = (slice(None), slice(shape[1] // 2, shape[1] // 2 + 1), slice(shape[2] // 2, shape[2] // 2 + 1))
        black = _run(processor, Image.new("RGB", sides[0], (0, 0, 0)))[middle].astype(np.float32)  # (3, 1, 1)
        white = _run(processor, Image.new("RGB", sides[0], (255, 255, 255)))[middle].astype(np.float32)
        scale = (white - black) / np.float32(255)
        if not np.isfinite(scale).all() or (scale == 0).any():
            raise InputError(f"{name}: its image processor makes no difference between black and white")
        carried = Carried(processor, scale, black)
        noise = _noise(*sides[0])
        # A fiftieth of a step between grey levels: more than rounding of float32, less than any other arithmetic.
        if np.abs(_run(processor, noise) - (carried(noise) * scale + black)).max() > np.abs(scale).max() / 50:
            raise InputError(
                f"{name}: its image processor does more than resize, crop, and scale and shift whole grey levels by channel"
            )
        pixels: Callable[[Image.Image], np.ndarray] = carried
        # Of a class that isn't the library's one can't know what it does to which pictures.
        fit = _fit(processor) if type(processor).__module__.split(".")[0] == "transformers" else None
        if fit is not None and _same(fit, carried, (shape[2], shape[1])):
            pixels = fit
        else:
            logger.info(
                "%s: its image processor (%s) is not known to do no more than a resize and a crop; it is run as it is, and worker "
                "processes take seconds to load it",
                name,
                type(processor).__name__,
            )
        return cls(pixels, processor.to_json_string(), scale, black, (3, shape[1], shape[2]))

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """An RGB picture of any size as (3, h, w) uint8."""
        return self.pixels(picture)

    @property
    def signature(self) -> dict[str, Any]:
        """Everything that the pixels depend on, as JSON can hold it; a saved and loaded transform has the same."""
        return {
            "processor": json.loads(self.settings),
            "scale": self.scale.ravel().tolist(),
            "offset": self.offset.ravel().tolist(),
            "shape": list(self.shape),
        }

    def save(self, folder: Path) -> None:
        """Write the processor's settings into a model's folder, from where `load_transform` reads them."""
        (folder / FILE).write_text(self.settings, encoding="utf-8")


def _fit(processor: Any) -> Fit | None:
    """What the settings that most classes share say, None where they say something else; the class may still heed others."""
    size, crop = (dict(getattr(processor, key, None) or {}) for key in ("size", "crop_size"))
    resample = getattr(processor, "resample", None)
    middle = (crop["height"], crop["width"]) if getattr(processor, "do_center_crop", None) and len(crop) == 2 else None
    resample = 2 if resample is None else int(resample)
    if not getattr(processor, "do_resize", True):
        return Fit(None, middle, resample)
    if size.keys() == {"height", "width"}:
        return Fit((size["height"], size["width"]), middle, resample)
    if size.keys() != {"shortest_edge"}:
        return None
    short = size["shortest_edge"]
    share = getattr(processor, "crop_pct", None)  # ConvNeXt's: below 384 px a border is cut off, else it squeezes
    if share is None:
        return Fit(short, middle, resample)
    return Fit(int(short / share), (short, short), resample) if short < 384 else Fit((short, short), middle, resample)


def _same(fit: Fit, carried: Carried, result: tuple[int, int]) -> bool:
    """Whether both make the same pixels of pictures of all shapes, `result` being width and height of what comes out."""
    width, height = result
    sides = (*_TRIED, result, (width + 1, height + 2), (max(1, width - 3), 2 * height + 1))
    pictures = [*(_noise(*side) for side in sides), _noise(300, 200, margin=0), _noise(200, 300, margin=255)]
    return all(np.array_equal(fit(picture), carried(picture)) for picture in pictures)


def _noise(width: int, height: int, *, margin: int | None = None) -> Image.Image:
    """A picture of noise, or where a margin's grey level is given, noise of half its width and height in the middle."""
    from PIL import Image

    levels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if margin is not None:
        inside = np.s_[height // 4 : -(height // 4), width // 4 : -(width // 4)]
        framed = np.full_like(levels, margin)
        framed[inside] = levels[inside]
        levels = framed
    return Image.fromarray(levels)


def load_transform(source: str, name: str, image_px: int | None = None) -> Transform:
    """The transform of a model's folder or hub id.

    Args:
        source: where preprocessor_config.json is.
        name: of the model, for messages.
        image_px: side of the square that comes out, in pixels; None = the processor's own.

    Raises:
        InputError: there is no image processor, or not one of this kind (see `Transform.of`).
        ArtefactError: its settings are incomplete.
        ConfigError: the processor has no way to give that size.
    """
    processor = _processor(source, name)
    if getattr(
        processor, "max_num_patches", None
    ):  # it cuts patches itself, as many as the shape of a picture asks for
        side = math.isqrt(processor.max_num_patches) * processor.patch_size
        processor = square(side, processor.image_mean, processor.image_std, resample=int(processor.resample))
    if image_px is None:
        return Transform.of(processor, name)
    for settings in _resized(processor, image_px):
        candidate = type(processor).from_dict({**processor.to_dict(), **settings})
        try:
            found = Transform.of(candidate, name)
        except (InputError, ValueError):  # a class that needs the other way to give a size
            continue
        if found.shape[1:] == (image_px, image_px):
            return found
    raise ConfigError(
        f"image_px={image_px}: the image processor of {name} takes no other size; leave vision.image_px out"
    )


def square(side: int, mean: Any, std: Any, *, resample: int, crop: bool = False) -> Any:
    """A processor that gives squares of `side` pixels: the shorter side resized and the middle kept, or squeezed into it."""
    from transformers import ViTImageProcessorPil

    size = {"shortest_edge": side} if crop else {"height": side, "width": side}
    both = {"height": side, "width": side}
    return ViTImageProcessorPil(
        size=size, do_center_crop=crop, crop_size=both, resample=resample, image_mean=list(mean), image_std=list(std)
    )


def _run(processor: Any, picture: Image.Image) -> np.ndarray:
    return np.asarray(processor(picture, return_tensors="np")["pixel_values"][0])


def _processor(source: str, name: str) -> Any:
    """The image processor on Pillow, with or without torchvision here, so that every machine makes the same pixels."""
    from transformers import AutoImageProcessor

    try:
        found = AutoImageProcessor.from_pretrained(source, backend="pil", trust_remote_code=False)
    except ImportError:
        return _from_settings(source, name)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise InputError(
            f"{name}: no image processor there ({first}); expected preprocessor_config.json beside the weights, which says how "
            "the model's pictures are resized and normalised"
        ) from error
    return _from_settings(source, name) if getattr(found, "backend", "pil") == "torchvision" else found


def _from_settings(source: str, name: str) -> Any:
    """A processor whose class exists for torchvision alone (DINOv3), where nothing but standard settings says what it does."""
    from transformers import ViTImageProcessorPil

    read: dict[str, Any] = ViTImageProcessorPil.get_image_processor_dict(source)[0]
    settings = {key: value for key, value in read.items() if value is not None and key not in _NAMES}
    unknown = sorted(set(settings) - set(ViTImageProcessorPil.valid_kwargs.__annotations__))
    if unknown:
        raise InputError(
            f"{name}: its image processor exists for torchvision alone, and {unknown[0]} can't be done by Pillow"
        )
    missing = sorted({"size", "resample", "image_mean", "image_std"} - set(settings))
    if missing:
        raise ArtefactError(f"{name}: preprocessor_config.json says nothing about {missing[0]}; fetch the model again")
    return ViTImageProcessorPil(**settings)


def _resized(processor: Any, side: int) -> list[dict[str, Any]]:
    """Settings that may give squares of that side, the one nearest to what the model was trained with first."""
    both = {"height": side, "width": side}
    size = dict(getattr(processor, "size", None) or {})
    crop = dict(getattr(processor, "crop_size", None) or {})
    if getattr(processor, "do_center_crop", None) and crop.get("height"):
        scaled = {key: round(value * side / crop["height"]) for key, value in size.items() if value}
        return [{"size": scaled, "crop_size": both}]  # the border that is cut off keeps its share
    return [{"size": {"shortest_edge": side}}, {"size": both}] if size.get("shortest_edge") else [{"size": both}]
