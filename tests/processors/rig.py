"""Engines as processes against a real Kafka, a tape for them, and all that they leave behind."""

import contextlib
import functools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from confluent_kafka import KafkaException, Message, Producer, TopicPartition

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, ServiceSettings, Settings
from ravencore.decimals import ONE
from ravencore.records import DeadLetter, OptionSide, OptionTicker, Quote, ServiceStatus, State, Trade, market_key
from ravencore.topics import (
    BARS,
    DEAD_LETTERS,
    GROUP_BARS,
    IV_SURFACE,
    OPTION_TICKERS,
    QUOTES,
    SPOT_MID,
    STATE_BARS,
    STATE_MIDS,
    STATE_SURFACES,
    STATUS,
    TOPICS,
    TRADES,
    VPIN,
)
from ravenctl.local.broker import Broker

CODEC = Codec()
PARTITIONS = 3
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "ADAUSDT")
PAIR, UNDERLYING = "BTC-USDT", "BTC"
INPUTS = (TRADES, QUOTES, OPTION_TICKERS)
STATES = (STATE_BARS, STATE_MIDS, STATE_SURFACES)
OUTPUTS = (BARS["time"], BARS["tib"], BARS["trb"], BARS["vib"], VPIN, SPOT_MID, IV_SURFACE)
"""What default profiles make."""
Told = tuple[str, bytes, bytes | None, dict[str, str | bytes | None]]
"""A topic and what is sent to it: key, value and headers."""
SLOT = "engine-0"
PATIENCE_S = 60.0
TAPE_TRADES = 24_000


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
    """A seeded tape of a few symbols, with duplicates, holes, late repairs, Clocks and records nobody can read; and of
    quotes and option tickers, some twice, with Clocks."""

    def __init__(self, settings: KafkaSettings, trades: int) -> None:
        self._producer = kafka.producer(settings, **{"queue.buffering.max.messages": 1_000_000})
        self._records = seeded_tape(trades)
        self._whole = len(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def send(self, share: float, producer: Producer | None = None) -> None:
        """The next part of the tape: `share` of the whole, or what is left of it."""
        producer = producer or self._producer
        count = round(share * self._whole)
        part, self._records = self._records[:count], self._records[count:]
        for topic, key, value, headers in part:
            producer.produce(topic, value, key, headers=headers)
        assert producer.flush(30) == 0


@functools.cache
def seeded_tape(trades: int) -> tuple[Told, ...]:
    """The same for all who ask."""
    return tuple(tape(random.Random(7), trades))


def tape(rng: random.Random, trades: int) -> Iterator[Told]:
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
        yield TRADES, market_key(trade), CODEC.encode(trade), {}
        if rng.random() < 0.01:
            yield TRADES, market_key(trade), CODEC.encode(trade), {}
        if held and rng.random() < 0.01:
            late = held.pop()
            yield TRADES, market_key(late), CODEC.encode(late), {}
        if rng.random() < 0.002:
            clock = str(now + 3_000_000).encode()
            yield TRADES, market_key(trade), None, {kafka.CLOCK_HEADER: clock}
        if rng.random() < 0.1:
            yield from joined(rng, now, price["BTCUSDT"] * ONE // 1000)
        if number % 5000 == 2500:
            yield TRADES, market_key(trade), b"garbage", {}
            yield TRADES, market_key(trade), b"\x00\x00\x00\x00\x63" + CODEC.encode(trade)[5:], {}
            yield TRADES, b"BINANCE_SPOT:OTHER", CODEC.encode(trade), {}


def joined(rng: random.Random, now: int, price: int) -> Iterator[Told]:
    """A quote of some venue, a ticker of some option, and now and then one of them again, or Clocks."""
    quote = Quote(
        venue=rng.choice(["BINANCE_SPOT", "COINBASE", "KRAKEN"]),
        symbol="BTCUSDT",
        received_time=now,
        bid_price=price - rng.randrange(ONE),
        ask_price=price + rng.randrange(ONE),
    )
    strike = rng.randrange(40, 60)
    side: OptionSide = rng.choice(["CALL", "PUT"])
    ticker = OptionTicker(
        venue="DERIBIT",
        symbol=f"BTC-{strike}-{side}",
        received_time=now,
        underlying=UNDERLYING,
        expiry=1_702_600_000_000_000,
        strike=strike * ONE,
        option_side=side,
        price_currency="BTC",
        bid_price=ONE // 50,
        ask_price=ONE // 40,
        mark_price=ONE // 45,
        underlying_price=price,
        mark_iv=0.5 + rng.random() / 10,
    )
    told: list[Told] = [
        (QUOTES, PAIR.encode(), CODEC.encode(quote), {}),
        (OPTION_TICKERS, UNDERLYING.encode(), CODEC.encode(ticker), {}),
    ]
    yield from told
    if rng.random() < 0.05:
        yield rng.choice(told)
    if rng.random() < 0.05:
        clock: dict[str, str | bytes | None] = {kafka.CLOCK_HEADER: str(now + 1_500_000).encode()}
        yield from ((topic, key, None, clock) for topic, key, _, _ in told)


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

    def feed(self, trades: int = TAPE_TRADES) -> Feed:
        return Feed(self.settings.kafka, trades)

    def committed(self) -> int:
        try:
            found = self._group.committed([TopicPartition(topic, p) for topic in INPUTS for p in range(PARTITIONS)], 20)
        except KafkaException:  # just started
            return -1
        return sum(max(0, tp.offset) for tp in found)

    def lag(self) -> int:
        return sum(sum(self.ends(topic, self._plain)) for topic in INPUTS) - self.committed()

    def ends(self, topic: str, client: Any) -> list[int]:
        """Of each partition; waits for a broker that was just started."""

        def ask() -> list[int]:
            with contextlib.suppress(KafkaException):
                return [client.get_watermark_offsets(TopicPartition(topic, p), 20)[1] for p in range(PARTITIONS)]
            return []

        found: list[int] = until(ask, f"the ends of {topic}")
        return found

    def transaction_is_open(self) -> bool:
        """Whether a transaction has written something that readers may not see yet."""
        return any(self.ends(topic, self._plain) != self.ends(topic, self._group) for topic in (*STATES, VPIN))

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
        dead = [(it.topic, it.partition, it.offset, it.key, it.payload, it.reason, it.detail) for it in letters]
        assert len(set(dead)) == len(dead)
        states = [
            CODEC.decode_as(State, value)
            for topic in STATES
            for value in kafka.compacted(self.settings.kafka, topic, "test").values()
        ]
        return Made(outputs, frozenset(dead), {it.input_key: (it.offset, it.payload) for it in states})

    def read(self, topic: str) -> list[Message]:
        found: list[Message] = []
        kafka.read_to_end(self.settings.kafka, topic, "test", found.append)
        return found


@contextlib.contextmanager
def house_of(broker: Broker, folder: Path) -> Iterator[House]:
    """A house whose workers are gone in the end."""
    one = House(broker, folder)
    try:
        yield one
    finally:
        for worker in one.workers:
            with contextlib.suppress(ProcessLookupError):
                worker.process.kill()
            worker.process.wait()
