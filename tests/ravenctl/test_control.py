"""Demands: who wants what, what a start or stop changes, and how it is known to have happened."""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.registry import SOURCES
from ravencore.config import RoutingSettings
from ravencore.records import Demand, FeedName, ServiceStatus, Subscription
from ravenctl import control
from ravenctl.control import Wanted
from ravenctl.shell import WrongUse

SPOT = "BINANCE_SPOT"
VENUES = (SPOT, "KRAKEN", "COINBASE")
ROUTING = RoutingSettings(venues=list(VENUES))


def status(service: str, state: Any = "RUNNING", error: str | None = None, **feeds: str) -> ServiceStatus:
    subscriptions = tuple(
        Subscription(venue=SPOT, channel=channel, symbol="BTCUSDT", state=feed)  # type: ignore[arg-type]
        for channel, feed in feeds.items()
    )
    return ServiceStatus(
        service=service,
        instance=f"{service}-0",
        host="here",
        pid=1,
        version="0",
        state=state,
        started_time=0,
        reported_time=0,
        subscriptions=subscriptions,
        last_error=error,
    )


OTHERS = [status(name) for name in ("engine", "sink-influx", "sink-timescale")]
BTC = Wanted("ann", ("BTCUSDT",), (SPOT,))
BTC_FEEDS = [FeedName(SPOT, channel, "BTCUSDT") for channel in ("trades", "books", "quotes")]


def test_a_demand_has_one_id_however_it_is_written() -> None:
    first = control.make("ann", ["KRAKEN", SPOT], "BTCUSDT", ["trades", "bars.tib"], 1)
    again = control.make("ann", [SPOT, "KRAKEN"], "BTCUSDT", ["bars.tib", "trades"], 2)
    assert first.demand_id == again.demand_id
    assert (
        control.make("bob", [SPOT], "BTCUSDT", [], 1).demand_id
        != control.make("ann", [SPOT], "BTCUSDT", [], 1).demand_id
    )


def test_the_id_is_what_others_have_stored() -> None:
    assert control.demand_id("ann", [SPOT], "BTCUSDT", []) == "f68a4c7a0cd34a13"


@given(st.lists(st.tuples(*[st.text(max_size=3)] * 3), max_size=20, unique=True))
def test_different_demands_have_different_ids(made: list[tuple[str, str, str]]) -> None:
    ids = {control.demand_id(user, [venue], symbol, []) for user, venue, symbol in made}
    assert len(ids) == len(made)


def test_symbols_and_venues_are_upper_cased_and_named_once() -> None:
    want = control.wanted(["btcusdt", "BTCUSDT", "ethusdt"], ["binance_spot"], "ann")
    assert want == Wanted("ann", ("BTCUSDT", "ETHUSDT"), (SPOT,))


@pytest.mark.parametrize("symbol", ["", " ", "BTC USDT", "BTC\n", "-BTC", "ÄTH", "x" * 65])
def test_what_is_no_symbol(symbol: str) -> None:
    with pytest.raises(WrongUse, match="for example BTCUSDT"):
        control.wanted([symbol + "!" if symbol == "BTC\n" else symbol], None, "ann")


def standing(*demands: Demand) -> dict[str, Demand]:
    return {demand.demand_id: demand for demand in demands}


def after(before: Mapping[str, Demand], changes: control.Changes) -> dict[str, Demand]:
    return {name: demand for name, demand in {**before, **changes}.items() if demand}


def test_a_second_start_changes_nothing() -> None:
    changes = control.to_start(BTC, {}, 1)
    assert len(changes) == 1
    assert control.to_start(BTC, after({}, changes), 2) == {}


def test_a_second_start_tells_the_demand_again_so_that_what_was_given_up_is_tried() -> None:
    before = after({}, control.to_start(BTC, {}, 1))
    others = standing(control.make("bob", [SPOT], "BTCUSDT", [], 1))
    assert control.repeated(BTC, {**others, **before}) == before
    assert control.repeated(BTC, others) == {}


def test_stopping_withdraws_ones_own_only() -> None:
    ann, bob = (control.make(user, [SPOT], "BTCUSDT", [], 1) for user in ("ann", "bob"))
    before = standing(ann, bob)
    left = after(before, control.to_stop(BTC, before, ROUTING, all_users=False, now_us=2))
    assert left == standing(bob)
    assert control.needing(BTC, left.values(), ROUTING) == {feed: ["bob"] for feed in BTC_FEEDS}
    assert after(before, control.to_stop(BTC, before, ROUTING, all_users=True, now_us=2)) == {}


