"""What the sources have in common that are collected symbol by symbol."""

from collections.abc import Sequence

from producers.contract import Feed, Scope
from ravencore.records import Instrument


class BySymbol:
    """The scope `symbol` (part of `producers.contract.Source`)."""

    scope: Scope = "symbol"
    selection: str | None = None

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """None: what is collected is demanded symbol by symbol."""
        return ()
