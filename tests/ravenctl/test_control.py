"""Whether what was demanded has happened, told from what services say of themselves."""

from collections.abc import Iterable
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from ravencore.config import RoutingSettings
from ravencore.records import FeedName, ServiceStatus, Subscription
from ravenctl import control
from ravenctl.demands import Wanted
from ravenctl.local.state import Endpoints, MemberState, ProcessId, StackState
from ravenctl.services import down, heard, seen
from ravenctl.statusview import GONE_US

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


OTHERS = [status(name) for name in ("engine", "sink-influx", "sink-timescale", "sink-lake")]
BTC = Wanted("ann", ("BTCUSDT",), (SPOT,))
ANYWHERE = Wanted("ann", ("BTCUSDT",))
BTC_FEEDS = [FeedName(SPOT, channel, "BTCUSDT") for channel in ("trades", "books", "quotes")]


def starting(statuses: Iterable[ServiceStatus], want: Wanted = BTC, *, offset: int = 0) -> control.Progress:
    demands = want.demands(ROUTING, 1)
    return control.starting(demands, [*statuses], ROUTING, strict=bool(want.venues), offset=offset)


def test_running_means_both_feeds_flow_and_every_service_runs() -> None:
    collector = status("collector", trades="FLOWING", books="FLOWING", quotes="FLOWING")
    assert starting([collector, *OTHERS]) == control.Progress(())


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
        ([*OTHERS, status("collector", "STOPPED")], "collector: it has been asked to end; start it again with"),
    ],
)
def test_what_is_not_running_is_said_with_its_reason(statuses: list[ServiceStatus], says: str) -> None:
    missing = starting(statuses).missing
    assert any(says in reason for reason in missing), missing


def test_a_service_that_dies_again_and_again_is_told_in_its_last_words() -> None:
    dying = MemberState(
        state="restarting",
        since=1,
        restarts=3,
        last_exit="ended with code 1",
        last_error=["setting influx.x is unknown"],
    )
    there = {one.instance: one for one in OTHERS}
    members = {"sink-influx": dying, "engine": MemberState(state="running"), "sink-lake": MemberState(state="running")}
    found = seen(there, stack(members), now_us=1_000_000)
    assert [one.service for one in heard(found)] == ["engine", "sink-timescale", "sink-lake"]
    why = "RESTARTING, ended with code 1, restart 3: setting influx.x is unknown"
    assert down(found) == {"sink-influx": why}
    progress = control.starting(BTC.demands(ROUTING, 1), heard(found), ROUTING, away=down(found))
    assert f"sink-influx: {why}: see `ravenctl local logs sink-influx`, and `ravenctl doctor`" in progress.missing
    dying.state = "failed"
    spent = "FAILED, ended with code 1, its restarts are spent: setting influx.x is unknown"
    assert down(seen(there, stack(members), now_us=1_000_000)) == {"sink-influx": spent}
    dying.state = "running"  # for as long as it takes to find that the setting is still wrong
    assert down(seen({}, stack(members), now_us=1_000_000)) == {"sink-influx": why.replace("RESTARTING", "STARTING")}
    assert down(seen(there, stack(members), now_us=10_000_000))["engine"] == "silent, its process hangs"


def stack(members: dict[str, MemberState]) -> StackState:
    nowhere = Endpoints(kafka_bootstrap="", questdb_url="", postgres_dsn="")
    me = ProcessId(pid=1, created=0.0)
    return StackState(phase="running", revision=1, supervisor=me, endpoints=nowhere, external={}, members=members)


def test_a_collector_that_lacks_another_venue_does_not_hold_up_what_flows() -> None:
    feeds = {"trades": "FLOWING", "books": "FLOWING", "quotes": "FLOWING"}
    elsewhere = status("collector", "DEGRADED", "KRAKEN cannot be reached", **feeds)
    assert starting([elsewhere, *OTHERS]) == control.Progress(())
    without = starting([status("collector", "DEGRADED", "Kafka is away"), *OTHERS])
    assert without.missing == ("collector: DEGRADED, Kafka is away",)


def test_a_feed_that_was_given_up_says_all_that_there_is_to_say() -> None:
    feeds = {"trades": "FAILED", "books": "FLOWING", "quotes": "CONNECTING"}
    progress = starting([status("collector", "DEGRADED", "given up", **feeds), *OTHERS])
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
    assert starting([collector, *OTHERS]).refused == ("BINANCE_SPOT knows no BTCUSDT",)


def test_stopped_means_no_subscription_is_left_but_those_of_others() -> None:
    collector = status("collector", trades="FLOWING")
    assert control.stopping(BTC_FEEDS, [collector]) == ("trades of BINANCE_SPOT:BTCUSDT: FLOWING",)
    assert control.stopping(BTC_FEEDS[1:], [collector]) == ()


