"""`make bench`: the engine against its rivals on one broker, and how it grows (benchmarks/scaling.py).

Against rivals: medians of alternating runs, every contestant in a process of its own (benchmarks/rivals.py says what
each does).
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from benchmarks import scaling
from benchmarks.machine import console, machine
from benchmarks.market import PARTITIONS, Market, encoded, publish, symbols
from ravencore.codec import Codec
from ravencore.config import KafkaSettings
from ravencore.topics import STATE_BARS, TRADES
from ravenctl.local.broker import Broker

CONTESTANTS = ("engine", "bare", "quixstreams", "naive")
SHARE = {"quixstreams": 0.25, "naive": 0.1}
"""The slow ones are given part of the tape: a rate needs no more."""
AIMS = {"naive": 15.0, "quixstreams": 1.5, "bare": 0.85}
Result = dict[str, float]


class Part(NamedTuple):
    """Something that is measured, and how it is shown."""

    measure: Callable[["Bench"], Any]
    table: Callable[[Any], Table]


class Bench(NamedTuple):
    """What every part is given."""

    settings: KafkaSettings
    broker: psutil.Process
    options: argparse.Namespace
    bars: Progress


def main() -> None:
    """Run the parts and print their tables; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description="Raven's engine against its rivals, and how it grows.")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--trades", type=int, default=300_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--latency-seconds", type=float, default=20.0, help="at each rate")
    parser.add_argument("--only", nargs="*", choices=CONTESTANTS, default=CONTESTANTS, help="of the rivals")
    parser.add_argument("--json", default=None, help="write the numbers to this file")
    options = parser.parse_args()
    out = console()
    found: dict[str, Any] = {"machine": machine(), "load": [os.getloadavg()[0]]}
    with Broker() as broker, progress(out) as bars:
        [process] = psutil.Process().children()
        settings = KafkaSettings(bootstrap=broker.bootstrap, partitions=PARTITIONS)
        for name in options.parts:
            found[name] = PARTS[name].measure(Bench(settings, process, options, bars))
            found["load"].append(os.getloadavg()[0])
    out.print(f"{found['machine']}; load before and after each part: {found['load']}")
    for name in options.parts:
        out.print(PARTS[name].table(found[name]))
    if options.json:
        Path(options.json).write_text(json.dumps(found))


def progress(console: Console) -> Progress:
    """Bars of what is under way."""
    columns = (TextColumn("{task.description:<34}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


def throughput(bench: Bench) -> dict[str, list[Result]]:
    """Results of all runs by contestant; they take turns, so that a slow minute of the machine meets all."""
    fill(bench.settings, bench.options.trades, bench.bars)
    results: dict[str, list[Result]] = {name: [] for name in bench.options.only}
    task = bench.bars.add_task("runs", total=bench.options.runs * len(results))
    for number in range(bench.options.runs):
        for name, found in results.items():
            bench.bars.update(task, description=f"run {number + 1}: {name}")
            found.append(run(bench.settings, name, round(bench.options.trades * SHARE.get(name, 1))))
            bench.bars.advance(task)
    return results


def fill(settings: KafkaSettings, trades: int, bars: Progress) -> None:
    """Put the tape into `raven.trades`."""
    scaling.forget(settings, TRADES)
    task = bars.add_task(f"{trades:,} trades into Kafka", total=trades)
    tape = Market(seed=1, names=symbols()).tape(trades)
    for done in publish(settings, encoded(Codec(), tape)):
        bars.update(task, completed=done)


def run(settings: KafkaSettings, name: str, trades: int) -> Result:
    """One run of a contestant in its own process."""
    if name == "engine":
        scaling.forget(settings, STATE_BARS)
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


PARTS = {
    "rivals": Part(throughput, throughput_table),
    "latency": Part(
        lambda it: scaling.latency(it.settings, it.broker, it.options.latency_seconds, it.bars), scaling.latency_table
    ),
    "growth": Part(
        lambda it: scaling.growth(it.settings, it.broker, it.options.trades, it.options.runs, it.bars),
        scaling.growth_table,
    ),
    "restart": Part(
        lambda it: scaling.restarts(it.settings, it.options.trades, it.options.runs, it.bars), scaling.restart_table
    ),
}


if __name__ == "__main__":
    main()
