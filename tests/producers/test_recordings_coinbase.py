"""Coinbase's recording, fixtures and documented examples, each read a second way and compared value by value."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from producers.contract import BadFrame, Count, Event, Feed, Receipt, Reply
from producers.venues.coinbase import Coinbase
from ravencore.records import Instrument, Quote, Record, Side, Trade
from tests.producers.recorded import CONNECTION_US, NOW_US, Line, bodies, digest, lines, refused, units, utc_us

COINBASE = Coinbase()
RECORDING = Path("coinbase_at") / "cf_btc_eth_20260809_part1.frames.zst"
NOT_LISTED = "not among the subscriptions that Coinbase lists"
OPPOSITE: dict[str, Side] = {"BUY": "SELL", "SELL": "BUY"}


def expected(line: Line) -> list[Record]:
    read = {"ticker": quotes_of, "market_trades": trades_of}[line.frame["channel"]]
    return list(read(line))


def quotes_of(line: Line) -> Iterator[Quote]:
    for event in line.frame["events"]:
        for data in event["tickers"]:
            yield Quote(
                venue="COINBASE",
                symbol=data["product_id"],
                event_time=utc_us(line.frame["timestamp"]),
                received_time=line.receipt.received_us,
                bid_price=units(data["best_bid"]),
                bid_quantity=units(data["best_bid_quantity"]),
                ask_price=units(data["best_ask"]),
                ask_quantity=units(data["best_ask_quantity"]),
                last_price=units(data["price"]),
                connection_time=CONNECTION_US,
                connection_sequence=line.receipt.sequence,
            )


def trades_of(line: Line) -> list[Trade]:
    """Every recorded frame is newest first."""
    return [
        Trade(
            venue="COINBASE",
            symbol=data["product_id"],
            event_time=utc_us(data["time"]),
            received_time=line.receipt.received_us,
            trade_id=data["trade_id"],
            sequence=int(data["trade_id"]),
            price=units(data["price"]),
            quantity=units(data["size"]),
            side=OPPOSITE[data["side"]],
            connection_time=CONNECTION_US,
            connection_sequence=line.receipt.sequence,
        )
        for event in line.frame["events"]
        for data in reversed(event["trades"])
    ]


def test_the_recording_frame_by_frame(recordings: Path) -> None:
    records: list[Any] = []
    seen: Counter[str] = Counter()
    for line in lines(recordings / RECORDING):
        channel = line.frame["channel"]
        seen[channel] += 1
        if channel in {"candles", "l2_data"}:
            assert refused(COINBASE, line) == f"channel {channel!r} is none that Raven subscribes to"
            continue
        count, *events = COINBASE.parse(line.raw, line.receipt)
        assert count == Count(line.frame["sequence_num"])
        if channel == "heartbeats":
            assert events == []
        elif channel != "subscriptions":
            assert events == expected(line)
            records += events
    assert seen == {
        "market_trades": 42,
        "ticker": 100,
        "l2_data": 448,
        "candles": 4,
        "heartbeats": 14,
        "subscriptions": 5,
    }
    assert digest(records) == "32502c17c3198359"


def test_a_trade_and_a_quote_of_the_recording_in_full(recordings: Path) -> None:
    found = [record for line in lines(recordings / RECORDING) for record in parsed(line)]
    assert next(record for record in found if isinstance(record, Trade) and record.trade_id == "1068572091") == Trade(
        venue="COINBASE",
        symbol="BTC-USD",
        event_time=1786309548167634,
        received_time=1786309548642865,
        trade_id="1068572091",
        sequence=1068572091,
        price=65_083_670_000_000_000_000_000,
        quantity=10_343_610_000_000_000,
        side="BUY",
        connection_time=CONNECTION_US,
        connection_sequence=10,
    )
    assert next(record for record in found if isinstance(record, Quote)) == Quote(
        venue="COINBASE",
        symbol="BTC-USD",
        event_time=1786309548229198,
        received_time=1786309548642821,
        bid_price=65_083_660_000_000_000_000_000,
        bid_quantity=203_712_150_000_000_000,
        ask_price=65_083_670_000_000_000_000_000,
        ask_quantity=242_904_020_000_000_000,
        last_price=65_086_180_000_000_000_000_000,
        connection_time=CONNECTION_US,
        connection_sequence=7,
    )


def parsed(line: Line) -> Sequence[Event]:
    wanted = line.frame["channel"] in {"ticker", "market_trades", "subscriptions"}
    return COINBASE.parse(line.raw, line.receipt) if wanted else ()


def test_ids_count_each_products_trades_and_come_in_order(recordings: Path) -> None:
    ids: dict[str, list[int]] = {}
    for line in lines(recordings / RECORDING):
        for event in parsed(line):
            if isinstance(event, Trade):
                assert event.sequence is not None
                ids.setdefault(event.symbol, []).append(event.sequence)
    assert {symbol: (len(found), found[0]) for symbol, found in ids.items()} == {
        "BTC-USD": (136, 1068571991),
        "ETH-USD": (121, 833140679),
    }
    for found in ids.values():
        assert found == list(range(found[0], found[0] + len(found)))


def test_takers_buy_at_the_ask_and_sell_at_the_bid(recordings: Path) -> None:
    """The proof that `side` is the maker's: the book just before each trade, by the venue's own times."""
    trades = [event for line in lines(recordings / RECORDING) for event in parsed(line) if isinstance(event, Trade)]
    told: Counter[tuple[str, str]] = Counter()
    for product in ("BTC-USD", "ETH-USD"):
        changes = list(book_changes(recordings, product))
        mine = sorted((t for t in trades if t.symbol == product and t.event_time > changes[0][0]), key=when)
        for trade, (bid, ask) in zip(mine, best_before(changes, [trade.event_time for trade in mine]), strict=True):
            told[trade.side, "bid" if trade.price <= bid else "ask" if trade.price >= ask else "between"] += 1
    assert told == {("BUY", "ask"): 37, ("SELL", "bid"): 19}


def when(trade: Trade) -> int:
    return trade.event_time


Change = tuple[int, str, int, int]
"""When, side, price, quantity; a snapshot's count as happening at its first update."""


