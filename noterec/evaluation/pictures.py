"""The notes' first pictures for a page that carries everything with it: small, as data: URIs, and bounded in all."""

from __future__ import annotations

import base64
import logging
from collections.abc import Collection
from dataclasses import dataclass

from noterec import progress
from noterec.errors import ImageError, InputError
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import ImageSource
from noterec.notes.images.stored import stored_images
from noterec.notes.images.thumbnail import MEDIA_TYPE, thumbnail

logger = logging.getLogger(__name__)

SIDE_PX = 160
TOTAL_BYTES = 4_000_000  # of all pictures together, before base64 makes a third more of them
_QUALITY = 70


@dataclass(frozen=True)
class Picture:
    """A picture, or why there is none: one of `uri` and `missing` is empty."""

    uri: str = ""
    missing: str = ""


def pictures(data: Dataset, note_ids: Collection[str], source: ImageSource) -> dict[str, Picture]:
    """The first picture of each of some notes that have any, the smallest ids first while there is room.

    Args:
        data: the dataset.
        note_ids: notes with an entry in the images column.
        source: where pictures may be read from, and what they may be.
    """
    wanted = set(note_ids)
    found: dict[str, Picture] = {}
    if not wanted:
        return found
    places = {}
    for number, rows, table in data.located_batches([]):
        for row, note_id in zip(rows.tolist(), table["note_id"].to_pylist(), strict=True):
            if note_id in wanted:
                places[note_id] = (data.note_files[number], row)
    room = TOTAL_BYTES
    with progress.track("pictures", len(wanted), "pictures") as bar:
        for note_id in sorted(wanted & places.keys()):
            bar.advance()
            try:
                entries = stored_images(*places[note_id], note_id)
                small = thumbnail(
                    source.read(entries[0] if entries else None), SIDE_PX, source.limits, quality=_QUALITY
                )
            except ImageError as error:
                logger.info("note %r: its picture can't be shown: %s", note_id, error)
                found[note_id] = Picture(missing=error.reason)
                continue
            except InputError as error:
                logger.warning("note %r: its picture can't be shown: %s", note_id, error)
                found[note_id] = Picture(missing="changed")
                continue
            if len(small) > room:
                found[note_id] = Picture(missing="page-full")
                continue
            room -= len(small)
            found[note_id] = Picture(f"data:{MEDIA_TYPE};base64,{base64.b64encode(small).decode('ascii')}")
    return found
