"""From demands to symbols and sources: what a person writes, as each venue spells it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.contract import ALL, Source
from producers.registry import SOURCES
from producers.routing import feeds_of, venue_symbol, wanted
from ravencore.config import RoutingSettings
from ravencore.graph import NEEDS, origin
from ravencore.pairs import QUOTES, pair_of
from ravencore.records import Demand, FeedName

ROUTING = RoutingSettings()
MAP = ROUTING.symbol_map
FUTURES = SOURCES["BINANCE_FUTURES"]
EACH = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
CURRENCY = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=1, max_size=8)
OF_A_SYMBOL = [source for source in SOURCES.values() if source.scope == "symbol"]


def demand(symbol: str, venues: tuple[str, ...] = (), outputs: tuple[str, ...] = ()) -> Demand:
    return Demand(demand_id="d", user="u", symbol=symbol, venues=venues, outputs=outputs, created_time=1)


# Pairs


@given(CURRENCY, CURRENCY, st.sampled_from("/-"))
def test_a_separator_says_where_the_pair_parts(base: str, quote: str, separator: str) -> None:
    assert pair_of(f"{base}{separator}{quote}") == (base, quote)


@given(CURRENCY, st.sampled_from(QUOTES))
def test_without_one_the_longest_known_quote_is_taken(base: str, quote: str) -> None:
    pair = pair_of(base + quote)
    assert pair is not None
    assert pair.base + pair.quote == base + quote
    assert pair.quote in QUOTES
    assert len(pair.quote) >= len(quote)


@given(st.text(max_size=20))
def test_any_text_is_a_pair_of_its_parts_or_none(text: str) -> None:
    pair = pair_of(text)
    if pair is not None:
        assert pair.base
        assert pair.quote
        assert text in {pair.base + separator + pair.quote for separator in ("", "/", "-")}


@pytest.mark.parametrize(
    ("symbol", "pair"),
    [
        ("BTCUSDT", ("BTC", "USDT")),
        ("BTCFDUSD", ("BTC", "FDUSD")),
        ("ETHBTC", ("ETH", "BTC")),
        ("USDCUSDT", ("USDC", "USDT")),
        ("BTC-USD", ("BTC", "USD")),
        ("PEPE/USDT", ("PEPE", "USDT")),
        ("币安人生USDT", ("币安人生", "USDT")),
        ("USDT", None),
        ("", None),
        (ALL, None),
        ("BTC-261225-100000-C", None),
        ("BTC/", None),
        ("/USDT", None),
        ("BTCUSDT_261225", None),
    ],
)
def test_pairs_as_people_write_them(symbol: str, pair: tuple[str, str] | None) -> None:
    assert pair_of(symbol) == pair


# Symbols


@pytest.mark.parametrize(
    ("name", "written", "spelt"),
    [
        ("BINANCE_SPOT", "BTC/USDT", "BTCUSDT"),
        ("BINANCE_SPOT", "PEPE/USDT", "PEPEUSDT"),
        ("BINANCE_FUTURES", "PEPE/USDT", "1000PEPEUSDT"),
        ("BINANCE_FUTURES", "PEPEUSDT", "1000PEPEUSDT"),
        ("BINANCE_FUTURES", "PEPE-USDT", "1000PEPEUSDT"),
        ("BINANCE_FUTURES", "1000PEPEUSDT", "1000PEPEUSDT"),
        ("BINANCE_FUTURES", "PEPE/USDC", "PEPEUSDC"),
        ("BINANCE_FUTURES", "BTCUSDT_261225", "BTCUSDT_261225"),
        ("KRAKEN", "BTCUSD", "BTC/USD"),
        ("COINBASE", "BTC/USD", "BTC-USD"),
    ],
)
def test_one_instrument_is_spelt_as_each_venue_spells_it(name: str, written: str, spelt: str) -> None:
    assert venue_symbol(SOURCES[name], written, MAP) == spelt


@pytest.mark.parametrize("source", OF_A_SYMBOL, ids=lambda source: source.name)
@given(base=CURRENCY, quote=st.sampled_from(QUOTES))
def test_however_a_pair_is_written_it_is_the_same_symbol(source: Source, base: str, quote: str) -> None:
    pair = pair_of(base + quote)
    assert pair is not None
    symbols = {venue_symbol(source, f"{pair.base}{mark}{pair.quote}", MAP) for mark in ("", "/", "-")}
    assert len(symbols) == 1


@EACH
@given(base=CURRENCY, quote=CURRENCY, other=CURRENCY)
def test_the_map_comes_first(source: Source, base: str, quote: str, other: str) -> None:
    assert venue_symbol(source, f"{base}/{quote}", {source.venue: {f"{base}/{quote}": other}}) == other
    assert venue_symbol(source, f"{base}-{quote}", {source.venue: {f"{base}/{quote}": other}}) == other
    assert venue_symbol(source, f"{base}-{quote}", {source.venue: {f"{base}-{quote}": other}}) == other
    assert venue_symbol(source, f"{base}/{quote}", {"NOWHERE": {f"{base}/{quote}": other}}) == source.symbol_of(
        base, quote
    )


def test_the_map_renames_what_is_no_pair_too() -> None:
    assert venue_symbol(FUTURES, "NEXT", {"BINANCE_FUTURES": {"NEXT": "BTCUSDT_261225"}}) == "BTCUSDT_261225"


# Demands


ALL_OF = {source.name: set(source.channels) for source in SOURCES.values()}
BY_SYMBOL = {channel for source in OF_A_SYMBOL for channel in source.channels}


def channels(source: Source, *demands: Demand, routing: RoutingSettings = ROUTING) -> set[str]:
    """What demands want of a source, of whatever symbol."""
    wants = wanted(demands, SOURCES.values(), routing).get(source.name, {})
    return {channel for of_symbol in wants.values() for channel in of_symbol}


@EACH
def test_a_demand_for_one_symbol_wants_every_source_of_symbols_and_no_market(source: Source) -> None:
    assert channels(source, demand("BTCUSDT")) == (ALL_OF[source.name] if source.scope == "symbol" else set())
    assert wanted([demand(ALL)], SOURCES.values(), ROUTING)[source.name] == {ALL: frozenset(source.channels)}


@EACH
@pytest.mark.parametrize("symbol", ["BTCUSDT", ALL])
def test_a_source_is_named_by_itself_by_its_venue_or_by_a_channel(source: Source, symbol: str) -> None:
    wants = channels(source, demand(symbol))
    assert channels(source, demand(symbol, (source.name,))) == wants
    assert channels(source, demand(symbol, (source.venue,))) == wants
    assert channels(source, demand(symbol, ("NOWHERE",))) == set()
    for channel in source.channels:
        composite = f"{source.venue}:{channel.upper()}"
        assert channels(source, demand(symbol, (composite,))) == wants & {channel}


@EACH
@pytest.mark.parametrize("output", NEEDS)
def test_an_output_starts_what_it_is_made_of_and_nothing_else(source: Source, output: str) -> None:
    needed = {origin(output)} & set(source.channels)
    if source.scope == "market":
        needed -= BY_SYMBOL  # a demand for one symbol's trades does not start a market's
    assert channels(source, demand("BTCUSDT", outputs=(output,))) == needed
    assert channels(source, demand("BTCUSDT", ("NOWHERE",), (output,))) == set()
    assert channels(source, demand(ALL, (source.name,), (output,))) == {origin(output)} & set(source.channels)


def test_an_output_of_a_later_version_starts_nothing() -> None:
    assert feeds_of(demand("BTCUSDT", outputs=("nothing",)), SOURCES.values(), ROUTING) == []


@EACH
def test_a_demand_that_names_no_venue_means_the_default_ones(source: Source) -> None:
    anything = demand("BTCUSDT" if source.scope == "symbol" else ALL)
    everything = ALL_OF[source.name]

    def by_default(*venues: str) -> set[str]:
        return channels(source, anything, routing=RoutingSettings(venues=list(venues)))

    assert by_default(source.venue) == by_default(source.name) == everything
    assert by_default() == by_default("NOWHERE") == set()
    only = demand(anything.symbol, (source.name,))
    assert channels(source, only, routing=RoutingSettings(venues=["NOWHERE"])) == everything


def test_every_channel_of_a_venue_has_one_source() -> None:
    """A feed names its venue and its channel: that says who collects it."""
    places = [(source.venue, channel) for source in SOURCES.values() for channel in source.channels]
    assert len(places) == len(set(places))


def test_feeds_that_a_demand_names_itself_are_not_looked_for_again() -> None:
    """Who made it has found them; the settings here may say otherwise."""
    named = (FeedName("KRAKEN", "trades", "XBT/USD"), FeedName("NOWHERE", "trades", "BTC"))
    made = Demand(demand_id="d", user="u", symbol="BTC/USD", created_time=1, feeds=named)
    assert wanted([made], SOURCES.values(), ROUTING) == {"KRAKEN": {"XBT/USD": frozenset({"trades"})}}


def test_what_is_wanted_is_the_union_of_all_demands() -> None:
    demands = [
        demand("BTCUSDT", ("BINANCE_SPOT",), ("bars.tib",)),
        demand("BTC/USDT", ("BINANCE_SPOT", "BINANCE_FUTURES"), ("books",)),
        demand("PEPE/USDT", ("BINANCE_FUTURES",), ("klines",)),
        demand(ALL, ("BINANCE_FUTURES_LIQUIDATIONS",)),
    ]
    assert wanted(demands, SOURCES.values(), ROUTING) == {
        "BINANCE_SPOT": {"BTCUSDT": frozenset({"trades", "books"})},
        "BINANCE_FUTURES": {"BTCUSDT": frozenset({"books"})},
        "BINANCE_FUTURES_KLINES": {ALL: frozenset({"klines"})},
        "BINANCE_FUTURES_LIQUIDATIONS": {ALL: frozenset({"liquidations"})},
    }
    assert wanted([], SOURCES.values(), ROUTING) == {}


@given(st.lists(st.tuples(st.sampled_from(["BTCUSDT", "ETH/USDT", ALL]), st.sampled_from([*SOURCES, "DERIBIT"]))))
def test_more_demands_never_want_less(chosen: list[tuple[str, str]]) -> None:
    demands = [demand(symbol, (venue,)) for symbol, venue in chosen]
    whole = wanted(demands, SOURCES.values(), ROUTING)
    for at in range(len(demands)):
        for name, symbols in wanted(demands[:at], SOURCES.values(), ROUTING).items():
            assert all(channels <= whole[name][symbol] for symbol, channels in symbols.items())
    assert all(set(symbols) == {ALL} for name, symbols in whole.items() if SOURCES[name].scope == "market")
