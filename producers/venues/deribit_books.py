"""Deribit's order books, of each instrument that is demanded.

Protocol: https://docs.deribit.com/subscriptions/orderbook/bookinstrument_nameinterval

    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"book.BTC-PERPETUAL.100ms","data":{"type":"change",
     "timestamp":1554373911330,"prev_change_id":297217,"instrument_name":"BTC-PERPETUAL","change_id":297218,
     "bids":[["delete",5041.94,0.0],["delete",5042.34,0.0]],"asks":[["new",5042.64,40.0],["change",5043.3,42.0]]}}}

How a book is kept is told in books/deribit.py. Amounts are as Deribit prints them: in USD for inverse futures and
perpetuals, else in coins. A combo may have prices of 0 and below, which no book of Raven's has: it is a dead letter.

A pair against USD is the inverse perpetual (BTC-PERPETUAL), one against USDC the linear one (BTC_USDC-PERPETUAL), and
one against anything else the spot pair (BTC_USDT). Every other name is one of Deribit's own and goes as it is: options,
dated futures (BTC-25DEC26), and spot pairs as Deribit spells them (BTC_USDC).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec

from producers.books.deribit import DeribitBook
from producers.contract import BOOKS, BadFrame, BookUpdate, Event, Feed, Get, Receipt
from producers.protocols.by_symbol import BySymbol
from producers.protocols.deribit import (
    INTERVALS,
    Deribit,
    Id,
    Millis,
    Name,
    Notification,
    Reader,
    spelled,
)
from producers.values import MILLISECONDS_TO_US, counted, happened, positive

PERPETUALS = {"USD": "{}-PERPETUAL", "PERPETUAL": "{}-PERPETUAL", "USDC": "{}_USDC-PERPETUAL"}
"""Names of the perpetuals of a currency, by what it is asked for against."""
_DATE = re.compile(r"[0-9]{1,2}[A-Z]{3}[0-9]{2}", re.ASCII)

Level = tuple[Literal["new", "change", "delete"], msgspec.Raw, msgspec.Raw]


class BookData(msgspec.Struct, gc=False):
    """`data` of a book."""

    type: Literal["snapshot", "change"]
    timestamp: Millis
    instrument_name: Name
    change_id: Id
    bids: list[Level]
    asks: list[Level]
    prev_change_id: Id | None = None


@lru_cache(maxsize=4096)
def _feed_of(channel: str) -> Feed | None:
    match channel.split("."):
        case ["book", instrument, interval] if interval in INTERVALS:
            return Feed(BOOKS, instrument.upper())
    return None


def _read(data: BookData, feed: Feed, receipt: Receipt) -> Sequence[Event]:
    if data.instrument_name.upper() != feed.symbol:
        raise BadFrame(f"a book of {data.instrument_name!r} on the channel of {feed.symbol!r}")
    update = BookUpdate(
        symbol=feed.symbol,
        whole=data.type == "snapshot",
        event_time=happened(data.timestamp * MILLISECONDS_TO_US, receipt.received_us),
        received_time=receipt.received_us,
        bids=[_level(level) for level in data.bids],
        asks=[_level(level) for level in data.asks],
        last=data.change_id,
        previous=data.prev_change_id,
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )
    return (update,)


def _level(level: Level) -> tuple[int, int]:
    action, price, quantity = level
    left = counted(str(quantity, "ascii"))
    return positive(str(price, "ascii")), 0 if action == "delete" else left


class DeribitBooks(BySymbol, Deribit):
    """Order books (`producers.contract.HasBooks`)."""

    name = "DERIBIT_BOOKS"
    channels: tuple[str, ...] = (BOOKS,)
    reader = Reader(msgspec.json.Decoder(Notification[BookData]), _feed_of, _feed_of, _read)

    def symbol_of(self, base: str, quote: str) -> str:
        """`BTC-PERPETUAL` of BTC and USD, or what else Deribit calls a pair."""
        if _DATE.fullmatch(quote):
            return f"{base}-{quote}"
        if base.endswith("_"):
            return f"{base}{quote}"
        return PERPETUALS.get(quote, "{}_" + quote).format(base)

    def listing(self, base: str, symbol: str | None) -> Get:
        """get_instrument, or get_instruments of all kinds: there are books of all."""
        if symbol is None:
            return Get(f"{base.rstrip('/')}/public/get_instruments?currency=any&expired=false")
        return super().listing(base, symbol)

    def channel_of(self, feed: Feed) -> str:
        """`book.BTC-PERPETUAL.100ms`."""
        return f"book.{spelled(feed.symbol)}.100ms"

    def sequencer(self, symbol: str) -> DeribitBook:
        """A new keeper of this instrument's book."""
        return DeribitBook()
