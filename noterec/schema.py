"""The tables at which the stages meet: their Arrow schemas, and the one validator.

`conform` casts a table to a schema or says in one sentence why it can't. Columns that a schema doesn't know are carried
along unchanged: they can be filtered on later.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from noterec.errors import InputError

TIMESTAMP = pa.timestamp("us", tz="UTC")
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])  # the Hugging Face image convention

NOTES = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        ("title", pa.string()),
        ("content", pa.string()),
        ("hashtags", pa.list_(pa.string())),
        ("category", pa.string()),  # a path: "Travel/Asia"
        ("images", pa.list_(IMAGE)),
        ("author_id", pa.string()),
        ("language", pa.string()),
        ("created_at", TIMESTAMP),
        ("updated_at", TIMESTAMP),
        ("exposure", pa.int64()),  # how often the note was shown
        ("deleted", pa.bool_()),
    ]
)
ENGAGEMENT = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        ("action", pa.string()),
        ("timestamp", TIMESTAMP),
    ]
)
PAIRS = pa.schema(
    [
        pa.field("anchor_id", pa.string(), nullable=False),
        pa.field("related_id", pa.string(), nullable=False),
        ("score", pa.float32()),
        ("rank", pa.int32()),  # 1 = the strongest related note of this anchor
    ]
)
NEIGHBOURS = pa.schema(
    [
        pa.field("query_id", pa.string(), nullable=False),
        pa.field("note_id", pa.string(), nullable=False),
        ("rank", pa.int32()),  # 1 = the nearest
        ("score", pa.float32()),  # cosine
    ]
)
# What a model wrote. Where a note stands there more than once, its last row counts; a row with nothing but a note_id is a
# tombstone: the note was withdrawn.
GENERATED = pa.schema(
    [
        pa.field("note_id", pa.string(), nullable=False),
        ("task", pa.string()),  # "category" or "hashtags"
        ("answers", pa.list_(pa.string())),  # the best first
        ("probabilities", pa.list_(pa.float32())),  # of each answer; of a hashtag its vote share; null if unknown
        ("confidence", pa.float32()),  # 0..1; null where nothing was sampled for it
        ("samples", pa.int32()),  # answers that were sampled
        ("text", pa.string()),  # the model's own words, null where it chose from a closed set
        ("content_hash", pa.uint64()),
        ("model_version", pa.string()),
    ]
)
REJECTS = pa.schema(
    [
        ("table", pa.string()),  # "notes" or "engagement"
        ("source", pa.string()),  # the file the row came from
        ("row", pa.int64()),  # its number in that file, the first being 1
        ("key", pa.string()),  # the row's id, where it has one
        ("reason", pa.string()),
    ]
)

REJECTS_FILE = "rejects.parquet"  # beside the table that the rows were meant for

# What an action means. An engagement implies a view, a view implies an impression.
ACTIONS: dict[str, int] = {
    "impression": 0,  # was shown
    "view": 1,  # was opened
    "click": 2,  # engaged, and so are the stronger ones
    "like": 3,
    "save": 3,
    "comment": 3,
    "share": 3,
    "follow": 3,
}
ENGAGED = tuple(action for action, level in ACTIONS.items() if level >= 2)

TEXT_COLUMNS = ("title", "content", "hashtags")
CONTENT_COLUMNS = ("title", "content", "images")  # a note needs at least one of these


def embeddings_schema(dimension: int, dtype: pa.DataType | None = None) -> pa.Schema:
    """The schema of an embeddings table with D = `dimension`, float32 unless `dtype` says float16.

    Where a note stands there more than once, its last row counts. A row with nothing but a note_id is a tombstone: the note was
    withdrawn. Readers take the last row of each note and drop those without an embedding.
    """
    return pa.schema(
        [
            pa.field("note_id", pa.string(), nullable=False),
            ("embedding", pa.list_(dtype or pa.float32(), dimension)),
            ("content_hash", pa.uint64()),
            ("model_version", pa.string()),
        ]
    )


def conform(table: pa.Table, schema: pa.Schema, *, name: str, required: tuple[str, ...] = ()) -> pa.Table:
    """Cast a table to a schema, keeping unknown columns behind the known ones.

    Args:
        table: any Arrow table.
        schema: one of this module's schemas.
        name: what the table is, for messages ("notes in shard-0.parquet").
        required: columns that must be present besides those that the schema marks as not nullable. Absent columns that
            are not required are filled with nulls.

    Returns:
        A table whose first columns are exactly those of `schema`, with its types.

    Raises:
        InputError: a required column is missing, a column can't be cast, or an id is null.
    """
    columns: list[pa.ChunkedArray] = []
    for field in schema:
        must = not field.nullable or field.name in required
        if field.name not in table.column_names:
            if must:
                raise InputError(
                    f"{name}: no column {field.name!r}; the columns are {', '.join(table.column_names) or 'none'}. "
                    f"Expected {field.name} ({field.type}): rename a column, or import with --map {field.name}=COLUMN"
                )
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
            continue
        column = table.column(field.name)
        if column.type != field.type:
            column = _cast(column, field, name)
        if not field.nullable and column.null_count:
            raise InputError(
                f"{name}: {column.null_count} of {table.num_rows} rows have no {field.name}; expected one in every row"
            )
        columns.append(column)
    fields = list(schema)
    for field in table.schema:
        if field.name not in schema.names:
            fields.append(field)
            columns.append(table.column(field.name))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def _cast(column: pa.ChunkedArray, field: Any, name: str) -> pa.ChunkedArray:
    try:
        if pa.types.is_string(field.type) and pa.types.is_integer(column.type):
            return column.cast(pa.string())  # integer ids are common and unambiguous; floats are neither
        if pa.types.is_timestamp(field.type) and pa.types.is_timestamp(column.type) and column.type.tz is None:
            return column.cast(pa.timestamp("us")).cast(field.type)  # a clock without a zone is taken as UTC
        if pa.types.is_timestamp(field.type) and pa.types.is_integer(column.type):
            raise pa.ArrowInvalid(
                "whole numbers may be seconds or milliseconds: `noterec import` reads and converts them"
            )
        if pa.types.is_floating(column.type) and pa.types.is_string(field.type):
            raise pa.ArrowInvalid("a float is no id: 1.0 and 1 would differ")
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise InputError(
            f"{name}: column {field.name!r} is {column.type}, expected {field.type}, and does not convert: {error}"
        ) from error
