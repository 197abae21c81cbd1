"""Connections that are replaced, doubted, left alone and given up, against an exchange on loopback."""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from producers import session
from producers.collector import breaker, link, streams
from producers.collector.breaker import Breaker
from producers.contract import BOOKS, TRADES, Feed
from producers.pace import Patience
from producers.tape import Seen
from ravencore.records import Book, Gap, Trade
from tests.producers.test_streams import (
    HOT,
    Exchange,
    Kept,
    OneEach,
    OneRouteEach,
    collecting,
    ids,
    run,
    trade,
    until,
    wants,
)

SEEN = {Feed(TRADES, HOT): {HOT: Seen(0, 1)}}


def book(number: int) -> str:
    now_ms = time.time_ns() // 1_000_000
    data = {"e": "depthUpdate", "E": now_ms, "T": now_ms, "s": HOT, "U": number, "u": number, "pu": number - 1}
    levels = {"b": [["1.5", str(number)]], "a": [["2.5", "1"]]}
    return json.dumps({"stream": f"{HOT.lower()}@depth20@100ms", "data": data | levels})


class Busy:
    """Says trades and books, numbered from 1, to everybody who listens, until told to stop."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.number = 0
        self.silent: set[str] = set()
        """Streams that are acknowledged and not delivered."""
        self.behind: dict[web.WebSocketResponse, deque[str]] = {}
        """What these sockets are still to be sent."""
        self.most_late = 200

    async def talk(self) -> None:
        while True:
            self.number += 1
            for frame in (trade(HOT, self.number), book(self.number)):
                stream = json.loads(frame)["stream"]
                for socket, subscribed in list(self.exchange.sockets.items()):
                    if stream in subscribed and stream not in self.silent:
                        await self.send(socket, frame)
            await asyncio.sleep(0.005)

    async def send(self, socket: web.WebSocketResponse, frame: str) -> None:
        late = self.behind.get(socket, deque())
        late.append(frame)
        while len(late) > (self.most_late if socket in self.behind else 0):
            with contextlib.suppress(ConnectionError):
                await socket.send_str(late.popleft())


@contextlib.asynccontextmanager
async def talking(exchange: Exchange) -> AsyncIterator[Busy]:
    busy = Busy(exchange)
    task = asyncio.create_task(busy.talk())
    yield busy
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def books(kept: Kept) -> list[int | None]:
    return [record.sequence for record in kept.records if isinstance(record, Book)]


def breaks(kept: Kept) -> list[str]:
    return [record.cause for record in kept.records if isinstance(record, Gap)]


def test_connections_are_replaced_again_and_again_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "YOUNG_S", 0.0)
    monkeypatch.setattr(streams, "OVERLAP_S", 0.1)

    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneRouteEach(), SEEN, life_s=0.5) as (runner, kept), talking(exchange) as busy:
            runner.demand(wants(HOT))
            await until(lambda: exchange.attempts >= 8, "four connections on each of the routes")
            last = busy.number
            await until(lambda: last in ids(kept, HOT) and last in books(kept), "the newest came")
            assert len(exchange.sockets) <= 4
            assert {line.state for line in runner.subscriptions()} == {"FLOWING"}
            assert runner.counters["reconnects"] == 0
        for numbers in (ids(kept, HOT), books(kept)):
            told = [number for number in numbers if number is not None and number <= last]
            assert told == list(range(told[0], last + 1))
        assert breaks(kept) == ["DISCONNECT"]  # it was away before; no other

    run(test())


def test_an_heir_waits_for_an_old_connection_that_is_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "YOUNG_S", 0.0)
    monkeypatch.setattr(streams, "OVERLAP_S", 1.0)
    monkeypatch.setattr(link, "MOST_AHEAD", 20)
    monkeypatch.setattr(link, "FRAMES_AT_A_TIME", 4)

    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneEach(), SEEN) as (runner, kept), talking(exchange) as busy:
            runner.demand(wants(HOT))
            await until(lambda: ids(kept, HOT) and books(kept), "both flow")
            old = exchange.socket_of("hotusdt@depth20@100ms")
            busy.behind[old] = deque()
            await until(lambda: len(busy.behind[old]) == busy.most_late, "the old connection is late")
            await old.send_str('{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}')
            await until(lambda: [one for one in runner._links if one.leads], "the heir is far ahead")
            [heir] = [one for one in runner._links if one.leads]
            seen = busy.number
            await until(lambda: busy.number > seen + 100, "much more is printed")
            assert 20 <= heir.session.lead < 20 + 4
            assert old in exchange.sockets
            busy.most_late = 0
            await until(lambda: old not in exchange.sockets, "the old connection is given up")
            last = busy.number
            await until(lambda: last in books(kept), "the newest came")
        told = [number for number in books(kept) if number is not None]
        assert told == list(range(told[0], told[0] + len(told)))
        assert breaks(kept) == ["DISCONNECT"]  # it was away before; no other

    run(test())


def test_a_farewell_is_answered_with_another_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "YOUNG_S", 0.0)
    monkeypatch.setattr(streams, "OVERLAP_S", 0.1)

    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneEach(), SEEN) as (runner, kept), talking(exchange):
            runner.demand(wants(HOT))
            await until(lambda: ids(kept, HOT) and books(kept), "both flow")
            old = exchange.socket_of("hotusdt@aggTrade")
            await old.send_str('{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}')
            await until(lambda: old not in exchange.sockets, "the old connection is given up")
            before = len(ids(kept, HOT))
            await until(lambda: len(ids(kept, HOT)) > before, "the new one goes on")
        told = ids(kept, HOT)
        assert told[0] is not None
        assert told == list(range(told[0], told[0] + len(told)))
        assert breaks(kept) == ["DISCONNECT"]

    run(test())


def test_a_feed_that_stays_silent_is_had_over_another_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Patience, "seconds", 0.5)
    monkeypatch.setattr(session, "LOOK_SECONDS", 0.05)

    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneRouteEach(), SEEN) as (runner, kept), talking(exchange) as busy:
            runner.demand(wants(HOT))
            await until(lambda: len(books(kept)) > 5, "books flow")
            busy.silent.add("hotusdt@depth20@100ms")
            first = exchange.socket_of("hotusdt@depth20@100ms")

            def moved() -> bool:
                listening = [socket for socket, heard in exchange.sockets.items() if "hotusdt@depth20@100ms" in heard]
                return bool(listening) and first not in listening

            await until(moved, "it is subscribed on another connection")
            states = {line.channel: line.state for line in runner.subscriptions()}
            assert states == {"trades": "FLOWING", "books": "SILENT"}
            busy.silent.clear()
            before = len(books(kept))
            await until(lambda: len(books(kept)) > before, "it flows again")
        gaps = [record for record in kept.records if isinstance(record, Gap) and record.channel == BOOKS]
        assert {gap.cause for gap in gaps} == {"SILENCE"}
        assert len({gap.gap_id for gap in gaps}) == 1

    run(test())


def test_what_fails_too_often_is_given_up_until_it_is_demanded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RETRY_CAP_S", 0.01)

    async def test() -> None:
        exchange = Exchange(HOT)
        exchange.closed = True
        async with collecting(exchange, OneRouteEach(), SEEN, failures_allowed=3) as (runner, kept):
            runner.demand(wants(HOT))
            await until(lambda: {line.state for line in runner.subscriptions()} == {"FAILED"}, "both are given up")
            assert exchange.attempts == 6
            assert all("given up after 3 failures in a row" in text for text in runner.away)
            exchange.closed = False
            runner.revive()
            await until(lambda: len(exchange.streams) == 2, "both are subscribed")
            await exchange.socket_of("hotusdt@aggTrade").send_str(trade(HOT, 1))
            await until(lambda: ids(kept, HOT) == [1], "and flow")

    run(test())


class Shutting(Exchange):
    """Accepts every connection, says something of its own, and ends it, until told to serve."""

    shuts = True
    acknowledges = False

    async def _converse(self, request: web.Request) -> web.WebSocketResponse:
        if not self.shuts:
            return await super()._converse(request)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.send_str('{"error":"go away"}')
        if self.acknowledges:
            asked = json.loads((await socket.receive()).data)
            await socket.send_json({"result": None, "id": asked["id"]})
        await socket.close(code=1008, message=b"policy violation")
        return socket


def test_a_venue_that_accepts_connections_and_ends_them_at_once_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RETRY_CAP_S", 0.01)

    async def test() -> None:
        exchange = Shutting(HOT)
        async with collecting(exchange, OneRouteEach(), SEEN, failures_allowed=5) as (runner, kept):
            runner.demand(wants(HOT))
            await until(lambda: {line.state for line in runner.subscriptions()} == {"FAILED"}, "both are given up")
            assert exchange.attempts == 10
            assert all("5 failures in a row" in text and "policy violation" in text for text in runner.away)
            assert len(list(runner._gate.broken)) == 2
            exchange.shuts = False
            monkeypatch.setattr(Breaker, "wait_s", lambda _: 0.0)
            runner.revive()
            await until(lambda: len(exchange.streams) == 2 and not list(runner.away), "both are subscribed")
            await until(lambda: not list(runner._gate.broken), "the venue is trusted again")
            await exchange.socket_of("hotusdt@aggTrade").send_str(trade(HOT, 1))
            await until(lambda: ids(kept, HOT) == [1], "and flow")

    run(test())


def test_what_is_acknowledged_and_then_ended_is_given_up_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "RETRY_FIRST_S", 0.001)

    async def test() -> None:
        exchange = Shutting(HOT)
        exchange.acknowledges = True
        async with collecting(exchange, OneRouteEach(), SEEN, failures_allowed=4) as (runner, _):
            runner.demand(wants(HOT))
            await until(lambda: {line.state for line in runner.subscriptions()} == {"FAILED"}, "both are given up")
            assert exchange.attempts == 8
            assert list(runner._gate.broken) == []

    run(test())


def test_an_error_of_ours_ends_one_connection_and_not_the_collector(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneRouteEach(), SEEN) as (runner, kept):
            runner.demand(wants(HOT))
            await until(lambda: len(exchange.streams) == 2, "both are subscribed")
            parse, failing = OneRouteEach.parse, [True]

            def fails_once(self: OneRouteEach, frame: bytes, receipt: object) -> object:
                if b"@aggTrade" in frame and failing:
                    failing.clear()
                    raise ZeroDivisionError
                return parse(self, frame, receipt)  # type: ignore[arg-type]

            monkeypatch.setattr(OneRouteEach, "parse", fails_once)
            await exchange.socket_of("hotusdt@aggTrade").send_str(trade(HOT, 1))
            await until(lambda: exchange.attempts == 3, "it connects again")
            await until(lambda: len(exchange.streams) == 2, "and subscribes")
            await exchange.socket_of("hotusdt@aggTrade").send_str(trade(HOT, 2))
            await until(lambda: any(isinstance(record, Trade) for record in kept.records), "and goes on")

    run(test())


def test_an_error_of_ours_at_a_tick_is_not_silent_either(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneRouteEach(), SEEN) as (runner, kept):
            runner.demand(wants(HOT))
            await until(lambda: len(exchange.streams) == 2, "both are subscribed")
            tick, failing = session.Session.tick, [True]

            def fails_once(self: session.Session, now: float, now_us: int) -> object:
                if failing:
                    failing.clear()
                    raise ZeroDivisionError
                return tick(self, now, now_us)

            monkeypatch.setattr(session.Session, "tick", fails_once)
            await until(lambda: exchange.attempts == 3, "it connects again")
            await until(lambda: len(exchange.streams) == 2, "and subscribes")
            await exchange.socket_of("hotusdt@aggTrade").send_str(trade(HOT, 1))
            await until(lambda: ids(kept, HOT) == [1], "and goes on")

    run(test())


ROUND = 5
"""The first id that a Telling exchange sends by itself."""


class Telling(Exchange):
    """Tells past trades, but keeps the first who asks waiting until `may_tell`."""

    def __init__(self, *symbols: str) -> None:
        super().__init__(*symbols)
        self.spans: list[range] = []
        self.may_tell = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "fromId" not in request.query:
            return await super().answer(request)
        first = int(request.query["fromId"])
        self.spans.append(range(first, first + int(request.query["limit"])))
        await self.may_tell.wait()
        now_ms = time.time_ns() // 1_000_000
        told = [number for number in self.spans[-1] if number < ROUND]
        past = [{"a": one, "p": "1.5", "q": "1", "f": one, "l": one, "T": now_ms, "m": True} for one in told]
        return web.json_response(past)


def test_what_was_being_asked_for_when_an_error_of_ours_struck_is_asked_for_again() -> None:
    async def test() -> None:
        exchange = Telling(HOT)
        async with collecting(exchange, OneRouteEach(), SEEN) as (runner, kept):
            runner.demand(wants(HOT))
            await until(lambda: "hotusdt@aggTrade" in exchange.streams, "trades are subscribed")
            await exchange.socket_of("hotusdt@aggTrade").send_str(trade(HOT, ROUND))
            await until(lambda: exchange.spans, "what was missed is asked for")
            [asking] = [one.session for one in runner._links if one.session.asking_for]
            tick = asking.tick

            def fails_once(now: float, now_us: int) -> object:
                asking.tick = tick  # type: ignore[method-assign]
                raise ZeroDivisionError

            asking.tick = fails_once  # type: ignore[method-assign,assignment]
            await until(lambda: exchange.attempts == 3, "it connects again")
            exchange.may_tell.set()
            await until(lambda: set(ids(kept, HOT)) == set(range(1, ROUND + 1)), "all came")
            assert exchange.spans[:2] == 2 * [range(1, ROUND)]
            assert len(ids(kept, HOT)) == ROUND

    run(test())


# The breaker


class Steps:
    """A clock that is set by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.sampled_from(["try", "try", "wait"]), st.booleans()), max_size=200))
