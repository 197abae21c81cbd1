"""Deribit, Kraken and Coinbase over real sockets: what is issued arrives, each record once, faults counted exactly."""

import asyncio
import contextlib
import json
from collections import Counter
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from producers.contract import BadFrame, Feed, Receipt, Stream
from ravencore.records import MarketRecord, Trade
from simulator.contract import Dialect
from simulator.dialects.coinbase import Coinbase
from simulator.dialects.deribit import Deribit
from simulator.dialects.kraken import Kraken
from simulator.events import Option
from simulator.faults import parse_spec
from simulator.ledger import Ids
from simulator.registry import Plan, synthetic_market
from simulator.server.service import Server
from simulator.server.settings import Settings
from simulator.synthetic import EPOCH_NS
from tests.simulator.played import source

PATIENCE_SECONDS = 60.0
SECOND_NS = 10**9
LATER = Receipt(2**52)
SYMBOLS = {"KRAKEN": ("BTC/USD", "ETH/USD"), "COINBASE": ("BTC-USD", "ETH-USD")}


def served(dialect: Dialect, seconds: int, spec: str = "", feeds: list[str] | None = None) -> Server:
    market = synthetic_market(dialect, Plan(("BTC/USD", "ETH/USD"), 3, 0, seconds * SECOND_NS, EPOCH_NS))
    settings = Settings(None, 3, parse_spec(spec), seconds * SECOND_NS, feeds=feeds)
    return Server([(dialect, market)], settings)


class Client:
    """Subscribes as a collector does, and notes what its reader makes of every message."""

    def __init__(self, reader: Stream, feeds: list[Feed]) -> None:
        self.reader = reader
        self.feeds = feeds
        self.records: Counter[tuple[str, str, int | None]] = Counter()
        self.ids: dict[str, Ids] = {}
        self.unreadable = 0
        self.cuts = 0

    async def follow(self, server: Server) -> None:
        """Until the end of the playback, connecting anew after each cut."""
        url = server.environment()[f"RAVEN_VENUES__{self.reader.venue}__WS_URL"]
        while True:
            try:
                async with connect(url, max_size=None, compression=None, close_timeout=0.2) as client:
                    await self.subscribe(client)
                    return await self.read(client, server)
            except ConnectionClosed:
                self.cuts += 1

    async def subscribe(self, client: ClientConnection) -> None:
        if (greeting := self.reader.greeting(1)) is not None:
            await self.say(client, greeting)
        left = list(self.feeds)
        while left:
            together = list(self.reader.one_message(left[: self.reader.limits.feeds_per_message]))
            await self.say(client, self.reader.subscribe(together, 2))
            left = [feed for feed in left if feed not in together]

    async def say(self, client: ClientConnection, message: str) -> None:
        """An address has a budget of messages over all its connections: each keeps to the pace of it."""
        await client.send(message)
        budget = self.reader.limits.messages
        await asyncio.sleep(budget.seconds / budget.amount)

    async def read(self, client: ClientConnection, server: Server) -> None:
        while server.player.state != "done":
            await self.note_one(client)
        fence = asyncio.ensure_future(await client.ping())
        while not fence.done():
            await self.note_one(client)
        while await self.note_one(client):
            pass

    async def note_one(self, client: ClientConnection) -> bool:
        with contextlib.suppress(TimeoutError):
            message = await asyncio.wait_for(client.recv(), 0.1)
            self.note(message.encode() if isinstance(message, str) else message)
            return True
        return False

    def note(self, message: bytes) -> None:
        try:
            events = self.reader.parse(message, LATER)
        except BadFrame:
            self.unreadable += 1
            return
        for event in events:
            if isinstance(event, Trade):
                self.ids.setdefault(event.symbol, Ids()).add(event.sequence or 0)
            if isinstance(event, MarketRecord):
                self.records[type(event).__name__, event.symbol, event.event_time] += 1


def client_of(venue: str, channels: tuple[str, ...]) -> Client:
    reader = source(venue)
    return Client(reader, [reader.feed(channel, symbol) for channel in channels for symbol in SYMBOLS[venue]])


@pytest.mark.parametrize("dialect", [Kraken(), Coinbase()], ids=["KRAKEN", "COINBASE"])
async def test_every_record_arrives_once(dialect: Dialect) -> None:
    async with served(type(dialect)(), 20) as server:
        client = client_of(dialect.venue, ("quotes", "trades"))
        await asyncio.wait_for(client.follow(server), PATIENCE_SECONDS)
        ledger = server.venues[dialect.venue].exchange.ledger
    assert client.unreadable == client.cuts == 0
    for symbol in SYMBOLS[dialect.venue]:
        issued = ledger.symbols[symbol].issued
        assert client.ids[symbol].count == client.ids[symbol].unique == issued.count > 100
        assert (client.ids[symbol].first, client.ids[symbol].last) == (issued.first, issued.last)
        quotes = {key: count for key, count in client.records.items() if key[:2] == ("Quote", symbol)}
        assert set(quotes.values()) == {1}
        assert len(quotes) == ledger.feeds["quotes"][symbol].issued > 50


