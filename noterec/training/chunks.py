"""Large batches in little memory: activations of one chunk of rows at a time, the loss over all rows.

The idea is gradient caching (Gao et al., arXiv:2101.06983): embed every chunk without keeping activations, take the loss of all
embeddings, embed every chunk again and send its rows' gradient through. Here the second pass is left to activation
checkpointing, so that there is one backward pass: DistributedDataParallel sees each gradient once, autocast and the dropout
of a chunk are as in the first pass, and other outputs (the generation loss) come from the same pass as the embeddings.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint


def in_chunks(
    forward: Callable[[slice], tuple[Tensor, ...]], total: int, chunk: int | None, *, device: torch.device
) -> tuple[Tensor, ...]:
    """Run `forward` over chunks of a batch whose activations are computed anew on the way back.

    Args:
        forward: given the rows of a chunk, a tuple: first a tensor (rows, ...), then sums over the chunk. It is called twice per
            chunk, must do the same both times, and must not communicate with other processes.
        total: rows of the batch.
        chunk: rows of a chunk; None, or at least `total`: one plain call that keeps its activations.
        device: where `forward` draws random numbers (dropout) beside the CPU.

    Returns:
        What one call with all rows would give, up to rounding and dropout: the first outputs one after another, the others
        added up.
    """
    if chunk is None or chunk >= total:
        return forward(slice(0, total))
    # Checkpointing restores the random state of those devices only that a tensor among the arguments is on.
    marker = torch.empty(0, device=device)
    parts = [
        checkpoint(_run, forward, slice(first, min(first + chunk, total)), marker, use_reentrant=False)
        for first in range(0, total, chunk)
    ]
    rows, *sums = zip(*parts, strict=True)
    return torch.cat(rows), *(torch.stack(values).sum(dim=0) for values in sums)


def _run(forward: Callable[[slice], tuple[Tensor, ...]], rows: slice, _: Tensor) -> tuple[Tensor, ...]:
    return forward(rows)
