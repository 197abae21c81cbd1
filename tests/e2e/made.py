"""Recordings made for end-to-end tests, and a demo run as a person runs it: in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import zstandard

START_NS = 1_723_161_254_000_000_000
STEP_NS = 20_000_000
TRADES = 4_000
HOLES = (range(1_000, 1_003), range(3_600, 3_601))
"""Of each recording, and the ids that the first one skips."""
LONGEST_S = 400


def frame(stream: str, data: str) -> str:
    """A message as Binance prints it on a combined stream."""
    return f'{{"stream":"{stream}","data":{data}}}'


def trade_frame(symbol: str, trade_id: int, time_ms: int, *, price_cents: int, lots: int, seller: bool) -> str:
    """https://github.com/binance/binance-spot-api-docs/blob/master/web-socket-streams.md#trade-streams"""
    price, quantity = f"{price_cents // 100}.{price_cents % 100:02d}000000", f"{lots // 1000}.{lots % 1000:03d}00000"
    return frame(
        f"{symbol.lower()}@trade",
        f'{{"e":"trade","E":{time_ms + 3},"s":"{symbol}","t":{trade_id},"p":"{price}","q":"{quantity}","T":{time_ms},'
        f'"m":{str(seller).lower()},"M":true}}',
    )


def book_frame(symbol: str, update_id: int, price_cents: int) -> str:
    """Twenty levels a side, as `depth20` brings them."""

    def levels(step: int) -> str:
        prices = [price_cents + step * (n + 1) for n in range(20)]
        return ",".join(f'["{p // 100}.{p % 100:02d}000000","0.{n + 1:02d}000000"]' for n, p in enumerate(prices))

    data = f'{{"lastUpdateId":{update_id},"bids":[{levels(-1)}],"asks":[{levels(1)}]}}'
    return frame(f"{symbol.lower()}@depth20@100ms", data)


def recording(path: Path, symbol: str, trades: int, seed: int, holes: Iterable[range] = ()) -> Path:
    """A file of frames: a random walk with runs of one side, whose ids skip those of `holes` (counted from nought)."""
    rng = Random(seed)
    first_id, price, side = rng.randrange(10**6, 10**9), rng.randrange(10**5, 10**7), True
    missing = {number for hole in holes for number in hole}
    lines = []
    for number in range(trades):
        time_ns = START_NS + number * STEP_NS + rng.randrange(STEP_NS // 2)
        side = side if rng.random() < 0.8 else not side
        price += rng.choice((0, 0, 1, 2)) * (-1 if side else 1)
        if number not in missing:
            lots, time_ms = rng.randint(1, 50), time_ns // 1_000_000
            text = trade_frame(symbol, first_id + number, time_ms, price_cents=price, lots=lots, seller=side)
            lines.append(f"{time_ns}\t{text}")
        if number % 10 == 0:
            lines.append(f"{time_ns + 1}\t{book_frame(symbol, number + 1, price)}")
    path.write_bytes(zstandard.compress(("\n".join(lines) + "\n").encode()))
    return path


@dataclass
class Demo:
    """A `ravenctl demo` that ran to its end."""

    home: Path
    exit_code: int
    output: str
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def broken(self) -> list[str]:
        """Promises that did not hold."""
        return [f"{one['promise']}: {one['found']}" for one in self.figures["promises"] if not one["kept"]]


def command(home: Path, *options: str) -> list[str]:
    """The command line of a demo."""
    return [sys.executable, "-m", "ravenctl", "demo", "--home", str(home), *options]


def demo(home: Path, *options: str) -> Demo:
    """Run a demo and take in its figures."""
    figures = home / "figures.json"
    home.mkdir(parents=True, exist_ok=True)
    figures.unlink(missing_ok=True)
    arguments = command(home, "--json", str(figures), *options)
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        try:
            output, _ = running.communicate(timeout=LONGEST_S)
        except subprocess.TimeoutExpired:
            running.terminate()  # a demo ends its servers then; killed, it could not
            output, _ = running.communicate()
    told = json.loads(figures.read_text()) if figures.exists() else {}
    return Demo(home, running.returncode, output, told)
