"""What a trade weighs in a bar's statistic: x of bars.md section 3.1, exact, as running totals over a tape."""

import math
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import NamedTuple

from processors.contract import Tape
from ravencore.decimals import ONE

CHUNK = 64
Totals = Callable[[Tape], Sequence[int]]


class Measure(NamedTuple):
    """Running totals of x over a tape, one longer than it, in exact units of which `scale` are 1.0."""

    scale: int
    totals: Totals
    bought: Totals
    sold: Totals
    signed: Totals
    squares: Totals
    """Of x*x, in units of which `scale * scale` are 1.0."""


def _measure(scale: int, *columns: str) -> Measure:
    return Measure(scale, *map(attrgetter, columns))


TICKS = _measure(1, "counts", "buy_counts", "sell_counts", "signs", "counts")
"""Each trade weighs 1."""
VOLUME = _measure(ONE, "volumes", "buy_volumes", "sell_volumes", "signed_volumes", "squared_volumes")
"""Each trade weighs its quantity."""
DOLLARS = _measure(ONE * ONE, "notionals", "buy_notionals", "sell_notionals", "signed_notionals", "squared_notionals")
"""Each trade weighs its price times its quantity."""


def least_units(level: float, scale: int) -> int:
    """The fewest exact units that, turned into a double with one rounding, are at least `level`, which is positive."""
    below, below_parts = math.nextafter(level, 0.0).as_integer_ratio()
    at, at_parts = level.as_integer_ratio()
    # Half way between two doubles is where rounding changes; the very middle goes to one of them or the other.
    units = -(-(below * at_parts + at * below_parts) * scale // (2 * below_parts * at_parts))
    return units if units / scale >= level else units + 1


def first_outside(line: Sequence[int], start: int, low: int, high: int) -> int | None:
    """Where `line`, from `start` on, is first at most `low` or at least `high`; None where it stays between them."""
    for begin in range(start, len(line), CHUNK):
        chunk = line[begin : begin + CHUNK]
        if max(chunk) >= high or min(chunk) <= low:
            return begin + next(place for place, total in enumerate(chunk) if total >= high or total <= low)
    return None
