"""The simulator over real sockets, with clients that are not ours."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from simulator.contract import Dialect, Market, SimulatorError
from simulator.dialects.binance import Rules
from simulator.dialects.binance_spot import BinanceSpot
from simulator.faults import parse_spec
from simulator.ledger import Ids
from simulator.recording import RecordedMarket
from simulator.registry import DIALECTS, Plan, synthetic_market
from simulator.server.service import Server
from simulator.server.settings import Settings
from simulator.sorting import sort
from simulator.synthetic import EPOCH_NS

PATIENCE_SECONDS = 30.0
SECOND_NS = 10**9
SYMBOLS = ["BTCUSDT", "ETHUSDT"]
STREAMS = "btcusdt@trade/ethusdt@trade/btcusdt@depth20@100ms/ethusdt@depth20@100ms"


def synthetic(
    seconds: int = 20, spec: str = "", speed: float | None = None, venues: str = "BINANCE_SPOT", **options: Any
) -> Server:
    plan = Plan(SYMBOLS, 4, 3, seconds * SECOND_NS, EPOCH_NS)
    dialects = [DIALECTS[venue]() for venue in venues.split(",")]
    markets: list[tuple[Dialect, Market]] = [(dialect, synthetic_market(dialect, plan)) for dialect in dialects]
    return Server(markets, Settings(speed, 4, parse_spec(spec), seconds * SECOND_NS, **options))


def recorded(paths: list[Path], **options: Any) -> Server:
    dialects = [make() for make in DIALECTS.values()]
    files = sort(list(map(str, paths)), dialects)
    markets: list[tuple[Dialect, Market]] = [
        (dialect, RecordedMarket(files[dialect.venue], dialect)) for dialect in dialects if dialect.venue in files
    ]
    return Server(markets, Settings(speed=None, **options))


def spot(server: Server) -> Any:
    return server.pages.stats()["venues"]["BINANCE_SPOT"]


def ledger(server: Server, venue: str = "BINANCE_SPOT") -> Any:
    return server.venues[venue].exchange.ledger


def socket(server: Server, path: str, venue: str = "BINANCE_SPOT") -> connect:
    # A client that leaves frames unread does not read the answer to its close either: it would wait 10 s for it.
    url = f"ws://{server.address}/{venue}{path}"
    return connect(url, max_size=None, compression=None, open_timeout=PATIENCE_SECONDS, close_timeout=0.2)


async def get(server: Server, path: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{server.address}{path}") as answer:
        return answer.status, await answer.json()


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = asyncio.get_running_loop().time() + PATIENCE_SECONDS
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"not within {PATIENCE_SECONDS} s: {what}"
        await asyncio.sleep(0.005)


class Observer:
    """A client that notes what a collector would: ids per symbol, what it cannot read, and how often it was cut off."""

    def __init__(self) -> None:
        self.ids = {symbol: Ids() for symbol in SYMBOLS}
        self.order: dict[str, list[int]] = {symbol: [] for symbol in SYMBOLS}
        self.tops = 0
        self.unreadable = 0
        self.cuts = 0
        self.frames = 0

    def note(self, message: str | bytes) -> None:
        self.frames += 1
        try:
            envelope = json.loads(message)
            symbol, channel = envelope["stream"].upper().split("@", 1)
            data = envelope["data"]
            if channel == "TRADE":
                kinds = [(data["t"], int), (data["p"], str), (data["q"], str), (data["T"], int), (data["m"], bool)]
                if not all(isinstance(value, kind) for value, kind in kinds):
                    raise ValueError("retyped")
                self.ids[symbol].add(data["t"])
                self.order[symbol].append(data["t"])
            elif channel == "DEPTH20@100MS":
                self.tops += len(data["bids"]) == 20
            else:
                raise ValueError(channel)
        except (ValueError, KeyError, TypeError):
            self.unreadable += 1

    async def follow(self, server: Server) -> None:
        """Read until playback is done and its last frame is here, connecting anew after each cut."""
        while True:
            try:
                async with socket(server, f"/stream?streams={STREAMS}") as client:
                    return await self.read(client, server)
            except ConnectionClosed:
                self.cuts += 1

    async def read(self, client: ClientConnection, server: Server) -> None:
        while server.player.state != "done":
            with contextlib.suppress(TimeoutError):
                self.note(await asyncio.wait_for(client.recv(), 0.1))
        await client.send('{"method":"LIST_SUBSCRIPTIONS","id":"fence"}')
        while '"id":"fence"' not in str(message := await asyncio.wait_for(client.recv(), PATIENCE_SECONDS)):
            self.note(message)

    def counts(self) -> dict[str, int]:
        return {
            "gaps": sum(len(ids.holes) for ids in self.ids.values()),
            "gap_trades": sum(ids.missing for ids in self.ids.values()),
            "duplicates": sum(ids.duplicates for ids in self.ids.values()),
            "dead_letters": self.unreadable,
        }


async def test_all_that_was_issued_arrives_in_order_and_twice_the_same() -> None:
    tapes = []
    for _ in range(2):
        async with synthetic() as server:
            observer = Observer()
            await asyncio.wait_for(observer.follow(server), PATIENCE_SECONDS)
            stats = spot(server)
        assert observer.counts() == stats["observable"] == dict.fromkeys(observer.counts(), 0)
        for symbol in SYMBOLS:
            entry = stats["symbols"][symbol]
            assert observer.ids[symbol].count == entry["issued"] == entry["delivered"] > 200
            assert observer.order[symbol] == sorted(observer.order[symbol])
        assert observer.tops > 300
        tapes.append(observer.order)
    assert tapes[0] == tapes[1]


async def test_what_an_observer_counts_is_what_was_injected() -> None:
    spec = "gap=0.01,duplicate=0.01,reorder=0.01,garbage=0.02,cut=3"
    async with synthetic(40, spec) as server:
        observer = Observer()
        await asyncio.wait_for(observer.follow(server), PATIENCE_SECONDS)
        stats = spot(server)
    injected = stats["injected"]
    assert observer.counts() == stats["observable"]
    assert observer.counts() == {
        "gaps": injected["gap"],
        "gap_trades": injected["gap_trades"],
        "duplicates": injected["duplicate"],
        "dead_letters": injected["garbage"],
    }
    assert observer.cuts == injected["cut"] == 3
    assert all(injected[kind] > 5 for kind in ("gap", "duplicate", "reorder", "garbage"))
    assert observer.frames == stats["frames"]
    assert not any(entry["missed_while_away"]["trades"] for entry in stats["symbols"].values())


async def test_at_speed_what_is_issued_while_away_is_missed_and_told() -> None:
    async with synthetic(40, speed=5.0) as server:
        observer = Observer()
        async with socket(server, f"/stream?streams={STREAMS}") as client:
            while len(observer.order["BTCUSDT"]) < 50:
                observer.note(await asyncio.wait_for(client.recv(), PATIENCE_SECONDS))
        issued = ledger(server).symbols["BTCUSDT"].issued
        before = issued.count
        await until(lambda: issued.count > before + 100, "the market goes on without us")
        await asyncio.wait_for(observer.follow(server), PATIENCE_SECONDS)
        entry = spot(server)["symbols"]["BTCUSDT"]
    (missed,) = entry["missed_while_away"]["ranges"]
    assert entry["missed_while_away"]["trades"] == missed[1] - missed[0] + 1 > 50
    # Frames between our close and the server's knowledge of it are gone too: the hole holds at least what it says.
    (hole,) = observer.ids["BTCUSDT"].holes
    assert hole[0] <= missed[0]
    assert hole[1] == missed[1]
    assert entry["observable"]["gap_trades"] == entry["missed_while_away"]["trades"]


async def test_playback_waits_for_every_symbol_and_at_max_for_a_client_that_left() -> None:
    async with synthetic() as server:
        async with socket(server, "/ws/btcusdt@trade") as client:
            status, stats = await get(server, "/sim/stats")
            assert (status, stats["state"], stats["waiting_for"]) == (200, "waiting", ["ethusdt@trade"])
            await client.send('{"method":"SUBSCRIBE","params":["ethusdt@trade"],"id":1}')
            assert json.loads(await client.recv()) == {"result": None, "id": 1}
            assert json.loads(await client.recv())["e"] == "trade"
        await until(lambda: bool(server.pages.stats()["waiting_for"]) or server.player.state == "done", "it waits")
        observer = Observer()
        await asyncio.wait_for(observer.follow(server), PATIENCE_SECONDS)
        assert not any(entry["missed_while_away"]["trades"] for entry in spot(server)["symbols"].values())


async def test_an_unsubscribed_symbol_no_longer_holds_up_the_others() -> None:
    async with synthetic(30) as server, socket(server, f"/stream?streams={STREAMS}") as client:
        await client.send('{"method":"UNSUBSCRIBE","params":["ethusdt@trade","ethusdt@depth20@100ms"],"id":9}')
        seen: list[Any] = []
        while server.player.state != "done" or len(seen) < ledger(server).frames_sent + 1:
            seen.append(json.loads(await asyncio.wait_for(client.recv(), PATIENCE_SECONDS)))
        answered = seen.index({"result": None, "id": 9})
        assert all(frame["stream"].startswith("btcusdt") for frame in seen[answered + 1 :])


async def test_raw_streams_and_rest_on_the_same_port() -> None:
    async with synthetic() as server, socket(server, "/ws/btcusdt@trade/ethusdt@trade") as client:
        first = json.loads(await client.recv())
        assert first["e"] == "trade"
        await until(lambda: server.player.state == "waiting" or ledger(server).frames_issued > 100, "it plays")
        _, trades = await get(
            server, f"/BINANCE_SPOT/api/v3/historicalTrades?symbol={first['s']}&fromId={first['t']}&limit=1"
        )
        assert [(row["id"], row["price"], row["qty"]) for row in trades] == [(first["t"], first["p"], first["q"])]
        _, book = await get(server, "/BINANCE_SPOT/api/v3/depth?symbol=BTCUSDT&limit=5000")
        assert len(book["bids"]) > 100
        assert float(book["bids"][0][0]) < float(book["asks"][0][0])
        _, info = await get(server, "/BINANCE_SPOT/api/v3/exchangeInfo")
        assert [row["symbol"] for row in info["symbols"]] == SYMBOLS
        assert (await get(server, "/BINANCE_SPOT/api/v3/exchangeInfo?symbol=NOSUCH"))[0] == 400
        assert await get(server, "/sim/health") == (200, {"status": "ok", "state": server.player.state})


async def test_unknown_streams_are_accepted_and_unknown_paths_are_not() -> None:
    async with synthetic() as server:
        async with socket(server, "/stream?streams=nosuch@trade") as client:
            await client.send('{"method":"LIST_SUBSCRIPTIONS","id":1}')
            assert json.loads(await client.recv()) == {"result": ["nosuch@trade"], "id": 1}
        with pytest.raises(InvalidStatus):
            await socket(server, "/nosuch")


async def test_a_sixth_message_within_a_second_ends_the_connection() -> None:
    async with synthetic() as server, socket(server, "/ws") as client:
        for number in range(6):
            await client.send(f'{{"method":"LIST_SUBSCRIPTIONS","id":{number}}}')
        for _ in range(5):
            await asyncio.wait_for(client.recv(), PATIENCE_SECONDS)
        with pytest.raises(ConnectionClosed) as closed:
            await asyncio.wait_for(client.recv(), PATIENCE_SECONDS)
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "Too many requests")


def impatient() -> Server:
    dialect = BinanceSpot(Rules(5, 1024, ping_interval_seconds=0.3, pong_timeout_seconds=0.6))
    market = synthetic_market(dialect, Plan(SYMBOLS, 4, 0, None, EPOCH_NS))
    return Server([(dialect, market)], Settings(tick_seconds=0.02))


async def test_a_client_that_answers_pings_stays_and_one_that_does_not_is_dropped() -> None:
    async with impatient() as server, aiohttp.ClientSession() as session:
        url = f"ws://{server.address}/BINANCE_SPOT/ws"
        async with session.ws_connect(url, autoping=False) as silent, session.ws_connect(url) as polite:
            reading = asyncio.create_task(polite.receive())
            heard = [await silent.receive(timeout=PATIENCE_SECONDS)]
            while heard[-1].type is aiohttp.WSMsgType.PING:
                heard.append(await silent.receive(timeout=PATIENCE_SECONDS))
            assert len(heard) > 1
            assert (heard[-1].type, heard[-1].data, heard[-1].extra) == (aiohttp.WSMsgType.CLOSE, 1008, "Pong timeout")
            assert not reading.done()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)


async def test_a_ping_of_the_client_is_answered_between_frames() -> None:
    async with synthetic(speed=1.0) as server, socket(server, f"/stream?streams={STREAMS}") as client:
        answered = await client.ping(b"hello")
        assert await asyncio.wait_for(answered, PATIENCE_SECONDS) >= 0.0


async def test_two_clients_both_get_everything() -> None:
    async with synthetic() as server, socket(server, "/ws/ethusdt@trade") as one:
        observer = Observer()
        reading = asyncio.create_task(observer.follow(server))
        ids: list[int] = []
        while server.player.state != "done" or len(ids) < ledger(server).symbols["ETHUSDT"].delivered.count:
            ids.append(json.loads(await asyncio.wait_for(one.recv(), PATIENCE_SECONDS))["t"])
        await asyncio.wait_for(reading, PATIENCE_SECONDS)
        assert ids == observer.order["ETHUSDT"]


async def test_two_recordings_are_played_whole(recordings: Path) -> None:
    names = ("hft_btcusdt_20240808", "hft_ethusdt_20240808")
    async with recorded([recordings / f"binance_spot/{name}.frames.zst" for name in names]) as server:
        observer = Observer()
        await asyncio.wait_for(observer.follow(server), 2 * PATIENCE_SECONDS)
        stats = spot(server)
    assert {symbol: ids.unique for symbol, ids in observer.ids.items()} == {"BTCUSDT": 9_757, "ETHUSDT": 6_106}
    assert observer.counts() == dict.fromkeys(observer.counts(), 0)
    assert observer.tops > 6_800
    assert {entry["depth20"] for entry in stats["symbols"].values()} == {"folded"}


async def test_a_recording_without_trades_says_so(recordings: Path) -> None:
    async with recorded([recordings / "binance_spot/cf_btc_eth_dot_20210404.frames.zst"]) as server:
        notes = (await get(server, "/sim/stats"))[1]["notes"]
    assert "BTCUSDT: the recording holds no trades" in notes


PUBLIC = "btcusdt@depth20@100ms/btcusdt@bookTicker"
MARKET = "btcusdt@aggTrade/ethusdt@aggTrade/!markPrice@arr@1s/!forceOrder@arr/btcusdt@kline_1m"
Marked = dict[str, set[tuple[str, int]]]


def marks_of(frame: Any) -> tuple[str, set[tuple[str, int]]]:
    """Channel, and symbol with id of what a futures frame says, read anew from the documents."""
    data = frame["data"]
    rows = data if isinstance(data, list) else [data]
    match rows[0]["e"]:
        case "aggTrade":
            return "trades", {(data["s"], data["a"])}
        case "bookTicker":
            return "quotes", {(data["s"], data["u"])}
        case "depthUpdate":
            return "books", {(data["s"], data["u"])}
        case "kline":
            return "klines", {(data["s"], data["k"]["t"] * 1000)} if data["k"]["x"] else set()
        case "forceOrder":
            return "liquidations", {(data["o"]["s"], data["o"]["T"] * 1000)}
        case _:
            return "funding", {(row["s"], row["E"] * 1000) for row in rows}


async def collect(server: Server, path: str, seen: Marked) -> None:
    """Note what futures frames say, until playback is done, connecting anew after each cut."""
    while server.player.state != "done":
        with contextlib.suppress(ConnectionClosed):
            async with socket(server, path, "BINANCE_FUTURES") as client:
                await read_frames(client, server, seen)


async def read_frames(client: ClientConnection, server: Server, seen: Marked) -> None:
    quiet = False
    while server.player.state != "done" or not quiet:
        try:
            channel, marks = marks_of(json.loads(await asyncio.wait_for(client.recv(), 0.2)))
            seen.setdefault(channel, set()).update(marks)
            quiet = False
        except TimeoutError:
            quiet = True


async def test_the_ledger_of_every_feed_is_what_a_client_got_even_through_faults() -> None:
    feeds = ["BINANCE_FUTURES", "BINANCE_FUTURES_LIQUIDATIONS", "BINANCE_FUTURES_FUNDING"]
    async with synthetic(70, "gap=5,duplicate=5,reorder=5,cut=2", venues="BINANCE_FUTURES", feeds=feeds) as server:
        seen: Marked = {}
        paths = (f"/market/stream?streams={MARKET}", f"/public/stream?streams={PUBLIC}")
        await asyncio.wait_for(asyncio.gather(*(collect(server, path, seen) for path in paths)), 2 * PATIENCE_SECONDS)
        assert set(seen) == {"trades", "quotes", "books", "klines", "funding", "liquidations"}
        for channel, marks in seen.items():
            _, told = await get(server, f"/sim/ledger?venue=BINANCE_FUTURES&channel={channel}")
            assert {(s, one) for s, row in told["symbols"].items() for one in row["ids"]} == marks, channel
        figures = server.pages.stats()["venues"]["BINANCE_FUTURES"]
        assert figures["injected"]["cut"] == 2
        assert figures["observable"]["gaps"] == figures["injected"]["gap"] == 5
        assert figures["observable"]["gap_trades"] == figures["injected"]["gap_trades"]
        assert figures["channels"]["funding"]["missed"] == figures["channels"]["liquidations"]["missed"] == 0
        for channel in seen:
            row = figures["channels"][channel]
            assert row["issued"] >= row["delivered_unique"] > 0


async def test_a_stream_on_the_wrong_route_is_acknowledged_and_stays_silent() -> None:
    async with synthetic(venues="BINANCE_FUTURES") as server:
        async with socket(server, "/public/ws", "BINANCE_FUTURES") as wrong:
            await wrong.send('{"method":"SUBSCRIBE","params":["btcusdt@aggTrade","ethusdt@aggTrade"],"id":1}')
            assert json.loads(await wrong.recv()) == {"result": None, "id": 1}
            await wrong.send('{"method":"LIST_SUBSCRIPTIONS","id":2}')
            listed = {"result": ["btcusdt@aggTrade", "ethusdt@aggTrade"], "id": 2}
            assert json.loads(await wrong.recv()) == listed
            assert server.pages.stats()["waiting_for"] == ["btcusdt@aggTrade", "ethusdt@aggTrade"]
            seen: Marked = {}
            await asyncio.wait_for(collect(server, f"/market/stream?streams={MARKET}", seen), PATIENCE_SECONDS)
            await wrong.send('{"method":"LIST_SUBSCRIPTIONS","id":3}')
            assert json.loads(await wrong.recv()) == {**listed, "id": 3}
        with pytest.raises(InvalidStatus):
            await socket(server, "/private/ws", "BINANCE_FUTURES")


async def test_venues_play_side_by_side_and_a_cut_is_the_venues_own() -> None:
    venues = "BINANCE_SPOT,BINANCE_FUTURES,BINANCE_OPTIONS"
    async with synthetic(20, "cut=2", venues=venues) as server:
        seen: Marked = {}
        observer = Observer()
        playing = asyncio.gather(observer.follow(server), collect(server, f"/market/stream?streams={MARKET}", seen))
        await asyncio.wait_for(playing, PATIENCE_SECONDS)
        stats = server.pages.stats()
        assert {name: row["injected"]["cut"] for name, row in stats["venues"].items()} == {
            **{"BINANCE_SPOT": 2, "BINANCE_FUTURES": 2, "BINANCE_OPTIONS": 0},
        }
        assert observer.cuts == 2
        assert stats["frames_issued"] == sum(row["frames_issued"] for row in stats["venues"].values())
        assert all(row["position"]["time_ns"] > EPOCH_NS + 19 * SECOND_NS for row in stats["venues"].values())
        status, marks = await get(server, "/BINANCE_OPTIONS/eapi/v1/mark")
        _, told = await get(server, "/sim/ledger?venue=BINANCE_OPTIONS&channel=option_tickers")
        assert status == 200
        assert {symbol for symbol, row in told["symbols"].items() if row["delivered"] == 1} == {
            row["symbol"] for row in marks
        }
        assert (await get(server, "/NOSUCH/api/v3/time"))[0] == 404
        assert (await get(server, "/sim/ledger?venue=NOSUCH&channel=trades"))[0] == 404


async def test_playback_waits_for_the_feeds_that_are_to_be_collected() -> None:
    async with synthetic(venues="BINANCE_SPOT,BINANCE_FUTURES", feeds=["BINANCE_FUTURES_LIQUIDATIONS"]) as server:
        assert server.pages.stats()["waiting_for"] == ["!forceOrder@arr"]
        await asyncio.wait_for(collect(server, f"/market/stream?streams={MARKET}", {}), PATIENCE_SECONDS)
    klines = synthetic(venues="BINANCE_FUTURES", feeds=["BINANCE_FUTURES_KLINES"])
    assert len(klines.pages.stats()["waiting_for"]) == 5
    with pytest.raises(SimulatorError, match="no feed KRAKEN here"):
        synthetic(feeds=["KRAKEN"])


async def test_a_weight_beyond_the_budget_is_refused_with_a_time_to_come_back() -> None:
    async with synthetic(venues="BINANCE_OPTIONS") as server, aiohttp.ClientSession() as session:
        url = f"http://{server.address}/BINANCE_OPTIONS/eapi/v1/mark"
        codes = []
        for _ in range(2 * 400 // 5 + 10):  # a minute may end in between
            async with session.get(url) as answer:
                codes.append(answer.status)
                if answer.status != 200:
                    assert 1 <= int(answer.headers["Retry-After"]) <= 121
        assert codes == sorted(codes, key=[200, 429, 418].index)
        assert {429, 418} <= set(codes)


def command(*arguments: str, ready: Path | None = None) -> "subprocess.Popen[str]":
    environment = {**os.environ, **({"RAVEN_READY_FILE": str(ready)} if ready else {})}
    return subprocess.Popen(
        [sys.executable, "-m", "simulator", *arguments], env=environment, stderr=subprocess.PIPE, text=True
    )


async def test_the_command_says_where_it_serves_and_stops_when_told(tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    process = command("--synthetic", "--symbols", "BTCUSDT", ready=ready)
    try:
        await until(ready.exists, "the ready file")
        environment = json.loads(ready.read_text())
        address = environment["RAVEN_SIMULATOR_URL"].removeprefix("http://")
        assert environment == {
            "RAVEN_VENUES__BINANCE_SPOT__WS_URL": f"ws://{address}/BINANCE_SPOT",
            "RAVEN_VENUES__BINANCE_SPOT__REST_URL": f"http://{address}/BINANCE_SPOT",
            "RAVEN_VENUES__BINANCE_SPOT__OTHER_WS_URLS": f'["ws://{address}/BINANCE_SPOT~2"]',
            "RAVEN_SIMULATOR_URL": f"http://{address}",
            "RAVEN_ROUTING__VENUES": '["BINANCE_SPOT"]',
        }
        async with connect(f"ws://{address}/BINANCE_SPOT/ws/btcusdt@trade") as client:
            assert json.loads(await asyncio.wait_for(client.recv(), PATIENCE_SECONDS))["s"] == "BTCUSDT"
    finally:
        process.send_signal(signal.SIGTERM)
        _, told = await asyncio.to_thread(process.communicate, timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, told


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--synthetic", "--fault", "bend=1"], "gap, duplicate, reorder, garbage, cut"),
        (["--synthetic", "--symbols", "NOSUCH"], "no synthetic NOSUCH"),
        (["--recording", "nosuch.frames.zst"], "cannot read the recording nosuch.frames.zst"),
        (["--synthetic", "--venues", "NOSUCH"], "no venue NOSUCH; there are BINANCE_SPOT, "),
        (["--synthetic", "--venues", "BINANCE_SPOT", "--symbols", "BTC/USD"], "BINANCE_SPOT lists none of BTC/USD"),
        (["--synthetic", "--feeds", "NOSUCH"], "no feed NOSUCH here; there are BINANCE_SPOT"),
        (["--synthetic", "--speed", "fast"], "not a speed"),
        (["--synthetic", "--duration", "2"], "not a duration"),
    ],
)
def test_a_wrong_option_ends_it_with_one_clear_line(arguments: list[str], problem: str) -> None:
    process = command(*arguments)
    _, told = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 2
    assert problem in told
    assert "Traceback" not in told
