"""Deribit's protocol without sockets: channels, refusals, heartbeats, credits, connections, REST, recordings, garbage.

Examples follow docs.deribit.com (tickerinstrument_nameinterval, tradeskindcurrencyinterval, public-subscribe,
public-set_heartbeat, rate-limits, errors).
"""

import gc
import json
from collections import Counter
from itertools import pairwise, takewhile
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.contract import BadFrame, Receipt
from simulator.contract import Disconnect, Frame, Session, Unavailable, Unreadable
from simulator.dialects.deribit import MAX_CONNECTIONS, Deribit
from simulator.events import IndexPrice, Option, OptionTick, OptionTrade, VolatilityIndex
from simulator.exchange import Exchange
from simulator.faults import Action
from simulator.recording import RecordedMarket
from simulator.sorting import sort
from tests.simulator.played import connect, heard, identities, play, recorded, rest, say, source, synthetic

SECOND_NS = 10**9
BEGIN_NS = 1_735_689_600 * SECOND_NS
OPTION = Option(
    symbol="BTC-27DEC24-40000-C",
    underlying="BTC",
    price_currency="BTC",
    expiry_ns=1_735_286_400 * SECOND_NS,
    strike_e8=4_000_000_000_000,
    is_call=True,
    tick_e8=10_000,
    lot_e8=10_000_000,
    tick_steps=((500_000, 50_000),),
)
READERS = {"ticker": "DERIBIT_OPTIONS", "trades": "DERIBIT_TRADES", "deribit_price_index": "DERIBIT_INDEX"}


def tick(time_ns: int, bid_e8: int | None = 7_950_000) -> OptionTick:
    return OptionTick(
        time_ns=time_ns,
        option=OPTION,
        bid_e8=bid_e8,
        bid_quantity_e8=400_000_000 if bid_e8 else 0,
        ask_e8=9_450_000,
        ask_quantity_e8=500_000_000,
        mark_e8=8_415_500,
        last_e8=None,
        underlying_e8=211_589_000_000,
        index_e8=210_340_000_000,
        mark_iv=0.7874,
        bid_iv=0.5106 if bid_e8 else None,
        ask_iv=1.1797,
        delta=0.8609,
        gamma=0.00134,
        theta=-5.09811,
        vega=0.46511,
        rho=0.16173,
        open_interest_e8=396_300_000_000,
        volume_e8=0,
    )


def trade(time_ns: int, sequence: int, option: Option = OPTION) -> OptionTrade:
    return OptionTrade(
        *(time_ns, option, sequence, 137_488_100 + sequence, 700_000, 10_000_000, True),
        *(670_817, 5_615_163_000_000, 0.7844),
    )


def frames(*events: Any) -> list[Frame]:
    return list(Deribit().speak(events))


def by_stream(*events: Any) -> dict[str, Frame]:
    return {frame.stream: frame for frame in frames(*events)}


@pytest.fixture
def venue() -> Exchange:
    return synthetic(Deribit())


def call(session: Session, method: str, now: float = 0.0, **params: Any) -> Any:
    reply, *_ = say(session, {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}, now)
    assert reply["jsonrpc"] == "2.0"
    assert reply["id"] == 7
    assert {"usIn", "usOut", "usDiff", "testnet"} <= set(reply)
    return reply.get("result", reply.get("error"))


# What is told


