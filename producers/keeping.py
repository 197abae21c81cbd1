"""The books that a session keeps: updates to sequencers, sequencers to tapes, and whole books from REST."""

from collections.abc import Sequence

from producers.actions import Action, FetchBook
from producers.contract import BOOKS, BadFrame, BookUpdate, Feed, HasSnapshots, OutOfStep, Receipt
from producers.desk import Desk
from producers.line import Cure, Line
from producers.tape import Break

SNAPSHOT_AGAIN_S, SNAPSHOT_CAP_S = 1.0, 30.0


class Keeping:
    """The books among the lines of a session."""

    def __init__(self, desk: Desk) -> None:
        self.due: dict[Feed, Line] = {}
        """Those with a change that waits for its time."""
        self._desk = desk

    def update(self, update: BookUpdate, frame: bytes, now: float) -> Sequence[Action]:
        """What follows from an update."""
        line = self._desk.lines.get(self._desk.source.feed(BOOKS, update.symbol))
        if line is None or line.tapes.book is None:
            return [self._desk.unasked(frame, BOOKS, update.symbol)]
        line.last_received_us = update.received_time
        if not line.shadow:
            (line.repeated if update.whole else line.heard)(now)
        if line.sequencer is None:
            # It was given up, and the venue has not heard of that yet.
            return ()
        try:
            changed = line.sequencer.update(update)
        except OutOfStep as error:
            return self._out_of_step(line, error, update.received_time, now)
        out = self.changed(line, update) if changed else []
        return [*out, *self.snapshot(line, now)]

    def changed(self, line: Line, update: BookUpdate) -> list[Action]:
        """What follows from a book that is in step, and has changed with this update."""
        assert line.tapes.book is not None
        assert line.sequencer is not None
        line.flowing, line.update = True, update
        if line.shadow:
            return []
        out = line.tapes.book.changed(line.sequencer, update, self._desk.connection)
        if not out:
            self.due[line.feed] = line
        return [*out]

    def _out_of_step(self, line: Line, error: OutOfStep, now_us: int, now: float) -> list[Action]:
        why = Break(error.cause, str(error))
        assert line.sequencer is not None
        out = [] if line.shadow else self._desk.interrupted(line, why, now_us)
        if not line.sequencer.wants_snapshot:
            self.give_up(line, why)
        return [*out, *self.snapshot(line, now)]

    def give_up(self, line: Line, why: Break) -> None:
        """The book is wrong, and is to be told anew from the beginning."""
        line.cure = line.cure or Cure(why, moves=False)
        line.sequencer = None
        self.due.pop(line.feed, None)

    def snapshot(self, line: Line, now: float) -> list[Action]:
        """Ask for the whole book where it is needed and not asked for."""
        wants = line.sequencer is not None and line.sequencer.wants_snapshot
        if not wants or line.snapshot_asked or now < line.snapshot_at:
            return []
        line.snapshot_asked = True
        return [FetchBook(line.feed)]

    def told(self, fetch: FetchBook, body: bytes, received_us: int, now: float) -> list[Action]:
        """What follows from the answer with a whole book."""
        line = self._desk.lines.get(fetch.feed)
        assert isinstance(self._desk.source, HasSnapshots)
        if line is None or line.sequencer is None or not line.snapshot_asked:
            return []
        line.snapshot_asked = False
        # A snapshot that is too old for what has come is asked for again, and not at once.
        line.snapshot_at = now + SNAPSHOT_AGAIN_S
        try:
            update = self._desk.source.whole_book(fetch.feed.symbol, body, Receipt(received_us, self._desk.opened_us))
            line.snapshots_failed = 0
            return self.changed(line, update) if line.sequencer.whole(update) else []
        except BadFrame as error:
            return [self._desk.bad_bytes(body, error.reason, str(error)), *self.not_told(fetch, now)]
        except OutOfStep as error:
            return self._out_of_step(line, error, received_us, now)

    def not_told(self, fetch: FetchBook, now: float) -> list[Action]:
        """The request failed."""
        if line := self._desk.lines.get(fetch.feed):
            line.snapshot_asked = False
            line.snapshot_at = now + min(SNAPSHOT_AGAIN_S * 2**line.snapshots_failed, SNAPSHOT_CAP_S)
            line.snapshots_failed += 1
        return []

    def expire(self, now_us: int) -> list[Action]:
        """What to publish now that it is `now_us`."""
        out: list[Action] = []
        for feed, line in list(self.due.items()):
            assert line.tapes.book is not None
            assert line.sequencer is not None
            told = line.tapes.book.expire(line.sequencer, now_us, self._desk.connection)
            out += told
            if told or not line.tapes.book.due:
                del self.due[feed]
        return out
