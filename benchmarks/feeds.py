"""`make bench-feeds`: Raven's collector beside cryptofeed's handlers and its Kafka backend, on the same frames.

Every contestant has a process and one core of its own (benchmarks/feeds_raven.py and feeds_cryptofeed.py say what each
does); the broker, the server of the loopback sockets and this program have the others. They take turns, so that a slow
minute of the machine meets all; medians are shown.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from confluent_kafka.cimpl import NewTopic
from rich.progress import Progress
from rich.table import Table
from websockets.asyncio.server import ServerConnection, serve

from benchmarks.engine import progress
from benchmarks.frames import CASES, FIRST_ID, Case, frames
from benchmarks.machine import console, machine
from producers.contract import Receipt, Stream
from producers.registry import SOURCES
from ravencore import kafka
from ravencore.config import KafkaSettings
from ravencore.records import MarketRecord
from ravencore.status import now_us
from ravenctl.local.broker import Broker

RAVEN = ("parse", "kafka", "socket")
CRYPTOFEED = ("handlers", "kafka", "socket")
SOCKET_CASES = frozenset({"BINANCE_FUTURES trades", "BINANCE_SPOT quotes"})
PARTITIONS = 6
RIVAL_KAFKA_FRAMES = 2000
"""It waits for every record's acknowledgement before it sends the next: a rate needs no more."""
CHUNK = 1 << 16
COLUMNS = {
    "Raven parse": "raven parse",
    "Raven Kafka": "raven kafka",
    "handlers": "cryptofeed handlers",
    "its Kafka": "cryptofeed kafka",
}
"""By heading, the contestant."""
Result = dict[str, float]


class Contestant(NamedTuple):
    """One column of the table."""

    side: str
    kind: str

    def __str__(self) -> str:
        return f"{self.side} {self.kind}"


def main() -> None:
    """Run everything and print the tables; `--json FILE` keeps the numbers."""
    parser = argparse.ArgumentParser(description="Raven's feeds beside cryptofeed.")
    parser.add_argument("--rival-python", required=True, help="the interpreter of the environment with cryptofeed")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=[case.name for case in CASES], metavar="FEED", default=None)
    parser.add_argument("--scale", type=float, default=1.0, help="this many times the usual frames")
    parser.add_argument("--json", default=None, help="write the numbers to this file")
    options = parser.parse_args()
    cases = [case for case in CASES if options.only is None or case.name in options.only]
    out = console()
    options.cores, others = split_cores()
    os.sched_setaffinity(0, others)
    with tempfile.TemporaryDirectory() as folder, Broker() as broker, progress(out) as bars:
        settings = KafkaSettings(bootstrap=broker.bootstrap, partitions=PARTITIONS)
        kafka.ensure_topics(settings)
        prepared = [prepare(case, Path(folder), options.scale, settings) for case in cases]
        results = measure(prepared, options, settings, bars)
    out.print(machine())
    out.print(table(cases, results))
    out.print(socket_table(cases, results))
    if options.json:
        Path(options.json).write_text(json.dumps({"machine": machine(), "results": results}))


def split_cores() -> tuple[set[int], set[int]]:
    """One core for what is measured, the rest for all else; with one core alone, both on it."""
    cores = sorted(os.sched_getaffinity(0))
    return {cores[0]}, set(cores[1:]) or {cores[0]}


# Frames


def prepare(case: Case, folder: Path, scale: float, settings: KafkaSettings) -> Path:
    """Write a case's frames for both sides, and what it says of them; the file's path."""
    ours = frames(case, recordings(), round(case.frames * scale))
    records = list(read(case, ours))
    told: dict[str, Any] = {
        "name": case.name,
        "source": case.source,
        "channel": case.channel,
        "url": "ws://benchmark",
        "symbols": sorted({record.symbol for record in records}),
        "first_id": FIRST_ID,
        "frames": len(ours),
        "records": len(records),
        "path": str(written(folder / f"{case.name}.ours", ours)),
        "rival_kafka_frames": RIVAL_KAFKA_FRAMES,
    }
    if case.rival is not None:
        told["exchange"], told["rival_channel"] = case.rival.exchange, case.rival.channel
        told["rival_symbols"] = told["symbols"]
        told["rival_path"] = str(written(folder / f"{case.name}.theirs", case.rival.translate(ours)))
        make_rival_topics(case, told["symbols"], settings)
    path = folder / f"{case.name}.json"
    path.write_text(json.dumps(told))
    return path


