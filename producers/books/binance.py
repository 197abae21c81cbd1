"""Binance's order books kept from differences, by the venue's numbered rules for spot and for USD-M futures.

Spot: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams#how-to-manage-a-local-order-book-correctly
Futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/How-to-manage-a-local-order-book-correctly

Both begin alike, and so are one class but for the question whether an update follows:

1. Open the stream.
2. Hold the updates that come.
3. Get a snapshot over REST, and not before an update is held: the first one proves that the stream is open, which an
   acknowledgement does not. A book in which nothing changes begins with its first change.
4. Spot: a snapshot older than the first update that is held (`lastUpdateId` < `U`) is of no use: back to 3.
5. Of what is held, drop what ends before the snapshot does, or with it.
6. The book is the snapshot, and then all that is held and comes, as long as each update follows the one before.

A quantity is what a level now holds, not a change of it; 0 ends the level, and ending one that is not there is normal.

A snapshot has so many levels of each side and no more, and the levels beyond are not known until they change (the note
below the spot rules). 1000 levels of BTCUSDT futures are a quarter of a percent, and last for minutes. Where prices
have moved so far that half of the known levels are gone, another snapshot is wanted; the book goes on meanwhile, and
takes it in as if it began there. Only where the best TOP reach beyond what is known is the book given up.
"""

from collections import deque
from collections.abc import Sequence
from math import inf
from typing import ClassVar

from producers.books.ladder import Ladder
from producers.contract import BookUpdate, OutOfStep

HELD_UPDATES = 10_000
"""Updates held at most while a snapshot is awaited; of more, the oldest are forgotten, and so must be in it."""
TOP = 20
"""Levels of each side that are published."""


class BinanceBook:
    """What both sequencers have in common (`producers.contract.Sequencer`)."""

    snapshot_levels: ClassVar[int]
    """As many levels of a side as a snapshot can hold."""

    def __init__(self) -> None:
        self.wants_snapshot = False
        self.last: int | None = None
        self.event_time: int | None = None
        self._ladder = Ladder()
        self._lowest_bid: int | None = None
        self._highest_ask: int | None = None
        """The ends of what the snapshot told, None where it told all there was."""
        self._joined = False
        """Whether an update has followed the snapshot."""
        self._held: deque[BookUpdate] = deque(maxlen=HELD_UPDATES)

    @property
    def in_step(self) -> bool:
        """Whether the book is the venue's as of `last`."""
        return self.last is not None

    def update(self, update: BookUpdate) -> bool:
        """Take a frame's update; True where the book is in step and has changed. Raises OutOfStep."""
        last = self.last
        if last is None:
            self.wants_snapshot = True
        if self.wants_snapshot:
            self._held.append(update)
        if last is None or _end(update) <= last:
            return False
        if not self._follows(update, last, self._joined):
            self._start_anew(update)
            raise OutOfStep("SEQUENCE", f"update {update.first} does not follow {last}")
        self._apply(update)
        self._look_ahead(update)
        return True

    def whole(self, update: BookUpdate) -> bool:
        """Take the REST snapshot; True where the book is now in step, and has been taken from it."""
        following = self._following(update) if self.wants_snapshot else None
        if following is None:
            return False
        self._ladder.replace(update.bids, update.asks)
        self._lowest_bid = _end_of(update.bids, self.snapshot_levels)
        self._highest_ask = _end_of(update.asks, self.snapshot_levels)
        self.last, self.event_time, self._joined = update.last, update.event_time, False
        for later in following:
            self._apply(later)
        self.wants_snapshot = False
        self._held.clear()
        return True

    def top(self, depth: int) -> tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]:
        """The best levels of each side, best first."""
        return self._ladder.top(depth)

    def _follows(self, update: BookUpdate, last: int, joined: bool) -> bool:
        """Whether an update that ends after `last` follows it: another one, or where not `joined` the snapshot."""
        raise NotImplementedError

    def _following(self, whole: BookUpdate) -> list[BookUpdate] | None:
        """What is held of after a snapshot; None where some is missing between, or the book is past it all."""
        last = _end(whole)
        following: list[BookUpdate] = []
        for update in sorted(self._held, key=_end):
            if _end(update) <= last:
                continue
            if not self._follows(update, last, bool(following)):
                return None
            following.append(update)
            last = _end(update)
        return None if self.last is not None and last < self.last else following

    def _apply(self, update: BookUpdate) -> None:
        self._ladder.change(update.bids, update.asks)
        self.last, self.event_time, self._joined = update.last, update.event_time, True

    def _look_ahead(self, update: BookUpdate) -> None:
        bids = inf if self._lowest_bid is None else self._ladder.bids.count(self._lowest_bid)
        asks = inf if self._highest_ask is None else self._ladder.asks.count(self._highest_ask)
        known = min(bids, asks)
        if known < self.snapshot_levels // 2:
            self.wants_snapshot = True
        if known < TOP:
            self._start_anew(update)
            raise OutOfStep("UNKNOWN", f"prices have left the {self.snapshot_levels} levels of the snapshot behind")

    def _start_anew(self, update: BookUpdate) -> None:
        self.wants_snapshot = True
        self.last = self.event_time = None
        self._ladder = Ladder()
        self._held.clear()
        self._held.append(update)


class BinanceSpotBook(BinanceBook):
    """A book of Binance spot.

    To apply an update: 1. where `u` is not above the book's id, ignore it; where `U` is above the book's id + 1,
    updates were missed: start anew. 2. Set its levels. 3. The book's id is its `u`.
    """

    snapshot_levels = 5000

    def _follows(self, update: BookUpdate, last: int, joined: bool) -> bool:
        return update.first is not None and update.first <= last + 1


class BinanceFuturesBook(BinanceBook):
    """A book of USD-M futures, whose ids leave room between updates.

    4. Drop what has `u` < `lastUpdateId`. 5. The first update has `U` <= `lastUpdateId` <= `u`. 6. From then on `pu`
    is the `u` before, else start anew at 3. The rules are silent where the snapshot ends with an update: the next one
    has `U` above `lastUpdateId`, and `pu` equal to it, and follows.
    """

    snapshot_levels = 1000

    def _follows(self, update: BookUpdate, last: int, joined: bool) -> bool:
        if update.previous == last:
            return True
        return not joined and update.first is not None and update.first <= last


def _end(update: BookUpdate) -> int:
    assert update.last is not None, "Binance's updates and snapshots have ids"
    return update.last


def _end_of(side: Sequence[tuple[int, int]], levels: int) -> int | None:
    """The last price of a side that was cut off after so many levels; None of one that was not."""
    return side[-1][0] if len(side) >= levels else None
