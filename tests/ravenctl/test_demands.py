"""Demands: who wants what, and what a start or a stop changes; what is planned is what the rooms then do."""

from collections.abc import Iterable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.registry import SOURCES
from producers.routing import wanted as collected
from ravencore.config import BarsSettings, PlainBarProfile, RoutingSettings, Settings
from ravencore.graph import ALL, BY_INSTRUMENT, NEEDS, STORES, Standing, origin
from ravencore.pairs import pair_of
from ravencore.records import Demand, FeedName
from ravenctl import demands, plans
from ravenctl.demands import Wanted, names_of, places
from ravenctl.shell import WrongUse

SPOT = "BINANCE_SPOT"
VENUES = (SPOT, "KRAKEN", "COINBASE")
ROUTING = RoutingSettings(venues=list(VENUES), symbols=["BTC/USDT"])
BARS = BarsSettings.model_validate(
    {
        **{key: {"x": {}} for key in ("dib", "vrb", "drb")},
        **{key: {"x": PlainBarProfile(size="1")} for key in ("tick", "volume", "dollar")},
    }
)
SETTINGS = Settings(routing=ROUTING, bars=BARS)
"""With a profile of every kind of bar."""
BTC = Wanted("ann", ("BTCUSDT",), (SPOT,))
BTC_FEEDS = [FeedName(SPOT, channel, "BTCUSDT") for channel in ("trades", "books", "quotes")]


def make(
    user: str, venues: Iterable[str], symbol: str, outputs: Iterable[str] = (), stores: Iterable[str] = ()
) -> Demand:
    return demands.make(user, [*venues], symbol, [*outputs], [*stores], routing=ROUTING, now_us=1)


def standing(*made: Demand) -> dict[str, Demand]:
    return {demand.demand_id: demand for demand in made}


def start(want: Wanted, before: Mapping[str, Demand], now_us: int = 1) -> dict[str, Demand]:
    return demands.to_start(want, before, ROUTING, now_us)


def stop(want: Wanted, before: Mapping[str, Demand], *, all_users: bool = False) -> dict[str, Demand]:
    """What stands after a stop."""
    return demands.after(before, demands.to_stop(want, before, ROUTING, all_users=all_users))


# As they are written


def test_a_demand_has_one_id_however_it_is_written() -> None:
    first = make("ann", ["KRAKEN", SPOT], "BTCUSDT", ["trades", "bars.tib"], ["lake", "influx"])
    again = make("ann", [SPOT, "KRAKEN"], "BTCUSDT", ["bars.tib", "trades"], ["influx", "lake"])
    assert first.demand_id == again.demand_id
    assert make("bob", [SPOT], "BTCUSDT").demand_id != make("ann", [SPOT], "BTCUSDT").demand_id
    assert make("ann", [SPOT], "BTCUSDT", [], ["lake"]).demand_id != make("ann", [SPOT], "BTCUSDT").demand_id


def test_the_id_is_what_others_have_stored() -> None:
    assert demands.demand_id("ann", [SPOT], "BTCUSDT", []) == "f68a4c7a0cd34a13"


@given(st.lists(st.tuples(*[st.text(max_size=3)] * 4), max_size=20, unique=True))
def test_different_demands_have_different_ids(made: list[tuple[str, str, str, str]]) -> None:
    ids = {demands.demand_id(user, [venue], symbol, [], [store]) for user, venue, symbol, store in made}
    assert len(ids) == len(made)


def test_a_demand_names_the_feeds_that_it_comes_to() -> None:
    assert list(make("ann", [SPOT], "BTC/USDT").feeds) == BTC_FEEDS
    assert list(make("ann", [SPOT], "BTC/USDT", ["bars.tib"]).feeds) == BTC_FEEDS[:1]
    assert make("ann", ["KRAKEN:TRADES"], "BTC/USDT").feeds == (FeedName("KRAKEN", "trades", "BTC/USDT"),)


# From options


def test_symbols_and_venues_are_upper_cased_and_named_once() -> None:
    want = demands.wanted(["btcusdt", "BTCUSDT", "ethusdt"], ["binance_spot"], "ann")
    assert want == Wanted("ann", ("BTCUSDT", "ETHUSDT"), (SPOT,))


