"""The service on a socket: `noterec serve`. Told to stop, it answers what it has begun, then ends as one that was asked to."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import logging
import os
import signal
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from types import FrameType

import uvicorn

from noterec import storage
from noterec.config import ServeConfig
from noterec.errors import ConfigError, InputError
from noterec.serving.http.app import create_app
from noterec.serving.http.protocol import timed
from noterec.serving.loading import open_service
from noterec.serving.service import Service

logger = logging.getLogger(__name__)

TOKEN_VARIABLE = "NOTEREC_TOKEN"
MIN_TOKEN = 16  # characters
SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclasses.dataclass(frozen=True)
class ServeSummary:
    """What was served.

    Attributes:
        url: where.
        requests: answered.
        seconds: from the first moment it listened to the last answer.
    """

    url: str
    requests: int
    seconds: float


def serve(
    index: str | os.PathLike[str],
    *,
    model: str | os.PathLike[str] | None = None,
    notes: str | os.PathLike[str] | None = None,
    pairs: str | os.PathLike[str] | None = None,
    report: str | os.PathLike[str] | None = None,
    image_root: str | os.PathLike[str] | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    config: ServeConfig = ServeConfig(),
    on_ready: Callable[[str, Service], None] | None = None,
) -> ServeSummary:
    """Answer over HTTP until SIGTERM or Ctrl-C.

    Args:
        index, model, notes, pairs, report, image_root: as in `open_service`.
        host: address to listen on; 127.0.0.1 is this machine only.
        port: 0 takes a free one.
        token: what changes need, from `read_token`; None = the index can't be changed over HTTP.
        config: the settings.
        on_ready: called with the URL and the service once it listens.

    Raises:
        InputError: the address can't be listened on, and as `open_service`.
        ConfigError: everything is to be protected, and there is no token.
    """
    if config.protect == "all" and token is None:
        raise ConfigError(f"protect=all needs a token; set {TOKEN_VARIABLE} or give --token-file")
    with _ended_by_sigterm(), _listening(host, port) as listener:
        service = open_service(
            index,
            model=model,
            notes=notes,
            pairs=pairs,
            report=report,
            image_root=image_root,
            token=token,
            config=config,
        )
        url = _url(listener)
        server = Server(
            service,
            hosts=_hosts(host, listener, config),
            on_listening=None if on_ready is None else lambda: on_ready(url, service),
        )
        start = time.monotonic()
        try:
            server.run(sockets=[listener])
        finally:
            service.close()
        return ServeSummary(url, server.server_state.total_requests, round(time.monotonic() - start, 1))


def read_token(file: str | os.PathLike[str] | None = None) -> str | None:
    """The token that changes need: from a file, else from the environment's NOTEREC_TOKEN; None where there is neither.

    Raises:
        InputError: the file can't be read, is open to others, or the token is short or not printable ASCII.
    """
    if file is not None:
        path = storage.local(file)
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise InputError(f"{path}: others than its owner can read or write it; expected mode 600: chmod 600")
            text = path.read_bytes().decode("ascii", "replace")
        except OSError as error:
            raise InputError(f"{path}: can't be read ({error.strerror}); expected a file with the token") from error
        name = str(path)
    else:
        text = os.environ.get(TOKEN_VARIABLE, "")
        name = TOKEN_VARIABLE
        if not text:
            return None
    token = text.strip()
    if len(token) < MIN_TOKEN or not token.isascii() or not all("!" <= letter <= "~" for letter in token):
        raise InputError(
            f"{name}: expected a token of at least {MIN_TOKEN} printable ASCII characters without spaces; make one with "
            "`openssl rand -hex 32`"
        )
    return token


class Server(uvicorn.Server):
    """uvicorn with a way out: told to stop it says so in /readyz, goes on for `drain_seconds`, and then ends by itself rather than
    by the signal, so that the exit code is 0."""

    def __init__(
        self,
        service: Service,
        *,
        hosts: Collection[str] | None = None,
        on_listening: Callable[[], None] | None = None,
    ) -> None:
        """A server of one service, not yet running; `hosts` as in `create_app`."""
        config = service.config
        super().__init__(
            uvicorn.Config(
                create_app(service, hosts=hosts),
                http=timed(config),
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,  # nothing depends on who asks
                timeout_keep_alive=config.keep_alive_seconds,
                timeout_graceful_shutdown=config.shutdown_seconds,
                h11_max_incomplete_event_size=64 * 1024,
            )
        )
        self._service = service
        self._on_listening = on_listening
        self._stop_at: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets=sockets)
        if self.started and self._on_listening is not None:
            self._on_listening()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully on SIGTERM and Ctrl-C; on a second one at once."""
        loop = asyncio.get_running_loop()
        try:
            for number in SIGNALS:
                loop.add_signal_handler(number, self.stop)
        except (ValueError, RuntimeError, NotImplementedError):  # not the main thread: whoever started it calls `stop`
            yield
            return
        try:
            yield
        finally:
            for number in SIGNALS:
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal."""
        self.stop()

    def stop(self) -> None:
        """Begin to stop; a second call stops at once. For the event loop's thread."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
            return
        logger.info("stopping: no new requests in %g seconds", self._service.config.drain_seconds)
        self._service.draining = True
        self._stop_at = time.monotonic() + self._service.config.drain_seconds

    async def on_tick(self, counter: int) -> bool:
        """Stop where it is time."""
        if self._stop_at is not None and time.monotonic() >= self._stop_at:
            self.should_exit = True
        return await super().on_tick(counter)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A bound socket, taken before anything is loaded: that another process has the port is better known at once."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except (OSError, OverflowError, UnicodeError) as error:
        raise InputError(f"--host {host} --port {port}: no such address; expected for example 127.0.0.1") from error
    with listener:
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except (OSError, OverflowError) as error:
            raise InputError(
                f"--host {host} --port {port}: can't listen there ({getattr(error, 'strerror', None) or error}); give another "
                "--port, or stop what uses this one"
            ) from error
        yield listener


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the process in order, temporary files and all, also while it loads; once it serves, the server sees to it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _hosts(host: str, listener: socket.socket, config: ServeConfig) -> Collection[str] | None:
    """Names by which the service may be asked; None = any: who listens to other machines is asked by names it doesn't know."""
    alone = ipaddress.ip_address(listener.getsockname()[0]).is_loopback
    return {host, *config.hosts} if alone or config.hosts else None


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
