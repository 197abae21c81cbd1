"""What a source of market data is: pure functions between a venue's wire and Raven's records. One file each in venues/.

A Source is a Stream (WebSocket subscriptions) or a Poll (REST requests in turn). Several may be of one venue:
BINANCE_FUTURES and BINANCE_FUTURES_KLINES both publish records of the venue BINANCE_FUTURES.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from msgspec import Struct

from ravencore import graph
from ravencore.errors import Unreadable
from ravencore.records import (
    Book,
    Funding,
    GapCause,
    IndexPrice,
    Instrument,
    Kline,
    Liquidation,
    MarketRecord,
    OpenInterest,
    OptionTicker,
    Quote,
    Trade,
    VolatilityIndex,
)

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

CHANNELS: dict[type[MarketRecord], str] = {
    Trade: TRADES,
    Book: BOOKS,
    Quote: QUOTES,
    Kline: KLINES,
    Funding: FUNDING,
    Liquidation: LIQUIDATIONS,
    OpenInterest: OPEN_INTEREST,
    OptionTicker: OPTION_TICKERS,
    IndexPrice: INDEX_PRICES,
    VolatilityIndex: VOLATILITY_INDEX,
}
"""The channel of each record."""
ALL = graph.ALL
"""Symbol of a feed that brings every symbol of its venue."""

Scope = Literal["symbol", "market"]
"""`symbol`: collected for each symbol that is demanded, or all. `market`: as a whole, from the first demand for it."""


class Feed(NamedTuple):
    """One subscription: a channel of one symbol, or of many (`Feed("liquidations", ALL)`)."""

    channel: str
    symbol: str


class Receipt(Struct, frozen=True, gc=False):
    """How a frame came: when, on which connection (named by when that was opened, in microseconds), and its number.

    One is made for every frame: a Struct takes a third of a NamedTuple's time.
    """

    received_us: int
    connection_us: int = 0
    sequence: int = 0


class Reply(NamedTuple):
    """The venue's answer to a request of ours.

    `request` is the number the request carried, None where the venue does not say which one it answers; `error` is its
    sentence when it refused. `feeds` are the ones it speaks of, None: all of the request's. `left_out` says what
    becomes of the request's other feeds: None: their replies are still to come; else the sentence that refuses them.
    `momentary` errors are about the moment and not about the feeds, which are asked for again after a while.
    """

    request: int | None
    error: str | None
    feeds: tuple[Feed, ...] | None = None
    left_out: str | None = None
    momentary: bool = False


class Answer(NamedTuple):
    """The venue asks whether we live, and wants to hear this at once."""

    text: str


class Farewell(NamedTuple):
    """The venue says that it will close this connection soon; `reason` is its word for it."""

    reason: str


class Count(NamedTuple):
    """The venue counts the frames of a connection, and this is the number of one: a jump means that frames are lost."""

    number: int


class BookUpdate(Struct, frozen=True, gc=False, kw_only=True):
    """What a frame or a REST answer says of an order book: all of it (`whole`), or the levels that have changed.

    Levels are (price, quantity), unscaled decimals; a quantity of 0 ends the level. `first` to `last` are the venue's
    ids of the changes in it, `previous` the last id of the update before, each where the venue tells it. `checksum`
    is the venue's of the book after it, and `bid_texts`, `ask_texts` then are what it is taken over, level by level.
    """

    symbol: str
    whole: bool
    event_time: int | None
    received_time: int
    bids: Sequence[tuple[int, int]]
    asks: Sequence[tuple[int, int]]
    first: int | None = None
    last: int | None = None
    previous: int | None = None
    checksum: int | None = None
    bid_texts: Sequence[bytes] = ()
    ask_texts: Sequence[bytes] = ()
    connection_time: int = 0
    connection_sequence: int = 0


Event = MarketRecord | BookUpdate | Reply | Answer | Farewell | Count


class BadFrame(Unreadable):
    """Raised when a frame or body is not what the venue's documents promise, or holds a value Raven cannot hold.

    `reason` is the dead letter's: `unreadable_frame` or `bad_value`.
    """

    def __init__(self, detail: str, reason: str = "unreadable_frame") -> None:
        super().__init__(detail)
        self.reason = reason


class OutOfStep(Exception):
    """Raised by a Sequencer when its book can no longer be right; `cause` is the Gap's."""

    def __init__(self, cause: GapCause, detail: str) -> None:
        super().__init__(detail)
        self.cause: GapCause = cause


class Span(NamedTuple):
    """Trades of a symbol to be fetched over REST: ids `first` to `last`, both included; `last` None: the newest.

    `from_us` and `to_us` are the times of the trades before and after them, as far as they are known, for venues that
    find trades by time.
    """

    first: int
    last: int | None
    from_us: int | None
    to_us: int | None


class Rate(NamedTuple):
    """At most so much within so many seconds."""

    amount: float
    seconds: float


