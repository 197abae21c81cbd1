"""Kraken's protocol without sockets: acknowledgements, snapshots, heartbeats, refusals, REST, recordings, garbage.

Examples follow docs.kraken.com (spot-websocket-v2 ticker, trade, heartbeat, ping; rest-api get-tradable-asset-pairs,
get-recent-trades) and, for the refusal of a pair, a live answer in nautilus_trader issue 3509.
"""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.contract import BadFrame, Receipt
from simulator.contract import Frame, Session, Unavailable, Unreadable
from simulator.dialects.kraken import CONNECTS, Kraken
from simulator.events import Quote, Trade
from simulator.exchange import Exchange
from tests.simulator.played import connect, heard, identities, play, recorded, rest, say, source, synthetic

SECOND_NS = 10**9
BEGIN_NS = 1_762_795_433 * SECOND_NS + 971_745_000
READER = source("KRAKEN")


def trade(number: int, time_ns: int = BEGIN_NS, symbol: str = "BTC/USD", sells: bool = False) -> Trade:
    return Trade(time_ns, symbol, number, 10_543_360_000_000, 27_625, sells)


def quote(time_ns: int = BEGIN_NS, bid_e8: int = 10_594_420_000_000) -> Quote:
    return Quote(time_ns, "BTC/USD", 1, bid_e8, 250_000_000, 10_594_430_000_000, 320_000_000, 10_589_940_000_000)


def speak(*events: Trade | Quote) -> list[Frame]:
    return list(Kraken().speak(events))


@pytest.fixture
def venue() -> Exchange:
    return synthetic(Kraken())


def request(channel: str, *symbols: str, method: str = "subscribe", **params: Any) -> dict[str, Any]:
    return {"method": method, "params": {"channel": channel, "symbol": list(symbols), **params}, "req_id": 5}


def ask(session: Session, channel: str, *symbols: str, **params: Any) -> list[Any]:
    return say(session, request(channel, *symbols, **params))


# What is told


def test_a_trade_is_spelled_as_documented() -> None:
    (frame,) = speak(trade(10218209, sells=True))
    assert json.loads(frame.payload) == {
        **{"channel": "trade", "type": "update"},
        "data": [
            {
                **{"symbol": "BTC/USD", "side": "sell", "price": 105433.6, "qty": 0.00027625, "ord_type": "market"},
                **{"trade_id": 10218209, "timestamp": "2025-11-10T17:23:53.971745Z"},
            }
        ],
    }
    assert b'"price":105433.6,"qty":0.00027625' in frame.payload
    assert frame.marks == (("trades", "BTC/USD", 10218209),)


def test_prices_keep_the_zeros_that_their_pair_has() -> None:
    fine, round_ = speak(trade(1), Trade(BEGIN_NS + 1, "BTC/USD", 2, 6_500_012_000_000, 5_000, False))
    assert b'"price":105433.6,' in fine.payload
    assert b'"price":65000.12,"qty":0.00005000,' in round_.payload
    last = speak(Trade(1, "A/B", 1, 6_500_012_000_000, 1, False), Trade(2, "A/B", 2, 6_500_010_000_000, 1, False))[-1]
    assert b'"price":65000.10,' in last.payload


def test_trades_of_one_order_are_one_message_and_those_of_others_are_not() -> None:
    events = [trade(1), trade(2), trade(3, symbol="ETH/USD"), trade(3), trade(4, BEGIN_NS + 1)]
    assert [[told[2] for told in frame.marks] for frame in speak(*events)] == [[1, 2], [3], [3], [4]]