def test_a_ticker_is_spelled_as_documented() -> None:
    frame = by_stream(tick(BEGIN_NS + 5_000_000))["ticker.BTC-27DEC24-40000-C.100ms"]
    message = json.loads(frame.payload)
    assert (message["jsonrpc"], message["method"]) == ("2.0", "subscription")
    assert message["params"]["channel"] == "ticker.BTC-27DEC24-40000-C.100ms"
    data = message["params"]["data"]
    documented = {
        *("ask_iv", "best_ask_amount", "best_ask_price", "best_bid_amount", "best_bid_price", "bid_iv", "greeks"),
        *("estimated_delivery_price", "index_price", "instrument_name", "interest_rate", "last_price", "mark_iv"),
        *("mark_price", "max_price", "min_price", "open_interest", "settlement_price", "state", "stats", "timestamp"),
        *("underlying_index", "underlying_price"),
    }
    assert set(data) == documented
    assert data["greeks"] == {"vega": 0.46511, "theta": -5.09811, "rho": 0.16173, "gamma": 0.00134, "delta": 0.8609}
    assert data["stats"] == {"high": None, "low": None, "price_change": None, "volume": 0.0, "volume_usd": None}
    assert (data["timestamp"], data["instrument_name"], data["state"]) == (1735689600005, OPTION.symbol, "open")
    assert (data["best_bid_price"], data["best_bid_amount"], data["bid_iv"]) == (0.0795, 4.0, 51.06)
    assert (data["best_ask_price"], data["best_ask_amount"], data["ask_iv"]) == (0.0945, 5.0, 117.97)
    assert (data["mark_price"], data["mark_iv"], data["last_price"]) == (0.084155, 78.74, None)
    assert (data["underlying_price"], data["index_price"], data["open_interest"]) == (2115.89, 2103.4, 3963.0)
    assert b'"best_bid_amount":4.0' in frame.payload
    assert frame.marks == (("option_tickers", OPTION.symbol, 1735689600005000),)


def test_an_empty_side_is_zeros() -> None:
    frame = by_stream(tick(BEGIN_NS, bid_e8=None))["ticker.BTC-27DEC24-40000-C.100ms"]
    data = json.loads(frame.payload)["params"]["data"]
    assert (data["best_bid_price"], data["best_bid_amount"], data["bid_iv"]) == (0.0, 0.0, 0.0)


def test_trades_come_by_kind_and_currency_and_again_by_instrument() -> None:
    found = by_stream(trade(BEGIN_NS + 1, 1706), trade(BEGIN_NS + 2, 1707))
    option = found["trades.option.BTC.100ms"]
    rows = json.loads(option.payload)["params"]["data"]
    assert rows[0] == {
        **{"timestamp": 1735689600000, "iv": 78.44, "price": 0.007, "amount": 0.1, "direction": "buy"},
        **{"index_price": 56151.63, "instrument_name": OPTION.symbol, "trade_seq": 1706, "mark_price": 0.00670817},
        **{"tick_direction": 1, "contracts": 0.1, "trade_id": "137489806"},
    }
    assert option.kind == "trade"
    assert option.marks == (("trades", OPTION.symbol, 1706), ("trades", OPTION.symbol, 1707))
    alone = found["trades.BTC-27DEC24-40000-C.100ms"]
    assert json.loads(alone.payload)["params"]["data"] == rows
    assert (alone.kind, alone.marks) == ("other", ())


def test_indices_are_spelled_as_documented() -> None:
    price, volatility = frames(
        IndexPrice(BEGIN_NS, "btc_usd", 393_789_000_000), VolatilityIndex(BEGIN_NS, "btc_usd", 12_936_000_000)
    )
    assert json.loads(price.payload)["params"] == {
        "channel": "deribit_price_index.btc_usd",
        "data": {"timestamp": 1735689600000, "price": 3937.89, "index_name": "btc_usd"},
    }
    assert json.loads(volatility.payload)["params"] == {
        "channel": "deribit_volatility_index.btc_usd",
        "data": {"timestamp": 1735689600000, "volatility": 129.36, "index_name": "btc_usd"},
    }
    assert price.marks == (("index_prices", "BTC_USD", 1735689600000000),)
    assert volatility.marks == (("volatility_index", "BTC_USD", 1735689600000000),)


