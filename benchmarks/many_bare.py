"""The least that a collector of these feeds can do: `python -m benchmarks.many_bare PLAN URL` reads and throws away.

It holds as many connections as the collector, with the same library and the same settings, asks for the same streams,
and prints a line when it has asked for all of them.
"""

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence

from websockets.asyncio.client import connect

from benchmarks.many_market import Plan, name_of
from producers.collector.link import FRAMES_AT_A_TIME, MAX_FRAME_BYTES
from producers.contract import ALL, Feed, Stream
from producers.registry import configured
from ravencore.config import VenuesSettings


def source_of(plan: Plan) -> Stream:
    """The source that is to collect this."""
    settings = {plan.venue: {"maintained_books": [ALL] if plan.kept else []}}
    source = configured(VenuesSettings.model_validate(settings))[plan.venue]
    assert isinstance(source, Stream)
    return source


def shared_out(source: Stream, plan: Plan, base: str) -> Iterator[tuple[str, Sequence[Feed]]]:
    """The URL and the feeds of each connection."""
    by_url: dict[str, list[Feed]] = {}
    for rank in range(plan.symbols):
        for channel in source.channels:
            by_url.setdefault(source.socket_url(base, channel), []).append(source.feed(channel, name_of(rank)))
    for url, feeds in by_url.items():
        yield from ((url, some) for some in parts(feeds, source.limits.feeds_per_connection))


def parts(feeds: Sequence[Feed], size: int) -> Iterator[Sequence[Feed]]:
    """The feeds, so many at a time."""
    return (feeds[start : start + size] for start in range(0, len(feeds), size))


async def read(source: Stream, url: str, feeds: Sequence[Feed], asked: asyncio.Barrier) -> None:
    """One connection."""
    opening = connect(url, compression=None, ping_interval=None, max_size=MAX_FRAME_BYTES)
    async with opening as socket:
        for number, some in enumerate(parts(feeds, source.limits.feeds_per_message), 1):
            await socket.send(source.subscribe(some, number))
        await asked.wait()
        frames = 0
        while True:
            for _ in range(FRAMES_AT_A_TIME):
                await socket.recv(decode=False)
                frames += 1
            await asyncio.sleep(0)


async def main() -> None:
    """Read until killed."""
    plan, base = Plan(**json.loads(sys.argv[1])), sys.argv[2]
    source = source_of(plan)
    connections = list(shared_out(source, plan, base))
    asked = asyncio.Barrier(len(connections) + 1)
    async with asyncio.TaskGroup() as tasks:
        for url, feeds in connections:
            tasks.create_task(read(source, url, feeds, asked))
        await asked.wait()
        print("asked", flush=True)


if __name__ == "__main__":
    asyncio.run(main())
