"""Pictures from http(s) URLs, for settings that allow it (`images.fetch`).

A URL in a note is a stranger's request to this machine, which may stand where strangers can't: beside databases, metadata services
and routers. So only public addresses are contacted: a name is resolved once, every address that it has must be public, and the
connection goes to the very address that was checked, so that a second answer of the name server changes nothing. Each redirect is
checked like a first URL. Proxies of the environment aren't used: behind one, the address could not be checked.
"""

from __future__ import annotations

import functools
import http.client
import io
import ipaddress
import queue
import socket
import ssl
import threading
import time
import urllib.parse
from typing import Any, cast

from noterec.config import ImagesConfig
from noterec.errors import ImageError

REDIRECTS = 3
CHUNK_BYTES = 64 * 1024
_PORTS = {80, 443}
_REDIRECTS = (301, 302, 303, 307, 308)
_GONE = (404, 410)  # of the server's answers those that asking again won't change
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")  # without NAT64, IPv4-mapped, local and multicast addresses
_NOT_PUBLIC = (
    ipaddress.IPv6Network("2001::/23"),  # Teredo and other protocols of the net itself
    ipaddress.IPv6Network("2001:db8::/32"),  # documentation
    ipaddress.IPv6Network("2002::/16"),  # 6to4: an IPv4 address inside
    ipaddress.IPv6Network("3fff::/20"),  # documentation
)


def fetch(url: str, limits: ImagesConfig) -> bytes:
    """The body that an http(s) URL answers with.

    Args:
        url: with a host name or a public address, port 80 or 443 and no user name.
        limits: `max_bytes` and `fetch_seconds`; the time is that of all of it, names and redirects included.

    Raises:
        ImageError: url, private-address, not-found, fetch-failed, too-many-bytes, timeout (see `noterec.notes.images`).
    """
    deadline = time.monotonic() + limits.fetch_seconds
    shown = repr(url if len(url) <= 200 else url[:200] + "...")
    try:
        for _ in range(REDIRECTS + 1):
            found = _get(url, shown, limits.max_bytes, deadline)
            if isinstance(found, bytes):
                return found
            url = urllib.parse.urljoin(url, found)
    except TimeoutError as error:
        raise ImageError(
            "timeout", f"{shown}: no picture within {limits.fetch_seconds:g} seconds (images.fetch_seconds)"
        ) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ImageError("fetch-failed", f"{shown}: not fetched: {type(error).__name__}: {str(error)[:150]}") from error
    raise ImageError("fetch-failed", f"{shown}: more than {REDIRECTS} redirects")


def _get(url: str, shown: str, max_bytes: int, deadline: float) -> bytes | str:
    """One request: the body, or where a redirect leads."""
    parts = urllib.parse.urlsplit(url)
    tls = parts.scheme == "https"
    host, port = parts.hostname, parts.port or (443 if tls else 80)
    if parts.scheme not in ("http", "https") or not host or parts.username is not None or port not in _PORTS:
        raise ImageError("url", f"{shown}: expected http(s)://host/..., on port 80 or 443 and without a user name")
    # A name as name servers know it; an address is left as it is.
    name = host if ":" in host else host.encode("idna").decode("ascii")
    connection = http.client.HTTPConnection(name, port)
    wire = _Timed(_connect(_checked(name, port, shown, deadline), port, deadline), deadline)
    connection.sock = cast(socket.socket, wire)
    try:
        if tls:
            wire.encrypt(name)
        target = urllib.parse.quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
        if parts.query:
            target += "?" + urllib.parse.quote(parts.query, safe="/?%:@!$&'()*+,;=~-._[]")
        bracketed = f"[{name}]" if ":" in name else name
        connection.request(
            "GET",
            target,
            headers={
                "Host": bracketed if port == (443 if tls else 80) else f"{bracketed}:{port}",
                "User-Agent": "noterec",
                "Accept": "image/*",
                "Accept-Encoding": "identity",
                "Connection": "close",
            },
        )
        with connection.getresponse() as response:
            place = response.getheader("Location")
            if response.status in _REDIRECTS and place:
                return place
            if response.status != 200:
                reason = "not-found" if response.status in _GONE else "fetch-failed"
                raise ImageError(reason, f"{shown}: the server answered {response.status} {response.reason[:80]}")
            return _body(response, shown, max_bytes)
    finally:
        wire.hang_up()


