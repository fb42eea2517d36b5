"""One device: the next unit is read and tokenised, and the last one written, while this one is encoded."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np

from noterec.embedding.units import Coder, Prepared, Unit, Work, Written

IN_FLIGHT = 3  # one is read, one is encoded, one is written
PATIENCE_SECONDS = 0.2

Encoded = tuple[Unit, np.ndarray, Work]


def pipeline(
    units: Iterable[Unit], coder: Coder, *, stop: Callable[[], None] | None = None
) -> Generator[Written, None, None]:
    """Encode units in their order, with one being read ahead and one being written behind.

    Each step has a thread, in which it waits for the step before it, so a shard is told as soon as it is written, whatever the
    other steps are at. Tokenising, matrix products and files let go of Python's lock for most of their time.

    Args:
        units: read in a thread of its own, never more than one ahead.
        coder: of this device.
        stop: called when this ends before its units do, by an error or because it is closed, and before threads are waited for:
            a chance to tell `units` and `coder` to end early.

    Yields:
        Every unit's shard, once it is safely on disk. An error in one unit is raised after all shards before it.
    """
    iterator = iter(units)

    def read(encoded: Future[Encoded | None] | None) -> Prepared | None:
        if encoded is not None:
            encoded.result()  # only now the encoder takes up the unit that was read last
        unit = next(iterator, None)
        return None if unit is None else coder.prepare(unit)

    def encode(prepared: Future[Prepared | None]) -> Encoded | None:
        given = prepared.result()
        return None if given is None else (given.unit, *coder.encode(given))

    def write(encoded: Future[Encoded | None]) -> Written | None:
        given = encoded.result()
        return None if given is None else coder.write(*given)

    with (
        ThreadPoolExecutor(1, thread_name_prefix="noterec-writer") as writer,
        ThreadPoolExecutor(1, thread_name_prefix="noterec-encoder") as encoder,
        ThreadPoolExecutor(1, thread_name_prefix="noterec-reader") as reader,
    ):
        flight: deque[tuple[Future[Encoded | None], Future[Written | None]]] = deque()
        try:
            while True:
                while len(flight) < IN_FLIGHT:
                    prepared = reader.submit(read, flight[-2][0] if len(flight) > 1 else None)
                    encoded = encoder.submit(encode, prepared)
                    flight.append((encoded, writer.submit(write, encoded)))
                told = flight.popleft()[1]
                while (
                    not told.done()
                ):  # in small steps: polars' handler of Ctrl-C lets a longer wait go on until its end
                    wait([told], timeout=PATIENCE_SECONDS)
                written = told.result()
                if written is None:
                    return
                yield written
        except BaseException:
            if stop is not None:
                stop()
            for pool in (writer, encoder, reader):
                pool.shutdown(wait=False, cancel_futures=True)
            raise
