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
from noterec.notes.images.thumbnail import MEDIA_TYPE
from noterec.serving.explorer import site
from noterec.serving.explorer.state import MAX_ID, Choice
from noterec.serving.explorer.thumbnails import SIDES_PX
from noterec.serving.explorer.views import Context, Views
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
            choice = views.choice(request.choice)
            note = NoteContent(**{name: getattr(request, name) for name in NoteContent.model_fields})
            return await _rendered(views, "_found.html", views.tried, note, choice, await views.answer(choice, note))
        except NoterecError as error:
            return await _refused(views, error, "_problem.html")

    @found.post("/explorer/write", response_model=None)
    async def written(request: NoteContent) -> Response:
        """What the model writes about a new note, as a part of a page."""
        try:
            length = len(request.title or "") + len(request.content or "")
            if length > MAX_TEXT:
                raise InputError(f"the note has {length:,} characters; expected at most {MAX_TEXT:,} to write about")
            written = await views.write(request)
            return await _rendered(views, "_written.html", lambda: {"written": written})
        except NoterecError as error:
            return await _refused(views, error, "_problem.html")

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
        if size not in SIDES_PX or len(note) > MAX_ID:
            return _no_picture(views)
        try:
            made = views.picture(note, number, size)
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
            return await handler(views, request, views.choice(request.query_params))
        except NoterecError as error:
            return await _refused(views, error, "error.html")

    # FastAPI reads a handler's parameters from its signature, and must see those of `answer`.
    del answer.__wrapped__
    return answer


async def _neighbours(views: Views, request: Request, choice: Choice) -> Response:
    if wanted := request.query_params.get("q", "").strip():
        return await run_in_threadpool(_search, views, wanted, choice)
    if choice.note is not None:
        return await _rendered(views, "note.html", views.walked, choice, await views.answer(choice))
    seed = request.query_params.get("seed", "0")
    if not seed.isdecimal() or len(seed) > 9:
        raise InputError(f"seed={seed[:80]}; expected a whole number")
    return await _rendered(views, "start.html", views.start, int(seed), choice)


def _search(views: Views, wanted: str, choice: Choice) -> Response:
    if views.known(wanted):
        return RedirectResponse(choice.url(note=wanted), status_code=303, headers=site.HEADERS)
    return views.site.page("search.html", **views.searched(wanted, FOUND, choice))


async def _map(views: Views, request: Request, choice: Choice) -> Response:
    answer = None if choice.note is None else await views.answer(choice)
    return await _rendered(views, "map.html", views.mapped, choice, answer)


async def _try(views: Views, request: Request, choice: Choice) -> Response:
    return await _rendered(views, "try.html", views.trying, choice)


async def _evaluation(views: Views, request: Request, choice: Choice) -> Response:
    return await _rendered(views, "evaluation.html", views.evaluation, choice)


async def _rendered(views: Views, template: str, contents: Callable[..., Context], *given: Any) -> Response:
    """A page, put together and rendered in a thread: others are answered meanwhile."""
    return await run_in_threadpool(lambda: views.site.page(template, **contents(*given)))


async def _refused(views: Views, error: NoterecError, template: str) -> Response:
    """What is wrong, counted and said on a page or in a part of one."""
    if not isinstance(error, InputError | Refusal):
        logger.error("a page could not be shown: %s", error, exc_info=error)  # it may name paths
        error = Refusal(503, "the service can't do this now; its log says why")
    refusal = error if isinstance(error, Refusal) else Refusal(422, str(error))
    views.service.metrics.refused.labels(refusal.code).inc()

    def page() -> Response:
        frame = views.frame(views.choice({}), "error") if template == "error.html" else {}
        problem = body(refusal.code, str(refusal))["error"]["message"]
        return views.site.page(template, refusal.status, problem=problem, **frame)

    answer = await run_in_threadpool(page)
    answer.headers.update(refusal.headers)
    return answer


def _no_picture(views: Views, status: int = 404) -> Response:
    file = views.site.static["no-picture.svg"]
    return Response(file.data, status_code=status, media_type=file.media_type, headers=site.HEADERS)