def _body(response: http.client.HTTPResponse, shown: str, max_bytes: int) -> bytes:
    promised = response.length  # None where the server doesn't say
    data = bytearray()
    while (promised is None or promised <= max_bytes) and len(data) <= max_bytes:
        chunk = response.read(min(CHUNK_BYTES, max_bytes + 1 - len(data)))
        if not chunk:
            if promised is not None and len(data) < promised:
                raise ImageError("fetch-failed", f"{shown}: cut short, {len(data):,} of {promised:,} bytes")
            return bytes(data)
        data += chunk
    size = f"{promised:,}" if promised is not None else f"more than {max_bytes:,}"
    raise ImageError("too-many-bytes", f"{shown}: {size} bytes; at most {max_bytes:,} are read (max_bytes)")


def _checked(name: str, port: int, shown: str, deadline: float) -> list[str]:
    """The addresses of a name, each of them public."""
    addresses = _resolve(name, port, deadline)
    for address in addresses:
        if not _is_public(address):
            raise ImageError(
                "private-address", f"{shown}: leads to {address}, which is no public address; only those are contacted"
            )
    return addresses


def _resolve(name: str, port: int, deadline: float) -> list[str]:
    """What the system knows about a name, in its order; also of the many spellings of an address."""
    answer: queue.SimpleQueue[list[str] | OSError | ValueError] = queue.SimpleQueue()

    def ask() -> None:
        try:
            found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM)
            answer.put(list(dict.fromkeys(str(entry[4][0]) for entry in found)))
        except (OSError, ValueError) as error:
            answer.put(error)

    # The system's resolver takes no time limit; a thread that outlives ours ends by itself.
    threading.Thread(target=ask, daemon=True, name="noterec-resolve").start()
    try:
        found = answer.get(timeout=_left(deadline))
    except queue.Empty as error:
        raise TimeoutError from error
    if not isinstance(found, list):
        raise found
    return found


def _is_public(address: str) -> bool:
    """Whether an address is one that everybody can reach, and can't stand for another that isn't."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address) and (
        found.scope_id or found not in _GLOBAL_UNICAST or any(found in network for network in _NOT_PUBLIC)
    ):
        return False
    return found.is_global and not (found.is_multicast or found.is_reserved or found.is_unspecified)


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    """A connection to the first of the addresses that answers."""
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return socket.create_connection((address, port), timeout=_left(deadline) / left)
        except OSError:
            if left == 1:
                raise
    raise OSError("the name has no address")


def _left(deadline: float) -> float:
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError
    return seconds


@functools.cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


class _Timed:
    """What http.client needs of a socket, with a limit on the time of all its operations together, however little each brings."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = sock, deadline

    def encrypt(self, name: str) -> None:
        """A TLS handshake, in which the server proves that it is `name`."""
        self._socket.settimeout(_left(self._deadline))
        self._socket = _tls().wrap_socket(self._socket, server_hostname=name)

    def sendall(self, data: bytes) -> None:
        self._socket.settimeout(_left(self._deadline))
        self._socket.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Incoming(self._socket, self._deadline))

    def close(self) -> None:
        """Nothing: http.client lets go of a connection before it has read the body."""

    def hang_up(self) -> None:
        self._socket.close()


class _Incoming(io.RawIOBase):
    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._socket, self._deadline = sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(_left(self._deadline))
        return self._socket.recv_into(buffer)
