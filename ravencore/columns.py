"""A batch of trades of one instrument from Kafka values to columns, all at once.

fastavro reads a varint byte by byte and costs about 10 µs a trade. Here numpy walks all values of a batch together,
field by field, at about 1 µs a trade. Every byte is checked against schemas/trade.avsc; whatever is not exactly that
gives None, and the caller decodes the values one by one.

A Trade's Avro body, with Z a zigzag varint (https://avro.apache.org/docs/1.12.0/specification/#binary-encoding):

    venue Z+bytes · symbol Z+bytes · event_time Z · received_time Z · trade_id Z+bytes · sequence 02 Z (00: null) ·
    price Z+big-endian · quantity Z+big-endian · side 00 BUY 02 SELL · after_gap 00 01 · connection_time Z ·
    connection_sequence Z
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import methodcaller
from typing import overload

import numpy as np
import numpy.typing as npt

from ravencore.codec import Codec
from ravencore.pages import LONGEST_NUMBER, LOW_BYTES, STOP_BITS, Page, Words, varint_bits, varint_numbers
from ravencore.records import Trade

Places = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

FEWEST = 64
"""Below this many values one by one is quicker."""
_LONGEST_ID = 63


class Ids(Sequence[str]):
    """The trade ids of a batch, made into text only where they are looked at."""

    def __init__(self, joined: bytes, starts: list[int], ends: list[int]) -> None:
        self._joined, self._starts, self._ends = joined, starts, ends

    def __len__(self) -> int:
        return len(self._starts)

    @overload
    def __getitem__(self, row: int) -> str: ...

    @overload
    def __getitem__(self, row: slice) -> "Ids": ...

    def __getitem__(self, row: int | slice) -> "str | Ids":
        if isinstance(row, slice):
            return Ids(self._joined, self._starts[row], self._ends[row])
        return self._joined[self._starts[row] : self._ends[row]].decode()


@dataclass(frozen=True, slots=True)
class TradeColumns:
    """Trades of one instrument in log order, a column a field; prices and quantities are unscaled integers."""

    event_time: Sequence[int]
    received_time: Sequence[int]
    trade_id: Sequence[str]
    sequence: Sequence[int | None]
    price: Sequence[int]
    quantity: Sequence[int]
    buy: Sequence[bool]
    after_gap: Sequence[bool]


def of_trades(trades: Sequence[Trade]) -> TradeColumns:
    """The same columns of trades that were decoded one by one."""
    return TradeColumns(
        event_time=[trade.event_time for trade in trades],
        received_time=[trade.received_time for trade in trades],
        trade_id=[trade.trade_id for trade in trades],
        sequence=[trade.sequence for trade in trades],
        price=[trade.price for trade in trades],
        quantity=[trade.quantity for trade in trades],
        buy=[trade.side == "BUY" for trade in trades],
        after_gap=[trade.after_gap for trade in trades],
    )


def decode_columns(codec: Codec, venue: str, symbol: str, values: Sequence[bytes]) -> TradeColumns | None:
    """Columns of a batch of Kafka values, or None when they have to be decoded one by one.

    None where the values are few, where one is not an intact Trade of this code's own schema and of this venue and
    symbol, and where a sequence is null or a number negative: all of that is for the careful path.
    """
    prefix = codec.header(Trade) + _text(venue) + _text(symbol)
    if len(values) < FEWEST or not all(map(methodcaller("startswith", prefix), values)):
        return None
    try:
        return Walk(values, len(prefix)).columns()
    except NotPlain:
        return None


class NotPlain(Exception):
    """Raised where the values are not all plain, intact trades."""


def _text(text: str) -> bytes:
    raw = text.encode()
    if len(raw) > _LONGEST_ID:
        return b"\xff"
    return bytes([len(raw) << 1]) + raw


class Walk(Page):
    """One place per value, all moved on together, field by field."""

    def __init__(self, values: Sequence[bytes], prefix_bytes: int) -> None:
        super().__init__(values)
        self._at: Places = self.starts + prefix_bytes

    def columns(self) -> TradeColumns:
        """The columns of trades whose venue and symbol have been passed."""
        event_time, received_time = self._varints(), self._varints()
        starts, ends = self._pass_text(_LONGEST_ID), self._at
        ids = Ids(self.joined, starts.tolist(), ends.tolist())
        self._expect(2)
        sequence = self._varints()
        price, quantity = self._decimals(), self._decimals()
        buy, after_gap = self._choice(0, 2).tolist(), self._choice(1, 0).tolist()
        self._pass_varints()
        self._pass_varints()
        self.ended()
        return TradeColumns(event_time, received_time, ids, sequence, price, quantity, buy, after_gap)

    def ended(self) -> None:
        """Raise NotPlain where a value is not at its end."""
        if (self._at != self.ends).any():
            raise NotPlain

    def _varints(self) -> list[int]:
        signed: list[int] = varint_numbers(*self._pass_varints()).tolist()
        return signed

    def _pass_varints(self) -> tuple[Words, Words]:
        """Varints of up to 8 bytes, 56 bits: times in microseconds until the year 3111; words and the bits of them."""
        self._inside()
        words = self.little[self._at]
        bits = varint_bits(words)
        if bits is None:
            raise NotPlain
        self._at = self._at + (np.bitwise_count(bits) >> 3)
        return words, bits

    def _pass_text(self, longest: int) -> Places:
        """Texts of up to that many bytes, all of them ASCII; where they start."""
        starts = self._pass_bytes(longest)
        self._within_ends()
        lengths = self._at - starts
        for skipped in range(0, int(lengths.max(initial=0)), 8):
            chunk = self.little[starts + skipped] & LOW_BYTES[np.clip(lengths - skipped, 0, 8)]
            if (chunk & STOP_BITS).any():
                raise NotPlain
        return starts

    def _pass_bytes(self, longest: int) -> Places:
        """Bytes after their length; where they start."""
        self._inside()
        lengths = self._lengths(longest)
        starts = self._at + 1
        self._at = starts + lengths
        return starts

    def _decimals(self) -> list[int]:
        """Decimals that are not negative, of 1 to 16 bytes."""
        first = self._pass_bytes(LONGEST_NUMBER)
        lengths = self._at - first
        if not lengths.all() or (self.bytes[first] & 0x80).any():
            raise NotPlain
        low, high = self.big_endian(self._at, lengths)
        if not high.any():
            units: list[int] = low.tolist()
            return units
        return [upper << 64 | lower for upper, lower in zip(high.tolist(), low.tolist(), strict=True)]

    def _lengths(self, longest: int) -> Places:
        doubled = self.bytes.take(self._at)
        if (doubled & 1).any() or doubled.max(initial=0) > 2 * longest:
            raise NotPlain
        return (doubled >> 1).astype(np.int64)

    def _expect(self, byte: int) -> None:
        self._inside()
        if (self.bytes.take(self._at) != byte).any():
            raise NotPlain
        self._at = self._at + 1

    def _choice(self, true: int, false: int) -> Bools:
        self._inside()
        found = self.bytes.take(self._at)
        chosen: Bools = found == true
        if (~chosen & (found != false)).any():
            raise NotPlain
        self._at = self._at + 1
        return chosen

    def _inside(self) -> None:
        if (self._at >= self.ends).any():
            raise NotPlain

    def _within_ends(self) -> None:
        if (self._at > self.ends).any():
            raise NotPlain
