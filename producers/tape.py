"""The records of one symbol whose ids count by one, put back in order: duplicates dropped, holes filled or told.

    ids as they come   101 102 104 103 104 107 ....500 ms, then asked over REST.... 105 106
    published          101 102 103 104                                              105 106 [Gap BACKFILLED] 107
    or, where REST     101 102 103 104 [Gap 105-106] 107                  and later 105 [the same Gap: 106]
    has them not yet

A record beyond a hole is held back until the hole is filled, or has been waited for long enough: `reorder_seconds`
for what is only late, then, where the venue tells past trades, `repair_seconds` for its answer. A hole that was not
filled in time becomes a Gap, which is published before the record beyond it, and is asked for all the same until the
venue has answered four times without any of it, or twice with later ids instead. What went before decides the Gap's
cause: the first record after a break (a cold start, a lost connection) closes the one Gap of that break, whether ids
are missing or not; every other jump is a SEQUENCE. Ids that were filled in order have a Gap of their own, BACKFILLED,
with their number in `repaired`.

An id that comes after its Gap is a late repair. It is published as it comes, and then the Gap anew, with the same
gap_id: the parts that are still missing, the first of them under that gap_id and each other under a new one, are
PARTIAL, and where none is left it has no ids, missing 0, and is BACKFILLED. `repaired` counts what came. So the newest
entries of all gap_ids name exactly the ids that are missing, and NONE marks the holes as first found.

An id that is not missing came before, and is dropped. But a venue may count anew, from a lower id: RESTART_RECORDS with
such ids that happened after all that was published, over more than RESTART_S, are no duplicates; they come after a Gap
that says so, and the holes before it are no longer asked for. Candles, whose id is their minute, never count anew.

A break that lasts is told while it lasts: `tell_open` gives its Gap without ids, to be written anew at its end. A feed
that the venue refuses is broken for that reason, whatever broke it before, and even where nothing had come of it yet.
"""

import heapq
import math
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from msgspec.structs import replace

from producers.contract import TRADES, Span
from ravencore.records import Gap, GapCause, Kline, MarketRecord, Trade

HELD_RECORDS = 10_000
"""Records of a symbol that are held back at most; one more and the first hole is given up at once."""
KNOWN_HOLES = 10_000
"""Holes of a symbol that can still be repaired; an id of an older one counts as a duplicate."""
ASK_AGAIN_S = (0.5, 2.0, 10.0)
"""After answers that had nothing new: venues' REST may be behind their streams, unless it tells of later ids."""
MOST_TOLD = 1000
"""An answer with so many records may not be all."""
FAILED_AGAIN_S, FAILED_CAP_S = 1.0, 30.0
"""After requests that failed; doubled each time."""

RESTART_RECORDS, RESTART_S = 3, 1.0
"""One alone may be mangled, and a few may have happened within the same moment as the last that is known."""

Counted = Trade | Kline
"""Records that a venue counts, symbol by symbol."""
Output = MarketRecord | Gap


class Break(NamedTuple):
    """Why the next record of a feed does not follow from the last."""

    cause: GapCause
    detail: str


class Seen(NamedTuple):
    """The last record of a feed that is known: its id where the feed's ids count, and its time in microseconds."""

    sequence: int | None
    time_us: int
    holes: tuple[Gap, ...] = ()
    """Gaps of ids before it that nobody has filled, in their order."""


COLD = Break("COLD_START", "nothing is known from before this trade")
AWAY = Break("DISCONNECT", "the collector was away")
NOT_DEMANDED = Break("DISCONNECT", "not demanded for a time")
UNHEARD = Break("DISCONNECT", "not demanded for a time, and then nothing came at first")
"""Ids do not tell where what nobody wanted ends: all of it is asked for."""
JUMP = Break("SEQUENCE", "the ids jump")
CANDLE_US = 60_000_000


def count_of(record: MarketRecord) -> int | None:
    """The id by which the venue counts this record, None where it does not: a trade's, and of a candle its minute."""
    if isinstance(record, Trade):
        return record.sequence
    return record.open_time // CANDLE_US if isinstance(record, Kline) else None


class Hole:
    """Ids from `first` to `last`, missing; `gap` is the newest entry of its Gap."""

    __slots__ = ("first", "gap", "last")

    def __init__(self, first: int, last: int, gap: Gap) -> None:
        self.first, self.last, self.gap = first, last, gap


