"""Binance's European options: prices, implied volatilities and greeks of all options on a currency, every ten seconds.

Ticker: https://developers.binance.com/docs/derivatives/option/market-data/24hr-Ticker-Price-Change-Statistics
Mark: https://developers.binance.com/docs/derivatives/option/market-data/Option-Mark-Price
Listing: https://developers.binance.com/docs/derivatives/option/market-data/Exchange-Information

    GET /eapi/v1/ticker   [{"symbol":"BTC-200730-9000-C","lastPrice":"1000","volume":"5","bidPrice":"999.34",
     "askPrice":"1000.23","strikePrice":"9000","exercisePrice":"3000.3356",...}]
    GET /eapi/v1/mark     [{"symbol":"BTC-200730-9000-C","markPrice":"1343.2883","bidIV":"1.40000077",
     "askIV":"1.50000153","markIV":"1.45000000","delta":"0.55937056","theta":"3739.82509871","gamma":"0.00010969",
     "vega":"978.58874732","highPriceLimit":"1618.241","lowPriceLimit":"1068.3356","riskFreeInterest":"0.1"}]

Both describe all options of all currencies, and neither alone is enough: the IVs and greeks are in `mark`, bid and ask
in `ticker`. They are joined by symbol; an option that was listed or expired between the two requests has the half that
there is. Neither has a time.

IVs are fractions; -1 says that there is none, as 0 says of a bid, an ask and a last price. `exercisePrice` is the index
price, in the last hour before the expiry the estimated settlement price. Options expire at 08:00 UTC.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, NamedTuple, Protocol, TypeVar

import msgspec

from producers.contract import OPTION_TICKERS, BadFrame, Feed, Get, Limits, Rate, Receipt, Scope
from producers.protocols.binance import Filter, Millis, Name, Number, refusal, steps
from producers.values import MILLISECONDS_TO_US, not_negative, positive, reading, refuse, statistic
from ravencore.records import Instrument, OptionSide, OptionTicker

VENUE = "BINANCE_OPTIONS"
PRICE_CURRENCY = "USDT"
EXPIRY_HOUR = 8
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SIDES: dict[str, OptionSide] = {"C": "CALL", "P": "PUT"}
PATHS = ("ticker", "mark")
WEIGHT = 5
NO_IV = frozenset({-1.0, 0.0})


class TickerBody(msgspec.Struct, gc=False):
    """One element of the body of GET /eapi/v1/ticker."""

    symbol: Name
    lastPrice: Number
    volume: Number
    bidPrice: Number
    askPrice: Number
    exercisePrice: Number


class MarkBody(msgspec.Struct, gc=False):
    """One element of the body of GET /eapi/v1/mark."""

    symbol: Name
    markPrice: Number
    bidIV: Number
    askIV: Number
    markIV: Number
    delta: Number
    gamma: Number
    theta: Number
    vega: Number


class SymbolInfo(msgspec.Struct):
    """One of exchangeInfo's `optionSymbols`.

    {"symbol":"BTC-220815-50000-C","side":"CALL","strikePrice":"50000","underlying":"BTCUSDT","quoteAsset":"USDT",
     "expiryDate":1660521600000,"unit":1,"filters":[...],...}; not every one has a `status`.
    """

    symbol: Name
    quoteAsset: Name
    expiryDate: Millis
    filters: list[Filter]
    status: str = "TRADING"


class ExchangeInfo(msgspec.Struct):
    """The body of GET /eapi/v1/exchangeInfo."""

    optionSymbols: list[SymbolInfo]


class Option(NamedTuple):
    """What a symbol says: BTC-200730-9000-C."""

    underlying: str
    expiry_us: int
    strike: int
    side: OptionSide


class Named(Protocol):
    """What has a symbol."""

    symbol: str


N = TypeVar("N", bound=Named)

_tickers = msgspec.json.Decoder(Annotated[list[TickerBody], msgspec.Meta(min_length=1)])
_marks = msgspec.json.Decoder(Annotated[list[MarkBody], msgspec.Meta(min_length=1)])
_exchange_info = msgspec.json.Decoder(ExchangeInfo)


class BinanceOptions:
    """Tickers of Binance's options (`producers.contract.Poll`)."""

    name = VENUE
    venue = VENUE
    channels: tuple[str, ...] = (OPTION_TICKERS,)
    scope: Scope = "market"
    selection: str | None = "underlyings"
    # exchangeInfo tells of 2400 a minute and the documents of 400; five underlyings need 300.
    limits = Limits(rest=Rate(360, 60.0))
    interval_seconds = 10.0

    def symbol_of(self, base: str, quote: str) -> str:
        """The underlying: a pair has many options."""
        return base

    def listing(self, base: str, symbol: str | None) -> Get:
        """exchangeInfo of all options: it knows no other."""
        return Get(f"{base.rstrip('/')}/eapi/v1/exchangeInfo")

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of an exchangeInfo body; raises BadFrame."""
        with reading():
            return [_instrument(info, received_us) for info in _exchange_info.decode(body).optionSymbols]

    def refusal(self, status: int, body: bytes) -> str | None:
        """`{"code":-1121,"msg":"Invalid symbol."}` with status 400 is for good."""
        return refusal(status, body)

    def feed(self, channel: str, symbol: str) -> Feed:
        """One feed for all options on a currency."""
        return Feed(channel, symbol.partition("-")[0])

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """One feed for each currency that is selected."""
        return [Feed(OPTION_TICKERS, underlying) for underlying in selected]

    def requests(self, base: str, feed: Feed) -> Sequence[Get]:
        """Tickers and marks of all options: Binance does not choose by currency."""
        return [Get(f"{base.rstrip('/')}/eapi/v1/{path}", WEIGHT) for path in PATHS]

    def parse_bodies(self, feed: Feed, bodies: Sequence[bytes], receipt: Receipt) -> Sequence[OptionTicker]:
        """A record for each option on the feed's currency; raises BadFrame."""
        if len(bodies) != len(PATHS):
            raise BadFrame(f"{len(bodies)} answers to {len(PATHS)} requests")
        with reading():
            tickers = _on(feed.symbol, _tickers.decode(bodies[0]))
            marks = _on(feed.symbol, _marks.decode(bodies[1]))
            symbols = dict.fromkeys([*tickers, *marks])
            return [_record(symbol, tickers.get(symbol), marks.get(symbol), receipt) for symbol in symbols]


