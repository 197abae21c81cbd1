"""Each rule of the verdict passes what is right, and is seen to fail."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from ravencore.decimals import from_text
from ravencore.records import Book, Gap, IndexPrice, Level, Liquidation, MarketRecord, Quote, Trade
from tests.chaos.case import Case
from tests.chaos.evidence import Evidence, Fault, Letter, Log, Name, digest, holes_of
from tests.chaos.verdict import FEED_KINDS, VENUE_KINDS, Finding, judge, possible_kinds

S = 1_000_000
MS = 1_000
T0 = 1_800_000_000 * S
END = T0 + 60 * S
SPOT = Name("BINANCE_SPOT", "trades", "BTCUSDT")
QUOTES = Name("BINANCE_SPOT", "quotes", "BTCUSDT")
FORCED = Name("BINANCE_FUTURES", "liquidations", "BTCUSDT")
POLLED = Name("BINANCE_FUTURES", "open_interest", "BTCUSDT")
BOOK = Name("KRAKEN", "books", "BTC/USD")
PRODUCT = Name("COINBASE", "quotes", "BTC-USD")
INDEX = Name("DERIBIT", "index_prices", "BTC_USD")
LAG_US = 2 * MS
ONE_BOOK = ((Level(from_text("99.5"), from_text("2")),), (Level(from_text("100"), from_text("0.25")),))


def at(seconds: float) -> int:
    return T0 + round(seconds * S)


def issued_at(number: int) -> int:
    """Trades come five times a second."""
    return at(number / 5)


def trade(number: int, received_us: int | None = None) -> Trade:
    return Trade(
        venue=SPOT.venue,
        symbol=SPOT.symbol,
        event_time=issued_at(number),
        received_time=received_us or issued_at(number) + LAG_US,
        trade_id=str(number),
        sequence=number,
        price=from_text("100"),
        quantity=from_text("1"),
        side="BUY",
    )


def index_price(time_us: int, received_us: int | None = None) -> IndexPrice:
    return IndexPrice(
        venue=INDEX.venue,
        symbol=INDEX.symbol,
        event_time=time_us,
        received_time=received_us or time_us + LAG_US,
        price=from_text("61000.5") + time_us,
    )


def book(time_us: int, bids: Sequence[Level] = ONE_BOOK[0]) -> Book:
    return Book(
        venue=BOOK.venue,
        symbol=BOOK.symbol,
        event_time=time_us,
        received_time=time_us + LAG_US,
        source="MAINTAINED",
        bids=tuple(bids),
        asks=ONE_BOOK[1],
    )


def log(records: Iterable[MarketRecord]) -> Log:
    made = Log()
    for record in records:
        made.add(record)
    return made


def gap(name: Name, cause: Any, begin: float, end: float, ids: tuple[int, int] | None = None, **more: Any) -> Gap:
    """A Gap of these seconds, and ids."""
    first, last = ids or (None, None)
    missing = last - first + 1 if first is not None and last is not None else 0 if name.channel == "trades" else None
    fields = {
        "gap_id": f"{':'.join(name)}:{first or at(end)}",
        "from_sequence": first,
        "to_sequence": last,
        "from_time": at(begin),
        "missing": missing,
        "detected_time": at(end),
        "connection": "ws://venue#1",
        "detail": "the ids jump",
    }
    return Gap(**name._asdict(), cause=cause, to_time=at(end), **{**fields, **more})


def fault(kind: str, name: Name, begin: float, end: float | None = None, ids: Sequence[int] = ()) -> Fault:
    return Fault("f1", kind, *name, at(begin), at(begin if end is None else end), tuple(ids))


def trades_case(there: Sequence[int], gaps: Sequence[Gap] = (), faults: Sequence[Fault] = (), **more: Any) -> Evidence:
    """Trades 1 to 99 were issued, and these are in the topic, in this order."""
    issued = {SPOT: [(number, issued_at(number)) for number in range(1, 100)]}
    return Evidence(T0, END, issued, {SPOT: log(map(trade, there))}, gaps, faults, **more)


def index_case(there: Sequence[float], gaps: Sequence[Gap] = (), faults: Sequence[Fault] = ()) -> Evidence:
    """An index told once a second, of which these seconds are in the topic."""
    issued = {INDEX: [(at(second), at(second)) for second in range(1, 50)]}
    return Evidence(T0, END, issued, {INDEX: log(index_price(at(second)) for second in there)}, gaps, faults)


def book_case(
    there: Sequence[float],
    gaps: Sequence[Gap] = (),
    faults: Sequence[Fault] = (),
    digests: Mapping[int, str] | None = None,
) -> Evidence:
    """A book that changes four times a second, published at these seconds."""
    changes = [at(number / 4) for number in range(4 * 60)]
    right = dict.fromkeys(changes, digest(*ONE_BOOK))
    issued = {BOOK: [(change, change) for change in changes]}
    logs = {BOOK: log(book(at(second)) for second in there)}
    return Evidence(T0, END, issued, logs, gaps, faults, digests={BOOK: right if digests is None else digests})


NAMELESS = Quote(venue=QUOTES.venue, symbol=QUOTES.symbol, received_time=T0)
ALL_TRADES = range(1, 100)
WITHOUT_50 = [number for number in ALL_TRADES if number not in (50, 51)]
SKIP = fault("gap", SPOT, 10, 10.2, (50, 51))
JUMP = gap(SPOT, "SEQUENCE", 9.8, 10.4, (50, 51))
SECONDS = range(1, 50)
WITHOUT_20S = [second for second in SECONDS if not 20 <= second <= 24]
AWAY = gap(INDEX, "DISCONNECT", 19.002, 25.002)
CUT = fault("cut", INDEX, 19.5)
QUARTERS = [number / 4 for number in range(4 * 60)]
BROKEN = [second for second in QUARTERS if not 30 <= second <= 32]
RESNAPSHOT = gap(BOOK, "CHECKSUM", 29.752, 32.252, repair="RESNAPSHOT")
LOST_DIFF = fault("gap", BOOK, 30, 30, (at(30),))


def rules(evidence: Evidence) -> list[str]:
    return [finding.rule for finding in judge(evidence)]


def only(evidence: Evidence) -> Finding:
    (finding,) = judge(evidence)
    return finding


RIGHT = {
    "all trades": trades_case(ALL_TRADES),
    "withheld trades in a Gap": trades_case(WITHOUT_50, [JUMP], [SKIP]),
    "an index that broke off": index_case(WITHOUT_20S, [AWAY], [CUT]),
    "a book": book_case(QUARTERS),
    "a book made anew": book_case(BROKEN, [RESNAPSHOT], [LOST_DIFF]),
}


@pytest.mark.parametrize("evidence", RIGHT.values(), ids=RIGHT)
def test_what_is_right_has_no_findings(evidence: Evidence) -> None:
    assert judge(evidence) == []


# a. unexplained


def test_an_id_in_no_topic_and_no_gap_is_unexplained() -> None:
    found = judge(trades_case(WITHOUT_50, [], [SKIP]))
    assert [one.rule for one in found] == ["unexplained"] * 2 + ["unnoticed"] * 2
    assert "id 50" in found[0].what
    assert "gap f1 of BINANCE_SPOT trades BTCUSDT" in found[0].what
    assert found[0].nearest == "none of this feed"


def test_a_gap_of_other_ids_explains_nothing_but_is_told_as_the_nearest() -> None:
    other = gap(SPOT, "SEQUENCE", 5, 6, (27, 28))
    without = [number for number in WITHOUT_50 if number not in (27, 28)]
    found = judge(trades_case(without, [other], [SKIP, fault("gap", SPOT, 5.4, 5.6, (27, 28))]))
    assert {one.rule for one in found} == {"unexplained", "unnoticed"}
    assert other.gap_id in found[0].nearest


def test_many_unexplained_ids_are_told_in_few_findings() -> None:
    found = judge(trades_case(range(1, 41)))
    assert len(found) == 6
    assert found[-1].what == "and 54 more"


def test_a_cold_start_explains_what_was_issued_before_it_alone() -> None:
    cold = gap(SPOT, "COLD_START", 0, 2, from_time=None, missing=None)
    assert judge(trades_case(range(10, 100), [cold])) == []
    assert rules(trades_case([*range(10, 20), *range(21, 100)], [cold])) == ["unexplained"]


def test_a_gap_without_ids_explains_what_was_issued_in_its_time() -> None:
    assert rules(index_case(WITHOUT_20S, [], [])) == ["unexplained"] * 5
    late = gap(INDEX, "DISCONNECT", 20.002, 25.002)
    assert "unexplained" in rules(index_case([*SECONDS[:18], 20, *SECONDS[24:]], [late], [CUT]))


def test_a_gap_without_ids_begins_with_what_was_issued_after_the_last_that_came() -> None:
    """The record of second 19 is half a second on its way; that of 19.3 was lost with the connection."""
    slow = index_price(at(19), at(19.5))
    away = gap(INDEX, "DISCONNECT", 19.5, 25.002)
    evidence = index_case([], [away], [fault("cut", INDEX, 19.4)])
    evidence.logs = {
        INDEX: log([*map(index_price, map(at, range(1, 19))), slow, *map(index_price, map(at, range(25, 50)))])
    }
    evidence.issued = {INDEX: [*evidence.issued[INDEX], (at(19.3), at(19.3))]}
    assert judge(evidence) == []


def test_a_gap_of_a_whole_market_explains_each_of_its_symbols() -> None:
    whole = FORCED._replace(symbol="*")
    issued = {FORCED: [(at(1), at(1)), (at(5), at(5)), (at(9), at(9))]}
    away, cut = gap(whole, "DISCONNECT", 1.002, 9.002), fault("cut", whole, 2)
    logs = {FORCED: log([forced(at(1)), forced(at(9))])}
    assert judge(Evidence(T0, END, issued, logs, [away], [cut])) == []
    assert "unexplained" in rules(Evidence(T0, END, issued, logs, [], [cut]))


def forced(time_us: int) -> Liquidation:
    return Liquidation(
        venue=FORCED.venue, symbol=FORCED.symbol, event_time=time_us, received_time=time_us + LAG_US,
        side="BUY", price=1, quantity=1, status="FILLED",
    )  # fmt: skip


def test_records_that_nothing_tells_apart_are_counted() -> None:
    issued = {QUOTES: [(None, at(second)) for second in (1, 2, 3)]}
    told = [replace(NAMELESS, received_time=at(second), bid_price=second) for second in (1, 2)]
    assert rules(Evidence(T0, END, issued, {QUOTES: log(told)}, [], [])) == ["unexplained"]


def test_a_break_that_lasts_to_the_end_explains_what_was_issued_since() -> None:
    """Its Gap is told while it lasts, before all of that was issued, and never again."""
    lasting = gap(INDEX, "DISCONNECT", 39.002, 45)
    cut = fault("cut", INDEX, 39.5)
    assert judge(index_case(SECONDS[:39], [lasting], [cut])) == []
    assert rules(index_case([*SECONDS[:39], 49], [lasting], [cut])) == ["unexplained"] * 4


def test_a_break_of_trades_that_lasts_names_no_ids_and_explains_all_that_follow() -> None:
    lasting = gap(SPOT, "DISCONNECT", 8, 14, missing=None)
    cut = fault("cut", SPOT, 8.1)
    assert judge(trades_case(range(1, 41), [lasting], [cut])) == []
    assert "unexplained" in rules(trades_case([*range(1, 41), *range(46, 100)], [lasting], [cut]))


def test_of_records_that_nothing_tells_apart_those_of_a_gap_are_the_missing_ones() -> None:
    issued = {QUOTES: [(None, at(second)) for second in (1, 2, 3)]}
    told = [replace(NAMELESS, received_time=at(second), bid_price=second) for second in (1, 3)]
    away, cut = gap(QUOTES, "DISCONNECT", 1, 3), fault("cut", QUOTES, 2)
    assert judge(Evidence(T0, END, issued, {QUOTES: log(told)}, [away], [cut])) == []
    assert rules(Evidence(T0, END, issued, {QUOTES: log(told[:1])}, [away], [cut])) == []


def test_the_exchanges_clock_may_be_behind() -> None:
    """The market runs ten seconds late, as on a busy machine: the cut of its second 19.5 shows here at 29.5."""
    evidence = index_case([], [gap(INDEX, "DISCONNECT", 29.002, 35.002)], [CUT])
    evidence.logs = {INDEX: log(index_price(at(second), at(second + 10) + LAG_US) for second in WITHOUT_20S)}
    assert judge(evidence) == []
    evidence.faults = [fault("cut", INDEX, 29.5)]
    assert rules(evidence) == ["cause", "unnoticed"]


# b. repairable


def test_what_rest_would_still_tell_is_to_be_in_its_topic() -> None:
    finding = only(trades_case(WITHOUT_50, [JUMP], [SKIP], served={SPOT: [51]}))
    assert (finding.rule, finding.name) == ("repairable", SPOT)
    assert "id 51" in finding.what
    assert JUMP.gap_id in finding.nearest


def test_missing_trades_are_those_that_rest_is_asked_for() -> None:
    assert trades_case(WITHOUT_50).missing() == {SPOT: [50, 51]}


# c. minimal


def test_a_gap_that_names_a_delivered_id_is_too_wide() -> None:
    wide = gap(SPOT, "SEQUENCE", 9.8, 10.6, (50, 52))
    finding = only(trades_case(WITHOUT_50, [wide], [SKIP]))
    assert (finding.rule, finding.what) == ("minimal", "id 52 is in the topic and in a Gap")


def test_a_gap_counts_what_it_names() -> None:
    assert "names 2 ids and counts 7" in only(trades_case(WITHOUT_50, [replace(JUMP, missing=7)], [SKIP])).what


def test_no_id_is_in_two_gaps() -> None:
    again = gap(SPOT, "SEQUENCE", 9.8, 10.4, (51, 51))
    assert "id 51 is in two Gaps" in only(trades_case(WITHOUT_50, [JUMP, again], [SKIP])).what


def test_a_gap_names_only_what_was_issued() -> None:
    beyond = gap(SPOT, "SEQUENCE", 19.6, 20.2, (100, 101))
    found = judge(trades_case(ALL_TRADES, [beyond], [fault("gap", SPOT, 20, 20, (100, 101))]))
    assert [one.what for one in found] == ["a Gap names id 100, which was never issued"]


def test_only_the_newest_entry_of_a_gap_stands() -> None:
    """51 came after all: the hole shrank to 50."""
    shrunk = replace(JUMP, to_sequence=50, missing=1, repair="PARTIAL", repaired=1)
    there = [number for number in ALL_TRADES if number not in (50, 51)]
    assert judge(trades_case([*there[:60], 51, *there[60:]], [JUMP, shrunk], [SKIP])) == []
    assert "minimal" in rules(trades_case([*there[:60], 51, *there[60:]], [JUMP], [SKIP]))


def test_no_record_was_received_inside_a_gap_in_time() -> None:
    finding = only(index_case([*WITHOUT_20S[:19], 22, *WITHOUT_20S[19:]], [AWAY], [CUT]))
    assert (finding.rule, finding.name) == ("minimal", INDEX)
    assert str(at(22) + LAG_US) in finding.what


# d. causes


@pytest.mark.parametrize("cause", ["DISCONNECT", "SILENCE", "CHECKSUM", "BACKPRESSURE", "UNKNOWN"])
def test_skipped_trade_ids_are_a_sequence_gap_and_nothing_else(cause: str) -> None:
    finding = only(trades_case(WITHOUT_50, [replace(JUMP, cause=cause)], [SKIP]))
    assert finding.rule == "cause"
    assert f"{cause} where SEQUENCE was to be" in finding.what


CAUSES = [
    ("cut", INDEX, "DISCONNECT", True),
    ("cut", INDEX, "SILENCE", False),
    ("limit", INDEX, "DISCONNECT", True),
    ("limit", INDEX, "SEQUENCE", False),
    ("mute", INDEX, "SILENCE", True),
    ("mute", INDEX, "DISCONNECT", False),
    ("stall", INDEX, "SILENCE", True),
    ("stall", INDEX, "DISCONNECT", True),
    ("stall", INDEX, "SEQUENCE", False),
    ("close", INDEX, "DISCONNECT", True),
    ("close", INDEX, "SILENCE", False),
    ("garbage", INDEX, "DISCONNECT", False),
    ("duplicate", INDEX, "SEQUENCE", False),
]


@pytest.mark.parametrize(("kind", "name", "cause", "fits"), CAUSES)
def test_a_gap_has_the_cause_of_its_fault(kind: str, name: Name, cause: str, fits: bool) -> None:
    evidence = index_case(WITHOUT_20S, [replace(AWAY, cause=cause)], [fault(kind, name, 19.5, 24.5)])
    evidence.letters = {"DERIBIT": unread(1)} if kind == "garbage" else {}
    assert rules(evidence) == ([] if fits else ["cause"])


def test_a_fault_of_a_whole_connection_is_one_of_each_of_its_feeds() -> None:
    everywhere = CUT._replace(channel="", symbol="")
    assert judge(index_case(WITHOUT_20S, [AWAY], [everywhere])) == []
    assert "cause" in rules(index_case(WITHOUT_20S, [AWAY], [everywhere._replace(venue="KRAKEN")]))


@pytest.mark.parametrize("elsewhere", [{"channel": "trades"}, {"symbol": "ETH_USD"}, {"venue": "KRAKEN"}], ids=str)
def test_a_fault_of_another_feed_is_no_cause(elsewhere: dict[str, Any]) -> None:
    (finding,) = (
        one for one in judge(index_case(WITHOUT_20S, [AWAY], [CUT._replace(**elsewhere)])) if one.name == INDEX
    )
    assert finding.what == "a Gap and no fault"


def test_a_gap_and_no_fault_is_a_finding() -> None:
    assert only(index_case(WITHOUT_20S, [AWAY])).what == "a Gap and no fault"
    long_ago = fault("cut", INDEX, 0.5)
    assert "a Gap and no fault" in [one.what for one in judge(index_case(WITHOUT_20S, [AWAY], [long_ago]))]


def test_a_cold_start_and_the_end_of_a_demand_need_no_fault() -> None:
    cold = gap(SPOT, "COLD_START", 0, 0.2, from_time=None)
    assert judge(trades_case(ALL_TRADES, [cold])) == []
    assert judge(index_case(SECONDS, [gap(INDEX, "SILENCE", 49.002, 65)])) == [], "the market is over"
    told = "not demanded for a time"
    assert judge(index_case(SECONDS, [gap(INDEX, "DISCONNECT", 49.002, 60, detail=told)])) == []
    assert "cause" in rules(index_case(WITHOUT_20S, [replace(AWAY, detail=told)]))


def test_a_book_may_fail_by_its_checksum_or_its_ids() -> None:
    for cause in ("CHECKSUM", "SEQUENCE"):
        assert judge(book_case(BROKEN, [replace(RESNAPSHOT, cause=cause)], [LOST_DIFF])) == []
    assert rules(book_case(BROKEN, [replace(RESNAPSHOT, cause="DISCONNECT")], [LOST_DIFF])) == ["cause"]


def test_trades_that_change_places_within_the_patience_leave_no_gap() -> None:
    swapped = fault("reorder", SPOT, 10, 10.2, (50, 51))
    finding = only(trades_case(WITHOUT_50, [JUMP], [swapped]))
    assert "SEQUENCE where no Gap was to be" in finding.what
    assert judge(trades_case(WITHOUT_50, [JUMP], [swapped._replace(to_us=at(11))])) == []


def test_a_close_that_was_announced_loses_no_trade() -> None:
    closing = fault("close", SPOT, 10, 12)
    assert judge(trades_case(ALL_TRADES, [], [closing])) == []
    assert judge(trades_case(ALL_TRADES, [gap(SPOT, "DISCONNECT", 9.8, 10.4)], [closing])) == []
    assert rules(trades_case(WITHOUT_50, [replace(JUMP, cause="DISCONNECT")], [closing])) == ["cause"]


def test_a_close_that_no_venue_announces_is_a_lost_connection() -> None:
    closing = fault("close", SPOT, 10, 12)._replace(announced=False)
    assert judge(trades_case(WITHOUT_50, [replace(JUMP, cause="DISCONNECT")], [closing])) == []


def test_an_answer_that_failed_is_a_gap_of_a_poll_or_none() -> None:
    limited = fault("limit", POLLED, 10)
    for cause, fits in (("DISCONNECT", True), ("SILENCE", True), ("SEQUENCE", False)):
        evidence = Evidence(T0, END, {}, {}, [gap(POLLED, cause, 9, 15)], [limited])
        assert rules(evidence) == ([] if fits else ["cause"])
    assert judge(Evidence(T0, END, {}, {}, [], [limited])) == []
    assert judge(Evidence(T0, END, {}, {}, [gap(POLLED, "SILENCE", 9, 15)], [])) == []


def test_where_the_venue_counts_frames_any_feed_may_miss_one() -> None:
    skipped = fault("gap", PRODUCT._replace(channel="trades"), 10)
    missed = gap(PRODUCT, "SEQUENCE", 9.5, 10.5)
    for kind in ("gap", "reorder"):
        assert judge(Evidence(T0, END, {}, {}, [missed], [skipped._replace(kind=kind)])) == []
    assert rules(Evidence(T0, END, {}, {}, [missed], [skipped._replace(kind="duplicate")])) == ["cause"]


# d. faults that leave no Gap


def test_withheld_ids_that_no_gap_ever_named_are_unnoticed() -> None:
    """They came over REST before the hole was known, and nothing says so."""
    found = judge(trades_case(ALL_TRADES, [], [SKIP]))
    assert [one.rule for one in found] == ["unnoticed"] * 2
    assert "id 50 was left out by gap f1" in found[0].what


def test_a_gap_that_was_repaired_has_noticed_its_ids() -> None:
    whole = replace(JUMP, from_sequence=None, to_sequence=None, missing=0, repair="BACKFILLED", repaired=2)
    assert judge(trades_case(ALL_TRADES, [JUMP, whole], [SKIP])) == []
    assert judge(trades_case(ALL_TRADES, [whole], [SKIP])) == []


def test_a_cut_of_a_feed_that_had_flowed_leaves_a_gap() -> None:
    finding = only(index_case(SECONDS, [], [CUT]))
    assert (finding.rule, finding.name) == ("unnoticed", INDEX)
    assert "cut f1 of DERIBIT index_prices BTC_USD" in finding.what


def test_a_cut_before_the_first_or_after_the_last_record_leaves_none() -> None:
    for second in (0.5, 55):
        assert judge(index_case(SECONDS, [], [fault("cut", INDEX, second)])) == []


def test_a_lost_change_of_a_kept_book_leaves_a_gap() -> None:
    assert rules(book_case(QUARTERS, [], [LOST_DIFF])) == ["unnoticed"]


def test_trades_that_a_cut_took_and_the_next_connection_brought_need_its_gap() -> None:
    cut = fault("cut", Name(SPOT.venue, "", ""), 10)._replace(lost=((SPOT, (50, 51)),))
    mended = gap(SPOT, "DISCONNECT", 9.8, 10.4, repair="BACKFILLED", repaired=2)
    assert judge(trades_case(ALL_TRADES, [mended], [cut])) == []
    assert rules(trades_case(ALL_TRADES, [], [cut])) == ["unnoticed"]


def test_a_feed_that_was_mute_and_says_so_nowhere_is_unnoticed() -> None:
    mute = fault("mute", INDEX, 10, 20, (at(12), at(13)))
    assert rules(index_case(SECONDS, [], [mute])) == ["unnoticed"]
    assert judge(index_case(SECONDS, [], [mute._replace(ids=())])) == [], "it kept nothing back"


OPTION = Name("DERIBIT", "trades", "BTC-25DEC26-100000-C")
OTHER = OPTION._replace(symbol="BTC-25DEC26-90000-C")
CURRENCY = OPTION._replace(symbol="BTC")


def test_a_mute_is_of_all_symbols_of_its_stream() -> None:
    """It is told for each symbol that was to come; the collector doubts all of them."""
    quiet = OPTION._replace(symbol="BTC-25DEC26-50000-P")
    mute = fault("mute", OPTION, 10, 20, (5,))
    assert judge(Evidence(T0, END, {}, {}, [gap(one, "SILENCE", 9, 21) for one in (OPTION, quiet)], [mute])) == []
    other = Name("KRAKEN", "trades", "ETH/USD")
    apart = fault("mute", other._replace(symbol="BTC/USD"), 10, 20, (5,))
    assert "cause" in rules(Evidence(T0, END, {}, {}, [gap(other, "SILENCE", 9, 21)], [apart]))


def test_a_gap_of_a_whole_market_lists_symbols_that_were_not_heard_of_again() -> None:
    issued = {OPTION: [(1, at(1)), (2, at(20))], OTHER: [(8, at(30))]}
    logs = {
        OPTION: log([option_trade(OPTION.symbol, 1, 1)]),
        OTHER: log([option_trade(OTHER.symbol, 8, 30)]),
    }
    cut, away = fault("cut", Name("DERIBIT", "", ""), 19), gap(CURRENCY, "DISCONNECT", 1, 30, missing=None)
    assert judge(Evidence(T0, END, issued, logs, [away], [cut])) == []
    mended = replace(away, missing=0, repair="BACKFILLED", repaired=1)
    assert rules(Evidence(T0, END, issued, logs, [mended], [cut])) == ["unexplained"]


def test_a_gap_of_a_whole_market_lists_no_trade_between_two_that_came() -> None:
    """The next trade of the same symbol tells by its id what is missing, whatever the market's Gap says."""
    issued = {OPTION: [(1, at(1)), (2, at(20)), (3, at(40))]}
    logs = {OPTION: log([option_trade(OPTION.symbol, number, second) for number, second in ((1, 1), (3, 40))])}
    cut, away = fault("cut", Name("DERIBIT", "", ""), 19), gap(CURRENCY, "DISCONNECT", 1, 30, missing=None)
    named = gap(OPTION, "DISCONNECT", 1, 40, (2, 2))
    assert rules(Evidence(T0, END, issued, logs, [away], [cut])) == ["unexplained"]
    assert judge(Evidence(T0, END, issued, logs, [away, named], [cut])) == []


