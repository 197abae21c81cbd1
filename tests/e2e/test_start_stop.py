"""What a person types, from the first demand to the last, against exchanges that go on and on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import psycopg
import pytest
from typer.testing import CliRunner

from ravenctl.cli import app
from ravenctl.local.services import SERVICES
from ravenctl.local.stack import Stack
from ravenctl.local.state import Endpoints
from tests.producers.rig import Simulator

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]

VENUES = ("BINANCE_SPOT", "KRAKEN")
BTC = {"BINANCE_SPOT:BTCUSDT", "KRAKEN:BTC/USDT"}
ETH = {"BINANCE_SPOT:ETHUSDT", "KRAKEN:ETH/USDT"}
CHANNELS = ("trades", "books", "quotes")
TRUTH_S = 5.0
"""Within this long, status says what is."""
SLACK_S = 15.0
"""What a machine that is busy with other tests may add to it, the start of the command included."""


@dataclass
class House:
    """A folder whose `.raven` holds a running stack, and the exchanges it collects from."""

    folder: Path
    exchange: Simulator
    stack: Stack

    @property
    def endpoints(self) -> Endpoints:
        state = self.stack.status()
        assert state is not None
        return state.endpoints

    def ravenctl(self, *args: str, fails: int = 0) -> str:
        """What a command writes: on standard output, or where it is to fail with this code, its error."""
        done = subprocess.run(
            [sys.executable, "-m", "ravenctl", *args],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=200,
        )
        assert done.returncode == fails, f"{done.stdout}\n{done.stderr}"
        return done.stderr if fails else done.stdout

    def look(self, *args: str) -> Any:
        """What a command that only looks writes as JSON; in this process, which is quicker."""
        done = CliRunner().invoke(app, [*args, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    def services(self) -> dict[str, Any]:
        """What status says of each service."""
        return {one["service"]: one for one in self.look("status")}

    def running(self) -> set[str]:
        """The services that run."""
        return {name for name, one in self.services().items() if one["state"] == "RUNNING" and not one["gone"]}

    def feeds(self) -> dict[tuple[str, str, str], str]:
        """Feeds by venue, channel and symbol, as status has them."""
        subscriptions = self.services().get("collector", {}).get("subscriptions", ())
        return {(one["venue"], one["channel"], one["symbol"]): one["state"] for one in subscriptions}

    def demands(self) -> list[Any]:
        found: list[Any] = self.look("user")["demands"]
        return found

    def newest(self, topic: str) -> list[dict[str, Any]]:
        done = CliRunner().invoke(app, ["tail", topic, "-n", "50", "--json"])
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    options = ("--synthetic", "--venues", ",".join(VENUES), "--symbols", "BTCUSDT,ETHUSDT", "--speed", "1")
    exchange = Simulator(folder, *options)
    env = {**exchange.environment, "RAVEN_LAKE__BATCH_S": "1"}
    stack = Stack(folder / ".raven", [msgspec.structs.replace(one, env={**one.env, **env}) for one in SERVICES])
    with ExitStack() as at_end:
        at_end.enter_context(chdir(folder))
        settings = at_end.enter_context(pytest.MonkeyPatch.context())
        settings.setenv("RAVEN_ROUTING__VENUES", json.dumps(VENUES))
        settings.setenv("RAVEN_ROUTING__SYMBOLS", json.dumps(["BTC/USDT"]))
        at_end.enter_context(exchange.process)
        at_end.callback(exchange.process.kill)
        at_end.callback(stack.down)
        stack.up(timeout_seconds=300)
        yield House(folder, exchange, stack)


def until(condition: Callable[[], Any], what: str, seconds: float = 90.0) -> Any:
    """The condition's value as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.2)
    return value


def feeds_of(*instruments: str) -> set[tuple[str, str, str]]:
    return {(one.split(":")[0], channel, one.split(":")[1]) for one in instruments for channel in CHANNELS}


