"""Laws of the perpetuals: candles are sums of trades, rates are clamped, liquidations follow moves."""

import math
from collections import Counter
from itertools import islice, pairwise, takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.books import BookKeeper
from simulator.contract import Instrument, Part
from simulator.dialects.binance_futures import BinanceFutures
from simulator.events import DepthDiff, Event, Kline, Liquidation, Marks, OpenInterest, Quote, Trade, text_of
from simulator.exchange import Exchange
from simulator.faults import Action
from simulator.markets.flow import LISTINGS, SymbolMarket
from simulator.markets.perpetuals import (
    CLAMP,
    INTEREST,
    KLINE_INTERVAL_NS,
    MINUTE_NS,
    RATE_CAP,
    SECOND_NS,
    THIN_LEVELS,
    Perpetuals,
    ThinFlow,
    funding_rate,
    thin_listings,
)
from simulator.registry import Plan, synthetic_market

BEGIN_NS = 1_767_225_600 * SECOND_NS + 17 * SECOND_NS + 123_456_789
PERIOD_NS = 8 * 3600 * SECOND_NS
HEAVY = ("BTCUSDT", "SOLUSDT")


def flows(seed: int, thin: int = 40) -> list[Part]:
    heavy: list[Part] = [SymbolMarket(symbol, LISTINGS[symbol], seed) for symbol in HEAVY]
    return [*heavy, ThinFlow(seed, thin_listings(thin, seed, HEAVY))]


def perpetuals(seed: int = 1, thin: int = 40) -> Perpetuals:
    prices = {symbol: LISTINGS[symbol].price for symbol in HEAVY}
    return Perpetuals(
        seed, flows(seed, thin), prices | {row.symbol: row.price for row in thin_listings(thin, seed, HEAVY)}
    )


def events(seconds: int, seed: int = 1, thin: int = 40) -> list[Event]:
    end_ns = BEGIN_NS + seconds * SECOND_NS
    return list(takewhile(lambda event: event.time_ns < end_ns, perpetuals(seed, thin).events(BEGIN_NS)))


@pytest.fixture(scope="module")
def three_minutes() -> list[Event]:
    return events(200)


def test_one_seed_gives_one_market() -> None:
    assert events(70, seed=3) == events(70, seed=3)
    assert events(70, seed=3) != events(70, seed=4)


def test_times_never_fall(three_minutes: list[Event]) -> None:
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(three_minutes))


def test_a_closed_candle_is_the_sum_of_its_minute_and_an_open_one_of_the_minute_so_far(
    three_minutes: list[Event],
) -> None:
    trades: dict[str, list[Trade]] = {}
    checked = Counter[bool]()
    for event in three_minutes:
        if isinstance(event, Trade):
            trades.setdefault(event.symbol, []).append(event)
        if not isinstance(event, Kline):
            continue
        within = [
            trade
            for trade in trades.get(event.symbol, ())
            if event.open_time_ns <= trade.time_ns < event.open_time_ns + MINUTE_NS
        ]
        bought = [trade for trade in within if not trade.buyer_is_maker]
        assert event.trade_count == len(within)
        assert event.volume_e8 == sum(trade.quantity_e8 for trade in within)
        assert event.quote_volume_e8 == sum(trade.quantity_e8 * trade.price_e8 for trade in within) // 10**8
        assert event.taker_buy_volume_e8 == sum(trade.quantity_e8 for trade in bought)
        assert event.taker_buy_quote_volume_e8 == sum(trade.quantity_e8 * trade.price_e8 for trade in bought) // 10**8
        if within:
            prices = [trade.price_e8 for trade in within]
            assert (event.open_e8, event.close_e8) == (prices[0], prices[-1])
            assert (event.high_e8, event.low_e8) == (max(prices), min(prices))
            assert (event.first_trade_id, event.last_trade_id) == (within[0].trade_id, within[-1].trade_id)
        else:
            assert event.open_e8 == event.high_e8 == event.low_e8 == event.close_e8 > 0
            assert event.first_trade_id is event.last_trade_id is None
        checked[event.closed] += 1
    assert checked[True] == 42 * 3
    assert checked[False] > 500


def test_each_minute_closes_once_at_its_end_and_candles_join(three_minutes: list[Event]) -> None:
    for symbol in ("BTCUSDT", thin_listings(40, 1, HEAVY)[0].symbol):
        closed = [row for row in three_minutes if isinstance(row, Kline) and row.closed and row.symbol == symbol]
        assert [row.time_ns - row.open_time_ns for row in closed] == [MINUTE_NS] * 3
        assert [b.open_time_ns - a.open_time_ns for a, b in pairwise(closed)] == [MINUTE_NS] * 2
        assert closed[0].open_time_ns % MINUTE_NS == 0


def test_an_open_candle_is_told_at_most_every_quarter_second(three_minutes: list[Event]) -> None:
    told = [
        row.time_ns for row in three_minutes if isinstance(row, Kline) and not row.closed and row.symbol == "BTCUSDT"
    ]
    assert min(b - a for a, b in pairwise(told)) >= KLINE_INTERVAL_NS
    assert max(b - a for a, b in pairwise(told)) < 3 * SECOND_NS


