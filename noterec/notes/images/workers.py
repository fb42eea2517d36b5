"""Many pictures, decoded in order, in this process or in several.

A worker process that dies (most often the system kills it for lack of memory) costs one picture, not the job: those that were
in flight are decoded again one at a time, and the one that kills its worker once more is rejected.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any, Self, TypeVar

import numpy as np

from noterec.errors import DependencyError, ImageError, InputError
from noterec.notes.images.decode import decode, pixels
from noterec.notes.images.source import Entry, ImageSource

if TYPE_CHECKING:
    from PIL.Image import Image

LOOK_AHEAD = 4  # pictures in flight per worker

T = TypeVar("T")


class Workers:
    """Processes that decode: the first starts when there is something to do, and they stay until `close`.

    One that is forgotten ends its processes when it is collected, at the latest with this process. A script that starts some
    needs its `if __name__ == "__main__":`.

    Attributes:
        count: how many at most; 0 = everything is done in this process.
    """

    def __init__(self, count: int) -> None:
        """Start nothing yet.

        Raises:
            InputError: the count is negative.
        """
        if count < 0:
            raise InputError(f"workers is {count}; expected 0 (decode in this process) or a number of processes")
        self.count = count
        self._pool: ProcessPoolExecutor | None = None  # ends its processes itself once nobody holds it

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def running(self) -> bool:
        """Whether processes have been started and not been ended."""
        return self._pool is not None

    def close(self) -> None:
        """End the processes, once what they were given is done; if there is more to do later, others are started."""
        if self._pool is not None:
            self._pool.shutdown()
        self._pool = None

    def submit(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Have a function called in one of the processes.

        Returns:
            Its result; or BrokenProcessPool where the process died, or another had died unnoticed before.

        Raises:
            DependencyError: processes can't be started here.
        """
        self._pool = self._pool or _started(self.count)
        try:
            with _deaf_to_interrupts():
                return self._pool.submit(function, *arguments)
        except BrokenProcessPool as error:
            future: Future[T] = Future()
            future.set_exception(error)
            return future


def as_array(image: Image, data: bytes) -> np.ndarray:
    """What `decode_all` makes of a picture unless told otherwise: (height, width, 3) uint8."""
    return pixels(image)


def decode_all(
    entries: Iterable[Entry],
    source: ImageSource,
    *,
    workers: Workers | int = 0,
    then: Callable[[Image, bytes], T] = as_array,  # type: ignore[assignment]  # the default binds T
) -> Generator[T | ImageError]:
    """Read and decode entries of the images column, in order.

    Args:
        entries: consumed lazily, at most LOOK_AHEAD x workers ahead of what was taken.
        source: where paths may be read from, and the limits.
        workers: processes, which stay when this is over, for one call at a time; or a number of them for this call alone; 0 = in
            this process.
        then: what to make of a decoded picture and its file's bytes, in the worker, so that little travels back; a function
            that pickle knows. Its errors are raised here.

    Returns:
        For every entry what `then` returned, or the ImageError that says why there is no picture. Closed early, it drops what is
        in flight.

    Raises:
        InputError: `workers` is negative.
        DependencyError: worker processes can't be started here.
    """
    if isinstance(workers, Workers):
        own = None
    else:
        workers = own = Workers(workers)
    if workers.count == 0:
        return (_one(entry, source, then) for entry in entries)
    return _in_processes(iter(entries), source, then, workers, own)


def _one(entry: Entry, source: ImageSource, then: Callable[[Image, bytes], T]) -> T | ImageError:
    try:
        data = source.read(entry)
        image = decode(data, source.limits)
    except ImageError as error:
        return ImageError(error.reason, str(error))  # a fresh one: the other's traceback holds on to the picture
    return then(image, data)


def _in_processes(
    entries: Iterator[Entry],
    source: ImageSource,
    then: Callable[[Image, bytes], T],
    workers: Workers,
    own: Workers | None,
) -> Generator[T | ImageError]:
    flying: collections.deque[tuple[Entry, Future[T | ImageError]]] = collections.deque()
    try:
        while True:
            for entry in itertools.islice(entries, workers.count * LOOK_AHEAD - len(flying)):
                flying.append((entry, workers.submit(_one, entry, source, then)))
            if not flying:
                return
            try:
                result = flying[0][1].result()
            except BrokenProcessPool:
                workers.close()
                yield from _one_at_a_time(flying, source, then)
                continue
            flying.popleft()
            yield result
    finally:
        for _, future in flying:
            future.cancel()
        if own is not None:
            own.close()


def _one_at_a_time(
    flying: collections.deque[tuple[Entry, Future[T | ImageError]]],
    source: ImageSource,
    then: Callable[[Image, bytes], T],
) -> Iterator[T | ImageError]:
    """The results of all that were in flight when a worker died, those still open computed again, each alone."""
    with Workers(1) as alone:
        while flying:
            entry, future = flying.popleft()
            result: T | ImageError
            try:
                result = future.result()
            except BrokenProcessPool:
                try:
                    result = alone.submit(_one, entry, source, then).result()
                except BrokenProcessPool:
                    alone.close()
                    result = ImageError(
                        "worker-died",
                        "the process that decoded the picture was killed, most often for lack of memory; lower max_pixels",
                    )
            yield result


def _started(workers: int) -> ProcessPoolExecutor:
    """Fresh processes, not forks: the caller may hold threads or an accelerator."""
    pool = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_enter)
    try:
        with _deaf_to_interrupts():
            first = pool.submit(os.getpid)
        first.result()  # if none can start, every picture would look like the one that killed it
    except BrokenProcessPool as error:
        pool.shutdown()
        raise DependencyError(
            "no worker process can be started: in a script, put what starts them under `if __name__ == '__main__':`, "
            "or use workers=0"
        ) from error
    return pool


@contextlib.contextmanager
def _deaf_to_interrupts() -> Iterator[None]:
    """Ctrl-C reaches every process of a terminal, and is the parent's to handle: those started in here never hear it, not even
    before their first line of Python."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _enter() -> None:
    """In a new worker: if its parent was killed it ends too."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