ONE_A_SECOND = Rate(1, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a venue allows, and how its silence is to be understood.

    All sources of a venue share `connects`, `rest` and messages that count by address, and so name the same.
    """

    rest: Rate
    """REST requests, in the venue's own weights."""
    connects: Rate = ONE_A_SECOND
    """Attempts to connect."""
    messages: Rate = ONE_A_SECOND
    """Messages of ours on one connection; leave room for the pings and pongs where those count as well."""
    messages_by_address: bool = False
    """Whether those of all connections count together."""
    feeds_per_connection: int = 1
    feeds_per_message: int = 1
    reply_seconds: float = 10.0
    """A request unanswered for this long means that the connection is broken."""
    ping_seconds: float = 20.0
    """How often to ping; a pong that takes as long again means that the connection is dead."""
    silence_seconds: float = 120.0
    """A connection with subscriptions that has brought nothing for this long is dead."""


class Get(NamedTuple):
    """A REST request, its weight in the venue's budget, and headers to send with it."""

    url: str
    weight: float = 1.0
    headers: tuple[tuple[str, str], ...] = ()


class Sequencer(Protocol):
    """Keeps one symbol's book from one subscription, by the venue's numbered rules; pure.

    After OutOfStep it has forgotten all and starts anew: with a REST snapshot (`wants_snapshot`), or else with the
    whole book that the venue sends first on a new subscription, which the session then makes.
    """

    wants_snapshot: bool
    """Whether it waits for an answer of `HasSnapshots.snapshot`; never true where the feed begins with a whole book."""
    last: int | None
    """The venue's id of the last update in the book, where updates have ids that are of the book."""
    event_time: int | None
    """Of that update."""

    @property
    def in_step(self) -> bool:
        """Whether the book is the venue's as of the last update."""

    def update(self, update: BookUpdate) -> bool:
        """Take a frame's update; True where the book is in step and has changed. Raises OutOfStep."""

    def whole(self, update: BookUpdate) -> bool:
        """Take the REST snapshot; True where the book is now in step. Raises OutOfStep."""

    def top(self, depth: int) -> tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]:
        """The best levels of each side, best first: bids and asks as (price, quantity)."""


@runtime_checkable
class Source(Protocol):
    """What every collector of a venue has; every method is a pure function of its arguments."""

    name: str
    """Its name in demands, for example BINANCE_FUTURES_KLINES."""
    venue: str
    """The venue its records name, for example BINANCE_FUTURES; its endpoints are the settings `venues.<venue>`."""
    channels: tuple[str, ...]
    """What it publishes."""
    scope: Scope
    selection: str | None
    """With scope `market`: the setting under `venues.<venue>` that lists what to collect; None: all there is."""
    limits: Limits

    def symbol_of(self, base: str, quote: str) -> str:
        """The venue's own symbol of a pair of currencies."""

    def listing(self, base: str, symbol: str | None) -> Get:
        """Where the venue describes a symbol, of the configured `rest_url`; None: all symbols of this source."""

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """The symbols that such a body describes; raises BadFrame, whatever the bytes."""

    def refusal(self, status: int, body: bytes) -> str | None:
        """Why the venue will never describe this symbol; None where the same request may succeed later."""

    def feed(self, channel: str, symbol: str) -> Feed:
        """The feed in which a record of this channel and symbol comes."""

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """What to collect now where all is demanded, of what the venue lists and the user selected.

        Feeds that no listing is needed for are there before the first listing, when `instruments` is empty.
        """


@runtime_checkable
class Stream(Source, Protocol):
    """A source whose data come over WebSockets."""

    past_trades: bool
    """Whether the first frame of a feed of trades brings ones that happened before the subscription."""

    def socket_url(self, base: str, channel: str) -> str:
        """Where a channel is served, of the configured `ws_url`; feeds of two URLs never share a connection."""

    def greeting(self, request: int) -> str | None:
        """A request to be sent first on every connection, if the venue wants one."""

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """The message that starts these feeds."""

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """The message that ends these feeds."""

    def one_message(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """The first of these feeds that may share a message: all, or where a message names one channel, its feeds."""

    def parse(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        """What a frame says, in its order, nothing for a heartbeat; raises BadFrame, whatever the bytes."""


@runtime_checkable
class HasHistory(Stream, Protocol):
    """A stream of trades whose venue tells past trades over REST."""

    def history(self, base: str, symbol: str, span: Span) -> Get:
        """Where trades of a span are told, of the configured `rest_url`.

        An answer may hold other trades as well, and fewer than the span: the rest is asked for again from there.
        """

    def past(self, symbol: str, body: bytes, receipt: Receipt) -> Sequence[Trade]:
        """The trades of such an answer, in the order of their ids; raises BadFrame, whatever the bytes."""


@runtime_checkable
class HasBooks(Stream, Protocol):
    """A stream whose books Raven keeps from differences: `parse` gives BookUpdates for them."""

    def sequencer(self, symbol: str) -> Sequencer | None:
        """A new keeper of this symbol's book; None where this symbol's books are published as the venue prints them."""


@runtime_checkable
class HasSnapshots(HasBooks, Protocol):
    """One whose sequencers begin with a book told over REST."""

    def snapshot(self, base: str, symbol: str) -> Get:
        """Where the whole book is told, of the configured `rest_url`."""

    def whole_book(self, symbol: str, body: bytes, receipt: Receipt) -> BookUpdate:
        """What such an answer says; raises BadFrame, whatever the bytes."""


@runtime_checkable
class Poll(Source, Protocol):
    """A source whose data are asked for over REST, again and again."""

    interval_seconds: float

    def requests(self, base: str, feed: Feed) -> Sequence[Get]:
        """What is asked each time for a feed, of the configured `rest_url`."""

    def parse_bodies(self, feed: Feed, bodies: Sequence[bytes], receipt: Receipt) -> Sequence[MarketRecord]:
        """Records of the answers to `requests` for the feed, in its order; raises BadFrame, whatever the bytes."""
