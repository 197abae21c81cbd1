"""`ravenctl status`: states that need a look stand out, and what is shown fits where it is shown."""

import io
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from ravencore.config import VenuesSettings
from ravencore.records import ServiceStatus, Subscription, SubscriptionState
from ravencore.topics import CHANNELS
from ravenctl import statusscreen
from ravenctl.local.state import Endpoints, MemberPhase, MemberState, ProcessId, StackState
from ravenctl.services import Seen, for_scripts, seen
from ravenctl.statusview import GONE_US
from tests.ravenctl.made import TIME, status

SECOND_US = 1_000_000


def feed(state: SubscriptionState = "FLOWING", symbol: str = "BTC/USD", ago_s: int = 1, **more: Any) -> Subscription:
    fields: dict[str, Any] = {"venue": "KRAKEN", "channel": "trades", **more}
    return Subscription(symbol=symbol, state=state, last_received_time=TIME - ago_s * SECOND_US, **fields)


def collector(*feeds: Subscription, **more: Any) -> ServiceStatus:
    return msgspec.structs.replace(status("collector"), subscriptions=feeds, **more)


def of(*statuses: ServiceStatus, stack: StackState | None = None) -> list[Seen]:
    return seen({one.instance: one for one in statuses}, stack, TIME)


def drawn(
    found: list[Seen], width: int = 120, height: int | None = None, away: str | None = None, *, styles: bool = False
) -> str:
    """With what a terminal is sent to draw it, if asked for."""
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(statusscreen.show(found, TIME, width, height, away))
    return console.export_text(styles=styles)


YELLOW, RED = "33", "1;31"


def stands_out(text: str, style: str, where: str) -> bool:
    """Whether a text is there in that style; it may be padded."""
    return re.search(rf"\x1b\[{style}m *{text}\x1b", where) is not None


def test_a_silent_feed_is_yellow_and_so_is_its_age() -> None:
    text = drawn(of(collector(feed("SILENT", ago_s=34))), styles=True)
    assert stands_out("SILENT", YELLOW, text)
    assert stands_out("34 s ago", YELLOW, text)


def test_the_age_of_a_feed_that_flows_does_not_stand_out() -> None:
    text = drawn(of(collector(feed(ago_s=34))), styles=True)
    assert "34 s ago" in text
    assert not stands_out("34 s ago", YELLOW, text)


@pytest.mark.parametrize("state", ["FAILED", "REFUSED"])
def test_what_does_not_run_is_red(state: SubscriptionState) -> None:
    assert stands_out(state, RED, drawn(of(collector(feed(state))), styles=True))


def test_the_last_gap_is_told_with_its_age_and_cause() -> None:
    gap = feed(last_gap_time=TIME - 125 * SECOND_US, last_gap_cause="DISCONNECT")
    assert "2 min ago DISCONNECT" in drawn(of(collector(gap)))
    assert "2 min ago" in drawn(of(collector(gap)), width=80)


def test_what_is_not_well_comes_first_and_the_newest_error_too() -> None:
    text = drawn(
        of(
            collector(feed(symbol="A/USD"), feed("SILENT", symbol="Z/USD"), last_error="old", last_error_time=TIME - 9),
            msgspec.structs.replace(status("engine"), last_error="new", last_error_time=TIME - 1),
        )
    )
    assert text.index("Z/USD") < text.index("A/USD")
    assert text.index("new") < text.index("old")


names = st.text("ABC/-", min_size=1, max_size=14)
states: st.SearchStrategy[SubscriptionState] = st.sampled_from(["FLOWING", "SILENT", "SUBSCRIBED"])
places = {"venue": st.sampled_from(list(VenuesSettings.model_fields)), "channel": st.sampled_from(list(CHANNELS))}
feeds = st.lists(st.builds(feed, states, names, st.integers(0, 10**6), **places), max_size=60)


@given(
    feeds, st.integers(80, 200), st.integers(16, 60), st.sampled_from(["", "x" * 300]), st.sampled_from(["", "away"])
)
def test_it_never_wraps_or_runs_out_of_the_screen(
    some: list[Subscription], width: int, height: int, error: str, away: str
) -> None:
    counters = {"trades_published": 10**9, "gaps": 10**4}
    errors = {"last_error": error, "last_error_time": TIME} if error else {}
    made = collector(*some, counters=counters, **errors)
    found = of(made, status("engine"), status("sink-timescale"))
    lines = drawn(found, width, height, away).splitlines()
    assert len(lines) <= height
    assert (lines[0] == away) == bool(away)
    lines = lines[bool(away) :]
    assert lines[0].startswith("INSTANCE")
    assert lines[1].startswith("collector-0")
    assert all(len(line) <= width for line in lines)
    if some:
        assert lines[5].startswith("VENUE")


