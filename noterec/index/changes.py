"""What was added to an index and removed from it since its bundles were built: fresh notes and takedowns within seconds.

    INDEX/changes/      a table that grows by one small shard a change; `Index.open` lays it over the live bundle

A change counts from the moment it is on disk (`changing.py` writes it), and outlives the bundle that it was made on:

- A removed note stays out of this bundle and of every later one, whatever the embeddings say, until it is added again.
- An added note stays until a later build finds it among the embeddings: from then on the builds say whether there is such a note.
  An addition that was made while a build was already reading them counts over it. One that no build ever confirms goes after
  `IndexConfig.added_days`.
- An addition of another model version than the live bundle's waits for a bundle of its own.

The numbers of changes ascend and are never given twice, so that a bundle can say through which of them it was built.
"""

from __future__ import annotations

import datetime
import logging
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa

from noterec import schema, storage
from noterec.errors import ArtefactError, InputError
from noterec.index import bundle

logger = logging.getLogger(__name__)

ORIGIN = {"stage": "index changes"}
ATTRIBUTES = "attributes"  # one struct, so that no name of a user's column meets one of ours
COLUMNS = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        pa.field("removed", pa.bool_(), nullable=False),
        pa.field("sequence", pa.int64(), nullable=False),
        pa.field("made_at", schema.TIMESTAMP, nullable=False),
        ("embedding", pa.list_(pa.float32())),
        ("model_version", pa.string()),
        ("confirmed_by", pa.int64()),  # number of the first bundle that was built with the note, of an addition
    ]
)


@dataclass(frozen=True, eq=False)
class Changes:
    """The changes that may count over some bundle, in the order in which they were made.

    Attributes:
        frame: the columns of `COLUMNS`; a note stands there once if it was removed last, else once per model version that it was
            added with. `part` and `row` say where an addition's attributes are.
        parts: attributes as they were given, one table per shard: a column's type may differ from shard to shard.
        through: number of the last change that had been made when the shards were read, 0 if there was none.
    """

    frame: pl.DataFrame
    parts: list[pl.DataFrame]
    through: int

    @classmethod
    def none(cls) -> Changes:
        """No change at all."""
        return cls(_frame(COLUMNS.empty_table(), 0), [], 0)

    @property
    def removed(self) -> pl.Series:
        """Ids of the notes that were removed."""
        return self.frame.filter("removed")["note_id"]

    def added(self, folder: Path, info: bundle.BundleInfo, ids: pl.Series) -> pl.DataFrame:
        """The additions that count over a bundle, by note_id: rows of `frame`.

        Args:
            folder: the bundle.
            info: what its bundle.json says.
            ids: of its notes.
        """
        expires = info.created - datetime.timedelta(days=info.added_days)
        waiting = (
            ~pl.col("note_id").is_in(ids.implode())
            & (pl.col("made_at") > expires)
            & (pl.col("confirmed_by").is_null() | (pl.col("confirmed_by") > bundle.number(folder)))
        )
        return self.frame.filter(
            ~pl.col("removed") & (pl.col("model_version") == info.model_version),
            (pl.col("sequence") > info.changes_through) | waiting,
        ).sort("note_id")

    def attributes(self, added: pl.DataFrame, wanted: pl.Schema) -> pl.DataFrame:
        """The attributes of some additions in the types of a bundle; what doesn't fit there is null, and said.

        Args:
            added: rows of `frame`.
            wanted: names and types of the bundle's attributes, note_id among them.
        """
        found: list[pl.DataFrame] = []
        for number in added["part"].unique():
            rows = added.filter(pl.col("part") == number)
            given = self.parts[number][rows["row"].to_numpy()].with_columns(rows["note_id"])
            columns = []
            for name, dtype in wanted.items():
                column = given[name] if name in given.columns else pl.Series(name, [None] * len(given), dtype=dtype)
                if name == "created_at" and isinstance(dtype, pl.Datetime):  # a fresh note is new
                    column = column.fill_null(rows["made_at"].cast(dtype)) if column.dtype == dtype else column
                columns.append(_cast(column, dtype))
            found.append(pl.DataFrame(columns))
        if not found:
            return pl.DataFrame(schema=wanted)
        return pl.concat(found).sort("note_id")


def read(index: Path) -> Changes:
    """All changes of an index; none where there is no such table.

    Raises:
        ArtefactError: the table is damaged.
    """
    folder = index / bundle.CHANGES
    if not folder.is_dir():
        return Changes.none()
    through = int(
        storage.ShardFolder(folder, origin=ORIGIN).state.get("through", 0)
    )  # first: what comes meanwhile is later
    try:
        tables = storage.read_files(folder, lambda files: [storage.read_table(file) for file in files])
    except (InputError, ArtefactError) as error:
        raise ArtefactError(
            f"{folder}: what was added and removed can't be read ({error}); the bundles are whole, and removed notes would be "
            f"found again without it: bring the folder back from a copy, or move it away and remove and add these notes again"
        ) from error
    parts = [
        pl.DataFrame(table.select([ATTRIBUTES])).unnest(ATTRIBUTES)
        if ATTRIBUTES in table.column_names
        else _nothing(table)
        for table in tables
    ]
    frames = [Changes.none().frame, *(_frame(table, part) for part, table in enumerate(tables))]
    return Changes(_last(pl.concat(frames)), parts, through)


def _last(every: pl.DataFrame) -> pl.DataFrame:
    """Of each note its removal if nothing was added since, else what was added since, the last of each model version."""
    every = every.sort("sequence", maintain_order=True)
    removal = pl.col("sequence").filter("removed").max().over("note_id").fill_null(-1)
    addition = pl.col("sequence").filter(~pl.col("removed")).max().over("note_id").fill_null(-1)
    counting = pl.when("removed").then(pl.col("sequence") > addition).otherwise(pl.col("sequence") > removal)
    return every.filter(counting).unique(["note_id", "model_version"], keep="last", maintain_order=True)


def _frame(table: pa.Table, part: int) -> pl.DataFrame:
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in COLUMNS
    ]
    frame = pl.DataFrame(pa.table(columns, schema=pa.schema([field.with_nullable(True) for field in COLUMNS])))
    return frame.with_row_index("row").with_columns(pl.lit(part, pl.Int32).alias("part"))


def _nothing(table: pa.Table) -> pl.DataFrame:
    """A frame of no columns has no height; this one has."""
    return pl.DataFrame({"note_id": pl.Series(table["note_id"])})


def _cast(column: pl.Series, dtype: pl.DataType) -> pl.Series:
    try:
        fitting = column.cast(dtype, strict=False)
    except pl.exceptions.PolarsError:
        fitting = pl.Series(column.name, [None] * len(column), dtype=dtype)
    if lost := fitting.null_count() - column.null_count():
        logger.warning(
            "attribute %s of %d added notes is %s and the index's is %s", column.name, lost, column.dtype, dtype
        )
    return fitting
