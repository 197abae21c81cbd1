"""Imbalance bars by hand."""

import math
from collections.abc import Sequence

from ravencore.decimals import ONE
from ravencore.records import Bar
from tests.processors.tapes import bars_of


def bars(sides: str, missing_before: Sequence[int] = (), **profile: float) -> list[tuple[int, Bar]]:
    """Tick-imbalance bars."""
    return bars_of("tib", profile, sides, missing_before=missing_before)


def test_the_first_bar_closes_at_n_ticks_and_teaches() -> None:
    """N = 4: after bbbs, theta = 2, EX = 2/4, ET = 4, so h = max(4 * 0.5, sqrt 4) = 2: ss closes the next bar."""
    [(closed_first, first), (closed_next, following)] = bars("bbbsss", initial_size=4)
    assert (closed_first, first.theta, first.threshold, first.expected_ticks, first.warmup) == (
        3,
        2.0,
        None,
        None,
        True,
    )
    assert (first.ticks, first.buy_ticks, first.bar_seq) == (4, 3, 0)
    assert (closed_next, following.theta, following.threshold, following.expected_ticks) == (5, -2.0, 2.0, 4.0)
    assert (following.ticks, following.buy_ticks, following.warmup, following.bar_seq) == (2, 0, False, 1)


def test_the_closing_trade_is_inside_and_the_next_one_opens() -> None:
    [(_, first), (_, following)] = bars("bbbsss", initial_size=4)
    assert (first.last_trade_id, following.first_trade_id, following.last_trade_id) == ("4", "5", "6")
    assert (first.close, following.open) == (103 * ONE, 104 * ONE)


def test_what_a_bar_teaches_holds_for_the_one_after_it() -> None:
    """After ss: ET = max(0.1*2 + 0.9*4, 3.6) = 3.8; EX = 0.1*(-2/2) + 0.9*0.5 = 0.35; h = max(1.33, sqrt 3.8)."""
    third = bars("bbbsssbb", initial_size=4)[2][1]
    size = 0.1 * 2 + (1.0 - 0.1) * 4.0
    assert third.expected_ticks == max(size, 4 * (1.0 - 0.1))
    assert third.threshold == max(third.expected_ticks * abs(0.1 * -1.0 + 0.9 * 0.5), math.sqrt(third.expected_ticks))


def test_the_expected_size_is_clamped() -> None:
    """h = sqrt(10) after a balanced warm-up: a bar of 4 ticks, or one of many; alpha 1.0 follows at once."""
    short = [bar for _, bar in bars("bs" * 5 + "bbbb" * 3, initial_size=10, alpha_size=1.0)]
    assert (short[1].ticks, short[2].expected_ticks) == (4, 10 * (1.0 - 0.1))
    long = [bar for _, bar in bars("bs" * 5 + "bs" * 50 + "bbbb" * 3, initial_size=10, alpha_size=1.0)]
    assert (long[1].ticks, long[2].expected_ticks) == (104, 10 * (1.0 + 0.1))


def test_a_hole_flags_the_bar_of_the_first_trade_after_it() -> None:
    """The bar that was open when trades went missing holds that trade as well, unless the hole lay between bars."""
    assert [bar.gap for _, bar in bars("bbbsss", initial_size=4)] == [False, False]
    assert [bar.gap for _, bar in bars("bbbsss", missing_before=[2], initial_size=4)] == [True, False]
    assert [bar.gap for _, bar in bars("bbbsss", missing_before=[4], initial_size=4)] == [False, True]


def test_volume_weighs_by_quantity() -> None:
    """N = 3: after 2, 1, -1 theta = 2, EX = 2/3, S2 = (4 + 1 + 1)/3 = 2, h = max(3 * 2/3, sqrt 6): -3 reaches it."""
    [(_, first), (closed, following)] = bars_of("vib", {"initial_size": 3}, "bbsbs", sizes=[2, 1, 1, 1, 4])
    assert (first.theta, first.warmup) == (2.0, True)
    assert (closed, following.theta, following.threshold) == (4, -3.0, math.sqrt(6.0))


def test_dollars_weigh_by_price_and_quantity() -> None:
    """At 100, 101, 102: theta = 200 - 101 + 102 = 201."""
    [(_, first)] = bars_of("dib", {"initial_size": 3}, "bsb", sizes=[2, 1, 1])
    assert first.theta == 201.0
