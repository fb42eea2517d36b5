"""Where things lie: a local path, or an object in a store."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from noterec.errors import InputError
from noterec.storage.objects import ObjectPath

URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one slash: a Path has swallowed the other

Place = Path | ObjectPath


def place(path: str | os.PathLike[str]) -> Place:
    """The local path, or the place in an object store that a URL names.

    Raises:
        InputError: a URL of another scheme than s3, gs and az, or without a bucket.
    """
    if isinstance(path, ObjectPath):
        return path
    text = os.fspath(path)
    return ObjectPath.parse(text) if URL.match(text) else Path(text).expanduser()


def local(path: str | os.PathLike[str]) -> Path:
    """A local path, or a clear refusal of a URL, by steps that write many kinds of files or map them into memory."""
    text = os.fspath(path)
    if URL.match(text):
        url = re.sub(":/+", "://", text, count=1)
        raise InputError(
            f"{url}: object-store URLs are not supported here (a dataset to validate or embed, and embeddings, may be one); "
            "copy or mount it, give a local path"
        )
    return Path(text).expanduser()


def stamp_of(place: Place) -> list[Any]:
    """Name, size and time of a file, or its version in an object store: differs once it was written again."""
    found = place.stat()
    return [str(place), found.st_size, found.st_mtime]
