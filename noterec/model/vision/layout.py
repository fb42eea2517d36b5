"""How a vision model's output is read: which of its states are patches, and which one sums a picture up."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from torch import Tensor

from noterec.errors import InputError


@dataclasses.dataclass(frozen=True)
class Layout:
    """What is where in a model's output for pictures of one size.

    Attributes:
        rows, columns: of patches.
        before: tokens that are no patches and stand before them: CLS and registers.
        summary: the model's pooled output, its first token, or the mean of its patches.
        hidden_size: V, the length of a state.
    """

    rows: int
    columns: int
    before: int
    summary: Literal["pooled", "first", "mean"]
    hidden_size: int


def layout_of(output: Any, pixels: tuple[int, int], config: Any, name: str) -> Layout:
    """Tell a model's layout from its output for one picture.

    Args:
        output: with `last_hidden_state`, (1, tokens, V) or (1, V, rows, columns), and perhaps `pooler_output`.
        pixels: height and width of the picture.
        config: the model's, for the size of its patches.
        name: of the model, for messages.

    Raises:
        InputError: the output has no patch states.
    """
    states, pooled = getattr(output, "last_hidden_state", None), getattr(output, "pooler_output", None)
    if not isinstance(states, Tensor) or states.ndim not in (3, 4):
        raise InputError(
            f"{name}: gives no last_hidden_state of patches, (images, tokens, size) or (images, size, height, width)"
        )
    hidden_size = states.shape[1] if states.ndim == 4 else states.shape[2]
    if states.ndim == 4:
        rows, columns, before = states.shape[2], states.shape[3], 0
    else:
        rows, columns, before = _patches(states.shape[1], pixels, config, name)
    if isinstance(pooled, Tensor) and pooled.numel() == hidden_size:
        return Layout(rows, columns, before, "pooled", hidden_size)
    return Layout(rows, columns, before, "first" if before else "mean", hidden_size)


def _patches(tokens: int, pixels: tuple[int, int], config: Any, name: str) -> tuple[int, int, int]:
    """Rows and columns of patches, and how many tokens stand before them."""
    height, width = pixels
    patch = getattr(config, "patch_size", None)
    if patch is not None:
        down, across = patch if isinstance(patch, list | tuple) else (patch, patch)
        rows, columns = height // down, width // across
        if 0 <= tokens - rows * columns <= 16:  # CLS and registers
            return rows, columns, tokens - rows * columns
    for before in (0, 1):  # several strides, or none that is told: a square is a square
        side = math.isqrt(tokens - before)
        if side * side == tokens - before and height == width:
            return side, side, before
    raise InputError(f"{name}: can't tell which of its {tokens} tokens are patches of {height} x {width} px")
