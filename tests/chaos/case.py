"""What several rules ask of a run's evidence: which Gap lists an id, and which fault a Gap may be of. Pure."""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from producers.contract import ALL, BOOKS, KLINES, TRADES
from producers.pace import FIRST_PATIENCE_S, LEAST_PATIENCE_S
from tests.chaos.evidence import (
    COUNTING,
    Evidence,
    Fault,
    Hole,
    Issued,
    Log,
    Name,
    count_of,
    feed_of,
    holes_of,
    is_polled,
)

SLACK_US = 1_000_000
"""How far the times of a fault and of its Gap may lie apart: frames are in flight, events are older than frames."""
COUNTED = frozenset({"COINBASE"})
"""Venues that count the frames of a connection: what is missing there may be of any of its feeds."""
REPAIRED = ("PARTIAL", "BACKFILLED")


class Account(NamedTuple):
    """What became of the distinct ids issued of one symbol; records that nothing tells apart are counted."""

    issued: int = 0
    received: int = 0
    repaired: int = 0
    listed: int = 0
    unexplained: tuple[Issued, ...] = ()


class Case:
    """Evidence, and what several rules ask of it."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.holes = holes_of(evidence.gaps)
        self.names = sorted({*evidence.issued, *evidence.logs})
        """All symbols of which something was issued or published."""
        self.members: dict[Name, list[Name]] = defaultdict(list)
        """The symbols that each feed brings."""
        for name in self.names:
            self.members[feed_of(name)].append(name)
        self._holes: dict[Name, list[Hole]] = defaultdict(list)
        for hole in self.holes:
            self._holes[hole.name].append(hole)
        self._times: dict[Name, dict[int, int]] = {}
        self._received: dict[Name, list[int]] = {}
        self._counts: dict[Name, set[int]] = {}
        self._flow: dict[Name, tuple[list[int], list[int]]] = {}
        self._touching: dict[str, list[Fault]] = {}

    def log(self, name: Name) -> Log:
        """Its records; none where there are none."""
        return self.evidence.logs.get(name) or Log()

    def holes_of(self, name: Name) -> Sequence[Hole]:
        """The Gaps of a symbol, or of the feed that brings it."""
        feed = feed_of(name)
        own = self._holes.get(name, [])
        return own if feed == name else [*own, *self._holes.get(feed, ())]

    def is_kept(self, name: Name) -> bool:
        """Whether Raven keeps this book itself."""
        return name.channel == BOOKS and bool(self.log(name).kept)

    def issue_times(self, name: Name) -> dict[int, int]:
        """When each id was issued, the first time."""
        if name not in self._times:
            times = self._times[name] = {}
            for identity, time_us in self.evidence.issued.get(name, ()):
                if identity is not None:
                    times.setdefault(identity, time_us)
        return self._times[name]

    def received(self, feed: Name) -> list[int]:
        """When the records of a feed, or of one of its symbols, came, in order."""
        if feed not in self._received:
            names = self.members.get(feed, [feed])
            self._received[feed] = sorted(time_us for name in names for time_us in self.log(name).received_us)
        return self._received[feed]

    @cached_property
    def _clock(self) -> tuple[list[int], list[int]]:
        """When records came, and when the newest until then had been issued."""
        newest, came, shown = 0, [], []
        for received_us, issued_us in sorted(row for name in self.names for row in self._receipts(name)):
            if issued_us > newest:
                newest = issued_us
                came.append(received_us)
                shown.append(newest)
        return came, shown

    def market_time(self, here_us: int) -> int:
        """What the exchanges' clock showed: on a busy machine it falls behind the clocks of all others."""
        came, shown = self._clock
        at = bisect_right(came, here_us) - 1
        return shown[at] + here_us - came[at] if at >= 0 else here_us

    def span(self, hole: Hole) -> tuple[int, int]:
        """When that was issued which a Gap leaves out, at the earliest and at the latest.

        Gaps of feeds without counting ids tell when records came; meant is what was issued after those, and where none
        has come since, all that was issued after them.
        """
        gap = hole.gap
        begin, end = gap.from_time or 0, gap.to_time
        if gap.channel not in COUNTING:
            received, issued = self._flow_of(hole.name)
            at = bisect_right(received, begin)
            begin, end = self.market_time(begin), self.market_time(end)
            begin = min(issued[at - 1], begin) if at else begin
        came = self.received(hole.name)
        goes_on = not came or came[-1] < gap.to_time
        return begin, max(end, self.evidence.ended_us) if goes_on else end

    def _flow_of(self, feed: Name) -> tuple[list[int], list[int]]:
        """When the records of a feed came, in order, and when the newest of those until then had been issued."""
        if feed not in self._flow:
            rows = sorted(row for name in self.members.get(feed, ()) for row in self._receipts(name))
            newest, running = 0, []
            for _, issued_us in rows:
                newest = max(newest, issued_us)
                running.append(newest)
            self._flow[feed] = [received_us for received_us, _ in rows], running
        return self._flow[feed]

    def _receipts(self, name: Name) -> Iterator[tuple[int, int]]:
        times, log = self.issue_times(name), self.log(name)
        for identity, received_us in zip(log.identities, log.received_us, strict=True):
            if identity is not None and identity in times:
                yield received_us, times[identity]

    def lists(self, hole: Hole, name: Name, identity: int | None, time_us: int) -> bool:
        """Whether a Gap of its feed lists an id as missing."""
        number = count_of(name.channel, identity)
        if number is None or hole.name != name:
            if number is not None and self.oldest(name) < number < self.newest(name):
                return False  # Between two that came, the ids tell.
            begin, end = self.span(hole)
            return hole.gap.missing != 0 and begin <= time_us <= end
        if hole.missing is not None:
            return hole.missing[0] <= number <= hole.missing[1]
        if hole.gap.cause == "COLD_START":
            return number < self.oldest(name)
        # A break that has not ended yet names no ids.
        return hole.gap.missing is None and number > self.newest(name) and time_us >= (hole.gap.from_time or 0)

    def newest(self, name: Name) -> int:
        """The highest number of a symbol in its topic, of a channel that counts."""
        return max(self._numbers(name), default=-1)

    def oldest(self, name: Name) -> int:
        """The lowest."""
        return min(self._numbers(name), default=0)

    def _numbers(self, name: Name) -> set[int]:
        if name not in self._counts:
            counts = (count_of(name.channel, one) for one in self.log(name).identities)
            self._counts[name] = {number for number in counts if number is not None}
        return self._counts[name]

    @cached_property
    def accounts(self) -> dict[Name, Account]:
        """What became of every id of every symbol; the rules of kept books are others."""
        return {name: self._account(name) for name in self.names if not self.is_kept(name)}

    def _account(self, name: Name) -> Account:
        log, times = self.log(name), self.issue_times(name)
        there = set(log.identities)
        absent: list[Issued] = [one for one in times.items() if one[0] not in there]
        lost = [one for one in absent if not self.is_listed(name, *one)]
        nameless = [one for one in self.evidence.issued.get(name, ()) if one[0] is None]
        short = max(len(nameless) - log.identities.count(None), 0)
        unlisted = [one for one in nameless if not self.is_listed(name, *one)]
        lost += unlisted[len(nameless) - short :]
        issued = len(times) + len(nameless)
        repaired = sum(hole.gap.repaired for hole in self.holes_of(name) if hole.name == name)
        gone = len(absent) + short
        return Account(issued, issued - gone - repaired, repaired, gone - len(lost), tuple(lost))

    def is_listed(self, name: Name, identity: int | None, time_us: int) -> bool:
        """Whether any Gap lists it as missing."""
        return any(self.lists(hole, name, identity, time_us) for hole in self.holes_of(name))

    def repaired(self, name: Name) -> set[int]:
        """Numbers that Gaps have named which were repaired."""
        return {
            number
            for hole in self.holes_of(name)
            if name.channel in COUNTING and hole.gap.repair in REPAIRED
            for first, last in hole.named
            for number in range(first, last + 1)
        }

    def touching(self, hole: Hole) -> list[Fault]:
        """The faults that a Gap may be of: of its feed or connection, and of its ids or time."""
        known = self._touching.get(hole.gap.gap_id)
        if known is None:
            known = [fault for fault in self.evidence.faults if self._touches(fault, hole)]
            self._touching[hole.gap.gap_id] = known
        return known

    def _touches(self, fault: Fault, hole: Hole) -> bool:
        if not may_befall(fault, hole.name):
            return False
        counts = (count_of(name.channel, one) for name, ids in fault.taken if name == hole.name for one in ids)
        if any(number is not None and hole.has_named(number) for number in counts):
            return True
        begin, end = self.span(hole)
        return fault.from_us <= end + SLACK_US and fault.to_us >= begin - SLACK_US

    def nearest(self, name: Name, time_us: int) -> str:
        """The Gap of a feed that is nearest to a time, in words."""

        def distance(hole: Hole) -> int:
            begin, end = self.span(hole)
            return max(begin - time_us, time_us - end, 0)

        return str(min(self.holes_of(name), key=distance, default="none of this feed"))

    def faults_at(self, name: Name, time_us: int) -> list[Fault]:
        """The faults of a feed at a time."""
        begin, end = time_us - SLACK_US, time_us + SLACK_US
        faults = self.evidence.faults
        return [one for one in faults if may_befall(one, name) and one.from_us <= end and one.to_us >= begin]

    @cached_property
    def matrix(self) -> dict[tuple[str, str], Counter[str]]:
        """How many faults of each kind were put on each channel of each venue."""
        found: dict[tuple[str, str], Counter[str]] = {(name.venue, name.channel): Counter() for name in self.names}
        told = {(one.venue, one.channel, one.kind, one.origin) for one in self.evidence.faults}
        for venue, channel, kind, _ in told:
            for (met_venue, met_channel), met in found.items():
                if venue == met_venue and channel in ("", met_channel):
                    met[kind] += 1
        return found


