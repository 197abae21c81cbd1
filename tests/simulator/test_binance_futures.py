"""USD-M futures' protocol without sockets: spelling, gathering into aggTrade, the two routes, limits and REST."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from simulator.contract import Body, Change, Disconnect, Frame, Instrument, Listed, Session, Snapshot, Unreadable
from simulator.dialects.binance_futures import RULES, BinanceFutures
from simulator.events import (
    DepthDiff,
    Event,
    Kline,
    Liquidation,
    Mark,
    Marks,
    OpenInterest,
    Quote,
    Trade,
)
from simulator.exchange import Exchange
from simulator.faults import Action
from simulator.recording import RecordedMarket
from simulator.sorting import sort

FUTURES = BinanceFutures()
SECOND_NS = 10**9
NOW_NS = 1_700_000_000 * SECOND_NS
NOW_MS = 1_700_000_000_000


def speak(*events: Event) -> list[Frame]:
    return list(BinanceFutures().speak(events))


def trade(trade_id: int, price: int, time_ns: int = NOW_NS, *, sold: bool = False, symbol: str = "BTCUSDT") -> Trade:
    return Trade(time_ns, symbol, trade_id, price * 10**7, 25_000_000, sold)


def said(frame: Frame) -> Any:
    assert json.loads(frame.combined) == {"stream": frame.stream, "data": json.loads(frame.payload)}
    return json.loads(frame.payload)


def test_one_taker_order_at_one_price_is_one_aggregate_trade() -> None:
    later = NOW_NS + SECOND_NS
    tape = [trade(7, 650_001), trade(8, 650_001), trade(9, 650_002), trade(3, 9, symbol="ETHUSDT"), trade(10, 5, later)]
    rows = {(f.symbol, said(f)["f"]): said(f) for f in speak(*tape, Quote(later + 1, "BTCUSDT", 1, 1, 1, 2, 1, 1))[:-1]}
    assert list(rows) == [("BTCUSDT", 7), ("BTCUSDT", 9), ("ETHUSDT", 3), ("BTCUSDT", 10)]
    assert rows["BTCUSDT", 7] == {
        **{"e": "aggTrade", "E": NOW_MS, "a": 1_500_000_001, "s": "BTCUSDT", "p": "65000.1", "q": "0.5"},
        **{"f": 7, "l": 8, "T": NOW_MS, "m": False},
    }
    assert [row["a"] for (symbol, _), row in rows.items() if symbol == "BTCUSDT"] == list(
        range(1_500_000_001, 1_500_000_004)
    )


def test_the_other_side_or_a_hole_in_the_ids_ends_an_aggregate() -> None:
    frames = speak(
        trade(1, 5), trade(2, 5, sold=True), trade(4, 5, sold=True), DepthDiff(NOW_NS, "BTCUSDT", 1, 2, [], [])
    )
    assert [(said(f)["f"], said(f)["l"], said(f)["m"]) for f in frames[:-1]] == [
        (1, 1, False),
        (2, 2, True),
        (4, 4, True),
    ]
    assert [frame.marks for frame in frames[:2]] == [
        (("trades", "BTCUSDT", 1_500_000_001),),
        (("trades", "BTCUSDT", 1_500_000_002),),
    ]


def test_a_difference_names_the_one_before() -> None:
    one, two = speak(
        DepthDiff(NOW_NS, "BTCUSDT", 11, 15, [("1.0", "2.0")], []), DepthDiff(NOW_NS, "BTCUSDT", 18, 20, [], [])
    )
    assert (said(one)["pu"], said(two)["pu"]) == (10, 15)
    assert said(one) | {"pu": 0} == {
        **{"e": "depthUpdate", "E": NOW_MS, "T": NOW_MS, "s": "BTCUSDT", "U": 11, "u": 15, "pu": 0},
        **{"b": [["1.0", "2.0"]], "a": []},
    }
    assert (one.stream, one.kind) == ("btcusdt@depth@100ms", "depth")


def test_the_top_of_the_book_is_spelled_as_a_difference() -> None:
    (diff,) = speak(DepthDiff(NOW_NS, "BTCUSDT", 11, 15, [], []))
    book = Snapshot(15, [("1.0", "2.0")], [("3.0", "1.0")])
    listed = FUTURES.describe("BTCUSDT", 1, 1)
    top = FUTURES.books.make("btcusdt@depth20@100ms", Change(listed, diff, book, book))
    assert said(top) == {
        **{"e": "depthUpdate", "E": NOW_MS, "T": NOW_MS, "s": "BTCUSDT", "U": 11, "u": 15, "pu": 10},
        **{"b": [["1.0", "2.0"]], "a": [["3.0", "1.0"]]},
    }
    assert (top.stream, top.marks) == ("btcusdt@depth20@100ms", (("books", "BTCUSDT", 15),))
    assert FUTURES.books.read_snapshot(top.payload) == Snapshot(15, [("1.0", "2.0")], [("3.0", "1.0")])


def test_a_quote_has_times_here() -> None:
    (frame,) = speak(Quote(NOW_NS, "BTCUSDT", 9, 6_500_010_000_000, 10**8, 6_500_020_000_000, 10**7, 1))
    assert said(frame) == {
        **{"e": "bookTicker", "u": 9, "s": "BTCUSDT", "b": "65000.1", "B": "1", "a": "65000.2", "A": "0.1"},
        **{"T": NOW_MS, "E": NOW_MS},
    }
    assert frame.marks == (("quotes", "BTCUSDT", 9),)


def kline(*, closed: bool) -> Kline:
    amounts = (100 * 10**8, 150 * 10**8, 50 * 10**8, 120 * 10**8, 10**8, 110 * 10**8)
    return Kline(NOW_NS, "BTCUSDT", 1_699_999_980 * SECOND_NS, *amounts, 3, 5 * 10**7, 55 * 10**8, 7, 9, closed)


def test_only_a_closed_candle_is_a_record() -> None:
    growing, closed = speak(kline(closed=False), kline(closed=True))
    assert (growing.marks, closed.marks) == ((), (("klines", "BTCUSDT", 1_699_999_980_000_000),))
    assert growing.stream == closed.stream == "btcusdt@kline_1m"
    assert said(closed)["k"] == {
        **{"t": 1_699_999_980_000, "T": 1_700_000_039_999, "s": "BTCUSDT", "i": "1m", "f": 7, "L": 9},
        **{"o": "100", "c": "120", "h": "150", "l": "50", "v": "1", "n": 3, "x": True},
        **{"q": "110", "V": "0.5", "Q": "55", "B": "0"},
    }


def test_mark_prices_are_told_together_and_each_for_itself() -> None:
    marks = [Mark(symbol, 10**8, 2 * 10**8, -12_345, NOW_NS + 3600 * SECOND_NS) for symbol in ("AUSDT", "BUSDT")]
    whole, one, two = speak(Marks(NOW_NS, marks))
    assert (whole.stream, one.stream) == ("!markPrice@arr@1s", "ausdt@markPrice@1s")
    assert said(whole) == [said(one), said(two)]
    assert said(one) == {
        **{"e": "markPriceUpdate", "E": NOW_MS, "s": "AUSDT", "p": "1.00000000", "P": "1.00000000"},
        **{"i": "2.00000000", "r": "-0.00012345", "T": NOW_MS + 3_600_000},
    }
    assert whole.marks == (("funding", "AUSDT", NOW_MS * 1000), ("funding", "BUSDT", NOW_MS * 1000))


def test_of_the_liquidations_of_a_second_only_the_latest_of_a_symbol_is_told() -> None:
    def liquidation(symbol: str, after_ms: int) -> Liquidation:
        return Liquidation(NOW_NS + after_ms * 10**6, symbol, False, 991 * 10**7, 990 * 10**7, 14 * 10**5)

    times = [("A", 0), ("A", 500), ("B", 600), ("A", 999), ("A", 1000), ("B", 1700)]
    events: list[Event] = [liquidation(f"{symbol}USDT", after) for symbol, after in times]
    frames = speak(*events, OpenInterest(NOW_NS + 9 * SECOND_NS, "AUSDT", 1))
    told = [said(frame) for frame in frames if frame.stream == "!forceOrder@arr"]
    assert [(row["o"]["s"], row["o"]["T"] - NOW_MS) for row in told] == [
        *(("AUSDT", 999), ("BUSDT", 600), ("AUSDT", 1000), ("BUSDT", 1700))
    ]
    assert told[0]["o"] == {
        **{"s": "AUSDT", "S": "SELL", "o": "LIMIT", "f": "IOC", "q": "0.014", "p": "99.1", "ap": "99"},
        **{"X": "FILLED", "l": "0.014", "z": "0.014", "T": NOW_MS + 999},
    }
    assert frames[0].marks == (("liquidations", "AUSDT", (NOW_MS + 999) * 1000),)
    assert [frame.stream for frame in frames[:2]] == ["!forceOrder@arr", "ausdt@forceOrder"]


# Connections


class Shown:
    """A view of a venue with two perpetuals."""

    instruments: Mapping[str, Listed] = {
        symbol: Instrument(symbol, symbol[:-4], "USDT", 10_000_000, 100_000, "perpetual")
        for symbol in ("BTCUSDT", "ETHUSDT")
    }
    bodies: Sequence[Body] = ()
    time_ns = NOW_NS

    def __init__(self, *frames: Frame) -> None:
        self.frames = {frame.stream: frame for frame in frames}

    def book(self, symbol: str, limit: int) -> Snapshot | None:
        return Snapshot(9, [("3.0", "1.0"), ("2.0", "1.0")], [("4.0", "1.0")]) if symbol == "BTCUSDT" else None

    def trades(self, symbol: str) -> Sequence[Frame]:
        events: list[Event] = [trade(number, number, NOW_NS + number) for number in range(1, 1200)]
        return speak(*events, OpenInterest(2 * NOW_NS, symbol, 1))[:-1]

    def newest(self, stream: str) -> Frame | None:
        return self.frames.get(stream)


def connect(path: str, **query: str) -> Session:
    return FUTURES.connect(path, query, 0.0, Shown())


EVERY = {
    *("btcusdt@aggTrade", "btcusdt@kline_1m", "btcusdt@markPrice@1s", "!markPrice@arr@1s", "!forceOrder@arr"),
    *("btcusdt@depth20@100ms", "btcusdt@bookTicker", "!bookTicker", "btcusdt@depth@0ms", "btcusdt@rpiDepth@500ms"),
    "btcusdt@trade",
}
BOOKS = {stream for stream in EVERY if "epth" in stream or "bookTicker" in stream}


@pytest.mark.parametrize(
    ("path", "served"),
    [
        ("/public/ws", BOOKS | {"btcusdt@trade"}),
        ("/public/stream", BOOKS | {"btcusdt@trade"}),
        ("/market/ws", EVERY - BOOKS),
        ("/market/stream", EVERY - BOOKS),
        ("/ws", BOOKS | {"btcusdt@trade"}),
        ("/stream", BOOKS | {"btcusdt@trade"}),
    ],
)
def test_a_route_serves_its_category_and_acknowledges_all(path: str, served: set[str]) -> None:
    session = connect(path)
    (reply,) = session.receive(json.dumps({"method": "SUBSCRIBE", "params": sorted(EVERY), "id": 1}), 0.0)
    assert reply == b'{"result":null,"id":1}'
    assert session.streams == served
    (listed,) = session.receive('{"method":"LIST_SUBSCRIPTIONS","id":2}', 1.0)
    assert isinstance(listed, bytes)
    assert json.loads(listed)["result"] == sorted(EVERY)


@pytest.mark.parametrize("path", ["/private/ws", "/public", "/market/x", "/", "/public/wss"])
def test_other_paths_are_not_there(path: str) -> None:
    with pytest.raises(LookupError):
        connect(path)


def test_streams_in_the_address_are_kept_to_the_route_too() -> None:
    assert connect("/market/ws/a@aggTrade/a@bookTicker").streams == {"a@aggTrade"}
    assert connect("/public/stream", streams="a@aggTrade/a@bookTicker").streams == {"a@bookTicker"}


def test_ten_messages_a_second_and_200_streams_are_taken_and_no_more() -> None:
    session = connect("/market/stream")
    for _ in range(10):
        session.ping(5.0)
    with pytest.raises(Disconnect, match="Too many"):
        session.ping(5.5)
    names = [f"s{i}@aggTrade" for i in range(RULES.streams + 1)]
    (reply,) = connect("/market/stream").receive(json.dumps({"method": "SUBSCRIBE", "params": names, "id": 1}), 0.0)
    assert isinstance(reply, bytes)
    assert json.loads(reply)["code"] == 2


def test_a_ping_every_three_minutes_and_ten_for_its_pong() -> None:
    session = connect("/market/ws")
    assert (list(session.tick(179.0)), len(session.tick(180.0))) == ([], 1)
    session.tick(360.0)
    with pytest.raises(Disconnect, match="Pong"):
        session.tick(780.0)


# REST


def rest(path: str, *frames: Frame, **query: str) -> tuple[int, Any]:
    answer = BinanceFutures().answer(path, query, 0.0, Shown(*frames))
    return answer.status, json.loads(answer.body)


def test_the_listing_names_all_perpetuals_whatever_is_asked() -> None:
    _, info = rest("/fapi/v1/exchangeInfo", symbol="BTCUSDT")
    assert [row["symbol"] for row in info["symbols"]] == ["BTCUSDT", "ETHUSDT"]
    row = info["symbols"][0]
    assert (row["contractType"], row["status"], row["baseAsset"], row["quoteAsset"]) == (
        *("PERPETUAL", "TRADING", "BTC", "USDT"),
    )
    assert {rule["filterType"]: rule.get("tickSize", rule.get("stepSize")) for rule in row["filters"]} == {
        **{"PRICE_FILTER": "0.10000000", "LOT_SIZE": "0.00100000"},
    }


def test_open_interest_and_premium_are_as_of_now_and_the_former_is_counted() -> None:
    (interest,) = speak(OpenInterest(NOW_NS, "BTCUSDT", 8_378_231_700_000))
    body = {"openInterest": "83782.317", "symbol": "BTCUSDT", "time": NOW_MS}
    answer = BinanceFutures().answer("/fapi/v1/openInterest", {"symbol": "BTCUSDT"}, 0.0, Shown(interest))
    assert (answer.status, json.loads(answer.body)) == (200, body)
    assert answer.marks == (("open_interest", "BTCUSDT", NOW_MS * 1000),)
    marks = speak(Marks(NOW_NS, [Mark("BTCUSDT", 10**8, 2 * 10**8, 38_246, NOW_NS)]))
    expected = {
        **{"symbol": "BTCUSDT", "markPrice": "1.00000000", "indexPrice": "2.00000000"},
        **{"estimatedSettlePrice": "1.00000000", "lastFundingRate": "0.00038246", "interestRate": "0.00010000"},
        **{"nextFundingTime": NOW_MS, "time": NOW_MS},
    }
    assert rest("/fapi/v1/premiumIndex", *marks, symbol="BTCUSDT") == (200, expected)
    assert rest("/fapi/v1/premiumIndex", *marks) == (200, [expected])


def test_depth_and_aggregate_trades() -> None:
    status, depth = rest("/fapi/v1/depth", symbol="BTCUSDT", limit="1")
    assert (status, depth) == (
        200,
        {"lastUpdateId": 9, "E": NOW_MS, "T": NOW_MS, "bids": [["3.0", "1.0"]], "asks": [["4.0", "1.0"]]},
    )
    _, rows = rest("/fapi/v1/aggTrades", symbol="BTCUSDT", fromId="1500000003", limit="2")
    assert rows[0] == {"a": 1_500_000_003, "p": "0.3", "q": "0.25", "f": 3, "l": 3, "T": NOW_MS, "m": False}
    assert [row["a"] for row in rows] == [1_500_000_003, 1_500_000_004]
    assert len(rest("/fapi/v1/aggTrades", symbol="BTCUSDT")[1]) == 500


@pytest.mark.parametrize(
    ("path", "query", "status", "code"),
    [
        ("/fapi/v1/openInterest", {}, 400, -1102),
        ("/fapi/v1/openInterest", {"symbol": "NOSUCH"}, 400, -1121),
        ("/fapi/v1/openInterest", {"symbol": "BTCUSDT"}, 503, -1000),
        ("/fapi/v1/premiumIndex", {"symbol": "BTCUSDT"}, 503, -1000),
        ("/fapi/v1/depth", {"symbol": "ETHUSDT"}, 503, -1000),
        ("/fapi/v1/depth", {"symbol": "BTCUSDT", "limit": "x"}, 400, -1100),
        ("/fapi/v1/nosuch", {}, 404, -1000),
    ],
)
def test_rest_refuses_with_the_documented_code(path: str, query: dict[str, str], status: int, code: int) -> None:
    found, body = rest(path, **query)
    assert (found, body["code"]) == (status, code)


# Recordings


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_line_is_read_or_refused(raw: bytes) -> None:
    try:
        frames = list(BinanceFutures().read([(1, raw)]))
    except Unreadable:
        return
    assert all(frame.stream for frame in frames)


@given(st.integers())
def test_garbage_is_never_a_readable_trade(seed: int) -> None:
    (frame,) = speak(trade(1, 5), OpenInterest(NOW_NS, "X", 1))[:-1]
    spoilt = FUTURES.spoil(frame, Random(seed))
    assert (spoilt.kind, spoilt.stream, spoilt.marks) == ("garbage", frame.stream, ())
    kinds = {"a": int, "p": str, "q": str, "T": int, "m": bool}
    for message in (spoilt.payload, spoilt.combined):
        try:
            fields = json.loads(message)
        except ValueError:
            continue
        data = fields.get("data", fields)
        assert data.get("e") != "aggTrade" or not all(isinstance(data.get(key), kind) for key, kind in kinds.items())


def raw_lines(path: Path) -> list[tuple[int, Any]]:
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    rows = (line.split(b"\t", 1) for line in text.splitlines())
    return [(int(time_ns), json.loads(raw)) for time_ns, raw in rows]


def market_of(*paths: Path) -> RecordedMarket:
    return RecordedMarket(sort(list(map(str, paths)), [FUTURES])["BINANCE_FUTURES"], BinanceFutures())


PAIRS = [
    (["hft_btcusdt_20240808"], "usdm_btcusdt_aggTrade_depth20_20240808"),
    (["hft_btcusdt_20230404", "hft_btcusdt_20230405"], "usdm_btcusdt_aggTrade_depth20_markPrice_20230404_05"),
]


@pytest.mark.parametrize(("names", "derived"), PAIRS)
def test_raw_trades_and_differences_become_what_others_derived_from_them(
    recordings: Path, names: list[str], derived: str
) -> None:
    market = market_of(*(recordings / f"binance_usdm/{name}.frames.zst" for name in names))
    exchange = Exchange(BinanceFutures(), market)
    exchange.subscribe(["btcusdt@depth20@100ms", "btcusdt@aggTrade"])
    sent = [frame for row in market.frames(None) for frame in exchange.take(Action("send", row))]
    expected = raw_lines(recordings / f"derived/{derived}.frames.zst")
    trades = [said(frame) for frame in sent if frame.kind == "trade"]
    theirs = [row["data"] for _, row in expected if row["stream"] == "btcusdt@aggTrade"]
    assert len(trades) == len(theirs)
    assert [pair for pair in zip(trades, theirs, strict=True) if pair[0] != pair[1]] == []
    tops = {said(frame)["u"]: said(frame) for frame in sent if frame.kind == "depth20"}
    books = [row["data"] for _, row in expected if row["stream"] == "btcusdt@depth20@100ms"]
    assert 0.8 < len(tops) / len(books) < 1.2
    compared = [(tops[row["u"]], row) for row in books if row["u"] in tops]  # theirs are at other differences
    assert len(compared) > 500
    assert all((ours["b"], ours["a"]) == (row["b"], row["a"]) for ours, row in compared)
    assert exchange.book_holes("BTCUSDT") == 0


def test_a_recording_that_tells_aggregate_trades_itself_is_not_gathered_again(recordings: Path) -> None:
    market = market_of(recordings / "binance_usdm/cf_alts_20210722.frames.zst")
    trades = [frame for frame in market.frames(None) if frame.kind == "trade"]
    assert len(trades) == market.expected_trades == 91
    assert market.snapshots.keys() <= market.instruments.keys()
    assert len(market.snapshots) == 4
