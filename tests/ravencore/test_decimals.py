"""Exact decimals: text in, unscaled integer, text out."""

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ravencore.decimals import LIMIT, ONE, from_decimal, from_text, scale_of, to_decimal, to_float, to_text
from ravencore.errors import BadValue

UNITS = st.integers(-LIMIT + 1, LIMIT - 1)


@given(UNITS)
def test_text_and_units_are_one_to_one(units: int) -> None:
    assert from_text(to_text(units)) == units
    assert from_decimal(to_decimal(units)) == units


@given(st.decimals(allow_nan=False, allow_infinity=False, places=18, min_value=-(10**19), max_value=10**19))
def test_units_are_the_number_times_ten_to_the_eighteen(number: Decimal) -> None:
    assert from_text(str(number)) == Fraction(number) * ONE


@given(UNITS)
def test_scale_is_the_number_of_decimals_without_trailing_zeros(units: int) -> None:
    text = to_text(units)
    assert scale_of(units) == len(text.partition(".")[2])


@given(UNITS)
def test_the_double_is_the_nearest(units: int) -> None:
    assert to_float(units) == float(Fraction(units, ONE))


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("0.00120000", 1_200_000_000_000_000),
        ("1e-05", 10**13),
        ("1E+3", 1000 * ONE),
        ("-0", 0),
        ("007.50", 7 * ONE + ONE // 2),
        ("0.000000000000000001", 1),
        ("0.0000000000000000010000", 1),
        ("0e-9999999", 0),
    ],
)
def test_venues_spellings(text: str, units: int) -> None:
    assert from_text(text) == units


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "1_000",
        "1,5",
        "nan",
        "NaN",
        "Infinity",
        "-inf",
        "0x10",
        ".5.",
        "--1",
        "\u0661",
        "1e",
        "1\n",
        "0.0000000000000000001",
        "1e-19",
        "1e21",
        "1e999999999",
        "1e-999999999",
        "9" * 21,
    ],
)
def test_what_is_no_exact_number_is_refused(text: str) -> None:
    with pytest.raises(BadValue):
        from_text(text)
