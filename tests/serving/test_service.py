"""The service without HTTP: answers that are kept as they are sent, and one writer at a time."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noterec.serving.messages import NoteContent, SimilarRequest
from noterec.serving.refusals import Refusal
from noterec.serving.service import Service


def test_an_answer_is_kept_as_it_is_sent(built: Path, open_service: Callable[..., Service]) -> None:
    service = open_service(built)
    request = SimilarRequest(note_id="n000001", k=3)

    async def ask() -> tuple[Any, ...]:
        return await service.answer(request), await service.answer(request), await service.similar(request)

    first, again, parsed = asyncio.run(ask())
    assert (first.kept, again.kept) == (False, True) and again.json is first.json
    assert json.loads(first.json) == parsed.model_dump(mode="json")


def test_what_waits_is_encoded_between_two_steps_of_writing(
    built: Path, open_service: Callable[..., Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = open_service(built)
    batcher = service._encoding.batcher
    assert batcher is not None
    done: list[str] = []
    encode = batcher._vectors

    def encoded(notes: Any) -> Any:
        done.append("encoded")
        return encode(notes)

    monkeypatch.setattr(batcher, "_vectors", encoded)
    gate = threading.Event()

    def first(_: Any) -> str:
        gate.wait(5)
        done.append("first")
        return "a"

    def second(_: Any) -> str:
        done.append("second")
        return "b"

    async def run() -> list[str]:
        writing = asyncio.create_task(service.write([first, second]))
        asked = asyncio.create_task(service.encode([NoteContent(title="Tea")]))
        while not batcher._waiting:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        gate.set()
        await asked
        return await writing

    assert asyncio.run(run()) == ["a", "b"]
    assert done == ["first", "encoded", "second"]


def test_one_writes_at_a_time_also_for_one_who_has_left(built: Path, open_service: Callable[..., Service]) -> None:
    service = open_service(built)
    gate, begun = threading.Event(), threading.Event()

    def slow(_: Any) -> None:
        begun.set()
        gate.wait(5)

    async def run() -> None:
        first = asyncio.create_task(service.write([slow]))
        await asyncio.to_thread(begun.wait, 5)
        for _ in range(2):
            with pytest.raises(Refusal) as caught:
                await service.write([slow])
            assert (caught.value.status, caught.value.retry_seconds) == (429, 3)
            first.cancel()
            await asyncio.sleep(0)
        gate.set()
        while service._encoding._writing is not None and not service._encoding._writing.done():
            await asyncio.sleep(0.01)
        assert await service.write([lambda _: 1]) == [1]

    asyncio.run(run())


def test_where_it_may_not_write_or_has_no_model(built: Path, open_service: Callable[..., Service]) -> None:
    for settings, status in (({"writing": False}, 403), ({"see": None}, 503)):
        with pytest.raises(Refusal) as caught:
            asyncio.run(open_service(built, **settings).write([lambda _: 1]))
        assert caught.value.status == status