def _on(underlying: str, bodies: Iterable[N]) -> dict[str, N]:
    return {body.symbol: body for body in bodies if body.symbol.startswith(f"{underlying}-")}


def _record(symbol: str, ticker: TickerBody | None, mark: MarkBody | None, receipt: Receipt) -> OptionTicker:
    option = _option(symbol)
    return OptionTicker(
        venue=VENUE,
        symbol=symbol,
        received_time=receipt.received_us,
        underlying=option.underlying,
        expiry=option.expiry_us,
        strike=option.strike,
        option_side=option.side,
        price_currency=PRICE_CURRENCY,
        bid_price=(not_negative(ticker.bidPrice) or None) if ticker else None,
        ask_price=(not_negative(ticker.askPrice) or None) if ticker else None,
        last_price=(not_negative(ticker.lastPrice) or None) if ticker else None,
        underlying_price=(not_negative(ticker.exercisePrice) or None) if ticker else None,
        volume=not_negative(ticker.volume) if ticker else None,
        mark_price=not_negative(mark.markPrice) if mark else None,
        bid_iv=_iv(mark.bidIV) if mark else None,
        ask_iv=_iv(mark.askIV) if mark else None,
        mark_iv=_iv(mark.markIV) if mark else None,
        delta=statistic(mark.delta) if mark else None,
        gamma=statistic(mark.gamma) if mark else None,
        theta=statistic(mark.theta) if mark else None,
        vega=statistic(mark.vega) if mark else None,
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


def _iv(text: str) -> float | None:
    value = statistic(text)
    if value in NO_IV:
        return None
    if value < 0:
        refuse(f"an implied volatility of {text}")
    return value


@lru_cache(maxsize=1 << 14)
def _option(symbol: str) -> Option:
    parts = symbol.split("-")
    if len(parts) != len(Option._fields) or parts[3] not in SIDES:
        raise BadFrame(f"{symbol!r} is no option's symbol, like BTC-200730-9000-C")
    underlying, date, strike, side = parts
    return Option(underlying, _expiry_us(date), positive(strike), SIDES[side])


def _expiry_us(date: str) -> int:
    if not (len(date) == len("200730") and date.isascii() and date.isdigit()):
        raise BadFrame(f"{date!r} is no date of an option")
    try:
        day = datetime(2000 + int(date[:2]), int(date[2:4]), int(date[4:]), EXPIRY_HOUR, tzinfo=UTC)
    except ValueError:
        raise BadFrame(f"{date!r} is no date of an option") from None
    return (day - EPOCH) // timedelta(microseconds=1)


def _instrument(info: SymbolInfo, received_us: int) -> Instrument:
    option = _option(info.symbol)
    tick_size, lot_size = steps(info.filters)
    return Instrument(
        venue=VENUE,
        symbol=info.symbol,
        received_time=received_us,
        base=option.underlying,
        quote=info.quoteAsset,
        kind="OPTION",
        status=info.status,
        tick_size=tick_size,
        lot_size=lot_size,
        expiry=info.expiryDate * MILLISECONDS_TO_US,
        strike=option.strike,
        option_side=option.side,
    )
