"""Reading ahead and writing behind: the order stays, errors come through, and what is written is told at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from noterec.embedding.crew import dispatch
from noterec.embedding.pipeline import pipeline
from noterec.embedding.units import Coder, Unit, Work, Written
from noterec.errors import InputError

NONE = np.zeros(0, dtype=np.int64)


def unit(number: int) -> Unit:
    return Unit(number, pa.table({"note_id": [str(number)]}), None, NONE, np.zeros((0, 2), dtype=np.float32))


class FakeCoder:
    """Says what it does, in which thread."""

    def __init__(self) -> None:
        self.said: list[tuple[str, int, str]] = []

    def _say(self, what: str, number: int) -> None:
        self.said.append((what, number, threading.current_thread().name.split("_")[0]))

    def prepare(self, given: Unit) -> Any:
        self._say("prepare", given.number)
        return type("Prepared", (), {"unit": given})()

    def encode(self, prepared: Any) -> tuple[np.ndarray, Work]:
        self._say("encode", prepared.unit.number)
        return np.zeros((1, 2), dtype=np.float32), Work(notes=1)

    def write(self, given: Unit, vectors: np.ndarray, work: Work) -> Written:
        self._say("write", given.number)
        return Written(given.number, {"name": f"{given.number}"}, work)


def run(
    units: Iterator[Unit], coder: FakeCoder, stop: Callable[[], None] | None = None
) -> Generator[Written, None, None]:
    return pipeline(units, cast(Coder, coder), stop=stop)


def waits(event: threading.Event, what: str) -> None:
    assert event.wait(5), what


def test_every_unit_comes_out_in_order_and_each_step_has_its_thread() -> None:
    coder = FakeCoder()
    assert [written.number for written in run(map(unit, range(5)), coder)] == [0, 1, 2, 3, 4]
    threads = {what: {name for said, _, name in coder.said if said == what} for what in ("prepare", "encode", "write")}
    assert threads["prepare"] == {"noterec-reader"} and threads["write"] == {"noterec-writer"}
    assert threads["encode"] == {"noterec-encoder"}
    assert list(run(iter(()), coder)) == []


def test_a_unit_is_read_while_another_is_encoded() -> None:
    read = threading.Event()

    class Waiting(FakeCoder):
        def prepare(self, given: Unit) -> Any:
            if given.number == 1:
                read.set()
            return super().prepare(given)

        def encode(self, prepared: Any) -> tuple[np.ndarray, Work]:
            if prepared.unit.number == 0:
                assert read.wait(5), "the next unit is not being read"
            return super().encode(prepared)

    assert len(list(run(map(unit, range(2)), Waiting()))) == 2


def test_a_shard_is_told_before_the_next_unit_has_been_read() -> None:
    told = threading.Event()

    def units() -> Iterator[Unit]:
        yield unit(0)
        assert told.wait(5), "the first shard was held back"
        yield unit(1)

    for written in run(units(), FakeCoder()):
        if written.number == 0:
            told.set()
    assert told.is_set()


def test_a_shard_is_told_while_the_next_unit_is_encoded_and_a_third_comes_in_that_time() -> None:
    """What an encoder that has two units in hand lives on: nothing waits while the third is on its way."""
    encoding, told, third = threading.Event(), threading.Event(), threading.Event()

    def units() -> Iterator[Unit]:
        yield unit(0)
        yield unit(1)
        waits(told, "the first shard was held back until the second unit was encoded")
        yield unit(2)

    class Meeting(FakeCoder):
        def prepare(self, given: Unit) -> Any:
            if given.number == 2:
                third.set()
            return super().prepare(given)

        def encode(self, prepared: Any) -> tuple[np.ndarray, Work]:
            if prepared.unit.number == 1:
                encoding.set()
                waits(third, "the third unit isn't read while the second is encoded")
            return super().encode(prepared)

        def write(self, given: Unit, vectors: np.ndarray, work: Work) -> Written:
            if given.number == 0:
                waits(encoding, "the second unit isn't encoded while the first is written")
            return super().write(given, vectors, work)

    numbers = []
    for written in run(units(), Meeting()):
        numbers.append(written.number)
        told.set()
    assert numbers == [0, 1, 2]


def test_no_more_than_one_unit_is_read_ahead() -> None:
    read: list[int] = []

    class Slow(FakeCoder):
        def encode(self, prepared: Any) -> tuple[np.ndarray, Work]:
            time.sleep(0.02)
            assert max(read) <= prepared.unit.number + 1
            return super().encode(prepared)

    def units() -> Iterator[Unit]:
        for number in range(6):
            read.append(number)
            yield unit(number)

    assert len(list(run(units(), Slow()))) == 6


@pytest.mark.parametrize("where", ["prepare", "encode", "write", "units"])
def test_an_error_of_any_step_comes_after_all_shards_before_it(where: str) -> None:
    class Failing(FakeCoder):
        def _say(self, what: str, number: int) -> None:
            super()._say(what, number)
            if what == where and number == 2:
                raise InputError("the third")
            if number < 2 and what != "prepare":
                time.sleep(0.02)  # the error is there before these are

    def units() -> Iterator[Unit]:
        for number in range(5):
            if where == "units" and number == 2:
                raise InputError("the third")
            yield unit(number)

    done = []
    with pytest.raises(InputError, match="the third"):
        for written in run(units(), Failing()):
            done.append(written.number)
    assert done == [0, 1]


class Endless:
    """Units without end, which has one only if it is told to stop."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def __iter__(self) -> Iterator[Unit]:
        yield unit(0)
        self.stopped.wait(5)
        assert self.stopped.is_set(), "the thread that reads was waited for before it was told to stop"


