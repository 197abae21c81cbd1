"""The restart policy: pure, so its laws are tried over any sequence of deaths."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ravenctl.local.policy import LONGEST_DELAY_SECONDS, SETTLED_SECONDS, RestartBudget

lives = st.lists(st.floats(0, 200), max_size=80)


def test_delays_double_up_to_the_cap() -> None:
    budget = RestartBudget()
    delays = [budget.next_delay(float(now), lived_seconds=0.1) for now in range(7)]
    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_long_life_starts_the_delays_anew() -> None:
    budget = RestartBudget()
    for now in range(5):
        budget.next_delay(float(now), lived_seconds=0.1)
    assert budget.next_delay(100.0, lived_seconds=SETTLED_SECONDS) == 0.2


def test_the_budget_is_spent_and_comes_back_as_time_passes() -> None:
    budget = RestartBudget(restarts=2, window_seconds=10)
    assert budget.next_delay(0.0, 1.0) is not None
    assert budget.next_delay(1.0, 1.0) is not None
    assert budget.next_delay(9.9, 1.0) is None
    assert budget.next_delay(10.0, 1.0) is not None
    assert budget.next_delay(10.5, 1.0) is None


@given(lives, st.integers(0, 5), st.floats(1, 500))
def test_never_more_restarts_than_the_budget_in_any_window(
    lived: list[float], restarts: int, window_seconds: float
) -> None:
    budget = RestartBudget(restarts, window_seconds)
    now, granted = 0.0, list[float]()
    for seconds in lived:
        now += seconds
        assert budget.left(now) == restarts - sum(now - at < window_seconds for at in granted)
        if (delay := budget.next_delay(now, seconds)) is not None:
            assert 0 < delay <= LONGEST_DELAY_SECONDS
            granted.append(now)
    for first in granted:
        assert sum(first <= at < first + window_seconds for at in granted) <= restarts
