"""What is said and heard over one connection to a venue, and those that replace it; no I/O and no clock of its own.

The shell tells it what happens (`want`, `opened`, `receive`, `tick`, `lost`) and does as it answers: publish a record,
send a message, close the connection. `now` is a monotonic time in seconds that stands still while the shell does not
read its socket, so that nothing expires which may lie there unread; `..._us` are microseconds since the epoch.

It has one request open at a time: venues that do not say which request they answer can then be understood, and the
shell sends each within the venue's budget of messages.

Clocks (bars.md section 2) are for the trades of symbols that are collected one by one. Venue time is estimated as the
time here less the *largest* latency (received - event time) of any trade in the last minute or two: what the venue
printed before that has come. Past trades, which some venues send first, tell no latency. When venue time is QUIET_US
past the end of a window, each symbol whose trades all lie before that end gets one Clock that says the end. None is
written while the connection is down, or while a symbol waits for an id or for its first trade after a break. And
frames, of whatever feed, must have come without a pause of STALL_US for all of QUIET_US, else a stalled line would pass
for a quiet market; a connection that has brought nothing at all for SILENT_SECONDS counts as quiet again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Literal, NamedTuple

from producers.contract import CHANNELS, TRADES, Answer, BadFrame, Event, Farewell, Feed, Receipt, Reply, Stream
from producers.tape import Break, FeedTape, Output, Seen, TradeTape
from ravencore.records import MarketRecord, Subscription, SubscriptionState, Trade

QUIET_US = 500_000
STALL_US = 250_000
SILENT_SECONDS = 3.0
LATENCY_WINDOW_US = 60_000_000
NOT_DEMANDED = Break("DISCONNECT", "not demanded for a time")
GOODBYE_SECONDS = 1.0
"""How long a connection that nothing is wanted of is kept for the replies to the last requests."""


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
    """One feed: what is wanted of it, how far that has come on this connection, and the continuity of its records."""

    feed: Feed
    wanted: bool = False
    phase: Phase = "off"
    flowing: bool = False
    first_frame: int = 0
    """Number of the frame since which it flows."""
    last_received_us: int | None = None
    refused: str | None = None
    alone: bool = False
    """A request for it and others was refused: ask for it by itself, to learn which one it was."""
    trades: dict[str, TradeTape] = field(default_factory=dict)
    """By symbol; a feed of trades may bring many."""
    others: FeedTape | None = None
    """Of a feed that brings no trades."""

    @property
    def state(self) -> SubscriptionState:
        """As `raven.status` shows it."""
        if self.refused is not None:
            return "REFUSED"
        if self.flowing:
            return "FLOWING"
        return "SUBSCRIBED" if self.phase in ("live", "ending") else "CONNECTING"


class Request(NamedTuple):
    """A request that the venue has not answered, or not for all of its feeds."""

    number: int
    feeds: tuple[Feed, ...]
    asked: int
    """How many feeds it asked for."""
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
    """Some feeds of one source over one connection at a time."""

    def __init__(self, source: Stream, url: str, reorder_seconds: float, clock_interval_us: int | None) -> None:
        """`clock_interval_us` is the shortest window that bars are made of; None writes no Clocks."""
        self.source, self.url = source, url
        self.connection: str | None = None
        self._connection = source.venue
        """As records of what happened name it: the venue where there is none."""
        self.frames = 0
        self.trades_received = 0
        self._reorder_seconds = reorder_seconds
        self._clock_interval_us = clock_interval_us if source.scope == "symbol" else None
        self._lines: dict[Feed, Line] = {}
        self._tapes: dict[tuple[str, str], tuple[Line, TradeTape | FeedTape]] = {}
        """Where the records of a channel and symbol go."""
        self._waiting: dict[str, TradeTape] = {}
        self._request: Request | None = None
        self._last_request = 0
        self._opened_us = 0
        self._frames_before = 0
        self._idle_from: float | None = None
        self._pace = Pace(0.0)
        self._latency = Latency()
        self._clock_us = 0

    # What is wanted

    def want(self, feed: Feed, seen: Mapping[str, Seen]) -> None:
        """Subscribe to a feed; `seen` holds the last known record of each of its symbols."""
        line = self._lines.get(feed)
        if line is None:
            line = self._lines[feed] = Line(feed)
            if feed.channel == TRADES:
                line.trades = {symbol: self._trade_tape(symbol, last) for symbol, last in seen.items()}
            else:
                line.others = FeedTape(self.source.venue, feed, next(iter(seen.values()), None))
        line.wanted = True
        line.refused = None

    def unwant(self, feed: Feed) -> None:
        """Unsubscribe from a feed."""
        if line := self._lines.get(feed):
            line.wanted = False

    def release(self, feed: Feed) -> Line | None:
        """Give up a feed that is off, with all that is known of it, for another session to `adopt`."""
        line = self._lines.get(feed)
        if line is None or line.phase != "off":
            return None
        del self._lines[feed]
        self._tapes = {key: found for key, found in self._tapes.items() if found[0] is not line}
        return line

    def adopt(self, line: Line) -> None:
        """Take over a feed that another session has released."""
        self._lines[line.feed] = line

    def knows(self, feed: Feed) -> bool:
        """Whether this session has had the feed before, and so remembers where it stopped."""
        return feed in self._lines

    @property
    def wanted(self) -> int:
        """How many feeds are wanted, or not ended yet."""
        return sum(line.wanted or line.phase != "off" for line in self._lines.values())

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
        return sum(tape.duplicates for line in self._lines.values() for tape in line.trades.values())

    def subscriptions(self) -> tuple[Subscription, ...]:
        """Every feed that is wanted, or not ended yet."""
        return tuple(
            Subscription(
                venue=self.source.venue,
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
            f"{self.source.venue} refuses {feed.channel} of {feed.symbol}: {line.refused}"
            for feed, line in self._lines.items()
            if line.wanted and line.refused is not None
        ]

    # What happens

    def opened(self, connection: str, now: float, now_us: int) -> list[Action]:
        """A connection is up; its name is its URL and number."""
        self.connection = self._connection = connection
        self._opened_us = now_us
        self._frames_before = self.frames
        self._pace = Pace(now)
        self._idle_from = None
        greeting = self.source.greeting(self._last_request + 1)
        return [self._ask((), greeting, now)] if greeting is not None else []

    def lost(self, why: Break, now_us: int) -> list[Action]:
        """The connection is gone."""
        out: list[Action] = []
        for line in self._lines.values():
            if line.phase != "off":
                out += self._ended(line, why if line.wanted else NOT_DEMANDED, now_us)
        self._request = None
        self.connection, self._connection = None, self.source.venue
        return out

    def receive(self, frame: bytes, received_us: int, now: float) -> Sequence[Action]:
        """What follows from a frame."""
        self.frames += 1
        self._pace.frame(now, received_us)
        try:
            events = self.source.parse(frame, Receipt(received_us, self._opened_us, self.frames - self._frames_before))
        except BadFrame as error:
            return [self._bad_bytes(frame, error.reason, str(error))]
        if len(events) == 1:
            return self._take(events[0], frame, received_us, now)
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

    def _take(self, event: Event, frame: bytes, received_us: int, now: float) -> Sequence[Action]:
        channel = CHANNELS.get(type(event))  # type: ignore[arg-type] # what is no record has none
        if channel is not None:
            return self._take_record(channel, event, frame, now)  # type: ignore[arg-type]
        if isinstance(event, Reply):
            return self._take_reply(event, frame, received_us)
        if isinstance(event, Answer):
            return [Send(event.text)]
        assert isinstance(event, Farewell)
        return [Close(Break("DISCONNECT", f"the venue says {event.reason}"))]

    def _take_record(self, channel: str, record: MarketRecord, frame: bytes, now: float) -> Sequence[Action]:
        found = self._tapes.get((channel, record.symbol)) or self._find(channel, record.symbol)
        if found is None:
            return [self._bad_bytes(frame, "unreadable_frame", f"{channel} of {record.symbol} were never asked for")]
        line, tape = found
        if not line.flowing:
            line.flowing, line.first_frame = True, self.frames
        line.last_received_us = record.received_time
        if isinstance(tape, FeedTape):
            return tape.add(record, self._connection)
        assert isinstance(record, Trade)
        return self._take_trade(line, tape, record, now)

    def _take_trade(self, line: Line, tape: TradeTape, trade: Trade, now: float) -> Sequence[Action]:
        assert trade.sequence is not None, "a venue of this contract counts its trades"
        self.trades_received += 1
        if not (self.source.past_trades and line.first_frame == self.frames):
            self._latency.add(trade.received_time, trade.received_time - trade.event_time)
        out = tape.add(trade, trade.sequence, now, self._connection)
        # The first that is held back lets nothing out.
        if not out and tape.held:
            self._waiting[trade.symbol] = tape
        return out

    def _find(self, channel: str, symbol: str) -> tuple[Line, TradeTape | FeedTape] | None:
        line = self._lines.get(self.source.feed(channel, symbol))
        if line is None:
            return None
        tape: TradeTape | FeedTape
        if line.others is not None:
            tape = line.others
        else:
            tape = line.trades.get(symbol) or line.trades.setdefault(symbol, self._trade_tape(symbol, None))
        self._tapes[channel, symbol] = line, tape
        return line, tape

    def _trade_tape(self, symbol: str, seen: Seen | None) -> TradeTape:
        return TradeTape(self.source.venue, symbol, seen, self._reorder_seconds)

    # Requests and replies

    def _take_reply(self, reply: Reply, frame: bytes, received_us: int) -> list[Action]:
        request = self._request
        if request is None or reply.request not in (None, request.number):
            return [self._bad_bytes(frame, "unreadable_frame", reply.error or "a reply to no request of ours")]
        answered = request.feeds if reply.feeds is None else [feed for feed in request.feeds if feed in reply.feeds]
        rest = tuple(feed for feed in request.feeds if feed not in answered)
        doubtful = reply.feeds is None and request.asked > 1
        out: list[Action] = []
        for feed in answered:
            out += self._answered(self._lines[feed], reply.error, doubtful=doubtful, now_us=received_us)
        if reply.left_out is not None:
            for feed in rest:
                out += self._answered(self._lines[feed], reply.left_out, doubtful=False, now_us=received_us)
            rest = ()
        self._request = request._replace(feeds=rest) if rest else None
        return out

    def _answered(self, line: Line, error: str | None, *, doubtful: bool, now_us: int) -> list[Action]:
        if line.phase == "ending":
            return self._ended(line, NOT_DEMANDED, now_us)
        if error is None:
            line.phase = "live"
            return []
        line.phase = "off"
        line.alone = doubtful
        line.refused = None if doubtful else error
        return []

    def _ended(self, line: Line, why: Break, now_us: int) -> list[Action]:
        line.phase, line.flowing = "off", False
        if line.others is not None:
            line.others.interrupt(why)
        out: list[Action] = []
        for symbol, tape in line.trades.items():
            self._waiting.pop(symbol, None)
            out += tape.interrupt(why, now_us, self._connection)
        return out

    def _expire(self, now: float, now_us: int) -> list[Action]:
        out: list[Action] = []
        for symbol, tape in list(self._waiting.items()):
            out += tape.expire(now, now_us, self._connection)
            if not tape.held:
                del self._waiting[symbol]
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
            Clock(symbol, reached_us)
            for line in self._lines.values()
            if line.phase == "live"
            for symbol, tape in line.trades.items()
            if tape.quiet_before(reached_us)
        ]

    def _speak(self, now: float) -> list[Action]:
        """At most one request, and none while one is open."""
        if self._request is not None:
            return []
        ending = [feed for feed, line in self._lines.items() if line.phase == "live" and not line.wanted]
        if ending:
            return [self._subscription(self._some(ending), now, ends=True)]
        starting = [
            feed for feed, line in self._lines.items() if line.phase == "off" and line.wanted and line.refused is None
        ]
        return [self._subscription(self._some(starting), now, ends=False)] if starting else []

    def _some(self, feeds: Iterable[Feed]) -> tuple[Feed, ...]:
        """As many as fit into one message; one that must be asked for by itself goes by itself."""
        chosen = tuple(islice(feeds, self.source.limits.feeds_per_message))
        suspect = next((feed for feed in chosen if self._lines[feed].alone), None)
        return (suspect,) if suspect else tuple(self.source.one_message(chosen))

    def _subscription(self, feeds: tuple[Feed, ...], now: float, *, ends: bool) -> Send:
        spell = self.source.unsubscribe if ends else self.source.subscribe
        for feed in feeds:
            self._lines[feed].phase = "ending" if ends else "asked"
        return self._ask(feeds, spell(feeds, self._last_request + 1), now)

    def _ask(self, feeds: tuple[Feed, ...], text: str, now: float) -> Send:
        self._last_request += 1
        deadline = now + self.source.limits.reply_seconds
        self._request = Request(self._last_request, feeds, len(feeds), deadline)
        return Send(text)

    def _watch(self, now: float) -> list[Action]:
        """Close a connection that nothing is wanted of, or that has gone dead."""
        overdue = self._request is not None and now >= self._request.deadline
        subscribed = any(line.phase != "off" for line in self._lines.values())
        if not self.idle:
            self._idle_from = None
        elif self._idle_from is None:
            self._idle_from = now
        if self._idle_from is not None and (not subscribed or now - self._idle_from >= GOODBYE_SECONDS):
            return [Close(None)]
        if overdue:
            return [Close(Break("DISCONNECT", "the venue left a request unanswered"))]
        if subscribed and now - self._pace.last >= self.source.limits.silence_seconds:
            return [Close(Break("SILENCE", f"nothing came for {self.source.limits.silence_seconds:g} s"))]
        return []

    def _bad_bytes(self, frame: bytes, reason: str, detail: str) -> BadBytes:
        return BadBytes(frame, reason, detail, self._connection)
