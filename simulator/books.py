"""Order books kept from depth messages: the venue's update rules, and the top of the book as the recorded text.

A collector that keeps a book tells it at its own pace: `digest` and `Digests` say what it was after each difference.

Rules: "How to manage a local order book correctly" in binance-spot-api-docs/web-socket-streams.md.
"""

from array import array
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from hashlib import sha256

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
        self.time_ns = snapshot.time_ns
        self.bids = Side(snapshot.bids)
        self.asks = Side(snapshot.asks)

    def apply(self, diff: DepthDiff) -> None:
        for price, quantity in diff.bids:
            self.bids.set(price, quantity)
        for price, quantity in diff.asks:
            self.asks.set(price, quantity)
        self.last_id, self.time_ns = diff.last_id, diff.time_ns

    def top(self, count: int) -> Snapshot:
        return Snapshot(self.last_id, self.bids.highest(count), self.asks.lowest(count), self.time_ns)


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
    return Snapshot(snapshot.last_id, snapshot.bids[:limit], snapshot.asks[:limit], snapshot.time_ns)


DIGESTED_LEVELS = 20
VERIFIED_LEVELS = {"KRAKEN": 10}
"""By venue, where its readers can be sure of fewer: Kraken's checksum covers ten, and its frames have no numbers."""
DIGEST_BYTES = 8


def digest(bids: Levels, asks: Levels, levels: int = DIGESTED_LEVELS) -> str:
    """Sixteen hexadecimal digits that stand for the best levels of each side, best first.

    They are the beginning of the SHA-256 of `price:quantity,price:quantity|price:quantity`, bids before the bar, with
    plain decimals: no exponent, no last zeros.
    """
    sides = (",".join([_plain_level(*level) for level in side[:levels]]) for side in (bids, asks))
    return sha256("|".join(sides).encode()).hexdigest()[: 2 * DIGEST_BYTES]


@lru_cache(maxsize=1 << 17)
def _plain_level(price: str, quantity: str) -> str:
    return f"{plain(price)}:{plain(quantity)}"


def plain(text: str) -> str:
    """A decimal without exponent and last zeros: 1.50 is 1.5, 100 is 100, 5e-7 is 0.0000005."""
    fixed = text if text.replace(".", "", 1).isdecimal() else format(Decimal(text), "f")
    return fixed.rstrip("0").removesuffix(".") if "." in fixed else fixed


class Digests:
    """The digests of one book after each of its last changes, by update ids or times that count up."""

    KEPT, TRIMMED = 50_000, 5_000

    def __init__(self) -> None:
        self._keys = array("Q")
        self._digests = array("Q")

    def add(self, key: int, top: Snapshot) -> None:
        """Note a state, once."""
        if self._keys and key <= self._keys[-1]:
            return
        self._keys.append(key)
        self._digests.append(int(digest(top.bids, top.asks), 16))
        if len(self._keys) > self.KEPT:
            del self._keys[: self.TRIMMED], self._digests[: self.TRIMMED]

    def told(self) -> dict[str, str]:
        """Digests by key, oldest first."""
        width = 2 * DIGEST_BYTES
        return {str(key): f"{value:0{width}x}" for key, value in zip(self._keys, self._digests, strict=True)}