def option_trade(symbol: str, number: int, second: float) -> Trade:
    received_us = at(second) + LAG_US
    return replace(trade(number, received_us), venue="DERIBIT", symbol=symbol, event_time=at(second))


# d. garbage and duplicates


def unread(count: int, connection: str = "ws://venue#1") -> list[Letter]:
    return [Letter(connection, f"~ {number} ~".encode(), "no JSON") for number in range(count)]


def test_a_frame_that_two_connections_brought_is_a_dead_letter_of_each() -> None:
    garbage = [fault("garbage", SPOT, 3)]
    heir = unread(1, "ws://venue#2")
    assert judge(trades_case(ALL_TRADES, [], garbage, letters={"BINANCE_SPOT": [*unread(1), *heir]})) == []
    finding = only(trades_case(ALL_TRADES, [], garbage, letters={"BINANCE_SPOT": unread(1) * 3}))
    assert "a frame is a dead letter 3 times" in finding.what


@pytest.mark.parametrize("letters", [0, 1, 3])
def test_every_unreadable_frame_is_one_dead_letter(letters: int) -> None:
    spoilt = [fault("garbage", SPOT, second)._replace(number=f"S-{second}") for second in (3, 4)]
    assert judge(trades_case(ALL_TRADES, [], spoilt, letters={"BINANCE_SPOT": unread(2)})) == []
    finding = only(trades_case(ALL_TRADES, [], spoilt, letters={"BINANCE_SPOT": unread(letters)}))
    assert finding.what.startswith(f"2 unreadable frames were sent, {letters} are dead letters")


