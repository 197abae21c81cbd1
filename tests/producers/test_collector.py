"""The collector as a process, between a real broker and a simulated exchange; each test has symbols of its own."""

import asyncio
import functools
import http.server
import itertools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from producers.collector import readback
from producers.collector.gate import Gate
from producers.collector.link import Bonds, Link
from producers.collector.outlet import Outlet
from producers.collector.pulse import Pulse
from producers.collector.readback import last_seen
from producers.collector.service import shortest_us
from producers.contract import Feed
from producers.session import Session
from producers.tape import Seen
from producers.venues.binance_spot import BinanceSpot
from ravencore import kafka, topics
from ravencore.config import BinanceSpotSettings, Settings
from ravencore.errors import ConfigError
from ravencore.records import Book, DeadLetter, Gap, Instrument, Trade
from ravenctl.local.broker import Broker
from tests.producers.made import SYMBOL, book_frame, reply_frame
from tests.producers.rig import CODEC, Rig, Simulator, until

pytestmark = pytest.mark.stack


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as node:
        yield node


@pytest.fixture
def rig(broker: Broker) -> Iterator[Rig]:
    with Rig(broker.bootstrap) as made:
        yield made


def test_the_shortest_interval_is_found_and_a_wrong_one_named() -> None:
    assert shortest_us(["1m", "15m", "500ms", "1h", "1s"]) == 500_000
    assert shortest_us(["2d", "1d"]) == 86_400_000_000
    assert shortest_us([]) is None
    with pytest.raises(ConfigError, match="'1 s' is no interval"):
        shortest_us(["1m", "1 s"])


# Reading back


def trade(symbol: str, sequence: int) -> Trade:
    return Trade(
        venue="BINANCE_SPOT",
        symbol=symbol,
        event_time=sequence * 1000,
        received_time=1,
        trade_id=str(sequence),
        sequence=sequence,
        price=1,
        quantity=1,
        side="BUY",
    )


def test_last_ids_are_found_behind_other_symbols_clocks_repairs_and_rubbish(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readback, "TAIL_CHUNK_RECORDS", 10)
    producer = kafka.producer(rig.settings)

    def put(symbol: str, value: bytes | None, topic: str = topics.TRADES) -> None:
        producer.produce(topic, value, f"BINANCE_SPOT:{symbol}".encode())

    for sequence in (1, 2, 7, 5):
        put("BACK1", CODEC.encode(trade("BACK1", sequence)))
    put("BACK1", None)
    put("BACK1", b"rubbish")
    book = Book(venue="BINANCE_SPOT", symbol="BACK1", received_time=77, source="VENUE_SNAPSHOT", bids=(), asks=())
    put("BACK1", CODEC.encode(book), topics.BOOKS)
    for sequence in range(3000):
        other = f"BACK{sequence % 30 + 3}"
        put(other, CODEC.encode(trade(other, sequence)))
    put("BACK2", CODEC.encode(trade("BACK2", 42)))
    assert producer.flush(30) == 0
    settings = Settings(kafka=rig.settings)
    feeds = [Feed(channel, symbol) for channel in ("trades", "books") for symbol in ("BACK1", "BACK2", "NEVER")]
    seen = last_seen(settings, CODEC, BinanceSpot(), feeds)
    assert seen == {
        Feed("trades", "BACK1"): {"BACK1": Seen(7, 7000)},
        Feed("books", "BACK1"): {"BACK1": Seen(None, 77)},
        Feed("trades", "BACK2"): {"BACK2": Seen(42, 42000)},
    }
    monkeypatch.setattr(readback, "TAIL_RECORDS", 100)
    assert set(last_seen(settings, CODEC, BinanceSpot(), feeds[:2])) == {Feed("trades", "BACK2")}


# Collecting


