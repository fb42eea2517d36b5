"""The router of the explorer: its pages, and what their script asks for.

Works without the script, too, but for the map and for new notes. `service` is the running service: its live index, its
encoder, its catalogue and log where it has them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Header, Request
from pydantic import Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from noterec.errors import ImageError, InputError, NoterecError
from noterec.serving.explorer import site
from noterec.serving.explorer.state import MAX_ID, Choice
from noterec.serving.explorer.thumbnails import MEDIA_TYPE, SIDES_PX
from noterec.serving.explorer.views import Views
from noterec.serving.explorer.writing import MAX_TEXT
from noterec.serving.messages import NoteContent
from noterec.serving.refusals import Refusal, body

if TYPE_CHECKING:
    from noterec.serving.service import Service

logger = logging.getLogger(__name__)

SUGGESTED = 8  # notes under the search box
FOUND = 24  # on the page of a search
Handler = Callable[..., Awaitable[Response]]


class TryRequest(NoteContent):
    """A note to find neighbours for, and how: what the form of the page sends."""

    choice: dict[str, str] = Field(default={}, max_length=16)


def router(service: Service) -> APIRouter:
    """The explorer of a service, to be included in its app."""
    views = Views(service)
    found = APIRouter(include_in_schema=False)
    found.add_api_route("/", _page(views, _neighbours), methods=["GET"], response_model=None)
    found.add_api_route("/map", _page(views, _map), methods=["GET"], response_model=None)
    found.add_api_route("/try", _page(views, _try), methods=["GET"], response_model=None)
    found.add_api_route("/evaluation", _page(views, _evaluation), methods=["GET"], response_model=None)

    @found.post("/explorer/try", response_model=None)
    async def tried(request: TryRequest) -> Response:
        """The neighbours of a new note, as a part of a page."""
        try:
            choice = Choice.read(request.choice)
            note = NoteContent(**{name: getattr(request, name) for name in NoteContent.model_fields})
            return views.site.page("_found.html", **await views.tried(note, choice))
        except NoterecError as error:
            return _refused(views, error, "_problem.html")

    @found.post("/explorer/write", response_model=None)
    async def written(request: NoteContent) -> Response:
        """What the model writes about a new note, as a part of a page."""
        try:
            length = len(request.title or "") + len(request.content or "")
            if length > MAX_TEXT:
                raise InputError(f"the note has {length:,} characters; expected at most {MAX_TEXT:,} to write about")
            return views.site.page("_written.html", written=await views.write(request))
        except NoterecError as error:
            return _refused(views, error, "_problem.html")

    @found.get("/explorer/suggest", response_model=None)
    def suggest(q: str = "") -> dict[str, Any]:
        """Notes for the search box."""
        return {"notes": views.suggest(q, SUGGESTED)}

    @found.get("/explorer/points", response_model=None)
    def points(if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """The map's notes."""
        data = views.points()
        return site.cached(data, "application/json", site.etag(data), if_none_match)

    @found.get("/explorer/picture", response_model=None)
    def picture(
        note: str, number: int, size: str = "small", if_none_match: Annotated[str | None, Header()] = None
    ) -> Response:
        """A picture of a note, small; where it can't be shown, a drawing that says so."""
        if size not in SIDES_PX or len(note) > MAX_ID or views.thumbnails is None:
            return _no_picture(views)
        try:
            made = views.thumbnails.get(note, number, size)
        except ImageError as error:
            logger.info("picture %d of note %r can't be shown: %s", number, note[:80], error)
            return _no_picture(views, status=200)  # the note is there: nothing to report as an error in the browser
        except InputError:
            return _no_picture(views)
        return site.cached(made.data, MEDIA_TYPE, made.etag, if_none_match)

    @found.get("/explorer/static/{name}", response_model=None)
    async def static(name: str, if_none_match: Annotated[str | None, Header()] = None) -> Response:
        """The script, the style and the icon."""
        file = views.site.static.get(name)
        if file is None:
            return Response(status_code=404, headers=site.HEADERS)
        return site.cached(file.data, file.media_type, file.etag, if_none_match)

    return found


def _page(views: Views, handler: Callable[[Views, Request, Choice], Awaitable[Response]]) -> Handler:
    """A page's handler: what is wrong with a request is said on a page."""

    @functools.wraps(handler)
    async def answer(request: Request) -> Response:
        try:
            return await handler(views, request, Choice.read(request.query_params))
        except NoterecError as error:
            return _refused(views, error, "error.html", **views.frame(Choice(), "error"))

    # FastAPI reads a handler's parameters from its signature, and must see those of `answer`.
    del answer.__wrapped__
    return answer


async def _neighbours(views: Views, request: Request, choice: Choice) -> Response:
    wanted = request.query_params.get("q", "").strip()
    if wanted:
        if await run_in_threadpool(views.known, wanted):
            return RedirectResponse(choice.url(note=wanted), status_code=303, headers=site.HEADERS)
        return views.site.page("search.html", **await run_in_threadpool(views.searched, wanted, FOUND, choice))
    if choice.note is None:
        seed = request.query_params.get("seed", "0")
        if not seed.isdecimal() or len(seed) > 9:
            raise InputError(f"seed={seed[:80]}; expected a whole number")
        return views.site.page("start.html", **await run_in_threadpool(views.start, int(seed), choice))
    return views.site.page("note.html", **await views.walked(choice.note, choice))


async def _map(views: Views, request: Request, choice: Choice) -> Response:
    return views.site.page("map.html", **await views.mapped(choice))


async def _try(views: Views, request: Request, choice: Choice) -> Response:
    return views.site.page("try.html", **await run_in_threadpool(views.trying, choice))


async def _evaluation(views: Views, request: Request, choice: Choice) -> Response:
    return views.site.page("evaluation.html", **await run_in_threadpool(views.evaluation, choice))


def _refused(views: Views, error: NoterecError, template: str, **context: Any) -> Response:
    status = error.status if isinstance(error, Refusal) else 422
    answer = views.site.page(template, status, problem=body("", str(error))["error"]["message"], **context)
    if isinstance(error, Refusal):
        answer.headers.update(error.headers)
    return answer


def _no_picture(views: Views, status: int = 404) -> Response:
    file = views.site.static["no-picture.svg"]
    return Response(file.data, status_code=status, media_type=file.media_type, headers=site.HEADERS)
