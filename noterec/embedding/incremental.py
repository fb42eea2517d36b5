"""What stages that go through a dataset's notes share: only new or changed notes, shard by shard, and a list of the unreadable.

A note is due when its content hash isn't in the output yet: running again after nothing changed does nothing, after some notes
changed it does those, and after a kill it does what is missing.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from noterec import progress, schema, storage
from noterec.embedding.intake import Intake
from noterec.errors import InputError
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

MAX_REJECT_SHARE = 0.05
# Why a picture may be unusable today and not tomorrow, though the note stays the same.
PASSING = ("fetch-failed", "timeout", "no-memory", "worker-died")
REJECT_COLUMNS: dict[str, type[pl.DataType]] = {"table": pl.String, "key": pl.String, "reason": pl.String}


class Increment:
    """One run over a dataset's notes into a folder of shards that have the columns note_id and content_hash.

    Attributes:
        notes: live notes seen.
        unchanged: of them, in the output already.
        rejects: ids of those that have nothing to read.
        intake: how their rows are taken in.
    """

    def __init__(
        self,
        stage: str,
        verb: str,
        source: Dataset,
        folder: storage.ShardFolder,
        *,
        intake: Intake,
    ) -> None:
        """Read which content hashes the output holds.

        Args:
            stage: its name, for messages.
            verb: what it does with a text, for messages.
            source: the dataset.
            folder: the output.
            intake: what of a note is taken in; notes of which nothing is are rejected.
        """
        self._stage, self._verb = stage, verb
        self._source, self._folder, self.intake = source, folder, intake
        self._done: dict[str, int] = {}  # note_id -> content hash of its newest row in the output
        for file in folder.files():
            table = storage.read_table(file, columns=["note_id", "content_hash"])
            self._done.update(zip(table["note_id"].to_pylist(), table["content_hash"].to_pylist(), strict=True))
        self.notes = self.unchanged = 0
        self.rejects: list[str] = []
        self._unseen_before = self._earlier_unseen()  # of notes that this run hasn't taken in
        self._entries_before = collections.Counter(self._unseen_before["key"].to_list())
        passing = self._unseen_before["reason"].str.split(" ").list.first().is_in(PASSING)
        self._again = set(self._unseen_before.filter(passing)["key"])
        self._still_unseen: list[pl.DataFrame] = []
        self._pictures_before = 0  # of unchanged notes, looked at by an earlier run
        self._kept = self._listed()

    def shards(self, rows: int, bar: progress.Bar) -> Iterator[pa.Table]:
        """The notes that are due, `rows` at a time, the last time fewer.

        Args:
            rows: of a shard.
            bar: advanced by the notes that are not due.

        Yields:
            Tables with note_id, the encoded columns, content_hash, and where pictures are taken in their places.
        """
        waiting: list[pa.Table] = []
        for table in self._source.note_batches(self.intake.columns, batch_rows=self.intake.batch_rows):
            due = self._due(table)
            if self._unseen_before.height:
                self._unseen_before = self._unseen_before.filter(~pl.col("key").is_in(due["note_id"].to_pylist()))
            due, blind = self.intake.take_in(due)
            self.rejects.extend(blind)
            bar.advance(table.num_rows - due.num_rows)
            waiting.append(due)
            while sum(part.num_rows for part in waiting) >= rows:
                whole = pa.concat_tables(waiting)
                self._keep_unseen()
                yield whole.slice(0, rows)
                waiting = [whole.slice(rows)]
        rest = pa.concat_tables(waiting) if waiting else None
        if rest is not None and rest.num_rows:
            self._keep_unseen()
            yield rest

    def finish(self) -> None:
        """Write the rejects beside the shards, and the manifest.

        Raises:
            InputError: the dataset has no notes, or more than 5 % of them or of the pictures were rejected; what was done is kept.
        """
        if not self.notes:
            raise InputError(f"{self._source.path}: has no notes (an empty table, or all of them deleted)")
        unseen = pl.concat([self._unseen(), *self._still_unseen])
        self._write_rejects(unseen)
        self._folder.commit()
        tried = self.intake.tried + self._pictures_before
        if unseen.height > max(1, MAX_REJECT_SHARE * tried):
            raise InputError(
                f"{self._source.path}: {unseen.height} of {tried} pictures can't be used, more than 5 %; they are listed in "
                f"{self._file}, the first is of note {unseen['key'][0]!r}: {unseen['reason'][0]}. "
                "Their notes were done without them, and will be done again when their pictures change or are found"
            )
        if not self.intake.partial and len(self.rejects) > MAX_REJECT_SHARE * self.notes:
            raise InputError(
                f"{self._source.path}: {len(self.rejects)} of {self.notes} notes have {self.intake.lacking} to {self._verb}, more "
                f"than 5 %; they are listed in {self._file}. Was a column mapped to the wrong field?"
            )

    def _due(self, table: pa.Table) -> pa.Table:
        """The rows that are due, with their content hash."""
        readable = self.intake.readable(table)
        self.notes += table.num_rows
        self.rejects.extend(table["note_id"].filter(pa.array(~readable)).to_pylist())
        hashes = self.intake.hashes(table)
        ids = table["note_id"].to_pylist()
        known = np.fromiter(
            (self._done.get(i) == int(h) and i not in self._again for i, h in zip(ids, hashes, strict=True)),
            dtype=bool,
            count=len(ids),
        )
        self.unchanged += int((readable & known).sum())
        if self.intake.gallery is not None:
            self._count_unchanged(table.filter(pa.array(readable & known)), self.intake.gallery.images)
        table = table.append_column("content_hash", pa.array(hashes))
        return table.filter(pa.array(readable & ~known))

    @property
    def _file(self) -> Path:
        return self._folder.path / schema.REJECTS_FILE

    def _earlier_unseen(self) -> pl.DataFrame:
        """Pictures that an earlier run left out: of notes that haven't changed they aren't decoded again."""
        if self.intake.gallery is None or not self._file.is_file():
            return pl.DataFrame(schema=REJECT_COLUMNS)
        frame = pl.DataFrame(storage.read_table(self._file, schema.REJECTS)).select(*REJECT_COLUMNS)
        return frame.filter(pl.col("table") == "images")

    def _count_unchanged(self, table: pa.Table, images: int) -> None:
        """Count the pictures of unchanged notes as they were looked at: until `images` usable ones were found."""
        for note_id, entries in zip(table["note_id"].to_pylist(), _lengths(table), strict=True):
            self._pictures_before += min(entries, images + self._entries_before[note_id])
        if self._unseen_before.height:
            self._still_unseen.append(self._unseen_before.filter(pl.col("key").is_in(table["note_id"].to_pylist())))

    def _unseen(self) -> pl.DataFrame:
        """Pictures that this run has left out."""
        rows = [
            ("images", entry.note_id, f"{entry.reason} (image {entry.image}): {entry.message}")
            for entry in self.intake.unseen
        ]
        return pl.DataFrame(rows, schema=REJECT_COLUMNS, orient="row")

    def _listed(self) -> tuple[int, int]:
        return len(self.intake.unseen), self._unseen_before.height

    def _keep_unseen(self) -> None:
        """Write down what was left out before the shard is: if this run is killed, the next one finds those notes done."""
        if self._listed() == self._kept:
            return
        self._kept = self._listed()
        notes = pl.DataFrame(schema=REJECT_COLUMNS)
        if self._file.is_file():
            frame = pl.DataFrame(storage.read_table(self._file, schema.REJECTS)).select(*REJECT_COLUMNS)
            notes = frame.filter(pl.col("table") != "images")
        self._save(pl.concat([notes, self._unseen_before, self._unseen()]))

    def _write_rejects(self, unseen: pl.DataFrame) -> None:
        notes = [("notes", note_id, self.intake.lacking) for note_id in self.rejects]
        frame = pl.concat([pl.DataFrame(notes, schema=REJECT_COLUMNS, orient="row"), unseen])
        if not frame.height:
            self._file.unlink(missing_ok=True)
            return
        self._save(frame)
        logger.warning(
            "%s: %d notes have %s and are left out, %d pictures can't be used; see %s",
            self._stage,
            len(notes),
            self.intake.lacking,
            unseen.height,
            self._file,
        )

    def _save(self, frame: pl.DataFrame) -> None:
        frame = frame.with_columns(source=pl.lit(str(self._source.path)), row=pl.lit(None, pl.Int64))
        storage.write_table(schema.conform(frame.to_arrow(), schema.REJECTS, name="rejects"), self._file)


def _lengths(table: pa.Table) -> list[int]:
    """How many entries each note's images have."""
    return [count or 0 for count in pc.list_value_length(table["images"]).to_pylist()]
