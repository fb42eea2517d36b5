"""What goes over the wire: requests and answers as pydantic models, from which the API's description is made.

Bounds that depend on the settings (k, notes, pictures, bytes) are checked by the service; those here hold for every one.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

import pydantic
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    FiniteFloat,
    JsonValue,
    StrictBool,
    StrictStr,
    Tag,
)

MAX_ID = 512
MAX_TEXT = 2_000_000  # characters; a model reads far fewer, what is beyond its limits is cut
MAX_IDS = 10_000
MAX_CONDITIONS = 64
MAX_PARTS = 20_000  # of all conditions: names, values, lists, objects

NoteId = Annotated[str, Field(min_length=1, max_length=MAX_ID, examples=["n000042"])]
Int64 = Annotated[int, Field(strict=True, ge=-(2**63), le=2**63 - 1)]
Number = Annotated[FiniteFloat, Field(strict=True)]
Value = StrictStr | StrictBool | Int64 | Number | None


class _Message(pydantic.BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class NoteContent(_Message):
    """What a note says and shows. Anything goes in its text; a picture is a file's bytes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "title": "Cold brew at home",
                    "content": "18 hours in the fridge",
                    "hashtags": ["coffee"],
                    "images": [],
                }
            ]
        }
    )

    title: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    content: Annotated[str, Field(max_length=MAX_TEXT)] | None = None
    hashtags: list[Annotated[str, Field(max_length=1000)]] = Field(default=[], max_length=1000)
    images: list[str] = Field(
        default=[],
        max_length=64,
        description="pictures as base64 of a JPEG, PNG, WebP, GIF, BMP or TIFF file; for a model that sees",
    )


