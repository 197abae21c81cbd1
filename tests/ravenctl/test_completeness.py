"""How complete an hour is: ids that were issued are there or missing, and time is covered or not, never both."""

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from producers.contract import ALL
from ravencore.records import Gap
from ravenctl.completeness import HOUR_US, Hour, Mark, Seen, edges_of, hours, ids_of, next_ids
from ravenctl.feeds import Name

START = 500_000 * HOUR_US
TRADES = Name("KRAKEN", "trades")
BOOKS = Name("BINANCE_SPOT", "books")
MINUTE_US = 60_000_000
EDGES = edges_of(START, START + 4 * HOUR_US)


def gap(name: Name = TRADES, symbol: str = "BTC/USD", **fields: Any) -> Gap:
    told = {"gap_id": f"{name}:{symbol}:{fields}", "cause": "SEQUENCE", "detected_time": START, "to_time": START}
    return Gap(venue=name.venue, channel=name.channel, symbol=symbol, connection="", detail="", **{**told, **fields})


def seen(marks: list[Mark], edges: list[int] = EDGES, unread: frozenset[int] = frozenset()) -> Seen:
    """What a reader finds who reads all of the hours but those after the edges in `unread`."""
    out = Seen()
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        within = [mark for mark in marks if low <= mark.time_us < high]
        if number in unread:
            continue
        if within:
            out.add(number, within[0])
        else:
            out.empty.add(number)
    for mark in marks[-1:]:
        out.add(None, mark)
    return out


@st.composite
def tapes(draw: st.DrawFn) -> tuple[list[Mark], list[Mark], list[Gap]]:
    """Trades that a venue issued, those that are there, and the Gaps of the others; the first and last are there."""
    seconds = sorted(draw(st.lists(st.integers(0, 4 * 3600 - 1), min_size=1, max_size=40)))
    issued = [Mark(1000 + n, START + second * 1_000_000) for n, second in enumerate([0, *seconds])]
    lost = draw(st.sets(st.integers(1, max(1, len(issued) - 2)), max_size=20)) if len(issued) > 2 else set()
    there = [mark for n, mark in enumerate(issued) if n not in lost]
    gaps = [
        gap(
            from_sequence=(a.sequence or 0) + 1,
            to_sequence=(b.sequence or 0) - 1,
            missing=(b.sequence or 0) - (a.sequence or 0) - 1,
            from_time=a.time_us,
            to_time=b.time_us,
        )
        for a, b in itertools.pairwise(there)
        if (b.sequence or 0) > (a.sequence or 0) + 1
    ]
    return issued, there, gaps


@given(tapes(), st.frozensets(st.integers(1, 3)))
def test_issued_is_there_and_missing_however_hours_cut_it(
    tape: tuple[list[Mark], list[Mark], list[Gap]], unread: frozenset[int]
) -> None:
    """What is not read is estimated: that moves ids from hour to hour, and loses none."""
    issued, there, gaps = tape
    found = hours(EDGES, {TRADES: {"BTC/USD": seen(there, unread=unread)}}, gaps, {})
    assert sum(hour.issued or 0 for hour in found) == len(issued)
    assert sum(hour.there or 0 for hour in found) == len(there)
    assert all((hour.there or 0) + (hour.missing or 0) == hour.issued for hour in found)
    assert all((hour.there or 0) >= 0 for hour in found)


@given(tapes())
def test_where_no_gap_spans_an_edge_every_hour_is_exact(tape: tuple[list[Mark], list[Mark], list[Gap]]) -> None:
    issued, there, gaps = tape
    spans = {edge for edge in EDGES for one in gaps if (one.from_time or 0) < edge <= one.to_time}
    for hour in hours(EDGES, {TRADES: {"BTC/USD": seen(there)}}, gaps, {}):
        if not {hour.from_us, hour.to_us} & spans:
            assert hour.issued == sum(hour.from_us <= mark.time_us < hour.to_us for mark in issued)
            assert hour.there == sum(hour.from_us <= mark.time_us < hour.to_us for mark in there)
            assert not hour.estimated


@given(tapes(), st.frozensets(st.integers(0, 3)))
def test_ids_at_edges_never_fall(tape: tuple[list[Mark], list[Mark], list[Gap]], unread: frozenset[int]) -> None:
    _, there, gaps = tape
    found, _ = next_ids(EDGES, seen(there, unread=unread), gaps)
    known = [value for value in found if value is not None]
    assert known == sorted(known)
    assert known[-1] == (there[-1].sequence or 0) + 1


