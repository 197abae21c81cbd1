"""`make bench-folds`: ticks a second on one core of every fold, beside nautilus_trader's and mlfinpy's aggregators.

All make their bars of the same trades, in a process and an environment of their own on the same core, taking turns, so
that a slow minute of the machine meets all; medians of the rounds are shown, of CPU time. Inside the measured part is,
for Raven, `Symbol.apply_columns` on columns in memory: which trades are sound and new, and the fold, to the finished
records. For nautilus_trader it is `handle_trade_tick` on TradeTicks in memory, one after another, to its Bars; for
mlfinpy `run` on a list of (time, price, volume), to its lists. What it takes to come by columns and TradeTicks is
measured by itself: Raven's from Avro as Kafka holds it, nautilus_trader's from the texts of price, size and id.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.progress import Progress
from rich.table import Table

from benchmarks.bars_files import Case, write_tape
from benchmarks.bars_tapes import N, Tape, tapes
from benchmarks.engine import progress
from benchmarks.feeds import split_cores, told_by
from benchmarks.machine import console, machine

BATCHES = (5000, 100)
TICK_BARS = f"tick, {N}"
AVERAGED: Case = {"window": 100, "bars": 10, "lowest": 50, "highest": 200}
"""What mlfinpy's information-driven bars need besides N."""
Rate = dict[str, Any]
Rates = dict[str, dict[str, list[Rate]]]
"""By contestant and case, one of each round."""


class Line(NamedTuple):
    """A fold, and what of the rivals' stands beside it."""

    kind: str
    told: str
    size: Any = N
    nautilus_size: int | None = None
    """None where nautilus_trader has nothing like it."""
    mlfinpy: bool = True


def main() -> None:
    """Run everything and print the tables; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description="Raven's folds beside its rivals' aggregators.")
    parser.add_argument("--mlfinpy", required=True, metavar="PYTHON", help="the interpreter that has mlfinpy")
    parser.add_argument("--nautilus", required=True, metavar="PYTHON", help="the interpreter that has nautilus_trader")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trades", type=int, default=200_000)
    parser.add_argument("--json", default=None, help="write the numbers to this file")
    options = parser.parse_args()
    tape = tapes(options.trades)[-1]
    tape = tape._replace(ticks=tape.ticks[: options.trades])
    out, lines = console(), lines_of(tape)
    with tempfile.TemporaryDirectory() as folder, progress(out) as bars:
        rates = measure(prepared(lines, tape, Path(folder)), vars(options), bars)
    out.print(f"{machine()}; {len(tape.ticks):,} trades of {tape.name}")
    out.print(table(lines, rates))
    out.print(ways_in(rates))
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "tape": tape.name, "rates": rates}))


def lines_of(tape: Tape) -> list[Line]:
    """Every fold of the registry, bars of about N ticks; VPIN at its default V and at a fiftieth of the tape."""
    volume, dollars = tape.sizes
    return [
        Line("time", "time, 1 s", 1, 1),
        Line("time", "time, 1 m", 60, 60),
        Line("tick", TICK_BARS, N, N),
        Line("volume", f"volume, {volume:,}", volume, volume),
        Line("dollar", f"dollar, {dollars:,}", dollars, dollars),
        Line("tib", "tib_small", N, 10),
        Line("trb", "trb_small", N, 10),
        Line("vib", "vib, N 100", N, max(1, volume // 10)),
        Line("dib", "dib, N 100", N, dollars // 10),
        Line("vrb", "vrb, N 100", N, max(1, volume // 10)),
        Line("drb", "drb, N 100", N, dollars // 10),
        Line("vpin", "vpin, V 10,000", "10000", mlfinpy=False),
        Line("vpin", "vpin, a fiftieth", str(dollars * len(tape.ticks) // N // 50), mlfinpy=False),
        Line("defaults", "all nine by default", mlfinpy=False),
    ]


def prepared(lines: Sequence[Line], tape: Tape, folder: Path) -> dict[str, Path]:
    """Files of jobs by contestant."""
    write_tape(folder / "tape.csv", tape.ticks)
    cases: dict[str, list[Case]] = {
        **{f"raven {batch}": [*raven(lines, batch), objects(batch)] for batch in BATCHES},
        "nautilus": [*nautilus(lines), objects()],
        "mlfinpy": [{"name": it.told, "kind": it.kind, "size": it.size, **AVERAGED} for it in lines if it.mlfinpy],
    }
    return {name: jobs(name, own, folder) for name, own in cases.items()}


def raven(lines: Sequence[Line], batch: int) -> Iterator[Case]:
    """Raven's cases; driven bars have their default profile."""
    for line in lines:
        yield {"name": line.told, "kind": line.kind, "size": line.size, "batch": batch}


