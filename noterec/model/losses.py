"""Training losses: plain functions of tensors that own no model."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from noterec.errors import BatchError


def contrastive_loss(embeddings: Tensor, logit_scale: Tensor, related: Tensor) -> Tensor:
    """Symmetric in-batch contrastive loss over related pairs (arXiv:2403.01744, eq. 2).

    Rows 2p and 2p+1 are the two notes of pair p; every other row of the batch is a negative, unless it is known to be
    related to the anchor.

    Args:
        embeddings: (2P, D) float, unit-norm rows.
        logit_scale: () float, multiplies cosines; e^τ in the paper, τ starts at 3.
        related: (2P, 2P) bool, true where two rows are the same note or known to be related.

    Returns:
        () float32, mean over the 2P anchors, in nats.

    Raises:
        BatchError: fewer than two pairs, so an anchor would have no negative.

    Differs from the paper: known relations are masked; the paper counts them as negatives.
    """
    rows = embeddings.shape[0]
    if rows < 4 or rows % 2:
        raise BatchError(f"a batch of {rows} notes; expected an even number, at least 4 (two pairs)")
    logits = embeddings.float() @ embeddings.float().T * logit_scale.float()  # (2P, 2P)
    partner = torch.arange(rows, device=embeddings.device) ^ 1  # (2P,)
    masked = related | torch.eye(rows, dtype=torch.bool, device=embeddings.device)
    masked = masked.scatter(1, partner[:, None], False)  # the positive itself always counts
    return F.cross_entropy(logits.masked_fill(masked, float("-inf")), partner)


def graph_loss(embeddings: Tensor, logit_scale: Tensor, weights: Tensor, same: Tensor | None = None) -> Tensor:
    """Contrastive loss over a block of notes in which every known relation is a positive, by its strength.

    Each note's target is a distribution over the block, its relations' weights normalised to one; all other notes but
    itself are negatives. With one positive of weight 1 per note it is `contrastive_loss`.

    Args:
        embeddings: (B, D) float, unit-norm rows.
        logit_scale: () float, multiplies cosines.
        weights: (B, B) float32, >= 0, how strongly column is related to row; the diagonal counts as 0.
        same: (B, B) bool, notes that can't be told apart: neither positive nor negative. None = each only with itself.

    Returns:
        () float32, mean over the notes that have a relation in the block, in nats.

    Raises:
        BatchError: no note has a relation in the block.

    Differs from the paper (arXiv:2403.01744, eq. 2): many positives per anchor instead of one, none of them a negative.
    """
    left_out = torch.eye(len(embeddings), dtype=torch.bool, device=embeddings.device)
    if same is not None:
        left_out = left_out | same
    logits = embeddings.float() @ embeddings.float().T * logit_scale.float()  # (B, B)
    log_shares = F.log_softmax(logits.masked_fill(left_out, float("-inf")), dim=1).masked_fill(left_out, 0.0)
    weights = weights.masked_fill(left_out, 0.0)
    mass = weights.sum(dim=1)  # (B,)
    known = mass > 0
    if not bool(known.any()):
        raise BatchError(
            f"no two of the {len(embeddings)} notes of a block are related; give larger blocks or more pairs"
        )
    losses = -(weights * log_shares).sum(dim=1)[known] / mass[known]
    return losses.mean()
