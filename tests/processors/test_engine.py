"""The engine as processes against a real Kafka: exactly once, whatever is killed, restarted, moved or paused."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaException, Message, Producer, TopicPartition

from processors import transactions
from processors.derivations import DERIVATIONS
from processors.engine import LANE_RECORDS, Engine
from processors.faust_transport import BUFFER_RECORDS, buffered_batches
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import EngineSettings, KafkaSettings, ServiceSettings, Settings
from ravencore.decimals import ONE
from ravencore.records import DeadLetter, ServiceStatus, State, Trade, market_key
from ravencore.topics import (
    BARS,
    DEAD_LETTERS,
    GROUP_BARS,
    STATE_BARS,
    STATUS,
    TOPICS,
    TRADES,
    VPIN,
)
from ravenctl.local.broker import Broker

pytestmark = pytest.mark.stack

CODEC = Codec()
PARTITIONS = 6
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")
OUTPUTS = (BARS["time"], BARS["tib"], VPIN)
SLOT = "engine-0"
PATIENCE_S = 60.0


class Made(NamedTuple):
    """All that a run left behind, as far as it must not depend on timing."""

    outputs: Mapping[tuple[str, int], list[tuple[Any, ...]]]
    dead: frozenset[tuple[Any, ...]]
    state: Mapping[str, tuple[int, bytes]]


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> Any:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := true():
            return found
        time.sleep(0.02)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


class Feed:
    """A seeded tape of a few symbols, with duplicates, holes, late repairs, Clocks and records nobody can read."""

    def __init__(self, settings: KafkaSettings, trades: int = 24_000) -> None:
        self._producer = kafka.producer(settings)
        self._records = list(tape(random.Random(7), trades))
        self._whole = len(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def send(self, share: float, producer: Producer | None = None) -> None:
        """The next part of the tape: `share` of the whole, or what is left of it."""
        producer = producer or self._producer
        count = round(share * self._whole)
        part, self._records = self._records[:count], self._records[count:]
        for key, value, headers in part:
            producer.produce(TRADES, value, key, headers=headers)
        assert producer.flush(30) == 0


def tape(rng: random.Random, trades: int) -> Iterator[tuple[bytes, bytes | None, dict[str, str | bytes | None]]]:
    sequence = dict.fromkeys(SYMBOLS, 1000)
    price = dict.fromkeys(SYMBOLS, 50_000)
    now = 1_700_000_000_000_000
    held: list[Trade] = []
    for number in range(trades):
        symbol = rng.choice(SYMBOLS)
        now += rng.randrange(12_000)
        sequence[symbol] += 1
        price[symbol] += rng.randrange(-9, 10)
        trade = Trade(
            venue="BINANCE_SPOT",
            symbol=symbol,
            event_time=now,
            received_time=now + rng.randrange(40_000),
            trade_id=str(sequence[symbol]),
            sequence=sequence[symbol],
            price=price[symbol] * ONE // 1000,
            quantity=rng.randrange(1, 40_000) * ONE // 1000,
            side=rng.choice(["BUY", "SELL"]),
        )
        if rng.random() < 0.002:
            held.append(trade)
            continue
        yield market_key(trade), CODEC.encode(trade), {}
        if rng.random() < 0.01:
            yield market_key(trade), CODEC.encode(trade), {}
        if held and rng.random() < 0.01:
            late = held.pop()
            yield market_key(late), CODEC.encode(late), {}
        if rng.random() < 0.002:
            clock = str(now + 3_000_000).encode()
            yield market_key(trade), None, {kafka.CLOCK_HEADER: clock}
        if number % 5000 == 2500:
            yield market_key(trade), b"garbage", {}
            yield market_key(trade), b"\x00\x00\x00\x00\x63" + CODEC.encode(trade)[5:], {}
            yield b"BINANCE_SPOT:OTHER", CODEC.encode(trade), {}


class Worker:
    """`python -m processors` as a process."""

    def __init__(self, bootstrap: str, folder: Path, slot: str | None = SLOT, **env: str) -> None:
        given = {"RAVEN_KAFKA__BOOTSTRAP": bootstrap, "RAVEN_ENGINE__MAX_POLL_RECORDS": "500", **env}
        if slot:
            given["RAVEN_SERVICE__INSTANCE"] = slot
        with (folder / "worker.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "processors"], cwd=folder, env={**os.environ, **given}, stderr=log
            )

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it and wait for its exit code."""
        self.process.send_signal(how)
        return self.process.wait(20)


