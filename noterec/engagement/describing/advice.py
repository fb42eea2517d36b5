"""What the figures of a table of pairs speak for, in words; silent where they speak for nothing."""

from __future__ import annotations

from typing import Any

from noterec.engagement.describing.description import Agreement, Coverage, Popularity, Scores

DIVIDED = ("cosine", "lift", "pmi", "npmi")  # weightings that hold the popularity of both notes against a pair
BOUNDED = ("notellm", "pmi", "npmi")  # weightings that have bounds of their own
POPULAR = 0.1  # found by a list of popular notes beyond chance: from here on pairs are a matter of popularity
# Models trained on pairs of which popularity found .35 showed hits; at .10 and .04 they gained by it (docs/benchmarks.md, "Which
# relation to train on"). Somewhere between the two another weighting is worth a try.
TOO_POPULAR = 0.2
RARE_PEOPLE = 5
SAME_AUTHOR = 0.25
NO_SUBJECT = 1.3  # times what chance gives
ONE_COMBINATION = 0.4
TIED = 0.3
MANY_FULL, MOST_FULL = 0.1, 0.5  # share of anchors whose lists are as long as any
LEFT_OUT = 0.2  # share of notes
STRONG_END, WEAK_END = 0.75, 0.15  # median score at the last rank, as a share of that at the first


def verdict(recall: float, chance: float) -> str:
    """One sentence on whether related is just popular.

    Args:
        recall: what a list of the ten most popular notes finds of what is related, 0..1.
        chance: what ten random notes would find, 0..1.
    """
    ten = f"{chance:.1%}" if chance >= 0.001 else f"{chance:.2%}"
    figures = f"the ten most popular notes are {recall:.1%} of what is related, ten random ones would be {ten}"
    if beyond_chance(recall, chance) >= POPULAR:
        return f"Related is to a good part just popular: {figures}."
    if beyond_chance(recall, chance) >= POPULAR / 3:
        return f"Popularity plays a part: {figures}."
    return f"Related is not just popular: {figures}."


def beyond_chance(recall: float, chance: float) -> float:
    """What is found of that which chance leaves: 0 = as much as by chance, 1 = all."""
    return (recall - chance) / (1 - chance) if chance < 1 else 0.0


def suggestions(
    settings: dict[str, Any],
    coverage: Coverage,
    scores: Scores,
    popularity: Popularity,
    category: Agreement | None,
    author: Agreement | None,
) -> list[str]:
    """What to try next, each with the figure that speaks for it.

    Args:
        settings: what the pairs were mined with; empty where nobody knows.
        coverage, scores, popularity, category, author: as in `PairsDescription`.
    """
    found = [
        *_weighting(settings, popularity),
        *_lists(settings, coverage, scores, popularity),
        *_subjects(category, author),
    ]
    if coverage.with_more_people > LEFT_OUT * coverage.notes:
        left = f"{coverage.with_more_people / coverage.notes:.0%} of the notes have several people and nothing related"
        found.append(f"{left}: {' or '.join(_more_pairs(settings))}")
    return found


def _more_pairs(settings: dict[str, Any]) -> list[str]:
    """What lets more pairs through, as far as the settings leave something to give."""
    bounded = settings.get("weighting") in BOUNDED or any(settings.get(name) is not None for name in ("lower", "upper"))
    ways = ["lower min_support"] if settings.get("min_support") != 1 else []
    return [*ways, *(["widen the bounds"] if bounded or not settings else []), "bring a longer log"]


def _weighting(settings: dict[str, Any], popularity: Popularity) -> list[str]:
    found = []
    divided = settings.get("weighting") in DIVIDED
    if beyond_chance(popularity.recall_at_10, popularity.chance) >= TOO_POPULAR:
        found.append(
            f"the ten most popular notes are {popularity.recall_at_10:.0%} of what is related: try weighting "
            f"{'lift or npmi' if divided else 'cosine'}, which holds popularity against a note"
        )
    usual, anchor = popularity.people["related"][0.5], popularity.people["anchors"][0.5]
    if usual < RARE_PEOPLE or 3 * usual < anchor:
        found.append(
            f"half of the places in lists are taken by notes of {usual:,.0f} people or fewer (anchors: {anchor:,.0f}), so few that "
            "chance relates them: raise min_support"
        )
    return found


def _popular(popularity: Popularity) -> bool:
    return beyond_chance(popularity.recall_at_10, popularity.chance) >= POPULAR


def _lists(settings: dict[str, Any], coverage: Coverage, scores: Scores, popularity: Popularity) -> list[str]:
    full = list(coverage.anchors_by_related.values())[-1] / coverage.anchors
    if full >= MANY_FULL and scores.tied is not None and scores.tied >= TIED:
        finer = settings.get("weighting") in DIVIDED
        return [
            f"the last two scores of {scores.tied:.0%} of the longest lists are equal, and note_id may have chosen who is last: "
            + ("a longer log tells more apart" if finer else "try a weighting with finer scores, such as cosine")
        ]
    ranks = [rank for rank in scores.by_rank if rank != "all"]
    if full < MOST_FULL or len(ranks) < 3:  # top isn't what bounds the lists, or they are too short to tell
        return []
    first, last = scores.by_rank[ranks[0]][0.5], scores.by_rank[ranks[-1]][0.5]
    if last >= STRONG_END * first > 0 and not _popular(popularity):
        return [f"most lists are full, and the last score is still {last / first:.0%} of the first: try a higher top"]
    if 0 <= last <= WEAK_END * first:
        return [
            f"most lists are full, and the last score is {last / first:.0%} of the first: a lower top, or the bound "
            f"lower={last:.3g}, leaves out the weak end"
        ]
    return []


def _subjects(category: Agreement | None, author: Agreement | None) -> list[str]:
    found = []
    if category is not None and category.known >= category.unknown and category.same < NO_SUBJECT * category.chance:
        found.append(
            f"{category.same:.0%} of the pairs share a category, and chance alone gives {category.chance:.0%}: either categories "
            "say little about what people read together, or the pairs are noise; look at the sample"
        )
    if category is not None and (category.of_known or 0) >= ONE_COMBINATION:
        found.append(
            f"one combination of categories has {category.of_known:.0%} of the pairs: per_category_pair keeps as many of each"
        )
    if author is not None and author.same >= SAME_AUTHOR and author.same > 5 * author.chance:
        found.append(
            f"{author.same:.0%} of the pairs are by one author (chance: {author.chance:.1%}): a model will learn who wrote a "
            "note; leave them out if related should mean the subject"
        )
    return found
