"""Micro-batches: who is encoded together, who fails alone, and what happens at the bounds."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from noterec.config import ServeConfig
from noterec.errors import InputError
from noterec.notes.note import Note
from noterec.serving.batching import Batcher
from noterec.serving.metrics import Metrics
from noterec.serving.refusals import Refusal


class Recorder:
    """Stands for an encoder: a note's vector is the length of its title; "bad" fails, and the gate can hold it up."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()

    def encode(self, notes: Sequence[Note], **_: Any) -> np.ndarray:
        self.threads.add(threading.get_ident())
        titles = [note.title or "" for note in notes]
        self.batches.append(titles)
        self.gate.wait(5)
        if "bad" in titles:
            raise InputError("bad note")
        return np.array([[len(title)] for title in titles], dtype=np.float32)


def notes(*titles: str) -> list[Note]:
    return [Note(title=title) for title in titles]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def started(recorder: Recorder, **settings: Any) -> Batcher:
    config = ServeConfig(**{"batch_wait_ms": 50, **settings})
    return Batcher(recorder, config, Metrics())  # type: ignore[arg-type]


@pytest.fixture
def batcher(recorder: Recorder) -> Iterator[Batcher]:
    made = started(recorder, batch_notes=4, max_waiting=6)
    yield made
    recorder.gate.set()
    made.close()


def test_concurrent_requests_are_encoded_together_and_get_their_own(batcher: Batcher, recorder: Recorder) -> None:
    async def ask() -> list[np.ndarray]:
        return await asyncio.gather(*(batcher.encode(notes(*group)) for group in (["a"], ["bb", "ccc"], ["dddd"])))

    found = asyncio.run(ask())
    assert [part.tolist() for part in found] == [[[1]], [[2], [3]], [[4]]]
    assert recorder.batches == [["a", "bb", "ccc", "dddd"]]
    assert recorder.threads == {batcher._thread.ident}
    text = batcher._metrics.text().decode()
    assert "noterec_batch_notes_sum 4.0" in text and "noterec_batch_requests_sum 3.0" in text


def test_a_full_batch_does_not_wait(recorder: Recorder) -> None:
    batcher = started(recorder, batch_notes=2, batch_wait_ms=1000)

    async def ask() -> float:
        start = time.perf_counter()
        await asyncio.gather(*(batcher.encode(notes(title)) for title in ("a", "b", "c", "d")))
        return time.perf_counter() - start

    assert asyncio.run(ask()) < 0.9
    assert recorder.batches == [["a", "b"], ["c", "d"]]
    batcher.close()


def test_a_request_larger_than_a_batch_is_encoded_alone(batcher: Batcher, recorder: Recorder) -> None:
    found = asyncio.run(batcher.encode(notes(*"abcde")))
    assert found.shape == (5, 1) and recorder.batches == [list("abcde")]


def test_one_bad_note_fails_its_own_request_only(batcher: Batcher) -> None:
    async def ask() -> list[Any]:
        groups = (["a"], ["bad"], ["ccc"])
        return await asyncio.gather(*(batcher.encode(notes(*group)) for group in groups), return_exceptions=True)

    first, bad, last = asyncio.run(ask())
    assert first.tolist() == [[1]] and last.tolist() == [[3]]
    assert isinstance(bad, InputError)


def test_too_many_waiting_notes_are_refused_and_leave_no_trace(batcher: Batcher, recorder: Recorder) -> None:
    async def ask() -> None:
        recorder.gate.clear()
        first = asyncio.create_task(batcher.encode(notes(*"abcd")))
        while not recorder.batches:
            await asyncio.sleep(0.005)
        with pytest.raises(Refusal) as caught:
            await batcher.encode(notes(*"efg"))
        assert caught.value.status == 429 and caught.value.retry_seconds == 1
        second = asyncio.create_task(batcher.encode(notes("e")))
        await asyncio.sleep(0.01)
        second.cancel()  # the client left
        recorder.gate.set()
        await first
        assert (await batcher.encode(notes("ffffff"))).tolist() == [[6]]

    asyncio.run(ask())
    assert ["e"] not in recorder.batches
    assert "noterec_waiting_notes 0.0" in batcher._metrics.text().decode()


def test_other_work_runs_in_the_same_thread(batcher: Batcher, recorder: Recorder) -> None:
    async def ask() -> tuple[Any, Any]:
        return await asyncio.gather(
            batcher.encode(notes("a")), batcher.run(lambda encoder: (encoder, threading.get_ident()))
        )

    vectors, (encoder, thread) = asyncio.run(ask())
    assert vectors.tolist() == [[1]] and encoder is recorder and thread == batcher._thread.ident
    with pytest.raises(ZeroDivisionError):
        asyncio.run(batcher.run(lambda _: 1 / 0))


def test_closing_answers_what_was_asked_and_refuses_the_rest(recorder: Recorder) -> None:
    batcher = started(recorder)

    async def ask() -> np.ndarray:
        recorder.gate.clear()
        asked = asyncio.create_task(batcher.encode(notes("abc")))
        await asyncio.sleep(0.01)
        recorder.gate.set()
        await asyncio.to_thread(batcher.close)
        with pytest.raises(Refusal, match="stopping"):
            await batcher.encode(notes("d"))
        return await asked

    assert asyncio.run(ask()).tolist() == [[3]]
    assert not batcher._thread.is_alive()
