"""Binance spot's protocol without sockets: requests and their answers, limits, pings, time units, REST, garbage."""

import json
from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.contract import (
    Body,
    Disconnect,
    Frame,
    Instrument,
    Listed,
    Ping,
    Session,
    Snapshot,
    Unavailable,
    Unreadable,
)
from simulator.dialects.binance_spot import RULES, BinanceSpot
from simulator.events import Event, Quote, Trade

BINANCE = BinanceSpot()


def speak(event: Event) -> Frame:
    (frame,) = BinanceSpot().speak([event])
    return frame


TRADE = speak(Trade(1_700_000_000_123_456_789, "BTCUSDT", 77, 6_500_012_000_000, 1_500_000, True))


def connect(path: str = "/ws", **query: str) -> Session:
    return BINANCE.connect(path, query, 0.0, Shown())


def ask(session: Session, now: float = 0.0, **request: Any) -> Any:
    (reply,) = session.receive(json.dumps(request), now)
    assert isinstance(reply, bytes)
    return json.loads(reply)


def due(session: Session, now: float) -> bytes | None:
    """The payload of the ping that is due, if any."""
    said = session.tick(now)
    assert all(isinstance(message, Ping) for message in said)
    return said[0].payload if said and isinstance(said[0], Ping) else None


def test_a_trade_is_spelled_as_documented() -> None:
    assert json.loads(TRADE.payload) == {
        **{"e": "trade", "E": 1700000000123, "s": "BTCUSDT", "t": 77, "p": "65000.12000000", "q": "0.01500000"},
        **{"T": 1700000000123, "m": True, "M": True},
    }
    assert json.loads(TRADE.combined) == {"stream": "btcusdt@trade", "data": json.loads(TRADE.payload)}


def test_a_quote_is_spelled_as_documented_without_a_time() -> None:
    prices = (6_500_012_000_000, 1_500_000, 6_500_013_000_000, 200_000_000, 6_500_012_000_000)
    frame = speak(Quote(10**18, "BTCUSDT", 400, *prices))
    assert json.loads(frame.payload) == {
        **{"u": 400, "s": "BTCUSDT", "b": "65000.12000000", "B": "0.01500000"},
        **{"a": "65000.13000000", "A": "2.00000000"},
    }
    assert (frame.stream, frame.marks) == ("btcusdt@bookTicker", (("quotes", "BTCUSDT", 400),))


def test_a_connection_ends_after_24_hours() -> None:
    session = connect()
    for second in range(0, 86_400, 20):
        payload = due(session, float(second))
        if payload is not None:
            session.pong(payload, float(second))
    with pytest.raises(Disconnect, match="24 hours"):
        session.tick(86_400.0)


def test_300_attempts_in_five_minutes_are_taken_and_no_more() -> None:
    venue = BinanceSpot()
    for _ in range(300):
        venue.connect("/ws", {}, 10.0, Shown())
    with pytest.raises(Unavailable) as refused:
        venue.connect("/ws", {}, 309.0, Shown())
    assert refused.value.answer.status == 429
    venue.connect("/ws", {}, 310.0, Shown())


