"""The lines of a session: where its records go, and what its parts share."""

from collections.abc import Mapping

from producers.actions import Action, BadBytes, Habits
from producers.booktape import BookTape
from producers.contract import BOOKS, KLINES, TRADES, Feed, HasBooks, HasHistory, Stream
from producers.feedtape import FeedTape, MarketTape
from producers.line import Line, Tapes
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
            if feed.channel == KLINES and not seen:
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

    def forget(self, line: Line) -> None:
        """The records of a line go elsewhere."""
        self.tapes = {key: found for key, found in self.tapes.items() if found[0] is not line}

    def interrupted(self, line: Line, why: Break, now_us: int) -> list[Action]:
        """A feed breaks off."""
        return [*line.tapes.interrupt(why, now_us, self.connection)]

    def bad_bytes(self, frame: bytes, reason: str, detail: str) -> BadBytes:
        """A frame for the dead letters."""
        return BadBytes(frame, reason, detail, self.connection)

    def unasked(self, frame: bytes, channel: str, symbol: str) -> BadBytes:
        """A frame of what this session does not want."""
        return self.bad_bytes(frame, "unreadable_frame", f"{channel} of {symbol} were never asked for")
