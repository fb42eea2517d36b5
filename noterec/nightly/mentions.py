"""Whether a text that people read names an id, however it was escaped or cut on its way there."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection

SHOWN = 32  # characters of an id that every message and page shows; what is longer may be cut
_WORD = re.compile(r"\w+")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|[nrt\\])")


class Mentions:
    """Looks for the words of an id, one after the other, since a page escapes and a message quotes what stands between them.

    An id is no part of a longer word: n1 is not named where n10 is. What only looks like an id, such as a number, counts as one:
    rather a page too many than one too few.
    """

    def __init__(self, ids: Collection[str]) -> None:
        """Take ids to look for; one without a letter or digit is looked for as it is."""
        self._phrases = [phrase for text in ids for phrase in _phrases(text)]
        self._signs = [sign for text in ids if not _WORD.search(text[:SHOWN]) and (sign := " ".join(text.split()))]

    def among(self, text: str) -> bool:
        """Whether a text names one of them."""
        plain = _ESCAPE.sub(_unescaped, html.unescape(text))
        for version in (text, plain):
            words = _WORD.findall(version)
            known, line = set(words), f" {' '.join(words)} "
            if any(known.issuperset(whole) and phrase in line for whole, phrase in self._phrases):
                return True
        line = " ".join(plain.split())
        return any(sign[:SHOWN] in line for sign in self._signs)


def _phrases(text: str) -> list[tuple[frozenset[str], str]]:
    """The whole words of an id, of many texts the quick answer, and all that a text has to hold; its end may have been cut."""
    found = []
    visible = "".join(sign for sign in text if unicodedata.category(sign)[0] != "C")
    for version in {text, visible}:
        words = _WORD.findall(version[:SHOWN])
        if words:
            cut = len(version) > SHOWN
            found.append((frozenset(words[:-1] if cut else words), f" {' '.join(words)}" + ("" if cut else " ")))
    return found


def _unescaped(match: re.Match[str]) -> str:
    code = match[1] or match[2] or match[3]
    if code is None:
        return "\\" if match[0] == "\\\\" else " "
    number = int(code, 16)
    return chr(number) if number < 0x110000 else " "
