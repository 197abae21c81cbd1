"""Books as the venues tell them: whoever follows the documents' rules, from whenever, has the simulator's own book.

The readers here are slow and obvious on purpose, and share nothing with the simulator or the collectors.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from decimal import Decimal
from itertools import islice
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producers.contract import BookUpdate, HasBooks, Receipt
from simulator.books import DIGESTED_LEVELS, VERIFIED_LEVELS, Digests, digest, plain
from simulator.contract import Dialect, Frame, NumbersFrames, Session, Snapshot
from simulator.dialects.binance_futures import BinanceFutures
from simulator.dialects.binance_spot import BinanceSpot
from simulator.dialects.coinbase import Coinbase
from simulator.dialects.deribit import Deribit
from simulator.dialects.kraken import DEPTHS, Kraken
from simulator.exchange import Exchange
from simulator.faults import Action
from tests.simulator.played import connect, say, source, synthetic

Sides = dict[str, dict[Decimal, Decimal]]
Top = tuple[list[tuple[Decimal, Decimal]], list[tuple[Decimal, Decimal]]]


class Reader:
    """A book as a dictionary per side."""

    def __init__(self) -> None:
        self.sides: Sides = {"bids": {}, "asks": {}}
        self.started = False
        self.key = ""

    def set(self, side: str, price: Any, quantity: Any) -> None:
        self.sides[side][Decimal(str(price))] = Decimal(str(quantity))
        self.sides[side] = {level: left for level, left in self.sides[side].items() if left}

    def top(self, count: int) -> Top:
        bids = sorted(self.sides["bids"].items(), reverse=True)[:count]
        return bids, sorted(self.sides["asks"].items())[:count]

    def follow(self, text: bytes) -> None:
        raise NotImplementedError


class BinanceReader(Reader):
    """github.com/binance/binance-spot-api-docs web-socket-streams.md "How to manage a local order book correctly"."""

    def __init__(self, ask: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self.ask = ask
        self.last = 0
        self.previous: int | None = None

    def start(self, first: int) -> None:
        whole = self.ask()
        assert whole["lastUpdateId"] >= first, "the snapshot is older than the first event"
        for side in ("bids", "asks"):
            for price, quantity in whole[side]:
                self.set(side, price, quantity)
        self.last, self.started = whole["lastUpdateId"], True
        self.key = str(self.last)

    def follow(self, text: bytes) -> None:
        event = json.loads(text)
        if self.previous is not None and "pu" in event:
            assert event["pu"] == self.previous, "pu is the u of the event before"
        self.previous = event["u"]
        if not self.started:
            self.start(event["U"])
        if event["u"] <= self.last:
            return
        assert event["U"] <= self.last + 1, "an event is missing"
        for side, name in (("bids", "b"), ("asks", "a")):
            for price, quantity in event[name]:
                self.set(side, price, quantity)
        self.last = event["u"]
        self.key = str(self.last)


class KrakenReader(Reader):
    """docs.kraken.com guides/websockets/book-checksum-v2, over the texts of the numbers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.depth = depth
        self.texts: dict[tuple[str, Decimal], tuple[str, str]] = {}

    def follow(self, text: bytes) -> None:
        message = json.loads(text, parse_float=str, parse_int=str)
        if message.get("channel") != "book":
            return
        (book,) = message["data"]
        assert message["type"] == ("update" if self.started else "snapshot")
        self.started = True
        for side in ("bids", "asks"):
            for level in book[side]:
                self.set(side, level["price"], level["qty"])
                self.texts[side, Decimal(level["price"])] = level["price"], level["qty"]
        bids, asks = self.top(self.depth)
        self.sides = {"bids": dict(bids), "asks": dict(asks)}
        assert self.checksum() == int(book["checksum"])
        self.key = micros(book["timestamp"])

    def checksum(self) -> int:
        bids, asks = self.top(10)
        told = [self.texts["asks", price] for price, _ in asks] + [self.texts["bids", price] for price, _ in bids]
        return zlib.crc32("".join(re.sub(r"^0+", "", text.replace(".", "")) for pair in told for text in pair).encode())


