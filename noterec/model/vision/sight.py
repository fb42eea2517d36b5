"""What an encoder sees with: the vision tower, the connector to the prompt, and late fusion (NoteLLM-2, arXiv:2405.16789 §4)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from noterec import storage
from noterec.config import VisionConfig
from noterec.errors import ArtefactError
from noterec.model.backbone import Backbone, weights_hash
from noterec.model.image_prompt import Slots
from noterec.model.vision.connector import Connector
from noterec.model.vision.fusion import Gate
from noterec.model.vision.tiny import tiny_tower
from noterec.model.vision.tower import VisionTower, load_tower, save_tower

if TYPE_CHECKING:
    from noterec.model.inputs import Seen

PARTS_FILE = "sight.safetensors"
FOLDER = "vision"


class Glimpse(NamedTuple):
    """What is known of the pictures of b notes.

    Attributes:
        tokens: (I * n, H) visual tokens in the order of their slots, or None where none go into the prompt.
        summary: (b, V) float32, the mean of each note's image summaries, zeros where it has none.
        by_note: (b,) bool, which notes have a picture.
    """

    tokens: Tensor | None
    summary: Tensor
    by_note: Tensor


class Sight(nn.Module):
    """A vision tower with what brings its states into a language model.

    Attributes:
        config: every `auto` decided.
        tower: the vision model.
        connector: to visual tokens; None where the prompt has none.
        gate: late fusion into the words' states; None without, or where the head does it.
    """

    def __init__(self, tower: VisionTower, config: VisionConfig, backbone: Backbone, *, state_std: float = 1.0) -> None:
        """Put the parts together, the new ones random.

        Args:
            tower: the vision model.
            config: decided: no field is None or auto.
            backbone: what the visual tokens are for.
            state_std: scale of the backbone's states, for the gate to start with.
        """
        super().__init__()
        undecided = [name for name in ("train", "tokens", "micl") if getattr(config, name) is None]
        assert not undecided and config.fusion != "auto", "decided settings"
        assert tower.grid == grid_of(config), "a tower that was made for these settings"
        self.tower, self.config = tower, config
        hidden = backbone.hidden_size
        self.connector: Connector | None = None
        if config.tokens:
            self.connector = Connector(
                config.connector,
                vision_size=tower.hidden_size,
                hidden_size=hidden,
                tokens=config.tokens,
                layers=config.connector_layers,
                std=backbone.token_std,
            )
        self.gate = Gate(tower.hidden_size, hidden, std=state_std) if config.fusion == "gate" else None
        self.tower.requires_grad_(bool(config.train))

    @property
    def slots(self) -> Slots | None:
        """How images stand in the prompt, None where they don't."""
        tokens = self.config.tokens
        return Slots(tokens, self.config.images, bool(self.config.micl)) if tokens else None

    @property
    def size(self) -> int:
        """V, the length of an image's summary."""
        return self.tower.hidden_size

    @property
    def in_states(self) -> bool:
        """Whether a note's state depends on its images; otherwise the head alone does."""
        return self.connector is not None or self.gate is not None

    @property
    def version(self) -> str:
        """Changes whenever what the tower, the connector or the gate makes of an image would."""
        settings = self.config.model_dump(
            include={"images", "tokens", "connector", "connector_layers", "micl", "fusion"}
        )
        return storage.value_hash([settings, self.tower.version, weights_hash(self._parts())])

    def weights_changed(self) -> None:
        """Forget the version; to be called after the weights were trained."""
        self.tower.weights_changed()

    def forward(self, seen: Seen) -> Glimpse:
        """Look at the pictures of b notes."""
        moving = seen.values.dtype == torch.uint8
        features = self.tower(seen.values) if moving else seen.values.float()  # (I, 1+S, V)
        tokens = None if self.connector is None else self.connector(features).flatten(0, 1)  # (I * n, H)
        return Glimpse(tokens, seen.mean(features[:, 0].float()), seen.by_note)

    def _parts(self) -> dict[str, Tensor]:
        """The weights beside the tower's, by name."""
        return {key: value for key, value in self.state_dict().items() if not key.startswith("tower.")}

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the tower as a Hugging Face folder, `vision`, and the other parts' weights below `folder`."""
        from safetensors.torch import save_file

        target = storage.local(folder) / FOLDER
        target.mkdir()
        save_tower(self.tower, target)
        save_file({key: value.detach().cpu().contiguous() for key, value in self._parts().items()}, target / PARTS_FILE)

    @classmethod
    def load(
        cls, folder: str | os.PathLike[str], config: VisionConfig, backbone: Backbone, device: torch.device
    ) -> Self:
        """Read what `save` wrote.

        Raises:
            ArtefactError: a file is missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        place = storage.local(folder) / FOLDER
        tower = load_tower(str(place), image_px=config.image_px, grid=grid_of(config), device=device)
        sight = cls(tower, config, backbone)
        try:
            weights: dict[str, Any] = load_file(place / PARTS_FILE)
            if weights.keys() != sight._parts().keys():
                raise KeyError(f"{len(weights.keys() ^ sight._parts().keys())} weights differ in name")
            sight.load_state_dict(weights, strict=False)
        except (OSError, RuntimeError, KeyError, SafetensorError) as error:
            raise ArtefactError(
                f"{place / PARTS_FILE}: missing or not this model's ({error}); copy it again"
            ) from error
        return sight


def new_tower(config: VisionConfig, *, seed: int, device: torch.device) -> VisionTower:
    """The vision tower that a configuration names, before training."""
    if config.encoder == "tiny":
        tower = tiny_tower(config.image_px or 64, grid=grid_of(config), seed=seed)
        tower.to(device)
        return tower
    return load_tower(config.encoder, image_px=config.image_px, grid=grid_of(config), device=device)


def grid_of(config: VisionConfig) -> int | None:
    """The grid of patch states that decided settings ask for: without visual tokens none."""
    assert config.tokens is not None, "decided settings"
    return config.grid if config.tokens else 0
