"""What a dialect (a venue's protocol) and a part of a synthetic market must offer, and the values they exchange.

Nothing here does I/O or reads a clock: times are arguments. Times of frames and events are nanoseconds since 1970,
`now` is seconds of any monotonic clock. A Dialect serves one run of one venue: it may keep state, for example who has
used how much of a request budget. simulator/events.py says what happens in a synthetic market.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from random import Random
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from simulator.events import DepthDiff, Event, Levels, Option

TRADES = "trades"
BOOKS = "books"
QUOTES = "quotes"
KLINES = "klines"
FUNDING = "funding"
LIQUIDATIONS = "liquidations"
OPEN_INTEREST = "open_interest"
OPTION_TICKERS = "option_tickers"
INDEX_PRICES = "index_prices"
VOLATILITY_INDEX = "volatility_index"
"""Channels, by the names Raven's collectors give them."""

Identity = tuple[str, str, int | None]
"""A record that a perfect collector makes of a frame: channel, symbol (upper case) and id.

Trades have the venue's counting id; books and Binance's quotes the update id; closed klines their open time, all others
their event time, in microseconds. None: nothing tells it apart from others of its symbol, they are only counted.
"""


class SimulatorError(Exception):
    """What the person who started the simulator can put right: a bad option, file or fault."""


class Unreadable(ValueError):
    """A recorded frame that this dialect cannot place."""


class Frame(msgspec.Struct, frozen=True, gc=False):
    """One message of the venue, sent to every session whose `streams` hold its `stream`.

    `payload` is the message, `combined` the same in an envelope where the venue has two forms. A stream that nobody can
    subscribe to (name it `rest:...`) is how REST learns what happened: see View.newest.
    `kind`: "trade" (all its marks are trades), "depth" (a book's differences, or the whole of it, on a stream whose
    reader notices when one is missing), "depth20" (Books), "garbage", or "other". A `numbered` frame gets a number of
    its own on each connection (NumbersFrames): a reader notices whichever is missing. A `binary` frame is not text.
    simulator/faults.py says what may be done to which. `diff` is what a made frame of kind "depth" says, and where its
    stream is a `rest:` one it is not sent itself: the frames made of it are (Books.make), with its kind.
    """

    time_ns: int
    stream: str
    payload: bytes
    combined: bytes = b""
    marks: Sequence[Identity] = ()
    kind: str = "other"
    symbol: str = ""
    binary: bool = False
    numbered: bool = False
    diff: DepthDiff | None = None


class Snapshot(msgspec.Struct, frozen=True):
    """A whole book as of `last_id`, best levels first; `time_ns` is when it last changed, 0 where that is not known."""

    last_id: int
    bids: Levels
    asks: Levels
    time_ns: int = 0


class Instrument(msgspec.Struct, frozen=True):
    """What is listed, in the venue's own spelling; tick and lot in 10^-8. `kind` is "spot" or "perpetual"."""

    symbol: str
    base: str
    quote: str
    tick_e8: int
    lot_e8: int
    kind: str = "spot"


Listed = Instrument | Option


class Body(msgspec.Struct, frozen=True):
    """A recorded REST answer."""

    time_ns: int
    url: str
    body: bytes


class Disconnect(Exception):
    """The venue ends this connection with a close code, as it would for a client that broke a rule."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Ping(NamedTuple):
    """A WebSocket ping frame."""

    payload: bytes


Message = bytes | Ping | Frame
"""What a session sends of its own: text as it is, a ping, or a frame (it is encoded, its marks count as delivered)."""


class Session(Protocol):
    """The venue's side of one WebSocket connection, without the socket."""

    streams: set[str]
    """The streams whose frames it gets now. Not those that were acknowledged and stay silent."""

    def greet(self, now: float) -> Sequence[Message]:
        """What the venue says first."""

    def receive(self, text: str | bytes, now: float) -> Sequence[Message]:
        """Answer one message. Raises Disconnect when the client breaks a limit."""

    def ping(self, now: float) -> None:
        """Note a ping of the client. Raises Disconnect when it breaks the limit."""

    def pong(self, payload: bytes, now: float) -> None:
        """Note a pong of the client. Raises Disconnect when it breaks the limit."""

    def tick(self, now: float) -> Sequence[Message]:
        """What is due now (heartbeats, pings), asked a few times a second. Raises Disconnect when an answer is overdue
        or the connection's time is up."""

    def encode(self, frame: Frame) -> bytes:
        """The frame as this connection wants it; called once for every frame sent, in their order."""


