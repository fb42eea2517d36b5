"""The output of a training run: the model folder, and OUT/training with what is unfinished.

A run is known by its fingerprint, of settings, backbone, notes and pairs. The same command continues a run or finds it finished;
another one is refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import storage
from noterec.config import TrainConfig
from noterec.errors import ArtefactError, InputError
from noterec.model.encoder import NoteEncoder
from noterec.model.folder import NOTEREC_FILE
from noterec.model.inputs import Pictures
from noterec.training import processes
from noterec.training.cold_recall import Look

logger = logging.getLogger(__name__)

RECORD_FILE = "train.json"  # what a finished training reached
RUN_FILE = "run.json"  # marks a training folder as ours
COSTS = {"fetch_seconds", "workers", "cache_gib"}  # settings of pictures


@dataclasses.dataclass(frozen=True)
class TrainSummary:
    """What a training run reached; the looks are at cold valid queries and None where no valid pairs were given."""

    out: str
    model_version: str
    backbone: str
    way: str
    objective: str
    dimension: int
    train_notes: int
    pairs: int
    unknown_pairs: int  # left out: they name notes that are not in the dataset or have no text
    steps: int  # run in all, those before a resumption included
    zero_shot: Look | None  # the backbone's own states, no head
    first: Look | None  # the head's first geometry
    best: Look | None  # the weights that were kept
    seconds: float


def fingerprint_of(
    config: TrainConfig,
    encoder: NoteEncoder,
    notes: pa.Table,
    extra: pa.Table,
    pairs: pl.DataFrame,
    valid: pl.DataFrame | None,
    pictures: Pictures | None = None,
) -> str:
    """Changes with the settings, backbone and vision tower as they are at the start, the notes' text and pictures, the pairs."""
    # Where the curves go, and what a step costs, changes nothing of what is learned.
    # Limits of pictures stay: they decide which ones are seen.
    decisive = config.model_dump(mode="json", exclude={"loggers": True, "checkpoint_every": True, "images": COSTS})
    tables = [storage.value_hash(decisive), encoder.states_version]
    if encoder.sight is not None:
        tables.append(encoder.sight.tower.version)
    for table in (notes, extra):
        tables.append(storage.value_hash(table["category"].to_pylist()))
        tables.append(storage.value_hash(table["note_id"].to_pylist()))
        tables.append(_array_hash(table["content_hash"].to_numpy()))
    if pictures is not None:  # what was seen: one that couldn't be fetched or decoded this time counts
        tables.append(pictures.signature)
    for frame in (pairs, valid):
        if frame is not None:
            tables.append(storage.value_hash([frame["anchor_id"].to_list(), frame["related_id"].to_list()]))
            tables.append(_array_hash(frame["score"].to_numpy()))
    return storage.value_hash(tables)


def _array_hash(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def open_run(folder: Path, fingerprint: str, *, restart: bool) -> TrainSummary | None:
    """Make the output ready; the summary of a run that already finished with the same settings and input."""
    training = folder / "training"
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: is a file; expected a folder for the model")
    if not processes.is_first():
        return None  # the first process has looked, and is waiting for this one
    ours = (training / RUN_FILE).is_file() or (folder / NOTEREC_FILE).is_file()
    if folder.exists() and any(folder.iterdir()) and not ours:
        raise InputError(f"{folder}: is not empty and holds no noterec model or training; give another --out")
    if restart:
        (folder / NOTEREC_FILE).unlink(missing_ok=True)
        if (training / RUN_FILE).is_file():
            shutil.rmtree(training)
    record = training / RECORD_FILE
    if (folder / NOTEREC_FILE).is_file():
        found = storage.read_json(record) if record.is_file() else {}
        if found.get("fingerprint") != fingerprint:
            raise ArtefactError(
                f"{folder}: holds a model of other settings or input; give another --out, or --restart to replace it"
            )
        logger.info("%s: trained already with these settings and input; nothing to do", folder)
        looks = {
            k: Look(**v) if v else None for k, v in found["summary"].items() if k in ("zero_shot", "first", "best")
        }
        return TrainSummary(**{**found["summary"], **looks})
    unfinished = training / RUN_FILE
    if unfinished.is_file() and storage.read_json(unfinished)["fingerprint"] != fingerprint:
        raise ArtefactError(
            f"{folder}: holds an unfinished training of other settings or input; give another --out, or --restart"
        )
    storage.write_json(unfinished, {"fingerprint": fingerprint})
    return None


def close_run(folder: Path, fingerprint: str, summary: TrainSummary) -> None:
    """Write down what was reached; the model itself is saved after this, so that a model that is whole has its record."""
    training = folder / "training"
    storage.write_json(training / RECORD_FILE, {"fingerprint": fingerprint, "summary": dataclasses.asdict(summary)})


def clear_run(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    for name in ("last.ckpt", "best.safetensors"):
        (folder / "training" / name).unlink(missing_ok=True)