def closed(shards: Generator[Written, None, None]) -> None:
    next(shards)
    shards.close()


def failed(shards: Generator[Written, None, None]) -> None:
    next(shards)
    with pytest.raises(KeyboardInterrupt):
        shards.throw(KeyboardInterrupt())


@pytest.mark.parametrize("end", [closed, failed])
@pytest.mark.parametrize("engine", ["pipeline", "dispatch"])
def test_who_reads_is_told_to_stop_before_it_is_waited_for(engine: str, end: Callable[[Any], None]) -> None:
    units = Endless()
    if engine == "pipeline":
        end(run(iter(units), FakeCoder(), units.stopped.set))
    else:
        end(dispatch(units, FakeCrew(set()), stop=units.stopped.set))
    assert units.stopped.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("noterec-")]


def test_nobody_is_told_to_stop_when_all_is_done() -> None:
    stopped = threading.Event()
    assert len(list(run(map(unit, range(3)), FakeCoder(), stopped.set))) == 3
    assert len(list(dispatch(map(unit, range(3)), FakeCrew(set()), stop=stopped.set))) == 3
    assert not stopped.is_set()


class FakeCrew:
    """Two at a time; the units in `dies` are lost the first time."""

    def __init__(self, dies: set[int]) -> None:
        self._hand: list[Unit] = []
        self._dies = set(dies)

    def room(self) -> bool:
        return len(self._hand) < 2

    def hand(self, given: Unit) -> None:
        assert self.room()
        self._hand.append(given)

    def heard(self, seconds: float) -> tuple[list[Written], list[Unit]]:
        if not self._hand:
            return [], []
        given = self._hand.pop()  # the newest first: they may end in any order
        if given.number in self._dies:
            self._dies.remove(given.number)
            return [], [given]
        return [Written(given.number, {}, Work())], []


def test_lost_units_are_handed_out_again() -> None:
    crew = FakeCrew({0, 3})
    assert sorted(written.number for written in dispatch(map(unit, range(6)), crew)) == list(range(6))
    assert list(dispatch(iter(()), crew)) == []


def test_an_error_of_the_reader_comes_after_all_that_was_handed_out() -> None:
    def units() -> Iterator[Unit]:
        yield from map(unit, range(3))
        raise InputError("the fourth")

    done = []
    with pytest.raises(InputError, match="the fourth"):
        for written in dispatch(units(), FakeCrew({2})):
            done.append(written.number)
    assert sorted(done) == [0, 1, 2]