def test_marks_of_all_come_once_a_second_near_their_price(three_minutes: list[Event]) -> None:
    rounds = [event for event in three_minutes if isinstance(event, Marks)]
    assert [event.time_ns % SECOND_NS for event in rounds] == [0] * len(rounds)
    assert {b.time_ns - a.time_ns for a, b in pairwise(rounds)} == {SECOND_NS}
    for event in rounds:
        assert len({mark.symbol for mark in event.marks}) == len(event.marks) == 42
        for mark in event.marks:
            assert abs(mark.mark_e8 / mark.index_e8 - 1) < 0.005
            assert 0 < mark.next_funding_ns - event.time_ns <= PERIOD_NS
            assert mark.next_funding_ns % PERIOD_NS == 0
            assert abs(mark.rate_e8) <= RATE_CAP * 1e8
    last = {trade.symbol: trade.price_e8 for trade in three_minutes if isinstance(trade, Trade)}
    assert all(abs(mark.index_e8 / last[mark.symbol] - 1) < 0.03 for mark in rounds[-1].marks if mark.symbol in last)


@given(st.floats(-0.1, 0.1))
def test_the_funding_rate_is_the_interest_while_the_premium_is_near_it(premium: float) -> None:
    rate = funding_rate(premium)
    assert abs(rate) <= RATE_CAP
    assert rate == pytest.approx(INTEREST) or abs(premium - INTEREST) > CLAMP * 0.999999
    assert rate == pytest.approx(premium, abs=CLAMP * 1.0001) or abs(rate) == RATE_CAP


def test_liquidations_follow_the_move_one_per_millisecond() -> None:
    rows = events(400, seed=5)
    steps = {row.symbol: row for row in perpetuals(5).instruments if isinstance(row, Instrument)}
    found = [row for row in rows if isinstance(row, Liquidation)]
    assert 10 < len(found) < 4000
    assert max(Counter((row.symbol, row.time_ns // 10**6) for row in found).values()) == 1
    prices: dict[str, list[tuple[int, int]]] = {}
    for row in rows:
        if isinstance(row, Trade):
            prices.setdefault(row.symbol, []).append((row.time_ns, row.price_e8))
    agreeing = 0
    for row in found:
        assert row.price_e8 % steps[row.symbol].tick_e8 == row.average_price_e8 % steps[row.symbol].tick_e8 == 0
        assert row.quantity_e8 % steps[row.symbol].lot_e8 == 0 < row.quantity_e8
        assert row.average_price_e8 <= row.price_e8 if row.buys else row.average_price_e8 >= row.price_e8
        tape = prices[row.symbol]
        now = max(price for price in tape if price[0] <= row.time_ns)[1]
        before = [price for time_ns, price in tape if time_ns <= row.time_ns - 7 * SECOND_NS]
        agreeing += not before or (now >= before[-1]) == row.buys
    assert agreeing > 0.8 * len(found)


def test_open_interest_walks_slowly_in_whole_lots(three_minutes: list[Event]) -> None:
    walk = [row for row in three_minutes if isinstance(row, OpenInterest) and row.symbol == "BTCUSDT"]
    assert len(walk) == 20
    assert all(row.open_interest_e8 % LISTINGS["BTCUSDT"].lot_e8 == 0 for row in walk)
    assert all(abs(math.log(b.open_interest_e8 / a.open_interest_e8)) < 0.003 for a, b in pairwise(walk))


def test_thin_listings_are_that_many_and_take_no_known_name() -> None:
    taken = [row.symbol for row in thin_listings(20, 7)]
    rows = thin_listings(550, 7, taken)
    assert len({row.symbol for row in rows}) == 550
    assert not {row.symbol for row in rows} & set(taken)
    assert all(row.price * 1e8 > 100 * row.tick_e8 > 0 for row in rows)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_thin_book_told_by_differences_is_never_crossed_and_quotes_are_its_best(seed: int) -> None:
    flow = ThinFlow(seed, thin_listings(10, seed))
    books = {symbol: BookKeeper([snapshot]) for symbol, snapshot in flow.snapshots.items()}
    last = {symbol: snapshot.last_id for symbol, snapshot in flow.snapshots.items()}
    told = Counter[str]()
    for event in islice(flow.events(BEGIN_NS), 4_000):
        told[type(event).__name__] += 1
        if isinstance(event, DepthDiff):
            assert (event.first_id, books[event.symbol].apply(event)) == (last[event.symbol] + 1, True)
            last[event.symbol] = event.last_id
        elif isinstance(event, Quote):
            book = books[event.symbol].book
            assert book is not None
            best = book.top(1)
            assert best.bids[0] == (text_of(event.bid_e8), text_of(event.bid_quantity_e8))
            assert best.asks[0] == (text_of(event.ask_e8), text_of(event.ask_quantity_e8))
            assert 0 < event.bid_e8 < event.ask_e8
            assert len(book.top(100).bids) == len(book.top(100).asks) == THIN_LEVELS
    assert told["DepthDiff"] - 1 <= told["Quote"] > told["Trade"] > 100
    assert all(float(levels[0][1]) > 0 for book in books.values() if book.book for levels in [book.book.top(1).bids])


def test_thin_books_are_there_and_nobody_is_awaited_for_them() -> None:
    exchange = Exchange(
        dialect := BinanceFutures(), synthetic_market(dialect, Plan(["BTCUSDT"], 1, 20, None, BEGIN_NS))
    )
    thin = [symbol for symbol in exchange.instruments if symbol != "BTCUSDT"]
    assert exchange.market.traded == ["BTCUSDT"]
    exchange.subscribe([f"{thin[0].lower()}@depth20@100ms"])
    sent = Counter[str]()
    for frame in islice(exchange.market.frames(None), 20_000):
        sent.update(
            one.stream.partition("@")[2] for one in exchange.take(Action("send", frame)) if one.symbol == thin[0]
        )
    assert min(sent[channel] for channel in ("depth@100ms", "depth20@100ms", "bookTicker")) > 5
    answer = exchange.dialect.answer("/fapi/v1/depth", {"symbol": thin[0], "limit": "1000"}, 0.0, exchange)
    assert answer.status == 200
