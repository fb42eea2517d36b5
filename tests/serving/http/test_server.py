"""On a real socket: slow and greedy clients, connections beyond the limit, a swap under load, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest

from noterec.config import ServeConfig
from noterec.errors import ConfigError, InputError
from noterec.index.build import build_index
from noterec.serving.http import server as server_module
from noterec.serving.http.server import Server, read_token, serve
from noterec.serving.service import Service
from tests.serving.conftest import AUTHORISED, TOKEN


@contextlib.contextmanager
def running(service: Service) -> Iterator[tuple[int, Server]]:
    """A server in a thread, on a free port; stopped gracefully in the end."""
    listening = threading.Event()
    server = Server(service, on_listening=listening.set)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        assert listening.wait(5)
        try:
            yield port, server
        finally:
            server.stop()
            thread.join(10)
            assert not thread.is_alive()


def ask(port: int, path: str, method: str = "GET", body: Any = None, headers: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        sent = {"content-type": "application/json", **(headers or {})}
        connection.request(method, path, None if body is None else json.dumps(body), sent)
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def answered(connection: socket.socket, seconds: float = 5) -> bytes:
    """All that comes until the server closes."""
    connection.settimeout(seconds)
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            found += part
    return found


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=5)


def test_ids_with_any_characters(index: Path, open_service: Callable[..., Service]) -> None:
    with running(open_service(index)) as (port, _):
        for note_id in ("%2F", "a/b//c/", "a%20b", "ü/🙂", "a?b#c", "%", "a%00b"):
            path = f"/v1/notes/{quote(note_id, safe='')}"
            status, record = ask(port, "/v1/notes", "POST", {"note_id": note_id, "title": "Tea"}, AUTHORISED)
            assert (status, record["change"]) == (200, "added")
            assert ask(port, path)[1]["note_id"] == note_id
            assert ask(port, f"/v1/similar?note_id={quote(note_id, safe='')}&k=1")[0] == 200
            assert ask(port, path, "DELETE", headers=AUTHORISED)[1]["note_id"] == note_id


def test_a_body_of_100_mb_is_not_read(built: Path, open_service: Callable[..., Service]) -> None:
    with running(open_service(built, max_body_bytes=1_000_000)) as (port, _):
        for head in (b"Content-Length: 100000000", b"Transfer-Encoding: chunked"):
            with connect(port) as connection:
                connection.sendall(b"POST /v1/embed HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
                piece, sent, start = b"x" * 1_000_000, 0, time.monotonic()
                if b"chunked" in head:
                    piece = b"f4240\r\n" + piece + b"\r\n"
                with contextlib.suppress(ConnectionError, TimeoutError):
                    connection.settimeout(3)
                    while sent < 100_000_000 and time.monotonic() < start + 3:
                        connection.sendall(piece)
                        sent += len(piece)
                        if sent >= 2_000_000:
                            break  # a client that stops once it has an answer waiting
                answer = answered(connection)
            assert answer.startswith(b"HTTP/1.1 413 "), answer[:200]
            assert b"too_large" in answer and b"connection: close" in answer
        assert ask(port, "/healthz")[0] == 200


def test_slow_headers_and_slow_bodies_end(built: Path, open_service: Callable[..., Service]) -> None:
    with running(open_service(built, header_seconds=0.3, body_seconds=0.3)) as (port, _):
        with connect(port) as silent, connect(port) as dripping, connect(port) as body:
            body.sendall(b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n{")
            start = time.monotonic()
            with contextlib.suppress(ConnectionError):
                for letter in b"GET /healthz HTTP/1.1\r\nHost: x":
                    dripping.sendall(bytes([letter]))
                    time.sleep(0.02)
            for connection in (silent, dripping):
                assert answered(connection).startswith(b"HTTP/1.1 408 ")
            assert answered(body).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - start < 3
        with connect(port) as again:  # the limit holds for the second request of a connection, too
            again.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            assert again.recv(65536).startswith(b"HTTP/1.1 200 ")
            again.sendall(b"GET /heal")
            assert b"HTTP/1.1 408 " in answered(again, 2)
        with connect(port) as patient:  # and ends with the headers
            patient.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            time.sleep(0.5)
            assert patient.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_client_that_never_reads_is_let_go(built: Path, open_service: Callable[..., Service]) -> None:
    with running(open_service(built, request_seconds=0.3)) as (port, server), socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", port))
        connection.settimeout(0.5)
        requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 400  # much more than the system's buffers hold
        with contextlib.suppress(TimeoutError, ConnectionError):
            connection.sendall(requests)
        until = time.monotonic() + 5
        while server.server_state.connections and time.monotonic() < until:
            time.sleep(0.02)
        assert not server.server_state.connections


def test_what_is_no_http_and_too_many_connections(built: Path, open_service: Callable[..., Service]) -> None:
    with running(open_service(built, max_connections=2)) as (port, _):
        with connect(port) as nonsense:
            nonsense.sendall(b"\x16\x03\x01\x02\x00nonsense\r\n\r\n")
            answer = answered(nonsense)
            assert answer.startswith(b"HTTP/1.1 400 ") and json.loads(answer.split(b"\r\n\r\n")[1])["error"]["code"]
        with connect(port), connect(port), connect(port) as third:
            assert answered(third) == b""


def test_a_swap_fails_no_request(
    index: Path, embeddings: Path, platform: Path, open_service: Callable[..., Service]
) -> None:
    service = open_service(index, cache_bytes=0, poll_seconds=0.02)
    stop = threading.Event()
    answers: list[tuple[int, str]] = []

    def client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        body = {"note": {"title": f"Tea {number}"}} if number % 2 else {"note_id": "n000001"}
        while not stop.is_set():
            connection.request("POST", "/v1/similar", json.dumps(body), {"content-type": "application/json"})
            response = connection.getresponse()
            answers.append((response.status, json.loads(response.read()).get("index_version", "")))
        connection.close()

    with running(service) as (port, _), ThreadPoolExecutor(4) as pool:
        clients = [pool.submit(client, number) for number in range(4)]
        try:
            for _ in range(3):
                version = service.index.version
                build_index(embeddings, notes=platform / "data", out=index)
                until = time.monotonic() + 5
                while service.index.version == version and time.monotonic() < until:
                    time.sleep(0.01)
                time.sleep(0.1)
        finally:
            stop.set()
        for done in clients:
            done.result(5)
    assert {status for status, _ in answers} == {200}
    assert len({version for _, version in answers}) == 4


def test_stopping_answers_what_was_begun(built: Path, open_service: Callable[..., Service]) -> None:
    service = open_service(built, drain_seconds=0.4)
    batcher = service._encoding.batcher
    assert batcher is not None
    with running(service) as (port, server), ThreadPoolExecutor(1) as pool:
        slow = threading.Event()
        held = pool.submit(lambda: asyncio.run(batcher.run(lambda _: slow.wait(5))))
        with connect(port) as connection:
            body = json.dumps({"notes": [{"title": "Tea"}]}).encode()
            head = b"POST /v1/embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            connection.sendall(head % len(body) + body)
            time.sleep(0.1)
            server.stop()
            status, record = ask(port, "/readyz")  # a load balancer learns of it before connections are refused
            assert (status, record["draining"], record["ready"]) == (503, True, False)
            time.sleep(0.6)
            with pytest.raises(ConnectionRefusedError):
                connect(port)
            slow.set()
            assert answered(connection).startswith(b"HTTP/1.1 200 ")
        held.result(5)


def test_the_command_ends_with_0_on_sigterm(built: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from noterec.serving.http.server import serve; "
        "serve(sys.argv[1], port=0, on_ready=lambda url, _: print(url, flush=True))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NOTEREC_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(built)], stdout=subprocess.PIPE, text=True, env=environment, cwd=Path.cwd()
    )
    try:
        assert process.stdout is not None
        port = urlsplit(process.stdout.readline().strip()).port
        assert port is not None and ask(port, "/readyz")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()


def test_told_to_stop_while_it_loads_it_ends_in_order(tmp_path: Path) -> None:
    script = (
        "import contextlib, os, sys, time; from noterec.serving.http import server\n"
        "def load(*_, **__):\n"
        "    try:\n"
        "        print('loading', flush=True); time.sleep(30)\n"
        "    finally:\n"
        "        print('tidied', flush=True)\n"
        "server.open_service = load; server.serve('x', port=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
    try:
        assert process.stdout is not None and process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0 and process.stdout.read() == "tidied\n"
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("address", "hosts", "names"),
    [
        ("127.0.0.1", (), {"given"}),
        ("127.0.0.1", ("a",), {"given", "a"}),
        ("0.0.0.0", (), None),
        ("0.0.0.0", ("a",), {"given", "a"}),
    ],
)
def test_whose_names_count(address: str, hosts: tuple[str, ...], names: set[str] | None) -> None:
    with socket.socket() as listener:
        listener.bind((address, 0))
        found = server_module._hosts("given", listener, ServeConfig(hosts=hosts))
    assert found == names


def test_pages_from_elsewhere_cannot_read_the_answers(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, Any]] = []

    def ask_and_stop(url: str, service: Service) -> None:
        port = urlsplit(url).port
        assert port is not None

        def run() -> None:
            for host in ("evil.example", f"localhost:{port}"):
                asked.append(ask(port, "/v1/notes/n000001", headers={"Host": host}))
            loop.call_soon_threadsafe(servers[0].stop)

        loop = asyncio.get_running_loop()
        threading.Thread(target=run).start()

    servers: list[Server] = []
    run = Server.run
    monkeypatch.setattr(Server, "run", lambda self, **given: (servers.append(self), run(self, **given)))
    assert serve(built, port=0, on_ready=ask_and_stop).requests == 2
    assert [status for status, _ in asked] == [421, 200]
    assert asked[0][1]["error"]["code"] == "misdirected"


def test_what_cannot_be_served_is_said(built: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match="can't listen there"):
            serve(built, port=taken.getsockname()[1])
    with pytest.raises(InputError, match="no such address"):
        serve(built, host="not an address")
    with pytest.raises(InputError, match="no index there"):
        serve(tmp_path, port=0)
    with pytest.raises(ConfigError, match="needs a token"):
        serve(built, port=0, config=ServeConfig(protect="all"))


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    monkeypatch.delenv("NOTEREC_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("NOTEREC_TOKEN", TOKEN)
    assert read_token() == TOKEN
    file.write_text("another-token-of-enough-length\n")
    with pytest.raises(InputError, match="mode 600"):
        read_token(file)
    file.chmod(0o600)
    assert read_token(file) == "another-token-of-enough-length"
    for bad in ("short", "with spaces in it for sure", "ünicode-is-no-header-value"):
        file.write_text(bad)
        with pytest.raises(InputError, match="at least 16 printable ASCII") as caught:
            read_token(file)
        assert bad not in str(caught.value)
    with pytest.raises(InputError, match="can't be read"):
        read_token(tmp_path / "nothing")
