"""`python -m benchmarks.stores_outage`: a store is away for five minutes while 5,000 records a second come in.

Each store in its turn, with a Kafka of its own: `python -m sinks STORE` fills it, beside it another store that stays.
Then the store's server is killed (the lake's folder is moved away) and started again five minutes later; records come
at the same rate all the time, while it catches up too. Shown are how far the sink was behind, its memory, how long it
took to catch up, what the other sink was behind at most, and whether every record is there in the end. The lake waits
for 100,000 records by itself, so it always is behind by up to so many.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import psutil
import psycopg
import pyarrow.dataset as ds
from confluent_kafka import TopicPartition
from rich.progress import Progress
from rich.table import Table

from benchmarks.machine import console, machine
from benchmarks.market import VENUE, Market, symbols
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, Settings
from ravencore.decimals import ONE
from ravencore.records import Bar, Instrument, Trade, market_key
from ravencore.topics import BARS, GROUP_SINK, INSTRUMENTS, TRADES
from ravenctl.local import jars, ports, postgres, questdb, redis_server
from ravenctl.local.broker import Alone, Broker
from ravenctl.local.progress import QUIET
from sinks.registry import STORES
from sinks.stores.influx_setup import questdb_rows

SYMBOLS = symbols(20)
PAUSE_S = 0.01
LOOK_S = 0.25
WARM_S = 15
PATIENCE_S = 1800
MINUTE_US = 60_000_000


class Server(Protocol):
    """What can be taken away and brought back."""

    def start(self) -> None: ...
    def kill(self) -> None: ...


class Case(NamedTuple):
    """A store, where its records come from, what it needs and how many of them it has."""

    topic: str
    server: Server
    settings: dict[str, str]
    rows: Callable[[], int | None]


class Folder:
    """The lake's folder; where it is away, a file is in its place."""

    def __init__(self, path: Path) -> None:
        self._path, self._aside = path, path.with_suffix(".aside")

    def start(self) -> None:
        """Have it, as it was."""
        self._path.unlink(missing_ok=True)
        if self._aside.exists():
            self._aside.rename(self._path)

    def kill(self) -> None:
        """Take it away."""
        self._path.rename(self._aside)
        self._path.touch()


def influx(home: Path) -> Case:
    """QuestDB, as in the local stack."""
    port = ports.choose((), set())
    server = Alone(questdb.launch(home, port, [str(jar) for jar in jars.classpath("questdb", QUIET)]), home / "log")
    url = f"http://{ports.LOOPBACK}:{port}"
    settings = {"RAVEN_INFLUX__URL": url, "RAVEN_INFLUX__FLAVOUR": "questdb"}
    return Case(TRADES, server, settings, lambda: int(questdb_rows(url, "SELECT count() FROM trades")[0][0]))


def lake(home: Path) -> Case:
    """Parquet files."""
    folder = home / "lake"
    return Case(
        TRADES,
        Folder(folder),
        {"RAVEN_LAKE__URI": str(folder)},
        lambda: int(ds.dataset(folder / "v1/trade", partitioning="hive").count_rows()),
    )


def timescale(home: Path) -> Case:
    """The PostgreSQL of the local stack."""
    home.chmod(0o755)
    port = ports.choose((), set())
    dsn = postgres.dsn(home, port)

    def count() -> int:
        with psycopg.connect(dsn) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM mart.fact__time_bar").fetchone() or (0,)
            return int(rows)

    server = Alone(postgres.launch(home, port), home / "log")
    return Case(BARS["time"], server, {"RAVEN_MART__DSN": dsn}, count)


def cache(home: Path) -> Case:
    """The Redis of the local stack: the newest bar of each symbol."""
    port = ports.choose((), set())
    url = redis_server.url(home, port)
    server = Alone(redis_server.launch(home, port), home / "log")
    return Case(BARS["time"], server, {"RAVEN_REDIS__URL": url}, lambda: None)


CASES: dict[str, Callable[[Path], Case]] = {"influx": influx, "lake": lake, "timescale": timescale, "redis": cache}


