"""Binance USD-M futures: aggregated trades and the best 20 levels.

Trades: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Aggregate-Trade-Streams
Books: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Partial-Book-Depth-Streams

    {"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":123456789,"a":5933014,"s":"BTCUSDT","p":"0.001","q":"100",
     "f":100,"l":105,"T":123456785,"m":true,"st":1}}
    {"stream":"btcusdt@depth20@100ms","data":{"e":"depthUpdate","E":1571889248277,"T":1571889248276,"s":"BTCUSDT",
     "U":390497796,"u":390497878,"pu":390497794,"b":[["7403.89","0.002"]],"a":[["7405.96","3.340"]]}}

An aggregated trade is all that one order took at one price within 100 ms: `a` counts them, `f` and `l` are the trades
in it. Trades of the insurance fund and of auto-deleveraging are not among them. The raw `@trade` is not documented, and
its frames are none of this source.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from producers.contract import BOOKS, TRADES, Event, Feed, Limits, Receipt, Scope
from producers.protocols.binance import (
    FEEDS_PER_MESSAGE,
    Framed,
    Id,
    Millis,
    Number,
    Read,
    Side,
    levels,
    same_symbol,
)
from producers.protocols.binance_futures import CONNECTS, FEEDS_PER_CONNECTION, MESSAGES, REST, VENUE, FuturesStream
from producers.values import MILLISECONDS_TO_US, happened, positive, traded
from ravencore.records import Book, Instrument, Trade


class TradeData(msgspec.Struct, gc=False):
    """`data` of an aggTrade."""

    e: Literal["aggTrade"]
    a: Id
    s: str
    p: Number
    q: Number
    T: Millis
    m: bool


class DepthData(msgspec.Struct, gc=False):
    """`data` of a depth20."""

    e: Literal["depthUpdate"]
    T: Millis
    s: str
    u: Id
    b: Side
    a: Side


_trade = msgspec.json.Decoder(Framed[TradeData])
_depth = msgspec.json.Decoder(Framed[DepthData])


def _read_trade(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _trade.decode(frame).data
    same_symbol(data.s, symbol)
    price, quantity = positive(data.p), positive(data.q)
    traded(price, quantity)
    return (
        Trade(
            venue=VENUE,
            symbol=symbol,
            event_time=happened(data.T * MILLISECONDS_TO_US, receipt.received_us),
            received_time=receipt.received_us,
            trade_id=str(data.a),
            sequence=data.a,
            price=price,
            quantity=quantity,
            side="SELL" if data.m else "BUY",
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


def _read_book(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _depth.decode(frame).data
    same_symbol(data.s, symbol)
    return (
        Book(
            venue=VENUE,
            symbol=symbol,
            event_time=happened(data.T * MILLISECONDS_TO_US, receipt.received_us),
            received_time=receipt.received_us,
            update_id=str(data.u),
            sequence=data.u,
            source="VENUE_SNAPSHOT",
            bids=levels(data.b),
            asks=levels(data.a),
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


class BinanceFutures(FuturesStream):
    """Trades and books of USD-M futures (`producers.contract.Stream`)."""

    name = VENUE
    channels: tuple[str, ...] = (TRADES, BOOKS)
    scope: Scope = "symbol"
    selection: str | None = None
    limits = Limits(
        rest=REST,
        connects=CONNECTS,
        messages=MESSAGES,
        feeds_per_connection=FEEDS_PER_CONNECTION,
        feeds_per_message=FEEDS_PER_MESSAGE,
    )
    streams: ClassVar[Mapping[str, str]] = {TRADES: "@aggTrade", BOOKS: "@depth20@100ms"}
    readers: ClassVar[Mapping[str, Read]] = {
        "@aggTrade": _read_trade,
        "@depth20@100ms": _read_book,
        "@depth20@500ms": _read_book,
        "@depth20": _read_book,
    }

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """None: what is collected is demanded symbol by symbol."""
        return ()
