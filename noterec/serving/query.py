"""Neighbours of one note: by its id, by its content where the index has never seen it, or by a vector."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from noterec.errors import InputError
from noterec.index.filters import Candidates, Where
from noterec.index.lexical import Terms
from noterec.index.search import Index
from noterec.index.searchable import Searchable, unit_queries
from noterec.index.selection import Selection, find
from noterec.notes.note import Note
from noterec.notes.terms import note_tokens

SHOWN = ("title", "category")


def query(
    index: str | os.PathLike[str] | Searchable,
    *,
    note_id: str | None = None,
    title: str | None = None,
    content: str | None = None,
    hashtags: Iterable[str] = (),
    images: Iterable[Any] = (),
    vector: ArrayLike | None = None,
    model: Any = None,
    k: int = 10,
    candidates: Candidates = "all",
    where: Where | None = None,
    exclude: Iterable[str] = (),
    per_author: int | None = None,
    duplicates: float | None = None,
    diversity: float = 0.0,
    fuse: bool = False,
) -> pl.DataFrame:
    """The k nearest notes of a note.

    Args:
        index: an index, a `MergedIndex`, or an index's folder.
        note_id: a note of the index; it is not among its own neighbours.
        title, content, hashtags: a note that the index doesn't have, encoded with `model`.
        images: its images, each a file's bytes, for a model that sees.
        vector: (D,) numbers, made by the index's model; it is normalised.
        model: the index's model: a folder, or a loaded NoteEncoder.
        k: neighbours; fewer come back where fewer may be found, none is no error.
        candidates: "all", "new", or the ids that may be found.
        where: a condition on the attributes, see `noterec.index.filters.where_mask`; `parse_where` reads typed ones.
        exclude: ids that must not be found.
        per_author, duplicates, diversity: see `noterec.index.selection.Selection`.
        fuse: rank by the words that the notes share, too: BM25 and the vectors by reciprocal ranks. It needs an index that keeps
            words, and a query that has text or stood in the index when it was built; a query without a known word is answered by
            the vectors alone.

    Returns:
        Columns rank, note_id, score (cosine, also where the order is another), and title and category where the index keeps them.

    Raises:
        InputError: not exactly one of id, content and vector was given; the id is unknown; the vector doesn't fit; images for a
            model that reads text alone; fuse with a vector, or with an index that keeps no words.
        ArtefactError: the model is not the index's.
    """
    opened = Index.open(index) if isinstance(index, str | os.PathLike) else index
    selection = Selection(where, candidates, exclude, per_author, duplicates, diversity)
    tags, pictures = list(hashtags), list(images)
    unseen = title is not None or content is not None or bool(tags) or bool(pictures)
    if (note_id is not None) + unseen + (vector is not None) != 1:
        raise InputError(
            "expected either a note_id of the index, or the title, content, hashtags or images of another note, or a vector"
        )
    own = -1
    if note_id is not None:
        own = opened.row(note_id)
        vectors = opened.vectors([own])
    elif vector is not None:
        if fuse:
            raise InputError("fuse: a vector has no words; give the note's id or text, or leave fuse out")
        vectors = unit_queries(vector, opened)
        if len(vectors) != 1:
            raise InputError(f"{len(vectors)} query vectors; expected one: for many, use `noterec neighbours`")
    else:
        note = Note(title=title, content=content, hashtags=tags, images=pictures)
        vectors = unit_queries(_encoded(note, model, opened), opened)
    words = [words_of(opened, row=own, title=title, content=content, hashtags=tags)] if fuse else None
    most = min(k, max(len(opened), 1)) if isinstance(k, int) else k
    scores, rows = find(opened, vectors, most, selection, exclude=np.array([own]), words=words)  # (1, k)
    return _table(opened, scores[0], rows[0])


def words_of(
    index: Searchable,
    *,
    row: int = -1,
    title: str | None = None,
    content: str | None = None,
    hashtags: Iterable[str] = (),
) -> Terms:
    """The words of a query note, for the fusion with BM25 in `find`.

    Args:
        index: which it is for.
        row: of a note of the index, whose words are read from there; -1 = the text counts.
        title, content, hashtags: of another note.

    Raises:
        InputError: the index keeps no words.
    """
    if index.lexical is None:
        raise InputError(
            "fuse: the index keeps no words; build it with --notes and lexical=true (several indexes searched together have "
            "none), or leave fuse out"
        )
    return index.lexical.note_terms(row) if row >= 0 else index.lexical.terms(note_tokens(title, content, hashtags))


def _encoded(note: Note, model: Any, index: Searchable) -> Any:
    """The vector of an unseen note, (1, D)."""
    if model is None:
        raise InputError("an unseen note has to be encoded; give the index's model (--model)")
    from noterec.model.encoder import NoteEncoder

    encoder = model if isinstance(model, NoteEncoder) else NoteEncoder.from_pretrained(model)
    index.require_model(encoder.model_version)
    if note.images and encoder.sight is None:
        raise InputError("images were given and this model reads text alone; train one with vision.encoder")
    return np.asarray(encoder.encode([note]))


def _table(index: Searchable, scores: Any, rows: Any) -> pl.DataFrame:
    found = rows[rows >= 0]
    shown = [column for column in SHOWN if column in index.attributes.columns]
    return pl.DataFrame(
        {
            "rank": np.arange(1, len(found) + 1, dtype=np.int32),
            "note_id": index.ids.gather(found),
            "score": scores[: len(found)],
            **{column: index.attributes[column].gather(found) for column in shown},
        }
    )
