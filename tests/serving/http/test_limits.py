"""The guard before a small application: token, body, time, number of requests, headers, labels."""

from __future__ import annotations

import asyncio
import base64
import json
import types
from collections.abc import Collection, Iterable
from typing import Any

import pytest

from noterec.config import ServeConfig
from noterec.serving.http import limits
from noterec.serving.http.limits import Guard
from noterec.serving.metrics import Metrics

TOKEN = "0123456789abcdef"


def guard(
    app: Any = None, *, token: str | None = None, hosts: Collection[str] | None = None, **settings: Any
) -> tuple[Guard, Any]:
    service = types.SimpleNamespace(config=ServeConfig(**settings), token=token, metrics=Metrics(), draining=False)
    return Guard(app or echo, service, hosts), service  # type: ignore[arg-type]


async def echo(scope: Any, receive: Any, send: Any) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"SAMEORIGIN")]})
    await send({"type": "http.response.body", "body": b"%d" % len(message["body"])})


class Client:
    """One request as a server gives it, its body in pieces; counts what was read and keeps what was answered."""

    def __init__(self, pieces: Iterable[bytes | float] = (b"",), *, endless: bool = False) -> None:
        self.pieces, self.endless, self.read, self.sent = list(pieces), endless, 0, []

    async def receive(self) -> dict[str, Any]:
        while self.pieces and isinstance(self.pieces[0], int | float):
            await asyncio.sleep(float(self.pieces.pop(0)))  # type: ignore[arg-type]
        if not self.pieces:
            return {"type": "http.disconnect"}
        piece = self.pieces[0] if self.endless else self.pieces.pop(0)
        assert isinstance(piece, bytes)
        self.read += len(piece)
        if self.endless:
            await asyncio.sleep(0)
        return {"type": "http.request", "body": piece, "more_body": self.endless or bool(self.pieces)}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.sent[0]["headers"]}

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


def ask(
    made: Guard, client: Client, path: str = "/v1/embed", method: str = "POST", headers: dict[str, str] | None = None
) -> Client:
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
    }
    asyncio.run(asyncio.wait_for(made(scope, client.receive, client.send), 5))
    return client


def test_a_body_arrives_whole_and_answers_carry_the_headers() -> None:
    client = ask(guard()[0], Client([b"ab", b"cde"]))
    assert (client.status, client.body) == (200, b"5")
    assert client.headers["x-content-type-options"] == "nosniff"
    assert client.headers["content-security-policy"].startswith("default-src 'self';")
    assert client.headers["referrer-policy"] == "no-referrer"
    assert client.headers["cache-control"] == "no-store"
    assert client.headers["x-frame-options"] == "SAMEORIGIN"  # the application's own stays
    assert not any(name.startswith("access-control") for name in client.headers)


def test_an_announced_large_body_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.0)
    client = ask(guard(max_body_bytes=1024)[0], Client([b"x" * 100], endless=True), headers={"content-length": "1025"})
    assert (client.status, client.code, client.headers["connection"]) == (413, "too_large", "close")
    assert client.read <= 1000


def test_a_streamed_large_body_is_read_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LINGER_SECONDS", 0.0)
    chunked = {"transfer-encoding": "chunked"}
    client = ask(guard(max_body_bytes=1024)[0], Client([b"x" * 100], endless=True), headers=chunked)
    assert (client.status, client.code) == (413, "too_large")
    assert client.read <= 2000


def test_a_body_of_just_the_limit_is_let_through() -> None:
    client = ask(guard(max_body_bytes=1024)[0], Client([b"x" * 1024]), headers={"content-length": "1024"})
    assert (client.status, client.body) == (200, b"1024")


def test_a_body_of_very_many_values_is_not_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_PARTS", 100)
    made = guard()[0]
    assert ask(made, Client([b"[" + b"0," * 99 + b"0]"])).status == 200
    assert ask(made, Client([b"[" + b"0," * 100 + b"0]"])).code == "too_large"
    assert ask(made, Client([b'"' + b"0." * 1000 + b'"'])).status == 200


@pytest.mark.parametrize("length", ["-1", "1e3", "", "²", "9" * 400])
def test_a_strange_length_is_refused(length: str) -> None:
    client = ask(guard()[0], Client(), headers={"content-length": length})
    assert client.status in (400, 413)


