"""What each page shows, put together from the live index and what lies beside it. One index is taken once per page.

What the service has to be asked is awaited (`answer`, `write`); everything else computes, and is for a thread.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from starlette.concurrency import run_in_threadpool

from noterec.errors import InputError
from noterec.serving.explorer import writing
from noterec.serving.explorer.atlas import Atlases
from noterec.serving.explorer.cards import Shelf, Shown
from noterec.serving.explorer.catalogue import Card
from noterec.serving.explorer.figures import Figured
from noterec.serving.explorer.lookup import rows_of, search
from noterec.serving.explorer.mapping import TITLE, places, points_json
from noterec.serving.explorer.outline import COLOURS, Outlines
from noterec.serving.explorer.site import Site, day, grouped
from noterec.serving.explorer.state import KS, REPOSTS, Choice
from noterec.serving.explorer.thumbnails import Thumbnail, Thumbnails
from noterec.serving.messages import NoteContent, SimilarRequest, SimilarResponse
from noterec.serving.refusals import Refusal

if TYPE_CHECKING:
    from noterec.serving.service import Service

STARTING = 12  # notes on the first page

Context = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """Neighbours as the service gave them.

    Attributes:
        found: ids, ranks and scores.
        milliseconds: that it took.
        kept: whether it was made for an earlier question.
    """

    found: list[tuple[str, int, float]]
    milliseconds: float
    kept: bool


class Views:
    """The pages' contents.

    Attributes:
        site: renders them.
    """

    def __init__(self, service: Service) -> None:
        """Args: the running service, whose index may change at any time."""
        self.service, self.site = service, Site()
        catalogue = service.catalogue
        self._thumbnails = None if catalogue is None else Thumbnails(catalogue, service.config.images)
        self._outlines, self._atlases, self._figured = Outlines(), Atlases(), Figured(service.report)
        self._able: tuple[object, bool] | None = None  # an encoder, and whether it writes
        self._points: tuple[str, bytes] = ("", b"")

    def choice(self, given: Mapping[str, Any]) -> Choice:
        """What an address or a form says; InputError where it makes no sense."""
        return Choice.read(given, self.service.config.max_k)

    async def answer(self, choice: Choice, note: NoteContent | None = None) -> Answer:
        """The neighbours of the note that is looked at, or of a new one, as they are chosen.

        Raises:
            Refusal: the index doesn't have the note, the choice doesn't fit the index, or as the service refuses.
        """
        request = SimilarRequest(
            note_id=None if note is not None else choice.note,
            note=note,
            k=choice.k,
            candidates="new" if choice.candidates == "new" else "all",
            where={"category": {"under": choice.category}} if choice.category else {},
            per_author=1 if choice.author else None,
            duplicates=REPOSTS if choice.reposts else None,
            diversity=choice.diversity,
        )
        start = time.perf_counter()
        try:
            answer = await self.service.answer(request)
        except Refusal as error:
            if error.status == 404:
                raise _unknown(choice.note) from error
            raise
        milliseconds = 1000 * (time.perf_counter() - start)
        found = SimilarResponse.model_validate_json(answer.json).neighbours
        return Answer([(n.note_id, n.rank, n.score) for n in found], milliseconds, answer.kept)

    async def write(self, content: NoteContent) -> writing.Written:
        """What the model writes about a new note. Raises as `Service.write`."""
        note = await self.service.as_note(content)
        categories = await run_in_threadpool(self._categories)
        steps = writing.steps(note, categories, self.service.config.images)
        parts = await self.service.write(steps)
        encoder = self.service.encoder
        return writing.joined(parts, trained=encoder is not None and bool(encoder.categories))

    def frame(self, choice: Choice, view: str, shelf: Shelf | None = None) -> Context:
        """What every page has: where one is, the index's facts, and what was not given to the service."""
        shelf = shelf or self._shelf()
        index, outline = shelf.index, shelf.outline
        info, most = index.info, min(self.service.config.max_k, KS[-1])
        facts = [
            ("Index", index.version),
            (
                "Notes",
                grouped(outline.count) + ("" if outline.new is None else f", {grouped(outline.fresh)} new"),
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
            "ks": sorted({k for k in KS if k <= most} | {most}),
            "colours": COLOURS,
            "reposts_at": REPOSTS,
            "query": "",
        }

    def known(self, text: str) -> bool:
        """Whether a text is the id of a note of the index."""
        return text in self.service.index

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
            **self.frame(choice, "neighbours", shelf),
            "query": text,
            "notes": notes,
            "pictures": _pictures(notes),
            "limit": limit,
        }

    def start(self, seed: int, choice: Choice) -> Context:
        """The first page: some notes to begin with, new ones where there are any."""
        shelf = self._shelf()
        outline = shelf.outline
        pool = np.flatnonzero(outline.new if outline.new is not None and outline.fresh else shelf.index.live)
        some = np.random.default_rng(seed).choice(pool, min(STARTING, len(pool)), replace=False)
        ids = shelf.index.ids
        notes = [shelf.show(ids[int(row)], int(row)) for row in some]
        context = {"notes": notes, "pictures": _pictures(notes), "next_seed": seed + 1}
        return {**self.frame(choice, "neighbours", shelf), **context}

    def walked(self, choice: Choice, answer: Answer) -> Context:
        """A note and its neighbours; Refusal (404) where it has gone since the service answered."""
        return self._walked(choice, answer, self._shelf())

    def _walked(self, choice: Choice, answer: Answer, shelf: Shelf) -> Context:
        row = rows_of(shelf.index, [choice.note or ""]).get(choice.note or "")
        if choice.note is None or row is None:
            raise _unknown(choice.note)
        note = shelf.show(choice.note, row)
        related = self.service.related
        return {
            **self.frame(choice, "neighbours", shelf),
            **_beside(shelf, note.card, answer),
            "note": note,
            "engaged": None if related is None else related.engaged(choice.note),
        }

    def tried(self, content: NoteContent, choice: Choice, answer: Answer) -> Context:
        """The neighbours of a new note."""
        card = Card("", content.title, content.content, hashtags=tuple(content.hashtags))
        return {"choice": choice, **_beside(self._shelf(), card, answer)}

    def trying(self, choice: Choice) -> Context:
        """The form for a new note, and what the model can do with it."""
        encoder, config = self.service.encoder, self.service.config
        if encoder is not None and (self._able is None or self._able[0] is not encoder):
            self._able = encoder, writing.able(encoder, self._categories())
        context = {
            "encodes": encoder is not None,
            "sees": encoder is not None and encoder.sight is not None,
            "writing": config.writing,
            "writes": config.writing and encoder is not None and self._able is not None and self._able[1],
            "max_images": config.max_images,
            "max_bytes": config.images.max_bytes,
        }
        return {**self.frame(choice, "try"), **context}

    def mapped(self, choice: Choice, answer: Answer | None) -> Context:
        """The map; with the answer for a note, it and its neighbours are on it. Raises as `walked`."""
        shelf = self._shelf()
        atlas = self._atlases.of(shelf.index)
        context: Context = {
            "note": None,
            "notes": [],
            **({} if answer is None else self._walked(choice, answer, shelf)),
        }
        marked = [] if context["note"] is None else [context["note"], *context["notes"]]
        tops = shelf.outline.tops
        return {
            **context,
            **self.frame(choice, "map", shelf),
            "places": places(shelf, atlas, marked),
            "legend": [(place, name, count) for place, (name, count) in enumerate(tops[:COLOURS])],
            "others": shelf.outline.count - sum(count for _, count in tops[:COLOURS]),
            "sampled": len(atlas.rows),
            "explained": sum(atlas.explained),
        }

    def points(self) -> bytes:
        """The notes of the map as JSON."""
        shelf = self._shelf()
        if self._points[0] != shelf.index.version:
            self._points = (shelf.index.version, points_json(shelf, self._atlases.of(shelf.index)))
        return self._points[1]

    def picture(self, note_id: str, number: int, size: str) -> Thumbnail:
        """The thumbnail of a picture of a note that the index has as the dataset has it.

        Raises:
            InputError: there is none.
            ImageError: it can't be shown.
        """
        shelf = self._shelf()
        row = rows_of(shelf.index, [note_id]).get(note_id)
        if self._thumbnails is None or row is None or shelf.posted(row):
            raise InputError(f"there are no pictures of note {note_id[:80]!r}")
        return self._thumbnails.get(note_id, number, size)

    def evaluation(self, choice: Choice) -> Context:
        """The report that the service was given, as it stands on disk now; Refusal where it can't be read."""
        return {**self.frame(choice, "evaluation"), "figures": self._figured.now()}

    def _shelf(self) -> Shelf:
        index = self.service.index
        return Shelf(index, self._outlines.of(index), self.service.catalogue, self.service.related)

    def _categories(self) -> list[str] | None:
        outline = self._outlines.of(self.service.index)
        column = (
            self.service.index.attributes["category"]
            if "category" in outline.columns
            else pl.Series([], dtype=pl.String)
        )
        return sorted(filter(None, column.unique().to_list())) or None


def _beside(shelf: Shelf, of: Card, answer: Answer) -> Context:
    """A note's neighbours as they are shown, but for those that have gone from the index since they were found."""
    rows = rows_of(shelf.index, [note_id for note_id, _, _ in answer.found])
    shown = [shelf.neighbour(of, i, rows[i], rank, score) for i, rank, score in answer.found if i in rows]
    return {"notes": shown, "pictures": _pictures(shown), "answer": answer}


def _unknown(note_id: str | None) -> Refusal:
    told = f"the index has no note {(note_id or '')[:80]!r}: it was removed, or is not indexed yet"
    return Refusal(404, told, code="unknown_note")


def _pictures(notes: list[Shown]) -> bool:
    """Whether any of some notes has a picture: without, cards leave no room for one."""
    return any(note.pictures for note in notes)
