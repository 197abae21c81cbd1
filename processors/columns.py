"""A batch of one instrument's trades as columns, and which of them are no sound trades: pure.

Whole columns are tested at once; only a batch that fails is looked at row by row.
"""

import math
from collections.abc import Iterator, Sequence
from operator import itemgetter, mul, sub
from typing import NamedTuple

from processors.contract import Row, Tape
from ravencore.codec import decimal_units
from ravencore.decimals import LIMIT, ONE, SCALE, scale_of, to_text

AHEAD_US = 60_000_000
"""An event_time further than this after its received_time is no time."""
HEADROOM = 10**6
"""So many of the largest trades still add up to a decimal(38,18): a bar's totals do not overflow."""
MOST_VOLUME = LIMIT // HEADROOM
MOST_NOTIONAL = MOST_VOLUME * ONE
BAD_VALUE = "bad_value"

_fields = itemgetter("event_time", "received_time", "trade_id", "sequence", "price", "quantity", "side", "after_gap")


class Columns(NamedTuple):
    """The trades of a batch; `notional` is price * quantity at scale 36."""

    event_time: Sequence[int]
    received_time: Sequence[int]
    trade_id: Sequence[str]
    sequence: Sequence[int | None]
    price: Sequence[int]
    quantity: Sequence[int]
    notional: Sequence[int]
    side: Sequence[str]
    after_gap: Sequence[bool]

    def take(self, rows: Sequence[int]) -> "Columns":
        """These rows alone."""
        if len(rows) == len(self.side):
            return self
        return Columns(*([column[row] for row in rows] for column in self))  # type: ignore[arg-type]

    def tape(self, gaps: Sequence[int]) -> Tape:
        """The trades as a tape, with the rows that follow a hole."""
        buy = [side == "BUY" for side in self.side]
        return Tape(
            event_time=self.event_time,
            trade_id=self.trade_id,
            sequence=self.sequence,
            price=self.price,
            quantity=self.quantity,
            notional=self.notional,
            buy=buy,
            gaps=gaps,
        )


def columns(rows: Sequence[Row]) -> Columns:
    """Columns of at least one trade."""
    event_time, received_time, trade_id, sequence, price, quantity, side, after_gap = zip(
        *map(_fields, rows), strict=True
    )
    prices, quantities = _decimals(price), _decimals(quantity)
    notional = list(map(mul, prices, quantities))
    return Columns(event_time, received_time, trade_id, sequence, prices, quantities, notional, side, after_gap)


def unsound(trades: Columns) -> dict[int, str]:
    """Rows that are no sound trades, and why; empty in all but strange batches."""
    if _all_sound(trades):
        return {}
    return {row: fault for row in range(len(trades.side)) for fault in _faults(trades, row)}


def _decimals(raw: Sequence[bytes]) -> list[int]:
    if max(raw) >= b"\x80":  # a first bit that is set: a negative number among them
        return [decimal_units(number) for number in raw]
    return list(map(int.from_bytes, raw))


def _all_sound(trades: Columns) -> bool:
    return (
        min(trades.price) > 0
        and min(trades.quantity) > 0
        and max(trades.price) < LIMIT
        and max(trades.quantity) < MOST_VOLUME
        and max(trades.notional) < MOST_NOTIONAL
        and max(map(sub, trades.event_time, trades.received_time)) <= AHEAD_US
        # The most decimals of any price are those of their greatest common divisor.
        and scale_of(math.gcd(*trades.price)) + scale_of(math.gcd(*trades.quantity)) <= SCALE
    )


def _faults(trades: Columns, row: int) -> Iterator[str]:
    """At most one sentence: the first fault of a trade."""
    price, quantity = trades.price[row], trades.quantity[row]
    ahead_us = trades.event_time[row] - trades.received_time[row]
    if price <= 0:
        yield f"price {to_text(price)} is not positive"
    elif quantity <= 0:
        yield f"quantity {to_text(quantity)} is not positive"
    elif price >= LIMIT:
        yield "price is too large for decimal(38,18)"
    elif quantity >= MOST_VOLUME:
        yield f"quantity {to_text(quantity)}: a bar's volume could overflow decimal(38,18)"
    elif trades.notional[row] >= MOST_NOTIONAL:
        yield f"price {to_text(price)} x quantity {to_text(quantity)}: a bar's total could overflow decimal(38,18)"
    elif ahead_us > AHEAD_US:
        yield f"event_time is {ahead_us / 1e6:.6f} s after received_time"
    elif scale_of(price) + scale_of(quantity) > SCALE:
        yield f"price {to_text(price)} x quantity {to_text(quantity)} has more than {SCALE} decimals"
