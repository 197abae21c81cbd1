"""Binance's wire: combined streams and exchangeInfo, shared by its spot, futures and options sources.

Spot: https://developers.binance.com/docs/binance-spot-api-docs/web-socket-streams
USD-M futures: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams

    {"stream":"btcusdt@aggTrade","data":{"e":"aggTrade",...}}
    {"method":"SUBSCRIBE","params":["btcusdt@aggTrade"],"id":1}
    {"result":null,"id":1}
    {"code":2,"msg":"Invalid request: ...","id":1}    or    {"error":{"code":2,"msg":"Invalid request: ..."},"id":1}
    {"stream":"!serverShutdown","data":{"e":"serverShutdown","E":1770123456789}}    or    its `data` alone

An unknown stream is acknowledged and stays silent, so symbols are looked up by REST first. Requests longer than 4088
bytes are not answered at all (github.com/binance/binance-connector-rust/issues/27): hence 100 streams in each.
New fields appear without notice and are passed over.

Times count milliseconds.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Generic, TypeVar
from urllib.parse import quote

import msgspec

from producers.books.binance import BinanceBook
from producers.contract import (
    ALL,
    BOOKS,
    BadFrame,
    BookUpdate,
    Event,
    Farewell,
    Feed,
    Get,
    Receipt,
    Reply,
    Sequencer,
    Span,
)
from producers.protocols.by_symbol import BySymbol
from producers.values import READ_ERRORS, bad_frame, happened, not_negative, optional, positive, reading

SHUTDOWN = "serverShutdown"
SHUTDOWN_STREAM = f"!{SHUTDOWN}"
YEAR_9999_MS = 253_402_300_799_000
DEPTH = 20
MOST_LEVELS = 5000
HISTORY_TRADES = 1000
"""As many as an answer tells of the past."""
DIFFERENCES = "@depth@100ms"
FEEDS_PER_MESSAGE = 100
BAD_REQUEST = 400
BAD_SYMBOL_CODES = frozenset({-1100, -1121})
MOMENTARY = frozenset({-1001, -1003, -1007, -1008, -1015, -1034})
"""DISCONNECTED, TOO_MANY_REQUESTS, TIMEOUT, SERVER_BUSY, TOO_MANY_ORDERS, TOO_MANY_CONNECTIONS.

https://github.com/binance/binance-spot-api-docs/blob/master/errors.md"""
"""`Illegal characters found in a parameter` and `Invalid symbol`."""
KNOWN_STREAMS = 4096
BEFORE_STREAM = len('{"stream":"')

Id = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Millis = Annotated[int, msgspec.Meta(ge=0, le=YEAR_9999_MS)]
Number = Annotated[str, msgspec.Meta(max_length=64)]
Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Side = Annotated[list[tuple[Number, Number]], msgspec.Meta(max_length=DEPTH)]
Changes = Annotated[list[tuple[Number, Number]], msgspec.Meta(max_length=MOST_LEVELS)]
T = TypeVar("T")
Read = Callable[[bytes, str, Receipt], Sequence[Event]]
"""The records of a frame, given the symbol of its stream, or ALL."""


class Refusal(msgspec.Struct, gc=False):
    """`{"code":2,"msg":"Invalid request: ..."}`."""

    code: int
    msg: str


class Envelope(msgspec.Struct, gc=False):
    """What is around any frame: of a stream, or a reply (`id` with `result`, `error` or `code` and `msg`).

    A raw stream's has none, and only `e` is of interest there.
    """

    e: str = ""
    stream: Annotated[str, msgspec.Meta(max_length=64)] = ""
    id: int | None = None
    result: Any = msgspec.UNSET
    error: Refusal | None = None
    code: int | None = None
    msg: str = ""


class Framed(msgspec.Struct, Generic[T], gc=False):
    """A stream's frame whose data are T; the stream's name has been read before."""

    data: T


class Filter(msgspec.Struct):
    """One of a symbol's filters; PRICE_FILTER has a tickSize, LOT_SIZE a stepSize."""

    filterType: str
    tickSize: Number | None = None
    stepSize: Number | None = None


