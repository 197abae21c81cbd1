"""`ravenctl gaps` on a real broker: what it finds of three hours of a market with holes in it."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from producers.contract import ALL
from ravencore import kafka
from ravencore.codec import Codec, iso_time
from ravencore.config import KafkaSettings, RoutingSettings
from ravencore.records import Book, Gap, Level, Record, ServiceStatus, Subscription, Trade, gap_key
from ravencore.topics import BOOKS, GAPS, STATUS, TOPICS, TRADES
from ravenctl.cli import app
from ravenctl.completeness import HOUR_US
from ravenctl.feeds import Name
from ravenctl.gaps import Choice, choose, since, still_open
from ravenctl.local.broker import Broker
from ravenctl.shell import WrongUse

CODEC = Codec()
NOW = time.time_ns() // 1000
SECOND_US = 1_000_000
THREE_HOURS = 1080
"""Trades of a symbol: one in ten seconds."""
FIRST_ID = 5000


def gap(venue: str = "BINANCE_SPOT", symbol: str = "BTCUSDT", **fields: Any) -> Gap:
    told = {"gap_id": f"{venue}:{symbol}:{fields}", "channel": "trades", "cause": "SEQUENCE", "to_time": NOW}
    written = {"detected_time": NOW, "connection": "ws://here 1", "detail": "the ids jump"}
    return Gap(venue=venue, symbol=symbol, **{**told, **written, **fields})


def trade(number: int, symbol: str = "BTCUSDT", venue: str = "BINANCE_SPOT") -> Trade:
    time_us = NOW - (THREE_HOURS - number) * 10 * SECOND_US
    return Trade(
        venue=venue,
        symbol=symbol,
        event_time=time_us,
        received_time=time_us + 1000,
        trade_id=str(FIRST_ID + number),
        sequence=FIRST_ID + number,
        price=1,
        quantity=1,
        side="BUY",
    )


class Writer:
    """Writes records as if at the times given, in microseconds."""

    def __init__(self, settings: KafkaSettings) -> None:
        self._client: Producer = kafka.producer(settings)

    def put(self, topic: str, key: bytes, record: Record | bytes, time_us: int) -> None:
        value = record if isinstance(record, bytes) else CODEC.encode(record)
        self._client.produce(topic, value, key, timestamp=time_us // 1000)

    def gap(self, one: Gap) -> None:
        self.put(GAPS, gap_key(one), one, one.detected_time)

    def flush(self) -> None:
        assert self._client.flush(30) == 0


LOST = range(600, 620)
"""Of BTCUSDT's trades, those that never came."""
LATE = gap(
    gap_id="late",
    symbol="ETHUSDT",
    cause="DISCONNECT",
    from_sequence=5100,
    to_sequence=5102,
    missing=3,
    from_time=NOW - 1,
)


def write_market(writer: Writer) -> None:
    for number in range(THREE_HOURS):
        for symbol in ("BTCUSDT", "ETHUSDT"):
            made = trade(number, symbol)
            if number not in LOST or symbol == "ETHUSDT":
                writer.put(TRADES, f"BINANCE_SPOT:{symbol}".encode(), made, made.received_time)
        made = trade(number, venue="BINANCE_FUTURES")
        writer.put(TRADES, b"BINANCE_FUTURES:BTCUSDT", made, made.received_time)
        level = (Level(1, 1),)
        book = Book(venue="KRAKEN", symbol="BTC/USD", received_time=NOW, source="MAINTAINED", bids=level, asks=level)
        writer.put(BOOKS, b"KRAKEN:BTC/USD", book, trade(number).received_time)


def write_ledger(writer: Writer) -> None:
    before, after = trade(LOST.start - 1), trade(LOST.stop)
    writer.gap(
        gap(
            from_sequence=FIRST_ID + LOST.start,
            to_sequence=FIRST_ID + LOST.stop - 1,
            missing=len(LOST),
            from_time=before.event_time,
            to_time=after.event_time,
            detected_time=after.received_time,
        )
    )
    writer.gap(LATE)
    nothing = {"from_sequence": None, "to_sequence": None, "missing": 0}
    fields = {name: getattr(LATE, name) for name in LATE.__struct_fields__}
    writer.gap(Gap(**{**fields, **nothing, "repair": "BACKFILLED", "repaired": 3}))
    hole = {"from_time": NOW - 90 * SECOND_US, "to_time": NOW - 60 * SECOND_US, "detected_time": NOW - 60 * SECOND_US}
    writer.gap(gap("KRAKEN", "BTC/USD", channel="books", cause="CHECKSUM", repair="RESNAPSHOT", missing=None, **hole))
    writer.gap(gap("KRAKEN", "ETH/USD", channel="books", cause="SILENCE", missing=None, **hole))
    writer.gap(gap("KRAKEN", "BTC/USD", gap_id="old", to_time=NOW - 100 * HOUR_US))
    writer.put(GAPS, b"garbage", b"garbage", NOW)


