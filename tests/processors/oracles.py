"""Slow and plain readings of bars.md, one record at a time, to compare the folds with; no code of theirs is used.

Exact numbers are Fractions, a bar is the list of its trades, and nothing is computed before the bar is over.
"""

import abc
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from typing import Any, NamedTuple

Fields = dict[str, Any]
UNIT = 10**18


class Print(NamedTuple):
    """A trade as the log holds it; price and quantity are unscaled decimal(38,18) integers."""

    event_time: int
    received_time: int
    trade_id: str
    sequence: int | None
    price: int
    quantity: int
    buy: bool
    after_gap: bool = False


class ClockAt(NamedTuple):
    """A Clock in the log."""

    time_us: int


class Seen(NamedTuple):
    """An accepted trade in a bar."""

    trade: Print
    gap: bool

    @property
    def notional(self) -> Fraction:
        return Fraction(self.trade.price, UNIT) * Fraction(self.trade.quantity, UNIT)


def units(number: Fraction) -> int:
    """Unscaled decimal(38,18); the number must fit exactly."""
    scaled = number * UNIT
    assert scaled.denominator == 1
    return scaled.numerator


def prices(trades: list[Seen]) -> Fields:
    own = [seen.trade.price for seen in trades]
    first, last = trades[0].trade, trades[-1].trade
    return {
        "open": own[0],
        "high": max(own),
        "low": min(own),
        "close": own[-1],
        "first_trade_id": first.trade_id,
        "last_trade_id": last.trade_id,
        "open_time": first.event_time,
        "close_time": last.event_time,
        "ticks": len(trades),
    }


def bar(trades: list[Seen]) -> Fields:
    """The columns of bars.md section 1 that follow from the trades alone."""
    buys = [seen for seen in trades if seen.trade.buy]
    return {
        **prices(trades),
        "volume": sum(seen.trade.quantity for seen in trades),
        "quote_volume": units(sum((seen.notional for seen in trades), Fraction(0))),
        "buy_volume": sum(seen.trade.quantity for seen in buys),
        "buy_ticks": len(buys),
        "theta": None,
        "threshold": None,
        "expected_ticks": None,
        "warmup": False,
        "gap": any(seen.gap for seen in trades),
    }


class TimeOracle:
    """Section 2. `venue_time` is how far time has come, lateness taken off."""

    def __init__(self, interval_us: int, lateness_us: int = 0, flat: bool = False) -> None:
        self.interval, self.lateness, self.flat = interval_us, lateness_us, flat
        self.venue_time: int | None = None
        self.windows: dict[int, list[Seen]] = {}
        self.holes: list[tuple[int, int]] = []
        self.previous: Print | None = None
        self.next_start: int | None = None
        self.close: int | None = None
        self.flats = 0
        self.late = 0

    def start(self, time_us: int) -> int:
        return math.floor(Fraction(time_us, self.interval)) * self.interval

    def is_closed(self, start: int) -> bool:
        return self.venue_time is not None and start + self.interval <= self.venue_time

    def trade(self, trade: Print, gap: bool) -> Iterator[Fields]:
        if gap and self.previous is not None:
            ends = self.start(self.previous.event_time), self.start(trade.event_time)
            self.holes.append((min(ends), max(ends)))
        if self.previous is None:
            self.holes.append((self.start(trade.event_time), self.start(trade.event_time)))
        self.previous = trade
        yield from self.advance(trade.event_time - self.lateness)
        if self.is_closed(self.start(trade.event_time)):
            self.late += 1
        else:
            self.windows.setdefault(self.start(trade.event_time), []).append(Seen(trade, gap))

    def repair(self, trade: Print) -> None:
        start = self.start(trade.event_time)
        if not self.is_closed(start):
            trades = self.windows.setdefault(start, [])
            trades.append(Seen(trade, False))
            trades.sort(key=lambda seen: seen.trade.sequence or 0)

    def advance(self, time_us: int) -> Iterator[Fields]:
        if self.venue_time is None or time_us > self.venue_time:
            self.venue_time = time_us
        while (start := self.next_due()) is not None:
            yield self.emit(start)

    def next_due(self) -> int | None:
        closed = [start for start in self.windows if self.is_closed(start)]
        if self.flat and self.next_start is not None:
            self.flats = 0 if self.next_start in self.windows else self.flats + 1
            if self.flats > 100_000:
                self.next_start = min((*closed, self.start(self.venue_time or 0)))
            return self.next_start if self.is_closed(self.next_start) else None
        return min(closed, default=None)

    def emit(self, start: int) -> Fields:
        trades = self.windows.pop(start, None)
        first = self.next_start is None
        self.next_start = start + self.interval
        gap = first or any(low <= start <= high for low, high in self.holes)
        window = {"open_time": start, "close_time": start + self.interval, "gap": gap}
        fields = {**(bar(trades) if trades else self.empty()), **window}
        self.close = fields["close"]
        return fields

    def empty(self) -> Fields:
        same = dict.fromkeys(("open", "high", "low", "close"), self.close)
        none = dict.fromkeys(("first_trade_id", "last_trade_id", "theta", "threshold", "expected_ticks"))
        zero = dict.fromkeys(("volume", "quote_volume", "buy_volume", "ticks", "buy_ticks"), 0)
        return {**same, **none, **zero, "warmup": False}


