"""Polls against a server that answers when it is told to."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import ParamSpec

import aiohttp
import pytest
from aiohttp import web

from producers.actions import BadBytes
from producers.collector.gate import Gate
from producers.collector.outlet import Published
from producers.collector.polls import PollRunner
from producers.contract import OPEN_INTEREST, Feed
from producers.venues.binance_futures_oi import BinanceFuturesOi
from ravencore.config import BinanceFuturesSettings
from ravencore.records import Gap, OpenInterest
from ravencore.status import now_us

FEED = Feed(OPEN_INTEREST, "BTCUSDT")
PATIENCE_S = 10.0
P = ParamSpec("P")


class Venue:
    """Open interest of BTCUSDT, at a time and price that a test sets; `open` lets answers out."""

    def __init__(self) -> None:
        self.asked = 0
        self.refuses = self.fails = self.garbled = False
        self.time_ms, self.mark = 1_589_437_530_011, 11_793
        self.open = asyncio.Event()
        self.open.set()

    async def answer(self, request: web.Request) -> web.Response:
        if self.fails:
            return web.Response(status=503)
        if self.refuses or request.query["symbol"] != "BTCUSDT":
            return web.json_response({"code": -1121, "msg": "Invalid symbol."}, status=400)
        interest = request.path.endswith("openInterest")
        self.asked += interest
        await self.open.wait()
        if self.garbled:
            return web.Response(text='{"openInterest')
        if interest:
            return web.json_response({"openInterest": "10659.509", "symbol": "BTCUSDT", "time": self.time_ms})
        return web.json_response({"symbol": "BTCUSDT", "markPrice": f"{self.mark}.5", "time": self.time_ms})


class Kept:
    """Takes records as an Outlet does."""

    blocked = False

    def __init__(self) -> None:
        self.records: list[OpenInterest] = []
        self.gaps: list[Gap] = []
        self.letters: list[BadBytes] = []

    def put(self, venue: str, record: Published) -> None:
        if isinstance(record, BadBytes):
            self.letters.append(record)
        elif isinstance(record, Gap):
            self.gaps.append(record)
        else:
            assert isinstance(record, OpenInterest)
            self.records.append(record)

    async def ready(self) -> None:
        """At once."""


@asynccontextmanager
async def polling(venue: Venue) -> AsyncIterator[tuple[PollRunner, Kept]]:
    app = web.Application()
    app.router.add_get("/{path:.*}", venue.answer)
    server, kept = web.AppRunner(app, shutdown_timeout=1.0), Kept()
    await server.setup()
    await web.TCPSite(server, "127.0.0.1", 0).start()
    source = BinanceFuturesOi()
    source.interval_seconds = 0.05
    endpoints = BinanceFuturesSettings(ws_url="", rest_url=f"http://127.0.0.1:{server.addresses[0][1]}")
    try:
        async with aiohttp.ClientSession() as http, asyncio.TaskGroup() as tasks:
            gate = Gate(source.venue, source.limits, endpoints, http)
            runner = PollRunner(source, gate, kept, look_back=lambda _: {}, tell=print, tasks=tasks)
            yield runner, kept
            await runner.close()
    finally:
        await server.cleanup()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.005)


def in_loop(test: Callable[P, Coroutine[None, None, None]]) -> Callable[P, None]:
    """A test that is a coroutine, run in an event loop of its own."""

    @functools.wraps(test)
    def run(*args: P.args, **more: P.kwargs) -> None:
        asyncio.run(test(*args, **more))

    return run


@in_loop
async def test_what_a_venue_has_told_before_is_told_once() -> None:
    """Its mark price goes on, and the open interest is still that of the same moment."""
    venue = Venue()
    async with polling(venue) as (runner, kept):
        runner.begin(FEED, {})
        await until(lambda: venue.asked == 3)
        venue.mark += 1
        await until(lambda: venue.asked == 6)
        assert len(kept.records) == 1
        venue.time_ms += 1
        await until(lambda: len(kept.records) == 2)
        assert [record.event_time % 1_000_000 for record in kept.records] == [11_000, 12_000]


@in_loop
async def test_an_answer_that_is_on_its_way_when_the_demand_ends_is_published() -> None:
    venue = Venue()
    venue.open.clear()
    async with polling(venue) as (runner, kept):
        runner.begin(FEED, {})
        await until(lambda: venue.asked == 1)
        runner.end(FEED)
        assert list(runner.feeds())
        venue.open.set()
        await until(lambda: not list(runner.feeds()))
        assert len(kept.records) == 1
        assert venue.asked == 1


@in_loop
async def test_a_feed_that_is_wanted_again_flows_when_the_venue_has_answered_again() -> None:
    venue = Venue()
    async with polling(venue) as (runner, _):
        runner.begin(FEED, {})
        await until(lambda: states(runner) == ["FLOWING"])
        venue.refuses = True
        await until(lambda: states(runner) == ["REFUSED"])
        runner.end(FEED)
        await until(lambda: states(runner) == [])
        venue.refuses = False
        venue.open.clear()
        before = venue.asked
        runner.begin(FEED, {})
        assert states(runner) == ["CONNECTING"]
        await until(lambda: venue.asked > before)
        assert states(runner) == ["CONNECTING"]
        venue.open.set()
        await until(lambda: states(runner) == ["FLOWING"])


def states(runner: PollRunner) -> list[str]:
    return [feed.state for feed in runner.feeds()]


@in_loop
async def test_a_feed_that_is_wanted_again_while_it_ends_goes_on() -> None:
    venue = Venue()
    venue.open.clear()
    async with polling(venue) as (runner, _):
        runner.begin(FEED, {})
        await until(lambda: venue.asked == 1)
        runner.end(FEED)
        runner.begin(FEED, {})
        venue.open.set()
        await until(lambda: venue.asked == 3)
        runner.end(FEED)
        await until(lambda: not list(runner.feeds()))


@pytest.mark.parametrize("answers", [0, 1])
@in_loop
async def test_what_the_last_answer_before_the_end_of_a_demand_lacked_is_told(answers: int) -> None:
    venue = Venue()
    async with polling(venue) as (runner, kept):
        venue.garbled = not answers
        runner.begin(FEED, {})
        await until(lambda: len(kept.records) == answers)
        venue.garbled = True
        await until(lambda: kept.letters)
        runner.end(FEED)
        await until(lambda: not list(runner.feeds()))
        (told,) = kept.gaps
        assert (told.cause, told.repair) == ("DISCONNECT", "NONE")
        assert told.detail.startswith("an answer cannot be read: ")


@in_loop
async def test_what_the_venue_lists_no_more_is_forgotten_once_it_has_ended() -> None:
    venue = Venue()
    async with polling(venue) as (runner, kept):
        runner.begin(FEED, {})
        await until(lambda: venue.asked == 2)
        runner.forget({"BTCUSDT", "ETHUSDT"})
        await until(lambda: len(kept.records) == 2)
        assert runner.knows(FEED)
        runner.end(FEED)
        await until(lambda: not list(runner.feeds()))
        runner.forget({"ETHUSDT"})
        assert runner.knows(FEED)
        runner.forget({"BTCUSDT"})
        assert not runner.knows(FEED)


@in_loop
async def test_a_symbol_that_the_venue_does_not_know_is_refused_and_harms_no_other() -> None:
    venue = Venue()
    async with polling(venue) as (runner, kept):
        runner.begin(Feed(OPEN_INTEREST, "NOPEUSDT"), {})
        runner.begin(FEED, {})
        await until(lambda: len(kept.records) == 1 and list(runner.refusals()))
        assert list(runner.refusals()) == ["BINANCE_FUTURES refuses open_interest of NOPEUSDT: Invalid symbol. (-1121)"]
        assert [(feed.symbol, feed.state) for feed in runner.feeds()] == [
            ("NOPEUSDT", "REFUSED"),
            ("BTCUSDT", "FLOWING"),
        ]
        assert [(feed.symbol, feed.state) for feed in runner.subscriptions()] == [("*", "FLOWING")]
        assert list(runner.away) == []


@in_loop
async def test_a_refusal_of_what_has_flowed_is_a_gap_that_ends_with_the_next_record() -> None:
    venue = Venue()
    async with polling(venue) as (runner, kept):
        runner.begin(FEED, {})
        await until(lambda: kept.records)
        venue.refuses = True
        await until(lambda: kept.gaps)
        (told,) = kept.gaps
        assert (told.cause, told.symbol, told.detail) == ("REFUSED", "BTCUSDT", "Invalid symbol. (-1121)")
        assert told.from_time == kept.records[0].received_time <= told.to_time == told.detected_time
        venue.refuses = False
        venue.time_ms += 1
        await until(lambda: len(kept.records) == 2)
        _, ended = kept.gaps
        assert (ended.gap_id, ended.cause) == (told.gap_id, "REFUSED")
        assert (ended.from_time, ended.to_time) == (told.from_time, kept.records[1].received_time)


@in_loop
async def test_a_refusal_from_the_first_is_one_gap_from_the_demand_on() -> None:
    venue = Venue()
    venue.refuses = True
    before_us = now_us()
    async with polling(venue) as (runner, kept):
        runner.begin(FEED, {})
        demanded_us = now_us()
        runner.begin(Feed(OPEN_INTEREST, "NOPEUSDT"), {})
        await until(lambda: len(kept.gaps) == 2)
        venue.refuses = False
        await until(lambda: kept.records)
        told, other, ended = kept.gaps
        assert {told.symbol, other.symbol} == {"BTCUSDT", "NOPEUSDT"}
        assert before_us <= min(told.from_time or 0, other.from_time or 0) <= demanded_us < told.to_time
        assert (ended.symbol, ended.to_time) == ("BTCUSDT", kept.records[0].received_time)
        assert ended.gap_id in {told.gap_id, other.gap_id}


@in_loop
async def test_a_refusal_after_a_failure_is_what_the_gap_tells() -> None:
    venue = Venue()
    async with polling(venue) as (runner, kept):
        runner.begin(FEED, {})
        await until(lambda: kept.records)
        venue.fails = True
        await until(lambda: list(runner.away))
        venue.fails, venue.refuses = False, True
        await until(lambda: kept.gaps)
        assert [(gap.cause, gap.from_time) for gap in kept.gaps] == [("REFUSED", kept.records[0].received_time)]
