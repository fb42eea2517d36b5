"""Speed of the road from picture files to a vision encoder's features, against a plain PyTorch loop over the same pictures.

    python benchmarks/images.py --size small --images 96

The plain loop is written as the method's reference does it: a Dataset that decodes with Pillow and normalises with Hugging Face's
image processor, a DataLoader with worker processes, the encoder's forward, features kept as float32 in a list. Ours is a gallery
with a cache on disk, its file written, synced and read back. Both see the same encoder with random weights and the same generated
photos. Rounds alternate, so that what else the machine does hits both. `cached` is a gallery opened on the cache of the round's
cold one, with the hash of the encoder's weights computed anew, as in a new process (the files are in the system's page cache).
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel

from noterec.config import ImagesConfig
from noterec.model.vision.gallery import Gallery
from noterec.model.vision.tower import VisionTower
from noterec.model.vision.transform import Transform
from noterec.model.vision.trying import Transformed
from noterec.notes.images.source import ImageSource
from noterec.notes.images.workers import decode_all

# Width, heads; 12 layers and patches of 16 px, as CLIP ViT-B/16 (base), ViT-S/16 and ViT-Ti/16 have them.
SHAPES = {"tiny": (192, 3), "small": (384, 6), "base": (768, 12)}
PLAIN_BATCH = 32


def main() -> None:
    """Print pictures per second and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(SHAPES), default="small")
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--repeated", type=float, default=0.3, help="share of pictures that were seen before, in the last case"
    )
    parser.add_argument("--workers", type=int, help="processes that decode for ours; none: as configured by default")
    parser.add_argument("--plain-workers", type=int, default=min(8, os.cpu_count() or 1), help="of the DataLoader")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    tower = encoder(options.size).to(options.device)
    files = photos(options.images)
    size = statistics.median(len(file) for file in files)
    print(f"{len(files)} photos of {size / 1e3:,.0f} kB (median)")
    print(f"{options.size} encoder on {options.device}, {options.threads} threads")
    draw = np.random.default_rng(1)
    distinct = max(1, round(len(files) * (1 - options.repeated)))
    again = [*range(distinct), *draw.integers(0, distinct, len(files) - distinct).tolist()]
    repeated = [files[place] for place in draw.permutation(again)]
    with tempfile.TemporaryDirectory(prefix="noterec-benchmark-") as folder:
        cases: dict[str, Callable[[int], Any]] = {
            "plain": lambda _: plain(tower, files, options),
            "cold": lambda turn: ours(tower, files, Path(folder) / f"cold-{turn}", options),
            "cached": lambda turn: ours(tower, files, Path(folder) / f"cold-{turn}", options),
            "cold, repeated": lambda turn: ours(tower, repeated, Path(folder) / f"repeated-{turn}", options),
            "plain pixels": lambda _: plain_pixels(files),
            "pixels": lambda _: our_pixels(tower, files),
        }
        seconds = {name: [0.0] * options.rounds for name in cases}
        for turn in range(options.rounds + 1):
            # The other one first every other round; `cached` always after its `cold`.
            names = list(cases) if turn % 2 else ["cold", "cached", "plain", "cold, repeated", "pixels", "plain pixels"]
            for name in names:
                began = time.perf_counter()
                found = cases[name](turn)
                taken = time.perf_counter() - began
                assert len(found) == len(files)
                if turn:  # the first one pays for starting up
                    seconds[name][turn - 1] = taken
        check(plain(tower, files[:4], options), ours(tower, files[:4], Path(folder) / "check", options))
    for name, values in seconds.items():
        print(f"{name}: {len(files) / statistics.median(values):,.1f} pictures/s (median of {len(values)})")
    for name, base in (("cold", "plain"), ("cached", "plain"), ("cold, repeated", "plain"), ("pixels", "plain pixels")):
        ratios = [b / a for a, b in zip(seconds[name], seconds[base], strict=True)]
        spread = f"{min(ratios):,.2f} to {max(ratios):,.2f} over the rounds"
        print(f"{name} / {base}: {statistics.median(ratios):,.2f} ({spread})")


def encoder(size: str) -> VisionTower:
    """A CLIP vision model with random weights."""
    width, heads = SHAPES[size]
    torch.manual_seed(0)
    config = CLIPVisionConfig(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=heads, patch_size=16, image_size=224
    )
    return VisionTower(CLIPVisionModel(config).eval(), Transform.of(CLIPImageProcessorPil(), size), name=size)


def photos(count: int) -> list[bytes]:
    """JPEG files of 400 to 1,600 px a side: shades, shapes without an edge and grain, so that they compress like photos."""
    draw = np.random.default_rng(0)
    files = []
    for _ in range(count):
        width, height = (int(side) for side in draw.integers(400, 1601, 2))
        coarse = Image.fromarray(draw.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        shades = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        grain = draw.normal(0, 8, (height, width, 1)).astype(np.float32)
        buffer = io.BytesIO()
        Image.fromarray((shades + grain).clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        files.append(buffer.getvalue())
    return files


def ours(tower: VisionTower, files: list[bytes], folder: Path, options: argparse.Namespace) -> np.ndarray:
    """The features of all pictures, through a gallery with a cache."""
    tower.weights_changed()  # so that its hash is computed, as in a new process
    config = ImagesConfig(workers=options.workers)
    gallery = Gallery(tower, ImageSource(), frozen=True, images=1, folder=folder, config=config)
    with gallery:
        added = gallery.add([[{"bytes": file, "path": None}] for file in files])
    return gallery.take(np.concatenate(added.rows))


class Pictures(Dataset[torch.Tensor]):
    """Normalised pixels by number, as the reference's dataset makes them."""

    def __init__(self, files: list[bytes], processor: Any) -> None:
        self.files, self.processor = files, processor

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, place: int) -> torch.Tensor:
        image = Image.open(io.BytesIO(self.files[place])).convert("RGB")
        pixels: torch.Tensor = self.processor(image, return_tensors="pt")["pixel_values"][0]  # (3, h, w)
        return pixels


@torch.no_grad()
def plain(tower: VisionTower, files: list[bytes], options: argparse.Namespace) -> list[torch.Tensor]:
    """The features of all pictures, by a plain loop."""
    pictures = Pictures(files, CLIPImageProcessorPil())
    found: list[torch.Tensor] = []
    for pixels in DataLoader(pictures, PLAIN_BATCH, num_workers=options.plain_workers):
        states = tower.model(pixel_values=pixels.to(options.device)).last_hidden_state  # (I, 1+S, V)
        found.extend(states.float().cpu())
    return found


def plain_pixels(files: list[bytes]) -> list[torch.Tensor]:
    """Decoding and transforming alone, in this process."""
    pictures = Pictures(files, CLIPImageProcessorPil())
    return [pictures[place] for place in range(len(files))]


def our_pixels(tower: VisionTower, files: list[bytes]) -> list[Any]:
    """Decoding and transforming alone, in this process."""
    entries = ({"bytes": file, "path": None} for file in files)
    return list(decode_all(entries, ImageSource(), then=Transformed(tower.transform)))


def check(plain: list[torch.Tensor], ours: np.ndarray) -> None:
    """Both must have computed the same patch states (the first is a summary, which each takes elsewhere)."""
    np.testing.assert_allclose(ours[:, 1:], torch.stack(plain)[:, 1:].numpy(), atol=0.01)


if __name__ == "__main__":
    main()
