"""One venue without its sockets: turns actions into frames to send, and keeps books, history and the ledger."""

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from random import Random
from typing import Any

import msgspec

from simulator.books import DIGESTED_LEVELS, VERIFIED_LEVELS, BookKeeper, Digests, cut
from simulator.contract import TRADES, Answer, Books, Change, Dialect, Frame, Identity, Market, Snapshot
from simulator.faultlog import EVERY_SYMBOL, Fault, FaultLog, Feed, feed_of
from simulator.faults import TIMES, Action, Calm, Intent, Times, channel_of, garble
from simulator.ledger import Ledger

HISTORY_TRADES = 50_000
MAX_UNFOLDED = 200
REMEMBERED_FRAMES = 16


class Exchange:
    """What clients may ask for and what they are sent. The shell tells it who subscribes, and the time of the venue.

    It records the faults that are put on frames and answers, and is the audience of simulator/injector.py.
    """

    def __init__(self, dialect: Dialect, market: Market, speed: float = 1.0, times: Times = TIMES) -> None:
        self.dialect = dialect
        self.market = market
        self.instruments = market.instruments
        self.bodies = market.bodies
        # A made market tells a poll what is so now: no one else could have had what it tells nobody.
        self._on_demand = market.source == "synthetic"
        self.ledger = Ledger(list(market.traded))
        self.faults = FaultLog(dialect.venue, int(speed * 1e9), times.patience)
        self.listeners: Counter[str] = Counter()
        self.skipped: Sequence[Frame] = ()
        """Of the last action: what was not sent in its turn."""
        self.time_ns = market.begins_ns
        self.subscriptions: Counter[str] = Counter()
        """How often each stream was subscribed to."""
        books, symbols = dialect.books, dict.fromkeys([*market.traded, *market.snapshots])
        self._books = (
            {symbol: _Depth(dialect.venue, books, market, symbol) for symbol in symbols} if books is not None else {}
        )
        self._counted: dict[str, tuple[str, ...]] = {}
        self._history: dict[str, deque[Frame]] = {}
        self._newest: dict[str, Frame] = {}
        self._made: dict[str, Frame] = {}
        self._held: Frame | None = None
        self._begun: dict[str, Fault] = {}
        self._feeds: dict[str, Feed] = {}
        self._spoilt_polls: set[str] = set()
        self.unmet: list[str] = []
        """Planned faults that found no moment at which they would have been exact."""

    def subscribe(self, streams: Iterable[str]) -> None:
        """One connection more for each."""
        for stream in streams:
            self.listeners[stream] += 1
            self.subscriptions[stream] += 1
            self.faults.come_back(stream, self.time_ns)

    def unsubscribe(self, streams: Iterable[str], fault: Fault | None = None) -> None:
        """One connection less for each; the fault that ended it, if one did."""
        self.listeners.subtract(streams)
        if fault is not None:
            self.faults.leave([stream for stream in streams if self.listeners[stream] <= 0], fault)

    # Who listens (faults.Audience)

    def streams(self, frame: Frame) -> Sequence[str]:
        return [stream for stream in self._counting(frame) if self.listeners[stream] > 0]

    def _counting(self, frame: Frame) -> Sequence[str]:
        """Of a difference, all streams that tell it but for the top of the book."""
        if frame.kind != "depth" or self.dialect.books is None:
            return (frame.stream,)
        known = self._counted.get(frame.symbol)
        if known is None:
            top = self.dialect.books.top_stream(frame.symbol)
            made = (stream for stream in self.dialect.books.made(frame.symbol) if stream != top)
            known = self._counted[frame.symbol] = (frame.stream, *made)
        return known

    def top(self, frame: Frame) -> str:
        books = self.dialect.books
        stream = books.top_stream(frame.symbol) if books is not None else ""
        return stream if stream in self._made and self.listeners[stream] > 0 else ""

    def hearing(self, frame: Frame) -> int:
        return sum(self.subscriptions[stream] for stream in self.streams(frame))

    def alone(self, stream: str) -> bool:
        return self.listeners[stream] == 1

    def anybody(self) -> bool:
        return any(count > 0 for count in self.listeners.values())

    def calm(self, stream: str | None, calm: Calm) -> bool:
        return self.faults.calm(stream, calm, self.time_ns)

    def give_up(self, intents: Iterable[Intent]) -> None:
        self.unmet += [f"{intent.channel} {intent.kind}".strip() for intent in intents]

    # What happens

    def take(self, action: Action) -> Sequence[Frame]:
        """The frames to send to whoever is subscribed to their streams."""
        self.skipped = ()
        frame = action.frame
        if frame is None:
            return self._again(action)
        self.time_ns = max(self.time_ns, frame.time_ns)
        if action.what == "garbage":
            if action.intent is not None and action.intent.channel:
                self._feeds.setdefault(frame.stream, Feed(action.intent.channel, frame.symbol))
            self._note("garbage", (frame,))
            return (frame,)
        if action.what == "extra":
            return self._note("duplicate", self._told(frame))
        if action.what == "withhold":
            return self._withhold(action, frame)
        if frame is self._held:
            self._held = None
            return self._note("", self._told(frame))
        return self._swap(frame, action.held) if action.held is not None else self._issue(frame)

    def _again(self, action: Action) -> Sequence[Frame]:
        """What is done to the last frame of a stream, or to the next answer of a poll."""
        newest = self._made.get(action.stream) or self._newest.get(action.stream)
        if action.intent is not None and action.intent.polled:
            self._spoilt_polls.add(action.intent.channel)
        elif action.what == "extra" and newest is not None:
            return self._note("duplicate", (newest,))
        elif action.what == "garbage" and newest is not None:
            self._note("garbage", (newest,))
            return (garble(newest, Random(f"{self.time_ns}/{action.stream}")),)
        return ()

    def _withhold(self, action: Action, frame: Frame) -> Sequence[Frame]:
        """The top of the book goes on: nobody could tell that one is missing."""
        frames = self._issue(frame)
        counting = self._counting(frame)
        self.skipped = [one for one in frames if one.stream in counting]
        self._note(action.fault or "", self.skipped)
        if frame.kind == "trade" and self.listeners[frame.stream] > 0:
            self.ledger.injected["gap_trades"] += len(frame.marks)
        return [one for one in frames if one.stream not in counting]

    def _swap(self, frame: Frame, held: Frame) -> Sequence[Frame]:
        counting = self._counting(held)
        before = self._issue(held)
        self.skipped = [one for one in before if one.stream in counting]
        self._held = held
        frames = self._issue(frame)
        self._note("reorder", [one for one in frames if one.stream in counting])
        return [*(one for one in before if one.stream not in counting), *frames]

    def _told(self, frame: Frame) -> Sequence[Frame]:
        """What was made of a frame that was issued before, to be counted."""
        depth = self._books.get(frame.symbol) if frame.kind == "depth" else None
        if depth is None:
            return (frame,)
        counting = self._counting(frame)
        return [one for one in depth.add(frame, self.listeners) if one.stream in counting]

    def _note(self, kind: str, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Record a fault that was put on these frames, or ("") that the last of their stream was put on them too."""
        for frame in frames:
            fault = None if kind else self._begun.get(frame.stream)
            if not self.listeners[frame.stream]:
                self._begun.pop(frame.stream, None)
                continue
            if kind:
                feed = self._feed(frame)
                fault = self.faults.begin(kind, frame.time_ns, feed=feed, stream=frame.stream)
                self.faults.end(fault, frame.time_ns)
                self._begun[frame.stream] = fault
                self.ledger.injected[kind] += 1
            if fault is not None and kind != "garbage":
                fault.note(frame.marks)
                self.faults.prolong(fault, frame.time_ns)
        return frames

    def _feed(self, frame: Frame) -> Feed | None:
        """Garbage has no marks of its own: what its stream brings."""
        return self._feeds.get(frame.stream) if frame.kind == "garbage" else feed_of(frame, channel_of(frame))

    def _learn(self, frame: Frame) -> None:
        """What a stream brings, one symbol's records or many's."""
        known = self._feeds.get(frame.stream)
        symbol = frame.marks[0][1] if frame.marks else frame.symbol
        if known is None and (channel := channel_of(frame)):
            self._feeds[frame.stream] = feed_of(frame, channel)
        elif known is not None and known.symbol not in {symbol, EVERY_SYMBOL}:
            self._feeds[frame.stream] = Feed(known.channel, EVERY_SYMBOL)

    def _issue(self, frame: Frame) -> Sequence[Frame]:
        """A frame and what is made of it, as the venue's own doing."""
        self.ledger.frames_issued += 1
        self._newest[frame.stream] = frame
        if frame.kind == "trade":
            self._remember(frame)
        if frame.kind == "depth20" and frame.symbol in self._books:
            self._books[frame.symbol].newest = frame
        depth = self._books.get(frame.symbol) if frame.kind == "depth" else None
        frames = (frame,) if depth is None else depth.add(frame, self.listeners)
        self._made.update((one.stream, one) for one in frames[1:])
        for one in frames:
            self._learn(one)
            self._count(one)
        return frames

    def _remember(self, frame: Frame) -> None:
        for symbol in dict.fromkeys(symbol for _, symbol, _ in frame.marks):
            self._history.setdefault(symbol, deque(maxlen=HISTORY_TRADES)).append(frame)

    def _count(self, frame: Frame) -> None:
        if not frame.marks or (self._on_demand and frame.stream.startswith("rest:")):
            return
        heard = self.listeners[frame.stream] > 0
        since = frame.time_ns // 1_000 if self.subscriptions[frame.stream] else None
        self.ledger.issue(frame.marks, heard, since)
        if not heard:
            self.faults.miss(frame)

    def delivered(self, marks: Sequence[Identity]) -> None:
        """Note what was handed to a client: in frames, by REST, or as a session's own words."""
        self.ledger.deliver(marks)

    def mute(self, action: Action) -> Fault:
        """Begin to keep a stream from its subscriber; the shell does it."""
        assert action.intent is not None
        feed = self._feeds.get(action.stream)
        cure = {"cure": action.intent.cure}
        self.ledger.injected["mute"] += 1
        return self.faults.begin("mute", self.time_ns, feed=feed, stream=action.stream, details=cure)

    def interrupt(self, kind: str, **details: Any) -> Fault:
        """Begin what is done to all connections; the shell does it."""
        streams = [stream for stream, count in self.listeners.items() if count > 0]
        self.ledger.injected[kind] += 1
        return self.faults.begin(kind, self.time_ns, streams=streams, details=details)

    # What REST and sessions ask (contract.View)

    def book(self, symbol: str, limit: int) -> Snapshot | None:
        depth = self._books.get(symbol)
        return depth.show(limit) if depth is not None else None

    def trades(self, symbol: str) -> Sequence[Frame]:
        return self._history.get(symbol, ())

    def newest(self, stream: str) -> Frame | None:
        return self._newest.get(stream)

    def answer(self, path: str, query: dict[str, str], now: float) -> Answer:
        """A REST request, answered and counted."""
        answer = self.dialect.answer(path, query, now, self)
        if self._on_demand:
            told = [mark for mark in answer.marks if mark[0] != TRADES]
            self.ledger.issue(told, heard=True, time_us=self.time_ns // 1_000)
        channels = {channel for channel, _, _ in answer.marks} & self._spoilt_polls
        if answer.status == 200 and channels:
            return self._spoil(answer, channels.pop())
        self.delivered(answer.marks)
        return answer

    def _spoil(self, answer: Answer, channel: str) -> Answer:
        """In place of an answer, one that nobody can read."""
        self._spoilt_polls.discard(channel)
        told = Frame(self.time_ns, f"rest:{channel}", answer.body, marks=answer.marks)
        fault = self.faults.begin("garbage", self.time_ns, feed=feed_of(told, channel), stream=told.stream)
        fault.note(answer.marks)
        self.faults.end(fault, self.time_ns)
        self.ledger.injected["garbage"] += 1
        body = answer.body[: len(answer.body) // 2] or b"<html>"
        return Answer(200, body, headers=answer.headers)

    def depth20_source(self, symbol: str) -> str:
        """Where this symbol's depth20 comes from: "recorded", "folded", or "none"."""
        depth = self._books.get(symbol)
        if depth is not None and depth.recorded:
            return "recorded"
        folded = depth is not None and depth.top_stream and symbol in self.market.snapshots
        return "folded" if folded else "none"

    def book_holes(self, symbol: str) -> int:
        depth = self._books.get(symbol)
        return depth.keeper.holes if depth is not None else 0

    def digests(self, symbol: str) -> Mapping[str, str] | None:
        """The digests of a symbol's book after each change that somebody followed, by update id or microseconds; None
        where it has no book."""
        depth = self._books.get(symbol)
        return depth.digests.told() if depth is not None else None


class _Depth:
    """The book of one symbol, folded only when somebody wants it, and the frames that are made of it."""

    def __init__(self, venue: str, books: Books, market: Market, symbol: str) -> None:
        self.books = books
        self._digested = VERIFIED_LEVELS.get(venue, DIGESTED_LEVELS)
        self.listed = market.instruments[symbol]
        self.top_stream = books.top_stream(symbol)
        self.recorded = symbol in market.has_depth20
        self.begins_ns = market.begins_ns
        self.keeper = BookKeeper(market.snapshots.get(symbol, ()))
        self.digests = Digests()
        self.newest: Frame | None = None
        made = books.made(symbol).items()
        self._made = [(stream, levels) for stream, levels in made if stream != self.top_stream or not self.recorded]
        self._differences = [stream for stream, _ in made if stream != self.top_stream]
        self._unfolded: list[Frame] = []
        self._told: dict[str, Snapshot] = {}
        self._told_ns = 0
        self._remembered: dict[int | bytes, Sequence[Frame]] = {}

    def add(self, frame: Frame, listeners: Mapping[str, int]) -> Sequence[Frame]:
        """Note a difference: itself, and the frames that are made of it.

        Differences must come in their order. One of the last few that comes again gives the same frames: so one that
        is to be sent late is added in its turn and sent when it is added once more.
        """
        key = frame.diff.last_id if frame.diff is not None else frame.payload
        if (known := self._remembered.get(key)) is not None:
            return known
        frames = (frame, *self._make(frame, listeners))
        self._remembered[key] = frames
        if len(self._remembered) > REMEMBERED_FRAMES:
            del self._remembered[next(iter(self._remembered))]
        return frames

    def _make(self, frame: Frame, listeners: Mapping[str, int]) -> Sequence[Frame]:
        if self.keeper.hopeless:
            return ()
        wanted = [row for row in self._made if listeners.get(row[0])] if self._is_due(frame) else []
        followed = any(listeners.get(stream) for stream in (frame.stream, *self._differences))
        if not wanted and not followed:
            self._put_off(frame)
            return ()
        before = {stream: self._told.get(stream) or self._top(levels) for stream, levels in wanted}
        self._unfolded.append(frame)
        if not self._fold():
            return ()
        self._told = {stream: self._top(levels) for stream, levels in wanted}
        if wanted:
            self._told_ns = frame.time_ns
        if followed:
            self._digest()
        changes = [(stream, Change(self.listed, frame, before[stream], top)) for stream, top in self._told.items()]
        made = [self.books.make(stream, change) for stream, change in changes]
        return [one for one in made if one is not None]

    def _is_due(self, frame: Frame) -> bool:
        spacing_ns = self.books.spacing_ns(frame)
        return not spacing_ns or frame.time_ns // spacing_ns != self._told_ns // spacing_ns

    def _put_off(self, frame: Frame) -> None:
        self._told = {}
        self._unfolded.append(frame)
        if len(self._unfolded) >= MAX_UNFOLDED:
            self._fold()

    def _fold(self) -> bool:
        fresh = False
        for frame in self._unfolded:
            fresh = self.keeper.apply(frame.diff or self.books.read_depth(frame))
        self._unfolded.clear()
        return fresh

    def _top(self, levels: int) -> Snapshot:
        """As of the last difference; what the book starts from where there was none."""
        self._fold()
        if self.keeper.book is not None:
            return self.keeper.book.top(levels)
        first = self.keeper.first_snapshot() or Snapshot(0, (), ())
        return cut(msgspec.structs.replace(first, time_ns=self.begins_ns), levels)

    def _digest(self) -> None:
        top = self._top(self._digested)
        self.digests.add(top.last_id if self.books.numbered else top.time_ns // 1_000, top)

    def show(self, limit: int) -> Snapshot | None:
        """The book for someone who asks; where it is told by differences this state is digested too."""
        self._fold()
        if self.keeper.book is None and self.newest is not None:
            return self.books.read_snapshot(self.newest.payload)
        if self.keeper.hopeless:
            return None
        self._digest()
        return self._top(limit)
