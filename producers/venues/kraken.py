"""Kraken spot: order books, best bid and ask, and trades, over version 2 of its WebSocket.

Books: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/book
Ticker: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/ticker
Trades: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/trade
Status: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/status
REST: https://docs.kraken.com/api/docs/rest-api/get-tradable-asset-pairs and .../get-recent-trades

    {"channel":"book","type":"update","data":[{"symbol":"BTC/USD","bids":[],"asks":[{"price":62807.0,"qty":0.00000000},
     {"price":62818.8,"qty":0.65540712}],"checksum":4249465476,"timestamp":"2026-08-16T23:37:03.745044Z"}]}
    {"channel":"ticker","type":"update","data":[{"symbol":"ALGO/USD","bid":0.10025,"bid_qty":740.0,"ask":0.10036,
     "ask_qty":1361.44813783,"last":0.10035,"volume":997038.98383185,...,"timestamp":"2023-10-06T17:35:55.440295Z"}]}
    {"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,
     "ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}
    {"method":"subscribe","result":{"channel":"ticker","symbol":"BTC/USD","snapshot":true},"success":true,"req_id":1}
    {"error":"Currency pair not supported XBT/EUR","method":"subscribe","success":false,"symbol":"XBT/EUR","req_id":1}
    {"channel":"heartbeat"}
    {"channel":"status","type":"update","data":[{"connection_id":18432,"system":"online","version":"2.0.10",...}]}
    GET /0/public/Trades?pair=XBTUSD&since=1688669597827736899&count=1000
    {"error":[],"result":{"XXBTZUSD":[["30243.40000","0.34507674",1688669597.8277369,"b","m","",61044952]],
     "last":"1688671969993150842"}}

Oddities. Numbers are JSON numbers with trailing zeros, and some written as 1e-8: their text is read, never a double.
`connection_id` exceeds 2^53 and is not read. Bitcoin is BTC and Dogecoin DOGE here, but XBT and XDG in REST names.
Older tickers have no `timestamp`; a pair without a book has prices of 0 and the time 1970-01-01, which both say that
there is none. Each symbol of a request is acknowledged by itself, and a refusal names the symbol alone: every
channel of it is meant, of which a request asks for one.

`event_trigger` is bbo: with the default, `trades`, a best price that moves between trades would not be told. And
`snapshot` is true for trades too, which for them is not the default: Kraken then sends the last 50 with their ids.
After a reconnect they fill the hole if it is no longer than that, and what was published before is known by its id.
`trade_id` counts the trades of one symbol; a snapshot is put into its order. `side` is the taker's.

Of a book 25 levels are asked for, so that 20 are there; how it is kept is told in `producers.books.kraken`. A whole
book had no `timestamp` before 2026.

`system` tells what the engine does. `maintenance` (markets are offline) is a Farewell: the connection will not outlive
it. The other states (`cancel_only`, `post_only`, `limit_only`, `online`) end no market data. What a connection begins
with is no Farewell: a new one would hear the same.

Past trades are found by time, in nanoseconds, and told in doubles of seconds; both they and the stream's times are cut
off below the microsecond. `since` leaves out its own nanosecond, so one before the span is asked for. An answer holds a
thousand, the oldest first; it names the pair in one of Kraken's several ways, and so is taken for the one asked for.
REST is asked by the documented name XBTUSD; it knows BTC/USD as well, but no page says so.
"""

from collections.abc import Sequence
from decimal import Decimal
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

import msgspec

from producers.books.kraken import KrakenBook
from producers.contract import (
    BOOKS,
    QUOTES,
    TRADES,
    BadFrame,
    BookUpdate,
    Event,
    Farewell,
    Feed,
    Get,
    Limits,
    Rate,
    Receipt,
    Reply,
    Span,
)
from producers.protocols.by_symbol import BySymbol
from producers.values import (
    READ_ERRORS,
    bad_frame,
    counted,
    happened,
    is_momentary,
    moment,
    not_negative,
    number,
    optional,
    positive,
    reading,
    traded,
)
from ravencore.decimals import from_text
from ravencore.records import Instrument, Quote, Side, Trade

NAME = "KRAKEN"
CHANNELS = {QUOTES: "ticker", TRADES: "trade", BOOKS: "book"}
FEEDS = {spelling: channel for channel, spelling in CHANNELS.items()}
DEPTH = 25
OPTIONS: dict[str, dict[str, Any]] = {QUOTES: {"event_trigger": "bbo"}, TRADES: {}, BOOKS: {"depth": DEPTH}}
"""What else requests of a channel say."""
RENAMED = {"XBT": "BTC", "XDG": "DOGE"}
REST_NAMES = {name: rest_name for rest_name, name in RENAMED.items()}
SIDES: dict[str, Side] = {"buy": "BUY", "sell": "SELL", "b": "BUY", "s": "SELL"}
MOST_TRADES = 1000
"""In one answer."""
MICROSECOND = 10**12
"""In unscaled seconds."""
UNKNOWN_PAIR = "EQuery:Unknown asset pair"

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Time = Annotated[str, msgspec.Meta(max_length=40)]


