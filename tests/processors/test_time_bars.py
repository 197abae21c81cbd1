"""Time windows by hand: one bar a second, times written as seconds after START.

|   second 0   |   second 1   |   second 2   |
0.0            1.0            2.0            3.0
"""

from collections.abc import Sequence
from itertools import count

import pytest

from processors.contract import Clock, Output, Row
from processors.symbol import Symbol
from ravencore.config import BarsSettings, interval_us
from ravencore.decimals import ONE
from ravencore.errors import ConfigError
from ravencore.records import Bar
from tests.processors.oracles import Print
from tests.processors.tapes import SYMBOL, VENUE, row

START = 1_700_000_000_000_000
HOUR = 3_600


def at(seconds: float) -> int:
    return START + round(seconds * 1_000_000)


def trade(seconds: float, number: int, price: int = 100, quantity: int = 1) -> Row:
    return row(Print(at(seconds), at(seconds), str(number), number, price * ONE, quantity * ONE, buy=True))


def second_bars(rows: Sequence[Row | Clock], lateness_ms: int = 0, empty: str = "skip") -> list[Output]:
    settings = BarsSettings(
        time_intervals=["1s"], allowed_lateness_ms=lateness_ms, empty_windows="flat" if empty == "flat" else "skip"
    )
    done = Symbol(VENUE, SYMBOL, settings).apply(rows, range(len(rows)))
    return [out for out in done.outputs if isinstance(out.record, Bar) and out.record.kind == "time"]


def bars(rows: Sequence[Row | Clock], lateness_ms: int = 0, empty: str = "skip") -> list[Bar]:
    return [out.record for out in second_bars(rows, lateness_ms, empty) if isinstance(out.record, Bar)]


def told(bar: Bar) -> tuple[float, str | None, str | None, bool]:
    """Start in seconds, first and last id, gap."""
    return (bar.open_time - START) / 1e6, bar.first_trade_id, bar.last_trade_id, bar.gap


def test_a_trade_at_the_end_belongs_to_the_next_bar() -> None:
    r"""
    |  1      2   |3
    0.0    0.999999 1.0
    """
    [bar] = bars([trade(0.2, 1, 100), trade(0.999_999, 2, 103), trade(1.0, 3, 999)])
    assert (bar.open_time, bar.close_time, bar.last_trade_id) == (at(0), at(1), "2")
    assert (bar.open, bar.high, bar.low, bar.close) == (100 * ONE, 103 * ONE, 100 * ONE, 103 * ONE)
    assert (bar.volume, bar.quote_volume, bar.ticks) == (2 * ONE, 203 * ONE, 2)


def test_the_window_that_is_open_at_the_end_is_no_bar() -> None:
    assert bars([trade(0.2, 1), trade(0.9, 2)]) == []


def test_empty_windows_are_skipped_or_flat() -> None:
    r"""
    |  1   |      |      | 2    |
    0      1      2      3      4
    """
    rows = [trade(0.5, 1, 100), trade(3.5, 2, 200), trade(4.0, 3)]
    assert [told(bar)[0] for bar in bars(rows)] == [0, 3]
    flat = bars(rows, empty="flat")
    assert [told(bar)[:3] for bar in flat] == [(0, "1", "1"), (1, None, None), (2, None, None), (3, "2", "2")]
    assert [bar.bar_seq for bar in flat] == [0, 1, 2, 3]
    empty = flat[1]
    assert {empty.open, empty.high, empty.low, empty.close} == {100 * ONE}
    assert (empty.volume, empty.quote_volume, empty.buy_volume, empty.ticks) == (0, 0, 0, 0)


def test_a_clock_closes_what_ends_before_or_at_it() -> None:
    rows: list[Row | Clock] = [trade(0.5, 1), Clock(at(0.9)), Clock(at(1.0)), trade(1.2, 2), Clock(at(2.5))]
    outputs = second_bars(rows)
    assert [(out.offset, out.received_time) for out in outputs] == [(2, 0), (4, 0)]


