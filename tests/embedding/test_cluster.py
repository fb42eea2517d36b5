"""Encoders on a Ray cluster, here one of two processes that Ray starts on this machine (`make test-ray`)."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from noterec import storage
from noterec.config import EmbedConfig
from noterec.embedding.engine import embed
from noterec.errors import ConfigError, DependencyError
from noterec.index.vectors import load_embeddings
from tests.embedding.test_engine import rows, write

pytestmark = pytest.mark.ray
SMALL = EmbedConfig(shard_rows=10, device="cpu")
ON_RAY = SMALL.model_copy(update={"engine": "ray", "workers": 2})


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    module = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    module.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield module
    module.shutdown()


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


def test_more_encoders_than_there_is_room_for(ray: Any, trained: Path, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"engine": "ray", "workers": 3})
    with pytest.raises(ConfigError, match="workers=3: the cluster has 0 GPUs and 2 CPU cores"):
        embed(write(tmp_path / "d", rows(3)), model=trained, out=tmp_path / "e", config=config)


def test_a_cluster_that_is_not_there(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("ray")
    monkeypatch.setattr(module, "is_initialized", lambda: False)

    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no cluster there")

    monkeypatch.setattr(module, "init", refuse)
    config = SMALL.model_copy(update={"engine": "ray", "address": "10.0.0.1:6379"})
    with pytest.raises(DependencyError, match=r"Ray at 10.0.0.1:6379: no cluster there"):
        embed(write(tmp_path / "d", rows(3)), model=trained, out=tmp_path / "e", config=config)
