"""Trades gathered into Binance's aggregate trades: those of one taker order at one price.

"The Aggregate Trade Streams push trade information that is aggregated for a single taker order" (spot and USD-M
documents): told here by the same millisecond, price and side, and ids that count up.
"""

from collections.abc import Iterator

import msgspec

FIRST_ID = 1_500_000_001
PATIENCE_NS = 20_000_000
"""How long after a trade was received another may still belong to it."""


class Aggregate(msgspec.Struct):
    """An aggregate trade, or a single trade that may become part of one; quantity in 10^-8."""

    received_ns: int
    symbol: str
    event_ms: int
    trade_ms: int
    first_id: int
    last_id: int
    price: str
    quantity_e8: int
    buyer_is_maker: bool
    decimals: int = 8
    aggregate_id: int = 0

    def joins(self, before: "Aggregate") -> bool:
        """Whether this trade goes on with the one before."""
        same = self.trade_ms == before.trade_ms and self.price == before.price
        return same and self.buyer_is_maker == before.buyer_is_maker and self.first_id == before.last_id + 1


class Aggregates:
    """The open aggregate of every symbol. Ids of a symbol count up from the same number in every run."""

    def __init__(self) -> None:
        self._open: dict[str, Aggregate] = {}
        self._next: dict[str, int] = {}

    def add(self, trade: Aggregate) -> list[Aggregate]:
        """Take a trade in; what it ends."""
        before = self._open.get(trade.symbol)
        if before is not None and trade.joins(before):
            before.last_id = trade.last_id
            before.quantity_e8 += trade.quantity_e8
            before.decimals = max(before.decimals, trade.decimals)
            before.received_ns, before.event_ms = trade.received_ns, trade.event_ms
            return []
        self._open[trade.symbol] = trade
        return [self._end(before, trade.received_ns)] if before is not None else []

    def due(self, time_ns: int, patience_ns: int = PATIENCE_NS) -> Iterator[Aggregate]:
        """Those that nothing more is expected of."""
        if not self._open:
            return iter(())
        old = [symbol for symbol, row in self._open.items() if time_ns - row.received_ns >= patience_ns]
        return (self._end(self._open.pop(symbol), time_ns) for symbol in old)

    def rest(self) -> Iterator[Aggregate]:
        """What is open at the end."""
        return (self._end(row, row.received_ns) for row in self._open.values())

    def _end(self, row: Aggregate, time_ns: int) -> Aggregate:
        row.aggregate_id = self._next.setdefault(row.symbol, FIRST_ID)
        self._next[row.symbol] += 1
        row.received_ns = time_ns
        return row