def test_a_dead_letter_of_a_frame_that_nobody_spoilt_is_a_finding() -> None:
    assert rules(trades_case(ALL_TRADES, letters={"KRAKEN": unread(1)})) == ["dead letters"]


def test_a_trade_that_is_there_twice_is_a_finding() -> None:
    finding = only(trades_case([*ALL_TRADES, 99]))
    assert (finding.rule, "id 99" in finding.what) == ("twice", True)


def test_a_record_that_differs_only_in_how_it_came_is_there_twice() -> None:
    evidence = index_case(SECONDS)
    evidence.logs[INDEX].add(index_price(at(49), at(50)))
    assert rules(evidence) == ["twice"]
    evidence = index_case(SECONDS)
    evidence.logs[INDEX].add(replace(index_price(at(49)), price=7))
    assert judge(evidence) == []


def test_a_record_without_id_or_time_may_be_as_it_was() -> None:
    issued = {QUOTES: [(None, at(1)), (None, at(2))]}
    assert judge(Evidence(T0, END, issued, {QUOTES: log([NAMELESS, NAMELESS])}, [], [])) == []


# e. books


def test_a_kept_book_that_differs_is_a_finding() -> None:
    evidence = book_case(QUARTERS)
    evidence.logs[BOOK].add(book(at(5), bids=ONE_BOOK[1]))
    finding = only(evidence)
    assert finding.what == f"the book at {at(5)} differs from the venue's"


