"""What the rivals compute where it is not what Raven computes, in our own words: which trades close their bars.

`make rivals` holds each of these against what the rival really does, so that docs/rivals.md describes no imagined
difference. Rows count from 1; a bar ends with the row that closes it.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cache
from itertools import pairwise
from operator import ge, gt
from typing import NamedTuple

from benchmarks.bars_files import Case, Shown, Tick

LEAST = Decimal("0.00001")
"""The smallest quantity of the instrument that nautilus_trader is told of."""


class Range(NamedTuple):
    """The rows of a bar: from `start`, counted from 0, to before `stop`."""

    start: int
    stop: int


def ranges(closings: Sequence[int]) -> list[Range]:
    """Of bars that follow one another without a gap."""
    return [Range(*pair) for pair in pairwise([0, *closings])]


def flows(kind: str, tape: Sequence[Tick]) -> list[float]:
    """What each trade adds to theta, as doubles: signed by the tick rule, 0 until the price has moved."""
    sign, before, made = 0.0, None, []
    for tick in tape:
        price, quantity = float(tick.price), float(tick.quantity)
        if before is not None and price != before:
            sign = 1.0 if price > before else -1.0
        before = price
        made.append(sign if kind[0] == "t" else sign * quantity if kind[0] == "v" else sign * quantity * price)
    return made


def sums_of_doubles(case: Case, tape: Sequence[Tick]) -> list[int]:
    """Plain bars of mlfinpy and RiskLabAI: as Raven's, but what is compared with the size is a sum of doubles."""
    weigh: dict[str, Callable[[Tick], float]] = {
        "tick": lambda tick: 1.0,
        "volume": lambda tick: float(tick.quantity),
        "dollar": lambda tick: float(tick.price) * float(tick.quantity),
    }
    closings, total = [], 0.0
    for row, amount in enumerate(map(weigh[case["kind"]], tape), 1):
        total += amount
        if total >= case["size"]:
            closings.append(row)
            total = 0.0
    return closings


def runs_alone(size: int, tape: Sequence[Tick]) -> list[Range]:
    """nautilus_trader's tick runs: a bar is `size` trades of one side in a row; all other trades are in no bar."""
    made, start = [], 0
    for row, tick in enumerate(tape):
        if row > start and tick.buy != tape[row - 1].buy:
            start = row
        if row + 1 - start == size:
            made.append(Range(start, row + 1))
            start = row + 1
    return made


def value_splits(case: Case, tape: Sequence[Tick]) -> list[Shown]:
    """nautilus_trader's value bars: Raven's buckets of VPIN, in decimals of 28 digits and with a least size.

    A part of a trade that would round to nothing in the instrument's decimals is made one unit of its last decimal,
    and where the rest of the trade is as little, it is dropped.
    """
    made: list[Shown] = []
    filled, prices = Decimal(0), list[float]()
    for tick in tape:
        price, rest = Decimal(tick.price), Decimal(tick.quantity)
        while rest > 0:
            value = price * rest
            prices.append(float(price))
            if filled + value < case["size"]:
                filled += value
                break
            part = rest * ((case["size"] - filled) / value)
            if part < LEAST / 2:
                if rest < LEAST / 2:
                    prices.pop()
                    break
                part = LEAST
            first, last = prices[0], prices[-1]
            own = {"open": first, "high": max(prices), "low": min(prices), "close": last}
            made.append({"close_time": tick.time_us, **own})
            filled, prices = Decimal(0), []
            rest -= part
    return made


class Book:
    """Imbalance and run bars as mlfinpy and RiskLabAI have them, from chapter 2 of AFML without guards.

    E[T] and the share of buys are means over the last `bars` bars, the expected flow is one over the last `window`
    trades (of each side, for runs), all with weights that fall exponentially and add up to 1. mlfinpy closes a bar
    beyond the threshold, RiskLabAI at it. Nothing closes before E[T] trades (of each side, for runs) were seen.
    """

    def __init__(self, case: Case, at_threshold: bool) -> None:
        told = {"lowest": case["size"], "highest": case["size"], "window": 1, "bars": 1, **case}
        self.size: float = told["size"]
        self.lowest: float = told["lowest"]
        self.highest: float = told["highest"]
        self.window: int = told["window"]
        self.bars: int = told["bars"]
        self.closes: Callable[[float, float], bool] = ge if at_threshold else gt
        self.ticks: list[float] = []
        self.closings: list[int] = []

    def imbalances(self, signed: Sequence[float]) -> list[int]:
        """Rows that close imbalance bars."""
        theta, expected = 0.0, None
        for row, flow in enumerate(signed, 1):
            theta += flow
            if expected is None and row >= self.size:
                expected = self._flow(signed[:row])
            if expected is not None and self.closes(abs(theta), self.size * abs(expected)):
                self._close(row)
                theta, expected = 0.0, self._flow(signed[max(0, row - self.window) : row])
        return self.closings

    def runs(self, signed: Sequence[float]) -> list[int]:
        """Rows that close run bars."""
        bought: list[float] = []
        sold: list[float] = []
        shares: list[float] = []
        buys = buying = selling = 0.0
        threshold = None
        for row, flow in enumerate(signed, 1):
            if flow > 0:
                bought.append(flow)
                buying, buys = buying + flow, buys + 1
            elif flow < 0:
                sold.append(-flow)
                selling -= flow
            if threshold is None and min(len(bought), len(sold)) >= self.size:
                threshold = self._threshold(buys / self._length(row), bought, sold)
            if threshold is not None and self.closes(max(buying, selling), threshold):
                shares.append(buys / self._length(row))
                self._close(row)
                threshold = self._threshold(mean(shares[-self.bars :], self.bars), bought, sold)
                buys = buying = selling = 0.0
        return self.closings

    def _length(self, row: int) -> int:
        return row - (self.closings[-1] if self.closings else 0)

    def _close(self, row: int) -> None:
        self.ticks.append(self._length(row))
        self.closings.append(row)
        self.size = min(max(mean(self.ticks[-self.bars :], self.bars), self.lowest), self.highest)

    def _flow(self, signed: Sequence[float]) -> float:
        return mean(signed[-self.window :], min(len(signed), self.window))

    def _threshold(self, share: float, bought: Sequence[float], sold: Sequence[float]) -> float:
        return self.size * max(self._flow(bought) * share, self._flow(sold) * (1 - share))


def mean(values: Sequence[float], span: int) -> float:
    """The newest value weighs most, each before it 1 - 2/(span + 1) times as much; in the order both compute it."""
    rest = 1 - 2 / (span + 1)
    total = values[0]
    for value in values[1:]:
        total = total * rest + value
    return total / _weight(span, len(values))


@cache
def _weight(span: int, count: int) -> float:
    rest = 1 - 2 / (span + 1)
    return 1.0 if count == 1 else _weight(span, count - 1) + _power(rest, count - 1)


def _power(base: float, exponent: int) -> float:
    """By squaring, as numba does: libm's differs in the last bit."""
    power = 1.0
    while exponent:
        if exponent & 1:
            power *= base
        exponent >>= 1
        base *= base
    return power