def test_a_clock_closes_windows_that_held_nothing() -> None:
    """A flat bar was written for [1, 2): the trade that comes after it is late and in no bar."""
    rows: list[Row | Clock] = [trade(0.5, 1), Clock(at(2.0)), trade(1.9, 2), trade(2.1, 3), trade(3.0, 4)]
    assert [told(bar)[:3] for bar in bars(rows, empty="flat")] == [(0, "1", "1"), (1, None, None), (2, "3", "3")]


@pytest.mark.parametrize("silent", [100_000, 100_001, 2_000_000])
def test_of_a_very_long_silence_the_beginning_is_filled(silent: int) -> None:
    """One trade may close a million windows of an option, which nobody wants, and no transaction holds."""
    rows = [trade(0.5, 1), trade(silent + 1.5, 2), trade(silent + 4.5, 3)]
    filled = [told(bar)[0] for bar in bars(rows, empty="flat")]
    assert filled == [*range(100_001), silent + 1, silent + 2, silent + 3]


def test_windows_empty_since_a_clock_are_flat_as_well() -> None:
    rows: list[Row | Clock] = [trade(0.5, 1), Clock(at(1.0)), trade(3.5, 2), Clock(at(4.0))]
    assert [told(bar)[0] for bar in bars(rows, empty="flat")] == [0, 1, 2, 3]


def test_the_first_window_is_flagged_even_where_the_first_trade_was_not_in_it() -> None:
    r"""Time steps back at the start of a stream, within the lateness.
    |  2      |  1      |
    """
    rows = [trade(1.2, 1), trade(0.9, 2), trade(3.6, 3)]
    assert [told(bar)[1:] for bar in bars(rows, lateness_ms=1000)] == [("2", "2", True), ("1", "1", True)]


def test_a_late_trade_is_in_no_time_bar_and_in_all_others() -> None:
    r"""
    |  1      |  2      |
              |3 late   |  4
    0         1         2
    """
    symbol = Symbol(VENUE, SYMBOL, BarsSettings(time_intervals=["1s"]))
    rows = [trade(0.5, 1), trade(1.5, 2), trade(0.9, 3), trade(2.5, 4)]
    done = symbol.apply(rows, range(4))
    assert [told(out.record)[:3] for out in done.outputs if isinstance(out.record, Bar)] == [
        (0, "1", "1"),
        (1, "2", "2"),
    ]
    assert (done.counts["late_trades"], done.counts["trades"]) == (1, 4)
    assert symbol._awake[1].fold._bar.ticks == 4  # type: ignore[attr-defined]


def test_allowed_lateness_keeps_windows_open_side_by_side() -> None:
    r"""With 0.5 s of it, second 0 closes at 1.5 and takes trade 3.
    |  1      |  2      |
       3      |     4   |
    0         1         2
    """
    rows = [trade(0.5, 1), trade(1.2, 2), trade(0.9, 3), trade(1.5, 4), trade(0.9, 5), trade(2.6, 6)]
    outputs = second_bars(rows, lateness_ms=500)
    assert [out.offset for out in outputs] == [3, 5]
    assert [told(out.record)[1:3] for out in outputs if isinstance(out.record, Bar)] == [("1", "3"), ("2", "4")]


def test_a_window_closes_in_the_middle_of_another_by_the_very_trade_that_does_it() -> None:
    r"""With 0.5 s of lateness, in one batch.
    |  1      |  2  3  4  |
    0         1    1.5    2
    """
    rows = [trade(0.5, 1), trade(1.2, 2), trade(1.5, 3), trade(1.9, 4), trade(2.5, 5)]
    assert [(out.offset, out.record.last_trade_id) for out in second_bars(rows, lateness_ms=500)] == [
        (2, "1"),
        (4, "4"),
    ]
    assert [bar.ticks for bar in bars(rows, lateness_ms=500)] == [1, 3]