def may_befall(fault: Fault, name: Name) -> bool:
    """Whether a fault can be felt on a feed."""
    if fault.venue != name.venue:
        return False
    if fault.venue in COUNTED and fault.kind in ("gap", "reorder"):
        return True
    if fault.channel and fault.channel != name.channel:
        return False
    if fault.symbol in ("", ALL, name.symbol) or name.symbol == ALL:
        return True
    feed = feed_of(name._replace(symbol=fault.symbol))
    if fault.kind == "mute":
        # It is of a stream, and told for each symbol that was to come in it.
        return feed in (name, feed_of(name))
    return name.channel != TRADES and name == feed


def allowed(fault: Fault, hole: Hole, patience_us: int) -> frozenset[str]:
    """The causes that a fault may give a Gap of this feed."""
    name = hole.name
    if is_polled(name.venue, name.channel):
        return frozenset({"DISCONNECT", "SILENCE"})
    jump = frozenset({"SEQUENCE", "CHECKSUM"} if name.channel == BOOKS else {"SEQUENCE"})
    is_counted_by_frames = name.venue in COUNTED and name.channel not in COUNTING
    match fault.kind:
        case "gap":
            return jump
        case "reorder" if name.channel == BOOKS or fault.to_us - fault.from_us > patience_us or is_counted_by_frames:
            return jump
        case "cut" | "limit":
            return frozenset({"DISCONNECT"})
        case "mute" if name.channel in COUNTING and fault.to_us - fault.from_us < _strange_us(name.channel):
            # A new connection ended it before it was strange: then the ids alone tell.
            return frozenset({"SILENCE", "SEQUENCE"})
        case "mute":
            return frozenset({"SILENCE"})
        case "stall":
            return frozenset({"SILENCE", "DISCONNECT"})
        case "close" | "life" if not (fault.announced and name.channel == TRADES and hole.named):
            return frozenset({"DISCONNECT"})
        case _:
            return frozenset()


def _strange_us(channel: str) -> int:
    """How long a feed may be silent before anybody can find that strange."""
    seconds = FIRST_PATIENCE_S[channel] if channel == KLINES else LEAST_PATIENCE_S
    return round(seconds * 1_000_000)
