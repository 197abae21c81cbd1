"""The perfect observer against the plainest possible one."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from simulator.ledger import FeedLedger, Ids, Ledger, Ranges, SymbolLedger


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


@given(st.lists(st.integers(1, 30), unique=True), st.lists(st.integers(1, 30)))
def test_ranges_without_what_is_taken_back(ids: list[int], taken: list[int]) -> None:
    ranges = Ranges()
    for one in sorted(ids):
        ranges.add(one)
    for one in taken:
        ranges.discard(one)
    left = sorted(set(ids) - set(taken))
    assert [one for low, high in ranges.ranges for one in range(low, high + 1)] == left
    assert ranges.count == len(left)


@given(st.lists(st.integers(1, 40), max_size=60))
def test_the_delivered_ids_of_trades_are_those_that_came(arrivals: list[int]) -> None:
    entry = SymbolLedger()
    for trade_id in arrivals:
        entry.deliver(trade_id)
    assert list(entry.ids()) == sorted(set(arrivals))


@given(st.lists(st.integers(1, 40), max_size=60))
def test_a_feed_keeps_each_id_once_and_in_order(arrivals: list[int]) -> None:
    entry = FeedLedger()
    for identity in arrivals:
        entry.deliver(identity)
    assert list(entry.ids()) == sorted(set(arrivals))
    assert (entry.delivered, entry.unique) == (len(arrivals), len(set(arrivals)))
    assert +entry.repeated == Counter(arrivals) - Counter(set(arrivals))


def test_what_several_streams_tell_is_issued_once_and_missed_only_when_none_is_heard() -> None:
    entry = FeedLedger()
    for identity, heard in ((1, True), (1, False), (2, False), (2, True), (3, False), (3, False), (None, False)):
        entry.issue(identity, heard)
    assert (entry.issued, entry.missed) == (4, 2)


def test_a_trade_that_a_later_snapshot_brings_was_not_missed() -> None:
    ledger = Ledger(["X"])
    marks = [("trades", "X", trade_id) for trade_id in (7, 8, 9)]
    for mark in marks:
        ledger.issue([mark], heard=mark[2] != 8)
    for mark in (marks[0], marks[2], marks[1]):
        ledger.deliver([mark])
    assert ledger.told("trades") == {
        "X": {"issued": 3, "delivered": 3, "delivered_unique": 3, "missed": 0, "ids": [7, 8, 9], "repeated": {}}
    }
    assert ledger.report()["observable"]["gaps"] == 0


def test_what_was_issued_since_somebody_subscribed_is_listed_once_with_its_time() -> None:
    ledger = Ledger(["X"])
    ledger.issue([("trades", "X", 1), ("books", "X", 7)], heard=False)
    ledger.issue([("trades", "X", 2), ("trades", "Y", 9)], heard=True, time_us=50)
    ledger.issue([("trades", "X", 3)], heard=False, time_us=60)
    for heard, time_us in ((False, None), (True, 70), (True, 80)):
        ledger.issue([("books", "X", 8)], heard=heard, time_us=time_us)
    ledger.issue([("books", "X", None)], heard=True, time_us=90)
    assert ledger.listed("trades") == {"X": [(2, 50), (3, 60)], "Y": [(9, 50)]}
    assert ledger.listed("books") == {"X": [(8, 70), (None, 90)]}
    assert ledger.listed("quotes") == {}


def test_a_report_sums_the_symbols_of_each_channel() -> None:
    ledger = Ledger(["QUIET"])
    ledger.issue([("funding", "A", 5), ("funding", "B", 5), ("books", "A", 1)], heard=True)
    ledger.deliver([("funding", "A", 5), ("funding", "A", 5)])
    assert ledger.report()["channels"] == {
        "funding": {"symbols": 2, "issued": 2, "delivered": 2, "delivered_unique": 1, "missed": 0},
        "books": {"symbols": 1, "issued": 1, "delivered": 0, "delivered_unique": 0, "missed": 0},
    }