def test_tickers_are_spelled_as_documented_at_a_best_price_and_at_a_trade() -> None:
    best, told, after = speak(quote(), trade(7, BEGIN_NS + 1_000))
    assert (best.stream, best.marks) == ("ticker:bbo:BTC/USD", (("quotes", "BTC/USD", BEGIN_NS // 1_000),))
    assert told.stream == "trade:BTC/USD"
    assert (after.stream, after.marks) == ("ticker:trades:BTC/USD", ())
    assert json.loads(after.payload) == {
        **{"channel": "ticker", "type": "update"},
        "data": [
            {
                **{"symbol": "BTC/USD", "bid": 105944.2, "bid_qty": 2.5, "ask": 105944.3, "ask_qty": 3.2},
                **{"last": 105433.6, "volume": 0.00027625, "vwap": 105433.6, "low": 105433.6, "high": 105899.4},
                **{"change": -465.8, "change_pct": -0.44, "timestamp": "2025-11-10T17:23:53.971746Z"},
            }
        ],
    }


def test_the_day_is_the_sum_of_its_trades() -> None:
    events: list[Trade | Quote] = [
        quote(),
        Trade(BEGIN_NS, "BTC/USD", 1, 10_000_000_000, 200_000_000, True),
        trade(2, BEGIN_NS + 1),
    ]
    row = json.loads(speak(*events, quote(BEGIN_NS + 5_000))[-1].payload)["data"][0]
    assert (row["volume"], row["low"], row["high"]) == (2.00027625, 100.0, 105899.4)
    assert row["vwap"] == pytest.approx((2 * 100 + 0.00027625 * 105433.6) / 2.00027625, abs=0.1)


def test_the_collectors_reader_finds_what_is_marked(venue: Exchange) -> None:
    found: Counter[str] = Counter()
    frames = play(venue, 4_000)
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(frames))
    for frame in frames:
        told = identities(READER, frame)
        assert told == list(frame.marks) or frame.stream.startswith("ticker:trades:")
        found[frame.stream.split(":")[0]] += 1
    assert min(found["ticker"], found["trade"]) > 300


# Sessions


def test_a_connection_begins_with_the_status(venue: Exchange) -> None:
    session = connect(venue)
    (status,) = heard(session, session.greet(0.0))
    assert (status["channel"], status["type"]) == ("status", "update")
    (row,) = status["data"]
    assert (row["api_version"], row["system"]) == ("v2", "online")
    assert row["connection_id"] > 2**53
    assert READER.parse(json.dumps(status).encode(), Receipt(1)) == ()


def test_each_symbol_of_a_request_is_acknowledged_by_itself(venue: Exchange) -> None:
    session = connect(venue)
    good, bad, also = ask(session, "ticker", "BTC/USD", "XBT/USD", "ETH/USD", event_trigger="bbo", snapshot=True)
    times = {"time_in": "2025-01-01T00:00:00.000000Z", "time_out": "2025-01-01T00:00:00.000050Z"}
    assert good == {
        **{"method": "subscribe", "req_id": 5, "success": True, **times},
        "result": {"channel": "ticker", "symbol": "BTC/USD", "event_trigger": "bbo", "snapshot": True},
    }
    assert bad == {
        **{"error": "Currency pair not supported XBT/USD", "method": "subscribe", "req_id": 5},
        **{"success": False, "symbol": "XBT/USD", **times},
    }
    assert also["result"]["symbol"] == "ETH/USD"
    assert session.streams == {"ticker:bbo:BTC/USD", "ticker:bbo:ETH/USD"}


def test_triggers_and_snapshots_have_their_defaults(venue: Exchange) -> None:
    play(venue, 2_000)
    session = connect(venue)
    reply, snapshot = ask(session, "ticker", "BTC/USD")
    assert reply["result"] == {
        **{"channel": "ticker", "symbol": "BTC/USD"},
        **{"event_trigger": "trades", "snapshot": True},
    }
    assert (snapshot["channel"], snapshot["type"]) == ("ticker", "snapshot")
    (reply,) = ask(session, "trade", "BTC/USD")
    assert reply["result"] == {"channel": "trade", "symbol": "BTC/USD", "snapshot": False}
    assert session.streams == {"ticker:trades:BTC/USD", "trade:BTC/USD"}


def test_a_snapshot_of_trades_holds_the_last_fifty(venue: Exchange) -> None:
    told = [mark for frame in play(venue, 4_000) for mark in frame.marks if mark[:2] == ("trades", "BTC/USD")]
    session = connect(venue)
    reply, snapshot = session.receive(json.dumps(request("trade", "BTC/USD", snapshot=True)), 0.0)
    assert isinstance(snapshot, Frame)
    assert isinstance(reply, bytes)
    assert json.loads(snapshot.payload)["type"] == "snapshot"
    assert list(snapshot.marks) == told[-50:] == identities(READER, snapshot)


def test_before_anything_happened_there_is_no_snapshot(venue: Exchange) -> None:
    session = connect(venue)
    assert len(ask(session, "trade", "BTC/USD", snapshot=True)) == len(ask(session, "ticker", "BTC/USD")) == 1


def test_what_was_subscribed_to_can_be_given_up_once(venue: Exchange) -> None:
    session = connect(venue)
    ask(session, "trade", "BTC/USD")
    assert ask(session, "trade", "BTC/USD")[0]["error"] == "Already subscribed"
    (reply,) = ask(session, "trade", "BTC/USD", method="unsubscribe")
    assert (reply["method"], reply["success"]) == ("unsubscribe", True)
    assert reply["result"] == {"channel": "trade", "symbol": "BTC/USD"}
    assert session.streams == set()
    (again,) = ask(session, "trade", "BTC/USD", method="unsubscribe")
    assert (again["error"], again["success"]) == ("Subscription Not Found", False)


@pytest.mark.parametrize(
    "asked",
    [
        *([], {"method": "buy"}, {"method": "subscribe", "params": []}, {"method": "subscribe"}),
        *(request("nonsense", "BTC/USD"), request("trade"), request("ticker", "BTC/USD", event_trigger="moon")),
        {"method": "subscribe", "params": {"channel": "trade", "symbol": "BTC/USD"}},
        request("trade", "BTC/USD", snapshot="yes"),
    ],
)
def test_a_wrong_request_is_refused_and_changes_nothing(venue: Exchange, asked: Any) -> None:
    session = connect(venue)
    (reply,) = say(session, asked)
    assert reply["success"] is False
    assert reply["error"]
    assert session.streams == set()
    assert json.loads(bytes(session.receive("{nonsense", 0.0)[0]))["success"] is False  # type: ignore[arg-type]


def test_a_ping_is_answered_with_its_number(venue: Exchange) -> None:
    (reply,) = say(connect(venue), {"method": "ping", "req_id": 101})
    assert (reply["method"], reply["req_id"]) == ("pong", 101)
    assert set(reply) == {"method", "req_id", "time_in", "time_out"}


def test_a_heartbeat_comes_when_nothing_else_did_for_a_second(venue: Exchange) -> None:
    frame = play(venue, 1)[0]
    session = connect(venue)
    session.greet(0.0)
    assert not session.tick(5.0)
    ask(session, "trade", "BTC/USD")
    assert not session.tick(5.5)
    assert not session.tick(6.4)
    assert list(session.tick(6.5)) == [b'{"channel":"heartbeat"}']
    session.encode(frame)
    assert not session.tick(7.4)
    assert list(session.tick(8.5)) == [b'{"channel":"heartbeat"}']


def test_an_address_that_connects_too_often_is_refused(venue: Exchange) -> None:
    for _ in range(CONNECTS):
        connect(venue, 10.0)
    with pytest.raises(Unavailable):
        connect(venue, 600.0)
    assert connect(venue, 610.0).streams == set()
    with pytest.raises(LookupError):
        venue.dialect.connect("/", {}, 700.0, venue)


# REST


def test_pairs_are_listed_under_their_old_names(venue: Exchange) -> None:
    status, body, answer = rest(venue, "/0/public/AssetPairs", pair="BTC/USD")
    assert (status, body["error"], list(body["result"])) == (200, [], ["XXBTZUSD"])
    pair = body["result"]["XXBTZUSD"]
    assert pair == pair | {
        **{"altname": "XBTUSD", "wsname": "XBT/USD", "base": "XXBT", "quote": "ZUSD", "status": "online"},
        **{"tick_size": "0.01", "pair_decimals": 2, "lot_decimals": 5},
    }
    (record,) = READER.instruments(answer.body, 1)
    assert (record.symbol, record.base, record.quote) == ("BTC/USD", "BTC", "USD")
    for name in ("XBT/USD", "XBTUSD", "XXBTZUSD"):
        assert rest(venue, "/0/public/AssetPairs", pair=name)[1] == body
    assert set(rest(venue, "/0/public/AssetPairs")[1]["result"]) == {"XXBTZUSD", "XETHZUSD"}


def test_errors_come_in_a_list_with_status_200(venue: Exchange) -> None:
    unknown = (200, {"error": ["EQuery:Unknown asset pair"]})
    assert rest(venue, "/0/public/AssetPairs", pair="BTC/USD,NO/SUCH")[:2] == unknown
    assert rest(venue, "/0/public/Trades", pair="NOSUCH")[:2] == unknown
    assert rest(venue, "/0/public/Trades", pair="XBTUSD", since="soon")[1]["error"] == ["EGeneral:Invalid arguments"]
    assert rest(venue, "/0/public/Nonsense")[1]["error"] == ["EGeneral:Unknown method"]
    while "result" in (body := rest(venue, "/0/public/Time")[1]):
        pass
    assert body == {"error": ["EGeneral:Too many requests"]}


def test_trades_are_the_newest_or_those_after_a_time(venue: Exchange) -> None:
    told = [mark[2] for frame in play(venue, 3_000) for mark in frame.marks if mark[:2] == ("trades", "BTC/USD")]
    _, body, answer = rest(venue, "/0/public/Trades", pair="XBTUSD", count="5")
    rows = body["result"]["XXBTZUSD"]
    assert [row[6] for row in rows] == told[-5:] == [mark[2] or 0 for mark in answer.marks]
    price, quantity, seconds, side, kind, misc, _ = rows[0]
    assert (side in "bs", kind in "lm", misc) == (True, True, "")
    assert float(price) > 0 < float(quantity)
    assert seconds == pytest.approx(1_735_689_600, abs=60)
    _, later, _ = rest(venue, "/0/public/Trades", pair="BTC/USD", since=str(1_735_689_601 * SECOND_NS), count="7")
    times = [row[2] for row in later["result"]["XXBTZUSD"]]
    assert len(times) == 7
    assert 1_735_689_601 < times[0] < times[-1] < 1_735_689_610
    assert later["result"]["last"] == f"{times[-1]:.6f}".replace(".", "") + "000"


# Recordings


def test_recorded_trades_are_played_with_their_own_texts(recordings: Path) -> None:
    path = recordings / "derived/kraken_v2_trade_btcusdt_20251110_part1.frames.zst"
    market = recorded(Kraken(), path)
    played = list(market.frames(None))
    ids = [mark[2] or 0 for frame in played for mark in frame.marks]
    assert len(played) == 285
    assert ids == list(range(10218208, 10218708))
    assert {frame.kind for frame in played} == {"trade"}
    assert market.expected_trades == 285
    assert b'"qty":0.00005000,' in played[1].payload
    assert all(identities(READER, frame) == list(frame.marks) for frame in played)
    (listed,) = market.instruments.values()
    assert (listed.symbol, listed.tick_e8, listed.lot_e8) == ("BTC/USDT", 10_000_000, 1)


def test_recorded_tickers_are_played_for_both_triggers(recordings: Path) -> None:
    market = recorded(Kraken(), recordings / "derived/kraken_v2_ticker_alts_20210405.frames.zst")
    played = list(market.frames(None))
    assert Counter(frame.stream.split(":")[1] for frame in played) == {"bbo": 22, "trades": 22}
    told = [frame for frame in played if frame.marks]
    assert all(frame.stream.startswith("ticker:bbo:") for frame in told)
    assert all(identities(READER, frame) == list(frame.marks) for frame in told)
    assert {mark[2] for frame in told for mark in frame.marks} == {None}
    assert set(market.traded) == {frame.symbol for frame in played}
    assert (market.instruments["LSK/USD"].tick_e8, market.instruments["BTC/USD"].tick_e8) == (100, 10_000_000)
    assert b'"bid":0.000023610,"bid_qty":1173.00000000' in played[0].payload


def test_a_frame_of_several_symbols_is_cut_up() -> None:
    row = '{"symbol":"%s","side":"buy","price":1.50,"qty":2,"ord_type":"limit","trade_id":%d,"timestamp":"%s"}'
    stamp = "2023-09-25T07:48:36.925533Z"
    rows = ",".join(row % (symbol, number, stamp) for symbol, number in (("A/USD", 2), ("B/USD", 9), ("A/USD", 1)))
    one, other = Kraken().read([(5, f'{{"channel":"trade","type":"snapshot","data":[{rows}]}}'.encode())])
    assert (one.stream, [mark[2] for mark in one.marks]) == ("trade:A/USD", [1, 2])
    assert (other.stream, [mark[2] for mark in other.marks]) == ("trade:B/USD", [9])
    assert b'"price":1.50' in one.payload
    assert b'"type":"snapshot"' in one.payload


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"nonsense", b'{"channel":"trade","type":"update","data":[]}', b'{"channel":"ticker","data":[{}]}'),
        *(b'{"channel":"trade","type":"update","data":[{"symbol":"A/B"}]}', b'{"stream":"x","data":{}}'),
    ],
)
def test_a_line_that_cannot_be_placed_is_told(line: bytes) -> None:
    with pytest.raises(Unreadable):
        list(Kraken().read([(1, line)]))


def test_what_is_no_market_is_left_out_of_a_recording() -> None:
    lines = [
        *(b'{"channel":"heartbeat"}', b'{"channel":"status","type":"update","data":[{"system":"online"}]}'),
        *(b'{"method":"subscribe","result":{},"success":true}', b'{"method":"pong","req_id":1}'),
    ]
    assert list(Kraken().read(enumerate(lines))) == []
    assert Kraken().claims(lines[0])
    assert Kraken().claims(b"https://api.kraken.com/0/public/Trades?pair=XBTUSD")
    assert not Kraken().claims(b'{"channel":"ticker","timestamp":"","sequence_num":6,"events":[]}')
    assert not Kraken().claims(b'{"jsonrpc":"2.0"}')


# Garbage


@given(st.integers(0, 10_000))
def test_no_reader_accepts_garbage(seed: int) -> None:
    (good,) = speak(trade(1), trade(2))
    bad = Kraken().spoil(good, Random(seed))
    assert (bad.kind, bad.marks, bad.stream) == ("garbage", (), good.stream)
    assert identities(READER, good) == list(good.marks)
    with pytest.raises(BadFrame):
        READER.parse(bad.payload, Receipt(2**51))
