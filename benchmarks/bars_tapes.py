"""The tapes that bars of all makers are made from: two made ones, and a recorded day where there is one.

mlfinpy and RiskLabAI are not told who the aggressor was: they sign trades by the tick rule. So do these tapes, with
sells until the price has moved for the first time. Times never step back.
"""

import csv
import io
import os
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import NamedTuple

import zstandard

from benchmarks.bars_files import Tick

START_US = 1_700_000_000_250_000
RECORDED = "binance_spot/long_btcusdt_trades_20220115.csv.zst"
QUARTER = 25
"""Cents."""
N = 100
"""Ticks of a usual bar."""
REACH = 20
"""Where imbalances with a fixed threshold have it."""


class Raw(NamedTuple):
    """A trade in exact steps: cents, and hundred-thousandths."""

    time_us: int
    cents: int
    amount: int


class Sizes(NamedTuple):
    """About a hundred trades of a tape."""

    volume: int
    dollars: int


class Tape(NamedTuple):
    """A tape and what suits it."""

    name: str
    ticks: list[Tick]
    sizes: Sizes
    is_binary: bool
    """Whether doubles hold all its numbers and their sums exactly."""


def tapes(count: int) -> list[Tape]:
    """The made tapes with so many trades, and the recorded day if RAVEN_RECORDINGS names a folder that has it."""
    made = [
        Tape("made, sums exact in doubles", ticks(binary(count)), Sizes(150, 15_000), True),
        Tape("made, decimal", ticks(decimal(count)), Sizes(1, 48_000), False),
    ]
    day = Path(os.environ.get("RAVEN_RECORDINGS", "")) / RECORDED
    recorded = [Tape("BTCUSDT, 2022-01-15", ticks(read(day)), Sizes(3, 130_000), False)] if day.exists() else []
    return made + recorded


def binary(count: int) -> Iterator[Raw]:
    """Prices in quarters around 100, quantities in parts of 32; many trades fill a bar to the last unit."""
    rng, now, quarters = random.Random(6), START_US, 400
    for _ in range(count):
        now += rng.choice([0, 0, 1000, 40_000, 400_000, 3_000_000])
        quarters = max(200, quarters + rng.choice([-1, 0, 0, 1]))
        yield Raw(now, quarters * QUARTER, rng.randrange(1, 96) * 3125)


def decimal(count: int) -> Iterator[Raw]:
    """Prices around 60,000 and quantities as BTCUSDT has them; trades in clusters of one direction."""
    rng, now, cents, drift = random.Random(7), START_US, 6_000_000, 0
    for _ in range(count):
        now += rng.choice([0, 0, 0, 1000, 7000, 90_000, 1_300_000])
        drift = rng.choice([-1, 0, 1]) if rng.random() < 0.02 else drift
        cents += rng.choice([0, 0, 1, -1, rng.randrange(-200, 201) + 40 * drift])
        yield Raw(now, cents, rng.choice([rng.randrange(1, 200), rng.randrange(1, 4000)]))


def read(path: Path) -> Iterator[Raw]:
    """A recorded table with `timestamp_ms`, `price` and `qty`; its quantities went through doubles on their way."""
    with zstandard.open(path, "rt") as file:
        for line in csv.DictReader(io.StringIO(file.read())):
            cents, amount = round(float(line["price"]) * 100), round(float(line["qty"]) * 100_000)
            yield Raw(int(line["timestamp_ms"]) * 1000, cents, amount)


def ticks(raw: Iterator[Raw] | Sequence[Raw]) -> list[Tick]:
    """The trades as text, signed by the tick rule."""
    trades = list(raw)
    assert all(one.time_us <= other.time_us for one, other in pairwise(trades)), "times step back"
    moves = [0, *(other.cents - one.cents for one, other in pairwise(trades))]
    signs: Iterator[int] = accumulate(moves, lambda last, move: move or last)
    return [
        Tick(
            t.time_us, f"{t.cents // 100}.{t.cents % 100:02d}", f"{t.amount // 100_000}.{t.amount % 100_000:05d}", d > 0
        )
        for t, d in zip(trades, signs, strict=True)
    ]


def with_prefix(tape: Sequence[Tick], sides: str) -> list[Tick]:
    """A trade of no side, then trades of these sides (`b` and `s`) by the tick rule, and then the tape."""
    raws = [_raw(tick) for tick in tape]
    path = list(accumulate([0, *(QUARTER if side == "b" else -QUARTER for side in sides)]))
    first = raws[0].cents - path[-1] - QUARTER
    return ticks([*(Raw(raws[0].time_us, first + up, 3125) for up in path), *raws])


def _raw(tick: Tick) -> Raw:
    return Raw(tick.time_us, int(tick.price.replace(".", "")), int(tick.quantity.replace(".", "")))


ONE_SIDED = "b" * REACH
"""After these, E[b] is 1 whoever estimates it."""
MIXED_RUNS = "b" * 60 + "s" * 89 + "s" * 60 + "b" * 40
"""With the trade of no side 250, of which 149 sell and 100 buy; of the last N, 60 sell and 40 buy.

The first run bar of RiskLabAI closes when both sides have had N trades: with the last of the 250, and 100 / 250 = 0.4
of them bought. Raven's warm-up bar are the last N, and 40 / 100 = 0.4 of them bought.
"""
