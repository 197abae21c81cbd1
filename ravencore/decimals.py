"""Exact prices and quantities: decimal(38,18) as its unscaled integer, from the wire's text to Kafka and the stores.

`1.5` is held as `1_500_000_000_000_000_000`. Sums and products of such integers are exact and fast in plain Python.
"""

import re
from decimal import Decimal

from ravencore.errors import BadValue

SCALE = 18
ONE: int = 10**SCALE
PRECISION = 38
LIMIT: int = 10**PRECISION
_WHOLE = PRECISION - SCALE

_PLAIN = re.compile(r"-?[0-9]+(?:\.[0-9]+)?", re.ASCII)
_SCIENTIFIC = re.compile(r"-?[0-9]+(?:\.[0-9]+)?[eE][+-]?[0-9]{1,9}", re.ASCII)
_POWERS: tuple[int, ...] = tuple(10**n for n in range(SCALE + 1))


def from_text(text: str) -> int:
    """Unscaled decimal(38,18) of a number's text as venues print it, for example `"0.00120000"` or `"1e-05"`.

    Raises BadValue when it is no finite number, needs more than 18 decimals, or more than 20 digits before the point.
    """
    whole, _, fraction = text.partition(".")
    # Micro-optimization: a price as nearly all venues print it, `61837.63000000`, needs no regular expression.
    if whole.isdigit() and fraction.isdigit() and len(whole) <= _WHOLE and len(fraction) <= SCALE and text.isascii():
        return int(whole + fraction) * _POWERS[SCALE - len(fraction)]
    if not _PLAIN.fullmatch(text):
        return from_decimal(_scientific(text))
    fraction = fraction.rstrip("0")
    if len(fraction) > SCALE:
        raise BadValue(f"{text[:64]!r} has more than {SCALE} decimals")
    return _in_range(int(whole + fraction) * _POWERS[SCALE - len(fraction)], text)


def from_decimal(number: Decimal) -> int:
    """Unscaled decimal(38,18) of a Decimal; raises BadValue as `from_text` does."""
    if not number.is_finite():
        raise BadValue(f"{number} is not a finite number")
    sign, digits, exponent = number.as_tuple()
    shift = int(exponent) + SCALE
    if shift > PRECISION:
        raise BadValue(f"{number} is too large for decimal({PRECISION},{SCALE})")
    magnitude = int("".join(map(str, digits)))
    units, rest = (magnitude * 10**shift, 0) if shift >= 0 else divmod(magnitude, 10 ** min(-shift, 4096))
    if rest or (shift < -4096 and magnitude):
        raise BadValue(f"{number} has more than {SCALE} decimals")
    return _in_range(-units if sign else units, str(number))


def to_decimal(units: int) -> Decimal:
    """The Decimal an unscaled integer stands for, without trailing zeros."""
    return Decimal(to_text(units))


def to_text(units: int) -> str:
    """Shortest plain text of an unscaled integer: `"0.0012"`, `"-3"`; never an exponent."""
    whole, fraction = divmod(abs(units), ONE)
    sign = "-" if units < 0 else ""
    if not fraction:
        return f"{sign}{whole}"
    return f"{sign}{whole}.{fraction:018d}".rstrip("0")


def to_float(units: int) -> float:
    """The nearest double (Python divides integers with one correct rounding)."""
    return units / ONE


def scale_of(units: int) -> int:
    """How many decimals the number has, trailing zeros dropped: 0 to 18."""
    scale = SCALE
    while scale and units % _POWERS[SCALE - scale + 1] == 0:
        scale -= 1
    return scale


def _scientific(text: str) -> Decimal:
    if not _SCIENTIFIC.fullmatch(text):
        raise BadValue(f"{text[:64]!r} is not a number")
    return Decimal(text)


def _in_range(units: int, text: str) -> int:
    if not -LIMIT < units < LIMIT:
        raise BadValue(f"{text[:64]!r} is too large for decimal({PRECISION},{SCALE})")
    return units