def test_a_slow_body_is_refused_however_it_trickles() -> None:
    client = ask(
        guard(body_seconds=0.05)[0], Client([b"a", 0.03, b"b", 0.03, b"c", 0.03, b"d"]), headers={"content-length": "4"}
    )
    assert (client.status, client.code, client.headers["connection"]) == (408, "too_slow", "close")


def test_a_client_that_leaves_is_not_answered() -> None:
    client = ask(guard()[0], Client([]))
    assert client.sent == []


def test_an_answer_that_takes_too_long_is_cut() -> None:
    cancelled = []

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    client = ask(guard(slow, request_seconds=0.02)[0], Client())
    assert (client.status, client.code, cancelled) == (504, "timeout", [True])


def test_a_timeout_of_the_application_itself_is_a_bug() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise TimeoutError

    assert ask(guard(broken)[0], Client()).status == 500


def test_a_bug_is_told_without_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("/secret/path")

    client = ask(guard(broken)[0], Client())
    assert (client.status, client.code) == (500, "internal")
    assert b"secret" not in client.body and "secret" in caplog.text


def test_only_so_many_requests_at_a_time_and_health_always() -> None:
    async def both() -> tuple[int | None, int | None, int | None, int | None]:
        release = asyncio.Event()

        async def waiting(scope: Any, receive: Any, send: Any) -> None:
            if scope["path"] == "/v1/embed":
                await release.wait()
            await echo(scope, receive, send)

        made = guard(waiting, max_requests=1)[0]

        async def one(path: str) -> Client:
            client = Client()
            scope = {"type": "http", "method": "GET", "path": path, "headers": []}
            await made(scope, client.receive, client.send)
            return client

        first = asyncio.create_task(one("/v1/embed"))
        await asyncio.sleep(0)
        refused, health = await one("/v1/embed"), await one("/healthz")
        assert refused.headers["retry-after"] == "1" and refused.code == "unavailable"
        release.set()
        return (await first).status, refused.status, health.status, (await one("/v1/embed")).status

    assert asyncio.run(both()) == (200, 503, 200, 200)


def test_slow_bodies_keep_nobody_out_and_their_bytes_are_counted() -> None:
    async def run() -> list[int | None]:
        made = guard(max_requests=1, max_body_bytes=3000, max_bodies_bytes=4000)[0]

        async def one(client: Client) -> int | None:
            headers = [(b"content-length", b"2500")]
            scope = {"type": "http", "method": "POST", "path": "/v1/embed", "headers": headers}
            await made(scope, client.receive, client.send)
            return client.status

        slow = asyncio.create_task(one(Client([b"x" * 2000, 0.1, b"x" * 500])))
        await asyncio.sleep(0.01)
        found = [await one(Client([b"x" * 1500])), await one(Client([b"x" * 2001]))]
        return [*found, await slow, await one(Client([b"x" * 2500]))]

    assert asyncio.run(run()) == [200, 503, 200, 200]


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (None, 401),
        ("Bearer wrong-wrong-wrong", 401),
        ("Bearer ", 401),
        (f"Basic {TOKEN}", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN}", 200),
        (f"bearer  {TOKEN}", 200),
    ],
)
@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/notes"), ("DELETE", "/v1/notes/a/b")])
def test_changes_need_the_token(given: str | None, status: int, method: str, path: str) -> None:
    headers = {} if given is None else {"authorization": given}
    client = ask(guard(token=TOKEN)[0], Client([b"x"]), path, method, headers)
    assert client.status == status
    if status == 401:
        assert client.headers["www-authenticate"].startswith("Bearer") and client.code == "unauthorized"


def test_without_a_token_nothing_can_be_changed_and_everything_else_can_be_asked() -> None:
    made = guard()[0]
    assert ask(made, Client(), "/v1/notes", "POST", {"authorization": "Bearer "}).status == 403
    assert ask(made, Client(), "/v1/notes/a", "GET").status == 200


