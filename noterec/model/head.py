"""From a backbone's state, and a note's words, to the embedding.

The paper's map is linear, bias-free and random at the start (arXiv:2403.01744 §4.2). On a frozen backbone and few pairs that loses
against no training at all. So here everything starts from the geometry that the training notes have before training, the
principal axes of states and TF-IDF vectors side by side, and an optional branch whose last layer starts at zero adds what is
not linear.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noterec.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Bags:
    """Sparse word vectors of B notes, in compressed rows."""

    words: Tensor  # (nnz,) int64, places in the lexicon
    weights: Tensor  # (nnz,) float32
    offsets: Tensor  # (B,) int64, where each note's words begin

    @classmethod
    def of(cls, matrix: Any, device: torch.device | None = None) -> Bags:
        """From a scipy CSR matrix (B, V)."""
        return cls(
            torch.from_numpy(matrix.indices.astype(np.int64)).to(device),
            torch.from_numpy(matrix.data.astype(np.float32)).to(device),
            torch.from_numpy(matrix.indptr[:-1].astype(np.int64)).to(device),
        )


class Head(nn.Module):
    """`W (x - μ) + Σ_w t_w E_w + B gelu(A (x - μ) / s)`, L2-normalised: (B, H) states and words to (B, D) embeddings."""

    mean: Tensor
    spread: Tensor

    def __init__(self, hidden_size: int, dimension: int, *, branch: int = 0, lexicon: int = 0) -> None:
        """Make a head that maps like a random rotation until `start_from` sets its geometry.

        Args:
            hidden_size: H, the backbone's state.
            dimension: D.
            branch: width of the residual branch; 0 = none.
            lexicon: V, known words; 0 = the states alone.

        Raises:
            ConfigError: D exceeds H + V.
        """
        super().__init__()
        if dimension > hidden_size + lexicon:
            raise ConfigError(
                f"dimension={dimension} exceeds what the backbone gives ({hidden_size}); give a smaller dimension"
            )
        self.hidden_size, self.dimension, self.branch, self.lexicon = hidden_size, dimension, branch, lexicon
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("spread", torch.ones(()))
        self.linear = nn.Linear(hidden_size, dimension, bias=False)
        nn.init.orthogonal_(self.linear.weight)
        if lexicon:
            self.words = nn.EmbeddingBag(lexicon, dimension, mode="sum")
            nn.init.normal_(self.words.weight, std=1 / math.sqrt(dimension))
        if branch:
            self.up = nn.Linear(hidden_size, branch)
            self.down = nn.Linear(branch, dimension, bias=False)
            nn.init.zeros_(self.down.weight)

    @property
    def shape(self) -> dict[str, int]:
        """The arguments that make an empty head of this shape."""
        return {
            "hidden_size": self.hidden_size,
            "dimension": self.dimension,
            "branch": self.branch,
            "lexicon": self.lexicon,
        }

    def forward(self, states: Tensor, bags: Bags | None = None) -> Tensor:
        """(B, H) any float, and the notes' words where the head has a lexicon, to (B, D) float32 unit-norm rows."""
        centred = states.float() - self.mean  # (B, H)
        mapped = self.linear(centred)  # (B, D)
        if self.lexicon:
            assert bags is not None, "this head has a lexicon"
            mapped = mapped + self.words(bags.words, bags.offsets, per_sample_weights=bags.weights)
        if self.branch:
            mapped = mapped + self.down(F.gelu(self.up(centred / self.spread)))
        return F.normalize(mapped, dim=-1)


@torch.no_grad()
def truncated(head: Head, length: int) -> Head:
    """A head that gives the first `length` dimensions, normalised anew: a Matryoshka embedding (arXiv:2205.13147).

    Raises:
        ConfigError: the head has no more dimensions than that.
    """
    if not 2 <= length < head.dimension:
        raise ConfigError(
            f"dimension={length}: expected 2 to {head.dimension - 1}, below the {head.dimension} of the model"
        )
    short = Head(**{**head.shape, "dimension": length}).to(head.mean.device)
    short.mean.copy_(head.mean)
    short.spread.copy_(head.spread)
    short.linear.weight.copy_(head.linear.weight[:length])
    if head.lexicon:
        short.words.weight.copy_(head.words.weight[:, :length])
    if head.branch:
        short.up.load_state_dict(head.up.state_dict())
        short.down.weight.copy_(head.down.weight[:length])
    return short


@torch.no_grad()
def start_from(head: Head, states: Tensor, words: Any = None, *, centre: bool = True, seed: int = 0) -> None:
    """Set a head to the geometry of its training notes before any training: principal axes of states and words together.

    Args:
        head: changed in place; its residual branch contributes nothing yet.
        states: (N, H) float, states of training notes only. They are centred and brought to a mean norm of 1, like the words.
        words: scipy CSR matrix (N, V) of the same notes, where the head has a lexicon.
        centre: False keeps the states' mean: cosines then are the backbone's own (exactly so where D = H).
        seed: of the randomised decomposition (Halko, Martinsson and Tropp 2011) and of the branch.
    """
    states = states.float()
    mean = states.mean(dim=0) if centre else torch.zeros_like(states[0])  # (H,)
    centred = states - mean  # (N, H)
    norm = centred.norm(dim=1).mean().clamp_min(1e-12)
    axes = _axes(centred / norm, words, head.dimension, seed)  # (H + V, D)
    head.mean.copy_(mean)
    head.spread.copy_(norm / math.sqrt(head.hidden_size))
    head.linear.weight.copy_(axes[: head.hidden_size].T / norm)
    if head.lexicon:
        head.words.weight.copy_(axes[head.hidden_size :])
    if head.branch:
        drawn = torch.randn(head.up.weight.shape, generator=torch.Generator().manual_seed(seed))
        head.up.weight.copy_(drawn / math.sqrt(head.hidden_size))
        nn.init.zeros_(head.up.bias)
        nn.init.zeros_(head.down.weight)


def _axes(states: Tensor, words: Any, dimension: int, seed: int) -> Tensor:
    """The `dimension` leading right singular vectors of [states | words]: (H + V, D)."""
    if words is None:
        moment = states.double().T @ states.double()  # (H, H)
        return torch.as_tensor(torch.linalg.eigh(moment).eigenvectors).flip(1)[:, :dimension].float()
    dense = states.numpy()
    hidden = dense.shape[1]
    width = hidden + words.shape[1]
    transposed = words.T.tocsr()
    guess = min(dimension + 16, len(dense), width)
    basis = _orthonormal(np.random.default_rng(seed).standard_normal((width, guess), dtype=np.float32))  # (H + V, q)
    for _ in range(5):
        left = _orthonormal(dense @ basis[:hidden] + words @ basis[hidden:])  # (N, q)
        image = np.concatenate([dense.T @ left, transposed @ left])  # (H + V, q)
        basis = _orthonormal(image)
    right = np.linalg.svd(image, full_matrices=False)[0]  # (H + V, q)
    axes = np.zeros((width, dimension), dtype=np.float32)  # fewer notes than dimensions leave zeros
    axes[:, : min(dimension, guess)] = right[:, :dimension]
    return torch.from_numpy(axes)


def _orthonormal(matrix: np.ndarray) -> np.ndarray:
    return np.asarray(np.linalg.qr(matrix)[0], dtype=np.float32)
