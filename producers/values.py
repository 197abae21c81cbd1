"""Checks that every venue's numbers pass before they are records: exact, positive where they must be, and in time."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import NoReturn

import msgspec

from producers.contract import BadFrame
from ravencore.decimals import LIMIT, ONE, SCALE, from_text, scale_of
from ravencore.errors import BadValue
from ravencore.records import Level

FUTURE_US = 60_000_000
"""What happened this much after it was received did not happen (bars.md section 0)."""
KEPT_SIDES = 1 << 12
"""Of books, each with what it was last; one more, and they begin anew."""
EIGHT_DECIMALS = 10 ** (SCALE - 8)
NOTIONAL_LIMIT = LIMIT * ONE
MILLISECONDS_TO_US = 1000
EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - the times read here are all in UTC
_MOMENTARY = re.compile(r"rate limit|msg rate|too many|busy|service.?unavailable|overload", re.IGNORECASE)
_NUMBER = re.compile(r"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?", re.ASCII)
_SECOND = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", re.ASCII)


def refuse(detail: str) -> NoReturn:
    """Raise BadFrame for a value that Raven cannot hold or does not believe."""
    raise BadFrame(detail, "bad_value")


def is_momentary(refusal: str) -> bool:
    """Whether a venue that has no codes for it refuses for now, for the number of requests or its own trouble."""
    return _MOMENTARY.search(refusal) is not None


@contextmanager
def reading() -> Iterator[None]:
    """Whatever bytes do to a decoder is a BadFrame. For bodies and rare frames: a try of one's own is faster."""
    try:
        yield
    except READ_ERRORS as error:
        raise bad_frame(error) from None


READ_ERRORS = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, BadValue)
"""What decoders and numbers raise on bytes that are not what they should be."""


def bad_frame(error: Exception) -> BadFrame:
    """The BadFrame of one of READ_ERRORS."""
    return BadFrame(str(error), "bad_value" if isinstance(error, BadValue) else "unreadable_frame")


def traded(price: int, quantity: int) -> None:
    """Check a trade's price and quantity: above zero, and their product exact; raises BadFrame.

    The notional must be exact at 18 decimals and fit decimal(38,18): folds multiply without looking.
    """
    if price <= 0 or quantity <= 0:
        refuse(f"price or quantity of a trade is not above zero: {price / ONE:g}, {quantity / ONE:g}")
    # Micro-optimization: two numbers of at most 8 decimals, as nearly all are, need no counting.
    if (price % EIGHT_DECIMALS or quantity % EIGHT_DECIMALS) and scale_of(price) + scale_of(quantity) > SCALE:
        refuse(f"price times quantity of a trade needs more than {SCALE} decimals")
    if price * quantity >= NOTIONAL_LIMIT:
        refuse("price times quantity of a trade is too large")


def happened(event_us: int, received_us: int) -> int:
    """The time itself, when it lies after 1970 and not beyond FUTURE_US after the receipt; raises BadFrame."""
    if not 0 < event_us <= received_us + FUTURE_US:
        refuse(f"time {event_us} us lies more than 60 s after its receipt, or at zero")
    return event_us


def _positive(text: str) -> int:
    units = from_text(text)
    if units <= 0:
        refuse(f"{text} is not above zero")
    return units


@lru_cache(maxsize=1 << 16)
def positive(text: str) -> int:
    """Unscaled decimal of a number that must be above zero; raises BadFrame, BadValue.

    Prices come again and again, most of them within a second: each is read once.
    """
    return _positive(text)


@lru_cache(maxsize=1 << 16)
def not_negative(text: str) -> int:
    """Unscaled decimal of a number that may be zero but not less; raises BadFrame, BadValue."""
    units = from_text(text)
    if units < 0:
        refuse(f"{text} is below zero")
    return units


def level(price: str, quantity: str) -> Level:
    """A book's level; raises BadFrame, BadValue."""
    return Level(_positive(price), _positive(quantity))


class Sides:
    """Reads the sides of books. Most levels are those of the same side 100 ms before, and only the others are read.

    A cache of all levels that were read lately costs more than reading them: among hundreds of symbols it is far larger
    than the processor's.
    """

    def __init__(self) -> None:
        self._before: dict[str, dict[tuple[str, str], Level]] = {}

    def read(self, name: str, side: Sequence[tuple[str, str]]) -> tuple[Level, ...]:
        """The levels of a side of that name, best first; raises BadFrame, BadValue."""
        known = self._before.get(name, {}).get
        levels = [known(texts) or level(*texts) for texts in side]
        if name not in self._before and len(self._before) >= KEPT_SIDES:
            self._before.clear()
        self._before[name] = dict(zip(side, levels, strict=True))
        return tuple(levels)


def product(price: int, quantity: int) -> int:
    """The exact product of two unscaled decimals, itself one; raises BadFrame where there is none."""
    units, rest = divmod(price * quantity, ONE)
    if rest or abs(units) >= LIMIT:
        refuse(f"{price / ONE:g} times {quantity / ONE:g} is no exact decimal")
    return units


def statistic(text: str) -> float:
    """The nearest double of a number's text, for values that are statistics anyhow; raises BadFrame."""
    if not _NUMBER.fullmatch(text):
        refuse(f"{text[:64]!r} is not a number")
    value = float(text)
    if not isfinite(value):
        refuse(f"{text[:64]} is too large")
    return value


def optional(read: Callable[[str], int], text: str | None) -> int | None:
    """`read(text)`, and None where there is no text or an empty one."""
    return read(text) if text else None


@lru_cache(maxsize=1 << 16)
def number(text: str) -> int:
    """Unscaled decimal of a JSON number, as its text stands in the frame; raises BadFrame, BadValue.

    For fields of type msgspec.Raw, which keep that text: twice as fast as a Decimal, and most numbers come again.
    """
    if text[0] not in "-0123456789":
        raise BadFrame(f"{text[:64]} where a number belongs")
    return from_text(text)


@lru_cache(maxsize=1 << 16)
def counted(text: str) -> int:
    """`number` of a JSON number that may be zero but not less; raises BadFrame, BadValue."""
    units = number(text)
    if units < 0:
        refuse(f"{text} is below zero")
    return units


def moment(text: str) -> int:
    """Microseconds of an RFC 3339 time in UTC like 2026-08-09T21:05:48.228568804Z, cut off there; raises BadFrame."""
    if not text.isascii() or text[-1:] != "Z":
        refuse(f"{text[:64]!r} is no time in UTC")
    fraction = text[20:-1]
    if fraction.isdigit() and text[19] == ".":
        return _second(text[:19]) + int(fraction if len(fraction) == 6 else fraction[:6].ljust(6, "0"))
    if text[19:] != "Z":
        refuse(f"{text[:64]!r} is no time in UTC")
    return _second(text[:19])


@lru_cache(maxsize=1 << 10)
def _second(text: str) -> int:
    if not _SECOND.fullmatch(text):
        refuse(f"{text!r} is no time")
    try:
        return (datetime.fromisoformat(text) - EPOCH) // timedelta(microseconds=1)
    except ValueError:
        refuse(f"{text!r} is no time")
