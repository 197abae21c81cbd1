"""Run bars by hand."""

from tests.processors.tapes import bars_of

FOUR = {"initial_size": 4}


def test_the_total_of_one_side_closes_a_bar_whatever_lies_between() -> None:
    """N = 4: after bbsb P = 3/4, so h = 4 * max(3/4, 1/4) = 3: the third buy of the next bar closes it."""
    [(closed_first, first), (closed, following)] = bars_of("trb", FOUR, "bbsbbsbb")
    assert (closed_first, first.theta, first.threshold, first.warmup) == (3, 3.0, None, True)
    assert (closed, following.theta, following.threshold, following.expected_ticks) == (7, 3.0, 3.0, 4.0)
    assert (following.ticks, following.buy_ticks) == (4, 3)


def test_each_side_has_its_mean() -> None:
    """Buys of 2 and sells of 1: P = 3/4, XB = 2, XS = 1, h = 4 * max(3/2, 1/4) = 6."""
    [_, (closed, following)] = bars_of("vrb", FOUR, "bbsbbsbb", sizes=[2, 2, 1, 2, 2, 1, 2, 2])
    assert (closed, following.theta, following.threshold) == (7, 6.0, 6.0)


def test_a_side_that_has_not_traded_begins_with_the_mean_over_all() -> None:
    """After 1, 2, 3, 4 bought P = 1, XB = XS = 2.5, h = 10. One sell of 10 makes P = 0.9 and XS = 0.9*2.5 + 1."""
    [_, (closed, following), (_, third)] = bars_of("vrb", FOUR, "bbbbsb", sizes=[1, 2, 3, 4, 10, 100])
    assert (closed, following.theta, following.threshold, following.buy_ticks) == (4, 10.0, 10.0, 0)
    size, share, sold = 0.1 * 1 + (1.0 - 0.1) * 4.0, 0.1 * 0.0 + 0.9 * 1.0, 0.1 * 10.0 + 0.9 * 2.5
    assert third.expected_ticks == size
    assert third.threshold == size * max(share * 2.5, (1.0 - share) * sold)


def test_dollars_weigh_by_price_and_quantity() -> None:
    """At 100, 101, 102, 103: 100 + 103 bought, 101 + 102 sold; the bar's statistic is the larger."""
    [(_, first)] = bars_of("drb", FOUR, "bssb")
    assert first.theta == 203.0