def nautilus(lines: Sequence[Line]) -> Iterator[Case]:
    """nautilus_trader's cases."""
    for line in lines:
        if line.nautilus_size is not None:
            yield {"name": line.told, "kind": line.kind, "size": line.nautilus_size}


def objects(batch: int = 0) -> Case:
    """The way in alone."""
    return {"name": "objects", "kind": "objects", "size": 0, "batch": batch}


def jobs(name: str, cases: Sequence[Case], folder: Path) -> Path:
    """The file of a contestant's jobs."""
    path = folder / f"{name}.json"
    tape = str(folder / "tape.csv")
    path.write_text(json.dumps([{"case": case, "tape": tape, "skip": 0, "out": ""} for case in cases]))
    return path


def measure(paths: dict[str, Path], options: dict[str, Any], bars: Progress) -> Rates:
    """All rounds; the contestants take turns."""
    core, _ = split_cores()
    rates: Rates = {name: {} for name in paths}
    task = bars.add_task("rounds", total=options["rounds"] * len(paths))
    for number in range(options["rounds"]):
        for name, path in paths.items():
            bars.update(task, description=f"round {number + 1}: {name}")
            program = name.split()[0]
            python = options.get(program, sys.executable)
            found: Any = told_by([python, "-m", f"benchmarks.bars_{program}", "rates", str(path)], core)
            for rate in found:
                rates[name].setdefault(rate["name"], []).append(rate)
            bars.advance(task)
    return rates


# Tables


def table(lines: Sequence[Line], rates: Rates) -> Table:
    """Rates, and Raven's by each rival's."""
    names = {f"raven {batch}": f"Raven, batches of {batch:,}" for batch in BATCHES}
    shown = Table("fold", *names.values(), "nautilus_trader", "mlfinpy", "by nautilus", "by mlfinpy")
    shown.caption = (
        "Thousand ticks a second of CPU on one core, medians of the rounds; in brackets the bars made. Ratios are "
        "Raven's, batches of 5,000, by the rival's, with their range over the rounds. Time, tick, volume and dollar "
        "bars are of the same sizes; the others go by other rules."
    )
    ours = rates[f"raven {BATCHES[0]}"]
    for line in lines:
        cells = [cell(rates[name].get(line.told)) for name in (*names, "nautilus", "mlfinpy")]
        ratios = [ratio(ours[line.told], rates[rival].get(line.told)) for rival in ("nautilus", "mlfinpy")]
        shown.add_row(line.told, *cells, *ratios)
    return shown


def ways_in(rates: Rates) -> Table:
    """What columns and TradeTicks cost, and how fast tick bars are when that is counted in."""
    shown = Table("way in", "thousand a second", "µs each", "thousand a second with tick bars on top")
    told = {f"raven {batch}": f"Raven: columns of {batch:,} from Avro" for batch in BATCHES}
    for name, text in {**told, "nautilus": "nautilus_trader: TradeTicks from text"}.items():
        each, bars = seconds(rates[name]["objects"]), seconds(rates[name][TICK_BARS])
        shown.add_row(text, f"{1e-3 / each:,.0f}", f"{each * 1e6:.2f}", f"{1e-3 / (each + bars):,.0f}")
    return shown


def seconds(runs: Sequence[Rate]) -> float:
    """CPU seconds a tick, the median of the rounds."""
    return float(statistics.median(run["cpu_seconds"] / run["ticks"] for run in runs))


def cell(runs: Sequence[Rate] | None) -> str:
    """Thousand ticks a second, and bars."""
    return f"{1e-3 / seconds(runs):,.0f} ({runs[0]['bars']:,})" if runs else ""


def ratio(ours: Sequence[Rate], theirs: Sequence[Rate] | None) -> str:
    """How many times as fast we are."""
    if not theirs:
        return ""
    times = [other["cpu_seconds"] / own["cpu_seconds"] for own, other in zip(ours, theirs, strict=True)]
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


if __name__ == "__main__":
    main()
