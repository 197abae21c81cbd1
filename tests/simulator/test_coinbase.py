"""Coinbase's protocol without sockets: numbering, snapshots, lists, limits, silence, REST, recordings, garbage.

Examples follow docs.cdp.coinbase.com (coinbase-app/advanced-trade-apis websocket channels and rate limits, rest-api
products) and the shapes of a tape of August 2026, which has no `client_id` and numbers as counters.
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

from producers.contract import BadFrame, Count, Receipt
from simulator.contract import Disconnect, Frame, Instrument, Session, Unavailable, Unreadable
from simulator.dialects.coinbase import Coinbase
from simulator.events import Quote, Trade
from simulator.exchange import Exchange
from tests.simulator.played import connect, heard, identities, play, recorded, rest, say, source, synthetic

SECOND_NS = 10**9
BEGIN_NS = 1_786_309_548 * SECOND_NS
BATCH_NS = 250_000_000
READER = source("COINBASE")
PRODUCTS = "/api/v3/brokerage/market/products"


def trade(number: int, time_ns: int = BEGIN_NS + 167_634_999, product: str = "BTC-USD") -> Trade:
    return Trade(time_ns, product, number, 6_508_367_000_000, 1_034_361, False)


def quote(time_ns: int = BEGIN_NS) -> Quote:
    return Quote(
        time_ns, "BTC-USD", 1, 6_508_366_000_000, 20_371_215, 6_508_367_000_000, 100_000_000, 6_508_618_000_000
    )


def speak(*events: Trade | Quote) -> list[Frame]:
    return list(Coinbase().speak(events))


@pytest.fixture
def venue() -> Exchange:
    return synthetic(Coinbase())


def ask(session: Session, kind: str, channel: str, *products: str, now: float = 0.0) -> list[Any]:
    return say(session, {"type": kind, "channel": channel, "product_ids": list(products)}, now)


def subscriptions(message: Any) -> Any:
    assert message["channel"] == "subscriptions"
    return message["events"][0]["subscriptions"]


# What is told


def test_trades_are_spelled_as_on_the_tape_the_makers_side_the_newest_first() -> None:
    sold = Trade(BEGIN_NS + 200_000_000, "BTC-USD", 1068572092, 6_508_300_000_000, 100_000_000, True)
    (frame,) = speak(trade(1068572091), sold)
    assert json.loads(frame.payload) == {
        **{"channel": "market_trades", "timestamp": "2026-08-09T21:05:48.250000000Z", "sequence_num": 0},
        "events": [
            {
                "type": "update",
                "trades": [
                    {
                        **{"product_id": "BTC-USD", "trade_id": "1068572092", "price": "65083", "size": "1"},
                        **{"time": "2026-08-09T21:05:48.200000Z", "side": "BUY"},
                    },
                    {
                        **{"product_id": "BTC-USD", "trade_id": "1068572091", "price": "65083.67"},
                        **{"size": "0.01034361", "time": "2026-08-09T21:05:48.167634Z", "side": "SELL"},
                    },
                ],
            }
        ],
    }
    assert frame.marks == (("trades", "BTC-USD", 1068572091), ("trades", "BTC-USD", 1068572092))


def test_a_ticker_is_spelled_as_on_the_tape() -> None:
    (frame,) = speak(quote())
    message = json.loads(frame.payload)
    assert (message["channel"], message["timestamp"]) == ("ticker", "2026-08-09T21:05:48.250000000Z")
    assert message["events"] == [
        {
            "type": "update",
            "tickers": [
                {
                    **{"type": "ticker", "product_id": "BTC-USD", "price": "65086.18", "volume_24_h": "0"},
                    **{"low_24_h": "65086.18", "high_24_h": "65086.18", "low_52_w": "65086.18"},
                    **{"high_52_w": "65086.18", "price_percent_chg_24_h": "0.00000000000000"},
                    **{"best_bid": "65083.66", "best_ask": "65083.67"},
                    **{"best_bid_quantity": "0.20371215", "best_ask_quantity": "1"},
                }
            ],
        }
    ]
    assert frame.marks == (("quotes", "BTC-USD", (BEGIN_NS + BATCH_NS) // 1_000),)


@given(st.lists(st.integers(0, 3 * SECOND_NS), min_size=1, max_size=60))
def test_trades_wait_for_the_quarter_of_a_second_and_none_is_lost(offsets: list[int]) -> None:
    events = [trade(number, BEGIN_NS + offset) for number, offset in enumerate(sorted(offsets), start=1)]
    frames = speak(*events)
    assert all(a.time_ns < b.time_ns for a, b in pairwise(frames))
    assert [mark[2] for frame in frames for mark in frame.marks] == [event.trade_id for event in events]
    happened = {event.trade_id: event.time_ns for event in events}
    for frame in frames:
        assert frame.time_ns % BATCH_NS == 0
        assert all(0 < frame.time_ns - happened[mark[2] or 0] <= BATCH_NS for mark in frame.marks)


def test_the_collectors_reader_finds_what_is_marked(venue: Exchange) -> None:
    found: Counter[str] = Counter()
    frames = play(venue, 1_500)
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(frames))
    for frame in frames:
        assert identities(READER, frame) == list(frame.marks)
        found[frame.stream] += 1
    assert (
        min(found[f"{channel}:{product}"] for channel in ("ticker", "market_trades") for product in venue.instruments)
        > 50
    )


# Sessions


def test_each_answer_lists_all_subscriptions_and_unknown_products_are_not_among_them(venue: Exchange) -> None:
    session = connect(venue)
    (first,) = ask(session, "subscribe", "ticker", "BTC-USD", "NO-SUCH")
    assert subscriptions(first) == {"ticker": ["BTC-USD"]}
    (second,) = ask(session, "subscribe", "market_trades", "BTC-USD", "ETH-USD")
    assert subscriptions(second) == {"market_trades": ["BTC-USD", "ETH-USD"], "ticker": ["BTC-USD"]}
    (third,) = say(session, {"type": "subscribe", "channel": "heartbeats"})
    assert subscriptions(third)["heartbeats"] == ["heartbeats"]
    (fourth,) = ask(session, "unsubscribe", "market_trades", "BTC-USD")
    assert subscriptions(fourth) == {
        **{"heartbeats": ["heartbeats"], "market_trades": ["ETH-USD"], "ticker": ["BTC-USD"]},
    }
    assert session.streams == {"ticker:BTC-USD", "market_trades:ETH-USD"}
    assert [message["sequence_num"] for message in (first, second, third, fourth)] == [0, 1, 2, 3]


def test_usdc_is_another_name_of_usd(venue: Exchange) -> None:
    session = connect(venue)
    (answer,) = ask(session, "subscribe", "ticker", "BTC-USDC")
    assert subscriptions(answer) == {"ticker": ["BTC-USD"]}
    assert session.streams == {"ticker:BTC-USD"}


def test_snapshots_come_before_the_list_the_last_hundred_trades_newest_first(venue: Exchange) -> None:
    told = [mark for frame in play(venue, 1_500) for mark in frame.marks if mark[:2] == ("trades", "BTC-USD")]
    session = connect(venue)
    snapshot, answer = ask(session, "subscribe", "market_trades", "BTC-USD")
    assert (snapshot["events"][0]["type"], snapshot["sequence_num"], answer["sequence_num"]) == ("snapshot", 0, 1)
    ids = [int(row["trade_id"]) for row in snapshot["events"][0]["trades"]]
    assert ids == [mark[2] for mark in told[:-101:-1]]
    ticker, _ = ask(session, "subscribe", "ticker", "BTC-USD")
    assert ticker["events"][0]["type"] == "snapshot"
    assert ticker["events"][0]["tickers"][0]["type"] == "ticker"
    assert len(ask(session, "subscribe", "ticker", "BTC-USD")) == 1


def test_frames_are_numbered_by_connection_whatever_their_channel(venue: Exchange) -> None:
    frames = play(venue, 10)
    one, other = connect(venue), connect(venue)
    say(one, {"type": "subscribe", "channel": "heartbeats"})
    numbers = [json.loads(one.encode(frame))["sequence_num"] for frame in frames]
    numbers += [message["sequence_num"] for message in heard(one, one.tick(1.0))]
    assert numbers == list(range(1, 12))
    assert json.loads(other.encode(frames[5]))["sequence_num"] == 0
    assert json.loads(one.encode(frames[5])) == json.loads(frames[5].payload) | {"sequence_num": 12}


def test_a_heartbeat_a_second(venue: Exchange) -> None:
    session = connect(venue)
    say(session, {"type": "subscribe", "channel": "heartbeats"})
    beats = [message for step in range(20) for message in heard(session, session.tick(step * 0.25))]
    assert [beat["events"][0]["heartbeat_counter"] for beat in beats] == [1, 2, 3, 4, 5]
    assert beats[0]["events"][0]["current_time"].startswith("2025-01-01 00:00:00.000000000 +0000 UTC m=+")
    assert READER.parse(json.dumps(beats[0]).encode(), Receipt(2**51)) == (Count(beats[0]["sequence_num"]),)


def test_who_does_not_subscribe_within_five_seconds_is_sent_away(venue: Exchange) -> None:
    silent, busy = connect(venue, 100.0), connect(venue, 100.0)
    ask(busy, "subscribe", "ticker", "BTC-USD", now=104.9)
    assert not silent.tick(104.9)
    with pytest.raises(Disconnect, match="5 seconds"):
        silent.tick(105.0)
    assert not busy.tick(105.0)


def test_a_connection_without_updates_ends_unless_heartbeats_keep_it(venue: Exchange) -> None:
    quiet, kept = connect(venue, 0.0), connect(venue, 0.0)
    ask(quiet, "subscribe", "ticker", "BTC-USD")
    say(kept, {"type": "subscribe", "channel": "heartbeats"})
    for step in range(1, 200):
        heard(kept, kept.tick(step * 1.0))
    assert not quiet.tick(1.0)
    assert not quiet.tick(75.9)
    with pytest.raises(Disconnect, match="no updates"):
        quiet.tick(76.0)


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"type": "subscribe", "channel": "user", "product_ids": ["BTC-USD"]}, "authentication failure"),
        ({"type": "subscribe", "channel": "nonsense"}, "authentication failure"),
        ({"type": "subscribe", "channels": ["ticker"], "product_ids": ["BTC-USD"]}, "authentication failure"),
        ({"type": "subscribe", "channel": "ticker"}, "product_ids"),
        ({"type": "subscribe", "channel": "ticker", "product_ids": "BTC-USD"}, "product_ids"),
        ({"type": "buy"}, "type"),
        ([], "type"),
    ],
)
def test_a_wrong_request_gets_an_error_and_changes_nothing(venue: Exchange, asked: Any, problem: str) -> None:
    session = connect(venue)
    (reply,) = say(session, asked)
    assert reply["type"] == "error"
    assert problem in reply["message"]
    assert session.streams == set()
    assert heard(session, session.receive("{nonsense", 0.0))[0]["type"] == "error"


def test_an_address_has_eight_messages_and_eight_connections_a_second(venue: Exchange) -> None:
    one, other = connect(venue, 0.0), connect(venue, 0.0)
    for session in (one, other) * 4:
        assert "events" in ask(session, "subscribe", "ticker", "BTC-USD", now=0.5)[-1]
    assert ask(other, "subscribe", "ticker", "ETH-USD", now=0.9) == [
        {"type": "error", "message": "rate limit exceeded"},
    ]
    assert other.streams == {"ticker:BTC-USD"}
    assert "events" in ask(other, "subscribe", "ticker", "ETH-USD", now=1.5)[-1]
    for _ in range(6):
        connect(venue, 0.9)
    with pytest.raises(Unavailable) as refused:
        connect(venue, 0.99)
    assert refused.value.answer.status == 429
    assert connect(venue, 1.0).streams == set()
    with pytest.raises(LookupError):
        venue.dialect.connect("/ws", {}, 9.0, venue)


# REST


def test_products_are_listed_as_documented(venue: Exchange) -> None:
    status, body, answer = rest(venue, PRODUCTS)
    rows = {row["product_id"]: row for row in body["products"]}
    assert (status, body["num_products"], set(rows)) == (200, 4, {"BTC-USD", "BTC-USDC", "ETH-USD", "ETH-USDC"})
    row = rows["BTC-USD"]
    assert row == row | {
        **{"base_currency_id": "BTC", "quote_currency_id": "USD", "product_type": "SPOT", "status": "online"},
        **{"price_increment": "0.01", "base_increment": "0.00001", "alias": "", "alias_to": ["BTC-USDC"]},
    }
    assert (rows["BTC-USDC"]["alias"], rows["BTC-USDC"]["quote_currency_id"]) == ("BTC-USD", "USDC")
    assert {record.symbol for record in READER.instruments(answer.body, 1)} == set(rows)
    assert rest(venue, PRODUCTS + "/BTC-USD")[:2] == (200, row)


def test_what_is_not_there_is_not_found(venue: Exchange) -> None:
    status, body, _ = rest(venue, PRODUCTS + "/NO-SUCH")
    assert (status, body["error"]) == (404, "NOT_FOUND")
    assert {"error", "error_details", "message"} == set(body)
    assert rest(venue, PRODUCTS + "/BTC-USD/nonsense")[0] == rest(venue, "/nonsense")[0] == 404
    assert rest(venue, PRODUCTS + "/BTC-USD/ticker", limit="many")[0] == 400
    for _ in range(6):
        assert rest(venue, "/api/v3/brokerage/time")[1]["epochSeconds"] == "1735689600"
    assert rest(venue, "/api/v3/brokerage/time")[0] == 429


def test_trades_are_newest_first_and_within_the_times_asked_for(venue: Exchange) -> None:
    told = [mark[2] for frame in play(venue, 1_000) for mark in frame.marks if mark[:2] == ("trades", "BTC-USD")]
    _, body, answer = rest(venue, PRODUCTS + "/BTC-USD/ticker", limit="5")
    assert [int(row["trade_id"]) for row in body["trades"]] == told[:-6:-1] == [mark[2] for mark in answer.marks]
    row = body["trades"][0]
    assert {"trade_id", "product_id", "price", "size", "time", "side"} <= set(row)
    span = {"start": "1735689602", "end": "1735689604"}
    _, body, _ = rest(venue, PRODUCTS + "/BTC-USDC/ticker", limit="1000", **span)
    times = [row["time"] for row in body["trades"]]
    assert times == sorted(times, reverse=True)
    assert times
    assert all("2025-01-01T00:00:02" <= time < "2025-01-01T00:00:04" for time in times)


# Recordings


def test_the_recorded_tape_is_played_and_numbered_anew(recordings: Path) -> None:
    market = recorded(Coinbase(), recordings / "coinbase_at/cf_btc_eth_20260809_part1.frames.zst")
    played = list(market.frames(None))
    channels = Counter(frame.stream.partition(":")[0] for frame in played)
    assert channels == {"market_trades": 42, "candles": 4, "ticker": 100, "level2": 448}
    trades = [mark for frame in played if frame.kind == "trade" for mark in frame.marks]
    assert [mark[2] for mark in trades if mark[1] == "BTC-USD"] == list(range(1068571991, 1068572127))
    assert [mark[2] for mark in trades if mark[1] == "ETH-USD"] == list(range(833140679, 833140800))
    marked = [frame for frame in played if frame.marks]
    assert all(identities(READER, frame) == list(frame.marks) for frame in marked)
    session = connect(Exchange(Coinbase(), market))
    sent = [session.encode(frame) for frame in marked]
    assert [json.loads(payload)["sequence_num"] for payload in sent] == list(range(len(marked)))
    last = marked[-1].payload
    assert sent[-1].split(b'"events"')[1] == last.split(b'"events"')[1]
    steps = {row.symbol: row.tick_e8 for row in market.instruments.values() if isinstance(row, Instrument)}
    assert steps == {"BTC-USD": 1_000_000, "ETH-USD": 1_000_000}


def test_recorded_products_are_listed_as_they_were(recordings: Path, tmp_path: Path) -> None:
    for kind, name in (
        ("frames", "cf_btc_eth_20260809_part1.frames"),
        ("rest.jsonl", "cf_products_20260809.rest.jsonl"),
    ):
        (tmp_path / f"tape.{kind}.zst").symlink_to(recordings / f"coinbase_at/{name}.zst")
    venue = Exchange(Coinbase(), recorded(Coinbase(), tmp_path / "tape.frames.zst"))
    _, body, answer = rest(venue, PRODUCTS)
    assert body["num_products"] == len(body["products"]) > 700
    assert body["products"][0]["volume_24h"] == "2867.54532609"
    assert len(READER.instruments(answer.body, 1)) == body["num_products"]
    assert rest(venue, PRODUCTS + "/SOL-USD")[1]["base_currency_id"] == "SOL"


def test_a_frame_of_several_products_is_cut_up() -> None:
    row = '{"product_id":"%s","trade_id":"%d","price":"1.50","size":"2","time":"2026-08-09T21:05:48.1Z","side":"SELL"}'
    rows = ",".join(row % pair for pair in (("A-USD", 2), ("B-USD", 9), ("A-USD", 1)))
    head = '{"channel":"market_trades","timestamp":"2026-08-09T21:05:48.2Z","sequence_num":4,"events":'
    line = f'{head}[{{"type":"update","trades":[{rows}]}}]}}'
    one, other = Coinbase().read([(BEGIN_NS, line.encode())])
    assert (one.stream, [mark[2] for mark in one.marks]) == ("market_trades:A-USD", [1, 2])
    assert (other.stream, [mark[2] for mark in other.marks]) == ("market_trades:B-USD", [9])
    assert identities(READER, one) == list(one.marks)
    assert b'"price":"1.50"' in one.payload


@pytest.mark.parametrize(
    "line",
    [
        *(b"{}", b"nonsense", b'{"channel":"ticker","timestamp":"x","sequence_num":1,"events":[]}'),
        b'{"channel":"market_trades","timestamp":"x","sequence_num":1,"events":[{"type":"update","trades":[{}]}]}',
        b'{"channel":"ticker","timestamp":"now","sequence_num":1,"events":[{"tickers":[{"product_id":"A-B"}]}]}',
    ],
)
def test_a_line_that_cannot_be_placed_is_told(line: bytes) -> None:
    with pytest.raises(Unreadable):
        list(Coinbase().read([(1, line)]))


def test_what_is_no_market_is_left_out_of_a_recording() -> None:
    lines = [
        b'{"channel":"subscriptions","timestamp":"x","sequence_num":2,"events":[{"subscriptions":{"ticker":["A-B"]}}]}',
        b'{"channel":"heartbeats","timestamp":"x","sequence_num":35,"events":[{"heartbeat_counter":41691}]}',
    ]
    assert list(Coinbase().read(enumerate(lines))) == []
    assert all(Coinbase().claims(line) for line in lines)
    assert Coinbase().claims(b"https://api.coinbase.com" + PRODUCTS.encode())
    assert not Coinbase().claims(b'{"channel":"heartbeat"}')


# Garbage


@given(st.integers(0, 10_000))
def test_no_reader_accepts_garbage(seed: int) -> None:
    (good,) = speak(trade(1), trade(2))
    bad = Coinbase().spoil(good, Random(seed))
    assert (bad.kind, bad.marks, bad.stream) == ("garbage", (), good.stream)
    assert identities(READER, good) == list(good.marks)
    with pytest.raises(BadFrame):
        READER.parse(bad.payload, Receipt(2**51))


def test_garbage_takes_no_number() -> None:
    (good,) = speak(trade(1))
    session = connect(synthetic(Coinbase()))
    bad = Coinbase().spoil(good, Random(1))
    assert session.encode(bad) == bad.payload
    assert json.loads(session.encode(good))["sequence_num"] == 0
