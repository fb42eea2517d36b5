"""From the states of a picture's patches to visual tokens, which stand in the prompt like the embeddings of words.

Whatever the kind, a token's elements start with the scale of the language model's own token embeddings: a token a hundred times
as long as a word would drown the sentence around it before the first step of training.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noterec.errors import ConfigError

Kind = Literal["qformer", "mlp", "pooled"]
HEAD_SIZE = 64  # of the Q-Former's attention, as in BLIP-2
MAX_WIDTH = 768  # of the Q-Former, as in BLIP-2
GELU_POWER = 0.42522  # the mean of gelu(x)² where x is standard normal


class Connector(nn.Module):
    """(I, 1 + S, V) features to (I, tokens, H) visual tokens (arXiv:2405.16789 §4.1).

    - qformer: learned queries attend to each other, to the summary and to all patches, in `layers` layers; a two-layer GELU MLP
      follows (the paper's).
    - mlp: the patches are averaged to `tokens` groups, and a two-layer GELU MLP follows.
    - pooled: the patches are averaged to `tokens` groups, and one linear map follows.

    The last two don't read the summary; late fusion does. Nothing is dropped out: a batch that is run twice, as gradient caching
    does, must give the same twice.

    Differs from the paper: every layer of the Q-Former attends to the picture (in BLIP-2 every other one does, and two layers
    would look once); the features are layer-normalised first; it starts at random, where the paper doesn't say.
    """

    def __init__(
        self, kind: Kind, *, vision_size: int, hidden_size: int, tokens: int, layers: int = 2, std: float = 0.02
    ) -> None:
        """Make a connector, random from torch's own generator.

        Args:
            kind: qformer, mlp or pooled.
            vision_size: V, the length of a feature.
            hidden_size: H, the length of a token embedding.
            tokens: visual tokens of a picture, at least 1.
            layers: of the Q-Former; the other kinds have none.
            std: of the elements of the language model's token embeddings; those of the visual tokens start with it.

        Raises:
            ConfigError: the kind is unknown, or a number is out of range.
        """
        super().__init__()
        if kind not in ("qformer", "mlp", "pooled"):
            raise ConfigError(f"connector={kind!r}: expected qformer, mlp or pooled")
        if min(vision_size, hidden_size, tokens, layers) < 1 or not 0 < std < math.inf:
            raise ConfigError(
                f"connector: expected sizes, tokens and layers of at least 1 and std above 0, got {vision_size=}, {hidden_size=}, "
                f"{tokens=}, {layers=}, {std=}"
            )
        self.kind, self.hidden_size, self.tokens = kind, hidden_size, tokens
        self.norm = nn.LayerNorm(vision_size)
        width = vision_size
        if kind == "qformer":
            width = HEAD_SIZE * min(MAX_WIDTH // HEAD_SIZE, math.ceil(vision_size / HEAD_SIZE))
            self.queries = nn.Parameter(torch.randn(1, tokens, width))
            self.qformer = _qformer(width, vision_size, layers)
        # What comes in has elements of scale 1 in each kind, from a layer norm.
        inner: OrderedDict[str, nn.Module] = OrderedDict()
        power = 1.0
        if kind != "pooled":
            inner["up"], inner["gelu"] = _linear(width, hidden_size, 1.0), nn.GELU()
            width, power = hidden_size, GELU_POWER
        inner["down"] = _linear(width, hidden_size, std / math.sqrt(power))
        self.map = nn.Sequential(inner)

    def forward(self, features: Tensor) -> Tensor:
        """Visual tokens of pictures.

        Args:
            features: (I, 1 + S, V) float, the summary and then the patches in row-major order.

        Returns:
            (I, tokens, H) float.

        Raises:
            ConfigError: more tokens than patches, where those are averaged.
        """
        features = features.to(self.norm.weight.dtype)
        if not len(features):  # the Q-Former can't take none
            return features.new_zeros(0, self.tokens, self.hidden_size)
        if self.kind == "qformer":
            queries = self.queries.expand(len(features), -1, -1)  # (I, tokens, W)
            states = self.qformer(query_embeds=queries, encoder_hidden_states=self.norm(features)).last_hidden_state
            return torch.as_tensor(self.map(states))  # (I, tokens, H)
        return torch.as_tensor(self.map(self.norm(averaged(features[:, 1:], self.tokens))))  # (I, tokens, H)


def averaged(patches: Tensor, groups: int) -> Tensor:
    """Patches averaged to fewer, neighbours with neighbours: cells of a coarser grid where both numbers are squares, else runs.

    Args:
        patches: (I, S, V) float in row-major order.
        groups: how many.

    Returns:
        (I, groups, V), in row-major order.

    Raises:
        ConfigError: more groups than patches.
    """
    count = patches.shape[1]
    if groups > count:
        raise ConfigError(
            f"vision.tokens={groups}: the vision encoder gives {count} patches; expected no more tokens than that, or "
            "vision.connector=qformer"
        )
    if groups == count:
        return patches
    flat = patches.transpose(1, 2)  # (I, V, S)
    side, coarse = math.isqrt(count), math.isqrt(groups)
    if side * side == count and coarse * coarse == groups:
        return F.adaptive_avg_pool2d(flat.reshape(*flat.shape[:2], side, side), coarse).flatten(2).transpose(1, 2)
    return F.adaptive_avg_pool1d(flat, groups).transpose(1, 2)


def _linear(inputs: int, outputs: int, scale: float) -> nn.Linear:
    """A map that multiplies the scale of its inputs' elements by `scale`, and adds nothing yet."""
    linear = nn.Linear(inputs, outputs)
    nn.init.normal_(linear.weight, std=scale / math.sqrt(inputs))
    nn.init.zeros_(linear.bias)
    return linear


def _qformer(width: int, vision_size: int, layers: int) -> nn.Module:
    from transformers import Blip2QFormerConfig, Blip2QFormerModel

    return Blip2QFormerModel(
        Blip2QFormerConfig(
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // HEAD_SIZE,
            encoder_hidden_size=vision_size,
            cross_attention_frequency=1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            # A map then keeps its inputs' scale: at BERT's 0.02, narrow models would pass on the queries and little of the picture.
            initializer_range=width**-0.5,
            layer_norm_eps=1e-6,  # BERT's 1e-12 is lost in bfloat16
        )
    )
