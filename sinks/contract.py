"""What a store is: it takes batches of records and says which of them it could not keep.

    StoreUnavailable      the store is away: nothing of the batch counts as written; the drain pauses and tries again
    Refused               raised by a store's own attempt to write some rows, for `keep_good`

A store's docstring states its delivery guarantee and the key that makes a second write change nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from ravencore.errors import RavenError, Unavailable
from ravencore.records import Record

UNREADABLE = "unreadable_record"
REFUSED = "refused_by_store"
CONFLICTING_ROW = "conflicting_row"
UNKNOWN_INSTRUMENT = "unknown_instrument"
NOT_SETTLED = "not_settled"
"""Of what was to be restored and still may be written, or refused, by whoever reads its partition: no dead letter."""

T = TypeVar("T")


class StoreUnavailable(Unavailable):
    """Raised when a store cannot be written to now; `retry_after` is the seconds it asked for, if it did."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Refused(RavenError):
    """Raised when a store answers that something in these rows (`every_row`: each of them) can never be written."""

    def __init__(self, message: str, *, every_row: bool = False) -> None:
        super().__init__(message)
        self.every_row = every_row


class Read(NamedTuple):
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes


class Bad(NamedTuple):
    """A record that becomes a dead letter (`reason` and `detail` as in a DeadLetter)."""

    read: Read
    reason: str
    detail: str


class Outcome(NamedTuple):
    """What became of a batch: every record in neither list is written for good.

    `refused` never will be; `waiting` may be once another record has come, and is offered again for `wait_s`.
    """

    refused: list[Bad]
    waiting: list[Bad]


class Batching(NamedTuple):
    """How much the drain gathers before it writes: so many records or bytes, or what came in so many seconds.

    `tail`: where more than so many have piled up in a partition, only these are read; None where each counts.
    """

    records: int = 5_000
    seconds: float = 0.2
    bytes: int = 1 << 26
    tail: int | None = None


class Store(Protocol):
    """A place that keeps records; written to from one thread at a time."""

    @property
    def name(self) -> str:
        """Name on the command line and in the consumer group."""

    @property
    def needed(self) -> bool:
        """Whether something is missing without it; a cache may be."""

    @property
    def topics(self) -> Mapping[str, type[Record]]:
        """The topics it keeps, each with the one type of record that belongs there."""

    @property
    def wait_s(self) -> float:
        """How long a record may be `waiting` before it is a dead letter."""

    @property
    def batching(self) -> Batching:
        """What it likes its batches to be."""

    def resume(self, topic: str, partition: int) -> int | None:
        """Take a partition over: the offset to go on at, where the store itself knows it, else None.

        None leaves it to what the group has committed. Asked whenever a partition is assigned, before its first
        record is read. Raises StoreUnavailable.
        """

    def release(self, topic: str, partition: int) -> None:
        """Let a partition go: somebody else may write it from now on."""

    def setup(self) -> None:
        """Connect and create what is missing; safe to repeat. Raises StoreUnavailable, ConfigError."""

    def facts(self) -> list[str]:
        """What `setup` found, for whoever starts it: a line each, as which version of what it is."""

    def write(self, batch: Sequence[Read]) -> Outcome:
        """Keep the batch durably, in a few calls however long it is. Raises Unavailable."""

    def leave_out(self, upto: Mapping[tuple[str, int], int]) -> None:
        """All before these offsets of partitions is done: what of it was not offered is not wanted here.

        For stores that know where to go on themselves. Raises Unavailable.
        """

    def restore(self, batch: Sequence[Read]) -> Outcome:
        """Keep records that were dead letters, while another process may be writing their partitions.

        Raises Unavailable.
        """

    def close(self) -> None:
        """Let go of connections."""


class GroupPosition:
    """For stores in which a second write changes nothing: what the group has committed is where they go on."""

    def resume(self, topic: str, partition: int) -> int | None:
        """Leave it to the group."""
        return None

    def release(self, topic: str, partition: int) -> None:
        """Nothing is held."""

    def leave_out(self, upto: Mapping[tuple[str, int], int]) -> None:
        """The group's commit says it."""

    def restore(self: Store, batch: Sequence[Read]) -> Outcome:
        """Write them like any others."""
        return self.write(batch)


def keep_good(rows: Sequence[T], attempt: Callable[[Sequence[T]], object]) -> list[tuple[T, str]]:
    """Write rows, halving what is Refused until the bad ones stand alone: these, each with the store's answer.

    `attempt` must change nothing by being repeated. One bad row among n costs about 2 log2(n) attempts.
    """
    if not rows:
        return []
    try:
        attempt(rows)
    except Refused as error:
        if error.every_row or len(rows) == 1:
            return [(row, str(error)) for row in rows]
        middle = len(rows) // 2
        return keep_good(rows[:middle], attempt) + keep_good(rows[middle:], attempt)
    return []