class TickerData(msgspec.Struct, gc=False):
    """One of a ticker's `data`."""

    symbol: Name
    bid: msgspec.Raw
    bid_qty: msgspec.Raw
    ask: msgspec.Raw
    ask_qty: msgspec.Raw
    last: msgspec.Raw = msgspec.Raw(b"0")
    timestamp: Time | None = None


class TradeData(msgspec.Struct, gc=False):
    """One of a trade's `data`."""

    symbol: Name
    side: Literal["buy", "sell"]
    price: msgspec.Raw
    qty: msgspec.Raw
    trade_id: Id
    timestamp: Time


class LevelData(msgspec.Struct, gc=False):
    """One of a book's `bids` and `asks`."""

    price: msgspec.Raw
    qty: msgspec.Raw


class BookData(msgspec.Struct, gc=False):
    """One of a book's `data`."""

    symbol: Name
    bids: list[LevelData]
    asks: list[LevelData]
    checksum: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    timestamp: Time | None = None


class Books(msgspec.Struct, tag_field="channel", tag="book", gc=False):
    """A frame of the book channel."""

    type: Literal["snapshot", "update"]
    data: Annotated[list[BookData], msgspec.Meta(min_length=1)]


class Tickers(msgspec.Struct, tag_field="channel", tag="ticker", gc=False):
    """A frame of the ticker channel."""

    type: Literal["snapshot", "update"]
    data: Annotated[list[TickerData], msgspec.Meta(min_length=1)]


class Trades(msgspec.Struct, tag_field="channel", tag="trade", gc=False):
    """A frame of the trade channel."""

    type: Literal["snapshot", "update"]
    data: Annotated[list[TradeData], msgspec.Meta(min_length=1)]


class Heartbeat(msgspec.Struct, tag_field="channel", tag="heartbeat"):
    """Sent every second when nothing else is."""


class StatusData(msgspec.Struct):
    """One of a status's `data`."""

    system: str = ""


class Status(msgspec.Struct, tag_field="channel", tag="status"):
    """What the engine says of itself, first on every connection."""

    data: list[StatusData]


class Subscribed(msgspec.Struct):
    """`result` of an acknowledgement."""

    channel: str
    symbol: Name


class AnyFrame(msgspec.Struct):
    """Any frame; of a reply the fields that Raven reads."""

    channel: str | None = None
    method: str | None = None
    success: bool = True
    error: str | None = None
    symbol: Name | None = None
    req_id: int | None = None
    result: Subscribed | None = None


class PairInfo(msgspec.Struct):
    """One of AssetPairs: {"wsname":"XBT/USD","tick_size":"0.1","lot_decimals":8,"status":"online",...}."""

    wsname: Name
    lot_decimals: Annotated[int, msgspec.Meta(ge=0, le=18)]
    status: str = ""
    tick_size: Annotated[str, msgspec.Meta(max_length=64)] | None = None


class AssetPairs(msgspec.Struct):
    """The body of GET /0/public/AssetPairs, whose errors come with status 200."""

    error: list[str]
    result: dict[str, PairInfo] = {}


class PastTrade(msgspec.Struct, array_like=True, gc=False):
    """One row of Trades."""

    price: Annotated[str, msgspec.Meta(max_length=64)]
    volume: Annotated[str, msgspec.Meta(max_length=64)]
    time: msgspec.Raw
    side: Literal["b", "s"]
    type: str
    misc: str
    trade_id: Id


class PastTrades(msgspec.Struct):
    """The body of GET /0/public/Trades: rows by the pair's name, and `last`, a text."""

    error: list[str]
    result: dict[str, msgspec.Raw] = {}


_frames = msgspec.json.Decoder(Books | Tickers | Trades | Heartbeat | Status)
_any_frame = msgspec.json.Decoder(AnyFrame)
_asset_pairs = msgspec.json.Decoder(AssetPairs)
_past = msgspec.json.Decoder(PastTrades)
_past_rows = msgspec.json.Decoder(list[PastTrade])
_in_order = attrgetter("trade_id")