def test_a_kept_book_of_an_update_that_was_never_made_is_a_finding() -> None:
    evidence = book_case(QUARTERS)
    evidence.logs[BOOK].add(book(at(5.1)))
    assert "is of an update that the venue never made" in only(evidence).what


def test_kept_books_are_published_to_the_end() -> None:
    finding = only(book_case(QUARTERS[: 4 * 40]))
    assert finding.rule == "book"
    assert f"nothing was published from {at(39.75)} to {END}" in finding.what


def test_a_pause_of_a_kept_book_needs_a_gap_or_a_stall() -> None:
    paused = [second for second in QUARTERS if not 20 <= second <= 30]
    assert rules(book_case(paused)) == ["book"]
    assert judge(book_case(paused, [], [fault("stall", BOOK, 20, 30)])) == []
    away = gap(BOOK, "DISCONNECT", 19.752, 30.252, repair="RESNAPSHOT")
    assert judge(book_case(paused, [away], [fault("cut", BOOK, 20)])) == []


def test_a_kept_book_that_was_doubted_is_told_again_and_no_other() -> None:
    evidence = book_case(QUARTERS, [gap(BOOK, "CHECKSUM", 59.752, 60, repair="RESNAPSHOT")], [LOST_DIFF])
    evidence.faults = [LOST_DIFF._replace(from_us=at(59.8), to_us=at(59.8))]
    evidence.logs[BOOK].add(replace(book(at(59.75)), received_time=at(60)))
    assert judge(evidence) == []
    evidence.logs[BOOK].add(replace(book(at(59.75)), received_time=at(60.1)))
    assert rules(evidence) == ["twice"]


