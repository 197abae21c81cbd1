"""The whole of Raven in one process tree: what goes in at an exchange is found, exactly, at the other end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ravenctl.local import state
from ravenctl.local.stack import Stack
from tests.e2e.made import TRADES, Demo, command, demo

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(scope="module")
def faulty(files: list[str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """A run with every fault that a replay at its own pace can have, kept."""
    home = tmp_path_factory.mktemp("faulty")
    faults = "gap=0.003,duplicate=20,reorder=20,garbage=9,cut=3"
    try:
        yield demo(home, "--recording", *files, "--speed", "max", "--fault", faults, "--seed", "7", "--keep")
    finally:
        Stack(home / "demo").down()


def processes(home: Path) -> list[str]:
    """Command lines of whatever runs for this home."""
    found = []
    for process in psutil.process_iter():
        try:
            told = " ".join(process.cmdline()) + process.environ().get("RAVEN_READY_FILE", "")
        except psutil.Error:
            continue
        if str(home) in told and state.runs(process):
            found.append(told)
    return found


def test_every_trade_arrives_everywhere(clean: Demo) -> None:
    assert clean.exit_code == 0, clean.output
    figures = clean.figures
    unique = 2 * TRADES - 4
    assert clean.broken == []
    assert figures["trades_received"] == figures["trades_unique"] == unique
    assert figures["trades_in_kafka"] == figures["trades_in_influx"] == unique
    assert figures["books_in_kafka"] == figures["books_in_influx"] == 2 * TRADES // 10
    assert figures["in_lake"] == {"trades": unique, "books": 2 * TRADES // 10}
    assert figures["frames"] == unique + 2 * TRADES // 10
    assert figures["symbols"]["BINANCE_SPOT:BTCUSDT"]["kafka"] == TRADES - 4
    assert figures["symbols"]["BINANCE_SPOT:ETHUSDT"]["kafka"] == TRADES


def test_the_recordings_own_holes_are_gaps(clean: Demo) -> None:
    """Whoever asks for them over REST is told nothing."""
    assert (clean.figures["gaps"], clean.figures["missing_ids"], clean.figures["unfilled"]) == (2, 4, 0)
    assert clean.figures["gaps_by_cause"] == {"SEQUENCE": 2}
    assert clean.figures["repaired"] == 0
    assert clean.figures["symbols"]["BINANCE_SPOT:BTCUSDT"]["missing_ids"] == 4
    assert clean.figures["duplicates"] == clean.figures["dead_letters"] == 0


def test_every_bar_is_in_the_mart(clean: Demo) -> None:
    bars = clean.figures["bars"]
    driven = (f"{kind}/{kind}_{size}" for kind in ("tib", "trb", "vib") for size in ("small", "large"))
    kinds = ("time/1s", "time/1m", *driven, "vpin/default")
    assert {f"{kind}/BINANCE_SPOT:{symbol}" for kind in kinds for symbol in SYMBOLS} == set(bars)
    assert all(counts["kafka"] == counts["mart"] > 0 for counts in bars.values())
    assert clean.figures["mart_mismatches"] == 0
    # 4,000 trades, one each 20 ms, and the window that is open at the end is no bar.
    assert bars["time/1s/BINANCE_SPOT:ETHUSDT"]["kafka"] == TRADES * 20 // 1000 - 1


def test_the_time_to_a_consumer_is_measured(clean: Demo) -> None:
    assert 0 < clean.figures["latency_ms"]["p50"] <= clean.figures["latency_ms"]["p99"]
    assert clean.figures["seconds"] > 0
    assert clean.figures["trades_per_second"] == pytest.approx(
        clean.figures["trades_unique"] / clean.figures["seconds"], rel=0.01
    )


def test_a_demo_leaves_nothing_behind(clean: Demo) -> None:
    assert processes(clean.home) == []
    assert not (clean.home / "demo").exists()


def test_no_fault_changes_a_bar(clean: Demo, faulty: Demo) -> None:
    """What was left out is fetched over REST and put back in order: the bars are those of the run without faults."""
    assert faulty.exit_code == 0, faulty.output
    assert faulty.figures["repaired"] > 10
    assert faulty.figures["repaired_late"] == 0
    assert faulty.figures["trades_in_kafka"] == 2 * TRADES - 4
    assert faulty.figures["digest"] == clean.figures["digest"]


def test_faults_are_counted_exactly(faulty: Demo) -> None:
    figures, injected = faulty.figures, faulty.figures["injected"]
    assert injected["duplicate"] == figures["duplicates"] == 20
    assert injected["garbage"] == figures["dead_letters"] == 9
    assert (injected["reorder"], injected["cut"]) == (20, 3)
    assert figures["repaired"] >= injected["gap_trades"] >= injected["gap"] > 10
    assert (figures["gaps"], figures["missing_ids"], figures["unfilled"]) == (2, 4, 0)


def test_a_person_is_told_that_all_was_mended(faulty: Demo) -> None:
    injected, repaired = faulty.figures["injected"], faulty.figures["repaired"]
    gaps = f"injected: {injected['gap']} gaps of {injected['gap_trades']} trades, 20 duplicates, 20 reorders,"
    assert gaps in faulty.output
    assert f"all {repaired} trades were fetched over REST and put back in order" in faulty.output


# What was kept


def ravenctl(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """Run from a folder below the one that holds `.raven`, as a person would."""
    executable, env = command(folder)[:3], {**os.environ, "RAVEN_ROUTING__VENUES": '["BINANCE_SPOT"]'}
    return subprocess.run(
        [*executable, *args], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def folder(faulty: Demo, tmp_path: Path) -> Path:
    """A folder in which commands find the kept demo by themselves."""
    assert faulty.exit_code == 0, faulty.output  # else they would find whatever runs on the usual ports
    (tmp_path / ".raven").mkdir()
    (tmp_path / ".raven" / "demo").symlink_to(faulty.home / "demo")
    (tmp_path / "below").mkdir()
    return tmp_path / "below"


def json_lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_kept_demo_can_be_looked_at(folder: Path, faulty: Demo) -> None:
    series = "tib/tib_small/BINANCE_SPOT:BTCUSDT"
    bars = json_lines(ravenctl(folder, "tail", "bars.tib", "-n", "100000", "--json"))
    ours = [bar for bar in bars if bar["symbol"] == "BTCUSDT" and bar["profile"] == "tib_small"]
    assert [bar["bar_seq"] for bar in ours] == list(range(faulty.figures["bars"][series]["kafka"]))
    assert all(set(bar["close"]) <= set("0123456789.") for bar in ours)
    letters = json_lines(ravenctl(folder, "tail", "dead_letters", "--json"))
    assert len(letters) == faulty.figures["dead_letters"]


def test_status_of_a_kept_demo(folder: Path) -> None:
    done = ravenctl(folder, "status", "--json")
    assert done.returncode == 0, done.stderr
    services = {one["service"]: one for one in json.loads(done.stdout)}
    assert {"collector", "engine", "sink-influx", "sink-timescale"} <= services.keys()
    assert not any(one["gone"] for one in services.values())
    feeds = {(feed["channel"], feed["symbol"]) for feed in services["collector"]["subscriptions"]}
    assert feeds == {(channel, symbol) for channel in ("trades", "books", "quotes") for symbol in SYMBOLS}
    assert "collector" in ravenctl(folder, "status").stdout


def test_stopping_the_kept_demos_feeds(folder: Path) -> None:
    done = ravenctl(folder, "stop", "--symbol", "BTCUSDT")
    assert done.returncode == 0, done.stderr
    assert "BINANCE_SPOT:BTCUSDT stays: demo still wants it" in done.stdout
    done = ravenctl(folder, "stop", "--symbol", "BTCUSDT", "--all-users")
    assert done.returncode == 0, done.stderr
    assert "BINANCE_SPOT:BTCUSDT not subscribed" in done.stdout
    services = {one["service"]: one for one in json.loads(ravenctl(folder, "status", "--json").stdout)}
    assert {feed["symbol"] for feed in services["collector"]["subscriptions"]} == {"ETHUSDT"}


# Ctrl-C


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tmp_path), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as running:
        assert running.stdout is not None
        output = ""
        while "playing" not in output:
            line = running.stdout.readline()
            assert line, output
            output += line
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
        assert running.wait(60) == 130, output + rest
    assert "Traceback" not in output + rest
    deadline = time.monotonic() + 10
    while processes(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes(tmp_path) == []


@pytest.mark.parametrize("end", ["terminal closed", "pipe closed"])
def test_losing_its_output_leaves_nothing_running(end: str, tmp_path: Path) -> None:
    ours, theirs = os.openpty() if end == "terminal closed" else os.pipe()
    with subprocess.Popen(command(tmp_path), stdout=theirs, stderr=theirs, start_new_session=True) as running:
        os.close(theirs)
        output = b""
        while b" running" not in output:  # some servers are, others start
            output += os.read(ours, 1000)
        os.close(ours)
        if end == "terminal closed":
            running.send_signal(signal.SIGHUP)
        assert running.wait(60) != 0
    assert processes(tmp_path) == []
