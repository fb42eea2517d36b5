"""Worker processes that outlive a call: started once, and gone when they should be, however the job ends."""

from __future__ import annotations

import gc
import io
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from noterec.errors import ImageError, InputError
from noterec.notes.images.source import ImageSource
from noterec.notes.images.workers import LOOK_AHEAD, Workers, decode_all
from tests.notes.deadly import width


def _entry(wide: int, tail: bytes = b"") -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.new("L", (wide, 2)).save(buffer, "PNG")
    return {"bytes": buffer.getvalue() + tail, "path": None}


def _widths(entries: Any, workers: Workers) -> list[Any]:
    results = decode_all(entries, ImageSource(), workers=workers, then=width)
    return [result.reason if isinstance(result, ImageError) else result for result in results]


def _pids() -> set[int | None]:
    return {process.pid for process in multiprocessing.active_children()}


def test_started_once_and_only_if_there_is_something_to_do() -> None:
    with Workers(2) as workers:
        assert _widths([], workers) == [] and not workers.running and _pids() == set()
        assert _widths([_entry(3)], workers) == [3]
        first = _pids()
        assert workers.running and len(first) == 1  # the second would have had nothing to do
        assert _widths([_entry(wide) for wide in range(1, 20)], workers) == list(range(1, 20))
        assert first <= _pids() and len(_pids()) <= 2
    assert not workers.running and _pids() == set()
    assert _widths([_entry(3)], workers) == [3]
    workers.close()
    workers.close()
    assert _pids() == set()


def test_none_at_all() -> None:
    workers = Workers(0)
    assert _widths([_entry(3)], workers) == [3] and not workers.running
    with pytest.raises(InputError, match="workers is -1"):
        Workers(-1)


def test_one_that_dies_costs_a_picture_and_the_next_call_nothing() -> None:
    with Workers(1) as workers:
        assert _widths([_entry(1), _entry(2, b"die"), *map(_entry, range(3, 9))], workers) == [
            1, "worker-died", *range(3, 9)
        ]  # fmt: skip
        assert _widths([_entry(1)], workers) == [1]
        assert len(_pids()) == 1


def test_one_that_is_killed_while_it_has_nothing_to_do_costs_no_picture() -> None:
    with Workers(1) as workers:
        assert _widths([_entry(1)], workers) == [1]
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        assert _widths(map(_entry, range(1, 12)), workers) == list(range(1, 12))
    assert _pids() == set()


def test_what_was_not_taken_is_dropped_and_the_workers_stay() -> None:
    with Workers(1) as workers:
        results = decode_all([_entry(wide) for wide in range(1, 40)], ImageSource(), workers=workers, then=width)
        assert next(results) == 1
        results.close()
        before = _pids()
        with pytest.raises(RuntimeError, match="a bug"):
            _widths([_entry(1), _entry(2, b"bug"), _entry(3)], workers)
        assert _widths([_entry(5), _entry(6)], workers) == [5, 6]
        assert _pids() == before and len(before) == 1


def test_entries_are_taken_little_by_little() -> None:
    taken = 0

    def counted() -> Any:
        nonlocal taken
        for entry in map(_entry, range(1, 30)):
            taken += 1
            yield entry

    with Workers(1) as workers:
        for _ in range(2):
            taken = 0
            for place, _ in enumerate(decode_all(counted(), ImageSource(), workers=workers, then=width)):
                assert taken <= place + 1 + LOOK_AHEAD


def test_a_forgotten_one_ends() -> None:
    workers = Workers(1)
    assert _widths([_entry(1)], workers) == [1]
    del workers
    gc.collect()
    end = time.monotonic() + 10
    while _pids() and time.monotonic() < end:
        time.sleep(0.02)
    assert _pids() == set()


SCRIPT = """
import multiprocessing, os, signal, sys, time
from noterec.notes.images.source import ImageSource
from noterec.notes.images.workers import Workers, decode_all

workers = Workers(2)

def main(then):
    entry = {"bytes": open(sys.argv[1], "rb").read(), "path": None}
    assert len(list(decode_all([entry] * 8, ImageSource(), workers=workers))) == 8
    print(*(process.pid for process in multiprocessing.active_children()), flush=True)
    if then == "forget":
        return
    for _ in decode_all(iter(lambda: entry, None), ImageSource(), workers=workers):
        pass

if __name__ == "__main__":
    main(sys.argv[2])
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks processes up in /proc")
@pytest.mark.parametrize("how", ["forget", "interrupt", "kill"])
def test_none_stays_behind(how: str, tmp_path: Path) -> None:
    """Whether the job ends without closing them, at Ctrl-C, or is killed while it decodes."""
    (tmp_path / "job.py").write_text(SCRIPT)
    Image.new("RGB", (300, 200)).save(tmp_path / "p.png")
    job = subprocess.Popen(
        [sys.executable, tmp_path / "job.py", tmp_path / "p.png", how],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path.cwd())},
    )  # fmt: skip
    assert job.stdout is not None and job.stderr is not None
    pids = [int(pid) for pid in job.stdout.readline().split()]
    assert pids, job.stderr.read()
    if how == "interrupt":
        os.killpg(job.pid, signal.SIGINT)  # as a terminal does: to the job and its workers
    elif how == "kill":
        job.kill()
    errors = job.communicate(timeout=30)[1]
    end = time.monotonic() + 10
    while any(map(_alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(_alive, pids))
    assert errors.count("Traceback") == (how == "interrupt"), errors
    assert ("KeyboardInterrupt" in errors) == (how == "interrupt")
