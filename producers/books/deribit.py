"""Deribit's order books, from the channel book.{instrument}.{interval}.

Rules: https://docs.deribit.com/subscriptions/orderbook/bookinstrument_nameinterval

1. "The first notification contains a full snapshot of the book (bids and asks for all price levels)."
2. "Subsequent notifications contain only incremental changes to individual price levels": `new`, `change`, `delete`.
3. "Each notification includes a change_id. Every message except the first also contains prev_change_id. If
   prev_change_id equals the change_id of the previous message, it indicates that no messages were missed."

The ids grow, as all recordings show: a change whose id is not above that of the book is one that came twice, and is
passed over. So is a whole book, unless its time is above the book's: then the ids begin anew with it.
`prev_change_id` is not read in a snapshot, where some have it.
"""

from producers.books.told import ToldBook
from producers.contract import BookUpdate


class DeribitBook(ToldBook):
    """One instrument's book (`producers.contract.Sequencer`)."""

    def _is_repeated(self, update: BookUpdate) -> bool:
        is_higher = (update.last or 0) > (self.last or 0)
        return not is_higher and (update.event_time or 0) <= (self.event_time or 0)

    def _is_news(self, update: BookUpdate) -> bool:
        super()._is_news(update)
        if update.last is not None and self.last is not None and update.last <= self.last:
            return False
        if update.previous != self.last:
            raise self._lost("SEQUENCE", f"a change after {update.previous} came where {self.last} was the last")
        return True
