"""Run bars, rule "guarded" (bars.md section 3.1): of ticks, volume and dollars.

theta = max(sum of x over buys, sum of x over sells), one-sided totals that are never reset inside the bar;
h = ET*max(P*XB, (1-P)*XS); a bar closes when theta >= h. The first bar of a stream closes at exactly N ticks and gives
the first estimates; a side that it does not have begins with the mean over all. For ticks XB = XS = 1.0.
"""

from bisect import bisect_left
from typing import Any

from processors.contract import Stream, Tape
from processors.folds.driven import Guarded, GuardedBars
from processors.folds.measure import Measure
from processors.folds.span import OpenBar
from ravencore.codec import decimal_bytes, decimal_units


class RunBars(GuardedBars):
    """Run bars of one profile; sums of the open bar are exact."""

    def __init__(self, stream: Stream, parameters: Guarded, measure: Measure) -> None:
        super().__init__(stream, parameters, measure)
        self._bought = self._sold = 0
        self._buys = 0.0
        """P, the share of buying trades."""
        self._bought_mean = self._sold_mean = 0.0
        """XB and XS."""

    def _reached(self, tape: Tape, start: int) -> int | None:
        bought = self._measure.bought(tape)
        sold = self._measure.sold(tape)
        # One-sided totals never fall.
        by_buys = bisect_left(bought, bought[start] + self._needed - self._bought, start + 1)
        by_sells = bisect_left(sold, sold[start] + self._needed - self._sold, start + 1)
        stop = min(by_buys, by_sells)
        return stop if stop <= len(tape) else None

    def _gather(self, tape: Tape, start: int, stop: int) -> None:
        bought, sold = self._measure.bought(tape), self._measure.sold(tape)
        self._bought += bought[stop] - bought[start]
        self._sold += sold[stop] - sold[start]

    def _theta(self) -> float:
        return max(self._bought, self._sold) / self._measure.scale

    def _learn(self, bar: OpenBar, theta: float) -> None:
        scale, buys, sells = self._measure.scale, bar.buy_ticks, bar.ticks - bar.buy_ticks
        self._buys = self._moved(self._buys, buys / bar.ticks)
        if not self._warm:
            self._bought_mean = self._sold_mean = (self._bought + self._sold) / scale / bar.ticks
        if buys:
            self._bought_mean = self._moved(self._bought_mean, self._bought / scale / buys)
        if sells:
            self._sold_mean = self._moved(self._sold_mean, self._sold / scale / sells)
        self._bought = self._sold = 0

    def _reach(self) -> float:
        return self._size.value * max(self._buys * self._bought_mean, (1.0 - self._buys) * self._sold_mean)

    def _pack(self) -> list[Any]:
        sums = map(decimal_bytes, (self._bought, self._sold))
        return [*sums, self._buys, self._bought_mean, self._sold_mean]

    def _unpack(self, packed: list[Any]) -> None:
        self._bought, self._sold = map(decimal_units, packed[:2])
        self._buys, self._bought_mean, self._sold_mean = packed[2:]
