"""What is demanded of a stream, channel by channel, by name and as a whole, against an exchange on loopback."""

import asyncio
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.collector import runner as running
from producers.collector.streams import StreamRunner
from producers.contract import ALL, BOOKS, TRADES, Feed, Rate
from producers.protocols.binance_futures import FEEDS_PER_CONNECTION
from producers.routing import Wants
from producers.tape import Seen
from ravencore.records import Gap, Instrument
from tests.producers.test_streams import (
    COLD,
    HOT,
    Exchange,
    Kept,
    ListsOne,
    OneRouteEach,
    Unpaced,
    collecting,
    ids,
    run,
    trade,
    until,
    wants,
)

SPELLED = {TRADES: "aggTrade", BOOKS: "depth20@100ms"}
AWAY_BEFORE = "the collector was away"
SEEN = {Feed(TRADES, symbol): {symbol: Seen(0, 1)} for symbol in (HOT, COLD)}


class Market(OneRouteEach):
    """All of it or nothing, in two channels."""

    scope = "market"


class ManyFeeds(ListsOne):
    """As many on a connection as of Binance's futures."""

    limits = replace(Unpaced.limits, feeds_per_connection=FEEDS_PER_CONNECTION, feeds_per_message=100)


def streams(wanted: Wants) -> set[str]:
    return {f"{symbol.lower()}@{SPELLED[channel]}" for symbol, some in wanted.items() for channel in some}


def lines(runner: StreamRunner) -> dict[str, str]:
    return {f"{one.channel} {one.symbol}": one.state for one in runner.subscriptions()}


async def becomes(exchange: Exchange, runner: StreamRunner, subscribed: set[str], told: set[str]) -> None:
    await until(lambda: exchange.streams == subscribed, f"{subscribed} are subscribed, and no others")
    await until(lambda: set(lines(runner)) == told, f"{told} are told, and no others")


def gaps(kept: Kept) -> list[Gap]:
    return [record for record in kept.records if isinstance(record, Gap)]


def breaks(kept: Kept, symbol: str) -> list[str | None]:
    """Of its trades."""
    return [gap.detail for gap in gaps(kept) if (gap.channel, gap.symbol) == (TRADES, symbol)]


def test_only_the_channels_that_are_demanded_begin_and_end() -> None:
    async def test() -> None:
        exchange = Exchange(HOT)
        async with collecting(exchange, OneRouteEach(), SEEN) as (runner, kept):
            runner.demand(wants(HOT, channels=[TRADES]))
            assert lines(runner) == {f"trades {HOT}": "WAITING"}
            await until(lambda: exchange.streams == {"hotusdt@aggTrade"}, "trades are subscribed")
            socket = exchange.socket_of("hotusdt@aggTrade")
            await socket.send_str(trade(HOT, 1))
            await until(lambda: ids(kept, HOT) == [1], "they flow")
            asked = len(exchange.asked)
            runner.demand(wants(HOT))
            assert lines(runner) == {f"trades {HOT}": "FLOWING", f"books {HOT}": "WAITING"}
            await until(lambda: len(exchange.streams) == 2, "books as well")
            assert len(exchange.asked) == asked  # what flows is listed
            await socket.send_str(trade(HOT, 2))
            runner.demand(wants(HOT, channels=[TRADES]))
            await until(lambda: exchange.streams == {"hotusdt@aggTrade"}, "books are ended")
            await until(lambda: set(lines(runner)) == {f"trades {HOT}"}, "and told no more")
            await socket.send_str(trade(HOT, 3))
            await until(lambda: ids(kept, HOT) == [1, 2, 3], "trades go on")
            assert exchange.socket_of("hotusdt@aggTrade") is socket
            assert exchange.taken_up["hotusdt@aggTrade"] == 1
            assert breaks(kept, HOT) == [AWAY_BEFORE]

    run(test())


