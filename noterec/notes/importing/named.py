"""Sources of an import: which files, which columns, and what becomes of them. Generic ones, and two named formats.

movielens: a folder with items.csv (movie_id, title with the year, overview, one 0/1 column per genre), ratings.csv (user_id,
movie_id, rating, unix_timestamp) and posters/ID.jpg. Genres are the hashtags and the first of them the category; the poster's
bytes are the image; a rating of 4 or more is a click, a lower one a view.

notellm: the headerless CSV of the NoteLLM authors' repository (arXiv:2403.01744): note id, title, content, image id, and the
category as `Category@Sub@`. Hashtags stand inside the content as `#tag[话题]#` and are taken out of it. Its log is a CSV of
pairs of two ids, which become pairs.parquet beside the dataset: related notes, not engagement.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from noterec import schema, storage
from noterec.errors import InputError
from noterec.notes.dataset import Clock
from noterec.notes.importing import values
from noterec.notes.importing.formats import Block, SourceFile, find_files, source_files
from noterec.notes.importing.sinks import Rejects

LIKED = 4.0  # stars from which a rating counts as a click
_GENRES = (
    "Action", "Adventure", "Animation", "Children", "Comedy", "Crime", "Documentary", "Drama", "Fantasy", "FilmNoir", "Horror",
    "Musical", "Mystery", "Romance", "SciFi", "Thriller", "War", "Western",
)  # fmt: skip
_HASHTAG = re.compile(r"#([^#\[\]\n]{1,100})\[话题\]#")
_NOTELLM_COLUMNS = ("note_id", "title", "content", "image_id", "category")
PAIRS_FILE = "pairs.parquet"
_PAIR_COLUMNS = ("anchor_id", "related_id")
Given = str | os.PathLike[str] | None


@dataclasses.dataclass(frozen=True)
class Source:
    """Files and columns of an import; a named format changes the raw rows on their way.

    Attributes:
        note_columns, log_columns: field -> column of the file.
        images: folder against which relative image paths are resolved.
        origin: what goes into the dataset's origin record.
    """

    note_files: list[SourceFile]
    note_columns: dict[str, str]
    log_files: list[SourceFile]
    log_columns: dict[str, str]
    clock: Clock
    images: Path
    origin: dict[str, Any]

    @property
    def files(self) -> list[SourceFile]:
        """All files that are read."""
        return [*self.note_files, *self.log_files]

    def notes(self) -> Iterator[Block]:
        """Blocks of raw notes, columns by field."""
        return _by_field(self.note_files, self.note_columns)

    def engagement(self) -> Iterator[Block]:
        """Blocks of raw engagement, columns by field."""
        return _by_field(self.log_files, self.log_columns)

    def resolve(self, raw: dict[str, Any]) -> list[str]:
        """Make a raw note ready for cleaning; returns the image files that it names and that can't be found.

        Notes are written by strangers: a path that leads out of the images folder counts as not found. URLs stay as they are.
        """
        cell = raw.get("images")
        if not cell:
            return []
        if isinstance(cell, bytes) and self.note_files[0].format == "csv":
            cell = raw["images"] = [path.strip() for path in cell.decode("utf-8", "replace").split("|")]
        try:
            found = values.images(cell)
        except values.BadValueError:
            return []  # the sink will reject the row and say why
        missing = []
        kept = []
        for image in found:
            path = image["path"]
            if image["bytes"] is None and "://" not in path:
                file = file_inside(self.images, path)
                if file is None:
                    missing.append(path)
                    continue
                image["path"] = str(file.absolute())
            kept.append(image)
        raw["images"] = kept
        return missing

    def write_pairs(self, folder: Path, known: dict[str, Any], rejects: Rejects) -> int:
        """Write related pairs that the source brings; returns how many."""
        return 0


def file_inside(folder: Path, name: str) -> Path | None:
    """The file of that name if it is there and really inside the folder."""
    file = folder / name
    try:
        inside = file.resolve().is_relative_to(folder.resolve()) and file.is_file()
    except (OSError, ValueError, RuntimeError):  # a name too long, with a NUL, or a loop of links
        return None
    return file if inside else None


def _by_field(files: list[SourceFile], columns: dict[str, str]) -> Iterator[Block]:
    for file in files:
        for block in file.blocks(list(dict.fromkeys(columns.values()))):
            yield dataclasses.replace(block, columns={f: block.columns[c] for f, c in columns.items()})


class MovieLens(Source):
    """The movielens format: see the module."""

    def engagement(self) -> Iterator[Block]:
        """Ratings as clicks and views."""
        for block in super().engagement():
            block.columns["action"] = [_rated(cell) for cell in block.columns["action"].to_pylist()]
            yield block

    def resolve(self, raw: dict[str, Any]) -> list[str]:
        """Genres become hashtags, the poster's bytes the image. A film without a poster is not unusual."""
        genres = [genre for genre in _GENRES if raw.pop(genre, None) in (b"1", b"1.0")]
        raw["hashtags"], raw["category"] = genres, genres[0] if genres else None
        key = raw.get("note_id")
        poster = file_inside(self.images, f"{key.decode('utf-8', 'replace')}.jpg") if key else None
        if poster is not None:
            raw["images"] = [{"bytes": poster.read_bytes(), "path": poster.name}]
        return []


def _rated(cell: bytes | None) -> str:
    try:
        return "click" if float(cell or b"") >= LIKED else "view"
    except ValueError:
        return f"rating {values.shown(cell or b'')}"  # no action, so the sink rejects the row and names it


