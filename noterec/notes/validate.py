"""What a dataset holds, and what is wrong with it: read once, in bounded memory (`noterec validate`)."""

from __future__ import annotations

import collections
import dataclasses
import datetime
import os
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Clock, Dataset
from noterec.notes.images.check import ImagesSummary, check_images
from noterec.notes.images.source import ImageSource
from noterec.progress import stage, track

QUANTILES = (0.05, 0.5, 0.95, 1.0)
BATCH_BYTES = 64 * 1024**2  # read at a time: few rows where they hold pictures, many where not
LOG_ROWS = 256 * 1024


@dataclasses.dataclass(frozen=True)
class DatasetSummary:
    """What a dataset holds. Quantiles map 0.05, 0.5, 0.95 and 1.0 (the maximum) to a value.

    Attributes:
        path: the dataset's folder; clock: how far its times can be trusted.
        notes: live notes: the newest version of each id, not deleted.
        note_rows: rows in the files; duplicates: rows that a newer or equal version of their id replaces; deleted: ids whose newest
            version is deleted.
        nulls: live notes without a value, by column (an empty text or list counts as none); unknown columns included.
        text_characters: quantiles of title + hashtags + content, in characters.
        hashtags_per_note: quantiles, notes without any included.
        notes_without_text: live notes of pictures only.
        notes_without_anything: live notes that have neither text nor picture: nothing can be encoded.
        languages, categories: live notes by language, and by the category's first step, the commonest first.
        events: rows of the log; actions: rows by action.
        users: people in the log; events_per_user: quantiles.
        engaged_notes: live notes with a click or stronger action.
        unknown_notes: distinct ids that the log names and that are no live note; unknown_events: rows that name them.
        events_without_time: rows without a timestamp.
        first, last: time span of the log; None without times.
        images: what decoding every picture showed; None unless asked for.
    """

    path: str
    clock: Clock
    notes: int
    note_rows: int
    duplicates: int
    deleted: int
    nulls: dict[str, int]
    text_characters: dict[float, float]
    hashtags_per_note: dict[float, float]
    notes_without_text: int
    notes_without_anything: int
    languages: dict[str, int]
    categories: dict[str, int]
    events: int
    actions: dict[str, int]
    users: int
    events_per_user: dict[float, float]
    engaged_notes: int
    unknown_notes: int
    unknown_events: int
    events_without_time: int
    first: datetime.datetime | None
    last: datetime.datetime | None
    images: ImagesSummary | None = None


@dataclasses.dataclass
class _Notes:
    """Counts over the live notes; the lengths are one integer per note."""

    rows: int = 0
    images: int = 0
    nulls: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    lengths: list[np.ndarray] = dataclasses.field(default_factory=list)
    hashtags: list[np.ndarray] = dataclasses.field(default_factory=list)
    without_text: int = 0
    without_anything: int = 0
    languages: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    categories: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def validate(dataset: str | os.PathLike[str], *, images: ImageSource | None = None, workers: int = 0) -> DatasetSummary:
    """Read a dataset through and sum it up.

    Args:
        dataset: a folder with notes/ and engagement/.
        images: also decode every picture of the live notes: where their paths may be read from, and what they may be.
        workers: processes that decode pictures; 0 = this one.

    Raises:
        InputError: there is no note, a file is damaged, a column doesn't fit, or an action is unknown.
    """
    with stage("validate") as record:
        data = Dataset(dataset)
        known = dict.fromkeys([*schema.NOTES.names, *(name for file in data.note_files for name in _columns(file))])
        columns = [name for name in known if name != "images"]  # pictures may be most of the bytes: they are counted
        pictured = data.image_counts()
        ids: list[pl.Series] = []
        total = sum(_rows(file) for file in data.note_files)
        notes = _Notes()
        with track("notes", total, "rows") as bar:
            size = sum(file.stat().st_size for file in data.note_files) // max(1, total)
            batch_rows = max(64, min(LOG_ROWS, BATCH_BYTES // max(1, 4 * size)))
            for table in data.note_batches(columns, batch_rows=batch_rows):
                _count_notes(table, pictured, notes)
                ids.append(pl.Series("note_id", table["note_id"], dtype=pl.String))
                bar.advance(table.num_rows)
        if not notes.rows:
            raise InputError(
                f"{data.path}: has no notes (an empty table, or all of them deleted); expected at least one row in notes/"
            )
        distinct = _distinct_ids(data)
        log = _count_log(data, pl.concat(ids))
        pictures = None
        if images is not None:
            pictures = check_images(data, images, workers=workers, batch_rows=batch_rows, total=notes.images)
            record.counts.update(images=pictures.images, images_rejected=pictures.images - pictures.decoded)
        lengths = np.concatenate(notes.lengths)
        record.counts.update(rows_in=total + log["events"], rows_out=notes.rows, rejected=0)
        return DatasetSummary(
            path=str(data.path),
            clock=data.clock,
            notes=notes.rows,
            note_rows=total,
            duplicates=total - distinct,
            deleted=distinct - notes.rows,
            nulls={name: notes.nulls[name] for name in known if name in notes.nulls},
            text_characters=_quantiles(lengths),
            hashtags_per_note=_quantiles(np.concatenate(notes.hashtags)),
            notes_without_text=notes.without_text,
            notes_without_anything=notes.without_anything,
            languages=dict(notes.languages.most_common()),
            categories=dict(notes.categories.most_common()),
            **log,
            images=pictures,
        )


def _columns(file: storage.Place) -> list[str]:
    """The columns of a file, whose types are looked at here, pictures included."""
    with storage.open_parquet(file) as parquet:
        if "note_id" in parquet.schema_arrow.names:  # reading says what to do where it isn't
            schema.conform(parquet.schema_arrow.empty_table(), schema.NOTES, name=str(file))
        return list(parquet.schema_arrow.names)


def _rows(file: storage.Place) -> int:
    with storage.open_parquet(file) as parquet:
        return int(parquet.metadata.num_rows)


def _distinct_ids(data: Dataset) -> int:
    seen: set[str] = set()
    for file in data.note_files:
        with storage.open_parquet(file) as parquet:
            for batch in parquet.iter_batches(LOG_ROWS, columns=["note_id"]):
                seen.update(batch.column(0).cast(pa.string()).to_pylist())
    return len(seen)


def _count_notes(table: pa.Table, pictured: pl.DataFrame, notes: _Notes) -> None:
    frame_columns = {}
    ids = pl.DataFrame({"note_id": pl.Series(table["note_id"], dtype=pl.String)})
    images = ids.join(pictured, on="note_id", how="left", maintain_order="left")["images"].fill_null(0).to_numpy()
    for name in table.column_names:
        column = table[name]
        missing = column.is_null()
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            missing = pc.or_(missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), False))
        elif pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            missing = pc.or_(missing, pc.fill_null(pc.equal(pc.list_value_length(column), 0), False))
        frame_columns[name] = missing.to_numpy()
        notes.nulls[name] += int(frame_columns[name].sum())
    text = np.zeros(table.num_rows, np.int64)
    for name in ("title", "content"):
        text += pc.fill_null(pc.utf8_length(table[name]), 0).to_numpy()
    tags = pl.Series(table["hashtags"], dtype=pl.List(pl.String))
    text += tags.list.eval(pl.element().str.len_chars()).list.sum().fill_null(0).to_numpy().astype(np.int64)
    notes.nulls["images"] += int((images == 0).sum())
    no_text = frame_columns["title"] & frame_columns["content"] & frame_columns["hashtags"]
    notes.rows += table.num_rows
    notes.images += int(images.sum())
    notes.lengths.append(text)
    notes.hashtags.append(tags.list.len().fill_null(0).to_numpy().astype(np.int64))
    notes.without_text += int(no_text.sum())
    notes.without_anything += int((no_text & (images == 0)).sum())
    notes.languages.update(name for name in table["language"].to_pylist() if name)
    notes.categories.update(name.split("/")[0] for name in table["category"].to_pylist() if name)


