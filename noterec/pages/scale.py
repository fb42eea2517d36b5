"""An axis: where a value stands on it, in percent of its length, and the ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_ROOM = 3.0  # percent kept free at either end of an axis whose ends are values
_TICKS = 5  # steps of an axis, at most
_NEAR = 9.0  # percent between two ticks, at least, so that their labels don't meet
_SAME = 1e-9  # values that differ by so small a share of them are drawn as one
_NOTHING = 1e-200  # and those so near to zero as zero
_FAR_FROM_ZERO = 0.6  # where all values lie beyond this share of the highest, the axis needn't begin at zero


@dataclass(frozen=True)
class Scale:
    """An axis.

    Attributes:
        low, high: its ends.
        log: whether equal steps are equal factors.
        room: percent kept free at either end.
        ticks: values that are labelled, ascending.
    """

    low: float
    high: float
    log: bool
    room: float
    ticks: tuple[float, ...]

    def place(self, value: float) -> float:
        """Where a value stands, in percent from the low end; the middle where the axis is a single value."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        share = (at - low) / (high - low) if high > low else 0.5
        return round(self.room + (100 - 2 * self.room) * share, 3)


def over_values(values: Sequence[float], *, log: bool) -> Scale:
    """An axis from the lowest to the highest value, with a tick at each where there is room for its label.

    Args:
        values: at least one, finite; above zero where `log`.
        log: as in `Scale`.
    """
    found = sorted(set(values))
    bare = Scale(found[0], found[-1], log, _ROOM, ())
    ticks = [found[-1]]
    for value in reversed(found[:-1]):
        if bare.place(ticks[-1]) - bare.place(value) >= _NEAR:
            ticks.append(value)
    return Scale(bare.low, bare.high, log, _ROOM, tuple(reversed(ticks)))


def around(values: Sequence[float]) -> Scale:
    """An axis with round ticks that holds all values, at least one; it begins at zero unless all of them are far from it."""
    low, high = (0.0 if abs(end) < _NOTHING else end for end in (min(values), max(values)))
    if low >= 0 and low < _FAR_FROM_ZERO * high:
        low = 0.0
    elif high <= 0 and high > _FAR_FROM_ZERO * low:
        high = 0.0
    if high - low <= _SAME * max(abs(low), abs(high)):
        low, high = (0.0, 1.0) if low == 0 else (low - abs(low) / 10, high + abs(high) / 10)
    step = _step((high - low) / _TICKS)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(float(f"{place * step:.12g}") for place in range(first, last + 1))
    return Scale(ticks[0], ticks[-1], False, 0.0, ticks)


def _step(least: float) -> float:
    """The smallest of 1, 2, 2.5 or 5 times a power of ten that is no less."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(part * power for part in (1, 2, 2.5, 5, 10) if part * power >= least * (1 - 1e-9))
