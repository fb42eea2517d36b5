"""What a service does with its model: notes from outside are checked, encoded and written about; and the model is exchanged.

The model computes in one thread (`Batcher`), pictures are decoded in a few others. When a newer index is of another model, its
encoder is loaded beside the older one, and takes its place in the moment in which the index goes live.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from noterec.config import ServeConfig
from noterec.errors import InputError
from noterec.notes.note import Note
from noterec.serving.batching import Batcher
from noterec.serving.fitness import check_pictures, fit_notes
from noterec.serving.messages import NoteContent
from noterec.serving.metrics import Metrics
from noterec.serving.refusals import Refusal, stopping

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder

Result = TypeVar("Result")


class Encoding:
    """The model of a service, or the lack of one.

    Attributes:
        batcher: the thread that owns the model now, None where there is none; take it once per request.
    """

    def __init__(
        self,
        encoder: NoteEncoder | None,
        *,
        load: Callable[[str], NoteEncoder] | None,
        config: ServeConfig,
        metrics: Metrics,
    ) -> None:
        """Start the threads.

        Args:
            encoder: the model, None = there is none.
            load: loads the encoder of another model version; None = the model is never exchanged.
            config: limits.
            metrics: learns what was done.
        """
        self._config, self._metrics, self._load = config, metrics, load
        self.batcher = None if encoder is None else Batcher(encoder, config, metrics)
        self._decoders = ThreadPoolExecutor(config.decoders, thread_name_prefix="noterec-decode")
        self._writing: asyncio.Task[Any] | None = None

    @property
    def encoder(self) -> NoteEncoder | None:
        """The model as it was loaded; to compute with it use `run`."""
        return None if self.batcher is None else self.batcher.encoder

    def check(self, contents: Sequence[NoteContent]) -> None:
        """Refuse what is known to be refused before anything is computed.

        Raises:
            Refusal: 503 without a model, 422 for too many notes, or pictures that can't be used.
        """
        if self.encoder is None:
            raise _no_model()
        if len(contents) > self._config.max_notes:
            raise Refusal(
                422, f"{len(contents)} notes; this service encodes at most {self._config.max_notes} (max_notes)"
            )
        check_pictures(contents, sees=self._sees(), config=self._config)

    async def fit(self, contents: Sequence[NoteContent]) -> list[Note]:
        """Notes from outside, fit for the encoder; Refusal as in `encode`."""
        self.check(contents)
        until, sees = time.monotonic() + self._config.request_seconds, self._sees()

        def decoded() -> list[Note]:
            return fit_notes(contents, sees=sees, config=self._config, metrics=self._metrics, until=until)

        try:
            future = asyncio.get_running_loop().run_in_executor(self._decoders, decoded)
        except RuntimeError as error:  # the pool is closed
            raise stopping() from error
        return await future

    async def encode(self, contents: Sequence[NoteContent]) -> tuple[np.ndarray, str]:
        """Encode notes from outside.

        Returns:
            (B, D) float32, unit-norm; and the model version that made them.

        Raises:
            Refusal: 422 for a note that has nothing to read or a picture that can't be used, 429 where too many are waiting,
                503 without a model.
        """
        notes = await self.fit(contents)
        batcher = self.batcher
        assert batcher is not None, "fit refuses without an encoder"
        try:
            return await batcher.encode(notes), batcher.encoder.model_version
        except InputError as error:
            raise Refusal(422, str(error)) from error

    async def run(self, function: Callable[[NoteEncoder], Result]) -> Result:
        """Call a function with the encoder in the thread that owns it; Refusal (503) without a model."""
        if self.batcher is None:
            raise _no_model()
        return await self.batcher.run(function)

    async def write(self, steps: Sequence[Callable[[NoteEncoder], Result]]) -> list[Result]:
        """Have the model write, step by step; what waits to be encoded is encoded between two steps.

        Returns:
            What each step returned.

        Raises:
            Refusal: 403 where the model may not write (the setting `writing`), 429 while it writes for somebody else, also for one
                who has left; 503 without a model.
        """
        if not self._config.writing:
            raise Refusal(403, "the model may not write here (the setting `writing` is off)", code="no_writing")
        if self._writing is not None and not self._writing.done():
            raise Refusal(429, "the model is writing about another note; try again in a few seconds", retry_seconds=3)

        async def written() -> list[Result]:
            return [await self.run(step) for step in steps]

        self._writing = task = asyncio.create_task(written())
        return await asyncio.shield(task)

    def exchange(self, version: str) -> Callable[[], None]:
        """Load the encoder of another model version; returns what puts it in the place of the older one.

        Raises:
            ArtefactError: it isn't there.
        """
        assert self._load is not None, "called only where there is a way"
        encoder = self._load(version)
        encoder.encode([Note(title="warm")])
        newer = Batcher(encoder, self._config, self._metrics)

        def put_in_place() -> None:
            older, self.batcher = self.batcher, newer
            if older is not None:  # requests that took it may still hand over to it
                retire = threading.Timer(self._config.request_seconds, older.close)
                retire.daemon = True
                retire.start()

        return put_in_place

    def close(self) -> None:
        """Finish what was handed over, and end the threads."""
        if self.batcher is not None:
            self.batcher.close()
        self._decoders.shutdown(wait=True, cancel_futures=True)

    def _sees(self) -> bool:
        encoder = self.encoder
        return encoder is not None and encoder.sight is not None


def _no_model() -> Refusal:
    return Refusal(
        503, "this service has no model, so it can't encode notes; ask by note_id or vector", code="no_model"
    )
