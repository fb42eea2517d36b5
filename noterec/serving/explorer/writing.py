"""What the model writes about a new note: a category and hashtags, where it can. Slow beside everything else, so on demand."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import pydantic
from pydantic import ConfigDict, Field

from noterec.config import GenerateConfig, ImagesConfig
from noterec.errors import NoterecError
from noterec.notes.note import Note

if TYPE_CHECKING:
    from noterec.model.encoder import NoteEncoder
    from noterec.model.templates import Task

TASKS: tuple[Task, ...] = ("category", "hashtags")
CATEGORIES, HASHTAGS = 3, 5  # answers that are shown
MAX_TEXT = 20_000  # characters of a note that is written about; a model reads far fewer


class Answer(pydantic.BaseModel):
    """One answer, and how probable the model finds it; None where that isn't known."""

    model_config = ConfigDict(frozen=True)

    text: str
    probability: float | None = Field(None, ge=0, le=1.001)


class Written(pydantic.BaseModel):
    """What a model wrote: by task its answers, the best first, or why it wrote none; and whether it was trained to."""

    model_config = ConfigDict(frozen=True)

    trained: bool

    category: list[Answer] = []
    hashtags: list[Answer] = []
    refused: dict[str, str] = {}


def able(encoder: NoteEncoder, categories: list[str] | None) -> bool:
    """Whether an encoder can write anything."""
    return any(not _why_not(encoder, task, categories) for task in TASKS)


def steps(
    note: Note, categories: list[str] | None, images: ImagesConfig
) -> list[Callable[[NoteEncoder], list[Answer] | str]]:
    """What is to be done to write about one note, task by task of `TASKS`: each step returns answers, or why there are none.

    Args:
        note: with text, and pictures as bytes that were found to be usable.
        categories: the closed set for a model that has none of its own.
        images: what a picture may be.
    """
    return [functools.partial(_write, note=note, task=task, categories=categories, images=images) for task in TASKS]


def joined(parts: Iterable[list[Answer] | str], *, trained: bool) -> Written:
    """What all `steps` returned."""
    found = dict(zip(TASKS, parts, strict=True))
    answers: dict[str, Any] = {task: part for task, part in found.items() if not isinstance(part, str)}
    refused = {task: part for task, part in found.items() if isinstance(part, str)}
    return Written(trained=trained, **answers, refused=refused)


def _write(
    encoder: NoteEncoder, *, note: Note, task: Task, categories: list[str] | None, images: ImagesConfig
) -> list[Answer] | str:
    if reason := _why_not(encoder, task, categories):
        return reason
    config = GenerateConfig(n=HASHTAGS, top=CATEGORIES, images=images)
    try:
        (answer,) = encoder.generate([note], task, categories=_closed_set(encoder, task, categories), config=config)
    except NoterecError as error:
        return str(error)
    probabilities = answer.probabilities or (None,) * len(answer.answers)
    return [Answer(text=text, probability=p) for text, p in zip(answer.answers, probabilities, strict=True)]


def _closed_set(encoder: NoteEncoder, task: str, categories: list[str] | None) -> Any:
    return categories if task == "category" and not encoder.categories else None


def _why_not(encoder: NoteEncoder, task: Task, categories: list[str] | None) -> str:
    from noterec.model.generation.writer import Writer

    try:
        Writer(encoder, task, categories=_closed_set(encoder, task, categories), config=GenerateConfig())
    except NoterecError as error:
        return str(error)
    return ""
