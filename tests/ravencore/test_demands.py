"""`raven.control` as services read it, from a real broker: to its end, and on, whatever is written and whoever dies."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
from confluent_kafka import Message, Producer

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.demands import SHUTDOWN, Control
from ravencore.errors import Unavailable
from ravencore.graph import Standing
from ravencore.records import Demand, FeedName, Shutdown
from ravencore.topics import CONTROL
from ravenctl.local.broker import Broker

pytestmark = [pytest.mark.stack, pytest.mark.timeout(120)]

PATIENCE_S = 60.0
CODEC = Codec()


class Ear:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[set[str], bool]] = []
        self.unreadable: list[bytes | None] = []
        self.shutdowns: list[str] = []
        self.threads: set[str] = set()

    def on_demands(self, standing: Standing, made: bool) -> None:
        self.threads.add(threading.current_thread().name)
        self.told.append((ids(standing), made))

    def on_unreadable(self, message: Message, why: str) -> None:
        assert why
        self.unreadable.append(message.key())

    def on_shutdown(self, user: str) -> None:
        self.shutdowns.append(user)


def ids(standing: Standing) -> set[str]:
    return {demand.demand_id for demand in standing.demands}


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def demand(name: str) -> bytes:
    feeds = (FeedName("V", "trades", name),)
    return CODEC.encode(Demand(demand_id=name, user="u", symbol=name, feeds=feeds, created_time=1))


def shutdown(service: str, user: str) -> tuple[bytes, bytes]:
    asked = Shutdown(service=service, user=user, requested_time=1)
    return f"{SHUTDOWN}{service}".encode(), CODEC.encode(asked)


@cache
def writer(bootstrap: str) -> Producer:
    return kafka.producer(KafkaSettings(bootstrap=bootstrap))


def write(settings: KafkaSettings, *pairs: tuple[bytes, bytes | None]) -> None:
    client = writer(settings.bootstrap)
    for key, value in pairs:
        client.produce(CONTROL, value, key)
    assert client.flush(30) == 0


@contextmanager
def reading(settings: KafkaSettings, service: str = "collector") -> Iterator[tuple[Control, Ear]]:
    ear = Ear()
    control = Control(settings, CODEC, service, ear)
    try:
        yield control, ear
    finally:
        control.stop()


@pytest.fixture(scope="module")
def settings() -> Iterator[KafkaSettings]:
    with Broker() as broker:
        made = KafkaSettings(bootstrap=broker.bootstrap)
        kafka.ensure_topics(made)
        yield made


def test_demands_come_and_go(settings: KafkaSettings) -> None:
    write(settings, (b"old", demand("old")))
    with reading(settings) as (control, ear):
        assert control.ready.wait(PATIENCE_S)
        assert ear.told == [({"old"}, True)]
        write(settings, (b"new", demand("new")))
        until(lambda: len(ear.told) == 2, "it is told")
        write(settings, (b"old", demand("old")))
        until(lambda: len(ear.told) == 3, "it is told though it stood there")
        write(settings, (b"old", None))
        until(lambda: len(ear.told) == 4, "it is withdrawn")
        write(settings, (b"never", None), (b"new", None))
        until(lambda: len(ear.told) >= 5, "nothing is left")
        assert ear.told[1:] == [({"old", "new"}, True), ({"old", "new"}, True), ({"new"}, False), (set(), False)]
        assert ids(control.standing) == set()
        assert ear.threads == {"demands"}


def test_what_stood_under_the_key_of_an_unreadable_record_is_gone(settings: KafkaSettings) -> None:
    write(settings, (b"mine", demand("mine")), (b"yours", demand("yours")), (b"bad", b"rubbish"))
    with reading(settings) as (control, ear):
        assert control.ready.wait(PATIENCE_S)
        assert ear.unreadable == [b"bad"]
        write(settings, (b"mine", b"rubbish"))
        until(lambda: ids(control.standing) == {"yours"}, "the other goes on")
        write(settings, (b"worse", b""), (b"mine", demand("mine")))
        until(lambda: ids(control.standing) == {"yours", "mine"}, "it is written again")
        assert ear.unreadable == [b"bad", b"mine", b"worse"]
        before = len(ear.told)
        write(settings, (b"bad", None), (b"worse", None))
        control.catch_up()
        assert len(ear.told) == before
    write(settings, (b"mine", None), (b"yours", None))


def test_what_was_written_before_is_known_after_catching_up(settings: KafkaSettings) -> None:
    with reading(settings) as (control, _):
        for number in range(50):
            name = f"written-{number}"
            write(settings, (name.encode(), demand(name)))
            control.catch_up()
            assert name in ids(control.standing), number
            write(settings, (name.encode(), None))
            control.catch_up()
            assert name not in ids(control.standing), number


def test_only_a_shutdown_that_comes_is_meant_for_the_service_that_it_names(settings: KafkaSettings) -> None:
    write(settings, shutdown("collector", "before"))
    with reading(settings) as (control, ear), reading(settings, "engine") as (other, deaf):
        assert control.ready.wait(PATIENCE_S)
        assert other.ready.wait(PATIENCE_S)
        key, asked = shutdown("collector", "ann")
        write(settings, (key, b"rubbish"), (key, asked))
        until(lambda: ear.shutdowns == ["ann"], "it is told")
        other.catch_up()
        assert (ear.unreadable[-1], deaf.shutdowns) == (key, [])
        assert (ids(control.standing), len(ear.told)) == (set(), 1)


def test_a_broker_that_is_away_is_waited_for_at_the_start_and_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka, "TIMEOUT_S", 1.0)
    broker = Broker()
    settings = KafkaSettings(bootstrap=broker.bootstrap)
    with broker_ended(broker), reading(settings) as (control, ear):
        assert not control.ready.wait(0.5)
        broker.start()
        kafka.ensure_topics(settings)
        assert control.ready.wait(PATIENCE_S)
        assert (ear.told, control.offset) == ([(set(), True)], 0)  # there is nothing, and that is known
        control.catch_up()
        write(settings, (b"first", demand("first")))
        until(lambda: ear.told[1:] == [({"first"}, True)], "it is told")
        broker.kill()
        with pytest.raises(Unavailable):
            control.catch_up()
        broker.start()
        write(settings, (b"second", demand("second")))
        until(lambda: ear.told[2:] == [({"first", "second"}, True)], "it goes on where it was")
        until(lambda: control.offset == 2, "and says so")


@contextmanager
def broker_ended(broker: Broker) -> Iterator[None]:
    try:
        yield
    finally:
        broker.__exit__(None, None, None)
