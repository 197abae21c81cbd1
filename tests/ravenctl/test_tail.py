"""`tail`, `status` and the demands on a real broker."""

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from typer.testing import CliRunner

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, RoutingSettings
from ravencore.records import market_key
from ravencore.topics import CONTROL
from ravenctl import control, demands, reading
from ravenctl.cli import app
from ravenctl.drain import Offsets, behind
from ravenctl.local.state import Endpoints
from ravenctl.tail import line, newest
from tests.ravenctl.made import trade

pytestmark = pytest.mark.stack
CODEC = Codec()


@pytest.fixture
def settings(stack: Endpoints) -> KafkaSettings:
    return KafkaSettings(bootstrap=stack.kafka_bootstrap)


@pytest.fixture
def topic(settings: KafkaSettings) -> str:
    """A topic of three partitions of its own."""
    name = f"raven.test.{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": settings.bootstrap})
    for future in admin.create_topics([NewTopic(name, 3, 1)]).values():
        future.result()
    return name


def produce(settings: KafkaSettings, topic: str, *values: bytes | None, **extra: Any) -> None:
    """One after the other, each a millisecond later."""
    client, now_ms = kafka.producer(settings), time.time_ns() // 1_000_000
    for number, value in enumerate(values):
        at: dict[str, Any] = {"partition": number % 3, "timestamp": now_ms + number}
        client.produce(topic, value, b"BINANCE_SPOT:BTCUSDT", **at, **extra)
        assert client.flush(10) == 0


def ravenctl(settings: KafkaSettings, *args: str) -> list[str]:
    result = CliRunner().invoke(app, ["--bootstrap", settings.bootstrap, *args])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_the_newest_records_of_all_partitions_in_time_order(settings: KafkaSettings, topic: str) -> None:
    produce(settings, topic, *(CODEC.encode(trade(number)) for number in range(20)))
    shown = [json.loads(text) for text in ravenctl(settings, "tail", topic, "-n", "5", "--json")]
    assert [record["trade_id"] for record in shown] == ["15", "16", "17", "18", "19"]
    assert shown[0]["price"] == "61000.12"
    assert shown[0]["quantity"] == "0.0015"
    assert shown[0]["event_time"] == "2024-08-08T23:54:29.000000Z"


def test_a_short_name_will_do(settings: KafkaSettings, topic: str) -> None:
    produce(settings, topic, CODEC.encode(trade(1)))
    (text,) = ravenctl(settings, "tail", topic.removeprefix("raven."))
    assert "BINANCE_SPOT:BTCUSDT" in text
    assert "price=61000.12" in text
    assert "venue=" not in text


def test_what_is_no_record_is_shown_as_what_it_is(settings: KafkaSettings, topic: str) -> None:
    produce(settings, topic, b"garbage", b"\x00\x7f\xff\xff\xff", None)
    produce(settings, topic, None, headers={"clock": b"1723161255000000"})
    shown = [json.loads(text) for text in ravenctl(settings, "tail", topic, "--json")]
    assert "Confluent framing" in shown[0]["unreadable"]
    assert "not pinned" in shown[1]["unreadable"]
    assert bytes.fromhex(shown[0]["value"]) == b"garbage"
    assert shown[2] == {"deleted": "BINANCE_SPOT:BTCUSDT"}
    assert shown[3] == {"clock": "2024-08-08T23:54:15.000000Z", "key": "BINANCE_SPOT:BTCUSDT"}
    assert len(ravenctl(settings, "tail", topic)) == 4


def transactions(settings: KafkaSettings, topic: str) -> Callable[..., None]:
    client = Producer({"bootstrap.servers": settings.bootstrap, "transactional.id": topic})
    client.init_transactions(10)

    def write(number: int, commit: bool = True) -> None:
        client.begin_transaction()
        record = trade(number)
        client.produce(topic, CODEC.encode(record), market_key(record), partition=0)
        client.flush(10)
        if commit:
            client.commit_transaction(10)
        else:
            client.abort_transaction(10)

    return write


def test_aborted_records_are_not_shown_and_do_not_count(settings: KafkaSettings, topic: str) -> None:
    """Two offsets of three belong to markers and to what was aborted: the window back must grow past them."""
    write = transactions(settings, topic)
    for number in range(120):
        write(number, number % 40 == 0)
    client = reading.reader(settings)
    try:
        found = [line(message, CODEC).fields["trade_id"] for message in newest(client, topic, 3)]
    finally:
        client.close()
    assert found == ["0", "40", "80"]


def test_a_reader_at_the_end_is_not_behind_because_of_markers(settings: KafkaSettings, topic: str) -> None:
    write = transactions(settings, topic)
    for number in range(3):
        write(number)
    group = f"group-{uuid.uuid4().hex}"
    offsets = Offsets(settings, [topic])

    def left(records: int) -> int:
        """A record and a marker for each transaction: after the last record there is a marker."""
        deadline = time.monotonic() + 10
        while offsets.ends()[topic, 0] != 2 * records or offsets.undecided():
            assert time.monotonic() < deadline
        return behind([topic], offsets.ends(), offsets.committed(group), {(topic, 0): 2 * records - 1})

    assert left(3) == 5
    client = kafka.consumer(settings, group)
    client.subscribe([topic])
    seen = 0
    while seen < 3:
        message = client.poll(10)
        assert message is not None
        seen += message.error() is None
        client.commit(message=message, asynchronous=False)
    client.close()
    assert left(3) == 0
    write(3)
    assert left(4) == 2


