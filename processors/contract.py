"""What a fold is: trades of one instrument in, records out, its whole state in a snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from ravencore.records import Bar, Vpin

Row = dict[str, Any]
"""A trade as `Codec.decode_trades` gives it: raw fields, price and quantity as big-endian decimal bytes."""


class Clock(NamedTuple):
    """Venue time has reached `time_us` in a quiet market: windows that end before or at it may close."""

    time_us: int


@dataclass(frozen=True, slots=True)
class Tape:
    """A run of accepted trades of one instrument in the order of the log, as columns of equal length.

    Duplicates and late repairs of holes are not in it. `price` and `quantity` are unscaled decimal(38,18) integers,
    `notional` their exact product at scale 36, `event_time` is microseconds, `gap` marks the first trade after a hole.
    """

    event_time: Sequence[int]
    trade_id: Sequence[str]
    price: Sequence[int]
    quantity: Sequence[int]
    notional: Sequence[int]
    buy: Sequence[bool]
    gap: Sequence[bool]


class Closed(NamedTuple):
    """A record and the row of the tape whose trade closed it."""

    row: int
    record: Bar | Vpin


class Fold(Protocol):
    """One stream of derived records of one instrument.

    A fold is a pure state machine: the same tape gives the same records however it is cut into calls.
    """

    def trades(self, tape: Tape) -> list[Closed]:
        """Records closed by these trades, in order."""

    def late(self, event_time_us: int, price: int, quantity: int, notional: int, buy: bool) -> bool:
        """Offer a late repair of a hole; True when it was taken (only a time window that is still open takes it)."""

    def clock(self, time_us: int) -> list[Bar | Vpin]:
        """Records closed by venue time having reached this."""

    def snapshot(self) -> Any:
        """All of the fold's state as MessagePack-able values, doubles as exact bits; a copy."""

    def restore(self, snapshot: Any) -> None:
        """Take over the state that `snapshot` gave; the fold's parameters are the same."""


class Output(NamedTuple):
    """A record to publish and its place in the partition's order: by offset, then by the registry's order."""

    offset: int
    order: int
    topic: str
    record: Bar | Vpin
    received_time: int
    """When the closing trade was received (microseconds), for latency; 0 where a Clock closed it."""


class Refused(NamedTuple):
    """A trade that no fold may see, and why: becomes a DeadLetter."""

    offset: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch did to one instrument."""

    outputs: list[Output]
    refused: list[Refused]
    counts: dict[str, int]
    """Counters to add: trades, duplicates, late_trades, late_repairs, holes."""


class StateMismatch(Exception):
    """Raised when a snapshot was written with other parameters, another layout or another partition count."""
