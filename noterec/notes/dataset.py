"""A dataset: a folder with `notes/*.parquet` and `engagement/*.parquet`, local or in an object store, and its clock.

The same note id may stand in several files: the row with the latest `updated_at` wins, an exact tie keeps the first.
Reading is by batches; to settle that, only a hash of every id is held in memory, and the ids and times of those that stand there
twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.log import log_batches

logger = logging.getLogger(__name__)

Clock = Literal["time", "position", "none"]
DATASET_FILE = "dataset.json"
UNDATED_SHARE = 0.05  # up to so many events without a time are left out; with more of them the log has no clock


class Dataset:
    """A folder of notes and engagement.

    Attributes:
        path: the folder, a local path or a place in an object store.
        clock: "time" where timestamps are real, "position" where only each person's order is known and the times are
            made up from it, "none" where the log has no order.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """Open a dataset.

        Raises:
            InputError: no such folder, or no notes in it.
        """
        self.path = storage.place(path)
        if not (self.path / "notes").is_dir():
            raise InputError(
                f"{self.path}: no dataset there; expected a folder with notes/*.parquet and engagement/*.parquet. "
                "Make one with `noterec import` or `noterec sample`"
            )
        self.note_files = table_files(self.path / "notes")
        if not self.note_files:
            raise InputError(f"{self.path}: notes/ holds no Parquet file; expected at least one with a note_id column")
        folder = self.path / "engagement"
        self.engagement_files = table_files(folder) if folder.is_dir() else []

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
        events = undated = 0
        for table in self.engagement_batches(["timestamp"]):
            events += table.num_rows
            undated += table["timestamp"].null_count
        if events and undated <= UNDATED_SHARE * events:
            return "time"
        if undated < events:
            logger.warning(
                "%s: %d of %d events have no timestamp; the log counts as one without a clock",
                self.path,
                undated,
                events,
            )
        return "none"

    @cached_property
    def _winners(self) -> dict[storage.Place, np.ndarray]:
        """For every file, which of its rows are the newest of their note: (rows,) bool.

        Hashes tell which ids may stand there twice, 8 bytes a row; only of those are the ids themselves and their times compared.
        """
        hashes = {file: self._id_hashes(file) for file in self.note_files}
        ordered = np.concatenate(list(hashes.values()))
        ordered.sort()
        repeated = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
        twice = {file: np.isin(found, repeated) for file, found in hashes.items()}
        winners = {file: ~mask for file, mask in twice.items()}
        if not len(repeated):
            return winners
        parts = []
        for number, file in enumerate(self.note_files):
            start = 0
            for table, mask in self._masked(file, twice[file], ["updated_at"], storage.ROW_GROUP_ROWS):
                rows = np.flatnonzero(mask)
                part = pl.DataFrame(table.select(["note_id", "updated_at"]).take(pa.array(rows)))
                parts.append(part.with_columns(row=pl.Series(rows + start), file=pl.lit(number, pl.Int64)))
                start += table.num_rows
        kept = (
            pl.concat(parts)
            .sort(["updated_at", "file", "row"], descending=[True, False, False], nulls_last=True)
            .unique("note_id", keep="first", maintain_order=True)
        )
        for number, file in enumerate(self.note_files):
            winners[file][kept.filter(pl.col("file") == number)["row"].to_numpy()] = True
        return winners

    def _id_hashes(self, file: storage.Place) -> np.ndarray:
        """(rows,) uint64: equal where ids are, and rarely elsewhere."""
        parts = [np.zeros(0, dtype=np.uint64)]
        parts += [pl.Series(t["note_id"]).hash().to_numpy() for t in self._read(file, [], storage.ROW_GROUP_ROWS)]
        return np.concatenate(parts)

    def _read(self, file: storage.Place, columns: list[str] | None, batch_rows: int) -> Iterator[pa.Table]:
        """A file's rows in conformed batches: the ids and those of the columns that are there, None = all."""
        with storage.open_parquet(file) as parquet:
            present = parquet.schema_arrow.names
            if "note_id" not in present:
                raise InputError(
                    f"{file}: no column 'note_id'; the columns are {', '.join(present)}. Rename one, or "
                    "import the file with --map note_id=COLUMN"
                )
            wanted = None if columns is None else [c for c in {"note_id", *columns} if c in present]
            try:
                for batch in parquet.iter_batches(batch_rows, columns=wanted):
                    batch.validate(full=True)  # Parquet doesn't promise that a string is UTF-8
                    yield schema.conform(pa.Table.from_batches([batch]), schema.NOTES, name=str(file))
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error

    def _masked(
        self, file: storage.Place, mask: np.ndarray, columns: list[str] | None, batch_rows: int
    ) -> Iterator[tuple[pa.Table, np.ndarray]]:
        """What `_read` gives, with each batch's part of a mask of the file's rows."""
        start = 0
        for table in self._read(file, columns, batch_rows):
            part = mask[start : start + table.num_rows]
            start += table.num_rows
            if start > len(mask):
                break
            yield table, part
        if start != len(mask):
            raise InputError(f"{file}: it was written to while it was read; run again when that is done")

    def note_batches(self, columns: list[str] | None = None, *, batch_rows: int = 8192) -> Iterator[pa.Table]:
        """The live notes (newest version of each id, not deleted), in file order, as conformed Arrow tables.

        Args:
            columns: which columns to read besides note_id; None = all, unknown ones included.
            batch_rows: rows read at a time; a batch holds at most so many.

        Raises:
            InputError: a file is missing or damaged, or its columns don't fit the notes schema.
        """
        for _, _, table in self.located_batches(columns, batch_rows=batch_rows):
            yield table

    def located_batches(
        self, columns: list[str] | None = None, *, batch_rows: int = 8192
    ) -> Iterator[tuple[int, np.ndarray, pa.Table]]:
        """`note_batches` with where each note stands, for what is read later by its place, such as a picture.

        Yields:
            The number of the file in `note_files`, the rows of that file ((R,) int64, the first being 0), and the R notes there.
        """
        for number, file in enumerate(self.note_files):
            wanted = None if columns is None else ["deleted", *columns]
            start = 0
            for table, newest in self._masked(file, self._winners[file], wanted, batch_rows):
                mask = newest & ~_deleted(table)
                rows = start + np.flatnonzero(mask)
                start += table.num_rows
                if columns is not None:
                    there = set(table.column_names) - {"note_id"}  # one that only other files have is left out
                    table = table.select(["note_id", *(c for c in columns if c in there)])
                if len(rows):
                    yield number, rows, table if mask.all() else table.filter(pa.array(mask))

    def deleted_batches(self) -> Iterator[pa.Table]:
        """The notes that are deleted (the newest version of their id says so): tables with note_id, in file order."""
        for file in self.note_files:
            for table, newest in self._masked(file, self._winners[file], ["deleted"], storage.ROW_GROUP_ROWS):
                mask = newest & _deleted(table)
                if mask.any():
                    yield table.select(["note_id"]).filter(pa.array(mask))

    @cached_property
    def note_count(self) -> int:
        """How many notes are live; their ids are not kept."""
        return sum(table.num_rows for table in self.note_batches([], batch_rows=storage.ROW_GROUP_ROWS))

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
                        newest = self._winners[file][start : start + table.num_rows]
                        mask = newest & ~_deleted(table) & (counts > 0)
                        start += table.num_rows
                        ids = pl.Series(table["note_id"].filter(pa.array(mask)), dtype=pl.String)
                        parts.append(pl.DataFrame({"note_id": ids, "images": counts[mask]}))
                except (pa.ArrowInvalid, OSError) as error:
                    raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error
        return pl.concat(parts)

    @cached_property
    def event_count(self) -> int:
        """How many rows the log has, as the footers of its files say."""
        count = 0
        for file in self.engagement_files:
            with storage.open_parquet(file) as parquet:
                count += parquet.metadata.num_rows
        return count

    def engagement_batches(
        self,
        columns: list[str] | None = None,
        *,
        files: Sequence[storage.Place] | None = None,
        batch_rows: int = 4 * storage.ROW_GROUP_ROWS,
    ) -> Iterator[pa.Table]:
        """The log in file order, never held whole: conformed Arrow tables; a row without an action counts as a click.

        Args:
            columns: which of the schema's columns to read; None = all.
            files: which of `engagement_files` to read; None = all.
            batch_rows: rows of a table at most.

        Raises:
            InputError: a file is damaged, its columns don't fit the engagement schema, or an action is unknown.
        """
        return log_batches(self.engagement_files if files is None else files, columns, batch_rows)

    def engagement(self, *, engaged: bool = False) -> pl.DataFrame:
        """The log at once, in file order; `engagement_batches` reads one of any length.

        Args:
            engaged: only clicks and stronger actions; a row without an action counts as a click.

        Raises:
            InputError: as `engagement_batches`.
        """
        parts = [schema.ENGAGEMENT.empty_table(), *self.engagement_batches()]
        log = pl.DataFrame(pa.concat_tables(parts))
        return log.filter(pl.col("action").is_in(list(schema.ENGAGED))) if engaged else log


