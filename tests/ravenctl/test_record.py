"""`ravenctl record` as a person runs it, against the simulator and a venue that misbehaves; no Kafka anywhere."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from typer.testing import CliRunner

from producers.collector.recorder import Recorder, Recording
from producers.contract import CHANNELS, Receipt, Stream
from producers.recording import FRAMES
from producers.registry import SOURCES
from ravencore.config import BinanceSpotSettings, Settings, VenuesSettings
from ravenctl import record
from ravenctl.cli import app
from ravenctl.demands import wanted
from ravenctl.record import Rate, make_plan
from ravenctl.shell import FAILED, INTERRUPTED, UNAVAILABLE, USAGE
from simulator.recording import lines, read_bodies
from tests.producers.made import book_frame, reply_frame, trade_frame
from tests.producers.rig import Simulator, until

VENUE = ("--venue", "BINANCE_SPOT")
SPOT = ("--synthetic", "--venues", "BINANCE_SPOT")
FUTURES = ("--synthetic", "--venues", "BINANCE_FUTURES")
NOW_US = 1_723_161_253_937_123


class Machine:
    """Simulators and recorders as processes of their own; all end with the test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._simulators: list[Simulator] = []
        self._recorders: list[subprocess.Popen[str]] = []

    def simulator(self, *options: str) -> Simulator:
        self._simulators.append(Simulator(self._folder, *options))
        return self._simulators[-1]

    def recorder(self, environment: Mapping[str, str], out: Path, *options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ravenctl", "record", "--out", str(out), *options]
        self._recorders.append(
            subprocess.Popen(
                command, env={**os.environ, **environment}, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        )
        return self._recorders[-1]

    def end(self) -> None:
        for simulator in self._simulators:
            simulator.process.kill()
            simulator.process.wait()
        for recorder in self._recorders:
            recorder.kill()
            recorder.communicate()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    yield made
    made.end()


def stats(simulator: Simulator) -> Any:
    """Of all its venues."""
    with urllib.request.urlopen(simulator.environment["RAVEN_SIMULATOR_URL"] + "/sim/stats") as answer:
        return json.load(answer)


def played(simulator: Simulator) -> None:
    until(lambda: stats(simulator)["state"] == "done", "the simulator has played all")


def ended(process: subprocess.Popen[str], number: int = signal.SIGINT) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def market_frames(path: Path) -> list[bytes]:
    """Without the replies to the recorder's requests."""
    return [raw for _, raw in lines(path) if b'"stream"' in raw]


def one_file(folder: Path, ending: str) -> Path:
    (found,) = folder.glob(f"*{ending}")
    return found


def has_recorded(folder: Path, frames: int) -> Callable[[], bool]:
    return lambda: any(sum(1 for _ in lines(path)) >= frames for path in folder.glob("*.frames.zst"))


# Against the simulator


def test_what_is_recorded_and_played_again_gives_the_same_frames(tmp_path: Path, machine: Machine) -> None:
    symbols = ("--symbol", "BTCUSDT", "--symbol", "ETH/USDT", "--venue", "BINANCE_SPOT")
    market = machine.simulator(*SPOT, "--symbols", "BTCUSDT,ETHUSDT", "--speed", "max", "--duration", "30s")
    first = machine.recorder(market.environment, tmp_path / "first", *symbols)
    played(market)
    code, out, err = ended(first)
    assert (code, err) == (0, "")
    path = one_file(tmp_path / "first", ".frames.zst")
    assert f"play it back: ravenctl demo --recording {path}\n" in out
    again = machine.simulator("--recording", str(path), "--speed", "max")
    second = machine.recorder(again.environment, tmp_path / "second", *symbols)
    played(again)
    assert ended(second)[0] == 0
    frames = market_frames(path)
    issued = stats(market)["venues"]["BINANCE_SPOT"]["symbols"]
    for symbol in ("BTCUSDT", "ETHUSDT"):
        ids = [
            json.loads(raw)["data"]["t"]
            for raw in frames
            if raw.startswith(f'{{"stream":"{symbol.lower()}@trade'.encode())
        ]
        assert ids == list(range(issued[symbol]["first_id"], issued[symbol]["last_id"] + 1))
    assert market_frames(one_file(tmp_path / "second", ".frames.zst")) == frames
    listings = list(read_bodies(one_file(tmp_path / "first", ".rest.jsonl.zst")))
    described = {one["symbol"] for body in listings for one in json.loads(body.body)["symbols"]}
    assert described == {"BTCUSDT", "ETHUSDT"}


def told_by(folder: Path, source: str) -> list[bytes]:
    """The frames that hold records; Coinbase numbers the messages of each connection, its heartbeats among them."""
    stream = SOURCES[source]
    assert isinstance(stream, Stream)
    (path,) = (path for path in folder.glob(f"{source.lower()}_*{FRAMES}") if "_books_" not in path.name)
    receipt = Receipt(2 * NOW_US)
    market = [raw for _, raw in lines(path) if any(type(one) in CHANNELS for one in stream.parse(raw, receipt))]
    return [re.sub(rb'"sequence_num":\d+', b"", raw) for raw in market]


def test_the_other_venues_play_what_was_recorded_of_them(tmp_path: Path, machine: Machine) -> None:
    sources = ("KRAKEN", "COINBASE", "DERIBIT_OPTIONS", "DERIBIT_TRADES", "DERIBIT_INDEX")
    # Without its book a recording knows nothing of the perpetual, and the recorder of it would be refused.
    books = ("COINBASE_BOOKS", "DERIBIT_BOOKS")
    venues = ("KRAKEN", "COINBASE", "DERIBIT")
    pace = ("--speed", "max", "--feeds", ",".join((*sources, *books)))
    what = [*(f"--venue={venue}" for venue in (*venues, "DERIBIT_TRADES")), "--symbol", "BTC/USD"]
    what += ["--with", "trades,quotes,books,option_tickers,index_prices,volatility_index"]

    def record_it(simulator: Simulator, out: Path) -> None:
        process = machine.recorder(simulator.environment, out, *what)
        played(simulator)
        code, _, err = ended(process)
        assert (code, err) == (0, "")

    market = ("--synthetic", "--venues", ",".join(venues), "--symbols", "BTC/USD", "--duration", "5s")
    record_it(machine.simulator(*market, *pace), tmp_path / "first")
    recorded = sorted(map(str, (tmp_path / "first").glob(f"*{FRAMES}")))
    record_it(machine.simulator("--recording", *recorded, *pace), tmp_path / "second")
    for source in sources:
        first = told_by(tmp_path / "first", source)
        assert first, source
        assert told_by(tmp_path / "second", source) == first, source


def test_a_recorder_killed_with_9_leaves_a_recording_that_plays(tmp_path: Path, machine: Machine) -> None:
    market = machine.simulator(*SPOT, "--symbols", "BTCUSDT", "--speed", "1")
    process = machine.recorder(market.environment, tmp_path / "out", "--symbol", "BTCUSDT")
    folder = tmp_path / "out"
    until(has_recorded(folder, 100), "something is recorded")
    process.kill()
    process.communicate()
    path = one_file(folder, ".frames.zst")
    frames = market_frames(path)
    again = machine.simulator("--recording", str(path), "--speed", "max")
    second = machine.recorder(again.environment, tmp_path / "second", "--symbol", "BTCUSDT")
    played(again)
    assert ended(second)[0] == 0
    assert market_frames(one_file(tmp_path / "second", ".frames.zst")) == frames


def test_faults_are_recorded_as_they_come_and_counted(tmp_path: Path, machine: Machine) -> None:
    market = machine.simulator(
        *SPOT, "--symbols", "BTCUSDT", "--speed", "max", "--duration", "1m", "--fault", "garbage=4,cut=1", "--seed", "3"
    )
    process = machine.recorder(market.environment, tmp_path, "--symbol", "BTCUSDT")
    played(market)
    code, out, _ = ended(process)
    assert code == 0
    assert "the connection was lost" in out
    assert "BINANCE_SPOT: 4 are recorded and cannot be parsed: " in out
    accepted = stats(market)["connections"]["accepted"]
    replies = [raw for _, raw in lines(one_file(tmp_path, ".frames.zst")) if b'"result"' in raw]
    assert accepted == len(replies) == 2


def test_a_poll_and_a_whole_market_have_files_of_their_own(tmp_path: Path, machine: Machine) -> None:
    market = machine.simulator(
        *FUTURES, "--symbols", "BTCUSDT,ETHUSDT", "--speed", "1", "--feeds", "BINANCE_FUTURES_FUNDING"
    )
    process = machine.recorder(market.environment, tmp_path / "out", "--venue", "BINANCE_FUTURES")
    folder = tmp_path / "out"

    def all_there() -> bool:
        polled = list(folder.glob("binance_futures_oi*.rest.jsonl.zst"))
        asked = {body.url.partition("?")[0].rpartition("/")[2] for path in polled for body in read_bodies(path)}
        return "openInterest" in asked and len(list(folder.glob("*.frames.zst"))) == 3

    until(all_there, "three streams and a poll are recorded")
    code, out, err = ended(process, signal.SIGTERM)
    assert (code, err) == (0, "")
    files = out.rpartition("--recording ")[2].split()
    named = {Path(name).name.rpartition("_")[0] for name in files}
    assert named >= {"binance_futures_funding", "binance_futures_oi"}
    assert {path.name for path in folder.iterdir()} >= {Path(name).name for name in files}


def test_a_duration_ends_it_and_an_interrupted_one_says_so(tmp_path: Path, machine: Machine) -> None:
    market = machine.simulator(*SPOT, "--symbols", "BTCUSDT", "--speed", "1")
    process = machine.recorder(market.environment, tmp_path / "a", "--symbol", "BTCUSDT", "--duration", "500ms")
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "play it back" in out
    process = machine.recorder(market.environment, tmp_path / "b", "--symbol", "BTCUSDT", "--duration", "1h")
    until(has_recorded(tmp_path / "b", 1), "something is recorded")
    code, out, _ = ended(process)
    assert code == INTERRUPTED
    assert "play it back" in out


def test_a_symbol_that_is_not_listed_ends_it_and_leaves_nothing(tmp_path: Path, machine: Machine) -> None:
    market = machine.simulator(*SPOT, "--symbols", "BTCUSDT", "--speed", "1")
    process = machine.recorder(market.environment, tmp_path / "out", "--symbol", "NOSUCHUSDT", *VENUE)
    _, err = process.communicate(timeout=60)
    assert process.returncode == FAILED
    assert err.startswith("ravenctl: NOSUCHUSDT of BINANCE_SPOT cannot be recorded: BINANCE_SPOT refuses NOSUCHUSDT")
    assert len(err.splitlines()) == 1
    assert list((tmp_path / "out").iterdir()) == []


# Against a venue that misbehaves

CALLS = web.AppKey("calls", list[str])
SAID: list[bytes | str] = [
    trade_frame(7, 0.0).decode(),
    '{"stream": "btcusdt@trade",  "data": {"odd": "spaces stay"} }',
    "not JSON, with an umlaut: ü",
    '{"pretty":\n\t1}',
    b"\x00\x01\xfe\xff",
    "",
    book_frame().decode(),
]


async def misbehaving(request: web.Request) -> web.StreamResponse:
    """A listing, and a socket that says all of SAID when it is subscribed, the last of it after a cut."""
    if request.headers.get("Upgrade") != "websocket":
        return web.json_response({"symbols": [LISTED]})
    calls = request.app[CALLS]
    calls.append(request.path)
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            break
        await socket.send_str(reply_frame(json.loads(message.data)["id"]).decode())
        for said in SAID[:-1] if len(calls) == 1 else SAID[-1:]:
            await (socket.send_bytes(said) if isinstance(said, bytes) else socket.send_str(said))
        if len(calls) == 1:
            await socket.close()
    return socket


LISTED = {"symbol": "BTCUSDT", "status": "TRADING", "baseAsset": "BTC", "quoteAsset": "USDT", "filters": []}


def test_every_byte_is_kept_over_a_reconnect_and_in_order(tmp_path: Path) -> None:
    recording = Recording(SOURCES["BINANCE_SPOT"], tmp_path, "x")

    async def run() -> list[str]:
        app = web.Application()
        app[CALLS] = []
        app.router.add_get("/{path:.*}", misbehaving)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        address = f"127.0.0.1:{runner.addresses[0][1]}"
        endpoints = BinanceSpotSettings(ws_url=f"ws://{address}", rest_url=f"http://{address}")
        settings = Settings(venues=VenuesSettings(BINANCE_SPOT=endpoints))
        told: list[str] = []
        wants = {"BINANCE_SPOT": {"BTCUSDT": frozenset({"trades", "books", "quotes"})}}
        stop = asyncio.Event()
        task = asyncio.create_task(Recorder(settings, wants, [recording], told.append).run(stop))
        async with asyncio.timeout(30):
            while recording.counts["frames"] < len(SAID) + 2:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
        stop.set()
        await task
        await runner.cleanup()
        return told

    told = asyncio.run(run())
    assert any("the connection was lost" in text for text in told)
    kept = [raw.decode() for _, raw in lines(tmp_path / "x.frames.zst")]
    replies = [raw for raw in kept if '"result"' in raw]
    assert kept == [replies[0], *SAID[:3], replies[1], SAID[-1]]
    assert (recording.counts["odd"], recording.counts["records"], recording.counts["bad"]) == (3, 2, 5)


def test_nobody_there_is_one_line_and_exit_code_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "START_S", 0.5)
    monkeypatch.setenv("RAVEN_VENUES__BINANCE_SPOT__REST_URL", "http://127.0.0.1:1")
    result = CliRunner().invoke(
        app, ["record", "--venue", "BINANCE_SPOT", "--symbol", "BTCUSDT", "--out", str(tmp_path / "new" / "folder")]
    )
    assert result.exit_code == UNAVAILABLE
    assert "http://127.0.0.1:1/api/v3/exchangeInfo?symbol=BTCUSDT cannot be reached" in result.stderr
    assert "RAVEN_VENUES__BINANCE_SPOT" in result.stderr
    assert len(result.stderr.splitlines()) == 1


# What is asked for


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "name a --symbol"),
        (["--venue", "BINANCE_SPOT"], "is collected by symbol"),
        (["--venue", "BINANCE_OPTIONS", "--symbol", "BTCUSDT"], "leave --symbol out"),
        (["--venue", "NYSE", "--symbol", "X"], "there are"),
        (["--venue", "BINANCE_SPOT", "--symbol", "BTCUSDT", "--out", "x.zst"], "is called like NAME.frames.zst"),
        (["--venue", "BINANCE_SPOT", "--symbol", "BTCUSDT", "--out", ".frames.zst"], "is called like NAME.frames.zst"),
        (["--venue", "BINANCE_OPTIONS", "--out", "x.frames.zst"], "is called like NAME.rest.jsonl.zst"),
        (["--venue", "BINANCE_FUTURES", "--out", "x.frames.zst"], "4 sources: name a folder"),
        (["--venue", "BINANCE_OPTIONS", "--out", "/dev/null/x"], "--out /dev/null/x: "),
        (["--venue", "BINANCE_OPTIONS", "--duration", "soon"], "is no duration"),
    ],
)
def test_wrong_use_is_told_with_what_to_write_instead(
    args: list[str], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, ["record", *args])
    assert (result.exit_code, says in result.stderr) == (USAGE, True), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x.frames.zst"
    path.write_bytes(b"mine")
    result = CliRunner().invoke(app, ["record", "--venue", "BINANCE_SPOT", "--symbol", "BTCUSDT", "--out", str(path)])
    assert result.exit_code == FAILED
    assert result.stderr == f"ravenctl: {path} exists already: name another with --out\n"
    assert path.read_bytes() == b"mine"


def test_a_single_source_can_be_named_and_whole_markets_beside_symbols(tmp_path: Path) -> None:
    def names(symbols: list[str], venues: list[str], outputs: list[str]) -> list[str]:
        want = wanted(symbols, venues, "me", outputs)
        plan = make_plan(want, Settings(), tmp_path, None, NOW_US)
        return [recording.main.name.removesuffix(".zst") for recording in plan.recordings]

    assert names([], ["BINANCE_FUTURES_OI"], []) == ["binance_futures_oi_20240808T235413.rest.jsonl"]
    assert names(["PEPE/USDT"], ["BINANCE_FUTURES"], ["trades", "funding"]) == [
        "binance_futures_1000pepeusdt_20240808T235413.frames",
        "binance_futures_funding_20240808T235413.frames",
    ]


def test_a_rate_is_of_the_last_seconds() -> None:
    rate = Rate()
    rate.add(0.0, 0)
    assert rate.per_second == 0.0
    for second in range(1, 40):
        rate.add(float(second), 10 * max(second - 20, 0))
    assert rate.per_second == 10.0
