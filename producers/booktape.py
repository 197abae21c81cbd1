"""The top of a book that Raven keeps, as records at a configured pace; and each break of it as a Gap."""

from collections.abc import Sequence

from msgspec.structs import replace

from producers.breaks import Breaks
from producers.contract import BookUpdate, Feed, Sequencer
from producers.tape import Break, Output, Seen
from ravencore.records import Book, Level

DEPTH = 20
Side = Sequence[tuple[int, int]]


class BookTape(Breaks):
    """What is published of one symbol's book, whichever connection its sequencer is fed by."""

    def __init__(self, venue: str, feed: Feed, seen: Seen | None, interval_us: int) -> None:
        super().__init__(venue, feed, seen.time_us if seen else None)
        self._interval_us = interval_us
        self._due: BookUpdate | None = None
        self._top: tuple[Side, Side] | None = None
        self._last: int | None = None
        self._known: dict[tuple[int, int], Level] = {}
        """Levels of the last record: those that are still there are taken from it."""

    @property
    def due(self) -> bool:
        """Whether a change waits for its time."""
        return self._due is not None

    def changed(self, book: Sequencer, update: BookUpdate, connection: str) -> list[Output]:
        """What to publish, in order, now that this update has changed the book, which is in step."""
        if self.broken is None and self.last_us is not None and update.received_time < self.last_us + self._interval_us:
            self._due = update
            return []
        return self._publish(book, update, connection)

    def expire(self, book: Sequencer, now_us: int, connection: str) -> list[Output]:
        """What to publish now that it is `now_us`."""
        due = self._due
        if due is None or not book.in_step or now_us < (self.last_us or 0) + self._interval_us:
            return []
        return self._publish(book, due, connection)

    def interrupt(self, why: Break, now_us: int) -> None:
        """The book is no longer right; where nothing was published yet, nothing is lost."""
        self._due = None
        super().interrupt(why, now_us)

    def _publish(self, book: Sequencer, update: BookUpdate, connection: str) -> list[Output]:
        self._due = None
        out: list[Output] = []
        received_us = update.received_time
        top = book.top(DEPTH)
        if self.only_suspected and (top, book.last) == (self._top, self._last):
            # Where the venue's updates have no ids, only the levels tell that nothing was missed.
            self.broken = None
        if self.broken is not None:
            out.append(replace(self.close(received_us, connection), repair="RESNAPSHOT"))
        self.last_us, self._last = received_us, book.last
        if out or top != self._top:
            self._top = top
            out.append(self._record(book, top, update))
        return out

    def _record(self, book: Sequencer, top: tuple[Side, Side], update: BookUpdate) -> Book:
        bids, asks = top
        known = self._known
        self._known = {level: known.get(level) or Level(*level) for side in top for level in side}
        return Book(
            venue=self._venue,
            symbol=self._feed.symbol,
            event_time=book.event_time,
            received_time=update.received_time,
            update_id=None if book.last is None else str(book.last),
            sequence=book.last,
            source="MAINTAINED",
            bids=tuple(map(self._known.__getitem__, bids)),
            asks=tuple(map(self._known.__getitem__, asks)),
            connection_time=update.connection_time,
            connection_sequence=update.connection_sequence,
        )
