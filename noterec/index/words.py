"""How often each word stands in each note, and what that says: BM25, for the index and for the arm of the evaluation.

BM25 in Lucene's variant (Robertson & Zaragoza, "The Probabilistic Relevance Framework", 2009, and Kamphuis et al., ECIR 2020):
a note of l words scores Σ idf(t) · f / (f + k1 (1 - b + b l / mean l)) over a query's words t, f their number in the note. These
summands depend on no query and are computed once, so a query only adds up: the lists of its words, 8 bytes per entry.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec.notes.terms import note_tokens

K1, B = 1.5, 0.75  # the usual values; not tuned to any data set
COUNT_LIMIT = 65_535  # a word's repeats in one note that are still told apart

Floats = NDArray[np.float32]
Ids = NDArray[np.int32]
Offsets = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class WordCounts:
    """How often each of V words stands in each of N notes, note by note.

    Attributes:
        words: (V,) the words, ascending by their UTF-8 bytes; a word's number is its place here.
        offsets: (N + 1,) int64, where each note begins in the two below.
        word: (E,) int32, the words of a note, ascending, each once.
        count: (E,) uint16, how often.
    """

    words: list[bytes]
    offsets: Offsets
    word: Ids
    count: NDArray[np.uint16]

    def lists(self) -> tuple[Offsets, Ids, Floats]:
        """The same by word, with what each entry adds to a BM25 score.

        Returns:
            (V + 1,) int64 where each word begins, (E,) int32 notes, ascending within a word, (E,) float32 scores.
        """
        notes = len(self.offsets) - 1
        note = np.repeat(np.arange(notes, dtype=np.int32), np.diff(self.offsets))  # (E,)
        length = np.bincount(note, weights=self.count, minlength=notes)  # (N,)
        found_in = np.bincount(self.word, minlength=len(self.words))  # (V,) notes that use the word
        rarity = np.log1p((notes - found_in + 0.5) / (found_in + 0.5))  # (V,) idf
        damping = K1 * (1 - B + B * length / max(float(length.mean()) if notes else 0.0, 1e-9))  # (N,)
        count = self.count.astype(np.float64)
        score = (rarity[self.word] * count / (count + damping[note])).astype(np.float32)  # (E,)
        order = np.argsort(self.word, kind="stable")  # notes ascend within a word
        return np.concatenate([[0], np.cumsum(found_in)]).astype(np.int64), note[order], score[order]


class WordCounter:
    """Counts the words of notes as they come by, in any order."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._parts: list[tuple[Offsets, Ids, NDArray[np.uint16]]] = []  # a batch's rows, words and counts

    def add(
        self, rows: Iterable[int], notes: Iterable[tuple[str | None, str | None, Iterable[str | None] | None]]
    ) -> None:
        """Count some notes.

        Args:
            rows: of each note, its number.
            notes: title, content and hashtags of each.
        """
        lengths, flat, places = [], [], []
        for row, parts in zip(rows, notes, strict=True):
            found = [self._numbers.setdefault(token, len(self._numbers)) for token in note_tokens(*parts)]
            places.append(row)
            lengths.append(len(found))
            flat.extend(found)
        # One integer a token, row above and word below: what is equal is counted together.
        keys = np.repeat(np.array(places, dtype=np.int64), lengths) << 32 | np.array(flat, dtype=np.int64)
        entries, counts = np.unique(keys, return_counts=True)
        words = (entries & 0xFFFFFFFF).astype(np.int32)
        self._parts.append((entries >> 32, words, np.minimum(counts, COUNT_LIMIT).astype(np.uint16)))

    def finish(self, notes: int) -> WordCounts:
        """The counts of all notes, of `notes` in all; those that never came by have no word."""
        encoded = [word.encode() for word in self._numbers]
        order = sorted(range(len(encoded)), key=encoded.__getitem__)
        place = np.empty(len(encoded), dtype=np.int32)
        place[order] = np.arange(len(encoded), dtype=np.int32)
        rows = np.concatenate([np.empty(0, np.int64), *(part[0] for part in self._parts)])
        words = place[np.concatenate([np.empty(0, np.int32), *(part[1] for part in self._parts)])]
        counts = np.concatenate([np.empty(0, np.uint16), *(part[2] for part in self._parts)])
        self._parts.clear()
        order_of = np.lexsort((words, rows))
        offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=notes))]).astype(np.int64)
        return WordCounts([encoded[number] for number in order], offsets, words[order_of], counts[order_of])


def query_weights(counts: NDArray[Any]) -> Floats:
    """What a word of a query weighs that stands there `count` times: 1 + ln(count), float32.

    A note as a query is long: a word's second mention says less than its first (BM25's own k3 does the same).
    """
    weights: Floats = 1 + np.log(counts, dtype=np.float32)
    return weights