def test_a_topic_that_is_not_there(settings: KafkaSettings) -> None:
    for name, said in (("bars.tibb", "did you mean bars.tib?"), ("no.such.topic", "there are ")):
        result = CliRunner().invoke(app, ["tail", name, "--bootstrap", settings.bootstrap])
        assert result.exit_code == 2
        assert f"there is no topic {name}: {said}" in result.stderr


def test_setup_twice(settings: KafkaSettings) -> None:
    ravenctl(settings, "setup", "redis")
    assert ravenctl(settings, "setup", "redis")[0].startswith("Kafka: ok, all")


def test_demands_stand_until_withdrawn_and_unreadable_ones_do_no_harm(settings: KafkaSettings) -> None:
    kafka.ensure_topics(settings)
    want = demands.Wanted(f"user-{uuid.uuid4().hex}", ("BTCUSDT", "ETHUSDT"))
    made = demands.to_start(want, {}, RoutingSettings(), 1)
    control.apply(settings, CODEC, made)
    produce_to_control(settings, b"strange", b"not avro")
    standing, unreadable = control.standing_demands(settings, CODEC)
    assert made.items() <= standing.items()
    assert "strange" in unreadable
    control.apply(settings, CODEC, demands.to_stop(want, standing, RoutingSettings()))
    produce_to_control(settings, b"strange", None)
    standing, unreadable = control.standing_demands(settings, CODEC)
    assert not made.keys() & standing.keys()
    assert "strange" not in unreadable


def test_a_demand_that_cannot_be_read_is_listed_and_withdrawn_by_its_key(settings: KafkaSettings) -> None:
    kafka.ensure_topics(settings)
    produce_to_control(settings, b"odd", b"not avro")
    assert "odd" in json.loads("".join(ravenctl(settings, "user", "--json")))["unreadable"]
    assert "odd: cannot be read; withdraw it with `ravenctl stop --id odd`" in ravenctl(settings, "user")
    assert "1 demand withdrawn" in "".join(ravenctl(settings, "stop", "--id", "odd"))
    assert "odd" not in json.loads("".join(ravenctl(settings, "user", "--json")))["unreadable"]
    produce_to_control(settings, b"\xff\xfe 1", b"not avro")
    assert r"`ravenctl stop --id $'\xff\xfe\x20\x31'`" in "".join(ravenctl(settings, "user"))
    ravenctl(settings, "stop", "--id", b"\xff\xfe 1".decode(errors="surrogateescape"))
    assert control.standing_demands(settings, CODEC)[1] == {}


def test_only_demands_that_stand_and_are_ones_own_are_withdrawn_by_id(settings: KafkaSettings) -> None:
    kafka.ensure_topics(settings)
    user = f"user-{uuid.uuid4().hex}"
    made = demands.to_start(demands.Wanted(user, ("BTCUSDT",)), {}, RoutingSettings(), 1)
    control.apply(settings, CODEC, made)
    (name,) = made
    stop = ["--bootstrap", settings.bootstrap, "stop", "--id"]
    assert "no demand 'nosuch' stands" in CliRunner().invoke(app, [*stop, "nosuch"]).stderr
    assert f"{name} is a demand of {user}: add --all-users" in CliRunner().invoke(app, [*stop, name]).stderr
    assert name in control.standing_demands(settings, CODEC)[0]
    assert CliRunner().invoke(app, [*stop, name, "--user", user]).exit_code == 0
    assert name not in control.standing_demands(settings, CODEC)[0]


def produce_to_control(settings: KafkaSettings, key: bytes, value: bytes | None) -> None:
    client = kafka.producer(settings)
    client.produce(CONTROL, value, key)
    assert client.flush(10) == 0


def test_start_says_which_services_are_not_there_and_stop_takes_it_back(settings: KafkaSettings) -> None:
    user = f"user-{uuid.uuid4().hex}"
    options = ["--symbol", "btcusdt", "--user", user, "--bootstrap", settings.bootstrap]
    result = CliRunner().invoke(app, ["start", *options, "--timeout", "2s"])
    assert result.exit_code == 1
    for service in ("sink-influx", "sink-timescale", "sink-lake", "engine", "collector"):
        assert f"{service}: not seen" in result.stderr
    assert user in {demand.user for demand in control.standing_demands(settings, CODEC)[0].values()}
    others = CliRunner().invoke(app, ["stop", *options, "--with", "tib"])
    assert others.exit_code == 0, others.output
    assert "made with other outputs or stores" in others.stdout
    assert "with all into all: leave out --with and --into" in others.stdout
    assert "no demands withdrawn" in others.stdout
    result = CliRunner().invoke(app, ["stop", *options, "--json"])
    assert result.exit_code == 0, result.output
    assert "1 demand withdrawn" in result.stderr
    told = json.loads(result.stdout)
    assert (len(told["withdraws"]), told["writes"], told["begins"]["feeds"]) == (1, [], [])
    assert {feed["channel"] for feed in told["ends"]["feeds"]} == {"trades", "books", "quotes"}
    assert user not in {demand.user for demand in control.standing_demands(settings, CODEC)[0].values()}
