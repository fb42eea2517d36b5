"""Notes to vectors: reader -> encoder -> writer, shard by shard, continuing where a killed job stopped.

A note is encoded when its content hash isn't in the output yet: running again after nothing changed does nothing, after some
notes changed it encodes those. An output belongs to one model version.
"""

from __future__ import annotations

import dataclasses
import logging
import os

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import progress, schema, storage
from noterec.config import EmbedConfig
from noterec.embedding.states import StateCache
from noterec.errors import InputError
from noterec.model.encoder import NoteEncoder
from noterec.notes import note
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

MAX_REJECT_SHARE = 0.05


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
    encoder = model if isinstance(model, NoteEncoder) else NoteEncoder.from_pretrained(model, device=config.device)
    with progress.stage("embed") as record:
        origin = {
            "kind": "embeddings",
            "model_version": encoder.model_version,
            "dimension": encoder.dimension,
            "dtype": config.dtype,
            "precision": config.precision,
        }
        folder = storage.ShardFolder(out, origin=origin)
        done = _hashes_in(folder)
        states = StateCache(cache, encoder, bf16=config.precision == "bf16") if cache is not None else None
        counts = {"notes": 0, "unchanged": 0, "encoded": 0, "from_cache": 0}
        rejects: list[str] = []
        with progress.track("embed", len(source.note_ids), "notes") as bar:
            waiting: list[pa.Table] = []
            for table in source.note_batches(list(note.ENCODED_COLUMNS)):
                counts["notes"] += table.num_rows
                fresh = _fresh(table, done, rejects, counts)
                bar.advance(table.num_rows - fresh.num_rows)
                waiting.append(fresh)
                while sum(part.num_rows for part in waiting) >= config.shard_rows:
                    whole = pa.concat_tables(waiting)
                    _write(folder, encoder, whole.slice(0, config.shard_rows), states, config, counts, bar)
                    waiting = [whole.slice(config.shard_rows)]
            rest = pa.concat_tables(waiting) if waiting else None
            if rest is not None and rest.num_rows:
                _write(folder, encoder, rest, states, config, counts, bar)
        if not counts["notes"]:
            raise InputError(f"{source.path}: has no notes (an empty table, or all of them deleted)")
        _write_rejects(folder, rejects, source)
        folder.commit()
        if len(rejects) > MAX_REJECT_SHARE * counts["notes"]:
            raise InputError(
                f"{source.path}: {len(rejects)} of {counts['notes']} notes have no text to encode, more than 5 %; "
                f"they are listed in {folder.path / schema.REJECTS_FILE}. Was a column mapped to the wrong field?"
            )
        record.counts.update(rows_in=counts["notes"], rows_out=counts["encoded"], rejected=len(rejects))
        return EmbedSummary(
            out=str(folder.path),
            model_version=encoder.model_version,
            dimension=encoder.dimension,
            notes=counts["notes"],
            encoded=counts["encoded"],
            unchanged=counts["unchanged"],
            rejected=len(rejects),
            from_cache=counts["from_cache"],
            seconds=record.seconds,
        )


def _hashes_in(folder: storage.ShardFolder) -> dict[str, int]:
    """note_id -> content hash of its newest vector in the output."""
    done: dict[str, int] = {}
    for file in folder.files():
        table = storage.read_table(file, columns=["note_id", "content_hash"])
        done.update(zip(table["note_id"].to_pylist(), table["content_hash"].to_pylist(), strict=True))
    return done


def _fresh(table: pa.Table, done: dict[str, int], rejects: list[str], counts: dict[str, int]) -> pa.Table:
    """The rows that must be encoded, with their content hash; notes without text go to the rejects."""
    readable = note.has_text(table)
    rejects.extend(table["note_id"].filter(pa.array(~readable)).to_pylist())
    hashes = note.content_hashes(table)
    ids = table["note_id"].to_pylist()
    known = np.fromiter((done.get(i) == int(h) for i, h in zip(ids, hashes, strict=True)), dtype=bool, count=len(ids))
    counts["unchanged"] += int((readable & known).sum())
    table = table.append_column("content_hash", pa.array(hashes))
    return table.filter(pa.array(readable & ~known))


def _write(
    folder: storage.ShardFolder,
    encoder: NoteEncoder,
    table: pa.Table,
    cache: StateCache | None,
    config: EmbedConfig,
    counts: dict[str, int],
    bar: progress.Bar,
) -> None:
    """Encode one shard, equal contents once, and write it."""
    hashes, first, inverse = np.unique(table["content_hash"].to_numpy(), return_index=True, return_inverse=True)
    inputs = encoder.prepare(table.take(first))
    bf16 = config.precision == "bf16"
    vectors = np.empty((len(first), encoder.dimension), dtype=np.float32)
    bar.advance(table.num_rows - len(first))
    if cache is None:
        for batch, part in encoder.run(inputs, batch_tokens=config.batch_tokens, bf16=bf16):
            vectors[batch] = part
            bar.advance(len(batch))
    else:
        states, found = cache.states_of(encoder, inputs, hashes, batch_tokens=config.batch_tokens, bar=bar)
        counts["from_cache"] += found
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
    counts["encoded"] += table.num_rows


def _write_rejects(folder: storage.ShardFolder, rejects: list[str], source: Dataset) -> None:
    file = folder.path / schema.REJECTS_FILE
    if not rejects:
        file.unlink(missing_ok=True)
        return
    frame = pl.DataFrame({"key": rejects}).with_columns(
        table=pl.lit("notes"), source=pl.lit(str(source.path)), row=pl.lit(None, pl.Int64), reason=pl.lit("no text")
    )
    storage.write_table(schema.conform(frame.to_arrow(), schema.REJECTS, name="rejects"), file)
    logger.warning("embed: %d notes have no text and get no vector; see %s", len(rejects), file)