def test_a_channel_that_is_not_demanded_is_not_refused() -> None:
    async def test() -> None:
        async with collecting(Exchange(), OneRouteEach()) as (runner, kept):
            runner.demand(wants(HOT, channels=[TRADES]))
            await until(lambda: lines(runner) == {f"trades {HOT}": "REFUSED"}, "it is refused")
            assert [gap.channel for gap in gaps(kept)] == [TRADES]
            runner.demand(wants(HOT))
            await until(lambda: len(gaps(kept)) == 2, "books are refused as well")
            runner.demand(wants(HOT, channels=[BOOKS]))
            assert [(gap.channel, gap.cause) for gap in gaps(kept)] == [
                (channel, "REFUSED") for channel in (TRADES, BOOKS, TRADES)
            ]
            assert lines(runner) == {f"books {HOT}": "REFUSED"}

    run(test())


def test_a_market_is_collected_in_the_channels_that_are_demanded() -> None:
    async def test() -> None:
        exchange = Exchange(HOT, COLD)
        async with collecting(exchange, Market()) as (runner, _):
            for channels in ([BOOKS], [BOOKS, TRADES], [TRADES]):
                runner.demand(wants(ALL, channels=channels))
                subscribed = streams(wants(HOT, COLD, channels=channels))
                await becomes(exchange, runner, subscribed, {f"{channel} {ALL}" for channel in channels})
            assert set(exchange.taken_up.values()) == {1}

    run(test())


def test_every_symbol_beside_some_by_name_and_neither_touches_the_other() -> None:
    async def test() -> None:
        exchange = Exchange(HOT, COLD, "OLDUSDT")
        exchange.broken.add("OLDUSDT")
        async with collecting(exchange, OneRouteEach(), SEEN) as (runner, kept):
            named, every = wants(HOT), wants(ALL, channels=[TRADES])
            runner.demand(wants(HOT, channels=[TRADES]))
            await until(lambda: exchange.streams == {"hotusdt@aggTrade"}, "the name is subscribed")
            runner.demand(every)
            assert runner._held == {Feed(TRADES, HOT)}  # whether it is one of all is not known yet
            assert lines(runner) == {f"trades {HOT}": "SUBSCRIBED", f"trades {ALL}": "WAITING"}
            runner.demand({**named, **every})
            both = streams(wants(HOT)) | streams(wants(COLD, channels=[TRADES]))
            await until(lambda: exchange.streams == both, "what trades is subscribed, and the name's books")
            assert {one.symbol for one in kept.records if isinstance(one, Instrument)} == {HOT, COLD, "OLDUSDT"}
            await exchange.socket_of("hotusdt@aggTrade").send_str(trade(HOT, 1))
            told = {f"trades {HOT}": "FLOWING", f"books {HOT}": "SUBSCRIBED", f"trades {ALL}": "FLOWING"}
            await until(lambda: lines(runner) == told, "one line for all, and the name's own")
            runner.demand(named)
            await until(lambda: exchange.streams == streams(named), "the others are ended")
            await until(lambda: set(lines(runner)) == {f"trades {HOT}", f"books {HOT}"}, "and told no more")
            runner.demand({**named, **every})
            await until(lambda: exchange.streams == both, "they are back")
            runner.demand(every)
            await until(lambda: exchange.streams == streams(wants(HOT, COLD, channels=[TRADES])), "the name is gone")
            await until(lambda: set(lines(runner)) == {f"trades {ALL}"}, "and told no more")
            runner.demand(wants(HOT, channels=[TRADES]))  # from the one to the other at once
            await until(lambda: exchange.streams == {"hotusdt@aggTrade"}, "the name is left")
            runner.demand(every)
            await until(lambda: len(exchange.streams) == 2, "and all again")
            assert exchange.taken_up["hotusdt@aggTrade"] == 1
            assert breaks(kept, HOT) == [AWAY_BEFORE]

    run(test())