def test_lists_may_be_written_with_commas_and_outputs_short() -> None:
    want = demands.wanted(["BTCUSDT"], ["kraken, coinbase"], "ann", ["tib,VPIN", "trades"], ["influx,lake"])
    assert want.venues == ("COINBASE", "KRAKEN")
    assert want.outputs == ("bars.tib", "trades", "vpin")
    assert want.stores == ("influx", "lake")
    assert len(demands.named_outputs(["bars"])) == 10


@pytest.mark.parametrize("symbol", ["", " ", "BTC USDT", "-BTC", "ÄTH", "x" * 65])
def test_what_is_no_symbol(symbol: str) -> None:
    with pytest.raises(WrongUse, match="for example BTCUSDT"):
        demands.wanted([symbol], None, "ann")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"venues": ["KRAKN"]}, "did you mean KRAKEN"),
        ({"venues": ["KRAKEN:TRADE"]}, "did you mean KRAKEN:TRADES"),
        ({"outputs": ["fundings"]}, "did you mean funding"),
        ({"stores": ["timescal"]}, "did you mean timescale"),
    ],
)
def test_a_wrong_name_is_said_with_the_nearest_right_one(options: dict[str, Any], says: str) -> None:
    with pytest.raises(WrongUse, match=says):
        demands.wanted(**{"symbols": ["BTCUSDT"], "venues": None, "user": "ann", **options})


def test_what_comes_to_nothing_is_refused_with_the_way_out() -> None:
    with pytest.raises(WrongUse, match="KRAKEN brings nothing that klines is made of"):
        start(Wanted("ann", ("BTCUSDT",), ("KRAKEN",), ("klines",)), {})
    with pytest.raises(WrongUse, match="BINANCE_FUTURES_KLINES is collected as a whole: leave --symbol out"):
        start(Wanted("ann", ("BTCUSDT",), ("BINANCE_FUTURES_KLINES",)), {})


def test_every_symbol_is_started_of_a_venue_and_stopped_of_any() -> None:
    with pytest.raises(WrongUse, match="name it with --venue"):
        start(demands.wanted([ALL], None, "ann"), {})
    every, one = make("ann", ["KRAKEN"], ALL), make("ann", ["KRAKEN"], "BTCUSDT")
    assert stop(demands.wanted([ALL], None, "ann"), standing(every, one)) == standing(one)


def test_without_a_symbol_all_that_is_configured_is_meant_step_by_step() -> None:
    everywhere = RoutingSettings(symbols=["BTC/USDT", "ETH/USDT"])
    steps = dict(Wanted("ann", ()).steps(everywhere, 1))
    assert list(steps) == ["instruments", "whole markets", "what is asked for over REST", "Deribit"]
    assert [demand.symbol for demand in steps["instruments"]] == ["BTC/USDT", "ETH/USDT"]
    assert [demand.symbol for title in list(steps)[1:] for demand in steps[title]] == [ALL] * 3
    named = [name for title in list(steps)[1:] for demand in steps[title] for name in demand.venues]
    assert sorted(named) == sorted(name for name, source in SOURCES.items() if source.scope == "market")
    only = dict(Wanted("ann", (), ("BINANCE_FUTURES_KLINES",)).steps(everywhere, 1))
    assert [one.venues for one in only["whole markets"]] == [("BINANCE_FUTURES_KLINES",)]
    assert list(only) == ["whole markets"]
    assert Wanted("ann", (), ("BINANCE_OPTIONS",), ("klines",)).demands(everywhere, 1) == []


# Venues

NAMES = st.lists(st.sampled_from(demands.known_venues()), max_size=5)


@given(NAMES)
def test_names_of_places_mean_these_places(names: list[str]) -> None:
    chosen = places(names)
    assert places(names_of(chosen)) == chosen
    assert len(names_of(chosen)) <= len(chosen)


@given(NAMES, NAMES, NAMES)
def test_included_and_excluded_venues(named: list[str], more: list[str], less: list[str]) -> None:
    left = places([*(named or VENUES), *more]) - places(less)
    if more or less:
        if not left:
            with pytest.raises(WrongUse, match="leaves no venue"):
                demands.chosen_venues(named, more, less, ROUTING)
            return
        assert places(demands.chosen_venues(named, more, less, ROUTING)) == left
    else:
        assert demands.chosen_venues(named, more, less, ROUTING) == tuple(sorted(set(named)))


# Starts and stops


def test_a_second_start_changes_nothing() -> None:
    changes = start(BTC, {})
    assert len(changes) == 1
    assert start(BTC, changes, 2) == {}


