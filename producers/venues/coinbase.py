"""Coinbase Advanced Trade: best bid and ask, and trades.

Channels: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels
Endpoints: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-endpoints
Limits: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-rate-limits
REST: https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/products/get-public-product

    {"channel":"ticker","timestamp":"2026-08-09T21:05:48.229198328Z","sequence_num":6,"events":[{"type":"snapshot",
     "tickers":[{"type":"ticker","product_id":"BTC-USD","price":"65086.18",...,"best_bid":"65083.66",
     "best_ask":"65083.67","best_bid_quantity":"0.20371215","best_ask_quantity":"0.24290402"}]}]}
    {"channel":"market_trades","timestamp":"...","sequence_num":9,"events":[{"type":"update","trades":[{
     "product_id":"BTC-USD","trade_id":"1068572091","price":"65083.67","size":"0.01034361",
     "time":"2026-08-09T21:05:48.167634Z","side":"SELL"}]}]}
    {"channel":"subscriptions","timestamp":"...","sequence_num":8,"events":[{"subscriptions":{"ticker":["BTC-USD"]}}]}
    {"channel":"heartbeats","timestamp":"...","sequence_num":35,"events":[{"current_time":"...","heartbeat_counter":1}]}
    {"type":"error","message":"..."}

`side` is the maker's, and the record's the opposite. The tape proves it: in a recording of August 2026 the book was
rebuilt from level2 by its own event times, and of the 56 trades in it all 37 SELLs were at the best ask of the moment
before and all 19 BUYs at the best bid. A taker who sells does not trade at the ask. Nautilus ("Coinbase reports the
maker side on public market trades") and bbgo (PR #2509, "correct market trade side to taker side") came to the same
after having had it the other way; cryptofeed takes it as the taker's to this day, and so calls each trade's side wrong.

Trades come up to 250 ms late and batched, newest first, and the first frame holds the last hundred: they are put into
the order of their ids, which count the trades of one product. A ticker has no time of its own: the frame's is taken,
which has nanoseconds; what is below a microsecond is cut off.

Requests have no number. Each is answered by a `subscriptions` frame that lists all there are by then, so what a request
asked for and the list lacks was refused, or has ended. An error says nothing of which request it is about.

`BTC-USDC` is another name of `BTC-USD`: Coinbase keeps one book for both, and whatever one asks for, frames name the
-USD product (nautilus' and ccxt's PR #30567 say so of live frames). So here -USDC is asked for, listed and published
as -USD, but for the five products that have no -USD to stand for (`alias` is empty in /market/products, August 2026).

Most channels close after 60 to 90 s without updates: `heartbeats`, once a second, keep them open, and being the first
message they also keep the rule that one must subscribe within 5 s. `sequence_num` counts the frames of a connection.
It is not read yet.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal
from urllib.parse import quote

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
    happened,
    moment,
    not_negative,
    optional,
    positive,
    reading,
    traded,
)
from ravencore.decimals import from_text
from ravencore.records import Instrument, Quote, Side, Trade

NAME = "COINBASE"
CHANNELS = {QUOTES: "ticker", TRADES: "market_trades"}
FEEDS = {spelling: channel for channel, spelling in CHANNELS.items()}
OWN_BOOKS = frozenset({"USDT-USDC", "EURC-USDC", "XSGD-USDC", "TGBP-USDC", "AUDD-USDC"})
"""Products against USDC that are no other name of one against USD."""
TAKERS: dict[str, Side] = {"SELL": "BUY", "BUY": "SELL"}
"""The taker's side by the maker's."""
NOT_LISTED = "not among the subscriptions that Coinbase lists"
NO_SUCH_PRODUCT = frozenset({400, 404})

Number = Annotated[str, msgspec.Meta(max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Time = Annotated[str, msgspec.Meta(max_length=40)]
Kind = Literal["snapshot", "update"]


class TickerData(msgspec.Struct, gc=False):
    """One of an event's `tickers`."""

    product_id: Name
    price: Number
    best_bid: Number
    best_bid_quantity: Number
    best_ask: Number
    best_ask_quantity: Number


class TradeData(msgspec.Struct, gc=False):
    """One of an event's `trades`."""

    product_id: Name
    trade_id: Annotated[str, msgspec.Meta(min_length=1, max_length=18)]
    price: Number
    size: Number
    time: Time
    side: Literal["BUY", "SELL"]


class TickerEvent(msgspec.Struct, gc=False):
    """One of a ticker's `events`."""

    type: Kind
    tickers: Annotated[list[TickerData], msgspec.Meta(min_length=1)]


