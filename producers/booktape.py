"""The top of a book that Raven keeps, as records at a configured pace; and each break of it as a Gap."""

from collections.abc import Sequence
from itertools import starmap

from msgspec.structs import replace

from producers.contract import BookUpdate, Feed, Sequencer
from producers.tape import AWAY, Break, Output, Seen
from ravencore.records import Book, Gap, Level

DEPTH = 20
Side = Sequence[tuple[int, int]]


class BookTape:
    """What is published of one symbol's book, whichever connection its sequencer is fed by."""

    def __init__(self, venue: str, feed: Feed, seen: Seen | None, interval_us: int) -> None:
        self.broken: Break | None = AWAY if seen else None
        self.broken_us: int | None = None
        self._last_us = seen.time_us if seen else None
        self._interval_us = interval_us
        self._due: BookUpdate | None = None
        self._top: tuple[Side, Side] | None = None
        self._opened: str | None = None
        self._venue, self._feed = venue, feed

    @property
    def due(self) -> bool:
        """Whether a change waits for its time."""
        return self._due is not None

    def changed(self, book: Sequencer, update: BookUpdate, connection: str) -> list[Output]:
        """What to publish, in order, now that this update has changed the book, which is in step."""
        if (
            self.broken is None
            and self._last_us is not None
            and update.received_time < self._last_us + self._interval_us
        ):
            self._due = update
            return []
        return self._publish(book, update, connection)

    def expire(self, book: Sequencer, now_us: int, connection: str) -> list[Output]:
        """What to publish now that it is `now_us`."""
        due = self._due
        if due is None or not book.in_step or now_us < (self._last_us or 0) + self._interval_us:
            return []
        return self._publish(book, due, connection)

    def interrupt(self, why: Break, now_us: int) -> None:
        """The book is no longer right; where nothing was published yet, nothing is lost."""
        self._due = None
        if self._last_us is not None and self.broken is None:
            self.broken, self.broken_us = why, now_us

    def tell_open(self, now_us: int, connection: str) -> list[Output]:
        """The Gap of a break that lasts, once; it is written anew when the book is right again."""
        if self.broken is None or self._opened is not None:
            return []
        self._opened = self._gap_id(now_us)
        return [self._gap(self._opened, self.broken, now_us, connection)]

    def _publish(self, book: Sequencer, update: BookUpdate, connection: str) -> list[Output]:
        self._due = None
        out: list[Output] = []
        received_us = update.received_time
        if self.broken is not None:
            gap = self._gap(self._opened or self._gap_id(received_us), self.broken, received_us, connection)
            out.append(replace(gap, repair="RESNAPSHOT"))
            self.broken = self._opened = None
        self._last_us = received_us
        top = book.top(DEPTH)
        if out or top != self._top:
            self._top = top
            out.append(self._record(book, top, update))
        return out

    def _record(self, book: Sequencer, top: tuple[Side, Side], update: BookUpdate) -> Book:
        bids, asks = top
        return Book(
            venue=self._venue,
            symbol=self._feed.symbol,
            event_time=book.event_time,
            received_time=update.received_time,
            update_id=None if book.last is None else str(book.last),
            sequence=book.last,
            source="MAINTAINED",
            bids=tuple(starmap(Level, bids)),
            asks=tuple(starmap(Level, asks)),
            connection_time=update.connection_time,
            connection_sequence=update.connection_sequence,
        )

    def _gap_id(self, now_us: int) -> str:
        return f"{self._venue}:{self._feed.channel}:{self._feed.symbol}:t{now_us}"

    def _gap(self, gap_id: str, why: Break, now_us: int, connection: str) -> Gap:
        return Gap(
            gap_id=gap_id,
            venue=self._venue,
            channel=self._feed.channel,
            symbol=self._feed.symbol,
            cause=why.cause,
            from_time=self._last_us,
            to_time=now_us,
            detected_time=now_us,
            connection=connection,
            detail=why.detail,
        )
