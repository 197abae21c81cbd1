"""`make bench`: the engine against its rivals on one broker, and how late its bars are.

Throughput: medians of alternating runs, every contestant in a process of its own (benchmarks/rivals.py says what each
does). Latency: 1,000 trades a second into `python -m processors`; from a trade's receipt to its bar's arrival at a
consumer that reads committed records.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaException
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks.market import PARTITIONS, Market, load
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.records import ServiceStatus, market_key
from ravencore.topics import BARS, GROUP_BARS, STATE_BARS, STATUS, TRADES
from ravenctl.local.broker import Broker

CONTESTANTS = ("engine", "bare", "quixstreams", "naive")
SHARE = {"quixstreams": 0.25, "naive": 0.1}
"""The slow ones are given part of the tape: a rate needs no more."""
RATE = 1000
AIMS = {"naive": 15.0, "quixstreams": 1.5, "bare": 0.85}
WARM_S = 3.0
FIRST_LIVE_ID = 10**9
"""Beyond the ids of the tape, so that the engine takes the live trades for no duplicates."""
Result = dict[str, float]


def main() -> None:
    """Run everything and print the tables; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description="Raven's engine against its rivals.")
    parser.add_argument("--trades", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--latency-seconds", type=float, default=30.0)
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, default=CONTESTANTS)
    parser.add_argument("--json", default=None, help="write the numbers to this file")
    options = parser.parse_args()
    console = Console()
    with Broker() as broker, progress(console) as bars:
        settings = KafkaSettings(bootstrap=broker.bootstrap, partitions=PARTITIONS)
        fill(settings, options.trades, bars)
        results = throughput(settings, options, bars)
        late = latency(settings, options.latency_seconds, bars) if options.latency_seconds else []
    console.print(machine())
    console.print(throughput_table(results))
    if late:
        console.print(latency_table(late))
    if options.json:
        with open(options.json, "w") as file:
            json.dump({"machine": machine(), "throughput": results, "latency_ms": late}, file)


def progress(console: Console) -> Progress:
    """Bars of what is under way."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def fill(settings: KafkaSettings, trades: int, bars: Progress) -> None:
    """Put the tape into `raven.trades`."""
    kafka.ensure_topics(settings)
    task = bars.add_task(f"{trades:,} trades into Kafka", total=trades)
    producer = kafka.producer(settings, **{"linger.ms": 20, "queue.buffering.max.messages": 500_000})
    for done in load(producer, Codec(), trades):
        bars.update(task, completed=done)


def throughput(settings: KafkaSettings, options: argparse.Namespace, bars: Progress) -> dict[str, list[Result]]:
    """Results of all runs by contestant; they take turns, so that a slow minute of the machine meets all."""
    results: dict[str, list[Result]] = {name: [] for name in options.only}
    task = bars.add_task("runs", total=options.runs * len(results))
    for number in range(options.runs):
        for name, found in results.items():
            bars.update(task, description=f"run {number + 1}: {name}")
            found.append(run(settings, name, round(options.trades * SHARE.get(name, 1))))
            bars.advance(task)
    return results


def run(settings: KafkaSettings, name: str, trades: int) -> Result:
    """One run of a contestant in its own process."""
    if name == "engine":
        forget_engine(settings)
    command = [sys.executable, "-m", "benchmarks.rivals", name, settings.bootstrap, str(trades)]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert process.stdout is not None
        line = process.stdout.readline()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10 if name == "engine" else 0.5)
        process.kill()
        process.wait()
        process.stdout.close()
        if not line:
            log.seek(0)
            raise SystemExit(f"{name} ended without a result:\n{log.read()[-3000:]}")
    result: Result = json.loads(line)
    return result


def forget_engine(settings: KafkaSettings) -> None:
    """Let the engine start from the first trade, without state."""
    client = kafka.admin(settings)
    for gone in client.delete_topics([STATE_BARS]).values():
        gone.result(10)
    retried(lambda: STATE_BARS in kafka.ensure_topics(settings))

    def forgotten() -> bool:
        try:
            client.delete_consumer_groups([GROUP_BARS])[GROUP_BARS].result(10)
        except KafkaException as error:
            return "GROUP_ID_NOT_FOUND" in str(error)
        return True

    retried(forgotten)


def retried(true: Any, seconds: float = 60.0) -> None:
    """Ask until the answer is yes."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {seconds:.0f} s: {true}")
        time.sleep(0.1)


