"""The table of `benchmarks/relations.py`: cells with intervals, comparisons with the first weighting, and one summary of them."""

from __future__ import annotations

import numpy as np
import polars as pl
from numpy.typing import NDArray

from noterec.ranking.bootstrap import interval, paired

SIGNS = {"better": " +", "worse": " -", "can't tell": "", "": ""}
_RESAMPLES = 1000

Values = NDArray[np.float64]
Share = tuple[float, float, float, str]  # mean, its interval, and the verdict against the first weighting


def matrix(per_query: pl.DataFrame, weightings: list[str], title: str) -> tuple[list[str], dict[str, object]]:
    """The table over the queries of all seeds, as lines of Markdown and as what JSON can hold.

    Args:
        per_query: seed, query_id, row, column, value; every row has the same queries in a column.
        weightings: the rows that were trained, which judge as columns too.
        title: what a value is.
    """
    rows, columns = (per_query[name].unique(maintain_order=True).to_list() for name in ("row", "column"))
    base = weightings[0]
    grid = {
        key: frame.sort("seed", "query_id")["value"].to_numpy()
        for key, frame in per_query.partition_by("row", "column", as_dict=True).items()
    }
    lines = [
        f"{title}. Rows: what was trained on; columns: what counts as relevant. "
        f"+ and - : better or worse than the row {base}, paired; nothing: can't tell.",
        "",
        "| trained on | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    cells: dict[str, dict[str, object]] = {}
    for row in rows:
        written, cells[row] = [], {}
        for column in columns:
            values = grid[row, column]
            found = interval(values)
            verdict = "" if row == base else paired(values, grid[base, column]).verdict
            written.append(f"{found.mean:.3f} [{found.low:.3f}, {found.high:.3f}]{SIGNS[verdict]}")
            cells[row][column] = [found.mean, found.low, found.high, found.n, verdict]
        lines.append(f"| {row} | " + " | ".join(written) + " |")
    lines.append("| queries | " + " | ".join(f"{len(grid[base, column])}" for column in columns) + " |")
    summary = shares_of_best(per_query, weightings)
    lines += [
        "",
        "Share of the best recall of a column that a weighting's pairs reach, over the columns; and without the column of its own.",
        "",
        "| trained on | all columns | others' columns |",
        "|---|---|---|",
    ]
    for row, entry in summary.items():
        texts = [f"{mean:.3f} [{low:.3f}, {high:.3f}]{SIGNS[verdict]}" for mean, low, high, verdict in entry.values()]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    return lines, {"against": base, "cells": cells, "share_of_best": summary}


def shares_of_best(per_query: pl.DataFrame, weightings: list[str]) -> dict[str, dict[str, Share]]:
    """For each training weighting the mean, over the weightings that judge, of its recall as a share of the best one's.

    "others" leaves out the column that a row was trained for, so that no weighting wins by being its own judge. All cells of a
    resample are of the same drawn notes.
    """
    judged = per_query.filter(pl.col("row").is_in(weightings), pl.col("column").is_in(weightings))
    wide = judged.pivot(on=["row", "column"], index=["seed", "query_id"], values="value").sort("seed", "query_id")
    count = len(weightings)
    values = np.full((wide.height, count, count), np.nan)  # (Q, rows, columns)
    for r, row in enumerate(weightings):
        for c, column in enumerate(weightings):
            name = '{"' + row + '","' + column + '"}'
            values[:, r, c] = wide[name].to_numpy()
    asked, zeroed = ~np.isnan(values), np.nan_to_num(values)
    random = np.random.default_rng(0)

    def shares(draw: NDArray[np.int64]) -> tuple[Values, Values]:
        recall = zeroed[draw].sum(axis=0) / np.maximum(asked[draw].sum(axis=0), 1)  # (rows, columns)
        share = recall / np.maximum(recall.max(axis=0), 1e-12)
        own = np.eye(count, dtype=bool)
        others = np.where(own, 0, share).sum(axis=1) / max(1, count - 1)
        return share.mean(axis=1), others

    mean = shares(np.arange(len(values)))
    drawn = np.array([shares(random.integers(0, len(values), len(values))) for _ in range(_RESAMPLES)])  # (R, 2, rows)
    low, high = np.quantile(drawn, [0.025, 0.975], axis=0)  # (2, rows) each
    under, over = np.quantile(
        drawn - drawn[:, :, :1], [0.025, 0.975], axis=0
    )  # of the differences to the first weighting

    def verdict(k: int, r: int) -> str:
        return "better" if under[k, r] > 0 else "worse" if over[k, r] < 0 else "can't tell" if r else ""

    return {
        row: {
            name: (float(mean[k][r]), float(low[k, r]), float(high[k, r]), verdict(k, r))
            for k, name in enumerate(("all", "others"))
        }
        for r, row in enumerate(weightings)
    }
