"""Batches of notes of like length under a budget of tokens, so that little is computed on padding."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

CPU_TOKENS = 2048  # what a batch's states fit in the caches with: a larger one is slower there, not faster
GPU_TOKENS = 16384
ALIKE = 8  # tokens


@dataclasses.dataclass
class Meter:
    """What was computed so far, for progress and records.

    Attributes:
        notes: how many.
        tokens: theirs, without padding and without a prefix that was computed once for all of them.
        padded: the same with padding.
    """

    notes: int = 0
    tokens: int = 0
    padded: int = 0

    def count(self, ids: Tensor, lengths: Tensor) -> None:
        """Add a batch: (b, T) ids of which the first `lengths` (b,) of each row are its note's, both on the CPU."""
        self.notes += len(ids)
        self.tokens += int(lengths.sum())
        self.padded += ids.numel()


def default_tokens(device: torch.device) -> int:
    """The budget of a batch where the user gives none: tokens, padding included."""
    return CPU_TOKENS if device.type == "cpu" else GPU_TOKENS


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


def widths(lengths: Sequence[int] | np.ndarray, most: int) -> np.ndarray:
    """What notes (B,) are padded to where that must not depend on the notes beside them: (B,) int64, the next multiple of 8.

    `most` is what no note exceeds: a model may have no position behind it.
    """
    return np.minimum(-(-np.asarray(lengths, dtype=np.int64) // ALIKE) * ALIKE, most)


def pad(sequences: Sequence[np.ndarray], pad_id: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Right-padded ids and lengths: (B, T) int64 and (B,) int64, T = width, or the longest of the batch."""
    lengths = torch.tensor([len(sequence) for sequence in sequences], dtype=torch.int64)
    ids = torch.full((len(sequences), width or int(lengths.max())), pad_id, dtype=torch.int64)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence)
    return ids, lengths
