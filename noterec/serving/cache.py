"""Answers to questions that were asked before: bounded, the longest unused one leaves first."""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from typing import Any, Generic, TypeVar

Answer = TypeVar("Answer")


class AnswerCache(Generic[Answer]):
    """Answers of one version of the index by their question.

    A key holds the version, so a late answer of an older index can't be found under a newer one; `clear` frees what no longer
    can be. Not for several threads: the event loop owns it.
    """

    def __init__(self, entries: int) -> None:
        """An empty cache of at most so many answers; 0 keeps none."""
        self._most = entries
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()

    def __len__(self) -> int:
        return len(self._answers)

    def get(self, key: bytes) -> Answer | None:
        """The answer, now the most recently used one; None where there is none."""
        found = self._answers.get(key)
        if found is not None:
            self._answers.move_to_end(key)
        return found

    def put(self, key: bytes, answer: Answer) -> None:
        """Keep an answer, and let the longest unused one go where there are too many."""
        if self._most == 0:
            return
        self._answers[key] = answer
        self._answers.move_to_end(key)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def clear(self) -> None:
        """Forget all answers."""
        self._answers.clear()


def key_of(version: str, question: Any) -> bytes:
    """A key of a question to one version of the index: the same for questions that JSON, its keys sorted, can't tell apart."""
    text = json.dumps([version, question], sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).digest()