def test_a_start_after_the_settings_changed_writes_the_new_feeds_and_keeps_the_time() -> None:
    (before,) = start(BTC, {}).values()
    renamed = RoutingSettings(symbol_map={SPOT: {"BTC/USDT": "1000BTCUSDT"}})
    (made,) = demands.to_start(BTC, standing(before), renamed, 2).values()
    assert {feed.symbol for feed in made.feeds} == {"1000BTCUSDT"}
    assert (made.demand_id, made.created_time) == (before.demand_id, before.created_time)


def test_stopping_withdraws_ones_own_only() -> None:
    ann, bob = (make(user, [SPOT], "BTCUSDT") for user in ("ann", "bob"))
    assert stop(BTC, standing(ann, bob)) == standing(bob)
    assert stop(BTC, standing(ann, bob), all_users=True) == {}


def test_a_symbol_is_stopped_however_it_was_written() -> None:
    assert stop(Wanted("ann", ("BTC/USDT",)), standing(make("ann", [], "BTCUSDT"))) == {}
    others = standing(make("ann", [], "BTCUSDC"), make("ann", [], "ETHUSDT"))
    assert stop(Wanted("ann", ("BTC/USDT",)), others) == others


def test_stopping_one_venue_of_several_narrows_the_demand() -> None:
    left = stop(BTC, standing(make("ann", [], "BTCUSDT")))
    assert left == standing(make("ann", ["COINBASE", "KRAKEN"], "BTCUSDT"))
    (rest,) = stop(Wanted("ann", ("BTCUSDT",), ("COINBASE:TRADES",)), left).values()
    assert rest.venues == ("COINBASE:QUOTES", "COINBASE_BOOKS", "KRAKEN")


def test_a_stop_narrows_by_what_the_demand_says_and_not_by_the_settings_here() -> None:
    before = standing(make("ann", [], "BTCUSDT"))
    elsewhere = RoutingSettings(venues=["KRAKEN"], symbol_map={"COINBASE": {"BTC/USDT": "ODD"}})
    want = Wanted("ann", ("BTCUSDT",), ("KRAKEN",))
    (rest,) = demands.after(before, demands.to_stop(want, before, elsewhere)).values()
    (whole,) = before.values()
    assert rest.venues == ("BINANCE_SPOT", "COINBASE")
    assert set(rest.feeds) == {feed for feed in whole.feeds if feed.venue != "KRAKEN"}


def test_what_every_symbol_is_wanted_for_neither_begins_nor_ends_with_one() -> None:
    every, one = make("ann", ["KRAKEN"], ALL), make("bob", ["KRAKEN"], "BTCUSDT")
    want = Wanted("bob", ("BTCUSDT",), ("KRAKEN",))
    assert plans.plan(standing(every), start(want, standing(every)), SETTINGS).begins == ()
    found = plans.plan_stop(want, standing(every, one), SETTINGS)
    assert found.ends == ()
    assert set(found.stays.values()) == {("ann",)}
    assert {feed.symbol for feed in found.stays} == {"BTC/USDT"}


@pytest.mark.parametrize("empty", ["", " ", "tib,"])
def test_an_empty_name_is_not_all(empty: str) -> None:
    with pytest.raises(WrongUse, match="names nothing"):
        demands.named_outputs([empty])


def test_with_outputs_or_stores_only_demands_made_so_are_stopped() -> None:
    everything, tib, kept = (
        make("ann", [], "BTCUSDT"),
        make("ann", [], "BTCUSDT", ["bars.tib"]),
        make("ann", [], "BTCUSDT", [], ["lake"]),
    )
    before = standing(everything, tib, kept)
    assert stop(Wanted("ann", ("BTCUSDT",), (), ("bars.tib",)), before) == standing(everything, kept)
    assert stop(Wanted("ann", ("BTCUSDT",), (), (), ("lake",)), before) == standing(everything, tib)
    assert stop(Wanted("ann", ()), before) == {}


def test_what_a_stop_passes_over_is_what_it_would_withdraw_without_outputs_and_stores() -> None:
    everything, tib = make("ann", [], "BTCUSDT"), make("ann", [], "BTCUSDT", ["bars.tib"])
    before = standing(everything, tib, make("ann", [], "ETHUSDT"), make("bob", [], "BTCUSDT"))
    vpin = Wanted("ann", ("BTCUSDT",), (), ("vpin",))
    assert demands.passed_over(vpin, before, ROUTING) == [everything, tib]
    assert demands.passed_over(Wanted("ann", ("BTCUSDT",), (), ("bars.tib",)), before, ROUTING) == [everything]
    assert demands.passed_over(BTC, before, ROUTING) == []


