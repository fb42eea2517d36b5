"""Which of a dataset's pictures can be used, and why the others can't (`noterec validate --images`)."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from noterec.errors import ImageError
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import Entry, ImageSource
from noterec.notes.images.workers import decode_all
from noterec.progress import track

if TYPE_CHECKING:
    from PIL.Image import Image

QUANTILES = (0.5, 1.0)


@dataclasses.dataclass(frozen=True)
class ImagesSummary:
    """The pictures of the live notes. Quantiles map 0.5 and 1.0 (the maximum) to a value, over decoded pictures.

    Attributes:
        notes_with_images: notes that have at least one entry.
        notes_without_usable: those of them whose every picture is rejected.
        images: entries; decoded: those that are pictures.
        rejected: the others by reason (see `noterec.notes.images`), the commonest first.
        first_rejected: for each reason the first note that has it, and what is wrong there.
        width_px, height_px: quantiles, after rotation.
        file_bytes: quantiles of the files' sizes.
    """

    notes_with_images: int
    notes_without_usable: int
    images: int
    decoded: int
    rejected: dict[str, int]
    first_rejected: dict[str, str]
    width_px: dict[float, float]
    height_px: dict[float, float]
    file_bytes: dict[float, float]


def check_images(
    data: Dataset, source: ImageSource, *, workers: int = 0, batch_rows: int = 1024, total: int | None = None
) -> ImagesSummary:
    """Decode every picture of the live notes and count; nothing is kept but three numbers a picture.

    Args:
        data: the dataset.
        source: where paths may be read from, and the limits.
        workers: processes that decode; 0 = this one.
        batch_rows: notes read at a time.
        total: how many pictures there are, for the progress bar.
    """
    notes: collections.deque[str] = collections.deque()  # of the entries in flight
    with_images = 0

    def entries() -> Iterator[Entry]:
        nonlocal with_images
        for table in data.note_batches(["images"], batch_rows=batch_rows):
            if "images" not in table.column_names:
                continue
            for note_id, images in zip(table["note_id"], table["images"], strict=True):
                found = images.as_py() or ()
                with_images += bool(found)
                for image in found:
                    notes.append(note_id.as_py())
                    yield image

    usable = 0
    last_usable: str | None = None
    sizes: list[tuple[int, int, int]] = []
    rejected: collections.Counter[str] = collections.Counter()
    first_rejected: dict[str, str] = {}
    with track("images", total, "images") as bar:
        for result in decode_all(entries(), source, workers=workers, then=_size):
            note = notes.popleft()
            if isinstance(result, ImageError):
                rejected[result.reason] += 1
                first_rejected.setdefault(result.reason, f"note {note!r}: {result}")
            else:
                sizes.append(result)
                usable += note != last_usable  # a note's pictures come one after the other
                last_usable = note
            bar.advance(1, note=f"{rejected.total():,} rejected" if rejected else None)
    columns = np.array(sizes, np.int64).reshape(-1, 3)
    width, height, size = ({} if not sizes else _quantiles(column) for column in columns.T)
    return ImagesSummary(
        notes_with_images=with_images,
        notes_without_usable=with_images - usable,
        images=len(sizes) + rejected.total(),
        decoded=len(sizes),
        rejected=dict(rejected.most_common()),
        first_rejected=first_rejected,
        width_px=width,
        height_px=height,
        file_bytes=size,
    )


def _size(image: Image, data: bytes) -> tuple[int, int, int]:
    return (*image.size, len(data))


def _quantiles(values: np.ndarray) -> dict[float, float]:
    return {q: float(np.quantile(values, q, method="inverted_cdf")) for q in QUANTILES}