def latency(settings: KafkaSettings, seconds: float, bars: Progress) -> list[float]:
    """Milliseconds from a closing trade's receipt to the arrival of its tick-imbalance bar, after a warm-up."""
    task = bars.add_task(f"latency at {RATE:,} trades/s", total=round(seconds + WARM_S))
    reader = kafka.consumer(settings, "bench-latency", **{"auto.offset.reset": "latest"})
    reader.subscribe([BARS["tib"]])
    late: list[float] = []
    with worker(settings):
        began = time.monotonic()
        for now in paced(settings, seconds + WARM_S):
            found = arrivals(reader)
            late += found if now - began > WARM_S else []
            bars.update(task, completed=round(now - began))
    reader.close()
    return late


def paced(settings: KafkaSettings, seconds: float) -> Iterator[float]:
    """Publish trades at RATE, each received at the moment it is sent; yields between them."""
    producer, codec, market = kafka.producer(settings), Codec(), Market(seed=2, first_id=FIRST_LIVE_ID)
    began = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < began + seconds:
        while sent < (now - began) * RATE:
            trade = market.trade(time.time_ns() // 1000)
            producer.produce(TRADES, codec.encode(trade), market_key(trade))
            sent += 1
        producer.poll(0)
        yield now
    producer.flush()


def arrivals(reader: Consumer) -> list[float]:
    """Latencies of the bars that have arrived by now, in ms; waits a millisecond for more."""
    found = []
    for message in reader.consume(100, 0.001):
        received = dict(message.headers() or []).get("received")
        if message.error() is None and received is not None:
            found.append((time.time_ns() / 1000 - int(received)) / 1000)
    return found


@contextmanager
def worker(settings: KafkaSettings) -> Iterator[None]:
    """A real worker that has caught up with the tape."""
    retried(lambda: kafka.ensure_topics(settings) == [])
    env = {**os.environ, "RAVEN_KAFKA__BOOTSTRAP": settings.bootstrap}
    process = subprocess.Popen([sys.executable, "-m", "processors"], env=env, stderr=subprocess.DEVNULL)
    try:
        retried(lambda: caught_up(settings, process.pid), 120)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def caught_up(settings: KafkaSettings, pid: int) -> bool:
    """Whether the worker runs and has no lag."""
    codec = Codec()
    for value in kafka.compacted(settings, STATUS, "bench").values():
        status = codec.decode_as(ServiceStatus, value)
        if status.pid == pid and status.state == "RUNNING":
            return len(status.lag) == PARTITIONS and not any(status.lag.values())
    return False


def machine() -> str:
    """When and on what this was measured."""
    kind = f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}"
    return f"{datetime.now(UTC):%Y-%m-%d}, {kind}"


def throughput_table(results: dict[str, list[Result]]) -> Table:
    """Medians of the runs, and the engine's ratio to each."""
    table = Table(
        "contestant", "trades/s", "slowest", "fastest", "CPU µs", "of that folds", "engine is", "folds free", "aim"
    )
    table.caption = (
        "CPU microseconds per trade, all threads. folds: decoding and folding, which are made for batches and cost "
        "more one by one. folds free: the engine's CPU, folds included, against the contestant's without them."
    )
    ours = median(results["engine"], "seconds") if "engine" in results else 0.0
    our_cpu = median(results["engine"], "cpu_seconds") if "engine" in results else 0.0
    for name, runs in results.items():
        per_trade = median(runs, "seconds")
        cpu, inside = median(runs, "cpu_seconds"), median(runs, "inside_seconds")
        rates = [run["trades"] / run["seconds"] for run in runs]
        table.add_row(
            name,
            f"{1 / per_trade:,.0f}",
            f"{min(rates):,.0f}",
            f"{max(rates):,.0f}",
            f"{cpu * 1e6:.1f}",
            f"{inside * 1e6:.1f}",
            f"{per_trade / ours:.2f} x" if ours else "",
            f"{(cpu - inside) / our_cpu:.2f} x" if our_cpu and name != "engine" else "",
            f"{AIMS[name]:g} x" if name in AIMS else "",
        )
    return table


def median(runs: list[Result], name: str) -> float:
    """Median over runs of a sum, per trade."""
    return statistics.median(run[name] / run["trades"] for run in runs)


def latency_table(late: list[float]) -> Table:
    """Percentiles in ms."""
    table = Table("tib bars", "p50 ms", "p90 ms", "p99 ms", "max ms", "aim")
    cuts = statistics.quantiles(late, n=100)
    table.add_row(
        str(len(late)), f"{cuts[49]:.0f}", f"{cuts[89]:.0f}", f"{cuts[98]:.0f}", f"{max(late):.0f}", "50 and 250"
    )
    return table


if __name__ == "__main__":
    main()
