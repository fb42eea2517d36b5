"""Rows out of the tables that the nightly job keeps, and out of the dataset: part of `forget.py`."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Collection
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema, storage
from noterec.embedding.table import is_table
from noterec.embedding.tombstones import withdraw_notes
from noterec.errors import InputError
from noterec.index.bundle import NOTES_FILE, bundles
from noterec.nightly.home import Home
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

TABLES_OF_IDS = ("note_id", "query_id", "anchor_id", "related_id")
_UNFINISHED = re.compile(r"\..+\.tmp|\..+\.next")  # what a killed process was writing


def notes_of(data: Dataset, home: Home, people: set[str]) -> set[str]:
    """The notes whose author is one of these: deleted versions too, and those that only the index still has."""
    found = {note_id for file in data.note_files for note_id in _signed(file, people)}
    for bundle in bundles(home.index):
        try:
            found |= _signed(bundle / NOTES_FILE, people)
        except InputError as error:
            logger.warning("%s can't be read, and doesn't tell whose notes it holds: %s", bundle.name, error)
    return found


def _signed(file: storage.Place, people: set[str]) -> set[str]:
    with storage.open_parquet(file) as parquet:
        if not {"note_id", "author_id"} <= set(parquet.schema_arrow.names):
            return set()
        table = parquet.read(columns=["note_id", "author_id"])
    mask = storage.named(people, "author_id")(table)
    return set(table["note_id"].filter(mask).cast(pa.string()).drop_null().to_pylist())


def from_neighbours(home: Home, ids: set[str]) -> dict[str, int]:
    """The published tables first; ranks close up behind a note that is gone."""
    gone = 0
    folders = [home.neighbours, *home.neighbours.glob("bundle-*")] if home.neighbours.is_dir() else []
    for file in (file for folder in folders for file in sorted(folder.glob("*.parquet"))):
        table = pl.DataFrame(storage.read_table(file, schema.NEIGHBOURS))
        kept = table.filter(~(pl.col("query_id").is_in(list(ids)) | pl.col("note_id").is_in(list(ids))))
        if kept.height == table.height:
            continue
        gone += table.height - kept.height
        kept = kept.with_columns(pl.col("rank").rank("ordinal").over("query_id").cast(pl.Int32))
        arrow = schema.conform(kept.to_arrow(compat_level=pl.CompatLevel.oldest()), schema.NEIGHBOURS, name=file.name)
        storage.write_table(arrow, file, origin=storage.read_origin(file))
    return {"neighbours": gone}


def from_tables(home: Home, ids: set[str]) -> dict[str, int]:
    """Embeddings with their rejects, pairs, and what nights and trainings were asked by."""
    rows = {"embeddings": 0, "rejects": 0, "pairs": 0, "questions and evaluations": 0, "training": 0}
    folder = home.path / "embeddings"
    for table in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not is_table(table):
            logger.warning("%s: no table of embeddings, left alone; look whether it holds what is to go", table)
            continue
        rows["embeddings"] += withdraw_notes(table, ids)
        rows["rejects"] += _from_rejects(table, ids)
    if home.pairs.is_file():
        rows["pairs"] += _erased(home.pairs, ids)
    for run in home.runs():
        shutil.rmtree(run / "canaries", ignore_errors=True)  # copies of notes, that a killed night left
        rows["questions and evaluations"] += sum(_erased(file, ids) for file in sorted(run.rglob("*.parquet")))
    if home.training.is_dir():
        for copy in (*home.training.glob("*/split/train"), *home.training.glob("*/.split.*")):  # of a killed training
            shutil.rmtree(copy, ignore_errors=True)
        rows["training"] += sum(_erased(file, ids) for file in sorted(home.training.rglob("*.parquet")))
    for part in (
        home.path.iterdir(),
        home.neighbours.rglob("*"),
        (home.path / "runs").rglob("*"),
        home.training.rglob("*"),
    ):
        for file in list(part):
            if _UNFINISHED.fullmatch(file.name) and file.is_file():
                file.unlink()
    return rows


def _erased(file: Path, ids: set[str]) -> int:
    return storage.erase_rows(file, storage.named(ids, *TABLES_OF_IDS), columns=TABLES_OF_IDS)


def _from_rejects(folder: storage.Place, keys: Collection[str]) -> int:
    file = folder / schema.REJECTS_FILE
    return storage.erase_rows(file, storage.named(keys, "key"), columns=["key"]) if file.is_file() else 0


def from_dataset(data: Dataset, ids: set[str], people: set[str]) -> dict[str, int]:
    """The notes last, and of a person's notes the rows that say so: a killed command has to find them again."""
    rows = {"dataset notes": 0, "dataset engagement": 0, "dataset rejects": _from_rejects(data.path, ids | people)}

    def of_log(table: pa.Table) -> pa.Array:
        return pc.or_(storage.named(ids, "note_id")(table), storage.named(people, "user_id")(table))

    if data.engagement_files:
        rows["dataset engagement"] = storage.erase_rows(
            data.path / "engagement", of_log, columns=["note_id", "user_id"]
        )

    def unsigned(table: pa.Table) -> pa.Array:
        signed = storage.named(people, "author_id")(table)
        return pc.and_not(storage.named(ids, "note_id")(table), signed)

    for doomed in (unsigned, storage.named(ids, "note_id")) if people else (storage.named(ids, "note_id"),):
        rows["dataset notes"] += storage.erase_rows(data.path / "notes", doomed, columns=["note_id", "author_id"])
    return rows
