"""A model's text as answers: the one category that it names, or hashtags that a person could have typed."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from noterec.model.generation.consistency import shares
from noterec.model.prompts import clean_hashtag
from noterec.model.tasks import normal

SEPARATORS = re.compile("[,，、#\n\r\u2028\u2029]+")
MAX_CHARACTERS = 64  # what is longer is a sentence, not a hashtag
# Codes that turn the direction of a text, and the sign for broken bytes; the joiners inside emoji and Indic words stay.
UNSEEN = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ufffd]")


def category_of(text: str) -> str:
    """The category that a text names: its first line that says anything; "" where none does."""
    for line in text.splitlines():
        cleaned = _visible(line)
        if cleaned:
            return cleaned
    return ""


def hashtags_of(text: str, *, ended: bool) -> list[str]:
    """The distinct hashtags of a text, in its order.

    Args:
        text: hashtags between commas, # or line ends.
        ended: whether the text is whole; the last hashtag of one that was cut off is left out.

    Returns:
        Hashtags without #, doubled blanks and control characters; the first spelling of those that differ only in case. What has
        neither letter, digit nor symbol, or more than 64 characters, is none.
    """
    parts = SEPARATORS.split(text)
    if not ended:
        parts.pop()
    return distinct(clean_hashtag(_visible(part)) for part in parts)


def distinct(hashtags: Iterable[str]) -> list[str]:
    """Hashtags that are some, the first of each spelling."""
    found: dict[str, str] = {}
    for tag in hashtags:
        if len(tag) <= MAX_CHARACTERS and any(unicodedata.category(c)[0] in "LNS" for c in tag):
            found.setdefault(normal(tag), tag)
    return list(found.values())


def filled_up(first: Sequence[str], drawn: Sequence[Sequence[str]], n: int) -> list[str]:
    """The hashtags of an answer, and behind them those of samples, the most named first, until there are n."""
    return distinct([*first, *voted((), drawn, len(first) + n)])[:n]


def voted(first: Sequence[str], drawn: Sequence[Sequence[str]], n: int) -> dict[str, float]:
    """The n hashtags that the largest shares of samples name, with these shares; then those of the answer `first`, at 0."""
    spelled: dict[str, str] = {}
    for tag in (tag for answer in (first, *drawn) for tag in answer):
        spelled.setdefault(normal(tag), tag)
    named = shares([map(normal, answer) for answer in drawn])
    ranked = [*named, *(tag for tag in spelled if tag not in named)][:n]
    return {spelled[tag]: named.get(tag, 0.0) for tag in ranked}


def _visible(text: str) -> str:
    """Text without control characters, with single blanks."""
    kept = UNSEEN.sub("", text)
    return " ".join("".join(" " if unicodedata.category(c) in ("Cc", "Cs") else c for c in kept).split())
