"""From a question to neighbours: what was sent, in the index's own terms."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from noterec.errors import InputError
from noterec.index.filters import parse_where
from noterec.index.lexical import Terms
from noterec.index.search import Index
from noterec.index.searchable import Floats, unit_queries
from noterec.index.selection import Selection, find
from noterec.serving.messages import Neighbour, NoteContent, SimilarRequest, SimilarResponse
from noterec.serving.metrics import Metrics
from noterec.serving.query import SHOWN, words_of
from noterec.serving.refusals import Refusal

MAX_SHOWN = 500  # characters of a title: an answer that is kept must not be as large as its notes' authors like


@dataclasses.dataclass(frozen=True)
class Answer:
    """An answer as it is sent.

    Attributes:
        json: a `SimilarResponse`.
        kept: it was made for an earlier question.
    """

    json: bytes
    kept: bool


def answered(index: Index, request: SimilarRequest, vector: Floats | None, metrics: Metrics) -> SimilarResponse:
    """The answer to a question, timed.

    Args:
        index: to search in.
        request: what is asked.
        vector: (D,) float32, unit-norm; None = the request names a note of the index.
        metrics: learns how long it took.

    Raises:
        Refusal: 404 for an unknown note, 422 for a condition or an option that the index can't do with.
    """
    start = time.perf_counter()
    row = None if request.note_id is None else known_row(index, request.note_id)
    try:
        found = neighbours_of(index, request, row=row, vector=vector)
    except InputError as error:
        raise Refusal(422, str(error)) from error
    metrics.stage("search", time.perf_counter() - start)
    return SimilarResponse(neighbours=found, index_version=index.version, model_version=index.model_version)


def known_row(index: Index, note_id: str) -> int:
    """The row of a note; Refusal (404) where the index has none of this id."""
    try:
        return index.row(note_id)
    except InputError as error:
        raise Refusal(404, str(error), code="unknown_note") from error


def neighbours_of(index: Index, request: SimilarRequest, *, row: int | None, vector: Floats | None) -> list[Neighbour]:
    """The neighbours that a request asks for.

    Args:
        index: to search in.
        request: what is asked.
        row: of the note that is asked about, which is not its own neighbour; None = there is a vector.
        vector: (D,) float32, unit-norm; None = there is a row.

    Raises:
        InputError: a condition or an option that the index can't do with.
        Refusal: 422 where words are wanted of a vector.
    """
    selection = Selection(
        where=conditions(request.where),
        candidates=request.candidates,
        exclude=tuple(request.exclude),
        per_author=request.per_author,
        duplicates=request.duplicates,
        diversity=request.diversity,
    )
    own = -1 if row is None else row
    queries = index.vectors([own]) if vector is None else vector[None]  # (1, D)
    words = [_words(index, request, own)] if request.fuse else None
    scores, rows = find(index, queries, request.k, selection, exclude=np.array([own]), words=words)  # (1, k), (1, k)
    kept = rows[0] >= 0  # (k,)
    found = index.attributes[rows[0][kept]]
    columns: dict[str, list[Any]] = {
        name: found[name].to_list() for name in ("note_id", *SHOWN) if name in found.columns
    }
    missing = [None] * found.height
    return [
        Neighbour(
            rank=rank + 1,
            note_id=columns["note_id"][rank],
            score=score,
            title=_shown(columns.get("title", missing)[rank]),
            category=_shown(columns.get("category", missing)[rank]),
        )
        for rank, score in enumerate(scores[0][kept].tolist())
    ]


def _shown(value: Any) -> str | None:
    return None if value is None else str(value)[:MAX_SHOWN]


def _words(index: Index, request: SimilarRequest, row: int) -> Terms:
    """The words of the note that is asked about."""
    if request.vector is not None:
        raise Refusal(422, "fuse: a vector has no words; ask about a note, or leave fuse out")
    note = request.note or NoteContent()
    return words_of(index, row=row, title=note.title, content=note.content, hashtags=note.hashtags)


def conditions(where: dict[str, Any] | Sequence[str]) -> dict[str, Any] | None:
    """Conditions, as text or by attribute, as the index takes them; None where there are none."""
    if not where:
        return None
    return where if isinstance(where, dict) else dict(parse_where(list(where)))


def unit(vector: Sequence[float], index: Index) -> Floats:
    """A vector from outside as a query.

    Returns:
        (D,) float32, unit-norm.

    Raises:
        Refusal: 422 where it is of another length than the index's, not finite, or all zero.
    """
    try:
        found: Floats = unit_queries(vector, index)[0]  # (D,)
    except InputError as error:
        raise Refusal(422, str(error)) from error
    return found
