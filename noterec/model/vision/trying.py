"""Which entries of notes are read and decoded, and in which order; nothing here knows a tensor, so that the processes which decode
start without them."""

from __future__ import annotations

import collections
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from noterec.config import ImagesConfig
from noterec.errors import ImageError
from noterec.notes.images.decode import image_hash
from noterec.notes.images.source import Entry, ImageSource
from noterec.progress import Bar

if TYPE_CHECKING:
    from PIL.Image import Image

FETCHES = 16  # pictures that are fetched at the same time
MOST_WORKERS = 8

NoteImages = Sequence[Entry] | None


@dataclasses.dataclass(frozen=True)
class Transformed:
    """A function for `decode_all`: a decoded picture through `transform`, (3, h, w) uint8."""

    transform: Callable[[Image], np.ndarray]

    def __call__(self, image: Image, data: bytes) -> np.ndarray:
        return self.transform(image)


def workers_of(config: ImagesConfig, *, accelerator: bool, default: int | None = None) -> int:
    """Processes that decode: as configured; or as the caller has it; or up to 8 beside an accelerator and none where the encoder
    needs the cores."""
    chosen = default if config.workers is None else config.workers
    if chosen is not None:
        return chosen
    return min(MOST_WORKERS, _cores()) if accelerator else 0


def _cores() -> int:
    """Cores that are this process's: those that it may use, shared with the other processes of its run."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("WORLD_SIZE") or 1))


class Reader:
    """Bytes of entries; those that come from a network are fetched a few at a time, ahead of their turn, and each URL once."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self._outcomes: dict[str, str | ImageError] = {}  # of a URL: the hash of its bytes, or why there are none
        self._flying: dict[str, Future[bytes]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def close(self) -> None:
        """Stop what is being fetched."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._pool = None
        self._flying.clear()

    def forget(self) -> None:
        """URLs are fetched anew."""
        self._outcomes.clear()

    def hint(self, entry: Entry) -> bool:
        """Say that an entry is read soon; False where enough are under way already."""
        url = self.source.url(entry)
        if url is None or url in self._flying or url in self._outcomes:
            return True
        if len(self._flying) >= FETCHES:
            return False
        self._pool = self._pool or ThreadPoolExecutor(FETCHES, thread_name_prefix="noterec-fetch")
        self._flying[url] = self._pool.submit(self.source.read, entry)
        return True

    def read(self, entry: Entry, known: Callable[[str], bool]) -> tuple[str | ImageError, bytes]:
        """The hash of an entry's bytes and the bytes, or the error; no bytes for a URL whose picture is `known` by its hash."""
        url = self.source.url(entry)
        outcome = None if url is None else self._outcomes.get(url)
        if isinstance(outcome, ImageError) or (outcome is not None and known(outcome)):
            return outcome, b""
        flying = None if url is None else self._flying.pop(url, None)
        data = b""
        try:
            data = self.source.read(entry) if flying is None else flying.result()
            outcome = image_hash(data)
        except ImageError as error:
            outcome = ImageError(error.reason, str(error))  # a fresh one: the other's traceback holds on to its frames
        if url is not None:
            self._outcomes[url] = outcome
        return outcome, data


class Trying:
    """The entries of notes, in order, until each note has as many usable ones as it may have.

    Attributes:
        tried: for every note the outcomes of its first entries: a hash, or why there are no bytes.
        under_way: the pictures that were given to be decoded and aren't `done`, and the notes that wait for them.
    """

    def __init__(
        self,
        notes: Sequence[NoteImages],
        reader: Reader,
        *,
        images: int,
        rejects: dict[str, ImageError],
        known: Callable[[str], bool],
        bar: Bar,
    ) -> None:
        """Args:
        notes: their entries of the images column.
        reader: gives their bytes.
        images: usable ones wanted of each note.
        rejects: the pictures that turned out not to be usable, by hash; grows.
        known: whether a picture needs no decoding.
        bar: advanced by one for each note.
        """
        self.tried: list[list[str | ImageError]] = [[] for _ in notes]
        self.under_way: dict[str, list[int]] = {}
        self._notes, self._reader, self._images = notes, reader, images
        self._rejects, self._known, self._bar = rejects, known, bar
        self._rejected = [0] * len(notes)
        self._again: collections.deque[int] = (
            collections.deque()
        )  # notes of which a picture turned out not to be usable
        self._order: collections.deque[str | None] = collections.deque()  # what was given and hasn't come back
        self._hinted = 0

    def entries(self) -> Iterator[Entry]:
        """Entries to decode, for `decode_all`: each distinct picture once. What came of each goes to `came`, in this order."""
        fresh = iter(range(len(self._notes)))
        while True:
            if self._again:
                yield from self._of(self._again.popleft())
            elif (note := next(fresh, None)) is not None:
                self._hint(note)
                yield from self._of(note)
                self._bar.advance(1)
            elif any(name is not None for name in self._order):
                # Which entries come next shows when those in flight have come back: a blank keeps them moving.
                self._order.append(None)
                yield None
            else:
                return

    def came(self, result: np.ndarray | ImageError) -> str | None:
        """The hash of the picture that `result` belongs to where it is usable, None where it isn't, or is a blank."""
        name = self._order.popleft()
        if name is None:
            return None
        if not isinstance(result, ImageError):
            return name
        self._rejects[name] = result
        for note in self.under_way.pop(name):
            self._rejected[note] += 1
            self._again.append(note)
        return None

    def done(self, names: Sequence[str]) -> None:
        """These pictures are `known` from now on."""
        for name in names:
            del self.under_way[name]

    def _of(self, note: int) -> Iterator[Entry]:
        entries, tried = self._notes[note] or (), self.tried[note]
        while len(tried) < len(entries) and len(tried) - self._rejected[note] < self._images:
            entry = entries[len(tried)]
            name, data = self._reader.read(entry, self._settled)
            tried.append(name)
            if isinstance(name, ImageError) or name in self._rejects:
                self._rejected[note] += 1
            elif name in self.under_way:
                self.under_way[name].append(note)
            elif not self._known(name):
                self.under_way[name] = [note]
                self._order.append(name)
                yield {"bytes": data, "path": None}

    def _settled(self, name: str) -> bool:
        return name in self._rejects or name in self.under_way or self._known(name)

    def _hint(self, note: int) -> None:
        if not self._reader.source.limits.fetch:
            return
        self._hinted = max(self._hinted, note)
        while self._hinted < min(note + FETCHES, len(self._notes)):
            entries = (self._notes[self._hinted] or ())[: self._images]
            if not all(self._reader.hint(entry) for entry in entries):
                return
            self._hinted += 1
