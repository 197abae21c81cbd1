"""One run of Raven's collector: `python -m benchmarks.feeds_raven KIND CASE BOOTSTRAP` prints its result as JSON.

KIND is `parse` (frames in memory to records in order: the source's parser and the session), `kafka` (the same, then
Avro and librdkafka, until the broker has acknowledged everything), or `socket` (the same from a WebSocket on loopback,
at the URL that the case names). CASE is a file that benchmarks/feeds.py has written.
"""

import asyncio
import itertools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.feeds_watch import Stopwatch, frames_of
from producers.actions import BadBytes
from producers.collector.gate import Gate
from producers.collector.link import FRAMES_AT_A_TIME, Bonds, Link
from producers.collector.outlet import Outlet
from producers.collector.pulse import Pulse
from producers.contract import TRADES, Stream
from producers.registry import SOURCES
from producers.session import Session
from producers.tape import Seen
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, Settings
from ravencore.status import now_us
from ravencore.topics import STATUS

LIFE_S, FAILURES_ALLOWED = 3600.0, 5


def session(case: dict[str, Any]) -> Session:
    """A session that has seen the trades before the first of the case, and wants its feeds."""
    source = SOURCES[case["source"]]
    assert isinstance(source, Stream)
    made = Session(source, case["url"])
    for symbol in case["symbols"]:
        seen = {symbol: Seen(case["first_id"] - 1, now_us())} if case["channel"] == TRADES else {}
        made.want(source.feed(case["channel"], symbol), seen)
    return made


def parse(case: dict[str, Any], frames: Sequence[bytes]) -> dict[str, float]:
    """From bytes to records in order."""
    into = session(case)
    into.opened("benchmark#1", 0.0, now_us())
    records = 0
    with Stopwatch() as watch:
        for frame in frames:
            records += count(into.receive(frame, now_us(), 0.0))
    return watch.result(len(frames), records)


def count(actions: Iterable[object]) -> int:
    """How many there are; none may be a dead letter."""
    found = list(actions)
    assert not any(isinstance(action, BadBytes) for action in found), found
    return len(found)


async def kafka(case: dict[str, Any], frames: Sequence[bytes], outlet: Outlet) -> dict[str, float]:
    """From bytes to the broker's last acknowledgement, yielding as a link does."""
    into, venue = session(case), case["source"]
    into.opened("benchmark#1", 0.0, now_us())
    with Stopwatch() as watch:
        for number, frame in enumerate(frames):
            for action in into.receive(frame, now_us(), 0.0):
                outlet.put(venue, action)  # type: ignore[arg-type] # nothing is asked for
            if outlet.blocked:
                await outlet.ready()
            if number % FRAMES_AT_A_TIME == 0:
                await asyncio.sleep(0)
        await outlet.delivered()
    return watch.result(len(frames), outlet.counters[f"{case['channel']}_published"])


async def socket(case: dict[str, Any], outlet: Outlet) -> dict[str, float]:
    """From a socket to the broker's last acknowledgement."""
    into, wanted = session(case), case["frames"]
    async with aiohttp.ClientSession() as http:
        pulse = Pulse(outlet)
        gate = Gate(case["source"], into.source.limits, None, http)
        bonds = Bonds(gate, outlet, pulse, print, print, print, itertools.count(1), LIFE_S, FAILURES_ALLOWED)
        beating = asyncio.create_task(pulse.run())
        link = Link(into, bonds)
        running = asyncio.create_task(link.run())
        while into.frames == 0:  # noqa: ASYNC110 - to be told would cost what is measured
            await asyncio.sleep(0)
        with Stopwatch() as watch:
            while into.frames < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
            await outlet.delivered()
        await link.stop()
        await running
        beating.cancel()
    return watch.result(wanted, outlet.counters[f"{case['channel']}_published"])


async def with_outlet(kind: str, case: dict[str, Any], bootstrap: str) -> dict[str, float]:
    """A run that publishes; its producer is connected and has its id before it starts."""
    outlet = Outlet(Settings(kafka=KafkaSettings(bootstrap=bootstrap)), Codec())
    running = asyncio.create_task(outlet.run())
    outlet.producer.produce(STATUS, None, b"benchmark")
    outlet.producer.flush(30)
    result = await (kafka(case, frames_of(case), outlet) if kind == "kafka" else socket(case, outlet))
    outlet.check()
    running.cancel()
    return result


def main() -> None:
    """Run what the command line names."""
    kind, path, bootstrap = sys.argv[1:]
    case = json.loads(Path(path).read_text())
    in_memory = kind == "parse"
    result = parse(case, frames_of(case)) if in_memory else asyncio.run(with_outlet(kind, case, bootstrap))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
