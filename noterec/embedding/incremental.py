"""What stages that go through a dataset's notes share: only new or changed notes, shard by shard, and tombstones for deleted ones.

A note is due when its content hash isn't in the output yet: running again after nothing changed does nothing, after some notes
changed it does those, and after a kill it does what is missing. A note that was deleted, or has nothing to read any more, gets a
tombstone: a row with its id and nulls, after which its older rows don't count.

A full run begins a new epoch, in which nothing is known. The rows of the epoch before stay until newer ones replace them, and the
manifest says which epoch it is and whether a full run is under way: one that was killed is continued, not begun again. Only a run
over a snapshot sees all notes, so only that completes an epoch.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from noterec import progress, storage
from noterec.embedding.done import Done, column_of, keys_of
from noterec.embedding.epoch import Epoch
from noterec.embedding.guards import Guards
from noterec.embedding.intake import Intake
from noterec.embedding.rejects import Rejects
from noterec.embedding.tombstones import withdraw_unseen
from noterec.errors import ConfigError, InputError
from noterec.notes import note
from noterec.notes.dataset import Dataset

logger = logging.getLogger(__name__)


class Increment:
    """One run over a dataset's notes into a folder of shards that have the columns note_id and content_hash.

    `shards` may be iterated in one thread while another one calls `written`.

    Attributes:
        notes: live notes seen.
        unchanged: of them, in the output already.
        rejects: ids of those that have nothing to read.
        deleted: notes that were withdrawn from the output (with `read_only`, that would be); known after `finish`.
        intake: how their rows are taken in.
        stop: once it is set, by whichever thread, `shards` ends early.
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
            max_rejected: share of the notes, or of the pictures, above which `finish` calls it an error; see guards.py.
            mode: what the notes table is. snapshot: a note that isn't in it was deleted; delta: only `deleted` says so.
            max_deleted: share of the output's notes above which `finish` withdraws none and calls it an error.
            full: all notes are due, but for those that a full run did before it was stopped.
            read_only: write nothing at all and decode no picture: whether pictures can be used is then unknown.

        Raises:
            ConfigError: a full run over a delta.
            ArtefactError: a shard of the output is missing or damaged.
        """
        if full and mode == "delta":
            raise ConfigError(
                "full with source=delta: a full run needs the whole table; give source=snapshot, or leave full out"
            )
        self._stage, self._source, self._folder, self.intake = stage, source, folder, intake
        self._guards = Guards(
            source=source.path,
            out=folder.path,
            delta=mode == "delta",
            lacking=intake.lacking,
            verb=verb,
            max_rejected=max_rejected,
            max_deleted=max_deleted,
        )
        self._mode, self._read_only = mode, read_only
        self.stop = threading.Event()
        self._through = False  # whether `shards` has seen all notes
        self._epoch = self._entered(full)
        self.epoch = self._epoch.number
        self._done = Done(folder.path, folder.shards, epoch=self.epoch)
        if mode == "delta":
            self._done.see_all()
        self._rejects = Rejects(folder.path, images=intake.gallery is not None and not read_only)
        self._emptied = 0  # of the rejects, in the output
        self.notes = self.unchanged = self.deleted = 0
        self._looked = 0  # pictures of notes seen, those left out included

    def _entered(self, full: bool) -> Epoch:
        """The epoch of this run: the one that is there, or that this run begins."""
        folder, epoch = self._folder, Epoch.of(self._folder)
        self._begins = full and not epoch.full
        if self._begins:
            epoch = epoch.begun(empty=not folder.shards)
        elif self._mode == "delta" and (epoch.struck or epoch.full):
            logger.warning(
                "%s: %s, which a delta doesn't mend: run once over a snapshot", folder.path, epoch.incomplete
            )
        elif epoch.full:
            logger.info("%s: continuing the full run begun %s", folder.path, epoch.full)
            progress.say(f"continuing the full run begun {epoch.full}")
        if not self._read_only:
            epoch.keep(folder)
        return epoch

    @property
    def rejects(self) -> list[str]:
        """Ids of the notes that have nothing to read."""
        return self._rejects.notes

    def shards(self, rows: int, bar: progress.Bar) -> Iterator[pa.Table]:
        """The notes that are due, `rows` at a time (with pictures a few more), the last time fewer, until `stop` is set.

        Args:
            rows: of a shard.
            bar: advanced by the notes that are not due.

        Yields:
            Tables with note_id, the encoded columns, content_hash, and where pictures are taken in their places. These end with
            the shard: the next one begins with an empty gallery. With `read_only`, as `Intake.undecoded` has them.
        """
        waiting: list[pa.Table] = []
        count = 0
        for table in self._source.note_batches(self.intake.columns, batch_rows=min(rows, self.intake.batch_rows)):
            if self.stop.is_set():
                return
            due = self._take_in(table)
            bar.advance(table.num_rows - due.num_rows)
            if not due.num_rows:
                continue
            waiting.append(due)
            count += due.num_rows
            while count >= rows:
                whole, size = pa.concat_tables(waiting), rows if self.intake.gallery is None else count
                yield self._listed(whole.slice(0, size))
                self.intake.clear()
                waiting, count = [whole.slice(size)], count - size
        if self.stop.is_set():
            return
        if count:
            yield self._listed(pa.concat_tables(waiting))
        self._through = True

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
            found = column_of(self._folder.path, self._done.shards[number], "embedding")
            found = found.take(pa.array(rows[wanted])).combine_chunks()
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
        """Write the rejects beside the shards, withdraw what was deleted or emptied, and write the manifest.

        Guards come before withdrawals: what one of them refuses is a broken table, or a server that is down, and after that notes
        that were emptied or deleted stay as they were. Otherwise they are withdrawn, by a delta of a single note too.

        Raises:
            InputError: the dataset is a snapshot and has no notes, or too many of them or of the pictures were rejected, or too
                many would be withdrawn. Then none is; what was done is kept.
            RuntimeError: `shards` didn't come to its end.
        """
        if not self._through:
            raise RuntimeError("finish() after shards() ended early: what it didn't see would count as deleted")
        if self._mode == "delta":
            self._deletions()
        elif not self.notes:
            raise InputError(f"{self._source.path}: has no notes (an empty table, or all of them deleted)")
        else:
            self._rejects.forget_unmet()
        if not self._read_only:
            self._save()
            self._folder.commit()
        self._guard()
        self.deleted = self._done.unseen
        if not self._read_only:
            withdraw_unseen(self._folder, self._done, epoch=self.epoch)
            if self._mode == "snapshot":
                self._epoch.completed().keep(self._folder)
            self._folder.commit()

    def _deletions(self) -> None:
        """Take in which notes a delta says were deleted."""
        for table in self._source.deleted_batches():
            self._done.see(keys_of(table["note_id"]), False)
            self._rejects.forget(table["note_id"].to_pylist())

    def _guard(self) -> None:
        """Tell what was left out; raise if that is too much, or too much is to be withdrawn."""
        pictures, held = self._rejects.pictures(), self._done.notes
        if self.rejects or pictures:
            logger.warning(
                "%s: %d notes have %s and are left out, %d pictures can't be used; see %s",
                self._stage,
                len(self.rejects),
                self.intake.lacking,
                len(pictures),
                self._rejects.file,
            )
        self._guards.check_pictures(self._rejects, self._looked)
        if not self.intake.partial:
            self._guards.check_rejects(self._rejects, self.notes, held)
        self._guards.check_withdrawals(self._done.unseen, self._emptied, held)

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
        if self._read_only:
            return self.intake.undecoded(due)
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
