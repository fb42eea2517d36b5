"""One process per device: the vectors of one process, whoever dies meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from pickle import PicklingError
from types import SimpleNamespace
from typing import cast

import numpy as np
import pyarrow as pa
import pytest

from noterec import storage
from noterec.config import EmbedConfig
from noterec.embedding import processes
from noterec.embedding.engine import embed
from noterec.embedding.processes import Processes, _Process, devices_of
from noterec.embedding.units import Recipe, Unit, Work, Written
from noterec.errors import ArtefactError, ConfigError, InputError, WorkerError
from noterec.index.vectors import load_embeddings
from noterec.model.encoder import NoteEncoder
from noterec.notes import note
from noterec.notes.note import as_table
from tests.embedding.test_engine import rows, write

fork = multiprocessing.get_context("fork")  # for a process that only ends: it starts at once
SMALL = EmbedConfig(shard_rows=10, device="cpu")


def recipe(model: Path, out: Path, version: str) -> Recipe:
    return Recipe(str(model), str(out), {"kind": "embeddings"}, version, SMALL)


def test_two_processes_of_which_one_is_killed(trained: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write(tmp_path / "d", rows(90))
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
    assert (crowd.encoded, crowd.notes, crowd.model_version) == (90, 90, alone.model_version)
    ids = storage.read_table(tmp_path / "two", columns=["note_id"])["note_id"].to_pylist()
    assert sorted(ids) == [f"n{number:03d}" for number in range(90)]  # each once
    first, second = load_embeddings(tmp_path / "one"), load_embeddings(tmp_path / "two")
    np.testing.assert_allclose(second.vectors, first.vectors, atol=1e-5)
    assert not multiprocessing.active_children()


def unit(number: int, notes: pa.Table, places: int = 0) -> Unit:
    """Notes that are due, but for the first `places` of them."""
    return Unit(number, notes, None, np.arange(places), np.zeros((0, 1), dtype=np.float32))


def notes(count: int, title: str = "on coffee") -> pa.Table:
    table = as_table([{"note_id": f"n{number}", "title": title} for number in range(count)])
    table = table.select(["note_id", *note.ENCODED_COLUMNS])
    return table.append_column("content_hash", pa.array(range(count), type=pa.uint64()))


def heard(crew: Processes) -> list[int]:
    """The next shards' numbers."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline:
        written, lost = crew.heard(0.5)
        assert not lost
        if written:
            return [shard.number for shard in written]
    raise AssertionError("nothing was heard")


def test_an_error_in_a_process_comes_through_after_what_it_had_written(trained: Path, tmp_path: Path) -> None:
    version = NoteEncoder.from_pretrained(trained, device="cpu").model_version
    with Processes(recipe(trained, tmp_path / "e", version), ["cpu"], lambda _: None) as crew:
        crew.hand(unit(0, notes(3)))
        assert heard(crew) == [0]
        crew.hand(unit(1, notes(3), places=1))  # without the vector of that one, which isn't due
        with pytest.raises(WorkerError, match=r"ended with a bug:(.|\n)*shape mismatch"):
            heard(crew)


def stubborn(*_: object) -> None:
    time.sleep(8)


def test_a_process_starts_while_another_has_not_taken_its_unit_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_work", stubborn)
    large = notes(20, "x" * 100_000)  # than what a connection holds
    started = time.monotonic()
    with Processes(recipe(tmp_path, tmp_path, "v"), ["cpu", "cpu"], lambda _: None) as crew:
        for number in range(4):
            assert crew.room()
            crew.hand(unit(number, large))
        assert not crew.room()
        assert len(multiprocessing.active_children()) == 2
    assert time.monotonic() - started < 6
    assert not multiprocessing.active_children()


def listening(crew: Processes, place: int) -> Connection:
    """The other end of a process that isn't there."""
    ours, theirs = Pipe()
    crew._workers[place].running = cast(_Process, SimpleNamespace(connection=ours, error=None))
    return theirs


def test_a_machine_with_another_model_says_so(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    crew = Processes(recipe(trained, tmp_path, "another"), ["cpu"], lambda _: None)
    processes._work(listening(crew, 0), recipe(trained, tmp_path, "another"), "cpu", 1)
    assert crew.heard(1.0) == ([], [])
    with pytest.raises(ArtefactError, match="and another where the run began"):
        crew.heard(1.0)


def test_what_was_written_when_another_failed_is_told_first(tmp_path: Path) -> None:
    counted: list[int] = []
    crew = Processes(recipe(tmp_path, tmp_path, "v"), ["cpu", "cpu"], counted.append)
    one, other = listening(crew, 0), listening(crew, 1)
    for message in (7, Written(0, {}, Work()), processes._Failed(InputError("no more"), "")):
        one.send(message)
    for message in (5, Written(1, {}, Work()), 6, Written(2, {}, Work())):
        other.send(message)
    one.close()
    written, lost = crew.heard(1.0)
    assert ([shard.number for shard in written], lost, counted) == ([0, 1, 2], [], [7, 5, 6])
    assert not crew.room()
    with pytest.raises(InputError, match="no more"):
        crew.heard(1.0)


def test_a_unit_that_can_not_be_sent_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_work", stubborn)
    with Processes(recipe(tmp_path, tmp_path, "v"), ["cpu"], lambda _: None) as crew:
        crew.hand(cast(Unit, lambda: None))
        with pytest.raises((AttributeError, PicklingError)):
            for _ in range(20):
                crew.heard(0.2)


def vanishing(*_: object) -> None:
    os._exit(3)


def test_one_that_dies_without_a_shard_again_and_again_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_work", vanishing)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)
    due = unit(0, notes(1))
    with Processes(recipe(tmp_path, tmp_path, "v"), ["cpu"], lambda _: None) as crew:
        for _ in range(processes.RESTARTS + 1):
            crew.hand(due)
            assert crew.heard(10.0) == ([], [due])
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
