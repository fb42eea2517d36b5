"""So many pairs of each combination of two categories, so that a large subject doesn't drown the small ones.

arXiv:2403.01744 (§4.3, §5.1) trains on a fixed number of pairs for each combination of categories.
"""

from __future__ import annotations

import polars as pl

from noterec.engagement.counting.keys import keys, mix
from noterec.errors import InputError


def first_step(category: pl.Expr) -> pl.Expr:
    """The first step of a category's path, "Travel" of "Travel/Asia"; null where there is none."""
    step = category.str.splitn("/", 2).struct.field("field_0").str.strip_chars()
    return pl.when(step != "").then(step)


def check_categories(category: pl.DataFrame, *, per_pair: int) -> None:
    """That there is something to balance by, before a log is counted for it.

    Args:
        category, per_pair: as in `balanced`.

    Raises:
        InputError: no note has a category.
    """
    if not category.select(first_step(pl.col("category")).is_not_null().any()).item():
        raise InputError(
            f"per_category_pair={per_pair}: none of {category.height} notes has a category; expected the notes' `category`: "
            "import it with --map category=COLUMN, or leave per_category_pair out"
        )


def balanced(table: pl.DataFrame, category: pl.DataFrame, *, per_pair: int) -> tuple[pl.DataFrame, dict[str, int]]:
    """Keep at most so many pairs of each ordered combination of (category of the anchor, category of the related note).

    Lower ranks stay first; among equal ranks a fixed hash of the two ids decides, so that those that stay are spread over the
    anchors and don't depend on how ids are given. Categories are compared by their first step; notes without one are a
    category of their own.

    Args:
        table: (P, 4) a pairs table: anchor_id, related_id, score, rank, each pair once.
        category: (N, 2) note_id, each once, and category, a path such as "Travel/Asia".
        per_pair: pairs that stay of each combination.

    Returns:
        The pairs that stay, ordered by anchor_id and rank, the ranks of each anchor counted anew from 1. And counts:
        pairs_beyond_balance (left out), category_pairs (combinations seen), category_pairs_full (those of them that lost
        pairs).

    Raises:
        InputError: no note has a category.
    """
    check_categories(category, per_pair=per_pair)
    steps = category.select("note_id", step=first_step(pl.col("category")))
    # Numbers instead of names: a join on null finds nothing, and a table of pairs is long. 0 = no category.
    numbered = steps.select("note_id", step=pl.col("step").rank("dense").fill_null(0))
    placed = (
        table.join(
            numbered.rename({"note_id": "anchor_id", "step": "from"}), on="anchor_id", how="left", validate="m:1"
        )
        .join(numbered.rename({"note_id": "related_id", "step": "to"}), on="related_id", how="left", validate="m:1")
        .with_columns(
            pl.col("from", "to").fill_null(0),
            pl.Series("hash", mix(keys(table["anchor_id"].to_arrow()), keys(table["related_id"].to_arrow()))),
        )
        .sort("from", "to", "rank", "hash", "anchor_id", "related_id")
    )
    sizes = placed.group_by("from", "to").len()
    kept = (
        placed.filter(pl.int_range(pl.len()).over("from", "to") < per_pair)
        .sort("anchor_id", "rank")
        .select(
            "anchor_id",
            "related_id",
            "score",
            (pl.int_range(pl.len()).over("anchor_id") + 1).cast(pl.Int32).alias("rank"),
        )
    )
    return kept, {
        "pairs_beyond_balance": table.height - kept.height,
        "category_pairs": sizes.height,
        "category_pairs_full": sizes.filter(pl.col("len") > per_pair).height,
    }
