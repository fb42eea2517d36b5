"""The web application around a service: routes, one shape of error, the guard, the pages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Collection
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Match

from noterec.errors import NoterecError
from noterec.serving import explorer
from noterec.serving.http import reference, routes
from noterec.serving.http.limits import Guard
from noterec.serving.refusals import STATUSES, Refusal, body, explained
from noterec.serving.service import Service

logger = logging.getLogger(__name__)

DESCRIPTION = """Neighbours of notes, for notes that nobody has engaged with yet.

Every error is `{"error": {"code", "message"}}`. An answer names the versions of the index and of the model that it came from."""


def create_app(service: Service, *, hosts: Collection[str] | None = None) -> FastAPI:
    """The application of a service; its lifespan starts and stops the service.

    Args:
        service: an open one.
        hosts: names by which it may be asked, beside localhost and addresses; None = any.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()

    app = FastAPI(
        title="noterec",
        version=version("noterec"),
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # its scripts would come from another host
        redoc_url=None,
        redirect_slashes=False,  # an id may end with a slash
    )
    app.state.service = service
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(NoterecError, _unable)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_middleware(Guard, service=service, hosts=hosts)
    app.state.paths = []
    for router in (routes.router(service), reference.router(app), explorer.router(service)):
        app.state.paths += router.routes
        app.include_router(router)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.app.state.service.metrics.refused.labels(error.code).inc()
    return JSONResponse(body(error.code, str(error)), status_code=error.status, headers=error.headers)


async def _unable(request: Request, error: Exception) -> Response:
    """Something that whoever runs the service can mend: its message is for the log, as it may name paths."""
    logger.error("a request could not be answered: %s", error, exc_info=error)
    return await _refused(request, Refusal(503, "the service can't do this now; its log says why", retry_seconds=5))


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    errors = error.errors()
    status = 400 if any(item.get("type") == "json_invalid" for item in errors) else 422
    return await _refused(request, Refusal(status, explained(errors)))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code, told = STATUSES.get(error.status_code, ("error", str(error.detail)))
    headers = dict(error.headers or {})
    if error.status_code == 405:
        headers = {"Allow": ", ".join(sorted(_methods(request)))}
    return JSONResponse(body(code, told), status_code=error.status_code, headers=headers)


def _methods(request: Request) -> set[str]:
    """What may be done with a path: of all its routes, not only the first."""
    found: set[str] = set()
    for route in request.app.state.paths:
        if route.matches(request.scope)[0] is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return found | ({"HEAD"} if "GET" in found else set())
