"""Batches of notes of like length under a budget of tokens, so that little is computed on padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def plan(lengths: Sequence[int] | np.ndarray, batch_tokens: int) -> list[np.ndarray]:
    """Group notes by length: longest first, each batch at most `batch_tokens` tokens with its padding.

    Lengths may count more than tokens (see `EncoderCore.costs`). The longest come first so that a job that runs out of memory does
    so at once.

    Args:
        lengths: (B,) tokens of each note.
        batch_tokens: budget; a single longer note still makes a batch of its own.

    Returns:
        Arrays of positions into `lengths`; together a permutation of 0..B-1.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-lengths, kind="stable")
    batches = []
    start = 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, int(lengths[order[start]])))
        batches.append(order[start : start + count])
        start += count
    return batches


def pad(sequences: Sequence[np.ndarray], pad_id: int) -> tuple[Tensor, Tensor]:
    """Right-padded ids and lengths: (B, T) int64 and (B,) int64, T the longest of the batch."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    ids = torch.full((len(sequences), int(lengths.max())), pad_id, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
    return ids, lengths
