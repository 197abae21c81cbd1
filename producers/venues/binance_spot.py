"""Binance spot: trades and the best 20 levels, over the combined stream.

Protocol: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
REST: https://developers.binance.com/docs/binance-spot-api-docs/rest-api/general-endpoints

    {"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,"p":"0.001","q":"100",
     "T":1672515782136,"m":true,"M":true}}
    {"stream":"bnbbtc@depth20@100ms","data":{"lastUpdateId":160,"bids":[["0.0024","10"]],"asks":[["0.0026","100"]]}}
    {"result":null,"id":1}
    {"code":2,"msg":"Invalid request: ...","id":1}    or    {"error":{"code":2,"msg":"Invalid request: ..."},"id":1}
    {"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}

Oddities: depth20 has neither time nor symbol, which is in the stream's name, in lower case. The trade's time is `T`;
`E` is when the frame was made, up to 214 ms later. `M` means nothing. New fields appear without notice and are passed
over. An unknown stream is acknowledged and stays silent, so a symbol is asked for by REST first.

Times count milliseconds, or microseconds where the URL asks for them as ours does; recordings hold milliseconds. Which
of the two is told by size: 10^14 ms lie in the year 5138, 10^14 us in 1973.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, NoReturn
from urllib.parse import quote

import msgspec

from producers.contract import BOOKS, TRADES, BadFrame, Event, Farewell, Feed, Limits, Reply
from ravencore.decimals import LIMIT, ONE, SCALE, from_text, scale_of
from ravencore.errors import BadValue
from ravencore.records import Book, Instrument, Level, Trade

NAME = "BINANCE_SPOT"
STREAMS = {TRADES: "@trade", BOOKS: "@depth20@100ms"}
CHANNELS = {stream.removeprefix("@"): channel for channel, stream in STREAMS.items()}
SHUTDOWN = "!serverShutdown"
MICROSECONDS_FROM = 10**14
FUTURE_US = 60_000_000
"""A trade that happened this much after it was received did not happen (bars.md section 0)."""
DEPTH = 20
BAD_REQUEST = 400
BAD_SYMBOL_CODES = frozenset({-1100, -1121})
"""`Illegal characters found in a parameter` and `Invalid symbol`."""

EIGHT_DECIMALS = 10 ** (SCALE - 8)

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Number = Annotated[str, msgspec.Meta(max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class Envelope(msgspec.Struct, gc=False):
    """Any frame: of a stream (`stream`, `data`), or a reply (`id` with `result`, `error` or `code` and `msg`)."""

    stream: Annotated[str, msgspec.Meta(max_length=64)] = ""
    data: msgspec.Raw = msgspec.Raw(b"")
    id: int | None = None
    result: Any = msgspec.UNSET
    error: "Refusal | None" = None
    code: int | None = None
    msg: str = ""


class Refusal(msgspec.Struct, gc=False):
    """`{"code":2,"msg":"Invalid request: ..."}`."""

    code: int
    msg: str


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
    bids: Annotated[list[tuple[Number, Number]], msgspec.Meta(max_length=DEPTH)]
    asks: Annotated[list[tuple[Number, Number]], msgspec.Meta(max_length=DEPTH)]


class Filter(msgspec.Struct):
    """One of a symbol's filters; PRICE_FILTER has a tickSize, LOT_SIZE a stepSize."""

    filterType: str
    tickSize: Number | None = None
    stepSize: Number | None = None


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


_envelope = msgspec.json.Decoder(Envelope)
_trade = msgspec.json.Decoder(TradeData)
_depth = msgspec.json.Decoder(DepthData)
_refusal = msgspec.json.Decoder(Refusal)
_exchange_info = msgspec.json.Decoder(ExchangeInfo)


class BinanceSpot:
    """Binance spot market data (`producers.contract.Venue`)."""

    name = NAME
    channels: tuple[str, ...] = (TRADES, BOOKS)
    # 5 messages a second per connection, pings and pongs among them; 1024 streams; a ping every 20 s from its side.
    limits = Limits(
        feeds_per_connection=1024,
        feeds_per_message=200,
        message_gap_seconds=0.35,
        reply_seconds=10.0,
        ping_seconds=20.0,
        silence_seconds=120.0,
    )

    def socket_url(self, base: str) -> str:
        """The combined stream, without any stream yet."""
        return f"{base.rstrip('/')}/stream?timeUnit=MICROSECOND"

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}`."""
        return _request("SUBSCRIBE", feeds, request)

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":2}`."""
        return _request("UNSUBSCRIBE", feeds, request)

    def parse(self, frame: bytes, received_us: int) -> Sequence[Event]:
        """One event per frame; raises BadFrame."""
        try:
            envelope = _envelope.decode(frame)
            if not envelope.stream:
                return (_reply(envelope),)
            channel, symbol = _feed(envelope.stream)
            if channel == TRADES:
                return (_parse_trade(_trade.decode(envelope.data), symbol, received_us),)
            if channel == BOOKS:
                return (_parse_book(_depth.decode(envelope.data), symbol, received_us),)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame(str(error)) from None
        except BadValue as error:
            raise BadFrame(str(error), "bad_value") from None
        if envelope.stream == SHUTDOWN:
            return (Farewell("serverShutdown"),)
        raise BadFrame(f"stream {envelope.stream!r} is none that Raven subscribes to")

    def instrument_url(self, base: str, symbol: str) -> str:
        """exchangeInfo of one symbol: of several, one unknown symbol would refuse them all."""
        return f"{base.rstrip('/')}/api/v3/exchangeInfo?symbol={quote(symbol, safe='')}"

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of an exchangeInfo body; raises BadFrame."""
        try:
            return [_parse_instrument(info, received_us) for info in _exchange_info.decode(body).symbols]
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise BadFrame(str(error)) from None
        except BadValue as error:
            raise BadFrame(str(error), "bad_value") from None

    def refusal(self, status: int, body: bytes) -> str | None:
        """`{"code":-1121,"msg":"Invalid symbol."}` with status 400 is for good."""
        try:
            refusal = _refusal.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return None
        for_good = status == BAD_REQUEST and refusal.code in BAD_SYMBOL_CODES
        return f"{refusal.msg} ({refusal.code})" if for_good else None


