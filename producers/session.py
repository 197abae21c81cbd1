"""What is said and heard over the connections to one venue, one after another; no I/O and no clock of its own.

The shell tells it what happens (`want`, `opened`, `receive`, `tick`, `lost`) and does as it answers: publish a record,
send a message, close the connection. `now` is a monotonic time in seconds that stands still while the shell does not
read its socket, so that nothing expires which may lie there unread; `..._us` are microseconds since the epoch.

Clocks (bars.md section 2). Venue time is estimated as the time here less the *largest* latency (received - event time)
of any trade in the last minute or two: what the venue printed before that has come. When it is QUIET_US past the end of
a window, each symbol whose trades all lie before that end gets one Clock that says the end. None is written while the
connection is down, or while a symbol waits for an id or for its first trade after a break. And frames, of whatever
feed, must have come without a pause of STALL_US for all of QUIET_US, else a stalled line would pass for a quiet market;
a connection that has brought nothing at all for SILENT_SECONDS counts as quiet again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal, NamedTuple

from producers.contract import BOOKS, TRADES, BadFrame, Event, Farewell, Feed, Reply, Venue
from producers.tape import BookTape, Break, Output, Seen, TradeTape
from ravencore.records import Book, Subscription, SubscriptionState, Trade

QUIET_US = 500_000
STALL_US = 250_000
SILENT_SECONDS = 3.0
LATENCY_WINDOW_US = 60_000_000
NOT_DEMANDED = Break("DISCONNECT", "not demanded for a time")
GOODBYE_SECONDS = 1.0
"""How long the reply to the last unsubscription is waited for before the connection is closed without it."""


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


Action = Output | BadBytes | Clock | Send | Close
Phase = Literal["off", "asked", "live", "ending"]
"""Not subscribed on this connection; SUBSCRIBE sent; acknowledged; UNSUBSCRIBE sent."""


@dataclass(slots=True)
class Line:
    """One feed: what is wanted of it, and how far that has come on this connection."""

    tape: TradeTape | BookTape
    wanted: bool = False
    phase: Phase = "off"
    flowing: bool = False
    last_received_us: int | None = None
    refused: str | None = None
    alone: bool = False
    """A request for it and others was refused: ask for it by itself, to learn which one it was."""

    @property
    def state(self) -> SubscriptionState:
        """As `raven.status` shows it."""
        if self.refused is not None:
            return "REFUSED"
        if self.flowing:
            return "FLOWING"
        return "SUBSCRIBED" if self.phase in ("live", "ending") else "CONNECTING"


class Request(NamedTuple):
    """A request that the venue has not answered."""

    feeds: tuple[Feed, ...]
    deadline: float


class Latency:
    """The largest latency of the last one to two LATENCY_WINDOW_US; negative where the clocks differ enough."""

    def __init__(self) -> None:
        self.worst_us: int | None = None
        self._before_us: int | None = None
        self._now_us: int | None = None
        self._window_ends_us = 0

    def add(self, received_us: int, latency_us: int) -> None:
        """Note a trade's latency."""
        if received_us >= self._window_ends_us:
            self._window_ends_us = received_us + LATENCY_WINDOW_US
            self._before_us, self._now_us = self._now_us, latency_us
        elif self._now_us is None or latency_us > self._now_us:
            self._now_us = latency_us
        else:
            return
        self.worst_us = self._now_us if self._before_us is None else max(self._before_us, self._now_us)


class Pace:
    """How frames have come on a connection opened at `now`."""

    def __init__(self, now: float) -> None:
        self.last = now
        self._last_us = self._steady_from_us = 0

    def frame(self, now: float, received_us: int) -> None:
        """Note a frame."""
        if received_us - self._last_us > STALL_US:
            self._steady_from_us = received_us
        self.last, self._last_us = now, received_us

    def quiet_is_real(self, now: float, now_us: int) -> bool:
        """Whether what has not come by now can be taken not to have happened."""
        steady = now_us - self._last_us <= STALL_US and now_us - self._steady_from_us >= QUIET_US
        return steady or now - self.last >= SILENT_SECONDS


