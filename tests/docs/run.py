"""Run the commands and Python blocks of README.md and the pages, one after the other, and say which fail.

python -m tests.docs.run                      # all pages
python -m tests.docs.run docs/serving.md      # one
python -m tests.docs.run --jobs 2             # two pages at a time

Every page has a folder of its own with the things that it takes for granted; a titled block is written there as a file. What is
skipped or replaced stands in running.yaml. `noterec serve` stays up until the page ends.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from tests.docs import blocks
from tests.docs.scratch import Scratch

RULES = Path(__file__).with_name("running.yaml")
LIMIT_S = 300.0  # of a command
START_S = 60.0  # until a service answers
ADDRESS = "127.0.0.1:8000"  # where pages say that the service listens


@dataclasses.dataclass(frozen=True)
class Done:
    """What became of a command: ok, failed or skipped."""

    where: str
    text: str
    result: str
    seconds: float
    says: str = ""


class Rules:
    """running.yaml, and which of its entries were used."""

    def __init__(self, file: Path = RULES) -> None:
        read: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
        self.prepared: dict[str, list[str]] = read["prepared"]
        self._entries: list[dict[str, str]] = [*read["instead"], *read["before"], *read["skip"]]
        self._used: set[int] = set()
        for entry in self._entries:
            if not entry.get("why"):
                raise ValueError(f"{file}: {entry} has no reason")

    def skipped(self, page: str, text: str) -> str:
        """Why a command doesn't run, or ""."""
        for number, entry in enumerate(self._entries):
            if "do" not in entry and self._begins(number, page, text):
                return entry["why"]
        return ""

    def before(self, page: str, text: str) -> list[str]:
        """What is run before a command."""
        return [
            entry["do"]
            for number, entry in enumerate(self._entries)
            if "do" in entry and self._begins(number, page, text)
        ]

    def _begins(self, number: int, page: str, text: str) -> bool:
        """Whether an entry is about commands that begin like this one."""
        entry = self._entries[number]
        met = "command" in entry and entry.get("page", page) == page and text.startswith(entry["command"])
        if met:
            self._used.add(number)
        return met

    def replaced(self, page: str, text: str) -> str:
        """A command as it runs."""
        for number, entry in enumerate(self._entries):
            if "text" in entry and entry.get("page", page) == page and entry["text"] in text:
                self._used.add(number)
                text = text.replace(entry["text"], entry["by"])
        return text

    def unused(self) -> list[str]:
        """Entries that met nothing, in words."""
        named = {blocks.name(path) for path in blocks.pages()}
        return [str(entry) for number, entry in enumerate(self._entries) if number not in self._used] + [
            f"prepared: there is no page {page}" for page in self.prepared if page not in named
        ]


class Page:
    """A page that is being run in its folder.

    Args:
        path: the page.
        folder: its folder.
        environment: of its commands.
        rules: what is skipped or replaced.
    """

    def __init__(self, path: Path, folder: Path, environment: dict[str, str], rules: Rules) -> None:
        self.name, self.path, self.folder, self.rules = blocks.name(path), path, folder, rules
        self.environment = environment
        self.service: subprocess.Popen[str] | None = None
        self.port = 0

    def run(self) -> Iterator[Done]:
        """Run its blocks in order; a failure doesn't keep the others from being tried."""
        try:
            for block in blocks.blocks(self.path):
                if block.title:
                    target = self.folder / block.title
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_text(block.text + "\n", encoding="utf-8")
                elif block.language == "python":
                    first = next((line for line in block.text.splitlines() if line and "import" not in line), "")
                    where, text = f"{self.name}:{block.line}", f"(python) {first}"
                    if reason := self.rules.skipped(self.name, block.text):
                        yield Done(where, text, "skipped", 0.0, reason)
                    else:
                        yield self._timed(where, text, [sys.executable, "-c", block.text])
                for command in block.commands():
                    yield self._command(command)
        finally:
            stopped = self._stop()
        if stopped is not None:
            yield stopped

    def _command(self, command: blocks.Command) -> Done:
        if reason := self.rules.skipped(self.name, command.text):
            return Done(command.where, command.text, "skipped", 0.0, reason)
        for preparation in self.rules.before(self.name, command.text):
            done = self._timed(command.where, preparation, ["bash", "-euo", "pipefail", "-c", preparation])
            if done.result == "failed":
                return done
        text = self.rules.replaced(self.name, command.text)
        if any(call[:2] == ["noterec", "serve"] for call in command.calls()):
            return self._serve(command, text)
        return self._timed(
            command.where,
            command.text,
            ["bash", "-euo", "pipefail", "-c", text.replace(ADDRESS, f"127.0.0.1:{self.port}")],
        )

    def _timed(self, where: str, text: str, arguments: list[str]) -> Done:
        began = time.monotonic()
        try:
            done = subprocess.run(
                arguments,
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=LIMIT_S,
                check=False,
            )
            code, says = done.returncode, done.stdout
        except subprocess.TimeoutExpired:
            code, says = 1, f"not done after {LIMIT_S:.0f} s"
        return Done(where, text, "failed" if code else "ok", time.monotonic() - began, says if code else "")

    def _serve(self, command: blocks.Command, text: str) -> Done:
        """Start a service, in place of the one that runs, and wait until it answers."""
        stopped = self._stop()
        if stopped is not None and stopped.result == "failed":
            return stopped
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        began = time.monotonic()
        log = self.folder / "serve.log"
        with log.open("w") as file:
            self.service = subprocess.Popen(
                ["bash", "-c", f"exec {text} --port {self.port}"],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                text=True,
            )
        while not self._answers():
            seconds = time.monotonic() - began
            if self.service.poll() is not None or seconds > START_S:
                return Done(command.where, command.text, "failed", seconds, log.read_text())
            time.sleep(0.2)
        return Done(command.where, command.text, "ok", time.monotonic() - began)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _stop(self) -> Done | None:
        """End the service as a supervisor would: SIGTERM, and the exit code has to be 0."""
        if self.service is None:
            return None
        began, service = time.monotonic(), self.service
        self.service = None
        if service.poll() is None:
            service.send_signal(signal.SIGTERM)
        try:
            code = service.wait(timeout=START_S)
        except subprocess.TimeoutExpired:
            service.kill()
            code = service.wait()
        says = (self.folder / "serve.log").read_text() if code else ""
        return Done(self.name, "(the service ends)", "failed" if code else "ok", time.monotonic() - began, says)