def test_faults_are_counted_exactly_and_the_instrument_comes_first(rig: Rig) -> None:
    faults = "gap=8,duplicate=8,reorder=8,garbage=8,cut=2"
    market = ("--synthetic", "--symbols", "BTCUSDT", "--duration", "90s", "--seed", "5")
    exchange = rig.simulator(*market, "--speed", "max", "--fault", faults)
    rig.demand("BTCUSDT")
    # However busy the machine, an answer comes before the wait is over.
    service = rig.collector(exchange.environment, RAVEN_COLLECTOR__REPAIR_MS="60000")
    exchange.played()
    stats = exchange.stats()
    service.heard(stats["frames"])
    seen = stats["symbols"]["BTCUSDT"]
    until(lambda: len(rig.trades("BTCUSDT")) == seen["unique"], "all has come, over the stream or REST")
    status = service.stop()
    ids = rig.trades("BTCUSDT")
    assert ids == list(range(ids[0], ids[0] + seen["unique"]))
    found = rig.gaps("BTCUSDT")
    filled = [gap for gap in found if gap.repaired]
    assert {gap.repair for gap in filled} == {"BACKFILLED"}
    assert sum(gap.repaired for gap in filled) == stats["injected"]["gap_trades"] > 0
    assert [gap.missing for gap in found if gap.missing] == []
    assert sum(gap.cause == "SEQUENCE" for gap in found) == stats["injected"]["gap"] == 8
    assert sum(gap.cause == "DISCONNECT" for gap in found) == 2
    assert [gap.missing for gap in found if gap.cause == "COLD_START"] == [None]
    assert len(rig.gaps("BTCUSDT", "books")) == 2
    assert status.state == "STOPPED"
    assert status.subscriptions == ()
    assert status.counters["duplicates"] == 8
    assert status.counters["dead_letters"] == 8
    assert status.counters["reconnects"] == 2
    assert status.counters["trades_received"] == len(ids) + 8 - stats["injected"]["gap_trades"]
    assert status.counters["trades_published"] == len(ids)
    assert status.counters["gaps"] == sum(gap.repair == "NONE" for gap in found) + 4
    letters = [letter for letter in rig.records(topics.DEAD_LETTERS, DeadLetter) if letter.connection]
    assert len(letters) == 8
    assert {letter.reason for letter in letters} <= {"unreadable_frame", "bad_value"}
    (instrument,) = [found for found in rig.records(topics.INSTRUMENTS, Instrument) if found.symbol == "BTCUSDT"]
    assert (instrument.base, instrument.quote, instrument.kind) == ("BTC", "USDT", "SPOT")
    first = next(trade for trade in rig.records(topics.TRADES, Trade) if trade.symbol == "BTCUSDT")
    assert instrument.received_time < first.received_time


def test_a_stop_ends_the_subscription_at_the_exchange(rig: Rig) -> None:
    exchange = rig.simulator("--synthetic", "--symbols", "ETHUSDT,SOLUSDT", "--speed", "1")
    service = rig.collector(exchange.environment)
    service.running()
    assert exchange.stats()["connections"]["accepted"] == 0
    rig.demand("ETHUSDT")
    rig.demand("SOLUSDT")
    service.flows("ETHUSDT", "SOLUSDT")
    rig.withdraw("ETHUSDT")
    end = rig.written

    def is_done() -> bool:
        """A feed that a status lacks, of a collector that has come so far, has ended."""
        status = service.status()
        assert status is not None
        named = {feed.symbol for feed in status.subscriptions}
        return status.gauges["control_offset"] >= end and "ETHUSDT" not in named

    until(is_done, "the withdrawal is known, and nothing of it is left", 3.0)
    assert [stream for stream in exchange.stats()["listened"] if "ethusdt" in stream] == []
    assert service.states() == {f"{channel} SOLUSDT": "FLOWING" for channel in ("trades", "books", "quotes")}
    time.sleep(0.5)
    before = rig.trades("ETHUSDT")
    rig.withdraw("SOLUSDT")
    until(lambda: exchange.stats()["connections"]["open"] == 0, "the connection is closed", 2.0)
    until(lambda: service.states() == {}, "nothing is listed", 3.0)
    assert rig.trades("ETHUSDT") == before
    rig.demand("ETHUSDT")
    service.flows("ETHUSDT")
    status = service.stop()
    assert exchange.stats()["connections"] == {"open": 0, "accepted": 2}
    again = [gap for gap in rig.gaps("ETHUSDT") if gap.cause == "DISCONNECT"]
    ids = rig.trades("ETHUSDT")
    assert [gap.detail for gap in again] == ["not demanded for a time"]
    assert again[0].missing == ids[-1] - ids[0] + 1 - len(ids)
    assert status.counters["trades_received"] == status.counters["trades_published"]
    assert status.counters["reconnects"] == 0


