"""Where imported rows go: checked, counted, and written to shards; bad ones to the rejects table with a reason."""

from __future__ import annotations

import collections
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Clock
from noterec.notes.importing import columns, values
from noterec.notes.importing.formats import Block

NOTE_SHARD_ROWS = 50_000
NOTE_SHARD_BYTES = 128 * 1024**2  # well below the 2 GiB that one Arrow text column can hold
ENGAGEMENT_SHARD_ROWS = 2_000_000

EXAMPLES = 3  # kinds of reasons that an error message names
_VALUE = re.compile("'.*'")  # the value in a reason, left out where reasons are counted
POSITION_EPOCH_US = 946_684_800_000_000  # 2000-01-01: the made-up time of position 0


class Rejects:
    """The rejects table of one import, written as it grows; it counts rows and rejected rows of every table."""

    def __init__(self, folder: Path) -> None:
        self._writer = pq.ParquetWriter(folder / schema.REJECTS_FILE, schema.REJECTS, compression="zstd")
        self._rows: list[tuple[str, str, int, str | None, str]] = []
        self.rows_in: collections.Counter[str] = collections.Counter()
        self.rejected: collections.Counter[str] = collections.Counter()
        self.reasons: collections.Counter[tuple[str, str]] = collections.Counter()
        self._first: dict[tuple[str, str], tuple[str, int]] = {}

    def add(self, table: str, source: str, row: int, key: str | None, reason: str) -> None:
        """Reject one row."""
        self._rows.append((table, source, row, key, reason))
        self.rejected[table] += 1
        kind = _VALUE.sub("…", reason).split(": ")[0]
        self.reasons[table, kind] += 1
        self._first.setdefault((table, kind), (source, row))
        if len(self._rows) >= 100_000:
            self._flush()

    def _flush(self) -> None:
        by_column = list(zip(*self._rows, strict=True)) or [()] * len(schema.REJECTS)
        arrays = [pa.array(cells, field.type) for cells, field in zip(by_column, schema.REJECTS, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=schema.REJECTS))
        self._rows.clear()

    def check(self, table: str, max_share: float) -> None:
        """Stop where too large a share of a table's rows was rejected.

        Raises:
            InputError: with the commonest reasons and where each was first met.
        """
        count, rows = self.rejected[table], self.rows_in[table]
        if count <= max_share * rows:
            return
        common = [(reason, n) for (name, reason), n in self.reasons.most_common() if name == table][:EXAMPLES]
        told = "; ".join(f"{n} x {r} (first: {':'.join(map(str, self._first[table, r]))})" for r, n in common)
        raise InputError(
            f"{count} of {rows} {table} rows are bad, more than the allowed {max_share:.0%}: {told}. "
            "Mend the source or the column map, or allow a larger share of rejects; nothing was written"
        )

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._writer.close()


class NoteSink:
    """Takes raw notes one by one, cleans them, settles colliding ids, and writes shards.

    Attributes:
        times: of every id written, the newest `updated_at` in microseconds since 1970, None where unknown.
        superseded: rows that gave way to a newer version of the same id, or were older than the one that was there.
    """

    def __init__(
        self, folder: Path, origin: dict[str, Any], rejects: Rejects, *, hashtag_separator: str | None
    ) -> None:
        self._shards = storage.ShardFolder(folder, origin=origin)
        self._rejects = rejects
        self._separator = hashtag_separator
        self._notes: list[dict[str, Any]] = []
        self._bytes = 0
        self.times: dict[str, int | None] = {}
        self.superseded = 0

    def add(self, source: str, row: int, raw: dict[str, Any]) -> None:
        """Take one note: field -> raw value."""
        self._rejects.rows_in["notes"] += 1
        note_id: str | None = None
        try:
            note_id = values.identifier(raw.get("note_id"), "note_id")
            note = self._cleaned(note_id, raw)
        except values.BadValueError as error:
            self._rejects.add("notes", source, row, note_id, str(error))
            return
        updated = note["updated_at"]
        if note_id in self.times:
            before = self.times[note_id]
            if updated == before:
                self._rejects.add("notes", source, row, note_id, "duplicate note_id with the same updated_at")
                return
            self.superseded += 1
            if updated is None or (before is not None and updated < before):
                return
        self.times[note_id] = updated
        self._notes.append(note)
        if len(self._notes) >= NOTE_SHARD_ROWS or self._bytes >= NOTE_SHARD_BYTES:
            self.flush()

    def _cleaned(self, note_id: str, raw: dict[str, Any]) -> dict[str, Any]:
        note: dict[str, Any] = {"note_id": note_id}
        for field in ("title", "content", "category", "author_id", "language"):
            note[field] = values.text(raw.get(field), field)
        note["hashtags"] = values.hashtags(raw.get("hashtags"), self._separator)
        note["images"] = values.images(raw.get("images")) or None
        for field in ("created_at", "updated_at"):
            note[field] = values.microseconds(raw.get(field), field)
        note["exposure"] = values.whole_number(raw.get("exposure"), "exposure")
        note["deleted"] = values.truth(raw.get("deleted"), "deleted")
        if not note["deleted"] and not any(note[field] for field in (*schema.TEXT_COLUMNS, "images")):
            raise values.BadValueError("no text and no image")
        self._bytes += sum(len(note[field] or "") for field in ("title", "content"))
        self._bytes += sum(len(image["bytes"] or b"") for image in note["images"] or ())
        return note

    def flush(self) -> None:
        """Write the notes held in memory as one more shard."""
        if self._notes:
            arrays = [pa.array([note[f.name] for note in self._notes], f.type) for f in schema.NOTES]
            self._shards.append(pa.Table.from_arrays(arrays, schema=schema.NOTES))
        self._notes, self._bytes = [], 0

    def close(self) -> None:
        """Write what is left.

        Raises:
            InputError: there was no usable note at all.
        """
        self.flush()
        if not self.times:
            raise InputError("the source has no usable note; expected at least one with an id and a text or image")


