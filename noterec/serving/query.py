"""Neighbours of one note: by its id, or by its content where the index has never seen it."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl

from noterec.errors import InputError
from noterec.index.search import Index
from noterec.notes.note import Note

SHOWN = ("title", "category")


def query(
    index: str | os.PathLike[str] | Index,
    *,
    note_id: str | None = None,
    title: str | None = None,
    content: str | None = None,
    hashtags: Iterable[str] = (),
    images: Iterable[Any] = (),
    model: Any = None,
    k: int = 10,
    candidates: Any = "all",
    where: Any = None,
) -> pl.DataFrame:
    """The k nearest notes of a note.

    Args:
        index: an index, or its folder.
        note_id: a note of the index; it is not among its own neighbours.
        title, content, hashtags: a note that the index doesn't have, encoded with `model`.
        images: its images, each a file's bytes, for a model that sees.
        model: the index's model: a folder, or a loaded NoteEncoder.
        k: neighbours.
        candidates: "all", "new", or the ids that may be found.
        where: a condition on the attributes, as in `Index.search`.

    Returns:
        Columns rank, note_id, score (cosine), and title and category where the index keeps them.

    Raises:
        InputError: neither an id nor content was given, or both; the id is unknown; images for a model that reads text alone.
        ArtefactError: the model is not the index's.
    """
    opened = index if isinstance(index, Index) else Index.open(index)
    tags, pictures = list(hashtags), list(images)
    where = _typed(where, opened)
    unseen = title is not None or content is not None or bool(tags) or bool(pictures)
    if (note_id is not None) == unseen:
        raise InputError(
            "expected either a note_id of the index, or the title, content, hashtags or images of another note"
        )
    if note_id is not None:
        found = opened.similar(note_id, k, where=where, candidates=candidates)
    else:
        if model is None:
            raise InputError("an unseen note has to be encoded; give the index's model (--model)")
        from noterec.model.encoder import NoteEncoder

        encoder = model if isinstance(model, NoteEncoder) else NoteEncoder.from_pretrained(model)
        opened.require_model(encoder.model_version)
        if pictures and encoder.sight is None:
            raise InputError("images were given and this model reads text alone; train one with vision.encoder")
        vectors = encoder.encode([Note(title=title, content=content, hashtags=tags, images=pictures)])
        found = opened.search(np.asarray(vectors), k, where=where, candidates=candidates)
    table = pl.DataFrame(found).select("rank", "note_id", "score")
    shown = [column for column in SHOWN if column in opened.attributes.columns]
    return table.join(opened.attributes.select("note_id", *shown), on="note_id", how="left", maintain_order="left")


def _typed(where: Any, index: Index) -> Any:
    """Conditions that were typed as text, in the types of the attributes: `exposure=2` asks for the number 2."""
    if not isinstance(where, Mapping):
        return where
    typed = {}
    for column, value in where.items():
        dtype = index.attributes.schema.get(column)
        if isinstance(value, str) and dtype is not None and (dtype.is_numeric() or dtype == pl.Boolean):
            text = value.strip().lower()
            try:
                value = {"true": True, "false": False}[text] if dtype == pl.Boolean else float(text)
            except (KeyError, ValueError) as error:
                raise InputError(f"{column}={value}: attribute {column} is {dtype}; expected such a value") from error
        typed[column] = value
    return typed
