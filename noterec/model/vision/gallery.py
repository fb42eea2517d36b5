"""The pictures of notes as the vision encoder takes them in: each distinct one is decoded, and where the encoder is frozen also
computed, once, however many notes show it and however often training comes back to it."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from noterec import storage
from noterec.config import ImagesConfig
from noterec.errors import ImageError, InputError
from noterec.model.vision.cache import FeatureCache
from noterec.model.vision.shelf import Shelf
from noterec.model.vision.trying import NoteImages, Reader, Transformed, Trying, workers_of
from noterec.notes.images.source import DECODE_LIMITS, ImageSource
from noterec.notes.images.workers import Workers, decode_all
from noterec.progress import Bar

if TYPE_CHECKING:
    from noterec.model.vision.tower import VisionTower

logger = logging.getLogger(__name__)

FEW_NOTES = 32
MUCH_BYTES = 2**30  # of pixels in memory: what is worth a warning


@dataclasses.dataclass(frozen=True)
class Rejected:
    """A picture of a note that was tried and can't be used.

    Attributes:
        note: the note's place among those given.
        image: the entry's place in the note.
        reason: a word of the list in `noterec.notes.images`.
        message: what is wrong, what was expected, what to do.
    """

    note: int
    image: int
    reason: str
    message: str


@dataclasses.dataclass(frozen=True)
class Added:
    """What came of the pictures of B notes.

    Attributes:
        rows: for each note (k,) int64, the gallery's rows of its usable pictures, in their order.
        rejects: those that were tried and can't be used, by note and image.
        computed: distinct pictures that were decoded now.
        cached: distinct pictures whose features an earlier run, or another process, left on disk.
    """

    rows: list[np.ndarray]
    rejects: list[Rejected]
    computed: int
    cached: int


class Gallery:
    """Pictures by the hash of their bytes, as rows: features of a frozen encoder, or pixels for one that is trained.

    Processes that decode stay from one `add` to the next, until `close`, or the end of a `with`. By then all that was computed is
    on disk, where there is a cache; before, what fills a part of 64 MiB (see `Shelf`).
    """

    def __init__(
        self,
        tower: VisionTower,
        source: ImageSource,
        *,
        frozen: bool,
        images: int,
        folder: Path | None = None,
        config: ImagesConfig,
        batch_images: int = 32,
        workers_default: int | None = None,
    ) -> None:
        """Begin without pictures, but for what the cache on disk holds of this encoder.

        Args:
            tower: the vision encoder; a frozen one is put into evaluation mode and must not change from here on.
            source: where pictures are read from, and what they may be.
            frozen: keep the encoder's features, else its pixels, which stay in memory.
            images: usable pictures wanted of each note.
            folder: where the caches of features live; None keeps features in memory, as does `config.cache_gib=0`.
            config: workers and cache_gib.
            batch_images: pictures that the encoder sees at a time. Matrix products may round a sum differently for another number
                of rows, so a feature can differ in its last float16 bit from one that was computed in other company or on
                another kind of device; the cache keeps the first.
            workers_default: processes that decode where `config.workers` doesn't say; 0 for a caller that may be a script without
                `if __name__ == "__main__":`; None = up to 8 beside a GPU, else 0.
        """
        self.tower, self.source, self.frozen, self.images = tower, source, frozen, images
        self.shape: tuple[int, ...] = tuple(tower.feature_shape if frozen else tower.pixel_shape)
        self.dtype = np.dtype(np.float16 if frozen else np.uint8)
        self._batch_images = batch_images
        accelerator = next(tower.parameters()).device.type != "cpu"
        self._workers = Workers(workers_of(config, accelerator=accelerator, default=workers_default))
        self._workers_unasked = config.workers is None
        cache: FeatureCache | None = None
        if frozen and folder is not None and config.cache_gib > 0:
            # With the limits, so that what is in the cache never decides whether a picture is used.
            limits = [float(getattr(source.limits, name)) for name in DECODE_LIMITS]
            version = storage.value_hash([tower.version, limits])
            cache = FeatureCache(folder, version, self.shape, self.dtype, max(1, int(config.cache_gib * 2**30)))
        self._shelf = Shelf(self.shape, self.dtype, cache)
        self._rejects: dict[str, ImageError] = {}  # hash -> why it isn't usable
        self._reader = Reader(source)
        self._warned = False

    def __len__(self) -> int:
        """How many distinct pictures have a row."""
        return len(self._shelf)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that decode, and write to the cache what isn't yet; all rows stay, and `add` would start others.

        Raises:
            InputError: the cache's disk is full.
        """
        self._workers.close()
        self._shelf.write()

    def set_aside(self) -> Gallery:
        """All rows as a gallery of their own, to be read while this one, now empty, takes in the next notes' pictures.

        So notes are worked through part by part in bounded memory; the cache on disk stays.

        Raises:
            InputError: the cache's disk is full.
        """
        aside = copy.copy(self)
        aside._shelf = self._shelf.set_aside()
        self._rejects = {}
        self._reader.forget()
        return aside

    def clear(self) -> None:
        """Forget all rows; errors as in `set_aside`."""
        self.set_aside()

    def add(self, notes: Sequence[NoteImages], bar: Bar | None = None) -> Added:
        """Take in the pictures of notes.

        Of each note the first `images` usable entries are taken: one that is rejected gives its place to the next, and is
        reported. A note that shows the same picture twice has it twice. Beside the rows, no more is in memory at a time than the
        pictures in flight, three batches, and, with a cache, the part (64 MiB) that is being filled. What other processes add to
        the cache is seen when the gallery begins and after `set_aside`.

        Args:
            notes: entries of the images column of B notes, None for a note without.
            bar: advanced by B in all.

        Raises:
            InputError: the encoder makes a number of a picture that is none, or the cache's disk is full.
            DependencyError: worker processes can't be started.
        """
        if self.frozen:
            self.tower.eval()
        before = len(self)
        trying = Trying(
            notes, self._reader, images=self.images, rejects=self._rejects, known=self._shelf.find, bar=bar or Bar()
        )
        try:
            # Starting processes takes as long as decoding a few dozen pictures: for less, only those that were asked for.
            few = len(notes) < FEW_NOTES and self._workers_unasked and not self._workers.running
            computed = self._decode(trying, 0 if few else self._workers)
        finally:
            self._reader.close()
        rows, rejects = [], []
        for note, tried in enumerate(trying.tried):
            errors = [found if isinstance(found, ImageError) else self._rejects.get(found) for found in tried]
            usable = [self._shelf.row(str(name)) for name, error in zip(tried, errors, strict=True) if error is None]
            rows.append(np.array(usable, np.int64))
            rejects += [
                Rejected(note, image, error.reason, str(error))
                for image, error in enumerate(errors)
                if error is not None
            ]
        return Added(rows, rejects, computed, len(self) - before - computed)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Pictures by row.

        Args:
            rows: (n,) int64, as `add` returned them.

        Returns:
            Where the encoder is frozen (n, 1+S, V) float16 features, else (n, 3, h, w) uint8 pixels.

        Raises:
            IndexError: there is no such row.
        """
        return self._shelf.take(rows)

    def hashes(self, rows: np.ndarray) -> list[str]:
        """What tells pictures from each other, by row: (n,) int64 to n hashes of their bytes."""
        return self._shelf.names(rows)

    def _decode(self, trying: Trying, workers: Workers | int) -> int:
        """Decode, compute and keep all that is new; how many that were."""
        source = ImageSource(limits=self.source.limits)  # workers are given bytes and read no path
        then = Transformed(self.tower.transform)
        computed = 0
        with contextlib.closing(decode_all(trying.entries(), source, workers=workers, then=then)) as results:
            for names, values in self._computed(_batches(results, trying, self._batch_images)):
                self._shelf.put(names, values)
                trying.done(names)
                computed += len(names)
                self._mind_memory()
        return computed

    def _mind_memory(self) -> None:
        """Say once that pixels take much memory."""
        each = math.prod(self.shape)  # bytes
        if self.frozen or self._warned or len(self) * each <= MUCH_BYTES:
            return
        self._warned = True
        logger.warning(
            "the pixels of %d pictures take %.1f GiB of memory, %d KiB each, and those of all others are kept beside them: a "
            "vision encoder that is trained sees them again and again. Where that is too much, give a smaller vision.image_px or "
            "fewer notes; or vision.train=false, which keeps features, on disk",
            len(self),
            len(self) * each / 2**30,
            each // 2**10,
        )

    def _computed(self, batches: Iterator[tuple[list[str], np.ndarray]]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Names of I pictures and what is kept of them, (I, *shape), from names and pixels.

        The encoder has a thread of its own and computes one batch while the next is decoded. Nothing of the caller's mode, such as
        autocast, reaches into it.
        """
        if not self.frozen:
            yield from batches
            return
        with ThreadPoolExecutor(1, thread_name_prefix="noterec-tower") as thread:
            running: tuple[list[str], Future[np.ndarray]] | None = None
            for names, pixels in batches:
                following = names, thread.submit(self._features, names, pixels)
                if running is not None:
                    yield running[0], running[1].result()
                running = following
            if running is not None:
                yield running[0], running[1].result()

    @torch.inference_mode()
    def _features(self, names: list[str], pixels: np.ndarray) -> np.ndarray:
        """(I, 1+S, V) float16 of (I, 3, h, w) uint8."""
        device = next(self.tower.parameters()).device
        features = self.tower(torch.from_numpy(pixels).to(device)).to(torch.float16)  # (I, 1+S, V)
        finite = features.isfinite().flatten(1).all(1).cpu().numpy()  # (I,)
        if not finite.all():
            raise InputError(
                f"{self.tower.name or 'the vision encoder'}: the features of the picture with hash {names[int(np.argmin(finite))]} "
                "are not finite numbers within float16's range (65,504); check the vision encoder's weights, or take another"
            )
        return np.asarray(features.cpu())


def _batches(
    results: Iterable[np.ndarray | ImageError], trying: Trying, size: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Hashes and pixels (I, 3, h, w) of the usable pictures, at most `size` at a time."""
    names: list[str] = []
    batch: list[np.ndarray] = []
    for result in results:
        name = trying.came(result)
        if name is None or isinstance(result, ImageError):
            continue
        names.append(name)
        batch.append(result)
        if len(batch) == size:
            yield names, np.stack(batch)
            names, batch = [], []
    if batch:
        yield names, np.stack(batch)
