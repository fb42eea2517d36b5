"""One process per device: this one reads, hands out units and names finished shards; the others encode and write them.

A process that dies costs the units that it had: they are handed out again, and it is started again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from typing import Any, Self, cast

from noterec.config import EmbedConfig
from noterec.embedding.crew import IN_HAND
from noterec.embedding.units import Recipe, Unit, Written
from noterec.errors import ConfigError, NoterecError, WorkerError

logger = logging.getLogger(__name__)

RESTARTS = 3  # of one process without a shard in between; then something is wrong that another start doesn't mend


def devices_of(config: EmbedConfig) -> list[str]:
    """The devices that a setting names, one process each: `all` is every GPU here, `cuda:0,cuda:1` those two.

    Raises:
        ConfigError: an empty name, or `all` where there is no GPU.
    """
    import torch

    if config.device == "all":
        if not torch.cuda.is_available():
            raise ConfigError("device=all: torch finds no GPU here; give cpu, or cpu,cpu for two processes")
        return [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    names = [name.strip() for name in config.device.split(",")]
    if not all(names):
        raise ConfigError(f"device={config.device!r}: a name is empty; expected auto, cpu, cuda, all, or cuda:0,cuda:1")
    return names


@dataclasses.dataclass(frozen=True)
class _Failed:
    """An error on its way to the process that hands out units."""

    error: NoterecError | None
    text: str


@dataclasses.dataclass
class _Worker:
    """A process, what it has in hand, and how often it was started since its last shard."""

    device: str
    process: Any = None
    connection: Connection | None = None
    units: list[Unit] = dataclasses.field(default_factory=list)
    starts: int = 0


class Processes:
    """A crew of processes on this machine, one per device. Its end, of a `with`, ends them."""

    def __init__(self, recipe: Recipe, devices: list[str], advance: Callable[[int], None]) -> None:
        """Begin; a process starts when it is handed its first unit.

        Args:
            recipe: of the run; it names the model.
            devices: one process each; one may be named more than once.
            advance: called with numbers of notes as they are done.
        """
        self._recipe, self._advance = recipe, advance
        self._threads = max(1, (os.cpu_count() or 1) // len(devices))
        self._workers = [_Worker(device) for device in devices]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            _end(worker)

    def room(self) -> bool:
        """Whether a process could be handed a unit now."""
        return min(len(worker.units) for worker in self._workers) < IN_HAND

    def hand(self, unit: Unit) -> None:
        """Give a unit to the process that has least in hand, starting it where it isn't running."""
        worker = min(self._workers, key=lambda worker: len(worker.units))
        if worker.connection is None:
            context = multiprocessing.get_context("spawn")  # a forked process would share this one's locked threads
            ours, theirs = context.Pipe()
            arguments = (theirs, self._recipe, worker.device, self._threads)
            worker.process = context.Process(target=_work, args=arguments, daemon=True, name=f"noterec-{worker.device}")
            worker.process.start()
            theirs.close()
            worker.connection, worker.starts = ours, worker.starts + 1
        worker.units.append(unit)
        with contextlib.suppress(OSError):  # it has died: `heard` finds the end of its connection
            worker.connection.send(unit)

    def heard(self, seconds: float) -> tuple[list[Written], list[Unit]]:
        """Wait for shards, and for units that were lost with their process; see `Crew`."""
        written: list[Written] = []
        lost: list[Unit] = []
        running = {worker.connection: worker for worker in self._workers if worker.connection is not None}
        if not running:
            time.sleep(seconds)
        for connection in wait(list(running), timeout=seconds):
            worker = running[cast("Connection", connection)]
            try:
                message = cast("Connection", connection).recv()
            except (EOFError, OSError):
                lost += self._died(worker)
                continue
            if isinstance(message, int):
                self._advance(message)
            elif isinstance(message, Written):
                worker.units = [unit for unit in worker.units if unit.number != message.number]
                worker.starts = 0
                written.append(message)
            elif isinstance(message, _Failed):
                if message.error is not None:
                    raise message.error
                raise WorkerError(f"the encoder process on {worker.device} ended with a bug:\n{message.text}")
        return written, lost

    def _died(self, worker: _Worker) -> list[Unit]:
        """The units that a dead process had in hand."""
        worker.process.join()
        code = worker.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        lost = worker.units
        _end(worker)
        if worker.starts > RESTARTS:
            raise WorkerError(
                f"the encoder process on {worker.device} died {worker.starts} times in a row ({how}) without finishing a shard; "
                "what was finished is kept. SIGKILL mostly means that memory ran out: lower batch_tokens or shard_rows, or use "
                "fewer processes"
            )
        logger.warning("the encoder process on %s died (%s); its notes are encoded again", worker.device, how)
        return lost


def _end(worker: _Worker) -> None:
    if worker.connection is not None:
        worker.connection.close()
        worker.process.terminate()
        worker.process.join()
    worker.connection, worker.process, worker.units = None, None, []


def _work(connection: Connection, recipe: Recipe, device: str, threads: int) -> None:
    """What a process does: units in, shards out, until its connection is closed."""
    import torch

    from noterec.embedding.pipeline import pipeline
    from noterec.embedding.units import Coder

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that hands out units
    try:
        torch.set_num_threads(threads)
        coder = Coder(recipe.encoder(device), recipe, advance=lambda notes, _: connection.send(notes))
        for written in pipeline(_received(connection), coder):
            connection.send(written)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the other process is gone
    except NoterecError as error:
        connection.send(_Failed(error, ""))
    except Exception:
        connection.send(_Failed(None, traceback.format_exc()))


def _received(connection: Connection) -> Iterator[Unit]:
    while True:
        try:
            yield connection.recv()
        except (EOFError, OSError):
            return
