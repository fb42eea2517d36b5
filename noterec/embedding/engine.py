"""Notes to vectors: reader -> encoder -> writer, shard by shard, continuing where a killed job stopped.

A note is encoded when its content hash isn't in the output yet: running again after nothing changed does nothing, after some
notes changed it encodes those. An output belongs to one model version.
"""

from __future__ import annotations

import dataclasses
import os

import numpy as np
import pyarrow as pa

from noterec import progress, schema, storage
from noterec.config import EmbedConfig
from noterec.embedding.incremental import Increment
from noterec.embedding.intake import Intake, cache_folder, intake_of
from noterec.embedding.states import StateCache
from noterec.errors import ConfigError
from noterec.model.encoder import NoteEncoder
from noterec.notes import note
from noterec.notes.dataset import Dataset


@dataclasses.dataclass(frozen=True)
class EmbedSummary:
    """What one run of `embed` did."""

    out: str
    model_version: str
    dimension: int
    notes: int  # live notes in the dataset
    encoded: int  # new or changed, now written
    unchanged: int  # in the output already
    rejected: int  # with nothing to read; listed in OUT/rejects.parquet
    pictures: int  # of the notes that were encoded
    pictures_rejected: int  # of them, unusable; listed in OUT/rejects.parquet
    from_cache: int  # distinct notes whose state was not computed but found
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

    Args:
        dataset: the folder with the notes.
        model: a trained model's folder, any Hugging Face model for its zero-shot states, or a loaded encoder.
        out: the embeddings table: a folder of Parquet shards with a manifest.
        config: batch and shard sizes, dtype, device.
        cache: the cache's root; with it, readout states are read from its folder `states` instead of computed, and added to:
            for models with a frozen backbone.
        image_root: the folder below which pictures that are given by path are read; for models that see.

    Returns:
        Counts and seconds.

    Raises:
        InputError: no notes, or a larger share of them has nothing to read, or of the pictures can't be used, than `max_rejected`.
        ArtefactError: `out` holds vectors of another model version.
    """
    source = Dataset(dataset)
    if isinstance(model, NoteEncoder):
        encoder = model
        if config.dimension not in (None, encoder.dimension):
            raise ConfigError(
                f"dimension={config.dimension}: the encoder that was given has {encoder.dimension}; load it with "
                "NoteEncoder.from_pretrained(folder, dimension=...)"
            )
    else:
        encoder = NoteEncoder.from_pretrained(model, device=config.device, dimension=config.dimension)
    version = encoder.model_version
    if config.view not in ("both", "text") and encoder.sight is None:
        raise ConfigError(f"view={config.view}: this model reads text alone; expected both")
    if config.view == "visual" and not (encoder.sight is not None and encoder.sight.config.micl):
        raise ConfigError("view=visual: this model has no image word; train one with vision.micl")
    if config.view != "both":
        version = storage.value_hash(
            [version, config.view]
        )  # vectors for comparisons, not to be mixed with the model's own
    with progress.stage("embed") as record:
        origin = {
            "kind": "embeddings",
            "model_version": version,
            "dimension": encoder.dimension,
            "dtype": config.dtype,
            "precision": config.precision,
        }
        folder = storage.ShardFolder(out, origin=origin)
        intake = intake_of(encoder, config.images, view=config.view, cache=cache, image_root=image_root)
        increment = Increment("embed", "encode", source, folder, intake=intake, max_rejected=config.max_rejected)
        states = None
        if cache is not None and config.view in ("both", "text", "image"):
            states = StateCache(cache_folder(cache, "states"), encoder, bf16=config.precision == "bf16")
        encoded = from_cache = 0
        with intake, progress.track("embed", len(source.note_ids), "notes") as bar:
            for table in increment.shards(config.shard_rows, bar):
                from_cache += _write(folder, encoder, table, intake, states, config, version, bar)
                encoded += table.num_rows
        increment.finish()
        record.counts.update(rows_in=increment.notes, rows_out=encoded, rejected=len(increment.rejects))
        return EmbedSummary(
            out=str(folder.path),
            model_version=version,
            dimension=encoder.dimension,
            notes=increment.notes,
            encoded=encoded,
            unchanged=increment.unchanged,
            rejected=len(increment.rejects),
            pictures=intake.tried,
            pictures_rejected=len(intake.unseen),
            from_cache=from_cache,
            seconds=record.seconds,
        )


def _write(
    folder: storage.ShardFolder,
    encoder: NoteEncoder,
    table: pa.Table,
    intake: Intake,
    cache: StateCache | None,
    config: EmbedConfig,
    version: str,
    bar: progress.Bar,
) -> int:
    """Encode one shard, equal contents once, and write it; returns how many states were found in the cache."""
    hashes = table["content_hash"].to_numpy()
    # Shuffled, two notes of equal content have different pictures.
    contents = np.arange(len(hashes)) if config.view == "shuffled" else hashes
    _, first, inverse = np.unique(contents, return_index=True, return_inverse=True)
    pictures = intake.pictures_of(table)
    some = table.take(first)
    inputs = encoder.prepare(some, None if pictures is None else pictures.take(first))
    bf16 = config.precision == "bf16"
    vectors = np.empty((len(first), encoder.dimension), dtype=np.float32)
    bar.advance(table.num_rows - len(first))
    found = 0
    if cache is None:
        image_word = config.view == "visual"
        for batch, part in encoder.run(inputs, batch_tokens=config.batch_tokens, bf16=bf16, image_word=image_word):
            vectors[batch] = part
            bar.advance(len(batch))
    else:
        # Of the pictures that were seen, not of those that the note names: which can be used depends on limits and servers too.
        seen = inputs.pictures is not None and encoder.sight is not None and encoder.sight.in_states
        keys = note.content_hashes(some, inputs.pictures.stamps() if seen and inputs.pictures is not None else None)
        states, found = cache.states_of(encoder, inputs, keys, batch_tokens=config.batch_tokens, bar=bar)
        visual = None
        if inputs.pictures is not None and encoder.head is not None and encoder.head.visual:
            visual = inputs.pictures.visual()
        vectors = encoder.project_states(states, inputs.words, visual)
    dtype = pa.float16() if config.dtype == "float16" else pa.float32()
    flat = pa.array(vectors[inverse].astype(config.dtype).reshape(-1), type=dtype)
    shard = pa.table(
        {
            "note_id": table["note_id"],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, encoder.dimension),
            "content_hash": table["content_hash"],
            "model_version": pa.array([version] * table.num_rows),
        },
        schema=schema.embeddings_schema(encoder.dimension, dtype),
    )
    folder.append(shard)
    return found
