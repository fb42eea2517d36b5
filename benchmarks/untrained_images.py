"""Embeddings of notes' first pictures without any training: what a picture says before anyone taught a model what goes together.

    python benchmarks/untrained_images.py DATASET --out runs/colour
    python benchmarks/untrained_images.py DATASET --out runs/lite0 --vision models/lite0 --register efficientnet_lite0

Without --vision it is statistics of colours and edges; with it, what that vision encoder sums a picture up as. A note without a
usable picture gets no vector, and counts as a miss where it is asked for. The tables are read by `noterec evaluate --arm NAME=OUT`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from noterec import schema, storage
from noterec.config import ImagesConfig
from noterec.errors import ImageError
from noterec.model.vision.gallery import Gallery
from noterec.model.vision.tower import load_tower
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import ImageSource
from noterec.notes.images.workers import decode_all
from noterec.notes.note import content_hashes

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "shard-000000.parquet"
SIDE_PX = 96
CELLS = 3  # edges are counted in a grid of this side
COLOURS = (12, 4, 4)  # bins of hue, saturation and value
DIRECTIONS = 8  # bins of half a turn: an edge and its opposite count as one


def main() -> None:
    """Write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vision", help="folder or hub id of a vision encoder")
    parser.add_argument("--register", action="append", default=[], help="module that knows the encoder's kind")
    parser.add_argument("--image-root", type=Path)
    options = parser.parse_args()
    for module in options.register:
        importlib.import_module(module)
    seen, notes = write(options.dataset, out=options.out, vision=options.vision, image_root=options.image_root)
    print(f"{options.out}: {seen:,} of {notes:,} notes have a vector")


def write(dataset: Path, *, out: Path, vision: str | None, image_root: Path | None) -> tuple[int, int]:
    """Write an embeddings table; returns how many notes have a vector, and how many notes there are.

    Args:
        dataset: the notes.
        out: a folder for the one shard of the table, which is replaced.
        vision: the vision encoder, None for statistics of colours and edges.
        image_root: where pictures that are given by path are.
    """
    # Identifiers and text, not the pictures, make up the content hash: these vectors are for comparison on one dataset.
    notes = pa.concat_tables(Dataset(dataset).note_batches(), promote_options="default")
    images = [found or [] for found in notes["images"].to_pylist()]
    source = ImageSource(image_root)
    vectors, version = seen_by(vision, images, source) if vision else coloured(images, source)  # (N, D)
    norms = np.linalg.norm(vectors, axis=1)
    has = norms > 0
    unit = (vectors[has] / norms[has, None]).astype(np.float32)
    dimension = vectors.shape[1]
    table = pa.table(
        {
            "note_id": notes["note_id"].filter(pa.array(has)),
            "embedding": pa.FixedSizeListArray.from_arrays(pa.array(unit.reshape(-1)), dimension),
            "content_hash": pa.array(content_hashes(notes)[has]),
            "model_version": pa.array([version] * len(unit)),
        },
        schema=schema.embeddings_schema(dimension),
    )
    storage.write_table(table, out / FILE)
    return len(unit), notes.num_rows


def seen_by(vision: str, images: list[list[dict[str, object]]], source: ImageSource) -> tuple[np.ndarray, str]:
    """What a vision encoder sums each note's first usable picture up as, (N, V) float32, zeros without one; and its version."""
    tower = load_tower(vision, grid=0)  # the summary alone
    gallery = Gallery(tower, source, frozen=True, images=1, config=ImagesConfig())
    rows = gallery.add(images).rows
    has = np.array([len(found) > 0 for found in rows])
    vectors = np.zeros((len(rows), tower.hidden_size), dtype=np.float32)
    vectors[has] = gallery.take(np.concatenate([found[:1] for found in rows]))[:, 0]  # (n, 1, V) -> (n, V)
    return vectors, tower.version


def coloured(images: list[list[dict[str, object]]], source: ImageSource) -> tuple[np.ndarray, str]:
    """Statistics of each note's first picture, (N, D) float64, zeros where it has none that is usable; and their version."""
    decoded: Iterable[np.ndarray | ImageError] = decode_all(
        (found[0] if found else None for found in images), source, then=statistics
    )
    size = int(np.prod(COLOURS)) + CELLS**2 * DIRECTIONS
    rows = [np.zeros(size) if isinstance(found, ImageError) else found for found in decoded]
    return np.stack(rows), f"colours {COLOURS} edges {CELLS} {DIRECTIONS} of {SIDE_PX} px"


def statistics(image: Image, data: bytes) -> np.ndarray:
    """How much there is of each colour, and of edges in each direction at each place, (D,) float64.

    Square roots of shares: an inner product is then the overlap of two distributions (Bhattacharyya's coefficient), one of colours
    and one of edges, which weigh the same.
    """
    from PIL import Image

    small = image.resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    hue = np.asarray(small.convert("HSV")).reshape(-1, 3)
    colours, _ = np.histogramdd(hue, bins=COLOURS, range=[(0, 256)] * 3)
    grey = np.asarray(small.convert("L"), dtype=np.float64)
    down, right = np.gradient(grey)
    strength = np.hypot(down, right)  # (h, w)
    direction = (np.arctan2(down, right) % np.pi / np.pi * DIRECTIONS).astype(int) % DIRECTIONS
    cell = np.arange(SIDE_PX) * CELLS // SIDE_PX
    place = cell[:, None] * CELLS + cell[None, :]  # (h, w)
    edges = np.bincount((place * DIRECTIONS + direction).ravel(), strength.ravel(), minlength=CELLS**2 * DIRECTIONS)
    # A picture of one colour has no edges: then the colours are all there is.
    return np.concatenate([np.sqrt(part / max(part.sum(), 1e-12)) for part in (colours.ravel(), edges)])


if __name__ == "__main__":
    main()
