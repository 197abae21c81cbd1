"""How fast the lake takes records, against pyarrow writing the same rows when they are columns already.

python -m benchmarks.stores_lake [--rounds 7] [--folder .]

Raven's rate is that of the sink's own call, given the batches that the sink gathers by default (`lake.batch_records`,
`lake.batch_bytes`), one after another: Avro values of Kafka into columns, into files by symbol and day, fsync,
manifests and renames, all of it, partitions side by side. The bare rate is one `pyarrow.parquet.write_table` (ZSTD)
after another of those same tables, a file each, neither decoded nor fsynced: once with the options that it has by
itself, once with those of the lake, which cost it less. They take turns, and the best round of each counts. The lake
works on both cores, so its CPU time is told beside the clock's.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from rich.table import Table

from benchmarks.machine import console, machine
from ravencore.codec import Codec
from ravencore.config import LakeSettings, Settings
from ravencore.decimals import ONE
from ravencore.records import Bar, Book, Level, OptionTicker, Quote, Record, Trade
from ravencore.topics import BARS, BOOKS, OPTION_TICKERS, QUOTES, TRADES
from sinks.contract import Read
from sinks.lake_layout import write_options
from sinks.stores.lake import Lake

T0 = 1_770_000_000_000_000
PARTITIONS = 6
SYMBOLS = ("BTCUSDT", "ETHUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT", "ADAUSDT", "BNBUSDT", "LINKUSDT")
Row = dict[str, Any]


class Kind(NamedTuple):
    """A record kind of the market that is played: how one is made."""

    name: str
    topic: str
    make: Callable[[random.Random, Row], Record]


class Cost(NamedTuple):
    """Seconds by the clock, and of both cores' work."""

    clock_s: float
    cpu_s: float


