"""The pictures of notes as the vision encoder takes them in: each distinct one is decoded, and where the encoder is frozen also
computed, once, however many notes show it and however often training comes back to it."""

from __future__ import annotations

import array
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from noterec.config import ImagesConfig
from noterec.errors import ImageError, InputError
from noterec.model.vision.cache import FeatureCache
from noterec.model.vision.trying import NoteImages, Reader, Transformed, Trying, workers_of
from noterec.notes.images.source import ImageSource
from noterec.notes.images.workers import Workers, decode_all
from noterec.progress import Bar

if TYPE_CHECKING:
    from noterec.model.vision.tower import VisionTower

FEW_NOTES = 32
PART_BYTES = 64 * 2**20  # of features that are put away together: a shard of the cache, or an array in memory


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

    Processes that decode stay from one `add` to the next, until `close`, or the end of a `with`.
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
        """
        self.tower, self.source, self.frozen, self.images = tower, source, frozen, images
        self.shape: tuple[int, ...] = tuple(tower.feature_shape if frozen else tower.pixel_shape)
        self.dtype = np.dtype(np.float16 if frozen else np.uint8)
        self._batch_images = batch_images
        self._workers = Workers(workers_of(config, accelerator=next(tower.parameters()).device.type != "cpu"))
        self._workers_chosen = config.workers is not None
        self._cache: FeatureCache | None = None
        if frozen and folder is not None and config.cache_gib > 0:
            limit = max(1, int(config.cache_gib * 2**30))
            self._cache = FeatureCache(folder, tower.version, self.shape, self.dtype, limit)
        self._reader = Reader(source)
        self._begin()

    def _begin(self) -> None:
        self._rows: dict[str, int] = {}  # hash -> row
        self._names: list[str] = []  # row -> hash
        self._rejects: dict[str, ImageError] = {}  # hash -> why it isn't usable
        self._parts: list[np.ndarray] = []  # (n, *shape) each, in memory or mapped
        self._part, self._place = array.array("i"), array.array("i")  # of a row: which part, and where in it
        self._part_of_shard: dict[int, int] = {}

    def __len__(self) -> int:
        """How many distinct pictures have a row."""
        return len(self._part)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes that decode; all rows stay, and `add` would start others."""
        self._workers.close()

    def clear(self) -> None:
        """Forget all rows, so that notes can be worked through part by part in bounded memory; the cache on disk stays."""
        self._begin()
        self._reader.forget()
        if self._cache is not None:
            self._cache.release()

    def add(self, notes: Sequence[NoteImages], bar: Bar | None = None) -> Added:
        """Take in the pictures of notes.

        Of each note the first `images` usable entries are taken: one that is rejected gives its place to the next, and is
        reported. A note that shows the same picture twice has it twice. Beside the rows, no more is in memory at a time than the
        pictures in flight, three batches, and one part (64 MiB) that is not yet put away. With a cache, a call ends by writing a
        shard, so many notes at a time make few, large ones.

        Args:
            notes: entries of the images column of B notes, None for a note without.
            bar: advanced by B in all.

        Raises:
            InputError: the encoder makes a number of a picture that is none, or the cache's disk is full.
            DependencyError: worker processes can't be started.
        """
        if self.frozen:
            self.tower.eval()
        if self._cache is not None:
            self._cache.refresh()
        before = len(self)
        trying = Trying(
            notes, self._reader, images=self.images, rejects=self._rejects, known=self._known, bar=bar or Bar()
        )
        try:
            # Starting processes takes as long as decoding a few dozen pictures: for less, only those that were asked for.
            few = len(notes) < FEW_NOTES and not self._workers_chosen and not self._workers.running
            computed = self._decode(trying, 0 if few else self._workers)
        finally:
            self._reader.close()
        rows, rejects = [], []
        for note, tried in enumerate(trying.tried):
            errors = [found if isinstance(found, ImageError) else self._rejects.get(found) for found in tried]
            usable = [self._rows[str(name)] for name, error in zip(tried, errors, strict=True) if error is None]
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
        rows = np.asarray(rows, np.int64)
        out = np.empty((len(rows), *self.shape), self.dtype)
        if not len(rows):
            return out
        if rows.min() < 0 or rows.max() >= len(self):
            raise IndexError(f"rows from {rows.min()} to {rows.max()}; expected 0 to {len(self) - 1}")
        part = np.frombuffer(self._part, np.int32)[rows]  # (n,)
        place = np.frombuffer(self._place, np.int32)[rows]  # (n,)
        order = np.argsort(part, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):  # each of one part
            out[group] = self._parts[part[group[0]]][place[group]]
        return out

    def hashes(self, rows: np.ndarray) -> list[str]:
        """What tells pictures from each other, by row: (n,) int64 to n hashes of their bytes."""
        return [self._names[row] for row in rows]

    def _known(self, name: str) -> bool:
        """Whether a picture has a row, or gets one now from the cache."""
        if name in self._rows:
            return True
        found = None if self._cache is None else self._cache.find(name)
        if found is None or self._cache is None:
            return False
        shard, place = found
        if shard not in self._part_of_shard:
            self._part_of_shard[shard] = len(self._parts)
            self._parts.append(self._cache.values(shard))
        self._new_row(name, self._part_of_shard[shard], place)
        return True

    def _new_row(self, name: str, part: int, place: int) -> None:
        self._rows[name] = len(self._part)
        self._names.append(name)
        self._part.append(part)
        self._place.append(place)

    def _decode(self, trying: Trying, workers: Workers | int) -> int:
        """Decode, compute and put away all that is new; how many that were."""
        source = ImageSource(limits=self.source.limits)  # workers are given bytes and read no path
        then = Transformed(self.tower.transform)
        computed = 0
        names: list[str] = []
        ready: list[np.ndarray] = []
        with contextlib.closing(decode_all(trying.entries(), source, workers=workers, then=then)) as results:
            for some, values in self._computed(_batches(results, trying, self._batch_images)):
                computed += len(some)
                names += some
                ready.append(values)
                if sum(part.nbytes for part in ready) >= PART_BYTES:
                    self._put_away(names, ready, trying)
                    names, ready = [], []
        if ready:
            self._put_away(names, ready, trying)
        return computed

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

    def _put_away(self, names: list[str], ready: list[np.ndarray], trying: Trying) -> None:
        values = np.concatenate(ready)
        part = len(self._parts)
        if self._cache is None:
            self._parts.append(values)
        else:
            shard = self._cache.add(names, values)
            self._part_of_shard[shard] = part
            self._parts.append(self._cache.values(shard))
        for place, name in enumerate(names):
            self._new_row(name, part, place)
        trying.done(names)


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
