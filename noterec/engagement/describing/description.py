"""What a table of pairs looks like, in figures: see `noterec.engagement.describing.describe`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Quantiles = dict[float, float]


@dataclass(frozen=True)
class Coverage:
    """Which notes have related notes, and why others have none, as far as the log tells.

    Attributes:
        notes: notes of the dataset.
        anchors: those with at least one related note.
        without_engagement: those without a related note that nobody engaged with.
        with_one_person: those without one that one person engaged with.
        with_more_people: those without one that more people engaged with: what they share with other notes is too weak for
            min_support or the bounds, or is with notes that aren't here.
        related: notes that are related to another at least once.
        anchors_by_related: anchors by how many related notes they have; the last entry is the longest list there is.
    """

    notes: int
    anchors: int
    without_engagement: int
    with_one_person: int
    with_more_people: int
    related: int
    anchors_by_related: dict[str, int]


@dataclass(frozen=True)
class Scores:
    """How strong pairs are.

    Attributes:
        by_rank: quantiles of the scores at some ranks, and over all pairs (rank "all"); empty where no pair has a score.
        tied: share of the longest lists whose last two scores are equal, so that the end of the list was chosen by note_id;
            None where no list has two scores.
    """

    by_rank: dict[str, Quantiles]
    tied: float | None


@dataclass(frozen=True)
class TopNotes:
    """The most popular notes.

    Attributes:
        share: of the dataset's notes; notes: how many that is, fewer where fewer were engaged with at all.
        least_people: people of the least popular of them.
        of_engagement: share of all (person, note) engagements that they have.
        of_related: share of all places in lists of related notes that they take.
    """

    share: float
    notes: int
    least_people: int
    of_engagement: float
    of_related: float


@dataclass(frozen=True)
class Popularity:
    """How far related is just popular. The popularity of a note is how many people engaged with it, over the whole log.

    Attributes:
        top: the most popular 1 % and 10 %.
        people: quantiles of the people per note, over all notes ("notes"), the anchors ("anchors") and the places in lists
            ("related").
        recall_at_10: what a list of the ten most popular notes (the anchor left out) finds of an anchor's related notes: the share
            of them, a mean over anchors.
        chance: what a list of ten random notes would.
        verdict: the same in a sentence.
    """

    top: tuple[TopNotes, ...]
    people: dict[str, Quantiles]
    recall_at_10: float
    chance: float
    verdict: str


@dataclass(frozen=True)
class Agreement:
    """How often the two notes of a pair have the same category (its first step) or author.

    Attributes:
        known: pairs of which both notes have one; unknown: the others.
        same: share of the known pairs that have the same.
        chance: the share expected if the related notes of the known pairs were shuffled.
        commonest: the commonest combination, the anchor's first; of_known: its share of the known pairs. Categories only.
    """

    known: int
    unknown: int
    same: float
    chance: float
    commonest: tuple[str, str] | None = None
    of_known: float | None = None


@dataclass(frozen=True)
class Age:
    """How far apart in time the two notes of a pair were created.

    Attributes:
        known: pairs of which both times are known.
        days: median difference; chance: that of the same pairs with their related notes shuffled.
        older: share of the known pairs whose related note is the older one.
    """

    known: int
    days: float
    chance: float
    older: float


@dataclass(frozen=True)
class NoteLine:
    """A note of the sample. Its text is a stranger's.

    Attributes:
        people: who engaged with it.
        score: of the pair; None for an anchor, and where a pair has none.
        related: the first related notes of an anchor.
    """

    note_id: str
    title: str | None
    category: str | None
    author_id: str | None
    people: int
    score: float | None = None
    related: tuple[NoteLine, ...] = ()


@dataclass(frozen=True)
class PairsDescription:
    """What a table of pairs looks like.

    Attributes:
        settings: what the table says it was mined with; empty for a table of another maker.
        pairs: pairs described; unknown: left out, as they name notes that the dataset doesn't have; repeated: left out, as they
            stand there before.
        symmetric: share of the pairs whose related note lists the anchor too.
        category, author, age: None where no pair has both values.
        sample: some anchors, drawn with the seed.
        suggestions: what the figures speak for, in words.
    """

    settings: dict[str, Any]
    pairs: int
    unknown: int
    repeated: int
    coverage: Coverage
    scores: Scores
    popularity: Popularity
    symmetric: float
    category: Agreement | None
    author: Agreement | None
    age: Age | None
    sample: tuple[NoteLine, ...]
    suggestions: tuple[str, ...]
