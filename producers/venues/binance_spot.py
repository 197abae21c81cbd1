"""Binance spot: trades, the best 20 levels or all changes of the book, and the best bid and ask.

Protocol: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
REST: https://developers.binance.com/docs/binance-spot-api-docs/rest-api/general-endpoints
and https://developers.binance.com/docs/binance-spot-api-docs/rest-api/market-data-endpoints

    {"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100",
     "T":1672515782136,"m":true,"M":true}}
    {"stream":"bnbbtc@depth20@100ms","data":{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}}
    {"stream":"bnbbtc@depth@100ms","data":{"e":"depthUpdate","E":1672515782136,"s":"BNBBTC","U":157,"u":160,
     "b":[["0.0024","10"]],"a":[["0.0026","0"]]}}
    {"stream":"bnbusdt@bookTicker","data":{"u":400900217,"s":"BNBUSDT","b":"25.35190000","B":"31.21000000",
     "a":"25.36520000","A":"40.66000000"}}

Oddities: depth20 has neither time nor symbol, which is in the stream's name, in lower case; bookTicker has no time.
The trade's time is `T`; `E` is when the frame was made, up to 214 ms later. `M` means nothing. Where nobody bids or
asks, a bookTicker has price and quantity 0.

Times count milliseconds, or microseconds where the URL asks for them as ours does; recordings hold milliseconds. Which
of the two is told by size: 10^14 ms lie in the year 5138, 10^14 us in 1973. historicalTrades are asked for microseconds
with a header, so that they are the trades that the stream prints.

historicalTrades needs no key since 2023 (CHANGELOG), but is not on the list of what data-api.binance.vision serves (FAQ
"Market Data Only"), which nothing else with ids of single trades is either. It is asked for at the configured endpoint
all the same; where that refuses it, api.binance.com is the `rest_url` that serves it.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal
from urllib.parse import quote

import msgspec

from producers.books.binance import BinanceBook, BinanceSpotBook
from producers.contract import (
    BOOKS,
    QUOTES,
    TRADES,
    BadFrame,
    BookUpdate,
    Event,
    Get,
    Limits,
    Rate,
    Receipt,
    Span,
)
from producers.protocols.binance import (
    DIFFERENCES,
    FEEDS_PER_MESSAGE,
    HISTORY_TRADES,
    Changes,
    Filter,
    Framed,
    Id,
    KeptBooks,
    Name,
    Number,
    Read,
    Side,
    changes,
    history_query,
    same_symbol,
    steps,
)
from producers.values import MILLISECONDS_TO_US, Sides, happened, not_negative, positive, reading, refuse, traded
from ravencore.records import Book, Instrument, Quote, Trade

VENUE = "BINANCE_SPOT"
EXCHANGE_INFO_WEIGHT = 20
HISTORY_WEIGHT = 25
MICROSECONDS = (("X-MBX-TIME-UNIT", "MICROSECOND"),)
MICROSECONDS_FROM = 10**14


class TradeData(msgspec.Struct, gc=False):
    """`data` of a trade."""

    e: Literal["trade"]
    s: str
    t: Id
    p: Number
    q: Number
    T: Id
    m: bool


class DepthData(msgspec.Struct, gc=False):
    """`data` of a depth20."""

    lastUpdateId: Id
    bids: Side
    asks: Side


class ChangeData(msgspec.Struct, gc=False):
    """`data` of a depthUpdate; one with `pu` is of futures."""

    e: Literal["depthUpdate"]
    E: Id
    s: str
    U: Id
    u: Id
    b: Changes
    a: Changes
    pu: int | None = None


class PastTrade(msgspec.Struct, gc=False):
    """One of historicalTrades, its fields called here as in a trade of the stream.

    {"id":28457,"price":"4.00000100","qty":"12.00000000","quoteQty":"48.000012","time":1499865549590123,
     "isBuyerMaker":true,"isBestMatch":true}
    """

    t: Id = msgspec.field(name="id")
    p: Number = msgspec.field(name="price")
    q: Number = msgspec.field(name="qty")
    T: Id = msgspec.field(name="time")
    m: bool = msgspec.field(name="isBuyerMaker")


class TickerData(msgspec.Struct, gc=False):
    """`data` of a bookTicker."""

    u: Id
    s: str
    b: Number
    B: Number
    a: Number
    A: Number


class SymbolInfo(msgspec.Struct):
    """One of exchangeInfo's `symbols`: {"symbol":"BNBBTC","status":"TRADING","baseAsset":"BNB",...}."""

    symbol: Name
    status: str
    baseAsset: Name
    quoteAsset: Name
    filters: list[Filter]


class ExchangeInfo(msgspec.Struct):
    """The body of GET /api/v3/exchangeInfo."""

    symbols: list[SymbolInfo]


_trade = msgspec.json.Decoder(Framed[TradeData])
_depth = msgspec.json.Decoder(Framed[DepthData])
_change = msgspec.json.Decoder(Framed[ChangeData])
_ticker = msgspec.json.Decoder(Framed[TickerData])
_exchange_info = msgspec.json.Decoder(ExchangeInfo)
_past = msgspec.json.Decoder(Annotated[list[PastTrade], msgspec.Meta(max_length=HISTORY_TRADES)])
_bids, _asks = Sides(), Sides()


