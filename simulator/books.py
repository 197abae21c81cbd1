"""Order books kept from depth messages: the venue's update rules, and the top of the book as the recorded text.

Rules: "How to manage a local order book correctly" in binance-spot-api-docs/web-socket-streams.md.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence

from simulator.contract import Snapshot
from simulator.events import DepthDiff, Levels


class Side:
    """Levels of one side, by price. Prices keep their text; their order comes from the nearest double,
    which tells apart all prices of 15 digits."""

    def __init__(self, levels: Levels = ()) -> None:
        self.levels: dict[float, tuple[str, str]] = {float(price): (price, size) for price, size in levels}
        self.prices = sorted(self.levels)

    def set(self, price: str, quantity: str) -> None:
        key = float(price)
        if float(quantity) == 0.0:
            if self.levels.pop(key, None) is not None:
                del self.prices[bisect_left(self.prices, key)]
            return
        if key not in self.levels:
            insort(self.prices, key)
        self.levels[key] = (price, quantity)

    def lowest(self, count: int) -> list[tuple[str, str]]:
        return [self.levels[price] for price in self.prices[:count]]

    def highest(self, count: int) -> list[tuple[str, str]]:
        return [self.levels[price] for price in self.prices[: -count - 1 : -1]]


class Book:
    """A book as of `last_id`."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.last_id = snapshot.last_id
        self.bids = Side(snapshot.bids)
        self.asks = Side(snapshot.asks)

    def apply(self, diff: DepthDiff) -> None:
        for price, quantity in diff.bids:
            self.bids.set(price, quantity)
        for price, quantity in diff.asks:
            self.asks.set(price, quantity)
        self.last_id = diff.last_id

    def top(self, count: int) -> Snapshot:
        return Snapshot(self.last_id, self.bids.highest(count), self.asks.lowest(count))


class BookKeeper:
    """The book of one symbol, started from the first snapshot that fits and dropped when a difference is missing.

    `book` is None before a snapshot fits and after a hole that no later snapshot closes; `holes` counts those.
    """

    def __init__(self, snapshots: Iterable[Snapshot]) -> None:
        self.book: Book | None = None
        self.holes = 0
        self._snapshots = deque(sorted(snapshots, key=lambda snapshot: snapshot.last_id))

    @property
    def hopeless(self) -> bool:
        """No book, and no snapshot left to start one from."""
        return self.book is None and not self._snapshots

    def apply(self, diff: DepthDiff) -> bool:
        """Fold one difference; True when the book is now as of its last id."""
        if self.book is not None and diff.first_id > self.book.last_id + 1:
            self.book = None
            self.holes += 1
        if self.book is None:
            self.book = self._start(diff)
        if self.book is None or diff.last_id <= self.book.last_id:
            return False
        self.book.apply(diff)
        return True

    def _start(self, diff: DepthDiff) -> Book | None:
        while self._snapshots and self._snapshots[0].last_id < diff.first_id - 1:
            self._snapshots.popleft()
        if not self._snapshots or self._snapshots[0].last_id >= diff.last_id:
            return None
        return Book(self._snapshots.popleft())

    def first_snapshot(self) -> Snapshot | None:
        """What a client may be shown before any difference was folded."""
        return self._snapshots[0] if self._snapshots else None


def cut(snapshot: Snapshot, limit: int) -> Snapshot:
    """The best `limit` levels of each side."""
    return Snapshot(snapshot.last_id, _head(snapshot.bids, limit), _head(snapshot.asks, limit))


def _head(levels: Levels, limit: int) -> Sequence[tuple[str, str]]:
    return levels[:limit]
