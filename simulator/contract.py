"""What a dialect (a venue's protocol) and a market (what happens there) must offer, and the values they exchange.

Nothing here does I/O or reads a clock: times are arguments. Times of frames are nanoseconds since 1970, session times
are seconds of any monotonic clock. Prices and quantities of neutral events are integers in units of 10^-8.
"""

from collections.abc import Iterator, Mapping, Sequence
from random import Random
from typing import Protocol

import msgspec

Levels = Sequence[tuple[str, str]]


class SimulatorError(Exception):
    """What the person who started the simulator can put right: a bad option, file or fault."""


class Unreadable(ValueError):
    """A recorded frame that this dialect cannot place."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message of the venue, ready to be sent.

    `payload` is what a raw stream carries, `combined` the same in the venue's envelope. `kind` is "trade", "depth" (a
    difference), "depth20", "other" or "garbage"; `trade_id` is set on trades only. A `binary` frame is not text.
    """

    time_ns: int
    kind: str
    symbol: str
    stream: str
    payload: bytes
    combined: bytes
    trade_id: int | None = None
    binary: bool = False


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A match in a synthetic market; price and quantity in 10^-8."""

    time_ns: int
    symbol: str
    trade_id: int
    price_e8: int
    quantity_e8: int
    buyer_is_maker: bool


class DepthDiff(msgspec.Struct, frozen=True, gc=False):
    """Levels that changed, with their new quantities as text (zero = gone), and the update ids it covers."""

    time_ns: int
    symbol: str
    first_id: int
    last_id: int
    bids: Levels
    asks: Levels


class Snapshot(msgspec.Struct, frozen=True):
    """A whole book as of `last_id`, best levels first."""

    last_id: int
    bids: Levels
    asks: Levels


class Instrument(msgspec.Struct, frozen=True):
    """What exchangeInfo says of a symbol; tick and lot in 10^-8."""

    symbol: str
    base: str
    quote: str
    tick_e8: int
    lot_e8: int


def text_of(value_e8: int) -> str:
    """An amount with all its eight decimals: `123.40000000`."""
    return f"{value_e8 // 100_000_000}.{value_e8 % 100_000_000:08d}"


class Disconnect(Exception):
    """The venue ends this connection with a close code, as it would for a client that broke a rule."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Session(Protocol):
    """The venue's side of one WebSocket connection, without the socket."""

    streams: set[str]

    def receive(self, text: str | bytes, now: float) -> bytes:
        """Answer one request. Raises Disconnect when the client breaks a limit."""

    def ping(self, now: float) -> None:
        """Note a ping of the client. Raises Disconnect when it breaks the limit."""

    def pong(self, payload: bytes, now: float) -> None:
        """Note a pong of the client. Raises Disconnect when it breaks the limit."""

    def tick(self, now: float) -> bytes | None:
        """The payload of a ping that is due now, if any. Raises Disconnect when pongs are overdue."""

    def encode(self, frame: Frame) -> bytes:
        """The frame as this connection wants it (raw or combined, its time unit)."""


class View(Protocol):
    """What REST may ask about: the market as of the last frame issued."""

    instruments: Mapping[str, Instrument]

    def now_ms(self) -> int:
        """The venue's clock."""

    def book(self, symbol: str, limit: int) -> Snapshot | None:
        """The book, or None where there is none to show."""

    def trades(self, symbol: str) -> Sequence[Frame]:
        """The newest trade frames issued, oldest first (bounded)."""


class Dialect(Protocol):
    """One venue's protocol, pure."""

    venue: str

    def environment(self, host_and_port: str) -> dict[str, str]:
        """Settings that point a collector at this simulator."""

    def read(self, time_ns: int, raw: bytes) -> Frame | None:
        """A recorded message; None for a reply to a request. Raises Unreadable."""

    def read_depth(self, frame: Frame) -> DepthDiff:
        """The contents of a frame of kind "depth". Raises Unreadable."""

    def read_snapshot(self, body: bytes) -> Snapshot:
        """A REST depth response, or the payload of a depth20 frame. Raises Unreadable."""

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        """Some price texts and quantity texts of a frame, to infer tick and lot from. Raises Unreadable."""

    def trade(self, trade: Trade) -> Frame: ...

    def depth(self, diff: DepthDiff) -> Frame: ...

    def depth20(self, time_ns: int, symbol: str, book: Snapshot) -> Frame: ...

    def trade_stream(self, symbol: str) -> str:
        """The stream a client must subscribe to before a symbol's playback starts."""

    def depth20_stream(self, symbol: str) -> str: ...

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        """An unreadable frame that resembles this one; no reader may take it for a message or a reply."""

    def connect(self, path: str, query: Mapping[str, str], now: float) -> Session:
        """A new connection to this path. Raises LookupError where the venue has no such path."""

    def answer(self, path: str, query: Mapping[str, str], view: View) -> tuple[int, bytes]:
        """HTTP status and JSON body of a REST request."""


class Market(Protocol):
    """What happens at the venue, in order of time."""

    source: str
    begins_ns: int
    instruments: Mapping[str, Instrument]
    snapshots: Mapping[str, Sequence[Snapshot]]
    has_depth20: frozenset[str]
    notes: Sequence[str]
    expected_trades: int

    def frames(self, start_ns: int | None) -> Iterator[Frame]:
        """All frames; a market without times of its own starts at `start_ns`, or at its fixed epoch when None."""
