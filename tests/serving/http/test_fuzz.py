"""Requests made from the API's own description, fitting and unfitting: each answer is one that the description promises."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from noterec.serving.http.app import create_app
from noterec.serving.service import Service
from tests.serving.conftest import AUTHORISED

OPERATIONS = [
    "GET /v1/similar",
    "POST /v1/similar",
    "POST /v1/embed",
    "GET /v1/notes/{note_id}",
    "DELETE /v1/notes/{note_id}",
    "POST /v1/notes",
    "GET /healthz",
    "GET /readyz",
    "GET /metrics",
]
# That a note has something to read, or a condition names a column, is beyond what a schema says.
BEYOND_THE_SCHEMA = [positive_data_acceptance]


@pytest.fixture
def api(index: Path, open_service: Callable[..., Service]) -> Iterator[Any]:
    service = open_service(index, batch_wait_ms=0)
    yield schemathesis.openapi.from_asgi("/openapi.json", create_app(service))


def test_every_operation_is_fuzzed(api: Any) -> None:
    assert sorted(result.ok().label for result in api.get_all_operations()) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["fitting", "unfitting"])
@pytest.mark.parametrize("label", OPERATIONS)
def test_answers_are_those_of_the_description(api: Any, label: str, mode: GenerationMode) -> None:
    operation = next(op for op in (result.ok() for result in api.get_all_operations()) if op.label == label)
    if mode is GenerationMode.NEGATIVE and not (operation.query or operation.path_parameters or operation.body):
        return  # nothing to be wrong about
    seen: collections.Counter[int] = collections.Counter()

    @hypothesis.seed(1)
    @hypothesis.settings(
        max_examples=20, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if mode is GenerationMode.POSITIVE and sum(seen.values()) % 2:
            _about_a_known_note(case)
        response = case.call(headers=AUTHORISED)
        seen[response.status_code] += 1
        case.validate_response(response, excluded_checks=BEYOND_THE_SCHEMA, headers=AUTHORISED)

    ask()
    assert not any(status >= 500 for status in seen), seen
    if mode is GenerationMode.POSITIVE:
        assert seen[200], seen


def _about_a_known_note(case: Any) -> None:
    """The same request about a note that is there, with little that can be wrong with it: so that answers are tested too."""
    label = case.operation.label
    for part in (case.path_parameters, case.query, case.body):
        if isinstance(part, dict) and "note_id" in part:
            part["note_id"] = "n000001"
    if label == "GET /v1/similar":
        case.query.update(k=3, where=[])
    elif label == "POST /v1/similar":
        case.body.update(note_id="n000001", note=None, vector=None, where={}, k=3)
    elif label == "POST /v1/embed":
        case.body["notes"] = [{"title": "a"}]
    elif label == "POST /v1/notes":
        case.body.update(title="a", images=[], attributes={})