def test_an_endpoint_that_fails_is_tried_ever_more_rarely(happened: list[tuple[str, bool]]) -> None:
    clock = Steps()
    one = Breaker(clock)
    failures, free_at = 0, 0.0
    for what, works in happened:
        if what == "wait":
            clock.now += 7.0
            continue
        wait_s = one.wait_s()
        assert (wait_s > 0) == (failures >= breaker.FAILURES and clock.now < free_at)
        if wait_s > 0:
            continue
        if works:
            one.worked()
            failures = 0
        else:
            one.failed()
            failures += 1
            pause_s = min(breaker.FIRST_PAUSE_S * 2 ** (failures - breaker.FAILURES), breaker.LONGEST_PAUSE_S)
            free_at = clock.now + pause_s
        assert one.is_open == (failures >= breaker.FAILURES)


def test_only_one_tries_at_a_time() -> None:
    clock = Steps()
    one = Breaker(clock)
    for _ in range(breaker.FAILURES):
        assert one.wait_s() == 0.0
        one.failed()
    assert one.wait_s() == breaker.FIRST_PAUSE_S
    clock.now += breaker.FIRST_PAUSE_S
    assert one.wait_s() == 0.0
    assert one.wait_s() == breaker.TRIAL_S
    one.worked()
    assert one.wait_s() == one.wait_s() == 0.0