@runtime_checkable
class SaysFarewell(Protocol):
    """A session whose venue announces that it will close the connection."""

    def farewell(self) -> Sequence[Message]:
        """The announcement, as this connection wants it; () where this connection has none."""


@runtime_checkable
class NumbersFrames(Protocol):
    """A session that numbers the frames it sends, in `encode`."""

    def skip(self, frame: Frame) -> None:
        """Use up the number of a frame that is lost on its way: `encode` is not called for it, or later than it is its
        turn, and then gives it that number."""


class View(Protocol):
    """What sessions and REST may ask about: the market as of the last frame issued."""

    instruments: Mapping[str, Listed]
    bodies: Sequence[Body]
    """The recorded REST answers of this venue, oldest first."""

    @property
    def time_ns(self) -> int:
        """The venue's clock."""

    def book(self, symbol: str, limit: int) -> Snapshot | None:
        """The book, or None where there is none to show."""

    def trades(self, symbol: str) -> Sequence[Frame]:
        """The newest trade frames issued with a trade of this symbol, oldest first (bounded)."""

    def newest(self, stream: str) -> Frame | None:
        """The frame issued last on a stream."""


class Answer(msgspec.Struct, frozen=True):
    """An HTTP response; `marks` are counted as delivered."""

    status: int
    body: bytes
    marks: Sequence[Identity] = ()
    headers: Mapping[str, str] = {}


class Unavailable(Exception):
    """A WebSocket handshake answered with this instead (429 for too many connections)."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"HTTP {answer.status}")
        self.answer = answer


class Change(msgspec.Struct, frozen=True):
    """A book before and after a frame of kind "depth", cut to the levels that a stream tells."""

    listed: Listed
    frame: Frame
    before: Snapshot
    after: Snapshot


class Books(Protocol):
    """How a venue spells books.

    A frame of kind "depth" says what has changed. Either it is a message of the venue, or its stream is a `rest:` one
    and only what is made of it is sent. Frames are made for streams that somebody listens to, and for no others.
    """

    @property
    def numbered(self) -> bool:
        """Whether update ids tell a book's states apart; if not, the times of its changes in microseconds do."""

    def top_stream(self, symbol: str) -> str:
        """Of the top 20, each frame of it a whole book; "" where the venue has none."""

    def made(self, symbol: str) -> Mapping[str, int]:
        """The streams whose frames are made of frames of kind "depth", and how many levels of a side each tells."""

    def make(self, stream: str, change: Change) -> Frame | None:
        """What such a stream tells of a change; None: nothing.

        It is of kind "depth" where its reader is sure to notice when it is missing or late, of kind "other" where not:
        such a one must not be withheld.
        """

    def read_depth(self, frame: Frame) -> DepthDiff:
        """The contents of a recorded frame of kind "depth". Raises Unreadable."""

    def read_snapshot(self, body: bytes) -> Snapshot:
        """A REST depth response, or the payload of a depth20 frame. Raises Unreadable."""

    def spacing_ns(self, diff: Frame) -> int:
        """Made frames are told once in each such span of time; 0: with every difference, they are far enough apart."""


