"""The levels of an order book, in order of price."""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Sequence


class Side:
    """One side: quantities by price, and the prices in order. `best_is_highest` for bids."""

    def __init__(self, *, best_is_highest: bool) -> None:
        self.quantities: dict[int, int] = {}
        self._prices: list[int] = []
        self._best_is_highest = best_is_highest

    def replace(self, levels: Iterable[tuple[int, int]]) -> None:
        """Forget all, and hold these."""
        self.quantities = {price: quantity for price, quantity in levels if quantity}
        self._prices = sorted(self.quantities)

    def change(self, levels: Iterable[tuple[int, int]]) -> None:
        """Set the quantities of these prices; 0 ends a level, whether it is there or not."""
        quantities, prices = self.quantities, self._prices
        for price, quantity in levels:
            if not quantity:
                if quantities.pop(price, None) is not None:
                    del prices[bisect_left(prices, price)]
                continue
            if price not in quantities:
                insort(prices, price)
            quantities[price] = quantity

    def best(self, depth: int) -> Sequence[tuple[int, int]]:
        """The best levels, best first."""
        prices = self._prices[: -depth - 1 : -1] if self._best_is_highest else self._prices[:depth]
        return [(price, self.quantities[price]) for price in prices]

    def count(self, price: int) -> int:
        """How many levels are at this price or better."""
        if self._best_is_highest:
            return len(self._prices) - bisect_left(self._prices, price)
        return bisect_right(self._prices, price)

    def cut(self, depth: int) -> None:
        """Forget all levels beyond the best `depth`."""
        surplus = len(self._prices) - depth
        if surplus <= 0:
            return
        out = self._prices[:surplus] if self._best_is_highest else self._prices[depth:]
        for price in out:
            del self.quantities[price]
        self._prices = self._prices[surplus:] if self._best_is_highest else self._prices[:depth]


class Ladder:
    """Both sides of a book."""

    def __init__(self) -> None:
        self.bids, self.asks = Side(best_is_highest=True), Side(best_is_highest=False)

    def replace(self, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> None:
        """Forget all, and hold these."""
        self.bids.replace(bids)
        self.asks.replace(asks)

    def change(self, bids: Iterable[tuple[int, int]], asks: Iterable[tuple[int, int]]) -> None:
        """Set the quantities of these levels; 0 ends a level."""
        self.bids.change(bids)
        self.asks.change(asks)

    def top(self, depth: int) -> tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]:
        """The best levels of each side, best first."""
        return self.bids.best(depth), self.asks.best(depth)
