"""Pictures from URLs: only from public addresses, the very ones that were checked, within limits of bytes, time and redirects."""

from __future__ import annotations

import contextlib
import http.server
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from noterec.config import ImagesConfig
from noterec.errors import ImageError
from noterec.notes.images import fetch as module
from noterec.notes.images.fetch import fetch
from noterec.notes.images.source import ImageSource

LIMITS = ImagesConfig(fetch=True, fetch_seconds=5, max_bytes=1000)


def _reason(url: str, limits: ImagesConfig = LIMITS) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(url, limits)
    assert len(str(caught.value)) < 500
    return caught.value.reason


# ---- where it may go


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",  # 127.0.0.1 in decimal, hexadecimal and octal
        "0x7f000001",
        "0177.0.0.1",
        "0x7f.1",
        "0",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "169.254.169.254",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "localhost",
        "LOCALHOST",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::ffff:8.8.8.8]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[64:ff9b:1::a00:1]",
        "[2002:7f00:1::]",
        "[2001:0:7f00:1::]",
        "[2001:db8::1]",
        "[fc00::1]",
        "[fd12:3456::1]",
        "[fe80::1]",
        "[fec0::1]",
        "[ff02::1]",
    ],
)
def test_private_addresses(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def connected(*_: Any, **__: Any) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(socket, "create_connection", connected)
    for scheme in ("http", "https"):
        assert _reason(f"{scheme}://{host}/latest/meta-data") == "private-address"


def test_public_addresses() -> None:
    for address in ("8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700::6810:84e5", "2a00:1450:4001:82a::200e"):
        assert module._is_public(address)
    assert not module._is_public("fe80::1%eth0") and not module._is_public("2606:4700::1%eth0")
    assert not module._is_public("no address")


@pytest.mark.parametrize(
    "url",
    [
        "http://8.8.8.8:22/",
        "https://8.8.8.8:8443/",
        "http://user@8.8.8.8/",
        "http://user:pass@8.8.8.8/",
        "http:///a.png",
        "http:/a.png",
        "https://",
        "ftp://8.8.8.8/a.png",
        "file:///etc/passwd",
        "gopher://8.8.8.8/",
    ],
)
def test_other_urls(url: str) -> None:
    assert _reason(url) == "url"


@pytest.mark.parametrize(
    "url", ["8.8.8.8:99999/", "8.8.8.8:x/", "[::1/", "a" * 300, "a\0b/", "\ud800/", "a..b/", "x b/"]
)
def test_no_urls(url: str) -> None:
    began = time.monotonic()
    assert _reason(f"http://{url}") == "fetch-failed"
    assert time.monotonic() - began < 4  # not by waiting for an answer


def test_off_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: pytest.fail("a name was looked up"))
    with pytest.raises(ImageError, match=r"images\.fetch=false") as caught:
        ImageSource().read({"bytes": None, "path": "http://example.com/a.png"})
    assert caught.value.reason == "url"
    with pytest.raises(ImageError, match="of this kind") as caught:
        ImageSource(limits=LIMITS).read({"bytes": None, "path": "s3://bucket/a.png"})
    assert caught.value.reason == "url"


def test_a_name_with_one_private_address(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 80)) for address in ("8.8.8.8", "10.0.0.1")]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: answers)
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: pytest.fail("a connection was tried"))
    assert _reason("http://pictures.example/a.png") == "private-address"