def flowing(feeds: Mapping[tuple[str, str, str], str]) -> set[tuple[str, str, str]]:
    return {feed for feed, state in feeds.items() if state == "FLOWING"}


def planned(plan: Mapping[str, Any], what: str) -> set[tuple[str, str, str]]:
    return {(one["venue"], one["channel"], one["symbol"]) for one in plan[what]["feeds"]}


def in_the_mart(house: House, table: str) -> set[str]:
    with psycopg.connect(house.endpoints.postgres_dsn) as mart:
        rows = mart.execute(
            f"SELECT DISTINCT exchange.name || ':' || coin.name || '/' || quote.name FROM mart.{table} AS fact "
            "JOIN mart.dim__exchange AS exchange USING (exchange_id) JOIN mart.dim__coin AS coin USING (coin_id) "
            "JOIN mart.dim__quote AS quote USING (quote_id)"
        ).fetchall()
    return {str(row[0]) for row in rows}


def in_the_lake(house: House, record: str) -> set[str]:
    files = list(Path(house.endpoints.lake_uri).glob(f"v1/{record}/**/*.parquet"))
    if not files:
        return set()
    names = [str(file) for file in files]
    with duckdb.connect() as lake:
        rows = lake.execute("SELECT DISTINCT venue || ':' || symbol FROM read_parquet(?)", [names]).fetchall()
    return {str(row[0]) for row in rows}


