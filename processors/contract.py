"""What a fold is: trades of one instrument in, records out, its whole state in a snapshot."""

from bisect import bisect_left
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import mul, sub
from typing import Any, NamedTuple, Protocol, TypeVar

from ravencore.columns import TradeColumns
from ravencore.records import Bar, Vpin

Row = dict[str, Any]
"""A trade as `Codec.decode_trades` gives it: raw fields, price and quantity as big-endian decimal bytes."""


class Clock(NamedTuple):
    """Venue time has reached `time_us` in a quiet market: windows that end before or at it close."""

    time_us: int


class Tape:
    """A run of accepted trades of one instrument in the order of the log, as columns of equal length.

    Duplicates and late repairs of holes are not in it. `price` and `quantity` are unscaled decimal(38,18) integers,
    `event_time` is microseconds; `gaps` are the rows that follow a hole, ascending. The others are running totals from
    0, one longer than the columns, so that whoever asks, the volume of rows a to b (exclusive) is
    `volumes[b] - volumes[a]`: `notionals` at scale 36, `signs` of +1 per buying and -1 per selling aggressor, `signed_`
    likewise, `squared_` of the squares of each trade's amount at twice its scale.
    """

    def __init__(self, trades: TradeColumns, gaps: Sequence[int] = ()) -> None:
        self.event_time, self.trade_id, self.sequence = trades.event_time, trades.trade_id, trades.sequence
        self.price, self.buy, self.gaps = trades.price, trades.buy, gaps
        quantity, buy = trades.quantity, trades.buy
        notional = list(map(mul, trades.price, quantity))
        self.volumes: list[int] = list(accumulate(quantity, initial=0))
        self.notionals: list[int] = list(accumulate(notional, initial=0))
        self.buy_volumes: list[int] = list(accumulate(_bought(quantity, buy), initial=0))
        self.buy_counts: list[int] = list(accumulate(buy, initial=0))
        self.quantity, self._notional = quantity, notional

    # Made where a fold asks for them.

    @cached_property
    def in_order(self) -> bool:
        """Whether event times never step back."""
        return sorted(self.event_time) == list(self.event_time)

    @cached_property
    def buy_notionals(self) -> list[int]:
        """What aggressors bought, in quote currency."""
        return list(accumulate(_bought(self._notional, self.buy), initial=0))

    @cached_property
    def signs(self) -> list[int]:
        """Trades whose aggressor bought less those whose aggressor sold."""
        return list(accumulate([1 if bought else -1 for bought in self.buy], initial=0))

    @cached_property
    def counts(self) -> Sequence[int]:
        """Trades, as running totals."""
        return range(len(self) + 1)

    @cached_property
    def sell_counts(self) -> list[int]:
        """Trades whose aggressor sold."""
        return list(map(sub, self.counts, self.buy_counts))

    @cached_property
    def sell_volumes(self) -> list[int]:
        """What aggressors sold."""
        return list(map(sub, self.volumes, self.buy_volumes))

    @cached_property
    def sell_notionals(self) -> list[int]:
        """What aggressors sold, in quote currency."""
        return list(map(sub, self.notionals, self.buy_notionals))

    @cached_property
    def signed_volumes(self) -> list[int]:
        """What aggressors bought less what they sold."""
        return list(map(sub, self.buy_volumes, self.sell_volumes))

    @cached_property
    def signed_notionals(self) -> list[int]:
        """What aggressors bought less what they sold, in quote currency."""
        return list(map(sub, self.buy_notionals, self.sell_notionals))

    @cached_property
    def squared_volumes(self) -> list[int]:
        """Squares of quantities, at scale 36."""
        return list(accumulate(map(mul, self.quantity, self.quantity), initial=0))

    @cached_property
    def squared_notionals(self) -> list[int]:
        """Squares of notionals, at scale 72."""
        return list(accumulate(map(mul, self._notional, self._notional), initial=0))

    def __len__(self) -> int:
        return len(self.event_time)

    def after_hole(self, row: int) -> "Tape":
        """The same rows, of which this one follows a hole, too."""
        told = copy(self)
        told.gaps = sorted({row, *self.gaps})
        return told

    def has_gap(self, start: int, stop: int) -> bool:
        """Whether one of the rows from `start` to `stop` (exclusive) follows a hole."""
        return bool(self.gaps) and self.next_gap(start) < stop

    def next_gap(self, start: int) -> int:
        """The first row at or after `start` that follows a hole; the tape's length where there is none."""
        if not self.gaps:
            return len(self.event_time)
        found = bisect_left(self.gaps, start)
        return self.gaps[found] if found < len(self.gaps) else len(self.event_time)


