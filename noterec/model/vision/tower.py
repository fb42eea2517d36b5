"""The vision encoder: any Hugging Face model that gives states of patches, as it is.

What a model gives is read from its output, never from its name: patches are the last of a row of tokens (CLIP, SigLIP, DINOv2,
DINOv3, ViT) or the places of a feature map (ConvNeXt, EfficientNet), and what stands before them is the CLS token and registers.
"""

from __future__ import annotations

import inspect
import logging
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from noterec import storage
from noterec.errors import ArtefactError, ConfigError, DependencyError, InputError
from noterec.model.backbone import quiet, resolve, weights_hash
from noterec.model.vision.layout import Layout, layout_of
from noterec.model.vision.transform import Transform, load_transform

logger = logging.getLogger(__name__)

# What a model takes beside pixels that are cut into patches already.
_PATCHED = {"pixel_attention_mask", "spatial_shapes"}
# Of its configuration: where it came from and how it is held, which doesn't change what it makes of a picture.
_VOLATILE = {
    "name_or_path",
    "_name_or_path",
    "_commit_hash",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
}


class VisionTower(nn.Module):
    """A vision model that takes uint8 pictures and gives a summary and the states of their patches.

    The summary is the state in which the model itself sums a picture up, as it was trained: its pooled output. That is the CLS
    state behind the last layer norm in CLIP and DINO, that state through one more map in ViT, and patches pooled by attention in
    SigLIP. A model that pools nothing, or whose folder came without the weights for it, gives its first token; one without any,
    the mean of its patches.

    Attributes:
        model: Hugging Face's.
        name: what it was loaded from, a folder in full or a hub id; or `tiny`.
        transform: from an RGB picture to (3, h, w) uint8; picklable.
        grid: patch states are averaged to a grid of this side; 0 = none is given; None = as they are.

    Differs from arXiv:2405.16789: the paper has one encoder (CLIP) and doesn't say on which side of its last layer norm the CLS
    state is taken.
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, model: nn.Module, transform: Transform, *, name: str, grid: int | None = None) -> None:
        """Run the model once, to see how its output is read.

        Raises:
            InputError: the output has no patch states.
            ConfigError: the model doesn't take pictures of that size, or has fewer patches than the grid.
        """
        super().__init__()
        self.model, self.transform, self.grid, self.name = model, transform, grid, name
        # Part of the transform, not of the weights.
        self.register_buffer("scale", torch.from_numpy(transform.scale.copy()), persistent=False)
        self.register_buffer("offset", torch.from_numpy(transform.offset.copy()), persistent=False)
        self._hash: str | None = None
        given = inspect.signature(model.forward).parameters
        self._patched = set(given) >= _PATCHED
        size = getattr(model.config, "image_size", None)
        own = tuple(size) if isinstance(size, list | tuple) else (size, size)
        # Positions were learned for one size; elsewhere they are interpolated, where the model can.
        self._interpolate = size is not None and own != self.pixel_shape[1:] and "interpolate_pos_encoding" in given
        self._layout = self._look()
        if grid is not None and grid > min(self._layout.rows, self._layout.columns):
            raise ConfigError(
                f"grid={grid}: the model has {self._layout.rows} x {self._layout.columns} patches of a picture of "
                f"{self.pixel_shape[1]} x {self.pixel_shape[2]} px; expected no more"
            )

    @property
    def hidden_size(self) -> int:
        """V, the length of a state."""
        return self._layout.hidden_size

    @property
    def pixel_shape(self) -> tuple[int, int, int]:
        """(3, h, w) of what the transform gives."""
        return self.transform.shape

    @property
    def feature_shape(self) -> tuple[int, int]:
        """(1 + S, V) of what a picture becomes."""
        layout = self._layout
        return 1 + (layout.rows * layout.columns if self.grid is None else self.grid**2), self.hidden_size

    @property
    def tokens(self) -> int:
        """Tokens of a picture inside the model: its patches, and what stands before them."""
        return self._layout.rows * self._layout.columns + self._layout.before

    @property
    def version(self) -> str:
        """A hash of all that features depend on: the model's weights and configuration, transform, grid."""
        if self._hash is None:
            weights = weights_hash(self.model.state_dict())
            config = _lasting(cast("Any", self.model.config).to_diff_dict())
            self._hash = storage.value_hash([weights, config, self.transform.signature, self.grid])
        return self._hash

    def weights_changed(self) -> None:
        """Forget the version: the model was trained."""
        self._hash = None

    def forward(self, pixels: Tensor) -> Tensor:
        """Features of pictures.

        Args:
            pixels: (I, 3, h, w) uint8, from `transform`, on the model's device.

        Returns:
            (I, 1 + S, V) float: the summary, then the patch states in row-major order.
        """
        if not len(pixels):  # some of the library's models can't take none
            return torch.zeros(0, *self.feature_shape, device=pixels.device)
        output, layout = self._run(pixels), self._layout
        states = output.last_hidden_state
        if states.ndim == 4:
            states = states.flatten(2).transpose(1, 2)  # (I, V, rows, columns) -> (I, S, V)
        patches = states[:, layout.before :]  # (I, S, V)
        if layout.summary == "pooled":
            summary = output.pooler_output.flatten(1)  # (I, V)
        else:
            summary = states[:, 0] if layout.summary == "first" else patches.mean(dim=1)
        if self.grid == 0:
            return torch.as_tensor(summary[:, None])  # (I, 1, V)
        if self.grid is not None:
            flat = patches.transpose(1, 2)  # (I, V, S)
            cells = flat.reshape(*flat.shape[:2], layout.rows, layout.columns)  # (I, V, rows, columns)
            patches = F.adaptive_avg_pool2d(cells, self.grid).flatten(2).transpose(1, 2)  # (I, grid², V)
        return torch.cat([summary[:, None], patches], dim=1)  # (I, 1 + S, V)

    def _run(self, pixels: Tensor) -> Any:
        dtype = next(self.model.parameters()).dtype
        values = (pixels.float() * self.scale + self.offset).to(dtype)  # (I, 3, h, w)
        if self._patched:
            return self.model(**self._cut(values))
        return self.model(pixel_values=values, **({"interpolate_pos_encoding": True} if self._interpolate else {}))

    def _cut(self, values: Tensor) -> dict[str, Tensor]:
        """Pictures as the rows of patches that SigLIP 2 NaFlex takes in; all have one shape, so there is no padding."""
        images, side = len(values), int(cast("Any", self.model.config).patch_size)
        rows, columns = values.shape[2] // side, values.shape[3] // side
        if (rows * side, columns * side) != tuple(values.shape[2:]):
            raise ConfigError(f"image_px={values.shape[2]}: expected a multiple of the model's patches of {side} px")
        cells = values.reshape(images, 3, rows, side, columns, side)
        cells = cells.permute(0, 2, 4, 3, 5, 1)  # (I, rows, columns, p, p, 3)
        return {
            "pixel_values": cells.reshape(images, rows * columns, -1),  # (I, S, 3p²)
            "pixel_attention_mask": torch.ones(images, rows * columns, dtype=torch.int64, device=values.device),
            "spatial_shapes": torch.tensor([[rows, columns]]).expand(images, 2),  # read one by one: stays on the CPU
        }

    @torch.no_grad()
    def _look(self) -> Layout:
        """Run the model on a grey picture, to see how its output is read."""
        height, width = self.pixel_shape[1:]
        device = next(self.model.parameters()).device
        self.to(device).eval()
        try:
            output = self._run(torch.full((1, *self.pixel_shape), 128, dtype=torch.uint8, device=device))
        except (ValueError, RuntimeError, IndexError) as error:
            raise ConfigError(
                f"image_px={height}: {self.name} does not take pictures of {height} x {width} px ({str(error).splitlines()[0]}); "
                "leave vision.image_px out, or give a model whose positions can be interpolated"
            ) from error
        return layout_of(output, (height, width), self.model.config, self.name)


