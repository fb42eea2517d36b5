"""Answers from a reading: in the model's own words token by token, or searches over a closed set, many at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from noterec.model.generation.reading import Reading
from noterec.model.generation.search import Search
from noterec.model.generation.tree import PrefixTree

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """When an answer in the model's own words is over.

    Attributes:
        max_tokens: it is cut off behind so many tokens.
        end_ids: tokens that end it.
        vocabulary: ids from here on have no text (a table of embeddings may be longer than the vocabulary).
        enough: whether ids say all that is asked for.
    """

    max_tokens: int
    end_ids: frozenset[int]
    vocabulary: int
    enough: Callable[[list[int]], bool]


@dataclasses.dataclass(frozen=True)
class Written:
    """Ids of an answer, and whether the model ended it itself."""

    ids: list[int]
    ended: bool


def write(
    reading: Reading,
    rows: Sequence[int],
    limits: Limits,
    *,
    randoms: Sequence[np.random.Generator] | None = None,
    temperature: float = 1.0,
) -> list[Written]:
    """Write an answer behind prompts, as many at a time as the reading has rows.

    Args:
        reading: B prompts; it stays where it is.
        rows: (A,) which prompt each answer goes with; a prompt may have several answers.
        limits: when an answer is over.
        randoms: (A,) one generator an answer, which alone decides what is drawn; None = the most probable token each time.
        temperature: divides the scores before drawing.

    Returns:
        A answers.
    """
    answers: list[Written] = []
    for start in range(0, len(rows), len(reading)):
        part = slice(start, start + len(reading))
        drawing = None if randoms is None else randoms[part]
        answers.extend(_write(reading.fork(rows[part]), limits, drawing, temperature))
    return answers


def _write(
    reading: Reading, limits: Limits, randoms: Sequence[np.random.Generator] | None, temperature: float
) -> list[Written]:
    ids: list[list[int]] = [[] for _ in range(len(reading))]
    ended = [False] * len(ids)
    going = list(range(len(ids)))  # the answer that each row of the reading writes
    for step in range(limits.max_tokens):
        scores = reading.next[:, : limits.vocabulary]  # (G, V)
        uniforms = None if randoms is None else [randoms[answer].random() for answer in going]
        tokens = _next(scores, uniforms, temperature)
        left = []
        for row, (answer, token) in enumerate(zip(going, tokens.tolist(), strict=True)):
            if token in limits.end_ids:
                ended[answer] = True
                continue
            ids[answer].append(token)
            if not limits.enough(ids[answer]):
                left.append(row)
        if not left or step + 1 == limits.max_tokens:
            break
        if len(left) < len(going):
            reading.keep(left)
            tokens, going = tokens[left], [going[row] for row in left]
        reading.extend(tokens)
    return [Written(*answer) for answer in zip(ids, ended, strict=True)]


def _next(scores: Tensor, uniforms: list[float] | None, temperature: float) -> Tensor:
    """(G, V) scores to (G,) ids: the highest, or the one that a number from [0, 1) falls on."""
    if uniforms is None:
        return scores.argmax(dim=1)
    edges = (scores.double() / temperature).softmax(dim=1).cumsum(dim=1)  # (G, V)
    places = torch.tensor(uniforms, dtype=torch.float64, device=scores.device)[:, None] * edges[:, -1:]
    return torch.searchsorted(edges, places, right=True)[:, 0].clamp(max=scores.shape[1] - 1)


def explore(reading: Reading, tree: PrefixTree, searches: Sequence[Search[T]]) -> list[T]:
    """Run one search a row to its end; each round asks the model once, for all rows that wait.

    Args:
        reading: B prompts; used up.
        tree: the closed set.
        searches: B searches over it.

    Returns:
        B results.
    """
    results: dict[int, T] = {}
    asked: dict[int, int] = {}  # search -> the branch that it waits for
    for number, search in enumerate(searches):
        _advance(search, None, number, asked, results)
    rows = list(range(len(searches)))  # the search of each row of the reading
    while asked:
        if len(asked) < len(rows):
            reading.keep([row for row, number in enumerate(rows) if number in asked])
            rows = [number for number in rows if number in asked]
        branches = [tree.branches[asked[number]] for number in rows]
        # Only the first decision can stand right behind the prompt, and all searches ask for it first.
        scores = reading.peek([branch.path for branch in branches]) if branches[0].path else reading.next  # (b, V)
        wanted = torch.zeros((len(rows), max(len(branch.tokens) for branch in branches)), dtype=torch.int64)
        for row, branch in enumerate(branches):
            wanted[row, : len(branch.tokens)] = torch.from_numpy(branch.tokens)
        found = scores.gather(1, wanted.to(scores.device)).double().cpu().numpy()  # (b, C)
        for row, number in enumerate(rows):
            del asked[number]
            _advance(searches[number], found[row, : len(branches[row].tokens)], number, asked, results)
    return [results[number] for number in range(len(searches))]


def _advance(
    search: Search[T], scores: np.ndarray | None, number: int, asked: dict[int, int], results: dict[int, T]
) -> None:
    """Give a search what it waits for, and note what it asks for next or its result."""
    try:
        asked[number] = next(search) if scores is None else search.send(scores)
    except StopIteration as stopped:
        results[number] = stopped.value
