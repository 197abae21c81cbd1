"""A planned run without sockets: every kind on every feed, and every id that was issued came or is named by a fault."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise, takewhile
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator import chaos
from simulator.contract import Dialect, Frame
from simulator.dialects.binance_futures import BinanceFutures
from simulator.dialects.binance_options import BinanceOptions
from simulator.dialects.binance_spot import BinanceSpot
from simulator.dialects.coinbase import Coinbase
from simulator.dialects.deribit import Deribit
from simulator.exchange import Exchange
from simulator.faultlog import Fault
from simulator.faults import CURES, FRAME_KINDS, TIMES, VENUE_KINDS, Action, Intent, Times, kinds_of
from simulator.injector import Schedule, inject
from simulator.registry import Plan, synthetic_market
from simulator.synthetic import EPOCH_NS

SECOND_NS = 10**9
EVERY = frozenset({"gap", "duplicate", "reorder", "garbage", "mute"})
TRADES = frozenset({"trades"})
OFFERS = {
    "SPOT": chaos.Offer({"trades": EVERY, "books": EVERY, "quotes": EVERY - {"gap", "reorder"}}, lively=TRADES),
    "FUTURES": chaos.Offer(
        {"trades": EVERY, "klines": EVERY - {"reorder"}, "funding": EVERY - {"gap", "reorder"}},
        frozenset({"open_interest"}),
        TRADES,
    ),
    "OPTIONS": chaos.Offer({}, frozenset({"option_tickers"})),
    "INDEX": chaos.Offer({"index_prices": EVERY - {"gap", "reorder"}}),
    "KRAKEN": chaos.Offer({"trades": EVERY}, lively=TRADES),
    "COINBASE": chaos.Offer({"trades": EVERY, "quotes": EVERY}, lively=TRADES),
}


# The plan


@given(st.integers(0, 10_000))
def test_ten_minutes_hold_every_kind_on_every_feed(seed: int) -> None:
    for venue, intents in chaos.plan(OFFERS, seed, 600.0).items():
        offer = OFFERS[venue]
        planned = {(one.channel, one.kind) for one in intents}
        expected = {(channel, kind) for channel, kinds in offer.streamed.items() for kind in kinds}
        expected |= {(channel, "garbage") for channel in offer.polled}
        expected |= {("", kind) for kind in (VENUE_KINDS if offer.streamed else ("limit",))}
        assert planned == expected
        cures = {(one.channel, one.cure) for one in intents if one.kind == "mute"}
        assert cures == {(channel, cure) for channel in offer.streamed for cure in CURES}


@given(st.integers(0, 10_000), st.sampled_from((60.0, 90.0, 120.0, 240.0)))
def test_a_short_run_holds_every_kind_at_some_venue(seed: int, duration_s: float) -> None:
    intents = [one for each in chaos.plan(OFFERS, seed, duration_s).values() for one in each]
    assert {one.kind for one in intents} == {*FRAME_KINDS, *VENUE_KINDS, "mute"}


@given(st.integers(0, 10_000), st.sampled_from((30.0, 60.0, 120.0, 600.0)))
def test_nothing_is_planned_for_the_end_and_faults_of_a_venue_leave_room(seed: int, duration_s: float) -> None:
    for intents in chaos.plan(OFFERS, seed, duration_s).values():
        assert all(0.0 < one.at_s < duration_s - TIMES.tail for one in intents)
        assert [one.at_s for one in intents] == sorted(one.at_s for one in intents)
        whole = [one for one in intents if not one.channel]
        assert all(later.at_s - one.at_s >= TIMES.timed_calm for one, later in pairwise(whole))
        for kind, (least, most) in (("stall", TIMES.stall), ("limit", TIMES.limit), ("close", TIMES.notice)):
            assert all(least <= one.seconds <= most for one in intents if one.kind == kind)


def test_a_seed_gives_one_plan_and_another_seed_another() -> None:
    assert chaos.plan(OFFERS, 3, 600.0) == chaos.plan(OFFERS, 3, 600.0) != chaos.plan(OFFERS, 4, 600.0)
    assert chaos.plan(OFFERS, 3, 20.0) == {venue: [] for venue in OFFERS}


# A run of one venue


class Run(NamedTuple):
    """What clients got of each stream, in order, and the venue as it was at the end."""

    got: dict[str, list[Frame]]
    exchange: Exchange

    @property
    def faults(self) -> list[Fault]:
        return self.exchange.faults.faults


class Rehearsal:
    """One venue with a client of each of these streams, which comes back a second after it was sent away."""

    AWAY_NS = SECOND_NS
    MUTED_NS = 6 * SECOND_NS

    def __init__(self, exchange: Exchange, streams: set[str]) -> None:
        self.exchange = exchange
        self.streams = streams
        self.got: dict[str, list[Frame]] = {}
        self.muted: dict[str, Fault] = {}
        self.returns_ns: int | None = None
        exchange.subscribe(streams)

    def play(self, actions: Iterator[Action]) -> Run:
        for action in actions:
            self._catch_up()
            if action.what in VENUE_KINDS:
                self._send_away(action)
            elif action.what == "mute":
                self.muted[action.stream] = self.exchange.mute(action)
            else:
                self._get(action)
        self.exchange.faults.finish(self.exchange.time_ns)
        return Run(self.got, self.exchange)

    def _catch_up(self) -> None:
        now_ns = self.exchange.time_ns
        if self.returns_ns is not None and now_ns >= self.returns_ns:
            self.returns_ns = None
            self.exchange.subscribe(self.streams)
        for stream, fault in list(self.muted.items()):
            if now_ns - fault.from_ns >= self.MUTED_NS:
                self.exchange.faults.end(self.muted.pop(stream), now_ns)

    def _send_away(self, action: Action) -> None:
        assert not self.muted
        assert self.returns_ns is None
        self.returns_ns = self.exchange.time_ns + self.AWAY_NS
        fault = self.exchange.interrupt(action.what)
        self.exchange.unsubscribe(self.streams, fault)
        self.exchange.faults.end(fault, self.exchange.time_ns)

    def _get(self, action: Action) -> None:
        for frame in self.exchange.take(action):
            if self.exchange.listeners[frame.stream] > 0:
                if frame.stream in self.muted:
                    self.muted[frame.stream].note(frame.marks)
                else:
                    self.got.setdefault(frame.stream, []).append(frame)
                    self.exchange.delivered(frame.marks)


def rehearse(dialect: Dialect, streams: set[str], seconds: int, seed: int = 1, times: Times = TIMES) -> Run:
    market = synthetic_market(dialect, Plan(("BTC/USDT",), 2, 1, seconds * SECOND_NS, EPOCH_NS))
    exchange = Exchange(dialect, market, times=times)
    ends_ns = EPOCH_NS + seconds * SECOND_NS
    frames = list(takewhile(lambda frame: frame.time_ns < ends_ns, market.frames(None)))
    offer = chaos.survey(takewhile(lambda frame: frame.time_ns < EPOCH_NS + 65 * SECOND_NS, frames))
    intents = chaos.plan({dialect.venue: offer}, seed, float(seconds), times)[dialect.venue]
    schedule = Schedule(intents, exchange, EPOCH_NS, ends_ns, times=times)
    return Rehearsal(exchange, streams).play(inject(frames, {}, seed, dialect.spoil, 0, schedule=schedule))


FUTURES = {
    *("btcusdt@aggTrade", "btcusdt@bookTicker", "btcusdt@depth@100ms", "btcusdt@kline_1m"),
    *("!markPrice@arr@1s", "!forceOrder@arr"),
}
SPOT = {"btcusdt@trade", "btcusdt@bookTicker", "btcusdt@depth20@100ms"}
COINBASE = {"market_trades:BTC-USDT", "ticker:BTC-USDT", "level2:BTC-USDT"}


@pytest.fixture(scope="module", params=["futures", "spot", "coinbase"])
def run(request: pytest.FixtureRequest) -> Run:
    if request.param == "futures":
        return rehearse(BinanceFutures(), FUTURES, 345)
    if request.param == "spot":
        return rehearse(BinanceSpot(), SPOT, 345)
    return rehearse(Coinbase(), COINBASE, 345)


def test_every_kind_is_put_on_every_feed(run: Run) -> None:
    met = Counter((fault.feed.channel if fault.feed else "", fault.kind) for fault in run.faults)
    streamed = {stream: frames for stream, frames in run.got.items() if kinds_of(frames[0]) or frames[-1].marks}
    for stream, frames in streamed.items():
        kinds = set[str]().union(*(kinds_of(frame) for frame in frames))
        channel = run.exchange._feeds[stream].channel
        assert all(met[channel, kind] for kind in kinds), (stream, met)
    assert all(met["", kind] for kind in VENUE_KINDS)
    # Here one client follows the klines of one symbol, and none the differences of another one's book.
    late = {tuple(name.split()) for name in run.exchange.unmet}
    assert all(met[channel, kind] for channel, kind in late if channel not in {"klines", "books"})


def test_every_id_that_was_issued_came_or_is_named_by_one_fault(run: Run) -> None:
    came = {mark for frames in run.got.values() for frame in frames for mark in frame.marks}
    named: Counter[tuple[str, str, int | None]] = Counter()
    for fault in run.faults:
        if fault.kind in {"gap", "mute"} and fault.feed is not None:
            channel = fault.feed.channel
            named.update((channel, symbol, one) for symbol, ids in fault.ids.items() for one in ids)
        named.update(
            (channel, s, one) for channel, rows in fault.lost.items() for s, ids in rows.items() for one in ids
        )
    ledger = run.exchange.ledger
    channels = {mark[0] for mark in came}
    issued = {
        (channel, symbol, identity)
        for channel in channels
        for symbol, rows in ledger.listed(channel).items()
        for identity, _ in rows
    }
    assert issued == came | set(named)
    assert not came & set(named)
    assert set(named.values()) == {1}
    assert len(named) > 100


def test_what_came_twice_or_in_another_order_is_what_the_record_says(run: Run) -> None:
    for stream, frames in run.got.items():
        faults = [fault for fault in run.faults if fault.stream == stream]
        ids = [one for frame in frames if frame.kind != "garbage" for one in frame.marks]
        again = Counter(ids) - Counter(set(ids))
        told = [fault for fault in faults if fault.kind == "duplicate"]
        assert sum(again.values()) == sum(len(ids) for fault in told for ids in fault.ids.values())
        garbage = sum(frame.kind == "garbage" for frame in frames)
        assert garbage == sum(fault.kind == "garbage" for fault in faults)
        times = [frame.time_ns for frame in frames if frame.kind != "garbage"]
        late = sum(later < earlier for earlier, later in pairwise(times))
        swapped = sum(fault.kind == "reorder" for fault in faults)
        delayed = sum(fault.kind == "duplicate" for fault in faults)
        assert swapped - 1 <= late <= swapped + delayed


def test_faults_leave_each_other_and_the_end_alone(run: Run) -> None:
    ends_ns = max(frame.time_ns for frames in run.got.values() for frame in frames)
    assert all(fault.from_ns <= ends_ns - (TIMES.tail - 1) * SECOND_NS for fault in run.faults)
    timed = [fault for fault in run.faults if fault.takes_time]
    for fault in timed:
        for other in timed:
            same = not fault.stream or not other.stream or fault.stream == other.stream
            if other.from_ns > fault.from_ns and same:
                assert fault.to_ns is not None
                assert other.from_ns - fault.to_ns >= TIMES.timed_calm * SECOND_NS


def test_the_same_seed_does_the_same() -> None:
    one, two, other = (rehearse(BinanceSpot(), SPOT, 90, seed) for seed in (5, 5, 6))
    rows = [run.exchange.faults.report(0) for run in (one, two, other)]
    assert one.got == two.got
    assert rows[0] == rows[1] != rows[2]


def test_nothing_is_done_to_what_nobody_has_subscribed_to() -> None:
    run = rehearse(BinanceSpot(), {"btcusdt@trade"}, 90)
    assert {fault.stream for fault in run.faults} <= {"", "btcusdt@trade"}
    assert {name.split()[0] for name in run.exchange.unmet} == {"books", "quotes"}
    silent = rehearse(BinanceSpot(), set(), 60)
    assert {fault.kind for fault in silent.faults} <= {"limit"}
    assert silent.exchange.ledger.listed("trades") == {"BTCUSDT": []}


def test_thin_feeds_of_many_symbols_have_gaps_where_each_symbol_counts_on() -> None:
    run = rehearse(Deribit(), {"trades.option.BTC.100ms"}, 120)
    gaps = [fault for fault in run.faults if fault.kind == "gap"]
    assert gaps
    came = [mark for frame in run.got["trades.option.BTC.100ms"] for mark in frame.marks]
    for symbol, ids in ((symbol, ids) for gap in gaps for symbol, ids in gap.ids.items()):
        told = [identity for _, name, identity in came if name == symbol]
        known = [identity for identity in ids if identity is not None]
        assert min(known) - 1 in told
        assert max(known) + 1 in told


# Polls


def test_the_next_answer_of_a_poll_is_spoilt_and_recorded() -> None:
    dialect = BinanceOptions()
    market = synthetic_market(dialect, Plan(("BTC/USDT",), 2, 0, None, EPOCH_NS))
    exchange = Exchange(dialect, market)
    for frame in takewhile(lambda frame: frame.time_ns < EPOCH_NS + 3 * SECOND_NS, market.frames(None)):
        exchange.take(Action("send", frame))
    exchange.take(Action("garbage", None, "garbage", Intent("garbage", channel="option_tickers", polled=True)))
    ticker, spoilt, plain = (exchange.answer(f"/eapi/v1/{name}", {}, 0.0) for name in ("ticker", "mark", "mark"))
    assert ticker.body.endswith(b"]")
    assert plain.body.endswith(b"]")
    assert plain.body.startswith(spoilt.body)
    assert (spoilt.status, spoilt.marks, exchange.ledger.injected["garbage"]) == (200, (), 1)
    (row,) = exchange.faults.report(0)
    assert (row["kind"], row["channel"], row["symbol"], row["ids"]) == ("garbage", "option_tickers", "*", [])
    told = exchange.ledger.told("option_tickers")
    assert {row["issued"] - row["delivered"] for row in told.values()} == {1}