def test_the_whole_story(house: House) -> None:
    """Two symbols of two venues with bars and two stores; one withdrawn; a service killed; everything restarted."""
    # Two symbols on two venues, ticks into InfluxDB's stand-in, bars into the mart, nothing into the lake.
    options = ("--symbol", "btcusdt", "--symbol", "ETH/USDT", "--user", "ann", "--into", "influx,timescale")
    plan = house.look("plan", *options)
    told = house.ravenctl("start", *options, "--timeout", "2m")
    assert "running: BTCUSDT, ETH/USDT" in told
    assert flowing(house.feeds()) == feeds_of(*BTC, *ETH) == planned(plan, "begins")
    # A start waits for the services that it needs; the others may take a moment longer.
    until(lambda: house.running() == {one.name for one in SERVICES}, "all services run")
    until(lambda: {f"{one.get('venue')}:{one.get('symbol')}" for one in house.newest("bars.time")} >= BTC | ETH, "bars")
    until(lambda: in_the_mart(house, "fact__time_bar") >= {"BINANCE_SPOT:BTC/USDT", "KRAKEN:ETH/USDT"}, "the mart")
    assert not in_the_lake(house, "bar") | in_the_lake(house, "trade")

    # Ann's other demand, for all of BTCUSDT in the lake, and Bob's for its ticks alone.
    house.ravenctl("start", "--symbol", "BTCUSDT", "--user", "bob", "--with", "trades", "--into", "lake")
    until(lambda: in_the_lake(house, "trade") == BTC, "the lake has BTC's trades")
    assert not in_the_lake(house, "bar")

    # One withdrawn: it ends at the exchange, and everything else goes on.
    plan = house.look("plan", "--stop", "--symbol", "ETHUSDT", "--user", "ann")
    assert json.loads(house.ravenctl("stop", "--symbol", "ETHUSDT", "--user", "ann", "--json")) == plan
    assert flowing(house.feeds()) == feeds_of(*BTC)
    assert planned(plan, "ends") == feeds_of(*ETH)
    before = house.exchange.stats()["symbols"]
    until(lambda: house.exchange.stats()["symbols"]["ETHUSDT"]["issued"] > before["ETHUSDT"]["issued"], "it goes on")
    assert house.exchange.stats()["symbols"]["ETHUSDT"]["delivered"] == before["ETHUSDT"]["delivered"]

    # A service killed: status says so, and it is back by itself.
    pid = house.services()["engine"]["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: (one := house.services()["engine"])["pid"] != pid or one["gone"], "killed", TRUTH_S + SLACK_S)
    until(lambda: (one := house.services()["engine"])["pid"] != pid and one["state"] == "RUNNING", "it is back")
    assert house.services()["engine"]["restarts"] == 1

    # Everything restarted, the servers too: what was demanded runs, and nobody says it again.
    house.ravenctl("local", "down")
    assert "nothing runs" in house.ravenctl("local", "status", fails=3)
    house.stack.up(timeout_seconds=300)
    until(lambda: flowing(house.feeds()) == feeds_of(*BTC), "all flows again")
    at_us = time.time_ns() // 1000
    until(lambda: any(one.get("close_time", "") > _iso(at_us) for one in house.newest("bars.time")), "new bars")

    # Ann stops: what Bob wants stays. Then Bob does: nothing is left, and the exchange has nobody.
    told = house.ravenctl("stop", "--symbol", "BTCUSDT", "--user", "ann")
    assert "BINANCE_SPOT:BTCUSDT stays: bob still wants it" in told
    assert flowing(house.feeds()) == {feed for feed in feeds_of(*BTC) if feed[1] == "trades"}
    house.ravenctl("stop-all", "--user", "bob")
    assert house.feeds() == {}
    until(lambda: house.exchange.stats()["connections"]["open"] == 0, "no connection")
    assert house.look("user") == {"demands": [], "unreadable": []}


def _iso(micros: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(micros / 1e6))


def test_services_end_and_come_back(house: House) -> None:
    """A sink is shut down: it ends and is not restarted; a start that needs it wakes it."""
    house.ravenctl("shutdown", "--service", "sink-influx")
    assert house.services()["sink-influx"]["state"] == "STOPPED"
    options = ("--symbol", "BTCUSDT", "--with", "trades", "--into", "influx")
    told = json.loads(house.ravenctl("start", *options, "--json"))
    assert told["services_started"] == ["sink-influx"]
    assert [one["symbol"] for one in told["demands"]] == ["BTCUSDT"]
    assert {(one["venue"], one["channel"], one["symbol"]) for one in told["feeds"]} == flowing(house.feeds())
    assert house.services()["sink-influx"]["state"] == "RUNNING"
    house.ravenctl("stop-all")


def test_without_a_symbol_all_that_is_configured_starts(house: House) -> None:
    house.ravenctl("start", "--timeout", "2m")
    assert flowing(house.feeds()) == feeds_of(*BTC)
    house.ravenctl("stop-all")


def test_a_symbol_nobody_lists(house: House) -> None:
    error = house.ravenctl("start", "--symbol", "nosuchcoin", fails=1)
    assert "NOSUCHCOIN" in error
    assert "withdraw it with `ravenctl stop --id " in error
    assert len(error.splitlines()) == 1
    house.ravenctl(*error.rpartition("`ravenctl ")[2].rstrip("`\n").split())
    assert house.demands() == []


def test_a_demand_that_is_withdrawn_while_it_is_waited_for(house: House) -> None:
    """Two operators at once, and a collector that is slow to hear of either: who waits is told what the other did."""
    pid = house.services()["collector"]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        with operator(house, "start", "--symbol", "BTCUSDT", "--user", "ann") as ann:
            until(house.demands, "ann's demand")
            with operator(house, "stop-all", "--all-users", "--user", "bob") as bob:
                until(lambda: not house.demands(), "bob's withdrawal")
                os.kill(pid, signal.SIGCONT)
                _, error = ann.communicate(timeout=90)
                bob.communicate(timeout=90)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert (ann.returncode, bob.returncode) == (1, 0)
    assert "somebody withdrew it meanwhile" in error
    assert house.feeds() == {}


def operator(house: House, *args: str) -> subprocess.Popen[str]:
    """A command that runs beside others."""
    return subprocess.Popen(
        [sys.executable, "-m", "ravenctl", *args],
        cwd=house.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