class CoinbaseReader(Reader):
    """docs.cdp.coinbase.com websocket-channels "Level2 Channel"."""

    number = -1

    def follow(self, text: bytes) -> None:
        message = json.loads(text)
        assert message["sequence_num"] == self.number + 1
        self.number += 1
        if message["channel"] != "l2_data":
            return
        (event,) = message["events"]
        assert event["type"] == ("update" if self.started else "snapshot")
        self.started = True
        for update in event["updates"]:
            side = {"bid": "bids", "offer": "asks"}[update["side"]]
            self.set(side, update["price_level"], update["new_quantity"])
            assert micros(update["event_time"]) == micros(message["timestamp"])
        self.key = micros(message["timestamp"])


class DeribitReader(Reader):
    """docs.deribit.com book.(instrument_name).(interval)."""

    change_id = 0

    def follow(self, text: bytes) -> None:
        message = json.loads(text)
        if message.get("method") != "subscription":
            return
        data = message["params"]["data"]
        assert data["type"] == ("change" if self.started else "snapshot")
        assert data.get("prev_change_id") == (self.change_id if self.started else None)
        self.started, self.change_id = True, data["change_id"]
        for side in ("bids", "asks"):
            for action, price, amount in data[side]:
                there = Decimal(str(price)) in self.sides[side]
                assert there == (action != "new")
                assert (action == "delete") == (amount == 0.0)
                self.set(side, price, amount)
        self.key = str(self.change_id)


def micros(text: str) -> str:
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(__import__("datetime").datetime.fromisoformat(whole + "+00:00").timestamp())
    return str(seconds * 10**6 + int(fraction[:6].ljust(6, "0")))


# Playing


class Play:
    """A venue, one client of it, and its reader."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange = exchange
        self.frames = exchange.market.frames(None)
        self.session: Session | None = None
        self.reader = Reader()
        self.request: Any = None

    def run(self, differences: int) -> Iterator[None]:
        """Until so many more differences of all symbols have happened; a step for each."""
        for frame in self.frames:
            made = self.exchange.take(Action("send", frame))
            if self.session is not None:
                for one in made:
                    if one.stream in self.session.streams:
                        self.reader.follow(self.session.encode(one))
            if frame.kind == "depth":
                differences -= 1
                yield
            if not differences:
                return

    def subscribe(self, session: Session, reader: Reader, request: Any) -> None:
        self.session, self.reader, self.request = session, reader, request
        for message in session.receive(json.dumps(request), 1.0):
            reader.follow(session.encode(message) if isinstance(message, Frame) else bytes(message))  # type: ignore[arg-type]
        self.exchange.subscribe(session.streams)


class Case:
    """How a venue's book is asked for."""

    def __init__(self, name: str, symbol: str, join: Callable[[Play], None], levels: int = DIGESTED_LEVELS) -> None:
        self.name, self.symbol, self.join, self.levels = name, symbol, join, levels

    def play(self, seed: int) -> Play:
        dialect: Dialect = {
            "spot": BinanceSpot,
            "futures": BinanceFutures,
            "kraken": Kraken,
            "coinbase": Coinbase,
            "deribit": Deribit,
        }[self.name.partition(" ")[0]]()
        pairs = ("BTC/USDT", "ETH/USDT") if "usdt" in self.symbol.lower() else ("BTC/USD", "ETH/USD")
        return Play(synthetic(dialect, pairs, seed))


def join_spot(play: Play) -> None:
    _join_binance(play, "/stream", "/api/v3/depth", "5000")


def join_futures(play: Play) -> None:
    _join_binance(play, "/public/stream", "/fapi/v1/depth", "1000")


