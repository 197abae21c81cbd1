"""What the session says to the venue, what it makes of the answers, and its Clocks."""

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.actions import BadBytes, Clock, Close, Habits, Renew
from producers.contract import QUOTES, TRADES, Feed
from producers.pace import Latency
from producers.session import Session
from producers.tape import NOT_DEMANDED, Break
from producers.venues.binance_spot import BinanceSpot
from producers.venues.coinbase import Coinbase
from ravencore.records import Gap, Trade
from tests.producers.made import (
    BINANCE,
    LOST,
    SYMBOL,
    URL,
    Driver,
    book_frame,
    error_frame,
    new_session,
    reply_frame,
    trade_frame,
    unwant,
    us,
    want,
)

COINBASE = Coinbase()


def requests(driver: Driver) -> list[tuple[str, list[str]]]:
    said = [json.loads(text) for _, text in driver.sent]
    return [(request["method"], request["params"]) for request in said]


def states(session: Session) -> dict[str, str]:
    return {f"{line.channel} {line.symbol}": line.state for line in session.subscriptions()}


def connected(*symbols: str, answers: bool = True, **options: Any) -> Driver:
    driver = Driver(new_session(100, options.get("clock"), *symbols), answers=answers)
    driver.connect()
    return driver


# Subscriptions


def test_all_channels_of_a_symbol_are_asked_for_in_one_message() -> None:
    driver = connected("BTCUSDT", "ETHUSDT")
    assert requests(driver) == [
        ("SUBSCRIBE", ["btcusdt@trade", "btcusdt@depth20@100ms", "ethusdt@trade", "ethusdt@depth20@100ms"])
    ]


def test_a_feed_goes_from_connecting_over_subscribed_to_flowing() -> None:
    session = new_session(100)
    driver = Driver(session, answers=False)
    assert states(session) == {"trades BTCUSDT": "CONNECTING", "books BTCUSDT": "CONNECTING"}
    driver.connect()
    assert states(session) == {"trades BTCUSDT": "CONNECTING", "books BTCUSDT": "CONNECTING"}
    driver.frame(reply_frame(1))
    assert states(session) == {"trades BTCUSDT": "SUBSCRIBED", "books BTCUSDT": "SUBSCRIBED"}
    driver.trades(101)
    assert states(session) == {"trades BTCUSDT": "FLOWING", "books BTCUSDT": "SUBSCRIBED"}
    driver.lose()
    assert states(session) == {"trades BTCUSDT": "CONNECTING", "books BTCUSDT": "CONNECTING"}
    assert session.subscriptions()[0].last_received_time == us(1.0)


def test_all_is_asked_for_again_after_a_reconnect() -> None:
    driver = connected()
    driver.lose()
    driver.connect("two")
    assert [method for method, _ in requests(driver)] == ["SUBSCRIBE", "SUBSCRIBE"]


def test_many_feeds_are_batched_and_each_request_waits_for_the_answer_to_the_last() -> None:
    symbols = [f"S{number}" for number in range(300)]
    driver = connected(*symbols)
    driver.advance(2.0)
    asked = [stream for _, streams in requests(driver) for stream in streams]
    assert len(asked) == len(set(asked)) == 600
    assert max(len(streams) for _, streams in requests(driver)) <= BINANCE.limits.feeds_per_message
    silent = connected(*symbols, answers=False)
    silent.advance(2.0)
    assert len(requests(silent)) == 1


def test_one_refused_feed_is_found_and_harms_no_other() -> None:
    driver = connected("AAA", "BBB", answers=False)
    for number in range(1, 12):
        answered = [json.loads(text) for _, text in driver.sent if json.loads(text)["id"] == number]
        for request in answered:
            refused = "bbb@trade" in request["params"]
            driver.frame(error_frame(number) if refused else reply_frame(number))
        driver.advance(0.4)
    assert states(driver.session) == {
        "trades AAA": "SUBSCRIBED",
        "books AAA": "SUBSCRIBED",
        "trades BBB": "REFUSED",
        "books BBB": "SUBSCRIBED",
    }
    assert driver.session.refusals() == ["BINANCE_SPOT refuses trades of BBB: no (2)"]
    assert not driver.closed


