"""`python -m benchmarks.stores_influx`: rows a second into QuestDB through Raven's store, beside its bare rate.

The bare rate is that of the very same lines, made ready beforehand and posted in the same portions with the same
client. Raven's part of the measurement begins at the Avro bytes as Kafka holds them and ends when the server has
answered for the last line. Both take turns batch by batch, so that a slow moment of the machine meets both; medians of
the batches are shown. Prices walk in steps of a tick, quantities are drawn from a wide range; there are ten symbols of
each kind. CPU is of this process alone: Raven works while the server does, which shows by the clock only where there is
a core for each.

With `--url` (and `--token`) it is an InfluxDB 2 that runs already; its bucket `raven_bench` is made and left.
"""

import argparse
import os
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from influxdb_client import InfluxDBClient, WritePrecision
from influxdb_client.client.write_api import SYNCHRONOUS
from pydantic import SecretStr
from rich.table import Table

from benchmarks.machine import console, machine
from ravencore.codec import Codec
from ravencore.config import InfluxSettings, Settings
from ravencore.decimals import ONE
from ravencore.records import Book, IndexPrice, Level, Liquidation, OpenInterest, OptionTicker, Quote, Record, Trade
from ravenctl.local import jars, ports, questdb
from ravenctl.local.progress import QUIET
from sinks.contract import Read
from sinks.reading import Tables
from sinks.stores.influx import REQUEST_POINTS, Influx
from sinks.stores.influx_lines import points

SYMBOLS = tuple(f"COIN{number}USDT" for number in range(10))
TICK, STEP = ONE // 100, ONE // 100_000
LEVELS = 20
BATCH = Influx.batching.records


def main() -> None:
    """Measure each kind and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--records", type=int, default=100_000, help="records of each kind; of books a tenth, 10,000 at least"
    )
    parser.add_argument("--rounds", type=int, default=5, help="how often all of them are written")
    parser.add_argument("--url", help="an InfluxDB 2 that runs already; else a QuestDB is started")
    parser.add_argument("--token", default="")
    options = parser.parse_args()
    told = f"InfluxDB store, {machine()}, load {os.getloadavg()[0]:.0f}"
    table = Table("records", "bare rows/s", "Raven rows/s", "share", "bare CPU µs/row", "Raven CPU µs/row", title=told)
    with server(options.url, options.token) as settings:
        for cls, make in KINDS.items():
            count = max(options.records // 10, BATCH) if cls is Book else options.records
            bare, ours = measured(Settings(influx=settings), cls, make, count, options.rounds)
            rates = [f"{1 / bare.clock:,.0f}", f"{1 / ours.clock:,.0f}", f"{bare.clock / ours.clock:.0%}"]
            table.add_row(cls.__name__, *rates, f"{bare.cpu * 1e6:.1f}", f"{ours.cpu * 1e6:.1f}")
    console().print(table)


class Seconds(NamedTuple):
    """What a row takes."""

    clock: float
    cpu: float


def measured(
    settings: Settings, cls: type[Record], make: Callable[[random.Random, int], Record], count: int, rounds: int
) -> tuple[Seconds, Seconds]:
    """Medians: bare, and through the store."""
    store, codec, draw = Influx(settings), Codec(), random.Random(7)
    tables = Tables(codec, heads=True)
    topic = next(topic for topic, kept in store.topics.items() if kept is cls)
    reads = [Read(topic, 0, row, b"key", codec.encode(make(draw, row))) for row in range(count)]
    batches = [reads[first : first + BATCH] for first in range(0, count, BATCH)]
    store.setup()
    bare, ours = [], []
    with bare_client(settings.influx) as post:
        for round_ in range(rounds + 1):
            for batch in batches:
                starts = range(0, len(batch), REQUEST_POINTS)
                bodies = [body(tables, cls, batch[start : start + REQUEST_POINTS]) for start in starts]
                first, second = timed(partial(post_all, post, bodies)), timed(partial(write, store, batch))
                if round_:  # the first warms up
                    bare.append(first)
                    ours.append(second)
    store.close()
    return median(bare, len(batches[0])), median(ours, len(batches[0]))


def median(taken: Sequence[Seconds], rows: int) -> Seconds:
    """Of a row."""
    return Seconds(*(statistics.median(column) / rows for column in zip(*taken, strict=True)))


def write(store: Influx, batch: Sequence[Read]) -> None:
    """Write a batch, of which nothing may be refused."""
    outcome = store.write(batch)
    assert outcome == ([], []), outcome


def post_all(post: Callable[[bytes], Any], bodies: Sequence[bytes]) -> None:
    """Post one after another."""
    for one in bodies:
        post(one)


def body(tables: Tables, cls: type[Record], reads: Sequence[Read]) -> bytes:
    """The lines of a request."""
    made, without = points(cls, reads, tables.table(cls, [read.value for read in reads]))
    assert not without
    return made.body(range(len(reads)))


def timed(action: Callable[[], Any]) -> Seconds:
    """Seconds by the clock, and of this process's CPU."""
    clock, cpu = time.perf_counter(), time.process_time()
    action()
    return Seconds(time.perf_counter() - clock, time.process_time() - cpu)


@contextmanager
def bare_client(settings: InfluxSettings) -> Iterator[Callable[[bytes], Any]]:
    """What posts a body."""
    token = settings.token.get_secret_value()
    with InfluxDBClient(settings.url, token=token, org=settings.org) as client:
        writes = client.write_api(write_options=SYNCHRONOUS)
        yield lambda lines: writes.write(settings.bucket, settings.org, lines, WritePrecision.NS)


