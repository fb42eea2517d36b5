"""Has anything about the encoder changed: a library, a driver, a machine, the weights? Some notes are encoded again to see."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema, storage
from noterec.embedding.engine import embed, opened
from noterec.embedding.processes import devices_of
from noterec.index.search import Index
from noterec.model.encoder import NoteEncoder
from noterec.nightly.models import Model
from noterec.nightly.run import Run
from noterec.notes import note
from noterec.notes.dataset import Dataset

BOUND = "every cosine at least {}"
TEXT_ROWS, PICTURE_ROWS = 65_536, 256  # read at a time


def check_canaries(night: Run, model: Model) -> None:
    """Encode some notes of the live index again, and compare them with their stored vectors where their content is the same.

    The stored vectors are those of the embeddings table, not the index's: a night that was stopped has encoded its edits there, and
    only the table says of which content a vector is.

    Raises:
        GateError: a vector is another one now.
    """
    config = night.config
    bound = BOUND.format(config.gates.canary_cosine)
    if not config.gates.canaries:
        night.judge("canaries", None, bound=bound, ok=True, says="switched off (gates.canaries = 0)")
        return
    folder = night.folder / "canaries"
    shutil.rmtree(folder, ignore_errors=True)
    settings = model.embed_config(config.embed)
    device = devices_of(settings)[0]
    settings = settings.model_copy(update={"engine": "local", "address": None, "workers": None, "device": device})
    encoder, _ = opened(model.path, device, settings)
    _write_canaries(night, folder / "notes", encoder)
    if not (folder / "notes").is_dir():
        night.judge("canaries", None, bound=bound, ok=True, says="no note of the live index is in the dataset")
        return
    embed(folder, model=encoder, out=folder / "vectors", config=settings, image_root=config.image_root)
    again = _vectors([folder / "vectors"])
    unseen = _half_seen(folder / "vectors")
    shutil.rmtree(folder, ignore_errors=True)  # copies of notes
    # Of another precision where that has changed: then this says what the change does to the vectors.
    mine = model.embeddings(night)
    tables = [mine] if mine.is_dir() else sorted(mine.parent.glob(f"{model.version}-*"))
    unseen |= {note_id for table in tables for note_id in _half_seen(table)}
    stored = _vectors(tables, of=again["note_id"])
    both = again.join(stored, on=["note_id", "content_hash"], how="inner").sort("note_id")
    both = both.filter(~pl.col("note_id").is_in(list(unseen)))
    if not both.height:
        night.judge("canaries", None, bound=bound, ok=True, says="none of the notes is as it was when it was encoded")
        return
    new, old = (_unit(both[name]) for name in ("embedding", "embedding_right"))  # (C, D) each
    cosines = (new * old).sum(axis=1)
    worst = int(cosines.argmin())
    value = float(cosines[worst])
    night.judge(
        "canaries",
        round(value, 6),
        bound=bound,
        ok=value >= config.gates.canary_cosine,
        says=f"{both.height:,} unchanged notes encoded again: the lowest cosine with the stored vector is {value:.6f} "
        f"({both['note_id'][worst]})",
    )


def _write_canaries(night: Run, folder: Path, encoder: NoteEncoder) -> None:
    """The live notes with the lowest hashes of their ids, so that they are nearly the same every night."""
    data, index = Dataset(night.config.dataset), Index.open(night.home.index, verify=False)
    ids = data.note_ids
    ids = ids.filter(ids.is_in(index.ids.filter(pl.Series(index.live)).implode()))
    chosen = pl.DataFrame({"note_id": ids}).sort(pl.col("note_id").hash(seed=0), "note_id")["note_id"]
    wanted = pa.array(chosen.head(night.config.gates.canaries).to_list(), pa.string())
    columns, rows = list(note.ENCODED_COLUMNS), TEXT_ROWS
    if encoder.sight is not None:
        columns, rows = [*columns, "images"], PICTURE_ROWS
    for number, table in enumerate(data.note_batches(columns, batch_rows=rows)):
        kept = table.filter(pc.is_in(table["note_id"], value_set=wanted))
        if kept.num_rows:
            storage.write_table(kept, folder / f"part-{number:05d}.parquet")


def _vectors(tables: list[Path], *, of: pl.Series | None = None) -> pl.DataFrame:
    """note_id, content_hash, embedding of notes as they stand in embeddings tables now, their last rows counting."""
    columns = ["note_id", "content_hash", "embedding"]
    parts = [pl.DataFrame(schema={"note_id": pl.String, "content_hash": pl.UInt64, "embedding": pl.List(pl.Float32)})]
    for file in (file for table in tables for file in storage.parquet_files(table)):
        found = storage.read_table(file, columns=columns)
        if of is not None:
            found = found.filter(pc.is_in(found["note_id"], value_set=pa.array(of.to_list(), pa.string())))
        frame = pl.DataFrame(found.select(columns))
        parts.append(frame.cast({"content_hash": pl.UInt64, "embedding": pl.List(pl.Float32)}))
    return pl.concat(parts).unique("note_id", keep="last", maintain_order=True).drop_nulls("content_hash")


def _half_seen(table: Path) -> set[str]:
    """Notes of which a picture couldn't be had when they were encoded: it may be another one that is missing now."""
    file = table / schema.REJECTS_FILE
    if not file.is_file():
        return set()
    rejects = pl.DataFrame(storage.read_table(file, columns=["table", "key"]))
    return set(rejects.filter(pl.col("table") == "images")["key"])


def _unit(column: pl.Series) -> np.ndarray:
    """(C, D) float32, unit-norm."""
    vectors = np.stack(column.to_list()).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