def _bought(amounts: Sequence[int], buy: Sequence[bool]) -> list[int]:
    return [amount if bought else 0 for amount, bought in zip(amounts, buy, strict=True)]


class Stream(NamedTuple):
    """Whose records a fold makes: with `bar_seq` their identity."""

    venue: str
    symbol: str
    kind: str
    profile: str


class Closed(NamedTuple):
    """A record and the row of the tape whose trade closed it."""

    row: int
    record: Bar | Vpin


class Refusal(NamedTuple):
    """The row of a trade that a fold cannot take, and why: a short name, and a sentence for a person."""

    row: int
    reason: str
    detail: str


class Folded(NamedTuple):
    """What a fold made of a tape: records in order, and the rows it did not take."""

    closed: list[Closed]
    late: Sequence[int] = ()
    """Rows that came too late."""
    refused: Sequence[Refusal] = ()
    """Rows that this fold alone leaves out: to it they are a hole."""


class Fold(Protocol):
    """One stream of derived records of one instrument.

    A fold is a pure state machine: the same tape gives the same records however it is cut into calls. Subclass it and
    override what the fold needs.
    """

    def trades(self, tape: Tape) -> Folded:
        """Fold these trades."""

    def snapshot(self) -> Any:
        """All of the fold's state as MessagePack-able values, doubles as exact bits; a copy."""

    def restore(self, snapshot: Any) -> None:
        """Take over the state that `snapshot` gave; the fold's parameters are the same."""

    def repair(self, tape: Tape) -> bool:
        """Offer a late repair of a hole, a tape of one row; True when it was taken (only an open time window does)."""
        return False

    def clock(self, time_us: int) -> Sequence[Bar | Vpin]:
        """Records closed by venue time having reached this."""
        return ()


class Output(NamedTuple):
    """A record to publish and its place in the partition's order: by offset, then by the registry's order."""

    offset: int
    order: int
    topic: str
    record: Any
    """A Bar, Vpin, SpotMid or IvSurface."""
    received_time: int
    """When what closed it was received (microseconds), for latency; 0 where a Clock closed it."""


class Refused(NamedTuple):
    """A record that one fold or all leave out, and why: becomes a DeadLetter."""

    offset: int
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch did to one instrument."""

    outputs: list[Output]
    refused: list[Refused]
    counts: dict[str, int]
    """Counters to add: trades (accepted in order), duplicates, late_trades, late_repairs, holes."""


E_contra = TypeVar("E_contra", contravariant=True)


class Joined(NamedTuple):
    """What a batch did to the joined keys of a partition."""

    outputs: list[Output]
    """By offset; `order` counts those of one event."""
    refused: list[Refused]
    counts: dict[str, int]
    """Counters to add."""
    touched: dict[str, int]
    """Keys whose snapshot changed, with the offset of the event that changed it last."""


class Join(Protocol[E_contra]):
    """Records under many keys of one partition in, samples at fixed instants out: a pure state machine.

    An instant is sampled, for all keys, by the first event of the partition that reaches it, whatever its key. The same
    log gives the same outputs however it is cut into calls, and so does a new machine that was given the newest
    snapshot of every key that was ever touched.
    """

    def apply(self, events: Sequence[tuple[str, E_contra | Clock]], offsets: Sequence[int]) -> Joined:
        """Apply events by Kafka key, in the order of the log."""

    def snapshot(self, key: str) -> bytes:
        """The whole state of a key."""

    def restore(self, key: str, payload: bytes, layout: int) -> None:
        """Take over a key's snapshot of this layout; raises StateMismatch where it cannot be read."""


class Member(Protocol[E_contra]):
    """What a Join knows of one key."""

    @property
    def until_us(self) -> int:
        """The last instant that it has something to say of if no more events come."""

    def take(self, event: E_contra) -> str:
        """Take a sound event, or pass it over; gives the counter it belongs to."""

    def sample(self, time_us: int) -> Sequence[Any]:
        """Records of an instant that is later than all that was taken; they follow from the state and the instant."""

    def snapshot(self) -> Any:
        """The state as msgspec encodes it; equal states give equal bytes."""

    def restore(self, snapshot: Any) -> None:
        """Take over the state that `snapshot` gave, decoded."""


class StateMismatch(Exception):
    """Raised when a snapshot was written with other parameters, another layout or another partition count."""
