"""What no record of the market can hold: faults that joins refuse as `bad_value`."""

from collections.abc import Iterable
from math import isfinite

from processors.columns import AHEAD_US
from ravencore.decimals import LIMIT, to_text


def time_fault(event_time: int | None, received_time: int) -> str | None:
    """The fault of a record that happened more than 60 s after it was received."""
    if event_time is None or event_time - received_time <= AHEAD_US:
        return None
    return f"event_time is {(event_time - received_time) / 1e6:.6f} s after received_time"


def decimal_fault(numbers: Iterable[tuple[str, int | None]]) -> str | None:
    """The first fault of unscaled decimals, by name, that must not be negative; null is none."""
    for name, units in numbers:
        if units is not None and not 0 <= units < LIMIT:
            return f"{name} {to_text(units)} is negative" if units < 0 else f"{name} is too large for decimal(38,18)"
    return None


def double_fault(numbers: Iterable[tuple[str, float | None]], least: float) -> str | None:
    """The first fault of doubles, by name, that must be finite and at least so large; null is none."""
    for name, number in numbers:
        if number is not None and not (isfinite(number) and number >= least):
            return f"{name} is {number}"
    return None
