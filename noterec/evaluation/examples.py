"""Queries for people to look at: where an arm does worst, and a page of them drawn at random."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec.config import EvaluateConfig
from noterec.evaluation.measure import Measured
from noterec.evaluation.pictures import Picture, pictures
from noterec.evaluation.protocol import Catalogue, Direction, Mask, Rows
from noterec.notes.dataset import Dataset
from noterec.notes.images.source import ImageSource
from noterec.ranking.metrics import recall_at

LEAST_RELEVANT = 3  # of a query that may count as one of the worst: one missed note says little
TOP = 5  # found notes that are shown
MOST_RELEVANT = 10  # relevant notes that are shown
MAX_TITLE, MAX_TEXT, MAX_TAGS, MAX_TAG, MAX_CATEGORY = 160, 280, 8, 40, 80  # characters and hashtags on a card


@dataclass(frozen=True)
class Card:
    """A note as a person reads it, cut to what a page can bear. Its text is a stranger's.

    Attributes:
        picture: its first one; None where it has none.
    """

    note_id: str
    title: str
    text: str
    hashtags: tuple[str, ...]
    category: str
    created: dt.datetime | None
    picture: Picture | None

    @property
    def name(self) -> str:
        """What it is called where there is room for a line."""
        return self.title or self.text[:80] or f"note {self.note_id}"


@dataclass(frozen=True)
class Entry:
    """A note beside a query: its rank among those found, None = not among the first, and whether it is relevant."""

    card: Card
    rank: int | None
    relevant: bool


@dataclass(frozen=True)
class Example:
    """A query with its answer.

    Attributes:
        query: the note that asks.
        recall: at the first cut-off.
        relevant: its relevant notes, the first found ones first, at most MOST_RELEVANT.
        relevant_count: how many it has.
        found: the first TOP found.
    """

    query: Card
    recall: float
    relevant: list[Entry]
    relevant_count: int
    found: list[Entry]


@dataclass(frozen=True)
class Examples:
    """What a page shows of one arm.

    Attributes:
        arm: whose rankings these are.
        at: cut-off of `Example.recall`.
        depth: ranks that were looked at.
        worst: the worst first.
        eligible: queries with LEAST_RELEVANT relevant notes that the arm could ask.
        drawn: others, in the order of their ids.
    """

    arm: str
    at: int
    depth: int
    worst: list[Example]
    eligible: int
    drawn: list[Example]


def examples(
    catalogue: Catalogue,
    direction: Direction,
    arm: str,
    measured: Measured,
    with_image: Mask,
    source: ImageSource,
    config: EvaluateConfig,
) -> Examples:
    """The worst queries of an arm and some drawn at random, with the notes beside them.

    Args:
        direction: the main one.
        arm: the name of the arm that was measured.
        with_image: (N,) which catalogue notes have an image.
        source: where pictures may be read from.
        config: the cut-offs, how many examples, and the seed.
    """
    at = min(config.at)
    recall = recall_at(measured.top, direction.relevance, at)  # (Q,)
    eligible, worst = worst_queries(direction, measured.top, recall, config.examples)
    count = min(config.examples, len(recall))
    drawn = np.sort(np.random.default_rng(config.seed).choice(len(recall), count, replace=False))
    asked = np.concatenate([worst, drawn]).astype(np.int64)
    lists = [_relevant(direction, int(q), measured.top) for q in asked]
    beside = [rows[:MOST_RELEVANT] for rows, _ in lists] + [_found(measured.top, int(q)) for q in asked]
    cards = _cards(catalogue, np.unique(np.concatenate([direction.queries[asked], *beside])), with_image, source)
    made = []
    for q, (rows, ranks) in zip(asked, lists, strict=True):
        known = set(rows.tolist())
        made.append(
            Example(
                query=cards[int(direction.queries[q])],
                recall=float(recall[q]),
                relevant=[
                    Entry(cards[row], rank, True)
                    for row, rank in zip(rows[:MOST_RELEVANT].tolist(), ranks[:MOST_RELEVANT], strict=True)
                ],
                relevant_count=len(rows),
                found=[
                    Entry(cards[row], place, row in known)
                    for place, row in enumerate(_found(measured.top, int(q)).tolist(), start=1)
                ],
            )
        )
    return Examples(arm, at, measured.top.shape[1], made[: len(worst)], eligible, made[len(worst) :])


def worst_queries(
    direction: Direction, top: NDArray[np.integer], recall: NDArray[np.float64], count: int
) -> tuple[int, Rows]:
    """Queries with the lowest recall; of equal ones those whose first relevant note stands last, then by note id.

    Args:
        top: (Q, K) catalogue rows that were found.
        recall: (Q,) at the first cut-off.
        count: how many.

    Returns:
        How many queries could be chosen: those with LEAST_RELEVANT relevant notes for which anything was found; and the positions
        of the worst, the worst first.
    """
    relevance = direction.relevance
    may = np.flatnonzero((relevance.counts >= LEAST_RELEVANT) & (top >= 0).any(axis=1))
    first = np.array([_first_rank(direction, int(q), top) for q in may], dtype=np.int64)
    order = np.lexsort(
        (direction.queries[may], -first, recall[may])
    )  # the last key counts first; rows ascend as ids do
    return len(may), may[order[:count]]


def _first_rank(direction: Direction, query: int, top: NDArray[np.integer]) -> int:
    """The rank of the first relevant note, one more than the depth where there is none."""
    bounds = direction.relevance.indptr
    hits = np.flatnonzero(np.isin(top[query], direction.relevance.rows[bounds[query] : bounds[query + 1]]))
    return int(hits[0]) + 1 if len(hits) else top.shape[1] + 1


def _relevant(direction: Direction, query: int, top: NDArray[np.integer]) -> tuple[Rows, list[int | None]]:
    """The relevant rows of a query and their ranks, those that were found first."""
    bounds = direction.relevance.indptr
    rows = direction.relevance.rows[bounds[query] : bounds[query + 1]]
    place = {int(row): rank for rank, row in enumerate(top[query], start=1) if row >= 0}
    ordered = sorted(rows.tolist(), key=lambda row: (place.get(row, top.shape[1] + 1), row))
    return np.array(ordered, dtype=np.int64), [place.get(row) for row in ordered]


def _found(top: NDArray[np.integer], query: int) -> Rows:
    first = top[query, :TOP].astype(np.int64)
    return first[first >= 0]


def _cards(catalogue: Catalogue, rows: Rows, with_image: Mask, source: ImageSource) -> dict[int, Card]:
    ids = catalogue.ids.gather(rows[with_image[rows]]).to_list()
    seen = pictures(Dataset(catalogue.path), ids, source)
    notes = catalogue.cards(rows).to_dicts()
    return {row: _card(note, seen.get(note["note_id"])) for row, note in zip(rows.tolist(), notes, strict=True)}


def _card(note: Mapping[str, Any], picture: Picture | None) -> Card:
    tags = [_cut(tag.lstrip("#"), MAX_TAG) for tag in note["hashtags"] or () if tag]
    return Card(
        note_id=_cut(note["note_id"], MAX_TITLE),
        title=_cut(note["title"], MAX_TITLE),
        text=_cut(note["content"], MAX_TEXT),
        hashtags=tuple(tags[:MAX_TAGS]),
        category=_cut(note["category"], MAX_CATEGORY),
        created=note["created_at"],
        picture=picture,
    )


def _cut(text: str | None, most: int) -> str:
    """A text in one line, cut where it is too long."""
    line = " ".join((text or "")[: 4 * most].split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"
