"""The epochs of an output, as its manifest keeps them: a full run begins one, a whole run over a snapshot completes it."""

from __future__ import annotations

import dataclasses
import datetime as dt

from noterec import storage


@dataclasses.dataclass(frozen=True)
class Epoch:
    """Where an output stands.

    Attributes:
        number: the epoch's, from 0.
        complete: whether a run over a snapshot has been through all notes in it, and no shard was struck out since.
        full: when the full run was begun that hasn't gone through yet, ISO 8601 in UTC; None = none is under way.
        struck: shards that were struck out since a run over a snapshot went through.
    """

    number: int = 0
    complete: bool = False
    full: str | None = None
    struck: int = 0

    @classmethod
    def of(cls, folder: storage.ShardFolder) -> Epoch:
        """An output's. Outputs of earlier versions don't say: what they hold counts as complete."""
        state = folder.state
        return cls(
            number=int(state.get("epoch", 0)),
            complete=bool(state.get("complete", bool(folder.shards))),
            full=state.get("full"),
            struck=int(state.get("struck", 0)),
        )

    def keep(self, folder: storage.ShardFolder) -> None:
        """Put it into the output's state; the next commit writes it."""
        for name in ("full", "struck"):
            folder.state.pop(name, None)
        folder.state.update(epoch=self.number, complete=self.complete)
        if self.full:
            folder.state["full"] = self.full
        if self.struck:
            folder.state["struck"] = self.struck

    def begun(self, *, empty: bool) -> Epoch:
        """The one that a full run begins now; in an `empty` output it is the one that is there."""
        now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        return Epoch(self.number + (not empty), full=now)

    def completed(self) -> Epoch:
        """The same, when a run over a snapshot has gone through."""
        return Epoch(self.number, complete=True)

    def without(self, shards: int) -> Epoch:
        """The same, when so many shards were struck out."""
        return dataclasses.replace(self, complete=False, struck=self.struck + shards)

    @property
    def incomplete(self) -> str | None:
        """Why it isn't complete, in words; None where it is."""
        if self.complete:
            return None
        reasons = [f"{self.struck} shards were struck out by `noterec embeddings repair`"] if self.struck else []
        if self.full:
            reasons.append(f"the full run begun {self.full} is unfinished")
        return " and ".join(reasons) or "no run over a snapshot has gone through yet"