class Sink:
    """`python -m sinks STORE`, and how far it is behind what was sent."""

    def __init__(self, store: str, settings: KafkaSettings, environment: dict[str, str], log: Path) -> None:
        own = {"RAVEN_KAFKA__BOOTSTRAP": settings.bootstrap, "RAVEN_SERVICE__INSTANCE": f"sink-{store}"}
        with log.open("ab") as out:
            command = [sys.executable, "-P", "-m", "sinks", store]
            self._process = subprocess.Popen(command, env={**os.environ, **own, **environment}, stdout=out, stderr=out)
        self._watched = psutil.Process(self._process.pid)
        self._group = kafka.consumer(settings, GROUP_SINK + store)

    def done(self, topic: str) -> int:
        """Records of a topic that are committed."""
        places = [TopicPartition(topic, number) for number in kafka.partitions(self._group, topic)]
        return sum(max(0, at.offset) for at in self._group.committed(places, timeout=10))

    def megabytes(self) -> float:
        """Memory it holds."""
        return float(self._watched.memory_info().rss) / 1e6

    def stop(self) -> None:
        """End it; raises SystemExit where it had ended already."""
        if self._process.poll() is not None:
            raise SystemExit("a sink ended by itself: see its log")
        self._group.close()
        self._process.terminate()
        self._process.wait(30)


class Sender:
    """Records of a topic at a steady rate, until it is told to stop."""

    def __init__(self, settings: KafkaSettings, topic: str, rate: int) -> None:
        self._producer, self._codec = kafka.producer(settings), Codec()
        self._topic, self._rate = topic, rate
        self._next: Iterator[Trade | Bar] = trades() if topic == TRADES else time_bars()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0

    def start(self) -> None:
        """Say what the symbols are, then begin."""
        for symbol in SYMBOLS:
            record = instrument(symbol)
            self._producer.produce(INSTRUMENTS, self._codec.encode(record), market_key(record))
        self._producer.flush()
        self._thread.start()

    def stop(self) -> None:
        """End, with all that was sent delivered."""
        self._stopped.set()
        self._thread.join()
        self._producer.flush()

    def _run(self) -> None:
        began = time.monotonic()
        while not self._stopped.wait(PAUSE_S):
            for _ in range(round((time.monotonic() - began) * self._rate) - self.sent):
                record = next(self._next)
                self._producer.produce(self._topic, self._codec.encode(record), market_key(record))
                self.sent += 1
            self._producer.poll(0)


