"""The smile of one expiry: what is read off its points, and whether they are free of arbitrage.

Risk reversal and butterfly are quoted as in currency options: RR = iv(25-delta call) - iv(25-delta put),
BF = (iv(25-delta call) + iv(25-delta put)) / 2 - iv(at the money). See Reiswich and Wystup, "A guide to FX options
quoting conventions", 2010, and Clark, "Foreign exchange option pricing", 2011, chapter 3. Deltas are those of the
forward, not adjusted for a premium in the underlying.

A put's delta is that of the call at its strike less 1 (put-call parity), so all points lie on one line of call deltas,
the 25-delta put at 0.75: a wing may be read across the money, where strikes are far apart, but not beyond the last.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from processors.folds import black76

WING = 0.25
SLACK = 1e-9
"""What slopes of prices over strikes, which lie between -1 and 0, may be off by for want of digits."""
FEWEST = 3


class Point(NamedTuple):
    """An option out of the money; `moneyness` is strike / forward."""

    moneyness: float
    iv: float
    call_delta: float

    @property
    def log_moneyness(self) -> float:
        """k."""
        return math.log(self.moneyness)


class Wings(NamedTuple):
    """Risk reversal and butterfly; None where points do not reach."""

    risk_reversal: float | None
    butterfly: float | None


Line = Sequence[tuple[float, float]]


def interpolate(line: Line, x: float) -> float | None:
    """y at x on the line through these (x, y), at the first place where it passes x; None where it does not."""
    for at, y in line:
        if at == x:
            return y
    for (x0, y0), (x1, y1) in pairwise(line):
        if min(x0, x1) < x < max(x0, x1):
            return y0 + (x - x0) / (x1 - x0) * (y1 - y0)
    return None


def atm_variance(points: Sequence[Point], years: float) -> float | None:
    """Total variance iv^2 * years where the strike is the forward; points are in the order of strikes."""
    return interpolate([(point.log_moneyness, point.iv * point.iv * years) for point in points], 0.0)


def wings(points: Sequence[Point], atm_iv: float | None) -> Wings:
    """Risk reversal and butterfly at 25 delta; points are in the order of strikes."""
    line = [(point.call_delta, point.iv) for point in points]
    call, put = interpolate(line, WING), interpolate(line[::-1], 1.0 - WING)
    if call is None or put is None:
        return Wings(None, None)
    return Wings(call - put, None if atm_iv is None else 0.5 * (call + put) - atm_iv)


def has_butterfly(points: Sequence[Point], years: float) -> bool | None:
    """Whether call prices at the points' volatilities allow arbitrage; None with fewer than three points.

    There is none where the prices, with that of the strike 0, which is the forward, are convex in the strike and do not
    rise (Carr and Madan, "A note on sufficient conditions for no arbitrage", 2005).
    """
    if len(points) < FEWEST:
        return None
    root = math.sqrt(years)
    calls = [(point.moneyness, black76.price(1.0, point.moneyness, point.iv * root, True)) for point in points]
    slopes = [(c1 - c0) / (k1 - k0) for (k0, c0), (k1, c1) in pairwise([(0.0, 1.0), *calls])]
    return any(after < before - SLACK for before, after in pairwise([*slopes, 0.0]))
