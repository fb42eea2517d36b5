"""What test_images lets worker processes do; a module of its own, so that they start quickly."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image


def width(image: Image, data: bytes) -> int:
    """The picture's width, unless its file ends with an order: `die` as if killed by the system, or `bug`."""
    if data.endswith(b"die"):
        os.kill(os.getpid(), signal.SIGKILL)
    if data.endswith(b"bug"):
        raise RuntimeError("a bug")
    return image.width
