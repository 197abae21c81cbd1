"""Binance's options without sockets: both halves of a ticker, the listing, and what is counted."""

import json
from itertools import islice
from typing import Any

import pytest

from simulator.contract import Body, Unreadable
from simulator.dialects.binance_options import BinanceOptions, describe
from simulator.events import Option, OptionTick
from simulator.exchange import Exchange
from simulator.faults import Action
from simulator.registry import Plan, synthetic_market
from simulator.synthetic import EPOCH_NS

OPTION = describe("BTC-200730-9000-C", 500_000_000, 1_000_000)
assert isinstance(OPTION, Option)
TICK = OptionTick(
    time_ns=10**18,
    option=OPTION,
    bid_e8=None,
    bid_quantity_e8=0,
    ask_e8=100_023_000_000,
    ask_quantity_e8=10**8,
    mark_e8=134_328_830_000,
    last_e8=100_000_000_000,
    underlying_e8=1,
    index_e8=1_030_333_560_000,
    mark_iv=1.45,
    bid_iv=None,
    ask_iv=1.5,
    delta=0.5,
    gamma=0.0001,
    theta=-3.5,
    vega=9.25,
    rho=0.1,
    open_interest_e8=10**9,
    volume_e8=5 * 10**8,
)


def exchange(count: int = 3_000) -> Exchange:
    dialect = BinanceOptions()
    market = synthetic_market(dialect, Plan(["BTCUSDT"], 3, 0, None, EPOCH_NS))
    venue = Exchange(dialect, market)
    for frame in islice(market.frames(None), count):
        venue.take(Action("send", frame))
    return venue


def get(venue: Exchange, path: str, **query: str) -> tuple[int, Any]:
    answer = venue.answer(path, query, 0.0)
    return answer.status, json.loads(answer.body)


def test_a_tick_is_told_in_two_halves_as_documented() -> None:
    ticker, mark = (json.loads(frame.payload) for frame in BinanceOptions().speak([TICK]))
    assert {key: ticker[key] for key in ("symbol", "lastPrice", "volume", "bidPrice", "askPrice")} == {
        **{"symbol": "BTC-200730-9000-C", "lastPrice": "1000", "volume": "5", "bidPrice": "0", "askPrice": "1000.23"},
    }
    assert (ticker["strikePrice"], ticker["exercisePrice"]) == ("9000", "10303.33560000")
    assert mark == {
        **{"symbol": "BTC-200730-9000-C", "markPrice": "1343.28830000", "bidIV": "-1.0", "askIV": "1.50000000"},
        **{"markIV": "1.45000000", "delta": "0.50000000", "theta": "-3.50000000", "gamma": "0.00010000"},
        **{
            "vega": "9.25000000",
            "highPriceLimit": "2686.5766",
            "lowPriceLimit": "671.64415",
            "riskFreeInterest": "0.1",
        },
    }


def test_both_lists_hold_every_option_of_the_listing_and_mark_is_what_counts() -> None:
    venue = exchange()
    _, info = get(venue, "/eapi/v1/exchangeInfo")
    listed = [row["symbol"] for row in info["optionSymbols"]]
    assert len(listed) == len(set(listed)) > 100
    row = info["optionSymbols"][0]
    expiry = describe(row["symbol"], 1, 1)
    assert isinstance(expiry, Option)
    assert (row["expiryDate"], row["quoteAsset"], row["underlying"]) == (expiry.expiry_ns // 10**6, "USDT", "BTCUSDT")
    for path in ("ticker", "mark", "mark"):
        assert [row["symbol"] for row in get(venue, f"/eapi/v1/{path}")[1]] == listed
    told = venue.ledger.told("option_tickers")
    assert {row["delivered"] for row in told.values()} == {2}
    assert {tuple(row["ids"]) for row in told.values()} == {()}


def test_one_option_can_be_asked_for() -> None:
    venue = exchange()
    symbol = next(iter(venue.instruments))
    assert [row["symbol"] for row in get(venue, "/eapi/v1/mark", symbol=symbol)[1]] == [symbol]
    status, body = get(venue, "/eapi/v1/ticker", symbol="NOSUCH")
    assert (status, body["code"]) == (400, -1121)


def test_before_anything_has_happened_there_is_no_empty_list() -> None:
    assert [get(exchange(0), f"/eapi/v1/{name}")[0] for name in ("ticker", "mark", "exchangeInfo")] == [503, 503, 200]


def test_no_socket_is_served() -> None:
    venue = exchange(1)
    with pytest.raises(LookupError):
        BinanceOptions().connect("/ws", {}, 0.0, venue)
    with pytest.raises(Unreadable):
        list(BinanceOptions().read([(1, b"{}")]))


def test_a_recorded_answer_is_told_again_byte_for_byte_until_the_next() -> None:
    venue = exchange(1)
    rows = b'[ {"symbol":"BTC-200730-9000-C","markPrice":"1"} ]'
    (frame,) = BinanceOptions().read_body(Body(5, "https://eapi.binance.com/eapi/v1/mark", rows))
    venue.take(Action("send", frame))
    answer = venue.answer("/eapi/v1/mark", {}, 0.0)
    assert (answer.body, answer.marks) == (rows, (("option_tickers", "BTC-200730-9000-C", None),))
    with pytest.raises(Unreadable):
        BinanceOptions().read_body(Body(5, "https://eapi.binance.com/eapi/v1/mark", b"{}"))


@pytest.mark.parametrize("symbol", ["BTCUSDT", "BTC-20073-9000-C", "BTC-200730-x-C", "A-B-C-D"])
def test_a_symbol_that_is_no_option_is_refused(symbol: str) -> None:
    with pytest.raises(Unreadable):
        describe(symbol, 1, 1)