@given(st.lists(st.integers(0, 3 * SECOND_NS), min_size=1, max_size=60))
def test_an_option_is_told_once_in_100_ms_the_newest_and_never_early(offsets: list[int]) -> None:
    events = [tick(BEGIN_NS + offset) for offset in sorted(offsets)]
    told = [frame for frame in frames(*events) if frame.stream.endswith(".100ms")]
    assert all(frame.time_ns % 100_000_000 == 0 for frame in told)
    assert all(a.time_ns < b.time_ns for a, b in pairwise(told))
    for frame in told:
        within = [e.time_ns for e in events if frame.time_ns - 100_000_000 <= e.time_ns < frame.time_ns]
        assert json.loads(frame.payload)["params"]["data"]["timestamp"] == within[-1] // 10**6
    assert len(told) == len({event.time_ns // 100_000_000 for event in events})
    assert all(not frame.marks for frame in frames(*events) if frame.stream.endswith(".agg2"))


def test_no_frame_comes_before_an_earlier_one(venue: Exchange) -> None:
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(play(venue, 3_000)))


def test_the_collectors_readers_find_what_is_marked(venue: Exchange) -> None:
    found: Counter[str] = Counter()
    for frame in play(venue, 4_000):
        root = frame.stream.partition(".")[0]
        reader = source(READERS.get(root, "DERIBIT_INDEX"))
        if frame.marks:
            assert identities(reader, frame) == list(frame.marks)
            found[root] += 1
    assert min(found[root] for root in ("ticker", "trades", "deribit_price_index", "deribit_volatility_index")) > 10


# Sessions


def test_a_subscribe_reply_lists_what_was_accepted_and_only_that(venue: Exchange) -> None:
    session = connect(venue)
    known = next(iter(venue.instruments))
    accepted = [
        *(f"ticker.{known}.100ms", f"ticker.{known}.agg2", f"trades.{known}.100ms", "trades.option.BTC.100ms"),
        *("trades.option.any.agg2", "deribit_price_index.btc_usd", "deribit_volatility_index.btc_usd"),
    ]
    refused = [
        *("ticker.BTC-1JAN99-1-C.100ms", "ticker.*.100ms", f"ticker.{known}.50ms", f"ticker.{known}", "nonsense"),
        *("trades.bonds.BTC.100ms", "deribit_price_index.no_such", "deribit_volatility_index.sol_usd"),
    ]
    assert call(session, "public/subscribe", channels=[*accepted, *refused]) == accepted
    assert session.streams == set(accepted)
    assert call(session, "public/unsubscribe", channels=[accepted[0], "nonsense"]) == [accepted[0]]
    assert session.streams == set(accepted[1:])
    assert call(session, "public/unsubscribe_all") == "ok"
    assert session.streams == set()


def test_raw_channels_want_a_login_and_spoil_the_whole_request(venue: Exchange) -> None:
    session = connect(venue)
    known = next(iter(venue.instruments))
    error = call(session, "public/subscribe", channels=["deribit_price_index.btc_usd", f"ticker.{known}.raw"])
    assert error == {"code": 13778, "message": "raw_subscriptions_not_available_for_unauthorized"}
    assert session.streams == set()


def test_after_the_reply_comes_the_newest_of_each_channel_but_no_trades(venue: Exchange) -> None:
    play(venue, 3_000)
    session = connect(venue)
    channels = [
        "deribit_price_index.btc_usd",
        f"ticker.{next(iter(venue.instruments))}.100ms",
        "trades.option.BTC.100ms",
    ]
    request = {"jsonrpc": "2.0", "id": 1, "method": "public/subscribe", "params": {"channels": channels}}
    reply, *snapshots = say(session, request)
    assert reply["result"] == channels
    assert [message["params"]["channel"] for message in snapshots] == channels[:2]
    assert say(session, request)[1:] == []


@pytest.mark.parametrize(
    ("method", "params", "code"),
    [
        ("public/subscribe", {}, -32602),
        ("public/subscribe", {"channels": "ticker"}, -32602),
        ("public/subscribe", {"channels": []}, -32602),
        ("public/set_heartbeat", {"interval": 9}, -32602),
        ("public/set_heartbeat", {"interval": "10"}, -32602),
        ("public/get_instruments", {"currency": "bitcoin"}, -32602),
        ("public/get_instruments", {"currency": "BTC", "kind": "bond"}, -32602),
        ("public/get_instrument", {"instrument_name": "BTC-1JAN99-1-C"}, 13020),
        ("public/get_last_trades_by_instrument", {"instrument_name": "*"}, -32602),
        ("public/nonsense", {}, -32601),
        ("private/buy", {}, 13009),
    ],
)
def test_a_wrong_request_is_refused(venue: Exchange, method: str, params: dict[str, Any], code: int) -> None:
    error = call(connect(venue), method, **params)
    assert error["code"] == code
    assert "data" not in error or {"reason", "param"} == set(error["data"])


def test_what_is_no_request_is_refused(venue: Exchange) -> None:
    session = connect(venue)
    assert heard(session, session.receive("{nonsense", 0.0))[0]["error"]["code"] == -32700
    assert heard(session, session.receive("[]", 0.0))[0]["error"]["code"] == -32600
    assert heard(session, session.receive(b"\xff\xfe", 0.0))[0]["error"]["code"] == -32700


def test_heartbeats_ask_whether_the_client_lives_and_end_without_an_answer(venue: Exchange) -> None:
    session = connect(venue)
    assert session.tick(100.0) == ()
    assert call(session, "public/set_heartbeat", 100.0, interval=10) == "ok"
    assert session.tick(109.9) == ()
    kinds = [message["params"]["type"] for message in heard(session, session.tick(110.0))]
    assert kinds == ["heartbeat", "test_request"]
    assert call(session, "public/test", 111.0) == {"version": "1.2.26"}
    assert len(session.tick(120.0)) == 2
    assert call(session, "public/get_time", 121.0) == BEGIN_NS // 10**6
    with pytest.raises(Disconnect, match="test_request"):
        session.tick(130.0)


def test_without_heartbeats_nothing_is_asked(venue: Exchange) -> None:
    session = connect(venue)
    call(session, "public/set_heartbeat", 0.0, interval=10)
    session.tick(10.0)
    assert call(session, "public/disable_heartbeat", 11.0) == "ok"
    assert session.tick(100.0) == ()


def test_credits_refill_and_without_any_the_session_ends(venue: Exchange) -> None:
    session = connect(venue)
    for _ in range(100):
        assert call(session, "public/get_time", 0.0) == BEGIN_NS // 10**6
    assert call(session, "public/get_time", 0.05) == BEGIN_NS // 10**6
    error = call(session, "public/get_time", 0.05)
    assert (error["code"], error["message"]) == (10028, "too_many_requests")
    with pytest.raises(Disconnect, match="too_many_requests"):
        session.receive("{}", 0.1)
    with pytest.raises(Disconnect, match="too_many_requests"):
        session.tick(0.1)
    assert call(connect(venue), "public/get_time", 5.0) == BEGIN_NS // 10**6


def test_an_address_subscribes_ten_times_and_then_three_times_a_second(venue: Exchange) -> None:
    one, other = connect(venue), connect(venue)
    channels = ["deribit_price_index.btc_usd"]
    for session in (one, other):
        for _ in range(5):
            assert call(session, "public/subscribe", 0.0, channels=channels) == channels
    for step in range(1, 20):
        assert call(one, "public/subscribe", step * 0.31, channels=channels) == channels
    assert call(other, "public/subscribe", 5.9, channels=channels)["code"] == 10028


def test_an_address_has_32_connections_and_gets_429_for_one_more(venue: Exchange) -> None:
    open_ = [connect(venue) for _ in range(MAX_CONNECTIONS)]
    with pytest.raises(Unavailable) as refused:
        connect(venue)
    assert refused.value.answer.status == 429
    del refused
    open_.pop()
    gc.collect()
    assert connect(venue).streams == set()


def test_there_is_one_path(venue: Exchange) -> None:
    with pytest.raises(LookupError):
        venue.dialect.connect("/ws", {}, 0.0, venue)


# REST


def test_instruments_are_listed_as_documented(venue: Exchange) -> None:
    status, body, _ = rest(venue, "/public/get_instruments", currency="BTC", kind="option", expired="false")
    assert (status, body["jsonrpc"], body["testnet"]) == (200, "2.0", False)
    rows = {row["instrument_name"]: row for row in body["result"]}
    assert set(rows) == set(_options(venue))
    row = rows["BTC-3JAN25-65000-C"]
    assert row == row | {
        **{"kind": "option", "option_type": "call", "strike": 65000.0, "is_active": True, "state": "open"},
        **{"expiration_timestamp": 1735891200000, "settlement_period": "week", "base_currency": "BTC"},
        **{"quote_currency": "BTC", "counter_currency": "USD", "settlement_currency": "BTC", "tick_size": 0.0001},
        **{"tick_size_steps": [{"above_price": 0.005, "tick_size": 0.0005}], "min_trade_amount": 0.1},
        **{"contract_size": 1.0, "price_index": "btc_usd", "instrument_type": "reversed"},
    }
    assert {row["settlement_period"] for name, row in rows.items() if "31JAN25" in name} == {"month"}
    assert rest(venue, "/public/get_instruments", currency="any", kind="option")[1]["result"] == body["result"]
    assert rest(venue, "/public/get_instruments", currency="ETH", kind="option")[1]["result"] == []
    assert rest(venue, "/public/get_instruments", currency="BTC", expired="true")[1]["result"] == []
    assert rest(venue, "/public/get_instrument", instrument_name="BTC-3JAN25-65000-C")[1]["result"] == row
    assert {"btc_usd", "eth_usd"} <= set(rest(venue, "/public/get_index_price_names")[1]["result"])


def test_the_perpetuals_of_dollar_pairs_are_listed_in_dollars(venue: Exchange) -> None:
    _, body, answer = rest(venue, "/public/get_instruments", currency="any", kind="future")
    assert [row["instrument_name"] for row in body["result"]] == ["BTC-PERPETUAL", "ETH-PERPETUAL"]
    row = body["result"][0]
    assert row == row | {
        **{"kind": "future", "settlement_period": "perpetual", "instrument_type": "reversed", "price_index": "btc_usd"},
        **{"base_currency": "BTC", "quote_currency": "USD", "settlement_currency": "BTC", "tick_size": 0.5},
        **{"contract_size": 10.0, "min_trade_amount": 10.0},
    }
    assert rest(venue, "/public/get_instrument", instrument_name="BTC-PERPETUAL")[1]["result"] == row
    assert len(source("DERIBIT_BOOKS").instruments(answer.body, 1)) == 2
    assert [venue.dialect.spell("BTC", quote) for quote in ("USD", "USDC", "USDT")] == ["BTC-PERPETUAL", None, None]
    assert venue.dialect.spell("SOL", "USD") is None


def test_the_names_of_indices_are_listed(venue: Exchange) -> None:
    status, body, answer = rest(venue, "/public/get_index_price_names")
    assert status == 200
    assert {"btc_usd", "eth_usd"} <= set(body["result"])
    assert len(source("DERIBIT_INDEX").instruments(answer.body, 1)) == len(body["result"])


def test_the_collector_reads_the_listing(venue: Exchange) -> None:
    _, _, answer = rest(venue, "/public/get_instruments", currency="any", kind="option")
    found = {row.symbol: row for row in source("DERIBIT_OPTIONS").instruments(answer.body, 1)}
    assert set(found) == set(_options(venue))
    assert all(found[symbol].expiry == listed.expiry_ns // 1_000 for symbol, listed in _options(venue).items())


def _options(venue: Exchange) -> dict[str, Option]:
    return {symbol: listed for symbol, listed in venue.instruments.items() if isinstance(listed, Option)}


def test_last_trades_are_the_newest_or_those_after_a_number(venue: Exchange) -> None:
    option = _options(venue)["BTC-3JAN25-65000-C"]
    for frame in frames(*(trade(BEGIN_NS + n * SECOND_NS, n, option) for n in range(1, 31))):
        venue.take(Action("send", frame))
    path = "/public/get_last_trades_by_instrument"
    _, body, answer = rest(venue, path, instrument_name=option.symbol, count="3")
    assert [row["trade_seq"] for row in body["result"]["trades"]] == [30, 29, 28]
    assert body["result"]["has_more"] is True
    assert list(answer.marks) == [("trades", option.symbol, n) for n in (30, 29, 28)]
    _, body, _ = rest(venue, path, instrument_name=option.symbol, start_seq="5", end_seq="7")
    assert [row["trade_seq"] for row in body["result"]["trades"]] == [5, 6, 7]
    times = {"start_timestamp": str(BEGIN_NS // 10**6 + 2_000), "end_timestamp": str(BEGIN_NS // 10**6 + 4_000)}
    _, body, _ = rest(venue, path + "_and_time", instrument_name=option.symbol, sorting="asc", **times)
    assert [row["trade_seq"] for row in body["result"]["trades"]] == [2, 3, 4]
    assert body["result"]["has_more"] is False


def test_rest_refuses_as_json_rpc_does(venue: Exchange) -> None:
    status, body, _ = rest(venue, "/public/get_instruments", currency="bitcoin")
    assert (status, body["error"]["code"], body["error"]["data"]["param"]) == (400, -32602, "currency")
    assert rest(venue, "/public/subscribe", channels="x")[1]["error"]["code"] == 10030
    assert rest(venue, "/public/nonsense")[1]["error"]["code"] == -32601
    assert rest(venue, "/nonsense")[0] == 400
    for _ in range(49):
        assert rest(venue, "/public/get_instruments", currency="BTC")[0] == 200
    assert rest(venue, "/public/get_instruments", currency="BTC")[0] == 429


# Recordings


RECORDINGS = [("cf_options_20210405", 273, 187, 76), ("cf_options_20210722", 89, 46, 69)]


@pytest.mark.parametrize(("name", "tickers", "books", "of_bitcoin"), RECORDINGS)
def test_raw_recordings_are_played_as_100_ms(
    recordings: Path, name: str, tickers: int, books: int, of_bitcoin: int
) -> None:
    market = recorded(Deribit(), recordings / f"deribit/{name}.frames.zst")
    played = list(market.frames(None))
    roots = Counter(frame.stream.partition(".")[0] for frame in played)
    assert roots == {"ticker": tickers, "book": books}
    marked = [frame for frame in played if frame.marks]
    assert len(marked) == tickers
    assert sum(frame.symbol.startswith("BTC-") for frame in marked) == of_bitcoin
    assert all(frame.stream.endswith(".100ms") and b".raw" not in frame.payload for frame in played)
    assert all(identities(source("DERIBIT_OPTIONS"), frame) == list(frame.marks) for frame in marked)
    assert Deribit().awaited("DERIBIT_OPTIONS", market.instruments) <= {frame.stream for frame in played}


def test_recorded_instruments_are_listed_as_they_were(recordings: Path) -> None:
    venue = Exchange(Deribit(), recorded(Deribit(), recordings / "deribit/cf_options_20210722.frames.zst"))
    _, body, answer = rest(venue, "/public/get_instruments", currency="BTC", kind="option")
    names = [row["instrument_name"] for row in body["result"]]
    assert len(names) == len(set(names)) > 300
    assert all(name.startswith("BTC-") for name in names)
    assert len(source("DERIBIT_OPTIONS").instruments(answer.body, 1)) == len(names)
    session = connect(venue)
    channels = [f"ticker.{name}.100ms" for name in names[:400]]
    assert call(session, "public/subscribe", channels=channels) == channels


def test_a_recording_of_any_option_trades_is_played_by_currency() -> None:
    row = (
        '{"trade_seq":%d,"trade_id":"137488100","timestamp":1616321732986,"tick_direction":0,"price":0.007,'
        '"mark_price":0.00670817,"iv":78.44,"instrument_name":"%s","index_price":56151.63,"direction":"buy",'
        '"amount":0.10}'
    )
    rows = ",".join((row % (1706, "BTC-26MAR21-62000-C"), row % (9, "ETH-26MAR21-2000-P")))
    line = f'{{"jsonrpc":"2.0","method":"subscription","params":{{"channel":"trades.option.any.raw","data":[{rows}]}}}}'
    played = {frame.stream: frame for frame in Deribit().read([(5, line.encode())])}
    assert played["trades.option.BTC.100ms"].marks == (("trades", "BTC-26MAR21-62000-C", 1706),)
    assert played["trades.option.ETH.100ms"].marks == (("trades", "ETH-26MAR21-2000-P", 9),)
    assert b'"amount":0.10}' in played["trades.option.ETH.100ms"].payload


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"nonsense", b'{"stream":"btcusdt@trade","data":{}}', b'{"jsonrpc":"2.0","method":"mystery"}'),
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"ticker.X.raw","data":{"greeks":{}}}}',
        b'{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.X.raw","data":[{"price":1}]}}',
    ],
)
def test_a_line_that_cannot_be_placed_is_told(line: bytes) -> None:
    with pytest.raises(Unreadable):
        list(Deribit().read([(1, line)]))