class House:
    """One Kafka of this module, with topics made anew for each test, and the workers that run on it."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self.broker, self.folder = broker, folder
        self.settings = Settings(
            kafka=KafkaSettings(bootstrap=broker.bootstrap, partitions=PARTITIONS),
            service=ServiceSettings(instance=SLOT),
        )
        self.workers: list[Worker] = []
        self._group = kafka.consumer(self.settings.kafka, GROUP_BARS, log_level=0)
        self._plain = kafka.reader(
            self.settings.kafka, "test", **{"isolation.level": "read_uncommitted", "log_level": 0}
        )
        self._renew()

    def _renew(self) -> None:
        admin = kafka.admin(self.settings.kafka)
        ours = {topic.name for topic in TOPICS}
        present = sorted(ours & set(admin.list_topics(timeout=10).topics))
        for gone in (admin.delete_topics(present) if present else {}).values():
            gone.result(10)
        until(lambda: not ours & set(admin.list_topics(timeout=10).topics), "topics deleted")
        until(lambda: len(kafka.ensure_topics(self.settings.kafka)) == len(TOPICS), "topics created")
        until(lambda: self.committed() == 0, "offsets of the deleted topics forgotten")

    def start(self, slot: str | None = SLOT, **env: str) -> Worker:
        self.workers.append(Worker(self.broker.bootstrap, self.folder, slot, **env))
        return self.workers[-1]

    def feed(self) -> Feed:
        return Feed(self.settings.kafka)

    def committed(self) -> int:
        try:
            found = self._group.committed([TopicPartition(TRADES, p) for p in range(PARTITIONS)], 20)
        except KafkaException:  # just started
            return -1
        return sum(max(0, tp.offset) for tp in found)

    def lag(self) -> int:
        return sum(self.ends(TRADES, self._plain)) - self.committed()

    def ends(self, topic: str, client: Any) -> list[int]:
        return [client.get_watermark_offsets(TopicPartition(topic, p), 20)[1] for p in range(PARTITIONS)]

    def transaction_is_open(self) -> bool:
        """Whether a transaction has written something that readers may not see yet."""
        return any(self.ends(topic, self._plain) != self.ends(topic, self._group) for topic in (STATE_BARS, VPIN))

    def done(self) -> None:
        until(lambda: self.lag() == 0, "everything committed")

    def status(self) -> list[ServiceStatus]:
        found = kafka.compacted(self.settings.kafka, STATUS, "test")
        return [CODEC.decode_as(ServiceStatus, value) for value in found.values()]

    def status_of(self, worker: Worker) -> ServiceStatus | None:
        return next((one for one in self.status() if one.pid == worker.process.pid), None)

    def running(self, worker: Worker) -> ServiceStatus:
        def look() -> ServiceStatus | None:
            assert worker.process.poll() is None, (self.folder / "worker.log").read_text()[-3000:]
            status = self.status_of(worker)
            return status if status and status.state == "RUNNING" else None

        found: ServiceStatus = until(look, "worker RUNNING")
        return found

    def made(self) -> Made:
        outputs: dict[tuple[str, int], list[tuple[Any, ...]]] = {}
        for topic in OUTPUTS:
            for message in self.read(topic):
                place = topic, message.partition() or 0
                outputs.setdefault(place, []).append((message.key(), message.value(), message.headers()))
        letters = [CODEC.decode_as(DeadLetter, message.value()) for message in self.read(DEAD_LETTERS)]
        dead = [(it.partition, it.offset, it.key, it.payload, it.reason, it.detail) for it in letters]
        assert len(set(dead)) == len(dead)
        states = [
            CODEC.decode_as(State, value) for value in kafka.compacted(self.settings.kafka, STATE_BARS, "test").values()
        ]
        return Made(outputs, frozenset(dead), {it.input_key: (it.offset, it.payload) for it in states})

    def read(self, topic: str) -> list[Message]:
        found: list[Message] = []
        kafka.read_to_end(self.settings.kafka, topic, "test", found.append)
        return found


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker() as one:
        yield one


@pytest.fixture
def house(broker: Broker, tmp_path: Path) -> Iterator[House]:
    one = House(broker, tmp_path)
    try:
        yield one
    finally:
        for worker in one.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            worker.process.wait()


@pytest.fixture(scope="module")
def undisturbed(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """What one worker makes of the whole tape when nothing happens to it."""
    one = House(broker, tmp_path_factory.mktemp("undisturbed"))
    feed = one.feed()
    feed.send(1)
    worker = one.start()
    try:
        one.done()
        made = one.made()
        counters = one.running(worker).counters
    finally:
        assert worker.end() == 0
    [status] = one.status()
    assert status.state == "STOPPED"
    assert counters["dead_letters"] == len(made.dead)
    assert counters["bars"] + counters["vpin"] == sum(map(len, made.outputs.values()))
    return made


def test_the_tape_makes_all_kinds_of_output(undisturbed: Made) -> None:
    by_topic = {
        topic: sum(len(rows) for place, rows in undisturbed.outputs.items() if place[0] == topic) for topic in OUTPUTS
    }
    assert min(by_topic.values()) > 100, by_topic
    assert set(undisturbed.state) == {f"BINANCE_SPOT:{symbol}" for symbol in SYMBOLS}
    reasons = sorted(reason for *_, reason, _ in undisturbed.dead)
    assert reasons == ["unreadable_record"] * 10 + ["wrong_key"] * 5


def test_kill_nine_at_random_moments_and_inside_transactions_changes_nothing(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    worker = house.start()
    for _ in range(2):
        feed.send(0.2)
        moment = random.Random(11).randrange(1, 4000)
        until(lambda moment=moment: house.lag() < moment, "part of the tape done")  # type: ignore[misc]
        worker.end(signal.SIGKILL)
        worker = house.start()
    for _ in range(2):
        kill_inside_a_transaction(house, worker, feed)
        worker = house.start()
    feed.send(1)
    house.done()
    assert worker.end() == 0
    assert house.made() == undisturbed


def kill_inside_a_transaction(house: House, worker: Worker, feed: Feed) -> None:
    house.running(worker)
    while len(feed):
        feed.send(0.004)
        worker.process.send_signal(signal.SIGSTOP)
        if house.transaction_is_open():
            worker.end(signal.SIGKILL)
            return
        worker.process.send_signal(signal.SIGCONT)
    pytest.fail("no moment of the tape was inside a transaction")


def test_a_second_worker_joins_and_leaves_in_the_middle(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    first = house.start()
    feed.send(0.3)
    until(lambda: house.committed() > 0, "the first worker at work")
    second = house.start(slot=None)
    feed.send(0.1)
    shared = until(
        lambda: (it := house.status_of(second)) and it.state == "RUNNING" and it.lag and it, "second RUNNING"
    )
    assert 0 < len(shared.lag) < PARTITIONS
    feed.send(0.3)
    assert second.end() == 0
    feed.send(1)
    house.done()
    assert first.end() == 0
    assert house.made() == undisturbed


def test_a_zombie_is_fenced(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    zombie = house.start()
    feed.send(0.4)
    until(lambda: house.committed() > 0, "the zombie at work")
    zombie.process.send_signal(signal.SIGSTOP)
    successor = house.start()
    feed.send(1)
    house.done()
    zombie.process.send_signal(signal.SIGCONT)
    until(lambda: zombie.process.poll() is not None, "the zombie gone")
    assert zombie.process.returncode == 1
    assert successor.end() == 0
    assert house.made() == undisturbed


def test_the_broker_dies_and_comes_back(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    feed.send(0.5)
    house.broker.kill()
    worker = house.start()  # it waits for a broker that is not up yet
    house.broker.start()
    until(lambda: house.committed() > 0, "the worker at work")
    house.broker.kill()
    house.broker.start()
    feed.send(1)
    house.done()
    assert worker.end() == 0
    assert house.made() == undisturbed


def test_state_of_other_parameters_is_refused_until_it_is_reset(house: House) -> None:
    feed = house.feed()
    feed.send(0.1)
    worker = house.start()
    house.done()
    assert worker.end() == 0
    changed = {"RAVEN_BARS__TIB": '{"tib_small": {"initial_size": 77}}'}
    refused = house.start(**changed)
    assert refused.process.wait(30) == 1
    status = house.status_of(refused)
    assert status is not None
    assert status.state == "FAILED"
    assert status.last_error is not None
    assert "tib_small" in status.last_error
    assert "reset-state" in status.last_error
    command = [sys.executable, "-m", "processors", "reset-state"]
    env = {**os.environ, "RAVEN_KAFKA__BOOTSTRAP": house.broker.bootstrap}
    done = subprocess.run(command, env=env, cwd=house.folder, capture_output=True, text=True, check=True)
    assert f"{len(SYMBOLS)} snapshots" in done.stderr
    feed.send(0.1)
    again = house.start(**changed)
    house.done()
    assert again.end() == 0


def test_transaction_markers_and_aborted_records_in_the_input_are_passed_over(house: House, undisturbed: Made) -> None:
    feed = house.feed()
    mirror = kafka.producer(house.settings.kafka, **{"transactional.id": "mirror"})
    mirror.init_transactions(30)
    worker = house.start()
    while len(feed):
        mirror.begin_transaction()
        mirror.produce(TRADES, b"never happened", b"BINANCE_SPOT:BTCUSDT")
        mirror.flush(30)
        mirror.abort_transaction(30)
        mirror.begin_transaction()
        feed.send(0.2, mirror)
        mirror.commit_transaction(30)
    until(lambda: house.made().outputs == undisturbed.outputs, "all outputs")
    until(lambda: sum(house.running(worker).lag.values()) == 0, "no lag although the log ends in markers")
    assert house.lag() > 0
    assert worker.end() == 0
    assert house.made().outputs == undisturbed.outputs


def test_a_worker_that_stands_still_ends_itself(house: House) -> None:
    feed = house.feed()
    impatient = house.settings.model_copy(update={"engine": EngineSettings(stall_s=2.0)})

    async def scenario() -> int:
        engine = Engine(house.settings, DERIVATIONS["bars"])
        running = asyncio.create_task(engine.run())
        await asyncio.to_thread(feed.send, 0.1)
        await asyncio.to_thread(house.done)
        # What Faust does to itself when it stalls: all looks well, and nothing is fetched.
        engine._app.consumer.pause_partitions(engine._app.consumer.assignment())
        engine._settings = impatient
        await asyncio.to_thread(feed.send, 0.1)
        return await asyncio.wait_for(running, PATIENCE_S)

    assert asyncio.run(scenario()) == 1
    [status] = house.status()
    assert status.state == "FAILED"
    assert status.last_error is not None
    assert "stands at offset" in status.last_error


def test_a_slow_worker_reads_no_more_than_fifty_thousand_records_ahead(house: House) -> None:
    feeds = [house.feed() for _ in range(3)]
    for feed in feeds:
        feed.send(1)
    settings = house.settings.model_copy(update={"engine": EngineSettings(max_poll_records=500)})

    async def scenario() -> int:
        engine = Engine(settings, DERIVATIONS["bars"])
        running = asyncio.create_task(engine.run())
        with transactions._folding:
            ahead = await steady(lambda: read_by(engine))
        assert await asyncio.to_thread(house.lag) > 0
        engine._ending.set()
        assert await asyncio.wait_for(running, PATIENCE_S) == 0
        return ahead

    ahead = asyncio.run(scenario())
    assert LANE_RECORDS <= ahead <= 50_000


async def read_by(engine: Engine) -> int:
    """How many records Faust has taken off its fetcher."""
    if engine._app is None or not engine._assigned or not all(lane.restored for lane in engine._lanes.values()):
        return 0
    return sum([await engine._app.consumer.read_up_to(number) for number in range(PARTITIONS)])


async def steady(ask: Callable[[], Awaitable[int]]) -> int:
    """An answer that is not 0 and has not changed for a second."""
    deadline = time.monotonic() + PATIENCE_S
    answer, since = 0, time.monotonic()
    while not answer or time.monotonic() < since + 1.0:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
        if (newer := await ask()) != answer:
            answer, since = newer, time.monotonic()
    return answer


@pytest.mark.parametrize("poll", [1, 20, 500, 5000, 20_000, 25_000])
def test_at_most_fifty_thousand_records_wait(poll: int) -> None:
    assert buffered_batches(poll) * poll <= BUFFER_RECORDS
    assert BUFFER_RECORDS + LANE_RECORDS <= 50_000
