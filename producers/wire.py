"""Records of the market as Avro, byte for byte what `ravencore.codec` gives, several times faster.

Every frame passes here. Trades, quotes and books, which are most of what there is, are written out field by field; all
others as `ravencore.writer` does. The names a symbol's records begin with, prices and the levels of a book, of which
most were in the book 100 ms before, are made into bytes once and kept: of levels where they are the same as before,
since a cache of them all would be far larger than the processor's. A test holds these functions against the codec.
"""

from collections.abc import Sequence
from functools import lru_cache

from ravencore.codec import Codec, decimal_bytes
from ravencore.records import Book, Level, Quote, Trade
from ravencore.writer import (
    FALSE_TRUE,
    KEPT_NAMES,
    NO_ITEMS,
    NULL,
    VALUE,
    Writer,
    exact_bytes,
    long_bytes,
    optional_exact_bytes,
    raw_bytes,
    text_bytes,
)

SIDES = {"BUY": b"\x00", "SELL": b"\x02"}
SOURCES = {"VENUE_SNAPSHOT": b"\x00", "MAINTAINED": b"\x02"}
KEPT_SIDES = 1 << 12
NOTHING: dict[int, bytes] = {}


class Wire(Writer):
    """Encodes records as a codec does."""

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec)
        self._trade_header, self._quote_header = codec.header(Trade), codec.header(Quote)
        self._book_header = codec.header(Book)
        self._writes |= {Trade: self.trade, Quote: self.quote, Book: self.book}
        self._bids, self._asks = Sides(), Sides()

    def trade(self, trade: Trade) -> bytes:
        """The trade as a Kafka value."""
        trade_id, sequence = trade.trade_id.encode(), trade.sequence
        return b"".join(
            (
                _start(self._trade_header, trade.venue, trade.symbol),
                long_bytes(trade.event_time),
                long_bytes(trade.received_time),
                long_bytes(len(trade_id)),
                trade_id,
                NULL if sequence is None else VALUE + long_bytes(sequence),
                exact_bytes(trade.price),
                exact_bytes(trade.quantity),
                _trade_end(trade.side, trade.after_gap, trade.connection_time),
                long_bytes(trade.connection_sequence),
            )
        )

    def quote(self, quote: Quote) -> bytes:
        """The quote as a Kafka value."""
        event_time, update_id, sequence = quote.event_time, quote.update_id, quote.sequence
        return b"".join(
            (
                _start(self._quote_header, quote.venue, quote.symbol),
                NULL if event_time is None else VALUE + long_bytes(event_time),
                long_bytes(quote.received_time),
                NULL if update_id is None else VALUE + text_bytes(update_id),
                NULL if sequence is None else VALUE + long_bytes(sequence),
                optional_exact_bytes(quote.bid_price),
                optional_exact_bytes(quote.bid_quantity),
                optional_exact_bytes(quote.ask_price),
                optional_exact_bytes(quote.ask_quantity),
                optional_exact_bytes(quote.last_price),
                _kept_long(quote.connection_time),
                long_bytes(quote.connection_sequence),
            )
        )

    def book(self, book: Book) -> bytes:
        """The book as a Kafka value."""
        name, event_time, update_id, sequence = (
            (book.venue, book.symbol),
            book.event_time,
            book.update_id,
            book.sequence,
        )
        return b"".join(
            (
                _start(self._book_header, book.venue, book.symbol),
                NULL if event_time is None else VALUE + long_bytes(event_time),
                long_bytes(book.received_time),
                NULL if update_id is None else VALUE + text_bytes(update_id),
                NULL if sequence is None else VALUE + long_bytes(sequence),
                SOURCES[book.source],
                self._bids.write(name, book.bids),
                self._asks.write(name, book.asks),
                _kept_long(book.connection_time),
                long_bytes(book.connection_sequence),
            )
        )


class Sides:
    """Writes the sides of books: of levels that were in the same side before, the very same objects, once."""

    def __init__(self) -> None:
        self._before: dict[tuple[str, str], tuple[Sequence[Level], dict[int, bytes]]] = {}
        """Levels, so that they live, and the bytes of each by its id()."""

    def write(self, name: tuple[str, str], side: Sequence[Level]) -> bytes:
        """The array of levels."""
        if not side:
            return NO_ITEMS
        before = self._before.get(name)
        known = before[1].get if before is not None else NOTHING.get
        places = [*map(id, side)]
        levels = [known(place) or _level(level) for place, level in zip(places, side, strict=True)]
        if before is None and len(self._before) >= KEPT_SIDES:
            self._before.clear()
        self._before[name] = side, dict(zip(places, levels, strict=True))
        return long_bytes(len(side)) + b"".join(levels) + NO_ITEMS


_kept_long = lru_cache(KEPT_NAMES)(long_bytes)


def _level(level: Level) -> bytes:
    return raw_bytes(decimal_bytes(level.price)) + raw_bytes(decimal_bytes(level.quantity))


@lru_cache(KEPT_NAMES)
def _start(header: bytes, venue: str, symbol: str) -> bytes:
    return header + text_bytes(venue) + text_bytes(symbol)


@lru_cache(KEPT_NAMES)
def _trade_end(side: str, after_gap: bool, connection_us: int) -> bytes:
    return SIDES[side] + FALSE_TRUE[after_gap] + long_bytes(connection_us)
