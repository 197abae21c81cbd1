"""`python -m benchmarks.stores_timescale`: rows a second into the mart, against a bare COPY of prepared rows.

Both write the same rows into tables of the same migrations, in batches of the same size, each a transaction that is
durable when it ends, taking turns batch by batch in databases of their own on one server; medians of the rounds are
shown. Bare: the lines of COPY are in memory, and go into the fact's table, keys and all. Raven: what is in memory is
what Kafka holds; inside the measured part is `Timescale.write`: decoding, and the search for rows that are there.
"""

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from pydantic import SecretStr
from rich.table import Table

from benchmarks.machine import console, machine
from ravencore.codec import Codec
from ravencore.config import MartSettings, Settings
from ravencore.records import (
    Bar,
    Instrument,
    IvExpiry,
    IvPoint,
    IvSurface,
    Kline,
    Record,
    SpotMid,
    VenueMid,
    Vpin,
)
from ravencore.topics import BARS, INSTRUMENTS, IV_SURFACE, KLINES, SPOT_MID, VPIN
from ravenctl.local.stack import Stack
from sinks.contract import Read
from sinks.reading import Tables
from sinks.stores.timescale import Timescale
from sinks.stores.timescale_cells import text
from sinks.stores.timescale_dimensions import load
from sinks.stores.timescale_facts import FACTS, copy_sql
from sinks.stores.timescale_rows import Dimensions, Sheet, rows_of

ONE = 10**18
T0 = 1_723_075_200_000_000
SYMBOLS = 20
CODEC = Codec()
AIM = 0.7
BATCH = Timescale.batching.records


class Case(NamedTuple):
    """A kind of records, and how one is made by its number."""

    told: str
    topic: str
    make: Callable[[int, random.Random], Record]
    share: float = 1.0
    """Of the number of records asked for: a surface is many rows of much."""