def test_a_gap_of_hours_is_spread_over_them() -> None:
    """Away from 00:30 to 03:30: nobody can say from the ids which were issued when."""
    before, after = Mark(99, START + HOUR_US // 2), Mark(400, START + 7 * HOUR_US // 2)
    away = gap(from_sequence=100, to_sequence=399, missing=300, from_time=before.time_us, to_time=after.time_us)
    found = hours(EDGES, {TRADES: {"BTC/USD": seen([Mark(1, START), before, after])}}, [away], {})
    assert [hour.missing for hour in found] == [50, 100, 100, 50]
    assert [hour.there for hour in found] == [99, 0, 0, 1]
    assert all(hour.estimated and hour.gaps == 1 for hour in found)


def test_symbols_add_up() -> None:
    a = seen([Mark(1, START), Mark(10, START + 1)])
    b = seen([Mark(5, START), Mark(6, START + 1)])
    (hour, *_) = hours(EDGES, {TRADES: {"BTC/USD": a, "ETH/USD": b}}, [], {})
    assert (hour.issued, hour.symbols) == (12, 2)
    (one, *_) = hours(EDGES, {TRADES: {"BTC/USD": a, "ETH/USD": b}}, [], {}, by_symbol=True)
    assert (one.issued, one.symbol) == (10, "BTC/USD")


def test_a_gap_of_unknown_size_is_never_complete() -> None:
    marks = [Mark(n, START + n * MINUTE_US) for n in range(240)]
    silent = gap(cause="SILENCE", from_time=START + 3 * MINUTE_US, to_time=START + 4 * MINUTE_US)
    first, second, *_ = hours(EDGES, {TRADES: {"BTC/USD": seen(marks)}}, [silent], {})
    assert (first.unknown, first.complete) == (1, False)
    assert (second.unknown, second.complete) == (0, True)


def test_candles_are_counted_by_their_minutes() -> None:
    """Candles of 00:57 to 01:01 are missing, four of the first hour; a candle comes as it closes."""
    name = Name("BINANCE_FUTURES", "klines")
    base = START // MINUTE_US
    marks = [Mark(base + n, START + (n + 1) * MINUTE_US + 5000) for n in range(180) if not 57 <= n <= 61]
    lost = gap(
        name,
        "BTCUSDT",
        missing=5,
        cause="DISCONNECT",
        from_time=START + 57 * MINUTE_US + 5000,
        to_time=START + 63 * MINUTE_US + 5000,
    )
    assert ids_of(lost) == (base + 57, base + 61)
    found = hours(EDGES, {name: {"BTCUSDT": seen(marks)}}, [lost], {})
    assert sum(hour.missing or 0 for hour in found) == 5
    assert sum(hour.issued or 0 for hour in found) == 180


def test_an_hour_in_which_nothing_came_is_not_complete() -> None:
    """The collector was off from 01:10: nobody knows what was issued after."""
    marks = [Mark(n, START + n * MINUTE_US) for n in range(70)]
    for name in (TRADES, BOOKS):
        first, second, third, _ = hours(EDGES, {name: {"BTC/USD": seen(marks)}}, [], {})
        assert first.complete
        assert not second.complete
        assert second.known == (START + HOUR_US, START + 69 * MINUTE_US)
        assert not third.complete
        assert third.known is None


def test_what_runs_is_known_until_now_though_nothing_comes() -> None:
    marks = [Mark(None, START + n * MINUTE_US) for n in range(230)]
    name = Name("BINANCE_FUTURES", "liquidations")
    last = hours(EDGES, {name: {"BTCUSDT": seen(marks)}}, [], {})[-1]
    assert not last.complete
    last = hours(EDGES, {name: {"BTCUSDT": seen(marks)}}, [], {name: {ALL: EDGES[-1]}})[-1]
    assert last.complete


def books(*symbols: str, gaps: list[Gap]) -> list[Hour]:
    marks = [Mark(None, START + n * MINUTE_US) for n in range(240)]
    return hours(EDGES, {BOOKS: {symbol: seen(marks) for symbol in symbols}}, gaps, {})


minutes = st.tuples(st.integers(0, 239), st.integers(0, 239)).map(sorted)


@given(st.lists(minutes, max_size=6))
def test_time_is_covered_where_no_gap_is(holes: list[list[int]]) -> None:
    """Gaps that overlap take a minute once."""
    gaps = [
        gap(BOOKS, "BTCUSDT", from_time=START + low * MINUTE_US, to_time=START + high * MINUTE_US)
        for low, high in holes
    ]
    lost = {minute for low, high in holes for minute in range(low, high)}
    for number, hour in enumerate(books("BTCUSDT", gaps=gaps)):
        within = [minute for minute in lost if minute // 60 == number]
        # Less than a minute is not known at the end, for a record comes every minute.
        assert abs((hour.covered_us or 0) - (60 - len(within)) * MINUTE_US) < len(holes) + 2
        assert hour.complete == (not within)


def test_time_is_averaged_and_the_worst_is_named() -> None:
    hole = gap(BOOKS, "ETHUSDT", cause="CHECKSUM", from_time=START, to_time=START + 6 * MINUTE_US)
    first = books("BTCUSDT", "ETHUSDT", gaps=[hole])[0]
    assert first.covered_us == 57 * MINUTE_US
    assert first.worst == ("ETHUSDT", 54 * MINUTE_US)


def test_where_nothing_was_lost_time_is_covered() -> None:
    nothing = gap(BOOKS, "BTCUSDT", missing=0, from_time=START, to_time=START + 6 * MINUTE_US)
    first = books("BTCUSDT", gaps=[nothing])[0]
    assert (first.complete, first.gaps) == (True, 0)


def test_a_gap_of_a_whole_market_concerns_each_symbol() -> None:
    name = Name("BINANCE_FUTURES", "liquidations")
    marks = [Mark(None, START + n * MINUTE_US) for n in range(240)]
    away = gap(name, ALL, cause="DISCONNECT", from_time=START, to_time=START + 30 * MINUTE_US)
    (hour, *_) = hours(EDGES, {name: {"BTCUSDT": seen(marks), "ETHUSDT": seen(marks)}}, [away], {})
    assert hour.covered_us == 30 * MINUTE_US
    assert hour.symbols == 2


def test_a_feed_that_nobody_wanted_yet_does_not_count() -> None:
    """ETHUSDT is collected from 02:00 on: until then the hours are those of BTCUSDT alone."""
    marks = [Mark(None, START + n * MINUTE_US) for n in range(240)]
    found = {BOOKS: {"BTCUSDT": seen(marks), "ETHUSDT": seen(marks[120:])}}
    assert [hour.symbols for hour in hours(EDGES, found, [], {})] == [1, 1, 2, 2]


def test_a_feed_that_nobody_wanted_for_an_hour_does_not_count_in_it() -> None:
    marks = [Mark(None, START + n * MINUTE_US) for n in range(240)]
    found = {BOOKS: {"BTCUSDT": seen(marks), "ETHUSDT": seen(marks[:60] + marks[120:])}}
    assert [hour.symbols for hour in hours(EDGES, found, [], {})] == [2, 1, 2, 2]


def test_an_hour_that_begins_before_the_first_record_is_not_complete() -> None:
    for name in (TRADES, BOOKS):
        marks = [Mark(n, START + n * MINUTE_US) for n in range(30, 240)]
        first, second, *_ = hours(EDGES, {name: {"BTC/USD": seen(marks)}}, [], {})
        assert (first.known, first.complete) == ((START + 30 * MINUTE_US, START + HOUR_US), False)
        assert second.complete


def test_a_first_start_leaves_open_what_was_before() -> None:
    """Records of 00:00 to 01:00, and a first start at 02:30: what was in between is not covered."""
    marks = [Mark(None, START + n * MINUTE_US) for n in (*range(61), *range(150, 240))]
    cold = gap(BOOKS, "BTCUSDT", cause="COLD_START", from_time=None, to_time=START + 150 * MINUTE_US)
    found = hours(EDGES, {BOOKS: {"BTCUSDT": seen(marks)}}, [cold], {})
    assert [(hour.covered_us or 0) // MINUTE_US for hour in found] == [60, 0, 30, 60]
    assert [hour.first_starts for hour in found] == [0, 0, 1, 0]


def test_of_a_feed_of_which_only_a_gap_is_known_nothing_is_covered() -> None:
    refused = gap(BOOKS, "NOUSDT", cause="REFUSED", from_time=START, to_time=EDGES[-1])
    found = hours(EDGES, {}, [refused], {})
    assert [hour.covered_us for hour in found] == [0] * 4
    assert not any(hour.complete for hour in found)


def test_a_gap_whose_times_contradict_its_ids_takes_no_hour_below_nought() -> None:
    """Venues' clocks jump: ids 5 to 9 are said to be missing at 02:00, when 200 had been issued."""
    marks = [Mark(n, START + n * MINUTE_US) for n in range(240) if not 5 <= n <= 9]
    odd = gap(from_sequence=5, to_sequence=9, missing=5, from_time=EDGES[2] - 1, to_time=EDGES[2] + 1)
    found = hours(EDGES, {TRADES: {"BTC/USD": seen(marks)}}, [odd], {})
    assert all((hour.issued or 0) >= (hour.missing or 0) >= 0 for hour in found)
    assert sum(hour.issued or 0 for hour in found) == 240
    assert sum(hour.missing or 0 for hour in found) == 5
