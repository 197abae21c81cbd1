"""`start`, `status`, `tail` and `stop` against an exchange that goes on and on, as a person types them."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ravenctl.demo_plan import Plan, services
from ravenctl.local.stack import Stack

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

SYMBOLS = ("BTCUSDT", "ETHUSDT")
CHANNELS = ("trades", "books", "quotes")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose `.raven` holds a running stack with a synthetic exchange of two symbols."""
    folder = tmp_path_factory.mktemp("market")
    stack = Stack(folder / ".raven", services(Plan("synthetic", folder / ".raven", symbols=SYMBOLS)))
    try:
        stack.up(timeout_seconds=300)
        # Services make the topics as they start, which may take them longer than a test.
        done = ravenctl(folder, "setup")
        assert done.returncode == 0, done.stderr
        yield folder
    finally:
        stack.down()


def ravenctl(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ravenctl", *args],
        cwd=folder,
        env={**os.environ, "RAVEN_ROUTING__VENUES": '["BINANCE_SPOT"]'},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def subscriptions(folder: Path) -> dict[tuple[str, str], str]:
    """Feeds by channel and symbol, as the collector reports them."""
    done = ravenctl(folder, "status", "--json")
    assert done.returncode == 0, done.stderr
    (collector,) = (one for one in json.loads(done.stdout) if one["service"] == "collector")
    return {(feed["channel"], feed["symbol"]): feed["state"] for feed in collector["subscriptions"]}


def stats(folder: Path) -> dict[str, Any]:
    """What BINANCE_SPOT itself says."""
    url = json.loads((folder / ".raven" / "run" / "simulator.json").read_text())["RAVEN_SIMULATOR_URL"]
    with urllib.request.urlopen(f"{url}/sim/stats") as response:
        told: dict[str, Any] = json.load(response)["venues"]["BINANCE_SPOT"]
    return told


def until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The condition's value as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.2)
    return value


def newest(folder: Path, topic: str) -> list[dict[str, Any]]:
    done = ravenctl(folder, "tail", topic, "-n", "50", "--json")
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_demand_from_its_start_to_its_end(folder: Path) -> None:
    """Ann wants two symbols, Bob one of them: each feed lives exactly as long as somebody wants it."""
    done = ravenctl(folder, "start", "--symbol", "btcusdt", "--symbol", "ETHUSDT", "--user", "ann", "--timeout", "2m")
    assert done.returncode == 0, done.stderr
    assert "running: BTCUSDT, ETHUSDT" in done.stdout
    assert subscriptions(folder) == {(c, s): "FLOWING" for c in CHANNELS for s in SYMBOLS}

    until(lambda: {bar.get("symbol") for bar in newest(folder, "bars.time")} >= set(SYMBOLS))
    assert {trade["symbol"] for trade in newest(folder, "trades") if "symbol" in trade} == set(SYMBOLS)

    done = ravenctl(folder, "start", "--symbol", "BTCUSDT", "--user", "bob", "--venue", "binance_spot")
    assert done.returncode == 0, done.stderr
    done = ravenctl(folder, "start", "--symbol", "BTCUSDT", "--user", "bob", "--venue", "BINANCE_SPOT")
    assert "already demanded by bob" in done.stdout

    done = ravenctl(folder, "stop", "--symbol", "BTCUSDT", "--symbol", "ETHUSDT", "--user", "ann")
    assert done.returncode == 0, done.stderr
    assert "2 demands withdrawn" in done.stdout
    assert "BINANCE_SPOT:BTCUSDT stays: bob still wants it" in done.stdout
    assert "BINANCE_SPOT:ETHUSDT not subscribed" in done.stdout
    assert subscriptions(folder) == {(channel, "BTCUSDT"): "FLOWING" for channel in CHANNELS}
    # The exchange agrees: what it issues of the one reaches nobody, of the other it does.
    before = stats(folder)["symbols"]
    until(lambda: stats(folder)["symbols"]["BTCUSDT"]["delivered"] > before["BTCUSDT"]["delivered"])
    until(lambda: stats(folder)["symbols"]["ETHUSDT"]["issued"] > before["ETHUSDT"]["issued"])
    assert stats(folder)["symbols"]["ETHUSDT"]["delivered"] == before["ETHUSDT"]["delivered"]

    done = ravenctl(folder, "stop", "--symbol", "BTCUSDT", "--user", "bob")
    assert done.returncode == 0, done.stderr
    assert subscriptions(folder) == {}
    until(lambda: stats(folder)["connections"]["open"] == 0)


def test_a_symbol_nobody_lists(folder: Path) -> None:
    done = ravenctl(folder, "start", "--symbol", "nosuchcoin")
    assert done.returncode == 1
    assert "NOSUCHCOIN" in done.stderr
    assert "ravenctl stop --symbol NOSUCHCOIN" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert ravenctl(folder, "stop", "--symbol", "NOSUCHCOIN").returncode == 0


def test_a_service_that_is_not_there_is_named(folder: Path) -> None:
    stack = Stack(folder / ".raven")
    stack.remove("sink-influx")
    try:
        done = ravenctl(folder, "start", "--symbol", "BTCUSDT", "--timeout", "6s")
    finally:
        stack.add(*(one for one in services(Plan("live", folder)) if one.name == "sink-influx"))
    assert done.returncode == 1
    assert "sink-influx: STOPPED" in done.stderr or "sink-influx: not seen" in done.stderr
    assert "collector:" not in done.stderr
    done = ravenctl(folder, "start", "--symbol", "BTCUSDT")
    assert done.returncode == 0, done.stderr
    assert ravenctl(folder, "stop", "--symbol", "BTCUSDT").returncode == 0
