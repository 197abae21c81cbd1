"""Books: the same as a plain dictionary, started and dropped by the venue's rules."""

from hypothesis import given
from hypothesis import strategies as st

from simulator.books import BookKeeper, Side
from simulator.contract import Snapshot
from simulator.events import DepthDiff

CHANGES = st.lists(st.tuples(st.integers(1, 30), st.integers(0, 3)))


def price(ticks: int) -> str:
    return f"{ticks / 100:.8f}"


@given(CHANGES, st.integers(1, 25))
def test_a_side_is_a_sorted_dictionary_of_texts(changes: list[tuple[int, int]], count: int) -> None:
    side = Side()
    plain: dict[int, int] = {}
    for ticks, lots in changes:
        side.set(price(ticks), f"{lots}.00000000")
        plain[ticks] = lots
    levels = [(price(ticks), f"{plain[ticks]}.00000000") for ticks in sorted(plain) if plain[ticks]]
    assert side.lowest(count) == levels[:count]
    assert side.highest(count) == levels[::-1][:count]


def diff(first_id: int, last_id: int, bid: str = "1.0") -> DepthDiff:
    return DepthDiff(0, "X", first_id, last_id, [("10.0", bid)], [])


def keeper(*last_ids: int) -> BookKeeper:
    return BookKeeper([Snapshot(last_id, [("9.0", "1.0")], [("11.0", "1.0")]) for last_id in last_ids])


def test_differences_up_to_the_snapshot_are_ignored_and_the_one_around_it_starts_the_book() -> None:
    book = keeper(105)
    assert not book.apply(diff(95, 99))
    assert not book.apply(diff(100, 105))
    assert book.apply(diff(104, 110))
    assert book.book is not None
    assert book.book.top(5) == Snapshot(110, [("10.0", "1.0"), ("9.0", "1.0")], [("11.0", "1.0")])


def test_a_difference_right_after_the_snapshot_starts_the_book() -> None:
    assert keeper(105).apply(diff(106, 107))


def test_a_snapshot_older_than_the_first_difference_is_of_no_use() -> None:
    book = keeper(105)
    assert not book.apply(diff(107, 110))
    assert book.hopeless


def test_a_hole_drops_the_book_until_a_later_snapshot_fits() -> None:
    book = keeper(105, 125)
    assert book.apply(diff(106, 110))
    assert not book.apply(diff(112, 115))
    assert (book.book, book.holes) == (None, 1)
    assert book.apply(diff(120, 130))
    assert book.book is not None


def test_a_difference_seen_before_changes_nothing() -> None:
    book = keeper(105)
    assert book.apply(diff(106, 110, "2.0"))
    assert not book.apply(diff(104, 108, "7.0"))
    assert book.book is not None
    assert book.book.bids.highest(1) == [("10.0", "2.0")]
