"""A book that the venue sends whole first, and then change by change, over one subscription."""

from collections.abc import Sequence

from producers.books.ladder import Ladder
from producers.contract import BookUpdate, OutOfStep
from ravencore.records import GapCause

Marks = tuple[int | None, int | None, int | None]


class ToldBook:
    """What the books of such venues have in common (`producers.contract.Sequencer`); each adds its own check.

    A whole book may come at any time, and takes the place of what was; one that comes twice would set the book back,
    and is passed over. A change is nothing without the book it changes.
    """

    wants_snapshot = False

    def __init__(self) -> None:
        self.in_step = False
        self.last: int | None = None
        self.event_time: int | None = None
        self._ladder = Ladder()
        self._began_with: Marks | None = None

    def update(self, update: BookUpdate) -> bool:
        """Take a frame's update; True where the book has changed. Raises OutOfStep."""
        if update.whole:
            if self.in_step and self._is_repeated(update):
                return False
            self._ladder.replace(update.bids, update.asks)
            self._began_with = _marks(update)
            self.in_step = True
        elif self._is_news(update):
            self._ladder.change(update.bids, update.asks)
        else:
            return False
        self.last, self.event_time = update.last, update.event_time
        return True

    def whole(self, update: BookUpdate) -> bool:
        """A whole book is the same wherever it was told."""
        return self.update(update)

    def top(self, depth: int) -> tuple[Sequence[tuple[int, int]], Sequence[tuple[int, int]]]:
        """The best levels of each side, best first: bids and asks as (price, quantity)."""
        return self._ladder.top(depth)

    def _is_repeated(self, update: BookUpdate) -> bool:
        """Whether a whole book is the one that this book, which is in step, has begun with."""
        return _marks(update) == self._began_with

    def _is_news(self, update: BookUpdate) -> bool:
        """Whether a change is to be made, or had been made before; raises OutOfStep."""
        if not self.in_step:
            raise self._lost("SEQUENCE", "a change came before the book that it changes")
        return True

    def _lost(self, cause: GapCause, detail: str) -> OutOfStep:
        self.in_step = False
        self.last = self.event_time = None
        self._ladder = Ladder()
        return OutOfStep(cause, detail)


def _marks(update: BookUpdate) -> Marks:
    """What tells one whole book from another, as far as the venue says it: id, time and checksum."""
    return update.last, update.event_time, update.checksum
