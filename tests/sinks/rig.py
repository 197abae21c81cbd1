"""Records to write, how each store is read back, a server that can be cut off, a sink as a process."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psycopg
import pytest
from confluent_kafka import TopicPartition

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import MartSettings, Settings
from ravencore.records import (
    Bar,
    Book,
    DeadLetter,
    Gap,
    Instrument,
    IvSurface,
    Level,
    Quote,
    Record,
    ServiceStatus,
    SpotMid,
    Trade,
    Vpin,
    gap_key,
    market_key,
    mid_key,
    surface_key,
)
from ravencore.topics import BARS, DEAD_LETTERS, GAPS, INSTRUMENTS, IV_SURFACE, SPOT_MID, STATUS, VPIN
from sinks.contract import Read
from sinks.stores.influx import Influx

T0 = 1_723_075_200_000_000
CODEC = Codec()
Rows = dict[Any, dict[str, Any]]


class Stack(Protocol):
    """The endpoints that the fixture `stack` gives."""

    kafka_bootstrap: str
    questdb_url: str
    postgres_dsn: str
    redis_url: str


def until(condition: Callable[[], Any], what: str, seconds: float = 40.0) -> Any:
    """The first true value of the condition; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


class Cut(Protocol):
    """Something between a store and its server, or disk, that can be taken away and brought back."""

    def cut(self) -> None: ...
    def mend(self) -> None: ...


