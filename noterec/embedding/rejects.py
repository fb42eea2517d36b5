"""The notes and pictures that a run leaves out, as they are listed beside its output in rejects.parquet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from noterec import schema, storage

# Why a picture may be unusable today and not tomorrow, though the note stays the same.
PASSING = re.compile("fetch-failed|timeout|no-memory|worker-died")
IMAGE = re.compile(r"\(image (\d+)\)")


class Rejects:
    """What is left out, and of what earlier runs left out that which still counts.

    Attributes:
        notes: ids of notes that this run rejected.
        images: note_id -> what is wrong with which of its images: what is unchanged isn't decoded again.
        unsaved: whether something is to be written down before a shard is, which it belongs to.
    """

    def __init__(self, folder: storage.Place, *, images: bool) -> None:
        """Read the list beside an output.

        Args:
            folder: the output.
            images: whether what it says of images is of interest.
        """
        self.file = folder / schema.REJECTS_FILE
        self.notes: list[str] = []
        self.images: dict[str, dict[int, str]] = {}
        self.unsaved = False
        self._before: dict[str, None] = {}  # notes that an earlier run rejected and this one hasn't met yet
        if self.file.is_file():
            for row in storage.read_table(self.file, schema.REJECTS).to_pylist():
                image = IMAGE.search(row["reason"] or "")
                if row["table"] == "notes":
                    self._before[row["key"]] = None
                elif image is not None and images:
                    self.images.setdefault(row["key"], {})[int(image[1])] = row["reason"]
        self._unmet = set(self.images)

    def meet(self, ids: Sequence[str]) -> np.ndarray:
        """These notes are looked at now: which of them have an image that may be usable by now, (B,) bool."""
        for note_id in ids if self._before else ():
            self._before.pop(note_id, None)
        self._unmet.difference_update(ids)
        if not self.images:
            return np.zeros(len(ids), dtype=bool)
        passing = [any(map(PASSING.match, self.images.get(i, {}).values())) for i in ids]
        return np.array(passing, dtype=bool)

    def forget(self, ids: Iterable[str]) -> None:
        """These notes are no longer there."""
        for note_id in ids:
            self._before.pop(note_id, None)
            self.images.pop(note_id, None)

    def forget_unmet(self) -> None:
        """The notes that this run hasn't met are no longer there."""
        self.forget(self._unmet)
        self._before.clear()

    def pictures(self) -> list[tuple[str, str]]:
        """(note_id, what is wrong) for every image of the notes that this run has met."""
        return [
            (key, text) for key, images in self.images.items() if key not in self._unmet for text in images.values()
        ]

    def save(self, lacking: str, source: str) -> None:
        """Write the list, or remove it where nothing is left out.

        Args:
            lacking: what the notes don't have.
            source: the dataset.
        """
        self.unsaved = False
        rows = [("notes", note_id, lacking) for note_id in dict.fromkeys([*self._before, *self.notes])]
        rows += [("images", note_id, text) for note_id, images in self.images.items() for text in images.values()]
        if not rows:
            self.file.unlink(missing_ok=True)
            return
        tables, keys, reasons = (list(column) for column in zip(*rows, strict=True))
        columns = {"table": tables, "key": keys, "reason": reasons, "source": [source] * len(rows)}
        storage.write_table(schema.conform(pa.table(columns), schema.REJECTS, name="rejects"), self.file)
