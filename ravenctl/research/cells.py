"""Texts of a table's cells as exact integers and sides, a whole column at once; BadValue where one is none."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Literal, cast

from ravencore.codec import EPOCH
from ravencore.decimals import ONE, from_text
from ravencore.errors import BadValue

TimeUnit = Literal["s", "ms", "us", "ns"]
PER_SECOND: dict[TimeUnit, int] = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
LONGEST = 40
YEAR_10000_US = 253_402_300_800_000_000


def _cased(words: Iterable[str], meaning: bool) -> dict[str, bool]:
    return {spelt: meaning for word in words for spelt in (word, word.upper(), word.capitalize())}


SIDES = _cased(("buy", "b", "bid", "1", "+1", "long"), True) | _cased(("sell", "s", "ask", "a", "-1", "short"), False)
MAKERS = _cased(("true", "t", "1", "yes"), False) | _cased(("false", "f", "0", "no"), True)
"""Whether the aggressor bought, by whether the buyer was the maker."""

# Micro-optimization: prices and sizes come again and again.
number = lru_cache(maxsize=1 << 16)(from_text)
"""`from_text` with a memory."""


def unit_of(time: int) -> TimeUnit:
    """What a number of the epoch counts, told by its magnitude: 10^11 s lie in the year 5138, 10^11 ms in 1973."""
    return "s" if time < 10**11 else "ms" if time < 10**14 else "us" if time < 10**17 else "ns"


def unit_told(cell: str) -> TimeUnit | None:
    """What a cell counts; None where it is no number."""
    try:
        return unit_of(from_text(cell.strip()) // ONE)
    except BadValue:
        return None


def micros(cells: Sequence[str], unit: TimeUnit | None) -> list[int]:
    """Microseconds of times, cut off below; ISO 8601 as well, UTC where it names no zone. None: as `unit_of` tells.

    Binance's spot dumps count milliseconds until 2024 and microseconds from 2025: one table may hold both.
    """
    try:
        times = list(map(int, cells))
    except ValueError:
        return [_micros(cell, unit) for cell in cells]
    low, high = min(times), max(times)
    if unit is None and unit_of(low) != unit_of(high):
        found = [time * 10**6 // PER_SECOND[unit_of(time)] for time in times]
    else:
        factor = 10**6 // PER_SECOND[unit or unit_of(low)]
        found = [time * factor for time in times] if factor else [time // 1000 for time in times]
    _check(min(found))
    _check(max(found))
    return found


def decimals(cells: Sequence[str]) -> list[int]:
    """Unscaled decimals; blanks around them do not matter."""
    try:
        return list(map(number, cells))
    except BadValue:
        return [number(cell.strip()) for cell in cells]


def bought(cells: Sequence[str]) -> list[bool]:
    """Whether the aggressor bought, of the aggressor's side: buy, SELL, b, s, 1, -1."""
    return _looked_up(cells, SIDES, "is neither buy nor sell")


def bought_of_maker(cells: Sequence[str]) -> list[bool]:
    """Whether the aggressor bought, of whether the buyer was the maker."""
    return _looked_up(cells, MAKERS, "is neither true nor false")


def counting_ids(cells: Sequence[str]) -> list[int]:
    """Ids that count."""
    try:
        ids = list(map(int, cells))
    except ValueError:
        strange = next(cell for cell in cells if not _is_whole(cell))
        raise BadValue(f"{strange[:LONGEST]!r} is no whole number") from None
    if min(ids) < 0 or max(ids) >= 2**63:
        raise BadValue(f"{min(ids) if min(ids) < 0 else max(ids)} is no counting id")
    return ids


def given_ids(cells: Sequence[str]) -> list[str]:
    """Ids that do not count, of which each row has one: two rows without would be taken for one."""
    if not all(cells):
        raise BadValue("there is none")
    return list(cells)


def count_by_one(cells: Sequence[str]) -> bool:
    """Whether ids count the trades of one symbol: whole numbers, most of which follow on one another."""
    if not all(cell.isascii() and cell.strip().isdigit() for cell in cells):
        return False
    ids = sorted(set(map(int, cells)))
    follow = sum(after - before == 1 for before, after in pairwise(ids))
    return 2 * follow >= len(ids) - 1


def _is_whole(cell: str) -> bool:
    try:
        int(cell)
    except ValueError:
        return False
    return True


def _micros(cell: str, unit: TimeUnit | None) -> int:
    """Of a number with decimals, or ISO 8601."""
    text = cell.strip()
    try:
        units = from_text(text)
    except BadValue:
        return _check(_iso_micros(text))
    return _check(units * 10**6 // (PER_SECOND[unit or unit_of(units // ONE)] * ONE))


def _check(time_us: int) -> int:
    if not 0 < time_us < YEAR_10000_US:
        raise BadValue(f"{time_us} us does not lie between the years 1970 and 9999")
    return time_us


def _iso_micros(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise BadValue(f"{text[:LONGEST]!r} is no time") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - EPOCH) // timedelta(microseconds=1)


def _looked_up(cells: Sequence[str], table: dict[str, bool], complaint: str) -> list[bool]:
    found = [table.get(cell) for cell in cells]
    if None in found:
        found = [table.get(cell.strip().lower()) for cell in cells]
    if None in found:
        raise BadValue(f"{cells[found.index(None)][:LONGEST]!r} {complaint}")
    return cast("list[bool]", found)
