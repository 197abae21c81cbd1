"""`python -m simulator`: exchanges on loopback, from recordings or seeded synthetic markets.

    python -m simulator --synthetic --venues all --symbols BTCUSDT,ETHUSDT --speed 1 --duration 2m
    python -m simulator --synthetic --venues all --duration 10m --fault chaos --seed 7 --life 150
    python -m simulator --recording X.frames.zst KRAKEN=Y.frames.zst --speed max --fault gap=0.001,cut=2 --seed 7

With RAVEN_READY_FILE set, a JSON object of settings for later services is written there once it serves.
"""

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Sequence

from simulator.contract import Dialect, Market, SimulatorError
from simulator.faults import parse_spec
from simulator.recording import RecordedMarket
from simulator.registry import DIALECTS, Plan, synthetic_market
from simulator.server.service import Server, write_ready_file
from simulator.server.settings import Settings
from simulator.sorting import sort
from simulator.synthetic import EPOCH_NS

DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"
DEFAULT_PERPETUALS = 20
UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

log = logging.getLogger("simulator")


def duration_ns(text: str) -> int:
    """`90s`, `2m`, `500ms`, `1h` in nanoseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r}; write 90s or 2m")
    return int(float(match[1]) * UNITS_NS[match[2]])


def life_s(text: str) -> float | None:
    """`300`, `300s` or `5m` in seconds; None for 0."""
    return duration_ns(f"{text}s" if text[-1:].isdigit() else text) / 1e9 or None


def speed(text: str) -> float | None:
    """`1`, `10`, `0.5`; `max` is None."""
    if text == "max":
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"not a speed: {text!r}; write 1, 10 or max")
    return value


def parser() -> argparse.ArgumentParser:
    description, _, examples = (__doc__ or "").partition("\n\n")
    command = argparse.ArgumentParser(
        "python -m simulator",
        description=description,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = command.add_mutually_exclusive_group(required=True)
    source.add_argument("--recording", nargs="+", metavar="FILE", help="*.frames.zst and *.rest.jsonl.zst; VENUE=FILE")
    source.add_argument("--synthetic", action="store_true", help="seeded synthetic markets")
    command.add_argument("--venues", type=names, default=["BINANCE_SPOT"], help="of the synthetic markets, or all")
    command.add_argument("--symbols", type=names, default=DEFAULT_SYMBOLS, help="the same: pairs, spelled in any way")
    command.add_argument("--perpetuals", type=int, default=DEFAULT_PERPETUALS, help="thin ones beside the symbols'")
    command.add_argument(
        "--feeds", type=names, help='sources to wait for, "" for none; default: those collected by symbol'
    )
    command.add_argument("--port", type=int, default=0, help="0 takes a free one")
    command.add_argument("--speed", type=speed, default=1.0, help="1, N, or max: as fast as it is read")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--fault", default="", metavar="SPEC", help="gap=0.001,cut=2,stall=1, or chaos: every kind on every feed"
    )
    command.add_argument("--life", type=life_s, metavar="SECONDS", help="age at which connections are closed; 0: a day")
    command.add_argument("--duration", type=duration_ns, help="of market time, like 90s or 2m")
    return command


def names(text: str) -> list[str]:
    """`a,B` as A and B."""
    return [name.strip().upper() for name in text.split(",") if name.strip()]


def markets_of(options: argparse.Namespace) -> list[tuple[Dialect, Market]]:
    if options.recording:
        return recorded(options.recording)
    venues = list(DIALECTS) if options.venues == ["ALL"] else options.venues
    if unknown := [venue for venue in venues if venue not in DIALECTS]:
        raise SimulatorError(f"no venue {', '.join(unknown)}; there are {', '.join(DIALECTS)}")
    if not venues or not options.symbols:
        raise SimulatorError("a synthetic market needs at least one venue and one symbol")
    plan = Plan(options.symbols, options.seed, options.perpetuals, options.duration, begins_ns(options))
    dialects = [DIALECTS[venue]() for venue in venues]
    return [(dialect, synthetic_market(dialect, plan)) for dialect in dialects]


def begins_ns(options: argparse.Namespace) -> int:
    """When a synthetic market begins, which says which options are listed."""
    return time.time_ns() if options.speed == 1.0 else EPOCH_NS


def recorded(arguments: Sequence[str]) -> list[tuple[Dialect, Market]]:
    dialects = [make() for make in DIALECTS.values()]
    files = sort(arguments, dialects)
    log.info("reading recordings of %s", ", ".join(files))
    return [
        (dialect, RecordedMarket(files[dialect.venue], dialect, tell_progress))
        for dialect in dialects
        if dialect.venue in files
    ]


def tell_progress(count: int) -> None:
    log.info("first pass: %d frames checked", count)


async def serve(options: argparse.Namespace) -> None:
    faults = parse_spec(options.fault)
    markets = markets_of(options)
    for dialect, market in markets:
        for note in market.notes:
            log.warning("%s: %s", dialect.venue, note)
    settings = Settings(
        *(options.speed, options.seed, faults, options.duration, options.port),
        feeds=options.feeds,
        life_seconds=options.life,
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Server(markets, settings) as server:
        for dialect, market in markets:
            log.info("%s on %s: %d symbols", dialect.venue, server.address, len(market.instruments))
        if "RAVEN_READY_FILE" in os.environ:
            write_ready_file(os.environ["RAVEN_READY_FILE"], server.environment())
        waiting = [asyncio.create_task(server.wait()), asyncio.create_task(stop.wait())]
        done, pending = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        for task in done:
            task.result()


def main() -> int:
    options = parser().parse_args()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s simulator: %(message)s")
    try:
        asyncio.run(serve(options))
    except (SimulatorError, OSError) as error:
        log.error("%s", error)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
