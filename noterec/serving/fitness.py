"""Notes from outside, made fit for the encoder: each has something to read, and each picture can be decoded.

This runs in a few threads of its own, off the event loop and away from the model, so that a picture which is a bomb costs its own
request and no other.
"""

from __future__ import annotations

import base64
import binascii
import math
import time
from collections.abc import Sequence

from noterec.config import ServeConfig
from noterec.errors import ImageError
from noterec.notes import note as notes_module
from noterec.notes.images.decode import decode
from noterec.notes.note import Note
from noterec.serving.messages import NoteContent
from noterec.serving.metrics import Metrics
from noterec.serving.refusals import Refusal


def check_pictures(contents: Sequence[NoteContent], *, sees: bool, config: ServeConfig) -> None:
    """Refuse, before anything is computed of them, pictures that are too many or too large, or that nobody looks at (422)."""
    for position, content in enumerate(contents):
        place = _place(contents, position)
        if content.images and not sees:
            raise Refusal(422, f"{place}: has images, and this model reads text alone; leave them out", code="no_sight")
        if len(content.images) > config.max_images:
            raise Refusal(422, f"{place}: {len(content.images)} images; expected at most {config.max_images}")
        for number, text in enumerate(content.images):
            if len(text) > 4 * (config.images.max_bytes // 3 + 1):
                told = f"{place}, image {number}: larger than {config.images.max_bytes:,} bytes"
                raise Refusal(422, told, code="image_too-many-bytes")


def fit_notes(
    contents: Sequence[NoteContent], *, sees: bool, config: ServeConfig, metrics: Metrics, until: float = math.inf
) -> list[Note]:
    """Notes that the encoder will take, of contents that passed `check_pictures`.

    Args:
        contents: B notes as they were sent.
        sees: whether the model looks at pictures.
        config: bounds of pictures.
        metrics: learns how long the pictures took.
        until: on the clock of `time.monotonic`, when nobody waits any longer.

    Returns:
        B notes, their pictures as bytes.

    Raises:
        Refusal: 422, naming the first note that can't be encoded and why; 504 where it takes too long.
    """
    notes = []
    for position, content in enumerate(contents):
        place = _place(contents, position)
        start = time.perf_counter()
        images = [
            _picture(text, f"{place}, image {number}", config, until) for number, text in enumerate(content.images)
        ]
        if images:
            metrics.stage("decode", time.perf_counter() - start)
        notes.append(Note(title=content.title, content=content.content, hashtags=list(content.hashtags), images=images))
    readable = notes_module.has_text(notes_module.as_table(notes))  # (B,)
    for position, (note, has_text) in enumerate(zip(notes, readable, strict=True)):
        if not has_text and not note.images:
            wanted = "a title, content or hashtags" + (", or an image" if sees else "")
            place = _place(contents, position)
            raise Refusal(422, f"{place} has nothing to read; expected {wanted}", code="nothing_to_read")
    return notes


def _place(contents: Sequence[NoteContent], position: int) -> str:
    return "the note" if len(contents) == 1 else f"notes.{position}"


def _picture(text: str, place: str, config: ServeConfig, until: float) -> bytes:
    """The bytes of a picture that can be decoded."""
    if time.monotonic() > until:
        raise Refusal(504, f"{place}: its turn didn't come in time; send fewer or smaller pictures")
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(
            422, f"{place}: not base64; expected a picture file's bytes in base64", code="image_base64"
        ) from error
    try:
        decode(data, config.images)
    except ImageError as error:
        raise Refusal(422, f"{place}: {error}", code=f"image_{error.reason}") from error
    return data
