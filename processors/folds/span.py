"""The trades of a bar that is still open, aggregated: what every kind of bar shares."""

from typing import Any, Self

from processors.contract import Stream, Tape
from ravencore.codec import decimal_bytes, decimal_units
from ravencore.decimals import ONE
from ravencore.records import Bar


class Span:
    """Times, ids, prices and number of a run of trades, and whether one of them follows a hole."""

    __slots__ = (
        "close",
        "close_time",
        "first_id",
        "gap",
        "high",
        "last_id",
        "low",
        "open",
        "open_time",
        "ticks",
    )

    def __init__(self, tape: Tape, start: int, stop: int) -> None:
        prices = tape.price[start:stop]
        self.open_time, self.close_time = tape.event_time[start], tape.event_time[stop - 1]
        self.first_id, self.last_id = tape.trade_id[start], tape.trade_id[stop - 1]
        self.open, self.close = prices[0], prices[-1]
        self.high, self.low = max(prices), min(prices)
        self.ticks = stop - start
        self.gap = tape.has_gap(start, stop)

    def extend(self, tape: Tape, start: int, stop: int) -> None:
        """Add rows from `start` to `stop` (exclusive, at least one)."""
        prices = tape.price[start:stop]
        self.close_time, self.last_id, self.close = tape.event_time[stop - 1], tape.trade_id[stop - 1], prices[-1]
        high, low = max(prices), min(prices)
        self.high, self.low = max(self.high, high), min(self.low, low)
        self.ticks += stop - start
        self.gap = self.gap or tape.has_gap(start, stop)

    def pack(self) -> list[Any]:
        """The state as MessagePack-able values: prices do not fit its 64-bit integers and go as bytes."""
        prices = map(decimal_bytes, (self.open, self.high, self.low, self.close))
        return [self.open_time, self.close_time, self.first_id, self.last_id, *prices, self.ticks, self.gap]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """The span that `pack` wrote."""
        span = cls.__new__(cls)
        span.open_time, span.close_time, span.first_id, span.last_id = packed[:4]
        span.open, span.high, span.low, span.close = map(decimal_units, packed[4:8])
        span.ticks, span.gap = packed[8:10]
        return span


class OpenBar(Span):
    """A span with the volumes of a Bar; `notional` at scale 36."""

    __slots__ = ("buy_ticks", "buy_volume", "notional", "volume")

    def __init__(self, tape: Tape, start: int, stop: int) -> None:
        super().__init__(tape, start, stop)
        self.volume = self.notional = self.buy_volume = self.buy_ticks = 0
        self._add(tape, start, stop)

    def extend(self, tape: Tape, start: int, stop: int) -> None:
        """Add rows from `start` to `stop` (exclusive, at least one)."""
        super().extend(tape, start, stop)
        self._add(tape, start, stop)

    def _add(self, tape: Tape, start: int, stop: int) -> None:
        self.volume += tape.volumes[stop] - tape.volumes[start]
        self.notional += tape.notionals[stop] - tape.notionals[start]
        self.buy_volume += tape.buy_volumes[stop] - tape.buy_volumes[start]
        self.buy_ticks += tape.buy_counts[stop] - tape.buy_counts[start]

    def pack(self) -> list[Any]:
        """The state as MessagePack-able values."""
        volumes = map(decimal_bytes, (self.volume, self.notional, self.buy_volume))
        return [*super().pack(), *volumes, self.buy_ticks]

    @classmethod
    def unpack(cls, packed: list[Any]) -> Self:
        """The bar that `pack` wrote."""
        bar = super().unpack(packed)
        bar.volume, bar.notional, bar.buy_volume = map(decimal_units, packed[10:13])
        bar.buy_ticks = packed[13]
        return bar

    def record(
        self,
        stream: Stream,
        bar_seq: int,
        *,
        open_time: int,
        close_time: int,
        gap: bool,
        theta: float | None = None,
        threshold: float | None = None,
        expected_ticks: float | None = None,
        warmup: bool = False,
    ) -> Bar:
        """The finished Bar."""
        return Bar(
            venue=stream.venue,
            symbol=stream.symbol,
            kind=stream.kind,
            profile=stream.profile,
            bar_seq=bar_seq,
            open_time=open_time,
            close_time=close_time,
            first_trade_id=self.first_id,
            last_trade_id=self.last_id,
            open=self.open,
            high=self.high,
            low=self.low,
            close=self.close,
            volume=self.volume,
            quote_volume=self.notional // ONE,
            buy_volume=self.buy_volume,
            ticks=self.ticks,
            buy_ticks=self.buy_ticks,
            theta=theta,
            threshold=threshold,
            expected_ticks=expected_ticks,
            warmup=warmup,
            gap=gap,
        )
