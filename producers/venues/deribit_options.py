"""Deribit's option tickers: best bid and ask, mark, implied volatilities and greeks of every open option.

Protocol: https://docs.deribit.com/subscriptions/market-data/tickerinstrument_nameinterval
Listing: https://docs.deribit.com/api-reference/market-data/public-get_instruments

    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"ticker.ETH-9APR21-1950-C.100ms","data":{
     "underlying_price":2115.89,"underlying_index":"ETH-9APR21","timestamp":1617644856302,"stats":{"volume":null,
     "price_change":null,"low":null,"high":null},"state":"open","open_interest":3963.0,"mark_price":0.084155,
     "mark_iv":78.74,"last_price":0.06,"instrument_name":"ETH-9APR21-1950-C","index_price":2103.4,"greeks":{
     "vega":0.46511,"theta":-5.09811,"rho":0.16173,"gamma":0.00134,"delta":0.8609},"bid_iv":51.06,
     "best_bid_price":0.0795,"best_bid_amount":4.0,"best_ask_price":0.0945,"best_ask_amount":5.0,"ask_iv":117.97}}}

Oddities. An empty side has price 0 or null, and then its amount and volatility mean nothing: all three are null in the
record. A bid below what the option is worth at zero volatility has a `bid_iv` of 0: it has none, and so null. A mark
price of 0 is a price. Volatilities are percents; records hold the fraction, the double nearest to it. Expiry, strike
and side are in the name: BTC-25DEC26-100000-C expires at 08:00 UTC of that day. Inverse options (BTC-...) are priced in
their coin, linear ones (BTC_USDC-...) in USDC. Raven asks for `.100ms`; `.raw` and `.agg2` carry the same and are read.

There is no wildcard channel with all of this (`markprice.options.btc_usd` has marks alone), so each option is a feed.
"""

import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import NamedTuple

import msgspec

from producers.contract import OPTION_TICKERS, BadFrame, Event, Feed, Receipt
from producers.protocols.deribit import INTERVALS, VENUE, Deribit, Millis, Name, Notification, Reader, spelled
from producers.values import MILLISECONDS_TO_US, counted, happened
from ravencore.decimals import ONE, from_text
from ravencore.records import Instrument, OptionSide, OptionTicker

PERCENT = 100 * ONE
ENDED = frozenset({"closed", "settled", "delivered", "deactivated", "terminated", "archivized", "inactive"})
"""States in which an option prints nothing any more."""
MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
EXPIRY_HOUR = 8
HOUR_US = 3_600_000_000
_NAME = re.compile(
    r"([A-Z0-9]+)(?:_([A-Z0-9]+))?-([0-9]{1,2})([A-Z]{3})([0-9]{2})-([0-9]+(?:d[0-9]+)?)-([CP])", re.ASCII
)


class Greeks(msgspec.Struct, gc=False):
    """`greeks`."""

    delta: float
    gamma: float
    theta: float
    vega: float
    rho: float


class Stats(msgspec.Struct, gc=False):
    """`stats`."""

    volume: msgspec.Raw


class TickerData(msgspec.Struct, gc=False):
    """`data`."""

    instrument_name: Name
    timestamp: Millis
    best_bid_price: msgspec.Raw
    best_bid_amount: msgspec.Raw
    best_ask_price: msgspec.Raw
    best_ask_amount: msgspec.Raw
    bid_iv: msgspec.Raw
    ask_iv: msgspec.Raw
    mark_iv: msgspec.Raw
    mark_price: msgspec.Raw
    last_price: msgspec.Raw
    underlying_price: msgspec.Raw
    open_interest: msgspec.Raw
    greeks: Greeks
    stats: Stats


class Option(NamedTuple):
    """What an option's name says."""

    name: str
    symbol: str
    underlying: str
    price_currency: str
    expiry_us: int
    strike: int
    side: OptionSide


