"""Records of the market as Avro, byte for byte what `ravencore.codec` gives, several times faster.

Every frame passes here. Much comes again and again: the names a symbol's records begin with, prices, the levels of a
book, of which most were in the book 100 ms before, the upper digits of times and ids. The bytes of these are made once
and kept: of levels where they are the same as before, since a cache of them all would be far larger than the
processor's. A test holds these functions against the codec, and so against the schemas:
https://avro.apache.org/docs/1.12.0/specification/#binary-encoding

Trades, quotes and books, which are most of what there is, are written out field by field; all others as their schema
says.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache, partial
from struct import Struct as Packed
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from ravencore.codec import Codec, Schema, decimal_bytes, load_schema
from ravencore.records import Book, Level, MarketRecord, Quote, Record, ServiceStatus, Trade

Write = Callable[[Any], bytes]
"""The bytes of a field's value."""
NULL, VALUE = b"\x00", b"\x02"
"""Branch of a union of null and something."""
SIDES = {"BUY": b"\x00", "SELL": b"\x02"}
SOURCES = {"VENUE_SNAPSHOT": b"\x00", "MAINTAINED": b"\x02"}
FALSE_TRUE = (b"\x00", b"\x01")
KEPT_NAMES, KEPT_VALUES, KEPT_SIDES = 1 << 14, 1 << 16, 1 << 12
NO_ITEMS = b"\x00"
NOTHING: dict[int, bytes] = {}

# A long is zigzagged, then written in groups of 7 bits, low ones first, each but the last with its high bit set.
# Micro-optimization: two groups are looked up at once, and what lies above the lower four changes once in minutes.
TWO_GROUPS = 1 << 14
_LAST = [bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(TWO_GROUPS)]
_MORE = [bytes((n & 127 | 128, n >> 7 | 128)) for n in range(TWO_GROUPS)]
_LOW = _MORE[::2]
"""The lower two groups of a positive number, by its lower 13 bits, which zigzagging doubles."""


class Wire:
    """Encodes records as a codec does."""

    def __init__(self, codec: Codec) -> None:
        self._codec = codec
        self._trade_header, self._quote_header = codec.header(Trade), codec.header(Quote)
        self._book_header = codec.header(Book)
        self._writes: dict[type[Record], Callable[[Any], bytes]] = {
            Trade: self.trade,
            Quote: self.quote,
            Book: self.book,
        }
        self._bids, self._asks = Sides(), Sides()

    def encode(self, record: MarketRecord | ServiceStatus) -> bytes:
        """Any record of the market as a Kafka value, or a status, which may tell of thousands of feeds."""
        write = self._writes.get(type(record))
        if write is None:
            write = self._writes[type(record)] = partial(_row, self._codec.header(type(record)), _fields(type(record)))
        return write(record)

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
                _decimal(trade.price),
                _decimal(trade.quantity),
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
                NULL if update_id is None else VALUE + _text(update_id),
                NULL if sequence is None else VALUE + long_bytes(sequence),
                _optional_decimal(quote.bid_price),
                _optional_decimal(quote.bid_quantity),
                _optional_decimal(quote.ask_price),
                _optional_decimal(quote.ask_quantity),
                _optional_decimal(quote.last_price),
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
                NULL if update_id is None else VALUE + _text(update_id),
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


def long_bytes(number: int) -> bytes:
    """A long."""
    rest = number >> 13
    if rest >= TWO_GROUPS:
        return _LOW[number & 8191] + _MORE[rest & 16383] + _upper(rest >> 14)
    if rest > 0:
        return _LOW[number & 8191] + _LAST[rest]
    return _LAST[number << 1] if rest == 0 else _groups(~(number << 1))


def _groups(rest: int) -> bytes:
    return _LAST[rest] if rest < TWO_GROUPS else _MORE[rest & 16383] + _groups(rest >> 14)


_upper = lru_cache(KEPT_NAMES)(_groups)
_kept_long = lru_cache(KEPT_NAMES)(long_bytes)


def _text(text: str) -> bytes:
    raw = text.encode()
    return long_bytes(len(raw)) + raw


def _bytes(raw: bytes) -> bytes:
    return long_bytes(len(raw)) + raw


@lru_cache(KEPT_VALUES)
def _decimal(units: int) -> bytes:
    return _bytes(decimal_bytes(units))


@lru_cache(KEPT_VALUES)
def _optional_decimal(units: int | None) -> bytes:
    return NULL if units is None else VALUE + _bytes(decimal_bytes(units))


def _level(level: Level) -> bytes:
    return _bytes(decimal_bytes(level.price)) + _bytes(decimal_bytes(level.quantity))


@lru_cache(KEPT_NAMES)
def _start(header: bytes, venue: str, symbol: str) -> bytes:
    return header + _text(venue) + _text(symbol)


@lru_cache(KEPT_NAMES)
def _trade_end(side: str, after_gap: bool, connection_us: int) -> bytes:
    return SIDES[side] + FALSE_TRUE[after_gap] + long_bytes(connection_us)


# Any record, as its schema says


def _row(header: bytes, fields: Sequence[Write], record: Struct) -> bytes:
    return header + b"".join([write(value) for write, value in zip(fields, astuple(record), strict=True)])


def _fields(cls: type[Record]) -> Sequence[Write]:
    return _fields_of(load_schema(f"{cls.SCHEMA}.avsc"))


def _fields_of(schema: Schema) -> Sequence[Write]:
    return [_field(field["name"], field["type"]) for field in schema["fields"]]


def _field(name: str, kind: Any) -> Write:
    if isinstance(kind, list):
        return _optional(_field(name, kind[1]))
    if isinstance(kind, str):
        return _text if name.endswith(("_id", "_error")) else PLAIN[kind]
    if kind["type"] == "record":
        return partial(_row, b"", _fields_of(kind))
    if kind["type"] == "array":
        return partial(_block, _field(name, kind["items"]))
    if kind["type"] == "map":
        return partial(_map, _field(name, kind["values"]))
    if kind["type"] == "enum":
        return {symbol: long_bytes(number) for number, symbol in enumerate(kind["symbols"])}.__getitem__
    return _decimal if kind.get("logicalType") == "decimal" else PLAIN[kind["type"]]


def _block(write: Write, items: Collection[Any]) -> bytes:
    return long_bytes(len(items)) + b"".join(map(write, items)) + NO_ITEMS if items else NO_ITEMS


def _map(write: Write, values: Mapping[str, Any]) -> bytes:
    return _block(lambda item: _text(item[0]) + write(item[1]), values.items())


def _optional(write: Write) -> Write:
    if write is _decimal:
        return _optional_decimal
    return lambda value: NULL if value is None else VALUE + write(value)


PLAIN: dict[str, Write] = {
    "boolean": FALSE_TRUE.__getitem__,
    "double": Packed("<d").pack,
    "int": long_bytes,
    "long": long_bytes,
    "string": lru_cache(KEPT_NAMES)(_text),
}