def test_too_much_weight_is_429_then_418_and_both_say_when_to_come_back() -> None:
    venue = BinanceSpot()

    def depth(now: float) -> tuple[int, int]:
        answer = venue.answer("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "5000"}, now, Shown())
        return answer.status, int(answer.headers.get("Retry-After", "0"))

    assert {depth(30.0) for _ in range(24)} == {(200, 0)}
    assert {depth(50.0) for _ in range(5)} == {(429, 11)}
    assert depth(50.0) == (418, 121)
    assert depth(100.0) == (418, 71)
    assert depth(171.0) == (200, 0)


def test_paths_say_which_streams_and_which_envelope() -> None:
    assert connect("/ws/btcusdt@trade").streams == {"btcusdt@trade"}
    assert connect("/stream", streams="a@trade/b@depth20@100ms").streams == {"a@trade", "b@depth20@100ms"}
    assert connect("/ws").streams == connect("/stream/").streams == set()
    assert connect("/ws").encode(TRADE) == TRADE.payload
    assert connect("/stream").encode(TRADE) == TRADE.combined
    with pytest.raises(LookupError):
        connect("/wss")


def test_microseconds_scale_both_times_and_nothing_else() -> None:
    sent = json.loads(connect("/ws", timeUnit="MICROSECOND").encode(TRADE))
    assert sent == {**json.loads(TRADE.payload), "E": 1700000000123000, "T": 1700000000123000}


def test_subscriptions_change_and_are_listed() -> None:
    session = connect("/ws/a@trade")
    assert ask(session, method="SUBSCRIBE", params=["b@trade", "nosuch@trade"], id=1) == {"result": None, "id": 1}
    assert ask(session, method="UNSUBSCRIBE", params=["a@trade"], id="abc") == {"result": None, "id": "abc"}
    listed = ask(session, method="LIST_SUBSCRIPTIONS", id=None)
    assert listed == {"result": ["b@trade", "nosuch@trade"], "id": None}


def test_the_combined_property_can_be_read_and_set() -> None:
    session = connect("/ws")
    assert ask(session, method="GET_PROPERTY", params=["combined"], id=1) == {"result": False, "id": 1}
    assert ask(session, method="SET_PROPERTY", params=["combined", True], id=2) == {"result": None, "id": 2}
    assert session.encode(TRADE) == TRADE.combined


@pytest.mark.parametrize(
    ("request_text", "code", "start"),
    [
        ('{"method":"SET_PROPERTY","params":["colour",true],"id":1}', 0, "Unknown property"),
        ('{"method":"SET_PROPERTY","params":["combined","yes"],"id":1}', 1, "Invalid value type: expected Boolean"),
        ('{"method":"SET_PROPERTY","params":[7,true],"id":1}', 2, "Invalid request: property name must be a string"),
        ('{"method":"GET_PROPERTY","id":1}', 2, "Invalid request: property name must be a string"),
        ('{"method":"GET_PROPERTY","params":["combined",1],"id":1}', 2, "Invalid request: too many parameters"),
        ('{"method":"LIST_SUBSCRIPTIONS","params":["x"],"id":1}', 2, "Invalid request: too many parameters"),
        ('{"method":"SUBSCRIBE","params":["a@trade"]}', 2, "Invalid request: request ID must be"),
        ('{"method":"SUBSCRIBE","params":["a@trade"],"id":1.5}', 2, "Invalid request: request ID must be"),
        ('{"method":"SUBSCRIBE","params":"a@trade","id":1}', 2, "Invalid request: "),
        ('{"method":"SUBSCRIBE","params":[1],"id":1}', 2, "Invalid request: "),
        (
            '{"method":"SUBSCRIPE","params":["a@trade"],"id":1}',
            2,
            "Invalid request: unknown variant `SUBSCRIPE`, expected",
        ),
        ('{"params":["a@trade"],"id":1}', 2, "Invalid request: missing field `method` at line 1 column"),
        ("[]", 2, "Invalid request: missing field `method`"),
        ("{nonsense", 3, "Invalid JSON: expected value at line 1 column 2"),
    ],
)
def test_a_wrong_request_gets_the_documented_error_and_changes_nothing(
    request_text: str, code: int, start: str
) -> None:
    session = connect("/ws/x@trade")
    (said,) = session.receive(request_text, 0.0)
    assert isinstance(said, bytes)
    reply = json.loads(said)
    assert reply["code"] == code
    assert reply["msg"].startswith(start)
    assert session.streams == {"x@trade"}


def test_a_connection_holds_1024_streams_and_no_more() -> None:
    session = connect()
    names = [f"s{i}@trade" for i in range(RULES.streams)]
    assert ask(session, method="SUBSCRIBE", params=names, id=1)["result"] is None
    assert ask(session, method="SUBSCRIBE", params=["one@more"], id=2)["code"] == 2
    assert len(session.streams) == RULES.streams


def test_five_messages_a_second_are_taken_and_a_sixth_disconnects() -> None:
    session = connect()
    for _ in range(3):
        session.ping(10.0)
    session.pong(b"", 10.2)
    ask(session, 10.4, method="LIST_SUBSCRIPTIONS", id=1)
    with pytest.raises(Disconnect, match="Too many"):
        session.pong(b"", 10.99)


def test_five_messages_every_second_go_on_for_ever() -> None:
    session = connect()
    for step in range(100):
        session.ping(step * 0.21875)


def test_a_ping_every_20_seconds_and_a_minute_for_its_pong() -> None:
    session = connect()
    assert due(session, 19.9) is None
    first = due(session, 20.0)
    assert first is not None
    assert due(session, 20.1) is None
    second = due(session, 40.0)
    session.pong(first, 41.0)
    assert due(session, 60.0) is not None
    session.pong(b"unsolicited", 70.0)
    due(session, 80.0)
    with pytest.raises(Disconnect, match="Pong"):
        due(session, 100.0)
    assert second is not None


def test_a_pong_answers_the_pings_before_it_too() -> None:
    session = connect()
    due(session, 20.0)
    newest = due(session, 40.0)
    assert newest is not None
    session.pong(newest, 41.0)
    assert due(session, 99.0) is not None


class Shown:
    """A view of a venue with one symbol."""

    instruments: Mapping[str, Listed] = {"BTCUSDT": Instrument("BTCUSDT", "BTC", "USDT", 1_000_000, 1_000)}
    snapshot: Snapshot | None = Snapshot(9, [("3.0", "1.0"), ("2.0", "1.0")], [("4.0", "1.0"), ("5.0", "2.0")])
    bodies: Sequence[Body] = ()
    time_ns = 1_234_000_000

    def book(self, symbol: str, limit: int) -> Snapshot | None:
        return self.snapshot

    def trades(self, symbol: str) -> Sequence[Frame]:
        rows = (Trade(10**18, symbol, trade_id, 20_000_000_000, 150_000_000, True) for trade_id in range(1, 2001))
        return list(BINANCE.speak(rows))

    def newest(self, stream: str) -> Frame | None:
        return None


def rest(path: str, **query: str) -> tuple[int, Any]:
    answer = BinanceSpot().answer(path, query, 0.0, Shown())
    return answer.status, json.loads(answer.body)


def test_rest_answers() -> None:
    assert rest("/api/v3/ping") == (200, {})
    assert rest("/api/v3/time") == (200, {"serverTime": 1234})
    expected = {"lastUpdateId": 9, "bids": [["3.0", "1.0"]], "asks": [["4.0", "1.0"]]}
    assert rest("/api/v3/depth", symbol="BTCUSDT", limit="1") == (200, expected)
    _, info = rest("/api/v3/exchangeInfo", symbols='["BTCUSDT"]')
    (rules,) = info["symbols"]
    assert (rules["symbol"], rules["status"], rules["baseAsset"], rules["quoteAsset"]) == (
        *("BTCUSDT", "TRADING", "BTC", "USDT"),
    )
    filters = {row["filterType"]: row for row in rules["filters"]}
    assert filters["PRICE_FILTER"]["tickSize"] == "0.01000000"
    assert filters["LOT_SIZE"]["stepSize"] == "0.00001000"


def test_trades_are_the_newest_and_older_ones_start_where_asked() -> None:
    _, newest = rest("/api/v3/trades", symbol="BTCUSDT", limit="2")
    assert [row["id"] for row in newest] == [1999, 2000]
    assert newest[0] == {
        **{"id": 1999, "price": "200.00000000", "qty": "1.50000000", "quoteQty": "300.00000000"},
        **{"time": 10**12, "isBuyerMaker": True, "isBestMatch": True},
    }
    _, older = rest("/api/v3/historicalTrades", symbol="BTCUSDT", fromId="500", limit="3")
    assert [row["id"] for row in older] == [500, 501, 502]
    assert len(rest("/api/v3/historicalTrades", symbol="BTCUSDT", fromId="1", limit="5000")[1]) == 1000


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("/api/v3/exchangeInfo", {"symbol": "NOSUCH"}, -1121),
        ("/api/v3/exchangeInfo", {"symbols": '["BTCUSDT","NOSUCH"]'}, -1121),
        ("/api/v3/exchangeInfo", {"symbols": "BTCUSDT"}, -1100),
        ("/api/v3/exchangeInfo", {"symbol": "BTCUSDT", "symbols": '["BTCUSDT"]'}, -1128),
        ("/api/v3/depth", {}, -1102),
        ("/api/v3/depth", {"symbol": "btcusdt"}, -1121),
        ("/api/v3/depth", {"symbol": "BTCUSDT", "limit": "many"}, -1100),
        ("/api/v3/trades", {"symbol": "BTCUSDT", "limit": "0"}, -1130),
        ("/api/v3/historicalTrades", {"symbol": "BTCUSDT", "fromId": "x"}, -1100),
    ],
)
def test_rest_refuses_with_the_documented_code(path: str, query: dict[str, str], code: int) -> None:
    status, body = rest(path, **query)
    assert (status, body["code"]) == (400, code)


