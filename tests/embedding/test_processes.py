"""One process per device: the vectors of one process, whoever dies meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import Pipe
from pathlib import Path

import numpy as np
import pytest

from noterec import storage
from noterec.config import EmbedConfig
from noterec.embedding import processes
from noterec.embedding.engine import embed
from noterec.embedding.processes import Processes, devices_of
from noterec.embedding.units import Recipe
from noterec.errors import ArtefactError, ConfigError, WorkerError
from noterec.index.vectors import load_embeddings
from noterec.model.encoder import NoteEncoder
from tests.embedding.test_engine import rows, write

SMALL = EmbedConfig(shard_rows=10, device="cpu")


def recipe(model: Path, out: Path, version: str) -> Recipe:
    return Recipe(str(model), str(out), {"kind": "embeddings"}, version, SMALL)


def test_two_processes_of_which_one_is_killed(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "d", rows(200))
    alone = embed(data, model=trained, out=tmp_path / "one", config=SMALL)
    manifest = tmp_path / "two" / storage.MANIFEST

    def kill_one() -> None:
        while not (manifest.is_file() and storage.read_json(manifest)["shards"]):
            time.sleep(0.01)
        victim = multiprocessing.active_children()[0]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    config = SMALL.model_copy(update={"device": "cpu,cpu"})
    crowd = embed(data, model=trained, out=tmp_path / "two", config=config)
    killer.join()
    assert "died (SIGKILL); its notes are encoded again" in caplog.text
    assert (crowd.encoded, crowd.notes, crowd.model_version) == (200, 200, alone.model_version)
    ids = storage.read_table(tmp_path / "two", columns=["note_id"])["note_id"].to_pylist()
    assert sorted(ids) == [f"n{number:03d}" for number in range(200)]  # each once
    first, second = load_embeddings(tmp_path / "one"), load_embeddings(tmp_path / "two")
    np.testing.assert_allclose(second.vectors, first.vectors, atol=1e-5)
    assert not multiprocessing.active_children()


def test_a_machine_with_another_model_says_so(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    crew = Processes(recipe(trained, tmp_path, "another"), ["cpu"], lambda _: None)
    ours, theirs = Pipe()
    processes._work(theirs, recipe(trained, tmp_path, "another"), "cpu", 1)
    crew._workers[0].connection = ours
    with pytest.raises(ArtefactError, match="and another where the run began"):
        crew.heard(1.0)


def test_one_that_dies_without_a_shard_again_and_again_is_given_up(tmp_path: Path) -> None:
    crew = Processes(recipe(tmp_path, tmp_path, "v"), ["cpu"], lambda _: None)
    with crew:
        for _ in range(processes.RESTARTS + 1):
            worker = crew._workers[0]
            context = multiprocessing.get_context("fork")
            worker.connection, theirs = Pipe()
            worker.process = context.Process(target=os._exit, args=(3,))
            worker.process.start()
            theirs.close()
            worker.starts += 1
            if worker.starts <= processes.RESTARTS:
                assert crew.heard(5.0) == ([], [])
        with pytest.raises(WorkerError, match=r"on cpu died 4 times in a row \(exit code 3\)"):
            crew.heard(5.0)


@pytest.mark.parametrize(("given", "expected"), [("cpu", ["cpu"]), ("cpu, cpu", ["cpu", "cpu"]), ("auto", ["auto"])])
def test_devices(given: str, expected: list[str]) -> None:
    assert devices_of(EmbedConfig(device=given)) == expected


@pytest.mark.parametrize("given", ["cpu,", ",", "all"])
def test_devices_that_name_none(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match="device="):
        devices_of(EmbedConfig(device=given))


def test_a_loaded_encoder_has_one_device(trained: Path, tmp_path: Path) -> None:
    encoder = NoteEncoder.from_pretrained(trained, device="cpu")
    with pytest.raises(ConfigError, match="give the model's folder"):
        embed(write(tmp_path / "d", rows(3)), model=encoder, out=tmp_path / "e", config=EmbedConfig(device="cpu,cpu"))
