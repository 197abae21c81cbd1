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

from collections.abc import Iterable, Mapping, Sequence, Set
from itertools import islice
from typing import NamedTuple

from producers.actions import (
    Action,
    Clock,
    Close,
    FetchTrades,
    Habits,
    Move,
    Renew,
    Send,
)
from producers.asking import SWEEP_SECONDS, Asking
from producers.contract import (
    CHANNELS,
    TRADES,
    Answer,
    BadFrame,
    BookUpdate,
    Count,
    Event,
    Farewell,
    Feed,
    HasBooks,
    Receipt,
    Reply,
    Stream,
)
from producers.desk import Desk
from producers.feedtape import FeedTape
from producers.keeping import Keeping
from producers.line import Line
from producers.pace import QUIET_US, Latency, Pace
from producers.tape import NOT_DEMANDED, Break, CountedTape, Seen, count_of
from ravencore.records import Book, MarketRecord, Subscription, Trade

TOLD_US = 5_000_000
"""A break that lasts longer than this is told before it ends."""
SILENT_JUMP = Break("SILENCE", "the feed said nothing for a time, and then the ids jump")
READING_SECONDS, LONGEST_READING_SECONDS = 1.0, 50.0
"""Where frames come without a pause like that, a reply is waited for so much longer."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 30.0
"""After a request that the venue had no time for; doubled each time."""
LOOK_SECONDS = 0.5
"""How often all lines are looked at for silence, and for breaks that last."""


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
        self.desk = Desk(source, habits)
        self.books, self.asking = Keeping(self.desk), Asking(self.desk)
        self.frames = 0
        self.trades_received = 0
        self._habits = habits
        self._clock_interval_us = habits.clock_interval_us if source.scope == "symbol" else None
        self._request: Request | None = None
        self._last_request = 0
        self._frames_before = 0
        self._counted: int | None = None
        self._look_at = 0.0
        self._quiet_until = 0.0
        self._times_put_off = 0
        """Requests in a row that the venue had no time for."""
        self._greets = False
        """Whether the greeting of this connection is still to be answered."""
        self.replaces = False
        """Whether another connection still brings the same, until it is given up."""
        self._pace = Pace(0.0)
        self._latency = Latency()
        self.clock_us = 0

    # What is wanted

    def want(self, feed: Feed, seen: Mapping[str, Seen]) -> None:
        """Subscribe to a feed; `seen` holds the last known record of each of its symbols."""
        line = self.desk.lines.get(feed)
        if line is None:
            line = self.desk.ended.pop(feed, None) or Line(feed, self.desk.new_tapes(feed, seen))
            self.desk.lines[feed] = line
        line.wanted, line.refused = True, None

    def unwant(self, feed: Feed) -> None:
        """End a feed."""
        if line := self.desk.lines.get(feed):
            line.wanted = False

    def release(self, feed: Feed) -> Line | None:
        """Give up a feed that is off, with all that is known of it, for another session to `adopt`."""
        if (ended := self.desk.ended.pop(feed, None)) is not None:
            return ended
        line = self.desk.lines.get(feed)
        if line is None or line.phase != "off":
            return None
        del self.desk.lines[feed]
        self.desk.no_longer_find({feed})
        return line

    def adopt(self, line: Line) -> None:
        """Take over a feed that another session has released."""
        line.stranded = False
        self.desk.lines[line.feed] = line

    def keep(self, feed: Feed) -> None:
        """A feed that was to be had elsewhere is not: this connection is being replaced."""
        self.desk.lines[feed].stranded = False

    def knows(self, feed: Feed) -> bool:
        """Whether this session has had the feed before, and so remembers where it stopped."""
        return feed in self.desk.lines or feed in self.desk.ended

    def forget(self, symbols: Set[str]) -> None:
        """These symbols are no more: forget their ended feeds, and what was known of them in feeds of many."""
        self.desk.forget(symbols)

    @property
    def has_room(self) -> bool:
        """Whether one feed more may be wanted, beside those that are, or have not ended yet."""
        most, lines = self.source.limits.feeds_per_connection, self.desk.lines
        return len(lines) < most or sum(line.wanted or line.phase != "off" for line in lines.values()) < most

    @property
    def idle(self) -> bool:
        """Whether a connection would be for nothing."""
        return not any(line.wanted and line.refused is None for line in self.desk.lines.values())

    @property
    def at_rest(self) -> bool:
        """Whether time makes no difference to it: there is no connection, and nothing is wanted or held back."""
        return self.connection is None and not (self.desk.lines or self.desk.restless)

    # What it says of itself

    @property
    def held(self) -> int:
        """Records held back behind holes."""
        return sum(tape.held for _, _, tape in self.desk.restless.values())

    @property
    def asking_for(self) -> int:
        """Symbols with a hole that REST may still fill."""
        return sum(tape.asks for _, _, tape in self.desk.restless.values())

    @property
    def duplicates(self) -> int:
        """Records that had come before."""
        lines = (*self.desk.lines.values(), *self.desk.ended.values())
        return self.desk.duplicates_forgotten + sum(line.tapes.duplicates for line in lines if not line.shadow)

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
            for feed, line in self.desk.lines.items()
            if (line.wanted or line.phase != "off") and not line.shadow
        )

    def refusals(self) -> list[str]:
        """One sentence for each feed that the venue refused."""
        return [
            f"{self.source.venue} refuses {feed.channel} of {feed.symbol}: {line.refused}"
            for feed, line in self.desk.lines.items()
            if line.wanted and line.refused is not None
        ]

    # What happens

    def opened(self, connection: str, now: float, now_us: int) -> list[Action]:
        """A connection is up; its name is its URL and number."""
        self.connection = self.desk.connection = connection
        self.desk.opened_us = now_us
        self._frames_before = self.frames
        self._counted = None
        self._pace = Pace(now)
        if self.replaces:
            for line in self.desk.lines.values():
                if line.tapes.others is not None:
                    line.tapes.others.expect()
        return self._greet(now)

    def _greet(self, now: float) -> list[Action]:
        greeting = self.source.greeting(self._last_request + 1)
        self._greets = greeting is not None
        return [self._ask((), greeting, now)] if greeting is not None else []

    def lost(self, why: Break, now_us: int) -> list[Action]:
        """The connection is gone."""
        out: list[Action] = []
        for line in self.desk.lines.values():
            if line.phase != "off":
                out += self._ended(line, why if line.wanted else NOT_DEMANDED, now_us)
            if line.shadow and line.tapes.others is not None:
                line.tapes.others.shadow_lost()
        self._request = None
        self.connection, self.desk.connection = None, self.source.venue
        return out

    def receive(self, frame: bytes, received_us: int, now: float) -> Sequence[Action]:
        """What follows from a frame."""
        self.frames += 1
        self._pace.frame(now, received_us)
        try:
            events = self.source.parse(
                frame, Receipt(received_us, self.desk.opened_us, self.frames - self._frames_before)
            )
        except BadFrame as error:
            return [self.desk.bad_bytes(frame, error.reason, str(error))]
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
            for line in self.desk.lines.values():
                out += self._look(line, now, now_us)
            self.desk.put_aside(now, hears=self.connection is not None)
        if self.connection is not None:
            out += self._clocks(now, now_us)
            out += self._speak(now)
            out += self._watch(now)
        return out

    def flush(self, now_us: int) -> list[Action]:
        """The collector stops, and all that came has come: nothing is held back any longer."""
        return [
            output
            for line in (*self.desk.lines.values(), *self.desk.ended.values())
            for tape in line.tapes.counted.values()
            for output in tape.flush(now_us, self.desk.connection)
        ]

    def closing(self, now_us: int) -> list[Action]:
        """The collector stops: breaks that last are told."""
        return [
            output
            for line in self.desk.lines.values()
            if line.wanted
            for output in self._told_open(line, now_us, now_us)
        ]

    def _take(self, event: Event, frame: bytes, received_us: int, now: float) -> Sequence[Action]:
        channel = CHANNELS.get(type(event))  # type: ignore[arg-type] # what is no record has none
        if channel is not None:
            return self._take_record(channel, event, frame, now)  # type: ignore[arg-type]
        if isinstance(event, BookUpdate):
            return self.books.update(event, frame, now)
        if isinstance(event, Count):
            return self._take_count(event.number, received_us)
        if isinstance(event, Reply):
            return self._take_reply(event, frame, received_us, now)
        if isinstance(event, Answer):
            return [Send(event.text)]
        assert isinstance(event, Farewell)
        return [Renew(event.reason)]

    def _take_record(self, channel: str, record: MarketRecord, frame: bytes, now: float) -> Sequence[Action]:
        found = self.desk.tapes.get((channel, record.symbol)) or self.desk.find(channel, record.symbol)
        if found is None:
            return [self.desk.unasked(frame, channel, record.symbol)]
        line, tape = found
        if not line.flowing:
            line.flowing, line.first_frame = True, self.frames
        line.last_received_us = record.received_time
        if isinstance(tape, FeedTape):
            if line.shadow:
                tape.shadow(record)
                return ()
            out = tape.add(record, self.desk.connection)
            (line.heard if out and out[-1] is record else line.repeated)(now)
            return out
        if not line.shadow:
            line.heard(now)
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
        out = tape.add(record, sequence, now, self.desk.connection, echo=line.shadow)  # type: ignore[arg-type]
        if line.tapes.whole is not None and not line.shadow:
            out = [*line.tapes.whole.heard(record, self.desk.connection), *out]
        # The first that is held back lets nothing out; a Gap may be asked for from now on.
        if tape.restless and (not out or len(out) > 1):
            self.desk.restless[id(tape)] = line.feed, record.symbol, tape
        return out

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
        for line in self.desk.lines.values():
            if line.phase != "off" and not line.tapes.counted:
                out += self.desk.interrupted(line, why, now_us)
                if line.sequencer is not None:
                    self.books.give_up(line, why)
        return out

    # Requests and replies

    def _take_reply(self, reply: Reply, frame: bytes, received_us: int, now: float) -> list[Action]:
        request = self._request
        if request is None or reply.request not in (None, request.number):
            return [self.desk.bad_bytes(frame, "unreadable_frame", reply.error or "a reply to no request of ours")]
        answered = request.feeds if reply.feeds is None else [feed for feed in request.feeds if feed in reply.feeds]
        rest = tuple(feed for feed in request.feeds if feed not in answered)
        doubtful = reply.feeds is None and request.asked > 1
        out: list[Action] = []
        if not reply.momentary:
            self._times_put_off, self._greets = 0, False
        else:
            self._put_off(answered, now)
            answered = []
        for feed in answered:
            out += self._answered(
                self.desk.lines.get(feed), reply.error, doubtful=doubtful, now_us=received_us, now=now
            )
        if reply.left_out is not None:
            for feed in rest:
                line = self.desk.lines.get(feed)
                out += self._answered(line, reply.left_out, doubtful=False, now_us=received_us, now=now)
            rest = ()
        self._request = request._replace(feeds=rest) if rest else None
        return out

    def _put_off(self, feeds: Iterable[Feed], now: float) -> None:
        """The venue has no time for a request: its feeds stay as they were, and are asked for again later."""
        for line in filter(None, map(self.desk.lines.get, feeds)):
            line.phase = "live" if line.phase == "ending" else "off"
        self._quiet_until = now + min(FIRST_PAUSE_S * 2**self._times_put_off, LONGEST_PAUSE_S)
        self._times_put_off += 1

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
            line.tapes.begin(now_us)
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
        if line.shadow:
            # The other connection may still bring it.
            return []
        why = Break("REFUSED", error)
        out = self.desk.interrupted(line, why, now_us)
        line.tapes.refuse(why, now_us)
        return [*out, *self._told_open(line, now_us, now_us)]

    def _ended(self, line: Line, why: Break, now_us: int) -> list[Action]:
        line.off()
        self.books.due.pop(line.feed, None)
        return [] if line.shadow else self.desk.interrupted(line, why, now_us)

    # Time

    def _expire(self, now: float, now_us: int) -> list[Action]:
        out: list[Action] = []
        for key, (feed, symbol, tape) in list(self.desk.restless.items()):
            out += tape.expire(now, now_us, self.desk.connection)
            if (span := tape.ask(now)) is not None:
                out.append(FetchTrades(feed, symbol, span, tape))
            if not tape.restless:
                del self.desk.restless[key]
        return [*out, *self.books.expire(now_us)]

    def _look(self, line: Line, now: float, now_us: int) -> list[Action]:
        """Whether a feed is strangely silent, or a break lasts."""
        out = self.books.snapshot(line, now)
        if line.shadow:
            return out
        if line.wanted:
            out += self._told_open(line, now_us - TOLD_US, now_us)
        out += self.asking.sweep(line, now)
        silent_s = line.tapes.patience.silence(now)
        if silent_s is not None and line.phase == "live" and line.cure is None and not line.suspected:
            out += self.asking.suspect(line, silent_s, now, now_us)
        return out

    def _told_open(self, line: Line, before_us: int, now_us: int) -> list[Action]:
        """Gaps of what broke before this time, and is so still."""
        out: list[Action] = []
        for tape in line.tapes.lasting:
            if tape.broken is not None:
                tape.broken_us = tape.broken_us or now_us
                out += tape.tell_open(now_us, self.desk.connection) if tape.broken_us <= before_us else []
        return out

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
            for feed, line in self.desk.lines.items()
            if line.phase == "live" and feed.channel == TRADES and not line.shadow
            for symbol, tape in line.tapes.counted.items()
            if tape.quiet_before(reached_us)
        ]

    def _speak(self, now: float) -> list[Action]:
        """At most one request, and none while one is open or the venue is busy, or on a connection that is closed next.

        Hundreds of connections that are wanted no more would have to wait for the venue's budget of messages.
        """
        if self._request is not None or now < self._quiet_until or self.idle:
            return []
        if self._greets:
            return self._greet(now)
        ending = [
            feed for feed, line in self.desk.lines.items() if line.phase == "live" and (line.cure or not line.wanted)
        ]
        if ending:
            return [self._subscription(self._some(ending), now, ends=True)]
        starting = [
            feed
            for feed, line in self.desk.lines.items()
            if line.phase == "off" and line.wanted and line.refused is None and not line.stranded
        ]
        return [self._subscription(self._some(starting), now, ends=False)] if starting else []

    def _some(self, feeds: Iterable[Feed]) -> tuple[Feed, ...]:
        """As many as fit into one message; one that must be asked for by itself goes by itself."""
        chosen = tuple(islice(feeds, self.source.limits.feeds_per_message))
        suspect = next((feed for feed in chosen if self.desk.lines[feed].alone), None)
        return (suspect,) if suspect else tuple(self.source.one_message(chosen))

    def _subscription(self, feeds: tuple[Feed, ...], now: float, *, ends: bool) -> Send:
        spell = self.source.unsubscribe if ends else self.source.subscribe
        for feed in feeds:
            line = self.desk.lines[feed]
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
        if self.idle:
            return [Close(None)]
        overdue = self._request is not None and now >= self._request.deadline
        if overdue and self._request is not None and now - self._pace.last < READING_SECONDS:
            # Its reply may lie behind all that is being read.
            overdue = now >= self._request.deadline + LONGEST_READING_SECONDS
        if overdue:
            return [Close(Break("DISCONNECT", "the venue left a request unanswered"))]
        subscribed = any(line.phase != "off" for line in self.desk.lines.values())
        if subscribed and now - self._pace.last >= self.source.limits.silence_seconds:
            return [Close(Break("SILENCE", f"nothing came for {self.source.limits.silence_seconds:g} s"))]
        return []

    # Make before break

    def heir(self) -> "Session":
        """A session for another connection, which listens to the same feeds in the shadow of this one."""
        heir = Session(self.source, self.url, self._habits)
        heir.replaces = True
        heir.desk.lines = {
            feed: line.in_shadow() for feed, line in self.desk.lines.items() if line.wanted and line.refused is None
        }
        return heir

    @property
    def listens(self) -> bool:
        """Whether all feeds are acknowledged on this connection, their books in step or not."""
        wanted = [line for line in self.desk.lines.values() if line.wanted and line.refused is None]
        return self.connection is not None and all(line.phase == "live" for line in wanted)

    @property
    def ready(self) -> bool:
        """Whether all feeds would go on without a hole if the other connection ended now."""
        return self.connection is not None and all(line.ready for line in self.desk.lines.values())

    def held_back(self, now: float) -> None:
        """What may have come is not read: that is no silence of the venue's."""
        self._pace.last = now

    @property
    def lead(self) -> int:
        """Records that this connection has brought and the one that it is to replace has not."""
        if not self.replaces:
            return 0
        return sum(line.tapes.others.lead for line in self.desk.lines.values() if line.tapes.others is not None)

    def bequeath(self, heir: "Session", why: Break, now: float, now_us: int) -> list[Action]:
        """Let the heir come forward; feeds that it is not ready for break off, for this reason."""
        out: list[Action] = []
        for feed, line in self.desk.lines.items():
            other = heir.desk.lines.get(feed)
            if other is None:
                if line.phase != "off":
                    out += self._ended(line, why if line.wanted else NOT_DEMANDED, now_us)
                heir.adopt(line)
                continue
            # Who wants it again meanwhile has said so here.
            other.wanted = line.wanted
            if line.phase != "off" and not other.ready:
                out += self.desk.interrupted(line, why, now_us)
            out += heir.come_forward(other, now, now_us)
        heir.desk.ended |= self.desk.ended
        heir.desk.restless |= self.desk.restless
        heir.clock_us = self.clock_us
        heir.replaces = False
        for forgotten in (self.desk.lines, self.desk.ended, self.desk.restless, self.desk.tapes, self.books.due):
            forgotten.clear()
        return out

    def come_forward(self, line: Line, now: float, now_us: int) -> list[Action]:
        """Publish what this feed brings from now on, and what of it the other connection did not bring."""
        line.shadow = False
        if line.refused is not None and line.wanted:
            return self._told_refused(line, line.refused, now_us)
        self._doubt(line, now, now_us)
        if line.phase == "live":
            line.tapes.patience.start(now)
        if line.tapes.others is not None:
            return [*line.tapes.others.take_over(now_us, self.desk.connection)]
        if line.sequencer is not None and line.sequencer.in_step and line.update is not None:
            return self.books.changed(line, line.update)
        return []

    def _doubt(self, line: Line, now: float, now_us: int) -> None:
        """A feed without counting ids that was strangely quiet on the old connection may have been deaf there."""
        silent_s = line.tapes.patience.doubtful(now)
        if silent_s is None:
            return
        why = Break("SILENCE", f"nothing came for {silent_s:.1f} s on a connection that was replaced then")
        for tape in (line.tapes.others, line.tapes.book):
            if tape is not None:
                tape.interrupt(why, now_us)