class Params(NamedTuple):
    """Of information-driven bars."""

    size: int
    a_size: float
    a_imbl: float
    low_pct: float
    high_pct: float
    p_buy: float = 0.7


class DrivenOracle(abc.ABC):
    """Section 3: trades of the open bar, and E[T]; `x` is what a trade weighs."""

    def __init__(self, params: Params, x: str = "tick") -> None:
        self.params, self.x_of = params, x
        self.lo, self.hi = params.size * (1.0 - params.low_pct), params.size * (1.0 + params.high_pct)
        self.ET = float(params.size)
        self.clear()

    def clear(self) -> None:
        self.open: list[Seen] = []
        self.totals = {True: Fraction(0), False: Fraction(0)}

    def push(self, seen: Seen) -> None:
        self.open.append(seen)
        self.totals[seen.trade.buy] += self.x(seen)

    @abc.abstractmethod
    def trade(self, trade: Print, gap: bool) -> Iterator[Fields]: ...

    def x(self, seen: Seen) -> Fraction:
        if self.x_of == "tick":
            return Fraction(1)
        return seen.notional if self.x_of == "dollar" else Fraction(seen.trade.quantity, UNIT)

    def buys(self) -> list[Seen]:
        return [seen for seen in self.open if seen.trade.buy]

    def sells(self) -> list[Seen]:
        return [seen for seen in self.open if not seen.trade.buy]

    def mean(self, trades: list[Seen]) -> float:
        return float(sum(map(self.x, trades), Fraction(0))) / len(trades)

    def step(self, new: float, old: float) -> float:
        return self.params.a_imbl * new + (1.0 - self.params.a_imbl) * old

    def grow(self, n: int) -> None:
        self.ET = min(max(self.params.a_size * n + (1.0 - self.params.a_size) * self.ET, self.lo), self.hi)


class GuardedOracle(DrivenOracle):
    """Section 3.1."""

    warm = False

    @abc.abstractmethod
    def theta(self) -> float: ...

    @abc.abstractmethod
    def h(self) -> float: ...

    @abc.abstractmethod
    def begin(self, theta: float, n: int) -> None: ...

    @abc.abstractmethod
    def learn(self, theta: float, n: int) -> None: ...

    def trade(self, trade: Print, gap: bool) -> Iterator[Fields]:
        self.push(Seen(trade, gap))
        n, theta = len(self.open), self.theta()
        if not self.warm:
            if n == self.params.size:
                yield {**bar(self.open), "theta": theta, "warmup": True}
                self.begin(theta, n)
                self.warm = True
                self.clear()
        elif abs(theta) >= self.h():
            yield {**bar(self.open), "theta": theta, "threshold": self.h(), "expected_ticks": self.ET}
            self.learn(theta, n)
            self.grow(n)
            self.clear()