def write_status(writer: Writer) -> None:
    """ETH/USD has not come back."""
    feed = {"venue": "KRAKEN", "channel": "books"}
    feeds = (
        Subscription(symbol="BTC/USD", state="FLOWING", last_received_time=NOW, **feed),  # type: ignore[arg-type]
        Subscription(symbol="ETH/USD", state="SILENT", last_received_time=NOW - 90 * SECOND_US, **feed),  # type: ignore[arg-type]
    )
    reported_us = NOW + 3600 * SECOND_US  # it is never gone, however long the tests before this one take
    who = {"service": "collector", "instance": "collector-0", "host": "here", "pid": 1, "version": "0"}
    status = ServiceStatus(**who, state="RUNNING", started_time=1, reported_time=reported_us, subscriptions=feeds)  # type: ignore[arg-type]
    writer.put(STATUS, b"collector-0", status, NOW)


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    """A broker of its own: records are written as of hours ago, which must not lie behind others in a partition."""
    with Broker() as broker:
        settings = KafkaSettings(bootstrap=broker.bootstrap)
        kafka.ensure_topics(settings, [topic for topic in TOPICS if topic.name in (TRADES, BOOKS, GAPS, STATUS)])
        writer = Writer(settings)
        write_market(writer)
        write_ledger(writer)
        write_status(writer)
        writer.flush()
        yield broker.bootstrap


def ravenctl(bootstrap: str, *args: str) -> str:
    result = CliRunner().invoke(app, ["--bootstrap", bootstrap, "gaps", *args])
    assert result.exit_code == 0, result.output
    return result.stdout


def figures(bootstrap: str, *args: str) -> Any:
    return json.loads(ravenctl(bootstrap, "--json", *args))


@pytest.mark.stack
def test_every_hour_of_the_ids_is_as_it_was(bootstrap: str) -> None:
    told = figures(bootstrap, "--channel", "trades", "--symbol", "btc-usdt", "--venue", "binance_spot")
    known = [hour for hour in told["hours"] if hour["issued"]]
    assert len(known) in (3, 4)
    for hour in known:
        issued = [n for n in range(THREE_HOURS) if hour["from"] <= iso_time(trade(n).event_time) < hour["to"]]
        if not hour["estimated"]:
            assert hour["issued"] == len(issued)
            assert hour["there"] == len(set(issued) - set(LOST))
    assert sum(hour["issued"] for hour in known) == THREE_HOURS
    assert told["summary"]["trades_missing"] == len(LOST)
    empty = [hour for hour in told["hours"] if not hour["issued"]]
    assert empty
    assert not any(hour["complete"] or hour["known_from"] for hour in empty)


@pytest.mark.stack
def test_the_newest_entry_of_a_gap_stands(bootstrap: str) -> None:
    (late,) = figures(bootstrap, "--symbol", "eth/usdt", "--venue", "binance_spot")["gaps"]
    assert (late["gap_id"], late["repair"], late["missing"], late["repaired"]) == ("late", "BACKFILLED", 0, 3)


@pytest.mark.stack
def test_all_is_said_in_words(bootstrap: str) -> None:
    text = ravenctl(bootstrap)
    said = " ".join(text.split())
    for words in (
        f"{len(LOST)} trades missing of {3 * THREE_HOURS:,}",
        "3 repaired; 1 book made anew; the longest silence ",
        " (KRAKEN books); 1 still going on",
        "ids jump 20 trades, ids 5600-5619",
        "book checksum failed",
        "open: still going on",
        "1 gap written since then is of earlier times",
        "now SILENT: KRAKEN books ETH/USD",
        "1 record of the ledger cannot be read: partition",
    ):
        assert words in said


@pytest.mark.stack
def test_causes_choose_what_is_listed_and_change_no_figure(bootstrap: str) -> None:
    some, every = figures(bootstrap, "--cause", "checksum"), figures(bootstrap)
    assert [gap["cause"] for gap in some["gaps"]] == ["CHECKSUM"]
    assert [hour["missing"] for hour in some["hours"]] == [hour["missing"] for hour in every["hours"]]


@pytest.mark.stack
def test_a_feed_that_has_not_come_back_is_not_covered_until_now(bootstrap: str) -> None:
    told = figures(bootstrap, "--channel", "books", "--symbol", "ETH/USD")
    (away,) = told["gaps"]
    assert away["open"]
    assert away["to_time"] == told["summary"]["now"]
    longest_s = told["summary"]["longest_silence"]["seconds"]
    assert longest_s == pytest.approx(_seconds(away["to_time"]) - _seconds(away["from_time"]))
    assert longest_s >= 90
    assert not any(hour["complete"] for hour in told["hours"])
    kraken = figures(bootstrap, "--symbol", "BTC/USD", "--channel", "books")["hours"]
    known = [hour for hour in kraken if hour["known_from"]]
    lost_s = sum(_seconds(hour["known_to"]) - _seconds(hour["known_from"]) - hour["covered_seconds"] for hour in known)
    assert lost_s == pytest.approx(30)


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.stack
def test_no_gap_is_said_to_be_none(bootstrap: str) -> None:
    assert "no gap is recorded, and no record either" in ravenctl(bootstrap, "--venue", "COINBASE")
    assert "no gap is recorded: no trade missing of" in ravenctl(bootstrap, "--venue", "BINANCE_FUTURES")