def test_stopping_one_venue_of_several_narrows_the_demand() -> None:
    before = standing(control.make("ann", [], "BTCUSDT", [], 1))
    left = after(before, control.to_stop(BTC, before, ROUTING, all_users=False, now_us=2))
    assert left == standing(control.make("ann", ["COINBASE", "COINBASE_BOOKS", "KRAKEN"], "BTCUSDT", [], 1))


some_demands = st.lists(
    st.builds(
        control.make,
        st.sampled_from(["ann", "bob"]),
        st.lists(st.sampled_from(VENUES), unique=True),
        st.sampled_from(["BTCUSDT", "ETHUSDT"]),
        st.just([]),
        st.just(1),
    )
)


def feeds(demands: Iterable[Demand], user: str) -> set[tuple[str, str]]:
    names = ((name, d.symbol) for d in demands if d.user == user for name in d.venues or VENUES)
    return {(SOURCES[name].venue, symbol) for name, symbol in names}


@given(some_demands, st.lists(st.sampled_from(VENUES), unique=True))
def test_a_stop_takes_exactly_what_it_names(demands: list[Demand], venues: list[str]) -> None:
    before = standing(*demands)
    want = Wanted("ann", ("BTCUSDT",), tuple(venues))
    left = after(before, control.to_stop(want, before, ROUTING, all_users=False, now_us=2)).values()
    ended = {(venue, "BTCUSDT") for venue in venues or VENUES}
    assert feeds(left, "ann") == feeds(demands, "ann") - ended
    assert feeds(left, "bob") == feeds(demands, "bob")
    again = standing(*left)
    assert control.to_stop(want, again, ROUTING, all_users=False, now_us=3) == {}


# Whether it has happened


def test_running_means_both_feeds_flow_and_every_service_runs() -> None:
    collector = status("collector", trades="FLOWING", books="FLOWING", quotes="FLOWING")
    assert control.starting(BTC, [collector, *OTHERS], ROUTING) == control.Progress(())


@pytest.mark.parametrize(
    ("statuses", "says"),
    [
        ([], "collector: not seen"),
        ([status("collector", "DEGRADED", "Kafka is away"), *OTHERS], "collector: DEGRADED, Kafka is away"),
        ([status("collector", trades="FLOWING"), *OTHERS], "books of BINANCE_SPOT:BTCUSDT: not subscribed yet"),
        (
            [status("collector", trades="SUBSCRIBED", books="FLOWING", quotes="FLOWING"), *OTHERS],
            "nothing has come yet",
        ),
        (
            [status("collector", trades="SILENT", books="FLOWING", quotes="FLOWING"), *OTHERS],
            "trades of BINANCE_SPOT:BTCUSDT: silent for longer than is usual",
        ),
        (
            [status("collector", "DEGRADED", "given up", trades="FAILED", books="FLOWING", quotes="FLOWING"), *OTHERS],
            "trades of BINANCE_SPOT:BTCUSDT: FAILED, given up",
        ),
        ([status("collector", trades="FLOWING", books="FLOWING", quotes="FLOWING"), *OTHERS[1:]], "engine: not seen"),
        (
            [
                status("collector", trades="FLOWING", books="FLOWING", quotes="FLOWING"),
                *OTHERS[:2],
                status("sink-timescale", "FAILED", "no"),
            ],
            "sink-timescale: FAILED, no",
        ),
    ],
)
def test_what_is_not_running_is_said_with_its_reason(statuses: list[ServiceStatus], says: str) -> None:
    missing = control.starting(BTC, statuses, ROUTING).missing
    assert any(says in reason for reason in missing), missing


def test_a_collector_that_lacks_another_venue_does_not_hold_up_what_flows() -> None:
    feeds = {"trades": "FLOWING", "books": "FLOWING", "quotes": "FLOWING"}
    elsewhere = status("collector", "DEGRADED", "KRAKEN cannot be reached", **feeds)
    assert control.starting(BTC, [elsewhere, *OTHERS], ROUTING) == control.Progress(())
    without = control.starting(BTC, [status("collector", "DEGRADED", "Kafka is away"), *OTHERS], ROUTING)
    assert without.missing == ("collector: DEGRADED, Kafka is away",)


def test_a_feed_that_was_given_up_says_all_that_there_is_to_say() -> None:
    feeds = {"trades": "FAILED", "books": "FLOWING", "quotes": "CONNECTING"}
    progress = control.starting(BTC, [status("collector", "DEGRADED", "given up", **feeds), *OTHERS], ROUTING)
    assert progress == control.Progress(
        (
            "quotes of BINANCE_SPOT:BTCUSDT: connecting to the venue",
            "trades of BINANCE_SPOT:BTCUSDT: FAILED, given up",
        )
    )


