"""Notes and neighbours as the templates show them: what they say, and why a person might agree that they belong together."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from noterec.serving.explorer.catalogue import Card, Catalogue
from noterec.serving.explorer.outline import Outline, top_of
from noterec.serving.explorer.related import Related
from noterec.serving.explorer.spool import MAX_CONTENT, MAX_NAME, MAX_TAG, MAX_TAGS, MAX_TITLE, fold

if TYPE_CHECKING:
    from noterec.index.search import Index

PREVIEW = 280  # characters of a text before "more"
_SHARED = 5  # hashtags named in a reason
_FIELDS = (
    "title",
    "category",
    "author_id",
    "language",
    "created_at",
    "exposure",
)  # that an index may keep, as they are

Kind = Literal["shared", "people", "alone", "category", "author", "new", "fact"]


@dataclasses.dataclass(frozen=True)
class Reason:
    """One line beside a neighbour: what it says, its kind (for its look), and more about it."""

    text: str
    kind: Kind
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A note on a page.

    Attributes:
        card: what it says.
        preview, rest: its text in two parts, the second behind "more".
        hidden: characters of the text that no page shows.
        new: whether it counts as new; None where nothing tells.
        age: in words, from the newest note on; "" where unknown.
        colour: of its category on the map.
        pictures: the addresses of its pictures, small and large.
        rank, score: of a neighbour.
        reasons: of a neighbour.
    """

    card: Card
    preview: str
    rest: str
    hidden: int
    new: bool | None
    age: str
    colour: int
    pictures: list[dict[str, str]]
    rank: int = 0
    score: float = 0.0
    reasons: tuple[Reason, ...] = ()

    @property
    def name(self) -> str:
        """What the note is called where there is room for a line."""
        return self.card.title or self.preview[:120] or f"note {self.card.note_id}"

    @property
    def share(self) -> float:
        """The length of the score's bar: 0 to 100."""
        return round(100 * min(1.0, max(0.0, self.score)), 1)


@dataclasses.dataclass(frozen=True)
class Shelf:
    """Where cards are taken from: one index, and what lies beside it.

    What the index keeps of a note comes before what the dataset says. Notes that were added or replaced since the index was
    built are as they were posted: the dataset may have an older version, whose words and pictures are not theirs.
    """

    index: Index
    outline: Outline
    catalogue: Catalogue | None
    related: Related | None

    def posted(self, row: int) -> bool:
        """Whether the note of a row was added, or put in the place of another, since the index was built."""
        return row >= self.index.info.count

    def show(self, note_id: str, row: int) -> Shown:
        """A note as it is shown; `row` is its row in the index."""
        card = self._card(note_id, row)
        preview, rest = split_text(card.content or "")
        new = None if self.outline.new is None else bool(self.outline.new[row])
        return Shown(
            card=card,
            preview=preview,
            rest=rest,
            hidden=max(0, card.content_length - len(card.content or "")),
            new=new,
            age=age(card.created_at, self.outline.now),
            colour=self.outline.colour(card.category),
            pictures=[picture(note_id, number) for number in range(min(card.images, 6))],
        )

    def neighbour(self, of: Card, note_id: str, row: int, rank: int, score: float) -> Shown:
        """A neighbour of a note, with its reasons. A note that is being tried has no id."""
        shown = self.show(note_id, row)
        found = reasons(of, shown, self.related if of.note_id else None)
        return dataclasses.replace(shown, rank=rank, score=score, reasons=tuple(found))

    def _card(self, note_id: str, row: int) -> Card:
        card = None if self.catalogue is None or self.posted(row) else self.catalogue.card(note_id)
        return dataclasses.replace(card or Card(note_id), **_kept(self.index.attributes.row(row, named=True)))


def _kept(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """What an index keeps of a note as fields of a card, cut as those of the catalogue are."""
    found: dict[str, Any] = {name: attributes[name] for name in _FIELDS if attributes.get(name) is not None}
    for name, value in found.items():
        if isinstance(value, str):
            found[name] = value[: MAX_TITLE if name == "title" else MAX_NAME]
    if content := attributes.get("content"):
        found.update(content=content[:MAX_CONTENT], content_length=len(content))
    if hashtags := attributes.get("hashtags"):
        found["hashtags"] = tuple(tag[:MAX_TAG] for tag in hashtags[:MAX_TAGS] if tag)
    return found


def reasons(of: Card, shown: Shown, related: Related | None) -> list[Reason]:
    """Why a person might find two notes related, and what is to be known about the neighbour.

    Args:
        of: the note that was asked for.
        shown: its neighbour.
        related: the log; None where it can't say anything.
    """
    other = shown.card
    lines = []
    mine = {fold(tag.lstrip("#")) for tag in of.hashtags}
    shared = list(dict.fromkeys(tag.lstrip("#") for tag in other.hashtags if fold(tag.lstrip("#")) in mine))
    if shared:
        more = f" and {len(shared) - _SHARED} more" if len(shared) > _SHARED else ""
        lines.append(Reason("shares " + " ".join(f"#{tag}" for tag in shared[:_SHARED]) + more, "shared"))
    if related is not None:
        lines += _engaged(of.note_id, other.note_id, related)
    if of.author_id is not None and of.author_id == other.author_id:
        lines.append(Reason("same author", "author"))
    if of.category and of.category == other.category:
        lines.append(Reason("same category", "category"))
    elif of.category and top_of(of.category) == top_of(other.category):
        lines.append(Reason(f"also in {top_of(of.category)}", "category"))
    if shown.new:
        lines.append(Reason(f"new, {shown.age} old" if shown.age else "new", "new"))
    elif shown.age:
        lines.append(Reason(f"{shown.age} old", "fact"))
    if other.exposure is not None:
        lines.append(
            Reason("never shown" if not other.exposure else f"shown {counted(other.exposure, 'time')}", "fact")
        )
    return lines


def _engaged(note_id: str, other_id: str, related: Related) -> list[Reason]:
    bond = related.bond(note_id, other_id)
    mined = (
        f"number {bond.rank} among its mined pairs"
        if bond.rank
        else "not among its mined pairs"
        if related.pairs
        else ""
    )
    if bond.people:
        who = "person" if bond.people == 1 else "people"
        return [Reason(f"{bond.people:,} {who} engaged with both", "people", mined)]
    if bond.people == 0:
        return [Reason("nobody engaged with both yet", "alone", mined)]
    return [Reason(f"related by engagement, {mined}", "people")] if bond.pair else [Reason(mined, "alone")]


def split_text(text: str) -> tuple[str, str]:
    """A text in two parts, the first as long as a card's preview, cut between words where it can be."""
    if len(text) <= PREVIEW + 40:  # not worth a click
        return text, ""
    cut = text.rfind(" ", PREVIEW - 60, PREVIEW)
    cut = cut if cut > 0 else PREVIEW
    return text[:cut], text[cut:]


def age(created: dt.datetime | None, now: dt.datetime | None) -> str:
    """How long before `now` a note was created, in words; "" where unknown."""
    if created is None or now is None:
        return ""
    days = (now - created).total_seconds() / 86_400
    if days < 1:
        return "less than a day"
    if days < 60:
        return counted(int(days), "day")
    return counted(int(days / 30.44), "month") if days < 730 else counted(int(days / 365.25), "year")


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 day, 1,200 days."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def picture(note_id: str, number: int) -> dict[str, str]:
    """The addresses of a note's picture in each size."""
    return {
        size: "/explorer/picture?" + urlencode({"note": note_id, "number": number, "size": size})
        for size in ("small", "large")
    }
