"""Deribit's option trades, of all options of the selected currencies in one channel for each.

Protocol: https://docs.deribit.com/subscriptions/trades/tradeskindcurrencyinterval
History: https://docs.deribit.com/api-reference/market-data/public-get_last_trades_by_instrument

    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.option.BTC.100ms","data":[{"trade_seq":1706,
     "trade_id":"137488100","timestamp":1616321732986,"tick_direction":0,"price":0.007,"mark_price":0.00670817,
     "iv":78.44,"instrument_name":"BTC-26MAR21-62000-C","index_price":56151.63,"direction":"buy","amount":0.1}]}}

`direction` is the taker's. `trade_seq` counts the trades of one instrument without holes, `trade_id` names a trade
among all. `amount` counts coins for options; prices are in the currency the option settles in.

A trade of a combo is printed several times: once for the combo itself, on the channels of kind option_combo, and once
for each leg, on those of kind option with a `combo_id`. Raven subscribes to the latter alone, so each contract that
changed hands is here once. Where a frame of a combo comes all the same, its `legs` are not read: they have their own.

Frames of one instrument's channel (`trades.BTC-26MAR21-62000-C.raw`) are read as well; for inverse futures, which Raven
does not subscribe to, the amount is in USD as Deribit prints it.

Past trades of an instrument are found by their `trade_seq`, in the same words:

    GET public/get_last_trades_by_instrument?instrument_name=BTC-26MAR21-62000-C&start_seq=1706&end_seq=1707&count=1000
    {"jsonrpc":"2.0","result":{"trades":[{"trade_seq":1706,"trade_id":"137488100",...}],"has_more":false}}

Without `include_old` those of more than a few days ago are left out.
"""

from collections.abc import Sequence
from functools import lru_cache
from operator import attrgetter
from typing import Annotated, Literal
from urllib.parse import urlencode

import msgspec

from producers.contract import TRADES, BadFrame, Feed, Get, Receipt, Span
from producers.protocols.deribit import (
    INTERVALS,
    VENUE,
    YEAR_9999_MS,
    Deribit,
    Id,
    Millis,
    Name,
    Notification,
    Reader,
    currency_of,
    spelled,
)
from producers.values import MILLISECONDS_TO_US, happened, number, reading, traded
from ravencore.records import Instrument, Side, Trade

KINDS = frozenset({"option", "future", "spot", "option_combo", "future_combo"})
ANY = "any"
SIDES: dict[str, Side] = {"buy": "BUY", "sell": "SELL"}
MOST_TRADES = 1000
"""In one answer."""


class TradeData(msgspec.Struct, gc=False):
    """One of `data`."""

    trade_seq: Id
    trade_id: Name
    timestamp: Millis
    price: msgspec.Raw
    instrument_name: Name
    direction: Literal["buy", "sell"]
    amount: msgspec.Raw


Trades = Annotated[list[TradeData], msgspec.Meta(min_length=1)]


class PastTrades(msgspec.Struct):
    """`result` of get_last_trades_by_instrument."""

    trades: list[TradeData]


class Past(msgspec.Struct):
    """The body of GET public/get_last_trades_by_instrument."""

    result: PastTrades


_past = msgspec.json.Decoder(Past)
_in_order = attrgetter("trade_seq")


@lru_cache(maxsize=4096)
def _topic(channel: str) -> str | None:
    """What a channel is of: a currency, ANY, or one instrument; None where it is no channel of trades."""
    match channel.split("."):
        case ["trades", kind, currency, interval] if kind in KINDS and interval in INTERVALS:
            return currency
        case ["trades", instrument, interval] if "-" in instrument and interval in INTERVALS:
            return instrument.upper()
    return None


def _feed_of(channel: str) -> Feed | None:
    topic = _topic(channel)
    return None if topic is None else Feed(TRADES, currency_of(topic))


def _read(told: Sequence[TradeData], topic: str, receipt: Receipt) -> Sequence[Trade]:
    return [_trade(data, topic, receipt) for data in told]


def _trade(data: TradeData, topic: str, receipt: Receipt) -> Trade:
    symbol = data.instrument_name.upper()
    if topic not in (symbol, ANY) and topic != currency_of(symbol):
        raise BadFrame(f"a trade of {symbol!r} on the channel of {topic!r}")
    price, quantity = number(str(data.price, "ascii")), number(str(data.amount, "ascii"))
    traded(price, quantity)
    return Trade(
        venue=VENUE,
        symbol=symbol,
        event_time=happened(data.timestamp * MILLISECONDS_TO_US, receipt.received_us),
        received_time=receipt.received_us,
        trade_id=data.trade_id,
        sequence=data.trade_seq,
        price=price,
        quantity=quantity,
        side=SIDES[data.direction],
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


class DeribitTrades(Deribit):
    """Trades of options (`producers.contract.HasHistory`)."""

    name = "DERIBIT_TRADES"
    channels: tuple[str, ...] = (TRADES,)
    reader = Reader(msgspec.json.Decoder(Notification[Trades]), _topic, _feed_of, _read)

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """One feed for each currency; no listing is needed for it."""
        return [Feed(TRADES, currency.upper()) for currency in selected]

    def feed(self, channel: str, symbol: str) -> Feed:
        """The feed of the currency that an option counts among."""
        return Feed(channel, currency_of(symbol))

    def channel_of(self, feed: Feed) -> str:
        """`trades.option.BTC.100ms`."""
        return f"trades.option.{feed.symbol}.100ms"

    def history(self, base: str, symbol: str, span: Span) -> Get:
        """`...?instrument_name=BTC-26MAR21-62000-C&count=1000&include_old=true&sorting=asc&start_seq=1&end_seq=9`.

        Of a currency: the trades of all its options from a time on,
        https://docs.deribit.com/api-reference/market-data/public-get_last_trades_by_currency_and_time
        """
        if "-" not in symbol:
            since_ms = (span.from_us or 0) // MILLISECONDS_TO_US
            of_all = {"currency": symbol, "kind": "option", "count": MOST_TRADES, "sorting": "asc"}
            query = urlencode({**of_all, "start_timestamp": since_ms, "end_timestamp": YEAR_9999_MS})
            return Get(f"{base.rstrip('/')}/public/get_last_trades_by_currency_and_time?{query}")
        asked = {"instrument_name": spelled(symbol), "count": MOST_TRADES, "include_old": "true", "sorting": "asc"}
        asked["start_seq"] = span.first
        if span.last is not None:
            asked["end_seq"] = span.last
        return Get(f"{base.rstrip('/')}/public/get_last_trades_by_instrument?{urlencode(asked)}")

    def past(self, symbol: str, body: bytes, receipt: Receipt) -> Sequence[Trade]:
        """The trades of such an answer; raises BadFrame."""
        with reading():
            return _read(sorted(_past.decode(body).result.trades, key=_in_order), symbol, receipt)