def test_every_window_from_before_a_hole_to_after_it_is_flagged() -> None:
    r"""
    | 1    | 2    |      |      | 7  8 | 9    | 10
    0      1      2      3      4      5      6
      first  gap    gap    gap    gap    fine
    """
    rows = [trade(0.5, 1), trade(1.5, 2), trade(4.5, 7), trade(4.6, 8), trade(5.5, 9), trade(6.5, 10)]
    flat = bars(rows, empty="flat")
    assert [told(bar)[3] for bar in flat] == [True, True, True, True, True, False]
    no_hole = [trade(0.5, 1), trade(1.5, 2), trade(4.5, 3), trade(5.5, 4), trade(6.5, 5)]
    assert [bar.gap for bar in bars(no_hole, empty="flat")] == [True, False, False, False, False, False]


def test_a_hole_inside_a_window_flags_that_window_alone() -> None:
    rows = [trade(0.5, 1), trade(1.5, 2), trade(1.6, 5), trade(2.5, 6), trade(3.5, 7)]
    assert [bar.gap for bar in bars(rows)] == [True, True, False]


@pytest.mark.parametrize(
    ("number", "first", "last", "close"), [(2, "1", "5", 105), (6, "1", "6", 106)], ids=["among the others", "in order"]
)
def test_a_repair_enters_its_open_window_where_its_id_belongs(number: int, first: str, last: str, close: int) -> None:
    rows = [trade(0.1, 1, 101), trade(0.5, 5, 105), trade(0.3, number, 100 + number), trade(1.0, 7)]
    [bar] = bars(rows)
    assert (bar.first_trade_id, bar.last_trade_id, bar.close, bar.ticks) == (first, last, close * ONE, 3)


def test_a_repair_may_become_the_first_trade_of_its_window() -> None:
    rows = [trade(0.5, 1), trade(1.6, 4, 104), trade(1.1, 3, 103), trade(2.0, 5)]
    bar = bars(rows)[1]
    assert (bar.first_trade_id, bar.open, bar.last_trade_id, bar.close) == ("3", 103 * ONE, "4", 104 * ONE)


def test_a_repair_of_a_closed_window_is_only_counted() -> None:
    rows = [trade(0.5, 1), trade(1.6, 4), trade(0.9, 3), trade(2.0, 5)]
    done = Symbol(VENUE, SYMBOL, BarsSettings(time_intervals=["1s"])).apply(rows, range(4))
    assert [out.record.ticks for out in done.outputs] == [1, 1]
    assert (done.counts["late_repairs"], done.counts["late_trades"], done.counts["trades"]) == (1, 0, 3)


def test_windows_are_counted_from_the_epoch() -> None:
    settings = BarsSettings(time_intervals=["1h"])
    numbers = count(1)
    rows = [trade(hours * HOUR, next(numbers)) for hours in (0, 0.1, 1, 2)]
    done = Symbol(VENUE, SYMBOL, settings).apply(rows, range(4))
    assert [out.record.open_time % (HOUR * 1_000_000) for out in done.outputs] == [0, 0]


@pytest.mark.parametrize(
    ("text", "micros"), [("500ms", 500_000), ("1s", 10**6), ("15m", 9 * 10**8), ("1h", 36 * 10**8), ("1d", 864 * 10**8)]
)
def test_intervals(text: str, micros: int) -> None:
    assert interval_us(text) == micros


@pytest.mark.parametrize("text", ["", "s", "0s", "1", "1.5s", "-1s", "1 s", "1S", "1s\n", "٣s"])
def test_texts_that_are_no_interval(text: str) -> None:
    with pytest.raises(ConfigError, match="interval"):
        interval_us(text)


def test_an_interval_named_twice() -> None:
    with pytest.raises(ConfigError, match="twice"):
        Symbol(VENUE, SYMBOL, BarsSettings(time_intervals=["1s", "1s"]))
