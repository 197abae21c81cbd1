"""Kraken's recordings, fixtures and documented examples, each read a second way and compared value by value."""

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import zstandard
from msgspec.structs import replace

from producers.contract import BadFrame, BookUpdate, Event, Receipt
from producers.venues.kraken import Kraken
from ravencore.records import Quote, Trade
from tests.producers.recorded import CONNECTION_US, NOW_US, Line, digest, lines, refused, units, utc_us

KRAKEN = Kraken()
E18 = 10**18


def as_quote(line: Line) -> Quote:
    (data,) = line.frame["data"]
    bid, ask, last = units(data["bid"]), units(data["ask"]), units(data["last"])
    return Quote(
        venue="KRAKEN",
        symbol=data["symbol"],
        event_time=utc_us(data["timestamp"]) if "timestamp" in data else None,
        received_time=line.receipt.received_us,
        bid_price=bid,
        bid_quantity=units(data["bid_qty"]),
        ask_price=ask,
        ask_quantity=units(data["ask_qty"]),
        last_price=last,
        connection_time=CONNECTION_US,
        connection_sequence=line.receipt.sequence,
    )


def as_trades(line: Line) -> list[Trade]:
    return [
        Trade(
            venue="KRAKEN",
            symbol=data["symbol"],
            event_time=utc_us(data["timestamp"]),
            received_time=line.receipt.received_us,
            trade_id=str(data["trade_id"]),
            sequence=int(data["trade_id"]),
            price=units(data["price"]),
            quantity=units(data["qty"]),
            side={"buy": "BUY", "sell": "SELL"}[data["side"]],  # type: ignore[arg-type]
            connection_time=CONNECTION_US,
            connection_sequence=line.receipt.sequence,
        )
        for data in line.frame["data"]
    ]


def test_the_recorded_tickers(recordings: Path) -> None:
    quotes = []
    for line in lines(recordings / "derived" / "kraken_v2_ticker_alts_20210405.frames.zst"):
        events = KRAKEN.parse(line.raw, line.receipt)
        if line.frame["channel"] == "heartbeat":
            assert events == ()
        else:
            assert events == [as_quote(line)]
            quotes += events
    assert len(quotes) == 22
    assert quotes[0] == Quote(
        venue="KRAKEN",
        symbol="ALGO/BTC",
        received_time=1617666423229781,
        bid_price=23_610_000_000_000,
        bid_quantity=1173 * E18,
        ask_price=23_630_000_000_000,
        ask_quantity=7_289_867_592_150_000_000_000,
        last_price=23_620_000_000_000,
        connection_time=CONNECTION_US,
        connection_sequence=1,
    )
    assert digest(quotes) == "cc85ddd6bff93667"