def refuse_all(driver: Driver) -> None:
    """The venue answers each request with an error until none is made any more."""
    answered = 0
    while (number := json.loads(driver.sent[-1][1])["id"]) != answered:
        answered = number
        driver.frame(error_frame(number))
        driver.advance(0.5)


def refusals(driver: Driver) -> dict[str, Gap]:
    """The newest entry of each Gap, by channel, of those that stand as REFUSED."""
    newest = {action.gap_id: action for action in driver.out if isinstance(action, Gap)}
    return {gap.channel: gap for gap in newest.values() if gap.cause == "REFUSED"}


def test_a_refused_feed_has_a_gap_that_says_so_even_if_nothing_had_come_of_it() -> None:
    driver = Driver(new_session(None), answers=False)
    driver.connect()
    refuse_all(driver)
    told = refusals(driver)
    assert {channel: gap.detail for channel, gap in told.items()} == {"trades": "no (2)", "books": "no (2)"}
    assert all(gap.from_time is not None and gap.missing is None for gap in told.values())
    driver.advance(30.0)
    assert len([action for action in driver.out if isinstance(action, Gap)]) == 2


@pytest.mark.parametrize("away_s", [0.0, 8.0])
def test_a_feed_that_is_refused_after_a_cut_has_one_gap_from_its_last_record_which_says_so(away_s: float) -> None:
    driver = connected()
    driver.trades(101)
    driver.frame(book_frame())
    driver.advance(0.6)
    driver.lose()
    driver.advance(away_s)
    driver.answers = False
    driver.connect("two")
    refuse_all(driver)
    told = refusals(driver)
    assert {channel: gap.from_time for channel, gap in told.items()} == {"trades": us(1.0), "books": us(1.0)}
    assert {gap.gap_id for gap in driver.gaps if gap.cause == "DISCONNECT" and gap.from_time == us(1.0)} == set()


def test_a_feed_of_an_earlier_run_that_is_refused_now_has_a_gap_since_then_until_it_comes_again() -> None:
    driver = Driver(new_session(100), answers=False)
    driver.connect()
    refuse_all(driver)
    assert refusals(driver)["trades"].from_time == us(0)
    driver.answers = True
    want(driver.session, SYMBOL)
    driver.advance(0.1)
    driver.trades(104)
    driver.advance(0.6)
    assert driver.holes == [("REFUSED", 101, 103, 3)]


def test_what_a_replacing_connection_is_refused_is_told_when_the_old_one_ends() -> None:
    old = connected()
    old.trades(101)
    new = Driver(old.session.heir(), answers=False)
    new.connect("two")
    refuse_all(new)
    old.trades(102)
    assert (new.out, refusals(old)) == ([], {})
    old._take(old.session.bequeath(new.session, LOST, new.now, us(new.now)))
    assert refusals(old).keys() == {"trades", "books"}


def too_busy(driver: Driver) -> None:
    driver.frame(b'{"code":-1003,"msg":"Too many requests."}')


def test_what_the_venue_has_no_time_for_is_asked_for_again_and_again_and_is_not_refused() -> None:
    driver = Driver(new_session(100), answers=False)
    driver.connect()
    driver.advance(0.1)
    asked = []
    for _ in range(4):
        asked.append(driver.now)
        before = len(driver.sent)
        too_busy(driver)
        while len(driver.sent) == before:
            driver.advance(0.1)
    pauses = [later - earlier for earlier, later in pairwise([*asked, driver.now])]
    assert pauses == pytest.approx([1.0, 2.0, 4.0, 8.0], abs=0.2)
    assert states(driver.session) == {"trades BTCUSDT": "CONNECTING", "books BTCUSDT": "CONNECTING"}
    assert [gap.cause for gap in driver.gaps if gap.cause == "REFUSED"] == []
    driver.frame(reply_frame(json.loads(driver.sent[-1][1])["id"]))
    assert states(driver.session) == {"trades BTCUSDT": "SUBSCRIBED", "books BTCUSDT": "SUBSCRIBED"}


