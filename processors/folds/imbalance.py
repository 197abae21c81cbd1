"""Tick-imbalance bars, rule "guarded" (bars.md section 3.1).

theta = sum of b*x, n ticks, s = sum of x*x; h = max(ET*|EX|, sqrt(ET*S2)); a bar closes when |theta| >= h. The first
bar of a stream closes at exactly N ticks and gives the first estimates. Here x = 1, so that s = n and S2 stays 1.0.
"""

import math
from typing import Any

from msgspec import Struct

from processors.contract import Closed, Fold, Folded, Stream, Tape
from processors.folds.span import OpenBar
from ravencore.config import BarsSettings
from ravencore.records import Bar


class Parameters(Struct, frozen=True):
    """What a profile of imbalance bars computes."""

    rule: str
    initial_size: int
    alpha_size: float
    alpha_imbl: float
    size_min_pct: float
    size_max_pct: float


def parameters(settings: BarsSettings, venue: str, symbol: str) -> dict[str, Parameters]:
    """Profiles by name, in the order of the settings, the same for every instrument."""
    return {name: Parameters(rule="guarded", **profile.model_dump()) for name, profile in settings.tib.items()}


class TickImbalance(Fold):
    """Tick-imbalance bars of one profile."""

    def __init__(self, stream: Stream, parameters: Parameters) -> None:
        self._stream = stream
        self._initial = parameters.initial_size
        self._alpha_size, self._rest_size = parameters.alpha_size, 1.0 - parameters.alpha_size
        self._alpha_imbl, self._rest_imbl = parameters.alpha_imbl, 1.0 - parameters.alpha_imbl
        self._lowest = self._initial * (1.0 - parameters.size_min_pct)
        self._highest = self._initial * (1.0 + parameters.size_max_pct)
        self._bar_seq = 0
        self._bar: OpenBar | None = None
        self._theta = 0
        """Exact, of the open bar."""
        self._warm = False
        self._expected_ticks = self._expected_imbl = self._threshold = 0.0

    def trades(self, tape: Tape) -> Folded:
        """Bars that these trades close."""
        closed: list[Closed] = []
        start = 0
        while (stop := self._closing(tape, start)) is not None:
            self._add(tape, start, stop)
            closed.append(Closed(stop - 1, self._close()))
            start = stop
        if start < len(tape):
            self._add(tape, start, len(tape))
        return Folded(closed)

    def snapshot(self) -> Any:
        """Everything, as MessagePack-able values."""
        bar = self._bar.pack() if self._bar else None
        return [self._bar_seq, self._warm, self._theta, self._expected_ticks, self._expected_imbl, bar]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._bar_seq, self._warm, self._theta, self._expected_ticks, self._expected_imbl, bar = snapshot
        self._bar = None if bar is None else OpenBar.unpack(bar)
        self._threshold = self._reach()

    def _closing(self, tape: Tape, start: int) -> int | None:
        """One past the row that closes the open bar; None where none does."""
        if not self._warm:
            stop = start + self._initial - (self._bar.ticks if self._bar else 0)
            return stop if stop <= len(tape) else None
        # The running sum of b reaches the open bar's threshold when it leaves (low, high).
        needed = math.ceil(self._threshold)
        origin = tape.signs[start] - self._theta
        low, high = origin - needed, origin + needed
        for stop, total in enumerate(tape.signs[start + 1 :], start + 1):
            if total >= high or total <= low:
                return stop
        return None

    def _add(self, tape: Tape, start: int, stop: int) -> None:
        self._theta += tape.signs[stop] - tape.signs[start]
        if self._bar:
            self._bar.extend(tape, start, stop)
        else:
            self._bar = OpenBar(tape, start, stop)

    def _close(self) -> Bar:
        bar, theta = self._bar, float(self._theta)
        assert bar is not None
        record = bar.record(
            self._stream,
            self._bar_seq,
            open_time=bar.open_time,
            close_time=bar.close_time,
            gap=bar.gap,
            theta=theta,
            threshold=self._threshold if self._warm else None,
            expected_ticks=self._expected_ticks if self._warm else None,
            warmup=not self._warm,
        )
        self._learn(theta, bar.ticks)
        self._bar_seq += 1
        self._bar, self._theta = None, 0
        return record

    def _learn(self, theta: float, ticks: int) -> None:
        if self._warm:
            self._expected_imbl = self._alpha_imbl * (theta / ticks) + self._rest_imbl * self._expected_imbl
            size = self._alpha_size * ticks + self._rest_size * self._expected_ticks
            self._expected_ticks = min(max(size, self._lowest), self._highest)
        else:
            self._expected_ticks, self._expected_imbl = float(self._initial), theta / ticks
            self._warm = True
        self._threshold = self._reach()

    def _reach(self) -> float:
        """What |theta| has to reach in a bar."""
        return max(self._expected_ticks * abs(self._expected_imbl), math.sqrt(self._expected_ticks))
