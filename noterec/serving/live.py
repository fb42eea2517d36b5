"""The index that is live: opened once, looked at for changes, replaced by one assignment.

A request takes the reference once and keeps it; the older index is freed when its last request lets go. A newer one that can't be
used never takes the place of one that can. One of another model version brings its encoder along, where the model's folder holds
that model by now.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa

from noterec import storage
from noterec.errors import NoterecError
from noterec.index import bundle, changing
from noterec.index.search import Index
from noterec.serving.metrics import Metrics

logger = logging.getLogger(__name__)

Exchange = Callable[[str], Callable[[], None]]

LONGEST_WAIT = 60.0  # seconds between two tries of an index that can't be used


class LiveIndex:
    """An index on disk, its live version in memory.

    `refresh`, `add` and `remove` block and are for one thread at a time; reading `index` is for any.

    Attributes:
        path: the index, or one bundle of it.
        index: the live version.
        problem: why a newer version isn't live, without paths; None where there is none.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        model_version: str | None,
        metrics: Metrics,
        exchange: Exchange | None = None,
    ) -> None:
        """Open the index.

        Args:
            path: its folder.
            model_version: of the encoder; None where there is none, and any version will do.
            metrics: learns of every swap.
            exchange: loads the encoder of a newer index's model version, and returns what puts it in the place of the older one;
                None = an index of another version is refused.

        Raises:
            InputError, ArtefactError: it can't be opened, or is of another model version.
        """
        self.path: Path = storage.local(path)
        self.problem: str | None = None
        self._model_version = model_version
        self._exchange: Exchange | None = None
        self._metrics = metrics
        self._stamp = bundle.stamp(self.path)
        self._tries = 0
        self._next_try = 0.0
        self.index = Index.open(self.path)
        self._fit_encoder(self.index)
        self._exchange = exchange
        self._tell()

    def refresh(self) -> bool:
        """Make a newer version live, if there is one.

        Returns:
            Whether another one is live now. What can't be used is said in `problem`, logged, and tried again ever more rarely.
        """
        try:
            stamp = bundle.stamp(self.path)
        except NoterecError as error:
            stamp = ("unreadable", type(error).__name__, str(error))
        if stamp == self._stamp and (self.problem is None or time.monotonic() < self._next_try):
            return False
        if stamp != self._stamp:
            self._stamp, self._tries = stamp, 0
        try:
            index = self.index.refreshed()
            put_in_place = self._fit_encoder(index)
        except Exception as error:
            self._refuse(error)
            return False
        changed = index.version != self.index.version
        if changed or self.problem is not None:
            logger.info("index %s is live: %d notes", index.version, len(index))
        if put_in_place is not None:
            put_in_place()
            self._model_version = index.model_version
            logger.info("the encoder is that of model version %s now", index.model_version)
        self.index, self.problem = index, None
        if changed:
            self._metrics.swaps.labels("live").inc()
        self._tell()
        return changed

    def add(self, notes: pa.Table) -> None:
        """Add or replace notes: on disk, then live. The table is that of `changing.add_notes`."""
        changing.add_notes(self.path, notes, model_version=self.index.model_version)
        self.refresh()

    def remove(self, ids: Sequence[str]) -> None:
        """Remove notes: on disk, then live."""
        changing.remove_notes(self.path, ids)
        self.refresh()

    def _fit_encoder(self, index: Index) -> Callable[[], None] | None:
        """See to it that there is an encoder for an index; returns what is to be done when the index goes live."""
        if self._model_version in (None, index.model_version):
            return None
        if self._exchange is None:
            index.require_model(str(self._model_version))
            return None
        return self._exchange(index.model_version)

    def _refuse(self, error: Exception) -> None:
        self._tries += 1
        self._next_try = time.monotonic() + min(LONGEST_WAIT, 2.0**self._tries)
        told = "it could not be opened"
        if isinstance(error, NoterecError) and "model version" in str(error):
            told = "it is of another model version than the encoder"
        self.problem = f"a newer version of the index is not live: {told} ({type(error).__name__}; the log says more)"
        if self._tries == 1:
            self._metrics.swaps.labels("refused").inc()
            logger.error("%s: the newer version is not live, %s stays: %s", self.path, self.index.version, error)

    def _tell(self) -> None:
        index = self.index
        created = index.info.created.timestamp()
        self._metrics.index(
            version=index.version,
            kind=index.info.kind,
            model_version=index.model_version,
            notes=len(index),
            created=created,
        )
