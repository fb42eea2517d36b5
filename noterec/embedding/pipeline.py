"""One device: the next unit is read and tokenised, and the last one written, while this one is encoded."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Any

from noterec.embedding.units import Coder, Prepared, Unit, Written


def pipeline(units: Iterable[Unit], coder: Coder) -> Generator[Written, None, None]:
    """Encode units in their order, with one being read ahead and one being written behind.

    Tokenising and hashing let go of Python's lock for most of their time, as do the matrix products, so threads are enough.

    Args:
        units: read in a thread of its own, never more than one ahead.
        coder: of this device.

    Yields:
        Every unit's shard, once it is safely on disk.
    """
    iterator = iter(units)

    def following() -> Prepared | None:
        unit = next(iterator, None)
        return None if unit is None else coder.prepare(unit)

    with (
        ThreadPoolExecutor(1, thread_name_prefix="noterec-reader") as reader,
        ThreadPoolExecutor(1, thread_name_prefix="noterec-writer") as writer,
    ):
        ahead = reader.submit(following)
        behind: Future[Written] | None = None
        while True:
            if behind is not None:  # what is on disk is told at once, however long the next unit takes to be read
                pending: list[Future[Any]] = [ahead, behind]
                wait(pending, return_when=FIRST_COMPLETED)
                if behind.done():
                    yield behind.result()
                    behind = None
                    continue
            prepared = ahead.result()
            if prepared is None:
                break
            ahead = reader.submit(following)
            vectors, work = coder.encode(prepared)
            if behind is not None:
                yield behind.result()
            behind = writer.submit(coder.write, prepared.unit, vectors, work)
        if behind is not None:
            yield behind.result()