class Kraken(BySymbol):
    """Kraken's market data (`producers.contract.HasBooks` and `HasHistory`)."""

    name = NAME
    venue = NAME
    channels: tuple[str, ...] = (QUOTES, TRADES, BOOKS)
    past_trades = True
    # About 150 connections in 10 minutes; public REST once a second; a heartbeat every second.
    limits = Limits(
        rest=Rate(1, 1.0),
        connects=Rate(135, 600.0),
        messages=Rate(2, 1.0),
        feeds_per_connection=400,
        feeds_per_message=100,
        silence_seconds=10.0,
    )

    def symbol_of(self, base: str, quote: str) -> str:
        """`BTC/USD`."""
        return f"{RENAMED.get(base, base)}/{RENAMED.get(quote, quote)}"

    def listing(self, base: str, symbol: str | None) -> Get:
        """AssetPairs of all pairs: one request serves a hundred symbols, where one each would take a second each."""
        return Get(f"{base.rstrip('/')}/0/public/AssetPairs")

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of an AssetPairs body; raises BadFrame."""
        with reading():
            pairs = _asset_pairs.decode(body)
            if pairs.error:
                raise BadFrame(f"Kraken says {pairs.error[0][:200]}")
            return [_instrument(info, received_us) for info in pairs.result.values()]

    def refusal(self, status: int, body: bytes) -> str | None:
        """`{"error":["EQuery:Unknown asset pair"]}`, which comes with status 200, is for good."""
        try:
            errors = _asset_pairs.decode(body).error
        except READ_ERRORS:
            return None
        return UNKNOWN_PAIR if UNKNOWN_PAIR in errors else None

    def feed(self, channel: str, symbol: str) -> Feed:
        """A symbol's channel is a feed of its own."""
        return Feed(channel, symbol)

    def socket_url(self, base: str, channel: str) -> str:
        """One endpoint for all channels."""
        return base

    def greeting(self, request: int) -> str | None:
        """None is wanted: heartbeats come with the first subscription."""
        return None

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"subscribe","params":{"channel":"trade","symbol":["BTC/USD"],"snapshot":true},"req_id":1}`."""
        return _request("subscribe", _params(feeds) | {"snapshot": True}, request)

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"unsubscribe","params":{"channel":"trade","symbol":["BTC/USD"]},"req_id":2}`."""
        return _request("unsubscribe", _params(feeds), request)

    def one_message(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """A message names one channel: the feeds of the first one's."""
        return [feed for feed in feeds if feed.channel == feeds[0].channel]

    def parse(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        """A quote, trade or book for each of the frame's; raises BadFrame."""
        try:
            told = _frames.decode(frame)
            if isinstance(told, Books):
                return [_book(data, told.type == "snapshot", receipt) for data in told.data]
            if isinstance(told, Trades):
                if told.type == "snapshot":
                    told.data.sort(key=_in_order)
                return [_trade(data, receipt) for data in told.data]
            if isinstance(told, Tickers):
                return [_quote(data, receipt) for data in told.data]
        except msgspec.ValidationError as error:
            return _control(frame, error)
        except READ_ERRORS as error:
            raise bad_frame(error) from None
        return _farewells(told, receipt) if isinstance(told, Status) else ()

    def sequencer(self, symbol: str) -> KrakenBook:
        """A new keeper of this pair's book."""
        return KrakenBook(DEPTH)

    def history(self, base: str, symbol: str, span: Span) -> Get:
        """`/0/public/Trades?pair=XBTUSD&count=1000&since=1688669597827735999`."""
        asked = {"pair": _rest_name(symbol), "count": MOST_TRADES}
        if span.from_us is not None:
            asked["since"] = span.from_us * 1000 - 1
        return Get(f"{base.rstrip('/')}/0/public/Trades?{urlencode(asked)}")

    def past(self, symbol: str, body: bytes, receipt: Receipt) -> Sequence[Trade]:
        """The trades of such an answer; raises BadFrame."""
        with reading():
            told = _past.decode(body)
            if told.error:
                raise BadFrame(f"Kraken says {told.error[0][:200]}")
            pairs = [rows for rows in told.result.values() if bytes(rows).startswith(b"[")]
            if len(pairs) != 1:
                raise BadFrame(f"trades of {len(pairs)} pairs")
            return [_past_trade(row, symbol, receipt) for row in sorted(_past_rows.decode(pairs[0]), key=_in_order)]


def _params(feeds: Sequence[Feed]) -> dict[str, Any]:
    channel = feeds[0].channel
    return {"channel": CHANNELS[channel], "symbol": [feed.symbol for feed in feeds], **OPTIONS[channel]}


def _request(method: str, params: dict[str, Any], request: int) -> str:
    return msgspec.json.encode({"method": method, "params": params, "req_id": request}).decode()


def _control(frame: bytes, why: msgspec.ValidationError) -> Sequence[Event]:
    """What a frame says that is no data; else raises what is wrong with it."""
    with reading():
        told = _any_frame.decode(frame)
    if told.channel is not None:
        known = told.channel in FEEDS or told.channel in {"heartbeat", "status"}
        raise BadFrame(str(why) if known else f"channel {told.channel[:64]!r} is none that Raven subscribes to")
    if told.method == "pong":
        return ()
    if told.error is not None or not told.success:
        text = told.error or "refused"
        return (Reply(told.req_id, text, _all_channels(told.symbol), momentary=is_momentary(text)),)
    if told.method not in {"subscribe", "unsubscribe"} or told.result is None:
        raise BadFrame("neither a channel's frame nor a reply")
    channel = FEEDS.get(told.result.channel)
    if channel is None:
        raise BadFrame(f"a reply about {told.result.channel[:64]!r}, to which Raven does not subscribe")
    return (Reply(told.req_id, None, (Feed(channel, told.result.symbol),)),)


def _all_channels(symbol: str | None) -> tuple[Feed, ...] | None:
    return None if symbol is None else tuple(Feed(channel, symbol) for channel in CHANNELS)


def _farewells(told: Status, receipt: Receipt) -> Sequence[Event]:
    leaving = receipt.sequence != 1 and any(data.system == "maintenance" for data in told.data)
    return (Farewell("maintenance"),) if leaving else ()


def _book(data: BookData, whole: bool, receipt: Receipt) -> BookUpdate:
    bids, bid_texts = _levels(data.bids)
    asks, ask_texts = _levels(data.asks)
    return BookUpdate(
        symbol=data.symbol,
        whole=whole,
        event_time=None if data.timestamp is None else happened(moment(data.timestamp), receipt.received_us),
        received_time=receipt.received_us,
        bids=bids,
        asks=asks,
        checksum=data.checksum,
        bid_texts=bid_texts,
        ask_texts=ask_texts,
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


def _levels(told: Sequence[LevelData]) -> tuple[list[tuple[int, int]], list[bytes]]:
    """Prices and quantities, and what the checksum is taken over."""
    levels, texts = [], []
    for data in told:
        price, quantity = str(data.price, "ascii"), str(data.qty, "ascii")
        levels.append((positive(price), counted(quantity)))
        texts.append(_digits(price) + _digits(quantity))
    return levels, texts


@lru_cache(maxsize=1 << 16)
def _digits(text: str) -> bytes:
    """A number as the checksum has it: no point and no leading zeros. No frame has been seen with an exponent."""
    plain = f"{Decimal(text):f}" if "e" in text.lower() else text
    return plain.replace(".", "").lstrip("0").encode()


def _rest_name(symbol: str) -> str:
    base, _, quote = symbol.partition("/")
    return REST_NAMES.get(base, base) + REST_NAMES.get(quote, quote)


def _past_trade(row: PastTrade, symbol: str, receipt: Receipt) -> Trade:
    return _record(
        symbol,
        receipt,
        trade_id=row.trade_id,
        event_us=number(str(row.time, "ascii")) // MICROSECOND,
        price=from_text(row.price),
        quantity=from_text(row.volume),
        side=SIDES[row.side],
    )


def _quote(data: TickerData, receipt: Receipt) -> Quote:
    bid, ask = counted(str(data.bid, "ascii")), counted(str(data.ask, "ascii"))
    bid_quantity, ask_quantity = counted(str(data.bid_qty, "ascii")), counted(str(data.ask_qty, "ascii"))
    event_us = None if data.timestamp is None else moment(data.timestamp)
    return Quote(
        venue=NAME,
        symbol=data.symbol,
        event_time=happened(event_us, receipt.received_us) if event_us else None,
        received_time=receipt.received_us,
        bid_price=bid or None,
        bid_quantity=bid_quantity if bid else None,
        ask_price=ask or None,
        ask_quantity=ask_quantity if ask else None,
        last_price=counted(str(data.last, "ascii")) or None,
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


def _trade(data: TradeData, receipt: Receipt) -> Trade:
    return _record(
        data.symbol,
        receipt,
        trade_id=data.trade_id,
        event_us=moment(data.timestamp),
        price=number(str(data.price, "ascii")),
        quantity=number(str(data.qty, "ascii")),
        side=SIDES[data.side],
    )


def _record(
    symbol: str, receipt: Receipt, *, trade_id: int, event_us: int, price: int, quantity: int, side: Side
) -> Trade:
    traded(price, quantity)
    return Trade(
        venue=NAME,
        symbol=symbol,
        event_time=happened(event_us, receipt.received_us),
        received_time=receipt.received_us,
        trade_id=str(trade_id),
        sequence=trade_id,
        price=price,
        quantity=quantity,
        side=side,
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


def _instrument(info: PairInfo, received_us: int) -> Instrument:
    base, _, quote = info.wsname.partition("/")
    base, quote = RENAMED.get(base, base), RENAMED.get(quote, quote)
    return Instrument(
        venue=NAME,
        symbol=f"{base}/{quote}",
        received_time=received_us,
        base=base,
        quote=quote,
        kind="SPOT",
        status=info.status,
        tick_size=optional(positive, info.tick_size),
        lot_size=not_negative(f"1e-{info.lot_decimals}"),
    )
