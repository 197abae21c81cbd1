"""Binance on loopback, as cheap as can be: `python -m benchmarks.many_venue PLAN` prints its port once it listens.

PLAN is a many_market.Plan as JSON. Frames are spelt beforehand, and what is due in each TICK_S goes out in one write
for each connection; a time in a frame is that of its write. Beside Binance's own paths:

- /bench/stats: what was sent, and how late the ticks were
- /bench/disturb: from now on cut a connection every `cut_seconds`, and every `hole_seconds` keep HOLE_TRADES of one
  symbol from the sockets; every LOST_HOLE-th such hole is not to be had over REST either
- /bench/calm: no more of that
"""

import asyncio
import gc
import json
import random
import sys
import time
from array import array
from collections.abc import Sequence
from typing import Any, NoReturn

import msgspec
from aiohttp import WSMsgType, web

from benchmarks.feeds import message
from benchmarks.many_market import DIALECTS, FIRST_ID, Coin, Heat, Plan, Turns, coins, zipf
from producers.contract import BOOKS, QUOTES, TRADES

LOOPBACK = "127.0.0.1"
TICK_S = 0.01
HEAT_S = 1.0
MOST_BOOKS_A_SECOND = 10.0
"""Of one symbol: @100ms."""
HOLE_TRADES = 3
LOST_HOLE = 4
UNREAD_BYTES = 256 << 20
"""A client that leaves so much unread is cut off, as it would be by any exchange."""
HISTORY_LIMIT = 1000