def main() -> None:
    """Measure every kind and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", default=None, help="where to write; a folder of the disk that is meant")
    options = parser.parse_args()
    table = Table("record", "rows", "way", "rows/s", "lake /", "CPU µs a row", "lake /")
    table.title = f"The lake, {machine()}"
    for kind in KINDS:
        count, costs = measure(kind, options.rounds, options.folder)
        lake = costs["lake"]
        for way, cost in costs.items():
            table.add_row(
                kind.name,
                f"{count:,}",
                way,
                f"{count / cost.clock_s:,.0f}",
                f"{cost.clock_s / lake.clock_s:.0%}",
                f"{cost.cpu_s / count * 1e6:.2f}",
                f"{cost.cpu_s / lake.cpu_s:.0%}",
            )
    console().print(table)


def measure(kind: Kind, rounds: int, folder: str | None) -> tuple[int, dict[str, Cost]]:
    """How many records of a kind are in a batch, and what each way costs: the best of so many rounds."""
    reads = batch(kind)
    work = Path(tempfile.mkdtemp(prefix="raven-lake-", dir=folder))
    found: dict[str, list[Cost]] = defaultdict(list)
    try:
        prepared = lake_tables(work / "once", kind.topic, reads)
        lake = held(work / "lake", kind.topic)
        assert lake.write(reads) == ([], [])
        for turn in range(1, rounds + 1):
            later = [read._replace(offset=read.offset + turn * len(reads)) for read in reads]
            found["lake"].append(cost(partial(lake.write, later)))
            found["write_table"].append(cost(partial(write, work, prepared, packed=False)))
            found["write_table, lake's options"].append(cost(partial(write, work, prepared, packed=True)))
        lake.close()
        return len(reads), {way: Cost(*map(min, zip(*all_rounds, strict=True))) for way, all_rounds in found.items()}
    finally:
        shutil.rmtree(work)


def batch(kind: Kind) -> list[Read]:
    """Kafka values of a kind, in the order they come in, spread over symbols and partitions: as many as a batch has."""
    codec, rng, limits = Codec(), random.Random(1), LakeSettings()
    offsets = [0] * PARTITIONS
    reads: list[Read] = []
    left = limits.batch_bytes
    while left > 0 and len(reads) < limits.batch_records:
        symbol = rng.randrange(len(SYMBOLS))
        partition = symbol % PARTITIONS
        received = T0 + len(reads) * 200 + rng.randrange(150)
        row = {"venue": "BINANCE_SPOT", "symbol": SYMBOLS[symbol], "received_time": received}
        value = codec.encode(kind.make(rng, row))
        reads.append(Read(kind.topic, partition, offsets[partition], None, value))
        offsets[partition] += 1
        left -= len(value)
    return reads


def held(root: Path, topic: str) -> Lake:
    """A lake that has taken the partitions over."""
    lake = Lake(Settings(lake=LakeSettings(uri=str(root))))
    for partition in range(PARTITIONS):
        lake.resume(topic, partition)
    return lake


def lake_tables(root: Path, topic: str, reads: Sequence[Read]) -> list[pa.Table]:
    """What the lake makes of them, a table for each of its files."""
    lake = held(root, topic)
    assert lake.write(reads) == ([], [])
    lake.close()
    tables = [pq.ParquetFile(path).read() for path in sorted(root.glob("v1/**/*.parquet"))]
    assert sum(map(len, tables)) == len(reads)
    return tables


def write(folder: Path, tables: Sequence[pa.Table], *, packed: bool) -> None:
    """The bare way: the tables as they are."""
    for number, table in enumerate(tables):
        options = write_options(table.schema) if packed else {"compression": "zstd"}
        pq.write_table(table, folder / f"{number}.parquet", **options)


def cost(way: Callable[[], object]) -> Cost:
    """What it takes."""
    clock, cpu = time.perf_counter(), time.process_time()
    way()
    return Cost(time.perf_counter() - clock, time.process_time() - cpu)


def price(rng: random.Random) -> int:
    """A price with two decimals, most digits of which come again."""
    return (6_000_000 + rng.randrange(2_000)) * ONE // 100


def quantity(rng: random.Random) -> int:
    """A quantity with five decimals."""
    return rng.randrange(1, 200_000) * ONE // 100_000


def trade(rng: random.Random, row: Row) -> Record:
    """A trade."""
    number = row["received_time"]
    return Trade(
        **row,
        event_time=number - 1000 - number % 1000,
        trade_id=str(number),
        sequence=number,
        price=price(rng),
        quantity=quantity(rng),
        side=rng.choice(("BUY", "SELL")),
        connection_time=T0,
        connection_sequence=number - T0,
    )


def book(rng: random.Random, row: Row) -> Record:
    """Twenty levels a side."""
    middle = price(rng)
    bids, asks = (
        tuple(Level(middle + sign * step * ONE // 100, quantity(rng)) for step in range(1, 21)) for sign in (-1, 1)
    )
    return Book(**row, update_id=str(row["received_time"]), source="VENUE_SNAPSHOT", bids=bids, asks=asks)


def quote(rng: random.Random, row: Row) -> Record:
    """A best bid and ask."""
    return Quote(
        **row,
        sequence=row["received_time"],
        bid_price=price(rng),
        bid_quantity=quantity(rng),
        ask_price=price(rng),
        ask_quantity=quantity(rng),
    )


def option(rng: random.Random, row: Row) -> Record:
    """An option's ticker, all its fields there but two."""
    return OptionTicker(
        **row,
        event_time=row["received_time"] - 900,
        underlying=row["symbol"][:3],
        expiry=T0 + 86_400_000_000,
        strike=price(rng) // ONE * ONE,
        option_side=rng.choice(("CALL", "PUT")),
        price_currency="BTC",
        bid_price=quantity(rng),
        bid_quantity=quantity(rng),
        ask_price=quantity(rng),
        ask_quantity=quantity(rng),
        mark_price=quantity(rng),
        underlying_price=price(rng),
        mark_iv=rng.random(),
        bid_iv=rng.random(),
        ask_iv=rng.random(),
        delta=rng.random(),
        gamma=rng.random(),
        theta=rng.random(),
        vega=rng.random(),
        open_interest=quantity(rng),
    )


def bar(rng: random.Random, row: Row) -> Record:
    """A tick-imbalance bar."""
    number = row.pop("received_time")
    low, high = sorted((price(rng), price(rng)))
    return Bar(
        **row,
        kind="tib",
        profile="tib_small",
        bar_seq=number - T0,
        open_time=number,
        close_time=number + 900_000,
        first_trade_id=str(number),
        last_trade_id=str(number + 90),
        open=low,
        high=high,
        low=low,
        close=high,
        volume=quantity(rng),
        quote_volume=price(rng) * 7,
        buy_volume=quantity(rng),
        ticks=rng.randrange(500),
        buy_ticks=rng.randrange(200),
        theta=rng.random(),
        threshold=rng.random(),
        expected_ticks=rng.random(),
        warmup=False,
        gap=False,
    )


KINDS = (
    Kind("trade", TRADES, trade),
    Kind("quote", QUOTES, quote),
    Kind("book", BOOKS, book),
    Kind("option_ticker", OPTION_TICKERS, option),
    Kind("bar", BARS["tib"], bar),
)

if __name__ == "__main__":
    main()
