"""What the address bar says: which note is looked at, and how its neighbours are chosen. A page can be shared as it is seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Self
from urllib.parse import urlencode

from noterec.errors import InputError

KS = (6, 12, 24, 48, 96)  # neighbours that the page offers; an address may ask for any number up to the last
USUAL_K = 12
REPOSTS = 0.97  # cosine from which on the page calls a neighbour a repost of a better one
MAX_ID = 512  # characters, as in the API
_SWITCHES = ("author", "reposts")


@dataclasses.dataclass(frozen=True)
class Choice:
    """What is looked at.

    Attributes:
        note: a note's id; None = none yet.
        k: neighbours.
        candidates: "all" or "new".
        category: a category, with all below it; "" = any.
        author: at most one note of each author.
        reposts: near-duplicates are collapsed.
        diversity: weight of novelty, 0 to 1.
        usual: neighbours where an address names no number.
    """

    note: str | None = None
    k: int = USUAL_K
    candidates: str = "all"
    category: str = ""
    author: bool = False
    reposts: bool = False
    diversity: float = 0.0
    usual: int = USUAL_K

    @classmethod
    def read(cls, given: Mapping[str, Any], most: int = KS[-1]) -> Self:
        """From the parameters of an address, or the fields of a form; others are ignored.

        Args:
            given: texts by name.
            most: neighbours that the service gives.

        Raises:
            InputError: a value that isn't one.
        """
        usual = min(USUAL_K, most)
        found: dict[str, Any] = {
            "k": usual,
            "usual": usual,
            "note": str(given.get("note") or "") or None,
            "category": str(given.get("category") or ""),
        }
        for name in ("note", "category"):
            if len(found[name] or "") > MAX_ID:
                raise InputError(f"{name}: has {len(found[name]):,} characters; expected at most {MAX_ID:,}")
        if k := str(given.get("k") or ""):
            found["k"] = _number(int, k, "k", 1, min(most, KS[-1]))
        if diversity := str(given.get("diversity") or ""):
            found["diversity"] = _number(float, diversity, "diversity", 0, 1)
        if candidates := given.get("candidates"):
            if candidates not in ("all", "new"):
                raise InputError(f"candidates={str(candidates)[:80]}; expected all or new")
            found["candidates"] = candidates
        for name in _SWITCHES:
            if str(given.get(name) or "0") not in ("0", "1"):
                raise InputError(f"{name}={str(given[name])[:80]}; expected 0 or 1")
            found[name] = str(given.get(name) or "0") == "1"
        return cls(**found)

    def url(self, path: str = "/", **changes: Any) -> str:
        """The address of this choice with some changes; what is as usual is left out."""
        wanted = dataclasses.replace(self, **changes)
        plain = Choice(k=self.usual, usual=self.usual)
        fields = [(field.name, getattr(wanted, field.name)) for field in dataclasses.fields(wanted)]
        said = [(name, value) for name, value in fields if value != getattr(plain, name)]
        query = urlencode([(name, int(value) if isinstance(value, bool) else value) for name, value in said])
        return f"{path}?{query}" if query else path

    @property
    def narrowed(self) -> bool:
        """Whether anything but the note is chosen."""
        return dataclasses.replace(self, note=None) != Choice(k=self.usual, usual=self.usual)


def _number(kind: type[int] | type[float], text: str, name: str, low: float, high: float) -> float:
    try:
        value = kind(text)
    except ValueError:
        value = kind(low - 1)
    if not low <= value <= high:
        raise InputError(f"{name}={text[:80]}; expected a {'whole ' if kind is int else ''}number from {low} to {high}")
    return value