def test_after_kill_9_what_was_missed_is_fetched_and_one_gap_says_so(rig: Rig) -> None:
    exchange = rig.simulator("--synthetic", "--symbols", "BNBUSDT", "--speed", "4", "--duration", "50s")
    rig.demand("BNBUSDT")
    first = rig.collector(exchange.environment)
    first.flows("BNBUSDT")
    until(lambda: first.counters()["trades_published"] > 200, "it collects")
    first.kill()
    before = exchange.stats()["symbols"]["BNBUSDT"]["issued"]
    until(lambda: exchange.stats()["symbols"]["BNBUSDT"]["issued"] > before + 50, "the exchange goes on")
    second = rig.collector(exchange.environment)
    second.flows("BNBUSDT")
    exchange.played()
    stats = exchange.stats()["symbols"]["BNBUSDT"]
    until(lambda: rig.trades("BNBUSDT")[-1] == stats["last_id"], "all has come")
    second.stop()
    ids = rig.trades("BNBUSDT")
    assert ids == sorted(set(ids))
    assert ids == list(range(ids[0], stats["last_id"] + 1))
    cold, away = rig.gaps("BNBUSDT")
    assert cold.cause == "COLD_START"
    assert (away.cause, away.repair, away.missing, away.detail) == (
        "DISCONNECT",
        "BACKFILLED",
        0,
        "the collector was away",
    )
    assert away.repaired > 50
    assert [gap.cause for gap in rig.gaps("BNBUSDT", "books")] == ["DISCONNECT"]


def test_an_unknown_symbol_is_refused_and_harms_no_other(rig: Rig) -> None:
    exchange = rig.simulator("--synthetic", "--symbols", "XRPUSDT", "--speed", "1")
    rig.demand("NOPEUSDT")
    rig.demand("XRPUSDT")
    rig.demand("ELSEWHERE", "NASDAQ")
    service = rig.collector(exchange.environment)
    service.flows("XRPUSDT")
    refused = dict.fromkeys(("trades NOPEUSDT", "books NOPEUSDT", "trades ELSEWHERE"), "REFUSED")
    until(lambda: refused.items() <= service.states().items(), "both are refused")
    status = service.status()
    assert status is not None
    assert status.state == "RUNNING"
    assert status.last_error == "BINANCE_SPOT refuses NOPEUSDT: Invalid symbol. (-1121)"
    rig.withdraw("NOPEUSDT")
    until(lambda: "trades NOPEUSDT" not in service.states(), "it is forgotten")
    service.stop()
    for channel in ("trades", "books"):
        (gap,) = rig.gaps("NOPEUSDT", channel)
        assert (gap.cause, gap.detail) == ("REFUSED", status.last_error)


def test_a_demand_that_cannot_be_read_is_a_dead_letter_and_harms_no_other(rig: Rig) -> None:
    exchange = rig.simulator("--synthetic", "--symbols", "DOGEUSDT,SOLUSDT", "--speed", "1")
    service = rig.collector(exchange.environment)
    service.running()
    rig.produce(topics.CONTROL, b"rig-bad", b"rubbish")
    rig.demand("DOGEUSDT")
    rig.demand("SOLUSDT")
    service.flows("DOGEUSDT", "SOLUSDT")
    rig.produce(topics.CONTROL, b"rig-SOLUSDT", b"rubbish")
    left = {f"{channel} DOGEUSDT": "FLOWING" for channel in ("trades", "books", "quotes")}
    until(lambda: service.states() == left, "what stood there is ended, and the other goes on")
    status = service.status()
    assert status is not None
    assert (status.state, status.last_error) == (
        "RUNNING",
        "a record of raven.control cannot be read, `ravenctl user` says how to withdraw it: "
        "not in Confluent framing: 72756262697368",
    )
    rig.produce(topics.CONTROL, b"rig-bad", None)
    service.stop()
    letters = [letter for letter in rig.records(topics.DEAD_LETTERS, DeadLetter) if letter.topic == topics.CONTROL]
    assert [(letter.key, letter.payload, letter.reason) for letter in letters] == [
        (key, b"rubbish", "unreadable_record") for key in (b"rig-bad", b"rig-SOLUSDT")
    ]