class Dialect(Protocol):
    """One venue's protocol, pure. Times and ids of the records it promises (`marks`) are those on its wire."""

    @property
    def venue(self) -> str: ...

    @property
    def sources(self) -> Mapping[str, str]:
        """Names of the collectors that read it (BINANCE_FUTURES_KLINES) with what they collect: "symbol", "market" or
        "poll"; "books" is by symbol as well, but playback waits for those only when it is told to."""

    @property
    def words(self) -> Sequence[str]:
        """Words in the path of a recording that point at this venue, used only where no frame does."""

    @property
    def books(self) -> Books | None: ...

    @property
    def socket_path(self) -> str:
        """Path under the venue's prefix of the ws_url that collectors are configured with, "" or "/ws/api/v2"."""

    @property
    def rest_path(self) -> str:
        """The same of the rest_url."""

    def awaited(self, source: str, listed: Mapping[str, Listed]) -> set[str]:
        """The streams that must have a subscriber before playback starts, when this source is to be collected.

        For a source of scope "symbol" or "books" `listed` holds only what is traded.
        """

    def spell(self, base: str, quote: str) -> str | None:
        """The symbol of two currencies' market, a spot one or a perpetual; None: the venue has none."""

    def describe(self, symbol: str, tick_e8: int, lot_e8: int) -> Listed:
        """What a symbol of a recording is, as far as its name tells."""

    def speak(self, events: Iterable[Event]) -> Iterator[Frame]:
        """The frames of a synthetic market's events, in order of time; events it has no words for are passed over.

        A generator, so that what gathers events (batches of 250 ms, one liquidation per second) is local to it.
        """

    def claims(self, raw: bytes) -> bool:
        """Whether a recorded frame, or a recorded REST answer's URL, can only be this venue's."""

    def read(self, lines: Iterable[tuple[int, bytes]]) -> Iterator[Frame]:
        """The market frames of recorded lines (receive time, raw); replies to requests and heartbeats are left out.
        Raises Unreadable as soon as it has taken the line it cannot place."""

    def read_book(self, body: Body) -> tuple[str, Snapshot] | None:
        """Symbol and book of a recorded depth response, None for any other. Raises Unreadable."""

    def read_body(self, body: Body) -> Sequence[Frame]:
        """The frames of streams `rest:...` that a recorded answer of a polled source becomes, () for any other: REST
        then tells them at their time. Raises Unreadable."""

    def texts(self, frame: Frame) -> tuple[Sequence[str], Sequence[str]]:
        """Some price and quantity texts of a recorded frame, to infer tick and lot from. Raises Unreadable."""

    def spoil(self, frame: Frame, rng: Random) -> Frame:
        """An unreadable frame that resembles this trade frame, of kind "garbage" and without marks; no reader may take
        it for a message or a reply."""

    def connect(self, path: str, query: Mapping[str, str], now: float, view: View) -> Session:
        """A new connection to this path (without the venue's prefix). Raises LookupError where the venue has no such
        path, Unavailable where it refuses."""

    def answer(self, path: str, query: Mapping[str, str], now: float, view: View) -> Answer:
        """The response to a GET (path without the venue's prefix)."""


class Part(Protocol):
    """A part of a synthetic venue: some instruments and what happens to them. Same seed, same events."""

    @property
    def instruments(self) -> Sequence[Listed]:
        """In the venue's spelling; it is given the symbols."""

    @property
    def snapshots(self) -> Mapping[str, Snapshot]:
        """The books that its DepthDiffs start from, by symbol; {} where it has no symbols with trades and books."""

    def events(self, begin_ns: int) -> Iterator[Event]:
        """Without end, in order of time, at times from `begin_ns` on."""


class Market(Protocol):
    """What happens at one venue, in order of time."""

    source: str
    begins_ns: int
    instruments: Mapping[str, Listed]
    traded: Sequence[str]
    """The symbols that collectors of scope "symbol" can have something of."""
    streams: frozenset[str] | None
    """The streams it has anything of; None: not known beforehand."""
    snapshots: Mapping[str, Sequence[Snapshot]]
    bodies: Sequence[Body]
    has_depth20: frozenset[str]
    notes: Sequence[str]

    @property
    def expected_trades(self) -> int:
        """About how many trade frames are to come, rather too few; finding out may take a second."""

    def frames(self, start_ns: int | None) -> Iterator[Frame]:
        """All frames; a market without times of its own starts at `start_ns`, or at its fixed epoch when None."""
