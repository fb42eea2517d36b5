"""Notes to categories or hashtags: reader -> writer -> table, shard by shard, continuing where a killed job stopped.

As with embeddings, a note is written about when its content hash isn't in the output yet, equal contents once. An output belongs to
one model, one task, one closed set and one way of decoding.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import numpy as np
import pyarrow as pa

from noterec import progress, schema, storage
from noterec.config import GenerateConfig
from noterec.embedding.incremental import Increment
from noterec.embedding.intake import Intake, intake_of
from noterec.errors import ConfigError
from noterec.model.encoder import NoteEncoder
from noterec.model.generation.categories import Categories
from noterec.model.generation.consistency import saved_share
from noterec.model.generation.writer import Generation, Writer
from noterec.model.tasks import normal
from noterec.model.templates import Task
from noterec.notes.dataset import Dataset

THROUGHPUT = {
    "batch_tokens",
    "shard_rows",
    "device",
    "images",
    "max_rejected",
    "source",
    "max_deleted",
    "full",
}  # settings that leave the answers as they are


@dataclasses.dataclass(frozen=True)
class GenerateSummary:
    """What one run of `generate` did; counts of answers are those of this run."""

    out: str
    task: str
    model_version: str
    categories: int | None  # names in the closed set
    notes: int  # live notes in the dataset
    written: int  # new or changed, now answered
    unchanged: int  # in the output already
    rejected: int  # without text that the task's prompt shows; listed in OUT/rejects.parquet
    deleted: int  # withdrawn: no longer among the notes, or without such text now
    pictures: int  # of the notes that were read now
    pictures_rejected: int  # of them, unusable; listed there too
    empty: int  # answered with nothing usable
    fewer: int | None  # answered with fewer hashtags than asked for
    outside: int | None  # free categories that are not in the closed set: the paper's "illusory" ones
    samples: int  # answers sampled, equal contents counted once
    samples_fixed: int  # that a fixed number per note would have drawn
    saved: float | None  # share of those that early stopping saved
    notes_per_second: float
    seconds: float


def generate(
    dataset: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | NoteEncoder,
    task: Task,
    out: str | os.PathLike[str],
    categories: Categories | None = None,
    config: GenerateConfig = GenerateConfig(),
    image_root: str | os.PathLike[str] | None = None,
) -> GenerateSummary:
    """Write a category or hashtags for a dataset's notes, only those that are new or changed.

    Args:
        dataset: the folder with the notes.
        model: a trained model's folder, a causal language model as it is, or a loaded encoder.
        task: "category" or "hashtags".
        out: a table in `schema.GENERATED`: a folder of Parquet shards with a manifest. Where a note stands in it more than once,
            its last row counts; a note that is no longer in the dataset is withdrawn by a row with nothing but its id.
        categories: the closed set: names, a text file with one a line, a JSON list, or a dataset's folder; None = the model's own.
            Where categories are written freely, it is what `outside` counts against.
        config: decoding, samples, batch and shard sizes, device.
        image_root: the folder below which pictures that are given by path are read; for models whose prompt shows images.

    Returns:
        Counts and seconds.

    Raises:
        InputError: the model can't write, there are no categories, a snapshot has no notes, too many have nothing to read
            (`max_rejected`), or too many would be withdrawn (`max_deleted`).
        ConfigError: a full run over a delta, or an image root for a model whose prompt shows no images.
        LockedError: another job is writing `out`.
        ArtefactError: `out` holds answers of another model, task, closed set or way of decoding.
    """
    source = Dataset(dataset)
    encoder = model if isinstance(model, NoteEncoder) else NoteEncoder.from_pretrained(model, device=config.device)
    writer = Writer(encoder, task, categories=categories, config=config)
    closed = set(map(normal, writer.categories or [])) if task == "category" and not writer.constrained else set()
    with progress.stage("generate") as record:
        origin = {
            "kind": "generated",
            "task": task,
            "model_version": encoder.writer_version,
            "categories": storage.value_hash(writer.categories) if writer.constrained else None,
            "decoding": config.model_dump(mode="json", exclude=THROUGHPUT),
        }
        folder = storage.ShardFolder(out, origin=origin)
        if encoder.prompt.slots is None:  # a model that takes images in late, or not at all, writes about the text
            if image_root is not None:
                raise ConfigError("image_root is given and this model's prompt shows no images; leave it out")
            intake = Intake(has_text=writer.readable)
        else:
            intake = intake_of(encoder, config.images, has_text=writer.readable, image_root=image_root)
        counts = {"written": 0, "empty": 0, "fewer": 0, "outside": 0, "samples": 0, "asked": 0}
        with folder.claim("noterec generate"), intake, progress.track("generate", source.note_count, "notes") as bar:
            increment = Increment(
                "generate",
                "read",
                source,
                folder,
                intake=intake,
                max_rejected=config.max_rejected,
                mode=config.source,
                max_deleted=config.max_deleted,
                full=config.full,
            )
            for table in increment.shards(config.shard_rows, bar):
                found, distinct = _answer(writer, table, intake, bar)
                folder.append(_shard(found, table, encoder.writer_version), epoch=increment.epoch)
                counts["written"] += len(found)
                counts["empty"] += sum(not answer.answers for answer in found)
                counts["fewer"] += sum(len(answer.answers) < config.n for answer in found)
                counts["outside"] += sum(normal(name) not in closed for answer in found for name in answer.answers)
                counts["samples"] += sum(answer.samples for answer in distinct)
                counts["asked"] += config.samples * len(distinct)
            increment.finish()
        record.counts.update(rows_in=increment.notes, rows_out=counts["written"], rejected=len(increment.rejects))
        seconds = record.seconds
        return GenerateSummary(
            out=str(folder.path),
            task=task,
            model_version=encoder.writer_version,
            categories=None if writer.categories is None else len(writer.categories),
            notes=increment.notes,
            written=counts["written"],
            unchanged=increment.unchanged,
            rejected=len(increment.rejects),
            deleted=increment.deleted,
            pictures=intake.tried,
            pictures_rejected=len(intake.unseen),
            empty=counts["empty"],
            fewer=counts["fewer"] if task == "hashtags" else None,
            outside=counts["outside"] if closed else None,
            samples=counts["samples"],
            samples_fixed=counts["asked"],
            saved=saved_share(counts["samples"], counts["asked"]),
            notes_per_second=counts["written"] / seconds,
            seconds=seconds,
        )


def _answer(
    writer: Writer, table: pa.Table, intake: Intake, bar: progress.Bar
) -> tuple[list[Generation], list[Generation]]:
    """Answers of every row of a shard, and those of its distinct contents."""
    _, first, inverse = np.unique(table["content_hash"].to_numpy(), return_index=True, return_inverse=True)
    bar.advance(table.num_rows - len(first))
    answers: dict[int, Generation] = {}
    pictures = intake.pictures_of(table)
    for batch, part in writer.write(table.take(first), None if pictures is None else pictures.take(first)):
        answers.update(zip(batch.tolist(), part, strict=True))
        bar.advance(len(batch))
    distinct = [answers[place] for place in range(len(first))]
    ids: list[Any] = table["note_id"].to_pylist()
    return [dataclasses.replace(distinct[i], note_id=ids[row]) for row, i in enumerate(inverse.tolist())], distinct


def _shard(answers: list[Generation], table: pa.Table, version: str) -> pa.Table:
    columns = [[getattr(answer, name) for answer in answers] for name in schema.GENERATED.names[:-2]]
    arrays = [pa.array(values, type=schema.GENERATED.field(i).type) for i, values in enumerate(columns)]
    hashes = table["content_hash"].combine_chunks()
    return pa.table([*arrays, hashes, pa.array([version] * len(answers))], schema=schema.GENERATED)
