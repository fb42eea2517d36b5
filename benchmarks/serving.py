"""Latency, throughput, swaps under load and memory of `noterec serve`, with the load made by a process of its own on loopback.

    noterec demo --out demo
    python benchmarks/serving.py --index demo/index --model demo/model --notes demo/platform

The index is copied, so that swapping leaves yours alone. Open load: requests leave at fixed times, whether or not earlier ones were
answered, and latency counts from the time that a request was due: a slow answer isn't hidden by waiting for it. Closed load: eight
clients that each ask again as soon as they are answered. Repeated requests would be answered from the server's cache, so ids are
drawn without repetition until all were asked, and every new note's text is different; `cached` asks for one id only. The peer is
/healthz of the same server, which does nothing: what HTTP itself costs here.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PAGE = os.sysconf("SC_PAGE_SIZE")
HOST = "Host: 127.0.0.1"
Ask = Callable[[int], bytes]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--index", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--notes", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=100, help="requests a second of the open load")
    parser.add_argument("--swaps", type=int, default=100)
    parser.add_argument("--requests", type=int, default=100_000, help="for the memory")
    parser.add_argument("--load", help=argparse.SUPPRESS)  # this script as the process that makes the load
    given = parser.parse_args()
    if given.load:
        print(json.dumps(asyncio.run(load(json.loads(given.load), given.index, given.notes))))
        return
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        shutil.copytree(given.index, index)
        measure(given, index)


def measure(given: argparse.Namespace, index: Path) -> None:
    with server(index, given) as (port, pid):
        base = {"port": port, "seconds": given.seconds}
        print("| load | requests | failed | p50 ms | p95 ms | p99 ms | requests/s |")
        print("|---|---|---|---|---|---|---|")
        for name, plan in {
            f"/healthz, {given.rate:.0f}/s": {"kind": "health", "rate": given.rate},
            f"by id, {given.rate:.0f}/s": {"kind": "id", "rate": given.rate},
            f"by id, cached, {given.rate:.0f}/s": {"kind": "same", "rate": given.rate},
            f"new note, {given.rate / 4:.0f}/s": {"kind": "note", "rate": given.rate / 4},
            "/healthz, 8 clients": {"kind": "health", "clients": 8},
            "by id, 8 clients": {"kind": "id", "clients": 8},
            "new note, 8 clients": {"kind": "note", "clients": 8},
            "new note, 1 client": {"kind": "note", "clients": 1},
        }.items():
            show(name, run(given, {**base, **plan}))
        show(f"by id, {given.rate:.0f}/s, {given.swaps} swaps", swapped(given, index, base))
        print(f"\nresident memory over {given.requests:,} requests by id, after each tenth, MiB:")
        sizes = []
        for _ in range(10):
            run(given, {"port": port, "kind": "id", "clients": 8, "requests": given.requests // 10})
            sizes.append(resident(pid))
        print(", ".join(f"{size:.0f}" for size in sizes), f"; last / second: {sizes[-1] / sizes[1]:.3f}")


@contextlib.contextmanager
def server(index: Path, given: argparse.Namespace) -> Iterator[tuple[int, int]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "noterec",
        "serve",
        str(index),
        "--model",
        str(given.model),
        "--notes",
        str(given.notes),
    ]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
                probe.sendall(f"GET /readyz HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n".encode())
                if b" 200 " in probe.recv(64):
                    break
            if process.poll() is not None:
                raise SystemExit(f"the server ended with {process.returncode}")
            time.sleep(0.1)
        else:
            raise SystemExit("the server did not become ready within a minute")
        yield port, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def run(given: argparse.Namespace, plan: dict[str, Any], during: Callable[[], None] | None = None) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--index",
        str(given.index),
        "--model",
        str(given.model),
        "--notes",
        str(given.notes),
    ]
    process = subprocess.Popen([*command, "--load", json.dumps(plan)], stdout=subprocess.PIPE, text=True)
    if during is not None:
        during()
    printed, _ = process.communicate()
    found: dict[str, Any] = json.loads(printed)
    return found


def swapped(given: argparse.Namespace, index: Path, base: dict[str, Any]) -> dict[str, Any]:
    """The open load by id, while the live bundle changes again and again."""
    from noterec.index import bundle, publishing

    live = bundle.find(index)
    second = index / "bundles" / "bundle-900000"
    if not second.is_dir():
        shutil.copytree(live, second)
    names = [second.name, live.name]

    def swap() -> None:
        time.sleep(1)
        for number in range(given.swaps):
            publishing.rollback(index, to=names[number % 2])
            time.sleep(1.2)  # the server looks once a second

    seconds = 1.2 * given.swaps + 3
    found = run(given, {**base, "kind": "id", "rate": given.rate, "seconds": seconds}, swap)
    text = ask_once(base["port"], "/metrics").decode()
    done = next(line for line in text.splitlines() if line.startswith('noterec_index_swaps_total{result="live"}'))
    if float(done.split()[-1]) < given.swaps:
        raise SystemExit(f"the server did not follow every swap: {done}")
    return found


def ask_once(port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\n{HOST}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while part := client.recv(65536):
            answer += part
    return answer.split(b"\r\n\r\n", 1)[1]


def show(name: str, found: dict[str, Any]) -> None:
    print(
        f"| {name} | {found['requests']:,} | {found['failed']} | {found['p50']:.1f} | {found['p95']:.1f} | {found['p99']:.1f} | "
        f"{found['rate']:,.0f} |",
        flush=True,
    )


def resident(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / 2**20


async def load(plan: dict[str, Any], index: Path, notes: Path) -> dict[str, Any]:
    """Send what the plan says; latencies in milliseconds."""
    ask, port = asks(plan["kind"], index, notes), plan["port"]
    latencies: list[float] = []
    failed = 0

    async def one(connection: Any, number: int, due: float) -> None:
        nonlocal failed
        status = await exchange(connection, ask(number))
        latencies.append(1000 * (time.perf_counter() - due))
        failed += status != 200

    start = time.perf_counter()
    if "rate" in plan:
        total = int(plan["rate"] * plan["seconds"])
        idle: list[Any] = [await asyncio.open_connection("127.0.0.1", port) for _ in range(16)]

        async def fire(number: int, due: float) -> None:
            connection = idle.pop(0) if idle else await asyncio.open_connection("127.0.0.1", port)
            await one(connection, number, due)
            idle.append(connection)

        start, tasks = time.perf_counter() + 0.1, []
        for number in range(total):
            due = start + number / plan["rate"]
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(fire(number, due)))
        await asyncio.gather(*tasks)
    else:
        until = start + plan.get("seconds", 1e9)
        numbers = iter(range(plan.get("requests", 10**9)))

        async def client() -> None:
            connection = await asyncio.open_connection("127.0.0.1", port)
            while time.perf_counter() < until and (number := next(numbers, None)) is not None:
                await one(connection, number, time.perf_counter())

        await asyncio.gather(*(client() for _ in range(plan["clients"])))
    seconds = time.perf_counter() - start
    cut = statistics.quantiles(latencies, n=100)
    return {
        "requests": len(latencies), "failed": failed, "p50": cut[49], "p95": cut[94], "p99": cut[98],
        "rate": len(latencies) / seconds,
    }  # fmt: skip


def asks(kind: str, index: Path, notes: Path) -> Ask:
    """What the n-th request says."""
    if kind == "health":
        return lambda number: f"GET /healthz HTTP/1.1\r\n{HOST}\r\n\r\n".encode()
    if kind in ("id", "same"):
        import pyarrow.parquet as pq

        from noterec.index import bundle

        ids = pq.read_table(bundle.find(index) / bundle.NOTES_FILE, columns=["note_id"])["note_id"].to_pylist()
        random.Random(0).shuffle(ids)
        step = 0 if kind == "same" else 1
        # A k that moves on when all ids were asked: never the same request again.
        return lambda n: (
            f"GET /v1/similar?note_id={ids[step * n % len(ids)]}&k={10 + step * n // len(ids) % 40} HTTP/1.1\r\n{HOST}\r\n\r\n"
        ).encode()
    from noterec.notes.dataset import Dataset

    texts = Dataset(notes).notes(["title", "content"]).head(2000).to_dicts()

    def note(number: int) -> bytes:
        text = texts[number % len(texts)]
        title = f"{text['title']} {number} {time.time_ns()}"
        body = json.dumps({"note": {"title": title, "content": text["content"]}, "k": 10}).encode()
        head = f"POST /v1/similar HTTP/1.1\r\n{HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    return note


async def exchange(connection: Any, request: bytes) -> int:
    """Send one request on a connection that is kept, read the whole answer, give its status."""
    reader, writer = connection
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    length = next(int(line.split(":")[1]) for line in lines if line.lower().startswith("content-length:"))
    await reader.readexactly(length)
    return int(lines[0].split()[1])


if __name__ == "__main__":
    main()
