"""Binance USD-M futures: aggregated trades, and the best 20 levels or all changes of the book.

Trades: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Aggregate-Trade-Streams
Books: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Partial-Book-Depth-Streams
Changes: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Diff-Book-Depth-Streams
REST: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Compressed-Aggregate-Trades-List
and https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Order-Book

    {"stream":"btcusdt@aggTrade","data":{"e":"aggTrade","E":123456789,"a":5933014,"s":"BTCUSDT","p":"0.001","q":"100",
     "f":100,"l":105,"T":123456785,"m":true,"st":1}}
    {"stream":"btcusdt@depth20@100ms","data":{"e":"depthUpdate","E":1571889248277,"T":1571889248276,"s":"BTCUSDT",
     "U":390497796,"u":390497878,"pu":390497794,"b":[["7403.89","0.002"]],"a":[["7405.96","3.340"]]}}
    {"stream":"btcusdt@depth@100ms","data":{...}}    is spelt alike, its `b` and `a` being what has changed

An aggregated trade is all that one order took at one price within 100 ms: `a` counts them, `f` and `l` are the trades
in it. Trades of the insurance fund and of auto-deleveraging are not among them. The raw `@trade` is not documented, and
its frames are none of this source. aggTrades over REST counts by the same `a`, and reaches back some days only.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from producers.books.binance import BinanceBook, BinanceFuturesBook
from producers.contract import (
    BOOKS,
    TRADES,
    BookUpdate,
    Event,
    Get,
    Limits,
    Receipt,
    Span,
)
from producers.protocols.binance import (
    DIFFERENCES,
    FEEDS_PER_MESSAGE,
    HISTORY_TRADES,
    Changes,
    Framed,
    Id,
    KeptBooks,
    Millis,
    Number,
    Read,
    Side,
    Snapshot,
    changes,
    history_query,
    same_symbol,
)
from producers.protocols.binance_futures import CONNECTS, FEEDS_PER_CONNECTION, MESSAGES, REST, VENUE, FuturesStream
from producers.values import MILLISECONDS_TO_US, Sides, happened, positive, reading, traded
from ravencore.records import Book, Trade

HISTORY_WEIGHT = 20


class PastTrade(msgspec.Struct, gc=False):
    """One of aggTrades.

    {"a":26129,"p":"0.01633102","q":"4.70443515","f":27781,"l":27781,"T":1498793709153,"m":true}
    """

    a: Id
    p: Number
    q: Number
    T: Millis
    m: bool


class TradeData(PastTrade, gc=False, kw_only=True):
    """`data` of an aggTrade."""

    e: Literal["aggTrade"]
    s: str


class DepthData(msgspec.Struct, gc=False):
    """`data` of a depth20."""

    e: Literal["depthUpdate"]
    T: Millis
    s: str
    u: Id
    b: Side
    a: Side


class ChangeData(msgspec.Struct, gc=False):
    """`data` of a depthUpdate with what has changed."""

    e: Literal["depthUpdate"]
    T: Millis
    s: str
    U: Id
    u: Id
    pu: Id
    b: Changes
    a: Changes


class TimedSnapshot(Snapshot, kw_only=True):
    """The body of GET /fapi/v1/depth.

    {"lastUpdateId":1027024,"E":1589436922972,"T":1589436922959,"bids":[["4.0","431.0"]],"asks":[["4.000002","12.0"]]}
    """

    T: Millis

    @property
    def time_us(self) -> int:
        """When the book was as told."""
        return self.T * MILLISECONDS_TO_US


_trade = msgspec.json.Decoder(Framed[TradeData])
_depth = msgspec.json.Decoder(Framed[DepthData])
_change = msgspec.json.Decoder(Framed[ChangeData])
_past = msgspec.json.Decoder(Annotated[list[PastTrade], msgspec.Meta(max_length=HISTORY_TRADES)])
_bids, _asks = Sides(), Sides()


def _read_trade(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _trade.decode(frame).data
    same_symbol(data.s, symbol)
    return (_made(symbol, data, receipt),)


def _made(symbol: str, told: PastTrade, receipt: Receipt) -> Trade:
    price, quantity = positive(told.p), positive(told.q)
    traded(price, quantity)
    return Trade(
        venue=VENUE,
        symbol=symbol,
        event_time=happened(told.T * MILLISECONDS_TO_US, receipt.received_us),
        received_time=receipt.received_us,
        trade_id=str(told.a),
        sequence=told.a,
        price=price,
        quantity=quantity,
        side="SELL" if told.m else "BUY",
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
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
            bids=_bids.read(symbol, data.b),
            asks=_asks.read(symbol, data.a),
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


def _read_changes(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _change.decode(frame).data
    same_symbol(data.s, symbol)
    return (
        BookUpdate(
            symbol=symbol,
            whole=False,
            event_time=happened(data.T * MILLISECONDS_TO_US, receipt.received_us),
            received_time=receipt.received_us,
            bids=changes(data.b),
            asks=changes(data.a),
            first=data.U,
            last=data.u,
            previous=data.pu,
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


class BinanceFutures(KeptBooks, FuturesStream):
    """Trades and books of USD-M futures (`producers.contract.Stream`, `HasSnapshots`, `HasHistory`)."""

    name = VENUE
    channels: tuple[str, ...] = (TRADES, BOOKS)
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
        DIFFERENCES: _read_changes,
        "@depth@500ms": _read_changes,
        "@depth@0ms": _read_changes,
        "@depth": _read_changes,
    }
    book: ClassVar[type[BinanceBook]] = BinanceFuturesBook
    snapshots: ClassVar[type[Snapshot]] = TimedSnapshot
    depth_path: ClassVar[str] = "/fapi/v1/depth"
    depth_weight: ClassVar[float] = 20

    def history(self, base: str, symbol: str, span: Span) -> Get:
        """aggTrades from the first id on."""
        return Get(f"{base.rstrip('/')}/fapi/v1/aggTrades?{history_query(symbol, span)}", HISTORY_WEIGHT)

    def past(self, symbol: str, body: bytes, receipt: Receipt) -> Sequence[Trade]:
        """Trades of an aggTrades body; raises BadFrame."""
        with reading():
            told = sorted(_past.decode(body), key=lambda one: one.a)
            return [_made(symbol, one, receipt) for one in told]
