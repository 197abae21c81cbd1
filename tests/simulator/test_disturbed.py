"""Faults of whole connections over real sockets: stalls, mutes, announced closes, limits, and the end of a life."""

import asyncio
import json
import time
from collections.abc import Callable
from itertools import pairwise, takewhile
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from simulator.contract import SimulatorError
from simulator.faults import Action, Intent, Times, parse_spec
from simulator.ledger import Ids
from simulator.server.service import Server
from simulator.server.settings import Settings
from simulator.server.venue import Venue
from tests.simulator.test_server import (
    PATIENCE_SECONDS,
    STREAMS,
    SYMBOLS,
    Observer,
    get,
    ledger,
    socket,
    synthetic,
    until,
)

SPEED = 4.0
SHORT = Times(stall=(0.2, 0.3), limit=(0.2, 0.3), notice=(0.2, 0.3))
TRADES = [f"{symbol.lower()}@trade" for symbol in SYMBOLS]


def disturbed(spec: str = "", seconds: int = 16, **options: Any) -> Server:
    return synthetic(seconds, spec, **{"speed": SPEED, "times": SHORT, **options})


async def disturb(server: Server, kind: str, seconds: float) -> None:
    """Now, or as soon as everything flows."""
    await until(lambda: all(row.delivered.count > 5 for row in trades(server).values()), "it flows")
    server.disturber.disturb(venue(server), Action(kind, None, kind, Intent(kind, seconds=seconds)))


def trades(server: Server) -> Any:
    return venue(server).exchange.ledger.symbols


async def faults(server: Server, kind: str) -> list[Any]:
    _, rows = await get(server, "/sim/faults")
    return [row for row in rows if row["kind"] == kind]


def venue(server: Server) -> Venue:
    return server.venues["BINANCE_SPOT"]


async def next_frame(client: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(client.recv(), PATIENCE_SECONDS))


async def read_out(client: ClientConnection) -> tuple[list[Any], int | None]:
    """All frames that are still to come, and the code that the connection is closed with: None, without a word."""
    frames = []
    try:
        while True:
            frames.append(await next_frame(client))
    except ConnectionClosed as end:
        return frames, end.rcvd.code if end.rcvd is not None else None


async def drain(client: ClientConnection, observer: Observer) -> None:
    """Read all that has come, until nothing more does."""
    while True:
        try:
            observer.note(await asyncio.wait_for(client.recv(), 0.1))
        except TimeoutError:
            return


async def test_a_stall_holds_back_frames_and_pongs_and_then_brings_all_in_order() -> None:
    async with disturbed() as server, socket(server, f"/stream?streams={STREAMS}") as client:
        observer = Observer()
        await disturb(server, "stall", 0.6)
        began = time.monotonic()
        await drain(client, observer)
        assert venue(server).stalled is not None
        pong = await client.ping()
        sent = {symbol: entry.delivered.count for symbol, entry in trades(server).items()}
        assert sent == {symbol: len(ids) for symbol, ids in observer.order.items()}
        await asyncio.wait_for(pong, PATIENCE_SECONDS)
        assert venue(server).stalled is None
        (row,) = await faults(server, "stall")
        assert time.monotonic() - began > 0.5
        assert row["seconds"] == 0.6
        assert set(row["streams"]) == set(STREAMS.split("/"))
        await asyncio.wait_for(observer.read(client, server), PATIENCE_SECONDS)
        assert {symbol: ids.unique for symbol, ids in observer.ids.items()} == {
            symbol: entry.delivered.unique for symbol, entry in trades(server).items()
        }
        assert not any(ids.holes or ids.duplicates for ids in observer.ids.values())
        assert all(order == sorted(order) for order in observer.order.values())
        assert (row["lost"], row["open"]) == ({}, False)


async def test_who_comes_in_a_stall_waits_for_its_end_too() -> None:
    async with disturbed() as server, socket(server, f"/stream?streams={STREAMS}"):
        await disturb(server, "stall", 1.0)
        async with socket(server, f"/ws/{TRADES[0]}") as late:
            assert venue(server).stalled is not None
            assert (await next_frame(late))["s"] == SYMBOLS[0]
            assert venue(server).stalled is None


