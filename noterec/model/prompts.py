"""Notes to token ids: the compression prompt for language models, the bare text for sentence encoders.

The prompt (arXiv:2403.01744 §4.2) puts the note as JSON behind an instruction and ends in an opening quote; the state at that
quote is the note's embedding. Literal parts and fields are tokenised apart and joined as ids, therefore

- a field is cut at its own limit of tokens, and the readout position can't be cut or moved;
- the ids before the first field are the same for every note;
- text that spells a special token is tokenised as ordinary characters: nothing a stranger writes can forge one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any

import numpy as np

from noterec.config import PromptConfig
from noterec.errors import InputError

# Literal parts around title, hashtags and content. A change here is a new prompt, and so a new model version.
COMPRESS = (
    'Compress the following note, given in JSON, into one word for recommendation, then name its category. Note: {"title": "',
    '", "topic": "',
    '", "content": "',
    '"}. The compression word is: "',
)
# The same parts without words that a model trained from scratch could not know.
SHORT = ('"', '" ', '" ', ' "')
PLAIN = ("", " ", " ", "")
LITERALS = {"compress": COMPRESS, "short": SHORT, "plain": PLAIN}

# Text beyond this many characters per allowed token is cut before tokenising, so that a note of megabytes costs nothing.
CHARACTERS_PER_TOKEN = 32
NOTES_AT_A_TIME = 1024  # the tokenizer holds a hundred kilobytes for each long text that it is given at once

Text = tuple[str, list[str], str]  # title, hashtags, content


class Prompt:
    """Builds the token ids of notes for one tokenizer.

    Attributes:
        style: "compress", "short" or "plain".
        max_tokens: no note is longer than this.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig, *, style: str) -> None:
        """Take a Hugging Face fast tokenizer.

        Raises:
            InputError: the tokenizer has no fast backend.
        """
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"{type(tokenizer).__name__} has no fast tokenizer; give a model folder that holds a tokenizer.json"
            )
        self.config, self.style = config, style
        self._tokenizer = Tokenizer.from_str(backend.to_str())  # a copy: its settings are ours
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._special = (marked | {*tokenizer.all_special_ids}) - {tokenizer.unk_token_id}
        lead, trail = _frame(tokenizer)
        literals = [list(ids) for ids in self._tokenise(LITERALS[style])]
        literals[0] = lead + literals[0]
        if style == "plain":
            literals[-1] += trail
        self._literals = literals
        self._limits = (config.title_tokens, config.hashtags_tokens, config.content_tokens)
        self.max_tokens = sum(len(part) for part in literals) + sum(self._limits)

    @property
    def prefix(self) -> list[int]:
        """The ids with which every note begins."""
        return list(self._literals[0])

    @property
    def signature(self) -> dict[str, Any]:
        """What of the prompt enters the model version."""
        return {
            "style": self.style,
            "literals": list(LITERALS[self.style]),
            **self.config.model_dump(exclude={"style"}),
        }

    def encode(self, notes: Iterable[Text]) -> list[np.ndarray]:
        """Token ids of every note.

        Args:
            notes: (title, hashtags, content) of B notes.

        Returns:
            B arrays (T_b,) int64, special tokens included; the readout of a compress prompt is the last one.
        """
        encoded: list[np.ndarray] = []
        remaining = iter(notes)
        while part := list(islice(remaining, NOTES_AT_A_TIME)):
            encoded.extend(self._encode(part))
        return encoded

    def _encode(self, notes: Iterable[Text]) -> list[np.ndarray]:
        fields: list[str] = []
        for title, hashtags, content in notes:
            words = " ".join(self._hashtag(tag) for tag in hashtags)
            for text, limit in zip((title, words, content), self._limits, strict=True):
                fields.append(self._clean(text[: limit * CHARACTERS_PER_TOKEN]))
        ids = self._tokenise(fields)
        encoded = []
        for start in range(0, len(ids), 3):
            parts: list[Sequence[int]] = [self._literals[0]]
            for place in range(3):
                parts.append(ids[start + place][: self._limits[place]])
                parts.append(self._literals[place + 1])
            encoded.append(np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]))
        return encoded

    def _hashtag(self, tag: str) -> str:
        tag = tag.strip().lstrip("#")
        return tag if self.style == "plain" else f"#{tag}"

    def _clean(self, text: str) -> str:
        """Escape what would end the JSON string; a lone surrogate becomes the replacement character."""
        text = text.encode("utf-8", "replace").decode("utf-8") if not text.isascii() else text
        return json.dumps(text, ensure_ascii=False)[1:-1] if self.style != "plain" else text

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, without any special token, whatever the texts say."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [[i for i in encoding.ids if i not in self._special] for encoding in encodings]


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens that a tokenizer itself puts before and after a text (BOS, [CLS], [SEP], ...)."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a", add_special_tokens=True)["input_ids"]
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            return list(full[:start]), list(full[start + len(bare) :])
    raise InputError(
        f"{type(tokenizer).__name__} rewrites its text when special tokens are added; use another backbone"
    )
