"""Outputs without a model: a note's vector follows from its content alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from noterec import progress, schema, storage
from noterec.embedding.incremental import Increment
from noterec.embedding.intake import Intake
from noterec.index.vectors import load_embeddings
from noterec.notes.dataset import Dataset
from noterec.notes.note import as_table, content_hashes

DIMENSION = 4
ORIGIN = {"kind": "embeddings", "model_version": "m1", "dimension": DIMENSION, "dtype": "float32", "precision": "fp32"}


class KilledError(Exception):
    """The run ended here."""


def write(path: Path, notes: dict[str, str | None], name: str = "a", *, deleted: tuple[str, ...] = ()) -> Path:
    """A dataset of notes by id and title, and ids that it says are deleted."""
    rows: list[dict[str, Any]] = [{"note_id": note_id, "title": title} for note_id, title in notes.items()]
    rows += [{"note_id": note_id, "deleted": True} for note_id in deleted]
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), path / "notes" / f"{name}.parquet")
    return path


def many(count: int, text: str = "note") -> dict[str, str | None]:
    return {f"n{i:03d}": f"{text} {i}" for i in range(count)}


def vector(content_hash: int) -> np.ndarray:
    """The unit vector of a content: (D,) float32."""
    values = np.random.default_rng(content_hash).normal(size=DIMENSION)
    return np.asarray(values / np.linalg.norm(values), dtype=np.float32)


def vector_of(title: str) -> np.ndarray:
    return vector(int(content_hashes(as_table([{"title": title}]))[0]))


def shard(table: pa.Table, dtype: str = "float32") -> pa.Table:
    """The rows of an embeddings table for due notes."""
    kind = pa.float16() if dtype == "float16" else pa.float32()
    flat = np.stack([vector(value) for value in table["content_hash"].to_pylist()]).astype(dtype).ravel()
    columns = [
        table["note_id"],
        pa.FixedSizeListArray.from_arrays(pa.array(flat, kind), DIMENSION),
        table["content_hash"],
        pa.array(["m1"] * table.num_rows),
    ]
    return pa.table(columns, schema=schema.embeddings_schema(DIMENSION, kind))


def increment_of(source: Path, folder: storage.ShardFolder, **settings: Any) -> Increment:
    """A run that is about to begin."""
    return Increment(
        "embed",
        "encode",
        Dataset(source),
        folder,
        **{"intake": Intake(), "max_rejected": 0.05, "max_deleted": 1, **settings},
    )


def run(
    source: Path, out: Path, *, rows: int = 10, kill: int | None = None, **settings: Any
) -> tuple[Increment, list[str]]:
    """One run, ended before its shard number `kill`, and the ids that it encoded."""
    folder = storage.ShardFolder(out, origin=ORIGIN)
    encoded: list[str] = []
    with folder.claim("test"):
        increment = increment_of(source, folder, **settings)
        for number, table in enumerate(increment.shards(rows, progress.Bar())):
            if number == kill:
                raise KilledError
            record = folder.append(shard(table), epoch=increment.epoch)
            increment.written(table["note_id"], table["content_hash"].to_numpy(), record)
            encoded += table["note_id"].to_pylist()
        increment.finish()
    return increment, encoded


def held(out: Path) -> dict[str, np.ndarray]:
    """The vectors that an index would read."""
    found = load_embeddings(out)
    return dict(zip(found.ids.to_list(), found.vectors, strict=True))


def files(out: Path) -> dict[str, bytes]:
    """Every file below a folder, but for locks."""
    return {
        str(file.relative_to(out)): file.read_bytes()
        for file in sorted(out.rglob("*"))
        if file.is_file() and "lock" not in file.name
    }