class ImbalanceOracle(GuardedOracle):
    """Imbalance."""

    def theta(self) -> float:
        return float(self.totals[True] - self.totals[False])

    def h(self) -> float:
        return max(self.ET * abs(self.EX), math.sqrt(self.ET * self.S2))

    def square(self) -> float:
        return float(sum((self.x(seen) ** 2 for seen in self.open), Fraction(0)))

    def begin(self, theta: float, n: int) -> None:
        self.EX, self.S2 = theta / n, self.square() / n

    def learn(self, theta: float, n: int) -> None:
        self.EX = self.step(theta / n, self.EX)
        self.S2 = 1.0 if self.x_of == "tick" else self.step(self.square() / n, self.S2)


class RunOracle(GuardedOracle):
    """Runs."""

    def theta(self) -> float:
        return float(max(self.totals.values()))

    def h(self) -> float:
        return self.ET * max(self.P * self.XB, (1.0 - self.P) * self.XS)

    def begin(self, theta: float, n: int) -> None:
        self.P = len(self.buys()) / n
        self.XB, self.XS = (self.mean(side or self.open) for side in (self.buys(), self.sells()))

    def learn(self, theta: float, n: int) -> None:
        self.P = self.step(len(self.buys()) / n, self.P)
        if self.buys():
            self.XB = self.step(self.mean(self.buys()), self.XB) if self.x_of != "tick" else 1.0
        if self.sells():
            self.XS = self.step(self.mean(self.sells()), self.XS) if self.x_of != "tick" else 1.0


class RavenOracle(DrivenOracle):
    """Section 3.2: doubles, added up in trade order."""

    def __init__(self, params: Params, x: str = "tick") -> None:
        super().__init__(params, x)
        self.EB, self.P, self.EV = 2 * params.p_buy - 1, params.p_buy, 0.0

    @abc.abstractmethod
    def theta(self) -> float: ...

    @abc.abstractmethod
    def h(self) -> float: ...

    @abc.abstractmethod
    def learn(self, n: int) -> None: ...

    def clear(self) -> None:
        super().clear()
        self.signs, self.signed, self.volume = 0.0, 0.0, 0.0
        self.run, self.longest = 0, 1

    def push(self, seen: Seen) -> None:
        b, q = 1 if seen.trade.buy else -1, seen.trade.quantity / UNIT
        if self.open and self.open[-1].trade.buy != seen.trade.buy:
            self.longest, self.run = max(self.longest, self.run), 0
        self.run += 1
        self.signs += b
        self.signed += b * q
        self.volume += q
        self.EV = self.EV or max(q, 1e-12)
        super().push(seen)

    def trade(self, trade: Print, gap: bool) -> Iterator[Fields]:
        self.push(Seen(trade, gap))
        n = len(self.open)
        if n >= 2 and abs(self.theta()) > abs(self.h()):
            yield {**bar(self.open), "theta": self.theta(), "threshold": self.h(), "expected_ticks": self.ET}
            self.learn(n)
            self.grow(n)
            self.clear()

    def share(self) -> float:
        return len(self.buys()) / len(self.open)


class RavenTib(RavenOracle):
    """tib."""

    def theta(self) -> float:
        return self.signs

    def h(self) -> float:
        return self.ET * self.EB

    def learn(self, n: int) -> None:
        p = ((n + self.theta()) / 2) / n
        self.EB = self.step(2 * p - 1, self.EB)


class RavenVib(RavenOracle):
    """vib."""

    def theta(self) -> float:
        return self.signed

    def h(self) -> float:
        return self.ET * self.EV * (2 * self.P - 1)

    def learn(self, n: int) -> None:
        self.P = self.step(self.share(), self.P)
        self.EV = self.step(max(self.volume / n, 1e-12), self.EV)


