"""Continuity of a feed whose records have no ids that count by one: a break in the feed is a hole, and told as a Gap.

A record that came before, among the last few of its symbol, is dropped: venues send some twice, and begin a new
connection with how things stand, which may be what was said last. So of records of one and the same time (to the
venue's resolution, and without an id) that go from A to B and back to A, the last A is dropped as well: nothing tells
it from the first A sent again. What has neither id nor time is never compared.

While a connection is being replaced, the old and the new one bring the same records, each in its own order. What the
new one brings is kept until the old one is given up; then what the old one has not brought is published. Of what both
have brought only marks are kept: 64 bits of each record's content.
"""

from collections import deque
from collections.abc import Sequence, Set

from msgspec.structs import replace

from producers.breaks import Breaks
from producers.contract import Feed
from producers.tape import Break, Output, Seen
from ravencore.records import Gap, MarketRecord

REMEMBERED = 8
"""Newest records of a symbol that one like them is compared with."""

UNDER_WAY_US = 500_000
"""What one connection brings so much before another is not only under way there."""
DEAF = Break("SILENCE", "a connection was deaf: another one that took its place heard more")


class FeedTape(Breaks):
    """One feed, of a symbol or of a whole market."""

    def __init__(self, venue: str, feed: Feed, seen: Seen | None) -> None:
        super().__init__(venue, feed, seen.time_us if seen else None)
        self.duplicates = 0
        self._newest: dict[str, int] = {}
        self._recent: dict[str, deque[MarketRecord]] = {}
        self._said: set[int] | None = None
        """Marks of what another connection has not brought yet, while there is one."""
        self._echoed: set[int] = set()
        """Marks of what that one has brought: venues send some twice over each connection."""
        self._heard: dict[int, MarketRecord] = {}
        """What only the other one has brought, by its mark."""
        self._outrun: set[int] = set()
        """Marks of what a connection that is given up has brought, and the one in its place has still to bring."""

    @property
    def lead(self) -> int:
        """How many records only the other connection has brought."""
        return len(self._heard)

    def add(self, record: MarketRecord, connection: str) -> Sequence[Output]:
        """What to publish, in order, now that this record has come."""
        place = _place(record)
        symbol = record.symbol
        is_news = place is None or place > self._newest.get(symbol, -1)
        if is_news and place is not None:
            self._newest[symbol] = place
        recent = self._recent.get(symbol)
        if recent is None:
            recent = self._recent[symbol] = deque(maxlen=REMEMBERED)
        if not is_news and place is not None and self._outrun and (mark := _mark(record)) in self._outrun:
            self._outrun.discard(mark)
            return ()
        known = not is_news and any(_says_the_same(before, record) for before in recent)
        if known and (self.broken is None or self.only_suspected):
            self.duplicates += self.broken is None
            self.broken = None
            return ()
        out = () if self.broken is None else (self.close(record.received_time, connection),)
        self.last_us = max(record.received_time, self.last_us or 0)
        if known:
            return out
        recent.append(record)
        if self._said is not None:
            mark = _mark(record)
            if self._heard.pop(mark, None) is None:
                self._said.add(mark)
        return (*out, record)

    def forget(self, symbols: Set[str]) -> None:
        """Forget what was said of these symbols, of which nothing is said any more."""
        for symbol in self._recent.keys() & symbols:
            del self._recent[symbol]
            self._newest.pop(symbol, None)

    def begin(self, now_us: int) -> None:
        """The venue has acknowledged the feed: what is lost from now on is missing."""
        self.last_us = self.last_us or now_us

    def expect(self) -> None:
        """Another connection is about to bring the same: what this one brings from now on may be behind there."""
        self._outrun.clear()
        self._said = {_mark(record) for records in self._recent.values() for record in records}

    def shadow(self, record: MarketRecord) -> None:
        """Another connection has brought this record: it is kept until this one brings it, too, or is given up."""
        if self._said is None:
            self.expect()
        assert self._said is not None
        mark = _mark(record)
        if mark in self._echoed:
            return
        if _place(record) is not None:
            self._echoed.add(mark)
        if mark in self._said:
            self._said.discard(mark)
        else:
            self._heard[mark] = record

    def shadow_lost(self) -> None:
        """The other connection is gone."""
        self._said = None
        self._echoed.clear()
        self._heard.clear()

    def take_over(self, now_us: int, connection: str) -> list[Output]:
        """What the other connection brought and this one did not; from now on the other is the one.

        Where that came long ago, the old connection was deaf: what was lost before the other one listened is a hole.
        """
        unsaid = list(self._heard.values())
        said = self._said or set()
        self.shadow_lost()
        first_us = min((record.received_time for record in unsaid), default=now_us)
        if (self.last_us or 0) < first_us < now_us - UNDER_WAY_US:
            self.interrupt(DEAF, now_us)
        out = [output for record in unsaid for output in self.add(record, connection)]
        self._outrun = said
        return out


class MarketTape(Breaks):
    """A feed that brings the counted records of many symbols: a break of it is a hole for each that is not heard of
    again, too. Where REST tells what was missed, its Gap is written again, BACKFILLED."""

    def __init__(self, venue: str, feed: Feed, last_us: int | None) -> None:
        super().__init__(venue, feed, last_us)
        self.ended: Gap | None = None
        """The Gap of the last break, which nobody has mended."""

    def heard(self, record: MarketRecord, connection: str) -> Sequence[Output]:
        """What to publish before this record."""
        time_us = max(record.event_time or record.received_time, self.last_us or 0)
        if self.broken is None:
            self.last_us = time_us
            return ()
        self.ended = self.close(time_us, connection)
        self.last_us = time_us
        return (self.ended,)

    def interrupt(self, why: Break, now_us: int) -> None:
        """The feed breaks off; before its first record, nothing is lost."""
        if self.last_us is not None and self.broken is None:
            self.ended = None
        super().interrupt(why, now_us)

    def swept(self, count: int, now_us: int, connection: str) -> list[Output]:
        """What to publish now that REST has told all that was missed, `count` records."""
        gap, self.ended = self.ended if self.broken is None else self.close(now_us, connection), None
        if gap is None:
            return []
        return [replace(gap, missing=0, repair="BACKFILLED", repaired=count, detected_time=now_us)]


def _place(record: MarketRecord) -> int | None:
    """What grows from record to record of a symbol: the venue's id, or its time; None where it tells neither."""
    sequence: int | None = getattr(record, "sequence", None)
    return sequence if sequence is not None else record.event_time


def _content(record: MarketRecord) -> MarketRecord:
    """The record without how it came."""
    return replace(record, received_time=0, connection_time=0, connection_sequence=0)


def _mark(record: MarketRecord) -> int:
    return hash(_content(record))


def _says_the_same(before: MarketRecord, record: MarketRecord) -> bool:
    return type(before) is type(record) and _content(before) == _content(record)
