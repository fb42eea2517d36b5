"""The files of an engagement log, read by batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from noterec import schema, storage
from noterec.errors import InputError


def log_batches(files: Iterable[storage.Place], columns: list[str] | None, batch_rows: int) -> Iterator[pa.Table]:
    """The events of some files, in their order, as conformed tables; a row without an action counts as a click.

    Args:
        files: Parquet files of a log.
        columns: which of the schema's columns to read; None = all.
        batch_rows: rows of a table at most.

    Raises:
        InputError: a file is damaged, its columns don't fit the engagement schema, or an action is unknown.
    """
    names = schema.ENGAGEMENT.names if columns is None else columns
    wanted = pa.schema([field for field in schema.ENGAGEMENT if field.name in names])
    for file in files:
        with storage.open_parquet(file) as parquet:
            present = [name for name in names if name in parquet.schema_arrow.names]
            try:
                for batch in parquet.iter_batches(batch_rows, columns=present):
                    batch.validate(full=True)  # Parquet doesn't promise that a string is UTF-8
                    table = schema.conform(pa.Table.from_batches([batch]), wanted, name=str(file)).select(names)
                    yield _with_actions(table, file) if "action" in names else table
            except (pa.ArrowInvalid, OSError) as error:
                raise InputError(f"{file}: damaged Parquet file ({error}); write it again, or remove it") from error


def _with_actions(table: pa.Table, file: storage.Place) -> pa.Table:
    """The events with an action in every row."""
    action = table["action"].fill_null("click")
    unknown = pc.invert(pc.is_in(action, value_set=pa.array(list(schema.ACTIONS))))
    if pc.any(unknown).as_py():
        rows = action.filter(unknown)
        raise InputError(
            f"{file}: unknown action {rows[0].as_py()!r} in {len(rows)} rows; expected one of {', '.join(schema.ACTIONS)}"
        )
    return table.set_column(table.column_names.index("action"), schema.ENGAGEMENT.field("action"), action)
