"""Which trades are new (bars.md section 0): the dedupe of one instrument, pure.

Where the venue's ids count, state is the last id and the open holes as ranges, at most MOST_HOLES of them: when one
more opens, the lowest is forgotten, and an id of it that still comes counts as a duplicate. (It could only have
entered a time window that is still open, and lies a thousand holes back.) Where ids do not count, state is the last
10,000 ids.
"""

from bisect import bisect_left
from collections.abc import Sequence
from enum import Enum, auto
from typing import Any

MOST_HOLES = 1_000
REMEMBERED_IDS = 10_000


class Verdict(Enum):
    """What a trade is to the folds."""

    NEXT = auto()
    AFTER_HOLE = auto()
    REPAIR = auto()
    DUPLICATE = auto()


class Admission:
    """The ids that one instrument has seen."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._holes: list[tuple[int, int]] = []
        """First and last missing id of each hole, ascending."""
        self._recent: dict[str, None] = {}
        """The last ids where they do not count, oldest first."""
        self._owed_gap = False
        """A refused trade whose ids do not count leaves no hole in them: the next trade says that it is missing."""

    def take_all(self, sequence: Sequence[int | None]) -> bool:
        """Note all these ids as applied, if each is the next; else False, and nothing is changed."""
        if self._last is None or sequence[0] != self._last + 1:
            return False
        if tuple(sequence) != tuple(range(self._last + 1, self._last + 1 + len(sequence))):
            return False
        self._last += len(sequence)
        return True

    def judge(self, sequence: int | None, trade_id: str, after_gap: bool) -> Verdict:
        """What this trade is; changes nothing."""
        if sequence is None:
            if trade_id in self._recent:
                return Verdict.DUPLICATE
            return Verdict.AFTER_HOLE if after_gap or self._owed_gap else Verdict.NEXT
        if self._last is None or sequence == self._last + 1:
            return Verdict.NEXT
        if sequence > self._last:
            return Verdict.AFTER_HOLE
        return Verdict.DUPLICATE if self._hole_of(sequence) is None else Verdict.REPAIR

    def note(self, sequence: int | None, trade_id: str) -> None:
        """Note a trade that is no duplicate as applied."""
        if sequence is None:
            self._remember(trade_id)
        elif self._last is not None and sequence < self._last:
            self._shrink(sequence)
        else:
            if self._last is not None and sequence > self._last + 1:
                self._holes = [*self._holes, (self._last + 1, sequence - 1)][-MOST_HOLES:]
            self._last = sequence

    def miss(self, sequence: int | None) -> None:
        """Note a trade that was refused."""
        self._owed_gap = self._owed_gap or sequence is None

    def snapshot(self) -> Any:
        """Everything, as MessagePack-able values."""
        return [self._last, self._holes, list(self._recent), self._owed_gap]

    def restore(self, snapshot: Any) -> None:
        """Take over a snapshot."""
        self._last, holes, recent, self._owed_gap = snapshot
        self._holes = [(first, last) for first, last in holes]
        self._recent = dict.fromkeys(recent)

    def _remember(self, trade_id: str) -> None:
        self._owed_gap = False
        self._recent[trade_id] = None
        if len(self._recent) > REMEMBERED_IDS:
            del self._recent[next(iter(self._recent))]

    def _hole_of(self, sequence: int) -> int | None:
        place = bisect_left(self._holes, sequence, key=lambda hole: hole[1])
        return place if place < len(self._holes) and self._holes[place][0] <= sequence else None

    def _shrink(self, sequence: int) -> None:
        place = self._hole_of(sequence)
        if place is not None:
            first, last = self._holes[place]
            rest = [(first, sequence - 1), (sequence + 1, last)]
            self._holes[place : place + 1] = [(low, high) for low, high in rest if low <= high]
