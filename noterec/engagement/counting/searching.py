"""Counting over blocks of anchors, in threads, and the sums of groups of people that don't fit into memory together."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeVar

import numpy as np

from noterec.engagement.counting.folding import Ints
from noterec.engagement.counting.histories import Histories
from noterec.engagement.counting.merging import merge_strongest
from noterec.engagement.counting.spill import Spill, Where
from noterec.engagement.counting.swing import Swing, count_swing
from noterec.engagement.counting.walking import (
    SCRATCH_BYTES,
    Notes,
    Rule,
    Scratch,
    Strongest,
    Sums,
    count_strongest,
    count_sums,
    scratch,
)
from noterec.progress import track

T = TypeVar("T")
Block = tuple[int, int]  # anchors [begin, end)

SUM_BYTES = 16  # of one entry of Sums
_BLOCKS_PER_THREAD = 8  # so that a slow block doesn't leave the others waiting


@dataclass(frozen=True, eq=False)
class SpilledSums:
    """Sums of several groups of people on disk.

    Attributes:
        places: of each block of anchors, for each group, where its arrays lie.
    """

    spill: Spill
    places: dict[Block, list[list[Where]]]

    def read(self, block: Block) -> list[Sums]:
        """One block's sums of each group."""
        return [Sums(*(self.spill.read(where) for where in wheres)) for wheres in self.places[block]]


@dataclass(eq=False)
class Search:
    """Counting over blocks of anchors, in threads.

    Attributes:
        notes: N.
        rule: what makes a pair a related one.
        memory: bytes that the sums of all blocks in work may take.
        description: label of the progress bar.
    """

    notes: int
    rule: Rule
    memory: int
    description: str

    def __post_init__(self) -> None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.threads = max(1, min(cores, self.memory // (SCRATCH_BYTES * max(self.notes, 1))))

    def strongest(self, histories: Histories, notes: Notes, swing: Swing | None) -> Strongest:
        """The related notes of all anchors, where one group holds all people."""

        def count(block: Block, space: Scratch) -> Strongest:
            if swing is not None:
                return count_swing(histories, *block, notes, self.rule, swing, space)
            return count_strongest(histories, *block, notes, self.rule, space)

        costs = histories.costs()
        return self.together(cut(costs, self.threads * _BLOCKS_PER_THREAD), costs, count)

    def merged(self, groups: Iterable[Histories], events: int, notes: Callable[[], Notes], spill: Spill) -> Strongest:
        """The same from several groups, which hold so many events together; `notes` is called when all have been folded."""

        written = self.spilled(groups, partial(self.blocks, events), spill)
        known = notes()

        def merge(block: Block, space: Scratch) -> Strongest:
            return merge_strongest(written.read(block), block[0], known, self.rule, space)

        return self.together(list(written.places), None, merge)

    def blocks(self, events: int, histories: Histories, costs: Ints) -> list[Block]:
        """Blocks of anchors whose sums over so many events may be in memory, to judge from a first group and its costs."""
        share = max(len(histories.note) / max(events, 1), 1e-3)  # of all rows, that this group holds
        entries = max(self.block_bytes / SUM_BYTES, 1.0)
        return cut(costs, max(int(costs.sum() / share / entries), self.threads * _BLOCKS_PER_THREAD))

    @property
    def block_bytes(self) -> int:
        """Bytes that the sums of one block may take."""
        return self.memory // self.threads

    def spilled(
        self, groups: Iterable[Histories], blocks: Callable[[Histories, Ints], list[Block]], spill: Spill
    ) -> SpilledSums:
        """The sums of each group on disk, block by block; `blocks` are made from the first group and its costs."""
        written: SpilledSums | None = None
        for histories in groups:
            costs = histories.costs()
            written = written or SpilledSums(spill, {block: [] for block in blocks(histories, costs)})

            def count(block: Block, space: Scratch, histories: Histories = histories, costs: Ints = costs) -> Sums:
                return count_sums(histories, *block, int(costs[slice(*block)].sum()), space)

            def keep(block: Block, sums: Sums, places: dict[Block, list[list[Where]]] = written.places) -> None:
                places[block].append([spill.write(array) for array in sums])

            self.over(list(written.places), costs, count, keep)
        assert written is not None  # at least one group comes
        return written

    def together(
        self, blocks: list[Block], costs: Ints | None, work: Callable[[Block, Scratch], Strongest]
    ) -> Strongest:
        """What `work` finds in all blocks."""
        found: list[Strongest] = []
        self.over(blocks, costs, work, lambda _, strongest: found.append(strongest))
        return joined(found)

    def over(
        self,
        blocks: list[Block],
        costs: Ints | None,
        work: Callable[[Block, Scratch], T],
        take: Callable[[Block, T], None],
    ) -> None:
        """Do `work` on each block in threads, and give what it makes to `take`, in order.

        A few blocks are ahead of `take` at most. After an error, or Ctrl-C, none is begun any more, and this ends with those in
        work: nothing runs on, nor writes.
        """
        own = threading.local()

        def run(block: Block) -> T:
            if not hasattr(own, "space"):
                own.space = scratch(self.notes)
            return work(block, own.space)

        label = f"{self.description}: {'merging' if costs is None else 'counting'}"
        total = None if costs is None else int(costs.sum())
        unit = "anchors" if costs is None else "co-occurrences"
        ahead: deque[tuple[Block, Future[T]]] = deque()
        pool = ThreadPoolExecutor(self.threads)
        with track(label, total, unit) as bar:
            try:
                for block in [*blocks, None]:
                    while ahead and (block is None or len(ahead) > self.threads):
                        done, future = ahead.popleft()
                        take(done, future.result())
                        bar.advance(done[1] - done[0] if costs is None else int(costs[slice(*done)].sum()))
                    if block is not None:
                        ahead.append((block, pool.submit(run, block)))
            finally:
                pool.shutdown(cancel_futures=True)


def cut(costs: Ints, count: int) -> list[Block]:
    """Blocks of neighbouring anchors, [begin, end), about `count` of them and about equally costly."""
    count = max(min(count, len(costs)), 1)
    ends = np.cumsum(costs)
    total = int(ends[-1]) if len(ends) else 0
    cuts = np.searchsorted(ends, np.linspace(0, total, count + 1)[1:-1], side="left")
    edges = np.unique(np.concatenate([[0], cuts, [len(costs)]]))
    return [(int(begin), int(end)) for begin, end in pairwise(edges)]


def joined(found: list[Strongest]) -> Strongest:
    """All blocks as one."""
    empty = Strongest(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.float32), np.zeros(3, np.int64))
    kept, related, scores, _ = (np.concatenate(arrays) for arrays in zip(empty, *found, strict=True))
    return Strongest(kept, related, scores, sum((block.dropped for block in found), empty.dropped))