def test_outputs_that_need_trades_alone_start_no_books_and_books_come_and_go_beside_them(rig: Rig) -> None:
    exchange = rig.simulator("--synthetic", "--symbols", "DOTUSDT", "--feeds", "", "--speed", "1")
    service = rig.collector(exchange.environment)
    trades = {"trades DOTUSDT": "FLOWING"}
    rig.demand("DOTUSDT", outputs=["bars.tib"])
    until(lambda: service.states() == trades, "trades flow, and nothing else is told")
    assert hears(exchange, ["dotusdt@trade"])
    for turn in range(2):
        if turn:
            rig.withdraw("DOTUSDT", outputs=["books"])
            until(functools.partial(hears, exchange, ["dotusdt@trade"]), "books are ended")
            until(lambda: service.states() == trades, "and told no more")
        rig.demand("DOTUSDT", outputs=["books"])
        both = ["dotusdt@depth20@100ms", "dotusdt@trade"]
        until(functools.partial(hears, exchange, both), "books are subscribed as well")
        until(lambda: service.states() == trades | {"books DOTUSDT": "FLOWING"}, "and flow")
    stats = exchange.stats()
    assert (stats["subscriptions"]["dotusdt@trade"], stats["connections"]["accepted"]) == (1, 1)
    status = service.status()
    assert status is not None
    last = {feed.channel: (feed.last_gap_cause, feed.last_gap_time) for feed in status.subscriptions}
    (cold,) = rig.gaps("DOTUSDT")
    *_, away = rig.gaps("DOTUSDT", "books")
    assert (cold.cause, away.detail) == ("COLD_START", "not demanded for a time")
    assert last == {gap.channel: (gap.cause, gap.detected_time) for gap in (cold, away)}
    service.stop()


def test_whoever_asks_for_it_ends_the_collector_as_a_signal_does(rig: Rig) -> None:
    exchange = rig.simulator("--synthetic", "--symbols", "ETHBTC", "--speed", "1")
    rig.shut_down("collector")  # before it started: not meant for it
    service = rig.collector(exchange.environment)
    rig.demand("ETHBTC")
    service.flows("ETHBTC")
    rig.shut_down("engine")
    rig.shut_down("collector")
    assert service.process.wait(30) == 0
    status = service.status()
    assert status is not None
    assert (status.state, status.subscriptions) == ("STOPPED", ())
    assert status.counters["trades_received"] == status.counters["trades_published"] == len(rig.trades("ETHBTC")) > 0
    assert exchange.stats()["connections"]["open"] == 0


TOGGLED = {
    "LTCUSDT": ("BINANCE_SPOT", "BINANCE_FUTURES"),
    "ETH/USD": ("KRAKEN", "COINBASE", "DERIBIT_BOOKS"),
    "*": ("DERIBIT_INDEX", "BINANCE_FUTURES_FUNDING"),
}
"""By symbol, sources of which something comes all the time."""
TOGGLED_VENUES = ("BINANCE_SPOT", "BINANCE_FUTURES", "KRAKEN", "COINBASE", "DERIBIT")


def test_venues_are_left_alone_while_nothing_is_demanded_of_them_and_send_again_when_it_is(rig: Rig) -> None:
    """How long it takes is in docs/running.md."""
    market = ("--synthetic", "--venues", ",".join(TOGGLED_VENUES), "--symbols", "LTCUSDT,ETH/USD", "--speed", "1")
    exchange = rig.simulator(*market, "--feeds", "")
    service = rig.collector(exchange.environment)
    for _ in range(2):
        before = {venue: exchange.stats(venue)["frames"] for venue in TOGGLED_VENUES}
        for symbol, sources in TOGGLED.items():
            rig.demand(symbol, *sources)
        for venue in TOGGLED_VENUES:
            until(functools.partial(has_sent_more, exchange, venue, before[venue]), f"{venue} sends")
        until(lambda: set(service.states().values()) == {"FLOWING"}, "all that is demanded flows")
        for symbol in TOGGLED:
            rig.withdraw(symbol)
        for venue in TOGGLED_VENUES:
            until(functools.partial(is_left_alone, exchange, venue), f"{venue} is left alone")
        until(lambda: service.states() == {}, "nothing is told")
    service.stop()


def hears(exchange: Simulator, streams: list[str]) -> bool:
    """Whether somebody listens to these, and to no others."""
    return bool(exchange.stats()["listened"] == streams)


def has_sent_more(exchange: Simulator, venue: str, frames: int) -> bool:
    return bool(exchange.stats(venue)["frames"] > frames)


