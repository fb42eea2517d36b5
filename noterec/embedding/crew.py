"""Handing units out to several encoders, wherever they run, and taking back what a lost one had in hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from noterec.embedding.units import Unit, Written

IN_HAND = 2  # units that an encoder has at a time: one is encoded, the next is tokenised
PATIENCE_SECONDS = 0.05


class Crew(Protocol):
    """Encoders that work for this process."""

    def room(self) -> bool:
        """Whether one of them could be handed a unit now."""

    def hand(self, unit: Unit) -> None:
        """Give a unit to the one that has least in hand."""

    def heard(self, seconds: float) -> tuple[list[Written], list[Unit]]:
        """Wait that long at most for shards, and for units that were lost with their encoder.

        Raises:
            WorkerError: encoders keep dying, or one ended with a bug.
            NoterecError: what an encoder met with.
        """


def dispatch(units: Iterable[Unit], crew: Crew) -> Generator[Written, None, None]:
    """Encode units.

    Args:
        units: with packed pictures; read in a thread of its own, never more than one ahead of what is handed out.
        crew: who encodes.

    Yields:
        Every unit's shard, once it is safely written, in the order in which they are finished.

    Raises:
        NoterecError: as in `Crew.heard`.
    """
    iterator = iter(units)
    again: deque[Unit] = deque()
    out = 0
    with ThreadPoolExecutor(1, thread_name_prefix="noterec-reader") as reader:
        ahead: Future[Unit | None] | None = reader.submit(next, iterator, None)
        while ahead is not None or again or out:
            while crew.room():
                unit = again.popleft() if again else None
                if unit is None and ahead is not None and ahead.done():
                    unit = ahead.result()
                    ahead = None if unit is None else reader.submit(next, iterator, None)
                if unit is None:
                    break
                crew.hand(unit)
                out += 1
            written, lost = crew.heard(PATIENCE_SECONDS)
            again.extend(lost)
            out -= len(written) + len(lost)
            yield from written
