"""A platform of a dozen notes whose right answers are written down, and its files on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec import schema, storage

# Two topics. n* are new test notes, v is a new valid note, w* have a history.
TEXTS = {
    "n1": ("Ramen in Tokyo", "noodle soup broth", ["food", "ramen"]),
    "n2": ("Alpine hike", "mountain trail boots", ["outdoor"]),
    "n3": ("Soup at home", "broth noodle recipe", ["food"]),
    "v1": ("Tent test", "mountain camping trail", ["outdoor"]),
    "w1": ("Noodle bar", "soup ramen broth", ["food"]),
    "w2": ("Udon", "noodle soup", ["food"]),
    "w3": ("Boots review", "mountain trail boots hike", ["outdoor"]),
    "w4": ("Trail map", "hike alpine", ["outdoor"]),
    "w5": ("Nothing alike", "zebra", []),
}
CLICKS = {"w1": 5, "w2": 3, "w3": 4, "w4": 2, "w5": 9}


def pairs_table(rows: list[tuple[str, str]]) -> pa.Table:
    """Pairs in the order given, ranks and scores made up."""
    columns = {
        "anchor_id": [anchor for anchor, _ in rows],
        "related_id": [related for _, related in rows],
        "score": [1.0] * len(rows),
        "rank": list(range(1, len(rows) + 1)),
    }
    return pa.table(columns).cast(schema.PAIRS)


def embeddings_table(vectors: dict[str, Any], version: str = "m1") -> pa.Table:
    """An embeddings table, its vectors normalised."""
    matrix = np.array(list(vectors.values()), dtype=np.float64)
    matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    columns = [
        pa.array(list(vectors), pa.string()),
        pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1]),
        pa.array([0] * len(vectors), pa.uint64()),
        pa.array([version] * len(vectors), pa.string()),
    ]
    return pa.table(columns, schema=schema.embeddings_schema(matrix.shape[1]))


def write_notes(path: Path, texts: dict[str, tuple[str | None, str | None, list[str] | None]]) -> Path:
    """A dataset of notes without a log."""
    columns = {
        "note_id": list(texts),
        "title": [title for title, _, _ in texts.values()],
        "content": [content for _, content, _ in texts.values()],
        "hashtags": pa.array([tags for _, _, tags in texts.values()], pa.list_(pa.string())),
    }
    storage.write_table(pa.table(columns), path / "notes" / "part.parquet")
    return path


def write_log(path: Path, clicks: dict[str, int]) -> None:
    """Clicks by as many people."""
    rows = [(f"u{person}", note) for note, count in clicks.items() for person in range(count)]
    columns = {
        "user_id": [user for user, _ in rows],
        "note_id": [note for _, note in rows],
        "action": ["click"] * len(rows),
    }
    storage.write_table(pa.table(columns), path / "engagement" / "part.parquet")


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    """`dataset`, `split` and the embeddings `good` (topics known) in one folder."""
    write_notes(tmp_path / "dataset", TEXTS)
    split = tmp_path / "split"
    write_notes(split / "train", {note: text for note, text in TEXTS.items() if note.startswith("w")})
    write_log(split / "train", CLICKS)
    main = [("n1", "w1"), ("n1", "w2"), ("n1", "n3"), ("n2", "w3"), ("n2", "w4"), ("n3", "w2")]
    storage.write_table(pairs_table(main), split / "test-pairs.parquet")
    storage.write_table(pairs_table([("w1", "n1"), ("w1", "n3"), ("w3", "n2")]), split / "test-pairs-warm.parquet")
    storage.write_table(
        pairs_table([("n1", "n3"), ("n3", "n1"), ("n2", "n3"), ("n1", "n2")]), split / "test-pairs-paper.parquet"
    )
    new = pa.table({"note_id": ["n1", "n2", "n3", "v1"], "part": ["test", "test", "test", "valid"]})
    storage.write_table(new, split / "new-notes.parquet")
    angle = {note: 0.1 * place + 0.01 * place**2 for place, note in enumerate(TEXTS)}  # no two differences are equal
    food = {"n1", "n3", "w1", "w2"}
    good = {note: [np.cos(angle[note]), np.sin(angle[note]), 5.0 if note in food else -5.0] for note in TEXTS}
    storage.write_table(embeddings_table(good), tmp_path / "good.parquet")
    return tmp_path
