"""The words of a note beside its state: a sparse TF-IDF vector that the head maps into the same embedding.

A pretrained backbone knows language but not which of a platform's words and hashtags people follow; a vector per word, trained with
the head, does, and costs nothing to compute. Its start is the geometry of TF-IDF, which on lists of keywords and product
titles is a stronger guide than a small sentence encoder.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from noterec import storage
from noterec.errors import ArtefactError
from noterec.model.prompts import Text
from noterec.notes.terms import note_tokens

# A note's terms beyond so many are cut, so that a note of megabytes stays cheap.
MAX_TERMS = 4096
MAX_CHARACTERS = 64 * 1024
MAX_HASHTAGS = 256


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """The known words of V = len(words) and their inverse document frequencies (V,) float32."""

    words: list[str]
    idf: np.ndarray

    def __post_init__(self) -> None:
        object.__setattr__(self, "_place", {word: place for place, word in enumerate(self.words)})

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, notes: Sequence[Text], *, size: int, min_notes: int = 2) -> Lexicon:
        """Collect the words of training notes.

        Args:
            notes: (title, hashtags, content) of N training notes.
            size: V at most; the words in most notes stay, ties by spelling.
            min_notes: a word must stand in so many notes.
        """
        counts: Counter[str] = Counter()
        for text in notes:
            counts.update(set(_words(text)))
        common = sorted((word for word, count in counts.items() if count >= min_notes), key=lambda w: (-counts[w], w))
        words = sorted(common[:size])
        seen = np.array([counts[word] for word in words], dtype=np.float64)
        return cls(words, (np.log((1 + len(notes)) / (1 + seen)) + 1).astype(np.float32))

    def vectors(self, notes: Iterable[Text]) -> Any:
        """TF-IDF vectors, (1 + log tf) · idf with unit norm: a scipy CSR matrix (B, V) float32; unknown words are left out."""
        from scipy.sparse import csr_matrix

        place: dict[str, int] = self._place  # type: ignore[attr-defined]
        indptr, indices, counts = [0], [], []
        for text in notes:
            found = Counter(place[word] for word in _words(text) if word in place)
            for index in sorted(found):
                indices.append(index)
                counts.append(found[index])
            indptr.append(len(indices))
        columns = np.array(indices, dtype=np.int64)
        values = (1 + np.log(np.array(counts, dtype=np.float32))) * self.idf[columns]
        matrix = csr_matrix((values, columns, np.array(indptr, dtype=np.int64)), shape=(len(indptr) - 1, len(self)))
        norms = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
        matrix.data /= np.repeat(np.maximum(norms, 1e-12), np.diff(matrix.indptr)).astype(np.float32)
        return matrix

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write words and frequencies as JSON."""
        storage.write_json(path, {"words": self.words, "idf": [float(value) for value in self.idf]})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Lexicon:
        """Read what `save` wrote."""
        record = storage.read_json(path)
        if not isinstance(record, dict) or not {"words", "idf"} <= record.keys():
            raise ArtefactError(f"{path}: not a lexicon; the file was damaged: copy the model again")
        if len(record["words"]) != len(record["idf"]):
            raise ArtefactError(
                f"{path}: {len(record['words'])} words and {len(record['idf'])} frequencies; damaged file"
            )
        return cls(record["words"], np.array(record["idf"], dtype=np.float32))


def _words(text: Text) -> list[str]:
    title, hashtags, content = text
    hashtags = [tag[:MAX_CHARACTERS] for tag in hashtags[:MAX_HASHTAGS]]
    return note_tokens(title[:MAX_CHARACTERS], content[:MAX_CHARACTERS], hashtags)[:MAX_TERMS]