def test_one_source_of_a_market_is_stopped_and_the_others_stay() -> None:
    markets = ["DERIBIT_INDEX", "DERIBIT_OPTIONS", "DERIBIT_TRADES"]
    left = stop(Wanted("ann", (ALL,), ("DERIBIT_TRADES",)), standing(make("ann", markets, ALL)))
    assert [demand.venues for demand in left.values()] == [("DERIBIT_INDEX", "DERIBIT_OPTIONS")]


USERS = st.sampled_from(["ann", "bob"])
SOME_VENUES = st.lists(
    st.sampled_from([*VENUES, "DERIBIT", "KRAKEN:TRADES", "COINBASE_BOOKS"]), max_size=3, unique=True
)
SYMBOLS = st.sampled_from(["BTCUSDT", "BTC/USDT", "ETHUSDT", ALL])
SOME_OUTPUTS = st.lists(st.sampled_from(["trades", "books", "bars.tib", "vpin", "spot_mid", "klines"]), max_size=2)
SOME_STORES = st.lists(st.sampled_from(sorted(STORES)), max_size=2, unique=True)
DEMANDS = st.lists(
    st.builds(make, USERS, SOME_VENUES, SYMBOLS, SOME_OUTPUTS, SOME_STORES).filter(
        lambda made: made.symbol != ALL or bool(made.venues)
    ),
    max_size=6,
)
WANTS = st.builds(
    lambda user, symbols, venues, outputs, stores: Wanted(
        user, tuple(dict.fromkeys(symbols)), tuple(sorted(venues)), tuple(sorted(set(outputs))), tuple(sorted(stores))
    ),
    USERS,
    st.lists(SYMBOLS, max_size=2),
    SOME_VENUES,
    SOME_OUTPUTS,
    SOME_STORES,
)


def feeds(of: Iterable[Demand], user: str) -> set[FeedName]:
    return {feed for demand in of if demand.user == user for feed in demand.feeds}


@given(DEMANDS, SOME_VENUES)
def test_a_stop_takes_exactly_what_it_names(made: list[Demand], venues: list[str]) -> None:
    before = standing(*made)
    want = Wanted("ann", ("BTCUSDT",), tuple(venues))
    left = stop(want, before)
    gone = places(venues or demands.known_venues())
    named = [one for one in made if one.user == "ann" and one.symbol in {"BTCUSDT", "BTC/USDT"}]
    kept = {feed for feed in feeds(named, "ann") if (feed.venue, feed.channel) not in gone}
    others = [one for one in made if one not in named]
    assert feeds(left.values(), "ann") == kept | feeds(others, "ann")
    assert feeds(left.values(), "bob") == feeds(made, "bob")
    assert demands.to_stop(want, left, ROUTING) == {}


# Plans


LISTED = {
    SPOT: ("BTCUSDT", "ETHUSDT", "XRPUSDT"),
    "KRAKEN": ("BTC/USDT", "ETH/USDT", "XRP/USDT"),
    "COINBASE": ("BTC-USDT", "ETH-USDT", "XRP-USDT"),
    "DERIBIT": ("BTC_USDT", "ETH_USDT", "XRP_USDT"),
}
WHOLE = {
    (source.venue, channel) for source in SOURCES.values() if source.scope == "market" for channel in source.channels
}
Derived = tuple[str, str, str]
"""Kafka key, output, and where: a store, or in its topic."""


def kafka_key(feed: FeedName, output: str) -> str:
    if origin(output) in BY_INSTRUMENT:
        return f"{feed.venue}:{feed.symbol}"
    pair = pair_of(feed.symbol)
    return f"{pair.base}-{pair.quote}" if pair else feed.symbol


def listed(venue: str, channel: str, symbol: str) -> tuple[str, ...]:
    """What a symbol is; a market that is collected as a whole stays one thing."""
    return LISTED[venue] if symbol == ALL and (venue, channel) not in WHOLE else (symbol,)