def test_a_greeting_that_the_venue_has_no_time_for_is_sent_again_before_all_else() -> None:
    session = Session(COINBASE, URL, Habits(0.5))
    session.want(Feed(QUOTES, "BTC-USD"), {})
    driver = Driver(session, answers=False)
    driver.connect()
    driver.frame(b'{"type":"error","message":"rate limit exceeded"}')
    driver.advance(1.5)
    assert [json.loads(text)["channel"] for _, text in driver.sent] == ["heartbeats", "heartbeats"]
    subscribed = {"channel": "subscriptions", "sequence_num": 0, "timestamp": "2024-08-09T00:00:00Z"}
    driver.frame(json.dumps(subscribed | {"events": [{"subscriptions": {"heartbeats": ["heartbeats"]}}]}).encode())
    driver.advance(0.1)
    assert [json.loads(text)["channel"] for _, text in driver.sent[2:]] == ["ticker"]


def test_an_end_that_the_venue_has_no_time_for_is_asked_for_again() -> None:
    driver = connected()
    want(driver.session, "AAA")
    driver.advance(0.1)
    driver.answers = False
    unwant(driver.session, SYMBOL)
    driver.advance(0.1)
    too_busy(driver)
    driver.trades(101)
    driver.advance(1.2)
    assert [json.loads(text)["method"] for _, text in driver.sent[-2:]] == ["UNSUBSCRIBE", "UNSUBSCRIBE"]
    assert [action.sequence for action in driver.out if isinstance(action, Trade)] == [101]


def test_an_error_that_names_no_request_answers_the_one_that_is_open() -> None:
    session = Session(BINANCE, URL, Habits(0.5, clock_interval_us=None))
    driver = Driver(session, answers=False)
    driver.connect()
    want(session, "AAA")
    want(session, "BBB")
    driver.advance(0.1)
    driver.frame(b'{"code":3,"msg":"Invalid JSON"}')
    driver.advance(1.0)
    assert [streams for _, streams in requests(driver)[1:]] == [["aaa@trade"]]


def test_a_reply_to_nothing_is_kept_as_bytes() -> None:
    driver = connected()
    driver.frame(reply_frame(99))
    assert isinstance(driver.out[-1], BadBytes)


# Withdrawal


def test_what_is_wanted_no_more_is_unsubscribed_and_the_rest_stays() -> None:
    driver = connected("AAA", "BBB")
    unwant(driver.session, "AAA")
    driver.advance(0.5)
    assert requests(driver)[-1] == ("UNSUBSCRIBE", ["aaa@trade", "aaa@depth20@100ms"])
    assert states(driver.session) == {"trades BBB": "SUBSCRIBED", "books BBB": "SUBSCRIBED"}
    assert not driver.closed


def test_the_connection_is_closed_at_once_and_without_a_request_when_nothing_is_left() -> None:
    driver = connected()
    before = requests(driver)
    unwant(driver.session, SYMBOL)
    driver.advance(0.2)
    assert requests(driver) == before
    assert driver.closed[0] == Close(None)
    driver.session.lost(NOT_DEMANDED, 0)
    assert driver.session.idle
    assert states(driver.session) == {}


def test_the_connection_is_closed_even_if_the_venue_never_answered_the_subscription() -> None:
    driver = connected(answers=False)
    unwant(driver.session, SYMBOL)
    driver.advance(0.2)
    assert driver.closed[0] == Close(None)


def test_what_comes_before_the_unsubscription_is_acknowledged_is_published() -> None:
    driver = connected("AAA", SYMBOL, answers=False)
    driver.frame(reply_frame(1))
    unwant(driver.session, SYMBOL)
    driver.advance(0.5)
    driver.trades(101)
    assert driver.ids == [101]
    assert states(driver.session)["trades BTCUSDT"] == "FLOWING"


