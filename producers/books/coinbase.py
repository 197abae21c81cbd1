"""Coinbase's order books, from the channel level2.

Rules: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels (Level2 Channel) and
https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-overview (Sequence Numbers)

1. The channel "guarantees delivery of all updates and is the easiest way to keep a snapshot of the order book": first a
   `snapshot` event with all levels, then `update` events.
2. `new_quantity` is the new quantity of a price level, not a difference; 0 removes the level.
3. "Sequence numbers that are greater by more than one than the previous indicate that a message has been dropped."
   They count the frames of the connection and not the changes of a book, so that the session checks them, with the
   Counts that `parse` tells; after a jump it asks for the book anew.
"""

from producers.books.told import ToldBook


class CoinbaseBook(ToldBook):
    """One product's book (`producers.contract.Sequencer`)."""