def _lasting(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what is volatile, in its halves neither."""
    kept = {str(key): value for key, value in config.items() if key not in _VOLATILE}
    return {key: _lasting(value) if isinstance(value, dict) else value for key, value in kept.items()}


def load_tower(
    name: str, *, image_px: int | None = None, grid: int | None = None, device: torch.device | None = None
) -> VisionTower:
    """Load a vision model and its image processor from a folder or the Hugging Face hub.

    Of a model that also reads text (CLIP, SigLIP), the vision half alone is loaded. Weights are held in float32. A class that was
    registered with transformers' `AutoConfig` and `AutoModel` is found like the library's own; code from model folders is never
    run.

    Args:
        name: a folder, or a hub id.
        image_px: side of the square that it sees, in pixels; None = its image processor's own.
        grid: average patch states to a grid of this side; 0 = give the summary alone; None = as they are.
        device: where it goes; None = CPU.

    Raises:
        DependencyError: not a folder, and the hub can't be reached or doesn't have it; or a package is missing.
        InputError: a model that sees nothing, or has no image processor.
        ArtefactError: the folder is damaged, or weights are missing.
        ConfigError: it can't take that size, or has fewer patches than the grid.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModel

    source = resolve(name)
    try:
        with quiet():
            config = _seeing(AutoConfig.from_pretrained(source, trust_remote_code=False), name)
            model, report = AutoModel.from_pretrained(
                source, config=config, dtype=torch.float32, trust_remote_code=False, output_loading_info=True
            )
            transform = load_transform(source, name, image_px)
    except ImportError as error:
        first = str(error).strip().splitlines()[0]
        raise DependencyError(
            f"vision encoder {name!r}: a package that its model is made with is missing ({first})"
        ) from error
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        first = str(error).strip().splitlines()[0]
        if Path(source).is_dir():
            raise ArtefactError(f"{name}: the model folder does not load ({first}); fetch it again") from error
        raise DependencyError(
            f"vision encoder {name!r}: no such folder here, and the hub did not give it ({first}). Give a folder with config.json, "
            "model.safetensors and preprocessor_config.json; or vision.encoder=tiny, which needs nothing"
        ) from error
    _check_weights(model, report["missing_keys"], name)
    lasting = str(Path(source).resolve()) if Path(source).is_dir() else name
    tower = VisionTower(model, transform, grid=grid, name=lasting)
    return tower.to(device or torch.device("cpu")).eval()


def save_tower(tower: VisionTower, folder: Path) -> None:
    """Write the model and its image processor as an ordinary Hugging Face folder, which `load_tower` reads.

    The size of its pictures is in the image processor's settings; the grid is not of the model and must be given again.
    """
    with quiet():
        cast("Any", tower.model).save_pretrained(folder)
    tower.transform.save(folder)


def _seeing(config: Any, name: str) -> Any:
    """The configuration of a model, or of its vision half.

    Raises:
        InputError: it takes no pixels, or more than pixels.
    """
    from transformers import MODEL_MAPPING

    half = getattr(config, "vision_config", None) or config
    classes = MODEL_MAPPING.get(type(half), None)
    found = classes[0] if isinstance(classes, list | tuple) else classes
    parameters = [] if found is None else list(inspect.signature(found.forward).parameters.values())[1:]
    needed = {p.name for p in parameters if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD}
    if not parameters or parameters[0].name != "pixel_values" or needed - {"pixel_values"} not in (set(), _PATCHED):
        raise InputError(
            f"{name}: can't see with a {config.model_type} model; expected one of images alone, or with such a half (CLIP, SigLIP, "
            "DINO, ViT, ConvNeXt, ...)"
        )
    return half


def _check_weights(model: Any, missing: set[str], name: str) -> None:
    """Take away pooling that has no weights; any other weight that is missing would be left random.

    Raises:
        ArtefactError: there are such weights.
    """
    absent = sorted(key for key in missing if not key.startswith("pooler."))
    if absent:
        raise ArtefactError(
            f"{name}: {len(absent)} weights are missing, the first is {absent[0]}; fetch the model again"
        )
    if missing:  # many checkpoints of ViT come without
        logger.info("%s: no weights for pooling; a picture's summary is its first token", name)
        model.pooler = None