def test_a_feed_stopped_and_started_again_has_a_gap_that_says_so() -> None:
    driver = connected("AAA", SYMBOL)
    driver.trades(101)
    unwant(driver.session, SYMBOL)
    driver.advance(0.5)
    want(driver.session, SYMBOL, 1)
    driver.advance(0.5)
    driver.trades(105)
    driver.advance(0.6)
    assert driver.holes[-1] == ("DISCONNECT", 102, 104, 3)
    assert driver.gaps[-1].detail == "not demanded for a time"


def test_a_symbol_wanted_again_before_it_was_ended_goes_on_without_a_gap() -> None:
    driver = connected()
    driver.trades(101)
    unwant(driver.session, SYMBOL)
    want(driver.session, SYMBOL)
    driver.advance(1.0)
    driver.trades(102)
    assert len(requests(driver)) == 1
    assert driver.holes == [("DISCONNECT", None, None, 0)]


def test_a_symbol_wanted_again_while_it_is_being_ended_is_subscribed_anew() -> None:
    driver = connected("AAA", SYMBOL, answers=False)
    driver.frame(reply_frame(1))
    unwant(driver.session, SYMBOL)
    driver.advance(0.5)
    want(driver.session, SYMBOL)
    driver.advance(0.5)
    assert [method for method, _ in requests(driver)] == ["SUBSCRIBE", "UNSUBSCRIBE"]
    driver.frame(reply_frame(2))
    driver.advance(0.5)
    assert [method for method, _ in requests(driver)] == ["SUBSCRIBE", "UNSUBSCRIBE", "SUBSCRIBE"]


def test_a_withdrawal_that_the_connection_did_not_live_to_see_is_no_lost_connection() -> None:
    driver = connected("AAA", SYMBOL)
    driver.trades(101)
    unwant(driver.session, SYMBOL)
    driver.lose()
    driver.connect("two")
    want(driver.session, SYMBOL)
    driver.advance(0.5)
    driver.trades(102)
    assert driver.gaps[-1].detail == "not demanded for a time"


# Dead connections


def test_an_unanswered_request_ends_the_connection() -> None:
    driver = connected(answers=False)
    driver.advance(BINANCE.limits.reply_seconds - 0.1)
    assert not driver.closed
    driver.advance(0.2)
    assert driver.closed[0].why == Break("DISCONNECT", "the venue left a request unanswered")


def test_what_a_dead_connection_left_unanswered_is_not_held_against_the_next() -> None:
    driver = connected(answers=False)
    driver.advance(5.0)
    driver.lose()
    driver.advance(200.0)
    driver.answers = True
    driver.connect("two")
    driver.advance(20.0)
    assert not driver.closed


def test_the_silence_between_two_connections_is_not_held_against_the_next() -> None:
    driver = connected()
    driver.lose()
    driver.advance(200.0)
    driver.answers = False
    driver.connect("two")
    assert not driver.closed


class Silent(BinanceSpot):
    """A venue whose connections are never silent for long."""

    limits = replace(BinanceSpot.limits, silence_seconds=4.0)


def test_silence_ends_the_connection() -> None:
    session = Session(Silent(), URL)
    want(session, SYMBOL, 100)
    driver = Driver(session)
    driver.connect()
    driver.trades(101)
    driver.advance(3.9)
    assert not driver.closed
    driver.advance(0.2)
    assert driver.closed[0].why == Break("SILENCE", "nothing came for 4 s")


def test_the_venues_farewell_asks_for_another_connection() -> None:
    driver = connected()
    driver.frame(b'{"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}')
    assert driver.orders == [Renew("serverShutdown")]
    assert not driver.closed


def test_a_cause_given_at_the_close_is_the_gaps() -> None:
    driver = connected()
    driver.trades(101)
    driver.lose(Break("SILENCE", "nothing came"))
    driver.connect("two")
    driver.trades(103)
    driver.advance(0.6)
    assert driver.holes[-1] == ("SILENCE", 102, 102, 1)