def main() -> None:
    """Measure every kind of record and print the table; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description="Rows a second into the mart.")
    parser.add_argument("--records", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dsn", default=None, help="a server to use, a TimescaleDB say; otherwise one is started")
    parser.add_argument("--json", default=None, help="write the numbers to this file")
    options = parser.parse_args()
    with _server(options.dsn) as dsn:
        figures = [measure(case, dsn, int(options.records * case.share), options.rounds) for case in CASES]
    table = Table(title=f"Rows a second into the mart ({machine()})")
    for heading in ("records", "bare COPY", "Raven", "share", "written again"):
        table.add_column(heading, justify="left" if heading == "records" else "right")
    for one in figures:
        share = f"{one['share']:.0%}" + ("" if one["share"] >= AIM else " (aim 70 %)")
        table.add_row(one["told"], f"{one['bare']:,.0f}", f"{one['raven']:,.0f}", share, f"{one['again']:,.0f}")
    console().print(table)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1))


def measure(case: Case, server: str, count: int, rounds: int) -> dict[str, Any]:
    """Rows a second, bare and through the store, the first time and again."""
    chance = random.Random(1)
    records = [case.make(number, chance) for number in range(count)]
    reads = [Read(case.topic, 0, offset, None, CODEC.encode(record)) for offset, record in enumerate(records)]
    batches = [reads[start : start + BATCH] for start in range(0, count, BATCH)]
    bare, raven, again = [], [], []
    rows = 0
    for _ in range(rounds):
        with (
            _mart(server, "mart_bare") as (other, dsn),
            psycopg.connect(dsn) as connection,
            _mart(server, "mart_raven") as (store, _),
        ):
            known = load(connection)
            other.close()
            seconds = [0.0, 0.0]
            rows = 0
            for batch in batches:
                lines = _prepared(case.topic, batch, known)
                rows += lines.count(b"\n")
                seconds[0] += _copy(connection, case.topic, lines)
                seconds[1] += _write(store, batch)
            bare.append(rows / seconds[0])
            raven.append(rows / seconds[1])
            again.append(rows / sum(_write(store, batch) for batch in batches))
    figures = {name: statistics.median(some) for name, some in (("bare", bare), ("raven", raven), ("again", again))}
    share = statistics.median(mine / other for mine, other in zip(raven, bare, strict=True))
    return {"told": case.told, "rows": rows, "share": share, **figures}


def _prepared(topic: str, batch: Sequence[Read], known: Dimensions) -> bytes:
    """The lines of a batch."""
    cls = Timescale.topics[topic]
    sheet = Sheet(topic, cls, batch, Tables(CODEC).table(cls, [read.value for read in batch]))
    return b"".join(text(lines) for lines in rows_of(sheet, known).lines(len(batch)))


def _copy(connection: psycopg.Connection, topic: str, lines: bytes) -> float:
    """Seconds of a bare COPY."""
    begin = time.perf_counter()
    with connection.transaction(), connection.cursor().copy(copy_sql(FACTS[topic]).encode()) as copy:
        copy.write(lines)
    return time.perf_counter() - begin


def _write(store: Timescale, batch: Sequence[Read]) -> float:
    """Seconds of decoding and writing."""
    begin = time.perf_counter()
    assert store.write(batch) == ([], [])
    return time.perf_counter() - begin


@contextlib.contextmanager
def _server(dsn: str | None) -> Iterator[str]:
    if dsn:
        yield dsn
        return
    with tempfile.TemporaryDirectory(prefix="raven-stores-") as home:
        servers = Stack(Path(home))
        try:
            yield servers.up().endpoints.postgres_dsn
        finally:
            servers.down()


@contextlib.contextmanager
def _mart(server: str, name: str) -> Iterator[tuple[Timescale, str]]:
    """A mart that is there for a while, with its instruments."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)".encode())
        connection.execute(f"CREATE DATABASE {name}".encode())
        dsn = urllib.parse.urlsplit(server)._replace(path=f"/{name}").geturl()
        store = Timescale(Settings(mart=MartSettings(dsn=SecretStr(dsn))))
        store.setup()
        instruments = [CODEC.encode(_instrument(number)) for number in range(SYMBOLS)]
        store.write([Read(INSTRUMENTS, 0, offset, None, value) for offset, value in enumerate(instruments)])
        yield store, dsn
        store.close()
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def _instrument(number: int) -> Instrument:
    return Instrument(
        venue="BINANCE_SPOT",
        symbol=f"C{number}USDT",
        received_time=T0,
        base=f"C{number}",
        quote="USDT",
        kind="SPOT",
        status="TRADING",
    )


def _prices(chance: random.Random) -> dict[str, int]:
    tick = 10**16
    low = 6_000_000 + chance.randrange(10_000)
    return {"open": (low + 7) * tick, "high": (low + 19) * tick, "low": low * tick, "close": (low + 3) * tick}


def _bar(number: int, chance: random.Random, kind: str = "time", profile: str = "1m") -> Bar:
    open_us = T0 + number // SYMBOLS * 60_000_000
    return Bar(
        venue="BINANCE_SPOT",
        symbol=f"C{number % SYMBOLS}USDT",
        kind=kind,
        profile=profile,
        bar_seq=number // SYMBOLS,
        open_time=open_us,
        close_time=open_us + 60_000_000,
        first_trade_id=str(3_000_000_000 + number * 500),
        last_trade_id=str(3_000_000_499 + number * 500),
        **_prices(chance),
        volume=chance.randrange(10**8) * 10**13,
        quote_volume=chance.randrange(10**12) * 10**11,
        buy_volume=chance.randrange(10**8) * 10**13,
        ticks=chance.randrange(5000),
        buy_ticks=chance.randrange(2500),
        theta=chance.random() if kind == "tib" else None,
        threshold=chance.random() if kind == "tib" else None,
        expected_ticks=chance.random() if kind == "tib" else None,
        warmup=False,
        gap=False,
    )


def _imbalance(number: int, chance: random.Random) -> Bar:
    return _bar(number, chance, "tib", "tib_small")


