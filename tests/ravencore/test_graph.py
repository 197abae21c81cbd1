"""The graph of outputs, and what demands come to in it."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.derivations import DERIVATIONS
from processors.registry import FOLDS
from ravencore import graph, topics
from ravencore.config import Settings
from ravencore.graph import ALL, NEEDS, STORES, Standing, closure, origin, output_of
from ravencore.records import Demand, FeedName
from sinks.registry import STORES as MAKERS

SPOT = "BINANCE_SPOT:BTCUSDT"
OUTPUTS = st.lists(st.sampled_from(sorted(NEEDS)), max_size=3, unique=True).map(tuple)
SOME_STORES = st.lists(st.sampled_from(sorted(STORES)), max_size=2, unique=True).map(tuple)
SYMBOLS = st.sampled_from(["BTCUSDT", "ETHUSDT", ALL])
DEMANDS = st.lists(
    st.builds(
        lambda symbol, outputs, stores: demand(*outputs, symbol=symbol, stores=stores), SYMBOLS, OUTPUTS, SOME_STORES
    ),
    max_size=6,
)


def demand(
    *outputs: str,
    symbol: str = "BTCUSDT",
    stores: tuple[str, ...] = (),
    channels: tuple[str, ...] = ("trades", "quotes"),
) -> Demand:
    feeds = tuple(FeedName("BINANCE_SPOT", channel, symbol) for channel in channels)
    return Demand(demand_id="d", user="u", symbol=symbol, outputs=outputs, stores=stores, feeds=feeds, created_time=1)


# The table


def test_every_output_is_a_topic() -> None:
    named = {topic.name for topic in topics.TOPICS}
    assert {f"raven.{output}" for output in NEEDS} <= named
    assert {output_of(name) for name in named} - {None} == set(NEEDS)


def test_what_is_made_is_made_of_what_the_engine_reads() -> None:
    assert {NEEDS[output_of(kind.topic) or ""] for kind in FOLDS} == {("trades",)}
    assert {f"raven.{need}" for needs in NEEDS.values() for need in needs} == {
        one.topic for one in DERIVATIONS.values()
    }


@pytest.mark.parametrize("name", MAKERS)
def test_a_store_keeps_what_it_reads(name: str) -> None:
    store = MAKERS[name](Settings())
    try:
        assert STORES[name] == {output for topic in store.topics if (output := output_of(topic))}
    finally:
        store.close()


def test_every_store_is_in_the_table() -> None:
    assert STORES.keys() == MAKERS.keys()


@given(OUTPUTS, OUTPUTS)
def test_the_closure_is_one(some: tuple[str, ...], more: tuple[str, ...]) -> None:
    first = closure(frozenset(some))
    assert first >= set(some)
    assert closure(first) == first
    assert all(set(NEEDS[output]) <= first for output in first)
    if some:
        assert first <= closure(frozenset(some + more))


def test_what_an_output_comes_from() -> None:
    assert origin("bars.tib") == "trades"
    assert origin("iv_surface") == "option_tickers"
    assert origin("klines") == "klines"


# Demands


def test_of_what_nobody_names_nothing_is_said() -> None:
    assert Standing().wanted("trades", SPOT) is None
    assert Standing().keeps("influx", "trades", SPOT) is None
    other = Standing([demand(symbol="ETHUSDT")])
    assert other.wanted("trades", SPOT) is None


def test_a_demand_is_for_what_it_names_and_what_that_is_made_of() -> None:
    standing = Standing([demand("bars.tib", stores=("timescale",))])
    assert standing.wanted("trades", SPOT) == frozenset({"bars.tib", "trades"})
    assert standing.keeps("timescale", "bars.tib", SPOT) is True
    assert standing.keeps("influx", "trades", SPOT) is False
    assert standing.keeps("timescale", "vpin", SPOT) is False


def test_demands_for_one_instrument_add_up() -> None:
    standing = Standing([demand("bars.tib", stores=("timescale",)), demand("vpin", stores=("lake",))])
    assert standing.wanted("trades", SPOT) == frozenset({"bars.tib", "vpin", "trades"})
    assert standing.keeps("lake", "vpin", SPOT) is True
    assert standing.keeps("lake", "bars.tib", SPOT) is False
    assert standing.keeps("lake", "trades", SPOT) is True


def test_all_of_a_venue_is_each_of_its_symbols() -> None:
    standing = Standing([demand("bars.tib", symbol=ALL)])
    assert standing.wanted("trades", SPOT) == frozenset({"bars.tib", "trades"})
    assert standing.wanted("trades", "KRAKEN:BTC/USD") is None


def test_what_is_keyed_by_pair_is_named_by_its_pair() -> None:
    standing = Standing([demand("spot_mid", symbol="BTC/USDT")])
    assert standing.wanted("quotes", "BTC-USDT") == frozenset({"spot_mid", "quotes"})
    assert standing.keeps("redis", "spot_mid", "BTC-USDT") is True
    assert standing.wanted("quotes", "ETH-USDT") is None
    assert Standing([demand("quotes", symbol=ALL)]).wanted("quotes", "ETH-USDT") == frozenset({"quotes"})


def test_what_is_keyed_by_underlying_is_named_by_any_demand_for_it() -> None:
    standing = Standing([demand("iv_surface", symbol=ALL, stores=("lake",), channels=("option_tickers",))])
    assert standing.wanted("option_tickers", "BTC") == frozenset({"iv_surface", "option_tickers"})
    assert standing.keeps("timescale", "iv_surface", "BTC") is False


@given(DEMANDS)
def test_what_stands_is_what_each_demand_would_be_alone(demands: list[Demand]) -> None:
    """Nobody counts: the union of all, in any order."""
    together, backwards = Standing(demands), Standing(demands[::-1])
    for key, channel in product((SPOT, "BINANCE_SPOT:ETHUSDT"), ("trades", "quotes")):
        alone = [one for one in (Standing([each]).wanted(channel, key) for each in demands) if one is not None]
        union = frozenset().union(*alone) if alone else None
        assert together.wanted(channel, key) == backwards.wanted(channel, key) == union
    for store, output in product(STORES, ("trades", "bars.tib", "vpin")):
        alone_keeps = {Standing([each]).keeps(store, output, SPOT) for each in demands}
        expected = True if True in alone_keeps else False if False in alone_keeps else None
        assert together.keeps(store, output, SPOT) is expected


@pytest.mark.parametrize("name", graph.SHORT)
def test_short_names_are_names_of_outputs(name: str) -> None:
    assert set(graph.SHORT[name]) <= NEEDS.keys()
