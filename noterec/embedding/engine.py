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
from noterec.embedding.states import StateCache
from noterec.errors import ConfigError
from noterec.model.encoder import NoteEncoder
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
    rejected: int  # without any text; listed in OUT/rejects.parquet
    from_cache: int  # distinct notes whose state was not computed but found
    seconds: float


def embed(
    dataset: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | NoteEncoder,
    out: str | os.PathLike[str],
    config: EmbedConfig = EmbedConfig(),
    cache: str | os.PathLike[str] | None = None,
) -> EmbedSummary:
    """Encode a dataset's notes into an embeddings table, only those that are new or changed.

    Args:
        dataset: the folder with the notes.
        model: a trained model's folder, any Hugging Face model for its zero-shot states, or a loaded encoder.
        out: the embeddings table: a folder of Parquet shards with a manifest.
        config: batch and shard sizes, dtype, device.
        cache: a folder of readout states that are read instead of computed, and added to; for models with a frozen backbone.

    Returns:
        Counts and seconds.

    Raises:
        InputError: no notes, or more than 5 % of them have no text.
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
    with progress.stage("embed") as record:
        origin = {
            "kind": "embeddings",
            "model_version": encoder.model_version,
            "dimension": encoder.dimension,
            "dtype": config.dtype,
            "precision": config.precision,
        }
        folder = storage.ShardFolder(out, origin=origin)
        increment = Increment("embed", "encode", source, folder)
        states = StateCache(cache, encoder, bf16=config.precision == "bf16") if cache is not None else None
        encoded = from_cache = 0
        with progress.track("embed", len(source.note_ids), "notes") as bar:
            for table in increment.shards(config.shard_rows, bar):
                from_cache += _write(folder, encoder, table, states, config, bar)
                encoded += table.num_rows
        increment.finish()
        record.counts.update(rows_in=increment.notes, rows_out=encoded, rejected=len(increment.rejects))
        return EmbedSummary(
            out=str(folder.path),
            model_version=encoder.model_version,
            dimension=encoder.dimension,
            notes=increment.notes,
            encoded=encoded,
            unchanged=increment.unchanged,
            rejected=len(increment.rejects),
            from_cache=from_cache,
            seconds=record.seconds,
        )


def _write(
    folder: storage.ShardFolder,
    encoder: NoteEncoder,
    table: pa.Table,
    cache: StateCache | None,
    config: EmbedConfig,
    bar: progress.Bar,
) -> int:
    """Encode one shard, equal contents once, and write it; returns how many states were found in the cache."""
    hashes, first, inverse = np.unique(table["content_hash"].to_numpy(), return_index=True, return_inverse=True)
    inputs = encoder.prepare(table.take(first))
    bf16 = config.precision == "bf16"
    vectors = np.empty((len(first), encoder.dimension), dtype=np.float32)
    bar.advance(table.num_rows - len(first))
    found = 0
    if cache is None:
        for batch, part in encoder.run(inputs, batch_tokens=config.batch_tokens, bf16=bf16):
            vectors[batch] = part
            bar.advance(len(batch))
    else:
        states, found = cache.states_of(encoder, inputs, hashes, batch_tokens=config.batch_tokens, bar=bar)
        vectors = encoder.project_states(states, inputs.words)
    dtype = pa.float16() if config.dtype == "float16" else pa.float32()
    flat = pa.array(vectors[inverse].astype(config.dtype).reshape(-1), type=dtype)
    shard = pa.table(
        {
            "note_id": table["note_id"],
            "embedding": pa.FixedSizeListArray.from_arrays(flat, encoder.dimension),
            "content_hash": table["content_hash"],
            "model_version": pa.array([encoder.model_version] * table.num_rows),
        },
        schema=schema.embeddings_schema(encoder.dimension, dtype),
    )
    folder.append(shard)
    return found
