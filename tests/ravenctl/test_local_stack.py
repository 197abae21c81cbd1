"""The whole stack on a home of its own: ports, deaths of servers and of the supervisor, data kept."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, chdir, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ravenctl.local.ports import OTHER_PORTS
from ravenctl.local.stack import Stack
from ravenctl.local.state import MemberState

pytestmark = [pytest.mark.stack, pytest.mark.timeout(180)]


def processes_of(home: Path) -> list[str]:
    """Processes that name the home in their command line."""
    lines = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    return [line for line in lines if str(home) in line]


def until(answer: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not answer():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def own() -> Iterator[Stack]:
    """A stack that these tests may break.

    When it first starts, the usual ports are taken, and files in its folder are called like modules that it needs.
    """
    home = Path(tempfile.mkdtemp(prefix="raven-own-"))
    stack = Stack(home)
    for module in ("msgspec", "psutil", "platform"):
        (home / f"{module}.py").write_text("raise SystemExit('no module of a stranger')")
    with ExitStack() as held:
        held.enter_context(chdir(home))
        for port in (9092, 9000, 5432, 6379):
            with suppress(OSError):  # taken by somebody else: as good
                held.enter_context(socket.create_server(("127.0.0.1", port)))
        stack.up()
    yield stack
    stack.down()
    shutil.rmtree(home)
    assert processes_of(home) == []


def member(stack: Stack, name: str) -> MemberState:
    state = stack.status()
    assert state
    return state.members[name]


def kill(stack: Stack, name: str) -> None:
    pid = member(stack, name).pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: member(stack, name).restarts > 0 and member(stack, name).state == "running")


def produce(bootstrap: str, value: bytes) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.create_topics([NewTopic("kept", 1, 1)]).values():
        future.exception(10)  # it may be there
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    producer.produce("kept", value)
    assert producer.flush(20) == 0


def consumed(bootstrap: str, count: int) -> list[bytes | None]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "g", "auto.offset.reset": "earliest", "enable.auto.commit": False}
    )
    try:
        consumer.subscribe(["kept"])
        return [message.value() for message in consumer.consume(count, timeout=30)]
    finally:
        consumer.close()


def test_other_ports_are_chosen_when_the_usual_are_taken(own: Stack) -> None:
    state = own.up()
    kafka = int(state.endpoints.kafka_bootstrap.rpartition(":")[2])
    questdb = int(state.endpoints.questdb_url.rpartition(":")[2])
    postgres = int(state.endpoints.postgres_dsn.rpartition(":")[2].partition("/")[0])
    redis = int(state.endpoints.redis_url.rpartition(":")[2].partition("/")[0])
    assert {kafka, questdb, postgres, redis} < set(OTHER_PORTS)


def test_everything_listens_on_loopback_only(own: Stack) -> None:
    state = own.up()
    for name, running in state.members.items():
        assert running.pid
        listening = [c for c in psutil.Process(running.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN]
        assert listening, name
        assert {c.laddr.ip.removeprefix("::ffff:") for c in listening} == {"127.0.0.1"}, name


def test_a_killed_kafka_is_said_and_is_back_with_its_data(own: Stack) -> None:
    bootstrap = own.up().endpoints.kafka_bootstrap
    produce(bootstrap, b"before")
    kill(own, "kafka")
    assert member(own, "kafka").last_exit == "killed by signal 9"
    assert "kafka killed by signal 9" in own.log_path("supervisor").read_text()
    produce(bootstrap, b"after")
    assert consumed(bootstrap, 2) == [b"before", b"after"]


def test_a_killed_postgres_is_back_with_its_data(own: Stack) -> None:
    dsn = own.up().endpoints.postgres_dsn
    with psycopg.connect(dsn) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
        connection.execute("INSERT INTO kept VALUES (1)")
    kill(own, "postgres")
    with psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)


def test_after_a_killed_supervisor_nothing_is_left_and_up_finds_the_data(own: Stack) -> None:
    before = own.up()
    with psycopg.connect(before.endpoints.postgres_dsn) as connection:
        connection.execute("CREATE TABLE outlives (n int)")
    os.kill(before.supervisor.pid, signal.SIGKILL)
    own.down()
    assert processes_of(own.home) == []
    assert own.status() is None
    after = own.up()
    assert after.endpoints == before.endpoints
    with psycopg.connect(after.endpoints.postgres_dsn) as connection:
        assert connection.execute("SELECT count(*) FROM outlives").fetchone() == (0,)
    # Not the recovery of a crash: PostgreSQL was told to stop, by the kernel or by `down`.
    assert own.log_path("postgres").read_text().count("database system was shut down at") >= 2


def test_down_leaves_no_process(own: Stack) -> None:
    own.up()
    assert own.down()
    assert processes_of(own.home) == []
    assert not own.down()
