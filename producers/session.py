"""What is said and heard over one connection to a venue, and those that replace it; no I/O and no clock of its own.

The shell tells it what happens (`want`, `opened`, `receive`, `tick`, `lost`) and does as it answers: publish a record,
send a message, fetch something over REST, close the connection, replace it. `now` is a monotonic time in seconds that
stands still while the shell does not read its sockets, so that nothing expires which may lie there unread; `..._us` are
microseconds since the epoch.

It has one request open at a time: venues that do not say which request they answer can then be understood, and the
shell sends each within the venue's budget of messages.

Acknowledged is not delivered: a feed that says nothing for far longer than it usually does (`producers.pace`) is asked
after over REST where it is one of trades; if there is news, or nobody can tell, it is subscribed anew, then taken to
another connection, and meanwhile SILENT.

Make before break: `heir` gives a session for another connection that listens to the same feeds in the shadow of this
one, and `bequeath` lets it come forward, without a hole where it was ready.

Clocks (bars.md section 2) are for the trades of symbols that are collected one by one. Venue time is estimated as the
time here less the *largest* latency (received - event time) of any trade in the last minute or two: what the venue
printed before that has come. Past trades, which some venues send first, tell no latency. When venue time is QUIET_US
past the end of a window, each symbol whose trades all lie before that end gets one Clock that says the end. None is
written while the connection is down, or while a symbol waits for an id or for its first trade after a break. And
frames, of whatever feed, must have come without a pause of STALL_US for all of QUIET_US, else a stalled line would pass
for a quiet market; a connection that has brought nothing at all for SILENT_SECONDS counts as quiet again.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from producers.booktape import BookTape
from producers.contract import (
    BOOKS,
    CHANNELS,
    KLINES,
    TRADES,
    Answer,
    BadFrame,
    BookUpdate,
    Count,
    Event,
    Farewell,
    Feed,
    HasBooks,
    HasHistory,
    HasSnapshots,
    OutOfStep,
    Receipt,
    Reply,
    Span,
    Stream,
)
from producers.feedtape import FeedTape, MarketTape
from producers.line import Cure, Line, Tapes
from producers.pace import QUIET_US, Latency, Pace, Patience
from producers.tape import NOT_DEMANDED, Break, CountedTape, Output, Seen, Waits, count_of
from ravencore.records import Book, MarketRecord, Subscription, Trade

SILENT_JUMP = Break("SILENCE", "the feed said nothing for a time, and then the ids jump")
BEHIND = Break("SILENCE", "the feed brought nothing, though it was acknowledged, and REST had newer trades")
GOODBYE_SECONDS = 1.0
"""How long a connection that nothing is wanted of is kept for the replies to the last requests."""
LOOK_SECONDS = 0.5
"""How often all lines are looked at for silence, and for breaks that last."""
TOLD_US = 5_000_000
"""A break that lasts longer than this is told before it ends."""
SWEEP_SECONDS = 3.0
"""After a break, a feed of trades that brings nothing for this long is asked for over REST."""
SNAPSHOT_AGAIN_S, SNAPSHOT_CAP_S = 1.0, 30.0
MOST_TOLD = 1000
"""An answer with so many trades may not be all."""
MOST_CURES = 2
"""A new subscription, and one on another connection; then only patience helps."""


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
Tape = CountedTape | FeedTape


class Request(NamedTuple):
    """A request that the venue has not answered, or not for all of its feeds."""

    number: int
    feeds: tuple[Feed, ...]
    asked: int
    """How many feeds it asked for."""
    deadline: float


class Session:
    """Some feeds of one source over one connection at a time."""

    def __init__(self, source: Stream, url: str, habits: Habits = Habits()) -> None:  # noqa: B008 - it is immutable
        self.source, self.url = source, url
        self.connection: str | None = None
        self._connection = source.venue
        """As records of what happened name it: the venue where there is none."""
        self.frames = 0
        self.trades_received = 0
        self._habits = habits
        self._waits = Waits(habits.reorder_seconds, habits.repair_seconds if isinstance(source, HasHistory) else None)
        self._clock_interval_us = habits.clock_interval_us if source.scope == "symbol" else None
        self.lines: dict[Feed, Line] = {}
        self._tapes: dict[tuple[str, str], tuple[Line, Tape]] = {}
        """Where the records of a channel and symbol go."""
        self.restless: dict[int, tuple[Feed, str, CountedTape]] = {}
        """Tapes to which time makes a difference, by their id()."""
        self._due: dict[Feed, Line] = {}
        """Books with a change that waits for its time."""
        self._request: Request | None = None
        self._last_request = 0
        self._opened_us = 0
        self._frames_before = 0
        self._counted: int | None = None
        self._idle_from: float | None = None
        self._look_at = 0.0
        self._pace = Pace(0.0)
        self._latency = Latency()
        self.clock_us = 0

    # What is wanted

    def want(self, feed: Feed, seen: Mapping[str, Seen]) -> None:
        """Subscribe to a feed; `seen` holds the last known record of each of its symbols."""
        line = self.lines.get(feed)
        if line is None:
            line = self.lines[feed] = Line(feed, self._new_tapes(feed, seen))
        line.wanted, line.refused = True, None

    def unwant(self, feed: Feed) -> None:
        """End a feed."""
        if line := self.lines.get(feed):
            line.wanted = False

    def release(self, feed: Feed) -> Line | None:
        """Give up a feed that is off, with all that is known of it, for another session to `adopt`."""
        line = self.lines.get(feed)
        if line is None or line.phase != "off":
            return None
        del self.lines[feed]
        self._forget(line)
        return line

    def adopt(self, line: Line) -> None:
        """Take over a feed that another session has released."""
        line.stranded = False
        self.lines[line.feed] = line

    def knows(self, feed: Feed) -> bool:
        """Whether this session has had the feed before, and so remembers where it stopped."""
        return feed in self.lines

    @property
    def wanted(self) -> int:
        """How many feeds are wanted, or not ended yet."""
        return sum(line.wanted or line.phase != "off" for line in self.lines.values())

    @property
    def idle(self) -> bool:
        """Whether a connection would be for nothing."""
        return not any(line.wanted and line.refused is None for line in self.lines.values())

    # What it says of itself

    @property
    def held(self) -> int:
        """Records held back behind holes."""
        return sum(tape.held for _, _, tape in self.restless.values())

    @property
    def duplicates(self) -> int:
        """Records that had come before."""
        return sum(
            sum(tape.duplicates for tape in line.tapes.counted.values())
            + (line.tapes.others.duplicates if line.tapes.others is not None else 0)
            for line in self.lines.values()
            if not line.shadow
        )

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
            for feed, line in self.lines.items()
            if (line.wanted or line.phase != "off") and not line.shadow
        )

    def refusals(self) -> list[str]:
        """One sentence for each feed that the venue refused."""
        return [
            f"{self.source.venue} refuses {feed.channel} of {feed.symbol}: {line.refused}"
            for feed, line in self.lines.items()
            if line.wanted and line.refused is not None
        ]

    # What happens

    def opened(self, connection: str, now: float, now_us: int) -> list[Action]:
        """A connection is up; its name is its URL and number."""
        self.connection = self._connection = connection
        self._opened_us = now_us
        self._frames_before = self.frames
        self._counted = None
        self._pace = Pace(now)
        self._idle_from = None
        greeting = self.source.greeting(self._last_request + 1)
        return [self._ask((), greeting, now)] if greeting is not None else []

    def lost(self, why: Break, now_us: int) -> list[Action]:
        """The connection is gone."""
        out: list[Action] = []
        for line in self.lines.values():
            if line.phase != "off":
                out += self._ended(line, why if line.wanted else NOT_DEMANDED, now_us)
            if line.shadow:
                line.pending.clear()
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
        """What follows from time having come to `now`; to be called several times a second, connected or not."""
        out = self._expire(now, now_us)
        if now >= self._look_at:
            self._look_at = now + LOOK_SECONDS
            for line in self.lines.values():
                out += self._look(line, now, now_us)
        if self.connection is not None:
            out += self._clocks(now, now_us)
            out += self._speak(now)
            out += self._watch(now)
        return out

    def flush(self, now_us: int) -> list[Action]:
        """The collector stops, and all that came has come: nothing is held back any longer."""
        return [
            output
            for line in self.lines.values()
            for tape in line.tapes.counted.values()
            for output in tape.flush(now_us, self._connection)
        ]

    def closing(self, now_us: int) -> list[Action]:
        """The collector stops: breaks that last are told."""
        return [
            output for line in self.lines.values() if line.wanted for output in self._told_open(line, now_us, now_us)
        ]

    def _take(self, event: Event, frame: bytes, received_us: int, now: float) -> Sequence[Action]:
        channel = CHANNELS.get(type(event))  # type: ignore[arg-type] # what is no record has none
        if channel is not None:
            return self._take_record(channel, event, frame, now)  # type: ignore[arg-type]
        if isinstance(event, BookUpdate):
            return self._take_update(event, frame, now)
        if isinstance(event, Count):
            return self._take_count(event.number, received_us)
        if isinstance(event, Reply):
            return self._take_reply(event, frame, received_us, now)
        if isinstance(event, Answer):
            return [Send(event.text)]
        assert isinstance(event, Farewell)
        return [Renew(event.reason)]

    def _take_record(self, channel: str, record: MarketRecord, frame: bytes, now: float) -> Sequence[Action]:
        found = self._tapes.get((channel, record.symbol)) or self._find(channel, record.symbol)
        if found is None:
            return [self._unasked(frame, channel, record.symbol)]
        line, tape = found
        if not line.flowing:
            line.flowing, line.first_frame = True, self.frames
        line.last_received_us = record.received_time
        if not line.shadow:
            line.cures = 0
            line.tapes.patience.heard(now)
        if isinstance(tape, FeedTape):
            if line.shadow:
                line.pending.append(record)
                return ()
            return tape.add(record, self._connection)
        return self._take_counted(line, tape, record, now)

    def _take_counted(self, line: Line, tape: CountedTape, record: MarketRecord, now: float) -> Sequence[Action]:
        sequence = count_of(record)
        assert sequence is not None, "a venue of this contract counts its trades"
        assert not isinstance(record, Book)
        if isinstance(record, Trade):
            self.trades_received += not line.shadow
            if not (self.source.past_trades and line.first_frame == self.frames):
                self._latency.add(record.received_time, record.received_time - record.event_time)
        if sequence > (tape.last or sequence) + 1 and not tape.held and line.tapes.patience.was_long(now):
            tape.suspect(SILENT_JUMP)
        out = tape.add(record, sequence, now, self._connection, echo=line.shadow)  # type: ignore[arg-type]
        if line.tapes.whole is not None and not line.shadow:
            out = [*line.tapes.whole.heard(record, self._connection), *out]
        # The first that is held back lets nothing out; a Gap may be asked for from now on.
        if tape.restless and (not out or len(out) > 1):
            self.restless[id(tape)] = line.feed, record.symbol, tape
        return out

    def _find(self, channel: str, symbol: str) -> tuple[Line, Tape] | None:
        line = self.lines.get(self.source.feed(channel, symbol))
        if line is None:
            return None
        tapes = line.tapes
        tape: Tape
        if tapes.others is not None:
            tape = tapes.others
        else:
            tape = tapes.counted.get(symbol) or self._counted_tape(tapes, channel, symbol, None)
        self._tapes[channel, symbol] = line, tape
        return line, tape

    def _new_tapes(self, feed: Feed, seen: Mapping[str, Seen]) -> Tapes:
        tapes = Tapes(Patience(feed.channel))
        newest = next(iter(seen.values()), None)
        if feed.channel in {TRADES, KLINES}:
            for symbol, last in seen.items():
                self._counted_tape(tapes, feed.channel, symbol, last)
            if feed.channel == TRADES and self.source.scope == "market":
                last_us = max((last.time_us for last in seen.values()), default=None)
                tapes.whole = MarketTape(self.source.venue, feed, last_us)
        elif feed.channel == BOOKS and isinstance(self.source, HasBooks) and self.source.sequencer(feed.symbol):
            tapes.book = BookTape(self.source.venue, feed, newest, self._habits.book_interval_us)
        else:
            tapes.others = FeedTape(self.source.venue, feed, newest)
        return tapes

    def _counted_tape(self, tapes: Tapes, channel: str, symbol: str, seen: Seen | None) -> CountedTape:
        tape = CountedTape(self.source.venue, channel, symbol, seen, self._waits)
        tapes.counted[symbol] = tape
        if tape.restless:
            self.restless[id(tape)] = self.source.feed(channel, symbol), symbol, tape
        return tape

    def _forget(self, line: Line) -> None:
        self._tapes = {key: found for key, found in self._tapes.items() if found[0] is not line}

    # Frames that the venue numbers

    def _take_count(self, number: int, now_us: int) -> list[Action]:
        """A jump in the connection's count: of trades the ids tell what is missing, of all else nobody knows."""
        last, self._counted = self._counted, number
        if last is None or number == last + 1:
            return []
        if number <= last:
            # Documented as frames out of order, which may be taken as they are.
            self._counted = last
            return []
        why = Break("SEQUENCE", f"{number - last - 1} frames of the connection are missing")
        out: list[Action] = []
        for line in self.lines.values():
            if line.phase != "off" and not line.tapes.counted:
                out += self._interrupted(line, why, now_us)
                if line.sequencer is not None:
                    line.cure, line.sequencer = Cure(why, moves=False), None
        return out

    # Books

    def _take_update(self, update: BookUpdate, frame: bytes, now: float) -> Sequence[Action]:
        line = self.lines.get(self.source.feed(BOOKS, update.symbol))
        if line is None or line.tapes.book is None:
            return [self._unasked(frame, BOOKS, update.symbol)]
        line.last_received_us = update.received_time
        if not line.shadow:
            line.cures = 0
            line.tapes.patience.heard(now)
        if line.sequencer is None:
            # It was given up, and the venue has not heard of that yet.
            return ()
        try:
            changed = line.sequencer.update(update)
        except OutOfStep as error:
            return self._out_of_step(line, error, update.received_time, now)
        out = self._changed(line, update) if changed else []
        return [*out, *self._snapshot(line, now)]

    def _changed(self, line: Line, update: BookUpdate) -> list[Action]:
        assert line.tapes.book is not None
        assert line.sequencer is not None
        line.flowing, line.update = True, update
        if line.shadow:
            return []
        out = line.tapes.book.changed(line.sequencer, update, self._connection)
        if not out:
            self._due[line.feed] = line
        return [*out]

    def _out_of_step(self, line: Line, error: OutOfStep, now_us: int, now: float) -> list[Action]:
        why = Break(error.cause, str(error))
        assert line.sequencer is not None
        out = [] if line.shadow else self._interrupted(line, why, now_us)
        if not line.sequencer.wants_snapshot:
            line.cure = line.cure or Cure(why, moves=False)
            line.sequencer = None
        return [*out, *self._snapshot(line, now)]

    def _snapshot(self, line: Line, now: float) -> list[Action]:
        wants = line.sequencer is not None and line.sequencer.wants_snapshot
        if not wants or line.snapshot_asked or now < line.snapshot_at:
            return []
        line.snapshot_asked = True
        return [FetchBook(line.feed)]

    def book_told(self, fetch: FetchBook, body: bytes, received_us: int, now: float) -> list[Action]:
        """What follows from the answer with a whole book."""
        line = self.lines.get(fetch.feed)
        assert isinstance(self.source, HasSnapshots)
        if line is None or line.sequencer is None or not line.snapshot_asked:
            return []
        line.snapshot_asked = False
        # A snapshot that is too old for what has come is asked for again, and not at once.
        line.snapshot_at = now + SNAPSHOT_AGAIN_S
        try:
            update = self.source.whole_book(fetch.feed.symbol, body, Receipt(received_us, self._opened_us))
            line.snapshots_failed = 0
            return self._changed(line, update) if line.sequencer.whole(update) else []
        except BadFrame as error:
            return [self._bad_bytes(body, error.reason, str(error)), *self.book_not_told(fetch, now)]
        except OutOfStep as error:
            return self._out_of_step(line, error, received_us, now)

    def book_not_told(self, fetch: FetchBook, now: float) -> list[Action]:
        """The request failed."""
        if line := self.lines.get(fetch.feed):
            line.snapshot_asked = False
            line.snapshot_at = now + min(SNAPSHOT_AGAIN_S * 2**line.snapshots_failed, SNAPSHOT_CAP_S)
            line.snapshots_failed += 1
        return []

    # Trades over REST

    def told(self, fetch: FetchTrades, body: bytes, received_us: int, now: float) -> list[Action]:
        """What follows from the answer to a question for past trades."""
        assert isinstance(self.source, HasHistory)
        try:
            trades = self.source.past(fetch.symbol, body, Receipt(received_us, self._opened_us))
        except BadFrame as error:
            return [self._bad_bytes(body, error.reason, str(error)), *self.not_told(fetch, now)]
        if fetch.tape is None:
            return self._swept(fetch, trades, received_us, now)
        line = self.lines.get(fetch.feed)
        out: list[Action] = []
        if line is not None and line.suspected and fetch.span.last is None:
            out += self._heed_probe(line, fetch.tape, trades, received_us, now)
        return [*out, *fetch.tape.answered(trades, now, received_us, self._connection)]

    def not_told(self, fetch: FetchTrades, now: float) -> list[Action]:
        """The request failed."""
        line = self.lines.get(fetch.feed)
        if fetch.tape is not None:
            fetch.tape.unanswered(now)
        elif line is not None:
            line.sweep_at = now + SWEEP_SECONDS
        if line is not None and line.suspected and line.phase == "live":
            # REST cannot tell: a new subscription costs little.
            line.suspected, line.cure = False, Cure(BEHIND, moves=False)
            line.cures += 1
        return []

    def told_nothing(self, fetch: FetchTrades, now_us: int, now: float) -> list[Action]:
        """The venue refuses the question: as good as an answer without trades."""
        return [] if fetch.tape is None else [*fetch.tape.answered((), now, now_us, self._connection)]

    def _swept(self, fetch: FetchTrades, trades: Sequence[Trade], now_us: int, now: float) -> list[Action]:
        """Trades of all symbols of a feed, which may bring symbols that were never heard of."""
        out: list[Action] = []
        by_symbol: dict[str, list[Trade]] = {}
        for trade in trades:
            by_symbol.setdefault(trade.symbol, []).append(trade)
        for symbol, some in by_symbol.items():
            found = self._find(fetch.feed.channel, symbol)
            if found is not None and isinstance(tape := found[1], CountedTape):
                out += tape.answered(some, now, now_us, self._connection)
                self.restless[id(tape)] = fetch.feed, symbol, tape
        line = self.lines.get(fetch.feed)
        if line is not None and line.tapes.whole is not None:
            out += self._whole_swept(line.tapes.whole, fetch, trades, out, now_us)
        return out

    def _whole_swept(
        self, whole: MarketTape, fetch: FetchTrades, trades: Sequence[Trade], out: Sequence[Action], now_us: int
    ) -> list[Action]:
        """All that was missed has been told, or there is more of it."""
        newest_us = max((trade.event_time for trade in trades), default=0)
        if len(trades) >= MOST_TOLD and newest_us > (fetch.span.from_us or 0):
            return [fetch._replace(span=fetch.span._replace(from_us=newest_us))]
        news = sum(isinstance(output, Trade) for output in out)
        return [*whole.swept(news, now_us, self._connection)]

    def _sweep(self, line: Line, now: float) -> list[Action]:
        """Ask what was missed in a break, once, where nothing came that would tell."""
        if line.sweep_at is None or now < line.sweep_at or line.phase != "live" or self._waits.repair is None:
            return []
        line.sweep_at = None
        if (whole := line.tapes.whole) is not None:
            from_us = whole.last_us if whole.broken or whole.ended else None
            return (
                []
                if from_us is None
                else [FetchTrades(line.feed, line.feed.symbol, Span(0, None, from_us, None), None)]
            )
        if any(tape.broken is not None and not tape.held for tape in line.tapes.counted.values()):
            self._probe(line)
        return []

    # Requests and replies

    def _take_reply(self, reply: Reply, frame: bytes, received_us: int, now: float) -> list[Action]:
        request = self._request
        if request is None or reply.request not in (None, request.number):
            return [self._bad_bytes(frame, "unreadable_frame", reply.error or "a reply to no request of ours")]
        answered = request.feeds if reply.feeds is None else [feed for feed in request.feeds if feed in reply.feeds]
        rest = tuple(feed for feed in request.feeds if feed not in answered)
        doubtful = reply.feeds is None and request.asked > 1
        out: list[Action] = []
        for feed in answered:
            out += self._answered(self.lines.get(feed), reply.error, doubtful=doubtful, now_us=received_us, now=now)
        if reply.left_out is not None:
            for feed in rest:
                line = self.lines.get(feed)
                out += self._answered(line, reply.left_out, doubtful=False, now_us=received_us, now=now)
            rest = ()
        self._request = request._replace(feeds=rest) if rest else None
        return out

    def _answered(
        self, line: Line | None, error: str | None, *, doubtful: bool, now_us: int, now: float
    ) -> list[Action]:
        if line is None:
            return []
        if line.phase == "ending":
            return self._unsubscribed(line, now_us)
        if error is None:
            line.phase = "live"
            line.sweep_at = now + SWEEP_SECONDS
            if not line.shadow:
                line.tapes.patience.start(now)
            return []
        line.off()
        line.alone = doubtful
        line.refused = None if doubtful else error
        return [] if doubtful else self._told_refused(line, error, now_us)

    def _unsubscribed(self, line: Line, now_us: int) -> list[Action]:
        cure, line.cure = line.cure, None
        out = self._ended(line, cure.why if cure is not None and line.wanted else NOT_DEMANDED, now_us)
        if cure is None or not cure.moves or not line.wanted:
            return out
        line.stranded = True
        return [*out, Move(line.feed)]

    def _told_refused(self, line: Line, error: str, now_us: int) -> list[Action]:
        out = self._interrupted(line, Break("REFUSED", error), now_us)
        return [*out, *self._told_open(line, now_us, now_us)]

    def _ended(self, line: Line, why: Break, now_us: int) -> list[Action]:
        line.off()
        self._due.pop(line.feed, None)
        return [] if line.shadow else self._interrupted(line, why, now_us)

    def _interrupted(self, line: Line, why: Break, now_us: int) -> list[Action]:
        return [*line.tapes.interrupt(why, now_us, self._connection)]

    # Time

    def _expire(self, now: float, now_us: int) -> list[Action]:
        out: list[Action] = []
        for key, (feed, symbol, tape) in list(self.restless.items()):
            out += tape.expire(now, now_us, self._connection)
            if (span := tape.ask(now)) is not None:
                out.append(FetchTrades(feed, symbol, span, tape))
            if not tape.restless:
                del self.restless[key]
        for feed, line in list(self._due.items()):
            assert line.tapes.book is not None
            assert line.sequencer is not None
            told = line.tapes.book.expire(line.sequencer, now_us, self._connection)
            out += told
            if told or not line.tapes.book.due:
                del self._due[feed]
        return out

    def _look(self, line: Line, now: float, now_us: int) -> list[Action]:
        """Whether a feed is strangely silent, or a break lasts."""
        out = self._snapshot(line, now)
        if line.shadow:
            return out
        if line.wanted:
            out += self._told_open(line, now_us - TOLD_US, now_us)
        out += self._sweep(line, now)
        silent_s = line.tapes.patience.silence(now)
        if silent_s is not None and line.phase == "live" and line.cure is None:
            out += self._suspect(line, silent_s, now, now_us)
        return out

    def _told_open(self, line: Line, before_us: int, now_us: int) -> list[Action]:
        """Gaps of what broke before this time, and is so still."""
        out: list[Action] = []
        for tape in line.tapes.lasting:
            if tape.broken is not None:
                tape.broken_us = tape.broken_us or now_us
                out += tape.tell_open(now_us, self._connection) if tape.broken_us <= before_us else []
        return out

    def _suspect(self, line: Line, silent_s: float, now: float, now_us: int) -> list[Action]:
        """A feed says nothing for strangely long."""
        tapes = line.tapes.counted
        if self._waits.repair is not None and tapes and self.source.scope == "symbol" and line.cures == 0:
            line.tapes.patience.stop()
            line.suspected = True
            self._probe(line)
            return []
        why = Break("SILENCE", f"nothing came for {silent_s:.1f} s, though it was acknowledged")
        return self._cured(line, why, now, now_us)

    def _probe(self, line: Line) -> None:
        for symbol, tape in line.tapes.counted.items():
            tape.probe()
            self.restless[id(tape)] = line.feed, symbol, tape

    def _heed_probe(
        self, line: Line, tape: CountedTape, trades: Sequence[Trade], now_us: int, now: float
    ) -> list[Action]:
        """There is news, or there is not, of trades that the feed should have brought."""
        line.suspected = False
        if line.phase != "live":
            return []
        if not any(trade.sequence is not None and trade.sequence > (tape.last or 0) for trade in trades):
            line.tapes.patience.forgive(now)
            return []
        return self._cured(line, BEHIND, now, now_us)

    def _cured(self, line: Line, why: Break, now: float, now_us: int) -> list[Action]:
        """Subscribe anew, then elsewhere; then wait longer."""
        line.cures += 1
        if line.cures > MOST_CURES:
            line.tapes.patience.forgive(now)
            return []
        line.cure = Cure(why, moves=line.cures == MOST_CURES)
        return self._interrupted(line, why, now_us)

    def _clocks(self, now: float, now_us: int) -> list[Action]:
        worst_us = self._latency.worst_us
        if self._clock_interval_us is None or worst_us is None:
            return []
        venue_us = now_us - worst_us - QUIET_US
        reached_us = venue_us - venue_us % self._clock_interval_us
        if reached_us <= self.clock_us or not self._pace.quiet_is_real(now, now_us):
            return []
        self.clock_us = reached_us
        return [
            Clock(symbol, reached_us)
            for feed, line in self.lines.items()
            if line.phase == "live" and feed.channel == TRADES and not line.shadow
            for symbol, tape in line.tapes.counted.items()
            if tape.quiet_before(reached_us)
        ]

    def _speak(self, now: float) -> list[Action]:
        """At most one request, and none while one is open."""
        if self._request is not None:
            return []
        ending = [feed for feed, line in self.lines.items() if line.phase == "live" and (line.cure or not line.wanted)]
        if ending:
            return [self._subscription(self._some(ending), now, ends=True)]
        starting = [
            feed
            for feed, line in self.lines.items()
            if line.phase == "off" and line.wanted and line.refused is None and not line.stranded
        ]
        return [self._subscription(self._some(starting), now, ends=False)] if starting else []

    def _some(self, feeds: Iterable[Feed]) -> tuple[Feed, ...]:
        """As many as fit into one message; one that must be asked for by itself goes by itself."""
        chosen = tuple(islice(feeds, self.source.limits.feeds_per_message))
        suspect = next((feed for feed in chosen if self.lines[feed].alone), None)
        return (suspect,) if suspect else tuple(self.source.one_message(chosen))

    def _subscription(self, feeds: tuple[Feed, ...], now: float, *, ends: bool) -> Send:
        spell = self.source.unsubscribe if ends else self.source.subscribe
        for feed in feeds:
            line = self.lines[feed]
            line.phase = "ending" if ends else "asked"
            if not ends and line.tapes.book is not None and isinstance(self.source, HasBooks):
                line.sequencer = self.source.sequencer(feed.symbol)
        return self._ask(feeds, spell(feeds, self._last_request + 1), now)

    def _ask(self, feeds: tuple[Feed, ...], text: str, now: float) -> Send:
        self._last_request += 1
        deadline = now + self.source.limits.reply_seconds
        self._request = Request(self._last_request, feeds, len(feeds), deadline)
        return Send(text)

    def _watch(self, now: float) -> list[Action]:
        """Close a connection that nothing is wanted of, or that has gone dead."""
        overdue = self._request is not None and now >= self._request.deadline
        subscribed = any(line.phase != "off" for line in self.lines.values())
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

    def _unasked(self, frame: bytes, channel: str, symbol: str) -> BadBytes:
        return self._bad_bytes(frame, "unreadable_frame", f"{channel} of {symbol} were never asked for")

    # Make before break

    def heir(self) -> "Session":
        """A session for another connection, which listens to the same feeds in the shadow of this one."""
        heir = Session(self.source, self.url, self._habits)
        heir.lines = {
            feed: line.in_shadow() for feed, line in self.lines.items() if line.wanted and line.refused is None
        }
        return heir

    @property
    def ready(self) -> bool:
        """Whether all feeds would go on without a hole if the other connection ended now."""
        return self.connection is not None and all(line.ready for line in self.lines.values())

    def bequeath(self, heir: "Session", why: Break, now: float, now_us: int) -> list[Action]:
        """Let the heir come forward; feeds that it is not ready for break off, for this reason."""
        out: list[Action] = []
        for feed, line in self.lines.items():
            other = heir.lines.get(feed)
            if other is None:
                if line.phase != "off":
                    out += self._ended(line, why if line.wanted else NOT_DEMANDED, now_us)
                heir.adopt(line)
                continue
            if line.phase != "off" and not other.ready:
                out += self._interrupted(line, why, now_us)
            out += heir.come_forward(other, now)
        heir.restless |= self.restless
        heir.clock_us = self.clock_us
        self.lines, self.restless, self._due, self._tapes = {}, {}, {}, {}
        return out

    def come_forward(self, line: Line, now: float) -> list[Action]:
        """Publish what this feed brings from now on, and what of it the other connection did not bring."""
        line.shadow = False
        pending, line.pending = line.pending, []
        if line.phase == "live":
            line.tapes.patience.start(now)
        if line.tapes.others is not None:
            return [*line.tapes.others.take_over(pending, self._connection)]
        if line.sequencer is not None and line.sequencer.in_step and line.update is not None:
            return self._changed(line, line.update)
        return []
