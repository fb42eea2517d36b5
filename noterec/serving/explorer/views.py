"""What each page shows, put together from the live index and what lies beside it. One index is taken once per page."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from noterec import storage
from noterec.errors import InputError
from noterec.evaluation.report import METRICS_FILE, load_report
from noterec.serving.explorer import writing
from noterec.serving.explorer.atlas import Atlases
from noterec.serving.explorer.cards import Shelf, Shown
from noterec.serving.explorer.catalogue import Card
from noterec.serving.explorer.figures import Figures, figures
from noterec.serving.explorer.lookup import rows_of, search
from noterec.serving.explorer.mapping import TITLE, places, points_json
from noterec.serving.explorer.outline import COLOURS, Outlines
from noterec.serving.explorer.site import Site, day, grouped
from noterec.serving.explorer.state import KS, REPOSTS, Choice
from noterec.serving.explorer.thumbnails import Thumbnails
from noterec.serving.messages import NoteContent, SimilarRequest
from noterec.serving.refusals import Refusal

if TYPE_CHECKING:
    from noterec.index.search import Index
    from noterec.serving.service import Service

STARTING = 12  # notes on the first page

Context = dict[str, Any]
Found = tuple[str, int, float]  # a neighbour's id, rank and score


class Views:
    """The pages' contents.

    Attributes:
        site: renders them.
        thumbnails: of the notes' pictures; None without a catalogue.
    """

    def __init__(self, service: Service) -> None:
        """Args: the running service, whose index may change at any time."""
        self.service, self.site = service, Site()
        catalogue = service.catalogue
        self.thumbnails = None if catalogue is None else Thumbnails(catalogue, service.config.images)
        self._outlines, self._atlases = Outlines(), Atlases()
        self._writing = asyncio.Semaphore(1)
        self._writes: bool | None = None
        self._points: tuple[str, bytes] = ("", b"")
        self._figures: tuple[int, Figures] | None = None

    def frame(self, choice: Choice, view: str) -> Context:
        """What every page has: where one is, the index's facts, and what was not given to the service."""
        index = self.service.index
        outline = self._outlines.of(index)
        info = index.info
        facts = [
            ("Index", index.version),
            (
                "Notes",
                grouped(outline.count) + ("" if outline.new is None else f", {grouped(self._count_new(index))} new"),
            ),
            ("Kind", f"{info.kind}, {info.dimension} dimensions"),
            ("Model", info.model_version),
            ("Built", day(info.created)),
        ]
        missing = []
        if self.service.catalogue is None:
            missing.append(("--notes DATASET", "texts, pictures and who engaged with what"))
        if self.service.encoder is None:
            missing.append(("--model MODEL", "the neighbours of a new note"))
        if self.service.report is None:
            missing.append(("--report REPORT", "the evaluation"))
        return {
            "choice": choice,
            "view": view,
            "facts": facts,
            "missing": missing,
            "outline": outline,
            "ks": [k for k in KS if k <= self.service.config.max_k],
            "colours": COLOURS,
            "reposts_at": REPOSTS,
            "query": "",
        }

    def known(self, text: str) -> bool:
        """Whether a text is the id of a note of the index."""
        return bool(rows_of(self.service.index, [text]))

    def suggest(self, text: str, limit: int) -> list[dict[str, str]]:
        """Notes for the search box: id, title and category."""
        shelf = self._shelf()
        shown = (shelf.show(note_id, row) for note_id, row in search(shelf, text, limit))
        return [
            {"note_id": s.card.note_id, "title": s.name[: 2 * TITLE], "category": s.card.category or ""} for s in shown
        ]

    def searched(self, text: str, limit: int, choice: Choice) -> Context:
        """The page of a search."""
        shelf = self._shelf()
        notes = [shelf.show(note_id, row) for note_id, row in search(shelf, text, limit)]
        return {
            **self.frame(choice, "neighbours"),
            "query": text,
            "notes": notes,
            "pictures": _pictures(notes),
            "limit": limit,
        }

    def start(self, seed: int, choice: Choice) -> Context:
        """The first page: some notes to begin with, new ones where there are any."""
        shelf = self._shelf()
        live = shelf.index.live
        new = shelf.outline.new
        pool = np.flatnonzero(live & new) if new is not None and bool((live & new).any()) else np.flatnonzero(live)
        some = np.random.default_rng(seed).choice(pool, min(STARTING, len(pool)), replace=False)
        ids = shelf.index.ids
        notes = [shelf.show(ids[int(row)], int(row)) for row in some]
        context = {"notes": notes, "pictures": _pictures(notes), "next_seed": seed + 1}
        return {**self.frame(choice, "neighbours"), **context}

    async def walked(self, note_id: str, choice: Choice) -> Context:
        """A note and its neighbours.

        Raises:
            Refusal: the index doesn't have the note.
            InputError: the choice doesn't fit the index.
        """
        if not await asyncio.to_thread(self.known, note_id):
            raise Refusal(404, await asyncio.to_thread(self._unknown, note_id))
        request = SimilarRequest(note_id=note_id, **_options(choice))
        found, milliseconds = await self._found(request)
        return {**await asyncio.to_thread(self._beside, note_id, found, choice), "milliseconds": milliseconds}

    def _beside(self, note_id: str, found: list[Found], choice: Choice) -> Context:
        shelf = self._shelf()
        note = shelf.show(note_id, rows_of(shelf.index, [note_id]).get(note_id))
        shown = _neighbours(shelf, note.card, found)
        related = self.service.related
        context = {
            "note": note,
            "engaged": None if related is None else related.engaged(note_id),
            "notes": shown,
            "pictures": _pictures(shown),
        }
        return {**self.frame(choice, "neighbours"), **context}

    async def tried(self, content: NoteContent, choice: Choice) -> Context:
        """The neighbours of a new note. Raises as the service does."""
        request = SimilarRequest(note=content, **_options(choice))
        found, milliseconds = await self._found(request)
        shelf = self._shelf()
        card = Card("", content.title, content.content, hashtags=tuple(content.hashtags))
        notes = await asyncio.to_thread(_neighbours, shelf, card, found)
        context = {"notes": notes, "pictures": _pictures(notes), "milliseconds": milliseconds}
        return {**self.frame(choice, "try"), **context}

    async def write(self, content: NoteContent) -> writing.Written:
        """What the model writes about a new note, one note at a time.

        Raises:
            Refusal: there is no model, or it is writing about another note.
            InputError: a picture can't be used.
        """
        if self.service.encoder is None:
            raise Refusal(503, "the service has no model to write with; start it with --model")
        if self._writing.locked():
            raise Refusal(429, "the model is writing about another note; try again in a few seconds", retry_seconds=3)
        async with self._writing:
            note = await self.service.as_note(content)
            categories, limits = self._categories(), self.service.config.images
            return await self.service.run(lambda encoder: writing.write(encoder, note, categories, limits))

    def trying(self, choice: Choice) -> Context:
        """The form for a new note, and what the model can do with it."""
        encoder = self.service.encoder
        if encoder is not None and self._writes is None:
            self._writes = writing.able(encoder, self._categories())
        context = {
            "encodes": encoder is not None,
            "sees": encoder is not None and encoder.sight is not None,
            "writes": bool(self._writes),
            "max_images": self.service.config.max_images,
            "max_bytes": self.service.config.images.max_bytes,
        }
        return {**self.frame(choice, "try"), **context}

    async def mapped(self, choice: Choice) -> Context:
        """The map; with a note, it and its neighbours are on it."""
        notes: list[Shown] = []
        context: Context = {"note": None, "notes": notes, "places": []}
        if choice.note is not None:
            context.update(await self.walked(choice.note, choice))
        shelf = self._shelf()
        atlas = await asyncio.to_thread(self._atlases.of, shelf.index)
        marked = [context["note"], *context["notes"]] if context["note"] is not None else []
        context["places"] = places(shelf, atlas, marked)
        tops = shelf.outline.tops
        context["legend"] = [(place, name, count) for place, (name, count) in enumerate(tops[:COLOURS])]
        context["others"] = shelf.outline.count - sum(count for _, count in tops[:COLOURS])
        context["sampled"] = len(atlas.rows)
        context["explained"] = sum(atlas.explained)
        return {**context, **self.frame(choice, "map")}

    def points(self) -> bytes:
        """The notes of the map as JSON."""
        shelf = self._shelf()
        if self._points[0] != shelf.index.version:
            self._points = (shelf.index.version, points_json(shelf, self._atlases.of(shelf.index)))
        return self._points[1]

    def evaluation(self, choice: Choice) -> Context:
        """The report that the service was given, as it stands on disk now.

        Raises:
            InputError, ArtefactError: it has gone, or is damaged.
        """
        found = None
        if self.service.report is not None:
            file = storage.local(self.service.report) / METRICS_FILE
            stamp = file.stat().st_mtime_ns if file.is_file() else 0
            if self._figures is None or self._figures[0] != stamp:
                self._figures = (stamp, figures(load_report(self.service.report)))
            found = self._figures[1]
        return {**self.frame(choice, "evaluation"), "figures": found}

    def _shelf(self) -> Shelf:
        index = self.service.index
        return Shelf(index, self._outlines.of(index), self.service.catalogue, self.service.related)

    async def _found(self, request: SimilarRequest) -> tuple[list[Found], float]:
        start = time.perf_counter()
        answer = await self.service.similar(request)
        milliseconds = 1000 * (time.perf_counter() - start)
        return [(n.note_id, n.rank, n.score) for n in answer.neighbours], milliseconds

    def _unknown(self, note_id: str) -> str:
        if self.service.catalogue is not None and note_id in self.service.catalogue:
            return f"the dataset has note {note_id[:80]!r} and the index doesn't; embed and index it first"
        try:
            self.service.index.row(note_id)
        except InputError as error:
            return str(error)
        return f"the index has no note {note_id[:80]!r}"

    def _count_new(self, index: Index) -> int:
        new = self._outlines.of(index).new
        return 0 if new is None else int((index.live & new).sum())

    def _categories(self) -> list[str] | None:
        outline = self._outlines.of(self.service.index)
        column = (
            self.service.index.attributes["category"]
            if "category" in outline.columns
            else pl.Series([], dtype=pl.String)
        )
        return sorted(filter(None, column.unique().to_list())) or None


def _options(choice: Choice) -> dict[str, Any]:
    return {
        "k": choice.k,
        "candidates": choice.candidates,
        "where": {"category": {"under": choice.category}} if choice.category else {},
        "per_author": 1 if choice.author else None,
        "duplicates": REPOSTS if choice.reposts else None,
        "diversity": choice.diversity,
    }


def _neighbours(shelf: Shelf, of: Card, found: list[Found]) -> list[Shown]:
    """Neighbours as they are shown. One that has gone from the index since it was found is shown from the dataset alone."""
    rows = rows_of(shelf.index, [note_id for note_id, _, _ in found])
    return [shelf.neighbour(of, note_id, rows.get(note_id), rank, score) for note_id, rank, score in found]


def _pictures(notes: list[Shown]) -> bool:
    """Whether any of some notes has a picture: without, cards leave no room for one."""
    return any(note.pictures for note in notes)
