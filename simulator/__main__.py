"""`python -m simulator`: an exchange on loopback, from recordings or a seeded synthetic market.

    python -m simulator --synthetic --symbols BTCUSDT,ETHUSDT --speed 1 --duration 2m
    python -m simulator --recording X.frames.zst Y.frames.zst --speed max --fault gap=0.001,cut=2 --seed 7

With RAVEN_READY_FILE set, a JSON object of settings for later services is written there once it serves.
"""

import argparse
import asyncio
import logging
import os
import re
import signal
import sys
from pathlib import Path

from simulator.contract import Dialect, Market, SimulatorError
from simulator.faults import parse_spec
from simulator.recording import RecordedMarket
from simulator.registry import DIALECTS
from simulator.server import Server, Settings, write_ready_file
from simulator.synthetic import SyntheticMarket

DEFAULT_SYMBOLS = "BTCUSDT,ETHUSDT,SOLUSDT"
UNITS_NS = {"ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}

log = logging.getLogger("simulator")


def duration_ns(text: str) -> int:
    """`90s`, `2m`, `500ms`, `1h` in nanoseconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"not a duration: {text!r}; write 90s or 2m")
    return int(float(match[1]) * UNITS_NS[match[2]])


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
    source.add_argument("--recording", nargs="+", type=Path, metavar="FILE", help="*.frames or *.frames.zst")
    source.add_argument("--synthetic", action="store_true", help="a seeded synthetic market")
    command.add_argument("--symbols", default=DEFAULT_SYMBOLS, help="of the synthetic market")
    command.add_argument("--venue", default="BINANCE_SPOT", choices=sorted(DIALECTS))
    command.add_argument("--port", type=int, default=0, help="0 takes a free one")
    command.add_argument("--speed", type=speed, default=1.0, help="1, N, or max: as fast as it is read")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--fault", default="", metavar="SPEC", help="gap=0.001,duplicate=5,cut=2")
    command.add_argument("--duration", type=duration_ns, help="of market time, like 90s or 2m")
    return command


def market_of(options: argparse.Namespace, dialect: Dialect) -> Market:
    if options.recording:
        log.info("reading %s", ", ".join(path.name for path in options.recording))
        return RecordedMarket(
            options.recording, dialect, lambda count: log.info("first pass: %d frames checked", count)
        )
    symbols = [symbol.strip().upper() for symbol in options.symbols.split(",") if symbol.strip()]
    return SyntheticMarket(symbols, options.seed, dialect, options.duration)


async def serve(options: argparse.Namespace) -> None:
    dialect = DIALECTS[options.venue]
    faults = parse_spec(options.fault)
    market = market_of(options, dialect)
    for note in market.notes:
        log.warning("%s", note)
    settings = Settings(options.speed, options.seed, faults, options.duration, options.port)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Server(dialect, market, settings) as server:
        log.info("%s on %s: %s", dialect.venue, server.address, ", ".join(market.instruments))
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
