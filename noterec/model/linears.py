"""Linear layers for inference: the same product as `nn.Linear`, in a layout or precision that a device multiplies faster.

All take and give float32 on a CPU, so that norms, attention and the residual stream stay as they are. What they compute for a row
never depends on the rows beside it.
"""

from __future__ import annotations

import heapq
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PACKED_ROWS = 1024  # what the packed layout is made for; any other number of rows is right too
LEVELS = 127
SPARE = 8  # int8: one column in so many is spent on splitting the largest columns
ALIGNED = 32  # columns; what the instructions take at once


def is_linear(module: nn.Module) -> bool:
    """Whether it is an ordinary linear layer, or GPT-2's transposed one; one of a subclass may do something else besides."""
    from transformers.pytorch_utils import Conv1D

    return type(module) in (nn.Linear, Conv1D)


def weight_of(layer: nn.Module) -> Tensor:
    """A linear layer's weight as (N, K), outputs by inputs."""
    weight: Tensor = cast("Any", layer).weight.detach()
    return weight if isinstance(layer, nn.Linear) else weight.T


def bias_of(layer: nn.Module) -> Tensor | None:
    """A linear layer's bias (N,), or None."""
    bias = cast("Any", layer).bias
    return None if bias is None else bias.detach()


class PackedLinear(nn.Module):
    """The float32 product by oneDNN, from a weight that was brought into its blocked layout once."""

    def __init__(self, layer: nn.Module) -> None:
        """Pack the weight of a linear layer; the layer's own isn't kept."""
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight_of(layer).contiguous(), PACKED_ROWS)
        self.bias = bias_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) float32 to (..., N) float32."""
        return torch.as_tensor(torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], ""))


class HalfLinear(nn.Module):
    """The product of bfloat16 factors, added up in float32 and rounded once."""

    def __init__(self, layer: nn.Module) -> None:
        """Round the weight of a linear layer."""
        super().__init__()
        self.weight = weight_of(layer).to(torch.bfloat16).contiguous()
        bias = bias_of(layer)
        self.bias = None if bias is None else bias.to(torch.bfloat16)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) float32 to (..., N) float32."""
        return F.linear(x.to(torch.bfloat16), self.weight, self.bias).to(x.dtype)


class Columns:
    """How the rows that enter some linear layers become 8-bit integers: each row with a scale of its own.

    A few columns of a language model's states are many times larger than the others, and a scale that covers those leaves nothing
    of the rest. A column that is m times too large is therefore split into m copies, which are rounded with evenly spread offsets:
    their sum is what one copy with m times as many levels would be, for

        ⌊y⌋ + ⌊y + 1/m⌋ + ... + ⌊y + (m-1)/m⌋ = ⌊m y⌋   (Hermite's identity).

    The weights of the copies are rounded with the same offsets, so that what is multiplied with large numbers is finer too. The
    product of integers stays one product, and exact. That outliers stand in the same columns of all tokens: Dettmers et al.,
    arXiv:2208.07339, §3; splitting columns: Zhao et al., arXiv:1901.09504.
    """

    def __init__(self, sizes: Tensor) -> None:
        """Share the spare columns out, so that the largest copy is as small as it can be.

        Args:
            sizes: (K,) how large each column is beside the others of its row; the scale doesn't matter.
        """
        size = len(sizes)
        wide = -(-(size + size // SPARE) // ALIGNED) * ALIGNED if size >= ALIGNED else size
        copies = [1] * size
        largest = [(-value, column) for column, value in enumerate(sizes.tolist())]
        heapq.heapify(largest)
        for _ in range(wide - size):
            _, column = largest[0]
            copies[column] += 1
            heapq.heapreplace(largest, (-float(sizes[column]) / copies[column], column))
        counts = torch.tensor(copies)
        device = sizes.device
        self._source = torch.repeat_interleave(torch.arange(size), counts).to(
            device
        )  # (K',), the column that a copy is of
        first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
        shares = torch.repeat_interleave(counts, counts).float()
        self._offsets = ((torch.arange(wide) - first + 0.5) / shares).to(device)  # (K',), 1/2 where a column is whole
        self._shares = (1 / shares).to(device)

    def rounded(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """(M, K) float32 to (M, K') int8 and the scale of every row, (M, 1) float32."""
        split = rows.index_select(1, self._source).mul_(self._shares)  # (M, K')
        scale = split.abs().amax(dim=1, keepdim=True).clamp_min_(1e-30).div_(LEVELS)  # (M, 1)
        return torch.addcmul(self._offsets, split, scale.reciprocal()).floor_().to(torch.int8), scale

    def weight(self, scaled: Tensor) -> Tensor:
        """A weight (N, K) in steps, -127 to 127, as what is multiplied with `rounded`: (K', N) int8."""
        copies = scaled.index_select(1, self._source).add_(self._offsets)  # (N, K')
        return copies.floor_().to(torch.int8).T.contiguous()


class Slot:
    """What was rounded last, for the layers that take the same input one after the other (query, key and value; gate and up)."""

    def __init__(self) -> None:
        self._last: tuple[Columns, Tensor, tuple[Tensor, Tensor]] | None = None

    def rounded(self, columns: Columns, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `columns` makes of the rows of x (..., K)."""
        last = self._last  # read once: another thread may put its own there
        if last is None or last[0] is not columns or last[1] is not x:
            last = self._last = (columns, x, columns.rounded(x.reshape(-1, x.shape[-1])))
        return last[2]


class Int8Linear(nn.Module):
    """The product of 8-bit integers: weights with a scale for each output, inputs with one for each row, added up exactly."""

    def __init__(self, layer: nn.Module, columns: Columns, slot: Slot) -> None:
        """Round the weight of a linear layer.

        Args:
            layer: the layer.
            columns: how its input is rounded; the same object for layers of the same input.
            slot: where that is kept for the next of those; one for the whole model.
        """
        super().__init__()
        self._columns, self._slot = columns, slot
        scaled, self.scale = _in_steps(layer)  # (N, K), (N,)
        self.weight = columns.weight(scaled)  # (K', N)
        self.bias = bias_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) float32 to (..., N) float32."""
        rows, scale = self._slot.rounded(self._columns, x)  # (M, K'), (M, 1)
        product = torch._int_mm(rows, self.weight) * scale  # (M, N)
        product = product.mul_(self.scale) if self.bias is None else torch.addcmul(self.bias, product, self.scale)
        return product.view(*x.shape[:-1], -1)


class Int8WeightLinear(nn.Module):
    """8-bit weights with a scale for each output, brought back to the input's dtype for every product: half the memory."""

    def __init__(self, layer: nn.Module) -> None:
        """Round the weight of a linear layer."""
        super().__init__()
        scaled, self.scale = _in_steps(layer)  # (N, K), (N,)
        self.weight = scaled.round_().to(torch.int8).contiguous()
        self.bias = bias_of(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(..., K) to (..., N) in the same dtype."""
        product = F.linear(x, self.weight.to(x.dtype)) * self.scale.to(x.dtype)
        return product if self.bias is None else product + self.bias.to(x.dtype)


def _in_steps(layer: nn.Module) -> tuple[Tensor, Tensor]:
    """A linear layer's weight (N, K) in steps of its rows, -127 to 127, and their size, (N,) float32."""
    weight = weight_of(layer).float()
    scale = weight.abs().amax(dim=1).clamp_min(1e-30) / LEVELS
    return weight / scale[:, None], scale
