"""Notes to vectors: reader -> tokenizer -> encoder -> writer, at the same time, continuing where a killed job stopped.

A note is encoded when its content hash isn't in the output yet: running again after nothing changed does nothing, after some
notes changed it encodes those. A note that is gone is withdrawn. An output belongs to one model version.

The road of a note: `Increment` says that it is due (incremental.py), with others of a shard it is a `Unit` (units.py), which an
engine hands to a `Coder`: here (pipeline.py), in one process per device (processes.py), or on a Ray cluster (cluster.py). Its
shard counts from the moment the manifest names it, which only this process does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from noterec import progress, storage
from noterec.config import EmbedConfig
from noterec.embedding.cluster import Cluster, connected
from noterec.embedding.crew import dispatch
from noterec.embedding.incremental import Increment
from noterec.embedding.intake import Intake, intake_of
from noterec.embedding.pipeline import pipeline
from noterec.embedding.processes import Processes, devices_of
from noterec.embedding.record import RunRecord
from noterec.embedding.units import Coder, Recipe, Unit, Work, Written, rates, tracked, version_of
from noterec.errors import ConfigError
from noterec.model.backbone import choose_device
from noterec.model.encoder import NoteEncoder
from noterec.notes import note
from noterec.notes.dataset import Dataset

PACKED_ROWS = 1024  # of a unit, and so of a shard, that takes its pictures' features along to another process


@dataclasses.dataclass(frozen=True)
class EmbedSummary:
    """What one run of `embed` did."""

    out: str
    model_version: str
    dimension: int
    notes: int  # live notes in the dataset
    encoded: int  # new or changed, now written
    copied: int  # of them, equal to a note that was in the output: its vector was taken
    unchanged: int  # in the output already
    withdrawn: int  # in the output, and gone from the dataset or left without content
    rejected: int  # with nothing to read; listed in OUT/rejects.parquet
    pictures: int  # of the notes that were encoded
    pictures_rejected: int  # of them, unusable; listed in OUT/rejects.parquet
    from_cache: int  # distinct notes whose state was not computed but found
    tokens: int  # that were computed: without padding, and without what all prompts share
    padding: float  # share of the tokens of all batches that was padding
    record: str  # the file with this run's stage times, settings and versions
    seconds: float


def embed(
    dataset: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | NoteEncoder,
    out: str | os.PathLike[str],
    config: EmbedConfig = EmbedConfig(),
    cache: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
) -> EmbedSummary:
    """Encode a dataset's notes into an embeddings table, only those that are new or changed.

    Equal contents are encoded once: within a shard, and where a note of equal content is in the output.

    Args:
        dataset: the folder with the notes, or its s3:// or gs:// URL.
        model: a trained model's folder, any Hugging Face model for its zero-shot states, or a loaded encoder.
        out: the embeddings table: a folder of Parquet shards with a manifest, or its URL.
        config: sizes, precision, devices, what a missing note means.
        cache: the cache's root; with it, readout states are read from its folder `states` instead of computed, and added to:
            for models with a frozen backbone.
        image_root: the folder below which pictures that are given by path are read; for models that see.

    Returns:
        Counts and seconds.

    Raises:
        InputError: no notes, or a larger share of them has nothing to read, or of the pictures can't be used, than `max_rejected`;
            or more of the output's notes would be withdrawn than `max_deleted`.
        ArtefactError: `out` holds vectors of another model version.
        LockedError: another job writes to `out`.
    """
    source = Dataset(dataset)
    devices = checked(config, model, cache)
    crowded = len(devices) > 1 or config.engine == "ray"
    encoder, version = opened(model, "cpu" if crowded else devices[0], config)
    if crowded and config.engine == "local" and encoder.sight is not None:
        encoder.sight.to(choose_device(devices[0]))  # pictures are taken in by this process, for all
    folder = storage.ShardFolder(out, origin=origin_of(encoder, version, config))
    recipe = Recipe(
        None if isinstance(model, NoteEncoder) else _found_anywhere(model),
        str(folder.path.absolute() if isinstance(folder.path, Path) else folder.path),
        folder.origin,
        version,
        config,
        None if cache is None else os.fspath(cache),
    )
    run = RunRecord(
        folder,
        command="embed",
        dataset=os.fspath(dataset),
        model=recipe.model,
        model_version=version,
        config=config.model_dump(mode="json"),
    )
    with progress.stage("embed") as record, folder.claim("noterec embed"), run.kept():
        intake = intake_of(encoder, config.images, view=config.view, cache=cache, image_root=image_root)
        increment = Increment(
            "embed",
            "encode",
            source,
            folder,
            intake=intake,
            max_rejected=config.max_rejected,
            mode=config.source,
            max_deleted=config.max_deleted,
            full=config.full,
        )
        work = Work()
        dimension = encoder.dimension
        ready = None if crowded else encoder.accelerated(config.precision)
        del encoder  # weights that the fast copy replaces are let go of; other processes load their own
        with intake, progress.track("embed", source.note_count, "notes") as bar, contextlib.ExitStack() as stack:
            units = _units(increment, intake, config, dimension, bar, packed=crowded)
            shards = stack.enter_context(
                contextlib.closing(_encoded(units, ready, recipe, devices, bar, increment.stop))
            )
            for written, unit_ids in shards:
                folder.add(written.record, epoch=increment.epoch)
                increment.written(*unit_ids, written.record)
                work.add(written.work)
                if crowded:
                    bar.advance(0, note=rates(work.tokens, work.padded, record.seconds))
        run.facts.update(_facts(increment, intake, work))  # before `finish`, which may find that something is wrong
        increment.finish()
        run.facts.update(_facts(increment, intake, work))
        record.counts.update(rows_in=increment.notes, rows_out=work.notes, rejected=len(increment.rejects))
    return EmbedSummary(
        out=str(folder.path),
        model_version=version,
        dimension=dimension,
        notes=increment.notes,
        encoded=work.notes,
        copied=work.copied,
        unchanged=increment.unchanged,
        withdrawn=increment.deleted,
        rejected=len(increment.rejects),
        pictures=intake.tried,
        pictures_rejected=len(intake.unseen),
        from_cache=work.found,
        tokens=work.tokens,
        padding=_padding(work),
        record=run.path,
        seconds=record.seconds,
    )


def opened(model: str | os.PathLike[str] | NoteEncoder, device: str, config: EmbedConfig) -> tuple[NoteEncoder, str]:
    """The encoder that a run uses, and the version of the vectors that it will make.

    Raises:
        ConfigError: it can't give the dimension or the view that is asked for.
    """
    if isinstance(model, NoteEncoder):
        encoder = model
        if config.dimension not in (None, encoder.dimension):
            raise ConfigError(
                f"dimension={config.dimension}: the encoder that was given has {encoder.dimension}; load it with "
                "NoteEncoder.from_pretrained(folder, dimension=...)"
            )
    else:
        encoder = NoteEncoder.from_pretrained(model, device=device, dimension=config.dimension)
    if config.view not in ("both", "text") and encoder.sight is None:
        raise ConfigError(f"view={config.view}: this model reads text alone; expected both")
    if config.view == "visual" and not (encoder.sight is not None and encoder.sight.config.micl):
        raise ConfigError("view=visual: this model has no image word; train one with vision.micl")
    return encoder, version_of(encoder, config)


def origin_of(encoder: NoteEncoder, version: str, config: EmbedConfig) -> dict[str, Any]:
    """What an output says about where it comes from; one of another origin is refused."""
    return {
        "kind": "embeddings",
        "model_version": version,
        "dimension": encoder.dimension,
        "dtype": config.dtype,
        "precision": config.precision,
    }


def _encoded(
    units: Iterator[Unit],
    encoder: NoteEncoder | None,
    recipe: Recipe,
    devices: list[str],
    bar: progress.Bar,
    stop: threading.Event,
) -> Generator[tuple[Written, tuple[pa.Array, np.ndarray]], None, None]:
    """Shards as they are written, with the ids and content hashes of their notes."""
    notes: dict[int, tuple[pa.Array, np.ndarray]] = {}

    def noted() -> Iterator[Unit]:
        for unit in units:
            notes[unit.number] = unit.table["note_id"], unit.table["content_hash"].to_numpy()
            yield unit

    config = recipe.config
    with contextlib.ExitStack() as stack:
        if config.engine == "ray":
            ray = stack.enter_context(connected(config))
            shards = dispatch(noted(), Cluster(ray, recipe, config.workers, bar.advance), stop=stop.set)
        elif encoder is None:
            shards = dispatch(noted(), stack.enter_context(Processes(recipe, devices, bar.advance)), stop=stop.set)
        else:
            shards = pipeline(noted(), Coder(encoder, recipe, advance=tracked(bar, stop)), stop=stop.set)
        for written in stack.enter_context(contextlib.closing(shards)):
            yield written, notes.pop(written.number)


def _units(
    increment: Increment, intake: Intake, config: EmbedConfig, dimension: int, bar: progress.Bar, *, packed: bool
) -> Iterator[Unit]:
    """The notes that are due, a shard at a time."""
    rows = config.shard_rows if not packed or intake.gallery is None else min(config.shard_rows, PACKED_ROWS)
    for number, table in enumerate(increment.shards(rows, bar)):
        pictures = intake.set_aside(table)
        text = table.select(["note_id", *note.ENCODED_COLUMNS, "content_hash"])
        places, *found = copies_of(increment, intake, text, config.view)
        vectors = increment.vectors_of(*found) if len(places) else np.zeros((0, dimension), dtype=np.float32)
        taken = pictures.packed() if packed and pictures is not None else pictures
        yield Unit(number, text, taken, places, vectors)


def copies_of(
    increment: Increment, intake: Intake, text: pa.Table, view: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which due notes equal one that is in the output: their rows, and the shards and rows there, (k,) int64 each."""
    hashes = text["content_hash"].to_numpy()
    shards, rows = increment.find(hashes)
    if view == "shuffled":  # equal notes are shown other pictures
        shards[:] = -1
    elif intake.gallery is not None:  # a picture that couldn't be had then may be there now: only text is sure
        shards[note.content_hashes(text) != hashes] = -1
    places = np.flatnonzero(shards >= 0)
    return places, shards[places], rows[places]


