"""Where the nightly job keeps what: one folder, HOME, and everything in it by name.

index/                      the published index (`noterec serve HOME/index`)
neighbours/*.parquet        new-to-all and warm-to-new of the live bundle; those of each kept bundle below bundle-*/
pairs.parquet               related notes by co-engagement, of the whole log
report.html                 the last night
embeddings/VERSION-PRECISION/   the vectors of one model version
models/RUN/, models.json    models that the job trained; which folder made which version
training/RUN/               what a training was made from
runs/RUN/                   run.json, log.txt, report.html, questions, evaluation
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from noterec import storage
from noterec.errors import InputError
from noterec.storage.locks import JOB_LOCK, only_job

MARK = "nightly.json"
FORMAT = "noterec nightly"
RUN = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?")
TABLES = ("new-to-all.parquet", "warm-to-new.parquet")

_claims: dict[tuple[Path, int], int] = {}  # by home and thread: how often it is held


@dataclass(frozen=True)
class Home:
    """The nightly job's folder."""

    path: Path

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, create: bool) -> Home:
        """Open the folder, and with `create` make it.

        Raises:
            InputError: it holds something else, or is no local folder.
        """
        home = cls(storage.local(path).absolute())
        if home.path.exists() and not home.path.is_dir():
            raise InputError(f"{home.path}: is a file; expected a folder for the nightly job, or none yet")
        if home.path.is_dir() and any(home.path.iterdir()) and not (home.path / MARK).is_file():
            raise InputError(
                f"{home.path}: exists and wasn't made by the nightly job; give another home, an empty or new folder"
            )
        if create and not (home.path / MARK).is_file():
            storage.write_json(home.path / MARK, {"format": FORMAT, "format_version": 1})
        return home

    @property
    def index(self) -> Path:
        """The published index."""
        return self.path / "index"

    @property
    def pairs(self) -> Path:
        """Related notes by co-engagement."""
        return self.path / "pairs.parquet"

    @property
    def neighbours(self) -> Path:
        """The neighbour tables."""
        return self.path / "neighbours"

    @property
    def models(self) -> Path:
        """Models that were trained here."""
        return self.path / "models"

    @property
    def model(self) -> Path:
        """A link to the live bundle's model, for a service; there is none where that is on a hub."""
        return self.path / "live-model"

    @property
    def training(self) -> Path:
        """What they were trained on."""
        return self.path / "training"

    @property
    def report(self) -> Path:
        """The last night's page."""
        return self.path / "report.html"

    def embeddings(self, version: str, precision: str) -> Path:
        """The vectors of a model version."""
        return self.path / "embeddings" / f"{version}-{precision}"

    def runs(self, night: dt.date | None = None) -> list[Path]:
        """The run folders, the oldest first; of one night, where it is given."""
        folder = self.path / "runs"
        found = [run for run in folder.iterdir() if RUN.fullmatch(run.name)] if folder.is_dir() else []
        wanted = [run for run in found if night is None or run.name[:10] == night.isoformat()]
        return sorted(wanted, key=lambda run: run_order(run.name))

    def new_run(self, night: dt.date) -> Path:
        """The name of the next run of a night: 2026-11-22, then 2026-11-22.2 and so on."""
        earlier = self.runs(night)
        number = f".{run_order(earlier[-1].name)[1] + 1}" if earlier else ""
        return self.path / "runs" / f"{night.isoformat()}{number}"

    @contextlib.contextmanager
    def claimed(self) -> Iterator[None]:
        """Be the only job here; a thread that holds the folder may claim it again.

        Raises:
            LockedError: another job is at it.
        """
        key = self.path, threading.get_ident()
        depth = _claims.get(key, 0)
        with contextlib.nullcontext() if depth else only_job(self.path, "noterec nightly"):
            _claims[key] = depth + 1
            try:
                yield
            finally:
                _claims[key] = depth
                if not depth:
                    del _claims[key]

    @property
    def busy(self) -> bool:
        """Whether a job is at it, as far as its lock file tells; nothing is locked to find out."""
        try:
            holder = json.loads((self.path / JOB_LOCK).read_bytes())
            if holder["host"] == socket.gethostname():
                os.kill(holder["pid"], 0)
        except (FileNotFoundError, ProcessLookupError):
            return False
        except (OSError, ValueError, KeyError, TypeError):  # another user's process, or a lock that is being written
            return True
        return True


def run_order(name: str) -> tuple[str, int]:
    """A run's name as its night and its number within it, in whose order runs follow one another."""
    night, _, number = name.partition(".")
    return night, int(number or 1)