def recordings() -> Path | None:
    """The folder of recordings that RAVEN_RECORDINGS names."""
    named = os.environ.get("RAVEN_RECORDINGS")
    return Path(named) if named else None


def read(case: Case, ours: Sequence[bytes]) -> Iterator[MarketRecord]:
    """The records in the frames, which shows as well that all can be read."""
    source = SOURCES[case.source]
    assert isinstance(source, Stream)
    receipt = Receipt(now_us())
    for frame in ours:
        for event in source.parse(frame, receipt):
            assert isinstance(event, MarketRecord)
            yield event


def written(path: Path, lines: Sequence[bytes]) -> Path:
    """The path, with one frame in each line."""
    path.write_bytes(b"\n".join(lines))
    return path


def make_rival_topics(case: Case, symbols: Sequence[str], settings: KafkaSettings) -> None:
    """The topics that cryptofeed's Kafka backend writes to."""
    assert case.rival is not None
    channel = {"l2_book": "book"}.get(case.rival.channel, case.rival.channel)
    venue = {"BinanceFutures": "BINANCE_FUTURES"}.get(case.rival.exchange, case.rival.exchange.upper())
    topics = [NewTopic(f"{channel}-{venue}-{symbol.replace('/', '-')}", 1, 1) for symbol in symbols]
    admin = kafka.admin(settings)
    for made in admin.create_topics(topics).values():
        made.result(30)


# Runs


def measure(
    prepared: Sequence[Path], options: argparse.Namespace, settings: KafkaSettings, bars: Progress
) -> dict[str, dict[str, list[Result]]]:
    """Results by case and contestant."""
    results: dict[str, dict[str, list[Result]]] = {}
    lines = [(path, case) for path in prepared for case in [json.loads(path.read_text())]]
    plan = [(path, case, one) for path, case in lines for one in contestants(case)]
    task = bars.add_task("runs", total=options.runs * len(plan))
    for number in range(options.runs):
        for path, case, contestant in plan:
            bars.update(task, description=f"run {number + 1}: {case['name']}, {contestant}")
            found = run(path, case, contestant, options, settings.bootstrap)
            results.setdefault(case["name"], {}).setdefault(str(contestant), []).append(found)
            bars.advance(task)
    return results


def contestants(case: dict[str, Any]) -> list[Contestant]:
    """Who runs a case, each of Raven's beside the one of cryptofeed's that it is compared with."""
    kinds = [kinds for kinds in zip(RAVEN, CRYPTOFEED, strict=True) if "socket" not in kinds or socketed(case)]
    sides = ("raven", "cryptofeed") if "exchange" in case else ("raven",)
    return [Contestant(side, kind) for pair in kinds for side, kind in zip(sides, pair, strict=False)]


def socketed(case: dict[str, Any]) -> bool:
    """Whether the case is also run over a socket."""
    return case["name"] in SOCKET_CASES


def run(
    path: Path, case: dict[str, Any], contestant: Contestant, options: argparse.Namespace, bootstrap: str
) -> Result:
    """One run of a contestant in its own process."""
    python = sys.executable if contestant.side == "raven" else options.rival_python
    command = [python, "-m", f"benchmarks.feeds_{contestant.side}", contestant.kind]
    cores: set[int] = options.cores
    if contestant.kind != "socket":
        return told_by([*command, str(path), bootstrap], cores)
    lines = case["path" if contestant.side == "raven" else "rival_path"]
    with serving(Path(lines)) as url:
        there = path.with_suffix(".socket.json")
        there.write_text(json.dumps(case | {"url": url}))
        return told_by([*command, str(there), bootstrap], cores)


def told_by(command: Sequence[str], cores: set[int]) -> Result:
    """What a run prints."""
    with tempfile.TemporaryFile("w+") as log:
        ran = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=log, text=True, check=False, preexec_fn=lambda: pinned(cores)
        )
        if ran.returncode or not ran.stdout:
            log.seek(0)
            raise SystemExit(f"{' '.join(command)} ended without a result:\n{log.read()[-3000:]}")
    result: Result = json.loads(ran.stdout.splitlines()[-1])
    return result


