"""The paths of the API, each one question to the service."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Security
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer

from noterec.serving.messages import (
    MAX_ID,
    ChangeResponse,
    EmbedRequest,
    EmbedResponse,
    ErrorResponse,
    Health,
    NewNote,
    NoteResponse,
    Readiness,
    SimilarQuery,
    SimilarRequest,
    SimilarResponse,
)
from noterec.serving.refusals import STATUSES, body
from noterec.serving.service import Service

ALWAYS = (400, 408, 413, 421, 422, 500, 503, 504)
NoteId = Annotated[
    str, Path(min_length=1, max_length=MAX_ID, description="may hold slashes and anything else, percent-encoded")
]


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The description of the errors that an operation may answer with."""
    return {
        status: {
            "model": ErrorResponse,
            "description": STATUSES[status][1],
            "content": {"application/json": {"example": body(STATUSES[status][0], STATUSES[status][1])}},
        }
        for status in sorted(statuses)
    }


def router(service: Service) -> APIRouter:
    """The API of a service."""
    routes = APIRouter()
    always = ALWAYS if service.config.protect == "changes" else (*ALWAYS, 401)
    bearer = HTTPBearer(
        auto_error=False, description="the service's token"
    )  # checked before anything is parsed: `Guard`
    token = [Security(bearer)]
    maybe = token if service.config.protect == "all" else []

    async def answer(question: SimilarRequest) -> Response:
        return Response((await service.answer(question)).json, media_type="application/json")

    @routes.get(
        "/v1/similar",
        tags=["neighbours"],
        response_model=SimilarResponse,
        responses=refusals(*always, 404),
        dependencies=maybe,
    )
    async def similar_by_id(question: Annotated[SimilarQuery, Query()]) -> Response:
        """Neighbours of a note of the index."""
        return await answer(SimilarRequest(**question.model_dump()))

    @routes.post(
        "/v1/similar",
        tags=["neighbours"],
        response_model=SimilarResponse,
        responses=refusals(*always, 404, 429),
        dependencies=maybe,
    )
    async def similar(question: SimilarRequest) -> Response:
        """Neighbours of a note of the index, of a note that nobody has seen yet, or of a vector."""
        return await answer(question)

    @routes.post("/v1/embed", tags=["neighbours"], responses=refusals(*always, 429), dependencies=maybe)
    async def embed(question: EmbedRequest) -> EmbedResponse:
        """Vectors of notes, as the index's model makes them."""
        return await service.embed(question)

    @routes.get("/v1/notes/{note_id:path}", tags=["notes"], responses=refusals(*always, 404), dependencies=maybe)
    async def note(note_id: NoteId) -> NoteResponse:
        """What the index keeps of a note."""
        return await service.note(note_id)

    @routes.post("/v1/notes", tags=["notes"], responses=refusals(*always, 401, 403, 429), dependencies=token)
    async def add(note: NewNote) -> ChangeResponse:
        """Encode a note and add it, or put it in the place of the one with its id. It is on disk when this answers."""
        return await service.add(note)

    @routes.delete(
        "/v1/notes/{note_id:path}", tags=["notes"], responses=refusals(*always, 401, 403), dependencies=token
    )
    async def remove(note_id: NoteId) -> ChangeResponse:
        """Remove a note from the index for good; an id that it doesn't have is kept out of later builds.

        It is on disk when this answers.
        """
        return await service.remove(note_id)

    watched = refusals(400, 408, 413, 421, 500, 504)

    @routes.get("/healthz", tags=["operation"], responses=watched)
    async def health() -> Health:
        """Whether the process lives."""
        return Health()

    stopping: dict[int | str, dict[str, Any]] = {503: {"model": Readiness, "description": "It is stopping."}}

    @routes.get("/readyz", tags=["operation"], response_model=Readiness, responses=watched | stopping)
    async def readiness() -> Response:
        """Whether it answers questions, and from which version of the index."""
        found = service.ready()
        return JSONResponse(found.model_dump(), status_code=200 if found.ready else 503)

    text = {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus's text format"}

    @routes.get("/metrics", tags=["operation"], response_class=Response, responses={**watched, 200: text})
    async def metrics() -> Response:
        """Latencies by route and stage, batch sizes, cache hits, the index's version and age."""
        return Response(service.metrics.text(), headers={"content-type": service.metrics.content_type})

    return routes