def test_what_is_listed_anew_begins_and_what_is_delisted_ends_unless_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(running, "RELIST_S", 0.05)
    monkeypatch.setattr(running, "LISTING_FRESH_S", 0.01)

    async def test() -> None:
        exchange = Exchange("AUSDT", "BUSDT", HOT)
        async with collecting(exchange, OneRouteEach()) as (runner, _):
            runner.demand({**wants(ALL, channels=[TRADES]), **wants(HOT, channels=[TRADES])})
            await until(lambda: len(exchange.streams) == 3, "all are subscribed")
            exchange.symbols = ["BUSDT", "CUSDT"]
            left = streams(wants("BUSDT", "CUSDT", HOT, channels=[TRADES]))
            await until(lambda: exchange.streams == left, "one has come, one is gone, and the named one stays")
            assert max(exchange.taken_up.values()) == 1

    run(test())


def test_hundreds_of_symbols_take_the_connections_that_their_limits_ask_for() -> None:
    async def test() -> None:
        exchange = Exchange(*(f"S{number}USDT" for number in range(600)))
        async with collecting(exchange, ManyFeeds()) as (runner, _):
            runner.demand(wants(ALL))
            await until(lambda: len(exchange.streams) == 1200, "all are subscribed")
            assert sorted(map(len, exchange.sockets.values())) == [FEEDS_PER_CONNECTION] * 6
            assert exchange.queries == [""]
            await until(lambda: lines(runner) == {"trades *": "SUBSCRIBED", "books *": "SUBSCRIBED"}, "shown")
            runner.demand({})
            assert set(lines(runner)) == {"trades *", "books *"}  # until the exchange has ended them
            await until(lambda: not exchange.sockets, "all connections are closed")
            await until(lambda: not lines(runner), "nothing is shown")
            await until(lambda: not runner._pulse._awaited.is_set(), "and nobody waits for the time to go on")
            runner.demand(wants("S1USDT"))
            await until(lambda: exchange.streams == streams(wants("S1USDT")), "until something is demanded")

    run(test())


class Slow(OneRouteEach):
    """A connection for each feed, and few a second."""

    limits = replace(Unpaced.limits, feeds_per_connection=1, connects=Rate(1, 0.2))


def test_connections_that_are_not_wanted_any_more_hold_up_no_others() -> None:
    async def test() -> None:
        symbols = [f"S{number}USDT" for number in range(50)]
        exchange = Exchange(HOT, *symbols)
        async with collecting(exchange, Slow()) as (runner, _):
            runner.demand(wants(*symbols))
            await until(lambda: exchange.attempts == 2, "a few connect, and the others wait")
            runner.demand(wants(HOT))
            await until(lambda: exchange.streams == streams(wants(HOT)), "what is wanted now is subscribed")
            assert exchange.attempts < 10

    run(test())


CHANNELS = st.sets(st.sampled_from([TRADES, BOOKS]), min_size=1).map(frozenset)
WANTS = st.dictionaries(st.sampled_from([HOT, COLD, ALL]), CHANNELS)


@settings(max_examples=12, deadline=None)
@given(st.lists(WANTS, min_size=1, max_size=6))
def test_whatever_was_demanded_before_what_is_demanded_now_is_subscribed(demands: list[Wants]) -> None:
    def comes_to(wanted: Wants) -> set[str]:
        every = wants(HOT, COLD, channels=wanted.get(ALL, ()))
        return streams(every) | streams({symbol: some for symbol, some in wanted.items() if symbol != ALL})

    def shown(wanted: Wants) -> set[str]:
        return {f"{channel} {symbol}" for symbol, some in wanted.items() for channel in some}

    async def test() -> None:
        exchange = Exchange(HOT, COLD)
        async with collecting(exchange, OneRouteEach()) as (runner, _):
            for number, wanted in enumerate(demands):
                runner.demand(wanted)
                assert set(lines(runner)) >= shown(wanted)
                await asyncio.sleep(0.02 * (number % 2))
            await becomes(exchange, runner, comes_to(demands[-1]), shown(demands[-1]))

    run(test())