class RavenTrb(RavenOracle):
    """trb."""

    def theta(self) -> float:
        return float(self.longest)

    def h(self) -> float:
        return self.ET * max(self.P, 1 - self.P)

    def learn(self, n: int) -> None:
        self.P = self.P * (1.0 - self.params.a_imbl) + self.share() * self.params.a_imbl


class PlainOracle(DrivenOracle):
    """Bars of a number of ticks, a volume, an amount of quote currency."""

    def __init__(self, size: Fraction, x: str) -> None:
        super().__init__(Params(1, 0.0, 0.0, 0.0, 0.0), x)
        self.size = size

    def trade(self, trade: Print, gap: bool) -> Iterator[Fields]:
        self.push(Seen(trade, gap))
        if sum(self.totals.values()) >= self.size:
            yield bar(self.open)
            self.clear()


class VpinOracle:
    """Section 4: every part of every trade is kept."""

    def __init__(self, volume: Fraction, quote: bool, windows: tuple[int, int, int], floor: float) -> None:
        """Windows are those of VPIN, of sigma and of the percentile."""
        window, sigma_window, percentile_window = windows
        self.percentile_window, self.levels = percentile_window, list[float]()
        self.V, self.quote, self.n, self.w, self.floor = volume, quote, window, sigma_window, floor
        self.parts: list[tuple[Seen, Fraction]] = []
        self.filled = Fraction(0)
        self.closes: list[int] = []
        self.OI: list[float] = []
        self.one_sided: list[Fraction] = []
        self.missed = False

    def amount(self, trade: Print) -> Fraction:
        return Seen(trade, False).notional if self.quote else Fraction(trade.quantity, UNIT)

    def too_small_for(self, trade: Print) -> bool:
        return (self.filled + self.amount(trade)) // self.V > 10_000

    def trade(self, trade: Print, gap: bool) -> Iterator[Fields]:
        gap, self.missed = gap or self.missed, False
        rest = self.amount(trade)
        while rest > 0:
            part = min(rest, self.V - self.filled)
            self.parts.append((Seen(trade, gap), part))
            rest, self.filled = rest - part, self.filled + part
            if self.filled == self.V:
                yield self.emit()
                self.parts, self.filled = [], Fraction(0)

    def emit(self) -> Fields:
        trades = [seen for seen, _ in self.parts]
        bought = sum((part for seen, part in self.parts if seen.trade.buy), Fraction(0))
        V = float(self.V)
        self.closes.append(trades[-1].trade.price)
        self.one_sided.append(abs(2 * bought - self.V))
        changes = [float(Fraction(b - a, UNIT)) for a, b in pairwise(self.closes[-self.w - 1 :])]
        sigma = bulk = imbalance = vpin = aggressor = percentile = None
        if len(changes) == self.w:
            mean = math.fsum(changes) / self.w
            variance = math.fsum([(change - mean) * (change - mean) for change in changes]) / self.w
            sigma = max(math.sqrt(variance), self.floor)
            z = changes[-1] / sigma
            bulk = V * (0.5 * math.erfc(-z / math.sqrt(2)))
            imbalance = abs(2 * bulk - V)
            self.OI.append(imbalance)
        if len(self.OI) >= self.n:
            vpin = math.fsum(self.OI[-self.n :]) / (self.n * V)
            self.levels.append(vpin)
            newest = self.levels[-self.percentile_window :]
            if len(newest) == self.percentile_window:
                percentile = sum(level <= vpin for level in newest) / len(newest)
        if len(self.one_sided) >= self.n:
            aggressor = float(sum(self.one_sided[-self.n :], Fraction(0))) / (self.n * V)
        return {
            **prices(trades),
            "unit": "QUOTE" if self.quote else "BASE",
            "volume": units(self.V),
            "buy_volume": units(bought),
            "sigma": sigma,
            "bulk_buy_volume": bulk,
            "order_imbalance": imbalance,
            "vpin": vpin,
            "vpin_aggressor": aggressor,
            "vpin_percentile": percentile,
            "gap": any(seen.gap for seen in trades),
        }