def _count_log(data: Dataset, ids: pl.Series) -> dict[str, Any]:
    """The fields of DatasetSummary that describe the log; held in memory: one counter per person and per note named."""
    users: collections.Counter[str] = collections.Counter()
    actions: collections.Counter[str] = collections.Counter()
    named: collections.Counter[str] = collections.Counter()
    engaged: set[str] = set()
    timeless = 0
    first: datetime.datetime | None = None
    last: datetime.datetime | None = None
    with track("engagement", sum(_rows(file) for file in data.engagement_files), "rows") as bar:
        for file in data.engagement_files:
            with storage.open_parquet(file) as parquet:
                try:
                    for batch in parquet.iter_batches(LOG_ROWS):
                        table = schema.conform(pa.Table.from_batches([batch]), schema.ENGAGEMENT, name=str(file))
                        log = pl.DataFrame(table.select(schema.ENGAGEMENT.names)).with_columns(
                            pl.col("action").fill_null("click")
                        )
                        users.update(_counts(log["user_id"]))
                        actions.update(_counts(log["action"]))
                        named.update(_counts(log["note_id"]))
                        engaged.update(log.filter(pl.col("action").is_in(schema.ENGAGED))["note_id"].unique())
                        timeless += log["timestamp"].null_count()
                        low, high = log["timestamp"].min(), log["timestamp"].max()
                        if isinstance(low, datetime.datetime) and isinstance(high, datetime.datetime):
                            first = low if first is None else min(first, low)
                            last = high if last is None else max(last, high)
                        bar.advance(batch.num_rows)
                except (pa.ArrowInvalid, OSError) as error:
                    raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error
    for action in actions:
        if action not in schema.ACTIONS:
            raise InputError(
                f"{data.path / 'engagement'}: unknown action {action!r} in {actions[action]} rows; "
                f"expected one of {', '.join(schema.ACTIONS)}"
            )
    known = set(ids)
    unknown = {note: count for note, count in named.items() if note not in known}
    return {
        "events": sum(actions.values()),
        "actions": {name: actions[name] for name in schema.ACTIONS if name in actions},
        "users": len(users),
        "events_per_user": _quantiles(np.array(list(users.values()), np.int64)),
        "engaged_notes": len(engaged & known),
        "unknown_notes": len(unknown),
        "unknown_events": sum(unknown.values()),
        "events_without_time": timeless,
        "first": first,
        "last": last,
    }


def _counts(column: pl.Series) -> dict[str, int]:
    counted = column.value_counts()
    return dict(zip(counted[column.name].to_list(), counted["count"].to_list(), strict=True))


def _quantiles(values: np.ndarray) -> dict[float, float]:
    if not len(values):
        return {}
    return {q: float(np.quantile(values, q, method="inverted_cdf")) for q in QUANTILES}
