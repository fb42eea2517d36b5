"""The resizing and cropping that vision models are trained with, on Pillow alone: a process that does it starts without torch."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


@dataclasses.dataclass(frozen=True)
class Fit:
    """A picture resized, then cut, or padded with black, around its middle.

    Attributes:
        size: (height, width) that it is squeezed into; or its shorter side, the longer one in proportion; None = as it is. Pixels.
        crop: (height, width) of the middle that is kept; None = all.
        resample: Pillow's number of the filter.
    """

    size: tuple[int, int] | int | None
    crop: tuple[int, int] | None
    resample: int

    def __call__(self, picture: Image.Image) -> np.ndarray:
        """An RGB picture as (3, h, w) uint8."""
        from PIL.Image import Resampling

        if self.size is not None:
            target = _in_proportion(picture.size, self.size) if isinstance(self.size, int) else self.size[::-1]
            picture = picture.resize(target, resample=Resampling(self.resample))
        if self.crop is not None:
            height, width = self.crop
            # Rounded down, also where it is negative: what lies outside comes out black.
            left, top = (picture.width - width) // 2, (picture.height - height) // 2
            picture = picture.crop((left, top, left + width, top + height))
        return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))  # (3, h, w)


def _in_proportion(sides: tuple[int, int], short: int) -> tuple[int, int]:
    """Width and height with a shorter side of that length, the other rounded down."""
    long = int(short * max(sides) / min(sides))
    return (short, long) if sides[0] <= sides[1] else (long, short)
