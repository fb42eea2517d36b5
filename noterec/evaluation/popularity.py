"""Popularity bias: how often the notes that an arm shows were clicked before, beside the notes that really were related."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec.evaluation.protocol import Rows
from noterec.evaluation.resampling import resample
from noterec.ranking.metrics import Relevance

Values = NDArray[np.float64]

SHARES = (0.01, 0.1)
# What is told of the notes that are shown, and what that means.
WORDS = {
    "top_1": "to the most clicked 1 % of the notes",
    "top_10": "to the most clicked 10 % of the notes",
    "unclicked": "to notes without a training click",
    "percentile": "mean percentile of clicks",
}


class Popularity:
    """How much the notes of a catalogue were clicked, ready to judge which of them are shown.

    Attributes:
        least: the fewest clicks among the most clicked 1 % and 10 %.
    """

    def __init__(self, clicks: Rows) -> None:
        """Args: clicks (N,) int64, training clicks of each catalogue note."""
        count = len(clicks)
        order = np.lexsort((np.arange(count), -clicks))  # equal clicks keep the lower note id first
        ordered = np.sort(clicks)
        below, upto = (np.searchsorted(ordered, clicks, side=side) for side in ("left", "right"))
        columns = []
        self.least: list[int] = []
        for share in SHARES:
            first = order[: max(1, int(np.ceil(share * count)))]
            first = first[clicks[first] > 0]  # where fewer notes were clicked at all, only those
            chosen = np.zeros(count)
            chosen[first] = 1
            columns.append(chosen)
            self.least.append(int(clicks[first].min()) if len(first) else 0)
        # The share of notes with fewer clicks, those with as many counted by half.
        self._told = np.column_stack([*columns, clicks == 0, (below + upto) / (2 * count)])  # (N, len(WORDS))

    def of_shown(self, top: NDArray[np.integer], *, resamples: int, seed: int) -> dict[str, dict[str, Any]] | None:
        """Of (Q, K) catalogue rows, -1 = none: each of WORDS as a mean over all notes shown; None where none is."""
        owner, place = np.nonzero(top >= 0)
        return self._means(owner, top[owner, place], len(top), resamples, seed)

    def of_relevant(self, relevance: Relevance, *, resamples: int, seed: int) -> dict[str, dict[str, Any]] | None:
        """Likewise of the relevant notes of Q queries."""
        owner = np.repeat(np.arange(len(relevance.counts)), relevance.counts)
        return self._means(owner, relevance.rows, len(relevance.counts), resamples, seed)

    def _means(
        self, owner: Rows, rows: NDArray[np.integer], queries: int, resamples: int, seed: int
    ) -> dict[str, dict[str, Any]] | None:
        """Means over notes, whose intervals come from resampling the queries that show them."""
        if not len(rows):
            return None
        sums = np.zeros((queries, len(WORDS) + 1))
        np.add.at(sums, owner, np.column_stack([self._told[rows], np.ones(len(rows))]))
        drawn = resample(sums, resamples=resamples, seed=seed)
        whole = drawn.means[:, -1] > 0  # a resample of queries that show nothing says nothing
        ratios = drawn.means[whole, :-1] / drawn.means[whole, -1:]
        low, high = np.quantile(ratios, [0.025, 0.975], axis=0)
        means = drawn.mean[:-1] / drawn.mean[-1]
        return {
            name: {"mean": float(means[c]), "low": float(low[c]), "high": float(high[c]), "n": len(rows)}
            for c, name in enumerate(WORDS)
        }
