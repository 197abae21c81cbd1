"""`ravenctl doctor`: what it makes of what it sees; that it sees is tried in test_looking."""

import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from ravencore.config import RoutingSettings, Settings
from ravencore.records import Demand, FeedName, ServiceStatus
from ravencore.topics import TOPICS
from ravenctl import doctor
from ravenctl.cli import app
from ravenctl.findings import Finding
from ravenctl.services import Seen, seen
from ravenctl.shell import FAILED
from ravenctl.topicsview import Told, expected
from tests.ravenctl.made import TIME, status

SETTINGS = Settings()
DAY_US = 86_400_000_000


def services(*statuses: ServiceStatus) -> list[Seen]:
    return seen({one.instance: one for one in statuses}, None, TIME)


def judged(
    *statuses: ServiceStatus, lag_before: dict[str, int] | None = None, needed: tuple[str, ...] = ()
) -> list[Finding]:
    return list(doctor.judge_services(services(*statuses), lag_before or {}, TIME, needed))


def changed(name: str, **more: Any) -> ServiceStatus:
    return msgspec.structs.replace(status(name), **more)


def test_services_that_run_are_well() -> None:
    (finding,) = judged(status("collector"), status("engine"))
    assert (finding.level, finding.text) == ("ok", "collector, engine run")


@pytest.mark.parametrize(
    ("one", "level", "told"),
    [
        (changed("engine", reported_time=TIME - 9_000_000), "FAILED", "engine-0 is gone, it reported last 9 s ago"),
        (changed("engine", state="FAILED", last_error="no", last_error_time=1), "FAILED", "engine-0 is FAILED: no"),
        (changed("engine", state="DEGRADED"), "warning", "engine-0 is DEGRADED"),
    ],
)
def test_one_that_does_not_run_well_is_told(one: ServiceStatus, level: str, told: str) -> None:
    (finding,) = judged(status("collector"), one)
    assert (finding.level, finding.text) == (level, told)
    assert finding.todo


def test_one_that_was_asked_to_end_is_no_fault_and_one_that_another_stands_in_for_is_history() -> None:
    gone = changed("collector", instance="collector-before", reported_time=TIME - 60_000_000)
    (finding,) = judged(status("collector"), gone, changed("engine", state="STOPPED"))
    assert (finding.level, finding.text) == ("ok", "collector run")


@pytest.mark.parametrize(
    "others", [(), (changed("engine", state="STOPPED"),), (changed("engine", reported_time=TIME - 2 * DAY_US),)]
)
def test_one_that_demands_need_and_that_does_not_run_is_a_fault(others: tuple[ServiceStatus, ...]) -> None:
    (finding,) = judged(status("collector"), *others, needed=("engine", "collector"))
    assert (finding.level, finding.text) == ("FAILED", "demands stand that need engine, which does not run")
    assert "ravenctl local up" in finding.todo


def test_one_that_is_gone_is_told_once_though_demands_need_it() -> None:
    gone = changed("engine", reported_time=TIME - 9_000_000)
    (finding,) = judged(status("collector"), gone, needed=("engine", "collector"))
    assert "engine-0 is gone" in finding.text


def test_lag_that_grows_is_told_and_lag_that_shrinks_is_not() -> None:
    lagging = changed("engine", lag={"raven.trades": 9_000})
    (finding,) = judged(lagging, lag_before={"engine-0": 5_000})
    assert (finding.level, "5,000" in finding.text, "9,000" in finding.text) == ("warning", True, True)
    assert [one.level for one in judged(lagging, lag_before={"engine-0": 12_000})] == ["ok"]


def topics(**changes: Any) -> list[Finding]:
    there = []
    for topic in TOPICS:
        count, cleanup, kept = expected(topic, SETTINGS.kafka)
        told = Told(topic=topic.name, partitions=count, records=0, cleanup=cleanup, retention_ms=kept)
        there.append(Told(**{**vars(told), **changes}) if topic.name == "raven.control" else told)
    return list(doctor.judge_topics(there, SETTINGS))


def test_topics_as_they_are_made_are_well() -> None:
    assert [one.level for one in topics()] == ["ok"]


@pytest.mark.parametrize(
    ("changes", "level", "told"),
    [
        ({"partitions": None}, "FAILED", "raven.control not there"),
        ({"cleanup": "delete"}, "FAILED", "raven.control is cleaned up by delete, not compact"),
        ({"partitions": 3}, "warning", "raven.control has 3 partitions, configured are 1"),
    ],
)
def test_topics_that_are_otherwise_are_told(changes: dict[str, Any], level: str, told: str) -> None:
    (finding,) = topics(**changes)
    assert (finding.level, finding.text) == (level, told)


def demand(**more: Any) -> Demand:
    return Demand(**{"demand_id": "1", "user": "ada", "symbol": "BTCUSDT", "created_time": 1, **more})


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (demand(venues=("NYSE",)), "no source of these has it"),
        (demand(feeds=(FeedName("NYSE", "trades", "IBM"),)), "there is no trades of NYSE"),
        (demand(venues=("KRAKEN",), outputs=("bars.hour",)), "there is no bars.hour"),
    ],
)
def test_a_demand_that_nobody_serves_is_told(made: Demand, told: str) -> None:
    (finding,) = doctor.judge_demands([made], {}, RoutingSettings())
    assert finding.level == "warning"
    assert told in finding.text
    assert "ada" in finding.text
    assert "ravenctl stop --id 1 --user ada" in finding.todo


def test_one_that_cannot_be_read_is_told_with_the_command_that_withdraws_it() -> None:
    (finding,) = doctor.judge_demands([], {"my own": "no Avro"}, RoutingSettings())
    assert "no Avro" in finding.text
    assert finding.todo == "withdraw it with `ravenctl stop --id 'my own'`"


def test_one_that_is_served_is_well() -> None:
    (finding,) = doctor.judge_demands([demand(), demand(venues=("KRAKEN:TRADES",))], {}, RoutingSettings())
    assert (finding.level, finding.text) == ("ok", "2 stand, and ask for nothing that there is not")


def test_a_dead_kafka_is_told_soon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        server = f"127.0.0.1:{mute.getsockname()[1]}"
        began = time.monotonic()
        done = CliRunner().invoke(app, ["--bootstrap", server, "doctor"])
        assert time.monotonic() - began < 10.0
    assert done.exit_code == FAILED
    (line,) = (line for line in done.output.splitlines() if line.split()[1] == "Kafka")
    assert line.startswith("FAILED")
    assert server in line
    assert "ravenctl local up" in line


def test_a_wrong_configuration_is_told_line_by_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAVEN_KAFKAA__BOOTSTRAP", "hush")
    monkeypatch.setenv("RAVEN_KAFKA__PARTITIONS", "many")
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == FAILED
    assert [line.split()[0] for line in done.output.splitlines()[1:]] == ["FAILED", "FAILED"]
    assert "hush" not in done.output
