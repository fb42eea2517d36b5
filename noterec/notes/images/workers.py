"""Many pictures, decoded in order, in this process or in several.

A worker process that dies (most often the system kills it for lack of memory) costs one picture, not the job: those that were
in flight are decoded again one at a time, and the one that kills its worker once more is rejected.
"""

from __future__ import annotations

import collections
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from noterec.errors import DependencyError, ImageError, InputError
from noterec.notes.images.decode import decode, pixels
from noterec.notes.images.source import Entry, ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

LOOK_AHEAD = 4  # pictures in flight per worker

T = TypeVar("T")


def as_array(image: Image, data: bytes) -> np.ndarray:
    """What `decode_all` makes of a picture unless told otherwise: (height, width, 3) uint8."""
    return pixels(image)


def decode_all(
    entries: Iterable[Entry],
    source: ImageSource,
    *,
    workers: int = 0,
    then: Callable[[Image, bytes], T] = as_array,  # type: ignore[assignment]  # the default binds T
) -> Iterator[T | ImageError]:
    """Read and decode entries of the images column, in order.

    Args:
        entries: consumed lazily, at most LOOK_AHEAD x workers ahead of what was taken.
        source: where paths may be read from, and the limits.
        workers: processes; 0 = in this one. A script that starts some needs its `if __name__ == "__main__":`.
        then: what to make of a decoded picture and its file's bytes, in the worker, so that little travels back; a function
            that pickle knows. Its errors are raised here.

    Returns:
        For every entry what `then` returned, or the ImageError that says why there is no picture.

    Raises:
        InputError: `workers` is negative.
        DependencyError: worker processes can't be started here.
    """
    if workers < 0:
        raise InputError(f"workers is {workers}; expected 0 (decode in this process) or a number of processes")
    if workers == 0:
        return (_one(entry, source, then) for entry in entries)
    return _in_processes(iter(entries), source, then, workers)


def _one(entry: Entry, source: ImageSource, then: Callable[[Image, bytes], T]) -> T | ImageError:
    try:
        data = source.read(entry)
        image = decode(data, source.limits)
    except ImageError as error:
        return ImageError(error.reason, str(error))  # a fresh one: the other's traceback holds on to the picture
    return then(image, data)


def _in_processes(
    entries: Iterator[Entry], source: ImageSource, then: Callable[[Image, bytes], T], workers: int
) -> Iterator[T | ImageError]:
    flying: collections.deque[tuple[Entry, Future[T | ImageError]]] = collections.deque()
    pool = _pool(workers)
    try:
        while True:
            for entry in itertools.islice(entries, workers * LOOK_AHEAD - len(flying)):
                flying.append((entry, _submit(pool, entry, source, then)))
            if not flying:
                return
            try:
                result = flying[0][1].result()
            except BrokenProcessPool:
                pool.shutdown()
                yield from _one_at_a_time(flying, source, then)
                pool = _pool(workers)
                continue
            flying.popleft()
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _one_at_a_time(
    flying: collections.deque[tuple[Entry, Future[T | ImageError]]],
    source: ImageSource,
    then: Callable[[Image, bytes], T],
) -> Iterator[T | ImageError]:
    """The results of all that were in flight when a worker died, those still open computed again, each alone."""
    pool: ProcessPoolExecutor | None = None
    try:
        while flying:
            entry, future = flying.popleft()
            result: T | ImageError
            try:
                result = future.result()
            except BrokenProcessPool:
                pool = pool or _pool(1)
                try:
                    result = _submit(pool, entry, source, then).result()
                except BrokenProcessPool:
                    pool.shutdown()
                    pool = None
                    result = ImageError(
                        "worker-died",
                        "the process that decoded the picture was killed, most often for lack of memory; lower max_pixels",
                    )
            yield result
    finally:
        if pool is not None:
            pool.shutdown()


def _submit(
    pool: ProcessPoolExecutor, entry: Entry, source: ImageSource, then: Callable[[Image, bytes], T]
) -> Future[T | ImageError]:
    try:
        return pool.submit(_one, entry, source, then)
    except BrokenProcessPool as error:  # a worker died since the last look: it shows when this entry's turn comes
        future: Future[Any] = Future()
        future.set_exception(error)
        return future


def _pool(workers: int) -> ProcessPoolExecutor:
    """Fresh processes, not forks: the caller may hold threads or an accelerator."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_enter)
    try:
        pool.submit(os.getpid).result()  # if none can start, every picture would look like the one that killed it
    except BrokenProcessPool as error:
        pool.shutdown()
        raise DependencyError(
            "no worker process can be started: in a script, put what starts them under `if __name__ == '__main__':`, "
            "or use workers=0"
        ) from error
    return pool


def _enter() -> None:
    """In a new worker: Ctrl-C is the parent's to handle, and a worker whose parent was killed ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
