"""Settings of the part of the encoder that sees (NoteLLM-2, arXiv:2405.16789)."""

from __future__ import annotations

from typing import Literal, Self

import pydantic
from pydantic import Field

from noterec.config.settings import Settings


class VisionConfig(Settings):
    """How a note's images enter its embedding; `encoder=none` leaves them out."""

    encoder: str = Field(
        "none",
        description="none, tiny (from scratch), a folder or hub id of a vision model (CLIP, SigLIP, DINO, ViT, ...)",
    )
    train: bool | None = Field(
        None,
        description="whether the vision encoder's weights move (a pretrained one at a learning rate of 5e-5); none: only those of "
        "tiny (the paper's stay frozen)",
    )
    images: int = Field(1, ge=1, le=64, description="the first so many of a note's images are used")
    image_px: int | None = Field(
        None, ge=16, le=1024, description="side of the square that it sees; none: its own, 64 for tiny"
    )
    grid: int | None = Field(
        None, ge=1, le=64, description="patch states are averaged to a grid of this side; none: as they are"
    )
    connector: Literal["qformer", "mlp", "pooled"] = Field(
        "qformer",
        description="from patch states to visual tokens; qformer: learned queries; mlp: averaged patches through two layers; "
        "pooled: averaged patches through one",
    )
    connector_layers: int = Field(2, ge=1, le=12, description="of the Q-Former (6 in the paper)")
    tokens: int | None = Field(
        None,
        ge=0,
        le=256,
        description="visual tokens per image in the prompt; none: 16, or 0 for a frozen backbone, whose states know the text alone",
    )
    micl: bool | None = Field(
        None,
        description="multimodal in-context learning: an image word before the text word, both trained; none: where there are "
        "visual tokens in the prompt of a causal language model (style plain, which has no words: the last visual token)",
    )
    visual_weight: float = Field(
        1 / 9, ge=0, description="of the image word's loss beside 1 of the served word's (1 : 9 in the paper)"
    )
    fusion: Literal["auto", "none", "gate", "head"] = Field(
        "auto",
        description="late fusion of the image's summary; gate: into the words' states (the paper); head: beside them, by a map of "
        "its own; auto: gate, or head for a frozen backbone",
    )
    augment: bool = Field(False, description="shift, scale and mirror training images, seeded; needs train")

    @property
    def on(self) -> bool:
        """Whether images are used at all."""
        return self.encoder != "none"

    @pydantic.model_validator(mode="after")
    def _something_to_set(self) -> Self:
        changed = sorted(self.model_fields_set - {"encoder"})
        if not self.on and any(getattr(self, name) != type(self).model_fields[name].default for name in changed):
            raise ValueError(f"vision.{changed[0]} is given and vision.encoder=none; give vision.encoder too")
        return self
