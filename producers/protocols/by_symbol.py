"""What the sources have in common that are collected symbol by symbol."""

from collections.abc import Sequence

from producers.contract import Feed, Scope, Source
from ravencore.records import Instrument

IN_TRADE = frozenset(
    {"TRADING", "online", "limit_only", "post_only", "reduce_only", "cancel_only", "open", "active"},
)
"""What the venues say of a symbol that has a market, though not all may be done there at the moment."""


class BySymbol:
    """The scope `symbol` (part of `producers.contract.Source`)."""

    scope: Scope = "symbol"
    selection: str | None = None

    def market_feeds(self: Source, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """Every channel of every symbol that is in trade."""
        symbols = [instrument.symbol for instrument in instruments if instrument.status in IN_TRADE]
        return [self.feed(channel, symbol) for symbol in symbols for channel in self.channels]
