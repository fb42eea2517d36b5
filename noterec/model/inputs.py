"""Notes as an encoder reads them: token ids, words of its lexicon, and pictures."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from noterec import progress, storage
from noterec.model.head import Visual
from noterec.model.vision.gallery import Gallery

if TYPE_CHECKING:
    from noterec.model.vision.tower import VisionTower

SUMMARIES_AT_A_TIME = 1024


@dataclasses.dataclass(frozen=True)
class Seen:
    """The pictures of b notes on the device.

    Attributes:
        values: (I, 1+S, V) float16 features, or (I, 3, h, w) uint8 pixels where the vision encoder's weights move.
        owner: (I,) int64, the note of each picture, ascending.
        notes: b.
    """

    values: Tensor
    owner: Tensor
    notes: int

    @property
    def by_note(self) -> Tensor:
        """Which of the notes have a picture: (b,) bool."""
        return torch.bincount(self.owner, minlength=self.notes) > 0

    def mean(self, rows: Tensor) -> Tensor:
        """Means over each note's pictures, zeros where it has none: (I, V) to (b, V)."""
        total = rows.new_zeros(self.notes, rows.shape[1]).index_add(0, self.owner, rows)  # (b, V)
        return total / torch.bincount(self.owner, minlength=self.notes).clamp_min(1).to(rows.dtype)[:, None]


class Rows(Protocol):
    """Where pictures are held, as rows: a `Gallery`, or what another process was sent of one.

    Attributes:
        tower: the vision encoder.
        frozen: whether rows are its features, or else pixels.
        shape: of one row.
    """

    @property
    def tower(self) -> VisionTower: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def shape(self) -> tuple[int, ...]: ...

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Pictures by row: (n,) int64 to (n, 1+S, V) float16 features or (n, 3, h, w) uint8 pixels."""

    def hashes(self, rows: np.ndarray) -> list[str]:
        """What tells pictures from each other, by row: (n,) int64 to n hashes of their bytes."""


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The pictures of B notes: for each (k_b,) int64, rows of a gallery, in the order in which the note shows them."""

    rows: list[np.ndarray]
    gallery: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def counts(self) -> np.ndarray:
        """k of every note: (B,) int64."""
        return np.array([len(rows) for rows in self.rows], dtype=np.int64)

    def take(self, positions: np.ndarray) -> Pictures:
        """Those of some of the notes."""
        return Pictures([self.rows[position] for position in positions], self.gallery)

    def packed(self) -> Packed:
        """They with all that is needed of them, for another process."""
        assert self.gallery.frozen, "features are sent, not pixels"
        distinct = np.unique(np.concatenate([*self.rows, np.zeros(0, dtype=np.int64)]))
        rows = [np.searchsorted(distinct, places) for places in self.rows]
        return Packed(rows, self.gallery.take(distinct), self.gallery.hashes(distinct))

    def opened(self, tower: VisionTower) -> Pictures:
        """They themselves; for `Packed`, they again beside the other process's vision encoder."""
        return self

    def stamps(self) -> list[list[bytes]]:
        """What tells the pictures of each of the B notes from others, for `content_hashes`: hashes of the files' bytes."""
        return [[name.encode() for name in self.gallery.hashes(rows)] for rows in self.rows]

    @property
    def signature(self) -> str:
        """Changes with which pictures could be used, of which note."""
        return storage.value_hash([self.gallery.hashes(rows) for rows in self.rows])

    def visual(self) -> Visual:
        """Each note's mean image summary, from the features of a tower that stands still."""
        summary = np.zeros((len(self), self.gallery.tower.hidden_size), dtype=np.float32)
        for start in range(0, len(self), SUMMARIES_AT_A_TIME):
            part = self.rows[start : start + SUMMARIES_AT_A_TIME]
            flat = np.concatenate(part)
            if len(flat):
                rows = self.gallery.take(flat)[:, 0].astype(np.float32)  # (I, V)
                owner = np.repeat(np.arange(len(part)), [len(places) for places in part])
                np.add.at(summary[start : start + len(part)], owner, rows)
        counts = self.counts
        return Visual(summary / np.maximum(counts, 1)[:, None].astype(np.float32), counts > 0)

    def seen(self, positions: np.ndarray, device: torch.device) -> Seen | None:
        """The pictures of some of the notes, on a device; None where they have none."""
        rows = [self.rows[position] for position in positions]
        flat = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int64)
        if not len(flat):
            return None
        owner = np.repeat(np.arange(len(rows)), [len(part) for part in rows])
        return Seen(
            torch.from_numpy(self.gallery.take(flat)).to(device), torch.from_numpy(owner).to(device), len(positions)
        )


@dataclasses.dataclass(frozen=True)
class Packed:
    """Pictures of B notes as they travel: rows as in `Pictures`, (I, 1+S, V) float16 features and I hashes."""

    rows: list[np.ndarray]
    features: np.ndarray
    names: list[str]

    def opened(self, tower: VisionTower) -> Pictures:
        """They as `Pictures`, beside a vision encoder."""
        return Pictures(self.rows, _Features(tower, self.features, self.names))


@dataclasses.dataclass(frozen=True)
class _Features:
    tower: VisionTower
    features: np.ndarray
    names: list[str]
    frozen: bool = True

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.features.shape[1:])

    def take(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.features[rows])

    def hashes(self, rows: np.ndarray) -> list[str]:
        return [self.names[row] for row in rows]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """B notes as an encoder reads them.

    Attributes:
        tokens: B arrays (T_b,) int64; `image_prompt.SLOT` where a visual token goes.
        words: scipy CSR matrix (B, V) float32, or None for an encoder without a lexicon.
        pictures: of the notes, or None for an encoder that doesn't see.
    """

    tokens: list[np.ndarray]
    words: Any
    pictures: Pictures | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, positions: np.ndarray) -> Inputs:
        """Some of the notes."""
        return Inputs(
            [self.tokens[position] for position in positions],
            None if self.words is None else self.words[positions],
            None if self.pictures is None else self.pictures.take(positions),
        )

    def seen(self, positions: np.ndarray, device: torch.device) -> Seen | None:
        """The pictures of some of the notes, on a device; None where there are none."""
        return None if self.pictures is None else self.pictures.seen(positions, device)


@dataclasses.dataclass(frozen=True)
class Unseen:
    """A picture that was left out: whose it is, its place among that note's images from 0, and why."""

    note_id: str
    image: int
    reason: str
    message: str


def attach(table: pa.Table, gallery: Gallery, *, bar: progress.Bar | None = None) -> tuple[Pictures, list[Unseen]]:
    """Take the pictures of a table's notes into a gallery.

    Args:
        table: B notes with note_id and, where they have any, images.
        gallery: what the vision tower makes of them goes there.
        bar: advanced by B.

    Returns:
        The B notes' usable pictures, and those that were left out, by note and image.

    Raises:
        InputError: the vision tower makes no number of a picture, or the cache's disk is full.
    """
    images = table["images"].to_pylist() if "images" in table.column_names else [None] * table.num_rows
    added = gallery.add(images, bar=bar)
    ids = table["note_id"].to_pylist()
    unseen = [Unseen(ids[reject.note], reject.image, reject.reason, reject.message) for reject in added.rejects]
    return Pictures(added.rows, gallery), unseen