def test_the_checked_address_is_the_one_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that answers otherwise the second time is never asked a second time."""
    asked: list[str] = []
    connected: list[Any] = []

    def resolve(name: str, port: int, **_: Any) -> Any:
        asked.append(name)
        address = "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(address: Any, timeout: float) -> socket.socket:
        connected.append(address)
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "create_connection", connect)
    assert _reason("http://Rebound.example/a.png") == "fetch-failed"
    assert (asked, connected) == (["rebound.example"], [("8.8.8.8", 80)])


def test_names_that_do_not_exist_and_slow_name_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", missing)
    assert _reason("http://nowhere.example/") == "fetch-failed"
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: release.wait(10) and [])
    assert _reason("http://slow.example/", ImagesConfig(fetch_seconds=0.1)) == "timeout"
    release.set()


# ---- what it takes; the server below stands on loopback, which only these tests let through


class _Handler(http.server.BaseHTTPRequestHandler):
    answers: dict[str, Callable[[_Handler], None]]
    seen: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:
        self.seen.append((self.path, dict(self.headers)))
        with contextlib.suppress(OSError):
            self.answers[self.path](self)

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, data: bytes, status: int = 200, length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        if length is None or length >= 0:
            self.send_header("Content-Length", str(len(data) if length is None else length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    _Handler.answers, _Handler.seen = {}, []
    found = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=found.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    public = module._is_public
    monkeypatch.setattr(module, "_is_public", lambda address: address == "127.0.0.1" or public(address))
    monkeypatch.setattr(module, "_PORTS", {80, 443, found.server_port})
    yield found
    found.shutdown()
    found.server_close()


def _url(server: Any, path: str, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{server.server_port}{path}"


def _to(place: str) -> Callable[[_Handler], None]:
    return lambda handler: handler.answer(b"", 302, Location=place)


def test_a_picture(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    _Handler.answers = {"/a%20b/%E4%BD%A0.png?x=1&y=%7B": lambda handler: handler.answer(b"x" * 1000)}
    source = ImageSource(limits=LIMITS)
    assert source.read({"bytes": None, "path": _url(server, "/a b/你.png?x=1&y={#part")}) == b"x" * 1000
    ((_, headers),) = _Handler.seen
    assert headers["Host"] == f"127.0.0.1:{server.server_port}" and headers["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization", "Referer"} & set(headers)


def test_a_name_is_in_the_request_but_not_in_the_connection(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_resolve", lambda *_: ["127.0.0.1"])
    _Handler.answers = {"/": lambda handler: handler.answer(b"x")}
    assert fetch(_url(server, "", "pictures.example"), LIMITS) == b"x"
    assert _Handler.seen[0][1]["Host"] == f"pictures.example:{server.server_port}"


def test_the_second_address_where_the_first_does_not_answer(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.create_connection

    def first_refuses(address: Any, timeout: float) -> socket.socket:
        if address[0] == "8.8.8.8":
            raise ConnectionRefusedError
        return connect(address, timeout=timeout)

    monkeypatch.setattr(module, "_resolve", lambda *_: ["8.8.8.8", "127.0.0.1"])
    monkeypatch.setattr(socket, "create_connection", first_refuses)
    _Handler.answers = {"/": lambda handler: handler.answer(b"x")}
    assert fetch(_url(server, "/", "pictures.example"), LIMITS) == b"x"


def test_redirects(server: Any) -> None:
    _Handler.answers = {f"/{step}": _to(f"/{step + 1}") for step in range(4)}
    _Handler.answers["/4"] = lambda handler: handler.answer(b"there")
    assert fetch(_url(server, "/1"), LIMITS) == b"there"
    assert _reason(_url(server, "/0")) == "fetch-failed"
    assert [path for path, _ in _Handler.seen] == ["/1", "/2", "/3", "/4", "/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("http://10.0.0.1/", "private-address"),
        ("http://169.254.169.254/latest/meta-data", "private-address"),
        ("//127.0.0.2/", "private-address"),
        ("http://[::ffff:10.0.0.1]/", "private-address"),
        ("http://8.8.8.8:6379/", "url"),
        ("file:///etc/passwd", "url"),
        ("http://user@8.8.8.8/", "url"),
    ],
)
def test_a_redirect_is_checked_like_a_url(server: Any, place: str, reason: str) -> None:
    _Handler.answers = {"/": _to(place)}
    assert _reason(_url(server, "/")) == reason


def test_answers_that_are_no_pictures(server: Any) -> None:
    _Handler.answers = {
        "/403": lambda handler: handler.answer(b"x", 403),
        "/503": lambda handler: handler.answer(b"x", 503),
        "/304": lambda handler: handler.answer(b"", 304),
        "/short": lambda handler: handler.answer(b"x" * 10, length=20),
        "/nowhere": lambda handler: handler.answer(b"", 302),
        "/garbage": lambda handler: handler.wfile.write(b"\0\1\2\n" * 100) and None,
        "/silence": lambda handler: None,
        "/headers": lambda handler: handler.answer(b"", X="y" * 100_000),
    }
    for path in _Handler.answers:
        assert _reason(_url(server, path)) == "fetch-failed", path
    server.shutdown()
    server.server_close()
    assert _reason(_url(server, "/403")) == "fetch-failed"


def test_what_is_gone_is_gone(server: Any) -> None:
    """A server that says so will say so tomorrow: no reason to ask again."""
    _Handler.answers = {
        "/404": lambda handler: handler.answer(b"x", 404),
        "/410": lambda handler: handler.answer(b"x", 410),
        "/moved": _to("/404"),
    }
    for path in _Handler.answers:
        assert _reason(_url(server, path)) == "not-found"


def test_too_many_bytes(server: Any) -> None:
    written = 0

    def endless(handler: _Handler) -> None:
        nonlocal written
        handler.answer(b"", length=-1)
        while written < 100_000_000:
            written += handler.wfile.write(b"x" * 100_000)

    _Handler.answers = {
        "/promised": lambda handler: handler.answer(b"", length=1001),
        "/endless": endless,
        "/fits": lambda handler: handler.answer(b"x" * 1000, length=-1),
        "/one-more": lambda handler: handler.answer(b"x" * 1001, length=-1),
    }
    for path in ("/promised", "/endless", "/one-more"):
        assert _reason(_url(server, path)) == "too-many-bytes"
    assert written < 100_000_000
    assert fetch(_url(server, "/fits"), LIMITS) == b"x" * 1000


@pytest.mark.parametrize("part", ["status", "headers", "body", "nothing"])
def test_the_time_limit_is_for_all_of_it(server: Any, part: str) -> None:
    """A server that sends a byte now and then never lets a single read time out."""

    def drip(handler: _Handler) -> None:
        if part == "nothing":
            time.sleep(2)
        if part != "status":
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        if part == "body":
            handler.wfile.write(b"\r\n")
        for _ in range(100):
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.02)

    _Handler.answers = {"/": drip}
    began = time.monotonic()
    assert _reason(_url(server, "/"), ImagesConfig(fetch_seconds=0.3)) == "timeout"
    assert 0.25 < time.monotonic() - began < 1.8  # the server takes 2 seconds


@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes a certificate with openssl")
def test_tls_proves_the_name(server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ["-subj", "/CN=pictures.example", "-addext", "subjectAltName=DNS:pictures.example"]
    made = ["-newkey", "rsa:2048", "-nodes", "-keyout", str(key), "-out", str(certificate), "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *made, *subject], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    monkeypatch.setattr(server, "handle_error", lambda *_: None)
    monkeypatch.setattr(module, "_resolve", lambda *_: ["127.0.0.1"])
    _Handler.answers = {"/": lambda handler: handler.answer(b"secret")}
    url = f"https://pictures.example:{server.server_port}/"
    assert _reason(url) == "fetch-failed"  # signed by nobody who is trusted
    trusting = ssl.create_default_context(cafile=str(certificate))
    monkeypatch.setattr(module, "_tls", lambda: trusting)
    assert fetch(url, LIMITS) == b"secret"
    assert _Handler.seen[0][1]["Host"] == f"pictures.example:{server.server_port}"
    assert _reason(url.replace("pictures", "others")) == "fetch-failed"
