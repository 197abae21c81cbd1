"""The perfect observer against the plainest possible one."""

from hypothesis import given
from hypothesis import strategies as st

from simulator.ledger import Ids, Ranges


@given(st.lists(st.integers(1, 40), min_size=1))
def test_ids_agrees_with_a_set(arrivals: list[int]) -> None:
    ids = Ids()
    for trade_id in arrivals:
        ids.add(trade_id)
    seen = set(arrivals)
    missing = set(range(min(seen), max(seen))) - seen
    assert (ids.first, ids.last, ids.count, ids.unique) == (min(seen), max(seen), len(arrivals), len(seen))
    assert {i for low, high in ids.holes for i in range(low, high + 1)} == missing
    assert ids.missing == len(missing)
    assert len(ids.holes) == sum(1 for i in missing if i - 1 not in missing)
    assert ids.holes == sorted(ids.holes)


def test_ranges_gather_what_counts_up() -> None:
    ranges = Ranges()
    for trade_id in (5, 6, 7, 10, 11, 20):
        ranges.add(trade_id)
    assert (ranges.ranges, ranges.count) == ([[5, 7], [10, 11], [20, 20]], 6)
