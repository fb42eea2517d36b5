"""When a run takes what it met for a mistake: too much was rejected, or too much would be withdrawn.

Whatever a guard refuses, nothing is withdrawn: a broken table must not empty an output. What was done is kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from noterec import storage
from noterec.embedding.rejects import Rejects
from noterec.errors import InputError

FEW = 20  # notes of a delta: so many may all have been emptied


@dataclass(frozen=True)
class Guards:
    """The guards of one run.

    Attributes:
        source: the dataset.
        out: the output.
        delta: whether the notes table is one.
        lacking: what rejected notes don't have, in words.
        verb: what is done with a note.
        max_rejected: largest share of the notes, or of the pictures, that may be rejected; 1 = any.
        max_deleted: largest share of the output's notes that may be withdrawn.
    """

    source: storage.Place
    out: storage.Place
    delta: bool
    lacking: str
    verb: str
    max_rejected: float
    max_deleted: float

    def check_pictures(self, rejects: Rejects, looked: int) -> None:
        """Raise where too many of the pictures that were looked at can't be used; a single one always may be unusable."""
        pictures = rejects.pictures()
        if len(pictures) > max(1, self.max_rejected * looked):
            raise InputError(
                f"{self.source}: {len(pictures)} of {looked} pictures can't be used, more than {self._limit}; they are listed in "
                f"{rejects.file}, the first is of note {pictures[0][0]!r}: {pictures[0][1]}. "
                "Their notes were done without them, and will be done again when their pictures change or are found"
            )

    def check_rejects(self, rejects: Rejects, notes: int, held: int) -> None:
        """Raise where too many notes have nothing to read.

        A snapshot's share is that of its notes. A delta names what changed, of which any share may have been emptied: its rejects
        count against the output's notes where these are more, and a single one always may be. But a delta of more than a few notes
        that all have nothing to read is broken, however much the output holds.

        Args:
            rejects: of the run.
            notes: live notes that it saw.
            held: live notes of the output.
        """
        count, why = len(rejects.notes), f"more than {self._limit}"
        if not self.delta:
            refused = count > self.max_rejected * notes
        elif self.max_rejected < 1 and FEW < count == notes:
            refused, why = True, "which is the whole delta"
        else:
            refused = count > max(1, self.max_rejected * max(notes, held))
            why += f" of the {held} in the output" if held > notes else ""
        if refused:
            raise InputError(
                f"{self.source}: {count} of {notes} notes have {self.lacking} to {self.verb}, {why}; they are listed in "
                f"{rejects.file}, and nothing was withdrawn. Was a column mapped to the wrong field?"
            )

    def check_withdrawals(self, gone: int, emptied: int, held: int) -> None:
        """Raise where too many of the output's notes would be withdrawn.

        Args:
            gone: notes that would be.
            emptied: of them, notes that have nothing to read now.
            held: live notes of the output.
        """
        if not gone or gone / held <= self.max_deleted:
            return
        absent, excuse = "are deleted", "If"
        if not self.delta:
            absent, excuse = "are not in the table", "If the table holds only what changed, give source=delta; if"
        raise InputError(
            f"{self.source}: {gone} of the {held} notes in {self.out} would be withdrawn, more than {100 * self.max_deleted:g} % "
            f"(max_deleted): {gone - emptied} {absent} and {emptied} have {self.lacking}. None was withdrawn; what was done is "
            f"kept. {excuse} this is right, give max_deleted={math.ceil(100 * gone / held) / 100:g}"
        )

    @property
    def _limit(self) -> str:
        return f"{100 * self.max_rejected:g} % (max_rejected)"
