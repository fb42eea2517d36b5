"""A job that is killed at any moment and started again makes what one makes that was left alone: nothing lost, nothing twice."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pytest

from noterec import schema, storage
from noterec.embedding import table as tables

KILLS = int(os.environ.get("NOTEREC_KILLS", "3"))
NOTES, SHARD_ROWS = 360, 12


class Victim:
    """The process of `victim.py`, for one output."""

    def __init__(self, dataset: Path, model: Path, out: Path) -> None:
        self.out = out
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("victim.py")), dataset, model, out, str(SHARD_ROWS)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def run(self, kill_after: float | None = None) -> tuple[float, int]:
        """One run of `embed`, killed after so many seconds; its seconds and exit code, -9 for one that was killed."""
        self._pipe(self._process.stdin).write("\n")
        self._pipe(self._process.stdin).flush()
        child = int(self._line())
        if kill_after is not None:
            time.sleep(kill_after)
            with contextlib.suppress(ProcessLookupError):  # it has ended by itself
                os.kill(child, signal.SIGKILL)
        seconds, code = self._line().split()
        return float(seconds), int(code)

    def close(self) -> None:
        self._pipe(self._process.stdin).close()
        self._process.wait()

    def _line(self) -> str:
        return self._pipe(self._process.stdout).readline()

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    random = np.random.default_rng(5)
    words = ["coffee", "rope", "train", "bread", "film", "garden", "river", "lamp"]
    rows = [
        {
            "note_id": f"n{number:04d}",
            "title": f"{number}",
            "content": " ".join(random.choice(words, random.integers(4, 40))),
        }
        for number in range(NOTES)
    ]
    folder = tmp_path_factory.mktemp("killed") / "data"
    storage.write_table(pa.Table.from_pylist(rows, schema=schema.NOTES), folder / "notes" / "a.parquet")
    return folder


def test_killed_again_and_again(dataset: Path, backbone_folder: Callable[[str], Path], tmp_path: Path) -> None:
    model = backbone_folder("llama")
    alone = Victim(dataset, model, tmp_path / "alone")
    seconds, code = alone.run()
    alone.close()
    assert code == 0
    random = np.random.default_rng(int(os.environ.get("NOTEREC_SEED", "0")))
    victim = Victim(dataset, model, tmp_path / "out")
    killed = 0
    while killed < KILLS:
        _, code = victim.run(kill_after=float(random.uniform(0.05, seconds)))
        assert code in (0, -signal.SIGKILL)
        if (tmp_path / "out" / storage.MANIFEST).is_file():
            found = storage.read_table(tmp_path / "out", columns=["note_id"])["note_id"].to_pylist()
            assert len(set(found)) == len(
                found
            )  # what is named is whole, at every moment, and nothing stands there twice
        if code == 0:  # it was done before it could be killed
            shutil.rmtree(tmp_path / "out")
        killed += code != 0
    _, code = victim.run()
    victim.close()
    assert code == 0

    first, second = (storage.read_table(tmp_path / name).sort_by("note_id") for name in ("alone", "out"))
    assert (
        second["note_id"].to_pylist() == first["note_id"].to_pylist() == [f"n{number:04d}" for number in range(NOTES)]
    )
    assert second["content_hash"].equals(first["content_hash"])
    np.testing.assert_allclose(_matrix(second), _matrix(first), atol=1e-6)
    assert not tables.embeddings_status(tmp_path / "out", deep=True).damage
    named = {storage.MANIFEST, *(file.name for file in storage.parquet_files(tmp_path / "out"))}
    left = {file.name for file in (tmp_path / "out").iterdir() if file.is_file() and not file.name.endswith(".lock")}
    assert left == named  # no orphan, no temporary file


def _matrix(table: pa.Table) -> np.ndarray:
    return np.array(table["embedding"].to_pylist(), dtype=np.float32)
