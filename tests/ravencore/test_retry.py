"""Backoff: doubling, jittered, capped."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from ravencore.retry import backoff


@given(st.floats(0.01, 5), st.floats(5, 100), st.integers())
def test_delays_lie_between_half_and_whole_of_a_doubling_step_below_the_cap(
    first_s: float, cap_s: float, seed: int
) -> None:
    step = first_s
    for delay in itertools.islice(backoff(first_s, cap_s, random.Random(seed)), 12):
        assert step / 2 <= delay <= step <= cap_s
        step = min(2 * step, cap_s)


def test_two_clients_do_not_come_back_together() -> None:
    one, other = (list(itertools.islice(backoff(1, 30, random.Random(seed)), 5)) for seed in (1, 2))
    assert not set(one) & set(other)