def test_a_silence_in_which_nothing_was_lost_is_no_hole() -> None:
    driver = connected()
    driver.trades(101)
    driver.lose(Break("SILENCE", "nothing came"))
    driver.connect("two")
    driver.trades(102)
    assert driver.holes == [("DISCONNECT", None, None, 0)]
    assert driver.ids == [101, 102]


# Clocks

SECOND_US = 1_000_000


def clocks(driver: Driver) -> list[tuple[str, int]]:
    return [(action.symbol, action.time_us) for action in driver.out if isinstance(action, Clock)]


def quiet(driver: Driver, seconds: float) -> None:
    """Time in which only books come, every 0.1 s."""
    for _ in range(round(seconds * 10)):
        driver.frame(book_frame())
        driver.advance(0.1)


def test_a_quiet_symbol_gets_one_clock_half_a_second_past_each_window() -> None:
    driver = connected(clock=SECOND_US)
    driver.until(2.2)
    quiet(driver, 0.6)
    driver.trades(101)
    quiet(driver, 0.6)
    assert clocks(driver) == []
    quiet(driver, 0.2)
    assert clocks(driver) == [(SYMBOL, us(3))]
    quiet(driver, 2.0)
    assert clocks(driver) == [(SYMBOL, us(3)), (SYMBOL, us(4)), (SYMBOL, us(5))]


def test_a_clock_is_never_behind_a_trade_that_was_published() -> None:
    driver = connected(clock=SECOND_US)
    driver.until(3.3)
    driver.frame(trade_frame(101, 3.2))
    driver.frame(trade_frame(102, 2.9))
    quiet(driver, 1.2)
    assert clocks(driver) == []
    quiet(driver, 0.5)
    assert clocks(driver) == [(SYMBOL, us(4))]


def test_latency_is_taken_off() -> None:
    driver = connected(clock=SECOND_US)
    driver.until(3.0)
    driver.frame(trade_frame(101, 2.6))
    quiet(driver, 0.8)
    assert clocks(driver) == []
    quiet(driver, 0.2)
    assert clocks(driver) == [(SYMBOL, us(3))]


def test_a_recorders_clock_behind_the_venues_changes_nothing() -> None:
    driver = connected(clock=SECOND_US)
    driver.until(2.0)
    driver.frame(trade_frame(101, 3.3))
    quiet(driver, 1.1)
    assert clocks(driver) == []
    quiet(driver, 0.2)
    assert clocks(driver) == [(SYMBOL, us(4))]


def test_only_the_quiet_symbol_gets_a_clock() -> None:
    driver = connected("AAA", "BBB", clock=SECOND_US)
    for number in range(40):
        driver.frame(trade_frame(101 + number, driver.now, "AAA"))
        if number == 0:
            driver.frame(trade_frame(101, driver.now, "BBB"))
        driver.advance(0.1)
    assert {symbol for symbol, _ in clocks(driver)} == {"BBB"}


def test_no_clock_is_written_when_they_are_off() -> None:
    driver = connected()
    driver.trades(101)
    quiet(driver, 5.0)
    assert clocks(driver) == []


def test_no_clock_is_written_before_the_first_trade_after_a_break() -> None:
    driver = connected(clock=SECOND_US)
    quiet(driver, 3.0)
    driver.trades(101)
    driver.lose()
    driver.advance(3.0)
    driver.connect("two")
    quiet(driver, 3.0)
    assert clocks(driver) == []
    driver.trades(102)
    quiet(driver, 2.0)
    assert clocks(driver)


def test_no_clock_is_written_while_a_hole_is_waited_for() -> None:
    driver = Driver(Session(BINANCE, URL, Habits(5.0, clock_interval_us=SECOND_US)))
    want(driver.session, SYMBOL, 100)
    driver.connect()
    driver.trades(101, 103)
    quiet(driver, 3.0)
    assert clocks(driver) == []
    driver.trades(102)
    quiet(driver, 2.0)
    assert clocks(driver)


