"""A dataset on disk: a folder with `notes/*.parquet` and `engagement/*.parquet`, and what is known of its clock.

The same note id may stand in several files: the row with the latest `updated_at` wins, an exact tie keeps the first.
Reading is by batches; only ids and times of the whole table are held in memory to settle that.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noterec import schema, storage
from noterec.errors import InputError

logger = logging.getLogger(__name__)

Clock = Literal["time", "position", "none"]
DATASET_FILE = "dataset.json"
UNDATED_SHARE = 0.05  # up to so many events without a time are left out; with more of them the log has no clock


class Dataset:
    """A folder of notes and engagement.

    Attributes:
        path: the folder.
        clock: "time" where timestamps are real, "position" where only each person's order is known and the times are
            made up from it, "none" where the log has no order.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a dataset.

        Raises:
            InputError: no such folder, or no notes in it.
        """
        self.path = storage.local(path)
        if not (self.path / "notes").is_dir():
            raise InputError(
                f"{self.path}: no dataset there; expected a folder with notes/*.parquet and engagement/*.parquet. "
                "Make one with `noterec import` or `noterec sample`"
            )
        self.note_files = storage.parquet_files(self.path / "notes")
        if not self.note_files:
            raise InputError(f"{self.path}: notes/ holds no Parquet file; expected at least one with a note_id column")
        folder = self.path / "engagement"
        self.engagement_files = storage.parquet_files(folder) if folder.is_dir() else []

    @cached_property
    def meta(self) -> dict[str, Any]:
        """What `dataset.json` says; empty where a user brings bare Parquet files."""
        file = self.path / DATASET_FILE
        return dict(storage.read_json(file)) if file.is_file() else {}

    @cached_property
    def clock(self) -> Clock:
        """How far the log's times can be trusted."""
        known: dict[str, Clock] = {"time": "time", "position": "position", "none": "none"}
        stated = self.meta.get("clock")
        if stated is not None:
            if stated not in known:
                raise InputError(f"{self.path / DATASET_FILE}: clock is {stated!r}; expected time, position or none")
            return known[stated]
        log = self.engagement()
        undated = log["timestamp"].null_count()
        if log.height and undated <= UNDATED_SHARE * log.height:
            return "time"
        if undated < log.height:
            logger.warning(
                "%s: %d of %d events have no timestamp; the log counts as one without a clock",
                self.path,
                undated,
                log.height,
            )
        return "none"

    @cached_property
    def _winners(self) -> dict[Path, np.ndarray]:
        """For every file, which of its rows count: (rows,) bool."""
        parts = []
        for number, file in enumerate(self.note_files):
            with storage.open_parquet(file) as parquet:
                if "note_id" not in parquet.schema_arrow.names:
                    raise InputError(
                        f"{file}: no column 'note_id'; the columns are {', '.join(parquet.schema_arrow.names)}. Rename one, or "
                        "import the file with --map note_id=COLUMN"
                    )
                names = [n for n in ("note_id", "updated_at") if n in parquet.schema_arrow.names]
                try:
                    table = schema.conform(parquet.read(columns=names), schema.NOTES, name=str(file))
                except (pa.ArrowInvalid, OSError) as error:
                    raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error
            part = pl.DataFrame(table.select(["note_id", "updated_at"]))
            parts.append(part.with_row_index("row").with_columns(pl.lit(number, pl.Int64).alias("file")))
        rows = pl.concat(parts)
        kept = (
            rows.sort(["updated_at", "file", "row"], descending=[True, False, False], nulls_last=True)
            .unique("note_id", keep="first", maintain_order=True)
            .select("file", "row")
        )
        winners = {}
        for number, file in enumerate(self.note_files):
            mask = np.zeros(parts[number].height, dtype=bool)
            mask[kept.filter(pl.col("file") == number)["row"].to_numpy()] = True
            winners[file] = mask
        return winners

    def note_batches(self, columns: list[str] | None = None, *, batch_rows: int = 8192) -> Iterator[pa.Table]:
        """The live notes (newest version of each id, not deleted), in file order, as conformed Arrow tables.

        Args:
            columns: which columns to read besides note_id; None = all, unknown ones included.
            batch_rows: rows read at a time; a batch holds at most so many.

        Raises:
            InputError: a file is damaged or its columns don't fit the notes schema.
        """
        for file in self.note_files:
            keep = self._winners[file]
            start = 0
            with storage.open_parquet(file) as parquet:
                present = parquet.schema_arrow.names
                wanted = None if columns is None else [c for c in {"note_id", "deleted", *columns} if c in present]
                try:
                    for batch in parquet.iter_batches(batch_rows, columns=wanted):
                        table = schema.conform(pa.Table.from_batches([batch]), schema.NOTES, name=str(file))
                        mask = _live(table, keep, start)
                        start += table.num_rows
                        if columns is not None:
                            there = set(table.column_names) - {"note_id"}  # one that only other files have is left out
                            table = table.select(["note_id", *(c for c in columns if c in there)])
                        if mask.any():
                            yield table if mask.all() else table.filter(pa.array(mask))
                except (pa.ArrowInvalid, OSError) as error:
                    raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error

    def notes(self, columns: list[str] | None = None) -> pl.DataFrame:
        """All live notes at once; give `columns` to leave out images and other large ones."""
        parts = [pl.DataFrame(table) for table in self.note_batches(columns)]
        if not parts:
            raise InputError(f"{self.path}: has no notes (an empty table, or all of them deleted)")
        try:
            return pl.concat(parts, how="diagonal_relaxed")
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"{self.path}: a column has different types in different files ({error}); write it with one type"
            ) from error

    @cached_property
    def note_ids(self) -> pl.Series:
        """Ids of the live notes, in file order."""
        return self.notes(["note_id"])["note_id"]

    def image_counts(self) -> pl.DataFrame:
        """How many entries the images column of a live note has: note_id and images (int64), of notes that have any.

        Only the smallest part of the column is read, such as the paths: no image enters memory.

        Raises:
            InputError: a file is damaged, or its images are no lists.
        """
        parts = [pl.DataFrame(schema={"note_id": pl.String, "images": pl.Int64})]
        for file in self.note_files:
            start = 0
            with storage.open_parquet(file) as parquet:
                if "images" not in parquet.schema_arrow.names:
                    continue
                columns = ["note_id", "deleted", _smallest_leaf(parquet, "images")]
                try:
                    for batch in parquet.iter_batches(storage.ROW_GROUP_ROWS, columns=columns):
                        read = pa.Table.from_batches([batch])
                        counts = _list_lengths(read["images"], file)
                        table = schema.conform(read.drop_columns("images"), schema.NOTES, name=str(file))
                        mask = _live(table, self._winners[file], start) & (counts > 0)
                        start += table.num_rows
                        ids = pl.Series(table["note_id"].filter(pa.array(mask)), dtype=pl.String)
                        parts.append(pl.DataFrame({"note_id": ids, "images": counts[mask]}))
                except (pa.ArrowInvalid, OSError) as error:
                    raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error
        return pl.concat(parts)

    def engagement(self, *, engaged: bool = False) -> pl.DataFrame:
        """The log, in file order.

        Args:
            engaged: only clicks and stronger actions; a row without an action counts as a click.

        Raises:
            InputError: a file is damaged, or its columns don't fit the engagement schema.
        """
        if not self.engagement_files:
            table = schema.ENGAGEMENT.empty_table()
        else:
            table = storage.read_table(self.path / "engagement", schema.ENGAGEMENT, columns=schema.ENGAGEMENT.names)
        log = pl.DataFrame(table.select(schema.ENGAGEMENT.names)).with_columns(pl.col("action").fill_null("click"))
        unknown = log.filter(~pl.col("action").is_in(list(schema.ACTIONS)))
        if unknown.height:
            raise InputError(
                f"{self.path / 'engagement'}: unknown action {unknown['action'][0]!r} in {unknown.height} rows; "
                f"expected one of {', '.join(schema.ACTIONS)}"
            )
        return log.filter(pl.col("action").is_in(list(schema.ENGAGED))) if engaged else log