def _join_binance(play: Play, path: str, depth: str, limit: str) -> None:
    exchange = play.exchange

    def whole() -> dict[str, Any]:
        answer = exchange.dialect.answer(depth, {"symbol": "BTCUSDT", "limit": limit}, 0.0, exchange)
        assert answer.status == 200
        found: dict[str, Any] = json.loads(answer.body)
        assert len(found["bids"]) > 100
        return found

    session = exchange.dialect.connect(path, {}, 0.0, exchange)
    reader = BinanceReader(whole)
    unwrapped = reader.follow

    def follow(text: bytes) -> None:
        if "data" in (message := json.loads(text)):
            unwrapped(json.dumps(message["data"]).encode())

    reader.follow = follow  # type: ignore[method-assign]
    play.subscribe(session, reader, {"method": "SUBSCRIBE", "params": ["btcusdt@depth@100ms"], "id": 1})


def join_kraken(depth: int) -> Callable[[Play], None]:
    params = {"channel": "book", "symbol": ["BTC/USD"], "depth": depth}

    def join(play: Play) -> None:
        play.subscribe(connect(play.exchange), KrakenReader(depth), {"method": "subscribe", "params": params})

    return join


def join_coinbase(play: Play) -> None:
    request = {"type": "subscribe", "channel": "level2", "product_ids": ["BTC-USD"]}
    play.subscribe(connect(play.exchange), CoinbaseReader(), request)


def join_deribit(play: Play) -> None:
    params = {"channels": ["book.BTC-PERPETUAL.100ms"]}
    request = {"jsonrpc": "2.0", "id": 1, "method": "public/subscribe", "params": params}
    play.subscribe(connect(play.exchange), DeribitReader(), request)


CASES = (
    Case("spot", "BTCUSDT", join_spot),
    Case("futures", "BTCUSDT", join_futures),
    *(Case(f"kraken {depth}", "BTC/USD", join_kraken(depth), min(depth, DIGESTED_LEVELS)) for depth in DEPTHS),
    Case("coinbase", "BTC-USD", join_coinbase),
    Case("deribit", "BTC-PERPETUAL", join_deribit),
)


def own_top(exchange: Exchange, symbol: str, levels: int) -> Top:
    book = exchange.book(symbol, levels)
    assert book is not None
    return _decimals(book.bids), _decimals(book.asks)


def _decimals(levels: Sequence[tuple[str, str]]) -> list[tuple[Decimal, Decimal]]:
    return [(Decimal(price), Decimal(quantity)) for price, quantity in levels]


def slow_digest(top: Top) -> str:
    sides = (",".join(f"{price.normalize():f}:{quantity.normalize():f}" for price, quantity in side) for side in top)
    return hashlib.sha256("|".join(sides).encode()).hexdigest()[:16]


