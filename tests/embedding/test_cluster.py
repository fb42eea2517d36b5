"""Encoders on a Ray cluster: how one is shared out, and one of two processes that Ray starts here (`make test-ray`)."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from noterec import storage
from noterec.config import EmbedConfig
from noterec.embedding.cluster import Cluster, connected, shares_of
from noterec.embedding.engine import embed
from noterec.embedding.units import Recipe, Unit, Work, Written
from noterec.errors import ArtefactError, ConfigError, DependencyError, InputError, WorkerError
from noterec.index.vectors import load_embeddings
from tests.embedding.test_engine import rows, write

SMALL = EmbedConfig(shard_rows=10, device="cpu")
ON_RAY = SMALL.model_copy(update={"engine": "ray", "workers": 2})


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield module
    module.shutdown()


@pytest.mark.ray
def test_the_vectors_are_those_of_one_process(ray: Any, trained: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d", rows(60))
    embed(data, model=trained, out=tmp_path / "one", config=SMALL)
    summary = embed(data, model=trained, out=tmp_path / "two", config=ON_RAY)
    assert summary.encoded == 60
    first, second = load_embeddings(tmp_path / "one"), load_embeddings(tmp_path / "two")
    assert second.ids.to_list() == first.ids.to_list()
    np.testing.assert_allclose(second.vectors, first.vectors, atol=1e-5)
    again = embed(data, model=trained, out=tmp_path / "two", config=ON_RAY)
    assert (again.encoded, again.unchanged) == (0, 60)


@pytest.mark.ray
def test_a_killed_encoder_costs_what_it_had_in_hand(ray: Any, trained: Path, tmp_path: Path) -> None:
    data = write(tmp_path / "d", rows(400))
    manifest = tmp_path / "e" / storage.MANIFEST
    killed: list[int] = []

    def kill_one() -> None:
        while not (manifest.is_file() and storage.read_json(manifest)["shards"]):
            time.sleep(0.01)
        names = {int(path.parent.name): path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")}
        pid = next(pid for pid, name in names.items() if name.startswith(b"ray::Encoder"))
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    summary = embed(data, model=trained, out=tmp_path / "e", config=ON_RAY)
    killer.join()
    assert killed and summary.encoded == 400
    ids = storage.read_table(tmp_path / "e", columns=["note_id"])["note_id"].to_pylist()
    assert sorted(ids) == [f"n{number:03d}" for number in range(400)]


@pytest.mark.ray
def test_more_encoders_than_there_is_room_for(ray: Any, trained: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"engine": "ray", "workers": 3})
    with pytest.raises(ConfigError, match="workers=3: the cluster has 0 GPUs and 2 CPU cores"):
        embed(write(tmp_path / "d", rows(3)), model=trained, out=tmp_path / "e", config=config)


@pytest.mark.ray
def test_an_encoder_that_can_not_load_its_model_says_why(ray: Any, trained: Path, tmp_path: Path) -> None:
    recipe = Recipe(str(trained), str(tmp_path), {"kind": "embeddings"}, "another", ON_RAY)
    cluster = Cluster(ray, recipe, 1, lambda _: None)
    with pytest.raises(ArtefactError, match="and another where the run began"):
        for _ in range(120):
            cluster.heard(0.5)


def refusing(asked: list[Any]) -> Any:
    """A Ray that reaches nothing."""

    def refuse(address: str, **_: object) -> None:
        asked.append(address)
        raise ConnectionError("no cluster there")

    return SimpleNamespace(is_initialized=lambda: False, init=refuse)


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [("10.0.0.1:6379", "other:1", "10.0.0.1:6379"), (None, "other:1", "other:1"), (None, "", "local")],
)
def test_which_cluster_is_joined(
    given: str | None, environment: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setitem(sys.modules, "ray", refusing(asked))
    monkeypatch.setenv("RAY_ADDRESS", environment)
    config = ON_RAY.model_copy(update={"address": given})
    with pytest.raises(DependencyError, match=f"Ray at {expected}: no cluster there"), connected(config):
        pass
    assert asked == [expected]


def node(cpus: float, gpus: float = 0, *, alive: bool = True) -> dict[str, Any]:
    """A machine as Ray tells of it; it leaves out what there is none of."""
    found = {"CPU": cpus, "GPU": gpus, "memory": 1e9}
    return {"Alive": alive, "Resources": {name: value for name, value in found.items() if value}}


HEAD = node(8)


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "expected"),
    [
        # one per GPU; as many cores as the machine with the fewest per GPU has for each, none of the head's
        ([HEAD, node(32, 4), node(16, 4)], None, "auto", (8, 4, 1)),
        ([HEAD, node(32, 4), node(16, 4)], 4, "auto", (4, 10, 1)),  # three and one
        ([HEAD, node(6, 1), node(64, 8, alive=False)], None, "auto", (1, 6, 1)),
        ([node(3, 8), node(2, 1)], None, "auto", (4, 1, 1)),  # a GPU without a core is no use
        ([HEAD, node(8, 2)], None, "cpu", (2, 8, 0)),
        # without GPUs one per machine, of a size that fits
        ([node(16)], None, "auto", (1, 16, 0)),
        ([node(16)], 3, "auto", (3, 5, 0)),
        ([node(1), node(64), node(64)], None, "auto", (3, 32, 0)),
        ([node(0), node(16), node(16)], None, "auto", (2, 16, 0)),
        ([node(16), node(10), node(64, alive=False)], 4, "auto", (4, 5, 0)),
    ],
)
def test_how_a_cluster_is_shared_out(
    nodes: list[dict[str, Any]], workers: int | None, device: str, expected: tuple[int, int, int]
) -> None:
    shares = shares_of(nodes, workers, device)
    assert (shares.count, shares.cores, shares.gpus) == expected


@pytest.mark.parametrize(
    ("nodes", "workers", "device", "message"),
    [
        (
            [HEAD, node(32, 2)],
            3,
            "auto",
            "workers=3: the cluster has 2 GPUs and 40 CPU cores on 2 machines; each encoder",
        ),
        ([HEAD], 9, "auto", "workers=9: the cluster has 0 GPUs and 8 CPU cores on 1 machines"),
        ([node(0)], None, "auto", "has 0 GPUs and 0 CPU cores"),
        ([HEAD], None, "cuda", "device='cuda' with engine=ray"),
        ([HEAD], None, "cuda:1", "expected auto, or cpu"),
    ],
)
def test_a_cluster_without_room(nodes: list[dict[str, Any]], workers: int | None, device: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        shares_of(nodes, workers, device)


class RayError(Exception):
    pass


class TaskError(RayError):
    cause: Exception | None = None


class ActorError(RayError):
    pass


class MemoryFullError(RayError):
    pass


class FakeRay:
    """A cluster of two GPUs in name only: its calls end when a test says how."""

    exceptions = SimpleNamespace(
        RayError=RayError, RayTaskError=TaskError, RayActorError=ActorError, OutOfMemoryError=MemoryFullError
    )

    def __init__(self) -> None:
        self.ended: dict[str, Any] = {}
        self.calls: list[str] = []
        self.actors = 0
        self.options: dict[str, Any] = {}

    def nodes(self) -> list[dict[str, Any]]:
        return [HEAD, node(12, 2)]

    def remote(self, **options: Any) -> Any:
        self.options = options
        return lambda kind: SimpleNamespace(remote=self._actor)

    def _actor(self, recipe: Recipe, device: str, threads: int) -> Any:
        number, self.actors = self.actors, self.actors + 1
        assert (device, threads) == ("cuda", 6)

        def call(name: str) -> Any:
            def remote(*given: Unit) -> str:
                self.calls.append(" ".join([f"{name} {number}", *(str(unit.number) for unit in given)]))
                return self.calls[-1]

            return SimpleNamespace(remote=remote)

        return SimpleNamespace(ready=call("ready"), encode=call("encode"))

    def wait(self, calls: list[str], num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        ended = [call for call in calls if call in self.ended][:num_returns]
        return ended, [call for call in calls if call not in ended]

    def get(self, call: str) -> Any:
        found = self.ended[call]
        if isinstance(found, Exception):
            raise found
        return found


def unit(number: int) -> Unit:
    return Unit(number, pa.table({"note_id": ["a", "b"]}), None, np.zeros(0), np.zeros((0, 2)))


def fake_cluster(ray: FakeRay) -> Cluster:
    config = EmbedConfig(engine="ray")
    return Cluster(ray, Recipe("m", "o", {}, "v", config), None, lambda _: None)


def test_only_encoders_that_are_ready_are_handed_units() -> None:
    ray = FakeRay()
    cluster = fake_cluster(ray)
    assert (ray.options["num_cpus"], ray.options["num_gpus"]) == (6, 1)
    assert ray.calls == ["ready 0", "ready 1"] and not cluster.room()
    ray.ended["ready 1"] = None
    assert cluster.heard(0.0) == ([], [])
    for number in range(2):
        assert cluster.room()
        cluster.hand(unit(number))
    assert ray.calls[2:] == ["encode 1 0", "encode 1 1"] and not cluster.room()
    ray.ended["ready 0"] = None
    cluster.heard(0.0)
    cluster.hand(unit(2))
    assert ray.calls[4:] == ["encode 0 2"]


def test_no_encoder_gets_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noterec.embedding.cluster.READY_SECONDS", -1.0)
    asked = "asked for 2 with 6 CPU cores and 1 GPUs each; the cluster has 2 GPUs and 20 CPU cores on 2 machines"
    with pytest.raises(WorkerError, match=asked):
        fake_cluster(FakeRay()).heard(0.0)


def task_error(cause: Exception) -> Exception:
    error = TaskError("in a task")
    error.cause = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (task_error(InputError("not finite")), InputError, "not finite"),
        (task_error(ValueError("oh")), WorkerError, "ended with a bug"),
        (ActorError("gone"), WorkerError, "died 4 times"),
        (MemoryFullError("full"), WorkerError, "memory ran out"),
        (RayError("lost"), WorkerError, "Ray: RayError: lost"),
    ],
)
def test_what_was_written_is_told_before_an_error(error: Exception, kind: type[Exception], message: str) -> None:
    ray = FakeRay()
    cluster = fake_cluster(ray)
    ray.ended |= {"ready 0": None, "ready 1": None}
    cluster.heard(0.0)
    for number in range(3):
        cluster.hand(unit(number))
    ray.ended |= {"encode 0 0": error, "encode 1 1": Written(1, {}, Work()), "encode 0 2": Written(2, {}, Work())}
    assert [shard.number for shard in cluster.heard(0.0)[0]] == [1, 2]
    assert not cluster.room()
    with pytest.raises(kind, match=message):
        cluster.heard(0.0)
