"""What stages that go through a dataset's notes share: only new or changed notes, shard by shard, and tombstones for deleted ones.

A note is due when its content hash isn't in the output yet: running again after nothing changed does nothing, after some notes
changed it does those, and after a kill it does what is missing. A note that was deleted, or has nothing to read any more, gets a
tombstone: a row with its id and nulls, after which its older rows don't count.

A full run begins a new epoch, in which nothing is known. The rows of the epoch before stay until newer ones replace them, and the
manifest says which epoch it is and whether it is complete: a full run that was killed is continued, not begun again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noterec import progress, storage
from noterec.embedding.done import Done, epoch_of, keys_of, read_shard
from noterec.embedding.intake import Intake
from noterec.embedding.rejects import Rejects
from noterec.errors import InputError
from noterec.notes import note
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)

TOMBSTONE_ROWS = 8192  # of a shard: in memory, a null vector takes as much as any other


class Increment:
    """One run over a dataset's notes into a folder of shards that have the columns note_id and content_hash.

    `shards` may be iterated in one thread while another one calls `written`.

    Attributes:
        notes: live notes seen.
        unchanged: of them, in the output already.
        rejects: ids of those that have nothing to read.
        deleted: notes that were withdrawn from the output (with `read_only`, that would be); known after `finish`.
        intake: how their rows are taken in.
        epoch: every shard of this run is named with it: `folder.add(record, epoch=increment.epoch)`.
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
        mode: Literal["snapshot", "delta"] = "snapshot",
        max_deleted: float = 0.2,
        full: bool = False,
        read_only: bool = False,
    ) -> None:
        """Read which content hashes the output holds.

        Args:
            stage: its name, for messages.
            verb: what it does with a note, for messages.
            source: the dataset.
            folder: the output, claimed by this job unless it only reads.
            intake: what of a note is taken in; notes of which nothing is are rejected.
            max_rejected: share of the notes, or of the pictures, above which `finish` calls it an error.
            mode: what the notes table is. snapshot: a note that isn't in it was deleted; delta: only `deleted` says so.
            max_deleted: share of the output's notes above which `finish` withdraws none and calls it an error.
            full: all notes are due, but for those that a full run did before it was stopped.
            read_only: write nothing at all.

        Raises:
            ArtefactError: a shard of the output is missing or damaged.
        """
        self._stage, self._verb = stage, verb
        self._source, self._folder, self.intake = source, folder, intake
        self._max_rejected, self._max_deleted = max_rejected, max_deleted
        self._mode, self._read_only = mode, read_only
        self.epoch, complete = epoch_of(folder)
        self._begins = full and complete
        if self._begins:
            self.epoch, complete = self.epoch + 1, False
        folder.state.update(epoch=self.epoch, complete=complete)
        self._done = Done(folder.path, folder.shards, epoch=self.epoch)
        if mode == "delta":
            self._done.see_all()
        self._rejects = Rejects(folder.path, images=intake.gallery is not None)
        self._emptied = 0  # of the rejects, in the output
        self.notes = self.unchanged = self.deleted = 0
        self._looked = 0  # pictures of notes seen, those left out included

    @property
    def rejects(self) -> list[str]:
        """Ids of the notes that have nothing to read."""
        return self._rejects.notes

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

    def find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the output, of this epoch, that have these contents, of whichever note.

        Args:
            hashes: (B,) uint64 content hashes.

        Returns:
            Shards and rows, (B,) int64 each, -1 where there is none.
        """
        return self._done.find(hashes)

    def vectors_of(self, shards: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Vectors of an output of embeddings.

        Args:
            shards: (k,) int64, as `find` gives them, none of them -1.
            rows: (k,) int64.

        Returns:
            (k, D) float32, as they stand there.

        Raises:
            ArtefactError: a shard is missing or damaged.
        """
        vectors = np.empty((len(shards), self._folder.origin["dimension"]), dtype=np.float32)
        for number in np.unique(shards).tolist():
            wanted = np.flatnonzero(shards == number)
            found = self._column(number, "embedding").take(pa.array(rows[wanted])).combine_chunks()
            vectors[wanted] = found.flatten().to_numpy(zero_copy_only=False).reshape(len(wanted), -1)
        return vectors

    def written(self, ids: pa.ChunkedArray, hashes: np.ndarray, record: storage.ShardRecord) -> None:
        """A shard was named in the manifest: later notes of equal content find its rows.

        Args:
            ids: of its B notes.
            hashes: (B,) uint64, their content hashes, in the order of its rows.
            record: the shard's.
        """
        assert len(ids) == len(hashes) == record["rows"], "one shard, row by row"
        self._done.add(record, hashes)

    def finish(self) -> None:
        """Write the rejects beside the shards, withdraw what was deleted, and write the manifest.

        Raises:
            InputError: the dataset has no notes, or too many of them or of the pictures were rejected, or too many would be
                withdrawn. Then none is; what was done is kept.
        """
        told = self._deletions() if self._mode == "delta" else 0
        if not self.notes and not told:
            raise InputError(f"{self._source.path}: has no notes (an empty table, or all of them deleted)")
        if self._mode == "snapshot":
            self._rejects.forget_unmet()
        if not self._read_only:
            self._save()
            self._folder.commit()
        self._refuse_rejects()
        self.deleted = self._refuse_deletions()
        if not self._read_only:
            self._withdraw()
            self._folder.state["complete"] = True
            self._folder.commit()

    def _deletions(self) -> int:
        """Take in which notes a delta says were deleted; returns how many."""
        told = 0
        for table in self._source.deleted_batches():
            self._done.see(keys_of(table["note_id"]), False)
            self._rejects.forget(table["note_id"].to_pylist())
            told += table.num_rows
        return told

    def _refuse_rejects(self) -> None:
        """Tell what was left out; raise if it is too much."""
        pictures = self._rejects.pictures()
        if self.rejects or pictures:
            logger.warning(
                "%s: %d notes have %s and are left out, %d pictures can't be used; see %s",
                self._stage,
                len(self.rejects),
                self.intake.lacking,
                len(pictures),
                self._rejects.file,
            )
        limit = f"{100 * self._max_rejected:g} % (max_rejected)"
        if len(pictures) > max(1, self._max_rejected * self._looked):
            raise InputError(
                f"{self._source.path}: {len(pictures)} of {self._looked} pictures can't be used, more than {limit}; they are "
                f"listed in {self._rejects.file}, the first is of note {pictures[0][0]!r}: {pictures[0][1]}. "
                "Their notes were done without them, and will be done again when their pictures change or are found"
            )
        if not self.intake.partial and len(self.rejects) > self._max_rejected * self.notes:
            raise InputError(
                f"{self._source.path}: {len(self.rejects)} of {self.notes} notes have {self.intake.lacking} to {self._verb}, more "
                f"than {limit}; they are listed in {self._rejects.file}. Was a column mapped to the wrong field?"
            )

    def _refuse_deletions(self) -> int:
        """How many notes are to be withdrawn; raise if that is too many."""
        gone, held = self._done.unseen, self._done.notes
        if not gone or gone / held <= self._max_deleted:
            return gone
        absent, excuse = "are deleted", "If"
        if self._mode == "snapshot":
            absent, excuse = "are not in the table", "If the table holds only what changed, give source=delta; if"
        raise InputError(
            f"{self._source.path}: {gone} of the {held} notes in {self._folder.path} would be withdrawn, more than "
            f"{100 * self._max_deleted:g} % (max_deleted): {gone - self._emptied} {absent} and {self._emptied} have "
            f"{self.intake.lacking}. None was withdrawn; what was done is kept. {excuse} this is right, give "
            f"max_deleted={np.ceil(100 * gone / held) / 100:g}"
        )

    def _withdraw(self) -> None:
        """Write a tombstone for every note that wasn't seen."""
        shards, rows = self._done.places(unseen=True)
        ids = pa.chunked_array([], pa.string())
        for number in np.unique(shards).tolist():
            found = self._column(number, "note_id").take(pa.array(rows[shards == number]))
            ids = pa.chunked_array([*ids.chunks, *found.chunks], pa.string())
            while len(ids) >= TOMBSTONE_ROWS:
                self._bury(ids.slice(0, TOMBSTONE_ROWS))
                ids = ids.slice(TOMBSTONE_ROWS)
        if len(ids):
            self._bury(ids)

    def _bury(self, ids: pa.ChunkedArray) -> None:
        """Write one shard of tombstones."""
        with storage.open_parquet(self._folder.files()[0]) as parquet:
            columns = parquet.schema_arrow.remove_metadata()
        nulls = [ids if field.name == "note_id" else pa.nulls(len(ids), field.type) for field in columns]
        self._folder.append(pa.table(nulls, schema=columns), epoch=self.epoch, tombstones=len(ids))

    def _column(self, number: int, name: str) -> pa.ChunkedArray:
        """One column of a shard."""
        tables = read_shard(self._folder.path, self._done.shards[number], [name])
        return pa.chunked_array([chunk for table in tables for chunk in table[name].chunks])

    def _take_in(self, table: pa.Table) -> pa.Table:
        """The rows that are due, with their content hash and pictures."""
        readable = self.intake.readable(table)
        self.notes += table.num_rows
        names, keys, hashes = table["note_id"].to_pylist(), keys_of(table["note_id"]), self.intake.hashes(table)
        self._reject(table["note_id"].filter(pa.array(~readable)))
        self._done.see(keys[readable])
        known = self._done.known(keys, hashes) & readable
        retried = known & self._rejects.meet(names)
        resting = known & ~retried
        self.unchanged += int(resting.sum())
        if self.intake.gallery is not None:
            counts = note.image_counts(table)
            for place in np.flatnonzero(resting):  # looked at until as many usable ones were found as are used
                left_out = len(self._rejects.images.get(names[place], ()))
                self._looked += min(int(counts[place]), self.intake.gallery.images + left_out)
        due = table.append_column("content_hash", pa.array(hashes)).filter(pa.array(readable & ~resting))
        return self._with_pictures(due, {names[place] for place in np.flatnonzero(retried)})

    def _with_pictures(self, due: pa.Table, retried: set[str]) -> pa.Table:
        """Due rows with their pictures; of those that are `retried` only the ones of which other pictures can be used now."""
        images = self._rejects.images
        before = {note_id: images.pop(note_id, {}) for note_id in due["note_id"].to_pylist()}
        tried, listed = self.intake.tried, len(self.intake.unseen)
        taken, blind = self.intake.take_in(due)
        self._looked += self.intake.tried - tried
        for entry in self.intake.unseen[listed:]:
            text = f"{entry.reason} (image {entry.image}): {entry.message}"
            images.setdefault(entry.note_id, {})[entry.image] = text
        self._reject(pa.array(blind, pa.string()))
        self._rejects.unsaved |= any(before.values()) or len(self.intake.unseen) > listed
        same = {note_id for note_id in retried if before[note_id].keys() == images.get(note_id, {}).keys()}
        self.unchanged += len(same)
        return taken if not same else taken.filter(pc.invert(pc.is_in(taken["note_id"], pa.array(sorted(same)))))

    def _reject(self, ids: pa.ChunkedArray | pa.Array) -> None:
        """These notes have nothing to read: what the output holds of them is withdrawn in the end."""
        self._emptied += self._done.see(keys_of(ids), False)
        self.rejects.extend(ids.to_pylist())

    def _listed(self, shard: pa.Table) -> pa.Table:
        """A shard, when what was left out of it is written down: if this run is killed, the next one finds its notes done."""
        if not self._read_only:
            if self._begins:  # the first one: from now on it is this epoch that a run continues
                self._folder.commit()
                self._begins = False
            if self._rejects.unsaved:
                self._save()
        return shard

    def _save(self) -> None:
        self._rejects.save(self.intake.lacking, str(self._source.path))
