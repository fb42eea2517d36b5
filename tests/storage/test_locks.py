"""One job at a time on one output, and none that waits for the dead."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from noterec import storage
from noterec.errors import InputError, LockedError
from noterec.storage import locks
from noterec.storage.objects import ObjectPath

Python = Callable[..., "subprocess.Popen[str]"]

HOLDER = """
import sys, time
import pyarrow as pa
from noterec import storage
table = storage.ShardFolder(sys.argv[1], origin={})
with table.claim("noterec embed"):
    table.append(pa.table({"x": [1]}))
    storage.write_shard(table.path, pa.table({"x": [9]}), origin={})
    print("holding", flush=True)
    time.sleep(60)
"""


def folder(root: storage.Place | str) -> storage.ShardFolder:
    return storage.ShardFolder(root, origin={})


def held(python: Python, root: storage.Place | str) -> subprocess.Popen[str]:
    """A live process that has claimed the folder."""
    process = python(HOLDER, root)
    assert process.stdout is not None
    assert process.stdout.readline() == "holding\n"
    return process


@pytest.mark.parametrize("store", [None, "s3"])
def test_a_live_job_is_left_alone_and_a_killed_one_succeeded(
    store: str | None, tmp_path: Path, python: Python, request: pytest.FixtureRequest
) -> None:
    root = storage.place(request.getfixturevalue(store) + "/t" if store else tmp_path / "t")
    process = held(python, root)
    named = rf"^{root}: `noterec embed` \(process {process.pid} on {socket.gethostname()}, since 20.*\) is writing this output"
    with pytest.raises(LockedError, match=named), folder(root).claim("tests"):
        pass
    assert LockedError.exit_code == os.EX_TEMPFAIL  # a scheduler tries again
    process.send_signal(signal.SIGKILL)
    process.wait()
    table = folder(root)
    with table.claim("tests"):
        assert storage.read_table(root)["x"].to_pylist() == [1]
        assert len(list(root.glob("shard-*.parquet"))) == 1
        table.append(pa.table({"x": [2]}))
    assert not (root / ".job.lock").exists()
    assert storage.read_table(root)["x"].to_pylist() == [1, 2]


def test_one_claim_at_a_time_in_one_process(root: storage.Place) -> None:
    named = f"`one` [(]process {os.getpid()} "
    with folder(root).claim("one"), pytest.raises(LockedError, match=named), folder(root).claim("two"):
        pass
    with pytest.raises(ZeroDivisionError), folder(root).claim("three"):
        raise ZeroDivisionError
    with folder(root).claim("four"):
        pass


def test_a_lock_without_words_still_holds(tmp_path: Path) -> None:
    with folder(tmp_path).claim("one"):
        (tmp_path / ".job.lock").write_text("")
        with pytest.raises(LockedError, match="another job is writing"), folder(tmp_path).claim("two"):
            pass


def test_a_fork_does_not_keep_the_lock(tmp_path: Path) -> None:
    claim = folder(tmp_path).claim("parent")
    claim.__enter__()
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    try:
        claim.__exit__(None, None, None)
        with folder(tmp_path).claim("next"):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_lock_that_is_removed_stops_its_job_at_the_next_write(tmp_path: Path) -> None:
    first = folder(tmp_path)
    with first.claim("first"):
        first.append(pa.table({"x": [1]}))
        (tmp_path / ".job.lock").unlink()
        second = folder(tmp_path)
        with second.claim("second"):
            with pytest.raises(LockedError, match="was removed while this job was running"):
                first.append(pa.table({"x": [2]}))
            second.append(pa.table({"x": [3]}))
    assert storage.read_table(tmp_path)["x"].to_pylist() == [1, 3]


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with (
        pytest.raises(InputError, match=r"has no locks \(Operation not supported\)"),
        locks.only_job(tmp_path, "tests"),
    ):
        pass


def left_behind(root: str, **about: Any) -> ObjectPath:
    """A lock object that some job put."""
    lock = storage.place(root) / ".job.lock"
    assert isinstance(lock, ObjectPath)
    record = {"what": "other", "pid": 1, "host": "elsewhere", "started": "then", "token": "t", **about}
    lock.put(json.dumps(record).encode())
    return lock


def test_a_lock_of_another_machine_runs_out(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    left_behind(s3)
    with pytest.raises(LockedError, match=r"process 1 on elsewhere, since then.*runs out within 5 minutes"):
        folder(s3).claim("tests").__enter__()
    monkeypatch.setattr(locks, "STALE_SECONDS", -5.0)
    with locks.only_job(storage.place(s3), "tests"):
        assert json.loads(storage.place(f"{s3}/.job.lock").read_text())["what"] == "tests"


def test_a_lock_of_a_dead_process_of_this_machine_is_taken_over_at_once(gs: str) -> None:
    left_behind(gs, host=socket.gethostname(), pid=2**22 + 1)  # more than a system gives out
    with folder(gs).claim("tests"):
        pass


def test_a_container_of_our_name_and_number_is_dead_when_it_stops_renewing(
    gs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    left_behind(gs, host=socket.gethostname(), pid=os.getpid())
    with pytest.raises(LockedError, match=f"process {os.getpid()} on "), folder(gs).claim("tests"):
        pass
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.0)  # two renewals were due long ago
    with folder(gs).claim("one"), pytest.raises(LockedError), folder(gs).claim("two"):  # a live one of ours never is
        pass


def test_a_lock_is_renewed_while_its_job_lives(gs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    lock = storage.place(gs) / ".job.lock"
    assert isinstance(lock, ObjectPath)
    table = folder(gs)
    with table.claim("tests"):
        seen = {str(lock.fetch().version) for _ in range(50) if not time.sleep(0.005)}
        assert len(seen) > 5
        table.append(pa.table({"x": [1]}))
    assert not lock.exists()


def test_a_job_that_lost_its_lock_writes_no_more(gs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    table = folder(gs)
    with table.claim("tests"):
        table.append(pa.table({"x": [1]}))
        lock = left_behind(gs)  # another job found ours stale
        time.sleep(0.1)
        with pytest.raises(LockedError, match="was away from the store for too long"):
            table.append(pa.table({"x": [2]}))
    assert json.loads(lock.read_text())["host"] == "elsewhere"  # and is not robbed of its lock in turn
    assert storage.read_table(gs)["x"].to_pylist() == [1]


def test_a_job_that_could_not_renew_its_lock_in_time_writes_no_more(gs: str, monkeypatch: pytest.MonkeyPatch) -> None:
    table = folder(gs)
    with table.claim("tests"):
        monkeypatch.setattr(locks, "STALE_SECONDS", -1.0)
        with pytest.raises(LockedError, match="another one may write the output now"):
            table.commit()


def test_a_renewal_whose_answer_was_lost_is_still_ours(gs: str) -> None:
    lock = storage.place(gs) / ".job.lock"
    with locks.only_job(storage.place(gs), "tests") as lease:
        assert isinstance(lock, ObjectPath) and isinstance(lease, locks._StoreLease)
        lock.put(lock.read_bytes())  # got through, and this process doesn't know
        lease._renew()
        lease.check()
        lease._renew()
        lease.check()


def test_a_store_that_is_away_is_tried_again(
    gs: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "RENEW_SECONDS", 0.01)
    put_if = ObjectPath.put_if
    table = folder(gs)
    with table.claim("tests"):
        with monkeypatch.context() as away:

            def refuse(*_: Any) -> None:
                raise InputError("the store can't be reached")

            away.setattr(ObjectPath, "put_if", refuse)
            time.sleep(0.1)
        assert "could not be renewed, trying again: the store can't be reached" in caplog.text
        assert ObjectPath.put_if is put_if
        table.append(pa.table({"x": [1]}))
    assert storage.read_table(gs).num_rows == 1