class Patch:
    """Records that have filled a hole in order, up to now: their number, and what was before the first of them."""

    __slots__ = ("count", "first", "from_us", "why")

    def __init__(self, first: int, from_us: int | None, why: Break) -> None:
        self.first, self.from_us, self.why = first, from_us, why
        self.count = 0


class Waits(NamedTuple):
    """How long a hole is waited for, in seconds: for what is late, and then for REST; None: REST does not tell."""

    reorder: float
    repair: float | None


class CountedTape:
    """Order and continuity of one symbol's records."""

    def __init__(self, venue: str, channel: str, symbol: str, seen: Seen | None, waits: Waits) -> None:
        # What a cold start left out is of interest where somebody adds up: not in candles.
        cold = COLD if channel == TRADES else None
        self.broken: Break | None = AWAY if seen else cold
        self.broken_us: int | None = None
        self.last = seen.sequence if seen else None
        self.last_us = self.newest_us = seen.time_us if seen else None
        self.duplicates = 0
        self._venue, self._channel, self._symbol = venue, channel, symbol
        self._waits = waits
        self._held: dict[int, Counted] = {}
        self._order: list[int] = []
        self._arrivals: deque[tuple[float, int]] = deque()
        self._holes: list[Hole] = []
        self._broken_after = self.last or 0
        """What is held back up to this id came before the break."""
        self._later_breaks: deque[tuple[int, Break]] = deque()
        """Breaks among what is held back behind that one, and what came before each."""
        self._opened: str | None = None
        self._told: Break | None = None
        """As the break was told that lasts."""
        self._patch: Patch | None = None
        self._jump = JUMP
        self._why: Break | None = None
        """Of the hole or break that is being filled in order."""
        self._fetched: set[int] = set()
        self._to_ask: deque[tuple[int, int]] = deque()
        self.probing = False
        """Whether REST is to be asked for what is newer than the last record."""
        self._asked: Span | None = None
        self._outdated = False
        """The venue has counted anew since it was asked."""
        self._ask_at = -math.inf
        self._vain = self._failed = 0
        self._vain_first = 0
        """Where the hole begins that was asked for in vain."""
        self._first_at = -math.inf
        """Since when the hole before what is held back is the first."""
        self._hopeless = 0
        """Up to this id the venue does not have what is missing."""
        self._strays: dict[int, Counted] = {}
        """Known ids with times after all that was published."""
        for gap in seen.holes if seen else ():
            assert gap.from_sequence is not None
            assert gap.to_sequence is not None
            self._holes.append(Hole(gap.from_sequence, gap.to_sequence, gap))
            self._to_ask.append((gap.from_sequence, gap.to_sequence))

    @property
    def held(self) -> int:
        """Records held back behind a hole."""
        return len(self._held)

    @property
    def asks(self) -> bool:
        """Whether there is a hole that REST may still fill."""
        return bool(self._to_ask or self._asked) or self._asking

    @property
    def restless(self) -> bool:
        """Whether time alone makes something happen here: a hole is waited for, or asked for."""
        return bool(self._held or self._to_ask or self.probing or self._asked)

    def add(self, record: Counted, sequence: int, now: float, connection: str, *, echo: bool = False) -> list[Output]:
        """What to publish, in order, now that this record has come at monotonic time `now` (seconds).

        With `echo` it may have come over another connection before, and then is no duplicate of the venue's.
        """
        last = self.last
        if last is not None:
            if sequence == last + 1 and not self._held and self.broken is None:
                self._why = None
                self._advance(record, sequence)
                return [record]
            if sequence <= last:
                return self._late(record, sequence, now, connection, echo=echo)
        elif self.broken is None:
            self._advance(record, sequence)
            return [record]
        if sequence in self._held:
            self.duplicates += not echo
            return []
        self._hold(record, sequence, now)
        return self._release(now, record.received_time, connection)

    def suspect(self, why: Break) -> None:
        """The hole before the next record has another cause than a jump."""
        self._jump = why

    def begin(self, now_us: int) -> None:
        """The venue has acknowledged the feed: what is lost from now on is missing."""
        if self.broken is None:
            self.last_us = self.last_us or now_us

    def overdue(self) -> None:
        """An acknowledged feed has brought nothing at first: not all that is missing went unwanted."""
        if self.broken == NOT_DEMANDED:
            self.broken = UNHEARD

    def expire(self, now: float, now_us: int, connection: str) -> list[Output]:
        """What to publish now that holes have been waited for until `now`."""
        return self._release(now, now_us, connection)

    def interrupt(self, why: Break, now_us: int, connection: str) -> list[Output]:
        """The feed breaks off: what is missing will not come by itself any more, and the next follows from nothing."""
        released = self._release(math.inf, now_us, connection, asks=True)
        highest = max((self.last or 0, *self._held))
        if self.broken is None:
            self.broken, self.broken_us, self._broken_after = why, now_us, highest
        elif highest > max((self._broken_after, *(after for after, _ in self._later_breaks))):
            self._later_breaks.append((highest, why))
        elif self.broken == NOT_DEMANDED and why != NOT_DEMANDED:
            self.broken = Break(why.cause, f"not demanded for a time, and then {why.detail}")
        return released

    def refuse(self, why: Break, now_us: int) -> None:
        """The venue will not have the feed, which has broken off: whatever broke it before, that is why."""
        self.last_us = self.last_us or now_us
        if self._later_breaks:
            self._later_breaks[-1] = self._later_breaks[-1][0], why
        else:
            self.broken, self.broken_us = why, self.broken_us or now_us

    def flush(self, now_us: int, connection: str) -> list[Output]:
        """Wait no longer."""
        return self._release(math.inf, now_us, connection)

    def mended(self) -> None:
        """All that a break has left out has been told."""
        if not self._held and self.last is not None and self._opened is None:
            self.broken = None

    def tell_open(self, now_us: int, connection: str) -> list[Output]:
        """The Gap of a break that lasts, once for each reason."""
        if self.broken is None or self.last_us is None or (self._opened is not None and self._told == self.broken):
            return []
        self._opened = self._opened or self._next_gap_id(now_us)
        self._told = self.broken
        gap = self._new_gap(
            self._opened, self.broken, from_us=self.last_us, to_us=now_us, now_us=now_us, connection=connection
        )
        return [replace(gap, missing=None)]

    def quiet_before(self, time_us: int) -> bool:
        """Whether all is well and no record has happened at or after `time_us`."""
        return self.broken is None and not self._held and not self._strays and (self.newest_us or 0) < time_us

    # What is asked over REST

    def probe(self) -> None:
        """Ask for what is newer than the last record."""
        asks = self._waits.repair is not None and self.broken != NOT_DEMANDED
        self.probing = asks and self.last is not None

    def ask(self, now: float) -> Span | None:
        """What to ask for now, None while an answer is awaited; to be followed by `answered` or `unanswered`."""
        if self._asked is not None or self._waits.repair is None:
            return None
        span = self._open_span(now) or self._hole_span() or self._probe_span()
        if now < self._ask_at and (span is None or self._failed or span.first == self._vain_first):
            return None
        self._asked = span
        return self._asked

    def answered(self, records: Sequence[Counted], now: float, now_us: int, connection: str) -> list[Output]:
        """What to publish, in order, now that the venue has answered."""
        span, self._asked = self._asked, None
        if self._outdated:
            self._outdated = False
            return []
        # REST may be ahead of the stream, which will bring that itself.
        last = span.last if span is not None and span.last is not None else math.inf
        fresh = {
            sequence: record
            for record in records
            if (sequence := count_of(record) or 0) <= last and self._misses(sequence, swept=span is None)
        }
        self._failed = 0
        if span is not None and span.last is None and len(records) < MOST_TOLD:
            self.probing = False
        if fresh:
            self._vain, self._ask_at = 0, now
        elif span is not None:
            passed = span.last is not None and any((count_of(record) or 0) > span.last for record in records)
            self._ask_in_vain(span, now, ASK_AGAIN_S[:1] if passed else ASK_AGAIN_S)
        return self._fill(fresh, now, now_us, connection)

    def unanswered(self, now: float) -> None:
        """The request failed; it is made again later."""
        self._asked, self._outdated = None, False
        self._ask_at = now + min(FAILED_AGAIN_S * 2**self._failed, FAILED_CAP_S)
        self._failed += 1

    def _open_span(self, now: float) -> Span | None:
        """The hole before what is held back, once it is due."""
        if self.last is None or not self._order or self._given_up:
            return None
        started = self._started
        if self._order[0] == self.last + 1 or started is None:
            return None
        if self.broken is None and now < started + self._waits.reorder:
            return None
        beyond = self._order[0]
        return Span(self.last + 1, beyond - 1, self.last_us, self._held[beyond].event_time)

    def _hole_span(self) -> Span | None:
        """The oldest hole that became a Gap and was not asked for to the end."""
        while self._to_ask:
            first, last = self._to_ask[0]
            at = bisect_left(self._holes, first, key=lambda hole: hole.last)
            if at < len(self._holes) and self._holes[at].first <= last:
                hole = self._holes[at]
                return Span(max(first, hole.first), min(last, hole.last), hole.gap.from_time, hole.gap.to_time)
            self._to_ask.popleft()
        return None

    def _probe_span(self) -> Span | None:
        return Span(self.last + 1, None, self.last_us, None) if self.probing and self.last is not None else None

    def _ask_in_vain(self, span: Span, now: float, again_s: Sequence[float]) -> None:
        if span.last is None:
            self.probing = False
            return
        if span.first != self._vain_first:
            self._vain, self._vain_first = 0, span.first
        self._vain += 1
        if self._vain <= len(again_s):
            self._ask_at = now + again_s[self._vain - 1]
            return
        self._vain = 0
        if self._to_ask and self._to_ask[0][0] <= span.first <= self._to_ask[0][1]:
            self._to_ask.popleft()
        else:
            self._hopeless = max(self._hopeless, span.last)

    def _misses(self, sequence: int, *, swept: bool) -> bool:
        """Whether a record is news; from before a cold start only where all since a break was asked for."""
        if self.last is None or sequence > self.last:
            return sequence not in self._held
        hole = self._hole_of(sequence)
        return hole is not None and (swept or hole.gap.missing is not None)

    def _fill(self, fresh: dict[int, Counted], now: float, now_us: int, connection: str) -> list[Output]:
        out: list[Output] = []
        late: dict[int, list[tuple[int, Counted]]] = {}
        for sequence, record in sorted(fresh.items()):
            hole = self._hole_of(sequence)
            if hole is not None:
                late.setdefault(hole.first, []).append((sequence, record))
            else:
                self._hold(record, sequence, now)
                self._fetched.add(sequence)
        for first, records in late.items():
            hole = self._hole_of(first)
            assert hole is not None
            out += self._mend(hole, records, now_us, connection)
        return out + self._release(now, now_us, connection)

    # Order

    @property
    def _started(self) -> float | None:
        """When the first of what is held back came; None where nothing is."""
        while self._arrivals and self._arrivals[0][1] not in self._held:
            self._arrivals.popleft()
        return self._arrivals[0][0] if self._arrivals else None

    def _hold(self, record: Counted, sequence: int, now: float) -> None:
        self._held[sequence] = record
        heapq.heappush(self._order, sequence)
        self._arrivals.append((now, sequence))

    def _release(self, now: float, now_us: int, connection: str, *, asks: bool = False) -> list[Output]:
        """What need not wait at `now`; with `asks`, what only REST could still fill waits all the same."""
        out: list[Output] = []
        while self._order:
            sequence = self._order[0]
            follows = self.last is not None and sequence == self.last + 1
            if not follows and (self._worth_waiting(now) or (asks and self._asking)):
                break
            heapq.heappop(self._order)
            record = self._held.pop(sequence)
            out += self._joined(record, sequence, now_us, connection, follows=follows)
            self._advance(record, sequence)
            out.append(record)
            if now != math.inf:
                self._first_at = now
        if self._patch is not None and not (self._order and self._order[0] in self._fetched):
            out += self._patched(self.last_us or now_us, now_us, connection)
        return out

    def _joined(
        self, record: Counted, sequence: int, now_us: int, connection: str, *, follows: bool
    ) -> Sequence[Output]:
        """What is to be said between the last record and this one."""
        fetched = sequence in self._fetched
        self._fetched.discard(sequence)
        breaks = self.broken is not None and sequence > self._broken_after
        if breaks or fetched or not follows:
            self._why = (self.broken if breaks else None) or self._why or self._jump
        out: list[Output] = []
        # Where only this collector found a feed too silent, and nothing is missing, nothing was.
        suspected = self._why is not None and self._why.cause == "SILENCE" and self._opened is None
        if not follows or (breaks and not fetched and not suspected):
            out += self._patched(record.event_time, now_us, connection) if self._patch is not None else []
            out.append(self._gap(record, sequence, now_us, connection))
        if breaks:
            self._mend_breaks(sequence)
        if fetched:
            assert self._why is not None
            self._patch = self._patch or Patch(sequence, self.last_us, self._why)
            self._patch.count += 1
            return out
        if self._patch is not None:
            out += self._patched(record.event_time, now_us, connection)
        self._why, self._jump = None, JUMP
        return out

    def _mend_breaks(self, sequence: int) -> None:
        """The first record after a break is published."""
        self.broken = None
        while self.broken is None and self._later_breaks:
            after, why = self._later_breaks.popleft()
            if sequence <= after:
                self.broken, self._broken_after = why, after

    @property
    def _given_up(self) -> bool:
        """Whether what is missing before the held records is not asked for (any more)."""
        unwanted = self.broken == NOT_DEMANDED and self._order[0] > self._broken_after
        return unwanted or self._order[0] - 1 <= self._hopeless

    @property
    def _asking(self) -> bool:
        """Whether there is a hole that REST may fill before what is held back."""
        return self._waits.repair is not None and self.last is not None and bool(self._order) and not self._given_up

    def _worth_waiting(self, now: float) -> bool:
        started = self._started
        if started is None or len(self._held) > HELD_RECORDS:
            return False
        repair = self._waits.repair or 0.0
        # One hole after another is asked for: what waited behind the first has not been asked for yet.
        return now < max(started + self._waits.reorder, self._first_at) + (repair if self._asking else 0.0)

    def _advance(self, record: Counted, sequence: int) -> None:
        time_us = record.event_time
        self.last, self.last_us = sequence, time_us
        self._strays.clear()
        if self.newest_us is None or time_us > self.newest_us:
            self.newest_us = time_us

    # Gaps

    def _gap(self, record: Counted, sequence: int, now_us: int, connection: str) -> Gap:
        """The Gap before a record that does not follow, or that is the first after a break."""
        assert self._why is not None
        first = self.last + 1 if self.last is not None else None
        missing = sequence - first if first is not None else None
        gap_id = self._opened or self._next_gap_id(now_us)
        self._opened = None
        gap = self._new_gap(
            gap_id, self._why, from_us=self.last_us, to_us=record.event_time, now_us=now_us, connection=connection
        )
        gap = replace(gap, missing=missing)
        if missing and first is not None:
            gap = self._named(gap, first, sequence - 1)
        if missing != 0:
            self._holes.append(Hole(first or 0, sequence - 1, gap))
            del self._holes[:-KNOWN_HOLES]
        asks = self._waits.repair is not None and self._why != NOT_DEMANDED and sequence - 1 > self._hopeless
        if asks and missing and first is not None:
            self._to_ask.append((first, sequence - 1))
        return gap

    def _patched(self, to_us: int, now_us: int, connection: str) -> list[Output]:
        """The Gap of ids that were filled in order."""
        patch, self._patch = self._patch, None
        assert patch is not None
        gap_id, self._opened = self._opened or self._gap_id(patch.first), None
        gap = self._new_gap(gap_id, patch.why, from_us=patch.from_us, to_us=to_us, now_us=now_us, connection=connection)
        return [replace(gap, missing=0, repair="BACKFILLED", repaired=patch.count)]

    def _new_gap(
        self, gap_id: str, why: Break, *, from_us: int | None, to_us: int, now_us: int, connection: str
    ) -> Gap:
        return Gap(
            gap_id=gap_id,
            venue=self._venue,
            channel=self._channel,
            symbol=self._symbol,
            cause=why.cause,
            from_time=from_us,
            to_time=to_us,
            detected_time=now_us,
            connection=connection,
            detail=why.detail,
        )

    def _gap_id(self, part: int | str) -> str:
        return f"{self._venue}:{self._channel}:{self._symbol}:{part}"

    def _next_gap_id(self, now_us: int) -> str:
        """Of the Gap after the last record, whether ids will be missing in it or not: a later run names it alike."""
        return self._gap_id(f"t{now_us}" if self.last is None else self.last + 1)

    def _named(self, gap: Gap, first: int, last: int) -> Gap:
        """The Gap with the ids that are missing."""
        return replace(gap, from_sequence=first, to_sequence=last, missing=last - first + 1)

    # Late repairs

    def _hole_of(self, sequence: int) -> Hole | None:
        at = bisect_right(self._holes, sequence, key=lambda hole: hole.first) - 1
        return self._holes[at] if at >= 0 and self._holes[at].last >= sequence else None

    def _late(self, record: Counted, sequence: int, now: float, connection: str, *, echo: bool) -> list[Output]:
        hole = self._hole_of(sequence)
        if hole is None:
            self.duplicates += not echo
            return [] if echo else self._perhaps_anew(record, sequence, now, connection)
        return self._mend(hole, [(sequence, record)], record.received_time, connection)

    def _perhaps_anew(self, record: Counted, sequence: int, now: float, connection: str) -> list[Output]:
        """What to publish now that a known id has come: nothing, or what came since the venue has counted anew."""
        newest_us = self.newest_us or 0
        if not isinstance(record, Trade) or record.event_time <= newest_us:
            return []
        self._strays.setdefault(sequence, record)
        begun = len(self._strays) >= RESTART_RECORDS and record.event_time > newest_us + RESTART_S * 1e6
        return self._restart(now, record.received_time, connection) if begun else []

    def _restart(self, now: float, now_us: int, connection: str) -> list[Output]:
        strays, self._strays = self._strays, {}
        self.duplicates -= len(strays)
        out = self.flush(now_us, connection)
        self.broken = Break("SEQUENCE", f"the venue counts anew, from {min(strays)}, after {self.last}")
        self.last, self._broken_after, self._hopeless, self.probing = None, 0, 0, False
        self._outdated = self._asked is not None
        for forgotten in (self._holes, self._to_ask, self._later_breaks):
            forgotten.clear()
        for sequence, record in strays.items():
            self._hold(record, sequence, now)
        return out + self._release(now, now_us, connection)

    def _mend(self, hole: Hole, found: Sequence[tuple[int, Counted]], now_us: int, connection: str) -> list[Output]:
        """Records of a hole, in order, and what then is left of its Gap."""
        at = bisect_right(self._holes, hole.first, key=lambda other: other.first) - 1
        rests = _rests(hole, found)
        records: list[Output] = [record for _, record in found]
        if hole.gap.missing is None:
            # What a cold start left out has no ids that a repair could take off its Gap.
            self._holes[at : at + 1] = [Hole(rest.first, rest.last, hole.gap) for rest in rests]
            return records
        gap = replace(
            hole.gap,
            detected_time=now_us,
            connection=connection,
            repair="PARTIAL",
            repaired=hole.gap.repaired + len(found),
        )
        if not rests:
            self._holes[at : at + 1] = []
            filled = replace(gap, from_sequence=None, to_sequence=None, missing=0, repair="BACKFILLED")
            return [*records, filled]
        parts = []
        for place, rest in enumerate(rests):
            own = gap if place == 0 else replace(gap, gap_id=self._gap_id(rest.first), repaired=0)
            part = self._named(replace(own, from_time=rest.from_us, to_time=rest.to_us), rest.first, rest.last)
            parts.append(Hole(rest.first, rest.last, part))
        self._holes[at : at + 1] = parts
        return [*records, *(part.gap for part in parts)]


class Rest(NamedTuple):
    """What is left of a hole: ids, and the times of the records around them."""

    first: int
    last: int
    from_us: int | None
    to_us: int


def _rests(hole: Hole, found: Sequence[tuple[int, Counted]]) -> list[Rest]:
    rests = []
    first, from_us = hole.first, hole.gap.from_time
    for sequence, record in found:
        if sequence > first:
            rests.append(Rest(first, sequence - 1, from_us, record.event_time))
        first, from_us = sequence + 1, record.event_time
    if first <= hole.last:
        rests.append(Rest(first, hole.last, from_us, hole.gap.to_time))
    return rests
