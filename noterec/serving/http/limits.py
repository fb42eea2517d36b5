"""What stands between the network and the application: who may, how much, how long, how many at a time.

One pure ASGI layer around everything else, so that nothing of a request is parsed before it was found small enough, and every
answer is counted and carries the same headers.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import json
import logging
import time
from collections.abc import Collection
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from noterec.config import ServeConfig
from noterec.serving.metrics import Metrics
from noterec.serving.refusals import Refusal, body
from noterec.serving.service import Service

logger = logging.getLogger(__name__)

UNGUARDED = ("/healthz", "/readyz", "/metrics")  # asked by machines that look after this one, also when it is full
PAGES = ("/", "/map", "/try", "/evaluation", "/docs", "/docs.css", "/openapi.json")  # and all below /explorer/
LINGER_SECONDS = 1.0
# Commas, colons and opening brackets: a body of nothing else takes 30 times its size, parsed, and holds up all others meanwhile.
MOST_PARTS = 100_000
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
NO_ROUTE = "(none)"  # in the metrics: refused before a route was found, or no such path


class Guard:
    """Host, token, body size, slow bodies, time limit, requests at a time; security headers; metrics by route and status."""

    def __init__(self, app: ASGIApp, service: Service, hosts: Collection[str] | None = None) -> None:
        """Stand before an application; `hosts` as in `create_app`."""
        self._app = app
        self._hosts = None if hosts is None else {"localhost", *(host.lower() for host in hosts)}
        self._service = service
        self._config: ServeConfig = service.config
        self._metrics: Metrics = service.metrics
        self._active = 0  # requests that are worked on; one whose body is still on its way is none yet
        self._held = 0  # bytes of bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer in the application's place."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        answer = _Answer(scope, send)
        if scope["method"] == "HEAD":
            scope = {**scope, "method": "GET"}  # the same answer, of which the body isn't sent
        guarded = scope["path"] not in UNGUARDED
        self._metrics.in_flight.inc()
        try:
            await self._answered(scope, receive, answer, guarded)
        except Refusal as refusal:
            self._metrics.refused.labels(refusal.code).inc()
            await answer.refuse(refusal, receive)
        except asyncio.CancelledError:
            if not self._service.draining or answer.status is not None:
                raise
            await answer.refuse(Refusal(503, "the service is stopping"), receive)
        except Exception:
            logger.exception("%s %s: a bug", scope["method"], _route(scope))
            if answer.status is None:
                await answer.refuse(Refusal(500, "a bug of the service; its log has the details"), receive)
        finally:
            self._held -= answer.held
            self._metrics.in_flight.dec()
            # 499: the client left before there was an answer.
            self._metrics.requests.labels(answer.method, _route(scope), str(answer.status or 499)).observe(
                time.perf_counter() - start
            )

    async def _answered(self, scope: Scope, receive: Receive, answer: _Answer, guarded: bool) -> None:
        self._check_host(scope)
        if "\n" in scope["path"]:  # a route's pattern also fits a path with a line break behind it
            raise Refusal(400, "the path has a line break; an id that has one can be used on the command line only")
        if guarded:
            self._check_token(scope)
        data = await self._body(scope, receive, answer)
        if data is None:
            return  # the client left
        if guarded and self._active >= self._config.max_requests:
            raise Refusal(503, f"{self._active} requests are being answered; try again", retry_seconds=1)
        self._active += guarded
        try:
            async with asyncio.timeout(self._config.request_seconds) as limit:
                await self._app(scope, _replayed(data, receive), answer.send)
        except TimeoutError:
            if not limit.expired():
                raise
            if answer.status is None:
                told = f"no answer within {self._config.request_seconds:g} seconds"
                raise Refusal(504, told, retry_seconds=5) from None
        finally:
            self._active -= guarded

    def _check_host(self, scope: Scope) -> None:
        """Refuse names that aren't this service's: a page from elsewhere could have its own name lead here, and read the answers
        as if they were its site's. An address can't be made to lead elsewhere."""
        if self._hosts is None:
            return
        for name, value in scope["headers"]:
            if (
                name == b"host"
                and (host := _host(value.decode("latin-1"))) not in self._hosts
                and not _is_address(host)
            ):
                raise Refusal(
                    421, "the service isn't asked under this name; if it should be, add it to the setting `hosts`"
                )

    def _check_token(self, scope: Scope) -> None:
        if not self._needs_token(scope):
            return
        token = self._service.token
        if token is None:
            raise Refusal(403, "the index can't be changed over HTTP: this service was started without a token")
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, found = (given[0] if len(given) == 1 else b"").partition(b" ")
        page = scope["path"] in PAGES or scope["path"].startswith("/explorer/")
        if page and scheme.lower() == b"basic":
            # Browsers know no other way. They also send it unasked, for pages from elsewhere, so it is good for no change.
            scheme, found = b"bearer", _password(found)
        if scheme.lower() != b"bearer" or not hmac.compare_digest(found.strip(), token.encode()):
            raise Refusal(
                401,
                "expected the header `Authorization: Bearer TOKEN` with this service's token"
                + (", or the token as the password" if page else ""),
                challenge="Basic" if page else "Bearer",
            )

    def _needs_token(self, scope: Scope) -> bool:
        if self._config.protect == "all":
            return True
        return scope["method"] in ("POST", "DELETE") and str(scope["path"]).startswith("/v1/notes")

    async def _body(self, scope: Scope, receive: Receive, answer: _Answer) -> bytes | None:
        """The whole body, None where the client leaves; what is announced or turns out as too large is not read on."""
        most = self._config.max_body_bytes
        told = f"the body is larger than {most:,} bytes (max_body_bytes)"
        for name, value in scope["headers"]:
            if name == b"content-length":
                if not value.isdigit():
                    raise Refusal(400, "Content-Length is not a number")
                if len(value) > 18 or int(value) > most:
                    raise Refusal(413, told)
        data = bytearray()
        try:
            async with asyncio.timeout(self._config.body_seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    data += message.get("body", b"")
                    if len(data) > most:
                        raise Refusal(413, told)
                    self._hold(len(data), answer)
                    if not message.get("more_body", False):
                        break
        except TimeoutError:
            raise Refusal(408, f"the body didn't arrive within {self._config.body_seconds:g} seconds") from None
        if len(data) > MOST_PARTS and sum(map(data.count, b",:[{")) > MOST_PARTS:
            raise Refusal(413, f"the body has more than {MOST_PARTS:,} values")
        return bytes(data)

    def _hold(self, size: int, answer: _Answer) -> None:
        """Count a body's bytes until its request is over."""
        self._held += size - answer.held
        answer.held = size
        if self._held > self._config.max_bodies_bytes:
            raise Refusal(503, "too many bytes of requests are held; try again", retry_seconds=1)


