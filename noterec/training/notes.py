"""The notes of a run as tables: those to train on and those that the valid pairs name, with their pictures taken in."""

from __future__ import annotations

import contextlib
import logging
import os

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import torch

from noterec import progress
from noterec.config import TrainConfig
from noterec.embedding.intake import Intake, cache_folder
from noterec.errors import ConfigError, InputError
from noterec.model.backbone import Kind, kind_of
from noterec.model.vision.gallery import Gallery
from noterec.model.vision.sight import new_tower
from noterec.model.vision.tower import VisionTower
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import ImageSource
from noterec.training.plan import decided, way_of

logger = logging.getLogger(__name__)


def new_intake(
    config: TrainConfig,
    device: torch.device,
    *,
    cache: str | os.PathLike[str] | None,
    image_root: str | os.PathLike[str] | None,
) -> tuple[VisionTower | None, Intake]:
    """The vision tower as it is before training, or None, and what is taken in of a note's row: its text, and what the tower sees.

    Raises:
        ConfigError: an image root, and no image is seen; or a backbone that can't take images in as is asked for: pictures take
            long, and what can't work is refused before.
        DependencyError, InputError, ArtefactError: the tower doesn't load.
    """
    if not config.vision.on:
        if image_root is not None:
            raise ConfigError("image_root is given and vision.encoder=none; leave it out, or give vision.encoder too")
        return None, Intake()
    kind: Kind = "causal" if config.backbone == "tiny" else kind_of(config.backbone)
    vision = decided(config.vision, frozen=way_of(config) == "frozen", kind=kind)
    tower = new_tower(vision, seed=config.seed, device=device)
    source = ImageSource.below(image_root, config.images)
    folder = cache_folder(cache, "images")
    gallery = Gallery(tower, source, frozen=not vision.train, images=vision.images, folder=folder, config=config.images)
    return tower, Intake(source, gallery)


def train_notes(dataset: Dataset, intake: Intake | None = None) -> pa.Table:
    """The notes that have anything to read, ordered by note_id, with the columns that are encoded and content hashes.

    Raises:
        InputError: none has, or pictures shall be seen and none can be used.
    """
    intake = intake or Intake()
    table, dropped = _taken_in(dataset, intake)
    if not table.num_rows:
        raise InputError(f"{dataset.path}: no note has anything to train on")
    if intake.gallery is not None and intake.tried == len(intake.unseen):
        why = f"; the first: {intake.unseen[0].message}" if intake.unseen else ": the images column is empty"
        raise InputError(f"{dataset.path}: a vision encoder is given, and no note has a usable picture{why}")
    if dropped:
        logger.warning("train: %d notes with nothing to read are left out", len(dropped))
    return table.sort_by("note_id")


def _taken_in(dataset: Dataset, intake: Intake, only: pa.Array | None = None) -> tuple[pa.Table, set[str]]:
    """The notes that have anything to read, all of them or `only` some ids, in file order; and the ids of the others."""
    tables: list[pa.Table] = []
    nothing: set[str] = set()
    tried, known = intake.tried, len(intake.unseen)
    shown = progress.track("pictures", None, "notes") if intake.gallery is not None else contextlib.nullcontext()
    with intake, shown as bar:
        for batch in dataset.note_batches([*intake.columns, "category"], batch_rows=intake.batch_rows):
            table = batch if only is None else batch.filter(pc.is_in(batch["note_id"], value_set=only))
            readable = pa.array(intake.readable(table))
            nothing.update(table["note_id"].filter(pc.invert(readable)).to_pylist())
            table = table.filter(readable)
            table = table.append_column("content_hash", pa.array(intake.hashes(table)))
            table, blind = intake.take_in(table, bar=bar)
            nothing.update(blind)
            tables.append(table)
    if len(intake.unseen) > known:
        first = intake.unseen[known]
        logger.warning(
            "train: %d of %d pictures can't be used and are left out, the first is of note %r: %s",
            len(intake.unseen) - known,
            intake.tried - tried,
            first.note_id,
            first.message,
        )
    if not tables:
        raise InputError(f"{dataset.path}: has no notes (an empty table, or all of them deleted)")
    return pa.concat_tables(tables, promote_options="default"), nothing


def notes_of_pairs(
    valid_pairs: pl.DataFrame, dataset: Dataset, intake: Intake, *, train: pa.Table
) -> tuple[pa.Table, pl.DataFrame]:
    """The notes that valid pairs name beyond the training notes, and the pairs whose notes have anything to read.

    Raises:
        InputError: the dataset lacks notes that the pairs name, or a query is a training note.
    """
    named = set(valid_pairs["anchor_id"]) | set(valid_pairs["related_id"])
    seen = set(train["note_id"].to_pylist())
    warm = set(valid_pairs["anchor_id"]) & seen
    if warm:
        raise InputError(
            f"{len(warm)} queries of the valid pairs are training notes, the first is {min(warm)!r}; a model that has seen them "
            "can't be chosen by them: give the valid-pairs.parquet and train/ of one `noterec split`"
        )
    missing = named - seen
    extra, silent = _taken_in(dataset, intake, pa.array(sorted(missing), pa.string()))
    extra = extra.sort_by("note_id")
    lacking = missing - set(extra["note_id"].to_pylist()) - silent
    if lacking:
        raise InputError(
            f"{len(lacking)} of {len(named)} notes that the valid pairs name are not in {dataset.path}, the first is "
            f"{min(lacking)!r}; give the dataset that holds them as valid notes (--valid-notes)"
        )
    if silent:
        logger.warning("train: %d notes of the valid pairs have nothing to read and are left out", len(silent))
    known = valid_pairs.filter(~pl.col("anchor_id").is_in(silent) & ~pl.col("related_id").is_in(silent))
    return extra, known