class Snapshot(msgspec.Struct):
    """The body of GET depth: {"lastUpdateId":1027024,"bids":[["4.0","431.0"]],"asks":[["4.000002","12.0"]]}."""

    lastUpdateId: Id
    bids: Changes
    asks: Changes

    @property
    def time_us(self) -> int | None:
        """When the book was as told, where that is told."""
        return None


_envelope = msgspec.json.Decoder(Envelope)
_refusal = msgspec.json.Decoder(Refusal)


class CombinedStream:
    """What the sources that listen to a combined stream have in common (`producers.contract.Stream`)."""

    past_trades = False
    streams: ClassVar[Mapping[str, str]]
    """By channel, the stream that is subscribed: `@trade` after a symbol, or `!forceOrder@arr` of all symbols."""
    readers: ClassVar[Mapping[str, Read]]
    """By stream, as above, how its frames are read; other speeds of the same stream among them."""

    def __init__(self) -> None:
        self._routes: dict[bytes, tuple[Read, str]] = {}

    def symbol_of(self, base: str, quote: str) -> str:
        """BTCUSDT."""
        return base + quote

    def greeting(self, request: int) -> str | None:
        """Binance wants none."""
        return None

    def subscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"SUBSCRIBE","params":["btcusdt@trade"],"id":1}`."""
        return self._request("SUBSCRIBE", feeds, request)

    def unsubscribe(self, feeds: Sequence[Feed], request: int) -> str:
        """`{"method":"UNSUBSCRIBE","params":["btcusdt@trade"],"id":2}`."""
        return self._request("UNSUBSCRIBE", feeds, request)

    def one_message(self, feeds: Sequence[Feed]) -> Sequence[Feed]:
        """All: streams of every kind share a request."""
        return feeds

    def feed(self, channel: str, symbol: str) -> Feed:
        """One feed per symbol, or one of all where the stream is of all."""
        return Feed(channel, symbol if self.streams[channel].startswith("@") else ALL)

    def refusal(self, status: int, body: bytes) -> str | None:
        """`{"code":-1121,"msg":"Invalid symbol."}` with status 400 is for good."""
        return refusal(status, body)

    def parse(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        """Records of a stream's frame, or a reply or farewell; raises BadFrame."""
        try:
            # Micro-optimization: the name of the stream is looked for where it always is, `{"stream":"btcusdt@trade"`,
            # so that frames are decoded once, envelope and all, by the decoder of their stream.
            route = self._routes.get(frame[: frame.find(b'"', BEFORE_STREAM)])
            if route is None:
                return self._parse_new(frame, receipt)
            read, symbol = route
            return read(frame, symbol, receipt)
        except READ_ERRORS as error:
            raise bad_frame(error) from None

    def _parse_new(self, frame: bytes, receipt: Receipt) -> Sequence[Event]:
        envelope = _envelope.decode(frame)
        stream = envelope.stream
        if stream == SHUTDOWN_STREAM or envelope.e == SHUTDOWN:
            return (Farewell(SHUTDOWN),)
        if not stream:
            return (_reply(envelope),)
        symbol, at, kind = stream.partition("@")
        read = self.readers.get(stream) or self.readers.get(at + kind)
        if read is None:
            raise BadFrame(f"stream {stream!r} is none that Raven subscribes to")
        symbol = ALL if stream in self.readers else symbol.upper()
        events = read(frame, symbol, receipt)
        if len(self._routes) < KNOWN_STREAMS:
            self._routes[f'{{"stream":"{stream}'.encode()] = read, symbol
        return events

    def _request(self, method: str, feeds: Sequence[Feed], request: int) -> str:
        params = [self._stream(feed) for feed in feeds]
        return msgspec.json.encode({"method": method, "params": params, "id": request}).decode()

    def _stream(self, feed: Feed) -> str:
        return self.streams[feed.channel] if feed.symbol == ALL else feed.symbol.lower() + self.streams[feed.channel]


class KeptBooks(BySymbol, CombinedStream):
    """A combined stream whose books are kept from differences, for some symbols (`producers.contract.HasSnapshots`)."""

    book: ClassVar[type[BinanceBook]]
    """By which rules they are kept."""
    snapshots: ClassVar[type[Snapshot]] = Snapshot
    depth_path: ClassVar[str]
    """Where they are told."""
    depth_weight: ClassVar[float]
    """Of as many levels as there are to be had."""

    def __init__(self, maintained_books: Collection[str] = ()) -> None:
        """`maintained_books` are symbols, or ALL."""
        super().__init__()
        self._maintained = frozenset(maintained_books)

    def sequencer(self, symbol: str) -> Sequencer | None:
        """A new keeper of this symbol's book; None where the best 20 levels are taken as printed."""
        return self.book() if self._maintains(symbol) else None

    def snapshot(self, base: str, symbol: str) -> Get:
        """The best levels of each side: as many as there are to be had."""
        query = f"symbol={quote(symbol, safe='')}&limit={self.book.snapshot_levels}"
        return Get(f"{base.rstrip('/')}{self.depth_path}?{query}", self.depth_weight)

    def whole_book(self, symbol: str, body: bytes, receipt: Receipt) -> BookUpdate:
        """The book of a depth body; raises BadFrame."""
        with reading():
            told = msgspec.json.decode(body, type=self.snapshots)
            return BookUpdate(
                symbol=symbol,
                whole=True,
                event_time=None if told.time_us is None else happened(told.time_us, receipt.received_us),
                received_time=receipt.received_us,
                bids=changes(told.bids),
                asks=changes(told.asks),
                last=told.lastUpdateId,
                connection_time=receipt.connection_us,
                connection_sequence=receipt.sequence,
            )

    def _maintains(self, symbol: str) -> bool:
        return symbol in self._maintained or ALL in self._maintained

    def _stream(self, feed: Feed) -> str:
        if feed.channel == BOOKS and self._maintains(feed.symbol):
            return feed.symbol.lower() + DIFFERENCES
        return super()._stream(feed)


def refusal(status: int, body: bytes) -> str | None:
    """Why Binance will never describe a symbol: `{"code":-1121,"msg":"Invalid symbol."}` with status 400."""
    try:
        said = _refusal.decode(body)
    except READ_ERRORS:
        return None
    for_good = status == BAD_REQUEST and said.code in BAD_SYMBOL_CODES
    return f"{said.msg} ({said.code})" if for_good else None


def same_symbol(named: str, symbol: str) -> None:
    """Check that a frame's data name the symbol of their stream; raises BadFrame."""
    if named != symbol:
        raise BadFrame(f"data of {named[:64]!r} on a stream of {symbol!r}")


def changes(side: Sequence[tuple[str, str]]) -> list[tuple[int, int]]:
    """Levels of a difference or a snapshot, a quantity of 0 among them; raises BadFrame, BadValue."""
    return [(positive(price), not_negative(quantity)) for price, quantity in side]


def history_query(symbol: str, span: Span) -> str:
    """What asks for the trades of a span from its first id on, as many as it has or an answer can hold."""
    wanted = HISTORY_TRADES if span.last is None else min(span.last - span.first + 1, HISTORY_TRADES)
    return f"symbol={quote(symbol, safe='')}&fromId={span.first}&limit={wanted}"


def steps(filters: Sequence[Filter]) -> tuple[int | None, int | None]:
    """Tick and lot size of a symbol, None where it has none or the rule is off (zero); raises BadFrame, BadValue."""
    by_type = {item.filterType: item for item in filters}
    tick = getattr(by_type.get("PRICE_FILTER"), "tickSize", None)
    lot = getattr(by_type.get("LOT_SIZE"), "stepSize", None)
    return optional(not_negative, tick) or None, optional(not_negative, lot) or None


def _reply(envelope: Envelope) -> Reply:
    if envelope.error is not None:
        return _refused(envelope.id, envelope.error.msg, envelope.error.code)
    if envelope.code is not None:
        return _refused(envelope.id, envelope.msg, envelope.code)
    if envelope.result is msgspec.UNSET or envelope.id is None:
        raise BadFrame("neither a stream's frame nor a reply")
    return Reply(envelope.id, None)


def _refused(request: int | None, text: str, code: int) -> Reply:
    return Reply(request, f"{text} ({code})", momentary=code in MOMENTARY)