def movielens(folder: Path, notes: Given, engagement: Given, images: Given) -> Source:
    """The movielens source of a folder.

    Raises:
        InputError: items.csv or ratings.csv is missing, or lacks a column.
    """
    items = _required(folder, notes, ("items", "movies"))
    ratings = _required(folder, engagement, ("ratings",))
    columns = {"note_id": "movie_id", "title": "title", "content": "overview"}
    present = items[0].columns()
    if "original_language" in present:
        columns["language"] = "original_language"
    columns.update({genre: genre for genre in _GENRES if genre in present})
    log = {"user_id": "user_id", "note_id": "movie_id", "action": "rating", "timestamp": "unix_timestamp"}
    place = storage.local(images) if images is not None else folder / "posters"
    return MovieLens(items, columns, ratings, log, "time", place, {})


class NoteLLM(Source):
    """The notellm format: see the module."""

    def engagement(self) -> Iterator[Block]:
        """None: the log holds pairs."""
        return iter(())

    def resolve(self, raw: dict[str, Any]) -> list[str]:
        """Hashtags leave the content, the category becomes a path, the image id a file in the images folder."""
        content = raw.get("content")
        if content is not None:
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError:
                return []  # the sink will reject the row
            raw["hashtags"] = [tag.strip() for tag in _HASHTAG.findall(text)]
            raw["content"] = _HASHTAG.sub("", text).strip()
        if raw.get("category"):
            raw["category"] = b"/".join(part.strip() for part in raw["category"].split(b"@") if part.strip())
        image = (raw.pop("image_id", None) or b"").decode("utf-8", "replace").strip()
        if not image or not self.images.is_dir():
            return []  # the official data come without their pictures
        for name in (image, f"{image}.jpg", f"{image}.png", f"{image}.webp", f"{image}.jpeg"):
            if (file := file_inside(self.images, name)) is not None:
                raw["images"] = [{"bytes": None, "path": str(file.absolute())}]
                return []
        return [image]

    def write_pairs(self, folder: Path, known: dict[str, Any], rejects: Rejects) -> int:
        """Pairs of two ids in the PAIRS schema: score 1, ranked in the order of the file."""
        anchors: list[str] = []
        related: list[str] = []
        ranks: list[int] = []
        met: dict[str, set[str]] = {}
        for file in self.log_files:
            for block in file.blocks(list(_PAIR_COLUMNS)):
                for row, key, reason in block.bad:
                    rejects.rows_in["pairs"] += 1
                    rejects.add("pairs", block.source, row, key, reason)
                cells = zip(*(block.columns[name].to_pylist() for name in _PAIR_COLUMNS), strict=True)
                for row, pair in zip(block.rows.tolist(), cells, strict=True):
                    rejects.rows_in["pairs"] += 1
                    try:
                        anchor, other = (values.identifier(c, f) for c, f in zip(pair, _PAIR_COLUMNS, strict=True))
                    except values.BadValueError as error:
                        rejects.add("pairs", block.source, row, None, str(error))
                        continue
                    problem = _pair_problem(anchor, other, known, met)
                    if problem:
                        rejects.add("pairs", block.source, row, anchor, problem)
                        continue
                    met.setdefault(anchor, set()).add(other)
                    anchors.append(anchor)
                    related.append(other)
                    ranks.append(len(met[anchor]))
        if self.log_files:
            arrays = [anchors, related, [1.0] * len(anchors), ranks]
            columns = [pa.array(cells, field.type) for cells, field in zip(arrays, schema.PAIRS, strict=True)]
            storage.write_table(
                pa.Table.from_arrays(columns, schema=schema.PAIRS), folder / PAIRS_FILE, origin=self.origin
            )
        return len(anchors)


def _pair_problem(anchor: str, other: str, known: dict[str, Any], met: dict[str, set[str]]) -> str | None:
    if anchor == other:
        return "a pair of a note with itself"
    if anchor not in known or other not in known:
        return "a pair with an unknown note"
    return "a pair that was there already" if other in met.get(anchor, ()) else None


def notellm(folder: Path, notes: Given, engagement: Given, images: Given) -> Source:
    """The notellm source of a folder (notes.csv, and pairs.csv where there is one), or of the notes' own file.

    Raises:
        InputError: the notes are missing.
    """
    if folder.is_file() and notes is None:
        notes, folder = folder, folder.parent
    items = _required(folder, notes, ("notes", "note"))
    pairs = _required(folder, engagement, ("pairs",)) if engagement else find_files(folder, ("pairs",), "csv")
    return NoteLLM(
        [dataclasses.replace(file, names=_NOTELLM_COLUMNS) for file in items],
        {name: name for name in _NOTELLM_COLUMNS},
        [dataclasses.replace(file, names=_PAIR_COLUMNS) for file in pairs],
        {},
        "none",
        storage.local(images) if images is not None else folder / "images",
        {},
    )


def _required(folder: Path, given: Given, stems: tuple[str, ...]) -> list[SourceFile]:
    if given is not None:
        inside = folder / storage.local(given)
        return source_files(inside if inside.exists() else given, "csv")
    files = find_files(folder, stems, "csv") if folder.is_dir() else []
    if not files:
        raise InputError(f"{folder}: expected {' or '.join(s + '.csv' for s in stems)} there")
    return files


SOURCES: dict[str, Callable[[Path, Given, Given, Given], Source]] = {"movielens": movielens, "notellm": notellm}