def in_the_rooms(made: Iterable[Demand]) -> tuple[set[FeedName], set[Derived]]:
    """What the collector subscribes, and what the engine publishes and sinks keep of that, by the rooms' own rules."""
    made = [*made]
    subscribed = {
        FeedName(SOURCES[name].venue, channel, one)
        for name, wants in collected(made, SOURCES.values(), ROUTING).items()
        for symbol, channels in wants.items()
        for channel in channels
        for one in listed(SOURCES[name].venue, channel, symbol)
    }
    view = Standing(made)
    derived: set[Derived] = set()
    for feed in subscribed:
        for output in (one for one in NEEDS if origin(one) == feed.channel):
            key = kafka_key(feed, output)
            if output in (view.wanted(feed.channel, key) or ()):
                derived.add((key, output, "topic"))
            derived |= {
                (key, output, store) for store in STORES if output in STORES[store] and view.keeps(store, output, key)
            }
    return subscribed, derived


def channel_of(thing: plans.Thing) -> str:
    return thing.channel if isinstance(thing, FeedName) else origin(thing.output)


def named(thing: plans.Thing, symbol: str) -> plans.Thing:
    if isinstance(thing, FeedName):
        return FeedName(thing.venue, thing.channel, symbol)
    return thing._replace(symbol=symbol)


def in_the_plan(things: Iterable[plans.Thing]) -> tuple[set[FeedName], set[Derived]]:
    each = [named(thing, one) for thing in things for one in listed(thing.venue, channel_of(thing), thing.symbol)]
    subscribed = {thing for thing in each if isinstance(thing, FeedName)}
    derived = {
        (
            kafka_key(FeedName(thing.venue, "", thing.symbol), thing.output),
            thing.output,
            thing.store if isinstance(thing, plans.Kept) else "topic",
        )
        for thing in each
        if not isinstance(thing, FeedName)
    }
    return subscribed, derived


@given(DEMANDS, WANTS, st.booleans(), st.booleans())
def test_what_is_planned_is_what_then_happens(made: list[Demand], want: Wanted, stops: bool, everybody: bool) -> None:
    """What the rooms do after, less what they do before, is what the plan says begins; and so for what ends."""
    before = standing(*made)
    try:
        found = (
            plans.plan_stop(want, before, SETTINGS, all_users=everybody)
            if stops
            else plans.plan(before, start(want, before), SETTINGS)
        )
    except WrongUse:
        return
    now = demands.after(before, found.changes)
    for had, have in zip(in_the_plan(plans.running(now.values(), SETTINGS)), in_the_rooms(now.values()), strict=True):
        assert had == have
    (feeds_before, derived_before), (feeds_now, derived_now) = (in_the_rooms(one.values()) for one in (before, now))
    begun, ended = in_the_plan(found.begins), in_the_plan(found.ends)
    # Every symbol may begin where some run by name, and end where some go on.
    assert begun[0] - feeds_before == feeds_now - feeds_before
    assert ended[0] - feeds_now == feeds_before - feeds_now
    assert not {thing for thing in found.begins if thing in feeds_before}
    assert not {thing for thing in found.ends if thing in feeds_now}
    # A pair is one in the rooms, whichever venue it comes from: of one, it may run before, or go on.
    assert begun[1] - derived_before == derived_now - derived_before
    assert ended[1] - derived_now == derived_before - derived_now
    assert in_the_plan(found.stays)[0] <= feeds_now
    assert not (found.begins if stops else found.ends)


def test_a_plan_says_what_stays_and_for_whom() -> None:
    ann, bob = (make(user, [SPOT], "BTCUSDT") for user in ("ann", "bob"))
    before = standing(ann, bob)
    found = plans.plan_stop(BTC, before, SETTINGS)
    assert found.stays == dict.fromkeys(BTC_FEEDS, ("bob",))
    assert not found.begins
    assert not found.ends
    # Also to whom has no demand of it.
    others = plans.plan_stop(Wanted("carl", ("BTCUSDT",)), before, SETTINGS)
    assert others.stays == dict.fromkeys(BTC_FEEDS, ("ann", "bob"))
    assert not others.changes


def test_a_plan_of_tib_alone() -> None:
    found = plans.plan({}, start(Wanted("ann", ("BTCUSDT",), (SPOT,), ("bars.tib",), ("timescale",)), {}), SETTINGS)
    assert found.begins == (
        FeedName(SPOT, "trades", "BTCUSDT"),
        plans.Made(SPOT, "BTCUSDT", "bars.tib"),
        plans.Kept("timescale", SPOT, "BTCUSDT", "bars.tib"),
        plans.Made(SPOT, "BTCUSDT", "trades"),
    )
