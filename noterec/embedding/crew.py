"""Handing units out to several encoders, wherever they run, and taking back what a lost one had in hand."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

from noterec.embedding.units import Unit, Written

# Units that an encoder has at a time: one is encoded, the next is tokenised. Two are enough, since a unit is told when it is
# written, while the second is encoded: the third comes in that time.
IN_HAND = 2
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


def dispatch(
    units: Iterable[Unit], crew: Crew, *, stop: Callable[[], None] | None = None
) -> Generator[Written, None, None]:
    """Encode units.

    Args:
        units: with packed pictures; read in a thread of its own, never more than one ahead of what is handed out.
        crew: who encodes.
        stop: called when this ends before its units do, by an error or because it is closed, and before the reading thread is
            waited for: a chance to tell `units` to end early.

    Yields:
        Every unit's shard, once it is safely written, in the order in which they are finished.

    Raises:
        NoterecError: as in `Crew.heard`. An error of `units` is raised when all that was handed out is written.
    """
    iterator = iter(units)
    again: deque[Unit] = deque()
    out = 0
    with ThreadPoolExecutor(1, thread_name_prefix="noterec-reader") as reader:
        ahead: Future[Unit | None] = reader.submit(next, iterator, None)
        ended = False
        try:
            while not ended or again or out:
                while crew.room():
                    if again:
                        unit = again.popleft()
                    elif not ended and ahead.done():
                        following = None if ahead.exception() else ahead.result()
                        if following is None:
                            ended = True
                            break
                        unit, ahead = following, reader.submit(next, iterator, None)
                    else:
                        break
                    crew.hand(unit)
                    out += 1
                written, lost = crew.heard(PATIENCE_SECONDS)
                again.extend(lost)
                out -= len(written) + len(lost)
                yield from written
            ahead.result()  # the reader's error, if that is what it ended with
        except BaseException:
            if stop is not None:
                stop()
            raise
