"""One run of cryptofeed: `python -m benchmarks.feeds_cryptofeed KIND CASE BOOTSTRAP` prints its result as JSON.

It runs in an environment that has cryptofeed and nothing of Raven. KIND is `handlers` (its feed's message_handler on
frames in memory, a callback that does nothing), `kafka` (the same with its own Kafka backend, until every send has been
acknowledged) or `socket` (its ConnectionHandler on a WebSocket at the URL that the case names; the callback counts).

At its best: its Cython types, uvloop as its FeedHandler sets it, text already decoded, and handlers alone without what
surrounds them; for its Kafka backend the topics are made before.
"""

import asyncio
import json
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import uvloop
from cryptofeed import exchanges
from cryptofeed.backends import kafka as backends
from cryptofeed.connection_handler import ConnectionHandler
from cryptofeed.defines import L2_BOOK, TICKER, TRADES
from cryptofeed.symbols import Symbols
from cryptofeed.types import OrderBook

from benchmarks.feeds_watch import Stopwatch, frames_of

BACKENDS = {TRADES: backends.TradeKafka, TICKER: backends.TickerKafka, L2_BOOK: backends.BookKafka}
KEYS = {"key_id": "none", "key_secret": "none"}
"""Deribit's feed wants some before it takes public tickers; nothing is sent anywhere."""


class Counter:
    """A callback that does nothing but count, and take the time of the first call and of the last that is wanted.

    Its reader does not yield while there are frames, so nobody else could.
    """

    def __init__(self, wanted: int) -> None:
        self.records, self.wanted = 0, wanted
        self.watch = Stopwatch()
        self.done = asyncio.Event()

    async def __call__(self, told: Any, receipt_timestamp: float) -> None:
        if self.records == 0:
            self.watch.__enter__()
        self.records += 1
        if self.records == self.wanted:
            self.watch.__exit__(None, None, None)
            self.done.set()


def feed_of(case: dict[str, Any], callback: Any) -> Any:
    """Its feed of a case, told the symbols instead of asking the venue for them."""
    cls, channel = getattr(exchanges, case["exchange"]), case["rival_channel"]
    known = {symbol.replace("/", "-"): symbol for symbol in case["rival_symbols"]}
    Symbols.set(cls.id, known, defaultdict(dict))
    feed = cls(symbols=list(known), channels=[channel], callbacks={channel: callback}, config={cls.id.lower(): KEYS})
    feed._open_interest_cache = {}
    if channel == L2_BOOK:
        begin_books(feed, known, case["first_id"])
    return feed


def begin_books(feed: Any, known: dict[str, str], first_id: int) -> None:
    """Empty books, which its feed would otherwise ask the venue for."""
    feed.last_update_id = {}
    for normalized in known:
        book = OrderBook(feed.id, normalized, max_depth=feed.max_depth, bids={}, asks={})
        feed._l2_book[normalized] = book  # noqa: SLF001
        feed.last_update_id[normalized] = first_id - 1


async def handlers(case: dict[str, Any], frames: Sequence[str]) -> dict[str, float]:
    """From text to objects."""
    counter = Counter(case["records"])
    handle = feed_of(case, counter).message_handler
    with Stopwatch() as watch:
        for frame in frames:
            await handle(frame, None, time.time())
    return watch.result(len(frames), counter.records)


async def kafka(case: dict[str, Any], frames: Sequence[str], bootstrap: str) -> dict[str, float]:
    """From text to the broker's last acknowledgement."""
    backend = BACKENDS[case["rival_channel"]](bootstrap_servers=bootstrap)
    handle = feed_of(case, backend).message_handler
    backend.start(asyncio.get_running_loop())
    while not backend.running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    with Stopwatch() as watch:
        for frame in frames:
            await handle(frame, None, time.time())
        await backend.queue.join()
    await backend.producer.stop()
    return watch.result(len(frames), len(frames))


async def socket(case: dict[str, Any]) -> dict[str, float]:
    """From a socket to objects."""
    counter = Counter(case["records"])
    connection, subscribe, handler, authenticate = feed_of(case, counter).connect()[0]
    connection.address = case["url"]
    running = ConnectionHandler(connection, subscribe, handler, authenticate, 0)
    running.start(asyncio.get_running_loop())
    await counter.done.wait()
    running.running = False
    await connection.close()
    return counter.watch.result(case["frames"], counter.records)


def main() -> None:
    """Run what the command line names."""
    kind, path, bootstrap = sys.argv[1:]
    with open(path) as file:
        case = json.load(file)
    uvloop.install()
    if kind == "socket":
        result = asyncio.run(socket(case))
    else:
        frames = [frame.decode() for frame in frames_of(case | {"path": case["rival_path"]})]
        limited = frames[: case["rival_kafka_frames"]]
        result = asyncio.run(handlers(case, frames) if kind == "handlers" else kafka(case, limited, bootstrap))
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