async def test_a_client_that_leaves_in_a_stall_has_lost_what_was_due_and_the_record_says_what() -> None:
    async with disturbed() as server:
        observer = Observer()
        async with socket(server, f"/stream?streams={STREAMS}") as client:
            await disturb(server, "stall", 1.0)
            await drain(client, observer)
            client.transport.abort()
        await until(lambda: not venue(server).connections, "the server knows")
        await asyncio.wait_for(observer.follow(server), PATIENCE_SECONDS)
        (row,) = await faults(server, "stall")
        lost = {symbol: row["lost"]["trades"].get(symbol, []) for symbol in SYMBOLS}
        missing = {
            symbol: [one for low, high in ids.holes for one in range(low, high + 1)]
            for symbol, ids in observer.ids.items()
        }
        assert lost == missing
        assert sum(map(len, lost.values())) > 5
        _, told = await get(server, "/sim/ledger?venue=BINANCE_SPOT&channel=trades")
        for symbol, rows in told["issued"].items():
            assert {trade_id for trade_id, _ in rows} == set(told["symbols"][symbol]["ids"]) | set(lost[symbol])
            assert [time_us for _, time_us in rows] == sorted(time_us for _, time_us in rows)


async def test_the_market_goes_on_when_a_client_is_gone_at_the_moment_of_its_cut() -> None:
    async with disturbed(seconds=4) as server, socket(server, f"/stream?streams={STREAMS}") as client:
        client.transport.pause_reading()
        await until(lambda: all(row.delivered.count > 5 for row in trades(server).values()), "there is much unread")
        client.transport.abort()
        await asyncio.sleep(0)  # it is closed, and the server has not heard of it
        server.disturber.cut(venue(server))
        await until(lambda: server.player.state == "done", "all is played")


class Muted:
    """A client of two symbols' trades on one connection, of which the first has been muted."""

    def __init__(self, server: Server, client: ClientConnection, cure: str) -> None:
        self.server = server
        self.client = client
        self.cure = cure
        self.ids = {symbol: Ids() for symbol in SYMBOLS}

    async def read_until(self, enough: Callable[[str], bool]) -> None:
        """Read trades until the symbol of one is enough."""
        while True:
            frame = await next_frame(self.client)
            if "t" in frame:
                self.ids[frame["s"]].add(frame["t"])
                if enough(frame["s"]):
                    return

    async def mute(self) -> None:
        await self.read_until(lambda symbol: symbol == "BTCUSDT")
        intent = Intent("mute", channel="trades", cure=self.cure)
        venue(self.server).mute(Action("mute", None, "mute", intent, TRADES[0]))

    async def hears_only_the_other(self) -> None:
        before = self.ids["BTCUSDT"].count
        other = self.ids["ETHUSDT"].count
        missed = trades(self.server)["BTCUSDT"].issued.count
        await self.read_until(lambda _: self.ids["ETHUSDT"].count > other + 15)
        assert trades(self.server)["BTCUSDT"].issued.count > missed
        assert self.ids["BTCUSDT"].count == before

    async def subscribe_anew(self) -> None:
        for method in ("UNSUBSCRIBE", "SUBSCRIBE"):
            await self.client.send(json.dumps({"method": method, "params": [TRADES[0]], "id": 1}))

    async def missing(self) -> list[int]:
        (row,) = await faults(self.server, "mute")
        assert (row["channel"], row["symbol"], row["stream"]) == ("trades", "BTCUSDT", TRADES[0])
        assert (row["ended_by"], row["open"], row["cure"]) == (self.cure, False, self.cure)
        return sorted(row["ids"] + row["lost"].get("trades", {}).get("BTCUSDT", []))


