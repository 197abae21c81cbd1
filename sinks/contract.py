"""What a store is: it takes batches of records and says which of them it could not keep.

    StoreUnavailable      the store is away: nothing of the batch counts as written; the drain pauses and tries again
    Refused               raised by a store's own attempt to write some rows, for `keep_good`

A store's docstring states its delivery guarantee and the key that makes a second write change nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

from ravencore.errors import RavenError, Unavailable
from ravencore.records import Record

REFUSED = "refused_by_store"
CONFLICTING_ROW = "conflicting_row"
UNKNOWN_INSTRUMENT = "unknown_instrument"

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


class Entry(NamedTuple):
    """A record and where in Kafka it stands."""

    topic: str
    partition: int
    offset: int
    record: Record


class Rejection(NamedTuple):
    """An entry that was not written, and why (`reason` and `detail` as in a DeadLetter)."""

    entry: Entry
    reason: str
    detail: str


class Outcome(NamedTuple):
    """What became of a batch: every entry in neither list is written for good.

    `refused` never will be; `waiting` may be once another record has come, and is offered again for `wait_s`.
    """

    refused: list[Rejection]
    waiting: list[Rejection]


class Store(Protocol):
    """A place that keeps records; written to from one thread at a time."""

    @property
    def name(self) -> str:
        """Name on the command line and in the consumer group."""

    @property
    def topics(self) -> Mapping[str, type[Record]]:
        """The topics it keeps, each with the one type of record that belongs there."""

    @property
    def wait_s(self) -> float:
        """How long an entry may be `waiting` before it is a dead letter."""

    def setup(self) -> None:
        """Connect and create what is missing; safe to repeat. Raises StoreUnavailable, ConfigError."""

    def write(self, batch: Sequence[Entry]) -> Outcome:
        """Keep the batch durably, in a few calls however long it is. Raises StoreUnavailable."""

    def close(self) -> None:
        """Let go of connections."""


def keep_good(rows: Sequence[T], attempt: Callable[[Sequence[T]], None]) -> list[tuple[T, str]]:
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
