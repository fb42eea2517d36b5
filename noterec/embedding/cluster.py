"""More than one machine: encoders as actors of a Ray cluster. This process reads, hands out units and names finished shards.

Every machine needs noterec, the model at the same place, and a way to write to the output: an object store, or a shared disk. A
worker that is killed costs the units that it had: Ray starts it again, elsewhere if its machine is gone, and gives them to it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from noterec.config import EmbedConfig
from noterec.embedding.crew import IN_HAND
from noterec.embedding.units import Recipe, Unit, Written
from noterec.errors import ConfigError, DependencyError, NoterecError, WorkerError

logger = logging.getLogger(__name__)

RETRIES = 3  # of a unit whose encoder died; then something is wrong that another try doesn't mend


class Encoder:
    """What runs on a machine of the cluster: two units at a time, of which one is encoded."""

    def __init__(self, recipe: Recipe, threads: int) -> None:
        """Load the model, on the GPU that Ray gives it or on so many cores."""
        import torch

        from noterec.embedding.units import Coder

        torch.set_num_threads(threads)
        device = "cuda" if os.environ.get("CUDA_VISIBLE_DEVICES") and torch.cuda.is_available() else "cpu"
        self._coder = Coder(recipe.encoder(device), recipe)
        self._device = threading.Lock()

    def encode(self, unit: Unit) -> Written:
        """Encode a unit and write its shard."""
        prepared = self._coder.prepare(unit)
        with self._device:
            vectors, work = self._coder.encode(prepared)
        return self._coder.write(unit, vectors, work)


@contextlib.contextmanager
def connected(config: EmbedConfig) -> Iterator[Any]:
    """Ray, connected to the cluster that is named, to the one this process is in already, or to one that is started here.

    Raises:
        DependencyError: Ray isn't installed, or the cluster can't be reached.
    """
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray
    except ImportError as error:
        raise DependencyError("engine=ray: needs `pip install 'noterec[ray]'`") from error
    ours = not ray.is_initialized()
    if ours:
        try:
            ray.init(config.address, include_dashboard=None if config.address else False, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            raise DependencyError(f"Ray at {config.address or 'this machine'}: {error}") from error
    try:
        yield ray
    finally:
        if ours:
            ray.shutdown()


class Cluster:
    """A crew of actors on a Ray cluster."""

    def __init__(self, ray: Any, recipe: Recipe, workers: int | None, advance: Callable[[int], None]) -> None:
        """Start the encoders: one per GPU of the cluster, or per machine where there is none, unless a number is given.

        Args:
            ray: from `connected`.
            recipe: of the run; it names the model, and the output by a path that every machine knows.
            workers: how many encoders.
            advance: called with numbers of notes as their shards are written.

        Raises:
            ConfigError: the cluster has no room for so many.
        """
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        count = workers or gpus or len(ray.nodes())
        if count > (gpus or cpus):
            raise ConfigError(f"workers={count}: the cluster has {gpus} GPUs and {cpus} CPU cores; lower it")
        cores = max(1, cpus // count)
        kind = ray.remote(
            num_cpus=cores,
            num_gpus=1 if gpus else 0,
            max_concurrency=IN_HAND,
            max_restarts=-1,
            max_task_retries=RETRIES,
        )(Encoder)
        self._ray, self._advance = ray, advance
        self._actors = [kind.remote(recipe, cores) for _ in range(count)]
        self._hands = [0] * count
        self._running: dict[Any, tuple[int, Unit]] = {}  # reference -> actor, unit

    def room(self) -> bool:
        """Whether an encoder could be handed a unit now."""
        return min(self._hands) < IN_HAND

    def hand(self, unit: Unit) -> None:
        """Give a unit to the encoder that has least in hand."""
        place = self._hands.index(min(self._hands))
        self._hands[place] += 1
        self._running[self._actors[place].encode.remote(unit)] = place, unit

    def heard(self, seconds: float) -> tuple[list[Written], list[Unit]]:
        """Wait for shards; see `Crew`. No unit is lost: Ray itself gives those of a dead encoder to it again."""
        written: list[Written] = []
        if not self._running:
            time.sleep(seconds)
            return written, []
        for reference in self._ray.wait(list(self._running), num_returns=1, timeout=seconds)[0]:
            place, unit = self._running.pop(reference)
            self._hands[place] -= 1
            try:
                written.append(self._ray.get(reference))
                self._advance(unit.table.num_rows)
            except self._ray.exceptions.RayTaskError as error:
                if isinstance(error.cause, NoterecError):
                    raise error.cause from error
                raise WorkerError(f"an encoder ended with a bug:\n{error}") from error
            except self._ray.exceptions.RayActorError as error:
                raise WorkerError(
                    f"encoders died {RETRIES + 1} times over the same {unit.table.num_rows} notes ({error}); what was finished is "
                    "kept. Mostly memory ran out: lower batch_tokens or shard_rows"
                ) from error
        return written, []
