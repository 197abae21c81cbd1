"""`kill -9` in the middle of a replay: the supervisor starts the service again, and nothing is lost or made twice."""

import json
import os
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ravenctl.local.stack import Stack
from tests.e2e.made import TRADES, Demo, command

pytestmark = [pytest.mark.stack, pytest.mark.timeout(600)]

PACE = "3"
"""80 s of market in 27 s: long enough for services to die and come back."""
EVERY_FRAMES = 1_000


def issued(home: Path) -> int:
    """Frames that the simulator has issued so far."""
    announced = home / "demo" / "run" / "simulator.json"
    if not announced.exists():
        return 0
    with urllib.request.urlopen(json.loads(announced.read_text())["RAVEN_SIMULATOR_URL"] + "/sim/stats") as response:
        return int(json.load(response)["position"]["frames"])


def pid_of(home: Path, service: str) -> int | None:
    state = Stack(home / "demo").status()
    member = state.members.get(service) if state else None
    return member.pid if member and member.state == "running" else None


def until(condition: Callable[[], Any], seconds: float = 90.0) -> Any:
    """The condition's value as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)
    return value


def killed(home: Path, files: list[str], *services: str) -> Demo:
    """A demo in which each service is killed after so many more frames."""
    figures = home / "figures.json"
    options = ["--json", str(figures), "--recording", *files, "--speed", PACE]
    with subprocess.Popen(
        command(home, *options), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        for number, service in enumerate(services, start=1):
            until(lambda least=number * EVERY_FRAMES: issued(home) > least)  # type: ignore[misc]
            os.kill(until(lambda name=service: pid_of(home, name)), signal.SIGKILL)  # type: ignore[misc]
        assert running.stdout is not None
        output = running.stdout.read()
        code = running.wait(60)
    return Demo(home, code, output, json.loads(figures.read_text()) if figures.exists() else {})


def test_killed_services_change_nothing_and_what_was_sent_meanwhile_is_fetched_over_rest(
    files: list[str], clean: Demo, tmp_path: Path
) -> None:
    # The collector dies when the first file is past its first hole, which was given up, and well before its second.
    services = ("engine", "sink-influx", "sink-timescale", "collector", "engine")
    found = killed(tmp_path, files, *services)
    assert found.exit_code == 0, found.output
    figures = found.figures
    assert all(figures["restarts"][name] >= services.count(name) for name in services)
    assert figures["restarts"]["collector"] == 1
    assert figures["digest"] == clean.figures["digest"]
    assert figures["bars"] == clean.figures["bars"]
    assert figures["trades_in_kafka"] == figures["trades_in_influx"] == 2 * TRADES - 4
    assert figures["repaired"] > 4
    assert figures["repaired_late"] == 0
    assert figures["repaired_by_cause"] == {"DISCONNECT": 2}
    assert (figures["gaps_by_cause"], figures["missing_ids"]) == ({"SEQUENCE": 2}, 4)