def _live(table: pa.Table, newest: np.ndarray, start: int) -> np.ndarray:
    """Which rows of a conformed table, the file's from `start` on, are the newest of their note and not deleted: (rows,) bool."""
    deleted = table["deleted"].fill_null(False).to_numpy()
    return np.asarray(newest[start : start + table.num_rows] & ~deleted, dtype=bool)


def _smallest_leaf(parquet: pq.ParquetFile, column: str) -> str:
    """The path of the leaf of a nested column that takes the fewest bytes; any of them tells how long the lists are."""
    meta = parquet.metadata
    leaves = [
        place for place in range(len(parquet.schema)) if parquet.schema.column(place).path.split(".")[0] == column
    ]
    sizes = [
        sum(meta.row_group(g).column(leaf).total_compressed_size for g in range(meta.num_row_groups)) for leaf in leaves
    ]
    return str(parquet.schema.column(leaves[int(np.argmin(sizes))]).path)


def _list_lengths(column: pa.ChunkedArray, file: Path) -> np.ndarray:
    """The length of each list of the images column, null counting as empty: (rows,) int64."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise InputError(f"{file}: column 'images' is {kind}; expected a list of {schema.IMAGE} per note")
    return np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(), dtype=np.int64)


def write_meta(path: str | os.PathLike[str], *, clock: Clock, **origin: Any) -> None:
    """Write a dataset's `dataset.json`; written last, it marks the dataset as complete."""
    storage.write_json(storage.local(path) / DATASET_FILE, {"format": "noterec dataset", "clock": clock, **origin})