def trades() -> Iterator[Trade]:
    """Without end, of now."""
    market = Market(1, SYMBOLS)
    while True:
        yield market.trade(time.time_ns() // 1000)


def time_bars() -> Iterator[Bar]:
    """Without end: the minutes of every symbol, from a day long past."""
    began = time.time_ns() // 1000 // MINUTE_US * MINUTE_US
    number = 0
    while True:
        number += 1
        for symbol in SYMBOLS:
            yield time_bar(symbol, number, began + number * MINUTE_US)


def time_bar(symbol: str, number: int, open_us: int) -> Bar:
    """As the engine makes them."""
    return Bar(
        venue=VENUE,
        symbol=symbol,
        kind="time",
        profile="1m",
        bar_seq=number,
        open_time=open_us,
        close_time=open_us + MINUTE_US,
        first_trade_id=str(3_000_000_000 + number * 500),
        last_trade_id=str(3_000_000_499 + number * 500),
        open=60_000 * ONE + number * ONE // 100,
        high=60_010 * ONE + number * ONE // 100,
        low=59_990 * ONE + number * ONE // 100,
        close=60_001 * ONE + number * ONE // 100,
        volume=number * ONE // 1000,
        quote_volume=number * 60 * ONE,
        buy_volume=number * ONE // 2000,
        ticks=500,
        buy_ticks=250,
        warmup=False,
        gap=False,
    )


def instrument(symbol: str) -> Instrument:
    """Of a pair of spot."""
    base = symbol.removesuffix("USDT")
    return Instrument(
        venue=VENUE, symbol=symbol, received_time=1, base=base, quote="USDT", kind="SPOT", status="TRADING"
    )


class Watch:
    """What is seen of two sinks while something goes on."""

    def __init__(self, topic: str, sender: Sender, sinks: Sequence[Sink], bars: Progress) -> None:
        self._topic, self._sender, self._bars = topic, sender, bars
        self._sink, self._other = sinks
        self.other_lag = 0

    def lag(self) -> int:
        """Of the sink."""
        return self._sender.sent - self._sink.done(self._topic)

    def until(self, told: str, seconds: float, ended: Callable[[], bool] = lambda: False) -> dict[str, float]:
        """The largest lag and memory of so many seconds, which may end sooner."""
        task, began = self._bars.add_task(told, total=seconds), time.monotonic()
        seen = {"lag": 0.0, "megabytes": 0.0, "seconds": 0.0}
        while (passed := time.monotonic() - began) < seconds and not ended():
            time.sleep(LOOK_S)
            seen["lag"] = max(seen["lag"], self.lag())
            seen["megabytes"] = max(seen["megabytes"], self._sink.megabytes())
            self.other_lag = max(self.other_lag, self._sender.sent - self._other.done(self._topic))
            self._bars.update(task, completed=passed, description=f"{told}: {self.lag():,} behind")
        self._bars.update(task, completed=seconds)
        return seen | {"seconds": time.monotonic() - began}


def measure(store: str, minutes: float, rate: int, bars: Progress) -> dict[str, Any]:
    """What an outage of one store comes to."""
    beside = "influx" if store == "lake" else "lake"
    with tempfile.TemporaryDirectory(prefix="raven-outage-") as folder, Broker() as broker:
        home, settings = Path(folder), KafkaSettings(bootstrap=broker.bootstrap)
        kafka.ensure_topics(settings)
        homes = {name: home / name for name in (store, beside)}
        for path in homes.values():
            path.mkdir()
        case, other = (CASES[name](path) for name, path in homes.items())
        with running(case.server), running(other.server):
            sender = Sender(settings, case.topic, rate)
            sinks = [
                Sink(name, settings, one.settings, home / f"{name}.log")
                for name, one in ((store, case), (beside, other))
            ]
            try:
                watch = Watch(case.topic, sender, sinks, bars)
                return {"store": store} | outage(case, watch, sender, minutes, usual(store, rate))
            finally:
                for sink in sinks:
                    sink.stop()


def usual(store: str, rate: int) -> float:
    """Records that a sink is behind at most when nothing is wrong: a batch, and what comes in a second."""
    wanted = STORES[store](Settings()).batching
    return min(wanted.records, wanted.seconds * rate) + rate


def outage(case: Case, watch: Watch, sender: Sender, minutes: float, enough: float) -> dict[str, Any]:
    """Away, back, caught up, and counted."""
    sender.start()
    watch.until("the store begins", PATIENCE_S, lambda: sender.sent > enough and watch.lag() < enough)
    before = watch.until("the store is there", WARM_S)
    watch.other_lag = 0
    case.server.kill()
    away = watch.until("the store is away", minutes * 60)
    other_lag, waiting = watch.other_lag, watch.lag()
    reached = sender.sent - waiting
    case.server.start()
    back = watch.until("the store catches up", PATIENCE_S, lambda: watch.lag() < enough)
    sender.stop()
    watch.until("the store comes to the end", PATIENCE_S, lambda: watch.lag() == 0)
    return {
        "before_mb": before["megabytes"],
        "away_mb": away["megabytes"],
        "back_mb": back["megabytes"],
        "lag": waiting,
        "catch_up_s": back["seconds"],
        "a_second": (sender.sent - reached) / back["seconds"],
        "other_lag": other_lag,
        "sent": sender.sent,
        "kept": settled(case, sender.sent),
    }


def settled(case: Case, sent: int) -> int | None:
    """How many records the store has, as soon as it shows all of them, or else after a minute."""
    deadline = time.monotonic() + 60
    while (rows := case.rows()) is not None and rows != sent and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    return rows


@contextmanager
def running(server: Server) -> Iterator[None]:
    """A server for a while."""
    server.start()
    try:
        yield
    finally:
        server.kill()


def main() -> None:
    """Measure, and print the table; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description="A store that is away for minutes.")
    parser.add_argument("--stores", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rate", type=int, default=5_000, help="records a second")
    parser.add_argument("--json", default=None, help="write the numbers to this file")
    options = parser.parse_args()
    with Progress(console=console(), transient=True) as bars:
        figures = [measure(store, options.minutes, options.rate, bars) for store in options.stores]
    console().print(table(figures, options.minutes, options.rate))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def table(figures: Sequence[dict[str, Any]], minutes: float, rate: int) -> Table:
    """A row for each store."""
    drawn = Table(title=f"Away for {minutes:g} minutes at {rate:,} records a second ({machine()})")
    headings = (
        "store",
        "behind by",
        "caught up in",
        "records/s then",
        "memory before, away, after",
        "other sink",
        "kept",
    )
    for heading in headings:
        drawn.add_column(heading, justify="left" if heading == "store" else "right")
    for one in figures:
        kept = "the newest" if one["kept"] is None else f"{one['kept']:,} of {one['sent']:,}"
        memory = ", ".join(f"{one[name]:.0f}" for name in ("before_mb", "away_mb", "back_mb"))
        caught_up = f"{one['catch_up_s']:.0f} s"
        drawn.add_row(
            one["store"], f"{one['lag']:,}", caught_up, f"{one['a_second']:,.0f}", memory + " MB",
            f"{one['other_lag']:,} at most", kept,
        )  # fmt: skip
    return drawn


if __name__ == "__main__":
    main()
