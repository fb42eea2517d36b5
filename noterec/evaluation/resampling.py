"""Bootstrap over queries for many metrics and arms at once: every column is averaged over the same resamples.

Gives what `ranking.bootstrap.interval` and `paired` give for one column, at the price of one matrix product for all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from noterec.ranking.bootstrap import Verdict

Values = NDArray[np.float64]

LEVEL = 0.95
_BLOCK_DRAWS = 1 << 22


@dataclass(frozen=True, eq=False)
class Resampled:
    """Means of C columns over R resamples of the same Q queries.

    Attributes:
        mean: (C,) float64, over the queries themselves.
        means: (R, C) float64, over each resample.
        n: Q.
    """

    mean: Values
    means: Values
    n: int

    def interval(self, column: int) -> dict[str, Any]:
        """Mean and 95 % percentile interval of a column."""
        low, high = _bounds(self.means[:, column])
        return {"mean": float(self.mean[column]), "low": low, "high": high, "n": self.n}

    def difference(self, column: int, against: int) -> dict[str, Any]:
        """Mean of one column minus that of another, with its interval and what can be said of the first."""
        low, high = _bounds(self.means[:, column] - self.means[:, against])
        verdict: Verdict = "can't tell"
        if self.n > 1 and low > 0:
            verdict = "better"
        elif self.n > 1 and high < 0:
            verdict = "worse"
        difference = float(self.mean[column] - self.mean[against])
        return {"difference": difference, "low": low, "high": high, "n": self.n, "verdict": verdict}

    def relative(self, column: int, against: int) -> dict[str, float] | None:
        """The difference as a share of the mean of the column `against`, with its interval; None where a resample's is zero."""
        base = self.means[:, against]
        if self.mean[against] == 0 or not (base != 0).all():
            return None
        low, high = _bounds((self.means[:, column] - base) / base)
        return {"mean": float((self.mean[column] - self.mean[against]) / self.mean[against]), "low": low, "high": high}


def resample(values: Values, *, resamples: int, seed: int) -> Resampled:
    """Draw Q queries with replacement, `resamples` times, and average every column over each draw.

    Args:
        values: (Q, C) float64, Q at least 1.
        resamples: number of draws R.
        seed: of the draws; they depend on it and on Q only.
    """
    queries = len(values)
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK_DRAWS // queries)
    parts = []
    for start in range(0, resamples, step):
        count = min(step, resamples - start)
        drawn = rng.integers(0, queries, size=(count, queries))
        drawn += np.arange(count)[:, None] * queries
        times = np.bincount(drawn.ravel(), minlength=count * queries).reshape(count, queries)  # (r, Q)
        parts.append(times.astype(np.float64) @ values / queries)  # (r, C)
    return Resampled(values.mean(axis=0), np.concatenate(parts), queries)


def _bounds(means: Values) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
