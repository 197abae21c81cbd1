"""Laws of the flow of a symbol: consistent with itself, and believable."""

import math
from itertools import islice, pairwise, takewhile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.books import BookKeeper
from simulator.events import DepthDiff, Quote, Trade, text_of
from simulator.markets.flow import LEVELS_KEPT, LISTINGS, SECONDS_PER_YEAR, Ladder, SymbolMarket

SECOND_NS = 10**9
SECONDS = 300


def market(symbol: str = "BTCUSDT", seed: int = 1) -> SymbolMarket:
    return SymbolMarket(symbol, LISTINGS[symbol], seed)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SOLUSDT", "ETHBTC"])
def test_ids_count_up_times_do_not_fall_and_steps_are_kept(symbol: str) -> None:
    listing = LISTINGS[symbol]
    trades = [event for event in islice(market(symbol).events(0), 4_000) if isinstance(event, Trade)]
    assert [trade.trade_id for trade in trades] == list(range(trades[0].trade_id, trades[0].trade_id + len(trades)))
    assert all(a.time_ns <= b.time_ns for a, b in pairwise(trades))
    assert all(trade.price_e8 % listing.tick_e8 == 0 and trade.price_e8 > 0 for trade in trades)
    assert all(trade.quantity_e8 % listing.lot_e8 == 0 and trade.quantity_e8 > 0 for trade in trades)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "SOLUSDT", "ETHBTC"])
def test_the_book_told_by_differences_is_the_book_that_is_there_and_is_never_crossed(symbol: str) -> None:
    there = market(symbol)
    kept = BookKeeper([there.snapshot()])
    for number, event in enumerate(islice(there.events(0), 1_500)):
        if isinstance(event, DepthDiff):
            assert kept.apply(event)
            assert kept.book is not None
            told, book = kept.book.top(10_000), there.snapshot()
            assert number % 10 or (told.last_id, told.bids, told.asks) == (book.last_id, book.bids, book.asks)
            top = kept.book.top(1)
            assert float(top.bids[0][0]) < float(top.asks[0][0])
            assert len(there.bids.keys) > 100
            assert len(there.asks.keys) > 100


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHBTC"])
def test_a_quote_is_the_best_of_the_book_and_comes_with_every_change_of_it(symbol: str) -> None:
    there = market(symbol)
    quotes, last_e8 = [], 0
    for event in islice(there.events(10**18), 3_000):
        if isinstance(event, Trade):
            last_e8 = event.price_e8
        if isinstance(event, Quote):
            quotes.append(event)
            bids, asks = there.snapshot().bids, there.snapshot().asks
            assert (text_of(event.bid_e8), text_of(event.bid_quantity_e8)) == bids[0]
            assert (text_of(event.ask_e8), text_of(event.ask_quantity_e8)) == asks[0]
            assert last_e8 in {0, event.last_e8}
    assert len(quotes) > 200
    for before, after in pairwise(quotes):
        assert before.update_id < after.update_id
        assert before.time_ns // 1000 < after.time_ns // 1000


def test_an_order_takes_the_best_prices_of_the_book_it_meets() -> None:
    there = market()
    walked = 0
    for step in range(2_000):
        there.requote(0.02)
        touch = {True: there.bids.best, False: there.asks.best}
        trades = there.order(step)
        prices = [trade.price_e8 // there.listing.tick_e8 for trade in trades]
        selling = trades[0].buyer_is_maker
        assert {trade.buyer_is_maker for trade in trades} == {selling}
        assert prices[0] == touch[selling]
        assert prices == sorted(prices, reverse=selling)
        walked += len(set(prices)) > 1
    assert walked > 50


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.integers(1, 500), st.integers(1, 9), min_size=LEVELS_KEPT, max_size=200), st.integers(1, 900))
def test_a_fill_takes_best_levels_first_and_never_more_than_there_is(levels: dict[int, int], lots: int) -> None:
    ladder = Ladder(-1)
    for price, size in levels.items():
        ladder.set(-price, size)
    fills = ladder.take(lots)
    prices = [price for price, _ in fills]
    assert prices == sorted(levels)[: len(prices)]
    assert sum(size for _, size in fills) <= lots
    left = {-key: size for key, size in ladder.lots.items()}
    taken = {price: left.get(price, 0) + dict(fills).get(price, 0) for price in levels}
    assert taken == levels
    assert len(left) >= LEVELS_KEPT
    assert sum(size for _, size in fills) == lots or len(left) == LEVELS_KEPT


def test_the_flow_is_believable() -> None:
    """Five minutes of BTC: rate, volatility, bursts and long memory, each within wide bounds."""
    there = market(seed=2)
    trades: list[Trade] = []
    mids: list[float] = []
    for event in takewhile(lambda event: event.time_ns < SECONDS * SECOND_NS, there.events(0)):
        if isinstance(event, Trade):
            trades.append(event)
        elif isinstance(event, DepthDiff):
            mids.append((there.bids.best + there.asks.best) / 2)
    assert 25 < len(trades) / SECONDS < 60
    returns = [math.log(b / a) for a, b in zip(mids[::100], mids[100::100], strict=False)]
    yearly = math.sqrt(sum(x * x for x in returns) / len(returns) / 10 * SECONDS_PER_YEAR)
    assert 0.3 < yearly < 0.9
    per_second = [0] * SECONDS
    for trade in trades:
        per_second[trade.time_ns // SECOND_NS] += 1
    mean = sum(per_second) / SECONDS
    assert sum((n - mean) ** 2 for n in per_second) / SECONDS > 3 * mean  # a Poisson process has 1
    signs = {trade.time_ns: -1 if trade.buyer_is_maker else 1 for trade in trades}
    order = list(signs.values())
    memory = [sum(a * b for a, b in zip(order, order[lag:], strict=False)) / len(order) for lag in range(1, 11)]
    assert sum(memory) / 10 > 3 / math.sqrt(len(order) * 10)
