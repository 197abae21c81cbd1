"""Plain bars by hand."""

import pytest

from processors.registry import profiles
from ravencore.config import BarsSettings
from ravencore.errors import ConfigError
from tests.processors.tapes import SYMBOL, VENUE, bars_of


def test_bars_of_ticks() -> None:
    made = bars_of("tick", {"size": 3}, "bsbsbsbs")
    assert [(closed, bar.ticks, bar.bar_seq) for closed, bar in made] == [(2, 3, 0), (5, 3, 1)]
    assert {(bar.theta, bar.threshold, bar.expected_ticks, bar.warmup) for _, bar in made} == {
        (None, None, None, False)
    }


def test_the_trade_that_reaches_the_size_is_inside_and_nothing_is_carried_over() -> None:
    made = bars_of("volume", {"size": "2.5"}, "bbbbb", sizes=[2, 7, 1, 1, 1])
    assert [(closed, bar.ticks) for closed, bar in made] == [(1, 2), (4, 3)]


def test_bars_of_dollars() -> None:
    """At 100, 101, 102 and 103: 201 after two trades, 205 after two more."""
    made = bars_of("dollar", {"size": "201"}, "bbbb")
    assert [closed for closed, _ in made] == [1, 3]


@pytest.mark.parametrize(
    ("kind", "size", "why"),
    [("tick", "2.5", "whole number"), ("volume", "0", "positive"), ("dollar", "-3", "positive"), ("dollar", "x", "x")],
)
def test_a_size_that_cannot_be_is_refused(kind: str, size: str, why: str) -> None:
    settings = BarsSettings.model_validate({kind: {"mine": {"size": size}}})
    with pytest.raises(ConfigError, match=rf"bars\.{kind}\.mine\.size.*{why}"):
        profiles(settings, VENUE, SYMBOL)
