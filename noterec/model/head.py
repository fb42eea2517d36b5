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
    def none(cls, count: int, device: torch.device | None = None) -> Bags:
        """Of `count` notes without a word."""
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return cls(empty, torch.empty(0, device=device), torch.zeros(count, dtype=torch.int64, device=device))

    @classmethod
    def of(cls, matrix: Any, device: torch.device | None = None) -> Bags:
        """From a scipy CSR matrix (B, V)."""
        return cls(
            torch.from_numpy(matrix.indices.astype(np.int64)).to(device),
            torch.from_numpy(matrix.data.astype(np.float32)).to(device),
            torch.from_numpy(matrix.indptr[:-1].astype(np.int64)).to(device),
        )


class Head(nn.Module):
    """`W (x - μ) + Σ_w t_w E_w + B gelu(A (x - μ) / s) + U (v - ν)`, L2-normalised: states, words and images to embeddings."""

    mean: Tensor
    spread: Tensor
    visual_mean: Tensor

    def __init__(self, hidden_size: int, dimension: int, *, branch: int = 0, lexicon: int = 0, visual: int = 0) -> None:
        """Make a head that maps like a random rotation until `start_from` sets its geometry.

        Args:
            hidden_size: H, the backbone's state.
            dimension: D.
            branch: width of the residual branch; 0 = none.
            lexicon: V, known words; 0 = the states alone.
            visual: length of an image's summary v; 0 = images don't come in here.

        Raises:
            ConfigError: D exceeds what there is to map.
        """
        super().__init__()
        if dimension > hidden_size + lexicon + visual:
            raise ConfigError(
                f"dimension={dimension} exceeds what the backbone gives ({hidden_size}); give a smaller dimension"
            )
        self.hidden_size, self.dimension, self.branch, self.lexicon = hidden_size, dimension, branch, lexicon
        self.visual = visual
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
        if visual:
            self.register_buffer("visual_mean", torch.zeros(visual))
            self.image = nn.Linear(visual, dimension, bias=False)
            nn.init.orthogonal_(self.image.weight, gain=0.5 / math.sqrt(visual))  # of a layer-normed summary: norm 0.5

    @property
    def shape(self) -> dict[str, int]:
        """The arguments that make an empty head of this shape."""
        shape = {
            "hidden_size": self.hidden_size,
            "dimension": self.dimension,
            "branch": self.branch,
            "lexicon": self.lexicon,
        }
        return {**shape, "visual": self.visual} if self.visual else shape

    def forward(
        self, states: Tensor, bags: Bags | None = None, summary: Tensor | None = None, seen: Tensor | None = None
    ) -> Tensor:
        """Map notes to embeddings.

        Args:
            states: (B, H) any float.
            bags: the notes' words, where the head has a lexicon.
            summary: (B, V) of the notes' images, where the head takes them in.
            seen: (B,) bool, which notes have an image; the others' part is 0.

        Returns:
            (B, D) float32 unit-norm rows.
        """
        centred = states.float() - self.mean  # (B, H)
        mapped = self.linear(centred)  # (B, D)
        if self.lexicon:
            assert bags is not None, "this head has a lexicon"
            mapped = mapped + self.words(bags.words, bags.offsets, per_sample_weights=bags.weights)
        if self.branch:
            mapped = mapped + self.down(F.gelu(self.up(centred / self.spread)))
        if self.visual:
            assert summary is not None and seen is not None, "this head takes images in"
            mapped = mapped + self.image(summary.float() - self.visual_mean) * seen[:, None]
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
    if head.visual:
        short.visual_mean.copy_(head.visual_mean)
        short.image.weight.copy_(head.image.weight[:length])
    return short


@dataclasses.dataclass(frozen=True)
class Visual:
    """The images of N notes as a head takes them in: `summary` (N, V) float32, and `seen` (N,) bool, which notes have any."""

    summary: np.ndarray
    seen: np.ndarray

    def take(self, rows: Any) -> Visual:
        """Those of some of the notes."""
        return Visual(self.summary[rows], self.seen[rows])

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both as tensors."""
        return torch.from_numpy(self.summary).to(device), torch.from_numpy(self.seen).to(device)


@torch.no_grad()
def start_from(
    head: Head,
    states: Tensor,
    words: Any = None,
    visual: Visual | None = None,
    *,
    centre: bool = True,
    visual_share: float = 1.0,
    seed: int = 0,
) -> None:
    """Set a head to the geometry of its training notes before any training: principal axes of states, words and images together.

    Args:
        head: changed in place; its residual branch contributes nothing yet.
        states: (N, H) float, states of training notes only. They are centred and brought to a mean norm of 1, like the words.
        words: scipy CSR matrix (N, V) of the same notes, where the head has a lexicon.
        visual: their images, where the head takes them in: always centred, brought to a mean norm of `visual_share`.
        centre: False keeps the states' mean: cosines then are the backbone's own (exactly so where D = H).
        visual_share: how much an image weighs beside the text; 0 = nothing at the start.
        seed: of the randomised decomposition (Halko, Martinsson and Tropp 2011) and of the branch.
    """
    states = states.float()
    mean = states.mean(dim=0) if centre else torch.zeros_like(states[0])  # (H,)
    centred = states - mean  # (N, H)
    norm = centred.norm(dim=1).mean().clamp_min(1e-12)
    dense = centred / norm
    looked, scale = _looks(visual, visual_share)
    if looked is not None and visual_share:
        dense = torch.cat([dense, looked * scale], dim=1)  # (N, H + V)
    axes = _axes(dense, words, head.dimension, seed)  # (H + V + words, D)
    if head.visual and visual is not None and looked is not None:
        head.visual_mean.copy_(torch.from_numpy(visual.summary[visual.seen].mean(axis=0)))
        nn.init.zeros_(head.image.weight)
        if visual_share:
            head.image.weight.copy_(axes[head.hidden_size : head.hidden_size + head.visual].T * scale)
            axes = torch.cat([axes[: head.hidden_size], axes[head.hidden_size + head.visual :]])
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


def _looks(visual: Visual | None, share: float) -> tuple[Tensor | None, float]:
    """Centred image summaries (N, V), zeros where a note has none, and what brings them to a mean norm of `share`."""
    if visual is None or not visual.seen.any():
        return None, 0.0
    looked = visual.summary - visual.summary[visual.seen].mean(axis=0)  # (N, V)
    looked[~visual.seen] = 0
    norm = float(np.linalg.norm(looked[visual.seen], axis=1).mean())
    return torch.from_numpy(looked.astype(np.float32)), share / max(norm, 1e-12)


def _axes(states: Tensor, words: Any, dimension: int, seed: int) -> Tensor:
    """The `dimension` leading right singular vectors of [states | words]: (H + V, D)."""
    if words is None:
        moment = states.double().T @ states.double()  # (H, H)
        leading = torch.as_tensor(torch.linalg.eigh(moment).eigenvectors).flip(1)[:, :dimension].float()
        return F.pad(leading, (0, dimension - leading.shape[1]))  # (H, D); more dimensions than axes leave zeros
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
