"""Small embeddings tables and datasets on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from noterec import schema, storage


def unit(rows: Any) -> np.ndarray:
    """Rows divided by their norms, float32."""
    matrix = np.asarray(rows, dtype=np.float64)
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def embeddings_table(
    ids: Sequence[str], vectors: Any, version: str | Sequence[str] = "m1", dtype: pa.DataType | None = None
) -> pa.Table:
    """An embeddings table, its vectors stored as they are given."""
    matrix = np.asarray(vectors, dtype=np.float16 if dtype == pa.float16() else np.float32)
    values = pa.array(matrix.ravel(), dtype or pa.float32())
    versions = [version] * len(ids) if isinstance(version, str) else list(version)
    columns = [
        pa.array(list(ids), pa.string()),
        pa.FixedSizeListArray.from_arrays(values, matrix.shape[1]),
        pa.array([0] * len(ids), pa.uint64()),
        pa.array(versions, pa.string()),
    ]
    return pa.table(columns, schema=schema.embeddings_schema(matrix.shape[1], dtype))


def write_shards(path: Path, *tables: pa.Table) -> Path:
    """A folder of shards, as an embedding job writes it."""
    folder = storage.ShardFolder(path, origin={"stage": "embed"})
    for table in tables:
        folder.append(table)
    return path


def write_dataset(path: Path, **files: dict[str, Any]) -> Path:
    """A dataset with one notes file per keyword."""
    for name, columns in files.items():
        storage.write_table(pa.table(columns), path / "notes" / f"{name}.parquet")
    return path