class TradeEvent(msgspec.Struct, gc=False):
    """One of a market_trades' `events`."""

    type: Kind
    trades: Annotated[list[TradeData], msgspec.Meta(min_length=1)]


class SubscriptionsEvent(msgspec.Struct):
    """The event of a subscriptions frame."""

    subscriptions: dict[str, list[Name]]


class Tickers(msgspec.Struct, tag_field="channel", tag="ticker", gc=False):
    """A frame of the ticker channel."""

    timestamp: Time
    events: Annotated[list[TickerEvent], msgspec.Meta(min_length=1)]


class Trades(msgspec.Struct, tag_field="channel", tag="market_trades", gc=False):
    """A frame of the market_trades channel."""

    events: Annotated[list[TradeEvent], msgspec.Meta(min_length=1)]


class Subscriptions(msgspec.Struct, tag_field="channel", tag="subscriptions"):
    """The answer to any request."""

    events: Annotated[list[SubscriptionsEvent], msgspec.Meta(min_length=1, max_length=1)]


class Heartbeats(msgspec.Struct, tag_field="channel", tag="heartbeats"):
    """A frame of the heartbeats channel."""

    events: list[Any]


class AnyFrame(msgspec.Struct):
    """Any frame."""

    channel: str | None = None
    type: str | None = None
    message: str = ""


class Product(msgspec.Struct):
    """One of products: {"product_id":"BTC-USD","price_increment":"0.01","base_increment":"0.00000001",...}."""

    product_id: Name
    base_currency_id: str
    quote_currency_id: str
    product_type: str
    status: str
    price_increment: Number
    base_increment: Number


class Products(msgspec.Struct):
    """The body of GET /market/products."""

    products: list[Product]


class Failure(msgspec.Struct):
    """{"error":"NOT_FOUND","error_details":"...","message":"..."}."""

    error: str
    message: str = ""
    error_details: str = ""


_frames = msgspec.json.Decoder(Tickers | Trades | Subscriptions | Heartbeats)
_any_frame = msgspec.json.Decoder(AnyFrame)
_products = msgspec.json.Decoder(Products)
_product = msgspec.json.Decoder(Product)
_failure = msgspec.json.Decoder(Failure)


