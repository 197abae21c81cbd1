"""The lines of a session: where its records go, and what its parts share."""

from collections.abc import Mapping, Set

from producers.actions import Action, BadBytes, Habits
from producers.booktape import BookTape
from producers.contract import BOOKS, KLINES, TRADES, Feed, HasBooks, HasHistory, Stream
from producers.feedtape import FeedTape, MarketTape
from producers.line import LAST_FRAMES_SECONDS, Line, Tapes
from producers.pace import Patience
from producers.tape import Break, CountedTape, Seen, Waits

Tape = CountedTape | FeedTape


class Desk:
    """Lines by feed, and the tape of each channel and symbol."""

    def __init__(self, source: Stream, habits: Habits) -> None:
        self.source = source
        self.connection = source.venue
        """As records of what happened name it: the venue where there is none."""
        self.opened_us = 0
        self.lines: dict[Feed, Line] = {}
        self.ended: dict[Feed, Line] = {}
        """Feeds that have ended, and go on where they stopped if they are wanted again; nobody looks at them."""
        self.duplicates_forgotten = 0
        """What forgotten tapes have counted."""
        self.tapes: dict[tuple[str, str], tuple[Line, Tape]] = {}
        """Where the records of a channel and symbol go."""
        self.restless: dict[int, tuple[Feed, str, CountedTape]] = {}
        """Tapes to which time makes a difference, by their id()."""
        self.waits = Waits(habits.reorder_seconds, habits.repair_seconds if isinstance(source, HasHistory) else None)
        self._habits = habits

    def find(self, channel: str, symbol: str) -> tuple[Line, Tape] | None:
        """The line and tape of a channel and symbol; None where they were never asked for."""
        line = self.lines.get(self.source.feed(channel, symbol))
        if line is None:
            return None
        tapes = line.tapes
        tape: Tape
        if tapes.others is not None:
            tape = tapes.others
        else:
            tape = tapes.counted.get(symbol) or self._counted_tape(tapes, channel, symbol, None)
        self.tapes[channel, symbol] = line, tape
        return line, tape

    def new_tapes(self, feed: Feed, seen: Mapping[str, Seen]) -> Tapes:
        """Tapes of a feed whose symbols were seen last like this."""
        tapes = Tapes(Patience(feed.channel))
        newest = next(iter(seen.values()), None)
        if feed.channel in {TRADES, KLINES}:
            for symbol, last in seen.items():
                self._counted_tape(tapes, feed.channel, symbol, last)
            if not seen and (feed.channel == KLINES or self.source.scope == "symbol"):
                self._counted_tape(tapes, feed.channel, feed.symbol, None)
            if feed.channel == TRADES and self.source.scope == "market":
                last_us = max((last.time_us for last in seen.values()), default=None)
                tapes.whole = MarketTape(self.source.venue, feed, last_us)
        elif feed.channel == BOOKS and isinstance(self.source, HasBooks) and self.source.sequencer(feed.symbol):
            tapes.book = BookTape(self.source.venue, feed, newest, self._habits.book_interval_us)
        else:
            tapes.others = FeedTape(self.source.venue, feed, newest)
        return tapes

    def _counted_tape(self, tapes: Tapes, channel: str, symbol: str, seen: Seen | None) -> CountedTape:
        tape = CountedTape(self.source.venue, channel, symbol, seen, self.waits)
        tapes.counted[symbol] = tape
        if tape.restless:
            self.restless[id(tape)] = self.source.feed(channel, symbol), symbol, tape
        return tape

    def put_aside(self, now: float, *, hears: bool) -> None:
        """Take feeds that have ended out of the lines; where there is a connection after LAST_FRAMES_SECONDS."""
        ended = [line for line in self.lines.values() if line.has_ended(now, LAST_FRAMES_SECONDS if hears else 0.0)]
        for line in ended:
            del self.lines[line.feed]
            if not line.shadow:
                self.ended[line.feed] = line
        if ended:
            self.no_longer_find({line.feed for line in ended})

    def no_longer_find(self, feeds: Set[Feed]) -> None:
        """The records of these feeds go elsewhere."""
        self.tapes = {key: found for key, found in self.tapes.items() if found[0].feed not in feeds}

    def forget(self, symbols: Set[str]) -> None:
        """Forget ended feeds of these symbols, and what other feeds have said of them; not where that is unfinished."""
        for line in (*self.lines.values(), *self.ended.values()):
            if line.tapes.others is not None:
                line.tapes.others.forget(symbols)
            for symbol in line.tapes.counted.keys() & symbols:
                self._forget_tape(line, symbol)
        for feed in [feed for feed in self.ended if feed.symbol in symbols]:
            if not self.ended[feed].tapes.counted:
                self.duplicates_forgotten += self.ended.pop(feed).tapes.duplicates

    def _forget_tape(self, line: Line, symbol: str) -> None:
        if id(line.tapes.counted[symbol]) not in self.restless:
            self.duplicates_forgotten += line.tapes.counted.pop(symbol).duplicates
            self.tapes.pop((line.feed.channel, symbol), None)

    def interrupted(self, line: Line, why: Break, now_us: int) -> list[Action]:
        """A feed breaks off."""
        return [*line.tapes.interrupt(why, now_us, self.connection)]

    def bad_bytes(self, frame: bytes, reason: str, detail: str) -> BadBytes:
        """A frame for the dead letters."""
        return BadBytes(frame, reason, detail, self.connection)

    def unasked(self, frame: bytes, channel: str, symbol: str) -> BadBytes:
        """A frame of what this session does not want."""
        return self.bad_bytes(frame, "unreadable_frame", f"{channel} of {symbol} were never asked for")
