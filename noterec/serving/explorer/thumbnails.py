"""Small copies of the notes' pictures for a page: made once, kept in a bounded memory, and nothing of the file but its pixels."""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import threading

from noterec.config import ImagesConfig
from noterec.notes.images.thumbnail import thumbnail
from noterec.serving.explorer.catalogue import Catalogue

SIDES_PX = {"small": 320, "large": 800}  # the longer side, at most
_CACHE_BYTES = 64 << 20


@dataclasses.dataclass(frozen=True)
class Thumbnail:
    """A picture as a page shows it.

    Attributes:
        data: a WebP file.
        etag: changes when the data does.
    """

    data: bytes
    etag: str


class Thumbnails:
    """Thumbnails of a catalogue, the least recently used ones forgotten first."""

    def __init__(self, catalogue: Catalogue, limits: ImagesConfig = ImagesConfig(), *, cache_bytes: int = _CACHE_BYTES):
        """Args: the notes; what a picture may be; how many bytes of thumbnails are kept."""
        self._catalogue, self._limits, self._room = catalogue, limits, cache_bytes
        self._kept: collections.OrderedDict[tuple[str, int, str], Thumbnail] = collections.OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self._decoding = threading.Lock()  # one picture's pixels in memory at a time

    def get(self, note_id: str, number: int, size: str = "small") -> Thumbnail:
        """The thumbnail of a note's picture, the first being 0; `size` is one of SIDES_PX.

        Raises:
            InputError: no such note or picture.
            ImageError: the picture can't be read, or is beyond a limit.
        """
        key = (note_id, number, size)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        data = self._catalogue.image(note_id, number)
        with self._decoding:
            small = thumbnail(data, SIDES_PX[size], self._limits)
        made = Thumbnail(small, f'"{hashlib.blake2b(small, digest_size=12).hexdigest()}"')
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._bytes += len(made.data)
            while self._bytes > self._room and self._kept:
                _, forgotten = self._kept.popitem(last=False)
                self._bytes -= len(forgotten.data)
        return made
