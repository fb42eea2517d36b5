"""What stages that go through a dataset's notes share: only new or changed notes, shard by shard, and a list of the unreadable.

A note is due when its content hash isn't in the output yet: running again after nothing changed does nothing, after some notes
changed it does those, and after a kill it does what is missing.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noterec import progress, schema, storage
from noterec.embedding.intake import Intake
from noterec.errors import InputError
from noterec.notes import note
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

# Why a picture may be unusable today and not tomorrow, though the note stays the same.
PASSING = re.compile("fetch-failed|timeout|no-memory|worker-died")
IMAGE = re.compile(r"\(image (\d+)\)")


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
        max_rejected: float,
    ) -> None:
        """Read which content hashes the output holds.

        Args:
            stage: its name, for messages.
            verb: what it does with a note, for messages.
            source: the dataset.
            folder: the output.
            intake: what of a note is taken in; notes of which nothing is are rejected.
            max_rejected: share of the notes, or of the pictures, above which `finish` calls it an error.
        """
        self._max_rejected = max_rejected
        self._stage, self._verb = stage, verb
        self._source, self._folder, self.intake = source, folder, intake
        self._done: dict[str, int] = {}  # note_id -> content hash of its newest row in the output
        for file in folder.files():
            table = storage.read_table(file, columns=["note_id", "content_hash"])
            self._done.update(zip(table["note_id"].to_pylist(), table["content_hash"].to_pylist(), strict=True))
        self.notes = self.unchanged = 0
        self.rejects: list[str] = []
        self._file = folder.path / schema.REJECTS_FILE
        # note_id -> what is wrong with which of its images, as it stands in the output: what is unchanged isn't decoded again
        self._left_out: dict[str, dict[int, str]] = {}
        self._rejected_before: list[str] = []
        self._read_rejects()
        self._looked = 0  # pictures of notes seen, those left out included
        self._unsaved = False

    def shards(self, rows: int, bar: progress.Bar) -> Iterator[pa.Table]:
        """The notes that are due, `rows` at a time (with pictures a few more), the last time fewer.

        Args:
            rows: of a shard.
            bar: advanced by the notes that are not due.

        Yields:
            Tables with note_id, the encoded columns, content_hash, and where pictures are taken in their places. These end with
            the shard: the next one begins with an empty gallery.
        """
        waiting: list[pa.Table] = []
        for table in self._source.note_batches(self.intake.columns, batch_rows=min(rows, self.intake.batch_rows)):
            due = self._take_in(table)
            bar.advance(table.num_rows - due.num_rows)
            waiting.append(due)
            while (count := sum(part.num_rows for part in waiting)) >= rows:
                whole, size = pa.concat_tables(waiting), rows if self.intake.gallery is None else count
                yield self._listed(whole.slice(0, size))
                self.intake.clear()
                waiting = [whole.slice(size)]
        if sum(part.num_rows for part in waiting):
            yield self._listed(pa.concat_tables(waiting))

    def finish(self) -> None:
        """Write the rejects beside the shards, and the manifest.

        Raises:
            InputError: the dataset has no notes, or too many of them or of the pictures were rejected; what was done is kept.
        """
        if not self.notes:
            raise InputError(f"{self._source.path}: has no notes (an empty table, or all of them deleted)")
        live = set(self._source.note_ids)
        self._left_out = {note_id: images for note_id, images in self._left_out.items() if note_id in live}
        self._rejected_before = []
        self._save()
        self._folder.commit()
        pictures = [(note_id, text) for note_id, images in self._left_out.items() for text in images.values()]
        if self.rejects or pictures:
            logger.warning(
                "%s: %d notes have %s and are left out, %d pictures can't be used; see %s",
                self._stage,
                len(self.rejects),
                self.intake.lacking,
                len(pictures),
                self._file,
            )
        limit = f"{100 * self._max_rejected:g} % (max_rejected)"
        if len(pictures) > max(1, self._max_rejected * self._looked):
            raise InputError(
                f"{self._source.path}: {len(pictures)} of {self._looked} pictures can't be used, more than {limit}; they are "
                f"listed in {self._file}, the first is of note {pictures[0][0]!r}: {pictures[0][1]}. "
                "Their notes were done without them, and will be done again when their pictures change or are found"
            )
        if not self.intake.partial and len(self.rejects) > self._max_rejected * self.notes:
            raise InputError(
                f"{self._source.path}: {len(self.rejects)} of {self.notes} notes have {self.intake.lacking} to {self._verb}, more "
                f"than {limit}; they are listed in {self._file}. Was a column mapped to the wrong field?"
            )

    def _take_in(self, table: pa.Table) -> pa.Table:
        """The rows that are due, with their content hash and pictures."""
        readable = self.intake.readable(table)
        self.notes += table.num_rows
        self.rejects.extend(table["note_id"].filter(pa.array(~readable)).to_pylist())
        ids, hashes = table["note_id"].to_pylist(), self.intake.hashes(table)
        known = np.array([self._done.get(i) == int(h) for i, h in zip(ids, hashes, strict=True)], dtype=bool) & readable
        passing = [any(map(PASSING.match, self._left_out.get(i, {}).values())) for i in ids]
        retried = known & np.array(passing, dtype=bool)
        resting = known & ~retried
        self.unchanged += int(resting.sum())
        if self.intake.gallery is not None:
            counts = note.image_counts(table)
            for place in np.flatnonzero(resting):  # looked at until as many usable ones were found as are used
                left_out = len(self._left_out.get(ids[place], ()))
                self._looked += min(int(counts[place]), self.intake.gallery.images + left_out)
        due = table.append_column("content_hash", pa.array(hashes)).filter(pa.array(readable & ~resting))
        return self._with_pictures(due, {ids[place] for place in np.flatnonzero(retried)})

    def _with_pictures(self, due: pa.Table, retried: set[str]) -> pa.Table:
        """Due rows with their pictures; of those that are `retried` only the ones of which other pictures can be used now."""
        before = {note_id: self._left_out.pop(note_id, {}) for note_id in due["note_id"].to_pylist()}
        tried, listed = self.intake.tried, len(self.intake.unseen)
        taken, blind = self.intake.take_in(due)
        self._looked += self.intake.tried - tried
        for entry in self.intake.unseen[listed:]:
            text = f"{entry.reason} (image {entry.image}): {entry.message}"
            self._left_out.setdefault(entry.note_id, {})[entry.image] = text
        self.rejects.extend(blind)
        self._unsaved |= any(before.values()) or len(self.intake.unseen) > listed
        same = {note_id for note_id in retried if before[note_id].keys() == self._left_out.get(note_id, {}).keys()}
        self.unchanged += len(same)
        return taken if not same else taken.filter(pc.invert(pc.is_in(taken["note_id"], pa.array(sorted(same)))))

    def _listed(self, shard: pa.Table) -> pa.Table:
        """A shard, when what was left out of it is written down: if this run is killed, the next one finds its notes done."""
        if self._unsaved:
            self._save()
        return shard

    def _read_rejects(self) -> None:
        if not self._file.is_file():
            return
        for row in storage.read_table(self._file, schema.REJECTS).to_pylist():
            image = IMAGE.search(row["reason"] or "")
            if row["table"] == "notes":
                self._rejected_before.append(row["key"])
            elif image is not None and self.intake.gallery is not None:
                self._left_out.setdefault(row["key"], {})[int(image[1])] = row["reason"]

    def _save(self) -> None:
        self._unsaved = False
        rows = [
            ("notes", note_id, self.intake.lacking) for note_id in dict.fromkeys(self._rejected_before + self.rejects)
        ]
        rows += [("images", note_id, text) for note_id, images in self._left_out.items() for text in images.values()]
        if not rows:
            self._file.unlink(missing_ok=True)
            return
        tables, keys, reasons = (list(column) for column in zip(*rows, strict=True))
        columns = {"table": tables, "key": keys, "reason": reasons, "source": [str(self._source.path)] * len(rows)}
        storage.write_table(schema.conform(pa.table(columns), schema.REJECTS, name="rejects"), self._file)