# The law


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@settings(max_examples=4)
@given(before=st.integers(1, 60), away=st.integers(0, 5), seed=st.integers(0, 10**6))
def test_a_reader_from_any_time_on_has_the_simulators_book_at_every_difference(
    case: Case, before: int, away: int, seed: int
) -> None:
    play = case.play(seed)
    if away:
        case.join(play)
    for _ in play.run(before):
        pass
    if away and play.session is not None:
        play.exchange.unsubscribe(play.session.streams)
        play.session = None
        for _ in play.run(away):
            pass
    case.join(play)
    seen: dict[str, str] = {}
    for _ in play.run(120):
        if not play.reader.started:
            continue
        assert play.reader.top(case.levels) == own_top(play.exchange, case.symbol, case.levels)
        verified = VERIFIED_LEVELS.get(play.exchange.dialect.venue, DIGESTED_LEVELS)
        seen[play.reader.key] = slow_digest(play.reader.top(verified))
    digests = play.exchange.digests(case.symbol)
    assert digests is not None
    assert len(seen) > 20
    if case.levels == DIGESTED_LEVELS:
        assert seen.items() <= dict(digests).items()
    assert len(digests) <= 130 + before


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_nothing_is_made_or_digested_of_a_book_that_nobody_follows(case: Case) -> None:
    play = case.play(1)
    own = {"depth", "depth20"} if case.name in {"spot", "futures"} else set()
    for frame in islice(play.frames, 2_000):
        made = play.exchange.take(Action("send", frame))
        assert len(made) == 1 or {one.kind for one in made} <= own
    assert play.exchange.digests(case.symbol) == {}
    case.join(play)
    for _ in play.run(20):
        pass
    assert play.session is not None
    play.exchange.unsubscribe(play.session.streams)
    told = dict(play.exchange.digests(case.symbol) or {})
    assert len(told) > 5
    play.session = None
    for _ in play.run(20):
        pass
    assert play.exchange.digests(case.symbol) == told


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_difference_that_comes_again_says_the_same_and_changes_nothing(case: Case) -> None:
    play = case.play(2)
    case.join(play)
    sent: list[Sequence[Frame]] = []
    rows: list[Frame] = []
    for frame in islice(play.frames, 3_000):
        if frame.kind == "depth" and frame.symbol == case.symbol:
            rows.append(frame)
            sent.append(play.exchange.take(Action("send", frame)))
    known = dict(play.exchange.digests(case.symbol) or {})
    again = [play.exchange._books[case.symbol].add(frame, play.exchange.listeners) for frame in rows[-10:]]
    assert [list(frames) for frames in again] == [list(frames) for frames in sent[-10:]]
    assert play.exchange.digests(case.symbol) == known
    assert any(len(frames) > 1 for frames in again) or case.name in {"spot", "futures"}


def test_kraken_prints_all_decimals_of_a_pair_and_tells_apart_what_the_checksum_covers() -> None:
    play = Case("kraken", "BTC/USD", join_kraken(100)).play(5)
    join_kraken(25)(play)
    kinds: dict[str, int] = {}
    prices, quantities = set[int](), set[int]()
    for frame in islice(play.frames, 6_000):
        for one in play.exchange.take(Action("send", frame)):
            if one.stream == "book:25:BTC/USD":
                kinds[one.kind] = kinds.get(one.kind, 0) + 1
                prices |= {len(text) for text in re.findall(r'"price":\d+\.(\d+)', one.payload.decode())}
                quantities |= {len(text) for text in re.findall(r'"qty":\d+\.(\d+)', one.payload.decode())}
    assert (prices, quantities) == ({2}, {5})
    assert min(kinds["depth"], kinds["other"]) > 10


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), lost=st.integers(1, 60))
def test_a_kraken_reader_notices_at_once_or_has_lost_nothing_when_a_frame_of_kind_depth_is_missing(
    seed: int, lost: int
) -> None:
    play = Case("kraken", "BTC/USD", join_kraken(25)).play(seed)
    reader = KrakenReader(25)
    exchange = play.exchange
    play.subscribe(
        connect(exchange),
        reader,
        {"method": "subscribe", "params": {"channel": "book", "symbol": ["BTC/USD"], "depth": 25}},
    )
    missing = False
    for frame in play.frames:
        for one in exchange.take(Action("send", frame)):
            if one.stream != "book:25:BTC/USD":
                continue
            lost -= 1
            if lost <= 0 and not missing and one.kind == "depth":
                missing = True
                continue
            try:
                reader.follow(one.payload)
            except AssertionError:
                assert missing
                return
            if missing:
                assert reader.top(20) == own_top(exchange, "BTC/USD", 20)
                return


def test_coinbase_uses_up_the_number_of_a_frame_that_is_missing_and_gives_it_to_it_when_it_comes_late() -> None:
    play = Case("coinbase", "BTC-USD", join_coinbase).play(1)
    join_coinbase(play)
    session = play.session
    assert session is not None
    assert isinstance(session, NumbersFrames)
    frames = [
        one
        for frame in islice(play.frames, 400)
        for one in play.exchange.take(Action("send", frame))
        if one.stream == "level2:BTC-USD"
    ]
    assert all(frame.numbered for frame in frames)

    def number(frame: Frame) -> int:
        told: int = json.loads(session.encode(frame))["sequence_num"]
        return told

    first = number(frames[0])
    session.skip(frames[1])
    session.skip(frames[2])
    assert [number(frame) for frame in (frames[3], frames[2], frames[4], frames[4])] == [
        *(first + 3, first + 2, first + 4, first + 5)
    ]


