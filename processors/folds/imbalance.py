"""Imbalance bars, rule "guarded" (bars.md section 3.1): of ticks, volume and dollars.

theta = sum of b*x, n ticks, s = sum of x*x; h = max(ET*|EX|, sqrt(ET*S2)); a bar closes when |theta| >= h. The first
bar of a stream closes at exactly N ticks and gives the first estimates. For ticks x = 1, so that S2 stays 1.0.
"""

import math
from typing import Any

from processors.contract import Stream, Tape
from processors.folds.driven import Guarded, GuardedBars
from processors.folds.measure import Measure, first_outside
from processors.folds.span import OpenBar
from ravencore.codec import decimal_bytes, decimal_units


class ImbalanceBars(GuardedBars):
    """Imbalance bars of one profile; sums of the open bar are exact."""

    def __init__(self, stream: Stream, parameters: Guarded, measure: Measure) -> None:
        super().__init__(stream, parameters, measure)
        self._signed = self._squares = 0
        self._expected = 0.0
        """EX."""
        self._expected_square = 0.0
        """S2."""

    def _reached(self, tape: Tape, start: int) -> int | None:
        # The running sum of b*x reaches the threshold when it leaves (low, high).
        line = self._measure.signed(tape)
        origin = line[start] - self._signed
        return first_outside(line, start + 1, origin - self._needed, origin + self._needed)

    def _gather(self, tape: Tape, start: int, stop: int) -> None:
        signed, squares = self._measure.signed(tape), self._measure.squares(tape)
        self._signed += signed[stop] - signed[start]
        self._squares += squares[stop] - squares[start]

    def _theta(self) -> float:
        return self._signed / self._measure.scale

    def _learn(self, bar: OpenBar, theta: float) -> None:
        square = self._squares / self._measure.scale**2 / bar.ticks
        self._expected = self._moved(self._expected, theta / bar.ticks)
        self._expected_square = self._moved(self._expected_square, square) if self._measure.scale > 1 else 1.0
        self._signed = self._squares = 0

    def _reach(self) -> float:
        size = self._size.value
        return max(size * abs(self._expected), math.sqrt(size * self._expected_square))

    def _pack(self) -> list[Any]:
        sums = map(decimal_bytes, (self._signed, self._squares))
        return [*sums, self._expected, self._expected_square]

    def _unpack(self, packed: list[Any]) -> None:
        self._signed, self._squares = map(decimal_units, packed[:2])
        self._expected, self._expected_square = packed[2:]
