"""What `embed` would do, without doing it: how many notes, how long they are, and about how long it would take."""

from __future__ import annotations

import dataclasses
import itertools
import os
import time

import numpy as np
import pyarrow as pa

from noterec import progress, storage
from noterec.config import EmbedConfig
from noterec.embedding.engine import checked, copies_of, opened, origin_of
from noterec.embedding.incremental import Increment
from noterec.embedding.intake import intake_of
from noterec.model.batching import Meter
from noterec.model.encoder import NoteEncoder
from noterec.notes import note
from noterec.notes.dataset import Dataset

BARS = (0, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)  # the histogram's lower bounds, in tokens
SAMPLE = 64  # notes that are encoded for the estimate
KEPT = 4096  # notes that the sample is taken from
TRY_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class EmbedForecast:
    """What a run of `embed` would do."""

    out: str
    model_version: str
    notes: int  # live notes in the dataset
    due: int  # new or changed
    copied: int  # of them, equal to a note that is in the output
    distinct: int  # contents that would be computed, at most: equal ones in different shards are counted apart
    unchanged: int
    withdrawn: int  # in the output, and gone from the dataset or left without content
    rejected: int  # with nothing to read
    pictures: int  # of due notes, that would be looked at
    tokens: int  # of the distinct contents, what their prompts share included
    tokens_each: dict[str, float]  # mean, median, 95th percentile and maximum
    histogram: dict[str, int]  # contents by their number of tokens
    tokens_per_second: float | None  # measured on a sample, text alone; None where nothing is due
    seconds: float | None  # that encoding would take on one such device, pictures not counted in


def embed_forecast(
    dataset: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | NoteEncoder,
    out: str | os.PathLike[str],
    config: EmbedConfig = EmbedConfig(),
    image_root: str | os.PathLike[str] | None = None,
) -> EmbedForecast:
    """Say what `embed` would do with the same arguments; nothing is written, no picture is decoded.

    Every due note is tokenised, and 64 of them, spread over all lengths, are encoded to measure the speed.

    Raises:
        InputError, ArtefactError: as `embed` would, for what can be seen beforehand.
    """
    source = Dataset(dataset)
    devices = checked(config, model)
    encoder, version = opened(model, devices[0], config)
    folder = storage.ShardFolder(out, origin=origin_of(encoder, version, config))
    with progress.stage("forecast"):
        intake = intake_of(encoder, config.images, view=config.view, cache=None, image_root=image_root)
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
            read_only=True,
        )
        lengths: list[np.ndarray] = []
        kept: list[pa.Table] = []
        due = copied = pictures = 0
        with intake, progress.track("forecast", source.note_count, "notes") as bar:
            for table in increment.shards(config.shard_rows, bar):
                text = table.select(["note_id", *note.ENCODED_COLUMNS, "content_hash"])
                copies = np.zeros(table.num_rows, dtype=bool)
                copies[copies_of(increment, intake, text, config.view)[0]] = True
                hashes = text["content_hash"].to_numpy()
                _, first = np.unique(hashes[~copies], return_index=True)
                some = table.filter(pa.array(~copies)).take(first)
                shown = intake.glanced(some)
                texts = note.texts(some)
                slots = None if encoder.prompt.slots is None else shown.tolist()
                lengths.append(np.array([len(ids) for ids in encoder.prompt.encode(texts, slots)], dtype=np.int64))
                due, copied = due + table.num_rows, copied + int(copies.sum())
                pictures += int(shown.sum())
                if sum(part.num_rows for part in kept) < KEPT:
                    kept.append(some.select(["note_id", *note.ENCODED_COLUMNS]).slice(0, KEPT))
                bar.advance(table.num_rows)
        increment.finish()
        tokens = np.concatenate([*lengths, np.zeros(0, dtype=np.int64)])
        speed = _speed(encoder.accelerated(config.precision), pa.concat_tables(kept), config) if len(tokens) else None
        return EmbedForecast(
            out=str(folder.path),
            model_version=version,
            notes=increment.notes,
            due=due,
            copied=copied,
            distinct=len(tokens),
            unchanged=increment.unchanged,
            withdrawn=increment.deleted,
            rejected=len(increment.rejects),
            pictures=pictures,
            tokens=int(tokens.sum()),
            tokens_each=_spread(tokens),
            histogram=_histogram(tokens),
            tokens_per_second=None if speed is None else round(speed, 1),
            seconds=None if speed is None else round(float(tokens.sum()) / speed, 3),
        )


def _speed(encoder: NoteEncoder, notes: pa.Table, config: EmbedConfig) -> float:
    """Tokens per second, those that prompts share counted as if they were computed for each note."""
    inputs = encoder.prepare(notes)
    lengths = np.array([len(ids) for ids in inputs.tokens])
    order = np.argsort(lengths)
    places = order[np.unique(np.linspace(0, len(order) - 1, SAMPLE).round().astype(int))]
    for _ in encoder.run(inputs.take(places[:1]), batch_tokens=config.batch_tokens):
        pass  # the first call warms kernels up, and computes what prompts share
    started = time.perf_counter()
    done = 0
    for batch, _ in encoder.run(inputs.take(places), batch_tokens=config.batch_tokens, meter=Meter()):
        done += int(lengths[places[batch]].sum())
        if time.perf_counter() - started > TRY_SECONDS:
            break
    return done / (time.perf_counter() - started)


def _spread(tokens: np.ndarray) -> dict[str, float]:
    if not len(tokens):
        return {}
    return {
        "mean": round(float(tokens.mean()), 1),
        "median": float(np.median(tokens)),
        "p95": round(float(np.percentile(tokens, 95)), 1),
        "max": int(tokens.max()),
    }


def _histogram(tokens: np.ndarray) -> dict[str, int]:
    counts = np.histogram(tokens, bins=[*BARS, np.iinfo(np.int64).max])[0]
    names = [f"{low} to {high - 1}" for low, high in itertools.pairwise(BARS)] + [f"{BARS[-1]} and more"]
    return {name: int(count) for name, count in zip(names, counts, strict=True) if count}