async def test_a_muted_stream_is_cured_by_a_new_subscription_on_its_connection() -> None:
    async with disturbed() as server, socket(server, f"/ws/{'/'.join(TRADES)}") as client:
        muted = Muted(server, client, "resubscribe")
        await muted.mute()
        await drain_backlog(muted)
        await muted.hears_only_the_other()
        await muted.subscribe_anew()
        await muted.read_until(lambda symbol: symbol == "BTCUSDT")
        (row,) = await faults(server, "mute")
        (hole,) = muted.ids["BTCUSDT"].holes
        unheard = set(range(hole[0], hole[1] + 1))
        assert set(await muted.missing()) <= unheard
        # Between the two requests nobody was subscribed: that was the client's own doing.
        away = trades(server)["BTCUSDT"].missed
        assert unheard - set(row["ids"]) == {one for low, high in away.ranges for one in range(low, high + 1)}


async def drain_backlog(muted: Muted) -> None:
    """Read on until a later trade of the other symbol is here: what was sent of this one has come before it."""
    newest = trades(muted.server)["ETHUSDT"].issued.last or 0
    await muted.read_until(lambda _: (muted.ids["ETHUSDT"].last or 0) > newest)


async def test_a_muted_stream_is_cured_only_by_another_connection_on_any_route() -> None:
    async with disturbed() as server, socket(server, f"/ws/{'/'.join(TRADES)}") as client:
        muted = Muted(server, client, "reconnect")
        await muted.mute()
        await drain_backlog(muted)
        await muted.hears_only_the_other()
        await muted.subscribe_anew()
        await muted.hears_only_the_other()
        async with socket(server, f"/ws/{TRADES[0]}", "BINANCE_SPOT~2") as other:
            first = await next_frame(other)
            ids = await muted.missing()
        last = muted.ids["BTCUSDT"].last
        assert last is not None
        away = trades(server)["BTCUSDT"].missed.ranges
        apart = {one for low, high in away for one in range(low, high + 1)}
        assert set(ids) | {one for one in apart if one < first["t"]} == set(range(last + 1, first["t"]))
        assert venue(server).exchange.ledger.injected["mute"] == 1


async def test_a_close_is_announced_and_who_moves_in_time_loses_nothing() -> None:
    async with disturbed() as server, socket(server, f"/stream?streams={'/'.join(TRADES)}") as old:
        await disturb(server, "close", 0.5)
        seen: dict[str, set[int]] = {symbol: set() for symbol in SYMBOLS}
        while (frame := await next_frame(old))["data"].get("e") == "trade":
            seen[frame["data"]["s"]].add(frame["data"]["t"])
        assert frame["data"]["e"] == "serverShutdown"
        told = time.monotonic()
        async with socket(server, f"/stream?streams={'/'.join(TRADES)}") as new:
            rest, code = await read_out(old)
            for frame in rest:
                seen[frame["data"]["s"]].add(frame["data"]["t"])
            assert code == 1001
            assert 0.2 < time.monotonic() - told < 2.0
            for _ in range(300):
                data = (await next_frame(new))["data"]
                seen[data["s"]].add(data["t"])
        for ids in seen.values():
            assert ids == set(range(min(ids), max(ids) + 1))
        (row,) = await faults(server, "close")
        assert row["announced"] is True
        assert (row["lost"], row["open"]) == ({}, False)
        assert set(row["streams"]) == set(TRADES)


async def test_a_limit_cuts_and_then_answers_everything_with_429() -> None:
    async with disturbed() as server, aiohttp.ClientSession() as session:
        async with socket(server, f"/stream?streams={STREAMS}") as client:
            await disturb(server, "limit", 1.2)
            assert (await read_out(client))[1] is None
        with pytest.raises(InvalidStatus) as refused:
            await socket(server, f"/stream?streams={STREAMS}")
        assert refused.value.response.status_code == 429
        assert 1 <= int(refused.value.response.headers["Retry-After"]) <= 2
        async with session.get(f"http://{server.address}/BINANCE_SPOT/api/v3/time") as answer:
            assert (answer.status, answer.headers["Retry-After"]) == (
                429,
                refused.value.response.headers["Retry-After"],
            )
        await until(lambda: venue(server).limited is None, "it is lifted")
        assert (await get(server, "/BINANCE_SPOT/api/v3/time"))[0] == 200
        observer = Observer()
        await asyncio.wait_for(observer.follow(server), PATIENCE_SECONDS)
        (row,) = await faults(server, "limit")
        assert row["refused"] == 2
        first = {symbol: ids.first for symbol, ids in observer.ids.items()}
        for symbol, entry in trades(server).items():
            lost = row["lost"]["trades"][symbol]
            assert lost == list(range(lost[0], (first[symbol] or 0)))
            assert [[lost[0], lost[-1]]] == entry.missed.ranges


