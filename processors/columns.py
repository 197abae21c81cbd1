"""A batch of one instrument's trades as columns, and which of them are no sound trades: pure.

Whole columns are tested at once; only a batch that fails is looked at row by row.
"""

import math
from collections.abc import Sequence
from dataclasses import fields
from itertools import repeat
from operator import itemgetter, mod, sub

from processors.contract import Row
from ravencore.codec import decimal_units
from ravencore.columns import TradeColumns
from ravencore.decimals import LIMIT, ONE, SCALE, scale_of, to_text

AHEAD_US = 60_000_000
"""An event_time further than this after its received_time is no time."""
HEADROOM = 10**6
"""So many of the largest trades still add up to a decimal(38,18): a bar's totals do not overflow."""
MOST_VOLUME = LIMIT // HEADROOM
MOST_NOTIONAL = MOST_VOLUME * ONE
BAD_VALUE = "bad_value"
HALF_SCALE: int = 10 ** (SCALE - SCALE // 2)
"""Numbers with at most half of 18 decimals are multiples of it. A machine word, so that dividing by it is quick."""

_NAMES = [field.name for field in fields(TradeColumns)]
_cells = itemgetter("event_time", "received_time", "trade_id", "sequence", "price", "quantity", "side", "after_gap")


def of_rows(rows: Sequence[Row]) -> TradeColumns:
    """Columns of at least one row."""
    event_time, received_time, trade_id, sequence, price, quantity, side, after_gap = zip(
        *map(_cells, rows), strict=True
    )
    buy = [name == "BUY" for name in side]
    return TradeColumns(
        event_time, received_time, trade_id, sequence, _decimals(price), _decimals(quantity), buy, after_gap
    )


def take(trades: TradeColumns, rows: Sequence[int]) -> TradeColumns:
    """Some rows, ascending, without repetition."""
    if len(rows) == len(trades.price):
        return trades
    columns = (getattr(trades, name) for name in _NAMES)
    return TradeColumns(*([column[row] for row in rows] for column in columns))


def unsound(trades: TradeColumns) -> dict[int, str]:
    """Rows that are no sound trades, and why; empty in all but strange batches."""
    if _all_sound(trades):
        return {}
    faults = {row: _fault(trades, row) for row in range(len(trades.price))}
    return {row: fault for row, fault in faults.items() if fault}


def _decimals(raw: Sequence[bytes]) -> list[int]:
    if max(raw) >= b"\x80":  # a first bit that is set: a negative number among them
        return [decimal_units(number) for number in raw]
    return list(map(int.from_bytes, raw))


def _all_sound(trades: TradeColumns) -> bool:
    price, quantity = max(trades.price), max(trades.quantity)
    return (
        min(trades.price) > 0
        and min(trades.quantity) > 0
        and price < LIMIT
        and quantity < MOST_VOLUME
        and price * quantity < MOST_NOTIONAL
        and max(map(sub, trades.event_time, trades.received_time)) <= AHEAD_US
        and (_has_few_decimals(trades.price, trades.quantity) or _scales_fit(trades.price, trades.quantity))
    )


def _has_few_decimals(price: Sequence[int], quantity: Sequence[int]) -> bool:
    """Whether all have at most half the decimals that both may have together, as nearly all prices do."""
    return not any(map(mod, price, repeat(HALF_SCALE))) and not any(map(mod, quantity, repeat(HALF_SCALE)))


def _scales_fit(price: Sequence[int], quantity: Sequence[int]) -> bool:
    # The most decimals of any price are those of their greatest common divisor.
    return scale_of(math.gcd(*price)) + scale_of(math.gcd(*quantity)) <= SCALE


def _fault(trades: TradeColumns, row: int) -> str | None:
    """The first fault of a trade, as a sentence."""
    price, quantity = trades.price[row], trades.quantity[row]
    ahead_us = trades.event_time[row] - trades.received_time[row]
    if price <= 0:
        return f"price {to_text(price)} is not positive"
    if quantity <= 0:
        return f"quantity {to_text(quantity)} is not positive"
    if price >= LIMIT:
        return "price is too large for decimal(38,18)"
    if quantity >= MOST_VOLUME:
        return f"quantity {to_text(quantity)}: the volume of a bar could overflow decimal(38,18)"
    if price * quantity >= MOST_NOTIONAL:
        return f"price {to_text(price)} x quantity {to_text(quantity)}: a bar's total could overflow decimal(38,18)"
    if ahead_us > AHEAD_US:
        return f"event_time is {ahead_us / 1e6:.6f} s after received_time"
    if scale_of(price) + scale_of(quantity) > SCALE:
        return f"price {to_text(price)} x quantity {to_text(quantity)} has more than {SCALE} decimals"
    return None
