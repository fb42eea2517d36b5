"""One loss over the rows of all processes.

Every process computes the same loss over the global batch. Its gradient then has to be that of a single process with the same
batch, although DistributedDataParallel averages gradients over the W processes:

- A parameter that is used behind the gathering (the logit scale) has the whole gradient in every process: its mean is right.
- A parameter that is used before it (the encoder) has, in each process, only the share of the rows made there: the mean is a W-th
  of what it should be, and so `gather_rows` multiplies by W on the way back.
- What is summed over a process's own rows only (the generation loss) is multiplied by W in `global_mean`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor


def world() -> int:
    """W, how many processes share a batch; 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process among them, from 0."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes in rank order, with gradient: (b, ...) to (sum of b, ...); b may differ between processes.

    Every process must compute the same loss from them. On the way back nothing is sent: each process already has the gradient of
    its own rows. So there is no collective that could get between those of DistributedDataParallel in another order on
    another process.
    """
    return rows if world() == 1 else torch.as_tensor(_GatherRows.apply(rows))  # type: ignore[no-untyped-call]


def from_first(table: np.ndarray, device: torch.device) -> np.ndarray:
    """The first process's table, for all: what each computes for itself may differ by rounding. Shapes and dtypes are equal."""
    if world() == 1:
        return table
    shared = torch.from_numpy(table).to(device)
    dist.broadcast(shared, src=0)
    return np.asarray(shared.cpu().numpy())


def global_mean(total: Tensor, count: Tensor) -> Tensor:
    """A sum over this process's rows, divided by the count over all processes, times W.

    The mean over processes, of the value as of its gradient, is then the mean over all that was counted, however unevenly it is
    spread; 0 where nothing was.

    Args:
        total: () float, this process's sum.
        count: () int64 or float, how much it is the sum of; may be 0.
    """
    everything = count.detach().clone()
    if world() > 1:
        dist.all_reduce(everything)
    return total * world() / everything.clamp_min(1)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = _all(rows)
        first = sum(len(part) for part in parts[: rank()])
        ctx.own = slice(first, first + len(rows))
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Tensor:
        return torch.as_tensor(gradients[0][ctx.own] * world())


def _all(rows: Tensor) -> list[Tensor]:
    """Every process's rows; shorter ones travel padded, as a collective wants equal shapes."""
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.empty_like(own) for _ in range(world())]
    dist.all_gather(counts, own)
    lengths = [int(count) for count in counts]
    padded = rows.new_zeros(max(lengths), *rows.shape[1:])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return [part[:length] for part, length in zip(gathered, lengths, strict=True)]