def _facts(increment: Increment, intake: Intake, work: Work) -> dict[str, Any]:
    """What the record of a run says of what was done."""
    return {
        "counts": {
            "notes": increment.notes,
            "encoded": work.notes,
            "copied": work.copied,
            "distinct": work.distinct,
            "from_cache": work.found,
            "unchanged": increment.unchanged,
            "withdrawn": increment.deleted,
            "rejected": len(increment.rejects),
            "pictures": intake.tried,
            "pictures_rejected": len(intake.unseen),
        },
        "tokens": work.tokens,
        "padding": _padding(work),
        "stage_seconds": {name: round(seconds, 3) for name, seconds in work.seconds.items()},
    }


def checked(config: EmbedConfig, model: str | os.PathLike[str] | NoteEncoder, cache: Any = None) -> list[str]:
    """The devices of a run, once its settings are known to go together.

    Raises:
        ConfigError: they don't.
    """
    devices = devices_of(config)
    crowded = len(devices) > 1 or config.engine == "ray"
    if crowded and isinstance(model, NoteEncoder):
        raise ConfigError(
            "several devices, or Ray: each process loads the model itself; give the model's folder, no loaded encoder"
        )
    if config.engine == "ray" and len(devices) > 1:
        raise ConfigError(
            f"engine=ray with device={config.device}: Ray hands GPUs out itself; leave device, or give workers"
        )
    if config.engine == "ray" and cache is not None:
        raise ConfigError("engine=ray: readout states aren't kept there; leave the cache out")
    if config.engine == "local" and (config.address or config.workers):
        raise ConfigError("address and workers are of a Ray cluster; give engine=ray, or leave them out")
    return devices


def _found_anywhere(model: str | os.PathLike[str]) -> str:
    """A model as another process finds it, whatever folder it stands in; hub ids stay as they are."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.exists() else os.fspath(model)


def _padding(work: Work) -> float:
    return round(1 - work.tokens / work.padded, 4) if work.padded else 0.0
