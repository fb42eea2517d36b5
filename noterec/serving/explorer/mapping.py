"""The map's notes, as the script that draws them takes them."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from noterec.serving.explorer.atlas import Atlas
from noterec.serving.explorer.cards import Shelf, Shown
from noterec.serving.explorer.lookup import rows_of

TITLE = 90  # characters


def points_json(shelf: Shelf, atlas: Atlas) -> bytes:
    """The sampled notes: columns id, title, colour (of `Outline.colour`), x and y, of equal length."""
    kept = shelf.index.attributes[atlas.rows]
    ids = kept["note_id"].to_list()
    unknown = [None] * len(ids)
    titles = kept["title"].to_list() if "title" in kept.columns else unknown
    categories = kept["category"].to_list() if shelf.outline.tops else unknown
    names = [
        title or shelf.show(note_id, int(row)).name for note_id, title, row in zip(ids, titles, atlas.rows, strict=True)
    ]
    record = {
        "id": ids,
        "title": [name[:TITLE] for name in names],
        "colour": [shelf.outline.colour(category) for category in categories],
        "x": np.round(atlas.points[:, 0], 4).tolist(),
        "y": np.round(atlas.points[:, 1], 4).tolist(),
    }
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def places(shelf: Shelf, atlas: Atlas, notes: list[Shown]) -> list[dict[str, Any]]:
    """Where some notes lie on the map, sampled or not; those that the index has."""
    rows = rows_of(shelf.index, [note.card.note_id for note in notes])
    kept = [note for note in notes if note.card.note_id in rows]
    if not kept:
        return []
    found = atlas.place(shelf.index.vectors([rows[note.card.note_id] for note in kept]))  # (R, 2)
    return [
        {"shown": note, "x": round(float(x), 4), "y": round(float(y), 4)}
        for note, (x, y) in zip(kept, found, strict=True)
    ]