def is_left_alone(exchange: Simulator, venue: str) -> bool:
    stats = exchange.stats(venue)
    return (stats["listened"], stats["connections"]["open"]) == ([], 0)


def test_clocks_close_the_windows_of_a_quiet_market(rig: Rig) -> None:
    recording = rig.folder / "quiet.frames"
    recording.write_text("".join(quiet_market("QUIUSDT")))
    exchange = rig.simulator("--recording", str(recording), "--speed", "1")
    rig.demand("QUIUSDT")
    service = rig.collector(exchange.environment, RAVEN_COLLECTOR__CLOCKS="true")
    exchange.played()
    until(lambda: len(rig.trades("QUIUSDT")) == 2, "both trades have come")
    service.stop()
    log: list[Any] = []

    def keep(message: Any) -> None:
        if message.key() == b"BINANCE_SPOT:QUIUSDT":
            value = message.value()
            header = dict(message.headers() or []).get(kafka.CLOCK_HEADER)
            log.append(CODEC.decode_as(Trade, value).sequence if value else int(header or 0))

    kafka.read_to_end(rig.settings, topics.TRADES, "rig", keep)
    assert log[:5] == [1, *((START_S + second) * 1_000_000 for second in (1, 2, 3)), 2]


START_S = 1_723_161_255


