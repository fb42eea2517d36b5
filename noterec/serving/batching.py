"""Notes of many requests, encoded together by the one thread that owns the model.

Requests hand their notes over and wait. The thread takes the first, waits a few milliseconds for others, and encodes them in one
call: on a GPU that costs little more than one note. Where the call fails, each request is tried alone, so that a note that can't
be encoded fails its own request and no other.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from noterec.notes.note import Note
from noterec.serving.metrics import Metrics
from noterec.serving.refusals import Refusal, stopping

if TYPE_CHECKING:
    from noterec.config import ServeConfig
    from noterec.model.encoder import NoteEncoder

logger = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class _Notes:
    """Notes of one request, and where their vectors go."""

    notes: Sequence[Note]
    future: Future[np.ndarray]
    since: float


@dataclasses.dataclass(frozen=True)
class _Call:
    """Something else to do with the encoder."""

    function: Callable[[NoteEncoder], Any]
    future: Future[Any]


class Batcher:
    """The thread that owns an encoder.

    Attributes:
        encoder: as it was loaded; only `run` may use it.
    """

    def __init__(self, encoder: NoteEncoder, config: ServeConfig, metrics: Metrics) -> None:
        """Start the thread."""
        self.encoder = encoder
        self._fast = encoder if config.precision == "fp32" else encoder.accelerated(config.precision)
        self._config = config
        self._metrics = metrics
        self._queue: queue.SimpleQueue[_Notes | _Call | None] = queue.SimpleQueue()
        self._waiting = 0
        self._lock = threading.Lock()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="noterec-encoder", daemon=True)
        self._thread.start()

    async def encode(self, notes: Sequence[Note]) -> np.ndarray:
        """Vectors of notes that are fit to be encoded.

        Args:
            notes: b notes, their pictures as bytes that were found to be usable.

        Returns:
            (b, D) float32, unit-norm.

        Raises:
            Refusal: too many notes are waiting, or the service stops.
            InputError: one of these notes can't be encoded.
        """
        with self._lock:
            if self._waiting and self._waiting + len(notes) > self._config.max_waiting:
                raise Refusal(429, f"{self._waiting} notes wait to be encoded; try again in a second", retry_seconds=1)
            self._waiting += len(notes)
        self._metrics.waiting.inc(len(notes))
        future: Future[np.ndarray] = Future()
        future.add_done_callback(lambda _: self._left(len(notes)))
        self._put(_Notes(notes, future, time.perf_counter()))
        return await asyncio.wrap_future(future)

    async def run(self, function: Callable[[NoteEncoder], Result]) -> Result:
        """Call a function with the encoder, in its thread: what it does keeps others waiting."""
        future: Future[Result] = Future()
        self._put(_Call(function, future))
        return await asyncio.wrap_future(future)

    def close(self, seconds: float = 10) -> None:
        """Finish what was handed over, then end the thread; it is waited for no longer than so many seconds."""
        with self._lock:
            self._closed = True
        self._queue.put(None)
        self._thread.join(seconds)

    def _put(self, item: _Notes | _Call) -> None:
        with self._lock:
            if not self._closed:
                self._queue.put(item)
                return
        item.future.cancel()
        raise stopping()

    def _left(self, notes: int) -> None:
        with self._lock:
            self._waiting -= notes
        self._metrics.waiting.dec(notes)

    def _work(self) -> None:
        held: _Notes | _Call | None = None
        while True:
            item = held if held is not None else self._queue.get()
            held = None
            if item is None:
                return
            if isinstance(item, _Call):
                self._call(item)
                continue
            batch, held, ended = self._gather(item)
            self._encode([job for job in batch if job.future.set_running_or_notify_cancel()])
            if ended:
                return

    def _gather(self, first: _Notes) -> tuple[list[_Notes], _Notes | _Call | None, bool]:
        """Those that are encoded with the first, one that was taken and isn't, and whether that was the end."""
        batch, notes = [first], len(first.notes)
        until = time.perf_counter() + self._config.batch_wait_ms / 1000
        while notes < self._config.batch_notes:
            try:
                item = self._queue.get(timeout=max(0.0, until - time.perf_counter()))
            except queue.Empty:
                break
            if item is None:
                return batch, None, True
            if isinstance(item, _Call) or notes + len(item.notes) > self._config.batch_notes:
                return batch, item, False
            batch.append(item)
            notes += len(item.notes)
        return batch, None, False

    def _encode(self, batch: list[_Notes]) -> None:
        if not batch:
            return
        start = time.perf_counter()
        for job in batch:
            self._metrics.stage("queue", start - job.since)
        notes = [note for job in batch for note in job.notes]
        self._metrics.batch_notes.observe(len(notes))
        self._metrics.batch_requests.observe(len(batch))
        try:
            vectors = self._vectors(notes)  # (B, D)
        except BaseException as error:
            if len(batch) == 1:
                batch[0].future.set_exception(error)
                return
            for job in batch:
                try:
                    job.future.set_result(self._vectors(job.notes))
                except BaseException as own:
                    job.future.set_exception(own)
            return
        finally:
            self._metrics.stage("encode", time.perf_counter() - start)
        ends = np.cumsum([len(job.notes) for job in batch])
        for job, part in zip(batch, np.split(vectors, ends[:-1]), strict=True):
            job.future.set_result(part)

    def _vectors(self, notes: Sequence[Note]) -> np.ndarray:
        return self._fast.encode(notes, batch_tokens=self._config.batch_tokens, images=self._config.images)

    def _call(self, call: _Call) -> None:
        if not call.future.set_running_or_notify_cancel():
            return
        try:
            call.future.set_result(call.function(self.encoder))
        except BaseException as error:
            call.future.set_exception(error)
