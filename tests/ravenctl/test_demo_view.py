"""What a demo shows: every feed on 80 columns and 24 lines, with its rate and state."""

import io
from typing import get_args

import msgspec
import pytest
from rich.console import Console

from producers.registry import SOURCES
from ravencore.records import Subscription, SubscriptionState
from ravenctl.demo_view import RATE_S, Pace, Scene, draw, feed_rows, line, short
from ravenctl.feeds import Name
from tests.ravenctl.made import TIME, status

FEEDS = [Name(source.venue, channel) for source in SOURCES.values() for channel in source.channels]
KRAKEN = Name("KRAKEN", "trades")


def scene() -> Scene:
    """All feeds of all venues, each with so many records that its line is full."""
    states = dict.fromkeys(FEEDS, "FLOWING") | {KRAKEN: "CONNECTING"}
    subscriptions = tuple(
        Subscription(venue=name.venue, channel=name.channel, symbol=symbol, state=state)  # type: ignore[arg-type]
        for name, state in states.items()
        for symbol in ("A", "B")
    )
    services = {name: status(name) for name in ("engine", "sink-influx", "sink-timescale")}
    services["collector"] = msgspec.structs.replace(status("collector"), subscriptions=subscriptions)
    counts = dict.fromkeys(FEEDS, 1234567)
    return Scene(
        "synthetic markets of 6 venues at 1x",
        doing="playing",
        share=0.5,
        statuses=services,
        feeds=FEEDS,
        counts=counts,
        rates=dict.fromkeys(FEEDS, 12_345.6),
    )


def drawn(what: Scene, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, record=True, file=io.StringIO())
    console.print(draw(what, TIME, width, height))
    return console.export_text().splitlines()


def test_all_venues_fit_on_the_smallest_screen() -> None:
    lines = drawn(scene(), 80, 24)
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert text.count("12k/s") == text.count("1,234,567") == len(FEEDS)
    assert all(name.venue in text for name in FEEDS)


@pytest.mark.parametrize("columns", [1, 2, 3, 9])
def test_every_feed_is_shown_once_and_venues_begin_a_line(columns: int) -> None:
    rows = feed_rows(scene(), columns)
    assert sum(len(row) - 1 for row in rows) == len(FEEDS)
    assert max(len(row) - 1 for row in rows) <= columns
    assert [str(row[0]) for row in rows if str(row[0])] == list(dict.fromkeys(name.venue for name in FEEDS))


def test_the_worst_of_a_feeds_symbols_is_its_state() -> None:
    made = scene()
    cells = {
        str(cell).split()[1]: str(cell)[0] for row in feed_rows(made, 9) if str(row[0]) == "KRAKEN" for cell in row[1:]
    }
    assert cells == {"quotes": "●", "trades": "…", "books": "●"}


@pytest.mark.parametrize("state", get_args(SubscriptionState))
def test_a_feed_is_shown_in_whatever_state_it_is(state: SubscriptionState) -> None:
    feed = Subscription(venue="KRAKEN", channel="trades", symbol="X", state=state)
    other = msgspec.structs.replace(feed, symbol="Y", state="FLOWING")
    made = scene()
    made.statuses = {"collector": msgspec.structs.replace(status("collector"), subscriptions=(feed, other))}
    cells = [str(cell)[0] for row in feed_rows(made, 9) if str(row[0]) == "KRAKEN" for cell in row[1:]]
    mark = {"FLOWING": "●", "SUBSCRIBED": "○", "SILENT": "○", "REFUSED": "x", "FAILED": "x", "UNKNOWN": "?"}
    assert cells[FEEDS.index(KRAKEN) - FEEDS.index(Name("KRAKEN", "quotes"))] == mark.get(state, "…")


def test_rates_are_those_of_the_last_seconds() -> None:
    pace = Pace()
    assert pace.rates(0.0, {KRAKEN: 100}) == {}
    assert pace.rates(1.0, {KRAKEN: 150}) == {KRAKEN: 50.0}
    assert pace.rates(2.0 + RATE_S, {KRAKEN: 150})[KRAKEN] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.0, "0"),
        (0.04, "0"),
        (0.3, "0.3"),
        (0.97, "1"),
        (12.4, "12"),
        (999.4, "999"),
        (999.6, "1.0k"),
        (34_400, "34k"),
    ],
)
def test_rates_are_short(rate: float, text: str) -> None:
    assert short(rate) == text


def test_one_line_says_how_much_of_how_many_feeds() -> None:
    assert f"{1_234_567 * len(FEEDS):,} records of {len(FEEDS)} feeds" in line(scene())