@contextmanager
def database(server_dsn: str, name: str) -> Iterator[str]:
    """A database that is there for a while."""
    with psycopg.connect(server_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
        yield urllib.parse.urlsplit(server_dsn)._replace(path=f"/{name}").geturl()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


class Cuttable:
    """A TCP proxy on a free loopback port: `cut` drops every connection and refuses new ones until `mend`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._whole = threading.Event()
        self._whole.set()
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._whole.clear()

    def mend(self) -> None:
        self._whole.set()

    def close(self) -> None:
        self._open = False
        self._whole.clear()
        self._listener.close()

    def _accept(self) -> None:
        while self._open:
            with suppress(OSError):
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with closing(client), suppress(OSError):
            if not self._whole.is_set():
                return
            with closing(socket.create_connection(self._target)) as server:
                while self._whole.is_set():
                    ready, _, _ = select.select([client, server], [], [], 0.05)
                    for side in ready:
                        data = side.recv(65536)
                        if not data:
                            return
                        (server if side is client else client).sendall(data)


def trade(symbol: str, number: int, **changes: Any) -> Trade:
    fields = {
        "venue": "VENUE", "symbol": symbol, "event_time": T0 + number * 1000, "received_time": T0 + number * 1000 + 7,
        "trade_id": str(number), "sequence": number, "price": 60_000 * 10**18 + number, "quantity": 10**15 + number,
        "side": "BUY" if number % 2 else "SELL",
    }  # fmt: skip
    return Trade(**{**fields, **changes})


def book(symbol: str, number: int) -> Book:
    return Book(
        venue="VENUE",
        symbol=symbol,
        received_time=T0 + number * 100,
        update_id=str(number),
        sequence=number,
        source="VENUE_SNAPSHOT",
        bids=(Level((100 - number % 7) * 10**18, (number + 1) * 10**15),),
        asks=(Level((101 + number % 5) * 10**18, 10**18),),
    )


def bar(symbol: str, number: int, **changes: Any) -> Bar:
    fields = {
        "venue": "VENUE", "symbol": symbol, "kind": "tib", "profile": "tib_small", "bar_seq": number,
        "open_time": T0 + number * 1_000_001, "close_time": T0 + number * 1_000_001 + 999_999,
        "first_trade_id": f"a\\{number}", "last_trade_id": None, "open": 10**37 + number, "high": 10**38 - 1,
        "low": 1, "close": -number, "volume": 3 * 10**18 + number, "quote_volume": 7, "buy_volume": 10**18,
        "ticks": number, "buy_ticks": 2**62, "theta": -0.1 * number, "threshold": 1e-300, "expected_ticks": None,
        "warmup": number == 0, "gap": number % 2 == 1,
    }  # fmt: skip
    return Bar(**{**fields, **changes})


def vpin(symbol: str, number: int, **changes: Any) -> Vpin:
    fields = {
        "venue": "VENUE", "symbol": symbol, "profile": "default", "bar_seq": number, "unit": "QUOTE",
        "open_time": T0 + number, "close_time": T0 + number, "first_trade_id": "1", "last_trade_id": "2", "open": 1,
        "high": 2, "low": 1, "close": 2, "volume": 10_000 * 10**18, "buy_volume": 5 * 10**21 + number, "ticks": number,
        "sigma": None if number < 3 else 0.1, "vpin": number / 7, "gap": False,
    }  # fmt: skip
    return Vpin(**{**fields, **changes})


def instrument(symbol: str, **changes: Any) -> Instrument:
    fields = {
        "venue": "VENUE", "symbol": symbol, "received_time": T0, "base": f"B{symbol}", "quote": "USDT",
        "kind": "SPOT", "status": "TRADING",
    }  # fmt: skip
    return Instrument(**{**fields, **changes})


TOPIC_OF: dict[type[Record], str] = {cls: topic for topic, cls in Influx.topics.items()} | {
    Vpin: VPIN,
    Instrument: INSTRUMENTS,
    SpotMid: SPOT_MID,
    IvSurface: IV_SURFACE,
    ServiceStatus: STATUS,
    Gap: GAPS,
}


def topic_of(record: Record) -> str:
    """Where a record is published; Bars of a kind that there is not go among the tick-imbalance bars."""
    return BARS.get(record.kind, BARS["tib"]) if isinstance(record, Bar) else TOPIC_OF[type(record)]


def key_of(record: Record) -> bytes:
    """The Kafka key it is published with; a Quote's pair is its symbol in dollars."""
    match record:
        case Quote():
            return f"{record.symbol}-USDT".encode()
        case Gap():
            return gap_key(record)
        case SpotMid():
            return mid_key(record)
        case IvSurface():
            return surface_key(record)
        case ServiceStatus():
            return record.instance.encode()
        case _:
            return market_key(record)  # type: ignore[arg-type]


def reads(records: Sequence[Record]) -> list[Read]:
    return [
        Read(topic_of(record), 0, offset, key_of(record), CODEC.encode(record)) for offset, record in enumerate(records)
    ]


class Probe(Protocol):
    """How a store is tested: records it keeps, records it refuses, what it holds and what it should hold."""

    def records(self, symbol: str, count: int) -> list[Record]: ...
    def poison(self, symbol: str) -> Record: ...
    def expected(self, records: Sequence[Record]) -> Rows: ...
    def kept(self, symbol: str) -> Rows: ...
    def count(self, symbol: str) -> int: ...
    def enough(self, records: Sequence[Record]) -> int: ...
    def behind(self, settings: Settings, proxy: Callable[[str, int], Cuttable]) -> tuple[Settings, Cut]: ...


class Sink:
    """`python -m sinks STORE` as a process of its own."""

    def __init__(self, topics: Topics, store: str, settings: Settings, log: Path, code: str = "") -> None:
        self.instance = settings.service.instance or f"test-{store}"
        self._topics, self._log = topics, log
        environment = {
            **os.environ,
            "RAVEN_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
            "RAVEN_INFLUX__URL": settings.influx.url,
            "RAVEN_INFLUX__FLAVOUR": settings.influx.flavour,
            "RAVEN_MART__DSN": settings.mart.dsn.get_secret_value(),
            "RAVEN_MART__INSTRUMENT_WAIT_S": str(settings.mart.instrument_wait_s),
            "RAVEN_REDIS__URL": settings.redis.url.get_secret_value(),
            "RAVEN_REDIS__TAIL_RECORDS": str(settings.redis.tail_records),
            "RAVEN_LAKE__URI": settings.lake.uri,
            "RAVEN_LAKE__BATCH_S": str(settings.lake.batch_s),
            "RAVEN_LAKE__BATCH_RECORDS": str(settings.lake.batch_records),
            "RAVEN_SERVICE__INSTANCE": self.instance,
        }
        command = ["-c", f"import sys; sys.argv = ['sinks', {store!r}]\n{code}"] if code else ["-m", "sinks", store]
        with log.open("ab") as out:
            self.process = subprocess.Popen([sys.executable, *command], env=environment, stdout=out, stderr=out)

    def log(self) -> str:
        return self._log.read_text()

    def status(self) -> ServiceStatus | None:
        """What this process last said of itself."""
        status = self._topics.status(self.instance)
        return status if status and status.pid == self.process.pid else None

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(15)


class House(NamedTuple):
    """All that a test of the drain needs."""

    settings: Settings
    probes: Mapping[str, Probe]
    topics: Topics
    symbol: str
    start: Callable[..., Sink]

    def waiting(self, seconds: float) -> Settings:
        """Settings that let a bar wait this long for its instrument."""
        mart = self.settings.mart.model_copy(update={"instrument_wait_s": seconds})
        return self.settings.model_copy(update={"mart": mart})

    def other_mart(self) -> Settings:
        """Settings of an empty database on the same server."""
        dsn, name = self.settings.mart.dsn.get_secret_value(), f"anew_{self.symbol.lower()}"
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        dsn = urllib.parse.urlsplit(dsn)._replace(path=f"/{name}").geturl()
        return self.settings.model_copy(update={"mart": MartSettings(dsn=dsn)})

    def more_than(self, name: str, rows: int) -> bool:
        """Whether the store has more rows than that."""
        return self.probes[name].count(self.symbol) > rows

    def all_there(self, name: str, records: Sequence[Record], symbol: str = "") -> None:
        """Wait until the store has as many rows as it should and the newest of them, then compare every value."""
        probe, symbol = self.probes[name], symbol or self.symbol
        expected = probe.expected(records)
        until(lambda: probe.count(symbol) >= probe.enough(records), f"{len(expected)} rows", seconds=90)
        assert probe.kept(symbol) == expected


class Topics:
    """What the tests write to and read from Kafka."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings.kafka
        kafka.ensure_topics(self._settings)
        self._producer = kafka.producer(self._settings)
        self._statuses: dict[str, ServiceStatus] = {}
        self._letters: dict[bytes | None, list[DeadLetter]] = defaultdict(list)
        self._watch = kafka.reader(self._settings, "sinks-tests", **{"enable.partition.eof": False})
        self._watch.assign(
            [TopicPartition(name, p, 0) for name in (STATUS, DEAD_LETTERS) for p in kafka.partitions(self._watch, name)]
        )

    def send(self, *records: Record) -> None:
        for record in records:
            self.send_bytes(topic_of(record), key_of(record), CODEC.encode(record))
        self._producer.flush()

    def send_bytes(self, topic: str, key: bytes, value: bytes | None, **extra: Any) -> None:
        self._producer.produce(topic, value, key, **extra)
        self._producer.poll(0)

    def send_in_a_transaction(self, *records: Record) -> None:
        """As the engine does: behind them stands a marker that no consumer is given."""
        producer = kafka.producer(self._settings, **{"transactional.id": "sinks-tests"})
        producer.init_transactions(10)
        producer.begin_transaction()
        for record in records:
            producer.produce(topic_of(record), CODEC.encode(record), key_of(record))
        producer.commit_transaction(10)

    def flush(self) -> None:
        self._producer.flush()

    def status(self, instance: str) -> ServiceStatus | None:
        """The newest status of an instance."""
        self._catch_up()
        return self._statuses.get(instance)

    def dead_letters(self, key: str) -> list[DeadLetter]:
        """All dead letters of a key."""
        self._catch_up()
        return self._letters[key.encode()]

    def _catch_up(self) -> None:
        while messages := self._watch.consume(500, 0.1):
            for message in messages:
                record = CODEC.decode(message.value())
                if isinstance(record, ServiceStatus):
                    self._statuses[record.instance] = record
                if isinstance(record, DeadLetter):
                    self._letters[message.key()].append(record)

    def close(self) -> None:
        self._watch.close()

    def ends(self, topic: str) -> list[int]:
        """Of each partition."""
        numbers = kafka.partitions(self._watch, topic)
        return [self._watch.get_watermark_offsets(TopicPartition(topic, number), 10)[1] for number in numbers]

    def lag(self, group: str, topic: str) -> int:
        """Records of a topic that a group has not committed; its end counts without transaction markers."""
        client = kafka.consumer(self._settings, group)
        try:
            wanted = [TopicPartition(topic, number) for number in kafka.partitions(client, topic)]
            ends = [client.get_watermark_offsets(one, 10)[1] for one in wanted]
            done = [max(0, one.offset) for one in client.committed(wanted, timeout=10)]
            return sum(ends) - sum(done)
        finally:
            client.close()