@pytest.mark.parametrize("dialect", [Kraken(), Coinbase()], ids=["KRAKEN", "COINBASE"])
async def test_what_an_observer_counts_is_what_was_injected(dialect: Dialect) -> None:
    # Snapshots after a cut would repair gaps, as the venues' do: here there is no cut.
    async with served(type(dialect)(), 60, "gap=0.01,duplicate=0.01,reorder=0.01,garbage=0.02") as server:
        client = client_of(dialect.venue, ("quotes", "trades"))
        await asyncio.wait_for(client.follow(server), PATIENCE_SECONDS)
        stats: dict[str, Any] = server.pages.stats()["venues"][dialect.venue]
    seen = {
        "gaps": sum(len(ids.holes) for ids in client.ids.values()),
        "gap_trades": sum(ids.missing for ids in client.ids.values()),
        "duplicates": sum(ids.duplicates for ids in client.ids.values()),
        "dead_letters": client.unreadable,
    }
    assert seen == stats["observable"]
    assert seen["gaps"] == stats["injected"]["gap"] > 0 < stats["injected"]["garbage"] == seen["dead_letters"]


@pytest.mark.parametrize("dialect", [Kraken(), Coinbase()], ids=["KRAKEN", "COINBASE"])
async def test_a_snapshot_fills_the_hole_that_a_cut_tears(dialect: Dialect) -> None:
    async with served(type(dialect)(), 40, "cut=2") as server:
        client = client_of(dialect.venue, ("quotes", "trades"))
        await asyncio.wait_for(client.follow(server), PATIENCE_SECONDS)
        ledger = server.venues[dialect.venue].exchange.ledger
    assert client.cuts == ledger.injected["cut"] == 2
    for symbol in SYMBOLS[dialect.venue]:
        assert client.ids[symbol].unique == ledger.symbols[symbol].issued.unique
        assert client.ids[symbol].duplicates > 0


async def test_every_option_index_and_trade_arrives_once() -> None:
    names = ["DERIBIT_OPTIONS", "DERIBIT_TRADES", "DERIBIT_INDEX"]
    async with served(Deribit(), 20, feeds=names) as server:
        listed = [row.symbol for row in server.venues["DERIBIT"].market.instruments.values() if isinstance(row, Option)]
        clients = [
            Client(source(names[0]), [source(names[0]).feed("option_tickers", symbol) for symbol in listed]),
            Client(source(names[1]), list(source(names[1]).market_feeds((), ["BTC"]))),
            Client(source(names[2]), list(source(names[2]).market_feeds((), ["BTC"]))),
        ]
        following = asyncio.gather(*(client.follow(server) for client in clients))
        await asyncio.wait_for(following, PATIENCE_SECONDS)
        ledger = server.venues["DERIBIT"].exchange.ledger
    options, trades, indices = clients
    assert not any(client.unreadable or client.cuts for client in clients)
    assert set(options.records.values()) == set(indices.records.values()) == {1}
    told = Counter(symbol for _, symbol, _ in options.records)
    assert told == {symbol: feed.issued for symbol, feed in ledger.feeds["option_tickers"].items()}
    assert len(told) == len(listed)
    assert len(indices.records) == 40
    assert {symbol: ids.count for symbol, ids in trades.ids.items()} == {
        symbol: entry.issued.count for symbol, entry in ledger.symbols.items() if symbol in listed
    }
    assert sum(ids.count for ids in trades.ids.values()) > 20


async def test_a_deribit_session_without_credits_is_told_so_and_closed() -> None:
    async with served(Deribit(), 5) as server:
        url = server.environment()["RAVEN_VENUES__DERIBIT__WS_URL"]
        async with connect(url) as client:
            for number in range(200):
                await client.send(json.dumps({"jsonrpc": "2.0", "id": number, "method": "public/test", "params": {}}))
            replies: list[Any] = []
            with pytest.raises(ConnectionClosed) as closed:
                await asyncio.wait_for(gather(client, replies), PATIENCE_SECONDS)
    assert replies[-1]["error"] == {"code": 10028, "message": "too_many_requests"}
    assert all("result" in reply for reply in replies[:-1])
    assert closed.value.rcvd is not None
    assert closed.value.rcvd.reason == "too_many_requests"


async def gather(client: ClientConnection, replies: list[Any]) -> None:
    """Until the connection ends."""
    while True:
        replies.append(json.loads(await client.recv()))
