"""What Binance's sources ask for and where, spelt as documented, and which feeds a whole market has."""

import json
from typing import Any, Literal

import pytest

from producers.contract import ALL, BOOKS, FUNDING, KLINES, LIQUIDATIONS, QUOTES, TRADES, BadFrame, Feed, Get, Receipt
from producers.protocols.binance import FEEDS_PER_MESSAGE
from producers.venues.binance_futures import BinanceFutures
from producers.venues.binance_futures_funding import BinanceFuturesFunding
from producers.venues.binance_futures_klines import BinanceFuturesKlines
from producers.venues.binance_futures_liquidations import BinanceFuturesLiquidations
from producers.venues.binance_futures_oi import BinanceFuturesOi
from producers.venues.binance_options import BinanceOptions
from producers.venues.binance_spot import BinanceSpot
from ravencore.records import Instrument, Trade

SPOT, FUTURES, KLINE, FORCED, MARKS = (
    BinanceSpot(),
    BinanceFutures(),
    BinanceFuturesKlines(),
    BinanceFuturesLiquidations(),
    BinanceFuturesFunding(),
)
OI, OPTIONS = BinanceFuturesOi(), BinanceOptions()
Kind = Literal["PERPETUAL", "FUTURE", "UNKNOWN"]
LONGEST_REQUEST = 4088
"""Bytes; one of 4106 was not answered (github.com/binance/binance-connector-rust/issues/27)."""


@pytest.mark.parametrize(
    ("source", "feeds", "params"),
    [
        (
            SPOT,
            [Feed(TRADES, "BTCUSDT"), Feed(BOOKS, "BTCUSDT"), Feed(QUOTES, "ETHBTC")],
            ["btcusdt@trade", "btcusdt@depth20@100ms", "ethbtc@bookTicker"],
        ),
        (
            FUTURES,
            [Feed(TRADES, "1000PEPEUSDT"), Feed(BOOKS, "BTCUSDT_261225")],
            ["1000pepeusdt@aggTrade", "btcusdt_261225@depth20@100ms"],
        ),
        (KLINE, [Feed(KLINES, "BTCUSDT")], ["btcusdt@kline_1m"]),
        (FORCED, [Feed(LIQUIDATIONS, ALL)], ["!forceOrder@arr"]),
        (MARKS, [Feed(FUNDING, ALL)], ["!markPrice@arr@1s"]),
    ],
)
def test_requests_are_spelt_as_documented(source: Any, feeds: list[Feed], params: list[str]) -> None:
    assert json.loads(source.subscribe(feeds, 1)) == {"method": "SUBSCRIBE", "params": params, "id": 1}
    assert json.loads(source.unsubscribe(feeds, 2)) == {"method": "UNSUBSCRIBE", "params": params, "id": 2}
    assert source.one_message(feeds) == feeds
    assert source.greeting(1) is None


@pytest.mark.parametrize("source", [SPOT, FUTURES, KLINE])
def test_the_longest_request_is_one_that_binance_answers(source: Any) -> None:
    feeds = [Feed(source.channels[-1], f"1000000BABYDOGEUSD{at:04}") for at in range(FEEDS_PER_MESSAGE)]
    assert source.limits.feeds_per_message <= FEEDS_PER_MESSAGE
    assert len(source.unsubscribe(feeds, 10**6).encode()) <= LONGEST_REQUEST


def test_books_are_on_the_public_route_and_all_else_on_the_market_route() -> None:
    base = "wss://fstream.binance.com/"
    assert FUTURES.socket_url(base, BOOKS) == "wss://fstream.binance.com/public/stream"
    for source, channel in ((FUTURES, TRADES), (KLINE, KLINES), (FORCED, LIQUIDATIONS), (MARKS, FUNDING)):
        assert source.socket_url(base, channel) == "wss://fstream.binance.com/market/stream"


def test_spot_is_asked_for_microseconds() -> None:
    for channel in SPOT.channels:
        url = SPOT.socket_url("wss://data-stream.binance.vision/", channel)
        assert url == "wss://data-stream.binance.vision/stream?timeUnit=MICROSECOND"