@pytest.mark.parametrize(
    "args",
    [
        ("--venue", "KRAKN"),
        ("--channel", "trade"),
        ("--cause", "BAD"),
        ("--since", "yesterday"),
        ("--since", "2026-13-01"),
        ("--since", "2999-01-01"),
    ],
)
@pytest.mark.stack
def test_what_cannot_be_meant_is_said(bootstrap: str, args: tuple[str, str]) -> None:
    result = CliRunner().invoke(app, ["--bootstrap", bootstrap, "gaps", *args])
    assert result.exit_code == 2
    assert args[1] in result.stderr


def chosen(**names: list[str]) -> Choice:
    every = {"venues": None, "symbols": None, "channels": None, "causes": None}
    return choose(**{**every, **names}, since_us=0, routing=RoutingSettings())


@pytest.mark.parametrize("written", ["BTCUSDT", "btcusdt", "BTC/USDT", "btc-usdt"])
def test_a_symbol_is_found_in_any_spelling(written: str) -> None:
    choice = chosen(symbols=[written])
    assert choice.wants(Name("BINANCE_SPOT", "trades"), "BTCUSDT")
    assert choice.wants(Name("KRAKEN", "trades"), "BTC/USDT")
    assert choice.wants(Name("COINBASE", "trades"), "BTC-USDT")
    assert not choice.wants(Name("BINANCE_SPOT", "trades"), "ETHUSDT")
    assert not choice.wants(Name("KRAKEN", "trades"), "BTC/USD")


def test_a_renamed_symbol_is_found_by_its_pair() -> None:
    assert chosen(symbols=["pepe/usdt"]).wants(Name("BINANCE_FUTURES", "trades"), "1000PEPEUSDT")


def test_gaps_of_a_whole_market_concern_each_symbol() -> None:
    market = gap("BINANCE_FUTURES", ALL, channel="liquidations")
    assert chosen(symbols=["BTCUSDT"]).takes(market)
    assert not chosen(symbols=["BTCUSDT"], venues=["KRAKEN"]).takes(market)
    options = gap("DERIBIT", "BTC", channel="trades")
    assert chosen(symbols=["BTC-27NOV26-100000-C"]).takes(options)
    assert not chosen(symbols=["ETH-27NOV26-100000-C"]).takes(options)


def test_a_venue_may_be_named_by_a_source() -> None:
    choice = chosen(venues=["binance_futures_klines"])
    assert choice.takes_feed(Name("BINANCE_FUTURES", "klines"))
    assert not choice.takes_feed(Name("BINANCE_FUTURES", "trades"))


def test_a_venue_that_there_is_not_is_a_mistake_and_the_nearest_is_named() -> None:
    with pytest.raises(WrongUse, match=r"venue KRAKN is unknown: did you mean KRAKEN\?"):
        chosen(venues=["krakn"])
    with pytest.raises(WrongUse, match=r"did you mean BINANCE_FUTURES_KLINES\?"):
        chosen(venues=["BINANCE_FUTURES_KLINE"])


def test_times_as_people_write_them() -> None:
    assert since("90m", NOW) == NOW - 90 * 60 * SECOND_US
    assert since("7d", NOW) == NOW - 168 * HOUR_US
    assert since("2026-11-20T10:00", NOW) == since("2026-11-20T11:00+01:00", NOW)
    with pytest.raises(WrongUse):
        since("soon", NOW)


def test_a_time_that_has_not_been_yet_is_a_mistake() -> None:
    with pytest.raises(WrongUse, match="'2999-01-01' has not been yet"):
        since("2999-01-01", NOW)
    with pytest.raises(WrongUse):
        since(iso_time(NOW), NOW)
    assert since(iso_time(NOW - SECOND_US), NOW) == NOW - SECOND_US


def test_a_gap_is_open_while_its_feed_does_not_flow() -> None:
    told: dict[str, Any] = {
        "channel": "books",
        "cause": "SILENCE",
        "from_time": NOW - 9,
        "to_time": NOW,
        "detected_time": NOW,
    }
    away = gap(**told)
    feed = {"venue": "BINANCE_SPOT", "channel": "books", "symbol": "BTCUSDT"}

    def is_open(state: str, last_us: int | None) -> bool:
        subscription = Subscription(**feed, state=state, last_received_time=last_us)  # type: ignore[arg-type]
        return bool(still_open([away], [subscription]))

    assert is_open("SILENT", NOW - 9)
    assert is_open("SUBSCRIBED", None)
    assert not is_open("FLOWING", NOW + 1)
    assert not still_open([away], [])
