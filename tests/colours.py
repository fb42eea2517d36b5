"""A platform whose truth is in its pictures alone: notes belong together when their pictures have the same colour."""

from __future__ import annotations

import colorsys
import io
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
from PIL import Image

from noterec import schema, storage
from noterec.config import ImagesConfig, PromptConfig, TrainConfig, VisionConfig
from noterec.model.encoder import NoteEncoder
from noterec.model.inputs import Pictures, attach
from noterec.notes import note
from noterec.notes.images.source import ImageSource
from noterec.training import start
from noterec.training.plan import Plan
from noterec.training.processes import own_device

COLOURS, NOTES_EACH, COLD_EACH = 6, 10, 2
SIDE = 16
WORDS = ("bread", "belay", "paint", "trains", "ramen", "cold", "brew", "films")
BAD = b"no picture at all"
LIMITS = PromptConfig(title_tokens=16, hashtags_tokens=4, content_tokens=4)
EYE = VisionConfig(encoder="tiny", image_px=SIDE, tokens=2, connector_layers=1)  # of the smallest size, in every way
SMALL = TrainConfig(
    vocabulary=400,
    dimension=16,
    batch_notes=24,
    lexicon=0,
    prompt=LIMITS,
    vision=EYE,
    valid_every=4,
    checkpoint_every=4,
    precision="fp32",
    device="cpu",
)


def png(colour: float, number: int = 0, side: int = SIDE) -> bytes:
    """A picture file of one of COLOURS hues, noisy, another one for every number."""
    random = np.random.default_rng([int(colour * 100), number])
    base = 255 * np.array(colorsys.hsv_to_rgb(colour / COLOURS, 0.9, 0.8))
    values = base * random.uniform(0.8, 1.1) + random.normal(0, 15, (side, side, 3))
    buffer = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def held(data: bytes) -> dict[str, Any]:
    """An entry of the images column with a file's bytes."""
    return {"bytes": data, "path": None}


def named(path: str) -> dict[str, Any]:
    """An entry of the images column with a file's name."""
    return {"bytes": None, "path": path}


def title(number: int) -> str:
    """Words that say nothing of a note's colour."""
    return " ".join(np.random.default_rng(number).choice(WORDS, 3))


def note_of(note_id: str, *images: dict[str, Any] | bytes, text: str | None = None, **more: Any) -> dict[str, Any]:
    """A row of the notes table; bytes are pictures."""
    entries = [held(image) if isinstance(image, bytes) else image for image in images]
    return {"note_id": note_id, "title": text, "images": entries or None, **more}


def write_notes(folder: Path, rows: list[dict[str, Any]]) -> Path:
    """A dataset of these notes."""
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), folder / "notes" / "notes.parquet")
    return folder


def planted(*, images: int = 1) -> list[dict[str, Any]]:
    """Notes `<colour>-<number>`, the first COLD_EACH of a colour cold.

    One warm note of each colour has no picture, one of all no text, and one a bad picture.

    Args:
        images: of every other note that has any.
    """
    rows = []
    for colour in range(COLOURS):
        for number in range(NOTES_EACH):
            place = colour * NOTES_EACH + number
            blind, silent = number == 3 + colour % 3, (colour, number) == (2, 7)
            shown = [png(colour, 10 * number + extra) for extra in range(images if number % 2 else 1)]
            text = None if silent else title(place)
            rows.append(note_of(f"{colour}-{number}", *([] if blind else shown), text=text, category=f"c{colour % 2}"))
    rows[5]["images"] = [held(BAD)]
    return rows


def write(folder: Path, *, images: int = 1) -> Path:
    """Write `data` (all notes), `train` (without the cold ones), `pairs.parquet` and `valid.parquet` into a folder."""
    rows = planted(images=images)
    frame = pl.DataFrame({"note_id": [row["note_id"] for row in rows]})
    frame = frame.with_columns(colour=pl.col("note_id").str.head(1))
    cold = pl.col("note_id").str.slice(2).cast(pl.Int64) < COLD_EACH
    warm = set(frame.filter(~cold)["note_id"])
    write_notes(folder / "data", rows)
    write_notes(folder / "train", [row for row in rows if row["note_id"] in warm])
    train = frame.filter(~cold)
    for anchors, file in ((train, "pairs"), (frame.filter(cold), "valid")):
        pairs = anchors.join(train, on="colour").select(anchor_id="note_id", related_id="note_id_right")
        pairs = pairs.filter(pl.col("anchor_id") != pl.col("related_id")).sort("anchor_id", "related_id")
        table = pairs.with_columns(score=pl.lit(1.0), rank=pl.lit(1)).to_arrow()
        storage.write_table(schema.conform(table, schema.PAIRS, name="pairs"), folder / f"{file}.parquet")
    return folder


def new_encoder(config: TrainConfig = SMALL, rows: list[dict[str, Any]] | None = None) -> NoteEncoder:
    """The encoder that a training run starts with, all that is new in it random."""
    from noterec.model.vision.sight import new_tower

    table = note.as_table(rows or planted())
    device = own_device("cpu", 1)
    backbone = start.new_backbone(config, table)
    plan = Plan.of(config, table.num_rows, backbone.kind, device)
    tower = new_tower(plan.vision, seed=config.seed, device=device) if config.vision.on else None
    return start.new_encoder(config, plan, backbone, table, tower).eval()


def pictures_of(encoder: NoteEncoder, rows: list[dict[str, Any]]) -> Pictures:
    """The pictures of notes in a gallery of their own."""
    return attach(note.as_table(rows), encoder.gallery(ImageSource(limits=ImagesConfig())))[0]
