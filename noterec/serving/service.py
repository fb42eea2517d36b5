"""The service: a live index, an encoder, the answers that are kept, and what is asked of them. It knows nothing of HTTP.

Who owns what: the index is searched in one thread, the model computes in one other (`Batcher`), changes go to disk in a third, and
pictures are decoded in a few. The event loop only hands over and waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from noterec.config import ServeConfig
from noterec.errors import InputError, NoterecError
from noterec.index.search import Index
from noterec.index.searchable import Floats
from noterec.notes.note import Note
from noterec.serving.answers import Answer, answered, known_row, unit
from noterec.serving.attributes import attributes_of, change_table
from noterec.serving.batching import Batcher
from noterec.serving.cache import AnswerCache, key_of
from noterec.serving.fitness import check_pictures, fit_notes
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
from noterec.serving.refusals import Refusal

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
        encoder: the model as it was loaded, None where there is none; to compute with it use `run`.
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
        catalogue: Catalogue | None = None,
        related: Related | None = None,
        report: Path | None = None,
        token: str | None = None,
        config: ServeConfig = ServeConfig(),
    ) -> None:
        """Open the index beside what is loaded already; `open_service` loads it all.

        Raises:
            InputError, ArtefactError: the index can't be opened, or is of another model version than the encoder.
        """
        self.config, self.token, self.metrics = config, token, Metrics()
        self.encoder, self.catalogue, self.related, self.report = encoder, catalogue, related, report
        self.draining = False
        self._sees = encoder is not None and encoder.sight is not None
        version = None if encoder is None else encoder.model_version
        self._live = LiveIndex(index, model_version=version, metrics=self.metrics)
        self._batcher = None if encoder is None else Batcher(encoder, config, self.metrics)
        self._search = ThreadPoolExecutor(1, thread_name_prefix="noterec-search")
        self._disk = ThreadPoolExecutor(1, thread_name_prefix="noterec-disk")
        self._decoders = ThreadPoolExecutor(config.decoders, thread_name_prefix="noterec-decode")
        self._cache = AnswerCache(config.cache_bytes)
        self._cached_version = self.index.version
        self._polling: asyncio.Task[None] | None = None
        self._writing: asyncio.Task[Any] | None = None

    @property
    def index(self) -> Index:
        """The index that is live now; take it once per request."""
        return self._live.index

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
        if self._batcher is not None:
            self._batcher.close()
        for pool in (self._search, self._disk, self._decoders):
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
        index = self.index
        vector: Floats | None = None
        if request.note is not None:
            self._check([request.note])
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
            vector = (await self.encode([request.note]))[0]  # (D,)
        answer = await self._in(
            self._search, lambda: answered(index, request, vector, self.metrics).model_dump_json().encode()
        )
        if self.index is index:
            self._cache.put(key, answer)
            self.metrics.cache_entries.set(len(self._cache))
        return Answer(answer, kept=False)

    async def embed(self, request: EmbedRequest) -> EmbedResponse:
        """Vectors of notes; Refusal as in `encode`."""
        vectors = await self.encode(request.notes)  # (B, D)
        assert self.encoder is not None, "encode refuses without one"
        return EmbedResponse(
            vectors=vectors.tolist(), dimension=vectors.shape[1], model_version=self.encoder.model_version
        )

    async def encode(self, contents: Sequence[NoteContent]) -> np.ndarray:
        """Encode notes from outside.

        Returns:
            (B, D) float32, unit-norm.

        Raises:
            Refusal: 422 for a note that has nothing to read or a picture that can't be used, 429 where too many are waiting,
                503 without a model.
        """
        notes = await self._fit(contents)
        assert self._batcher is not None, "_fit refuses without an encoder"
        try:
            return await self._batcher.encode(notes)
        except InputError as error:
            raise Refusal(422, str(error)) from error

    async def as_note(self, content: NoteContent) -> Note:
        """A note from outside, fit for the encoder; Refusal as in `encode`."""
        return (await self._fit([content]))[0]

    async def run(self, function: Callable[[NoteEncoder], Result]) -> Result:
        """Call a function with the encoder in the thread that owns it; Refusal (503) without a model."""
        if self._batcher is None:
            raise _no_model()
        return await self._batcher.run(function)

    async def write(self, steps: Sequence[Callable[[NoteEncoder], Result]]) -> list[Result]:
        """Have the model write, step by step; what waits to be encoded is encoded between two steps.

        Returns:
            What each step returned.

        Raises:
            Refusal: 403 where the model may not write (the setting `writing`), 429 while it writes for somebody else, also for one
                who has left; 503 without a model.
        """
        if not self.config.writing:
            raise Refusal(403, "the model may not write here (the setting `writing` is off)", code="no_writing")
        if self._writing is not None and not self._writing.done():
            raise Refusal(429, "the model is writing about another note; try again in a few seconds", retry_seconds=3)

        async def written() -> list[Result]:
            return [await self.run(step) for step in steps]

        self._writing = task = asyncio.create_task(written())
        return await asyncio.shield(task)

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
        vector = (await self.encode([note]))[0]  # (D,)

        def change() -> ChangeResponse:
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

    def _check(self, contents: Sequence[NoteContent]) -> None:
        """Refuse what is known to be refused before anything is computed."""
        if self.encoder is None:
            raise _no_model()
        if len(contents) > self.config.max_notes:
            raise Refusal(
                422, f"{len(contents)} notes; this service encodes at most {self.config.max_notes} (max_notes)"
            )
        check_pictures(contents, sees=self._sees, config=self.config)

    async def _fit(self, contents: Sequence[NoteContent]) -> list[Note]:
        self._check(contents)
        until = time.monotonic() + self.config.request_seconds
        return await self._in(
            self._decoders,
            lambda: fit_notes(contents, sees=self._sees, config=self.config, metrics=self.metrics, until=until),
        )

    async def _in(self, pool: Executor, function: Callable[[], Result]) -> Result:
        try:
            future = asyncio.get_running_loop().run_in_executor(pool, function)
        except RuntimeError as error:  # the pool is closed
            raise Refusal(503, "the service is stopping") from error
        return await future

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(self.config.poll_seconds)
            try:
                await self._in(self._disk, self._live.refresh)
            except Exception:
                logger.exception("looking for a newer index failed; it is tried again")


def _no_model() -> Refusal:
    return Refusal(
        503, "this service has no model, so it can't encode notes; ask by note_id or vector", code="no_model"
    )