def test_a_stalled_line_is_no_quiet_market() -> None:
    driver = connected(clock=SECOND_US)
    driver.trades(101)
    quiet(driver, 0.5)
    driver.advance(2.5)
    assert clocks(driver) == []
    driver.frame(book_frame())
    driver.advance(0.1)
    assert clocks(driver) == []


def test_a_line_silent_for_seconds_is_quiet_again() -> None:
    driver = connected(clock=SECOND_US)
    driver.trades(101)
    driver.advance(2.9)
    assert clocks(driver) == []
    driver.advance(0.2)
    assert clocks(driver)


@given(
    st.lists(
        st.tuples(st.floats(0.0, 2.5), st.floats(0.0, 0.3), st.sampled_from(["pass", "pass", "pass", "drop"])),
        min_size=1,
        max_size=25,
    )
)
def test_no_trade_is_older_than_a_clock_before_it(tape: list[tuple[float, float, str]]) -> None:
    """Trades printed some time apart, each up to 0.3 s under way, on a line that keeps their order."""
    driver = connected(clock=SECOND_US)
    printed, arrives = 1.0, 1.0
    for place, (pause, delay, fate) in enumerate(tape):
        printed += pause
        arrives = max(arrives, printed + delay)
        while driver.now + 0.1 < arrives:
            driver.frame(book_frame())
            driver.advance(0.1)
        driver.until(arrives)
        if fate == "pass":
            driver.frame(trade_frame(101 + place, printed))
    quiet(driver, 3.0)
    reached = 0
    for action in driver.out:
        if isinstance(action, Clock):
            assert action.time_us > reached
            reached = action.time_us
        elif isinstance(action, Trade):
            assert action.event_time >= reached
    if driver.ids:
        assert reached > 0


def test_the_largest_latency_is_forgotten_after_two_windows() -> None:
    assert Latency().worst_us is None
    latency = Latency()
    latency.add(us(0), 900)
    latency.add(us(1), -5)
    latency.add(us(61), 10)
    assert latency.worst_us == 900
    latency.add(us(122), 20)
    assert latency.worst_us == 20
    latency.add(us(123), 15)
    assert latency.worst_us == 20


def test_nothing_is_sent_and_no_time_passes_without_a_connection() -> None:
    driver = Driver(new_session(100))
    driver.advance(200.0)
    assert not driver.sent
    assert not driver.closed
    assert driver.session.lost(LOST, us(driver.now)) == []


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ETHUSDT"])
def test_a_session_remembers_the_symbols_it_has_had(symbol: str) -> None:
    session = new_session(100)
    assert session.knows(Feed(TRADES, symbol)) == (symbol == SYMBOL)
    unwant(session, SYMBOL)
    assert session.knows(Feed(TRADES, symbol)) == (symbol == SYMBOL)


def test_a_feed_moves_to_another_session_with_all_that_is_known_of_it() -> None:
    driver = connected()
    driver.trades(101)
    assert driver.session.release(Feed(TRADES, SYMBOL)) is None
    unwant(driver.session, SYMBOL)
    driver.advance(0.5)
    driver.session.lost(NOT_DEMANDED, 0)
    line = driver.session.release(Feed(TRADES, SYMBOL))
    assert line is not None
    other = Driver(Session(BINANCE, URL, Habits(0.5, clock_interval_us=None)))
    other.session.adopt(line)
    want(other.session, SYMBOL)
    other.connect("two")
    other.trades(104)
    other.advance(1.0)
    assert other.ids == [104]
    assert other.holes == [("DISCONNECT", 102, 103, 2)]
    assert not driver.session.knows(Feed(TRADES, SYMBOL))


class Snapshots(BinanceSpot):
    """A venue that sends past trades first."""

    past_trades = True


def test_past_trades_tell_no_latency() -> None:
    driver = Driver(Session(Snapshots(), URL, Habits(0.5, clock_interval_us=SECOND_US)))
    want(driver.session, SYMBOL, 100)
    driver.connect()
    driver.frame(trade_frame(101, -500.0))
    driver.trades(102)
    quiet(driver, 2.0)
    assert clocks(driver)