def test_listings_are_asked_for_where_they_are() -> None:
    assert SPOT.listing("https://api/", "A&B=C") == Get("https://api/api/v3/exchangeInfo?symbol=A%26B%3DC", 20)
    assert SPOT.listing("https://api", None) == Get("https://api/api/v3/exchangeInfo", 20)
    for source in (FUTURES, KLINE, FORCED, MARKS, OI):
        assert source.listing("https://fapi/", "BTCUSDT") == Get("https://fapi/fapi/v1/exchangeInfo", 1)
    assert OPTIONS.listing("https://eapi/", None) == Get("https://eapi/eapi/v1/exchangeInfo", 1)


@pytest.mark.parametrize("source", [SPOT, FUTURES, KLINE, FORCED, MARKS, OI, OPTIONS])
def test_a_symbol_is_refused_for_good_only_where_binance_says_so(source: Any) -> None:
    assert source.refusal(400, b'{"code":-1121,"msg":"Invalid symbol."}') == "Invalid symbol. (-1121)"
    assert source.refusal(400, b'{"code":-1003,"msg":"Too many requests."}') is None
    assert source.refusal(502, b'{"code":-1121,"msg":"Invalid symbol."}') is None
    assert source.refusal(200, b'{"symbols":[]}') is None


def test_candles_are_of_all_usdt_perpetuals_in_trade() -> None:
    kinds: tuple[Kind, ...] = ("PERPETUAL", "PERPETUAL", "FUTURE", "PERPETUAL", "UNKNOWN")
    quotes = ("USDT", "USDC", "USDT", "USDT", "USDT")
    states = ("TRADING", "TRADING", "TRADING", "SETTLING", "PENDING_TRADING")
    listed = [
        Instrument(
            venue="BINANCE_FUTURES", symbol=f"S{at}", received_time=1, base="S", quote=quote, kind=kind, status=status
        )
        for at, (kind, quote, status) in enumerate(zip(kinds, quotes, states, strict=True))
    ]
    assert KLINE.market_feeds(listed, ()) == [Feed(KLINES, "S0")]
    assert KLINE.market_feeds([], ()) == []


def test_streams_of_all_symbols_need_no_listing() -> None:
    assert list(FORCED.market_feeds([], ())) == [Feed(LIQUIDATIONS, ALL)] == [FORCED.feed(LIQUIDATIONS, "BTCUSDT")]
    assert list(MARKS.market_feeds([], ())) == [Feed(FUNDING, ALL)] == [MARKS.feed(FUNDING, "BTCUSDT")]
    assert not SPOT.market_feeds([], ())
    assert not FUTURES.market_feeds([], ())


def test_polls_ask_for_what_is_selected() -> None:
    (feed,) = OI.market_feeds([], ["BTCUSDT"])
    assert feed == ("open_interest", "BTCUSDT") == OI.feed("open_interest", "BTCUSDT")
    assert OI.requests("https://fapi/", feed) == [
        Get("https://fapi/fapi/v1/openInterest?symbol=BTCUSDT", 1),
        Get("https://fapi/fapi/v1/premiumIndex?symbol=BTCUSDT", 1),
    ]
    assert OI.interval_seconds == 5
    (feed,) = OPTIONS.market_feeds([], ["BTC"])
    assert feed == ("option_tickers", "BTC") == OPTIONS.feed("option_tickers", "BTC-261225-100000-C")
    assert OPTIONS.requests("https://eapi", feed) == [
        Get("https://eapi/eapi/v1/ticker", 5),
        Get("https://eapi/eapi/v1/mark", 5),
    ]
    assert OPTIONS.interval_seconds == 10


@pytest.mark.parametrize("source", [OI, OPTIONS])
def test_a_poll_wants_an_answer_to_each_request(source: Any) -> None:
    for bodies in ([], [b"{}"], [b"{}", b"{}", b"{}"]):
        with pytest.raises(BadFrame):
            source.parse_bodies(Feed("open_interest", "BTCUSDT"), bodies, Receipt(1))


def test_names_of_streams_are_remembered_only_so_many_times_and_read_all_the_same() -> None:
    source = BinanceFutures()
    template = '{"stream":"s%d@aggTrade","data":{"e":"aggTrade","E":2,"a":%d,"s":"S%d","p":"1","q":"1","T":1,"m":true}}'
    for _ in range(2):
        for at in range(5000):
            (trade,) = source.parse((template % (at, at, at)).encode(), Receipt(1))
            assert isinstance(trade, Trade)
            assert (trade.symbol, trade.sequence) == (f"S{at}", at)