def test_the_recorded_trades_and_the_rest_response_they_were_made_of(recordings: Path) -> None:
    trades: list[Event] = []
    for line in lines(recordings / "derived" / "kraken_v2_trade_btcusdt_20251110_part1.frames.zst"):
        events = KRAKEN.parse(line.raw, line.receipt)
        assert events == as_trades(line)
        trades += events
    assert trades[0] == Trade(
        venue="KRAKEN",
        symbol="BTC/USDT",
        event_time=1762795433971745,
        received_time=1762795433996744,
        trade_id="10218208",
        sequence=10218208,
        price=105_433_600_000_000_000_000_000,
        quantity=276_250_000_000_000,
        side="BUY",
        connection_time=CONNECTION_US,
        connection_sequence=1,
    )
    assert digest(trades) == "fce6c12c9734ba55"  # type: ignore[arg-type]
    with zstandard.open(recordings / "kraken" / "rest_trades_xbtusdt_20251110_part1.json.zst", "rb") as body:
        response = json.loads(body.read(), parse_float=str)["result"]["XBTUSDT"]
    assert len(response) == len(trades) == 500
    for (price, quantity, seconds, side, _, _, trade_id), trade in zip(response, trades, strict=True):
        assert isinstance(trade, Trade)
        assert (trade.price, trade.quantity) == (units(price), units(quantity))
        assert trade.side == {"b": "BUY", "s": "SELL"}[side]
        assert trade.sequence == trade_id
        assert abs(trade.event_time * E18 // 10**6 - units(seconds)) <= 10**12


def test_the_recorded_rest_response_is_the_streams_trades(recordings: Path) -> None:
    """All fields alike but for the time: the frames were made with rounded microseconds, and answers are cut off."""
    frames = lines(recordings / "derived" / "kraken_v2_trade_btcusdt_20251110_part1.frames.zst")
    streamed = [trade for line in frames for trade in KRAKEN.parse(line.raw, line.receipt)]
    with zstandard.open(recordings / "kraken" / "rest_trades_xbtusdt_20251110_part1.json.zst", "rb") as recording:
        body = recording.read()
    receipt = Receipt(NOW_US, 7, 8)
    past = KRAKEN.past("BTC/USDT", body, receipt)
    rows = json.loads(body, parse_float=str)["result"]["XBTUSDT"]
    assert [trade.event_time for trade in past] == [int(Decimal(row[2]) * 10**6) for row in rows]
    for trade, other in zip(past, streamed, strict=True):
        assert isinstance(other, Trade)
        assert other.event_time - trade.event_time in {0, 1}
        came = {"received_time": NOW_US, "connection_time": 7, "connection_sequence": 8}
        assert trade == replace(other, event_time=trade.event_time, **came)


def test_frames_of_version_1_are_refused(recordings: Path) -> None:
    told: dict[str, int] = {}
    for line in lines(recordings / "kraken_v1_legacy" / "cf_alts_20210405.frames.zst"):
        why = refused(KRAKEN, line)
        told[why] = told.get(why, 0) + 1
    assert told == {"neither a channel's frame nor a reply": 260, "Expected `object`, got `array`": 34}


def documented(recordings: Path, message: Any) -> Sequence[Event]:
    return KRAKEN.parse(json.dumps(message).encode(), Receipt(NOW_US, CONNECTION_US, 1))


def values(event: Event) -> tuple[Any, ...]:
    if isinstance(event, Trade):
        return (event.symbol, event.event_time, event.trade_id, event.price, event.quantity, event.side)
    assert isinstance(event, Quote)
    bid, ask = (event.bid_price, event.bid_quantity), (event.ask_price, event.ask_quantity)
    return (event.symbol, event.event_time, *bid, *ask, event.last_price)


def u(text: str) -> int:
    return units(text)


def test_the_documented_examples(recordings: Path) -> None:
    examples = json.loads((recordings / "examples_documented" / "documented_examples.json").read_text())
    messages = [example["message"] for example in examples if example["venue"] == "kraken_v2"]
    assert [values(event) for message in messages for event in documented(recordings, message)] == [
        ("ETH/USDT", None, u("0.10025"), u("740"), u("0.10035"), u("740"), u("0.10035")),
        ("MATIC/USD", utc_us("2023-09-25T07:48:36.925533Z"), "4665846", u("0.5147"), u("6423.46326"), "BUY"),
        ("MATIC/USD", utc_us("2023-09-25T07:49:36.925603Z"), "4665847", u("0.5147"), u("1136.19677815"), "BUY"),
        ("MATIC/USD", utc_us("2023-09-25T07:49:37.708706Z"), "4665906", u("0.5117"), u("40"), "SELL"),
    ]


def test_the_fixtures_of_nautilus(recordings: Path) -> None:
    fixtures = json.loads((recordings / "fixtures" / "nautilus_adapter_fixtures.json").read_text())
    names = sorted(name for name in fixtures if name.startswith("kraken/") and "/ws_" in name)
    events = {name.split("/ws_")[1]: documented(recordings, fixtures[name]) for name in names}
    assert sorted(events) == ["pong.json", "subscribe_response.json", "ticker_snapshot.json", "trade_update.json"]
    assert events["pong.json"] == ()
    assert [event._asdict() for event in events["subscribe_response.json"]] == [  # type: ignore[union-attr]
        {"request": 1, "error": None, "feeds": (("quotes", "BTC/USD"),), "left_out": None, "momentary": False}
    ]
    at = utc_us("2022-12-25T09:30:59.123456Z")
    assert [values(event) for event in events["ticker_snapshot.json"]] == [
        ("BTC/USD", at, u("105944.2"), u("2.5"), u("105944.3"), u("3.2"), u("105899.4"))
    ]
    assert [values(event) for event in events["trade_update.json"]] == [
        ("BTC/USD", utc_us("2023-10-06T17:35:55.440295Z"), "10218208", u("105944.2"), u("0.00027625"), "BUY"),
        ("BTC/USD", utc_us("2023-10-06T17:35:56.123456Z"), "10218209", u("105910.5"), u("0.0001246"), "SELL"),
    ]


def test_the_messages_of_tardis(recordings: Path) -> None:
    fixtures = json.loads((recordings / "fixtures" / "tardis_node_mapper_messages.json").read_text())
    messages = [item["message"] for item in fixtures if item["set"] == "kraken-v2"]
    books = [message for message in messages if message["channel"] == "book"]
    whole, unchecked = books
    (book,) = documented(recordings, whole)
    assert isinstance(book, BookUpdate)
    assert (book.symbol, book.whole, book.checksum) == ("AAPLx/USD", True, 123456)
    assert (book.event_time, book.bids) == (utc_us("2026-07-10T00:00:01.123457Z"), [(u("199.9"), u("1.2"))])
    with pytest.raises(BadFrame, match="missing required field `checksum`"):
        documented(recordings, unchecked)
    others = [message for message in messages if message["channel"] != "book"]
    assert [values(event) for message in others for event in documented(recordings, message)] == [
        ("BTC/USD", utc_us("2026-07-10T00:00:00.023456Z"), "122", u("100.1"), u("0.25"), "BUY"),
        ("BTC/USD", utc_us("2026-07-10T00:00:00.123456Z"), "123", u("100.1"), u("0.25"), "BUY"),
        ("BTC/USD", utc_us("2026-07-10T00:00:02.123456Z"), u("99.9"), u("1.2"), u("100.1"), u("2.3"), None),
        ("ANETx/USD", None, None, None, None, None, None),
    ]


def test_requests_are_spelt_as_documented() -> None:
    feeds = [KRAKEN.feed("quotes", "BTC/USD"), KRAKEN.feed("trades", "BTC/USD"), KRAKEN.feed("quotes", "ETH/USD")]
    assert KRAKEN.one_message(feeds) == [feeds[0], feeds[2]]
    quotes, trades = KRAKEN.one_message(feeds), KRAKEN.one_message(feeds[1:])
    assert json.loads(KRAKEN.subscribe(quotes, 1)) == {
        "method": "subscribe",
        "params": {
            "channel": "ticker",
            "symbol": ["BTC/USD", "ETH/USD"],
            "event_trigger": "bbo",
            "snapshot": True,
        },
        "req_id": 1,
    }
    assert json.loads(KRAKEN.subscribe(trades, 2)) == {
        "method": "subscribe",
        "params": {"channel": "trade", "symbol": ["BTC/USD"], "snapshot": True},
        "req_id": 2,
    }
    assert json.loads(KRAKEN.unsubscribe(trades, 3)) == {
        "method": "unsubscribe",
        "params": {"channel": "trade", "symbol": ["BTC/USD"]},
        "req_id": 3,
    }
    assert KRAKEN.greeting(1) is None


def test_symbols_and_addresses() -> None:
    assert KRAKEN.symbol_of("XBT", "USD") == KRAKEN.symbol_of("BTC", "USD") == "BTC/USD"
    assert KRAKEN.symbol_of("XDG", "XBT") == "DOGE/BTC"
    assert KRAKEN.listing("https://api/", "BTC/USD").url == "https://api/0/public/AssetPairs"
    assert KRAKEN.listing("https://api", None).url == "https://api/0/public/AssetPairs"
    assert KRAKEN.socket_url("wss://ws/v2", "trades") == KRAKEN.socket_url("wss://ws/v2", "quotes") == "wss://ws/v2"


def test_an_unknown_pair_is_refused_for_good_and_nothing_else_is() -> None:
    assert KRAKEN.refusal(200, b'{"error":["EQuery:Unknown asset pair"]}') == "EQuery:Unknown asset pair"
    assert KRAKEN.refusal(200, b'{"error":["EGeneral:Temporary lockout"]}') is None
    assert KRAKEN.refusal(200, b'{"error":[],"result":{}}') is None
    assert KRAKEN.refusal(502, b"<html>") is None