def test_a_break_of_a_kept_book_ends_with_a_new_one() -> None:
    finding = only(book_case(BROKEN, [replace(RESNAPSHOT, repair="NONE")], [LOST_DIFF]))
    assert finding.what == "no new book ended a break"
    late = gap(BOOK, "SILENCE", 59.752, 70)
    assert judge(book_case(QUARTERS, [late])) == [], "the market is over"
    lasting = gap(BOOK, "CHECKSUM", 29.752, 70)
    assert rules(book_case(QUARTERS[:120], [lasting], [LOST_DIFF])) == ["book"]


def test_books_that_the_venue_prints_are_held_by_their_ids() -> None:
    printed = replace(book(at(1)), source="VENUE_SNAPSHOT", sequence=7)
    issued = {BOOK: [(7, at(1)), (8, at(2))]}
    assert rules(Evidence(T0, END, issued, {BOOK: log([printed])}, [], [])) == ["unexplained"]


def test_the_digest_is_of_plain_decimals() -> None:
    """echo -n '99.5:2|100:0.25' | sha256sum"""
    assert digest(*ONE_BOOK) == "be50023ab426c183"


# i. alive


def test_a_feed_that_is_never_had_again_is_a_finding_though_a_gap_explains_it() -> None:
    cut = fault("cut", SPOT, 8.1)
    issued = {SPOT: [(number, issued_at(number)) for number in range(1, 300)]}
    lasting = gap(SPOT, "DISCONNECT", 8, 14, missing=None)
    evidence = Evidence(T0, END, issued, {SPOT: log(map(trade, range(1, 41)))}, [lasting], [cut])
    finding = only(evidence)
    assert (finding.rule, finding.name) == ("alive", SPOT)
    evidence.faults = [cut._replace(to_us=at(50))]
    assert judge(evidence) == [], "it is still going on"


