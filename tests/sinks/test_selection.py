"""What a store keeps, by what is demanded."""

import pytest

from ravencore.graph import Standing
from ravencore.records import Demand, FeedName
from ravencore.topics import BARS, INSTRUMENTS, QUOTES, STATUS, TRADES
from sinks.selection import Selection

KEY = b"VENUE:S"


def demand(*outputs: str, stores: tuple[str, ...]) -> Demand:
    feeds = (FeedName("VENUE", "trades", "S"),)
    return Demand(demand_id="d", user="u", symbol="S", outputs=outputs, stores=stores, feeds=feeds, created_time=1)


@pytest.mark.parametrize(
    ("topic", "key", "wanted"),
    [
        (BARS["tib"], KEY, True),
        (BARS["trb"], KEY, False),
        (TRADES, KEY, True),
        (TRADES, b"VENUE:OTHER", None),
        (QUOTES, b"S-USDT", None),
        (INSTRUMENTS, KEY, True),
        (STATUS, b"anything", True),
        (TRADES, b"\xff", True),
        (TRADES, None, True),
    ],
)
def test_what_demands_name_is_kept_where_they_want_it(topic: str, key: bytes | None, wanted: bool | None) -> None:
    selection = Selection("lake", Standing([demand("bars.tib", stores=("lake",))]))
    assert selection[topic, key] is wanted
    assert selection[topic, key] is wanted


def test_what_is_wanted_in_another_store_alone_is_not() -> None:
    selection = Selection("lake", Standing([demand("bars.tib", stores=("influx",))]))
    assert selection[BARS["tib"], KEY] is False
