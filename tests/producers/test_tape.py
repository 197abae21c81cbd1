"""Order and continuity of one symbol, driven through the session."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers import tape
from producers.actions import BadBytes
from producers.contract import QUOTES, Feed
from producers.feedtape import FeedTape
from producers.tape import HELD_RECORDS, RESTART_RECORDS
from ravencore.records import Book, Gap, Quote, Trade
from tests.producers.made import Driver, book_frame, new_session, trade_frame, us


def live(last_id: int | None = 100) -> Driver:
    """A driver whose feed is flowing: trade 101 has come."""
    driver = Driver(new_session(last_id))
    driver.connect()
    driver.trades(101)
    driver.advance(0.6)
    driver.out.clear()
    return driver


def test_trades_in_order_pass_at_once() -> None:
    driver = live()
    driver.trades(102, 103)
    assert driver.ids == [102, 103]
    assert not driver.gaps


def test_a_duplicate_is_dropped_and_counted() -> None:
    driver = live()
    driver.trades(102, 102, 101, 104, 104, 103, 100, 42)
    assert driver.ids == [102, 103, 104]
    assert driver.session.duplicates == 5
    assert driver.session.trades_received == 9


@given(st.integers(1, 98), st.integers(1, 9), st.booleans())
def test_a_venue_that_counts_anew_is_followed_and_a_gap_says_so(first: int, count: int, is_cut: bool) -> None:
    driver = live()
    driver.trades(102, 105)
    driver.advance(0.6)
    if is_cut:
        driver.lose()
        driver.connect("two")
    again = range(first, first + min(count, 100 - first + 1))
    for number in again:
        driver.advance(0.7)
        driver.trades(number)
    driver.advance(0.6)
    told = [gap.detail for gap in driver.gaps if gap.missing is None]
    if len(again) < RESTART_RECORDS:
        assert (driver.ids, driver.session.duplicates, told) == ([102, 105], len(again), [])
    else:
        assert driver.ids == [102, 105, *again]
        assert driver.session.duplicates == 0
        assert told == [f"the venue counts anew, from {first}, after 105"]


def test_strays_are_dropped_where_the_venue_goes_on_counting() -> None:
    driver = live()
    driver.trades(102)
    for number in range(103, 110):
        driver.advance(1.0)
        driver.trades(50, 60)
        driver.trades(number)
    assert driver.ids == [102, *range(103, 110)]
    assert driver.session.duplicates == 14
    assert not driver.gaps


def test_a_hole_that_fills_in_time_is_none() -> None:
    driver = live()
    driver.trades(103, 105)
    driver.advance(0.45)
    assert driver.ids == []
    assert driver.session.held == 2
    driver.trades(104, 102)
    assert driver.ids == [102, 103, 104, 105]
    assert not driver.gaps


def test_a_hole_waited_for_becomes_a_gap_before_the_trade_beyond_it() -> None:
    driver = live()
    before = us(1.0)
    beyond = us(driver.now)
    driver.trades(104, 105)
    driver.advance(0.6)
    gap, *trades = driver.out
    assert gap == Gap(
        gap_id="BINANCE_SPOT:trades:BTCUSDT:102",
        venue="BINANCE_SPOT",
        channel="trades",
        symbol="BTCUSDT",
        cause="SEQUENCE",
        from_sequence=102,
        to_sequence=103,
        missing=2,
        from_time=before,
        to_time=beyond,
        detected_time=us(driver.now - 0.1),
        repair="NONE",
        connection="one",
        detail="the ids jump",
    )
    assert [trade.sequence for trade in trades if isinstance(trade, Trade)] == [104, 105]


def test_each_hole_is_waited_for_from_its_own_beginning() -> None:
    driver = live()
    driver.trades(103)
    driver.advance(0.3)
    driver.trades(105)
    driver.advance(0.25)
    assert driver.ids == [103]
    driver.trades(104)
    assert driver.ids == [103, 104, 105]
    assert driver.holes == [("SEQUENCE", 102, 102, 1)]


def test_too_many_held_trades_end_the_wait() -> None:
    driver = live()
    driver.trades(*range(103, 103 + HELD_RECORDS))
    assert driver.ids == []
    driver.trades(103 + HELD_RECORDS)
    assert len(driver.ids) == HELD_RECORDS + 1
    assert driver.session.held == 0
    assert driver.holes == [("SEQUENCE", 102, 102, 1)]


def test_a_late_repair_shrinks_and_splits_and_fills_the_gap() -> None:
    driver = live()
    driver.trades(108)
    driver.advance(0.6)
    assert driver.holes == [("SEQUENCE", 102, 107, 6)]
    driver.trades(102)
    assert driver.holes == [("SEQUENCE", 103, 107, 5)]
    driver.trades(107)
    assert driver.holes == [("SEQUENCE", 103, 106, 4)]
    driver.trades(104)
    assert driver.holes == [("SEQUENCE", 103, 103, 1), ("SEQUENCE", 105, 106, 2)]
    assert [gap.repair for gap in driver.gaps] == ["PARTIAL", "PARTIAL"]
    driver.trades(103)
    assert driver.holes == [("SEQUENCE", None, None, 0), ("SEQUENCE", 105, 106, 2)]
    assert [gap.repair for gap in driver.gaps] == ["BACKFILLED", "PARTIAL"]
    assert driver.ids == [108, 102, 107, 104, 103]
    driver.trades(103)
    assert driver.session.duplicates == 1


def test_a_repair_comes_before_its_gap_is_changed() -> None:
    driver = live()
    driver.trades(103)
    driver.advance(0.6)
    driver.out.clear()
    driver.trades(102)
    assert [type(action) for action in driver.out] == [Trade, Gap]


def test_holes_too_old_to_be_remembered_are_let_go(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(tape, "KNOWN_HOLES", 2)
    driver = live()
    driver.trades(103, 105, 107)
    driver.advance(0.6)
    driver.trades(102, 104)
    assert driver.ids == [103, 105, 107, 104]
    assert driver.session.duplicates == 1


# Breaks


def test_a_cold_start_is_one_gap_without_ids() -> None:
    driver = Driver(new_session(None))
    driver.connect()
    driver.trades(102, 101, 103)
    driver.advance(0.6)
    assert driver.ids == [101, 102, 103]
    assert driver.holes == [("COLD_START", None, None, None)]
    assert driver.gaps[0].from_time is None


def test_what_comes_late_after_a_cold_start_is_published_and_is_no_repair() -> None:
    driver = Driver(new_session(None))
    driver.connect()
    driver.trades(102)
    driver.advance(0.6)
    driver.trades(99, 99, 103)
    assert driver.ids == [102, 99, 103]
    assert driver.holes == [("COLD_START", None, None, None)]
    assert driver.session.duplicates == 1


def test_what_the_exchange_sent_while_the_collector_was_away_is_one_gap() -> None:
    driver = Driver(new_session(100))
    driver.connect()
    driver.trades(120, 121)
    driver.advance(0.6)
    assert driver.ids == [120, 121]
    assert driver.holes == [("DISCONNECT", 101, 119, 19)]
    assert driver.gaps[0].from_time == us(0)
    assert driver.gaps[0].detail == "the collector was away"


def test_a_restart_without_a_trade_between_says_so() -> None:
    driver = Driver(new_session(100))
    driver.connect()
    driver.trades(101)
    assert driver.holes == [("DISCONNECT", None, None, 0)]


def test_a_break_that_was_told_by_an_earlier_run_is_the_same_gap_when_it_ends_in_this_one() -> None:
    before = live()
    before.lose()
    before.advance(6.0)
    [told] = before.gaps
    driver = Driver(new_session(101))
    driver.connect()
    driver.trades(102)
    driver.advance(0.6)
    [ended] = driver.gaps
    assert (told.missing, ended.missing, ended.gap_id) == (None, 0, told.gap_id)


def test_a_lost_connection_is_one_gap_with_what_is_missing() -> None:
    driver = live()
    driver.lose()
    driver.connect("two")
    driver.trades(106, 105)
    driver.advance(0.6)
    assert driver.ids == [105, 106]
    assert driver.holes == [("DISCONNECT", 102, 104, 3)]
    assert driver.gaps[0].connection == "two"


def test_a_hole_is_waited_for_over_a_lost_connection() -> None:
    driver = live()
    driver.trades(103)
    driver.lose()
    assert driver.ids == []
    driver.advance(0.6)
    assert driver.ids == [103]
    driver.connect("two")
    driver.trades(104)
    assert driver.holes == [("SEQUENCE", 102, 102, 1), ("DISCONNECT", None, None, 0)]


def test_holes_after_a_reconnect_are_told_from_the_one_of_the_cut() -> None:
    driver = live()
    driver.lose()
    driver.connect("two")
    driver.trades(110, 105)
    driver.advance(0.6)
    assert driver.holes == [("DISCONNECT", 102, 104, 3), ("SEQUENCE", 106, 109, 4)]


def test_two_cuts_without_a_trade_between_are_one_gap() -> None:
    driver = live()
    driver.lose()
    driver.connect("two")
    driver.lose()
    driver.connect("three")
    driver.trades(103)
    driver.advance(0.6)
    assert driver.holes == [("DISCONNECT", 102, 102, 1)]


def test_duplicates_after_a_reconnect_are_dropped() -> None:
    driver = live()
    driver.trades(102, 103)
    driver.lose()
    driver.connect("two")
    driver.trades(102, 103, 104)
    assert driver.ids == [102, 103, 104]
    assert driver.holes == [("DISCONNECT", None, None, 0)]


def test_books_have_one_gap_per_break_and_none_at_a_cold_start() -> None:
    driver = Driver(new_session(None))
    driver.connect()
    driver.frame(book_frame())
    driver.lose()
    driver.advance(1.0)
    driver.connect("two")
    driver.frame(book_frame(update_id=2))
    driver.frame(book_frame(update_id=3))
    first, gap, second, third = driver.out
    assert isinstance(gap, Gap)
    assert isinstance(first, Book)
    assert isinstance(second, Book)
    assert isinstance(third, Book)
    assert (gap.channel, gap.cause, gap.missing) == ("books", "DISCONNECT", None)
    assert (gap.from_time, gap.to_time) == (first.received_time, second.received_time)


def test_what_a_new_connection_begins_with_is_not_said_again_where_nothing_has_changed() -> None:
    """How things stand is the same as before: the break is a Gap, and the record is there already."""
    driver = Driver(new_session(None))
    driver.connect()
    driver.frame(book_frame(update_id=7))
    driver.lose()
    driver.advance(1.0)
    driver.connect("two")
    driver.frame(book_frame(update_id=7))
    driver.frame(book_frame(update_id=7))
    kinds = [type(action) for action in driver.out]
    assert kinds == [Book, Gap]


def test_a_line_lost_before_its_first_book_has_a_hole_since_it_was_acknowledged() -> None:
    driver = Driver(new_session(None))
    driver.connect()
    driver.advance(1.0)
    driver.lose()
    driver.advance(1.0)
    driver.connect("two")
    driver.frame(book_frame())
    gap, book = driver.out
    assert isinstance(gap, Gap)
    assert isinstance(book, Book)
    assert (gap.from_time, gap.to_time) == (us(1.0), us(3.0))


def test_a_line_lost_before_it_was_acknowledged_has_no_hole() -> None:
    driver = Driver(new_session(None), answers=False)
    driver.connect()
    driver.lose()
    driver.answers = True
    driver.connect("two")
    driver.frame(book_frame())
    assert [type(action) for action in driver.out] == [Book]


@pytest.mark.parametrize(
    ("times", "published"),
    [
        ((1, 2, 3, 4), [10, 20, 10, 20]),
        ((None,) * 4, [10, 20, 10, 20]),
        ((5, 5, 5, 5), [10, 20]),
    ],
)
def test_what_goes_back_to_what_it_was_is_said_again_unless_it_has_the_same_time(
    times: tuple[int | None, ...], published: list[int]
) -> None:
    feed = FeedTape("KRAKEN", Feed(QUOTES, "BTC/USD"), None)
    out = [
        record for time, bid in zip(times, (10, 20, 10, 20), strict=True) for record in feed.add(quote(bid, time), "")
    ]
    assert [record.bid_price for record in out if isinstance(record, Quote)] == published
    assert feed.duplicates == 4 - len(published)


def quote(bid: int, time_us: int | None) -> Quote:
    return Quote(
        venue="KRAKEN",
        symbol="BTC/USD",
        event_time=time_us,
        received_time=9,
        bid_price=bid,
        bid_quantity=1,
        ask_price=30,
        ask_quantity=1,
        last_price=None,
        connection_time=0,
        connection_sequence=1,
    )


def test_a_frame_that_was_never_asked_for_is_kept_as_bytes() -> None:
    driver = live()
    frame = trade_frame(1, driver.now, "ETHUSDT")
    driver.frame(frame)
    driver.frame(b"so long")
    assert driver.out == [
        BadBytes(frame, "unreadable_frame", "trades of ETHUSDT were never asked for", "one"),
        BadBytes(b"so long", "unreadable_frame", "JSON is malformed: invalid character (byte 0)", "one"),
    ]


# Laws: ids from 101 on are printed every 0.1 s and come as the fates say, over a line that may be cut

FIRST = 101
in_time = st.floats(0.0, 0.35)
too_late = st.floats(0.6, 3.0)
fates = st.lists(
    st.one_of(
        st.lists(in_time, min_size=1, max_size=3),
        st.lists(in_time, min_size=1, max_size=1),
        st.just([]),
        st.tuples(too_late).map(list),
    ),
    min_size=1,
    max_size=40,
)
cuts = st.lists(st.tuples(st.floats(1.0, 5.0), st.floats(0.1, 1.5)), max_size=3)
warm = st.booleans()


class Played(NamedTuple):
    """A driver at the end of a tape, the ids that reached it in their order, and the breaks that new ids followed."""

    driver: Driver
    came: list[int]
    breaks: int


def play(fates: list[list[float]], cuts: list[tuple[float, float]], warm: bool) -> Played:
    arrivals = sorted(
        (1.0 + place * 0.1 + delay, FIRST + place) for place, delays in enumerate(fates) for delay in delays
    )
    down = sorted((start, start + length) for start, length in cuts)
    moments = sorted({*(moment for span in down for moment in span), *(at for at, _ in arrivals)})
    driver = Driver(new_session(FIRST - 1 if warm else None))
    driver.connect()
    came: list[int] = []
    breaks, broken, up = 0, warm, True
    for moment in moments:
        driver.until(moment)
        is_up = not any(start <= moment < end for start, end in down)
        if up and not is_up:
            driver.lose()
            broken = broken or bool(came)
        elif is_up and not up:
            driver.connect(f"at {moment}")
        up = is_up
        for at, trade_id in arrivals:
            if at == moment and up:
                if broken and trade_id > max(came, default=0):
                    breaks, broken = breaks + 1, False
                came.append(trade_id)
                driver.frame(trade_frame(trade_id, 1.0 + (trade_id - FIRST) * 0.1))
    driver.advance(2.0)
    return Played(driver, came, breaks)


def runs(ids: set[int]) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    for number in sorted(ids):
        if found and number == found[-1][1] + 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found


@given(fates, cuts, warm)
def test_every_id_is_published_once_or_in_one_gap(
    fates: list[list[float]], cuts: list[tuple[float, float]], warm: bool
) -> None:
    driver, came, _ = play(fates, cuts, warm)
    published = [number for number in driver.ids if number is not None]
    assert len(published) == len(set(published))
    assert set(published) == set(came)
    assert driver.session.duplicates == len(came) - len(published)
    assert driver.session.held == 0
    if published:
        first = FIRST if warm else published[0]
        missing = set(range(first, max(published))) - set(published)
        named = [(gap.from_sequence, gap.to_sequence) for gap in driver.gaps if gap.missing]
        assert sorted(named) == runs(missing)
        assert sum(gap.missing or 0 for gap in driver.gaps) == len(missing)


@given(fates, cuts, warm)
def test_trades_are_published_in_order_but_for_late_repairs(
    fates: list[list[float]], cuts: list[tuple[float, float]], warm: bool
) -> None:
    driver = play(fates, cuts, warm).driver
    last = FIRST - 1 if warm else 0
    holes: set[int] = set() if warm else set(range(FIRST))
    for action in driver.out:
        if isinstance(action, Gap) and action.repair == "NONE" and action.from_sequence and action.to_sequence:
            holes |= set(range(action.from_sequence, action.to_sequence + 1))
        if isinstance(action, Trade):
            assert action.sequence is not None
            cold = last == 0
            assert action.sequence == last + 1 or action.sequence in holes or action.sequence - 1 in holes or cold
            holes |= set(range(FIRST, action.sequence)) if cold else set()
            holes.discard(action.sequence)
            last = max(last, action.sequence)


@given(fates, cuts, warm)
def test_each_break_between_two_trades_is_one_gap(
    fates: list[list[float]], cuts: list[tuple[float, float]], warm: bool
) -> None:
    driver, _, breaks = play(fates, cuts, warm)
    # One that no id has followed yet may be told as well, without a number of what is missing.
    found = [action for action in driver.out if isinstance(action, Gap) and action.missing is not None]
    assert len({gap.gap_id for gap in found if gap.cause == "DISCONNECT" and gap.repair == "NONE"}) == breaks