# f. order


def test_trades_out_of_order_are_a_finding_unless_a_gap_says_that_they_were_repaired() -> None:
    late = [*(number for number in ALL_TRADES if number != 50), 50]
    assert rules(trades_case(late)) == ["order"]
    hole = gap(SPOT, "SEQUENCE", 9.8, 10.2, (50, 50))
    mended = replace(hole, from_sequence=None, to_sequence=None, missing=0, repair="BACKFILLED", repaired=1)
    withheld = [fault("gap", SPOT, 10, 10, (50,))]
    assert judge(trades_case(late, [hole, mended], withheld)) == []
    assert rules(trades_case(late, [replace(hole, repair="NONE")], withheld)) == ["minimal", "order"]


# g. coverage


def test_a_long_run_has_met_every_fault_on_every_feed() -> None:
    evidence = index_case(SECONDS)
    evidence.ended_us = T0 + 600 * S
    assert {one.what for one in judge(evidence) if one.rule == "coverage"} == {
        f"no {kind} was ever put upon this feed" for kind in (*FEED_KINDS, *VENUE_KINDS)
    }
    evidence.faults = [fault(kind, INDEX, 60) for kind in FEED_KINDS if kind != "mute"]
    evidence.faults += [fault(kind, Name(INDEX.venue, "", ""), 61) for kind in VENUE_KINDS]
    assert [one.what for one in judge(evidence) if one.rule == "coverage"] == ["no mute was ever put upon this feed"]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        (SPOT, {"gap", "reorder"}),
        (BOOK, {"gap", "reorder"}),
        (PRODUCT, {"gap"}),
        (PRODUCT._replace(channel="books"), {"gap"}),
        (PRODUCT._replace(channel="trades"), {"gap", "reorder"}),
        (FORCED._replace(channel="klines"), {"gap"}),
        (INDEX, set()),
    ],
    # A set's text is not the same in every worker.
    ids=lambda value: str(value) if isinstance(value, Name) else "+".join(sorted(value)),
)
def test_nothing_is_left_out_or_changes_places_where_nobody_could_notice(name: Name, counts: set[str]) -> None:
    rest = {*FEED_KINDS, *VENUE_KINDS} - ({"mute"} if name == FORCED else set())
    assert {*possible_kinds(name.venue, name.channel)} == rest | counts