def test_what_is_not_there_is_said() -> None:
    assert rest("/api/v3/nosuch")[0] == 404


@given(st.integers())
def test_garbage_is_never_a_readable_trade_or_a_reply(seed: int) -> None:
    spoilt = BINANCE.spoil(TRADE, Random(seed))
    assert spoilt.kind == "garbage"
    assert spoilt.stream == TRADE.stream
    for message in (spoilt.payload, spoilt.combined):
        assert message
        assert spoilt.binary or message.decode()
        assert not is_readable(message)


def is_readable(message: bytes) -> bool:
    """Whether a lenient reader could take it for a trade, or for an answer to a request."""
    try:
        fields = json.loads(message)
    except ValueError:
        return False
    if not isinstance(fields, dict) or fields.get("stream", "btcusdt@trade") != "btcusdt@trade":
        return False
    data = fields.get("data", fields)
    kinds = {"t": int, "p": str, "q": str, "T": int, "m": bool}
    trade = data.get("e") == "trade" and all(isinstance(data.get(key), kind) for key, kind in kinds.items())
    return trade or "result" in fields or "code" in fields


@given(st.binary(max_size=80) | st.text(max_size=80).map(str.encode))
def test_any_line_is_read_or_refused(raw: bytes) -> None:
    try:
        frames = list(BINANCE.read([(1, raw)]))
    except Unreadable:
        return
    assert all(frame.stream for frame in frames)


@pytest.mark.parametrize(
    ("raw", "stream"),
    [
        ('{"e":"depthUpdate","E":1,"s":"BNBBTC","U":1,"u":2,"b":[],"a":[]}', "bnbbtc@depth@100ms"),
        ('{"e":"aggTrade","E":1,"s":"BNBBTC","a":1,"p":"1","q":"1"}', "bnbbtc@aggTrade"),
        ('{"u":4,"s":"BNBUSDT","b":"25.3","B":"31.2","a":"25.4","A":"40.6"}', "bnbusdt@bookTicker"),
        ('{"e":"kline","E":1,"s":"BNBBTC","k":{"i":"1m"}}', "bnbbtc@kline_1m"),
        ('{"e":"24hrTicker","E":1,"s":"BNBBTC"}', "bnbbtc@ticker"),
    ],
)
def test_raw_payloads_name_their_stream(raw: str, stream: str) -> None:
    (frame,) = BINANCE.read([(1, raw.encode())])
    assert frame.stream == stream
    assert json.loads(frame.combined) == {"stream": stream, "data": json.loads(raw)}
