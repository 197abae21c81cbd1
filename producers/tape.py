"""The trades of one symbol put back in the order of their ids: duplicates dropped, every hole a Gap.

    ids as they come   101 102 104 103 104 107 ....500 ms.... 105
    published          101 102 103 104 [Gap 105-106] 107 105 [the same Gap: 106]

A trade beyond a hole is held back until the hole is filled or has been waited for long enough; then the hole becomes a
Gap, which is published before the trade beyond it. What went before decides the Gap's cause: the first trade after a
break (a cold start, a lost connection) closes the one Gap of that break, whether ids are missing or not; every other
jump is a SEQUENCE.

An id that comes later still is a late repair. It is published as it comes, and then its Gap anew, with the same gap_id:
- the hole's first or last id: the hole shrinks from that end, repair PARTIAL;
- an id in its middle: the hole keeps its part below, and the part above becomes a Gap of its own, both PARTIAL;
- its only id: no ids, missing 0, repair BACKFILLED.
So the newest entries of all gap_ids name exactly the ids that are missing, and NONE marks the holes as first found.
"""

import heapq
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from producers.contract import TRADES, Feed
from ravencore.records import Gap, GapCause, MarketRecord, Trade

HELD_TRADES = 10_000
"""Trades of a symbol that are held back at most; one more and the first hole is given up at once."""
KNOWN_HOLES = 10_000
"""Holes of a symbol that can still be repaired; an id of an older one counts as a duplicate."""

Output = MarketRecord | Gap


class Break(NamedTuple):
    """Why the next record of a feed does not follow from the last."""

    cause: GapCause
    detail: str


class Seen(NamedTuple):
    """The last record of a feed that is known: its id where the feed's ids count, and its time in microseconds."""

    sequence: int | None
    time_us: int


COLD = Break("COLD_START", "nothing is known from before this trade")
AWAY = Break("DISCONNECT", "the collector was away")
JUMP = Break("SEQUENCE", "the ids jump")


class Hole:
    """Ids from `first` to `last`, missing; `gap` is the newest entry of its Gap."""

    __slots__ = ("first", "gap", "last")

    def __init__(self, first: int, last: int, gap: Gap) -> None:
        self.first, self.last, self.gap = first, last, gap