def test_everything_can_be_protected_but_health() -> None:
    made = guard(token=TOKEN, protect="all")[0]
    assert ask(made, Client(), "/", "GET").status == 401
    assert ask(made, Client(), "/v1/similar", "GET", {"authorization": f"Bearer {TOKEN}"}).status == 200
    for path in ("/healthz", "/readyz", "/metrics"):
        assert ask(made, Client(), path, "GET").status == 200


def basic(password: str, user: str = "") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize("path", ["/", "/map", "/try", "/evaluation", "/docs", "/explorer/static/map.js"])
def test_a_browser_is_asked_for_the_token_as_a_password(path: str) -> None:
    made = guard(token=TOKEN, protect="all")[0]
    refused = ask(made, Client(), path, "GET")
    assert (refused.status, refused.headers["www-authenticate"]) == (401, 'Basic realm="noterec"')
    for given in (basic(TOKEN), basic(TOKEN, "anybody"), f"Bearer {TOKEN}"):
        assert ask(made, Client(), path, "GET", {"authorization": given}).status == 200
    for given in (basic("x" + TOKEN), basic(""), "Basic", "Basic %%%", f"Basic {TOKEN}", basic("", TOKEN)):
        assert ask(made, Client(), path, "GET", {"authorization": given}).status == 401


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/notes"), ("DELETE", "/v1/notes/a"), ("GET", "/v1/similar")])
def test_what_a_browser_sends_unasked_is_no_token_for_the_api(method: str, path: str) -> None:
    client = ask(guard(token=TOKEN, protect="all")[0], Client(), path, method, {"authorization": basic(TOKEN)})
    assert (client.status, client.headers["www-authenticate"]) == (401, 'Bearer realm="noterec"')


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/notes"), ("DELETE", "/v1/notes/a"), ("GET", "/v1/notes/a")])
def test_a_path_with_a_line_break_goes_nowhere(method: str, path: str) -> None:
    client = ask(guard(token=TOKEN)[0], Client(), path + "\n", method, {"authorization": f"Bearer {TOKEN}"})
    assert (client.status, client.code) == (400, "bad_request")


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("", 421),
        ("[evil", 421),
        ("localhost", 200),
        ("LOCALHOST.:8000", 200),
        ("127.0.0.1:8000", 200),
        ("10.1.2.3", 200),  # a name can be made to lead here, an address can't
        ("[::1]:8000", 200),
        ("Notes.example:80", 200),
    ],
)
def test_only_its_own_names_are_answered(host: str, status: int) -> None:
    made = guard(hosts=["notes.EXAMPLE"])[0]
    for path in ("/", "/v1/similar", "/metrics"):
        assert ask(made, Client(), path, "GET", {"host": host}).status == status
    assert ask(guard()[0], Client(), "/", "GET", {"host": host}).status == 200


def test_head_is_get_without_its_body() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"4")]})
        await send({"type": "http.response.body", "body": b"four"})

    made, service = guard(app)
    client = ask(made, Client(), "/healthz", "HEAD")
    assert (client.status, client.headers["content-length"], client.body) == (200, "4", b"")
    assert 'method="HEAD"' in service.metrics.text().decode()


def test_what_was_cancelled_while_stopping_is_told_so() -> None:
    async def cut() -> Client:
        async def slow(scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(5)

        made, service = guard(slow)
        client = Client()
        scope = {"type": "http", "method": "GET", "path": "/v1/x", "headers": []}
        task = asyncio.create_task(made(scope, client.receive, client.send))
        await asyncio.sleep(0.01)
        service.draining = True
        task.cancel()
        await task
        return client

    assert asyncio.run(cut()).status == 503


def test_labels_are_routes_and_known_methods_never_paths() -> None:
    made, service = guard()
    for number in range(3):
        ask(made, Client(), f"/v1/notes/{number}", f"ODD{number}")
    lines = [
        line
        for line in service.metrics.text().decode().splitlines()
        if line.startswith("noterec_request_seconds_count")
    ]
    assert lines == ['noterec_request_seconds_count{method="other",route="(none)",status="200"} 3.0']


def test_other_traffic_goes_past() -> None:
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["type"])

    asyncio.run(guard(app)[0]({"type": "lifespan"}, None, None))  # type: ignore[arg-type]
    assert seen == ["lifespan"]
