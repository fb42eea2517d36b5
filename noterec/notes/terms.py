"""The words of a note, for whatever counts words: the lexical baseline and the encoder's lexicon.

Latin and other alphabetic scripts give lower-case words; Chinese, Japanese and Korean runs give overlapping pairs of characters. A
hashtag counts whole (`#cold-brew`) and by its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_RUN = re.compile(rf"[{_CJK}]+|[^\W_{_CJK}]+")
_IS_CJK = re.compile(rf"[{_CJK}]")


def words(text: str) -> list[str]:
    """The words of a text in order: `words("Cold-brew 咖啡馆")` is `["cold", "brew", "咖啡", "啡馆"]`."""
    found: list[str] = []
    for run in _RUN.findall(text.lower()):
        if _IS_CJK.match(run) and len(run) > 1:
            found.extend(run[i : i + 2] for i in range(len(run) - 1))
        else:
            found.append(run)
    return found


def terms(title: str, hashtags: Iterable[str], content: str) -> list[str]:
    """All terms of a note: words of title and content, hashtags by their words and whole with a leading `#`."""
    found = words(title) + words(content)
    for tag in hashtags:
        tag = tag.strip().lstrip("#").lower()
        found.extend(words(tag))
        if tag:
            found.append(f"#{tag}")
    return found