@contextmanager
def server(url: str | None, token: str) -> Iterator[InfluxSettings]:
    """Settings of the server given, or of a QuestDB that ends with the measurement."""
    if url:
        bucket = "raven_bench"
        yield InfluxSettings(url=url, token=SecretStr(token), bucket=bucket, retention_days=0, minute_bucket="")
        return
    with tempfile.TemporaryDirectory(prefix="raven-questdb-") as home:
        port = ports.choose((), set())
        launch = questdb.launch(Path(home), port, [str(jar) for jar in jars.classpath("questdb", QUIET)])
        assert launch.prepare is not None
        launch.prepare()
        with (Path(home) / "log").open("wb") as log:
            process = subprocess.Popen(launch.argv, cwd=launch.cwd, stdout=log, stderr=log)
        try:
            while not questdb.answers(port):
                assert process.poll() is None, "QuestDB does not start"
                time.sleep(0.05)
            yield InfluxSettings(url=f"http://{ports.LOOPBACK}:{port}", flavour="questdb")
        finally:
            process.terminate()
            process.wait(30)


# Records as a market has them.

_walk = dict.fromkeys(SYMBOLS, 60_000 * ONE)
T0 = 1_795_000_000_000_000


def walk(draw: random.Random, row: int) -> tuple[str, int, int]:
    """A symbol, its price now, a time in microseconds."""
    symbol = SYMBOLS[row % len(SYMBOLS)]
    _walk[symbol] += draw.randint(-3, 3) * TICK
    return symbol, _walk[symbol], T0 + row * 250


def quantity(draw: random.Random) -> int:
    """Small ones more often than large ones."""
    return int(draw.expovariate(0.003) + 1) * STEP


def trade(draw: random.Random, row: int) -> Trade:
    """As Binance prints them."""
    symbol, price, time_us = walk(draw, row)
    return Trade(
        venue="BINANCE_SPOT",
        symbol=symbol,
        event_time=time_us,
        received_time=time_us + 900,
        trade_id=str(4_000_000_000 + row),
        sequence=4_000_000_000 + row,
        price=price,
        quantity=quantity(draw),
        side="BUY" if draw.random() < 0.5 else "SELL",
    )


def book(draw: random.Random, row: int) -> Book:
    """Twenty levels of each side."""
    symbol, price, time_us = walk(draw, row)
    return Book(
        venue="BINANCE_SPOT",
        symbol=symbol,
        received_time=time_us,
        sequence=row,
        source="VENUE_SNAPSHOT",
        bids=tuple(Level(price - n * TICK, quantity(draw)) for n in range(LEVELS)),
        asks=tuple(Level(price + (n + 1) * TICK, quantity(draw)) for n in range(LEVELS)),
    )


def quote(draw: random.Random, row: int) -> Quote:
    """As Binance's bookTicker."""
    symbol, price, time_us = walk(draw, row)
    return Quote(
        venue="BINANCE_SPOT",
        symbol=symbol,
        received_time=time_us,
        sequence=row,
        bid_price=price,
        bid_quantity=quantity(draw),
        ask_price=price + TICK,
        ask_quantity=quantity(draw),
    )


def liquidation(draw: random.Random, row: int) -> Liquidation:
    """As Binance's."""
    symbol, price, time_us = walk(draw, row)
    return Liquidation(
        venue="BINANCE_FUTURES",
        symbol=symbol,
        event_time=time_us,
        received_time=time_us,
        side="SELL",
        price=price,
        quantity=quantity(draw),
        status="FILLED",
    )


def open_interest(draw: random.Random, row: int) -> OpenInterest:
    """With its value."""
    symbol, price, time_us = walk(draw, row)
    amount = 90_000 * ONE + quantity(draw)
    return OpenInterest(
        venue="BINANCE_FUTURES",
        symbol=symbol,
        event_time=time_us,
        received_time=time_us,
        open_interest=amount,
        open_interest_value=amount * price // ONE,
    )


def option(draw: random.Random, row: int) -> OptionTicker:
    """As Deribit's."""
    _, price, time_us = walk(draw, row)
    strike = 40_000 + row % 400 * 100
    return OptionTicker(
        venue="DERIBIT",
        symbol=f"BTC-25DEC26-{strike}-C",
        event_time=time_us,
        received_time=time_us,
        underlying="BTC",
        expiry=T0,
        strike=strike * ONE,
        option_side="CALL",
        price_currency="BTC",
        bid_price=draw.randrange(1, 4000) * ONE // 10_000,
        ask_price=draw.randrange(1, 4000) * ONE // 10_000,
        mark_price=draw.randrange(1, 400_000) * ONE // 1_000_000,
        underlying_price=price,
        mark_iv=draw.randrange(3000, 9000) / 10_000,
        bid_iv=draw.randrange(3000, 9000) / 10_000,
        ask_iv=draw.randrange(3000, 9000) / 10_000,
        open_interest=quantity(draw),
    )


def index_price(draw: random.Random, row: int) -> IndexPrice:
    """As Deribit's."""
    _, price, time_us = walk(draw, row)
    return IndexPrice(venue="DERIBIT", symbol="BTC_USD", event_time=time_us, received_time=time_us, price=price)


KINDS: dict[type[Record], Callable[[random.Random, int], Record]] = {
    Trade: trade,
    Book: book,
    Quote: quote,
    Liquidation: liquidation,
    OpenInterest: open_interest,
    OptionTicker: option,
    IndexPrice: index_price,
}

if __name__ == "__main__":
    main()