def book_changes(recordings: Path, product: str) -> Iterator[Change]:
    events = [
        event
        for line in lines(recordings / RECORDING)
        if line.frame["channel"] == "l2_data"
        for event in line.frame["events"]
        if event["product_id"] == product
    ]
    start = utc_us(events[1]["updates"][0]["event_time"]) - 1
    for event in events:
        for change in event["updates"]:
            at = start if event["type"] == "snapshot" else utc_us(change["event_time"])
            yield at, change["side"], units(change["price_level"]), units(change["new_quantity"])


def best_before(changes: list[Change], times_us: list[int]) -> Iterator[tuple[int, int]]:
    """Best bid and ask just before each of these ascending times."""
    sides: dict[str, dict[int, int]] = {"bid": {}, "offer": {}}
    coming = iter([*changes, (times_us[-1], "bid", 0, 0)])
    at, side, price, quantity = next(coming)
    for time_us in times_us:
        while at < time_us:
            sides[side][price] = quantity
            at, side, price, quantity = next(coming)
        bids, asks = ([level for level, left in levels.items() if left] for levels in sides.values())
        yield max(bids), min(asks)


def test_the_recorded_subscriptions(recordings: Path) -> None:
    replies = [event for line in lines(recordings / RECORDING) for event in parsed(line) if isinstance(event, Reply)]
    trades = (Feed("trades", "BTC-USD"), Feed("trades", "ETH-USD"))
    other_way = trades[::-1]
    quotes = (Feed("quotes", "BTC-USD"), Feed("quotes", "ETH-USD"))
    assert replies == [
        Reply(None, None, trades, NOT_LISTED),
        Reply(None, None, other_way, NOT_LISTED),
        *[Reply(None, None, (*trades, *quotes), NOT_LISTED)] * 3,
    ]


def test_what_a_client_sent_is_no_frame_of_coinbases(recordings: Path) -> None:
    sent = list(lines(recordings / "coinbase_at" / "cf_btc_eth_20260809_client_sends.frames.zst"))
    assert [refused(COINBASE, line) for line in sent] == [
        "Object missing required field `sequence_num`",
        "channel 'candles' is none that Raven subscribes to",
        "Object missing required field `timestamp`",
        "channel 'level2' is none that Raven subscribes to",
        "Object missing required field `sequence_num`",
    ]
    trades, _, quotes, _, heartbeats = (line.frame for line in sent)
    symbols = ("BTC-USD", "ETH-USD")
    assert json.loads(COINBASE.subscribe([Feed("trades", symbol) for symbol in symbols], 1)) == trades
    assert json.loads(COINBASE.subscribe([Feed("quotes", symbol) for symbol in symbols], 2)) == quotes
    assert json.loads(COINBASE.greeting(1) or "") == {"type": "subscribe", "channel": heartbeats["channel"]}


def test_the_recorded_products(recordings: Path) -> None:
    ((_, body),) = bodies(recordings / "coinbase_at" / "cf_products_20260809.rest.jsonl.zst")
    products = json.loads(body)["products"]
    found = COINBASE.instruments(body, 7)
    assert found == [
        Instrument(
            venue="COINBASE",
            symbol=product["product_id"],
            received_time=7,
            base=product["base_currency_id"],
            quote=product["quote_currency_id"],
            kind="SPOT",
            status=product["status"],
            tick_size=units(product["price_increment"]),
            lot_size=units(product["base_increment"]),
        )
        for product in products
    ]
    assert digest(found) == "e72e61d2ff54834c"
    assert [COINBASE.instruments(json.dumps(product).encode(), 7) for product in products] == [[one] for one in found]


def test_usdc_products_are_named_as_coinbase_names_them_in_frames(recordings: Path) -> None:
    """Of all recorded products, those with an `alias` become it, and those without remain what they are."""
    ((_, body),) = bodies(recordings / "coinbase_at" / "cf_products_20260809.rest.jsonl.zst")
    for product in json.loads(body)["products"]:
        named = COINBASE.symbol_of(product["base_currency_id"], product["quote_currency_id"])
        assert named == (product["alias"] or product["product_id"])
        assert COINBASE.feed("trades", product["product_id"]) == Feed("trades", product["alias"] or named)
    assert json.loads(COINBASE.subscribe([Feed("trades", "BTC-USDC")], 1))["product_ids"] == ["BTC-USD"]