# Digests


LEVELS = st.lists(
    st.tuples(st.decimals("0.00000001", "100000", places=8), st.decimals("0.1", "9", places=8)), max_size=25
)


@given(LEVELS, LEVELS)
def test_a_digest_is_of_plain_decimals_and_twenty_levels(
    bids: list[tuple[Decimal, Decimal]], asks: list[tuple[Decimal, Decimal]]
) -> None:
    told = [[(f"{price:f}", f"{quantity:f}") for price, quantity in side] for side in (bids, asks)]
    assert digest(told[0], told[1]) == slow_digest((bids[:20], asks[:20]))


@pytest.mark.parametrize(
    ("text", "short"),
    [("1.50", "1.5"), ("100", "100"), ("100.00", "100"), ("0.0000005", "0.0000005"), ("5e-7", "0.0000005"), ("0", "0")],
)
def test_a_plain_decimal(text: str, short: str) -> None:
    assert plain(text) == short


def test_digests_are_bounded_and_grow() -> None:
    digests = Digests()
    for key in range(Digests.KEPT + 10):
        digests.add(key, Snapshot(key, [("1", str(key + 1))], []))
        digests.add(key, Snapshot(key, [], []))
    told = digests.told()
    assert list(told) == [str(key) for key in range(Digests.TRIMMED, Digests.KEPT + 10)]
    assert told["7000"] == digest([("1", "7001")], [])


# What a session says at the end, and requests