# Other venues, and whole markets


def test_of_a_service_the_instances_that_are_there_count_and_of_one_that_is_not_how_it_ended() -> None:
    engines = [replace(status("engine", state), instance=state) for state in ("RUNNING", "STOPPED")]
    gone = replace(status("engine"), instance="gone", reported_time=-GONE_US - 1)
    sink = status("sink-lake", "FAILED", "no room")
    assert heard(seen({one.instance: one for one in (*engines, gone, sink)}, None, 0)) == [engines[0], sink]
    assert heard(seen({one.instance: one for one in (engines[1], gone)}, None, 0)) == [engines[1]]


def everywhere(**states: str) -> ServiceStatus:
    """BTCUSDT as each venue spells it; the state of each venue's trades."""
    symbols = {SPOT: "BTCUSDT", "KRAKEN": "BTC/USDT", "COINBASE": "BTC-USDT"}
    feeds = [
        Subscription(venue=venue, channel="trades", symbol=symbols[venue], state=state)  # type: ignore[arg-type]
        for venue, state in states.items()
    ]
    return msgspec.structs.replace(status("collector"), subscriptions=tuple(feeds))


def test_a_symbol_is_waited_for_wherever_the_collector_has_taken_it_up() -> None:
    waiting = everywhere(BINANCE_SPOT="FLOWING", KRAKEN="WAITING")
    assert starting([waiting, *OTHERS], ANYWHERE).missing == ("trades of KRAKEN:BTC/USDT: waiting for its instrument",)


def test_a_venue_that_nobody_named_may_not_list_the_symbol() -> None:
    collector = everywhere(BINANCE_SPOT="FLOWING", KRAKEN="REFUSED")
    progress = starting([collector, *OTHERS], ANYWHERE)
    assert progress == control.Progress((), (), ("KRAKEN does not list BTC/USDT",))
    nowhere = starting([everywhere(BINANCE_SPOT="REFUSED", KRAKEN="REFUSED"), *OTHERS], ANYWHERE)
    assert len(nowhere.refused) == 2


def test_a_whole_market_runs_when_it_is_subscribed() -> None:
    want = Wanted("ann", ("*",), ("BINANCE_FUTURES_LIQUIDATIONS",))
    feed = Subscription(venue="BINANCE_FUTURES", channel="liquidations", symbol="*", state="SUBSCRIBED")
    collector = msgspec.structs.replace(status("collector"), subscriptions=(feed,))
    stores = [status("sink-influx"), status("sink-lake")]
    assert starting([collector, *stores], want) == control.Progress(())
    assert starting([status("collector"), *stores], want).missing == (
        "liquidations of BINANCE_FUTURES:*: not subscribed yet",
    )
    funding = msgspec.structs.replace(feed, channel="funding")
    silent = msgspec.structs.replace(status("collector"), subscriptions=(funding,))
    assert starting([silent, *stores], Wanted("ann", ("*",), ("BINANCE_FUTURES_FUNDING",))).missing == (
        "funding of BINANCE_FUTURES:*: subscribed, but nothing has come yet",
    )


# What is needed, and has been told


def needed(*outputs: str, stores: tuple[str, ...] = (), venues: tuple[str, ...] = (SPOT,)) -> tuple[str, ...]:
    return control.services_of(Wanted("ann", ("BTCUSDT",), venues, outputs, stores).demands(ROUTING, 1))


def test_services_are_those_that_a_demand_needs_in_the_safe_order() -> None:
    assert needed() == ("sink-influx", "sink-timescale", "sink-lake", "engine", "collector")
    assert needed("bars.tib", stores=("timescale",)) == ("sink-timescale", "engine", "collector")
    assert needed("trades", stores=("timescale",)) == ("collector",)
    assert needed("trades", stores=("redis", "influx")) == ("sink-influx", "collector")
    assert needed("quotes", stores=("redis",)) == ("sink-redis", "collector")


def test_a_service_has_not_taken_what_it_has_not_read() -> None:
    flowing = status("collector", trades="FLOWING", books="FLOWING", quotes="FLOWING")
    told = [msgspec.structs.replace(one, gauges={control.SEEN: 7.0}) for one in (flowing, *OTHERS)]
    assert starting(told, offset=7) == control.Progress(())
    late = [msgspec.structs.replace(told[1], gauges={control.SEEN: 6.0}), *(one for one in told if one is not told[1])]
    assert starting(late, offset=7).missing == ("engine: it has not taken the demand yet",)
    assert starting([flowing, *OTHERS], offset=7).missing == (
        "sink-influx: it has not taken the demand yet",
        "sink-timescale: it has not taken the demand yet",
        "sink-lake: it has not taken the demand yet",
        "engine: it has not taken the demand yet",
        "collector: it has not taken the demand yet",
    )
