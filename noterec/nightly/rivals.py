"""The live bundle and tonight's answer the same questions, among the notes that both have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import schema, storage
from noterec.evaluation.protocol import MAIN
from noterec.index.search import Index
from noterec.ranking.bootstrap import paired
from noterec.ranking.metrics import Relevance, recall_at
from noterec.ranking.topk import top_k

LEVEL = 0.98  # of a two-sided interval, whose upper end is the one-sided 99 % bound


@dataclass(frozen=True)
class Rivals:
    """What was found.

    Attributes:
        live, tonight: mean recall@K.
        questions: queries that count.
        upper: 99 % upper bound of tonight's relative gain; None where the live bundle finds nothing.
        says: all that in words.
    """

    live: float
    tonight: float
    questions: int
    upper: float | None
    says: str


def rivals(live: Path, tonight: Path, pairs: Path, direction: str, *, k: int) -> Rivals | None:
    """Compare two bundles by recall@K, searched exactly, on queries and candidates that are in both.

    Args:
        live: the bundle that is live.
        tonight: the one that may replace it.
        pairs: the relevant notes of the queries.
        direction: "new -> all" or "warm -> new"; candidates of the latter are the notes that tonight's bundle marks as new.
        k: neighbours that count.

    Returns:
        None where no query is left.
    """
    bundles = [Index.open(folder, verify=False) for folder in (live, tonight)]
    candidates = bundles[1].ids.filter(pl.Series(bundles[1].new())) if direction != MAIN else bundles[1].ids
    both = bundles[1].ids.filter(bundles[1].ids.is_in(bundles[0].ids.implode()))
    candidates = candidates.filter(candidates.is_in(both.implode())).sort()
    asked = pl.DataFrame(storage.read_table(pairs, schema.PAIRS).select(["anchor_id", "related_id"])).filter(
        pl.col("anchor_id").is_in(both.implode()) & pl.col("related_id").is_in(candidates.implode())
    )
    if not asked.height:
        return None
    places = pl.DataFrame({"related_id": candidates}).with_row_index("row")
    placed = asked.join(places, on="related_id", how="left").sort("anchor_id", "row")
    grouped = placed.group_by("anchor_id", maintain_order=True).agg(pl.col("row").cast(pl.Int64))
    queries = grouped["anchor_id"]
    relevance = Relevance.from_lists(grouped["row"].to_list())
    own = pl.DataFrame({"related_id": queries}).join(places, on="related_id", how="left", maintain_order="left")["row"]
    exclude: NDArray[np.int64] = own.cast(pl.Int64).fill_null(-1).to_numpy()
    recalls = []
    for bundle in bundles:
        vectors = bundle.vectors(bundle.rows_of(candidates))  # (C, D)
        _, rows = top_k(bundle.vectors(bundle.rows_of(queries)), vectors, k, exclude=exclude)
        recalls.append(recall_at(rows, relevance, k))
    found = paired(recalls[1], recalls[0], level=LEVEL)
    before, now = (float(values.mean()) for values in recalls)
    says = f"recall@{k} {now:.4f}, of the live bundle {before:.4f}, on {found.n:,} questions"
    upper = found.relative_high
    if upper is None and before > 0:  # some resample of few questions holds none that the live bundle answers
        upper = found.high / before
    if upper is not None:
        says += f"; {now / before - 1:+.1%}, 99 % upper bound {upper:+.1%}"
    return Rivals(before, now, found.n, None if upper is None else round(upper, 5), says)
