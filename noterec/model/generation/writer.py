"""Notes to answers: prompts, batches, decoding, votes. One class for both tasks and both ways of decoding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import torch

from noterec import progress
from noterec.config import GenerateConfig
from noterec.errors import InputError
from noterec.model.batching import plan
from noterec.model.generation import answers, consistency, decoding
from noterec.model.generation.categories import Categories, closed_set
from noterec.model.generation.reading import Reading
from noterec.model.generation.search import Knowledge, Search
from noterec.model.generation.tree import PrefixTree
from noterec.model.inputs import Pictures
from noterec.model.prompts import Request
from noterec.model.tasks import normal
from noterec.model.templates import Task
from noterec.notes import note

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder

FILLING_WINDOWS = 3  # sampled at most where one answer has too few hashtags


@dataclasses.dataclass(frozen=True)
class Generation:
    """What a model wrote about one note.

    Attributes:
        note_id: the note.
        task: "category" or "hashtags".
        answers: the category (or the `top` ones), or up to n hashtags, best first; empty where the model wrote nothing usable.
        probabilities: of each answer. Of a category: in the closed set, None if written freely. Of a hashtag: the share of samples
            that name it, None if nothing was sampled for the confidence.
        confidence: the share of samples that agree with the answer, None without samples. Of hashtags: the mean over `answers`.
        samples: answers that were sampled.
        text: the most probable answer as the model wrote it, None where it chose from a closed set.
    """

    note_id: str
    task: Task
    answers: tuple[str, ...]
    probabilities: tuple[float, ...] | None
    confidence: float | None
    samples: int
    text: str | None


class Writer:
    """Writes a task's answers with an encoder's language model.

    An answer of a note depends on the note and the model; a sampled one also on (seed, content hash, number of the sample), never
    on the notes beside it.

    Attributes:
        categories: the closed set, ascending; where the model chooses its words, what they are compared with, or None.
    """

    def __init__(
        self, encoder: NoteEncoder, task: Task, *, categories: Categories | None = None, config: GenerateConfig
    ) -> None:
        """Check that the model can write, and lay out the closed set.

        Args:
            encoder: a causal language model.
            task: "category" or "hashtags".
            categories: the closed set, as `closed_set` takes it; None = the model's own.
            config: decoding and sampling.

        Raises:
            InputError: the model only reads, the task is unknown, the closed set is missing or ambiguous, or an answer could pass
                the end of what the model reads.
        """
        if task not in ("category", "hashtags"):
            raise InputError(f"task {task!r}: expected category or hashtags")
        if task == "hashtags" and categories is not None:
            raise InputError("a closed set of categories was given for hashtags; expected it with task category only")
        if encoder.backbone.kind != "causal" or not encoder.prompt.can(task):
            raise InputError(
                f"this model can't write {task}: its backbone is {type(encoder.backbone.model).__name__} with a "
                f"{encoder.prompt.style} prompt; expected a causal language model (tiny, SmolLM2, Qwen, Llama, ...)"
            )
        model: Any = encoder.backbone.model
        if not bool(model.get_output_embeddings().weight.any()):
            raise InputError(
                f"this model can't write {task}: its folder has no language-model head, it was saved as an encoder only; "
                "give the language model that it was made from, or train it with --way full and tasks.alpha"
            )
        self._encoder, self._prompt, self._config, self.task = encoder, encoder.prompt, config, task
        self.constrained = task == "category" and config.decoding == "constrained"
        self.categories: list[str] | None = None
        if self.constrained or (task == "category" and (categories is not None or encoder.categories)):
            self.categories = closed_set(categories, encoder.categories)
        self._tree = PrefixTree.of(self.categories or [], self._prompt) if self.constrained else None
        assert self._prompt.end_id is not None
        self._limits = decoding.Limits(
            max_tokens=config.max_tokens,
            end_ids=frozenset(self._prompt.special_ids) | {self._prompt.end_id},
            vocabulary=len(encoder.backbone.tokenizer),
            enough=self._says_enough,
        )
        self._room = self._tree.depth if self._tree is not None else config.max_tokens
        settings: Any = encoder.backbone.model.config
        limit = getattr(settings.get_text_config(), "max_position_embeddings", None)
        longest = self._prompt.max_request_tokens - self._prompt.config.output_tokens - 1 + self._room
        if isinstance(limit, int) and longest > limit:
            raise InputError(
                f"a prompt with its answer may have {longest} tokens, the backbone reads {limit}; lower max_tokens, give "
                "shorter categories, or train with a lower prompt.content_tokens"
            )

    def readable(self, table: pa.Table) -> np.ndarray:
        """Which notes have text in a field that the task's prompt shows: (B,) bool."""
        unseen = [field for field in note.ENCODED_COLUMNS if field not in self._prompt.reads(self.task)]
        return note.has_text(note.blanked(table, unseen))

    def answers(self, table: pa.Table, pictures: Pictures | None = None) -> list[Generation]:
        """Answer for all notes of a table, in its order; `pictures` as in `write`.

        Raises:
            InputError: a note has neither text that the task's prompt shows nor a picture that it shows.
        """
        unreadable = ~self.readable(table)
        if pictures is not None:
            unreadable &= pictures.counts == 0
        if unreadable.any():
            ids = table["note_id"].filter(pa.array(unreadable)).to_pylist()
            raise InputError(
                f"{len(ids)} of {table.num_rows} notes have no text to read, the first is {ids[0]!r}; expected "
                f"{' or '.join(self._prompt.reads(self.task))} in every note"
            )
        found: dict[int, Generation] = {}
        with progress.track("generate", table.num_rows, "notes") as bar:
            for batch, part in self.write(table, pictures):
                found.update(zip(batch.tolist(), part, strict=True))
                bar.advance(len(batch))
        return [found[row] for row in range(table.num_rows)]

    @torch.inference_mode()
    def write(self, table: pa.Table, pictures: Pictures | None = None) -> Iterator[tuple[np.ndarray, list[Generation]]]:
        """Answer for all notes of a table, batch by batch, notes of like length together.

        Args:
            table: B notes with note_id, title, hashtags and content, each readable.
            pictures: theirs, for a model whose prompt shows images; None = none.

        Yields:
            (positions in `table` (b,) int64, b generations).
        """
        count = self._config.n if self.task == "hashtags" else None
        encoder = self._encoder
        shown = pictures.counts.tolist() if pictures is not None and self._prompt.slots else [0] * table.num_rows
        requests = [
            Request(text, self.task, (), count=count, images=images)
            for text, images in zip(note.texts(table), shown, strict=True)
        ]
        prompts = [example.ids for example in self._prompt.examples(requests)]
        ids, hashes = table["note_id"].to_pylist(), note.content_hashes(table)
        was_training = encoder.training
        encoder.eval()
        try:
            costs = encoder.costs([len(prompt) + self._room for prompt in prompts], pictures)
            for batch in plan(costs, self._config.batch_tokens):
                with torch.autocast(encoder.device.type, torch.bfloat16, enabled=self._config.precision == "bf16"):
                    seen = None if pictures is None else pictures.seen(batch, encoder.device)
                    visual = None if seen is None or encoder.sight is None else encoder.sight(seen).tokens
                    reading = Reading.read(encoder.backbone, [prompts[i] for i in batch], encoder.device, visual)
                    answer = self._choose if self.constrained else self._write
                    written = answer(reading, [ids[i] for i in batch], [int(hashes[i]) for i in batch])
                yield batch, written
        finally:
            encoder.train(was_training)

    def _random(self, content_hash: int, number: int) -> np.random.Generator:
        return np.random.default_rng([self._config.seed, content_hash, number])

    def _more(self, drawn: Sequence[Any]) -> int:
        config = self._config
        return consistency.more(
            drawn, samples=config.samples, window=config.window, early_stopping=config.early_stopping
        )

    def _choose(self, reading: Reading, ids: list[str], hashes: list[int]) -> list[Generation]:
        assert self._tree is not None
        searches = [self._search(note_id, content_hash) for note_id, content_hash in zip(ids, hashes, strict=True)]
        return decoding.explore(reading, self._tree, searches)

    def _search(self, note_id: str, content_hash: int) -> Search[Generation]:
        """One note's category: the most probable one, or the one with the most votes and then the most probable others."""
        assert self._tree is not None
        knowledge, config = Knowledge(self._tree), self._config
        ranked = yield from knowledge.best(config.top)
        drawn: list[int] = []
        while size := self._more(drawn):
            for _ in range(size):
                drawn.append((yield from knowledge.draw(self._random(content_hash, len(drawn)), config.temperature)))
        confidence = None
        if drawn:
            vote = consistency.majority(drawn)
            probability = yield from knowledge.probability(vote.winner)
            ranked = [(vote.winner, probability), *(entry for entry in ranked if entry[0] != vote.winner)][: config.top]
            confidence = vote.share
        names = tuple(self._tree.names[category] for category, _ in ranked)
        return Generation(note_id, self.task, names, tuple(p for _, p in ranked), confidence, len(drawn), None)

    def _write(self, reading: Reading, ids: list[str], hashes: list[int]) -> list[Generation]:
        greedy = decoding.write(reading, range(len(ids)), self._limits)
        first = [self._parsed(written) for written in greedy]
        drawn: list[list[tuple[str, ...]]] = [[] for _ in ids]
        while jobs := [
            (row, len(drawn[row]) + number)
            for row in range(len(ids))
            for number in range(self._wanted(first[row], drawn[row]))
        ]:
            sampled = decoding.write(
                reading,
                [row for row, _ in jobs],
                self._limits,
                randoms=[self._random(hashes[row], number) for row, number in jobs],
                temperature=self._config.temperature,
            )
            for (row, _), written in zip(jobs, sampled, strict=True):
                drawn[row].append(self._parsed(written))
        return [
            self._voted(ids[row], first[row], drawn[row], self._prompt.text_of(greedy[row].ids))
            for row in range(len(ids))
        ]

    def _parsed(self, written: decoding.Written) -> tuple[str, ...]:
        """The category, or the first n hashtags, of what was written."""
        text = self._prompt.text_of(written.ids)
        if self.task == "hashtags":
            return tuple(answers.hashtags_of(text, ended=written.ended)[: self._config.n])
        named = answers.category_of(text)
        return (named,) if named else ()

    def _says_enough(self, ids: list[int]) -> bool:
        """Whether what goes on can't change the answer: a second line, or n whole hashtags."""
        text = self._prompt.text_of(ids)
        if self.task == "category":
            return len(text.splitlines()) > 1
        return len(answers.hashtags_of(text, ended=False)) >= self._config.n

    def _wanted(self, first: tuple[str, ...], drawn: list[tuple[str, ...]]) -> int:
        """How many answers of a note are to be sampled next: for the vote, or to fill up hashtags."""
        config = self._config
        if config.samples or self.task == "category":
            # Answers agree when they name the same, in whatever order and spelling.
            return self._more([frozenset(map(normal, answer)) for answer in drawn])
        lacking = len(answers.filled_up(first, drawn, config.n)) < config.n
        return config.window if lacking and len(drawn) < FILLING_WINDOWS * config.window else 0

    def _voted(self, note_id: str, first: tuple[str, ...], drawn: list[tuple[str, ...]], text: str) -> Generation:
        """One note's answer, out of the most probable one and the samples."""
        found: Sequence[str] = first
        shares: tuple[float, ...] | None = None
        confidence: float | None = None
        if self.task == "hashtags" and not self._config.samples:
            found = answers.filled_up(first, drawn, self._config.n)
        elif self.task == "hashtags":
            voted = answers.voted(first, drawn, self._config.n)
            found, shares = list(voted), tuple(voted.values())
            confidence = sum(shares) / len(shares) if shares else 0.0
        elif drawn:
            vote = consistency.majority([tuple(map(normal, answer)) for answer in drawn])
            found = next(answer for answer in (first, *drawn) if tuple(map(normal, answer)) == vote.winner)
            confidence = vote.share
        return Generation(note_id, self.task, tuple(found), shares, confidence, len(drawn), text)