class Connection:
    """One client: frames are gathered here and written together."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.frames: list[bytes] = []
        self.transport = transport

    def write(self) -> int:
        """Send what is gathered; how much lies unsent now."""
        if self.frames and not self.transport.is_closing():
            self.transport.write(b"".join(self.frames))
        self.frames.clear()
        unsent = self.transport.get_write_buffer_size()
        if unsent > UNREAD_BYTES:
            self.transport.abort()
        return unsent


class Venue:
    """The market, and who listens to it."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._rng = rng = random.Random(plan.seed)
        self._unit_us = DIALECTS[plan.venue].time_unit_us
        self.coins = list(coins(plan))
        self._by_name = {coin.name: coin for coin in self.coins}
        rates = {
            TRADES: zipf(plan.symbols, plan.trades),
            BOOKS: zipf(plan.symbols, plan.books, MOST_BOOKS_A_SECOND),
            QUOTES: zipf(plan.symbols, plan.quotes),
        }
        channels = list(self.coins[0].streams)
        self._turns = {channel: Turns(rng, rates[channel]) for channel in channels}
        self._hears: dict[str, list[list[Connection]]] = {channel: [[] for _ in self.coins] for channel in channels}
        self._streams = {
            coin.stream_name(channel, kept=plan.kept): self._hears[channel][rank]
            for rank, coin in enumerate(self.coins)
            for channel in channels
        }
        self.connections: list[Connection] = []
        self._withheld: dict[int, int] = {}
        """By rank, how many of the next trades nobody hears."""
        self._late_ms = array("f")
        self._disturbed = False
        self._sent = self._opened = self._unread_most = self._cuts = self._holes = self._lost = 0

    # The market

    async def play(self) -> NoReturn:
        """Print what is due in each tick."""
        heat, factor = Heat(self._rng), 1.0
        began = before = time.monotonic()
        heat_at = cut_at = hole_at = began
        due = began
        while True:
            due = max(due + TICK_S, time.monotonic() - 1.0)
            await asyncio.sleep(due - time.monotonic())
            now = time.monotonic()
            self._late_ms.append((now - due) * 1000)
            if now >= heat_at:
                heat_at, factor = heat_at + HEAT_S, heat.next()
            if not self._disturbed:
                cut_at = hole_at = now
            if now >= cut_at + self.plan.cut_seconds:
                cut_at = now
                self._cut()
            if now >= hole_at + self.plan.hole_seconds:
                hole_at = now
                self._make_hole()
            self._tick(now - before, factor)
            before = now

    def _tick(self, seconds: float, heat: float) -> None:
        now = time.time_ns() // 1000 // self._unit_us
        for channel, turns in self._turns.items():
            # Books come at their own steady pace, however much is traded.
            due = turns.due(seconds, 1.0 if channel == BOOKS else heat)
            hears = self._hears[channel]
            for rank in due:
                self._print(self.coins[rank], rank, channel, hears[rank], now)
        for connection in self.connections:
            self._unread_most = max(self._unread_most, connection.write())

    def _print(self, coin: Coin, rank: int, channel: str, hears: Sequence[Connection], now: int) -> None:
        stream = coin.streams[channel]
        if channel == TRADES:
            coin.times.append(now)
            hears = () if self._withheld and self._withhold(coin, rank) else hears
        if not hears:
            stream.pass_over()
            return
        frame = stream.next(now)
        self._sent += len(hears)
        for connection in hears:
            connection.frames.append(frame)

    # Disturbances

    def _cut(self) -> None:
        if self.connections:
            self._rng.choice(self.connections).transport.abort()
            self._cuts += 1

    def _make_hole(self) -> None:
        rank = self._rng.randrange(len(self.coins))
        self._withheld[rank] = HOLE_TRADES
        self._holes += 1

    def _withhold(self, coin: Coin, rank: int) -> bool:
        left = self._withheld.pop(rank, 0)
        if left > 1:
            self._withheld[rank] = left - 1
        if left and self._holes % LOST_HOLE == 0:
            coin.lost.add(FIRST_ID + len(coin.times) - 1)
            self._lost += 1
        return left > 0

    # Its doors

    def application(self) -> web.Application:
        """All paths."""
        app = web.Application()
        for path in ("/stream", "/public/stream", "/market/stream"):
            app.router.add_get(path, self._listen)
        for base in ("/api/v3", "/fapi/v1"):
            app.router.add_get(f"{base}/exchangeInfo", self._exchange_info)
            app.router.add_get(f"{base}/depth", self._depth)
        for path in ("/api/v3/historicalTrades", "/fapi/v1/aggTrades"):
            app.router.add_get(path, self._history)
        app.router.add_get("/bench/stats", self._stats)
        app.router.add_get("/bench/disturb", self._disturb)
        app.router.add_get("/bench/calm", self._calm)
        return app

    async def _listen(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        connection = Connection(request.transport)
        self.connections.append(connection)
        self._opened += 1
        try:
            async for told in socket:
                if told.type == WSMsgType.TEXT:
                    self._obey(connection, told.json())
        finally:
            self.connections.remove(connection)
            for hears in self._streams.values():
                if connection in hears:
                    hears.remove(connection)
        return socket

    def _obey(self, connection: Connection, request: dict[str, Any]) -> None:
        for name in request["params"]:
            hears = self._streams[name]
            if request["method"] == "SUBSCRIBE":
                hears.append(connection)
            elif connection in hears:
                hears.remove(connection)
        connection.frames.append(message(msgspec.json.encode({"result": None, "id": request["id"]})))

    async def _exchange_info(self, request: web.Request) -> web.Response:
        name = request.query.get("symbol")
        some = [self._by_name[name]] if name else self.coins
        listed = ",".join(DIALECTS[self.plan.venue].listed(coin.name) for coin in some)
        return _json(f'{{"symbols":[{listed}]}}')

    async def _history(self, request: web.Request) -> web.Response:
        coin, limit = self._by_name[request.query["symbol"]], int(request.query["limit"])
        return _json(coin.history(int(request.query["fromId"]), min(limit, HISTORY_LIMIT)))

    async def _depth(self, request: web.Request) -> web.Response:
        last_id, bids, asks = self._by_name[request.query["symbol"]].snapshot(self.plan.levels)
        now = time.time_ns() // 1000 // self._unit_us
        return _json(f'{{"lastUpdateId":{last_id},"E":{now},"T":{now},"bids":[{bids}],"asks":[{asks}]}}')

    async def _stats(self, _request: web.Request) -> web.Response:
        late = sorted(self._late_ms)
        told = {
            "sent": self._sent,
            "issued": sum(len(coin.times) for coin in self.coins),
            "opened": self._opened,
            "cuts": self._cuts,
            "holes": self._holes,
            "lost": self._lost,
            "unread_most_mb": self._unread_most / (1 << 20),
            "late_ms": {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1]},
        }
        return _json(json.dumps(told))

    async def _disturb(self, _request: web.Request) -> web.Response:
        self._disturbed = True
        return _json("{}")

    async def _calm(self, _request: web.Request) -> web.Response:
        self._disturbed = False
        self._withheld.clear()
        return _json("{}")


def _json(text: str) -> web.Response:
    return web.Response(text=text, content_type="application/json")


async def main() -> None:
    """Serve until killed."""
    venue = Venue(Plan(**json.loads(sys.argv[1])))
    # It is dead weight to the collector of garbage, which would look at it all again and again.
    gc.freeze()
    runner = web.AppRunner(venue.application(), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, LOOPBACK, 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await venue.play()


if __name__ == "__main__":
    asyncio.run(main())
