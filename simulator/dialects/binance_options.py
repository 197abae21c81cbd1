"""Binance European options over REST, as at developers.binance.com "European Options" (eapi.binance.com).

    GET /eapi/v1/ticker   [{"symbol":"BTC-200730-9000-C","lastPrice":"1000","bidPrice":"999.34",...}]
    GET /eapi/v1/mark     [{"symbol":"BTC-200730-9000-C","markPrice":"1343.2883","bidIV":"1.40000077",...}]
Oddities: the ticker has no implied volatilities and no greeks, they are in mark; neither has a time; an empty side has
the price 0 and the volatility -1. A collector makes one record of both, so mark alone is counted as its delivery.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import msgspec

from simulator.contract import (
    OPTION_TICKERS,
    Answer,
    Body,
    Frame,
    Identity,
    Instrument,
    Listed,
    Session,
    Snapshot,
    Unreadable,
    View,
)
from simulator.dialects import binance
from simulator.dialects.binance import Query, Refused, Rest, Route, number, weighs
from simulator.events import Event, Option, OptionTick, text_of

WEIGHT_PER_MINUTE = 400
MILLISECOND_NS = 10**6
EXPIRY_HOUR = 8
NO_IV = "-1.0"
TICKER, MARK = "rest:ticker", "rest:mark"


class _Row(msgspec.Struct):
    symbol: str


_rows = msgspec.json.Decoder(list[_Row])


class BinanceOptions:
    venue = "BINANCE_OPTIONS"
    sources: Mapping[str, str] = {"BINANCE_OPTIONS": "poll"}
    words = ("binance_options", "eapi")
    books = None
    socket_path = ""
    rest_path = ""

    def __init__(self) -> None:
        self._rest = Rest(_ENDPOINTS, WEIGHT_PER_MINUTE)

    def awaited(self, source: str, listed: Mapping[str, Listed]) -> set[str]:
        return set()

    def spell(self, base: str, quote: str) -> str | None:
        return None

    def describe(self, symbol: str, tick_e8: int, lot_e8: int) -> Listed:
        return describe(symbol, tick_e8, lot_e8)

    def claims(self, raw: bytes) -> bool:
        return raw.startswith(b"http") and b"/eapi/" in raw

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Frame]:
        for _, raw in lines:
            raise Unreadable(f"options are only polled here: {raw[:80]!r}")
        return iter(())

    def read_book(self, body: Body) -> tuple[str, Snapshot] | None:
        return None

    def read_body(self, body: Body) -> Sequence[Frame]:
        path = body.url.partition("?")[0]
        for name in (TICKER, MARK):
            if path.endswith(name.replace("rest:", "/eapi/v1/")):
                return (_recorded(name, body),)
        return ()

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        return (), ()

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        """One frame for each half of what is known of an option."""
        for event in events:
            if isinstance(event, OptionTick):
                symbol = event.option.symbol
                ticker, mark = binance.to_json(_ticker(event)), binance.to_json(_mark(event))
                yield Frame(event.time_ns, f"{TICKER}:{symbol}", ticker, symbol=symbol)
                marks = ((OPTION_TICKERS, symbol, None),)
                yield Frame(event.time_ns, f"{MARK}:{symbol}", mark, marks=marks, symbol=symbol)

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        raise NotImplementedError("there are no trades here to put faults on")

    def connect(self, path: str, query: Mapping[str, str], now: float, view: View) -> Session:
        raise LookupError(path)

    def answer(self, path: str, query: Mapping[str, str], now: float, view: View) -> Answer:
        return self._rest.answer(path, query, now, view)


def describe(symbol: str, tick_e8: int, lot_e8: int) -> Listed:
    """What `BTC-200730-9000-C` says. Raises Unreadable."""
    match = re.fullmatch(r"([A-Z0-9]+)-(\d{6})-(\d+(?:\.\d+)?)-([CP])", symbol)
    if match is None:
        raise Unreadable(f"{symbol} is no option")
    underlying, date, strike, side = match.groups()
    try:
        expiry = datetime.strptime(date, "%y%m%d").replace(hour=EXPIRY_HOUR, tzinfo=UTC)
    except ValueError as error:
        raise Unreadable(f"{symbol} has no date") from error
    expiry_ns, strike_e8 = int(expiry.timestamp()) * 10**9, round(float(strike) * 1e8)
    return Option(symbol, underlying, "USDT", expiry_ns, strike_e8, side == "C", tick_e8, lot_e8)


def _recorded(name: str, body: Body) -> Frame:
    """A recorded answer, told again until the next."""
    try:
        symbols = [row.symbol for row in _rows.decode(body.body)]
    except msgspec.MsgspecError as error:
        raise Unreadable(f"no list of options: {error}") from error
    marks: tuple[Identity, ...] = ()
    if name == MARK:
        marks = tuple((OPTION_TICKERS, symbol, None) for symbol in symbols)
    return Frame(body.time_ns, name, body.body, marks=marks)


def _price(value_e8: int | None) -> str:
    return "0" if value_e8 is None else number(value_e8)


def _iv(value: float | None) -> str:
    return NO_IV if value is None else f"{value:.8f}"


def _ticker(tick: OptionTick) -> dict[str, Any]:
    now_ms, last = tick.time_ns // MILLISECOND_NS, _price(tick.last_e8)
    return {
        **{"symbol": tick.option.symbol, "priceChange": "0", "priceChangePercent": "0", "lastPrice": last},
        **{"lastQty": "0", "open": last, "high": last, "low": last, "volume": number(tick.volume_e8), "amount": "0"},
        **{"bidPrice": _price(tick.bid_e8), "askPrice": _price(tick.ask_e8)},
        **{"openTime": now_ms - 86_400_000, "closeTime": now_ms, "firstTradeId": 0, "tradeCount": 0},
        **{"strikePrice": number(tick.option.strike_e8), "exercisePrice": text_of(tick.index_e8)},
    }


def _mark(tick: OptionTick) -> dict[str, Any]:
    mark = tick.mark_e8
    return {
        **{"symbol": tick.option.symbol, "markPrice": text_of(mark)},
        **{"bidIV": _iv(tick.bid_iv), "askIV": _iv(tick.ask_iv), "markIV": _iv(tick.mark_iv)},
        **{"delta": f"{tick.delta:.8f}", "theta": f"{tick.theta:.8f}"},
        **{"gamma": f"{tick.gamma:.8f}", "vega": f"{tick.vega:.8f}"},
        **{"highPriceLimit": number(mark * 2), "lowPriceLimit": number(mark // 2), "riskFreeInterest": "0.1"},
    }


def _exchange_info(query: Query, view: View) -> dict[str, Any]:
    recorded = binance.recorded_rows(view, "/exchangeInfo", "optionSymbols")
    listed = [_rules(row) for row in view.instruments.values() if isinstance(row, Option)]
    return {
        "timezone": "UTC",
        "serverTime": view.time_ns // MILLISECOND_NS,
        "optionContracts": [],
        "optionAssets": [{"name": "USDT"}],
        "optionSymbols": list(recorded.values()) or listed,
        "rateLimits": [
            {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": WEIGHT_PER_MINUTE}
        ],
    }


def _rules(option: Option) -> dict[str, Any]:
    steps = Instrument(option.symbol, option.underlying, "USDT", option.tick_e8, option.lot_e8)
    return {
        "expiryDate": option.expiry_ns // MILLISECOND_NS,
        "filters": binance.filters(steps),
        "symbol": option.symbol,
        "side": "CALL" if option.is_call else "PUT",
        "strikePrice": number(option.strike_e8),
        "underlying": f"{option.underlying}USDT",
        "unit": 1,
        "makerFeeRate": "0.00030000",
        "takerFeeRate": "0.00030000",
        "minQty": number(option.lot_e8),
        "maxQty": "100",
        "initialMargin": "0.15000000",
        "maintenanceMargin": "0.07500000",
        "minInitialMargin": "0.10000000",
        "minMaintenanceMargin": "0.05000000",
        "priceScale": 8,
        "quantityScale": 8,
        "quoteAsset": "USDT",
    }


def _ticker_of(query: Query, view: View) -> Answer:
    return _all(TICKER, query, view)


def _mark_of(query: Query, view: View) -> Answer:
    return _all(MARK, query, view)


def _all(name: str, query: Query, view: View) -> Answer:
    """The newest of all options, or of the one that is asked for."""
    whole = view.newest(name)
    if whole is not None and "symbol" not in query:
        return Answer(200, whole.payload, whole.marks)
    symbols = [query["symbol"]] if "symbol" in query else list(view.instruments)
    found = [frame for symbol in symbols if (frame := view.newest(f"{name}:{symbol}")) is not None]
    if not found and "symbol" in query:
        raise Refused(-1121, "Invalid symbol.")
    if not found:
        raise Refused(-1000, "The simulator has no options at this moment.", status=503)
    body = b"[" + b",".join(frame.payload for frame in found) + b"]"
    return Answer(200, body, tuple(mark for frame in found for mark in frame.marks))


_ENDPOINTS = {
    "/eapi/v1/ping": Route(binance.ping, weighs(1)),
    "/eapi/v1/time": Route(binance.time, weighs(1)),
    "/eapi/v1/exchangeInfo": Route(_exchange_info, weighs(1)),
    "/eapi/v1/ticker": Route(_ticker_of, weighs(5)),
    "/eapi/v1/mark": Route(_mark_of, weighs(5)),
}
