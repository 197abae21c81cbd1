"""`make bench-many`: 500 symbols on one collector process: its CPU, its memory over time, how late it is.

A made venue (benchmarks/many_venue.py) prints trades, books and quotes as on a lively day, cuts connections and leaves
out trades, and connections are replaced long before they are a day old. The collector is the real one, with a real
broker and a core of its own. Before and after it a bare loop (benchmarks/many_bare.py) reads the same sockets and
throws away what it reads: that is the least it can cost.

Lag of a trade: from when its frame was written to when the broker appended its record, by the broker's clock (Kafka's
LogAppendTime, in milliseconds). Trades that came over REST are counted apart.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.engine import progress
from benchmarks.feeds import split_cores
from benchmarks.machine import console, machine
from benchmarks.many_figures import MIB, Growth, Lags, drawing, growth, per_second
from benchmarks.many_market import DIALECTS, Plan
from benchmarks.many_run import PARTITIONS, Bare, Bench, Watched, make_topics, venue
from ravencore.config import KafkaSettings
from ravenctl.local.broker import Broker

PICTURE = Path(".raven/bench-many.svg")


def main() -> None:
    """Run everything, print the tables and draw the picture; ends with 1 where memory grows."""
    options = arguments()
    plan = plan_of(options)
    out = console()
    cores, others = split_cores()
    os.sched_setaffinity(0, others)
    with tempfile.TemporaryDirectory() as folder, Broker() as broker, progress(out) as bars:
        settings = KafkaSettings(bootstrap=broker.bootstrap, partitions=PARTITIONS)
        make_topics(settings)
        task = bars.add_task(f"spelling frames of {plan.symbols} symbols", total=None)
        with venue(plan) as (made, port):
            bars.update(task, total=1, completed=1)
            bench = Bench(
                plan=plan,
                settings=settings,
                minutes=options.minutes,
                life_s=options.life,
                bare_seconds=options.bare_seconds,
                venue=made,
                port=port,
                cores=cores,
                log=Path(folder) / "collector.log",
                bars=bars,
            )
            bare = [bench.bare()]
            watched = bench.collector()
            bare.append(bench.bare())
    found = growth(watched.samples)
    show(out, plan, bare, watched, found)
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    options.plot.write_text(drawing(watched.samples, found))
    out.print(f"memory over time: {options.plot}")
    if options.json:
        Path(options.json).write_text(json.dumps(numbers(plan, bare, watched, found)))
    sys.exit(found.verdict == "GROWS")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="One collector process and hundreds of symbols.")
    parser.add_argument("--minutes", type=float, default=5.0, help="from when all feeds flow")
    parser.add_argument("--venue", choices=list(DIALECTS), default="BINANCE_SPOT")
    parser.add_argument("--kept", action="store_true", help="books kept from differences: maintained_books = ['*']")
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--trades", type=float, default=1000.0, help="a second, of all symbols")
    parser.add_argument("--books", type=float, default=2500.0, help="frames a second, of all symbols")
    parser.add_argument("--quotes", type=float, default=1500.0, help="a second, of all symbols; spot only")
    parser.add_argument("--levels", type=int, default=1000, help="of each side of a snapshot, with --kept")
    parser.add_argument("--life", type=float, help="age in seconds at which connections are replaced")
    parser.add_argument("--cut", type=float, help="seconds between connections cut by the venue")
    parser.add_argument("--hole", type=float, default=5.0, help="seconds between holes in a symbol's trades")
    parser.add_argument("--bare-seconds", type=float, default=20.0, help="of the bare loop, before and after")
    parser.add_argument("--plot", type=Path, default=PICTURE, help="where to draw memory over time (SVG)")
    parser.add_argument("--json", default=None, help="write the numbers to this file")
    options = parser.parse_args()
    # A kept book begins with a snapshot, of which the venue's budget allows a few a second: let there be an end of it.
    share = 3 if options.kept else 10
    options.life = options.life or max(options.minutes * 60 / share, 25.0)
    options.cut = options.cut or max(options.minutes * 60 / (share + 2), 15.0)
    return options


def plan_of(options: argparse.Namespace) -> Plan:
    """What the venue is to play."""
    return Plan(
        venue=options.venue,
        symbols=options.symbols,
        trades=options.trades,
        books=options.books,
        quotes=options.quotes,
        kept=options.kept,
        levels=options.levels,
        cut_seconds=options.cut,
        hole_seconds=options.hole,
    )


# What is told of it


def show(out: Console, plan: Plan, bare: Sequence[Bare], watched: Watched, found: Growth) -> None:
    """The tables."""
    out.print(f"{machine()}; load {', '.join(f'{load:.1f}' for load in watched.load)}")
    for title, rows in told(plan, bare, watched, found).items():
        table = Table(title, "")
        for name, text in rows.items():
            table.add_row(name, text)
        out.print(table)


def told(plan: Plan, bare: Sequence[Bare], watched: Watched, found: Growth) -> dict[str, dict[str, str]]:
    """The rows of each table."""
    return {
        f"{plan.symbols} symbols of {plan.venue}{', books kept' if plan.kept else ''}": played(watched),
        "CPU": costs(bare, watched),
        "memory": memory(watched, found),
        "lag of trades": lateness(watched),
    }


def played(watched: Watched) -> dict[str, str]:
    """What the venue sent, and what became of it."""
    seconds, made, counted = watched.samples[-1].seconds, watched.venue, watched.counters
    published = {name.removesuffix("_published"): count for name, count in counted.items() if count}
    rates = ", ".join(f"{name} {published.get(name, 0) / seconds:,.0f}" for name in ("trades", "books", "quotes"))
    late_ms, again = made["late_ms"]["p99"], counted["reconnects"]
    return {
        "minutes": f"{seconds / 60:.1f}",
        "until all feeds flowed": f"{watched.until_all_flow_s:.0f} s, and {watched.until_caught_up_s:.0f} s more "
        "until the newest trade was in time",
        "frames sent a second": f"{made['sent'] / seconds:,.0f}, {made['issued'] / seconds:,.0f} of them trades",
        "records a second": rates,
        "connections": f"{made['cuts']} cut; {again} made again, {made['opened'] - again} replaced",
        "holes in trades": f"{made['holes']}, {made['lost']} trades of them lost for good; Gaps {counted['gaps']}",
        "over REST": f"{len(watched.fetched):,} trades",
        "dead letters": f"{counted['dead_letters']}",
        "venue": f"{watched.venue_cpu_seconds / seconds:.0%} of a core, its ticks late p99 {late_ms:.0f} ms",
        "unread by the collector": f"at most {made['unread_most_mb']:.1f} MiB",
    }


def costs(bare: Sequence[Bare], watched: Watched) -> dict[str, str]:
    """CPU of the collector, and of the bare loop."""
    shares = per_second(watched.samples)
    first, last = watched.samples[0], watched.samples[-1]
    seconds = last.seconds - first.seconds
    ours = (last.cpu_seconds - first.cpu_seconds) / watched.venue["sent"]
    theirs = sum(one.cpu_seconds for one in bare) / sum(one.frames for one in bare)
    return {
        "of a core": f"{fmean(shares):.0%}, busiest second {max(shares):.0%}",
        "a frame": f"{ours * 1e6:.1f} µs",
        "bare loop": f"{theirs * 1e6:.1f} µs a frame: the collector takes {ours / theirs:.1f} times as much",
        "waited for a core": f"{(last.waited_seconds - first.waited_seconds) / seconds:.0%} of the time",
    }


def memory(watched: Watched, found: Growth) -> dict[str, str]:
    """Resident memory."""
    files = [sample.open_files for sample in watched.samples]
    return {
        "when all feeds flowed": f"{watched.rss_at_flow / MIB:.0f} MiB",
        "after a third, at the end, at most": f"{found.start_mb:.0f}, {found.end_mb:.0f}, {found.most_mb:.0f} MiB",
        "growth in ten minutes": f"{found.per_ten_minutes_mb:+.2f} MiB",
        "verdict": found.verdict,
        "open files": f"{min(files)} to {max(files)}",
    }


def lateness(watched: Watched) -> dict[str, str]:
    """Percentiles of lags, and of what waits for the broker."""
    windows, waiting = watched.appended.by_window(99), np.percentile(watched.buffered, (50, 99, 100))
    return {
        "until read": percentiles(watched.read),
        "until the broker has it": percentiles(watched.appended),
        "p99 of ten seconds": f"median {median(windows):.0f}, worst {max(windows):.0f} ms",
        "over REST, until the broker has it": percentiles(watched.fetched),
        "records buffered": "p50 {:.0f}, p99 {:.0f}, most {:.0f}".format(*waiting),
    }


def percentiles(lags: Lags) -> str:
    """In words."""
    found = lags.percentiles(50, 99, 99.9, 100)
    return "p50 {:.1f}, p99 {:.1f}, p99.9 {:.0f}, most {:.0f} ms".format(*found) if found else "none"


def numbers(plan: Plan, bare: Sequence[Bare], watched: Watched, found: Growth) -> dict[str, Any]:
    """All of it, and every sample."""
    return {
        "machine": machine(),
        "load": watched.load,
        "plan": plan._asdict(),
        "told": told(plan, bare, watched, found),
        "bare": [one._asdict() for one in bare],
        "samples": [sample._asdict() for sample in watched.samples],
        "buffered": watched.buffered,
    }


if __name__ == "__main__":
    main()