class NewNote(NoteContent):
    """A note to add to the index, or to put in the place of the one with its id."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "note_id": "n900001",
                    "title": "Cold brew at home",
                    "content": "18 hours in the fridge",
                    "hashtags": ["coffee"],
                    "attributes": {"category": "Food/Coffee", "language": "en", "exposure": 0},
                }
            ]
        }
    )

    note_id: NoteId
    attributes: dict[str, Value] = Field(
        default={},
        max_length=256,
        description="values of columns that the index keeps; a time as ISO 8601 text. What isn't given is missing",
    )


class Options(_Message):
    """Which neighbours are wanted."""

    k: int = Field(10, ge=1, le=10_000, description="how many; the service may allow fewer")
    candidates: Literal["all", "new"] = Field("all", description="new: only new notes may be found")
    per_author: int | None = Field(None, ge=1, le=10_000, description="at most so many notes of one author")
    duplicates: FiniteFloat | None = Field(
        None, gt=0, le=1, description="leave out a note whose cosine to a better neighbour is at least this (reposts)"
    )
    diversity: FiniteFloat = Field(
        0.0, ge=0, le=1, description="weight of novelty (maximal marginal relevance); 0 = off"
    )
    fuse: bool = Field(
        False, description="rank by the words that notes share, too (BM25, reciprocal ranks); scores stay cosines"
    )
    exclude: list[NoteId] = Field(default=[], max_length=MAX_IDS, description="notes that must not be found")


Condition = Annotated[str, Field(max_length=1000)]


def _plain_conditions(where: Any) -> Any:
    """Conditions as they were sent, where they are few enough to be looked at one by one; a ValueError says what they are not."""
    if not isinstance(where, dict | list):
        raise ValueError("expected an object with a condition for each attribute, or a list of conditions as text")
    waiting: list[Any] = [where]
    seen = 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if isinstance(part, dict):
            waiting += [*part, *part.values()]
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and part.encode("utf-8", "ignore").decode() != part:
            raise ValueError("holds half a character (a lone surrogate); expected valid Unicode")
        if seen + len(waiting) > MAX_PARTS:
            raise ValueError(f"more than {MAX_PARTS:,} names and values; expected fewer")
    return where


def _form(where: Any) -> str:
    return "list" if isinstance(where, list) else "object"


class SimilarQuery(Options):
    """The question of GET /v1/similar."""

    note_id: NoteId
    where: list[Condition] = Field(
        default=[],
        max_length=MAX_CONDITIONS,
        description="a condition on an attribute that the index keeps, such as `exposure<=100`, `category=Travel/*` or "
        "`language=en,de`; all must hold",
        examples=[["exposure<=100"]],
    )


class SimilarRequest(Options):
    """The question of POST /v1/similar: neighbours of a note of the index, of another note, or of a vector."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"note": {"title": "Cold brew at home", "hashtags": ["coffee"]}, "k": 5},
                {"note_id": "n000042", "k": 5, "candidates": "new", "where": {"exposure": {"max": 100}}},
            ]
        }
    )

    note_id: NoteId | None = None
    note: NoteContent | None = None
    vector: list[FiniteFloat] | None = Field(
        None,
        min_length=1,
        max_length=65_536,
        description="of the index's model and dimension; its length doesn't matter",
    )
    where: Annotated[
        Annotated[dict[str, JsonValue], Field(max_length=MAX_CONDITIONS), Tag("object")]
        | Annotated[list[Condition], Field(max_length=MAX_CONDITIONS), Tag("list")],
        Discriminator(_form),
        BeforeValidator(_plain_conditions),
    ] = Field(
        default={},
        description="by attribute a value, a list of values, or null for missing; or an object such as "
        '{"min": 1, "max": 9}, {"under": "Travel"}, {"not": ...}; all must hold. Or conditions as text, as in GET',
    )

    @pydantic.model_validator(mode="after")
    def _one_question(self) -> Self:
        given = [name for name in ("note_id", "note", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of note_id, note and vector; given: {', '.join(given) or 'none'}")
        return self


class Neighbour(_Message):
    """One neighbour. Title and category, cut after 500 characters, are null where the index doesn't keep them."""

    rank: int = Field(ge=1)
    note_id: str
    score: float = Field(description="cosine", ge=-1.001, le=1.001)
    title: str | None = None
    category: str | None = None


class SimilarResponse(_Message):
    """Neighbours, the nearest first; equal ones by note_id. Fewer than k where no more are left."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "neighbours": [
                        {
                            "rank": 1,
                            "note_id": "n000017",
                            "score": 0.93,
                            "title": "Slow coffee",
                            "category": "Food/Coffee",
                        }
                    ],
                    "index_version": "bundle-000007",
                    "model_version": "bd6ac9198ebc7f39",
                }
            ]
        }
    )

    neighbours: list[Neighbour]
    index_version: str
    model_version: str


class EmbedRequest(_Message):
    """Notes to encode."""

    notes: list[NoteContent] = Field(min_length=1, max_length=4096)


class EmbedResponse(_Message):
    """Unit-norm vectors in the order of the notes."""

    vectors: list[list[float]]
    dimension: int
    model_version: str


class NoteResponse(_Message):
    """What the index keeps of a note."""

    note_id: str
    attributes: dict[str, Any] = Field(description="by column; times as ISO 8601 text")
    index_version: str
    model_version: str


class ChangeResponse(_Message):
    """A note was added, replaced, removed, or is kept out of later builds; the change is on disk and live."""

    note_id: str
    change: Literal["added", "replaced", "removed", "kept_out"]
    index_version: str
    model_version: str


class Health(_Message):
    """The process lives."""

    alive: Literal[True] = True


class Readiness(_Message):
    """Whether questions are answered, and from what."""

    ready: bool
    draining: bool
    index_version: str
    notes: int
    model_version: str
    encoder: bool = Field(description="whether there is a model, so that new notes can be encoded")
    problem: str | None = Field(None, description="why a newer version of the index isn't live")


class ErrorBody(_Message):
    """Why not."""

    code: str = Field(description="a word for programs", examples=["not_found"])
    message: str = Field(description="what was given, what was expected, what to do")


class ErrorResponse(_Message):
    """Every error's shape."""

    error: ErrorBody
