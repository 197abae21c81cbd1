"""What a venue is: pure functions between its wire and Raven's records. One file per venue under venues/."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ravencore.errors import Unreadable
from ravencore.records import Book, Instrument, Trade

TRADES = "trades"
BOOKS = "books"


class Feed(NamedTuple):
    """One channel of one symbol, for example `Feed("trades", "BTCUSDT")`."""

    channel: str
    symbol: str


class Reply(NamedTuple):
    """The venue's answer to a request of ours.

    `request` is the number the request carried, None where the venue does not say which one it answers;
    `error` is its sentence when it refused.
    """

    request: int | None
    error: str | None


class Farewell(NamedTuple):
    """The venue says that it will close this connection soon; `reason` is its word for it."""

    reason: str


Event = Trade | Book | Reply | Farewell


class BadFrame(Unreadable):
    """Raised when a frame or body is not what the venue's documents promise, or holds a value Raven cannot hold.

    `reason` is the dead letter's: `unreadable_frame` or `bad_value`.
    """

    def __init__(self, detail: str, reason: str = "unreadable_frame") -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Limits:
    """What a venue allows and how its silence is to be understood."""

    feeds_per_connection: int
    feeds_per_message: int
    message_gap_seconds: float
    """Least time between two requests of ours, which leaves room for the pings and pongs that count as well."""
    reply_seconds: float
    """A request unanswered for this long means that the connection is broken."""
    ping_seconds: float
    """How often to ping; a pong that takes as long again means that the connection is dead."""
    silence_seconds: float
    """A connection with subscriptions that has brought nothing for this long is dead."""


class Venue(Protocol):
    """A venue's protocol; every method is a pure function of its arguments.

    A venue of this contract numbers the trades of a symbol 1, 2, 3, ...: `Trade.sequence` is never null.
    """

    name: str
    channels: tuple[str, ...]
    """What is subscribed for each symbol."""
    limits: Limits

    def socket_url(self, base: str) -> str:
        """Where to connect, of the configured `ws_url`."""

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """The message that starts these feeds."""

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """The message that ends these feeds."""

    def parse(self, frame: bytes, received_us: int) -> Sequence[Event]:
        """What a frame says, in its order; raises BadFrame, whatever the bytes."""

    def instrument_url(self, base: str, symbol: str) -> str:
        """Where the venue describes a symbol, of the configured `rest_url`."""

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """The symbols that such a body describes; raises BadFrame, whatever the bytes."""

    def refusal(self, status: int, body: bytes) -> str | None:
        """Why the venue will never describe this symbol; None where the same request may succeed later."""
