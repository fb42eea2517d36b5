"""How sure a mean over queries is: percentile bootstrap intervals, and the paired comparison of two arms.

The resamples depend on the seed and the number of queries only, so two arms measured on the same queries are always
compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from noterec.errors import InputError

Verdict = Literal["better", "worse", "can't tell"]

_BLOCK_DRAWS = 1 << 22  # query draws held at a time: 32 MiB of int64


@dataclass(frozen=True)
class Interval:
    """A mean over n queries and its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class PairedDifference:
    """Mean of a minus mean of b over the same n queries, with its interval.

    Attributes:
        verdict: what can be said of a: "better" or "worse" where the interval leaves zero out, else "can't tell".
        relative: difference / mean of b, with its own interval; None where that mean, or that of a resample, is zero.
    """

    difference: float
    low: float
    high: float
    n: int
    verdict: Verdict
    relative: float | None
    relative_low: float | None
    relative_high: float | None


def interval(values: ArrayLike, *, resamples: int = 2000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of a mean over queries.

    Args:
        values: (Q,) float, one value per query.
        resamples: how many times Q queries are drawn with replacement.
        seed: of the draws.
        level: probability that the interval should cover, such as 0.95.

    Raises:
        InputError: no values, a value that isn't finite, fewer than 1 resample, or a level outside (0, 1).
    """
    data = _checked(values, resamples, level)
    means = np.concatenate([data[draws].mean(axis=1) for draws in _draws(len(data), resamples, seed)])
    low, high = _bounds(means, level)
    return Interval(float(data.mean()), low, high, len(data))


def paired(
    a: ArrayLike, b: ArrayLike, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> PairedDifference:
    """Compare two arms on the same queries: is a better than b, worse, or can't one tell?

    Args:
        a: (Q,) float, the values of one arm.
        b: (Q,) float, those of the arm that it is compared with, in the same order of queries.
        resamples: how many times Q queries are drawn with replacement.
        seed: of the draws; the same seed as in `interval` gives the same draws.
        level: probability that the interval should cover.

    Returns:
        The difference of the means with its interval. A single query never decides: the verdict is "can't tell".

    Raises:
        InputError: the lengths differ, and as `interval`.
    """
    first, second = _checked(a, resamples, level), _checked(b, resamples, level)
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} values; a paired comparison needs both arms on each query")
    gain = first - second  # (Q,)
    parts = [(gain[draws].mean(axis=1), second[draws].mean(axis=1)) for draws in _draws(len(gain), resamples, seed)]
    gains, bases = (np.concatenate(column) for column in zip(*parts, strict=True))  # (resamples,) each
    low, high = _bounds(gains, level)
    verdict: Verdict = "can't tell"
    if len(gain) > 1 and low > 0:
        verdict = "better"
    elif len(gain) > 1 and high < 0:
        verdict = "worse"
    relative: tuple[float | None, float | None, float | None] = (None, None, None)
    if second.mean() != 0 and (bases != 0).all():
        relative = (float(gain.mean() / second.mean()), *_bounds(gains / bases, level))
    return PairedDifference(float(gain.mean()), low, high, len(gain), verdict, *relative)


def _draws(queries: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Blocks of (r, Q) query numbers, the same for the same seed and Q."""
    rng = np.random.default_rng(seed)
    step = max(1, _BLOCK_DRAWS // queries)
    for start in range(0, resamples, step):
        yield rng.integers(0, queries, size=(min(step, resamples - start), queries))


def _bounds(means: NDArray[np.float64], level: float) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _checked(values: ArrayLike, resamples: int, level: float) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise InputError(f"values of shape {data.shape}; expected one value per query, at least one query")
    if not np.isfinite(data).all():
        raise InputError("values hold NaN or infinity; expected a number for every query (a missing one counts as 0)")
    if resamples < 1 or not 0 < level < 1:
        raise InputError(f"resamples={resamples}, level={level}; expected at least 1 and a level between 0 and 1")
    return data
