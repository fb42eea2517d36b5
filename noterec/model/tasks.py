"""Which note of a batch writes what: its category, some of its hashtags, or nothing (arXiv:2403.01744 §4.4).

What is to be written is held out of what is read: a hashtag that is asked for isn't shown, and a category isn't shown as a hashtag
either, in whole or in part.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from noterec.config import TasksConfig
from noterec.model.prompts import Prompt, Request, Text, clean_hashtag

LEVELS = re.compile("[/>|,，、]")  # between the parts of a category


class Tasks:
    """Draws the requests of a step; the same for the same seed, step and notes."""

    def __init__(
        self, texts: Sequence[Text], categories: Sequence[str | None], prompt: Prompt, config: TasksConfig, seed: int
    ) -> None:
        """Take N training notes.

        Args:
            texts: (title, hashtags, content) of each.
            categories: the category of each, None where it has none.
            prompt: decides what can be asked for.
            config: shares and counts.
            seed: of all draws.
        """
        self._texts, self._prompt, self._config, self._seed = texts, prompt, config, seed
        known = {name for name in categories if name} if prompt.can("category") else set()
        short = {name for name in known if _fits(prompt, name)}
        self._categories = [category if category in short else None for category in categories]
        self._hashtags = [_distinct(tags) if prompt.can("hashtags") else [] for _, tags, _ in texts]

    @property
    def able(self) -> tuple[int, int]:
        """How many notes have a category to write, and how many have hashtags."""
        return sum(c is not None for c in self._categories), sum(bool(tags) for tags in self._hashtags)

    def draw(self, rows: np.ndarray, step: int) -> list[Request]:
        """What each note of a step's batch does.

        Args:
            rows: (b,) rows of notes; a note that stands there twice is drawn twice.
            step: the step's number.

        Returns:
            b requests. A share r of the notes that can write anything write hashtags, as near as what they have allows; notes
            that can write nothing are only embedded.
        """
        random = np.random.default_rng([self._seed, step, 0x7A5C])
        tagged = np.array([bool(self._hashtags[row]) for row in rows], dtype=bool)
        filed = np.array([self._categories[row] is not None for row in rows], dtype=bool)
        wanted = round(self._config.hashtag_share * int((tagged | filed).sum()))
        both = np.flatnonzero(tagged & filed)
        chosen = random.permutation(both)[: max(0, wanted - int((tagged & ~filed).sum()))]
        writes_tags = tagged & ~filed
        writes_tags[chosen] = True
        requests = []
        for place, row in enumerate(rows):
            if writes_tags[place]:
                requests.append(self._hashtag_request(int(row), random))
            elif filed[place]:
                requests.append(self._category_request(int(row)))
            else:
                requests.append(Request(self._texts[row]))
        return requests

    def _category_request(self, row: int) -> Request:
        category = self._categories[row]
        assert category is not None
        title, hashtags, content = self._texts[row]
        given_away = {_plain(category), *map(_plain, LEVELS.split(category))}
        return Request(_without((title, hashtags, content), given_away), "category", (category,))

    def _hashtag_request(self, row: int, random: np.random.Generator) -> Request:
        title, hashtags, content = self._texts[row]
        own = self._hashtags[row]
        count = int(random.integers(1, min(len(own), self._config.max_hashtags) + 1))
        asked = [own[place] for place in random.choice(len(own), count, replace=False)]
        asked = asked[: self._prompt.fitting(asked)]  # the prompt asks for as many as stand in the answer
        text = _without((title, hashtags, content), {_plain(tag) for tag in asked})
        return Request(text, "hashtags", tuple(asked))


def _without(text: Text, names: set[str]) -> Text:
    """A note that doesn't show some names, neither among its hashtags nor as a #hashtag in its title or content."""
    title, hashtags, content = text
    shown = [tag for tag in hashtags if _plain(tag) not in names]
    spelled = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True) if name)
    if spelled and ("#" in title or "#" in content):
        mark = re.compile(rf"#(?:{spelled})(?!\w)", re.IGNORECASE)
        title, content = mark.sub("", title), mark.sub("", content)
    return title, shown, content


def normal(text: str) -> str:
    """A hashtag or category as it is compared: without #, case, or doubled blanks."""
    return " ".join(text.strip().lstrip("#").casefold().split())


def _plain(text: str) -> str:
    """As `normal`, and as it stands in an answer: a hashtag "a,b" is asked for as "a b", and is the same one."""
    return normal(clean_hashtag(text))


def _distinct(hashtags: Sequence[str]) -> list[str]:
    """Hashtags that say something once cleaned, the first of each spelling."""
    found: dict[str, str] = {}
    for tag in hashtags:
        cleaned = clean_hashtag(tag)
        if cleaned:
            found.setdefault(normal(cleaned), cleaned)
    return list(found.values())


def _fits(prompt: Prompt, category: str) -> bool:
    return 1 < len(prompt.answer_ids("category", (category,))) <= prompt.config.output_tokens + 1
