"""One process per device: this one reads, hands out units and names finished shards; the others encode and write them.

A process that dies costs the units that it had: they are handed out again, and it is started again.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Self

from noterec.config import EmbedConfig
from noterec.embedding.crew import IN_HAND
from noterec.embedding.units import Recipe, Unit, Written
from noterec.errors import ConfigError, NoterecError, WorkerError

logger = logging.getLogger(__name__)

RESTARTS = 3  # of one process without a shard in between; then something is wrong that another start doesn't mend
PATIENCE_SECONDS = 0.1  # that a process which has failed waits for another unit before it says so


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


class _Process:
    """A process that runs. Units reach it through a thread: sending one waits until the process has loaded its model."""

    def __init__(self, recipe: Recipe, device: str, threads: int) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process would share this one's locked threads
        self.connection, theirs = context.Pipe()
        arguments = (theirs, recipe, device, threads)
        self.process = context.Process(target=_work, args=arguments, daemon=True, name=f"noterec-{device}")
        self.process.start()
        theirs.close()
        self.error: Exception | None = None
        self._queue: SimpleQueue[Unit | None] = SimpleQueue()
        self._sender = threading.Thread(target=self._send, daemon=True, name="noterec-sender")
        self._sender.start()

    def hand(self, unit: Unit) -> None:
        """Send a unit when the process takes it."""
        self._queue.put(unit)

    def end(self) -> None:
        """Stop the process, whatever it is at."""
        self.process.terminate()
        self.process.join()
        self._queue.put(None)
        self._sender.join()
        self.connection.close()

    def _send(self) -> None:
        try:
            while (unit := self._queue.get()) is not None:
                self.connection.send(unit)
        except OSError:
            pass  # it has died: `heard` finds the end of the connection
        except Exception as error:  # such as too little memory for a copy of the unit
            self.error = error


@dataclasses.dataclass
class _Worker:
    """A device, the process on it, what that has in hand, and how often it was started since its last shard."""

    device: str
    running: _Process | None = None
    units: list[Unit] = dataclasses.field(default_factory=list)
    starts: int = 0


class Processes:
    """A crew of processes on this machine, one per device. Its end, of a `with`, ends them."""

    def __init__(self, recipe: Recipe, devices: list[str], advance: Callable[[int], None]) -> None:
        """Begin; a process starts when it is handed its first unit, and `hand` doesn't wait for it.

        Args:
            recipe: of the run; it names the model.
            devices: one process each; one may be named more than once.
            advance: called with numbers of notes as they are done.
        """
        self._recipe, self._advance = recipe, advance
        self._threads = max(1, (os.cpu_count() or 1) // len(devices))
        self._workers = [_Worker(device) for device in devices]
        self._failure: Exception | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            if worker.running is not None:
                worker.running.end()

    def room(self) -> bool:
        """Whether a process could be handed a unit now."""
        return self._failure is None and min(len(worker.units) for worker in self._workers) < IN_HAND

    def hand(self, unit: Unit) -> None:
        """Give a unit to the process that has least in hand, starting it where it isn't running."""
        worker = min(self._workers, key=lambda worker: len(worker.units))
        if worker.running is None:
            worker.running, worker.starts = _Process(self._recipe, worker.device, self._threads), worker.starts + 1
        worker.units.append(unit)
        worker.running.hand(unit)

    def heard(self, seconds: float) -> tuple[list[Written], list[Unit]]:
        """Wait for shards, and for units that were lost with their process; see `Crew`.

        What was written before something failed is returned first; the next call raises.
        """
        if self._failure is not None:
            raise self._failure
        connections = [worker.running.connection for worker in self._workers if worker.running is not None]
        ready = wait(connections, timeout=seconds)
        written: list[Written] = []
        lost: list[Unit] = []
        for worker in self._workers:
            if worker.running is not None and worker.running.connection in ready:
                shards, units = self._heard_from(worker, worker.running)
                written, lost = written + shards, lost + units
            if worker.running is not None and worker.running.error is not None:
                self._failure = worker.running.error
        return written, lost

    def _heard_from(self, worker: _Worker, running: _Process) -> tuple[list[Written], list[Unit]]:
        """All that a process has said, and what is lost if it has died."""
        written: list[Written] = []
        messages, died = _messages(running.connection)
        for message in messages:
            if isinstance(message, int):
                self._advance(message)
            elif isinstance(message, Written):
                worker.units = [unit for unit in worker.units if unit.number != message.number]
                worker.starts = 0
                written.append(message)
            elif isinstance(message, _Failed):
                bug = WorkerError(f"the encoder process on {worker.device} ended with a bug:\n{message.text}")
                self._failure = message.error or bug
                return written, []
        return written, self._died(worker, running) if died else []

    def _died(self, worker: _Worker, running: _Process) -> list[Unit]:
        """The units that a dead process had in hand."""
        running.process.join()  # how it died is known a moment after its connection ends
        running.end()
        code = running.process.exitcode
        how = signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"
        lost, worker.running, worker.units = worker.units, None, []
        if worker.starts > RESTARTS:
            self._failure = WorkerError(
                f"the encoder process on {worker.device} died {worker.starts} times in a row ({how}) without finishing a shard; "
                "what was finished is kept. SIGKILL mostly means that memory ran out: lower batch_tokens or shard_rows, or use "
                "fewer processes"
            )
        else:
            logger.warning("the encoder process on %s died (%s); its notes are encoded again", worker.device, how)
        return lost


def _messages(connection: Connection) -> tuple[list[Any], bool]:
    """What has arrived, and whether the other end is gone."""
    messages: list[Any] = []
    try:
        while connection.poll():
            messages.append(connection.recv())
    except (EOFError, OSError):
        return messages, True
    return messages, False


def _work(connection: Connection, recipe: Recipe, device: str, threads: int) -> None:
    """What a process does: units in, shards out, until its connection is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that hands out units
    import torch

    from noterec.embedding.pipeline import pipeline
    from noterec.embedding.units import Coder

    speaking = threading.Lock()
    failed = threading.Event()

    def say(message: int | Written | _Failed) -> None:
        with speaking:  # the thread that encodes counts notes while shards are told
            connection.send(message)

    try:
        torch.set_num_threads(threads)
        coder = Coder(recipe.encoder(device), recipe, advance=lambda notes, _: say(notes))
        for written in pipeline(_received(connection, failed), coder, stop=failed.set):
            say(written)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the other process is gone
    except NoterecError as error:
        say(_Failed(error, ""))
    except Exception:
        say(_Failed(None, traceback.format_exc()))


def _received(connection: Connection, failed: threading.Event) -> Iterator[Unit]:
    """Units as they come. After a failure none is waited for: the other process waits for word of it."""
    try:
        while not failed.is_set():
            if connection.poll(PATIENCE_SECONDS):
                yield connection.recv()
    except (EOFError, OSError):
        return
