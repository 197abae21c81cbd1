"""Holes, Gaps and what is left to arrive: figures that a summary rests on."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from ravenctl.demo import Lives
from ravenctl.readback import gap_ranges, holes, merged
from tests.ravenctl.made import gap, status

numbers = st.sets(st.integers(0, 60))


def covered(ranges: list[tuple[int, int]]) -> list[int]:
    return [number for low, high in ranges for number in range(low, high + 1)]


@given(numbers)
def test_holes_are_what_is_missing_between_first_and_last(there: set[int]) -> None:
    found = holes(sorted(there))
    expected = [n for n in range(min(there, default=0), max(there, default=0)) if n not in there]
    assert covered(found) == expected


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 9)).map(lambda r: (r[0], r[0] + r[1]))))
def test_merged_ranges_cover_the_same_and_do_not_touch(ranges: list[tuple[int, int]]) -> None:
    out = merged(ranges)
    assert covered(out) == sorted(set(covered(ranges)))
    assert all(low[1] + 1 < high[0] for low, high in itertools.pairwise(out))


def test_gaps_by_market_those_that_touch_as_one() -> None:
    found = gap_ranges([gap(1, 3), gap(4, 4), gap(9, 9), gap(None, None)])
    assert found == {"BINANCE_SPOT:BTCUSDT": [(1, 4), (9, 9)]}


def test_counts_of_a_restarted_service_add_up() -> None:
    lives = Lives()
    lives.add([status("collector", 1, frames_received=10)])
    lives.add([status("collector", 1, frames_received=12), status("engine", 1, frames_received=99)])
    lives.add([status("collector", 2, frames_received=3)])
    assert lives.total == {"frames_received": 15}
