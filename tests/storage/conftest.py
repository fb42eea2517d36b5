"""Object stores for tests: an S3 server on loopback, and obstore's own store in memory under gs://."""

from __future__ import annotations

import functools
import itertools
import logging
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from noterec import storage
from noterec.storage import stores

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server that lives as long as the tests."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a new bucket; the environment says where it is."""
    bucket = f"bucket-{next(_numbers)}"  # never one that a client is kept for
    for name, value in {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": "tests",
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    with urllib.request.urlopen(urllib.request.Request(f"{s3_server}/{bucket}", method="PUT")):
        return f"s3://{bucket}"


@pytest.fixture
def gs(monkeypatch: pytest.MonkeyPatch) -> str:
    """A gs:// URL behind which is a store in memory."""
    from obstore.store import MemoryStore

    @functools.cache
    def client(scheme: str, bucket: str) -> MemoryStore:
        return MemoryStore()

    monkeypatch.setattr(stores, "_client", client)
    return "gs://memory"


@pytest.fixture(params=["local", "s3", "gs"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> storage.Place:
    """An empty folder: on disk, in S3, in a store in memory."""
    if request.param == "local":
        return tmp_path
    return storage.place(request.getfixturevalue(request.param)) / "tests"


@pytest.fixture
def python(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a Python program in another process."""
    running: list[subprocess.Popen[str]] = []

    def start(program: str, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, *map(str, arguments)]
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return running[-1]

    yield start
    for process in running:
        process.kill()
        process.communicate()
