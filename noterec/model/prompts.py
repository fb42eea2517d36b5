"""Notes to token ids: the compression prompt for language models, the bare text for sentence encoders.

The prompt (arXiv:2403.01744 §4.2) puts the note as JSON behind an instruction and ends in an opening quote; the state at that
quote is the note's embedding. A task's prompt goes on from there and asks for the category or for hashtags. Literal parts and
fields are tokenised apart and joined as ids, therefore

- a field is cut at its own limit of tokens, and the readout position can't be cut or moved;
- the ids before the first field are the same for every note;
- text that spells a special token is tokenised as ordinary characters: nothing a stranger writes can forge one.

What shows a note's images goes before all of it (see `image_prompt`).
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np

from noterec.config import PromptConfig
from noterec.errors import InputError
from noterec.model.image_prompt import ImagePrompt, Slots
from noterec.model.templates import Task, Words, image_words_of, words_of

# Text beyond this many characters per allowed token is cut before tokenising, so that a note of megabytes costs nothing.
CHARACTERS_PER_TOKEN = 32
NOTES_AT_A_TIME = 1024  # the tokenizer holds a hundred kilobytes for each long text that it is given at once

Text = tuple[str, list[str], str]  # title, hashtags, content


@dataclasses.dataclass(frozen=True)
class Request:
    """A note as a task reads it: what must not be seen is already taken out of the text.

    Attributes:
        text: title, hashtags, content.
        task: what is asked for; None = only the embedding.
        answer: what is to be learned: one category, or hashtags. Empty where the model shall write it.
        count: how many hashtags are asked for; the length of the answer unless given.
        images: how many images it shows.
    """

    text: Text
    task: Task | None = None
    answer: tuple[str, ...] = ()
    count: int | None = None
    images: int = 0


@dataclasses.dataclass(frozen=True)
class Example:
    """A request as ids (T,) int64: prompt up to `readout`, the position that is read, guidance, and from `output` on the answer.

    `word` is the position of the image word, the readout's own where there is none.
    """

    ids: np.ndarray
    readout: int
    output: int
    word: int


class Prompt:
    """Builds the token ids of notes for one tokenizer.

    Attributes:
        style: "compress", "compress-zh", "short", "plain", or "template" for one's own.
        max_tokens: no note is longer than this up to its readout.
        max_request_tokens: no request is longer than this, guidance and output included.
        end_id: the token that ends an answer, or None for a tokenizer that has none.
        special_ids: tokens that stand for no text, so that none comes from a note and none is part of an answer.
    """

    def __init__(self, tokenizer: Any, config: PromptConfig, *, style: str, slots: Slots | None = None) -> None:
        """Take a Hugging Face fast tokenizer, and how images stand in the prompt, if they do.

        Raises:
            InputError: the tokenizer has no fast backend.
        """
        from tokenizers import Tokenizer

        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise InputError(
                f"{type(tokenizer).__name__} has no fast tokenizer; give a model folder that holds a tokenizer.json"
            )
        self.config, self.style = config, style if config.template is None else "template"
        self._source = tokenizer
        self._tokenizer = Tokenizer.from_str(backend.to_str())  # a copy: its settings are ours
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        marked = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids = (marked | {*tokenizer.all_special_ids}) - {tokenizer.unk_token_id}
        self._lead, self._trail = _frame(tokenizer)
        self._words = words_of(config, style)
        self._limits = {
            "title": config.title_tokens,
            "hashtags": config.hashtags_tokens,
            "content": config.content_tokens,
        }
        self._literals_of = lru_cache(maxsize=256)(self._literals)
        self.end_id: int | None = (
            tokenizer.eos_token_id if tokenizer.eos_token_id is not None else tokenizer.sep_token_id
        )
        self._images: ImagePrompt | None = None
        if slots is not None:
            self._images = ImagePrompt(slots, image_words_of(config, self.style, word=slots.word), self._tokenise)
        shown = 0 if slots is None else len(self._shown(slots.images))
        fields = self._words["category"].fields
        around = sum(map(len, self._literals_of(None, 0)[0]))
        self.max_tokens = shown + around + sum(self._limits[field] for field in fields)
        self.max_request_tokens = self.max_tokens
        for task, words in self._words.items():
            literals, guidance = self._literals_of(task, 100)
            longest = shown + sum(map(len, literals)) + sum(self._limits[field] for field in words.fields)
            self.max_request_tokens = max(self.max_request_tokens, longest + len(guidance) + config.output_tokens + 1)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_literals_of"}  # a cache doesn't pickle

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._tokenizer.encode_special_tokens = True  # a tokenizer forgets this when it is pickled or copied
        self._literals_of = lru_cache(maxsize=256)(self._literals)

    @property
    def prefix(self) -> list[int]:
        """The ids with which every note without images begins."""
        return list(self._literals_of(None, 0)[0][0])

    @property
    def signature(self) -> dict[str, Any]:
        """What of the prompt enters the version of embeddings."""
        words = self._words["category"]
        record: dict[str, Any] = {
            "style": self.style,
            "literals": list(words.literals),
            **{f"{field}_tokens": limit for field, limit in self._limits.items()},
        }
        if words.fields != tuple(self._limits):
            record["fields"] = list(words.fields)
        if self._images is not None:
            record["images"] = self._images.signature
        return record

    @property
    def task_signature(self) -> dict[str, Any]:
        """What of the prompts enters the version of what is written."""
        return {task: dataclasses.asdict(words) for task, words in self._words.items()}

    @property
    def saved(self) -> PromptConfig:
        """The settings with the style decided, as a model folder keeps them."""
        style = self.style if self.style != "template" else "auto"
        return PromptConfig.model_validate({**self.config.model_dump(), "style": style})

    def reads(self, task: Task) -> tuple[str, ...]:
        """The fields of a note that a task's prompt shows."""
        return tuple(field for field in self._words[task].fields if self._limits[field])

    def can(self, task: Task) -> bool:
        """Whether there is a prompt for a task and a token to end its answer."""
        return task in self._words and bool(self._words[task].guidance) and self.end_id is not None

    @property
    def slots(self) -> Slots | None:
        """How images stand in the prompt; None where they don't."""
        return None if self._images is None else self._images.slots

    def image_word(self, images: int) -> int | None:
        """Where the image word stands in a note with so many images; None where there is none."""
        place = None if self._images is None else self._images.word(images)
        return None if place is None else len(self._lead) + place

    def _shown(self, images: int) -> list[int]:
        """What shows so many images."""
        return [] if self._images is None else self._images.ids(images)

    def without_images(self, ids: np.ndarray, images: int) -> np.ndarray:
        """The ids (T,) int64 of a note that shows so many images, as they are where it shows none."""
        start = len(self._lead)
        return np.concatenate([ids[:start], ids[start + len(self._shown(images)) :]])

    def encode(self, notes: Iterable[Text], images: Sequence[int] | None = None) -> list[np.ndarray]:
        """Token ids of every note, up to its readout.

        Args:
            notes: (title, hashtags, content) of B notes.
            images: how many images each shows; None = none.

        Returns:
            B arrays (T_b,) int64, special tokens included; the readout of a compress prompt is the last one.
        """
        encoded: list[np.ndarray] = []
        shown = itertools.repeat(0) if images is None else images
        remaining = (Request(text, images=count) for text, count in zip(notes, shown, strict=images is not None))
        while part := list(islice(remaining, NOTES_AT_A_TIME)):
            encoded.extend(example.ids for example in self.examples(part))
        return encoded

    def examples(self, requests: Sequence[Request]) -> list[Example]:
        """Token ids of notes with their tasks and answers.

        Raises:
            InputError: a task that this prompt can't ask for.
        """
        texts: list[str] = []
        for request in requests:
            title, hashtags, content = request.text
            given = {"title": title, "content": content, "hashtags": " ".join(self._hashtag(tag) for tag in hashtags)}
            for field in self._words[request.task or "category"].fields:
                texts.append(self._clean(given[field][: self._limits[field] * CHARACTERS_PER_TOKEN]))
        ids = iter(self._tokenise(texts))
        return [self._example(request, ids) for request in requests]

    def answer_ids(self, task: Task, answer: Sequence[str]) -> list[int]:
        """Ids of an answer, its end included; hashtags that would pass the limit of output tokens are left out whole.

        The first one always stands there, cut where it is longer than the limit itself.

        Raises:
            InputError: the tokenizer has no token that could end an answer.
        """
        if self.end_id is None:
            raise InputError("the tokenizer has neither an end-of-text nor a separator token, so no answer could end")
        if task == "category":
            return [*self._tokenise([self._space(task) + answer[0]])[0], self.end_id]
        spelled = self._spelled(answer)[: self.fitting(answer)]
        return [*[i for ids in spelled for i in ids][: self.config.output_tokens], self.end_id]

    def fitting(self, hashtags: Sequence[str]) -> int:
        """How many of an answer's hashtags stand whole within the limit of output tokens; the first one always counts."""
        ends = np.cumsum([len(ids) for ids in self._spelled(hashtags)])
        return max(min(1, len(hashtags)), int((ends <= self.config.output_tokens).sum()))

    def _spelled(self, hashtags: Sequence[str]) -> list[list[int]]:
        """Ids of each hashtag in an answer, with what stands before it."""
        space = self._space("hashtags")
        return self._tokenise([f"{', ' if place else space}{clean_hashtag(tag)}" for place, tag in enumerate(hashtags)])

    def _example(self, request: Request, field_ids: Any) -> Example:
        words = self._words[request.task or "category"]
        count = request.count if request.count is not None else len(request.answer)
        literals, guidance = self._literals_of(request.task, count if request.task == "hashtags" else 0)
        lead, rest = literals[0][: len(self._lead)], literals[0][len(self._lead) :]
        parts: list[Sequence[int]] = [lead, self._shown(request.images), rest]
        for field, literal in zip(words.fields, literals[1:], strict=True):
            parts.append(next(field_ids)[: self._limits[field]])
            parts.append(literal)
        readout = sum(map(len, parts)) - 1
        if request.task is not None:
            if not self.can(request.task):
                raise InputError(
                    f"a {self.style} prompt can't ask for {request.task}; expected a causal language model"
                )
            parts.append(guidance)
        output = sum(map(len, parts))
        if request.task is not None and request.answer:
            parts.append(self.answer_ids(request.task, request.answer))
        ids = np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])
        word = self.image_word(request.images)
        return Example(ids, readout, output, readout if word is None else word)

    def _literals(self, task: Task | None, count: int) -> tuple[tuple[list[int], ...], list[int]]:
        words: Words = self._words[task or "category"]
        texts, guidance = words.with_count(count)
        literals = self._tokenise(texts)
        literals[0] = self._lead + literals[0]
        if self.style == "plain":
            literals[-1] += self._trail
        # The blank before an answer goes with the answer: " Travel" is one token where " " and "Travel" are two.
        return tuple(literals), self._tokenise([guidance.rstrip(" ")])[0]

    def _space(self, task: Task) -> str:
        guidance = self._words[task].guidance
        return guidance[len(guidance.rstrip(" ")) :]

    def _hashtag(self, tag: str) -> str:
        tag = tag.strip().lstrip("#")
        return tag if self.style == "plain" else f"#{tag}"

    def _clean(self, text: str) -> str:
        """Escape what would end the JSON string; a lone surrogate becomes the replacement character."""
        text = sound(text)
        return json.dumps(text, ensure_ascii=False)[1:-1] if self.style != "plain" else text

    def _tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of texts, without any special token, whatever the texts say."""
        encodings = self._tokenizer.encode_batch_fast([sound(text) for text in texts], add_special_tokens=False)
        return [[i for i in encoding.ids if i not in self.special_ids] for encoding in encodings]

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of an answer's ids, without special tokens."""
        return str(self._source.decode([i for i in ids if i not in self.special_ids], skip_special_tokens=True)).strip()


def clean_hashtag(tag: str) -> str:
    """A hashtag as it is written in an answer, where commas separate and a # begins: neither stays inside."""
    return " ".join(tag.replace("#", " ").replace(",", " ").replace("，", " ").replace("、", " ").split())


def sound(text: str) -> str:
    """Text without lone surrogates, which UTF-8 and tokenizers can't hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


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
