"""Records to write, how each store is read back, a server that can be cut off, a sink as a process."""

from __future__ import annotations

import json
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
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec
import psycopg
import pytest
from confluent_kafka import TopicPartition

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import MartSettings, Settings
from ravencore.decimals import to_decimal
from ravencore.records import Bar, Book, DeadLetter, Instrument, Level, Record, ServiceStatus, Trade, Vpin, market_key
from ravencore.topics import BARS, BOOKS, DEAD_LETTERS, INSTRUMENTS, STATUS, TRADES, VPIN
from sinks.contract import Entry

T0 = 1_723_075_200_000_000
CODEC = Codec()
Rows = dict[Any, dict[str, Any]]


class Stack(Protocol):
    """The endpoints that the fixture `stack` gives."""

    kafka_bootstrap: str
    questdb_url: str
    postgres_dsn: str


def until(condition: Callable[[], Any], what: str, seconds: float = 40.0) -> Any:
    """The first true value of the condition; fails after the deadline."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.05)
    pytest.fail(f"not within {seconds:.0f} s: {what}")


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


def vpin(symbol: str, number: int) -> Vpin:
    return Vpin(
        venue="VENUE",
        symbol=symbol,
        profile="default",
        bar_seq=number,
        unit="QUOTE",
        open_time=T0 + number,
        close_time=T0 + number,
        first_trade_id="1",
        last_trade_id="2",
        open=1,
        high=2,
        low=1,
        close=2,
        volume=10_000 * 10**18,
        buy_volume=5 * 10**21 + number,
        ticks=number,
        sigma=None if number < 3 else 0.1,
        vpin=number / 7,
        gap=False,
    )


def instrument(symbol: str, **changes: Any) -> Instrument:
    fields = {
        "venue": "VENUE", "symbol": symbol, "received_time": T0, "base": f"B{symbol}", "quote": "USDT",
        "kind": "SPOT", "status": "TRADING",
    }  # fmt: skip
    return Instrument(**{**fields, **changes})


TOPIC_OF: dict[type[Record], str] = {Trade: TRADES, Book: BOOKS, Vpin: VPIN, Instrument: INSTRUMENTS}


def topic_of(record: Record) -> str:
    """Where a record is published; Bars of a kind that there is not go among the tick-imbalance bars."""
    return BARS.get(record.kind, BARS["tib"]) if isinstance(record, Bar) else TOPIC_OF[type(record)]


def entries(records: Sequence[Record]) -> list[Entry]:
    return [Entry(topic_of(record), 0, offset, record) for offset, record in enumerate(records)]


class Probe(Protocol):
    """How a store is tested: records it keeps, records it refuses, what it holds and what it should hold."""

    def records(self, symbol: str, count: int) -> list[Record]: ...
    def poison(self, symbol: str) -> Record: ...
    def expected(self, records: Sequence[Record]) -> Rows: ...
    def kept(self, symbol: str) -> Rows: ...
    def count(self, symbol: str) -> int: ...
    def behind(self, settings: Settings, proxy: Callable[[str, int], Cuttable]) -> tuple[Settings, Cuttable]: ...


class InfluxProbe:
    """Rows of QuestDB by series and nanosecond."""

    def __init__(self, settings: Settings) -> None:
        self._url = settings.influx.url

    def records(self, symbol: str, count: int) -> list[Record]:
        return [trade(symbol, number) if number % 3 else book(symbol, number) for number in range(count)]

    def poison(self, symbol: str) -> Record:
        return trade(symbol, 77, event_time=-5_000)

    def expected(self, records: Sequence[Record]) -> Rows:
        rows: Rows = {}
        for record in records:
            if isinstance(record, Trade):
                assert record.sequence is not None
                time_ns = record.event_time * 1000 + record.sequence % 1_000_000
                rows["trades", record.venue, record.side, time_ns] = {
                    "price": float(to_decimal(record.price)),
                    "quantity": float(to_decimal(record.quantity)),
                    "trade_id": record.trade_id,
                }
            elif isinstance(record, Book):
                assert record.sequence is not None
                bid, ask = record.bids[0], record.asks[0]
                time_ns = record.received_time * 1000 + record.sequence % 1000
                prices = [to_decimal(number) for number in (bid.price, bid.quantity, ask.price, ask.quantity)]
                rows["orderbook", record.venue, "", time_ns] = {
                    "bid_price": float(prices[0]),
                    "bid_quantity": float(prices[1]),
                    "ask_price": float(prices[2]),
                    "ask_quantity": float(prices[3]),
                    "spread": float(prices[2] - prices[0]),
                    "mid_price": float((prices[2] + prices[0]) / 2),
                    "imbalance": float((prices[1] - prices[3]) / (prices[1] + prices[3])),
                }
        return rows

    def kept(self, symbol: str) -> Rows:
        rows: Rows = {}
        for table in ("trades", "orderbook"):
            sql = f"SELECT *, timestamp::long AS time_ns FROM {table} WHERE symbol = '{symbol}'"
            for row in self.query(sql):
                at = (table, row.pop("exchange"), row.pop("side", ""), row.pop("time_ns"))
                assert at not in rows
                del row["symbol"], row["timestamp"]
                rows[at] = row
        return rows

    def count(self, symbol: str) -> int:
        counts = [self.query(f"SELECT count() FROM {t} WHERE symbol = '{symbol}'") for t in ("trades", "orderbook")]
        return sum(rows[0]["count()"] for rows in counts)

    def query(self, sql: str) -> list[dict[str, Any]]:
        found = self.query_ok(sql)
        return [dict(zip([c["name"] for c in found["columns"]], row, strict=True)) for row in found["dataset"]]

    def query_ok(self, sql: str) -> Any:
        with urllib.request.urlopen(f"{self._url}/exec?{urllib.parse.urlencode({'query': sql})}") as answer:
            return json.load(answer)

    def behind(self, settings: Settings, proxy: Callable[[str, int], Cuttable]) -> tuple[Settings, Cuttable]:
        url = urllib.parse.urlsplit(settings.influx.url)
        assert url.hostname
        assert url.port
        made = proxy(url.hostname, url.port)
        influx = settings.influx.model_copy(update={"url": f"http://127.0.0.1:{made.port}"})
        return settings.model_copy(update={"influx": influx}), made


class TimescaleProbe:
    """Rows of the mart by bar identity, as Raven's own records."""

    def __init__(self, settings: Settings) -> None:
        self._dsn = settings.mart.dsn.get_secret_value()

    def records(self, symbol: str, count: int) -> list[Record]:
        kinds = (
            lambda number: bar(symbol, number),
            lambda number: vpin(symbol, number),
            lambda number: bar(symbol, number, kind="time", profile="1s"),
        )
        return [instrument(symbol), *(kinds[number % 3](number) for number in range(count - 1))]

    def poison(self, symbol: str) -> Record:
        return bar(symbol, 1_000_000, first_trade_id="\0")

    def expected(self, records: Sequence[Record]) -> Rows:
        return {
            _identity(record): msgspec.structs.asdict(record) for record in records if isinstance(record, Bar | Vpin)
        }

    def kept(self, symbol: str) -> Rows:
        rows: Rows = {}
        for table, cls in (
            ("fact__time_bar", Bar),
            ("fact__tick_imbalance", Bar),
            ("fact__volume_imbalance", Bar),
            ("fact__vpin", Vpin),
        ):
            for row in self.rows(table, symbol):
                record = cls(**{name: _units(row[name]) for name in cls.__struct_fields__})
                assert _identity(record) not in rows
                rows[_identity(record)] = msgspec.structs.asdict(record)
        return rows

    def count(self, symbol: str) -> int:
        counts = ", ".join(
            f"(SELECT count(*) FROM mart.{fact} WHERE instrument_id = i.instrument_id)"
            for fact in ("fact__time_bar", "fact__tick_imbalance", "fact__volume_imbalance", "fact__vpin")
        )
        with psycopg.connect(self._dsn) as connection:
            try:
                sql = f"SELECT {counts} FROM mart.dim__instrument i WHERE symbol = %s"
                rows = connection.execute(sql.encode(), [symbol])
                return sum(sum(row) for row in rows)
            except psycopg.errors.UndefinedTable:
                return 0

    def rows(self, table: str, symbol: str) -> list[dict[str, Any]]:
        with psycopg.connect(self._dsn, row_factory=psycopg.rows.dict_row) as connection:
            return connection.execute(
                "SELECT fact.*, exchange.name AS venue, symbol, coin.name AS base, quote.name AS quote, "
                f"i.name AS interval FROM mart.{table} fact JOIN mart.dim__instrument USING (instrument_id) "
                "JOIN mart.dim__exchange exchange ON fact.exchange_id = exchange.exchange_id "
                "JOIN mart.dim__coin coin ON fact.coin_id = coin.coin_id "
                "JOIN mart.dim__quote quote ON fact.quote_id = quote.quote_id "
                "JOIN mart.dim__interval i ON fact.interval_id = i.interval_id "
                "WHERE symbol = %s".encode(),
                [symbol],
            ).fetchall()

    def behind(self, settings: Settings, proxy: Callable[[str, int], Cuttable]) -> tuple[Settings, Cuttable]:
        url = urllib.parse.urlsplit(self._dsn)
        assert url.hostname
        assert url.port
        made = proxy(url.hostname, url.port)
        dsn = self._dsn.replace(f"{url.hostname}:{url.port}", f"127.0.0.1:{made.port}")
        mart = MartSettings(dsn=dsn, instrument_wait_s=settings.mart.instrument_wait_s)
        return settings.model_copy(update={"mart": mart}), made


