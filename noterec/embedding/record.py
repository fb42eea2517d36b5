"""What a run leaves behind about itself: one JSON file per run, in the folder `runs` of its output."""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import version
from typing import Any

from noterec import progress, storage

FOLDER = "runs"
PACKAGES = ("noterec", "torch", "transformers", "tokenizers", "pyarrow", "numpy")


class RunRecord:
    """Counts, stage times, peak memory and versions of one run, written whether it ends well or not.

    Attributes:
        facts: what the file will say; free to be added to.
        path: the file, as text.
    """

    def __init__(self, folder: storage.ShardFolder, **facts: Any) -> None:
        """Begin a run that writes to `folder`."""
        self._started = dt.datetime.now(dt.UTC)
        name = f"{self._started:%Y%m%dT%H%M%S}-{os.getpid()}.json"
        self._file = folder.path / FOLDER / name
        self.path = str(self._file)
        self.facts: dict[str, Any] = facts

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Write the record when the block ends: as done, or with the error that ended it."""
        outcome = "done"
        try:
            yield
        except BaseException as error:
            outcome = f"{type(error).__name__}: {error}"
            with contextlib.suppress(Exception):  # where the record can't be written either, the error itself matters
                self._write(outcome)
            raise
        self._write(outcome)

    def _write(self, outcome: str) -> None:
        ended = dt.datetime.now(dt.UTC)
        storage.write_json(
            self._file,
            {
                "outcome": outcome,
                "started": self._started.isoformat(timespec="seconds"),
                "ended": ended.isoformat(timespec="seconds"),
                "seconds": round((ended - self._started).total_seconds(), 3),
                **self.facts,
                "peak_memory_mb": round(progress.peak_memory_mb(), 1),
                "host": socket.gethostname(),
                "cores": os.cpu_count(),
                "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
            },
        )
