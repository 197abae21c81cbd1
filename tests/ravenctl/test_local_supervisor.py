"""The supervisor with real services and no servers (the servers are said to be elsewhere, so it is quick)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import msgspec
import psutil
import pytest

from ravenctl.local.errors import StackError
from ravenctl.local.stack import Stack
from ravenctl.local.state import MemberState, ServiceSpec, StackState


@pytest.fixture
def elsewhere() -> Iterator[dict[str, str]]:
    """Something that takes connections where the three servers are said to be."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        at = f"127.0.0.1:{server.getsockname()[1]}"
        yield {
            "kafka": at,
            "questdb": f"http://{at}",
            "postgres": f"postgresql://raven@{at}/raven",
            "redis": f"redis://{at}/0",
        }


@pytest.fixture
def home(tmp_path: Path, elsewhere: dict[str, str]) -> Iterator[Path]:
    folder = tmp_path / "home"
    yield folder
    Stack(folder).down()
    assert processes_of(folder) == []


def processes_of(home: Path) -> list[str]:
    """Processes that name the home in their command line."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(home) in line]


def service(home: Path, name: str, code: str, **more: object) -> ServiceSpec:
    """A service that runs the code with the home as its argument."""
    argv = [sys.executable, "-c", f"import json, os, signal, sys, time\n{code}", str(home)]
    return ServiceSpec(name=name, argv=argv, **more)  # type: ignore[arg-type]


SLEEP = "time.sleep(600)"


T = TypeVar("T")


def until(answer: Callable[[], T | None], seconds: float = 10.0) -> T:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := answer():
            return found
        time.sleep(0.01)
    raise AssertionError(f"not within {seconds} s")


def member(stack: Stack, name: str) -> MemberState:
    state = stack.status()
    assert state
    return state.members[name]


def reached(stack: Stack, name: str, phase: str, restarts: int = 0) -> MemberState:
    def there() -> MemberState | None:
        now = member(stack, name)
        return now if now.state == phase and now.restarts >= restarts else None

    return until(there)


def test_a_second_up_finds_it_running(home: Path, elsewhere: dict[str, str]) -> None:
    stack = Stack(home, [service(home, "a", SLEEP)], elsewhere)
    first = stack.up()
    second = Stack(home, [service(home, "a", SLEEP)], elsewhere).up()
    assert second.supervisor == first.supervisor
    assert second.members["a"].pid == first.members["a"].pid


def test_services_are_told_where_the_servers_are(home: Path, elsewhere: dict[str, str]) -> None:
    code = f"json.dump(dict(os.environ), open(sys.argv[1] + '/env', 'w')); {SLEEP}"
    Stack(home, [service(home, "sink", code, env={"OWN": "1"})], elsewhere).up()
    env = json.loads((home / "env").read_text())
    assert env["RAVEN_KAFKA__BOOTSTRAP"] == elsewhere["kafka"]
    assert env["RAVEN_INFLUX__URL"] == elsewhere["questdb"]
    assert env["RAVEN_MART__DSN"] == elsewhere["postgres"]
    assert env["RAVEN_REDIS__URL"] == elsewhere["redis"]
    assert "RAVEN_INFLUX__FLAVOUR" not in env  # what serves there is the user's to say
    assert (env["RAVEN_SERVICE__NAME"], env["RAVEN_SERVICE__INSTANCE"], env["OWN"]) == ("sink", "sink-0", "1")


def test_a_killed_service_is_back_within_two_seconds(home: Path, elsewhere: dict[str, str]) -> None:
    stack = Stack(home, [service(home, "a", SLEEP)], elsewhere)
    before = stack.up().members["a"]
    assert before.pid
    began = time.monotonic()
    os.kill(before.pid, signal.SIGKILL)
    after = reached(stack, "a", "running", restarts=1)
    assert time.monotonic() - began < 2.0
    assert after.pid != before.pid
    assert after.last_exit == "killed by signal 9"
    assert "a killed by signal 9" in stack.log_path("supervisor").read_text()


def test_a_spent_budget_is_failed_with_the_last_words_until_up_again(home: Path, elsewhere: dict[str, str]) -> None:
    code = (
        "while not os.path.exists(sys.argv[1] + '/die'): time.sleep(0.01)\n"
        "print('the disk is full', file=sys.stderr); sys.exit(7)"
    )
    stack = Stack(home, [service(home, "a", code, restarts=2)], elsewhere)
    stack.up()
    (home / "die").touch()
    failed = reached(stack, "a", "failed")
    assert (failed.restarts, failed.last_exit, failed.pid) == (2, "ended with code 7", None)
    assert failed.last_error == ["the disk is full"]
    (home / "die").unlink()
    assert stack.up().members["a"].state == "running"


def test_restarts_left_are_told_as_of_now(home: Path, elsewhere: dict[str, str]) -> None:
    stack = Stack(home, [service(home, "a", SLEEP, restarts=3, restart_window_seconds=1.5)], elsewhere)
    first = stack.up().members["a"]
    assert (first.restarts_left, first.pid is None) == (3, False)
    os.kill(first.pid or 0, signal.SIGKILL)
    assert reached(stack, "a", "running", restarts=1).restarts_left == 2
    until(lambda: member(stack, "a").restarts_left == 3)  # nothing happens, but time passes


def test_a_service_that_was_asked_to_end_stays_stopped_until_it_is_named(home: Path, elsewhere: dict[str, str]) -> None:
    code = "while not os.path.exists(sys.argv[1] + '/end'): time.sleep(0.01)\nos.remove(sys.argv[1] + '/end')"
    asked, other = service(home, "asked", code), service(home, "other", SLEEP)
    stack = Stack(home, [asked, other], elsewhere)
    stack.up()
    (home / "end").touch()
    ended = reached(stack, "asked", "stopped")
    assert (ended.restarts, ended.last_exit, ended.pid, ended.last_error) == (0, "ended with code 0", None, [])
    assert stack.restart("other").members["asked"].state == "stopped"
    assert stack.add(service(home, "more", SLEEP)).members["asked"].state == "stopped"
    assert Stack(home, [], elsewhere).up().members["asked"].state == "stopped"
    assert stack.add(asked).members["asked"].state == "running"
    (home / "end").touch()
    reached(stack, "asked", "stopped")
    assert stack.up().members["asked"].state == "running"


def test_a_service_that_ends_at_once_fails_up(home: Path, elsewhere: dict[str, str]) -> None:
    with pytest.raises(StackError, match=r"brief ended by itself .ended with code 0"):
        Stack(home, [service(home, "brief", "")], elsewhere).up()


def test_a_service_that_cannot_start_fails_up_and_leaves_nothing(home: Path, elsewhere: dict[str, str]) -> None:
    services = [service(home, "good", SLEEP), service(home, "bad", "import no_such_module")]
    with pytest.raises(StackError, match=r"bad does not stay up .*no_such_module"):
        Stack(home, services, elsewhere).up()
    assert processes_of(home) == []


def test_a_program_that_is_not_there_is_said(home: Path, elsewhere: dict[str, str]) -> None:
    with pytest.raises(StackError, match=r"bad does not stay up .could not start.*No such file"):
        Stack(home, [ServiceSpec(name="bad", argv=["/no/such/program"])], elsewhere).up()


def test_ctrl_c_during_up_leaves_nothing(home: Path, elsewhere: dict[str, str]) -> None:
    never = msgspec.json.encode(service(home, "never-ready", SLEEP, announces=True)).decode()
    code = (
        "import sys, msgspec; from pathlib import Path\n"
        "from ravenctl.local.stack import Stack; from ravenctl.local.state import ServiceSpec\n"
        "service = msgspec.json.decode(sys.argv[2], type=ServiceSpec)\n"
        "Stack(Path(sys.argv[1]), [service], msgspec.json.decode(sys.argv[3])).up()"
    )
    arguments = [sys.executable, "-c", code, str(home), never, msgspec.json.encode(elsewhere).decode()]
    with subprocess.Popen(arguments, stderr=subprocess.DEVNULL) as caller:
        until(lambda: (state := Stack(home).status()) and "never-ready" in state.members)
        caller.send_signal(signal.SIGINT)
        caller.wait(10)
    assert processes_of(home) == []


def test_a_server_elsewhere_that_does_not_answer_is_said(home: Path, elsewhere: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        port = gone.getsockname()[1]
    with pytest.raises(StackError, match=f"kafka at 127.0.0.1:{port}, named by your configuration"):
        Stack(home, [], elsewhere | {"kafka": f"127.0.0.1:{port}"}).up()


def test_later_services_start_with_what_an_earlier_one_announced(home: Path, elsewhere: dict[str, str]) -> None:
    announce = (
        "path = os.environ['RAVEN_READY_FILE']; time.sleep(0.3)\n"
        "port = os.environ.get('SIM_PORT', '4711')\n"
        "json.dump({'SIM_PORT': port, 'SIM_LIFE': str(os.getpid())}, open(path + '.new', 'w'))\n"
        f"os.rename(path + '.new', path); {SLEEP}"
    )
    listen = f"open(sys.argv[1] + '/port', 'w').write(os.environ['SIM_PORT']); {SLEEP}"
    services = [service(home, "simulator", announce, announces=True), service(home, "collector", listen)]
    state = Stack(home, services, elsewhere).up()
    assert (home / "port").read_text() == "4711"
    assert list(state.members) == ["simulator", "collector"]


def test_services_are_added_changed_restarted_and_removed_while_others_run(
    home: Path, elsewhere: dict[str, str]
) -> None:
    stack = Stack(home, [service(home, "a", SLEEP)], elsewhere)
    a = stack.up().members["a"].pid
    b = stack.add(service(home, "b", SLEEP)).members["b"].pid
    changed = stack.add(service(home, "b", SLEEP, env={"NEW": "1"})).members["b"].pid
    assert changed not in (None, b)
    again = stack.restart("b").members["b"]
    assert again.pid not in (None, changed)
    assert again.restarts == 0  # asked for, not a death
    left = stack.remove("b")
    assert list(left.members) == ["a"]
    assert left.members["a"].pid == a


def test_down_stops_in_reverse_order_and_kills_what_does_not_listen(home: Path, elsewhere: dict[str, str]) -> None:
    gentle = (
        "def leave(*_):\n"
        "    with open(sys.argv[1] + '/order', 'a') as out: out.write(os.environ['RAVEN_SERVICE__NAME'] + ' ')\n"
        "    sys.exit()\n"
        f"signal.signal(signal.SIGTERM, leave); {SLEEP}"
    )
    deaf = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    services = [
        service(home, "first", gentle),
        service(home, "deaf", deaf, stop_seconds=0.3),
        service(home, "last", gentle),
    ]
    stack = Stack(home, services, elsewhere)
    stack.up()
    assert stack.down()
    assert (home / "order").read_text() == "last first "
    assert processes_of(home) == []
    assert stack.status() is None
    assert not stack.down()


def test_down_finds_what_a_killed_supervisor_left(home: Path, elsewhere: dict[str, str]) -> None:
    deaf = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    stack = Stack(home, [service(home, "deaf", deaf, stop_seconds=0.3), service(home, "a", SLEEP)], elsewhere)
    supervisor = stack.up().supervisor.pid
    os.kill(supervisor, signal.SIGKILL)
    until(lambda: stack.status() is None)
    assert "deaf" in stack.orphans()
    assert stack.down()
    assert processes_of(home) == []
    assert stack.orphans() == []


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's promise is Linux's")
def test_services_die_with_a_killed_supervisor(home: Path, elsewhere: dict[str, str]) -> None:
    stack = Stack(home, [service(home, "a", SLEEP)], elsewhere)
    os.kill(stack.up().supervisor.pid, signal.SIGKILL)
    until(lambda: processes_of(home) == [])


def test_up_after_a_killed_supervisor_starts_anew(home: Path, elsewhere: dict[str, str]) -> None:
    deaf = f"signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"
    stack = Stack(home, [service(home, "deaf", deaf, stop_seconds=0.3)], elsewhere)
    os.kill(stack.up().supervisor.pid, signal.SIGKILL)
    until(lambda: stack.status() is None)
    state: StackState = stack.up()
    assert state.members["deaf"].state == "running"
    assert len(processes_of(home)) == 2


def test_a_home_that_is_removed_stops_its_stack(home: Path, elsewhere: dict[str, str]) -> None:
    Stack(home, [service(home, "a", SLEEP)], elsewhere).up()
    shutil.rmtree(home)
    until(lambda: processes_of(home) == [])