def _identity(record: Bar | Vpin) -> tuple[str, str, str, str, int]:
    kind = record.kind if isinstance(record, Bar) else "vpin"
    return record.venue, record.symbol, kind, record.profile, record.bar_seq


def _units(value: Any) -> Any:
    """A value of the database as Raven's records hold it."""
    if isinstance(value, Decimal):
        return int(value.scaleb(18, Context(prec=60)))
    if isinstance(value, datetime):
        return (value - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    return value


class Sink:
    """`python -m sinks STORE` as a process of its own."""

    def __init__(self, topics: Topics, store: str, settings: Settings, log: Path, code: str = "") -> None:
        self.instance = f"test-{store}"
        self._topics, self._log = topics, log
        environment = {
            **os.environ,
            "RAVEN_KAFKA__BOOTSTRAP": settings.kafka.bootstrap,
            "RAVEN_INFLUX__URL": settings.influx.url,
            "RAVEN_INFLUX__FLAVOUR": settings.influx.flavour,
            "RAVEN_MART__DSN": settings.mart.dsn.get_secret_value(),
            "RAVEN_MART__INSTRUMENT_WAIT_S": str(settings.mart.instrument_wait_s),
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
        """Wait until the store has as many rows as it should, then compare every value."""
        probe, symbol = self.probes[name], symbol or self.symbol
        expected = probe.expected(records)
        until(lambda: probe.count(symbol) >= len(expected), f"{len(expected)} rows", seconds=90)
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
            self.send_bytes(topic_of(record), market_key(record), CODEC.encode(record))  # type: ignore[arg-type]
        self._producer.flush()

    def send_bytes(self, topic: str, key: bytes, value: bytes | None, **extra: Any) -> None:
        self._producer.produce(topic, value, key, **extra)
        self._producer.poll(0)

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
