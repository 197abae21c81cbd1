"""Tick-imbalance, tick-run and volume-imbalance bars as the Rust Raven computes them: rule "raven", bars.md 3.2.

Sums are running doubles in trade order, not exact. The first tick only opens a bar, so that a bar has at least two; the
test is strict; E[T] starts at N; no bar is a warm-up bar.
"""

import abc
from typing import Any

from processors.contract import Closed, Fold, Folded, Stream, Tape
from processors.folds.driven import ExpectedTicks, Raven
from processors.folds.span import OpenBar
from ravencore.decimals import to_float
from ravencore.records import Bar

LEAST_QUANTITY = 1e-12


class RavenBars(Fold, abc.ABC):
    """Bars of one profile under rule "raven"."""

    def __init__(self, stream: Stream, parameters: Raven) -> None:
        self._stream = stream
        self._size = ExpectedTicks(parameters)
        self._alpha, self._rest = parameters.alpha_imbl, 1.0 - parameters.alpha_imbl
        self._bar_seq = 0
        self._bar: OpenBar | None = None
        self._theta = 0.0

    def trades(self, tape: Tape) -> Folded:
        """Bars that these trades close."""
        closed: list[Closed] = []
        start, ticks = 0, self._bar.ticks if self._bar else 0
        for row, (buy, units) in enumerate(zip(tape.buy, tape.quantity, strict=True)):
            quantity = to_float(units)
            ticks += 1
            if ticks == 1:
                self._begin(buy, quantity)
                continue
            self._add(buy, quantity)
            if self._crossed():
                self._extend(tape, start, row + 1)
                closed.append(Closed(row, self._close()))
                start, ticks = row + 1, 0
        if start < len(tape):
            self._extend(tape, start, len(tape))
        return Folded(closed)

    def snapshot(self) -> Any:
        """Everything, as MessagePack-able values."""
        bar = self._bar.pack() if self._bar else None
        return [self._bar_seq, self._size.value, bar, self._theta, *self._pack()]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._bar_seq, self._size.value, bar, self._theta, *rest = snapshot
        self._bar = None if bar is None else OpenBar.unpack(bar)
        self._unpack(rest)

    @abc.abstractmethod
    def _begin(self, buy: bool, quantity: float) -> None:
        """Take in the first trade of a bar."""

    @abc.abstractmethod
    def _add(self, buy: bool, quantity: float) -> None:
        """Take in a trade of the open bar."""

    @abc.abstractmethod
    def _threshold(self) -> float:
        """h; its sign is that of the expected imbalance."""

    @abc.abstractmethod
    def _learn(self, bar: OpenBar) -> None:
        """Take in a bar that is over, whose E[T] is not learnt yet."""

    @abc.abstractmethod
    def _pack(self) -> list[Any]:
        """Statistic beside theta, and estimates beside E[T], as MessagePack-able values."""

    @abc.abstractmethod
    def _unpack(self, packed: list[Any]) -> None:
        """Take over what `_pack` wrote."""

    def _crossed(self) -> bool:
        return abs(self._theta) > abs(self._threshold())

    def _extend(self, tape: Tape, start: int, stop: int) -> None:
        if self._bar:
            self._bar.extend(tape, start, stop)
        else:
            self._bar = OpenBar(tape, start, stop)

    def _close(self) -> Bar:
        bar = self._bar
        assert bar is not None
        record = bar.record(
            self._stream,
            self._bar_seq,
            open_time=bar.open_time,
            close_time=bar.close_time,
            gap=bar.gap,
            theta=self._theta,
            threshold=self._threshold(),
            expected_ticks=self._size.value,
        )
        self._learn(bar)
        self._size.learn(bar.ticks)
        self._bar_seq += 1
        self._bar = None
        return record


class TickImbalance(RavenBars):
    """theta = sum of b; h = ET*EB, where EB starts at 2*p0 - 1 and follows 2*p - 1, p = ((n + theta)/2)/n."""

    def __init__(self, stream: Stream, parameters: Raven) -> None:
        super().__init__(stream, parameters)
        self._expected = 2 * parameters.initial_p_buy - 1

    def _begin(self, buy: bool, quantity: float) -> None:
        self._theta = 1.0 if buy else -1.0

    def _add(self, buy: bool, quantity: float) -> None:
        self._theta += 1.0 if buy else -1.0

    def _threshold(self) -> float:
        return self._size.value * self._expected

    def _learn(self, bar: OpenBar) -> None:
        buys = ((bar.ticks + self._theta) / 2) / bar.ticks
        self._expected = self._alpha * (2 * buys - 1) + self._rest * self._expected

    def _pack(self) -> list[Any]:
        return [self._expected]

    def _unpack(self, packed: list[Any]) -> None:
        [self._expected] = packed


class VolumeImbalance(RavenBars):
    """theta = sum of b*q; h = ET*EV*(2*P - 1), where P follows the share of buys and EV the mean quantity."""

    def __init__(self, stream: Stream, parameters: Raven) -> None:
        super().__init__(stream, parameters)
        self._buys = parameters.initial_p_buy
        self._expected: float | None = None
        self._volume = 0.0

    def _begin(self, buy: bool, quantity: float) -> None:
        if self._expected is None:
            self._expected = max(quantity, LEAST_QUANTITY)
        self._theta = quantity if buy else -quantity
        self._volume = quantity

    def _add(self, buy: bool, quantity: float) -> None:
        self._theta += quantity if buy else -quantity
        self._volume += quantity

    def _threshold(self) -> float:
        assert self._expected is not None
        return self._size.value * self._expected * (2 * self._buys - 1)

    def _learn(self, bar: OpenBar) -> None:
        assert self._expected is not None
        self._buys = self._alpha * (bar.buy_ticks / bar.ticks) + self._rest * self._buys
        mean = max(self._volume / bar.ticks, LEAST_QUANTITY)
        self._expected = self._alpha * mean + self._rest * self._expected

    def _pack(self) -> list[Any]:
        return [self._volume, self._buys, self._expected]

    def _unpack(self, packed: list[Any]) -> None:
        self._volume, self._buys, self._expected = packed


class TickRun(RavenBars):
    """theta is the longest run of one side that is over in the bar, 1 at first; h = ET*max(P, 1 - P).

    It is nearly silent on real tapes, for a run is over only when the other side trades.
    """

    def __init__(self, stream: Stream, parameters: Raven) -> None:
        super().__init__(stream, parameters)
        self._buys = parameters.initial_p_buy
        self._side = False
        """Whether the run at hand buys."""
        self._run = 0

    def _begin(self, buy: bool, quantity: float) -> None:
        self._theta, self._side, self._run = 1.0, buy, 1

    def _add(self, buy: bool, quantity: float) -> None:
        if buy == self._side:
            self._run += 1
        else:
            self._theta = max(self._theta, float(self._run))
            self._side, self._run = buy, 1

    def _threshold(self) -> float:
        return self._size.value * max(self._buys, 1 - self._buys)

    def _learn(self, bar: OpenBar) -> None:
        self._buys = self._buys * self._rest + (bar.buy_ticks / bar.ticks) * self._alpha

    def _pack(self) -> list[Any]:
        return [self._buys, self._side, self._run]

    def _unpack(self, packed: list[Any]) -> None:
        self._buys, self._side, self._run = packed
