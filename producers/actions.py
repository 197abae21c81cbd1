"""What a session wants done by the shell, and the user's choices that it follows."""

from typing import NamedTuple

from producers.contract import Feed, Span
from producers.tape import Break, CountedTape, Output


class Habits(NamedTuple):
    """The user's choices: how long holes are waited for, and the pace of books and Clocks.

    `clock_interval_us` is the shortest window that bars are made of; None writes no Clocks.
    """

    reorder_seconds: float = 0.5
    repair_seconds: float = 0.0
    book_interval_us: int = 0
    clock_interval_us: int | None = None


class BadBytes(NamedTuple):
    """A frame for the dead letters."""

    payload: bytes
    reason: str
    detail: str
    connection: str


class Clock(NamedTuple):
    """Venue time has reached `time_us` for this symbol, and all its trades before that are published."""

    symbol: str
    time_us: int


class Send(NamedTuple):
    """A message for the venue."""

    text: str


class Close(NamedTuple):
    """Close this connection; `why` is None where nothing is wanted of it any more."""

    why: Break | None


class Renew(NamedTuple):
    """The venue will close this connection: replace it."""

    reason: str


class Move(NamedTuple):
    """This feed is off, and is to be had over another connection."""

    feed: Feed


class FetchTrades(NamedTuple):
    """Get this span over REST, and then call `told` or `not_told`; `tape` None: of all symbols of the feed."""

    feed: Feed
    symbol: str
    span: Span
    tape: CountedTape | None


class FetchBook(NamedTuple):
    """Get the whole book over REST, and then call `book_told` or `book_not_told`."""

    feed: Feed


Order = Send | Close | Renew | Move | FetchTrades | FetchBook
Action = Output | BadBytes | Clock | Order