def values(event: Event) -> tuple[Any, ...]:
    if isinstance(event, Trade):
        return (event.symbol, event.event_time, event.trade_id, event.price, event.quantity, event.side)
    assert isinstance(event, Quote)
    bid, ask = (event.bid_price, event.bid_quantity), (event.ask_price, event.ask_quantity)
    return (event.symbol, event.event_time, *bid, *ask, event.last_price)


def documented(message: Any) -> Sequence[Event]:
    """What a frame says after its Count."""
    count, *events = COINBASE.parse(json.dumps(message).encode(), Receipt(NOW_US, CONNECTION_US, 1))
    assert count == Count(message["sequence_num"])
    return events


def test_the_documented_examples(recordings: Path) -> None:
    examples = json.loads((recordings / "examples_documented" / "documented_examples.json").read_text())
    heartbeat, ticker = [example["message"] for example in examples if example["venue"] == "coinbase_at"]
    assert documented(heartbeat) == []
    assert [values(event) for event in documented(ticker)] == [
        (
            "BTC-USD",
            utc_us("2023-02-09T20:30:37.167359Z"),
            units("21931.98"),
            units("8000.21"),
            units("21933.98"),
            units("8038.07770938"),
            units("21932.98"),
        )
    ]


def test_the_fixtures_of_nautilus(recordings: Path) -> None:
    fixtures = json.loads((recordings / "fixtures" / "nautilus_adapter_fixtures.json").read_text())
    events = {
        name.split("/ws_")[1]: documented(fixture) for name, fixture in fixtures.items() if name.startswith("coinbase/")
    }
    assert sorted(events) == ["heartbeats.json", "market_trades.json", "subscriptions.json", "ticker.json"]
    assert events["heartbeats.json"] == []
    assert events["subscriptions.json"] == [
        Reply(None, None, (Feed("trades", "BTC-USD"), Feed("trades", "ETH-USD")), NOT_LISTED),
    ]
    first, second = utc_us("2026-04-07T14:30:02.789012Z"), utc_us("2026-04-07T14:30:02.8Z")
    assert [values(event) for event in events["market_trades.json"]] == [
        ("BTC-USD", first, "995098700", units("68900.5"), units("0.0015"), "SELL"),
        ("BTC-USD", second, "995098701", units("68900"), units("0.05"), "BUY"),
    ]
    bid, ask = (units("68900"), units("1.5")), (units("68901"), units("0.5"))
    assert [values(event) for event in events["ticker.json"]] == [
        ("BTC-USD", utc_us("2026-04-07T14:30:03Z"), *bid, *ask, units("68900.5"))
    ]


def test_messages_of_coinbase_exchange_are_refused(recordings: Path) -> None:
    """The `coinbase` messages of tardis are of the older Exchange feed: another protocol."""
    fixtures = json.loads((recordings / "fixtures" / "tardis_node_mapper_messages.json").read_text())
    messages = [item["message"] for item in fixtures if item["set"] == "coinbase"]
    assert len(messages) == 9
    for message in messages:
        with pytest.raises(BadFrame, match="missing required field `channel`"):
            documented(message)


def test_a_message_names_one_channel() -> None:
    feeds = [Feed("quotes", "BTC-USD"), Feed("trades", "BTC-USD"), Feed("quotes", "ETH-USD")]
    assert COINBASE.one_message(feeds) == [feeds[0], feeds[2]]
    assert json.loads(COINBASE.unsubscribe(COINBASE.one_message(feeds[1:]), 9)) == {
        "type": "unsubscribe",
        "product_ids": ["BTC-USD"],
        "channel": "market_trades",
    }


def test_symbols_and_addresses() -> None:
    assert COINBASE.symbol_of("BTC", "USDC") == COINBASE.symbol_of("BTC", "USD") == "BTC-USD"
    assert COINBASE.symbol_of("USDT", "USDC") == "USDT-USDC"
    path = "https://api/api/v3/brokerage/market/products"
    assert COINBASE.listing("https://api/", "A/B").url == f"{path}/A%2FB"
    assert COINBASE.listing("https://api", None).url == path
    assert COINBASE.socket_url("wss://ws", "trades") == COINBASE.socket_url("wss://ws", "quotes") == "wss://ws"


def test_an_unknown_product_is_refused_for_good_and_nothing_else_is() -> None:
    body = b'{"error":"NOT_FOUND","error_details":"valid product_id is required","message":"no such product"}'
    assert COINBASE.refusal(404, body) == "no such product (NOT_FOUND)"
    assert COINBASE.refusal(500, body) is None
    assert COINBASE.refusal(404, b"<html>") is None
    assert COINBASE.refusal(400, b'{"error":"INTERNAL","message":"later"}') is None