def _read_trade(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _trade.decode(frame).data
    same_symbol(data.s, symbol)
    return (_made(symbol, data, receipt),)


def _made(symbol: str, told: TradeData | PastTrade, receipt: Receipt) -> Trade:
    price, quantity = positive(told.p), positive(told.q)
    traded(price, quantity)
    return Trade(
        venue=VENUE,
        symbol=symbol,
        event_time=happened(_micros(told.T), receipt.received_us),
        received_time=receipt.received_us,
        trade_id=str(told.t),
        sequence=told.t,
        price=price,
        quantity=quantity,
        side="SELL" if told.m else "BUY",
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


def _micros(time: int) -> int:
    return time if time >= MICROSECONDS_FROM else time * MILLISECONDS_TO_US


def _read_book(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _depth.decode(frame).data
    return (
        Book(
            venue=VENUE,
            symbol=symbol,
            received_time=receipt.received_us,
            update_id=str(data.lastUpdateId),
            sequence=data.lastUpdateId,
            source="VENUE_SNAPSHOT",
            bids=_bids.read(symbol, data.bids),
            asks=_asks.read(symbol, data.asks),
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


def _read_changes(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _change.decode(frame).data
    same_symbol(data.s, symbol)
    if data.pu is not None:
        raise BadFrame("a depthUpdate with `pu`: of futures")
    return (
        BookUpdate(
            symbol=symbol,
            whole=False,
            event_time=happened(_micros(data.E), receipt.received_us),
            received_time=receipt.received_us,
            bids=changes(data.b),
            asks=changes(data.a),
            first=data.U,
            last=data.u,
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


def _read_quote(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _ticker.decode(frame).data
    same_symbol(data.s, symbol)
    bid_price, bid_quantity = _best(data.b, data.B)
    ask_price, ask_quantity = _best(data.a, data.A)
    return (
        Quote(
            venue=VENUE,
            symbol=symbol,
            received_time=receipt.received_us,
            update_id=str(data.u),
            sequence=data.u,
            bid_price=bid_price,
            bid_quantity=bid_quantity,
            ask_price=ask_price,
            ask_quantity=ask_quantity,
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


def _best(price: str, quantity: str) -> tuple[int, int] | tuple[None, None]:
    units, size = not_negative(price), not_negative(quantity)
    if units and size:
        return units, size
    if units or size:
        refuse(f"one of {price} and {quantity} is zero")
    return None, None


class BinanceSpot(KeptBooks):
    """Binance spot market data (`producers.contract.Stream`, `HasSnapshots`, `HasHistory`)."""

    name = VENUE
    venue = VENUE
    channels: tuple[str, ...] = (TRADES, BOOKS, QUOTES)
    # 5 messages a second per connection, pings and pongs among them; 1024 streams; a ping every 20 s from its side;
    # 300 attempts to connect in 5 minutes; weights of 6000 a minute.
    limits = Limits(
        rest=Rate(4800, 60.0),
        connects=Rate(240, 300.0),
        messages=Rate(3, 1.0),
        feeds_per_connection=1024,
        feeds_per_message=FEEDS_PER_MESSAGE,
    )
    streams: ClassVar[Mapping[str, str]] = {TRADES: "@trade", BOOKS: "@depth20@100ms", QUOTES: "@bookTicker"}
    readers: ClassVar[Mapping[str, Read]] = {
        "@trade": _read_trade,
        "@depth20@100ms": _read_book,
        "@depth20": _read_book,
        DIFFERENCES: _read_changes,
        "@depth": _read_changes,
        "@bookTicker": _read_quote,
    }
    book: ClassVar[type[BinanceBook]] = BinanceSpotBook
    depth_path: ClassVar[str] = "/api/v3/depth"
    depth_weight: ClassVar[float] = 250

    def socket_url(self, base: str, channel: str) -> str:
        """The combined stream, without any stream yet."""
        return f"{base.rstrip('/')}/stream?timeUnit=MICROSECOND"

    def listing(self, base: str, symbol: str | None) -> Get:
        """exchangeInfo of one symbol: of several, one unknown symbol would refuse them all."""
        query = f"?symbol={quote(symbol, safe='')}" if symbol else ""
        return Get(f"{base.rstrip('/')}/api/v3/exchangeInfo{query}", EXCHANGE_INFO_WEIGHT)

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of an exchangeInfo body; raises BadFrame."""
        with reading():
            return [_instrument(info, received_us) for info in _exchange_info.decode(body).symbols]

    def history(self, base: str, symbol: str, span: Span) -> Get:
        """historicalTrades from the first id on."""
        path = f"/api/v3/historicalTrades?{history_query(symbol, span)}"
        return Get(base.rstrip("/") + path, HISTORY_WEIGHT, MICROSECONDS)

    def past(self, symbol: str, body: bytes, receipt: Receipt) -> Sequence[Trade]:
        """Trades of a historicalTrades body; raises BadFrame."""
        with reading():
            told = sorted(_past.decode(body), key=lambda one: one.t)
            return [_made(symbol, one, receipt) for one in told]


def _instrument(info: SymbolInfo, received_us: int) -> Instrument:
    tick_size, lot_size = steps(info.filters)
    return Instrument(
        venue=VENUE,
        symbol=info.symbol,
        received_time=received_us,
        base=info.baseAsset,
        quote=info.quoteAsset,
        kind="SPOT",
        status=info.status,
        tick_size=tick_size,
        lot_size=lot_size,
    )
