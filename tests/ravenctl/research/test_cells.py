"""Texts of cells as exact integers, and columns found by their names and places."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore.errors import BadValue
from ravenctl.research.cells import (
    PER_SECOND,
    TimeUnit,
    bought,
    bought_of_maker,
    count_by_one,
    counting_ids,
    decimals,
    micros,
)
from ravenctl.research.spellings import Layout, Named, has_header, layout
from ravenctl.shell import WrongUse

SECONDS = st.integers(10**8, 4 * 10**9)


@given(SECONDS, st.integers(0, 10**9 - 1), st.sampled_from(sorted(PER_SECOND)), st.booleans())
def test_times_of_every_unit_are_cut_off_below_the_microsecond(
    second: int, nanos: int, unit: TimeUnit, told: bool
) -> None:
    number = (second * 10**9 + nanos) * PER_SECOND[unit] // 10**9
    exact = Fraction(number * 10**6, PER_SECOND[unit])
    assert micros([str(number)], unit if told else None) == [exact.__floor__()]


@given(SECONDS, st.integers(0, 10**9 - 1))
def test_seconds_with_decimals(second: int, nanos: int) -> None:
    assert micros([f"{second}.{nanos:09d}"], None) == [second * 10**6 + nanos // 1000]


def test_one_column_may_hold_two_units() -> None:
    """Binance's spot dumps, before and after the first of January 2025."""
    assert micros(["1735689599999", "1735689600000001"], None) == [1_735_689_599_999_000, 1_735_689_600_000_001]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2022-01-15T00:00:00.123456Z", 1_642_204_800_123_456),
        ("2022-01-15 00:00:00.123+00:00", 1_642_204_800_123_000),
        ("2022-01-15 01:00:00+01:00", 1_642_204_800_000_000),
        ("2022-01-15", 1_642_204_800_000_000),
    ],
)
def test_times_as_text(text: str, expected: int) -> None:
    assert micros([text, "1642204800"], None) == [expected, 1_642_204_800_000_000]


@pytest.mark.parametrize("text", ["", "now", "0", "-5", "nan", "1e400", "9" * 30, "1.5.2", "0001-01-01"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(BadValue):
        micros([text], None)


def test_decimals_are_exact() -> None:
    assert decimals(["8e-05", "0.1", "100000000000.123456789012345678"]) == [
        8 * 10**13,
        10**17,
        100_000_000_000_123_456_789_012_345_678,
    ]


@pytest.mark.parametrize("text", ["", "nan", "inf", "1,5", "0x1", "1_000"])
def test_what_is_no_decimal(text: str) -> None:
    with pytest.raises(BadValue):
        decimals([text])


def test_sides() -> None:
    assert bought(["buy", "SELL", "b", "S", " Buy ", "-1"]) == [True, False, True, False, True, False]
    assert bought_of_maker(["True", "false", "1", "f"]) == [False, True, False, True]
    with pytest.raises(BadValue, match="'unknown' is neither buy nor sell"):
        bought(["buy", "unknown"])


def test_ids_that_count() -> None:
    assert counting_ids(["5", "07"]) == [5, 7]
    with pytest.raises(BadValue, match="'a7' is no whole number"):
        counting_ids(["5", "a7"])
    assert count_by_one(["10", "11", "13", "14", "12"])
    assert count_by_one(["10"])
    assert not count_by_one(["10", "20", "30"])
    assert not count_by_one(["10", "11", "x"])


@pytest.mark.parametrize(
    ("header", "places"),
    [
        ("id,price,qty,quote_qty,time,is_buyer_maker", {"time": 4, "price": 1, "quantity": 2, "is_buyer_maker": 5}),
        (
            "exchange,symbol,timestamp,local_timestamp,id,side,price,amount",
            {"time": 2, "price": 6, "quantity": 7, "side": 5, "symbol": 1, "venue": 0},
        ),
        ("recv_ms,exch_ms,trade_id,price,qty,side", {"time": 1, "price": 3, "quantity": 4, "side": 5}),
        ("Trade ID,Taker Side,Price,Size,Time", {"time": 4, "price": 2, "quantity": 3, "side": 1}),
        ("T,t,p,q,m", {"time": 0, "price": 2, "quantity": 3, "is_buyer_maker": 4}),
        ("side,isBuyerMaker,price,qty,time", {"time": 4, "price": 2, "quantity": 3, "is_buyer_maker": 1}),
    ],
)
def test_columns_by_their_names(header: str, places: dict[str, int]) -> None:
    found = dict(layout(header.split(","), Named()).places)
    found.pop("id", None)
    assert found == places


def test_a_column_that_is_named_wins() -> None:
    first = ["time", "my_time", "price", "qty", "is_buyer_maker", "who"]
    found = layout(first, Named(time="my_time", side="who"))
    assert dict(found.places) == {"time": 1, "price": 2, "quantity": 3, "side": 5}
    assert found.told() == "time from 'my_time', price from 'price', quantity from 'qty', side from 'who'"


def test_a_first_row_of_trades_is_no_header() -> None:
    assert has_header(["id", "price"])
    assert not has_header(["553287559", "39432.48", "True"])
    row = ["553287559", "39432.48", "0.000263", "10.37", "1610064000278", "True", "True"]
    found = layout(row, Named())
    assert found == Layout({"time": 4, "price": 1, "quantity": 2, "is_buyer_maker": 5, "id": 0}, None)
    with pytest.raises(WrongUse, match="name at least --time, --price and --quantity"):
        layout(row[:4], Named())
