"""Kraken's order books, from the channel book of its WebSocket v2.

Rules: https://docs.kraken.com/exchange/guides/websockets/book-checksum-v2, whose steps these are:

1. "Process all price level updates in a message before calculating the checksum", in their order: there may be several
   of one price in a message.
2. "An update with "qty": 0 means that price level should be removed."
3. "After each update, truncate your book to the subscribed depth - you will not receive "qty": 0 for levels that fall
   out of scope."
4. "Build the asks string": for each of the top 10 asks, low to high, the price and the quantity, each without its point
   and then without its leading zeros.
5. "Build the bids string": likewise for the top 10 bids, high to low.
6. "Concatenate asks + bids strings", and compare its CRC32 with the message's `checksum`.

The zeros at the end of a number count, and only its text has them: `0.00100000` is 100000, where 0.001 would be 1. So
each level carries the text that its own frame had (`BookUpdate.bid_texts`), and no precision is guessed. Kraken prints
all prices of a pair with one number of decimals and all quantities with one, and never an exponent in this channel: of
somebody's 9,900 frames of August 2026 every checksum held over the text as it came, and none over re-printed doubles.
Some examples on its pages are re-printed: theirs cannot be checked. In the guide's own example they hold.

Frames have no numbers: the checksum alone tells what was lost. It covers the ten best levels; a change lost below them
shows when it comes up among them, or never. A whole book with the time and the checksum of the one before it is that
one again; were it another, the next change would tell.
"""

from collections.abc import Sequence
from zlib import crc32

from producers.books.ladder import Side
from producers.books.told import ToldBook
from producers.contract import BookUpdate

CHECKED = 10
"""Levels of each side that the checksum covers."""


class KrakenBook(ToldBook):
    """One pair's book (`producers.contract.Sequencer`), subscribed with this depth."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self._depth = depth
        self._bid_texts: dict[int, bytes] = {}
        self._ask_texts: dict[int, bytes] = {}

    def update(self, update: BookUpdate) -> bool:
        """Take a frame's update; True where the book has changed. Raises OutOfStep."""
        if not super().update(update):
            return False
        self._settle(self._ladder.bids, self._bid_texts, update.bids, update.bid_texts)
        self._settle(self._ladder.asks, self._ask_texts, update.asks, update.ask_texts)
        checksum = self._checksum()
        if update.checksum != checksum:
            raise self._lost("CHECKSUM", f"the book's checksum is {checksum}, and Kraken says {update.checksum}")
        return True

    def _settle(
        self, side: Side, texts: dict[int, bytes], levels: Sequence[tuple[int, int]], new: Sequence[bytes]
    ) -> None:
        """Cut a side to the depth, and keep the texts of its levels, by price."""
        side.cut(self._depth)
        texts.update((price, text) for (price, _), text in zip(levels, new, strict=True))
        if len(texts) > 4 * self._depth:
            for gone in texts.keys() - side.quantities.keys():
                del texts[gone]

    def _checksum(self) -> int:
        bids, asks = self._ladder.top(CHECKED)
        texts = [self._ask_texts[price] for price, _ in asks] + [self._bid_texts[price] for price, _ in bids]
        return crc32(b"".join(texts))