@lru_cache(maxsize=1 << 14)
def _option(channel: str) -> Option | None:
    """The option whose ticker comes on a channel; None where it is another channel, or of no option."""
    prefix, _, rest = channel.partition(".")
    name, _, interval = rest.partition(".")
    match = _NAME.fullmatch(name)
    if prefix != "ticker" or interval not in INTERVALS or match is None:
        return None
    base, quote, day, month, year, strike, side = match.groups()
    expiry_us = _expiry_us(int(year), month, int(day))
    if expiry_us is None:
        return None
    return Option(
        name=name,
        symbol=name.upper(),
        underlying=base,
        price_currency=quote or base,
        expiry_us=expiry_us,
        strike=from_text(strike.replace("d", ".")),
        side="CALL" if side == "C" else "PUT",
    )


def _expiry_us(year: int, month: str, day: int) -> int | None:
    try:
        days = date(2000 + year, MONTHS.index(month) + 1, day).toordinal() - date(1970, 1, 1).toordinal()
    except ValueError:
        return None
    return (days * 24 + EXPIRY_HOUR) * HOUR_US


def _feed_of(channel: str) -> Feed | None:
    option = _option(channel)
    return None if option is None else Feed(OPTION_TICKERS, option.symbol)


def _read(data: TickerData, option: Option, receipt: Receipt) -> Sequence[Event]:
    if data.instrument_name != option.name:
        raise BadFrame(f"a ticker of {data.instrument_name!r} on the channel of {option.name!r}")
    bid, ask = _price(str(data.best_bid_price, "ascii")), _price(str(data.best_ask_price, "ascii"))
    bid_quantity, ask_quantity = (
        _amount(str(data.best_bid_amount, "ascii")),
        _amount(str(data.best_ask_amount, "ascii")),
    )
    bid_iv, ask_iv = _fraction(str(data.bid_iv, "ascii")), _fraction(str(data.ask_iv, "ascii"))
    greeks = data.greeks
    ticker = OptionTicker(
        venue=VENUE,
        symbol=option.symbol,
        event_time=happened(data.timestamp * MILLISECONDS_TO_US, receipt.received_us),
        received_time=receipt.received_us,
        underlying=option.underlying,
        expiry=option.expiry_us,
        strike=option.strike,
        option_side=option.side,
        price_currency=option.price_currency,
        bid_price=bid,
        bid_quantity=None if bid is None else bid_quantity,
        ask_price=ask,
        ask_quantity=None if ask is None else ask_quantity,
        mark_price=counted(str(data.mark_price, "ascii")),
        last_price=_price(str(data.last_price, "ascii")),
        underlying_price=_price(str(data.underlying_price, "ascii")),
        mark_iv=_fraction(str(data.mark_iv, "ascii")),
        bid_iv=None if bid is None else bid_iv,
        ask_iv=None if ask is None else ask_iv,
        delta=greeks.delta,
        gamma=greeks.gamma,
        theta=greeks.theta,
        vega=greeks.vega,
        rho=greeks.rho,
        open_interest=counted(str(data.open_interest, "ascii")),
        volume=_amount(str(data.stats.volume, "ascii")),
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )
    return (ticker,)


@lru_cache(maxsize=1 << 16)
def _price(text: str) -> int | None:
    """A price; None for null and 0, which say that there is none."""
    return _amount(text) or None


@lru_cache(maxsize=1 << 16)
def _amount(text: str) -> int | None:
    """A number not below zero; None for null."""
    return None if text == "null" else counted(text)


@lru_cache(maxsize=1 << 16)
def _fraction(text: str) -> float | None:
    """The fraction that a percentage is, as the nearest double; None for null and 0, which say that there is none."""
    units = _price(text)
    return None if units is None else units / PERCENT


class DeribitOptions(Deribit):
    """Tickers of options (`producers.contract.Stream`)."""

    name = "DERIBIT_OPTIONS"
    channels: tuple[str, ...] = (OPTION_TICKERS,)
    reader = Reader(msgspec.json.Decoder(Notification[TickerData]), _option, _feed_of, _read)

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """One feed for each listed option that settles in a selected currency and has not ended."""
        currencies = {currency.upper() for currency in selected}
        return [
            Feed(OPTION_TICKERS, instrument.symbol)
            for instrument in instruments
            if instrument.kind == "OPTION" and instrument.quote in currencies and instrument.status not in ENDED
        ]

    def channel_of(self, feed: Feed) -> str:
        """`ticker.BTC-25DEC26-100000-C.100ms`."""
        return f"ticker.{spelled(feed.symbol)}.100ms"
