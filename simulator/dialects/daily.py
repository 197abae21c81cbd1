"""What tickers say of the last day: here of all that a synthetic market has traded since it began."""

from simulator.events import Trade


class Day:
    """Sums of one symbol's trades, in 10^-8."""

    def __init__(self) -> None:
        self.open_e8 = self.high_e8 = self.low_e8 = self.last_e8 = self.volume_e8 = 0
        self._notional = 0

    def start(self, price_e8: int) -> None:
        """Before the first trade, the price that there is."""
        if not self.open_e8:
            self.open_e8 = self.high_e8 = self.low_e8 = self.last_e8 = price_e8

    def add(self, trade: Trade) -> None:
        self.start(trade.price_e8)
        self.last_e8 = trade.price_e8
        self.high_e8, self.low_e8 = max(self.high_e8, trade.price_e8), min(self.low_e8, trade.price_e8)
        self.volume_e8 += trade.quantity_e8
        self._notional += trade.price_e8 * trade.quantity_e8

    @property
    def average_e8(self) -> int:
        """The mean price by volume."""
        return self._notional // self.volume_e8 if self.volume_e8 else self.last_e8

    @property
    def change_percent(self) -> float:
        return (self.last_e8 / self.open_e8 - 1.0) * 100.0 if self.open_e8 else 0.0