def test_replies_and_heartbeats_of_a_recording_are_left_out() -> None:
    lines = [
        b'{"jsonrpc":"2.0","id":0,"result":["ticker.X.raw"],"usIn":1,"usOut":2,"usDiff":1,"testnet":false}',
        b'{"jsonrpc":"2.0","method":"heartbeat","params":{"type":"test_request"}}',
    ]
    assert list(Deribit().read([(n, line) for n, line in enumerate(lines)])) == []
    assert all(Deribit().claims(line) for line in lines)
    assert Deribit().claims(b"https://www.deribit.com/api/v2/public/get_instruments?currency=BTC")
    assert not Deribit().claims(b'{"channel":"heartbeat"}')


def test_a_recording_is_known_by_its_frames_wherever_it_lies(recordings: Path, tmp_path: Path) -> None:
    copy = tmp_path / "x.frames.zst"
    copy.symlink_to(recordings / "deribit/cf_options_20210405.frames.zst")
    assert isinstance(RecordedMarket(sort([str(copy)], [Deribit()])["DERIBIT"], Deribit()), RecordedMarket)


# Garbage


@given(st.integers(0, 10_000))
def test_no_reader_accepts_garbage(seed: int) -> None:
    good = by_stream(trade(BEGIN_NS, 5), trade(BEGIN_NS, 6))["trades.option.BTC.100ms"]
    bad = Deribit().spoil(good, Random(seed))
    assert (bad.kind, bad.marks, bad.stream) == ("garbage", (), good.stream)
    with pytest.raises(BadFrame):
        source("DERIBIT_TRADES").parse(bad.payload, Receipt(2**50))


def test_a_trade_frame_unspoilt_is_read() -> None:
    good = by_stream(trade(BEGIN_NS, 5))["trades.option.BTC.100ms"]
    assert identities(source("DERIBIT_TRADES"), good) == list(good.marks)


def test_one_seed_gives_one_venue() -> None:
    one, two = (list(takewhile(lambda f: f.time_ns < BEGIN_NS + SECOND_NS, _frames())) for _ in range(2))
    assert one == two
    assert len(one) > 100


def _frames() -> Any:
    return synthetic(Deribit()).market.frames(None)