def decimals(number: int) -> int:
    """How many decimals an unscaled number shows."""
    return len(f"{number:019d}"[-18:].rstrip("0"))


class Oracle:
    """Section 0 and all streams of one instrument, in the order of the registry."""

    def __init__(self, streams: Mapping[tuple[str, str], TimeOracle | DrivenOracle | VpinOracle]) -> None:
        self.streams = streams
        self.off: set[tuple[str, str]] = set()
        self.behind: set[tuple[str, str]] = set()
        """Streams that were off when a trade came, and have seen none since."""
        self.last: int | None = None
        self.missing: set[int] = set()
        self.ids: list[str] = []
        self.owed = False
        self.made: list[tuple[int, str, str, Fields]] = []
        self.refused: list[tuple[int, str]] = []
        self.counts = dict.fromkeys(("trades", "duplicates", "late_trades", "late_repairs", "holes"), 0)
        self.bar_seq = dict.fromkeys(streams, 0)

    def feed(self, offset: int, event: Print | ClockAt) -> None:
        if isinstance(event, ClockAt):
            for key, stream in self.streams.items():
                if isinstance(stream, TimeOracle) and key not in self.off:
                    bars = stream.advance(event.time_us)
                    self.publish(offset, key, ({**bar, "gap": bar["gap"] or key in self.behind} for bar in bars))
            return
        if self.is_bad(event):
            self.refuse(offset, "bad_value", event)
        elif self.is_duplicate(event):
            self.counts["duplicates"] += 1
        else:
            self.accept(offset, event)

    def is_bad(self, trade: Print) -> bool:
        return (
            trade.price <= 0
            or trade.quantity <= 0
            or trade.price >= 10**38
            or trade.quantity >= 10**32
            or trade.price * trade.quantity >= 10**50
            or trade.event_time - trade.received_time > 60_000_000
            or decimals(trade.price) + decimals(trade.quantity) > 18
        )

    def is_duplicate(self, trade: Print) -> bool:
        if trade.sequence is None:
            return trade.trade_id in self.ids[-10_000:]
        return self.last is not None and trade.sequence <= self.last and trade.sequence not in self.missing

    def refuse(self, offset: int, reason: str, trade: Print) -> None:
        self.refused.append((offset, reason))
        self.owed = self.owed or trade.sequence is None

    def accept(self, offset: int, trade: Print) -> None:
        if trade.sequence is None:
            gap = trade.after_gap or self.owed
            self.ids.append(trade.trade_id)
            self.owed = False
        elif self.last is not None and trade.sequence < self.last:
            self.missing.remove(trade.sequence)
            self.counts["late_repairs"] += 1
            for key, stream in self.streams.items():
                if isinstance(stream, TimeOracle) and key not in self.off:
                    stream.repair(trade)
            self.behind |= self.off
            return
        else:
            gap = self.last is not None and trade.sequence > self.last + 1
            self.missing |= set(range((self.last or 0) + 1, trade.sequence)) if gap else set()
            self.last = trade.sequence
        self.counts["trades"] += 1
        self.counts["holes"] += gap
        before = self.late()
        for key, stream in self.streams.items():
            if key in self.off:
                continue
            if isinstance(stream, VpinOracle) and stream.too_small_for(trade):
                self.refused.append((offset, "bucket_too_small"))
                stream.missed = True
            else:
                self.publish(offset, key, stream.trade(trade, gap or key in self.behind))
        self.behind = set(self.off)
        self.counts["late_trades"] += self.late() != before

    def late(self) -> list[int]:
        return [stream.late for stream in self.streams.values() if isinstance(stream, TimeOracle)]

    def publish(self, offset: int, key: tuple[str, str], records: Iterator[Fields]) -> None:
        for fields in records:
            self.made.append((offset, *key, {**fields, "bar_seq": self.bar_seq[key]}))
            self.bar_seq[key] += 1
