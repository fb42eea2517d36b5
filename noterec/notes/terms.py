"""The words of a note, for whatever counts words: the BM25 arm and the encoder's lexicon.

English and other spaced scripts give words, Chinese and Japanese bigrams of characters.

No dictionary and no language detection: the script of each run of letters decides. A run of Han or kana characters has no
spaces, and overlapping character bigrams are the usual strong choice there. Scripts that are written without spaces but are
neither (Thai, Khmer) stay whole runs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

CJK = "\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"([{CJK}]+)|([^\W_{CJK}]+)")


def tokens(text: str) -> list[str]:
    """The tokens of a text, in order: lower-cased words without their plural ending, and bigrams of Han and kana runs."""
    found: list[str] = []
    for cjk, word in _RUN.findall(unicodedata.normalize("NFKC", text).casefold()):
        if word:
            found.append(singular(word))
        elif len(cjk) == 1:
            found.append(cjk)
        else:
            found.extend(cjk[i : i + 2] for i in range(len(cjk) - 1))
    return found


def hashtag_tokens(hashtag: str) -> list[str]:
    """The tokens of a hashtag: its words, and all of it as one word behind a #, whatever joins its parts.

    `hashtag_tokens("Deep-Learning")` is `["deep", "learning", "#deeplearning"]`: who tags a note #design says more than who
    uses the word, and BM25 finds more by it (see docs/experiments.md).
    """
    whole = "".join(cjk or word for cjk, word in _RUN.findall(unicodedata.normalize("NFKC", hashtag).casefold()))
    return [*tokens(hashtag), f"#{whole}"] if whole else []


def note_tokens(title: str | None, content: str | None, hashtags: Iterable[str | None] | None) -> list[str]:
    """All tokens of a note; missing parts have none."""
    found = tokens(title or "")
    for hashtag in hashtags or ():
        found += hashtag_tokens(hashtag or "")
    return found + tokens(content or "")


def singular(word: str) -> str:
    """A word without its English plural ending: Harman's S-stemmer (JASIS 42(1), 1991), three rules and no dictionary."""
    if len(word) <= 3 or not word.endswith("s"):
        return word
    if word.endswith("ies") and word[-4] not in "ae":
        return word[:-3] + "y"
    if word.endswith("es") and word[-3] not in "aeo":
        return word[:-1]
    return word if word[-2] in "us" else word[:-1]
