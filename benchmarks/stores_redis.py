"""`python -m benchmarks.stores_redis`: records a second into the cache, decode included, beside a bare redis-py loop.

The bare loop sends one prepared `SET key value EX seconds` for each record, in pipelines as long as the sink's batches.
The sink decodes the same records from Avro, keeps the newest of each key and writes those. Runs alternate; medians are
shown.
"""

import argparse
import random
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import redis
from rich.table import Table

from benchmarks.machine import console, machine
from benchmarks.market import START_US
from ravencore.codec import Codec
from ravencore.config import RedisSettings, Settings
from ravencore.decimals import ONE
from ravencore.records import Bar, Quote, Record
from ravencore.topics import BARS, QUOTES
from ravenctl.local import ports, redis_server
from sinks.contract import Batching, Read
from sinks.reading import Entry
from sinks.stores.cache import Cache
from sinks.stores.cache_values import coalesce, encoded

AIM = 0.7
VENUES = ("BINANCE_SPOT", "KRAKEN", "COINBASE")
BATCH = Batching().records


class Tape(NamedTuple):
    """Records of one topic as they lie in Kafka: keys and values."""

    topic: str
    record: type[Record]
    keys: list[bytes]
    values: list[bytes]


def quotes(count: int, rng: random.Random, codec: Codec) -> Tape:
    """Quotes of twenty pairs at three venues."""
    keys, values = [], []
    for number in range(count):
        base = f"C{rng.randrange(20)}"
        price = 60_000 * ONE + rng.randrange(10**6) * 10**16
        quote = Quote(
            venue=rng.choice(VENUES), symbol=f"{base}USDT", received_time=START_US + number * 50,
            update_id=str(10**10 + number), sequence=10**10 + number, bid_price=price, bid_quantity=ONE // 7,
            ask_price=price + 10**16, ask_quantity=ONE // 3, connection_time=START_US, connection_sequence=number,
        )  # fmt: skip
        keys.append(f"{base}-USDT".encode())
        values.append(codec.encode(quote))
    return Tape(QUOTES, Quote, keys, values)


def bars(count: int, rng: random.Random, codec: Codec) -> Tape:
    """One-second bars of sixty markets."""
    keys, values = [], []
    for number in range(count):
        venue, symbol = rng.choice(VENUES), f"C{rng.randrange(20)}USDT"
        time_us = START_US + number * 20_000
        bar = Bar(
            venue=venue, symbol=symbol, kind="time", profile="1s", bar_seq=number, open_time=time_us,
            close_time=time_us + 999_999, first_trade_id=str(10**9 + number), last_trade_id=str(10**9 + number),
            open=60_000 * ONE, high=60_001 * ONE, low=59_999 * ONE, close=60_000 * ONE + number, volume=ONE,
            quote_volume=60_000 * ONE, buy_volume=ONE // 2, ticks=9, buy_ticks=5, warmup=False, gap=False,
        )  # fmt: skip
        keys.append(f"{venue}:{symbol}".encode())
        values.append(codec.encode(bar))
    return Tape(BARS["time"], Bar, keys, values)


def prepared(tape: Tape, codec: Codec) -> list[tuple[str, bytes]]:
    """The key and value of each record, as the bare loop sends them."""
    made: list[tuple[str, bytes]] = []
    for offset, (key, value) in enumerate(zip(tape.keys, tape.values, strict=True)):
        record = codec.decode_as(tape.record, value)
        made += encoded(coalesce([Entry(Read(tape.topic, 0, offset, key, b""), record)], 1).values)
    return made


def bare(client: redis.Redis, commands: Sequence[tuple[str, bytes]]) -> None:
    """Send every record, in pipelines."""
    for start in range(0, len(commands), BATCH):
        pipe = client.pipeline(transaction=False)
        for key, value in commands[start : start + BATCH]:
            pipe.set(key, value, ex=172_800)
        pipe.execute()


def raven(store: Cache, codec: Codec, tape: Tape) -> None:
    """Decode and write every record, in batches."""
    for start in range(0, len(tape.values), BATCH):
        some = zip(tape.keys[start : start + BATCH], tape.values[start : start + BATCH], strict=True)
        batch = [Read(tape.topic, 0, start + place, key, value) for place, (key, value) in enumerate(some)]
        assert store.write(batch) == ([], [])


@contextmanager
def server() -> Iterator[str]:
    """A Redis of its own; where it is."""
    with tempfile.TemporaryDirectory(prefix="raven-bench-") as folder:
        home, port = Path(folder), ports.choose((), set())
        launch = redis_server.launch(home, port)
        assert launch.prepare
        assert launch.is_ready
        address = redis_server.url(home, port)
        launch.prepare()
        with subprocess.Popen(launch.argv, stdout=subprocess.DEVNULL) as process:
            try:
                while not launch.is_ready():
                    assert process.poll() is None, "the server ended"
                yield address
            finally:
                process.terminate()


def rate(count: int, action: Callable[[], Any]) -> float:
    """Records a second."""
    started = time.perf_counter()
    action()
    return count / (time.perf_counter() - started)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description="Records a second into the cache.")
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    codec, rng = Codec(), random.Random(7)
    table = Table(title=f"Records a second into Redis ({machine()})")
    for title in ("records", "bare loop", "Raven, decode included", "share", f"aim {AIM:.0%}"):
        table.add_column(title, justify="right")
    with server() as address:
        client = redis.Redis.from_url(address, protocol=2)
        for tape in (make(options.records, rng, codec) for make in (quotes, bars)):
            commands = prepared(tape, codec)
            rates: dict[str, list[float]] = {"bare": [], "raven": []}
            for _ in range(options.rounds):
                client.flushdb()
                rates["bare"].append(rate(options.records, partial(bare, client, commands)))
                client.flushdb()
                with closing(Cache(Settings(redis=RedisSettings(url=address)))) as store:
                    rates["raven"].append(rate(options.records, partial(raven, store, codec, tape)))
            loop, ours = (statistics.median(rates[name]) for name in ("bare", "raven"))
            share = ours / loop
            table.add_row(tape.topic, f"{loop:,.0f}", f"{ours:,.0f}", f"{share:.0%}", "yes" if share >= AIM else "no")
        client.close()
    console().print(table)


if __name__ == "__main__":
    main()
