"""Holes that are filled over REST, silence that is doubted, and connections with heirs: the session, driven by hand."""

import json
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.actions import FetchTrades, Habits, Move
from producers.contract import TRADES, Feed, Span
from producers.session import Session
from producers.tape import ASK_AGAIN_S, Seen
from ravencore.records import Book, Gap, Trade
from tests.producers.made import BINANCE, LOST, SYMBOL, URL, Driver, book_frame, trade_frame, unwant, us, want

Rest = Callable[[Span, float], Sequence[int] | None]
"""Ids that REST tells of a span at a time; None: the request fails."""
HABITS = Habits(reorder_seconds=0.5, repair_seconds=2.0)


def body(ids: Sequence[int]) -> bytes:
    rows = [
        {"id": number, "price": "1.5", "qty": "2", "time": us(number_time(number)) // 1000, "isBuyerMaker": False}
        for number in ids
    ]
    return json.dumps(rows).encode()


def number_time(number: int) -> float:
    """When a trade was printed, in seconds."""
    return 1.0 + (number - 101) * 0.1


class Asked(Driver):
    """A driver whose REST answers 0.1 s after it was asked."""

    def __init__(self, session: Session, rest: Rest) -> None:
        super().__init__(session)
        self.rest = rest
        self.spans: list[Span] = []

    def advance(self, seconds: float) -> None:
        self.until(self.now + seconds)

    def until(self, end: float) -> None:
        while True:
            super().until(min(self.now + self.STEP, end))
            self._answer()
            if self.now >= end:
                return

    def _answer(self) -> None:
        asked = [order for order in self.orders if isinstance(order, FetchTrades)]
        self.orders = [order for order in self.orders if not isinstance(order, FetchTrades)]
        for order in asked:
            self.spans.append(order.span)
            ids = self.rest(order.span, self.now)
            if ids is None:
                self._take(self.session.asking.not_told(order, self.now))
            else:
                self._take(self.session.asking.told(order, body(ids), us(self.now), self.now))


def all_of(span: Span, now: float) -> list[int]:
    """REST that knows everything that was printed."""
    newest = 101 + int((now - 1.0) / 0.1)
    return list(range(span.first, min(span.last or newest, newest) + 1))[:1000]


def nothing(_span: Span, _now: float) -> list[int]:
    return []


def live(rest: Rest) -> Asked:
    """A driver whose feed is flowing: trade 101 has come."""
    session = Session(BINANCE, URL, HABITS)
    want(session, SYMBOL, 100)
    driver = Asked(session, rest)
    driver.connect()
    driver.trades(101)
    driver.advance(0.6)
    driver.out.clear()
    return driver


def test_a_hole_is_filled_in_order_and_the_gap_says_so() -> None:
    driver = live(lambda span, _: range(span.first, (span.last or 0) + 1))
    driver.trades(105, 106)
    driver.advance(0.45)
    assert driver.ids == []
    driver.advance(0.3)
    kinds = [type(action) for action in driver.out]
    assert driver.ids == [102, 103, 104, 105, 106]
    assert kinds == [Trade, Trade, Trade, Gap, Trade, Trade]
    (gap,) = driver.gaps
    assert (gap.cause, gap.repair, gap.repaired, gap.missing) == ("SEQUENCE", "BACKFILLED", 3, 0)
    assert driver.spans == [Span(102, 104, us(1.0), us(1.6))]


def test_the_part_that_rest_does_not_have_is_a_gap_of_its_own() -> None:
    driver = live(lambda span, _: [number for number in (102, 104) if number >= span.first])
    driver.trades(106)
    driver.advance(30.0)
    assert driver.ids == [102, 104, 106]
    found = [(gap.repair, gap.repaired, gap.from_sequence, gap.to_sequence) for gap in driver.gaps]
    filled = ("BACKFILLED", 1, None, None)
    assert found == [filled, ("NONE", 0, 103, 103), filled, ("NONE", 0, 105, 105)]


def test_a_venue_that_has_nothing_is_asked_four_times_and_trades_wait_no_longer_than_two_seconds() -> None:
    driver = live(nothing)
    driver.trades(103)
    driver.advance(2.3)
    assert driver.ids == []
    driver.advance(0.4)
    assert driver.ids == [103]
    driver.advance(60.0)
    assert len([span for span in driver.spans if span.last == 102]) == 4
    assert driver.holes == [("SEQUENCE", 102, 102, 1)]


def test_what_rest_tells_too_late_is_a_late_repair_told_at_once() -> None:
    driver = live(lambda span, now: range(span.first, (span.last or 0) + 1) if now > 5.0 else None)
    driver.trades(105)
    driver.advance(3.0)
    assert driver.holes == [("SEQUENCE", 102, 104, 3)]
    driver.advance(10.0)
    assert driver.ids == [105, 102, 103, 104]
    (gap,) = driver.gaps
    assert (gap.repair, gap.repaired, gap.missing) == ("BACKFILLED", 3, 0)
    told = [action for action in driver.out if isinstance(action, Gap)]
    assert len(told) == 2


def test_what_was_lost_with_a_connection_is_filled_even_if_no_trade_comes_again() -> None:
    driver = live(lambda span, _: [number for number in (102, 103) if number >= span.first])
    driver.lose()
    driver.connect("two")
    driver.advance(5.0)
    assert driver.ids == [102, 103]
    (gap,) = driver.gaps
    assert (gap.cause, gap.repair, gap.repaired) == ("DISCONNECT", "BACKFILLED", 2)


def test_a_connection_lost_at_once_leaves_time_to_fill_what_came_with_holes() -> None:
    driver = Asked(Session(BINANCE, URL, HABITS), all_of)
    want(driver.session, SYMBOL)
    driver.connect()
    driver.trades(101, 104, 107)
    driver.lose()
    driver.connect("two")
    driver.advance(5.0)
    assert driver.ids[:7] == list(range(101, 108))


def test_what_nobody_wanted_is_not_asked_for() -> None:
    driver = live(all_of)
    want(driver.session, "AAA")
    driver.advance(0.5)
    unwant(driver.session, SYMBOL)
    driver.advance(0.5)
    want(driver.session, SYMBOL)
    driver.advance(0.5)
    driver.trades(200)
    driver.advance(20.0)
    assert driver.spans == []
    assert driver.holes == [("DISCONNECT", 102, 199, 98)]


def test_a_venue_that_tells_of_later_ids_instead_is_asked_once_more_and_no_longer_waited_for() -> None:
    driver = Asked(Session(BINANCE, URL, HABITS._replace(repair_seconds=60.0)), lambda span, _: [105, 106])
    want(driver.session, SYMBOL, 100)
    driver.connect()
    driver.trades(101, 105)
    driver.advance(1.5)
    assert driver.ids == [101, 105]
    driver.advance(30.0)
    assert [span for span in driver.spans if span.last] == [Span(102, 104, us(1.0), us(1.0))] * 2


def demanded_again(rest: Rest) -> Asked:
    """A driver whose feed was not wanted for half a second, and is acknowledged again."""
    driver = live(rest)
    want(driver.session, "AAA")
    driver.advance(0.5)
    unwant(driver.session, SYMBOL)
    driver.advance(0.5)
    want(driver.session, SYMBOL)
    driver.advance(0.5)
    return driver


def test_what_is_wanted_again_and_does_not_come_is_asked_for() -> None:
    """Trade 300 is printed 19.9 s after trade 101; REST does not have the last before it."""
    driver = demanded_again(lambda span, now: [number for number in all_of(span, now) if not 290 < number < 300])
    driver.until(number_time(300))
    driver.trades(300)
    driver.advance(30.0)
    assert sorted(number or 0 for number in driver.ids) == [*range(102, 291), 300]
    assert [hole[1:] for hole in driver.holes if hole[3]] == [(291, 299, 9)]
    assert "not demanded for a time" not in {gap.detail for gap in driver.gaps}


def test_what_a_cut_takes_of_a_feed_that_is_wanted_again_is_asked_for() -> None:
    driver = demanded_again(all_of)
    driver.lose()
    driver.until(number_time(300))
    driver.connect("two")
    driver.trades(300)
    driver.advance(30.0)
    assert sorted(number or 0 for number in driver.ids) == list(range(102, 301))
    (gap,) = driver.gaps
    assert (gap.cause, gap.detail, gap.missing) == ("DISCONNECT", "not demanded for a time, and then cut", 0)


def test_what_rest_tells_of_before_the_venue_counted_anew_is_not_taken_for_new() -> None:
    driver = Driver(Session(BINANCE, URL, HABITS))
    want(driver.session, SYMBOL, 100)
    driver.connect()
    driver.trades(101, 105)
    driver.advance(3.0)
    (asked,) = [order for order in driver.orders if isinstance(order, FetchTrades)]
    for number in range(1, 5):
        driver.advance(0.7)
        driver.trades(number)
    driver._take(driver.session.asking.told(asked, body(range(102, 110)), us(driver.now), driver.now))
    driver.advance(3.0)
    driver.trades(5)
    assert driver.ids == [101, 105, 1, 2, 3, 4, 5]


def test_what_was_missing_when_the_collector_ended_is_asked_for_by_the_next() -> None:
    before = live(nothing)
    before.trades(105)
    before.advance(30.0)
    (gap,) = before.gaps
    session = Session(BINANCE, URL, HABITS)
    session.want(Feed(TRADES, SYMBOL), {SYMBOL: Seen(105, us(1.6), (gap,))})
    driver = Asked(session, lambda span, _: range(span.first, (span.last or 0) + 1))
    driver.connect()
    driver.trades(106)
    driver.advance(1.0)
    assert [action.sequence for action in driver.out if isinstance(action, Trade)] == [102, 103, 104, 106]
    assert [(one.gap_id == gap.gap_id, one.repair, one.repaired) for one in driver.gaps] == [
        (True, "BACKFILLED", 3),
        (False, "NONE", 0),
    ]


# Laws: ids from 101 on are printed every 0.1 s and come, or not, over a line that is cut

fates = st.lists(st.sampled_from(["now", "now", "now", "late", "never", "twice"]), min_size=5, max_size=60)
cuts = st.lists(st.tuples(st.floats(1.0, 6.0), st.floats(0.1, 1.5)), max_size=3)
moods = st.lists(st.sampled_from(["all", "all", "fails", "nothing"]), max_size=6).filter(
    lambda moods: moods.count("nothing") < len(ASK_AGAIN_S)
)
"""A venue that says often enough that it has nothing is believed."""
DELAYS = {"now": [0.0], "late": [0.3], "never": [], "twice": [0.0, 0.2]}


@given(fates, cuts, moods)
def test_every_id_that_rest_has_is_published_once_and_no_gap_stands(
    fates: list[str], cuts: list[tuple[float, float]], moods: list[str]
) -> None:
    moods = list(moods)

    def rest(span: Span, now: float) -> Sequence[int] | None:
        mood = moods.pop(0) if moods else "all"
        last = 100 + len(fates)
        return None if mood == "fails" else [n for n in all_of(span, now) if n <= last] if mood == "all" else []

    session = Session(BINANCE, URL, HABITS)
    want(session, SYMBOL, 100)
    driver = Asked(session, rest)
    driver.connect()
    arrivals = sorted(
        (number_time(101 + place) + delay, 101 + place) for place, fate in enumerate(fates) for delay in DELAYS[fate]
    )
    down = [(start, start + length) for start, length in cuts]
    moments = sorted({*(at for at, _ in arrivals), *(moment for span in down for moment in span)})
    up = True
    for moment in moments:
        driver.until(moment)
        is_up = not any(start <= moment < end for start, end in down)
        if up and not is_up:
            driver.lose()
        elif is_up and not up:
            driver.connect(f"at {moment}")
        up = is_up
        for at, number in arrivals:
            if at == moment and up:
                driver.frame(trade_frame(number, number_time(number)))
    driver.advance(120.0)
    ids = [number for number in driver.ids if number is not None]
    assert len(ids) == len(set(ids))
    newest = max(ids, default=100)
    assert sorted(ids) == list(range(101, newest + 1))
    assert not [gap for gap in driver.gaps if gap.missing]
    assert driver.session.held == 0


# Silence


def paced(driver: Asked, seconds: float, pause: float = 0.1) -> None:
    """Trades at a steady pace, and books."""
    number = (driver.ids[-1] if driver.ids else 101) or 101
    for _ in range(round(seconds / pause)):
        number += 1
        driver.trades(number)
        driver.frame(book_frame(update_id=number))
        driver.advance(pause)


def states(session: Session) -> dict[str, str]:
    return {line.channel: line.state for line in session.subscriptions()}


def test_a_silent_feed_of_trades_is_asked_after_then_subscribed_anew_then_moved() -> None:
    driver = live(lambda span, _: [span.first + 2] if span.last is None else range(span.first, span.last + 1))
    paced(driver, 5.0)
    said = len(driver.sent)
    for _ in range(60):
        driver.frame(book_frame(update_id=9_999))
        driver.advance(0.1)
    assert [json.loads(text)["method"] for _, text in driver.sent[said:]] == ["UNSUBSCRIBE", "SUBSCRIBE"]
    assert json.loads(driver.sent[-1][1])["params"] == ["btcusdt@trade"]
    assert states(driver.session)["trades"] == "SILENT"
    assert {gap.cause for gap in driver.gaps} == {"SILENCE"}
    assert driver.orders == []
    driver.advance(12.0)
    assert Move(Feed(TRADES, SYMBOL)) in driver.orders


def only_books(driver: Driver, seconds: float) -> None:
    for _ in range(round(seconds * 10)):
        driver.frame(book_frame(update_id=9_999))
        driver.advance(0.1)


class Denied(Asked):
    """A driver whose REST refuses every question, as one that wants a key."""

    def _answer(self) -> None:
        asked = [order for order in self.orders if isinstance(order, FetchTrades)]
        self.orders = [order for order in self.orders if not isinstance(order, FetchTrades)]
        for order in asked:
            self.spans.append(order.span)
            self._take(self.session.asking.told_nothing(order, us(self.now), self.now))


def methods(driver: Driver) -> list[str]:
    return [json.loads(text)["method"] for _, text in driver.sent]


def test_a_silent_feed_is_subscribed_anew_where_rest_refuses_to_tell() -> None:
    session = Session(BINANCE, URL, HABITS)
    want(session, SYMBOL, 100)
    driver = Denied(session, nothing)
    driver.connect()
    driver.trades(101)
    paced(driver, 5.0)
    only_books(driver, 6.0)
    assert [span.last for span in driver.spans] == [None]
    assert methods(driver) == ["SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE"]
    only_books(driver, 12.0)
    assert Move(Feed(TRADES, SYMBOL)) in driver.orders


def test_a_feed_that_never_brought_a_trade_is_subscribed_anew_for_its_silence() -> None:
    """There is no id that REST could be asked from."""
    session = Session(BINANCE, URL, HABITS)
    session.want(Feed(TRADES, SYMBOL), {})
    driver = Asked(session, nothing)
    driver.connect()
    driver.advance(40.0)
    assert driver.spans == []
    assert methods(driver) == ["SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE"]


def asked_after(session: Session) -> list[bool]:
    return [line.suspected for feed, line in session.desk.lines.items() if feed.channel == TRADES]


def test_a_feed_that_fell_silent_twice_is_asked_after_twice() -> None:
    """An answer that a lost connection or a trade has outrun leaves nobody waiting for it."""
    session = Session(BINANCE, URL, HABITS)
    want(session, SYMBOL, 100)
    driver = Driver(session)
    driver.connect()
    driver.trades(101)
    driver.advance(40.0)
    assert asked_after(session) == [True]
    driver.trades(102)
    assert asked_after(session) == [False]
    driver.advance(130.0)
    assert asked_after(session) == [True]
    driver.lose()
    assert asked_after(session) == [False]


def test_a_quiet_market_is_left_in_peace() -> None:
    driver = live(nothing)
    paced(driver, 5.0)
    said = len(driver.sent)
    for _ in range(300):
        driver.frame(book_frame(update_id=9_999))
        driver.advance(0.1)
    assert [span.last for span in driver.spans] == [None] * len(driver.spans)
    assert 1 <= len(driver.spans) <= 4
    assert not [text for _, text in driver.sent[said:] if "@trade" in text]
    assert not [gap for gap in driver.gaps if gap.cause == "SILENCE"]


# Make before break


def beside(driver: Asked) -> Asked:
    """The heir, connected."""
    heir = Asked(driver.session.heir(), driver.rest)
    heir.now = driver.now
    heir.connect("two")
    return heir


@given(
    st.lists(st.tuples(st.sampled_from(["old", "new", "both", "both"]), st.booleans()), max_size=30),
    st.booleans(),
)
def test_nothing_is_lost_or_said_twice_while_a_connection_is_replaced(
    heard: list[tuple[str, bool]], behind: bool
) -> None:
    """The new connection hears from some moment on what the old one hears, earlier or later, or after its end."""
    old = live(nothing)
    old.frame(book_frame(update_id=1))
    new = beside(old)
    number = 101
    waiting: list[bytes] = []
    for who, is_trade in heard:
        number += 1
        frame = trade_frame(number, old.now) if is_trade else book_frame(update_id=number)
        waiting = [*waiting, frame]
        if who != "old":
            for one in waiting:
                new.frame(one)
            waiting = []
        if who != "new":
            old.frame(frame)
    late = waiting if behind else []
    for one in waiting[len(late) :]:
        new.frame(one)
    old._take(old.session.bequeath(new.session, LOST, old.now, us(old.now)))
    for one in late:
        new.frame(one)
    new.frame(book_frame(update_id=1000))
    out = [*old.out, *new.out]
    books = [action.sequence for action in out if isinstance(action, Book)]
    assert len(books) == len(set(books))
    printed = [101 + place for place, (_, is_trade) in enumerate(heard, start=1) if not is_trade]
    assert set(books) == {1, 1000, *printed}
    trades = [action.sequence for action in out if isinstance(action, Trade)]
    assert len(trades) == len(set(trades))
    assert not [action for action in out if isinstance(action, Gap) and action.cause == "DISCONNECT"]


@pytest.mark.parametrize(("first", "said", "heard"), [(1, 50, 1), (0, 40, 30)])
def test_what_the_old_connection_brought_is_not_said_again_by_a_new_one_that_is_far_behind(
    first: int, said: int, heard: int
) -> None:
    """Of 58 books the new one hears `first` before the old one `said` its own, and `heard` by the hand-over."""
    old = live(nothing)
    old.frame(book_frame(update_id=1))
    new = beside(old)
    frames = [book_frame(update_id=number) for number in range(2, 60)]
    for listener, some in ((new, frames[:first]), (old, frames[:said]), (new, frames[first:heard])):
        for frame in some:
            listener.frame(frame)
    old._take(old.session.bequeath(new.session, LOST, old.now, us(old.now)))
    for frame in frames[heard:]:
        new.frame(frame)
    assert [action.sequence for action in (*old.out, *new.out) if isinstance(action, Book)] == [*range(1, 60)]


@pytest.mark.parametrize(("silent_s", "causes"), [(4.0, ["SILENCE"]), (0.2, [])])
def test_a_feed_that_was_strangely_quiet_on_the_old_connection_is_doubted(silent_s: float, causes: list[str]) -> None:
    old = live(nothing)
    paced(old, 5.0)
    new = beside(old)
    for _ in range(round(silent_s * 10)):
        old.trades(1_000 + len(old.out))
        old.advance(0.1)
    old._take(old.session.bequeath(new.session, LOST, old.now, us(old.now)))
    new.frame(book_frame(update_id=9_999))
    gaps = [action for action in (*old.out, *new.out) if isinstance(action, Gap) and action.channel == "books"]
    assert [gap.cause for gap in gaps] == causes


def test_what_a_new_connection_brings_twice_is_published_once_however_long_ago() -> None:
    old = live(nothing)
    old.frame(book_frame(update_id=1))
    new = beside(old)
    for number in range(2, 30):
        frame = book_frame(update_id=number)
        old.frame(frame)
        for _ in range(2 if number == 5 else 1):
            new.frame(frame)
    old._take(old.session.bequeath(new.session, LOST, old.now, us(old.now)))
    assert [action.sequence for action in (*old.out, *new.out) if isinstance(action, Book)] == [*range(1, 30)]
