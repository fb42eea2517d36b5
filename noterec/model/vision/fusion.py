"""Late fusion: the picture's summary joins the language model's state behind the language model (arXiv:2405.16789 §4.3).

Inside the prompt a language model that was made for text comes to neglect pictures. The gate is a way around it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from noterec.errors import ConfigError


class Gate(nn.Module):
    """`z ⊙ v + (1 - z) ⊙ h` with `v = W norm(summary)` and `z = sigmoid(W_g [v; h])`, for every element of the state h.

    It starts as the plain mean of v and h: W is a random rotation, which keeps what is near in the vision encoder's eyes near in
    v, and W_g is zero.

    Differs from the paper: the summary is layer-normalised before W, because vision encoders differ in scale by orders of
    magnitude, and W starts so that v has the scale of h; W_g starts at zero, because states of language models have elements so
    large that random weights would open or shut most gates for good.
    """

    def __init__(self, vision_size: int, hidden_size: int, *, std: float = 1.0) -> None:
        """Make a gate, random from torch's own generator.

        Args:
            vision_size: V, the length of a summary.
            hidden_size: H, the length of a state.
            std: scale of the states' elements; those of v start with it.

        Raises:
            ConfigError: a number is out of range.
        """
        super().__init__()
        if min(vision_size, hidden_size) < 1 or not 0 < std < math.inf:
            raise ConfigError(
                f"gate: expected sizes of at least 1 and std above 0, got {vision_size=}, {hidden_size=}, {std=}"
            )
        self.norm = nn.LayerNorm(vision_size)
        self.value = nn.Linear(vision_size, hidden_size, bias=False)
        self.gate = nn.Linear(2 * hidden_size, hidden_size)
        # Orthonormal rows (or columns) times this: V elements of scale 1 become H elements of scale std.
        nn.init.orthogonal_(self.value.weight, gain=std * max(1.0, math.sqrt(hidden_size / vision_size)))
        nn.init.zeros_(self.gate.weight)
        nn.init.zeros_(self.gate.bias)

    def forward(self, states: Tensor, summary: Tensor, seen: Tensor) -> Tensor:
        """States with what was seen in them.

        Args:
            states: (B, H) any float, the language model's.
            summary: (B, V) any float, of each note's picture.
            seen: (B,) bool, false where a note has no picture; its summary is not read, whatever it holds.

        Returns:
            (B, H) in the states' dtype; rows without a picture are the states themselves.
        """
        rows = seen[:, None]  # (B, 1)
        # Zeros rather than what is there: a NaN would come through the gradient of `where` even though it is not chosen.
        value = self.value(self.norm(summary.float().masked_fill(~rows, 0.0)))  # (B, H)
        hidden = states.float()  # (B, H)
        gate = torch.sigmoid(self.gate(torch.cat([value, hidden], dim=1)))  # (B, H)
        return torch.where(rows, (gate * value + (1 - gate) * hidden).to(states.dtype), states)