class EngagementSink:
    """Takes blocks of engagement with the columns user_id, note_id, action, and timestamp or position; writes shards.

    Attributes:
        rows: events written.
        unknown: of these, the events that name a note which was not imported. They are kept: the note may come later.
    """

    def __init__(
        self,
        folder: Path,
        origin: dict[str, Any],
        rejects: Rejects,
        *,
        clock: Clock,
        action: str,
        known: dict[str, Any],
    ) -> None:
        self._shards = storage.ShardFolder(folder, origin=origin)
        self._rejects = rejects
        self._clock = clock
        self._action = action
        self._known = known
        self._tables: list[pa.Table] = []
        self._held = 0
        self.rows = 0
        self.unknown = 0

    def add(self, block: Block) -> None:
        """Take one block; `block.columns` is by field."""
        count = len(block.rows)
        self._rejects.rows_in["engagement"] += count
        problems: dict[int, str] = {}
        table_columns = {
            "user_id": columns.ids(block.columns["user_id"], "user_id", problems),
            "note_id": columns.ids(block.columns["note_id"], "note_id", problems),
            "action": self._actions(block.columns.get("action"), count, problems),
            "timestamp": self._times(block.columns, count, problems),
        }
        for at in sorted(problems):
            key = table_columns["user_id"][at].as_py()
            self._rejects.add("engagement", block.source, int(block.rows[at]), key, problems[at])
        table = pa.table(table_columns, schema=schema.ENGAGEMENT)
        if problems:
            keep = np.ones(count, bool)
            keep[list(problems)] = False
            table = table.filter(pa.array(keep))
        for item in pc.value_counts(table["note_id"]).to_pylist():
            if item["values"] not in self._known:
                self.unknown += item["counts"]
        self._tables.append(table)
        self._held += table.num_rows
        self.rows += table.num_rows
        if self._held >= ENGAGEMENT_SHARD_ROWS:
            self._flush()

    def _actions(self, column: Any, count: int, problems: dict[int, str]) -> pa.Array:
        if column is None:
            return pa.array([self._action] * count, pa.string())
        if isinstance(column, list):
            cells, place = column, np.arange(count)
        else:  # few distinct actions in many rows: look at each once
            encoded = column.dictionary_encode(null_encoding="encode")
            cells, place = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        unusable: dict[int, str] = {}
        names = [
            name.strip().lower() if name else self._action
            for name in columns.each(cells, "action", values.text, unusable)
        ]
        for at, name in enumerate(names):
            if name not in schema.ACTIONS:
                unusable[at] = f"action is {values.shown(name)}, expected one of {', '.join(schema.ACTIONS)}"
        for at, reason in unusable.items():
            for row in np.flatnonzero(place == at).tolist():
                problems.setdefault(row, reason)
        return pa.array(names, pa.string()).take(pa.array(place))

    def _times(self, cells_of: dict[str, Any], count: int, problems: dict[int, str]) -> pa.Array:
        if self._clock == "none":
            return pa.nulls(count, schema.TIMESTAMP)
        field = "timestamp" if self._clock == "time" else "position"
        times = columns.moments(cells_of[field]) if field == "timestamp" else None
        if times is None:
            convert = values.microseconds if field == "timestamp" else values.whole_number
            cells = columns.each(cells_of[field], field, convert, problems)
            if field == "position":
                for at, cell in enumerate(cells):
                    if cell is not None and cell > 10**11:
                        problems.setdefault(at, f"position is '{cell}', expected the event's number in a history")
                        cells[at] = None
                cells = [None if cell is None else POSITION_EPOCH_US + 1_000_000 * cell for cell in cells]
            times = pa.array(cells, pa.int64()).cast(schema.TIMESTAMP)
        if times.null_count:
            for at in np.flatnonzero(times.is_null().to_numpy(zero_copy_only=False)).tolist():
                problems.setdefault(at, f"no {field}")
        return times

    def _flush(self) -> None:
        if self._held:
            self._shards.append(pa.concat_tables(self._tables).combine_chunks())
        self._tables, self._held = [], 0

    def close(self) -> None:
        """Write what is left."""
        self._flush()
        self._shards.commit()
