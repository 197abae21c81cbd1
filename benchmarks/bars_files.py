"""What all makers of bars share: tapes, cases and bars in files; nothing of Raven, for each has its own environment.

A maker is run as `python -m benchmarks.bars_NAME bars JOBS`, which writes each job's bars as JSON lines, or as
`... rates JOBS`, which prints how long each took. JOBS is a JSON list of jobs: `case`, `tape`, `skip` (rows that are
not fed), `out`.
"""

import csv
import gc
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

Case = dict[str, Any]
"""What is to be made: `name`, `kind` as Raven's registry has it, `size`, and whatever else the kind needs."""
Shown = dict[str, Any]
"""A bar as all tell it: `row` (the number of the trade that closed it), `close_time` in microseconds, prices and
volumes as doubles; only what the maker knows."""
WEIGHTS = {"t": "tick", "v": "volume", "d": "dollar"}
"""What an imbalance or run bar adds up, by the first letter of its kind."""


class Tick(NamedTuple):
    """A trade of a tape; price and quantity as text."""

    time_us: int
    price: str
    quantity: str
    buy: bool


class Made(NamedTuple):
    """A way to make the bars of a case, its input ready."""

    run: Callable[[], Sequence[Any]]
    show: Callable[[Any], Shown]


Maker = Callable[[Case, Sequence[Tick]], Made]


def write_tape(path: Path, tape: Iterable[Tick]) -> None:
    """One trade in each line."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows((t.time_us, t.price, t.quantity, int(t.buy)) for t in tape)


@cache
def read_tape(path: str) -> list[Tick]:
    """The trades of a file."""
    with open(path, newline="") as file:
        return [Tick(int(time_us), price, quantity, buy == "1") for time_us, price, quantity, buy in csv.reader(file)]


def read_bars(path: Path) -> list[Shown]:
    """The bars of a file."""
    with path.open() as file:
        return [json.loads(line) for line in file]


def main(maker: Maker) -> None:
    """Do what the command line names."""
    kind, path = sys.argv[1:]
    jobs = json.loads(Path(path).read_text())
    if kind == "bars":
        for job in jobs:
            write_bars(maker, job)
    else:
        print(json.dumps([rate(maker, job) for job in jobs]), flush=True)


def write_bars(maker: Maker, job: dict[str, Any]) -> None:
    """Make a job's bars and write them."""
    made = maker(job["case"], read_tape(job["tape"])[job["skip"] :])
    with open(job["out"], "w") as file:
        file.writelines(json.dumps(made.show(bar)) + "\n" for bar in made.run())


def rate(maker: Maker, job: dict[str, Any]) -> dict[str, Any]:
    """How long a job took, by CPU, after a run of its first trades that lets compilers do their work."""
    tape = read_tape(job["tape"])[job["skip"] :]
    maker(job["case"], tape[:2000]).run()
    made = maker(job["case"], tape)
    gc.collect()
    gc.freeze()
    began, cpu = time.perf_counter(), time.process_time()
    bars = made.run()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu
    gc.unfreeze()
    told = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    return {"name": job["case"]["name"], "ticks": len(tape), "bars": len(bars), **told}
