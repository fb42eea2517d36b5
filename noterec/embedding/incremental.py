"""What stages that go through a dataset's notes share: only new or changed notes, shard by shard, and a list of the unreadable.

A note is due when its content hash isn't in the output yet: running again after nothing changed does nothing, after some notes
changed it does those, and after a kill it does what is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import numpy as np
import polars as pl
import pyarrow as pa

from noterec import progress, schema, storage
from noterec.errors import InputError
from noterec.notes import note
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

MAX_REJECT_SHARE = 0.05


class Increment:
    """One run over a dataset's notes into a folder of shards that have the columns note_id and content_hash.

    Attributes:
        notes: live notes seen.
        unchanged: of them, in the output already.
        rejects: ids of those without text.
    """

    def __init__(
        self,
        stage: str,
        verb: str,
        source: Dataset,
        folder: storage.ShardFolder,
        *,
        readable: Callable[[pa.Table], np.ndarray] = note.has_text,
    ) -> None:
        """Read which content hashes the output holds.

        Args:
            stage: its name, for messages.
            verb: what it does with a text, for messages.
            source: the dataset.
            folder: the output.
            readable: which notes of a table have text that the stage reads, (B,) bool; the others are rejected.
        """
        self._stage, self._verb = stage, verb
        self._source, self._folder, self._readable = source, folder, readable
        self._done: dict[str, int] = {}  # note_id -> content hash of its newest row in the output
        for file in folder.files():
            table = storage.read_table(file, columns=["note_id", "content_hash"])
            self._done.update(zip(table["note_id"].to_pylist(), table["content_hash"].to_pylist(), strict=True))
        self.notes = self.unchanged = 0
        self.rejects: list[str] = []

    def shards(self, rows: int, bar: progress.Bar) -> Iterator[pa.Table]:
        """The notes that are due, `rows` at a time, the last time fewer.

        Args:
            rows: of a shard.
            bar: advanced by the notes that are not due.

        Yields:
            Tables with note_id, the encoded columns and content_hash.
        """
        waiting: list[pa.Table] = []
        for table in self._source.note_batches(list(note.ENCODED_COLUMNS)):
            due = self._due(table)
            bar.advance(table.num_rows - due.num_rows)
            waiting.append(due)
            while sum(part.num_rows for part in waiting) >= rows:
                whole = pa.concat_tables(waiting)
                yield whole.slice(0, rows)
                waiting = [whole.slice(rows)]
        rest = pa.concat_tables(waiting) if waiting else None
        if rest is not None and rest.num_rows:
            yield rest

    def finish(self) -> None:
        """Write the rejects beside the shards, and the manifest.

        Raises:
            InputError: the dataset has no notes, or more than 5 % of them were rejected; what was done is kept.
        """
        if not self.notes:
            raise InputError(f"{self._source.path}: has no notes (an empty table, or all of them deleted)")
        self._write_rejects()
        self._folder.commit()
        if len(self.rejects) > MAX_REJECT_SHARE * self.notes:
            raise InputError(
                f"{self._source.path}: {len(self.rejects)} of {self.notes} notes have no text to {self._verb}, more than "
                f"5 %; they are listed in {self._folder.path / schema.REJECTS_FILE}. Was a column mapped to the wrong field?"
            )

    def _due(self, table: pa.Table) -> pa.Table:
        """The rows that are due, with their content hash."""
        readable = self._readable(table)
        self.notes += table.num_rows
        self.rejects.extend(table["note_id"].filter(pa.array(~readable)).to_pylist())
        hashes = note.content_hashes(table)
        ids = table["note_id"].to_pylist()
        known = np.fromiter(
            (self._done.get(i) == int(h) for i, h in zip(ids, hashes, strict=True)), dtype=bool, count=len(ids)
        )
        self.unchanged += int((readable & known).sum())
        table = table.append_column("content_hash", pa.array(hashes))
        return table.filter(pa.array(readable & ~known))

    def _write_rejects(self) -> None:
        file = self._folder.path / schema.REJECTS_FILE
        if not self.rejects:
            file.unlink(missing_ok=True)
            return
        frame = pl.DataFrame({"key": self.rejects}).with_columns(
            table=pl.lit("notes"),
            source=pl.lit(str(self._source.path)),
            row=pl.lit(None, pl.Int64),
            reason=pl.lit("no text"),
        )
        storage.write_table(schema.conform(frame.to_arrow(), schema.REJECTS, name="rejects"), file)
        logger.warning("%s: %d notes have no text and are left out; see %s", self._stage, len(self.rejects), file)
