"""The API's reference as one page without scripts: it works offline and under the strictest content policy."""

from __future__ import annotations

import json
from html import escape
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse, Response

STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 2.5rem; border-top: 1px solid color-mix(in srgb, currentColor 25%, transparent); padding-top: 1.5rem; }
h2 code { font-size: 1.1rem; }
h2, td { overflow-wrap: anywhere; }
table { border-collapse: collapse; table-layout: fixed; width: 100%; }
td, th { text-align: left; vertical-align: top; padding: .25rem .75rem .25rem 0; }
th:first-child { width: 30%; }
pre { overflow-x: auto; padding: .75rem; background: color-mix(in srgb, currentColor 8%, transparent); border-radius: .4rem; }
"""


def router(app: FastAPI) -> APIRouter:
    """Pages `/docs` and its style sheet."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/docs")
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    @routes.get("/docs.css")
    async def style() -> Response:
        return Response(STYLE, media_type="text/css")

    return routes


def page(api: dict[str, Any]) -> str:
    """An OpenAPI description as HTML: every operation with its parameters, body, answers and examples."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>{escape(api['info']['title'])} API</title><link rel=stylesheet href=/docs.css>"
        "<link rel=icon href=/explorer/static/icon.svg>",
        f"<main><h1>{escape(api['info']['title'])} API {escape(api['info']['version'])}</h1>",
        *(f"<p>{escape(text)}</p>" for text in api["info"].get("description", "").split("\n\n")),
        "<p>For programs: <a href=/openapi.json>openapi.json</a></p>",
    ]
    for path, operations in api["paths"].items():
        for method, operation in operations.items():
            parts.append(_operation(api, path, method, operation))
    return "".join(parts) + "</main></html>"


def _operation(api: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> str:
    parts = [f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation.get('description', ''))}"]
    parts.append(" Needs the token.</p>" if operation.get("security") else "</p>")
    rows = [(item["name"], item["schema"], item.get("required", False)) for item in operation.get("parameters", ())]
    if rows:
        parts.append(_table("parameter", rows, api))
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    if content:
        schema = _followed(content["schema"], api)
        required = schema.get("required", ())
        fields = [(name, field, name in required) for name, field in schema.get("properties", {}).items()]
        parts.append(_table("field of the JSON body", fields, api))
        parts += [_code(example) for example in schema.get("examples", ())]
    answers = []
    for status, answer in operation["responses"].items():
        answers.append(f"<tr><td><code>{escape(status)}</code><td>{escape(answer.get('description', ''))}")
        schema = _followed(answer.get("content", {}).get("application/json", {}).get("schema", {}), api)
        answers += [_code(example) for example in schema.get("examples", ())]
    return "".join([*parts, "<table><tr><th>answer<th>", *answers, "</table>"])


def _table(title: str, rows: list[tuple[str, dict[str, Any], bool]], api: dict[str, Any]) -> str:
    lines = [f"<table><tr><th>{escape(title)}<th>type<th>"]
    for name, schema, required in rows:
        told = schema.get("description", "") + (" Required." if required else "")
        if schema.get("default") not in (None, [], {}, ""):
            told += f" Default: {schema['default']}."
        lines.append(f"<tr><td><code>{escape(name)}</code><td>{escape(_type(schema, api))}<td>{escape(told.strip())}")
    return "".join([*lines, "</table>"])


def _type(schema: dict[str, Any], api: dict[str, Any]) -> str:
    """A schema's type in a few words."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1]
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        kinds = dict.fromkeys(_type(part, api) for part in choices)
        return " or ".join(kind for kind in kinds if kind != "null")
    if "enum" in schema:
        return " or ".join(map(str, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}), api)}"
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    bounds = f" {low:g} to {high:g}" if low is not None and high is not None and abs(high) < 1e9 else ""
    return str(schema.get("type", "anything")) + bounds


def _followed(schema: dict[str, Any], api: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    found: dict[str, Any] = api["components"]["schemas"][schema["$ref"].rsplit("/", 1)[-1]]
    return found


def _code(example: Any) -> str:
    return f"<pre>{escape(json.dumps(example, indent=2, ensure_ascii=False))}</pre>"
