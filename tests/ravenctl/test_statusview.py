"""`ravenctl status`: states that need a look stand out, and a silent feed says since when."""

import io
import re

import msgspec
import pytest
from rich.console import Console

from ravencore.records import Subscription, SubscriptionState
from ravenctl import statusview
from tests.ravenctl.made import TIME, status


def shown(state: SubscriptionState, ago_s: int) -> str:
    """With what a terminal is sent to draw it."""
    feed = Subscription(
        venue="KRAKEN", channel="trades", symbol="BTC/USD", state=state, last_received_time=TIME - ago_s * 1_000_000
    )
    collector = msgspec.structs.replace(status("collector"), subscriptions=(feed,))
    console = Console(width=120, record=True, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(statusview.show({"collector-0": collector}, TIME))
    return console.export_text(styles=True)


YELLOW, RED = "33", "1;31"


def drawn(text: str, style: str, where: str) -> bool:
    """Whether a text is there in that style; it may be padded."""
    return re.search(rf"\x1b\[{style}m *{text}\x1b", where) is not None


def test_a_silent_feed_is_yellow_and_so_is_its_age() -> None:
    text = shown("SILENT", 34)
    assert drawn("SILENT", YELLOW, text)
    assert drawn("34 s ago", YELLOW, text)


def test_the_age_of_a_feed_that_flows_does_not_stand_out() -> None:
    text = shown("FLOWING", 34)
    assert "34 s ago" in text
    assert not drawn("34 s ago", YELLOW, text)


@pytest.mark.parametrize("state", ["FAILED", "REFUSED"])
def test_what_does_not_run_is_red(state: SubscriptionState) -> None:
    assert drawn(state, RED, shown(state, 1))
