"""Numbers and times off the wire are exact, or refused with the documented error."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from producers.contract import BadFrame
from producers.values import (
    READ_ERRORS,
    Sides,
    counted,
    happened,
    level,
    moment,
    not_negative,
    number,
    optional,
    positive,
    product,
    statistic,
    traded,
)
from ravencore.decimals import LIMIT, ONE, SCALE, to_text
from ravencore.errors import BadValue
from ravencore.records import Level
from tests.producers.recorded import units

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EXACT = st.integers(-(10**38) + 1, 10**38 - 1).map(lambda unscaled: Decimal(f"{unscaled}E-{SCALE}"))


class OfRaw(msgspec.Struct):
    number: msgspec.Raw


@given(EXACT)
def test_a_json_number_is_read_to_its_last_digit(exact: Decimal) -> None:
    for text in (f"{exact:f}", f"{exact:E}", f"{exact:f}".lower()):
        raw = msgspec.json.decode(f'{{"number":{text}}}', type=OfRaw).number
        assert number(str(raw, "ascii")) == units(exact)


@pytest.mark.parametrize("text", ["null", '"1.5"', "true", "[1]", '{"a":1}', '""'])
def test_what_is_no_json_number_is_unreadable(text: str) -> None:
    with pytest.raises(BadFrame, match="where a number belongs") as failure:
        number(text)
    assert failure.value.reason == "unreadable_frame"


@pytest.mark.parametrize("text", ["1e400", "1e-19", "123456789012345678901", "0.1234567890123456789"])
def test_a_number_that_does_not_fit_is_a_bad_value(text: str) -> None:
    with pytest.raises(BadValue):
        number(text)


def test_a_count_may_be_zero_but_not_less() -> None:
    assert counted("0") == counted("-0.0") == 0
    assert counted("1e-8") == 10**10
    with pytest.raises(BadFrame, match="-1 is below zero"):
        counted("-1")


@given(st.integers(0, 253_402_300_799), st.integers(0, 9), st.integers(0, 10**9 - 1))
def test_a_time_is_read_to_its_last_microsecond(seconds: int, digits: int, nanos: int) -> None:
    text = (EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
    fraction = f"{nanos:09d}"[:digits]
    expected = seconds * 10**6 + int(fraction.ljust(6, "0")[:6])
    assert moment(f"{text}.{fraction}Z" if fraction else f"{text}Z") == expected


@given(st.text(max_size=40) | st.text("0123456789-T:.Z+", min_size=19, max_size=30))
def test_any_text_is_a_time_or_a_bad_value(text: str) -> None:
    try:
        assert isinstance(moment(text), int)
    except BadFrame as error:
        assert error.reason == "bad_value"  # noqa: PT017 - either may come


@pytest.mark.parametrize(
    "text",
    [
        "2026-08-09T21:05:48.167634",
        "2026-08-09T21:05:48.167634+00:00",
        "2026-08-09 21:05:48.167634Z",
        "2026-08-09T21:05:48,167634Z",
        "2026-08-09T21:05:48.Z",
        "2026-08-09T21:05:60Z",
        "2026-13-09T21:05:48Z",
        "2026-08-09T21:05:48.１６７Z",
        "1723161255",
        "",
    ],
)
def test_a_time_in_another_form_is_a_bad_value(text: str) -> None:
    with pytest.raises(BadFrame, match="is no time"):
        moment(text)


def test_what_happened_lies_after_1970_and_not_beyond_a_minute_after_its_receipt() -> None:
    received_us = 1_700_000_000_000_000
    assert happened(received_us + 60_000_000, received_us) == received_us + 60_000_000
    assert happened(1, received_us) == 1
    for time_us in (received_us + 60_000_001, 0, -1):
        with pytest.raises(BadFrame, match="lies more than 60 s after its receipt, or at zero"):
            happened(time_us, received_us)


@given(EXACT, EXACT)
def test_a_trade_is_above_zero_and_its_notional_exact(price: Decimal, quantity: Decimal) -> None:
    exact = units(price) * units(quantity)
    fits = price > 0 and quantity > 0 and exact < 10**56 and exact_at_18(price) + exact_at_18(quantity) <= SCALE
    try:
        traded(units(price), units(quantity))
    except BadFrame:
        assert not fits
    else:
        assert fits
        assert exact % ONE == 0


def exact_at_18(value: Decimal) -> int:
    _, _, fraction = f"{value:f}".partition(".")
    return len(fraction.rstrip("0"))


def test_what_decoders_raise_is_among_the_errors_that_are_read() -> None:
    for raw in (b'{"number":', b'{"number":1.2.3}', b"\xff", b"[" * 100_000, json.dumps([1]).encode()):
        with pytest.raises(READ_ERRORS):
            str(msgspec.json.decode(raw, type=OfRaw).number, "ascii")


UNITS = st.integers(-LIMIT + 1, LIMIT - 1)


@given(UNITS)
def test_a_text_is_read_where_its_sign_allows(unscaled: int) -> None:
    text = to_text(unscaled)
    for read, allowed in ((positive, unscaled > 0), (not_negative, unscaled >= 0)):
        if allowed:
            assert read(text) == optional(read, text) == unscaled
        else:
            for _ in range(2):
                with pytest.raises(BadFrame, match="zero") as failure:
                    read(text)
                assert failure.value.reason == "bad_value"
    assert optional(positive, "") is optional(positive, None) is None


@given(UNITS, UNITS)
def test_a_product_is_exact_or_refused(price: int, quantity: int) -> None:
    exact = price * quantity
    if exact % ONE == 0 and abs(exact) < LIMIT * ONE:
        assert product(price, quantity) == exact // ONE
    else:
        with pytest.raises(BadFrame) as failure:
            product(price, quantity)
        assert failure.value.reason == "bad_value"


@given(st.integers(-(10**12), 10**12), st.integers(-(10**12), 10**12))
def test_a_product_of_few_digits_is_exact(price: int, quantity: int) -> None:
    assert product(price * 10**9, quantity * 10**9) == price * quantity


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_statistic_is_the_double_that_was_printed(value: float) -> None:
    assert statistic(repr(value)) == value


@pytest.mark.parametrize(
    "text", ["", "nan", "inf", "-Infinity", "1_0", " 1", "1 ", "0x1", "1e400", "\u0661", "1.", ".5"]
)
def test_no_other_text_is_a_statistic(text: str) -> None:
    with pytest.raises(BadFrame) as failure:
        statistic(text)
    assert failure.value.reason == "bad_value"


def test_a_level_stands_for_something_at_a_price() -> None:
    assert level("61800.20", "2.909") == Level(61_800_200_000_000_000_000_000, 2_909_000_000_000_000_000)
    for price, quantity in (("0.00", "1"), ("1", "0.000"), ("-1", "1"), ("1", "-1")):
        with pytest.raises(BadFrame, match="is not above zero"):
            level(price, quantity)


sides = st.lists(
    st.tuples(st.sampled_from(["1", "1.0", "2.5", "03"]), st.sampled_from(["7", "7.0", "0.1"])), max_size=6
)


@given(st.lists(st.tuples(st.sampled_from("AB"), sides), max_size=8))
def test_a_side_is_read_alike_whatever_was_read_before(told: list[tuple[str, list[tuple[str, str]]]]) -> None:
    memory = Sides()
    for name, side in told:
        assert memory.read(name, side) == tuple(level(*texts) for texts in side)


def test_levels_that_stay_are_not_read_again_and_those_of_long_ago_are_not_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("producers.values.KEPT_SIDES", 3)
    memory = Sides()
    for name in map(str, range(8)):
        first = memory.read(name, [("1", "2"), ("3", "4")])
        again = memory.read(name, [("3", "4"), ("1", "5")])
        assert again[0] is first[1]
        assert again[1] == level("1", "5")
        assert len(memory._before) <= 3


def test_a_side_with_a_bad_level_is_read_by_nobody() -> None:
    memory = Sides()
    memory.read("S", [("1", "2")])
    for _ in range(2):
        with pytest.raises(BadFrame, match="is not above zero"):
            memory.read("S", [("1", "2"), ("0", "1")])
