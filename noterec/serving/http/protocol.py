"""HTTP/1.1 on a connection, as uvicorn does it, with time limits for headers and for clients that don't read.

uvicorn limits how long an idle connection stays open after an answer, and nothing before the first request or while its headers
trickle in: a client that sends a byte now and then would hold a connection for ever, and so would one that never takes its answer.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from noterec.config import ServeConfig
from noterec.serving.refusals import STATUSES, body


class TimedProtocol(H11Protocol):
    """Closes connections whose headers don't arrive in time, saying so in JSON, and those beyond the limit, saying nothing.

    Subclasses, from `timed`, set the limits.
    """

    header_seconds: float = 10
    write_seconds: float = 30
    max_connections: int = 1000
    _headers_due: asyncio.TimerHandle | None = None
    _write_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for headers."""
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            transport.close()
            return
        self._wait_for_headers()

    def data_received(self, data: bytes) -> None:
        """Read on; a request whose headers have begun must go on."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._headers_due is None and not self.transport.is_closing():
            self._wait_for_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the time limits."""
        self._stop_waiting()
        self._stop_writing()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client doesn't take what is sent: it may, for a while."""
        super().pause_writing()
        self._stop_writing()
        self._write_due = self.loop.call_later(self.write_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It goes on."""
        self._stop_writing()
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Answer what isn't HTTP."""
        self._hang_up(400)

    def _wait_for_headers(self) -> None:
        self._headers_due = self.loop.call_later(self.header_seconds, self._headers_late)

    def _stop_waiting(self) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
            self._headers_due = None

    def _stop_writing(self) -> None:
        if self._write_due is not None:
            self._write_due.cancel()
            self._write_due = None

    def _headers_late(self) -> None:
        self._headers_due = None
        if not self.transport.is_closing() and self.conn.their_state is h11.IDLE:
            self._hang_up(408)

    def _hang_up(self, status: int) -> None:
        """Answer and close, where no other answer is on its way."""
        if self.conn.our_state is h11.IDLE or self.conn.our_state is h11.SEND_RESPONSE:
            data = json.dumps(body(*STATUSES[status])).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(data))),
                ("x-content-type-options", "nosniff"),
                ("connection", "close"),
            ]
            answer: list[Any] = [
                h11.Response(status_code=status, headers=headers),
                h11.Data(data=data),
                h11.EndOfMessage(),
            ]
            for event in answer:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def timed(config: ServeConfig) -> type[TimedProtocol]:
    """A protocol with the limits of a service."""
    limits = {
        "header_seconds": config.header_seconds,
        "write_seconds": config.request_seconds,
        "max_connections": config.max_connections,
    }
    return type("TimedProtocol", (TimedProtocol,), limits)
