"""Streams against an exchange of USDT perpetuals on loopback: shared out over connections, fair, and up to date."""

import asyncio
import functools
import json
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web

from producers.actions import Habits
from producers.collector import runner as running
from producers.collector.gate import Gate, limiter, retry_after
from producers.collector.outlet import Published
from producers.collector.readback import LastSeen
from producers.collector.runner import MANY_SYMBOLS
from producers.collector.streams import StreamRunner
from producers.contract import ALL, BOOKS, KLINES, TRADES, Feed, Get, Rate
from producers.line import LAST_FRAMES_SECONDS
from producers.routing import Wants
from producers.tape import Seen
from producers.venues.binance_futures import BinanceFutures
from producers.venues.binance_futures_klines import BinanceFuturesKlines
from producers.venues.coinbase import Coinbase
from producers.venues.coinbase_books import CoinbaseBooks
from ravencore.config import BinanceFuturesSettings
from ravencore.records import Gap, Instrument, SubscriptionState, Trade
from ravencore.status import now_us

PATIENCE_S = 20.0
HOT, COLD = "HOTUSDT", "COLDUSDT"


class Unpaced:
    """No waiting for budgets, which are not what these tests are about."""

    limits = replace(BinanceFutures.limits, rest=Rate(1e6, 1.0), connects=Rate(1e6, 1.0), messages=Rate(1e6, 1.0))


class Klines(Unpaced, BinanceFuturesKlines):
    limits = replace(Unpaced.limits, feeds_per_connection=50, feeds_per_message=50)


class OneEach(Unpaced, BinanceFutures):
    """A connection for each feed."""

    limits = replace(Unpaced.limits, feeds_per_connection=1)


class ListsOne(Unpaced, BinanceFutures):
    """Asks for each symbol by itself, as Binance spot does."""

    def listing(self, base: str, symbol: str | None) -> Get:
        return Get(f"{base}/fapi/v1/exchangeInfo" + (f"?symbol={symbol}" if symbol else ""))


