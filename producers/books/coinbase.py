"""Coinbase's order books, from the channel level2.

Rules: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels (Level2 Channel) and
https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-overview (Sequence Numbers)

1. The channel "guarantees delivery of all updates and is the easiest way to keep a snapshot of the order book": first a
   `snapshot` event with all levels, then `update` events.
2. `new_quantity` is the new quantity of a price level, not a difference; 0 removes the level.
3. "Sequence numbers that are greater by more than one than the previous indicate that a message has been dropped."
   They count the frames of the connection and not the changes of a book, so that the session checks them, with the
   Counts that `parse` tells; after a jump it asks for the book anew.
4. "Sequence numbers that are less than the previous number can be ignored or represent messages that have arrived out
   of order." In a book they are ignored: a frame out of order is one that was missed before, and one that comes twice
   would set levels back to what they were.
"""

from producers.books.told import ToldBook
from producers.contract import BookUpdate


class CoinbaseBook(ToldBook):
    """One product's book (`producers.contract.Sequencer`).

    An update's `last` is the number of its frame, which is no id of the book: a book of Coinbase has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self._newest = 0, 0

    def update(self, update: BookUpdate) -> bool:
        """Take a frame's update; True where the book has changed. Raises OutOfStep."""
        frame = update.connection_time, update.last or 0
        if self.in_step and frame < self._newest:
            return False
        changed = super().update(update)
        self._newest, self.last = frame, None
        return changed