class Coinbase:
    """Coinbase's market data (`producers.contract.Stream`)."""

    name = NAME
    venue = NAME
    channels: tuple[str, ...] = (QUOTES, TRADES)
    scope: Scope = "symbol"
    selection: str | None = None
    past_trades = True
    # 8 connections and 8 messages a second from one address, 10 public REST requests.
    limits = Limits(
        rest=Rate(5, 1.0),
        connects=Rate(2, 1.0),
        messages=Rate(4, 1.0),
        feeds_per_connection=200,
        feeds_per_message=50,
        silence_seconds=10.0,
    )

    def symbol_of(self, base: str, quote: str) -> str:
        """`BTC-USD`, for USDC as well."""
        return _canonical(f"{base}-{quote}")

    def listing(self, base: str, symbol: str | None) -> Get:
        """The product, or all of them."""
        one = "" if symbol is None else f"/{quote(symbol, safe='')}"
        return Get(f"{base.rstrip('/')}/api/v3/brokerage/market/products{one}")

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of either body; raises BadFrame."""
        with reading():
            return [_instrument(product, received_us) for product in _read_products(body)]

    def refusal(self, status: int, body: bytes) -> str | None:
        """`NOT_FOUND` and `INVALID_ARGUMENT` are for good."""
        try:
            failure = _failure.decode(body)
        except READ_ERRORS:
            return None
        if status not in NO_SUCH_PRODUCT or failure.error not in {"NOT_FOUND", "INVALID_ARGUMENT"}:
            return None
        return f"{failure.message or failure.error_details} ({failure.error})"

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """Nothing is collected as a whole."""
        return ()

    def feed(self, channel: str, symbol: str) -> Feed:
        """A product's channel is a feed of its own, by its canonical name."""
        return Feed(channel, _canonical(symbol))

    def socket_url(self, base: str, channel: str) -> str:
        """One endpoint for both channels."""
        return base

    def greeting(self, request: int) -> str | None:
        """Heartbeats, which keep the other channels open."""
        return '{"type":"subscribe","channel":"heartbeats"}'

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"type":"subscribe","product_ids":["BTC-USD"],"channel":"ticker"}`."""
        return _request("subscribe", feeds)

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """The same with `unsubscribe`."""
        return _request("unsubscribe", feeds)

    def one_message(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """A message names one channel: the feeds of the first one's."""
        return [feed for feed in feeds if feed.channel == feeds[0].channel]

    def parse(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        """A quote or trade for each of the frame's; raises BadFrame."""
        try:
            told = _frames.decode(frame)
            if isinstance(told, Trades):
                return _trades(told, receipt)
            if isinstance(told, Tickers):
                return _quotes(told, receipt)
        except msgspec.ValidationError as error:
            return _control(frame, error)
        except READ_ERRORS as error:
            raise bad_frame(error) from None
        return (_listed(told.events[0]),) if isinstance(told, Subscriptions) else ()


@lru_cache(maxsize=4096)
def _canonical(symbol: str) -> str:
    return symbol.removesuffix("C") if symbol.endswith("-USDC") and symbol not in OWN_BOOKS else symbol


def _request(kind: str, feeds: Sequence[Feed]) -> str:
    products = [_canonical(feed.symbol) for feed in feeds]
    request = {"type": kind, "product_ids": products, "channel": CHANNELS[feeds[0].channel]}
    return msgspec.json.encode(request).decode()


def _control(frame: bytes, why: msgspec.ValidationError) -> Sequence[Event]:
    """An error's Reply; else raises what is wrong with the frame."""
    with reading():
        told = _any_frame.decode(frame)
    if told.type == "error":
        return (Reply(None, told.message or "error"),)
    known = told.channel is None or told.channel in FEEDS or told.channel in {"subscriptions", "heartbeats"}
    raise BadFrame(str(why) if known else f"channel {str(told.channel)[:64]!r} is none that Raven subscribes to")


def _listed(event: SubscriptionsEvent) -> Reply:
    feeds = tuple(
        Feed(FEEDS[channel], _canonical(product))
        for channel, products in event.subscriptions.items()
        if channel in FEEDS
        for product in products
    )
    return Reply(None, None, feeds, NOT_LISTED)


def _quotes(told: Tickers, receipt: Receipt) -> list[Event]:
    event_us = happened(moment(told.timestamp), receipt.received_us)
    return [_quote(data, event_us, receipt) for event in told.events for data in event.tickers]


def _quote(data: TickerData, event_us: int, receipt: Receipt) -> Quote:
    bid, ask = _price(data.best_bid), _price(data.best_ask)
    bid_quantity, ask_quantity = optional(_amount, data.best_bid_quantity), optional(_amount, data.best_ask_quantity)
    return Quote(
        venue=NAME,
        symbol=_canonical(data.product_id),
        event_time=event_us,
        received_time=receipt.received_us,
        bid_price=bid,
        bid_quantity=None if bid is None else bid_quantity,
        ask_price=ask,
        ask_quantity=None if ask is None else ask_quantity,
        last_price=_price(data.price),
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


_amount = lru_cache(maxsize=1 << 16)(not_negative)
"""Prices, and what stands at the best of them, come again and again."""


def _price(text: str) -> int | None:
    """A price; None for an empty text and 0, which say that there is none."""
    return _amount(text) or None if text else None


def _trades(told: Trades, receipt: Receipt) -> list[Event]:
    trades = [_trade(data, receipt) for event in told.events for data in event.trades]
    if len(trades) > 1:
        trades.sort(key=_in_order)
    return trades  # type: ignore[return-value] # trades are events


def _in_order(trade: Trade) -> int:
    return trade.sequence or 0


def _trade(data: TradeData, receipt: Receipt) -> Trade:
    if not (data.trade_id.isascii() and data.trade_id.isdigit()):
        raise BadFrame(f"trade id {data.trade_id!r} is no number")
    price, quantity = _amount(data.price), from_text(data.size)
    traded(price, quantity)
    return Trade(
        venue=NAME,
        symbol=_canonical(data.product_id),
        event_time=happened(moment(data.time), receipt.received_us),
        received_time=receipt.received_us,
        trade_id=data.trade_id,
        sequence=int(data.trade_id),
        price=price,
        quantity=quantity,
        side=TAKERS[data.side],
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


def _read_products(body: bytes) -> list[Product]:
    try:
        return _products.decode(body).products
    except msgspec.ValidationError as list_error:
        try:
            return [_product.decode(body)]
        except msgspec.ValidationError:
            raise list_error from None


def _instrument(product: Product, received_us: int) -> Instrument:
    base, _, quote = product.product_id.partition("-")
    return Instrument(
        venue=NAME,
        symbol=product.product_id,
        received_time=received_us,
        base=product.base_currency_id or base,
        quote=product.quote_currency_id or quote,
        kind="SPOT" if product.product_type == "SPOT" else "UNKNOWN",
        status=product.status,
        tick_size=optional(positive, product.price_increment),
        lot_size=optional(positive, product.base_increment),
    )