def test_a_collector_that_would_not_end_is_a_finding() -> None:
    assert only(trades_case(ALL_TRADES, troubles=["it did not stop"])).rule == "collector"


# h. strange


def test_a_record_that_was_never_issued_is_a_finding() -> None:
    assert rules(trades_case([*ALL_TRADES, 100])) == ["strange"]
    assert judge(trades_case([*range(-5, 1), *ALL_TRADES])) == [], "trades from before the first subscription"


def test_a_record_of_a_symbol_of_which_nothing_was_issued_is_a_finding() -> None:
    found = trades_case(ALL_TRADES)
    found.issued = {name: rows for name, rows in found.issued.items() if name != SPOT}
    assert "strange" in rules(found)


# Figures


def test_an_account_adds_up() -> None:
    shrunk = replace(JUMP, to_sequence=50, missing=1, repair="PARTIAL", repaired=1)
    there = [number for number in ALL_TRADES if number not in (50, 99)]
    account = Case(trades_case(there, [JUMP, shrunk], [SKIP])).accounts[SPOT]
    assert (account.issued, account.received, account.repaired, account.listed) == (99, 96, 1, 1)
    assert account.unexplained == ((99, issued_at(99)),)


def test_a_gap_is_told_once_with_every_id_it_has_named() -> None:
    shrunk = replace(JUMP, to_sequence=50, missing=1)
    (hole,) = holes_of([JUMP, shrunk])
    assert (hole.missing, hole.named) == ((50, 50), ((50, 51), (50, 50)))
    assert hole.has_named(51)
    assert not hole.has_named(52)