def _vpin(number: int, chance: random.Random) -> Vpin:
    open_us = T0 + number // SYMBOLS * 60_000_000
    return Vpin(
        venue="BINANCE_SPOT",
        symbol=f"C{number % SYMBOLS}USDT",
        profile="default",
        bar_seq=number // SYMBOLS,
        unit="QUOTE",
        open_time=open_us,
        close_time=open_us + 59_000_000,
        first_trade_id=str(3_000_000_000 + number * 500),
        last_trade_id=str(3_000_000_499 + number * 500),
        **_prices(chance),
        volume=10_000 * ONE,
        buy_volume=chance.randrange(10**8) * 10**13,
        ticks=chance.randrange(5000),
        sigma=chance.random(),
        bulk_buy_volume=chance.random() * 10_000,
        order_imbalance=chance.random(),
        vpin=chance.random(),
        vpin_aggressor=chance.random(),
        vpin_percentile=chance.random(),
        gap=False,
    )


def _kline(number: int, chance: random.Random) -> Kline:
    open_us = T0 + number // SYMBOLS * 60_000_000
    return Kline(
        venue="BINANCE_SPOT",
        symbol=f"C{number % SYMBOLS}USDT",
        event_time=open_us + 60_001_000,
        received_time=open_us + 60_001_234 + chance.randrange(100_000),
        interval="1m",
        open_time=open_us,
        close_time=open_us + 59_999_000,
        **_prices(chance),
        volume=chance.randrange(10**8) * 10**13,
        quote_volume=chance.randrange(10**12) * 10**11,
        trade_count=chance.randrange(5000),
        taker_buy_volume=chance.randrange(10**8) * 10**13,
        taker_buy_quote_volume=chance.randrange(10**12) * 10**11,
        first_trade_id=str(3_000_000_000 + number * 500),
        last_trade_id=str(3_000_000_499 + number * 500),
        connection_time=T0,
        connection_sequence=number,
    )


def _mid(number: int, chance: random.Random) -> SpotMid:
    base = f"C{number % SYMBOLS}"
    venues = ("BINANCE_SPOT", "COINBASE", "KRAKEN")
    mid = 60_000 + chance.random()
    return SpotMid(
        pair=f"{base}-USDT",
        base=base,
        quote="USDT",
        time=T0 + number // SYMBOLS * 1_000_000,
        mid=mid,
        quality="Ok",
        divergence=chance.random() / 1000,
        expected=3,
        used=3,
        venues=tuple(
            VenueMid(venue=venue, symbol=f"{base}/USDT", mid=mid, age=chance.randrange(10**6), used=True)
            for venue in venues
        ),
    )


def _surface(number: int, chance: random.Random) -> IvSurface:
    points = tuple(
        IvPoint(
            strike=(50_000 + 1000 * at) * ONE,
            side="CALL" if at > 15 else "PUT",
            log_moneyness=chance.random(),
            iv=chance.random(),
            bid_iv=chance.random(),
            ask_iv=chance.random(),
            delta=chance.random(),
        )
        for at in range(30)
    )
    expiries = tuple(
        IvExpiry(
            expiry=T0 + days * 86_400_000_000,
            years=days / 365,
            forward=60_000 * ONE + number,
            atm_iv=chance.random(),
            risk_reversal_25=chance.random(),
            butterfly_25=chance.random(),
            calendar_arbitrage=False,
            butterfly_arbitrage=False,
            seen=60,
            used=30,
            refused={"in_the_money": 30},
            oldest_age=chance.randrange(10**7),
            points=points,
        )
        for days in (40, 50, 60, 90, 120, 180, 270, 360)
    )
    return IvSurface(
        venue="BINANCE_SPOT",
        underlying=f"C{number % SYMBOLS}",
        price_currency="USDT",
        time=T0 + number // SYMBOLS * 10_000_000,
        expiries=expiries,
    )


CASES = (
    Case("time bars", BARS["time"], _bar),
    Case("tick-imbalance bars", BARS["tib"], _imbalance),
    Case("VPIN buckets", VPIN, _vpin),
    Case("klines", KLINES, _kline),
    Case("consolidated mids", SPOT_MID, _mid),
    Case("surfaces of 8 expiries", IV_SURFACE, _surface, 0.01),
)


if __name__ == "__main__":
    main()