class TradeTape:
    """Order and continuity of one symbol's trades."""

    def __init__(self, venue: str, symbol: str, seen: Seen | None, reorder_seconds: float) -> None:
        self.broken: Break | None = AWAY if seen else COLD
        self.last = seen.sequence if seen else None
        self.last_us = self.newest_us = seen.time_us if seen else None
        self.duplicates = 0
        self._venue, self._symbol = venue, symbol
        self._reorder_seconds = reorder_seconds
        self._held: dict[int, Trade] = {}
        self._order: list[int] = []
        self._arrivals: deque[tuple[float, int]] = deque()
        self._holes: list[Hole] = []

    @property
    def held(self) -> int:
        """Trades held back behind a hole."""
        return len(self._held)

    @property
    def deadline(self) -> float | None:
        """When the first hole will have been waited for long enough; None where none is open."""
        while self._arrivals and self._arrivals[0][1] not in self._held:
            self._arrivals.popleft()
        return self._arrivals[0][0] + self._reorder_seconds if self._arrivals else None

    def add(self, trade: Trade, sequence: int, now: float, connection: str) -> list[Output]:
        """What to publish, in order, now that this trade has come at monotonic time `now` (seconds)."""
        last = self.last
        if last is not None:
            if sequence == last + 1 and not self._held and self.broken is None:
                self._advance(trade, sequence)
                return [trade]
            if sequence <= last:
                return self._late(trade, sequence, connection)
        if sequence in self._held:
            self.duplicates += 1
            return []
        self._held[sequence] = trade
        heapq.heappush(self._order, sequence)
        self._arrivals.append((now, sequence))
        return self._release(now, trade.received_time, connection)

    def expire(self, now: float, now_us: int, connection: str) -> list[Output]:
        """What to publish now that holes have been waited for until `now`."""
        return self._release(now, now_us, connection)

    def interrupt(self, why: Break, now_us: int, connection: str) -> list[Output]:
        """The feed breaks off: what is missing will not come any more, and the next trade follows from nothing."""
        released = self._release(math.inf, now_us, connection)
        self.broken = self.broken or why
        return released

    def quiet_before(self, time_us: int) -> bool:
        """Whether all is well and no trade has happened at or after `time_us`."""
        return self.broken is None and not self._held and (self.newest_us or 0) < time_us

    def _release(self, now: float, now_us: int, connection: str) -> list[Output]:
        out: list[Output] = []
        while self._order:
            sequence = self._order[0]
            follows = self.last is not None and sequence == self.last + 1
            if not follows and self._worth_waiting(now):
                break
            heapq.heappop(self._order)
            trade = self._held.pop(sequence)
            if self.broken is not None or not follows:
                out.append(self._gap(trade, sequence, now_us, connection))
            self._advance(trade, sequence)
            out.append(trade)
        return out

    def _worth_waiting(self, now: float) -> bool:
        deadline = self.deadline
        return deadline is not None and now < deadline and len(self._held) <= HELD_TRADES

    def _advance(self, trade: Trade, sequence: int) -> None:
        time_us = trade.event_time
        self.last, self.last_us = sequence, time_us
        if self.newest_us is None or time_us > self.newest_us:
            self.newest_us = time_us

    def _gap(self, trade: Trade, sequence: int, now_us: int, connection: str) -> Gap:
        cause, detail = self.broken or JUMP
        self.broken = None
        first = self.last + 1 if self.last is not None else None
        missing = sequence - first if first is not None else None
        gap = Gap(
            gap_id=self._gap_id(first if missing else f"t{now_us}"),
            venue=self._venue,
            channel=TRADES,
            symbol=self._symbol,
            cause=cause,
            from_sequence=first if missing else None,
            to_sequence=sequence - 1 if missing else None,
            missing=missing,
            from_time=self.last_us,
            to_time=trade.event_time,
            detected_time=now_us,
            connection=connection,
            detail=detail,
        )
        if missing != 0:
            self._holes.append(Hole(first or 0, sequence - 1, gap))
            del self._holes[:-KNOWN_HOLES]
        return gap

    def _gap_id(self, part: int | str | None) -> str:
        return f"{self._venue}:{TRADES}:{self._symbol}:{part}"

    def _late(self, trade: Trade, sequence: int, connection: str) -> list[Output]:
        at = bisect_right(self._holes, sequence, key=lambda hole: hole.first) - 1
        if at < 0 or self._holes[at].last < sequence:
            self.duplicates += 1
            return []
        hole = self._holes[at]
        parts = self._repaired(hole, trade, sequence, connection)
        self._holes[at : at + 1] = [part for part in parts if part.first <= part.last]
        # What a cold start left out has no ids that a repair could take off its Gap.
        return [trade, *(part.gap for part in parts if hole.gap.missing is not None)]

    def _repaired(self, hole: Hole, trade: Trade, sequence: int, connection: str) -> list[Hole]:
        """The hole without this id, in one part or two; a part that is empty has its Gap BACKFILLED."""
        gap = replace(hole.gap, detected_time=trade.received_time, connection=connection, repair="PARTIAL")
        if hole.first == hole.last:
            ids = {"from_sequence": None, "to_sequence": None, "missing": 0}
            return [Hole(sequence + 1, sequence, replace(gap, repair="BACKFILLED", **ids))]
        below = replace(gap, to_time=trade.event_time)
        above = replace(gap, from_time=trade.event_time)
        if sequence == hole.first:
            return [_hole(sequence + 1, hole.last, above)]
        if sequence == hole.last:
            return [_hole(hole.first, sequence - 1, below)]
        rest = replace(above, gap_id=self._gap_id(sequence + 1))
        return [_hole(hole.first, sequence - 1, below), _hole(sequence + 1, hole.last, rest)]


def _hole(first: int, last: int, gap: Gap) -> Hole:
    if gap.missing is None:
        return Hole(first, last, gap)
    return Hole(first, last, replace(gap, from_sequence=first, to_sequence=last, missing=last - first + 1))


class FeedTape:
    """Continuity of a feed whose records have no ids that count by one: only a break in the feed is a hole."""

    def __init__(self, venue: str, feed: Feed, seen: Seen | None) -> None:
        self.broken: Break | None = AWAY if seen else None
        self._last: MarketRecord | None = None
        self._seen_us = seen.time_us if seen else None
        self._venue, self._feed = venue, feed

    def add(self, record: MarketRecord, connection: str) -> Sequence[Output]:
        """What to publish, in order, now that this record has come.

        Venues begin a new connection with how things stand: where that is what was said last, it is not said again.
        """
        broken, last = self.broken, self._last
        self.broken, self._last = None, record
        if broken is None:
            return (record,)
        last_us = last.received_time if last is not None else self._seen_us
        gap = self._gap(broken, last_us, record.received_time, connection)
        return (gap,) if last is not None and _says_the_same(last, record) else (gap, record)

    def interrupt(self, why: Break) -> None:
        """The feed breaks off; where nothing has come yet, nothing is lost."""
        if self._last is not None or self._seen_us is not None:
            self.broken = self.broken or why

    def _gap(self, why: Break, last_us: int | None, now_us: int, connection: str) -> Gap:
        return Gap(
            gap_id=f"{self._venue}:{self._feed.channel}:{self._feed.symbol}:t{now_us}",
            venue=self._venue,
            channel=self._feed.channel,
            symbol=self._feed.symbol,
            cause=why.cause,
            from_time=last_us,
            to_time=now_us,
            detected_time=now_us,
            connection=connection,
            detail=why.detail,
        )


def _says_the_same(last: MarketRecord, record: MarketRecord) -> bool:
    """Whether a record differs from the last one in nothing but how it came."""
    came = {name: getattr(last, name) for name in ("received_time", "connection_time", "connection_sequence")}
    return replace(record, **came) == last
