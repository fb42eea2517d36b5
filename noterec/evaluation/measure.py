"""Rank all queries of a direction with every arm, block by block, and measure each ranking.

Only a block's rankings are in memory, and each arm ranks a query once, fusions included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec import progress
from noterec.config import EvaluateConfig
from noterec.evaluation.arms import Arm, FusionArm, Ranker
from noterec.evaluation.protocol import PAPER, Catalogue, Direction, Rows
from noterec.ranking.metrics import Relevance, hit_at, mrr_at, ndcg_at, recall_at

Values = NDArray[np.float64]

_BLOCK_SCORES = 1 << 23  # scores of a block, 32 MiB of float32; the selection holds a few times that


@dataclass(eq=False)
class Measured:
    """What one arm reached in one direction.

    Attributes:
        values: (Q, M) float64, one column per metric.
        top: (Q, K) catalogue rows, as deep as the largest cut-off; (Q, 0) in the paper's direction, whose are deep.
        coverage: share of the candidates that stand among the first ranks of some query.
        unasked: queries that the arm couldn't represent; they count as misses.
    """

    values: Values
    top: NDArray[np.int32]
    coverage: float
    unasked: int


def metric_names(direction: Direction, rank_at: int) -> list[str]:
    """The names of the metrics of a direction, such as "recall@10", in the order of the columns."""
    if direction.name == PAPER:
        return [f"recall@{k}" for k in direction.at]
    pairs = [f"recall@{k}" for k in direction.at] + [f"hit@{k}" for k in direction.at]
    return [*pairs, f"mrr@{rank_at}", f"ndcg@{rank_at}"]


def metric_values(top: NDArray[np.integer], relevance: Relevance, names: Sequence[str]) -> Values:
    """Every named metric of (Q, K) rankings: (Q, len(names)) float64."""
    functions = {"recall": recall_at, "hit": hit_at, "mrr": mrr_at, "ndcg": ndcg_at}
    columns = []
    for name in names:
        metric, _, k = name.partition("@")
        columns.append(functions[metric](top, relevance, int(k)))
    return np.column_stack(columns)


def measure(
    direction: Direction, arms: Sequence[Arm], fusions: Sequence[FusionArm], *, notes: int, config: EvaluateConfig
) -> dict[str, Measured]:
    """Measure every arm and fusion in one direction.

    Args:
        direction: the queries and candidates.
        arms: arms that rank by themselves.
        fusions: fusions of them, by name.
        notes: N, size of the catalogue.
        config: cut-offs and fusion depth.

    Returns:
        By arm name: the arms in the order given, each fusion after them.
    """
    names = metric_names(direction, config.rank_at)
    wanted = max(int(name.partition("@")[2]) for name in names)
    depth = min(max(wanted, config.fuse_depth if fusions else 0), len(direction.candidates))
    rankers: dict[str, Ranker] = {arm.name: arm.over(direction.candidates) for arm in arms}
    count = len(direction.queries)
    kept = 0 if direction.name == PAPER else wanted
    every: list[Arm | FusionArm] = [*arms, *fusions]
    values = {arm.name: np.zeros((count, len(names))) for arm in every}
    tops = {arm.name: np.full((count, kept), -1, dtype=np.int32) for arm in every}
    shown = {arm.name: np.zeros(notes, dtype=bool) for arm in every}
    asked = {arm.name: arm.can_ask(direction.queries) for arm in arms}
    for fusion in fusions:
        asked[fusion.name] = np.any([asked[part] for part in fusion.parts], axis=0)
    step = int(np.clip(_BLOCK_SCORES // max(len(direction.candidates), 8 * depth), 1, 512))
    with progress.track(f"evaluate {direction.name}", count, "queries") as bar:
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            relevance = _block(direction.relevance, part)
            queries, place = np.unique(direction.queries[part], return_inverse=True)
            rankings = {name: rank(queries, depth) for name, rank in rankers.items()}
            for fusion in fusions:
                rankings[fusion.name] = fusion.fuse([rankings[name] for name in fusion.parts], depth)
            for name, ranking in rankings.items():
                top = _padded(ranking[:, :wanted], wanted)[place]  # (q, wanted)
                values[name][part] = metric_values(top, relevance, names)
                tops[name][part] = top[:, :kept]
                first = top[:, : config.rank_at]
                shown[name][first[first >= 0]] = True
            bar.advance(part.stop - part.start)
    return {
        name: Measured(
            values[name],
            tops[name],
            float(shown[name].sum() / len(direction.candidates)),
            int((~asked[name]).sum()),
        )
        for name in values
    }


def per_query(
    direction: Direction, measured: dict[str, Measured], catalogue: Catalogue, config: EvaluateConfig
) -> pl.DataFrame:
    """One row per arm and query with every metric, so that runs can be compared query by query."""
    names = metric_names(direction, config.rank_at)
    queries = catalogue.ids.gather(direction.queries)
    single = direction.name == PAPER
    related = (
        catalogue.ids.gather(direction.relevance.rows) if single else pl.Series([None] * len(queries), dtype=pl.String)
    )
    hashes = direction.relevant_hashes(catalogue)
    frames = []
    for arm, found in measured.items():
        columns = {
            "direction": pl.Series([direction.name] * len(queries), dtype=pl.String),
            "arm": pl.Series([arm] * len(queries), dtype=pl.String),
            "query_id": queries,
            "related_id": related,
            "relevant_hash": hashes,
        }
        frames.append(pl.DataFrame({**columns, **dict(zip(names, found.values.T, strict=True))}))
    return pl.concat(frames)


def _block(relevance: Relevance, part: slice) -> Relevance:
    bounds = relevance.indptr[part.start : part.stop + 1]
    return Relevance(bounds - bounds[0], relevance.rows[bounds[0] : bounds[-1]])


def _padded(ranking: Rows, width: int) -> Rows:
    """A ranking of exactly `width` columns; there are fewer where there are fewer candidates."""
    if ranking.shape[1] == width:
        return ranking
    return np.pad(ranking, ((0, 0), (0, width - ranking.shape[1])), constant_values=-1)