def quiet_market(symbol: str) -> Iterator[str]:
    """A trade, more than three seconds of books alone, and another trade."""
    for tenth in range(1, 50):
        at_ms = START_S * 1000 + tenth * 100
        data: dict[str, Any] = {"lastUpdateId": tenth, "bids": [["1.0", "1"]], "asks": [["2.0", "1"]]}
        yield line(symbol, "depth20@100ms", at_ms, data)
        if tenth in {2, 41}:
            ids = {"e": "trade", "E": at_ms, "s": symbol, "t": tenth // 40 + 1}
            yield line(symbol, "trade", at_ms, {**ids, "p": "1", "q": "1", "T": at_ms, "m": True, "M": True})


def line(symbol: str, channel: str, at_ms: int, data: dict[str, Any]) -> str:
    return f"{at_ms}000000\t{json.dumps({'stream': f'{symbol.lower()}@{channel}', 'data': data})}\n"


class BusyVenue(http.server.BaseHTTPRequestHandler):
    """exchangeInfo that is asked too often, broken and full of rubbish before it answers."""

    asked: list[float]

    def do_GET(self) -> None:
        self.asked.append(time.monotonic())
        answers = [(429, b"{}"), (502, b"<html>"), (200, b"<html>"), (200, INFO)]
        status, body = answers[min(len(self.asked), len(answers)) - 1]
        self.send_response(status)
        if status == 429:
            self.send_header("Retry-After", "2")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


INFO = json.dumps(
    {"symbols": [{"symbol": "ADAUSDT", "status": "TRADING", "baseAsset": "ADA", "quoteAsset": "USDT", "filters": []}]}
).encode()


def test_a_busy_venue_is_left_alone_as_long_as_it_says_and_asked_again(rig: Rig) -> None:
    BusyVenue.asked = []
    exchange = rig.simulator("--synthetic", "--symbols", "ADAUSDT", "--speed", "1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), BusyVenue) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        rig.demand("ADAUSDT")
        rest = f"http://127.0.0.1:{server.server_port}"
        service = rig.collector(exchange.environment, RAVEN_VENUES__BINANCE_SPOT__REST_URL=rest)
        until(lambda: service.states().get("trades ADAUSDT") == "WAITING", "it waits for its instrument")
        service.flows("ADAUSDT")
        server.shutdown()
    assert len(BusyVenue.asked) == 4
    assert BusyVenue.asked[1] - BusyVenue.asked[0] >= 2.0


def test_an_exchange_that_is_away_is_said_and_found_again(rig: Rig) -> None:
    exchange = rig.simulator("--synthetic", "--symbols", "LTCUSDT", "--speed", "1")
    rig.demand("LTCUSDT")
    service = rig.collector(exchange.environment)
    service.flows("LTCUSDT")
    exchange.process.kill()
    exchange.process.wait()
    until(lambda: (status := service.status()) and status.state == "DEGRADED", "it is seen to be away")
    port = exchange.environment["RAVEN_SIMULATOR_URL"].rpartition(":")[2]
    rig.simulator("--synthetic", "--symbols", "LTCUSDT", "--speed", "1", "--port", port)
    service.flows("LTCUSDT")
    until(lambda: (status := service.status()) and status.state == "RUNNING", "it runs again")


class Hasty(BinanceSpot):
    """Binance spot, pinged five times a second."""

    limits = replace(BinanceSpot.limits, ping_seconds=0.2)


async def deaf_exchange(request: web.Request) -> web.WebSocketResponse:
    """Acknowledges what it is asked for and never sends a pong; `?frames` sends books all the time."""
    socket = web.WebSocketResponse(autoping=False)
    await socket.prepare(request)
    talking = "frames" in request.path
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_bytes(reply_frame(json.loads(message.data)["id"]))
        for _ in range(200 if talking else 0):
            await socket.send_bytes(book_frame())
            await asyncio.sleep(0.01)
    return socket


@pytest.mark.parametrize(("path", "said"), [("silent", ["a ping was left unanswered"]), ("frames", [])])
def test_only_a_connection_that_brings_neither_pong_nor_frame_is_dead(rig: Rig, path: str, said: list[str]) -> None:
    async def run() -> list[str]:
        app = web.Application()
        app.router.add_get("/{path:.*}", deaf_exchange)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"http://127.0.0.1:{runner.addresses[0][1]}/{path}"
        told: list[str] = []
        source = Hasty()
        endpoints = BinanceSpotSettings(ws_url=address.replace("http", "ws"), rest_url=address)
        session = Session(source, source.socket_url(endpoints.ws_url, "books"))
        session.want(Feed("books", SYMBOL), {})
        outlet = Outlet(Settings(kafka=rig.settings), CODEC)
        http = aiohttp.ClientSession()
        pulse = Pulse(outlet)
        gate = Gate(source.venue, source.limits, endpoints, http)
        link = Link(session, Bonds(gate, outlet, pulse, told.append, print, print, itertools.count(1), 3600.0, 50))
        others = [asyncio.create_task(outlet.run()), asyncio.create_task(pulse.run())]
        running = asyncio.create_task(link.run())
        await asyncio.sleep(1.5)
        await link.stop()
        await running
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await runner.cleanup()
        await http.close()
        outlet.producer.flush(10)
        return [text.partition(": ")[2] for text in told]

    assert asyncio.run(run())[:1] == said


# A broker of its own, to be killed

SMALL_BUFFER = """
from producers.collector import outlet, service
from ravencore.service import run

outlet.PRODUCER_LIMITS["queue.buffering.max.messages"] = 500
run(service.collect)
"""


def test_while_the_broker_is_away_the_exchange_is_not_read_and_nothing_is_lost() -> None:
    market = ("--synthetic", "--symbols", "BTCUSDT", "--duration", "10m")
    with Broker() as mortal, Rig(mortal.bootstrap) as rig:
        exchange = rig.simulator(*market, "--speed", "max")
        rig.demand("BTCUSDT")
        service = rig.collector(exchange.environment, ("-c", SMALL_BUFFER))
        until(lambda: exchange.stats()["state"] == "playing", "it plays")
        mortal.kill()
        until(lambda: stands_still(exchange), "the exchange is not read any more")
        assert exchange.stats()["state"] == "playing"
        mortal.start()
        exchange.played()
        stats = exchange.stats()["symbols"]["BTCUSDT"]
        until(lambda: rig.trades("BTCUSDT")[-1:] == [stats["last_id"]], "all has come")
        status = service.stop()
        assert "Kafka does not answer" in (status.last_error or "")
        # An exchange that waits for a pong for a minute may lose its patience, if the broker takes so long to come up.
        patient = status.counters["reconnects"] == 0
        assert rig.holes("BTCUSDT")["COLD_START", None] == 1
        assert len(rig.gaps("BTCUSDT")) == 1 or not patient
        missing = {number for gap in rig.gaps("BTCUSDT") if gap.missing for number in ids_of(gap)}
        every = range(stats["first_id"], stats["last_id"] + 1)
        assert rig.trades("BTCUSDT") == [number for number in every if number not in missing]


def stands_still(exchange: Simulator) -> bool:
    before = exchange.stats()["frames_issued"]
    time.sleep(1.0)
    return bool(exchange.stats()["frames_issued"] == before)


def ids_of(gap: Gap) -> range:
    assert gap.from_sequence is not None
    assert gap.to_sequence is not None
    return range(gap.from_sequence, gap.to_sequence + 1)