@pytest.mark.parametrize("path", ["/ws", "/stream"])
def test_binance_says_that_it_will_shut_down(path: str) -> None:
    for dialect in (BinanceSpot(), BinanceFutures()):
        exchange = synthetic(dialect, ("BTC/USDT",))
        (message,) = _farewell(dialect.connect(path, {}, 0.0, exchange))
        told = {"e": "serverShutdown", "E": exchange.time_ns // 10**6}
        assert message == (told if path == "/ws" else {"stream": "!serverShutdown", "data": told})
    finer = BinanceSpot().connect("/ws", {"timeUnit": "MICROSECOND"}, 0.0, exchange)
    assert _farewell(finer) == [{"e": "serverShutdown", "E": exchange.time_ns // 10**3}]


def test_kraken_says_that_it_is_under_maintenance() -> None:
    (message,) = _farewell(connect(synthetic(Kraken())))
    assert (message["channel"], message["type"]) == ("status", "update")
    assert message["data"][0]["system"] == "maintenance"


def _farewell(session: Any) -> list[Mapping[str, Any]]:
    return [json.loads(session.encode(one) if isinstance(one, Frame) else one) for one in session.farewell()]


def test_kraken_acknowledges_a_book_with_its_depth_and_refuses_others() -> None:
    session = connect(synthetic(Kraken()))
    params: dict[str, Any] = {"channel": "book", "symbol": ["BTC/USD"]}
    acknowledged, snapshot = say(session, {"method": "subscribe", "params": params, "req_id": 3})
    assert acknowledged["result"] == {"channel": "book", "symbol": "BTC/USD", "depth": 10, "snapshot": True}
    assert [len(snapshot["data"][0][side]) for side in ("bids", "asks")] == [10, 10]
    (refused,) = say(session, {"method": "subscribe", "params": params | {"depth": 20}})
    assert (refused["success"], refused["error"]) == (False, "Subscription depth not supported")
    (silent,) = say(session, {"method": "subscribe", "params": params | {"depth": 25, "snapshot": False}})
    assert session.streams == {"book:10:BTC/USD", "book:25:BTC/USD"}
    assert silent["result"]["snapshot"] is False
    (gone,) = say(session, {"method": "unsubscribe", "params": params | {"depth": 25}})
    assert gone["success"] is True
    assert session.streams == {"book:10:BTC/USD"}


# REST: the past


def test_binance_tells_past_trades_by_id() -> None:
    paths: dict[Callable[[], Dialect], tuple[str, str]] = {
        BinanceSpot: ("/api/v3/historicalTrades", "id"),
        BinanceFutures: ("/fapi/v1/aggTrades", "a"),
    }
    for make, (path, name) in paths.items():
        exchange = synthetic(make(), ("BTC/USDT",))
        issued = _issued(exchange, "BTCUSDT")
        rows: dict[int, Any] = {}
        at = issued[100]
        while at <= issued[-1]:
            answer = exchange.dialect.answer(
                path, {"symbol": "BTCUSDT", "fromId": str(at), "limit": "300"}, 0.0, exchange
            )
            page = {row[name]: row for row in json.loads(answer.body)}
            assert [mark[2] for mark in answer.marks] == list(page)
            rows |= page
            at = max(page) + 1
        assert list(rows) == issued[100:]
        if make is BinanceFutures:
            streamed = {one["a"]: one for one in map(json.loads, _payloads(exchange, "BTCUSDT"))}
            assert all(
                streamed[i] == row | {"e": "aggTrade", "E": streamed[i]["E"], "s": "BTCUSDT"} for i, row in rows.items()
            )


def test_past_trades_are_found_where_frames_have_changed_places() -> None:
    exchange = synthetic(BinanceSpot(), ("BTC/USDT",))
    frames = [frame for frame in islice(exchange.market.frames(None), 4_000) if frame.kind == "trade"]
    rng = Random(1)
    for at in sorted(rng.sample(range(len(frames) // 2), 100)):
        frames[2 * at], frames[2 * at + 1] = frames[2 * at + 1], frames[2 * at]
    for frame in frames:
        exchange.take(Action("send", frame))
    ids = sorted(frame.marks[0][2] or 0 for frame in frames)
    for first in rng.sample(ids, 50):
        query = {"symbol": "BTCUSDT", "fromId": str(first), "limit": "20"}
        answer = exchange.dialect.answer("/api/v3/historicalTrades", query, 0.0, exchange)
        assert [row["id"] for row in json.loads(answer.body)] == ids[ids.index(first) :][:20]


def test_kraken_tells_past_trades_after_a_time() -> None:
    exchange = synthetic(Kraken())
    issued = _issued(exchange, "BTC/USD")
    for name in ("XBTUSD", "XXBTZUSD", "XBT/USD", "BTC/USD"):
        at, found = str(exchange.market.begins_ns), list[int]()
        while page := _kraken_page(exchange, name, at):
            at, ids = page
            found += ids
        assert found == issued
        exchange.dialect = Kraken()


def _kraken_page(exchange: Exchange, pair: str, since: str) -> tuple[str, list[int]] | None:
    query = {"pair": pair, "since": since, "count": "700"}
    body = json.loads(Kraken().answer("/0/public/Trades", query, 0.0, exchange).body)
    assert body["error"] == []
    rows = body["result"]["XXBTZUSD"]
    return (body["result"]["last"], [row[6] for row in rows]) if rows else None


def test_coinbase_tells_past_trades_within_a_span() -> None:
    exchange = synthetic(Coinbase())
    issued = _issued(exchange, "BTC-USD")
    path = "/api/v3/brokerage/market/products/BTC-USD/ticker"
    found: list[int] = []
    begin = exchange.market.begins_ns // 10**9
    for second in range(begin, exchange.time_ns // 10**9 + 1):
        query = {"limit": "1000", "start": str(second), "end": str(second + 1)}
        body = json.loads(Coinbase().answer(path, query, 0.0, exchange).body)
        assert all(second * 10**6 <= int(micros(row["time"])) < (second + 1) * 10**6 for row in body["trades"])
        found += [int(row["trade_id"]) for row in reversed(body["trades"])]
    assert found == issued
    assert Decimal(body["best_bid"]) < Decimal(body["best_ask"])
    streamed = {
        row["trade_id"]: row
        for text in _payloads(exchange, "BTC-USD")
        for row in json.loads(text)["events"][0]["trades"]
    }
    assert all(streamed[row["trade_id"]].items() <= row.items() for row in body["trades"])


def test_deribit_tells_past_trades_by_number() -> None:
    exchange = synthetic(Deribit())
    for frame in islice(exchange.market.frames(None), 30_000):
        exchange.take(Action("send", frame))
    symbol, frames = max(exchange._history.items(), key=lambda pair: len(pair[1]))
    issued = [mark[2] or 0 for frame in frames for mark in frame.marks if mark[1] == symbol]
    assert len(issued) > 3
    query = {"instrument_name": symbol, "sorting": "asc", "count": "1000"}
    query |= {"start_seq": str(issued[1]), "end_seq": str(issued[-2])}
    answer = exchange.dialect.answer("/api/v2/public/get_last_trades_by_instrument", query, 0.0, exchange)
    assert [row["trade_seq"] for row in json.loads(answer.body)["result"]["trades"]] == issued[1:-1]
    assert [mark[2] for mark in answer.marks] == issued[1:-1]


def _issued(exchange: Exchange, symbol: str) -> list[int]:
    """Let a minute happen; the ids of a symbol's trades."""
    for frame in exchange.market.frames(None):
        if frame.time_ns > exchange.market.begins_ns + 60 * 10**9:
            break
        exchange.take(Action("send", frame))
    ids = [mark[2] or 0 for frame in exchange.trades(symbol) for mark in frame.marks]
    assert len(ids) > 800
    return ids


def _payloads(exchange: Exchange, symbol: str) -> list[bytes]:
    return [frame.payload for frame in exchange.trades(symbol)]


# The collectors' own keepers


KEEPERS = {"kraken 25": "KRAKEN", "coinbase": "COINBASE_BOOKS", "deribit": "DERIBIT_BOOKS"}


class Keeper(Reader):
    """What the collectors' parser and keeper make of a book."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.stream = source(KEEPERS[case.name])
        assert isinstance(self.stream, HasBooks)
        keeper = self.stream.sequencer(case.symbol)
        assert keeper is not None
        self.keeper = keeper

    def follow(self, text: bytes) -> None:
        for event in self.stream.parse(text, Receipt(2**52)):
            if isinstance(event, BookUpdate):
                self.keeper.update(event)
                self.started = True

    def best(self) -> Top:
        bids, asks = self.keeper.top(DIGESTED_LEVELS)
        return [_unscaled(*level) for level in bids], [_unscaled(*level) for level in asks]


def _unscaled(price: int, quantity: int) -> tuple[Decimal, Decimal]:
    return Decimal(price).scaleb(-18), Decimal(quantity).scaleb(-18)


@pytest.mark.parametrize("case", [case for case in CASES if case.name in KEEPERS], ids=lambda case: case.name)
def test_the_collectors_keepers_have_the_digested_book(case: Case) -> None:
    play = case.play(7)
    case.join(play)
    assert play.session is not None
    keeper = Keeper(case)
    seen: dict[str, str] = {}
    first = list(connect(play.exchange).receive(json.dumps(play.request), 1.0))
    for message in first:
        keeper.follow(play.session.encode(message) if isinstance(message, Frame) else message)  # type: ignore[arg-type]
    play.reader = keeper
    for _ in play.run(200):
        digests = play.exchange.digests(case.symbol) or {}
        numbered = play.exchange.dialect.books is not None and play.exchange.dialect.books.numbered
        key = str(keeper.keeper.last if numbered else keeper.keeper.event_time)
        verified = VERIFIED_LEVELS.get(play.exchange.dialect.venue, DIGESTED_LEVELS)
        bids, asks = keeper.best()
        seen[key] = slow_digest((bids[:verified], asks[:verified]))
        assert digests[key] == seen[key]
    assert len(seen) > 50
