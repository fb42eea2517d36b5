"""Answers to questions that were asked before: bounded in bytes, the longest unused one leaves first."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict

from noterec.serving.messages import SimilarRequest

OVERHEAD_BYTES = 256  # what an answer takes beside its own bytes


class AnswerCache:
    """Answers of one version of the index, as JSON, by their question.

    A key holds the version, so a late answer of an older index can't be found under a newer one; `clear` frees what no longer
    can be. Not for several threads: the event loop owns it.
    """

    def __init__(self, most_bytes: int) -> None:
        """An empty cache of at most so many bytes; 0 keeps nothing."""
        self._most = most_bytes
        self._bytes = 0
        self._answers: OrderedDict[bytes, bytes] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes) -> bytes | None:
        """The answer, now the most recently used one; None where there is none."""
        found = self._answers.get(key)
        if found is not None:
            self._answers.move_to_end(key)
        return found

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep an answer, and let the longest unused ones go where there is no room for all."""
        self._bytes += _size(answer) - _size(self._answers.pop(key, None))
        self._answers[key] = answer
        while self._bytes > self._most:
            self._bytes -= _size(self._answers.popitem(last=False)[1])

    def clear(self) -> None:
        """Forget all answers."""
        self._answers.clear()
        self._bytes = 0


def key_of(version: str, request: SimilarRequest) -> bytes:
    """A key of a question to one version of the index: the same for questions that JSON, its keys sorted, can't tell apart.

    Pictures count by their hashes: no JSON is made of megabytes.
    """
    question = request.model_dump(mode="json", exclude={"note": {"images"}})
    images = [] if request.note is None else request.note.images
    hashes = [hashlib.blake2b(image.encode()).hexdigest() for image in images]
    asked = [version, {**question, "where": request.where or None}, hashes]
    text = json.dumps(asked, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).digest()


def _size(answer: bytes | None) -> int:
    return 0 if answer is None else len(answer) + OVERHEAD_BYTES
