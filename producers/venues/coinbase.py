"""Coinbase Advanced Trade: best bid and ask, and trades. What all its channels share is in protocols/coinbase.py.

Channels: https://docs.cdp.coinbase.com/coinbase-app/advanced-trade-apis/websocket/websocket-channels
History: https://docs.cdp.coinbase.com/api-reference/advanced-trade-api/rest-api/products/get-public-market-trades

    {"channel":"ticker","timestamp":"2026-08-09T21:05:48.229198328Z","sequence_num":6,"events":[{"type":"snapshot",
     "tickers":[{"type":"ticker","product_id":"BTC-USD","price":"65086.18",...,"best_bid":"65083.66",
     "best_ask":"65083.67","best_bid_quantity":"0.20371215","best_ask_quantity":"0.24290402"}]}]}
    {"channel":"market_trades","timestamp":"...","sequence_num":9,"events":[{"type":"update","trades":[{
     "product_id":"BTC-USD","trade_id":"1068572091","price":"65083.67","size":"0.01034361",
     "time":"2026-08-09T21:05:48.167634Z","side":"SELL"}]}]}
    GET /api/v3/brokerage/market/products/BTC-USD/ticker?limit=1000&start=1786309548&end=1786309550
    {"trades":[{"trade_id":"1068572091","product_id":"BTC-USD","price":"65083.67","size":"0.01034361",
     "time":"2026-08-09T21:05:48.167634Z","side":"SELL","exchange":""}],"best_bid":"65083.66","best_ask":"65083.67"}

`side` is the maker's, and the record's the opposite. The tape proves it: in a recording of August 2026 the book was
rebuilt from level2 by its own event times, and of the 56 trades in it all 37 SELLs were at the best ask of the moment
before and all 19 BUYs at the best bid. A taker who sells does not trade at the ask. Nautilus ("Coinbase reports the
maker side on public market trades") and bbgo (PR #2509, "correct market trade side to taker side") came to the same
after having had it the other way; cryptofeed takes it as the taker's to this day, and so calls each trade's side wrong.
The REST answer is read alike. Its page does not say whose the side is, but it holds the same objects (ids, fields,
upper case) as the channel's snapshot, and Coinbase's older REST page of the same matches says "maker order side".

Trades come up to 250 ms late and batched, newest first, and the first frame holds the last hundred: they are put into
the order of their ids, which count the trades of one product. A ticker has no time of its own: the frame's is taken,
which has nanoseconds; what is below a microsecond is cut off.

Past trades are found by time, in whole seconds, of which the span's first and last are asked for in full: ids find
none. There are at most a thousand in an answer, the newest: of a longer span its end comes first.
"""

from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlencode

import msgspec

from producers.contract import QUOTES, TRADES, BadFrame, Event, Get, Receipt, Span
from producers.protocols.coinbase import (
    VENUE,
    CoinbaseStream,
    Heartbeats,
    Id,
    Kind,
    Name,
    Number,
    Reader,
    Subscriptions,
    Time,
    amount,
    canonical,
    products_url,
)
from producers.values import happened, moment, optional, reading, traded
from ravencore.decimals import from_text
from ravencore.records import Quote, Side, Trade

CHANNELS = {QUOTES: "ticker", TRADES: "market_trades"}
TAKERS: dict[str, Side] = {"SELL": "BUY", "BUY": "SELL"}
"""The taker's side by the maker's."""
MOST_TRADES = 1000
"""In one answer; more are refused."""
SECOND_US = 1_000_000


class TickerData(msgspec.Struct, gc=False):
    """One of an event's `tickers`."""

    product_id: Name
    price: Number
    best_bid: Number
    best_bid_quantity: Number
    best_ask: Number
    best_ask_quantity: Number


class TradeData(msgspec.Struct, gc=False):
    """One of an event's or an answer's `trades`."""

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


class Tickers(msgspec.Struct, tag_field="channel", tag="ticker", gc=False):
    """A frame of the ticker channel."""

    timestamp: Time
    sequence_num: Id
    events: Annotated[list[TickerEvent], msgspec.Meta(min_length=1)]


class Trades(msgspec.Struct, tag_field="channel", tag="market_trades", gc=False):
    """A frame of the market_trades channel."""

    sequence_num: Id
    events: Annotated[list[TradeEvent], msgspec.Meta(min_length=1)]


class PastTrades(msgspec.Struct):
    """The body of GET /market/products/{product_id}/ticker."""

    trades: list[TradeData]


_frames = msgspec.json.Decoder(Tickers | Trades | Subscriptions | Heartbeats)
_past = msgspec.json.Decoder(PastTrades)
_in_order = attrgetter("sequence")


def _read(told: Tickers | Trades, receipt: Receipt) -> Sequence[Event]:
    """A quote or trade for each of the frame's."""
    if isinstance(told, Trades):
        return _trades([data for event in told.events for data in event.trades], receipt)
    event_us = happened(moment(told.timestamp), receipt.received_us)
    return [_quote(data, event_us, receipt) for event in told.events for data in event.tickers]


def _quote(data: TickerData, event_us: int, receipt: Receipt) -> Quote:
    bid, ask = _price(data.best_bid), _price(data.best_ask)
    bid_quantity, ask_quantity = optional(amount, data.best_bid_quantity), optional(amount, data.best_ask_quantity)
    return Quote(
        venue=VENUE,
        symbol=canonical(data.product_id),
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


def _price(text: str) -> int | None:
    """A price; None for an empty text and 0, which say that there is none."""
    return amount(text) or None if text else None


def _trades(told: Sequence[TradeData], receipt: Receipt) -> list[Trade]:
    trades = [_trade(data, receipt) for data in told]
    if len(trades) > 1:
        trades.sort(key=_in_order)
    return trades


def _trade(data: TradeData, receipt: Receipt) -> Trade:
    if not (data.trade_id.isascii() and data.trade_id.isdigit()):
        raise BadFrame(f"trade id {data.trade_id!r} is no number")
    price, quantity = amount(data.price), from_text(data.size)
    traded(price, quantity)
    return Trade(
        venue=VENUE,
        symbol=canonical(data.product_id),
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


class Coinbase(CoinbaseStream):
    """Coinbase's quotes and trades (`producers.contract.HasHistory`)."""

    name = "COINBASE"
    channels: tuple[str, ...] = (QUOTES, TRADES)
    spellings: ClassVar[Mapping[str, str]] = CHANNELS
    reader = Reader(_frames, frozenset(CHANNELS.values()), _read)
    past_trades = True

    def history(self, base: str, symbol: str, span: Span) -> Get:
        """`.../products/BTC-USD/ticker?limit=1000&start=1786309548&end=1786309550`."""
        asked = {"limit": MOST_TRADES}
        if span.from_us is not None:
            asked["start"] = span.from_us // SECOND_US
        if span.last is not None and span.to_us is not None:
            asked["end"] = span.to_us // SECOND_US + 1
        return Get(f"{products_url(base, canonical(symbol))}/ticker?{urlencode(asked)}")

    def past(self, symbol: str, body: bytes, receipt: Receipt) -> Sequence[Trade]:
        """The trades of such an answer; raises BadFrame."""
        with reading():
            trades = _trades(_past.decode(body).trades, receipt)
            if any(trade.symbol != canonical(symbol) for trade in trades):
                raise BadFrame(f"trades of another product than {symbol!r}")
            return trades
