"""Slices of the main direction: are relevant notes that few people know found as well, short notes as well as long, notes without
an image as well as those with one, old ones as well as the newest, and every category as well as the others?
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.evaluation.protocol import Direction, Mask, Rows
from noterec.ranking.metrics import Relevance

TERCILES = ("relevant_low_clicks", "relevant_middle_clicks", "relevant_high_clicks")
HALVES = ("query_short_text", "query_long_text")
IMAGES = ("query_with_image", "query_without_image")
AGES = ("query_newest", "query_middle_age", "query_oldest")
CATEGORY = "query_category: "  # the first step of the category's path follows
OTHERS = "query_other_categories"

# What slices differ in; in the reports' order.
EXPOSURE, AGE, TEXT, IMAGE, KIND = "exposure of the relevant notes", "age", "text length", "images", "category"
MOST_CATEGORIES, LEAST_QUERIES = 12, 30
FIRST_STEP = "first step of the category"
MAX_LABEL = 60  # characters of a category's name

Values = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Slice:
    """Some queries of a direction, each with some of its relevant notes.

    Attributes:
        name: as in metrics.json.
        by: what the slices beside it differ in.
        label: what it is called among them.
        says: its bounds in words.
        queries: (q,) positions among the direction's queries.
        relevance: the relevant rows that count here, at least one per query.
    """

    name: str
    by: str
    label: str
    says: str
    queries: Rows
    relevance: Relevance


def slices(
    direction: Direction,
    clicks: Rows | None,
    text_lengths: Rows,
    with_image: Mask,
    ages: Values | None = None,
    categories: pl.Series | None = None,
) -> list[Slice]:
    """Relevant notes by terciles of training clicks (arXiv:2403.01744 slices by exposure), queries by all else.

    Args:
        direction: the main one.
        clicks: (N,) training clicks of each catalogue note, None = not known: no terciles then.
        text_lengths: (N,) characters of each catalogue note; the queries are halved by them.
        with_image: (N,) which catalogue notes have an image; no slices by it where all queries agree.
        ages: (N,) days from each catalogue note to the newest, NaN = not known; the queries' terciles, of those whose age is known.
        categories: (N,) the first step of each catalogue note's category, null = not known; the MOST_CATEGORIES commonest of the
            queries that have LEAST_QUERIES, and the others together.

    Returns:
        The slices that hold any query; where many notes have equally many clicks or one age, a tercile may hold none.
    """
    relevance, queries = direction.relevance, direction.queries
    owner = np.repeat(np.arange(len(queries)), relevance.counts)
    found: list[Slice] = []
    if clicks is not None:
        known = clicks[relevance.rows]
        first, second = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf")
        bounds = (known <= first, (known > first) & (known <= second), known > second)
        says = (f"clicks <= {first:g}", f"{first:g} < clicks <= {second:g}", f"clicks > {second:g}")
        found += [
            _of_relevant(name, EXPOSURE, label, text, owner, relevance.rows, kept)
            for name, label, text, kept in zip(TERCILES, ("low", "middle", "high"), says, bounds, strict=True)
            if kept.any()
        ]
    parts = [*_by_length(text_lengths[queries]), *_by_image(with_image[queries])]
    parts += [] if ages is None else _by_age(ages[queries])
    parts += [] if categories is None else _by_category(categories.gather(queries))
    for name, by, label, text, kept in parts:
        if kept.any():
            inside = np.isin(owner, np.flatnonzero(kept))
            found.append(_of_relevant(name, by, label, text, owner, relevance.rows, inside))
    return found


_Part = tuple[str, str, str, str, Mask]  # name, by, label, says, which queries


def _by_length(lengths: Rows) -> list[_Part]:
    middle = float(np.median(lengths))
    return [
        (HALVES[0], TEXT, "short", f"<= {middle:g} characters", lengths <= middle),
        (HALVES[1], TEXT, "long", f"> {middle:g} characters", lengths > middle),
    ]


def _by_image(seen: Mask) -> list[_Part]:
    if len(set(seen)) < 2:
        return []
    return [
        (IMAGES[0], IMAGE, "with image", "at least one image", seen),
        (IMAGES[1], IMAGE, "without image", "no image", ~seen),
    ]


def _by_age(days: Values) -> list[_Part]:
    known = days[np.isfinite(days)]
    if len(set(known)) < 2:
        return []
    first, second = np.quantile(known, [1 / 3, 2 / 3], method="inverted_cdf")
    unknown = len(days) - len(known)
    more = f" (left out, without a date: {unknown:,})" if unknown else ""
    return [
        (AGES[0], AGE, "newest", f"at most {first:.3g} days before the newest note{more}", days <= first),
        (AGES[1], AGE, "middle", f"{first:.3g} to {second:.3g} days before it", (days > first) & (days <= second)),
        (AGES[2], AGE, "oldest", f"more than {second:.3g} days before it", days > second),
    ]


def _by_category(categories: pl.Series) -> list[_Part]:
    counts = categories.drop_nulls().value_counts().rename({"count": "queries"})
    counts = counts.sort(["queries", categories.name], descending=[True, False])
    kept = counts.filter(pl.col("queries") >= LEAST_QUERIES).head(MOST_CATEGORIES)[categories.name].to_list()
    rest = (~categories.is_in(kept)).fill_null(True).to_numpy()  # also where no category is known
    if not kept or (len(kept) == 1 and not rest.any()):
        return []
    parts = [
        (CATEGORY + name, KIND, name[:MAX_LABEL], FIRST_STEP, (categories == name).fill_null(False).to_numpy())
        for name in kept
    ]
    unknown = categories.null_count()
    more = f", of which {unknown:,} have none" if unknown else ""
    return [*parts, (OTHERS, KIND, "all others", f"queries of rarer categories{more}", rest)]


def _of_relevant(name: str, by: str, label: str, says: str, owner: Rows, rows: Rows, kept: Mask) -> Slice:
    queries, counts = np.unique(owner[kept], return_counts=True)
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Slice(name, by, label, says, queries, Relevance(indptr, rows[kept]))
