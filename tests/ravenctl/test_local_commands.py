"""`ravenctl local`: what it prints and the exit codes scripts rely on."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ravenctl.local.commands import app, external_servers
from ravenctl.local.services import SERVICES
from ravenctl.local.stack import Stack


class Cli:
    """Runs the commands on one home, with servers said to be elsewhere."""

    def __init__(self, home: Path, address: str) -> None:
        self.home = home
        self.env = {
            "RAVEN_HOME": str(home),
            "RAVEN_KAFKA__BOOTSTRAP": address,
            "RAVEN_INFLUX__URL": f"http://{address}",
            "RAVEN_MART__DSN": f"postgresql://raven:hush@{address}/raven",
            "RAVEN_REDIS__URL": f"redis://:hush@{address}/0",
        }

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, arguments, env=self.env)


@pytest.fixture
def cli(tmp_path: Path) -> Iterator[Cli]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield Cli(tmp_path / "home", f"127.0.0.1:{server.getsockname()[1]}")
        Stack(tmp_path / "home").down()


def test_up_status_down(cli: Cli) -> None:
    up = cli("up", "--servers-only")
    assert (up.exit_code, "already" in up.output) == (0, False), up.output
    again = cli("up", "--servers-only")
    assert again.exit_code == 0
    assert f"already running in {cli.home}" in again.output
    assert "hush" not in up.output + again.output + cli("status").output
    status = cli("status", "--json")
    assert status.exit_code == 0
    endpoints = json.loads(status.output)["endpoints"]
    assert endpoints["kafka_bootstrap"] == cli.env["RAVEN_KAFKA__BOOTSTRAP"]
    assert endpoints["postgres_dsn"] == cli.env["RAVEN_MART__DSN"]
    assert (cli("down").output, cli("status").exit_code) == ("stopped\n", 3)


def test_nothing_running_is_3_for_status_and_fine_for_down(cli: Cli) -> None:
    status = cli("status")
    assert (status.exit_code, status.output) == (3, f"nothing runs in {cli.home}: use `ravenctl local up`\n")
    down = cli("down")
    assert (down.exit_code, down.output) == (0, f"nothing was running in {cli.home}\n")
    assert not cli.home.exists()


def test_a_killed_supervisor_is_not_running(cli: Cli) -> None:
    cli("up", "--servers-only")
    state = Stack(cli.home).status()
    assert state
    os.kill(state.supervisor.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while cli("status").exit_code != 3:
        assert time.monotonic() < deadline


def test_an_expected_failure_is_one_line_and_1(cli: Cli) -> None:
    cli.env["RAVEN_KAFKA__BOOTSTRAP"] = "127.0.0.1:1"
    up = cli("up")
    assert up.exit_code == 1
    assert up.output.startswith("kafka at 127.0.0.1:1, named by your configuration, does not answer")
    assert up.output.count("\n") == 1


def test_logs_shows_the_last_lines(cli: Cli) -> None:
    cli("up", "--servers-only")
    shown = cli("logs", "supervisor", "-n", "1")
    assert shown.exit_code == 0
    assert shown.output.count("\n") == 1
    unknown = cli("logs", "kafka")
    assert (unknown.exit_code, "there are: supervisor" in unknown.output) == (3, True)


@pytest.mark.parametrize("command", ["up", "down", "status", "logs"])
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    shown = CliRunner().invoke(app, [command, "--help"])
    assert shown.exit_code == 0
    assert f"Example: ravenctl local {command}" in shown.output


def test_only_servers_that_are_named_are_external() -> None:
    assert external_servers({"RAVEN_KAFKA__BOOTSTRAP": "h:1", "RAVEN_MART__DSN": ""}) == {"kafka": "h:1"}


def test_services_have_names_of_their_own() -> None:
    names = [service.name for service in SERVICES]
    assert len(set(names)) == len(names) == 6
