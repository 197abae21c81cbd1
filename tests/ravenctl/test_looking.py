"""status, shutdown, topics and doctor on a real broker, with real processes under a real supervisor."""

import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from ravencore import kafka
from ravencore.config import KafkaSettings
from ravencore.records import RECORD_OF
from ravencore.topics import TOPICS
from ravenctl.cli import app
from ravenctl.local.broker import Broker
from ravenctl.local.stack import Stack
from ravenctl.local.state import ServiceSpec
from ravenctl.shell import FAILED, USAGE

pytestmark = pytest.mark.stack
SERVICE = Path(__file__).with_name("small_service.py")
NAMES = ("collector", "engine", "sink-lake")


def small(name: str, home: Path, *more: str, restarts: int = 20) -> ServiceSpec:
    argv = [sys.executable, "-P", str(SERVICE), name, *more, str(home)]
    return ServiceSpec(name=name, argv=argv, restarts=restarts)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in which a stack of small services runs."""
    folder = tmp_path_factory.mktemp("looking")
    with Broker() as broker, socket.create_server(("127.0.0.1", 0)) as server:
        kafka.ensure_topics(KafkaSettings(bootstrap=broker.bootstrap))
        at = f"127.0.0.1:{server.getsockname()[1]}"
        elsewhere = {
            "kafka": broker.bootstrap,
            "questdb": f"http://{at}",
            "postgres": f"postgresql://raven:hush@{at}/r",
        }
        stack = Stack(
            folder / ".raven", [small(name, folder) for name in NAMES], elsewhere | {"redis": f"redis://{at}"}
        )
        stack.up()
        try:
            yield folder
        finally:
            stack.down()


@pytest.fixture(autouse=True)
def inside(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.delenv("RAVEN_HOME", raising=False)


@pytest.fixture
def stack(home: Path) -> Iterator[Stack]:
    """The stack; afterwards all of its first services run again."""
    stack = Stack(home / ".raven")
    yield stack
    stack.add(*(small(name, home) for name in NAMES))
    all_run()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def statuses() -> dict[str, dict[str, Any]]:
    done = run("status", "--json")
    assert done.exit_code == 0, done.output
    return {one["service"]: one for one in json.loads(done.output)}


def until(condition: Callable[[], Any], told: Callable[[], Any] = str, seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"it did not come about in time {told()}"
        time.sleep(0.05)
    return value


def all_run() -> None:
    def waiting() -> list[Any]:
        return [(one["instance"], one["state"], one["supervisor"]) for one in statuses().values() if one["supervisor"]]

    until(lambda: all(state == "RUNNING" for _, state, _ in waiting()), waiting)


def state_is(name: str, *states: str) -> Callable[[], Any]:
    return lambda: one if (one := statuses()[name])["state"] in states else None


def test_both_sides_of_a_service_are_told(stack: Stack) -> None:
    all_run()
    found = {name: one for name, one in statuses().items() if one["supervisor"]}
    assert list(found) == list(NAMES)
    assert {(one["supervisor"], one["restarts"] + one["restarts_left"]) for one in found.values()} == {("running", 20)}
    shown = run("status").output
    assert " left" in shown
    assert "d ago SILENCE" in shown


def test_a_killed_service_shows_within_five_seconds_and_what_is_left(stack: Stack) -> None:
    before = until(state_is("engine", "RUNNING"))
    restarts = before["restarts"] + 1
    os.kill(before["pid"], signal.SIGKILL)
    killed = time.monotonic()
    until(lambda: statuses()["engine"]["restarts"] == restarts)
    after = statuses()["engine"]
    assert time.monotonic() - killed < 5.0
    assert after["state"] in ("RESTARTING", "STARTING") or after["pid"] != before["pid"]
    assert after["restarts_left"] == before["restarts_left"] - 1
    assert after["last_error"] == f"killed by signal 9, restart {restarts}"
    again = until(state_is("engine", "RUNNING"))
    assert again["pid"] != before["pid"]


def test_a_process_that_hangs_is_silent_within_five_seconds(stack: Stack) -> None:
    pid = until(state_is("sink-lake", "RUNNING"))["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: statuses()["sink-lake"]["gone"], seconds=5.5)
        assert " silent " in run("status").output
        asked = run("shutdown", "--service", "sink-lake")
        assert (asked.exit_code, asked.output.splitlines()) == (
            FAILED,
            [f"sink-lake-0 hangs: end its process with `kill -9 {pid}`, its supervisor then starts it again"],
        )
    finally:
        os.kill(pid, signal.SIGCONT)


def test_one_whose_restarts_are_spent_has_failed_in_its_own_words(stack: Stack, home: Path) -> None:
    stack.add(small("sink-redis", home, restarts=0))
    until(state_is("sink-redis", "RUNNING"))
    (home / "die-sink-redis").touch()
    failed = until(state_is("sink-redis", "FAILED"), seconds=5.0)
    assert (failed["restarts_left"], failed["last_error"]) == (0, "ended with code 1: the disk is full")
    assert "the disk is full" in run("status").output
    stack.remove("sink-redis")
    assert not statuses()["sink-redis"]["supervisor"]  # its last report remains, and is gone soon


def test_one_service_is_shut_down_and_stays_down_until_it_is_started(stack: Stack, home: Path) -> None:
    restarts = until(state_is("engine", "RUNNING"))["restarts"]
    done = run("shutdown", "--service", "engine", "--json")
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told == {"ended": ["engine-0"], "left": [], "not_asked": [], "not_running": [], "hanging": {}}
    until(lambda: statuses()["engine"]["supervisor"] == "stopped")
    assert statuses()["collector"]["state"] == "RUNNING"
    assert (statuses()["engine"]["state"], statuses()["engine"]["restarts"]) == ("STOPPED", restarts)
    again = run("shutdown", "--service", "engine")
    assert (again.exit_code, again.output) == (0, "engine: does not run\nnothing ran\n")
    # What was asked of the one before is not asked of the next.
    stack.add(small("engine", home))
    until(state_is("engine", "RUNNING"))


def test_all_are_shut_down_in_the_order_of_the_stream_also_from_afar(
    stack: Stack, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    all_run()
    state = stack.status()
    assert state
    monkeypatch.chdir(tmp_path)  # where no supervisor is known, and reports alone tell
    done = run("--bootstrap", state.endpoints.kafka_bootstrap, "shutdown")
    monkeypatch.chdir(home)
    assert done.exit_code == 0, done.output
    lines = [line.strip() for line in done.output.splitlines()]
    assert lines == [
        *("asked to end: collector-0", "collector-0 ended"),
        *("asked to end: engine-0", "engine-0 ended"),
        *("asked to end: sink-lake-0", "sink-lake-0 ended"),
        "3 ended",
    ]
    until(lambda: all(one["supervisor"] in ("stopped", None) for one in statuses().values()))


def test_what_does_not_end_is_told_and_what_comes_after_it_is_not_asked(stack: Stack, home: Path) -> None:
    stack.add(small("engine", home, "deaf"))
    all_run()
    done = run("shutdown", "--timeout", "2s")
    assert done.exit_code == FAILED
    assert "still there after 2 s: engine-0" in done.output
    assert "not asked, as they work off what those bring: sink-lake-0" in done.output
    assert statuses()["sink-lake"]["state"] == "RUNNING"


def test_a_service_that_is_none_is_a_wrong_use() -> None:
    done = run("shutdown", "--service", "enginee")
    assert done.exit_code == USAGE, done.output
    assert "did you mean engine?" in done.output


def topics() -> dict[str, Any]:
    done = run("topics", "--json")
    assert done.exit_code == 0, done.output
    return {one["topic"]: one for one in json.loads(done.output)}


def test_every_topic_is_told() -> None:
    until(lambda: topics()["raven.status"]["records"])
    told = topics()
    assert list(told) == [topic.name for topic in TOPICS]
    assert told.keys() == RECORD_OF.keys()
    status = told["raven.status"]
    assert (status["there"], status["partitions"], status["cleanup"], status["holds"]) == (
        True,
        1,
        "compact",
        "service_status",
    )
    assert 0 <= status["newest_age_s"] < 60
    assert (told["raven.trades"]["records"], told["raven.trades"]["newest_age_s"]) == (0, None)
    assert told["raven.gaps"]["retention_ms"] == 365 * 86_400_000


def test_the_doctor_says_what_is_well_and_what_is_not_and_tells_no_password() -> None:
    done = run("doctor", "--json")
    assert done.exit_code == FAILED  # nothing speaks HTTP or PostgreSQL where the stores are said to be
    level = {one["check"]: one["level"] for one in json.loads(done.output)}
    well = ("Python", "configuration", "Kafka", "topics", "clocks", "demands", "dead letters", "gaps", "lake")
    assert {name: level[name] for name in well} == dict.fromkeys(well, "ok")
    assert (level["influx"], level["timescale"], level["redis"]) == ("FAILED", "FAILED", "warning")
    assert "hush" not in done.output
    assert "version 4." in done.output


def test_the_local_stack_is_where_settings_come_from() -> None:
    told = {one["setting"]: one for one in json.loads(run("config", "show", "--json").output)}
    assert told["kafka.bootstrap"]["from"].startswith("local stack ")
    assert "hush" not in json.dumps(told)
    assert told["mart.dsn"]["value"].startswith("postgresql://raven:***@127.0.0.1:")
