"""The service: a live index, an encoder, the answers that are kept, and what is asked of them. It knows nothing of HTTP.

Who owns what: the index is searched in one thread, changes go to disk in another, and the model computes in a third (`Encoding`).
The event loop only hands over and waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from noterec.config import ServeConfig
from noterec.errors import NoterecError
from noterec.index.search import Index
from noterec.index.searchable import Floats
from noterec.notes.note import Note
from noterec.serving.answers import Answer, answered, known_row, unit
from noterec.serving.attributes import attributes_of, change_table
from noterec.serving.cache import AnswerCache, key_of
from noterec.serving.encoding import Encoding
from noterec.serving.live import LiveIndex
from noterec.serving.messages import (
    ChangeResponse,
    EmbedRequest,
    EmbedResponse,
    NewNote,
    NoteContent,
    NoteResponse,
    Readiness,
    SimilarRequest,
    SimilarResponse,
)
from noterec.serving.metrics import Metrics
from noterec.serving.refusals import Refusal, stopping

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder
    from noterec.serving.explorer.catalogue import Catalogue
    from noterec.serving.explorer.related import Related

logger = logging.getLogger(__name__)

Path = str | os.PathLike[str]
Result = TypeVar("Result")


class Service:
    """Answers questions about neighbours.

    Attributes:
        config: the settings.
        token: what a request must carry to change the index; None = nobody can.
        metrics: what it counts.
        catalogue: the notes as people see them, or None.
        related: who engaged with what together, or None.
        report: the folder of the latest evaluation, or None.
        draining: it was told to stop.
    """

    def __init__(
        self,
        index: Path,
        *,
        encoder: NoteEncoder | None = None,
        exchange: Callable[[str], NoteEncoder] | None = None,
        catalogue: Catalogue | None = None,
        related: Related | None = None,
        report: Path | None = None,
        token: str | None = None,
        config: ServeConfig = ServeConfig(),
    ) -> None:
        """Open the index beside what is loaded already; `open_service` loads it all.

        Args:
            index: the index's folder.
            encoder, catalogue, related, report, token, config: see the attributes.
            exchange: loads the encoder of another model version, for a newer index that needs it.

        Raises:
            InputError, ArtefactError: the index can't be opened, or is of another model version than the encoder.
        """
        self.config, self.token, self.metrics = config, token, Metrics()
        self.catalogue, self.related, self.report = catalogue, related, report
        self.draining = False
        self._live = LiveIndex(
            index,
            model_version=None if encoder is None else encoder.model_version,
            metrics=self.metrics,
            exchange=None if exchange is None else self._exchange,
        )
        self._encoding = Encoding(encoder, load=exchange, config=config, metrics=self.metrics)
        self._search = ThreadPoolExecutor(1, thread_name_prefix="noterec-search")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="noterec-disk")
        self._cache = AnswerCache(config.cache_bytes)
        self._cached_version = self.index.version
        self._polling: asyncio.Task[None] | None = None

    @property
    def index(self) -> Index:
        """The index that is live now; take it once per request."""
        return self._live.index

    @property
    def encoder(self) -> NoteEncoder | None:
        """The model as it was loaded, None where there is none; to compute with it use `run`."""
        return self._encoding.encoder

    def warm_up(self) -> None:
        """Answer once before anybody asks: the first search and the first batch load code and take memory."""
        index = self.index
        if len(index):
            first = index.ids[int(index.live.argmax())]
            answered(index, SimilarRequest(note_id=first), None, Metrics())
        if self.encoder is not None:
            self.encoder.encode([Note(title="warm")])

    async def start(self) -> None:
        """Begin to look for newer versions of the index."""
        self._polling = asyncio.create_task(self._poll())

    async def stop(self) -> None:
        """Answer what was asked and end all threads."""
        self.draining = True
        if self._polling is not None:
            self._polling.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._polling
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """End all threads."""
        self._encoding.close()
        for pool in (self._search, self._disk):
            pool.shutdown(wait=True, cancel_futures=True)

    def ready(self) -> Readiness:
        """Whether questions are answered, and from what."""
        index = self.index
        return Readiness(
            ready=not self.draining,
            draining=self.draining,
            index_version=index.version,
            notes=len(index),
            model_version=index.model_version,
            encoder=self.encoder is not None,
            problem=self._live.problem,
        )

    async def similar(self, request: SimilarRequest) -> SimilarResponse:
        """Neighbours of a note of the index, of a note that nobody has seen, or of a vector.

        Raises:
            Refusal: as `answer`.
        """
        return SimilarResponse.model_validate_json((await self.answer(request)).json)

    async def answer(self, request: SimilarRequest) -> Answer:
        """As `similar`, in the form in which answers are sent and kept.

        Raises:
            Refusal: 404 for an unknown note, 422 for what can't be answered, 429 or 503 where the encoder can't.
        """
        if request.k > self.config.max_k:
            raise Refusal(422, f"k={request.k}; this service gives at most {self.config.max_k} neighbours (max_k)")
        if request.note is not None:
            self._encoding.check([request.note])
        for _ in range(2):  # once more where the model was exchanged between the two looks
            index = self.index
            answer = await self._answer(index, request)
            if answer is not None:
                return answer
        raise _exchanging()

    async def _answer(self, index: Index, request: SimilarRequest) -> Answer | None:
        """The answer from an index; None where the encoder is that of another one by now."""
        vector: Floats | None = None
        if request.note is not None:
            key = await asyncio.to_thread(key_of, index.version, request)  # of megabytes, where it has pictures
        else:
            vector = None if request.vector is None else unit(request.vector, index)  # (D,)
            key = key_of(index.version, request)
        self._forget_older()
        kept = self._cache.get(key)
        self.metrics.cache.labels("miss" if kept is None else "hit").inc()
        if kept is not None:
            return Answer(kept, kept=True)
        if request.note is not None:
            vectors, version = await self._encoding.encode([request.note])
            if version != index.model_version:
                return None
            vector = vectors[0]  # (D,)
        answer = await self._in(
            self._search, lambda: answered(index, request, vector, self.metrics).model_dump_json().encode()
        )
        if self.index is index:
            self._cache.put(key, answer)
            self.metrics.cache_entries.set(len(self._cache))
        return Answer(answer, kept=False)

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Vectors of notes; Refusal as in `encode`."""
        vectors, version = await self._encoding.encode(request.notes)  # (B, D)
        return EmbedResponse(vectors=vectors.tolist(), dimension=vectors.shape[1], model_version=version)

    async def encode(self, contents: Sequence[NoteContent]) -> np.ndarray:
        """Encode notes from outside: (B, D) float32, unit-norm; Refusal as in `Encoding.encode`."""
        return (await self._encoding.encode(contents))[0]

    async def as_note(self, content: NoteContent) -> Note:
        """A note from outside, fit for the encoder; Refusal as in `Encoding.encode`."""
        return (await self._encoding.fit([content]))[0]

    async def run(self, function: Callable[[NoteEncoder], Result]) -> Result:
        """Call a function with the encoder in the thread that owns it; Refusal (503) without a model."""
        return await self._encoding.run(function)

    async def write(self, steps: Sequence[Callable[[NoteEncoder], Result]]) -> list[Result]:
        """Have the model write, step by step; arguments, result and Refusal as `Encoding.write`."""
        return await self._encoding.write(steps)

    async def note(self, note_id: str) -> NoteResponse:
        """What the index keeps of a note; Refusal (404) where it has none of this id."""
        index = self.index

        def read() -> NoteResponse:
            row = known_row(index, note_id)
            return NoteResponse(
                note_id=note_id,
                attributes=attributes_of(index, row),
                index_version=index.version,
                model_version=index.model_version,
            )

        return await self._in(self._search, read)

    async def add(self, note: NewNote) -> ChangeResponse:
        """Encode a note and add it, or put it in the place of the one with its id; on disk and live when this returns.

        Raises:
            Refusal: as `encode`; 422 for attributes that the index doesn't keep; 403 for a bundle; 503 where the index can't be
                changed now.
        """
        self._check_changeable()
        change_table(self.index, note, None)  # before anything is computed
        vectors, version = await self._encoding.encode([note])  # (1, D)

        def change() -> ChangeResponse:
            if self.index.model_version != version:
                raise _exchanging()
            vector = vectors[0]  # (D,)
            found = note.note_id in self.index
            table = change_table(self.index, note, vector)
            self._changing(lambda: self._live.add(table))
            return self._changed(note.note_id, "replaced" if found else "added")

        return await self._in(self._disk, change)

    async def remove(self, note_id: str) -> ChangeResponse:
        """Remove a note for good, on disk and from the live index when this returns.

        One that the index doesn't have is kept out of later builds all the same: its vector may be on the way.

        Raises:
            Refusal: 403 for a bundle; 503 where the index can't be changed now.
        """
        self._check_changeable()

        def change() -> ChangeResponse:
            found = note_id in self.index
            self._changing(lambda: self._live.remove([note_id]))
            return self._changed(note_id, "removed" if found else "kept_out")

        return await self._in(self._disk, change)

    def _exchange(self, version: str) -> Callable[[], None]:
        return self._encoding.exchange(version)

    def _check_changeable(self) -> None:
        if self.index.folder == self._live.path:
            raise Refusal(403, "this service serves one bundle, which never changes; start it with the index's folder")

    def _changing(self, function: Callable[[], None]) -> None:
        try:
            function()
        except (NoterecError, OSError) as error:
            logger.exception("the index can't be changed")
            raise Refusal(503, "the index can't be changed now; the log says why", retry_seconds=5) from error

    def _changed(self, note_id: str, change: Any) -> ChangeResponse:
        self.metrics.changes.labels(change).inc()
        index = self.index
        return ChangeResponse(
            note_id=note_id, change=change, index_version=index.version, model_version=index.model_version
        )

    def _forget_older(self) -> None:
        version = self.index.version
        if version != self._cached_version:
            self._cache.clear()
            self._cached_version = version
            self.metrics.cache_entries.set(0)

    async def _in(self, pool: Executor, function: Callable[[], Result]) -> Result:
        try:
            future = asyncio.get_running_loop().run_in_executor(pool, function)
        except RuntimeError as error:  # the pool is closed
            raise stopping() from error
        return await future

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self.config.poll_seconds)
            try:
                await self._in(self._disk, self._live.refresh)
            except Exception:
                logger.exception("looking for a newer index failed; it is tried again")


def _exchanging() -> Refusal:
    return Refusal(503, "the model is being exchanged for another one; ask again", retry_seconds=1)