class _Answer:
    """One answer on its way: what status it has, and the headers that all have.

    Attributes:
        method: of the request, as a label.
        status: None until it has begun.
        held: bytes of the request's body that are in memory.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        self.method = _method(scope)
        self.status: int | None = None
        self.held = 0
        self._scope, self._send = scope, send

    async def send(self, message: Message) -> None:
        """Send on what the application answers."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name.lower() for name, _ in message.get("headers", ())}
            added = [(name, value) for name, value in HEADERS if name not in present]
            if b"cache-control" not in present and self._scope["path"].startswith("/v1/"):
                added.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*message.get("headers", ()), *added]}
        elif self.method == "HEAD" and message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await self._send(message)

    async def refuse(self, refusal: Refusal, receive: Receive) -> None:
        """Answer with an error. After one that left the body unread the connection is closed, but not before the client had a
        moment to stop sending: to close while it sends would lose the answer."""
        data = json.dumps(body(refusal.code, str(refusal))).encode()
        headers = {"content-type": "application/json", "content-length": str(len(data)), **refusal.headers}
        unread = refusal.status in (400, 401, 403, 408, 413, 421, 503) and _has_body(self._scope)
        if unread:
            headers["connection"] = "close"
        encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": encoded})
        if unread:
            await self.send({"type": "http.response.body", "body": data, "more_body": True})
            await _linger(receive)
            data = b""
        await self.send({"type": "http.response.body", "body": data, "more_body": False})


async def _linger(receive: Receive) -> None:
    """Throw away what still comes, for a moment."""
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def _host(value: str) -> str:
    """The name or address of a Host header, without its port."""
    host = value.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].removesuffix(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _password(found: bytes) -> bytes:
    """The password of Basic authorisation; empty where it is none."""
    try:
        return base64.b64decode(found.strip(), validate=True).partition(b":")[2]
    except binascii.Error:
        return b""


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in scope["headers"]
    )


def _replayed(data: bytes, receive: Receive) -> Receive:
    """A body that was read, once more; then what the connection says."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": data, "more_body": False}

    return again


def _route(scope: Scope) -> str:
    """The route's template, never the path that was asked for: a label must not have as many values as there are ids."""
    route: Any = scope.get("route")
    return str(getattr(route, "path", NO_ROUTE))


def _method(scope: Scope) -> str:
    method = str(scope["method"])
    return method if method in ("GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS") else "other"
