"""Why a request isn't answered: one shape of JSON for every error, and nothing in it of where the server keeps its files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from noterec.errors import NoterecError

# HTTP status -> the word that stands for it where no closer one is known, and what the API's description says of it.
STATUSES: dict[int, tuple[str, str]] = {
    400: ("bad_request", "The request isn't valid HTTP or JSON."),
    401: ("unauthorized", "The token is missing or wrong."),
    403: (
        "forbidden",
        "This service doesn't do that: it has no token, or serves a bundle, which never changes, or its model may not write.",
    ),
    404: ("not_found", "There is no such note, or no such path."),
    405: ("method_not_allowed", "The path is there, but not for this method."),
    408: ("too_slow", "The request didn't arrive in time."),
    413: ("too_large", "The request's body is larger than the service reads."),
    421: ("misdirected", "The service isn't asked under this name (Host)."),
    422: ("invalid", "A field is missing, unknown, of a wrong type or out of range; or the note has nothing to read."),
    429: ("busy", "Too many notes are waiting for the model; try again after Retry-After seconds."),
    500: ("internal", "A bug of the service; its log has the details."),
    503: ("unavailable", "The service can't do this now: it is starting, stopping, at its limit, or has no model."),
    504: ("timeout", "There was no answer in time."),
}
MAX_MESSAGE = 2000


class Refusal(NoterecError):  # noqa: N818  (an answer as much as an error)
    """A request that isn't answered.

    Attributes:
        status: of HTTP.
        code: a word for programs.
        retry_seconds: when it is worth another try; None = not said.
        challenge: how a 401 asks for the token.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        retry_seconds: int | None = None,
        challenge: Literal["Bearer", "Basic"] = "Bearer",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code or STATUSES[status][0]
        self.retry_seconds = retry_seconds
        self.challenge = challenge

    @property
    def headers(self) -> dict[str, str]:
        """Of the answer: Retry-After, and how to authenticate."""
        found = {} if self.retry_seconds is None else {"retry-after": str(self.retry_seconds)}
        if self.status == 401:
            found["www-authenticate"] = f'{self.challenge} realm="noterec"'
        return found


def body(code: str, message: str) -> dict[str, Any]:
    """The JSON of an error: {"error": {"code", "message"}}, its text such as UTF-8 can hold."""
    text = message.encode("utf-8", "replace").decode()
    return {"error": {"code": code, "message": text if len(text) <= MAX_MESSAGE else text[:MAX_MESSAGE] + "..."}}


def explained(errors: Iterable[Mapping[str, Any]]) -> str:
    """What pydantic found, in a line; of what was sent only the names of fields are repeated, cut short."""
    found = []
    for error in list(errors)[:5]:
        place = ".".join(str(part)[:80] for part in error.get("loc", ()))
        found.append(f"{place}: {str(error.get('msg', 'invalid')).removeprefix('Value error, ')}")
    return "; ".join(found) or "the request is not valid"


def stopping() -> Refusal:
    """What is asked of a service that ends."""
    return Refusal(503, "the service is stopping")