class Exchange:
    """Lists `symbols`, takes subscriptions, and says what a test sends."""

    def __init__(self, *symbols: str) -> None:
        self.symbols = list(symbols)
        self.busy_answers = 0
        self.attempts = 0
        self.closed = False
        """To WebSockets."""
        self.asked: list[float] = []
        self.queries: list[str] = []
        self.sockets: dict[web.WebSocketResponse, set[str]] = {}
        self.taken_up: Counter[str] = Counter()
        """How often each stream was subscribed to."""
        self.broken: set[str] = set()
        """Symbols that are listed and do not trade."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            self.attempts += 1
            return web.Response(status=503) if self.closed else await self._converse(request)
        self.asked.append(time.monotonic())
        self.queries.append(request.query_string)
        if len(self.asked) <= self.busy_answers:
            return web.json_response(
                {"code": -1003, "msg": "Too many requests"}, status=429, headers={"Retry-After": "1"}
            )
        only = request.query.get("symbol")
        symbols = [listed(symbol, symbol in self.broken) for symbol in self.symbols if only in {None, symbol}]
        return web.json_response({"symbols": symbols})

    async def _converse(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        streams = self.sockets[socket] = set()
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                asked = json.loads(message.data)
                change = streams.update if asked["method"] == "SUBSCRIBE" else streams.difference_update
                change(asked["params"])
                self.taken_up.update(asked["params"] if asked["method"] == "SUBSCRIBE" else ())
                await socket.send_json({"result": None, "id": asked["id"]})
        del self.sockets[socket]
        return socket

    @property
    def streams(self) -> set[str]:
        return set().union(*self.sockets.values())

    def socket_of(self, stream: str) -> web.WebSocketResponse:
        return next(socket for socket, streams in self.sockets.items() if stream in streams)


def listed(symbol: str, broken: bool) -> dict[str, Any]:
    base, status = symbol.removesuffix("USDT"), "SETTLING" if broken else "TRADING"
    kind = {"contractType": "PERPETUAL", "status": status, "onboardDate": 0, "deliveryDate": 4133404800000}
    return {"symbol": symbol, "pair": symbol, "baseAsset": base, "quoteAsset": "USDT", "filters": [], **kind}


class Kept:
    """Takes records as an Outlet does."""

    def __init__(self) -> None:
        self.records: list[Published] = []
        self._ready = asyncio.Event()
        self.free()

    def block(self) -> None:
        self.blocked = True
        self._ready.clear()

    def free(self) -> None:
        self.blocked = False
        self._ready.set()

    def put(self, venue: str, record: Published) -> None:
        assert venue == "BINANCE_FUTURES"
        self.records.append(record)

    async def ready(self) -> None:
        await self._ready.wait()


@asynccontextmanager
async def collecting(
    exchange: Exchange,
    source: Any,
    seen: LastSeen = MappingProxyType({}),
    *,
    look_back: Callable[[Collection[Feed]], LastSeen] | None = None,
    life_s: float = 3600.0,
    failures_allowed: int = 50,
    **more: Any,
) -> AsyncIterator[tuple[StreamRunner, Kept]]:
    app = web.Application()
    app.router.add_get("/{path:.*}", exchange.answer)
    server = web.AppRunner(app, shutdown_timeout=0.1)
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    host = f"127.0.0.1:{server.addresses[0][1]}"
    endpoints = BinanceFuturesSettings(ws_url=f"ws://{host}", rest_url=f"http://{host}", **more)
    kept = Kept()
    async with closing(server), aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
        gate = Gate(source.venue, source.limits, endpoints, http)
        runner = StreamRunner(
            source,
            gate,
            kept,
            look_back=look_back or (lambda _: seen),
            tell=lambda _: None,
            tasks=tasks,
            habits=Habits(),
            life_s=life_s,
            failures_allowed=failures_allowed,
        )
        yield runner, kept
        await runner.close()


@asynccontextmanager
async def closing(server: web.AppRunner) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await server.cleanup()


def wants(*symbols: str, channels: Collection[str] = (TRADES, BOOKS)) -> Wants:
    return dict.fromkeys(symbols, frozenset(channels))


def refused(symbol: str) -> dict[Feed, SubscriptionState]:
    return {Feed(BOOKS, symbol): "REFUSED", Feed(TRADES, symbol): "REFUSED"}


async def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.01)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def test_many_symbols_at_once_are_looked_for_in_one_listing() -> None:
    async def test() -> None:
        symbols = {f"S{number}USDT" for number in range(MANY_SYMBOLS)}
        exchange = Exchange(*symbols)
        async with collecting(exchange, ListsOne()) as (runner, kept):
            runner.demand(wants(*symbols, "NONEUSDT"))
            await until(lambda: len(exchange.streams) == 2 * MANY_SYMBOLS, "all that is listed is subscribed")
            await until(lambda: runner.waiting == refused("NONEUSDT"), "the other one is refused")
            assert exchange.queries == ["", "symbol=NONEUSDT"]
            assert {record.symbol for record in kept.records if isinstance(record, Instrument)} == symbols
            runner.demand(wants(*symbols, "NEWUSDT"))
            await until(lambda: len(exchange.queries) > 2, "one more is asked for by itself")
            assert exchange.queries[2:] == ["symbol=NEWUSDT"]

    run(test())


def test_a_market_is_shared_out_over_as_many_connections_as_it_takes() -> None:
    async def test() -> None:
        exchange = Exchange(*(f"S{number}USDT" for number in range(545)))
        async with collecting(exchange, Klines()) as (runner, kept):
            runner.demand(wants(ALL, channels=[KLINES]))
            await until(lambda: len(exchange.streams) == 545, "all are subscribed")
            assert sorted(map(len, exchange.sockets.values())) == [45, *[50] * 10]
            assert sum(isinstance(record, Instrument) for record in kept.records) == 545
            line = [("klines", ALL, "SUBSCRIBED")]
            await until(
                lambda: [(one.channel, one.symbol, one.state) for one in runner.subscriptions()] == line, "shown"
            )
            runner.demand({})
            await until(lambda: not exchange.sockets, "all connections are closed")
            assert list(runner.subscriptions()) == []

    run(test())


def test_new_listings_are_picked_up_and_delisted_symbols_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RELIST_S", 0.05)
    monkeypatch.setattr(running, "LISTING_FRESH_S", 0.01)

    async def test() -> None:
        exchange = Exchange("AUSDT", "BUSDT")
        async with collecting(exchange, Klines()) as (runner, kept):
            runner.demand(wants(ALL, channels=[KLINES]))
            await until(lambda: exchange.streams == {"ausdt@kline_1m", "busdt@kline_1m"}, "both are subscribed")
            exchange.symbols = ["BUSDT", "CUSDT"]
            await until(lambda: exchange.streams == {"busdt@kline_1m", "cusdt@kline_1m"}, "the new one came")
            published = [record.symbol for record in kept.records if isinstance(record, Instrument)]
            assert published == ["AUSDT", "BUSDT", "CUSDT"]

    run(test())


def test_what_the_venue_has_not_listed_for_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "RELIST_S", 0.05)
    monkeypatch.setattr(running, "LISTING_FRESH_S", 0.01)
    old, new = Feed("klines", "AUSDT"), Feed("klines", "BUSDT")

    async def test() -> None:
        exchange = Exchange("AUSDT", "BUSDT")
        async with collecting(exchange, Klines()) as (runner, _):
            runner.demand(wants(ALL, channels=[KLINES]))
            await until(lambda: len(exchange.streams) == 2, "both are subscribed")
            exchange.symbols = ["BUSDT"]
            await until(lambda: exchange.streams == {"busdt@kline_1m"}, "one is ended")
            assert runner.knows(old)
            (link,) = runner._links
            # As if it had ended long ago.
            await until(lambda: link.session.desk.lines[old].ended_at is not None, "it is seen to have ended")
            link.session.desk.lines[old].ended_at = -LAST_FRAMES_SECONDS
            await until(lambda: old in link.session.desk.ended, "it is put aside")
            monkeypatch.setattr(running, "DELISTED_S", 0.2)
            await until(lambda: not runner.knows(old), "it is forgotten")
            assert runner.knows(new)
            assert runner._gate.published.keys() == runner._listed_at.keys() == {"BUSDT"}
            assert exchange.streams == {"busdt@kline_1m"}

    run(test())


def test_what_the_venue_does_not_list_is_a_gap_for_as_long_as_it_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "LISTING_FRESH_S", 0.0)

    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneRouteEach()) as (runner, kept):

            def gaps() -> list[Gap]:
                return [record for record in kept.records if isinstance(record, Gap) and record.symbol == COLD]

            before_us = now_us()
            runner.demand(wants(HOT, COLD))
            await until(gaps, "it is told")
            runner.demand(wants(HOT, COLD))
            told = gaps()
            assert [(gap.channel, gap.cause) for gap in told] == [("books", "REFUSED"), ("trades", "REFUSED")]
            assert {gap.detail for gap in told} == {"BINANCE_FUTURES refuses COLDUSDT: not listed"}
            assert all(before_us <= (gap.from_time or 0) <= gap.to_time == gap.detected_time for gap in told)
            withdrawn_us = now_us()
            runner.demand(wants(HOT))
            ended = gaps()[2:]
            assert [(gap.gap_id, gap.from_time) for gap in ended] == [(gap.gap_id, gap.from_time) for gap in told]
            assert all(withdrawn_us <= gap.to_time == gap.detected_time for gap in ended)
            exchange.symbols.append(COLD)
            runner.demand(wants(HOT, COLD))
            await until(lambda: "coldusdt@aggTrade" in exchange.streams, "it is collected now")
            assert len(gaps()) == 4
            runner.demand(wants(HOT, "NOPEUSDT"))
            await until(lambda: runner.waiting == refused("NOPEUSDT"), "another is refused")
        ends = [record for record in kept.records if isinstance(record, Gap) and record.symbol == "NOPEUSDT"]
        assert [gap.gap_id for gap in ends[:2]] == [gap.gap_id for gap in ends[2:]]

    run(test())


def test_a_market_that_cannot_be_listed_is_a_gap_of_all_of_it() -> None:
    class Refusing(Klines):
        def refusal(self, status: int, body: bytes) -> str | None:
            return "closed for good"

    async def test() -> None:
        async with collecting(Exchange(HOT), Refusing()) as (runner, kept):
            runner.demand(wants(ALL, channels=[KLINES]))
            await until(lambda: kept.records, "it is told")
            (gap,) = kept.records
            assert isinstance(gap, Gap)
            assert (gap.channel, gap.symbol, gap.cause) == ("klines", ALL, "REFUSED")

    run(test())


def test_a_market_that_is_demanded_again_is_collected_again() -> None:
    async def test() -> None:
        exchange = Exchange("AUSDT")
        async with collecting(exchange, Klines()) as (runner, _):
            for _ in range(2):
                runner.demand(wants(ALL, channels=[KLINES]))
                await until(lambda: exchange.streams == {"ausdt@kline_1m"}, "it is subscribed")
                runner.demand({})
                await until(lambda: not exchange.sockets, "it is ended")

    run(test())


def test_what_is_demanded_during_a_read_back_is_read_back_together() -> None:
    reading, may_end = threading.Event(), threading.Event()
    sought: list[list[str]] = []

    def look_back(feeds: Collection[Feed]) -> LastSeen:
        sought.append(sorted({feed.symbol for feed in feeds}))
        reading.set()
        assert may_end.wait(PATIENCE_S)
        return {Feed(TRADES, symbol): {symbol: Seen(6, 1)} for symbol in symbols}

    symbols = [f"S{number}USDT" for number in range(20)]

    async def test() -> None:
        exchange = Exchange(*symbols)
        async with collecting(exchange, OneRouteEach(), look_back=look_back) as (runner, kept):
            runner.demand(wants(*symbols[:1]))
            await until(reading.is_set, "the first is read back")
            for count in range(2, 21):
                runner.demand(wants(*symbols[:count]))
                await asyncio.sleep(0)
            may_end.set()
            await until(lambda: len(exchange.streams) == 40, "all are subscribed")
            assert sought == [symbols[:1], sorted(symbols[1:])]
            await exchange.socket_of("s7usdt@aggTrade").send_str(trade("S7USDT", 8))
            await until(lambda: ids(kept, "S7USDT") == [8], "it goes on where it stopped")
            (gap,) = [record for record in kept.records if isinstance(record, Gap)]
            assert (gap.from_sequence, gap.to_sequence) == (7, 7)

    run(test())


def test_routes_never_share_a_connection() -> None:
    async def test() -> None:
        exchange = Exchange("AUSDT", "BUSDT")
        async with collecting(exchange, OneRouteEach()) as (runner, _):
            runner.demand(wants("AUSDT", "BUSDT"))
            await until(lambda: len(exchange.streams) == 4, "all are subscribed")
            shared = sorted(
                sorted(stream.partition("@")[2] for stream in streams) for streams in exchange.sockets.values()
            )
            assert shared == [["aggTrade", "aggTrade"], ["depth20@100ms", "depth20@100ms"]]

    run(test())


class OneRouteEach(Unpaced, BinanceFutures):
    limits = replace(Unpaced.limits, feeds_per_connection=100, feeds_per_message=100)


def test_a_feed_that_comes_back_goes_where_there_is_room_and_keeps_its_last_id() -> None:
    async def test() -> None:
        exchange = Exchange("AUSDT", "BUSDT")
        async with collecting(exchange, OneEach()) as (runner, kept):
            runner.demand(wants("AUSDT"))
            await until(lambda: "ausdt@aggTrade" in exchange.streams, "it is subscribed")
            await exchange.socket_of("ausdt@aggTrade").send_str(trade("AUSDT", 7))
            await until(lambda: any(isinstance(record, Trade) for record in kept.records), "the trade came")
            runner.demand({})
            await until(lambda: not exchange.sockets, "it is ended")
            runner.demand(wants("BUSDT"))
            await until(lambda: "busdt@aggTrade" in exchange.streams, "another took its place")
            runner.demand(wants("AUSDT", "BUSDT"))
            await until(lambda: "ausdt@aggTrade" in exchange.streams, "it is back")
            assert max(map(len, exchange.sockets.values())) == 1
            await exchange.socket_of("ausdt@aggTrade").send_str(trade("AUSDT", 9))
            await until(lambda: ids(kept, "AUSDT") == [7, 9], "the next came")
            gap = kept.records[-2]
            assert isinstance(gap, Gap)
            assert (gap.from_sequence, gap.to_sequence, gap.detail) == (8, 8, "not demanded for a time")

    run(test())


def test_a_hot_symbol_holds_up_no_other() -> None:
    """Nothing is taken until three thousand trades of one symbol and a hundred of another lie in their sockets.

    Their last ids are known, so that no first trade is held back for a while, as it is at a cold start.
    """

    async def test() -> None:
        exchange = Exchange(HOT, COLD)
        seen = {Feed(TRADES, symbol): {symbol: Seen(-1, 1)} for symbol in (HOT, COLD)}
        async with collecting(exchange, OneEach(), seen) as (runner, kept):
            runner.demand(wants(HOT, COLD))
            await until(lambda: len(exchange.streams) == 4, "both are subscribed")
            kept.block()
            hot, cold = (exchange.socket_of(f"{symbol.lower()}@aggTrade") for symbol in (HOT, COLD))
            for number in range(3_000):
                await hot.send_str(trade(HOT, number))
            for number in range(100):
                await cold.send_str(trade(COLD, number))
            kept.free()
            await until(lambda: len(ids(kept, HOT)) == 3_000, "all has come")
            assert ids(kept, COLD) == list(range(100))
            order = [record.symbol for record in kept.records if isinstance(record, Trade)]
            assert order[:500].count(COLD) == 100  # a few turns of 64 each; without turns it is 700 to 1,100

    run(test())


def has_come(kept: Kept, count: int) -> bool:
    return len(ids(kept, HOT)) == count


def ids(kept: Kept, symbol: str) -> list[int | None]:
    return [record.sequence for record in kept.records if isinstance(record, Trade) and record.symbol == symbol]


def trade(symbol: str, number: int) -> str:
    now_ms = time.time_ns() // 1_000_000
    data = {"e": "aggTrade", "E": now_ms, "a": number, "s": symbol, "p": "1.5", "q": "2", "T": now_ms, "m": False}
    return json.dumps({"stream": f"{symbol.lower()}@aggTrade", "data": {**data, "f": number, "l": number}})


def test_a_venue_that_is_asked_too_often_is_left_alone_by_all_of_its_sources() -> None:
    async def test() -> None:
        exchange = Exchange("AUSDT")
        exchange.busy_answers = 1
        async with collecting(exchange, OneEach()) as (runner, _):
            runner.demand(wants("AUSDT"))
            await until(lambda: len(exchange.streams) == 2, "it is subscribed in the end")
        assert exchange.asked[1] - exchange.asked[0] >= 1.0

    run(test())


def test_a_budget_lets_through_no_more_than_a_tenth_above_its_rate_in_any_such_time() -> None:
    async def test() -> None:
        bucket = limiter(Rate(20, 0.5))
        times = []
        for _ in range(60):
            await bucket.acquire()
            times.append(time.monotonic())
        assert min(later - earlier for earlier, later in zip(times, times[23:], strict=False)) >= 0.5

    run(test())


def test_how_long_a_busy_venue_wants_to_be_left_alone() -> None:
    assert retry_after(200, {"Retry-After": "7"}) is None
    assert retry_after(429, {"Retry-After": "7"}) == 7.0
    assert retry_after(418, {"Retry-After": "9999999"}) == 3 * 86_400.0
    assert retry_after(429, {"Retry-After": "soon"}) == retry_after(418, {}) == 60.0


def test_every_record_says_its_connection_and_its_frame() -> None:
    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneEach()) as (runner, kept):
            runner.demand(wants(HOT))
            await until(lambda: len(exchange.streams) == 2, "it is subscribed")
            for number in range(2):
                socket = exchange.socket_of("hotusdt@aggTrade")
                for part in (1, 2):
                    await socket.send_str(trade(HOT, 2 * number + part))
                await until(functools.partial(has_come, kept, 2 * number + 2), "they came")
                await socket.close()
                await until(lambda: len(exchange.streams) == 2, "it is back")
        trades = [record for record in kept.records if isinstance(record, Trade)]
        places = [(record.connection_time, record.connection_sequence) for record in trades]
        assert places == sorted(set(places))
        assert len({connection for connection, _ in places}) == 2

    run(test())


def test_after_a_pause_of_the_venues_requests_go_out_one_after_another() -> None:
    """Budgets fill up while nobody may ask."""

    async def test() -> None:
        limits = replace(BinanceFutures.limits, rest=Rate(1, 0.5), connects=Rate(1, 0.5))
        async with aiohttp.ClientSession() as http:
            gate = Gate("BINANCE_FUTURES", limits, None, http)
            gate.heard(429, {"Retry-After": "1"})
            let_through: list[float] = []

            async def connect() -> None:
                await gate.may_connect("ws://exchange")
                let_through.append(time.monotonic())

            began = time.monotonic()
            await asyncio.gather(*(connect() for _ in range(4)))
        assert let_through[0] - began >= 1.0
        assert let_through[-1] - let_through[0] >= 1.0

    run(test())


def test_messages_are_paced_by_connection_or_by_address_as_the_venue_counts_them() -> None:
    async def test() -> None:
        async with aiohttp.ClientSession() as http:
            by_address = Gate("COINBASE", Coinbase.limits, None, http)
            by_connection = Gate("BINANCE_FUTURES", BinanceFutures.limits, None, http)
        assert by_address.messages(Coinbase.limits) is by_address.messages(CoinbaseBooks.limits)
        assert by_connection.messages(BinanceFutures.limits) is not by_connection.messages(BinanceFutures.limits)

    run(test())
