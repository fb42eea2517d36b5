"""Training losses: plain functions of tensors that own no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from noterec.errors import BatchError


def contrastive_loss(
    embeddings: Tensor,
    logit_scale: Tensor,
    related: Tensor,
    *,
    log_q: Tensor | None = None,
    extra: Tensor | None = None,
) -> Tensor:
    """Symmetric in-batch contrastive loss over related pairs (arXiv:2403.01744, eq. 2).

    Rows 2p and 2p+1 are the two notes of pair p; every other row of the batch, and every row of `extra`, is a negative, unless
    it is known to be related to the anchor.

    Args:
        embeddings: (2P, D) float, unit-norm rows.
        logit_scale: () float, multiplies cosines; e^τ in the paper, τ starts at 3.
        related: (2P, 2P+E) bool, true where two rows are the same note or known to be related; batch first, then `extra`.
        log_q: (2P+E,) float32, how probable it is that a batch holds the note of a column, as a logarithm. It is subtracted from
            the column's logit, the positive's included (Yi et al., RecSys'19, eq. 4), so that popular notes aren't pushed away
            merely because they are drawn often. Columns are corrected against each other: mined negatives need their own
            value too, not 0. None = no correction.
        extra: (E, D) float, unit-norm rows of mined hard negatives, which count against every anchor and are none themselves.

    Returns:
        () float32, mean over the 2P anchors, in nats.

    Raises:
        BatchError: fewer than two pairs, so an anchor would have no negative.

    Differs from the paper: known relations are masked; the paper counts them as negatives. `log_q` and `extra` aren't in it.
    """
    rows = embeddings.shape[0]
    if rows < 4 or rows % 2:
        raise BatchError(f"a batch of {rows} notes; expected an even number, at least 4 (two pairs)")
    columns = embeddings if extra is None else torch.cat([embeddings, extra])  # (2P+E, D)
    logits = _logits(embeddings, columns, logit_scale)  # (2P, 2P+E)
    if log_q is not None:
        logits = logits - log_q
    partner = torch.arange(rows, device=embeddings.device) ^ 1  # (2P,)
    masked = related | torch.eye(rows, len(columns), dtype=torch.bool, device=embeddings.device)
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
    logits = _logits(embeddings, embeddings, logit_scale)  # (B, B)
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


def matryoshka_loss(embeddings: Tensor, lengths: Sequence[int], loss: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of a loss over prefixes of the embeddings, so that a prefix is an embedding too (arXiv:2205.13147, eq. 1).

    Args:
        embeddings: (B, D) float: whatever rows the loss takes, mined negatives among them.
        lengths: the prefixes' lengths, D itself where the whole vector is to be trained.
        loss: gets (B, length) unit-norm rows, in the order of `embeddings`, and gives a () loss.

    Returns:
        () float, the losses' mean.

    Differs from the paper: the mean, not the sum, so that the loss weighs the same whatever the number of lengths.
    """
    losses = [loss(F.normalize(embeddings[:, :length], dim=-1)) for length in lengths]
    return torch.stack(losses).mean()


def generation_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of what should be written, at the output's positions only (arXiv:2403.01744, eq. 3).

    Sum and count stand apart, so that chunks and processes can be added up before the one is divided by the other.

    Args:
        logits: (M, V) float, next-token scores at the positions before each output token; M may be 0.
        targets: (M,) int64, the output tokens.

    Returns:
        () float32 sum in nats, and () int64 M.
    """
    total = F.cross_entropy(logits.float(), targets, reduction="sum")
    return total, torch.tensor(len(targets), device=logits.device)


def joint_loss(contrastive: Tensor, generation: Tensor, alpha: float) -> Tensor:
    """`(L_cl + α L_gen) / (1 + α)` (arXiv:2403.01744, eq. 4).

    Args:
        contrastive: () float, L_cl.
        generation: () float, L_gen: mean over the output tokens, in nats.
        alpha: α, 0.01 in the paper.
    """
    return (contrastive + alpha * generation) / (1 + alpha)


def weighted_loss(multimodal: Tensor, visual: Tensor, visual_weight: float) -> Tensor:
    """`(w_m L_m + w_v L_v) / (w_m + w_v)` with w_m = 1: the note's word and the image's (arXiv:2405.16789 §4.2).

    Args:
        multimodal: () float, L_m.
        visual: () float, L_v.
        visual_weight: w_v; the paper's 9 : 1 is 1/9.
    """
    return (multimodal + visual_weight * visual) / (1 + visual_weight)


def _logits(rows: Tensor, columns: Tensor, logit_scale: Tensor) -> Tensor:
    """Scaled cosines: (B, D) and (C, D) to (B, C) float32."""
    # Under autocast the product of float32 matrices would be rounded to bfloat16: steps of 0.1 in a logit of 20.
    with torch.autocast(rows.device.type, enabled=False):
        return rows.float() @ columns.float().T * logit_scale.float()
