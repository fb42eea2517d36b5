"""What a sliding window keeps from one night to the next: its events by day and people, their sums by anchors, and what was read.

state.json                                what counts; written last, so that a run that died leaves the night before
day-<day>-<run>/people-<part>.parquet     the events of a day, keys of people and notes
keys-<run>.parquet                        the key of each note, by its code; codes are given in the order in which notes come up
sums-<run>/anchors-<begin>.npz            of each pair of notes, what everyone in the window adds
tally-<run>.parquet                       the notes' own sums
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from noterec import storage
from noterec.engagement.apart.partial import load_events, load_sums, load_tally, no_sums, piece
from noterec.engagement.counting.events import joined
from noterec.engagement.counting.histories import DAY_US, Events, Tally
from noterec.engagement.counting.keys import Keys
from noterec.engagement.counting.searching import Block
from noterec.engagement.counting.walking import Sums
from noterec.errors import InputError, NoterecError

FORMAT = "noterec pairs window 1"
STATE_FILE = "state.json"
_OWN = ("day-", "keys-", "sums-", "tally-")  # how the names begin of what belongs to a state


@dataclass(frozen=True)
class Day:
    """Events of one day that came in one run.

    Attributes:
        day: days since 1970.
        folder: where they are, below the state.
        events: how many.
        parts: the parts of the people who have any of them.
    """

    day: int
    folder: str
    events: int
    parts: list[int]


@dataclass
class Standing:
    """The state of a window, as of its last run.

    Attributes:
        folder: where it is kept.
        settings: a hash of all that the sums depend on.
        run: number of the run that wrote it; 0 before the first.
        people: parts that people are cut into.
        end: the end of the last day, in microseconds; means nothing before the first run.
        reference: the moment at which engagement counts in full in the sums, where age matters.
        notes: codes given.
        files: what was read: of each file of the log, by its name, the size and time, and the times of its first and last event
            that counts, if any.
        days: the events that are kept.
        blocks: anchors [begin, end) and the file of their sums.
    """

    folder: Path
    settings: str
    run: int = 0
    people: int = 1
    end: int = 0
    reference: int = 0
    notes: int = 0
    files: dict[str, list[Any]] = field(default_factory=dict)
    days: list[Day] = field(default_factory=list)
    blocks: dict[Block, str] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Standing | None:
        """The state of a folder; None where there is none yet.

        Raises:
            InputError: the folder holds something else.
        """
        file = folder / STATE_FILE
        if not file.is_file():
            for found in sorted(folder.iterdir()) if folder.is_dir() else ():
                if not found.name.startswith((".", *_OWN)):
                    raise InputError(f"{found}: isn't a window's; expected an empty folder, or one with {STATE_FILE}")
            return None
        with _whole(folder):
            about = dict(storage.read_json(file))
            if about.pop("format", None) != FORMAT:
                raise InputError(f"{file}: is of another version")
            days = [Day(**day) for day in about.pop("days")]
            blocks = {(begin, end): name for begin, end, name in about.pop("blocks")}
            return cls(folder, **about, days=days, blocks=blocks)

    def write(self) -> None:
        """Make this the state; what it doesn't name is then removed."""
        about = asdict(self)
        del about["folder"]
        about["blocks"] = [[*block, name] for block, name in self.blocks.items()]
        storage.write_json(self.folder / STATE_FILE, {"format": FORMAT, **about})
        self.sweep()

    def sweep(self) -> None:
        """Remove what belongs to no state or to another one, such as the files of a run that died."""
        named = {STATE_FILE, f"keys-{self.run}.parquet", f"tally-{self.run}.parquet"}
        named |= {day.folder for day in self.days} | {Path(name).parent.name for name in self.blocks.values()}
        for found in self.folder.iterdir():
            own = found.name.startswith(_OWN) or (
                found.suffix == ".tmp" and found.name[1:].startswith((*_OWN, STATE_FILE))
            )
            if own and found.name not in named:
                shutil.rmtree(found) if found.is_dir() else found.unlink()

    @property
    def events_kept(self) -> int:
        """Events of all days."""
        return sum(day.events for day in self.days)

    def keys(self) -> Keys:
        """(notes,) uint64: the key of each code."""
        if not self.notes:
            return np.zeros(0, dtype=np.uint64)
        with _whole(self.folder):
            return np.asarray(storage.read_table(self.folder / f"keys-{self.run}.parquet")["key"].to_numpy())

    def write_keys(self, keys: Keys) -> None:
        """Keep the key of each code, for `run`."""
        self.notes = len(keys)
        storage.write_table(pa.table({"key": keys}), self.folder / f"keys-{self.run}.parquet")

    def tally(self, notes: int) -> Tally:
        """The notes' own sums, for so many codes of which the last may be new."""
        norms = np.zeros(notes)
        if not self.notes:
            return Tally(norms)
        with _whole(self.folder):
            tally, _ = load_tally(self.folder / f"tally-{self.run}.parquet")
        norms[: len(tally.norms)] = tally.norms
        tally.norms = norms
        return tally

    def events(self, day: Day, part: int) -> Events:
        """The events of a part of the people on a day; `note` are keys."""
        if part not in day.parts:
            return joined([])
        with _whole(self.folder):
            return load_events(self.folder / day.folder / f"people-{part:05d}.parquet")

    def sums(self, block: Block) -> Sums:
        """What everyone adds for the anchors [begin, end): a kept block, a piece of one, or one whose last anchors are new."""
        for (begin, end), name in self.blocks.items():
            if begin <= block[0] < end:
                with _whole(self.folder):
                    return piece(
                        load_sums(self.folder / name, max(end, block[1]) - begin), block[0] - begin, block[1] - begin
                    )
        return no_sums(block[1] - block[0])

    def grown(self, notes: int, most: int) -> list[Block]:
        """The blocks of the sums when there are so many codes.

        New ones go into the last block until it is as long as the longest. A block whose sums take more than `most` bytes is cut,
        as it holds more than it did when the blocks were chosen.
        """
        *blocks, last = sorted(self.blocks)
        if blocks and last[1] - last[0] >= max(end - begin for begin, end in blocks):
            blocks += [last, *([(last[1], notes)] if notes > last[1] else [])]
        else:
            blocks += [(last[0], notes)]
        with _whole(self.folder):
            sizes = {begin: (self.folder / name).stat().st_size for (begin, _), name in self.blocks.items()}
        found: list[Block] = []
        for begin, end in blocks:
            pieces = min(-(-sizes.get(begin, 0) // max(most, 1)), end - begin)
            edges = np.linspace(begin, end, max(pieces, 1) + 1).astype(int).tolist()
            found += pairwise(edges)
        return found

    def kept(self, since: int | None) -> tuple[list[Day], list[Day]]:
        """The days that stay in a window that begins at `since` (microseconds), and those that leave it."""
        staying = [day for day in self.days if since is None or day.day * DAY_US >= since]
        return staying, [day for day in self.days if day not in staying]


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    """Tell what to do where a state is found to be damaged."""
    try:
        yield
    except (NoterecError, KeyError, TypeError, ValueError, OSError) as error:
        raise InputError(f"{error}; expected a whole state: remove {folder}, and the window is counted anew") from error
