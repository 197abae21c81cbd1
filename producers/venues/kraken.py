"""Kraken spot: best bid and ask, and trades, over version 2 of its WebSocket.

Ticker: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/ticker
Trades: https://docs.kraken.com/exchange/api-reference/spot-websocket-v2/trade
REST: https://docs.kraken.com/api/docs/rest-api/get-tradable-asset-pairs

    {"channel":"ticker","type":"update","data":[{"symbol":"ALGO/USD","bid":0.10025,"bid_qty":740.0,"ask":0.10036,
     "ask_qty":1361.44813783,"last":0.10035,"volume":997038.98383185,...,"timestamp":"2023-10-06T17:35:55.440295Z"}]}
    {"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell","price":0.5117,"qty":40.0,
     "ord_type":"market","trade_id":4665906,"timestamp":"2023-09-25T07:49:37.708706Z"}]}
    {"method":"subscribe","result":{"channel":"ticker","symbol":"BTC/USD","snapshot":true},"success":true,"req_id":1}
    {"error":"Currency pair not supported XBT/EUR","method":"subscribe","success":false,"symbol":"XBT/EUR","req_id":1}
    {"channel":"heartbeat"}    and    {"channel":"status","type":"update","data":[{"connection_id":18432,...}]}

Oddities. Numbers are JSON numbers with trailing zeros, and some written as 1e-8: their text is read, never a double.
`connection_id` exceeds 2^53 and is not read. Bitcoin is BTC and Dogecoin DOGE here, but XBT and XDG in REST names.
Older tickers have no `timestamp`; a pair without a book has prices of 0 and the time 1970-01-01, which both say that
there is none. Each symbol of a request is acknowledged by itself, and a refusal names the symbol alone: every
channel of it is meant, of which a request asks for one.

`event_trigger` is bbo: with the default, `trades`, a best price that moves between trades would not be told. And
`snapshot` is true for trades too, which for them is not the default: Kraken then sends the last 50 with their ids.
After a reconnect they fill the hole if it is no longer than that, and what was published before is known by its id.
`trade_id` counts the trades of one symbol; a snapshot is put into its order. `side` is the taker's.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any, Literal

import msgspec

from producers.contract import (
    QUOTES,
    TRADES,
    BadFrame,
    Event,
    Feed,
    Get,
    Limits,
    Rate,
    Receipt,
    Reply,
    Scope,
)
from producers.values import (
    READ_ERRORS,
    bad_frame,
    counted,
    happened,
    moment,
    not_negative,
    number,
    optional,
    positive,
    reading,
    traded,
)
from ravencore.records import Instrument, Quote, Side, Trade

NAME = "KRAKEN"
CHANNELS = {QUOTES: "ticker", TRADES: "trade"}
FEEDS = {spelling: channel for channel, spelling in CHANNELS.items()}
RENAMED = {"XBT": "BTC", "XDG": "DOGE"}
SIDES: dict[str, Side] = {"buy": "BUY", "sell": "SELL"}
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


class Status(msgspec.Struct, tag_field="channel", tag="status"):
    """What the engine says of itself, first on every connection."""

    data: list[Any]


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


_frames = msgspec.json.Decoder(Tickers | Trades | Heartbeat | Status)
_any_frame = msgspec.json.Decoder(AnyFrame)
_asset_pairs = msgspec.json.Decoder(AssetPairs)
_in_order = attrgetter("trade_id")


class Kraken:
    """Kraken's market data (`producers.contract.Stream`)."""

    name = NAME
    venue = NAME
    channels: tuple[str, ...] = (QUOTES, TRADES)
    scope: Scope = "symbol"
    selection: str | None = None
    past_trades = True
    # About 150 connections in 10 minutes; public REST once a second; a heartbeat every second.
    limits = Limits(
        rest=Rate(1, 1.0),
        connects=Rate(1, 4.0),
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

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """Nothing is collected as a whole."""
        return ()

    def feed(self, channel: str, symbol: str) -> Feed:
        """A symbol's channel is a feed of its own."""
        return Feed(channel, symbol)

    def socket_url(self, base: str, channel: str) -> str:
        """One endpoint for both channels."""
        return base

    def greeting(self, request: int) -> str | None:
        """None is wanted: heartbeats come with the first subscription."""
        return None

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"subscribe","params":{"channel":"trade","symbol":["BTC/USD"],"snapshot":true},"req_id":1}`."""
        params = _params(feeds) | {"snapshot": True}
        if feeds[0].channel == QUOTES:
            params["event_trigger"] = "bbo"
        return _request("subscribe", params, request)

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"unsubscribe","params":{"channel":"trade","symbol":["BTC/USD"]},"req_id":2}`."""
        params = _params(feeds)
        if feeds[0].channel == QUOTES:
            params["event_trigger"] = "bbo"
        return _request("unsubscribe", params, request)

    def one_message(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """A message names one channel: the feeds of the first one's."""
        return [feed for feed in feeds if feed.channel == feeds[0].channel]

    def parse(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        """A quote or trade for each of the frame's; raises BadFrame."""
        try:
            told = _frames.decode(frame)
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
        return ()


def _params(feeds: Sequence[Feed]) -> dict[str, Any]:
    return {"channel": CHANNELS[feeds[0].channel], "symbol": [feed.symbol for feed in feeds]}


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
        return (Reply(told.req_id, told.error or "refused", _all_channels(told.symbol)),)
    if told.method not in {"subscribe", "unsubscribe"} or told.result is None:
        raise BadFrame("neither a channel's frame nor a reply")
    channel = FEEDS.get(told.result.channel)
    if channel is None:
        raise BadFrame(f"a reply about {told.result.channel[:64]!r}, to which Raven does not subscribe")
    return (Reply(told.req_id, None, (Feed(channel, told.result.symbol),)),)


def _all_channels(symbol: str | None) -> tuple[Feed, ...] | None:
    return None if symbol is None else tuple(Feed(channel, symbol) for channel in CHANNELS)


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
    price, quantity = number(str(data.price, "ascii")), number(str(data.qty, "ascii"))
    traded(price, quantity)
    return Trade(
        venue=NAME,
        symbol=data.symbol,
        event_time=happened(moment(data.timestamp), receipt.received_us),
        received_time=receipt.received_us,
        trade_id=str(data.trade_id),
        sequence=data.trade_id,
        price=price,
        quantity=quantity,
        side=SIDES[data.side],
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