def test_symbols_of_a_channel_stand_together_where_there_is_no_room() -> None:
    many = [feed(symbol=f"S{number}") for number in range(50)]
    assert "50 symbols" in drawn(of(collector(*many)), height=24)
    assert "symbols" not in drawn(of(collector(*many)))


# Both sides


def stack(**members: MemberState) -> StackState:
    endpoints = Endpoints(kafka_bootstrap="", questdb_url="", postgres_dsn="")
    process = ProcessId(pid=1, created=1.0)
    return StackState(
        phase="running", revision=1, supervisor=process, endpoints=endpoints, external={}, members=members
    )


def member(state: MemberPhase, since_us: int, **more: Any) -> MemberState:
    return MemberState(state=state, since=since_us / 1e6, restarts_left=7, **more)


@pytest.mark.parametrize(
    ("phase", "since_us", "reported_us", "expected"),
    [
        ("failed", TIME, TIME, "FAILED"),
        ("restarting", TIME, TIME, "RESTARTING"),
        ("stopped", TIME, TIME, "STOPPED"),
        ("running", TIME - 9 * SECOND_US, TIME, "RUNNING"),
        ("running", TIME - SECOND_US, TIME - 2 * SECOND_US, "STARTING"),  # what was reported is of its last life
        ("running", 0, TIME - GONE_US - 1, "silent"),
    ],
)
def test_the_supervisor_knows_first(phase: MemberPhase, since_us: int, reported_us: int, expected: str) -> None:
    reported = collector(reported_time=reported_us)
    (one,) = of(reported, stack=stack(collector=member(phase, since_us)))
    assert one.state == expected


def test_without_a_supervisor_a_service_is_gone_when_it_is_silent() -> None:
    (one,) = of(collector(reported_time=TIME - GONE_US - 1))
    assert (one.state, for_scripts(one, TIME)["gone"], for_scripts(one, TIME)["state"]) == ("gone", True, "RUNNING")
    assert GONE_US < 5 * SECOND_US


def test_an_instance_is_left_out_when_another_has_begun_after_its_end() -> None:
    def engine(instance: str, **more: Any) -> ServiceStatus:
        return msgspec.structs.replace(status("engine"), instance=instance, **more)

    ended = [
        engine("engine-stopped", state="STOPPED", reported_time=TIME - 60 * SECOND_US),
        engine("engine-gone", reported_time=TIME - 50 * SECOND_US),
    ]
    beside = engine("engine-beside", started_time=TIME - 90 * SECOND_US)
    after = engine("engine-after", started_time=TIME - 40 * SECOND_US)
    assert re.findall(r"engine-[a-z]+", drawn(of(*ended, beside))) == ["engine-beside", "engine-gone", "engine-stopped"]
    assert re.findall(r"engine-[a-z]+", drawn(of(*ended, beside, after))) == ["engine-after", "engine-beside"]
    last = msgspec.structs.replace(after, state="STOPPED")
    assert re.findall(r"engine-[a-z]+", drawn(of(*ended, last))) == ["engine-after"]


def test_members_that_never_reported_are_listed_and_servers_only_where_they_do_not_run() -> None:
    found = of(
        stack=stack(
            kafka=member("running", TIME, server=True),
            questdb=member("restarting", TIME, server=True, last_exit="ended with code 1", last_error=["no room"]),
            collector=member("starting", TIME),
            simulator=member("running", TIME),
        )
    )
    assert [(one.instance, one.state) for one in found] == [
        ("collector-0", "STARTING"),
        ("questdb", "RESTARTING"),
        ("simulator-0", "RUNNING"),
    ]
    told = for_scripts(found[1], TIME)
    assert (told["restarts_left"], told["last_error"], told["subscriptions"]) == (7, "ended with code 1: no room", [])
    assert "questdb, 0 s ago: ended with code 1: no room" in drawn(found)


def test_the_order_is_that_of_the_stream() -> None:
    found = of(*map(status, ("sink-lake", "something", "engine", "sink-influx", "collector")))
    assert [one.service for one in found] == ["collector", "engine", "sink-influx", "sink-lake", "something"]