def pinned(cores: set[int]) -> None:
    """Keep the process to these cores."""
    os.sched_setaffinity(0, cores)


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """A WebSocket server on loopback that sends a file's frames as fast as they are read, once; its URL.

    The frames are made before, so that the server costs next to nothing.
    """
    sent = b"".join(map(message, path.read_bytes().split(b"\n")))
    ready, end = threading.Event(), asyncio.Event()
    where: list[Any] = []

    async def play(connection: ServerConnection) -> None:
        for start in range(0, len(sent), CHUNK):
            connection.transport.write(sent[start : start + CHUNK])
            await connection.drain()
        await connection.wait_closed()

    async def listen() -> None:
        async with serve(play, "127.0.0.1", 0, compression=None, ping_interval=None) as server:
            where.extend((asyncio.get_running_loop(), next(iter(server.sockets)).getsockname()[1]))
            ready.set()
            await end.wait()

    thread = threading.Thread(target=lambda: asyncio.run(listen()))
    thread.start()
    ready.wait()
    loop, port = where
    try:
        yield f"ws://127.0.0.1:{port}/"
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join()


def message(frame: bytes) -> bytes:
    """A text message of RFC 6455 as a server sends it: FIN and opcode, length, payload."""
    length = len(frame)
    return (bytes((0x81, length)) if length < 126 else b"\x81\x7e" + length.to_bytes(2, "big")) + frame


# Tables


def table(cases: Sequence[Case], results: dict[str, dict[str, list[Result]]]) -> Table:
    """Frames a second and CPU, medians, and Raven's ratios with their lowest and highest run."""
    shown = Table("feed", *COLUMNS, "parse by handlers", "Kafka by handlers", "Kafka by Kafka", "cryptofeed is given")
    shown.caption = (
        "Frames a second by the clock, and microseconds of CPU for each; medians. Raven parse: bytes to records in the "
        "order of their ids. Raven Kafka: the same, Avro and librdkafka, until all is acknowledged. handlers: text to "
        "objects, a callback that does nothing. Ratios are Raven's by cryptofeed's, with their range over the runs: "
        "by CPU, and Kafka by Kafka by the clock, for cryptofeed's backend mostly waits."
    )
    for case in cases:
        found = results[case.name]
        shown.add_row(
            case.name,
            *(rate(found.get(name)) for name in COLUMNS.values()),
            ratio(found, "raven parse", "cryptofeed handlers", "cpu_seconds"),
            ratio(found, "raven kafka", "cryptofeed handlers", "cpu_seconds"),
            ratio(found, "raven kafka", "cryptofeed kafka", "seconds"),
            case.rival.told if case.rival else "nothing: it has no such channel",
        )
    return shown


def socket_table(cases: Sequence[Case], results: dict[str, dict[str, list[Result]]]) -> Table:
    """The same over a loopback socket."""
    shown = Table("feed over a socket", "Raven Kafka", "handlers", "by the clock", "by CPU")
    pair = ("raven socket", "cryptofeed socket")
    for case in cases:
        found = results[case.name]
        if "raven socket" in found:
            ratios = (ratio(found, *pair, of) for of in ("seconds", "cpu_seconds"))
            shown.add_row(case.name, *(rate(found.get(name)) for name in pair), *ratios)
    return shown


def rate(runs: list[Result] | None) -> str:
    """Frames a second by the clock, and CPU microseconds a frame."""
    if not runs:
        return ""
    seconds = statistics.median(run["seconds"] / run["frames"] for run in runs)
    cpu = statistics.median(run["cpu_seconds"] / run["frames"] for run in runs)
    return f"{1 / seconds:,.0f} ({cpu * 1e6:.1f} µs)"


def ratio(found: dict[str, list[Result]], ours: str, theirs: str, of: str) -> str:
    """How many times as many frames in the same time: the median of the runs, and their range."""
    if theirs not in found:
        return ""
    per_frame = [[run[of] / run["frames"] for run in found[name]] for name in (ours, theirs)]
    times = [other / own for own, other in zip(*per_frame, strict=True)]
    return f"{statistics.median(times):.2f} ({min(times):.2f} to {max(times):.2f})"


if __name__ == "__main__":
    main()
