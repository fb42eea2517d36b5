"""What shows a note's images in a prompt: words around slots, where the visual tokens go, and the image word behind them.

Multimodal in-context learning (arXiv:2405.16789 §4.2): the images are compressed into a word of their own before the note is. It
stands before the note's text, so that it knows the images alone, and the note's word after it knows both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from noterec.model.templates import ImageWords

SLOT = -1  # stands in the ids where a visual token goes; no token has this number, so no text can give it


@dataclasses.dataclass(frozen=True)
class Slots:
    """How images stand in a prompt: so many visual tokens each, at most so many images, with an image word behind them or not."""

    tokens: int
    images: int
    word: bool


class ImagePrompt:
    """The ids that show a note's images."""

    def __init__(self, slots: Slots, words: ImageWords, tokenise: Callable[[Sequence[str]], list[list[int]]]) -> None:
        """Tokenise the words once.

        Args:
            slots: how images stand in the prompt.
            words: what stands around the slots.
            tokenise: texts to ids, without special tokens.
        """
        self.slots, self._words = slots, words
        self._before, self._between, self._after = tokenise([words.before, words.between, words.after])

    @property
    def signature(self) -> dict[str, Any]:
        """What of it enters the version of embeddings."""
        return {**dataclasses.asdict(self.slots), **dataclasses.asdict(self._words)}

    def ids(self, images: int) -> list[int]:
        """What shows so many images; nothing for none."""
        if not images:
            return []
        return [*self._before, *[SLOT] * (images * self.slots.tokens), *self._between, *self._after]

    def word(self, images: int) -> int | None:
        """The place among `ids` of the image word; None where there is none.

        It is the last token before `<emb>`, a quote. In style plain, which has no words, it is the last visual token: in a causal
        model that one has seen all others.
        """
        if not images or not self.slots.word:
            return None
        return len(self._before) + images * self.slots.tokens + len(self._between) - 1
