"""Small copies of pictures for a page: nothing of the file but its pixels."""

from __future__ import annotations

import io

from noterec.config import ImagesConfig
from noterec.notes.images.decode import decode

MEDIA_TYPE = "image/webp"


def thumbnail(data: bytes, side_px: int, limits: ImagesConfig, *, quality: int = 80) -> bytes:
    """A picture file made small, as a WebP file.

    Args:
        data: the whole file.
        side_px: of the longer side, at most; a smaller picture keeps its size.
        limits: what a picture may be.
        quality: of WebP, 1 to 100.

    Raises:
        ImageError: the picture can't be read, or is beyond a limit.
    """
    from PIL.Image import Resampling

    picture = decode(data, limits)
    picture.thumbnail((side_px, side_px), Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=2)
    return buffer.getvalue()