def environment(scratch: Scratch) -> dict[str, str]:
    """Of all commands: this Python's programs, no hub, no home, no settings of whoever runs this."""
    home = scratch.root / "home"
    home.mkdir()
    (home / ".curlrc").write_text("silent\nshow-error\nfail-with-body\n")  # an error of HTTP is an error
    return {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "MODELS": str(scratch.models),
        "NOTEREC_CACHE": str(scratch.root / "cache"),
        "NOTEREC_TOKEN": "a-token-of-the-test-of-the-pages",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }


def main() -> int:
    """Run the pages of the command line, or all; the number of failures, at most 100."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", help="docs/serving.md ...; default: all")
    parser.add_argument("--jobs", type=int, default=1, help="pages at a time")
    options = parser.parse_args()
    known = {blocks.name(path): path for path in blocks.pages() if blocks.name(path) not in blocks.RECORDS}
    if unknown := set(options.pages) - set(known):
        parser.error(f"no such page: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    chosen = {name: path for name, path in known.items() if name in options.pages or not options.pages}
    rules, began, lock = Rules(), time.monotonic(), threading.Lock()
    results: list[Done] = []

    with tempfile.TemporaryDirectory(prefix="noterec-docs-") as root:
        scratch = Scratch(Path(root))
        surroundings = environment(scratch)
        os.environ.update({key: surroundings[key] for key in ("NOTEREC_CACHE", "HF_HUB_OFFLINE")})
        scratch.make_models()
        folders = {name: scratch.page(name, rules.prepared.get(name)) for name in chosen}
        _write(f"{len(chosen)} pages; what they take for granted was made in {time.monotonic() - began:.0f} s\n")

        def run(name: str) -> None:
            for done in Page(chosen[name], folders[name], surroundings, rules).run():
                with lock:
                    results.append(done)
                    _write(_row(done))

        with ThreadPoolExecutor(max_workers=options.jobs) as pool:
            for future in [pool.submit(run, name) for name in chosen]:
                future.result()

    failures = [done for done in results if done.result == "failed"]
    for done in failures:
        _write(f"\n{done.where}: {done.text}\n{_indented(done.says)}")
    unused = [] if options.pages else rules.unused()
    for entry in unused:
        _write(f"\nrunning.yaml: nothing uses {entry}")
    counts = {result: sum(done.result == result for done in results) for result in ("ok", "skipped", "failed")}
    _write(
        f"\n{counts['ok']} ok, {counts['skipped']} skipped, {counts['failed']} failed, {time.monotonic() - began:.0f} s"
    )
    return min(len(failures) + len(unused), 100)


def _row(done: Done) -> str:
    text = " ".join(done.text.split())
    shown = text if len(text) <= 90 else text[:89] + "…"
    reason = f"  ({done.says})" if done.result == "skipped" else ""
    return f"{done.where:28} {shown:90} {done.result:8} {done.seconds:6.1f}{reason}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-40:])


def _write(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
