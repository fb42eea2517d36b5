"""More than one machine: encoders as actors of a Ray cluster. This process reads, hands out units and names finished shards.

Every machine needs noterec, the model at the same place, and a way to write to the output: an object store, or a shared disk. A
worker that is killed costs the units that it had: Ray starts it again, elsewhere if its machine is gone, and gives them to it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from noterec.config import EmbedConfig
from noterec.embedding.crew import IN_HAND
from noterec.embedding.units import Coder, Recipe, Unit, Written
from noterec.errors import ConfigError, DependencyError, NoterecError, WorkerError

RETRIES = 3  # of a unit whose encoder died; then something is wrong that another try doesn't mend
READY_SECONDS = 600.0  # until the first encoder is placed and has loaded its model


class Encoder:
    """What runs on a machine of the cluster: two units at a time, of which one is encoded."""

    def __init__(self, recipe: Recipe, device: str, threads: int) -> None:
        """Take up a place. The model is loaded by what is called first: Ray hands on the error of a call, not of this."""
        self._recipe, self._place, self._threads = recipe, device, threads
        self._coder: Coder | None = None
        self._loading, self._device = threading.Lock(), threading.Lock()

    def ready(self) -> None:
        """Return when the model is loaded."""
        self._loaded()

    def encode(self, unit: Unit) -> Written:
        """Encode a unit and write its shard."""
        coder = self._loaded()
        prepared = coder.prepare(unit)
        with self._device:
            vectors, work = coder.encode(prepared)
        return coder.write(unit, vectors, work)

    def _loaded(self) -> Coder:
        import torch

        with self._loading:
            if self._coder is None:
                torch.set_num_threads(self._threads)
                self._coder = Coder(self._recipe.encoder(self._place), self._recipe)
            return self._coder


@contextlib.contextmanager
def connected(config: EmbedConfig) -> Iterator[Any]:
    """Ray, connected to what this process is in already, or is named by `address` or RAY_ADDRESS, or else is started here.

    Raises:
        DependencyError: Ray isn't installed, or the cluster can't be reached.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError as error:
        raise DependencyError("engine=ray: needs `pip install 'noterec[ray]'`") from error
    # Without a name Ray joins the cluster that was started last on this machine, and waits for it if it has ended since.
    address = config.address or os.environ.get("RAY_ADDRESS") or "local"
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(address, include_dashboard=False if address == "local" else None, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise DependencyError(f"Ray at {address}: {error}") from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


@dataclasses.dataclass(frozen=True)
class Shares:
    """What encoders ask a cluster for.

    Attributes:
        count: of encoders.
        cores, gpus: of each.
        has: what the cluster has, in words.
    """

    count: int
    cores: int
    gpus: int
    has: str


def shares_of(nodes: list[dict[str, Any]], workers: int | None, device: str) -> Shares:
    """Share a cluster out: one encoder per GPU, or per machine where there is none, with as many cores as all of them can have.

    An encoder has to fit on one machine, so cores aren't counted over the cluster.

    Args:
        nodes: as `ray.nodes()` tells of them; those that are dead don't count.
        workers: how many encoders, if that is given.
        device: auto, or cpu to leave GPUs alone.

    Raises:
        ConfigError: another device, or the cluster has no room for so many.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"device={device!r} with engine=ray: Ray hands GPUs out itself; expected auto, or cpu for none"
        )
    machines = [node["Resources"] for node in nodes if node["Alive"]]
    sizes = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    cpus, gpus = sum(size[0] for size in sizes), sum(size[1] for size in sizes)
    has = f"{gpus} GPUs and {cpus} CPU cores on {len(sizes)} machines"
    on_gpus = device == "auto" and gpus > 0

    def room(cores: int) -> int:
        """For how many encoders of so many cores."""
        return sum(min(own // cores, cards) if on_gpus else own // cores for own, cards in sizes)

    count = workers or (room(1) if on_gpus else sum(own > 0 for own, _ in sizes))
    if not 0 < count <= room(1):
        needs = "a GPU and a core of the same machine" if on_gpus else "a core"
        raise ConfigError(
            f"workers={workers}: the cluster has {has}; each encoder needs {needs}: lower it, or add machines"
        )
    cores = next(cores for cores in range(cpus, 0, -1) if room(cores) >= count)
    return Shares(count, cores, int(on_gpus), has)


class Cluster:
    """A crew of actors on a Ray cluster."""

    def __init__(self, ray: Any, recipe: Recipe, workers: int | None, advance: Callable[[int], None]) -> None:
        """Start the encoders; one is handed units once it is ready, so the others may come later or never.

        Args:
            ray: from `connected`.
            recipe: of the run; it names the model, and the output by a path that every machine knows.
            workers: how many encoders; None = see `shares_of`.
            advance: called with numbers of notes as their shards are written.

        Raises:
            ConfigError: as in `shares_of`.
        """
        self._shares = shares = shares_of(ray.nodes(), workers, recipe.config.device)
        kind = ray.remote(
            num_cpus=shares.cores,
            num_gpus=shares.gpus,
            max_concurrency=IN_HAND,
            max_restarts=-1,
            max_task_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )(Encoder)
        self._ray, self._advance = ray, advance
        device = "cuda" if shares.gpus else "cpu"
        self._actors = [kind.remote(recipe, device, shares.cores) for _ in range(shares.count)]
        self._starting = {actor.ready.remote(): place for place, actor in enumerate(self._actors)}
        self._late = time.monotonic() + READY_SECONDS
        self._hands: dict[int, int] = {}  # of those that are ready -> units
        self._running: dict[Any, tuple[int, Unit]] = {}  # reference -> actor, unit
        self._failure: Exception | None = None

    def room(self) -> bool:
        """Whether an encoder could be handed a unit now."""
        return self._failure is None and min(self._hands.values(), default=IN_HAND) < IN_HAND

    def hand(self, unit: Unit) -> None:
        """Give a unit to the encoder that has least in hand."""
        place = min(self._hands, key=lambda place: self._hands[place])
        self._hands[place] += 1
        self._running[self._actors[place].encode.remote(unit)] = place, unit

    def heard(self, seconds: float) -> tuple[list[Written], list[Unit]]:
        """Wait for shards; see `Crew`. No unit is lost: Ray itself gives those of a dead encoder to it again.

        What was written before something failed is returned first; the next call raises.
        """
        if self._failure is not None:
            raise self._failure
        written: list[Written] = []
        for reference in self._ended(seconds):
            place, unit = self._running.pop(reference, (None, None))
            try:
                found = self._ray.get(reference)
            except self._ray.exceptions.RayError as error:
                self._failure = self._told(error)
                continue
            if place is None or unit is None:
                self._hands[self._starting.pop(reference)] = 0
            else:
                self._hands[place] -= 1
                self._advance(unit.table.num_rows)
                written.append(found)
        if not self._hands and self._failure is None and time.monotonic() > self._late:
            asked = f"{self._shares.count} with {self._shares.cores} CPU cores and {self._shares.gpus} GPUs each"
            raise WorkerError(
                f"no encoder was ready after {READY_SECONDS / 60:g} minutes: asked for {asked}; the cluster has "
                f"{self._shares.has}. "
                "Other jobs may hold them, or the model takes longer to come than that: lower workers, or put it on the machines"
            )
        return written, []

    def _ended(self, seconds: float) -> list[Any]:
        """References of all calls that have ended; where none has, the first one is waited for."""
        calls = [*self._starting, *self._running]
        if not calls:
            time.sleep(seconds)
            return []
        self._ray.wait(calls, num_returns=1, timeout=seconds)
        return list(self._ray.wait(calls, num_returns=len(calls), timeout=0)[0])

    def _told(self, error: Exception) -> Exception:
        """What ended a call, as an error of ours."""
        errors = self._ray.exceptions
        if isinstance(error, errors.RayTaskError):
            if isinstance(error.cause, NoterecError):
                return error.cause
            return WorkerError(f"an encoder ended with a bug:\n{error}")
        if isinstance(error, errors.RayActorError | errors.OutOfMemoryError):
            return WorkerError(
                f"encoders died {RETRIES + 1} times over the same call ({error}); what was finished is kept. Mostly memory ran "
                "out: lower batch_tokens or shard_rows"
            )
        return WorkerError(f"Ray: {type(error).__name__}: {error}; what was finished is kept")
