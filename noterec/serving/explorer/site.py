"""Templates and static files, and the headers under which a browser takes them: nothing from elsewhere, nothing inline."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from importlib import resources
from typing import Any

import jinja2
from starlette.responses import HTMLResponse, Response

HEADERS = {
    "content-security-policy": "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}
_MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclasses.dataclass(frozen=True)
class StaticFile:
    """A file beside the pages."""

    data: bytes
    media_type: str
    etag: str


class Site:
    """The templates, and the files beside them, all read at the start.

    Attributes:
        static: the files by name; no other name is looked for anywhere.
    """

    def __init__(self) -> None:
        """Read the package's own files."""
        self._templates = jinja2.Environment(
            loader=jinja2.PackageLoader("noterec.serving.explorer"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters.update(grouped=grouped, day=day)
        self.static: dict[str, StaticFile] = {}
        for file in resources.files("noterec.serving.explorer").joinpath("static").iterdir():
            media_type = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
            if media_type is not None:
                data = file.read_bytes()
                self.static[file.name] = StaticFile(data, media_type, etag(data))

    def page(self, template: str, status: int = 200, **context: Any) -> HTMLResponse:
        """A page, or a part of one."""
        text = self._templates.get_template(template).render(status=status, **context)
        # A note may hold lone surrogates, which UTF-8 can't.
        return HTMLResponse(text.encode("utf-8", "replace"), status_code=status, headers=HEADERS)


def cached(data: bytes, media_type: str, tag: str, asked: str | None) -> Response:
    """A file that a browser may keep and has to ask about, or "not modified" where `asked` (If-None-Match) names its tag."""
    headers = {**HEADERS, "etag": tag, "cache-control": "private, no-cache"}
    if asked is not None and tag in {part.strip().removeprefix("W/") for part in asked.split(",")}:
        return Response(status_code=304, headers=headers)
    return Response(data, media_type=media_type, headers=headers)


def etag(data: bytes) -> str:
    """A tag that changes when the data does."""
    return f'"{hashlib.blake2b(data, digest_size=12).hexdigest()}"'


def grouped(number: float) -> str:
    """A whole number with its thousands apart."""
    return f"{number:,.0f}"


def day(moment: dt.datetime | str | None) -> str:
    """A day as people write it; "" where unknown."""
    if isinstance(moment, str):
        try:
            return day(dt.datetime.fromisoformat(moment))
        except ValueError:
            return moment
    return "" if moment is None else f"{moment.day} {moment:%b %Y}"