def table_files(folder: storage.Place) -> list[storage.Place]:
    """The Parquet files of a dataset's table: the shards that noterec wrote, and the files that a platform has put beside them.

    Raises:
        InputError: a file has the name of a shard, and the manifest doesn't know it: nobody can tell whether it is whole.
    """
    named = storage.parquet_files(folder)
    known = set(named)
    others = sorted(file for file in folder.glob("*.parquet") if file not in known)
    unclear = [file for file in others if file.name.startswith("shard-")]
    if unclear:
        raise InputError(
            f"{unclear[0]}: has a shard's name, and {folder / storage.MANIFEST} doesn't name it; give a file of your own another "
            "name, such as day-1.parquet, or remove what a stopped job left"
        )
    return [*named, *others]


def _deleted(table: pa.Table) -> np.ndarray:
    """Which rows of a conformed table are deleted: (rows,) bool."""
    return np.asarray(table["deleted"].fill_null(False).to_numpy(), dtype=bool)


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


def _list_lengths(column: pa.ChunkedArray, file: storage.Place) -> np.ndarray:
    """The length of each list of the images column, null counting as empty: (rows,) int64."""
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise InputError(f"{file}: column 'images' is {kind}; expected a list of {schema.IMAGE} per note")
    return np.asarray(pc.list_value_length(column).fill_null(0).to_numpy(), dtype=np.int64)


def write_meta(path: str | os.PathLike[str], *, clock: Clock, **origin: Any) -> None:
    """Write a dataset's `dataset.json`; written last, it marks the dataset as complete."""
    storage.write_json(storage.place(path) / DATASET_FILE, {"format": "noterec dataset", "clock": clock, **origin})