class Session:
    """All feeds of one venue, whatever connections come and go."""

    def __init__(self, venue: Venue, reorder_seconds: float, clock_interval_us: int | None) -> None:
        """`clock_interval_us` is the shortest window that bars are made of; None writes no Clocks."""
        self.venue = venue
        self.connection: str | None = None
        self.frames = 0
        self.trades_received = 0
        self._reorder_seconds, self._clock_interval_us = reorder_seconds, clock_interval_us
        self._lines: dict[Feed, Line] = {}
        self._waiting: dict[Feed, TradeTape] = {}
        self._requests: dict[int, Request] = {}
        self._last_request = 0
        self._speak_at = 0.0
        self._pace = Pace(0.0)
        self._latency = Latency()
        self._clock_us = 0

    # What is wanted

    def knows(self, symbol: str) -> bool:
        """Whether this session has had the symbol before, and so remembers where its feeds stopped."""
        return Feed(TRADES, symbol) in self._lines

    def want(self, symbol: str, seen: Mapping[str, Seen]) -> None:
        """Subscribe to all channels of a symbol; `seen` holds the last known record of each channel."""
        for channel in self.venue.channels:
            feed = Feed(channel, symbol)
            if feed not in self._lines:
                self._lines[feed] = Line(self._tape(feed, seen.get(channel)))
            self._lines[feed].wanted = True
            self._lines[feed].refused = None

    def unwant(self, symbol: str) -> None:
        """Unsubscribe from all channels of a symbol."""
        for channel in self.venue.channels:
            if line := self._lines.get(Feed(channel, symbol)):
                line.wanted = False

    def _tape(self, feed: Feed, seen: Seen | None) -> TradeTape | BookTape:
        if feed.channel == TRADES:
            return TradeTape(self.venue.name, feed, seen, self._reorder_seconds)
        return BookTape(self.venue.name, feed, seen)

    @property
    def idle(self) -> bool:
        """Whether a connection would be for nothing."""
        return not any(line.wanted and line.refused is None for line in self._lines.values())

    # What it says of itself

    @property
    def held(self) -> int:
        """Trades held back behind holes."""
        return sum(tape.held for tape in self._waiting.values())

    @property
    def duplicates(self) -> int:
        """Trades that had come before."""
        return sum(line.tape.duplicates for line in self._lines.values() if isinstance(line.tape, TradeTape))

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Every feed that is wanted, or not ended yet."""
        return tuple(
            Subscription(
                venue=self.venue.name,
                channel=feed.channel,
                symbol=feed.symbol,
                state=line.state,
                last_received_time=line.last_received_us,
            )
            for feed, line in self._lines.items()
            if line.wanted or line.phase != "off"
        )

    def refusals(self) -> list[str]:
        """One sentence for each feed that the venue refused."""
        return [
            f"{self.venue.name} refuses {feed.channel} of {feed.symbol}: {line.refused}"
            for feed, line in self._lines.items()
            if line.wanted and line.refused is not None
        ]

    # What happens

    def opened(self, connection: str, now: float) -> None:
        """A connection is up; its name is its URL and number."""
        self.connection = connection
        self._speak_at = now
        self._pace = Pace(now)

    def lost(self, why: Break, now_us: int) -> list[Action]:
        """The connection is gone."""
        out: list[Action] = []
        for feed, line in self._lines.items():
            if line.phase != "off":
                out += self._ended(feed, line, why if line.wanted else NOT_DEMANDED, now_us)
        self._requests.clear()
        self.connection = None
        return out

    def receive(self, frame: bytes, received_us: int, now: float) -> list[Action]:
        """What follows from a frame."""
        self.frames += 1
        self._pace.frame(now, received_us)
        try:
            events = self.venue.parse(frame, received_us)
        except BadFrame as error:
            return [self._bad_bytes(frame, error.reason, str(error))]
        out: list[Action] = []
        for event in events:
            out += self._take(event, frame, received_us, now)
        return out

    def tick(self, now: float, now_us: int) -> list[Action]:
        """What follows from time having come to `now`; to be called several times a second."""
        out = self._expire(now, now_us)
        if self.connection is not None:
            out += self._clocks(now, now_us)
            out += self._speak(now)
            out += self._watch(now)
        return out

    def _take(self, event: Event, frame: bytes, received_us: int, now: float) -> list[Action]:
        if isinstance(event, Trade):
            return self._take_trade(event, frame, now)
        if isinstance(event, Book):
            return self._take_book(event, frame)
        if isinstance(event, Farewell):
            return [Close(Break("DISCONNECT", f"the venue says {event.reason}"))]
        return self._take_reply(event, frame, received_us)

    def _take_trade(self, trade: Trade, frame: bytes, now: float) -> list[Action]:
        feed = Feed(TRADES, trade.symbol)
        line = self._lines.get(feed)
        sequence = trade.sequence
        if line is None or sequence is None or not isinstance(line.tape, TradeTape):
            return [self._unasked(feed, frame)]
        self.trades_received += 1
        line.flowing, line.last_received_us = True, trade.received_time
        self._latency.add(trade.received_time, trade.received_time - trade.event_time)
        out = line.tape.add(trade, sequence, now, self._connection)
        if line.tape.held:
            self._waiting[feed] = line.tape
        return [*out]

    def _take_book(self, book: Book, frame: bytes) -> list[Action]:
        feed = Feed(BOOKS, book.symbol)
        line = self._lines.get(feed)
        if line is None or not isinstance(line.tape, BookTape):
            return [self._unasked(feed, frame)]
        line.flowing, line.last_received_us = True, book.received_time
        return [*line.tape.add(book, self._connection)]

    def _take_reply(self, reply: Reply, frame: bytes, received_us: int) -> list[Action]:
        # An error that names no request answers the oldest: the venue answers in order.
        number = reply.request if reply.request is not None else next(iter(self._requests), None)
        request = self._requests.pop(number, None) if number is not None else None
        if request is None:
            return [self._bad_bytes(frame, "unreadable_frame", reply.error or "a reply to no request of ours")]
        out: list[Action] = []
        for feed in request.feeds:
            line = self._lines[feed]
            if line.phase == "ending":
                out += self._ended(feed, line, NOT_DEMANDED, received_us)
            elif reply.error is None:
                line.phase = "live"
            else:
                line.phase = "off"
                line.alone = len(request.feeds) > 1
                line.refused = None if line.alone else reply.error
        return out

    def _ended(self, feed: Feed, line: Line, why: Break, now_us: int) -> list[Action]:
        line.phase, line.flowing = "off", False
        if isinstance(line.tape, BookTape):
            line.tape.interrupt(why)
            return []
        self._waiting.pop(feed, None)
        return [*line.tape.interrupt(why, now_us, self._connection)]

    def _expire(self, now: float, now_us: int) -> list[Action]:
        out: list[Action] = []
        for feed, tape in list(self._waiting.items()):
            out += tape.expire(now, now_us, self._connection)
            if not tape.held:
                del self._waiting[feed]
        return out

    def _clocks(self, now: float, now_us: int) -> list[Action]:
        worst_us = self._latency.worst_us
        if self._clock_interval_us is None or worst_us is None:
            return []
        venue_us = now_us - worst_us - QUIET_US
        reached_us = venue_us - venue_us % self._clock_interval_us
        if reached_us <= self._clock_us or not self._pace.quiet_is_real(now, now_us):
            return []
        self._clock_us = reached_us
        return [
            Clock(feed.symbol, reached_us)
            for feed, line in self._lines.items()
            if line.phase == "live" and isinstance(line.tape, TradeTape) and line.tape.quiet_before(reached_us)
        ]

    def _speak(self, now: float) -> list[Action]:
        """At most one request: the venue counts them."""
        if now < self._speak_at:
            return []
        ending = self._some(feed for feed, line in self._lines.items() if line.phase == "live" and not line.wanted)
        if ending:
            return self._request(ending, now, ends=True)
        room = self.venue.limits.feeds_per_connection - sum(line.phase != "off" for line in self._lines.values())
        starting = self._some(
            feed for feed, line in self._lines.items() if line.phase == "off" and line.wanted and line.refused is None
        )
        return self._request(starting[:room], now, ends=False) if starting and room > 0 else []

    def _some(self, feeds: Iterable[Feed]) -> tuple[Feed, ...]:
        """As many as fit into one message; one that must be asked for by itself goes by itself."""
        chosen = tuple(islice(feeds, self.venue.limits.feeds_per_message))
        suspect = next((feed for feed in chosen if self._lines[feed].alone), None)
        return (suspect,) if suspect else chosen

    def _request(self, feeds: tuple[Feed, ...], now: float, *, ends: bool) -> list[Action]:
        self._last_request += 1
        spell = self.venue.unsubscribe if ends else self.venue.subscribe
        for feed in feeds:
            self._lines[feed].phase = "ending" if ends else "asked"
        patience = GOODBYE_SECONDS if self.idle else self.venue.limits.reply_seconds
        self._requests[self._last_request] = Request(feeds, now + patience)
        self._speak_at = now + self.venue.limits.message_gap_seconds
        return [Send(spell(feeds, self._last_request))]

    def _watch(self, now: float) -> list[Action]:
        """Close a connection that nothing is wanted of, or that has gone dead."""
        overdue = any(now >= request.deadline for request in self._requests.values())
        subscribed = any(line.phase != "off" for line in self._lines.values())
        if self.idle and (overdue or not subscribed):
            return [Close(None)]
        if overdue:
            return [Close(Break("DISCONNECT", "the venue left a request unanswered"))]
        if subscribed and now - self._pace.last >= self.venue.limits.silence_seconds:
            return [Close(Break("SILENCE", f"nothing came for {self.venue.limits.silence_seconds:g} s"))]
        return []

    @property
    def _connection(self) -> str:
        return self.connection or self.venue.name

    def _unasked(self, feed: Feed, frame: bytes) -> BadBytes:
        return self._bad_bytes(frame, "unreadable_frame", f"{feed.channel} of {feed.symbol} were never asked for")

    def _bad_bytes(self, frame: bytes, reason: str, detail: str) -> BadBytes:
        return BadBytes(frame, reason, detail, self._connection)