def test_a_refused_symbol_will_not_come_however_long_one_waits() -> None:
    collector = status(
        "collector", "RUNNING", "BINANCE_SPOT knows no BTCUSDT", trades="REFUSED", books="REFUSED", quotes="REFUSED"
    )
    assert control.starting(BTC, [collector, *OTHERS], ROUTING).refused == ("BINANCE_SPOT knows no BTCUSDT",)


def test_stopped_means_no_subscription_is_left_but_those_of_others() -> None:
    collector = status("collector", trades="FLOWING")
    assert control.stopping(BTC_FEEDS, [collector]) == ("trades of BINANCE_SPOT:BTCUSDT: FLOWING",)
    assert control.stopping(BTC_FEEDS[1:], [collector]) == ()


# Other venues, and whole markets


def everywhere(**states: str) -> ServiceStatus:
    """BTCUSDT as each venue spells it; the state of each venue's trades."""
    symbols = {SPOT: "BTCUSDT", "KRAKEN": "BTC/USDT", "COINBASE": "BTC-USDT"}
    feeds = [
        Subscription(venue=venue, channel="trades", symbol=symbols[venue], state=state)  # type: ignore[arg-type]
        for venue, state in states.items()
    ]
    return msgspec.structs.replace(status("collector"), subscriptions=tuple(feeds))


def test_a_symbol_is_waited_for_wherever_the_collector_has_taken_it_up() -> None:
    anywhere = Wanted("ann", ("BTCUSDT",))
    waiting = everywhere(BINANCE_SPOT="FLOWING", KRAKEN="WAITING")
    assert control.starting(anywhere, [waiting, *OTHERS], ROUTING).missing == (
        "trades of KRAKEN:BTC/USDT: waiting for its instrument",
    )


def test_a_venue_that_nobody_named_may_not_list_the_symbol() -> None:
    anywhere = Wanted("ann", ("BTCUSDT",))
    collector = everywhere(BINANCE_SPOT="FLOWING", KRAKEN="REFUSED")
    progress = control.starting(anywhere, [collector, *OTHERS], ROUTING)
    assert progress == control.Progress((), (), ("KRAKEN does not list BTC/USDT",))
    nowhere = control.starting(anywhere, [everywhere(BINANCE_SPOT="REFUSED", KRAKEN="REFUSED"), *OTHERS], ROUTING)
    assert len(nowhere.refused) == 2


def test_a_whole_market_runs_when_it_is_subscribed() -> None:
    want = control.wanted([], ["binance_futures_liquidations"], "ann")
    assert want.symbols == ("*",)
    feed = Subscription(venue="BINANCE_FUTURES", channel="liquidations", symbol="*", state="SUBSCRIBED")
    collector = msgspec.structs.replace(status("collector"), subscriptions=(feed,))
    assert control.starting(want, [collector], ROUTING) == control.Progress(())
    assert control.starting(want, [status("collector")], ROUTING).missing == (
        "liquidations of BINANCE_FUTURES:*: not subscribed yet",
    )
    funding = msgspec.structs.replace(feed, channel="funding")
    silent = msgspec.structs.replace(status("collector"), subscriptions=(funding,))
    assert control.starting(control.wanted([], ["binance_futures_funding"], "ann"), [silent], ROUTING).missing == (
        "funding of BINANCE_FUTURES:*: subscribed, but nothing has come yet",
    )


def test_without_a_symbol_something_must_be_named_that_needs_none() -> None:
    with pytest.raises(WrongUse, match="name a --symbol"):
        control.wanted([], [], "ann")
    with pytest.raises(WrongUse, match="KRAKEN is collected by symbol"):
        control.wanted([], ["kraken"], "ann")
    with pytest.raises(WrongUse, match="fundings is nothing that is collected"):
        control.wanted([], [], "ann", ["fundings"])
    assert control.wanted(None, [], "ann", ["funding"]).outputs == ("funding",)


def test_one_source_of_a_market_is_stopped_and_the_others_stay() -> None:
    before = standing(control.make("ann", ["DERIBIT"], "*", [], 1))
    want = Wanted("ann", ("*",), ("DERIBIT_TRADES",))
    left = after(before, control.to_stop(want, before, ROUTING, all_users=False, now_us=2))
    assert [demand.venues for demand in left.values()] == [("DERIBIT_INDEX", "DERIBIT_OPTIONS")]