def _request(method: str, feeds: Sequence[Feed], request: int) -> str:
    streams = [feed.symbol.lower() + STREAMS[feed.channel] for feed in feeds]
    return msgspec.json.encode({"method": method, "params": streams, "id": request}).decode()


@lru_cache(maxsize=4096)
def _feed(stream: str) -> Feed:
    symbol, _, channel = stream.partition("@")
    return Feed(CHANNELS.get(channel, ""), symbol.upper())


def _reply(envelope: Envelope) -> Reply:
    if envelope.error is not None:
        return Reply(envelope.id, f"{envelope.error.msg} ({envelope.error.code})")
    if envelope.code is not None:
        return Reply(envelope.id, f"{envelope.msg} ({envelope.code})")
    if envelope.result is msgspec.UNSET or envelope.id is None:
        raise BadFrame("neither a stream's frame nor a reply")
    return Reply(envelope.id, None)


def _parse_trade(data: TradeData, symbol: str, received_us: int) -> Trade:
    if data.s != symbol:
        raise BadFrame(f"a trade of {data.s[:64]!r} on the stream of {symbol!r}")
    price, quantity = from_text(data.p), from_text(data.q)
    if price <= 0 or quantity <= 0:
        _refuse(f"price {data.p} or quantity {data.q} is not above zero")
    # The notional must be exact at 18 decimals and fit decimal(38,18): folds multiply without looking.
    # Micro-optimization: two numbers of at most 8 decimals, as nearly all are, need no counting.
    if (price % EIGHT_DECIMALS or quantity % EIGHT_DECIMALS) and scale_of(price) + scale_of(quantity) > SCALE:
        _refuse(f"price {data.p} times quantity {data.q} needs more than {SCALE} decimals")
    if price * quantity >= LIMIT * ONE:
        _refuse(f"price {data.p} times quantity {data.q} is too large")
    event_us = data.T if data.T >= MICROSECONDS_FROM else data.T * 1000
    if not 0 < event_us <= received_us + FUTURE_US:
        _refuse(f"trade time {data.T} lies more than 60 s after its receipt, or at zero")
    return Trade(
        venue=NAME,
        symbol=symbol,
        event_time=event_us,
        received_time=received_us,
        trade_id=str(data.t),
        sequence=data.t,
        price=price,
        quantity=quantity,
        side="SELL" if data.m else "BUY",
    )


def _parse_book(data: DepthData, symbol: str, received_us: int) -> Book:
    return Book(
        venue=NAME,
        symbol=symbol,
        received_time=received_us,
        update_id=str(data.lastUpdateId),
        sequence=data.lastUpdateId,
        source="VENUE_SNAPSHOT",
        bids=tuple([_level(price, quantity) for price, quantity in data.bids]),
        asks=tuple([_level(price, quantity) for price, quantity in data.asks]),
    )


@lru_cache(maxsize=1 << 16)
def _level(price: str, quantity: str) -> Level:
    """Most levels of a book are those of the book 100 ms before: each is read once."""
    level = Level(from_text(price), from_text(quantity))
    if level.price <= 0 or level.quantity <= 0:
        _refuse(f"level {price} x {quantity} is not above zero")
    return level


def _parse_instrument(info: SymbolInfo, received_us: int) -> Instrument:
    filters = {item.filterType: item for item in info.filters}
    price, lot = filters.get("PRICE_FILTER"), filters.get("LOT_SIZE")
    return Instrument(
        venue=NAME,
        symbol=info.symbol,
        received_time=received_us,
        base=info.baseAsset,
        quote=info.quoteAsset,
        kind="SPOT",
        status=info.status,
        tick_size=from_text(price.tickSize) if price and price.tickSize else None,
        lot_size=from_text(lot.stepSize) if lot and lot.stepSize else None,
    )


def _refuse(detail: str) -> NoReturn:
    raise BadFrame(detail, "bad_value")
