"""BM25 beside the vectors: which notes use a query's words, in one file of a bundle that is mapped and never loaded.

    build_lexical(Dataset("data/mine"), ids, folder)
    lexical = Lexical.open(folder)
    lexical.scores(lexical.terms(note_tokens("cold brew", None, [])))
    lexical.scores(lexical.note_terms(42))

The BM25 arm of `noterec evaluate` is made of the same counts.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import progress, schema
from noterec.errors import ArtefactError, InputError
from noterec.index.words import COUNT_LIMIT, Floats, Ids, WordCounter, WordCounts, query_weights
from noterec.notes.dataset import Dataset

LEXICAL_FILE = "lexical.safetensors"
LEXICAL_FILES = (LEXICAL_FILE,)

_TYPES = {"F32": np.float32, "I32": np.int32, "I64": np.int64, "U16": np.uint16, "U8": np.uint8}


def build_lexical(dataset: Dataset, ids: pl.Series, folder: Path) -> None:
    """Count the words of a bundle's notes and write them into its folder.

    Args:
        dataset: where the notes' title, content and hashtags stand; it is read batch by batch.
        ids: (N,) note ids of the bundle's rows. A note that the dataset lacks has no words.
        folder: of the bundle; the files are those of `LEXICAL_FILES`.

    Raises:
        InputError: the dataset can't be read, or the folder can't be written to.
    """
    places = pl.DataFrame({"note_id": ids}).with_row_index("row")
    columns = list(schema.TEXT_COLUMNS)
    counter = WordCounter()
    with progress.track("words", len(ids), "notes") as bar:
        for table in dataset.note_batches(columns):
            batch = pl.DataFrame(table)
            absent = [pl.lit(None).alias(column) for column in columns if column not in batch.columns]
            batch = batch.with_columns(absent).join(places, on="note_id", how="inner")
            counter.add(batch["row"].to_list(), batch.select(columns).iter_rows())
            bar.advance(batch.height)
    write_counts(counter.finish(len(ids)), folder)


def copy_lexical(folder: Path, rows: NDArray[np.int64], out: Path) -> None:
    """Write the lexical file of a bundle that has only some rows of another one; words that none of these uses are gone.

    Args:
        folder: of the other bundle.
        rows: (M,) which of its rows, ascending.
        out: folder of the new one.

    Raises:
        ArtefactError: the other one's file is missing or damaged.
        InputError: it can't be written.
    """
    write_counts(Lexical.open(folder).counts(rows), out)


def write_counts(counts: WordCounts, folder: Path) -> None:
    """Write a bundle's lexical file.

    Raises:
        InputError: that can't be done.
    """
    starts, notes, scores = counts.lists()
    lengths = np.array([len(word) for word in counts.words], dtype=np.int64)
    arrays: dict[str, NDArray[Any]] = {
        "words": np.frombuffer(b"".join(counts.words), dtype=np.uint8),
        "word_offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "list_offsets": starts,
        "list_note": notes,
        "list_score": scores,
        "note_offsets": counts.offsets,
        "note_word": counts.word,
        "note_count": counts.count,
    }
    header: dict[str, Any] = {"__metadata__": {"format": "noterec lexical", "version": "1"}}
    ordered = sorted(arrays, key=lambda name: -arrays[name].itemsize)  # so that each begins where its type may
    place = 0
    for name in ordered:
        kind = next(text for text, kind in _TYPES.items() if kind == arrays[name].dtype)
        end = place + arrays[name].nbytes
        header[name] = {"dtype": kind, "shape": [len(arrays[name])], "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file = folder / LEXICAL_FILE
    try:
        with file.open("wb") as opened:
            opened.write(struct.pack("<Q", len(text)) + text)
            for name in ordered:
                opened.write(np.ascontiguousarray(arrays[name]).data)
    except OSError as error:
        raise InputError(f"{file}: could not be written: {error.strerror or error}") from error


@dataclass(frozen=True, eq=False)
class Terms:
    """The words of a query that some note uses.

    Attributes:
        words: (T,) int32, ascending, each once.
        weights: (T,) float32, what each counts.
    """

    words: Ids
    weights: Floats

    def __len__(self) -> int:
        return len(self.words)


class Lexical:
    """The words of a bundle's notes, mapped from its file.

    Attributes:
        notes: N, the bundle's rows; notes that were added to the index since have no words here.
    """

    def __init__(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Use `Lexical.open`."""
        self._words, self._word_offsets = arrays["words"], arrays["word_offsets"]
        self._starts, self._note, self._score = arrays["list_offsets"], arrays["list_note"], arrays["list_score"]
        self._offsets, self._word, self._count = arrays["note_offsets"], arrays["note_word"], arrays["note_count"]
        self.notes = len(self._offsets) - 1

    @classmethod
    def open(cls, folder: Path) -> Lexical:
        """Map the lexical file of a bundle, whose hash the bundle has compared.

        Raises:
            ArtefactError: it is missing, or of another format.
        """
        file = folder / LEXICAL_FILE
        try:
            arrays = _mapped(file)
            kinds = {name: array.dtype for name, array in arrays.items()}
            ends = [
                (arrays["word_offsets"][-1], arrays["words"]),
                (arrays["list_offsets"][-1], arrays["list_note"]),
                (arrays["list_offsets"][-1], arrays["list_score"]),
                (arrays["note_offsets"][-1], arrays["note_word"]),
                (arrays["note_offsets"][-1], arrays["note_count"]),
            ]
            whole = kinds == _KINDS and all(int(end) == len(array) for end, array in ends)
        except (OSError, ValueError, KeyError, IndexError, TypeError, struct.error) as error:
            raise ArtefactError(f"{file}: missing or damaged ({error}); build the index again") from error
        if not whole:
            raise ArtefactError(f"{file}: its parts don't belong together; build the index again")
        return cls(arrays)

    def terms(self, tokens: Iterable[str]) -> Terms:
        """A query of free text, as `note_tokens` or `tokens` gives it; words that no note uses are left out."""
        counts: dict[str, int] = {}
        for token in tokens:
            counts[token] = counts.get(token, 0) + 1
        found = sorted((number, count) for token, count in counts.items() if (number := self._number(token)) >= 0)
        words = np.array([number for number, _ in found], dtype=np.int32)
        return Terms(words, query_weights(np.minimum([count for _, count in found], COUNT_LIMIT).astype(np.uint16)))

    def note_terms(self, row: int) -> Terms:
        """A note of the index as a query: none for a row that the bundle doesn't have."""
        if not 0 <= row < self.notes:
            return Terms(np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32))
        part = slice(int(self._offsets[row]), int(self._offsets[row + 1]))
        return Terms(np.array(self._word[part]), query_weights(self._count[part]))

    def scores(self, query: Terms) -> Floats:
        """BM25 of every note of the bundle: (N,) float32, 0 where it shares no word with the query.

        It adds up one list per word: a query of common words costs as much as these lists are long.
        """
        total = np.zeros(self.notes, dtype=np.float32)  # (N,)
        for word, weight in zip(query.words.tolist(), query.weights, strict=True):
            part = slice(int(self._starts[word]), int(self._starts[word + 1]))
            total[self._note[part]] += weight * self._score[part]  # a note stands in a list once
        return total

    def counts(self, rows: NDArray[np.int64]) -> WordCounts:
        """How often each word stands in some notes of the bundle: (M,) rows, ascending."""
        lengths = np.diff(self._offsets)[rows]  # (M,)
        ends = np.cumsum(lengths)
        entries = np.arange(int(lengths.sum())) + np.repeat(self._offsets[rows] - (ends - lengths), lengths)
        used, word = np.unique(self._word[entries], return_inverse=True)
        return WordCounts(
            [self._spelled(number) for number in used.tolist()],
            np.concatenate([[0], ends]).astype(np.int64),
            word.astype(np.int32),
            np.array(self._count[entries]),
        )

    def _number(self, token: str) -> int:
        """A word's number, -1 where no note uses it."""
        wanted = token.encode(errors="surrogatepass")
        low, high = 0, len(self._word_offsets) - 1
        while low < high:
            middle = (low + high) // 2
            if self._spelled(middle) < wanted:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self._word_offsets) - 1 and self._spelled(low) == wanted else -1

    def _spelled(self, number: int) -> bytes:
        return self._words[int(self._word_offsets[number]) : int(self._word_offsets[number + 1])].tobytes()


_KINDS = {
    "words": np.dtype(np.uint8),
    "word_offsets": np.dtype(np.int64),
    "list_offsets": np.dtype(np.int64),
    "list_note": np.dtype(np.int32),
    "list_score": np.dtype(np.float32),
    "note_offsets": np.dtype(np.int64),
    "note_word": np.dtype(np.int32),
    "note_count": np.dtype(np.uint16),
}


def _mapped(file: Path) -> dict[str, NDArray[Any]]:
    """The tensors of a safetensors file as read-only views of the mapped file.

    The library's own reader copies each into memory; the format (a length, a JSON header, the bytes one after the other) lets
    them stay on disk.
    """
    size = file.stat().st_size
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        if length > size:
            raise ValueError("its header is longer than the file")
        header = json.loads(opened.read(length))
    content = np.memmap(file, dtype=np.uint8, mode="r")
    arrays = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = (8 + length + offset for offset in entry["data_offsets"])
        if end > size:
            raise ValueError("the file is cut")
        arrays[name] = np.asarray(content[begin:end].view(_TYPES[entry["dtype"]]).reshape(entry["shape"]))
    return arrays