async def test_where_frames_are_numbered_a_gap_is_a_hole_in_the_numbers_and_a_reorder_a_late_one() -> None:
    async with synthetic(60, "gap=6,reorder=4", speed=None, venues="COINBASE") as server:
        numbers: list[int] = []
        told = 0
        async with socket(server, "", "COINBASE") as client:
            for channel in ("ticker", "market_trades"):
                request = {"type": "subscribe", "channel": channel, "product_ids": ["BTC-USDT", "ETH-USDT"]}
                await client.send(json.dumps(request))
            while server.player.state != "done" or told < ledger(server, "COINBASE").frames_sent:
                frame = await next_frame(client)
                numbers.append(frame["sequence_num"])
                told += frame["channel"] != "subscriptions"
        seen = Ids()
        for number in numbers:
            seen.add(number)
        injected = server.pages.stats()["injected"]
        assert (injected["gap"], injected["reorder"]) == (6, 4)
        market = server.venues["COINBASE"].market
        ends_ns = market.begins_ns + 60 * 10**9
        frames = takewhile(lambda frame: frame.time_ns < ends_ns, market.frames(None))
        made = sum(frame.stream.startswith(("ticker:", "market_trades:")) for frame in frames)
        assert seen.missing == made - told >= 6
        assert sum(later < earlier for earlier, later in pairwise(numbers)) == 4
        assert seen.duplicates == 0


async def test_every_connection_ends_at_its_age_and_says_so_before() -> None:
    options: dict[str, Any] = {"speed": 1.0, "life_seconds": 0.8, "tick_seconds": 0.02}
    async with disturbed("", **options) as server, socket(server, f"/ws/{'/'.join(TRADES)}") as client:
        opened = time.monotonic()
        while (await next_frame(client))["e"] != "serverShutdown":
            pass
        said = time.monotonic() - opened
        _, code = await read_out(client)
        assert code == 1001
        ended = time.monotonic() - opened
        assert 0.0 < said < said + 0.05 < ended
        (row,) = await faults(server, "life")
        assert set(row["streams"]) == set(TRADES)
        assert server.environment()["RAVEN_COLLECTOR__CONNECTION_LIFE_S"] == "0.4"


async def test_a_spec_puts_every_kind_at_any_speed_but_max() -> None:
    async with disturbed("stall=1,close=1,limit=1,cut=1", 30, speed=6.0) as server:
        observer = Observer()
        while server.player.state != "done":
            try:
                await asyncio.wait_for(observer.follow(server), PATIENCE_SECONDS)
            except InvalidStatus:
                await asyncio.sleep(0.05)
        injected = server.pages.stats()["injected"]
        assert {kind: injected[kind] for kind in ("stall", "close", "limit", "cut")} == dict.fromkeys(
            ("stall", "close", "limit", "cut"), 1
        )
        told = sum(
            row["observable"]["gap_trades"]
            for row in server.pages.stats()["venues"]["BINANCE_SPOT"]["symbols"].values()
        )
        assert observer.counts()["gap_trades"] == told > 0


def test_faults_that_take_time_are_refused_where_there_is_none() -> None:
    for spec in ("stall=1", "gap=1,mute=1", "close=0.1", "limit=1", "chaos"):
        with pytest.raises(SimulatorError, match="speed max"):
            synthetic(20, spec, speed=None)
    with pytest.raises(SimulatorError, match="duration"):
        Server([], Settings(1.0, 1, parse_spec("chaos"), None))
