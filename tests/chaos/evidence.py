"""What a run leaves behind, as plain data: what exchanges issued and did, and what is in the topics. Pure.

Times are microseconds since the epoch. A record's identity is as in ravenctl/feeds.py: a trade's counting id, a kline's
open time, the update id of a book or of a quote that has one, else the event time.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from msgspec.structs import replace

from producers.contract import KLINES, TRADES, Poll
from producers.registry import SOURCES
from ravencore.decimals import to_text
from ravencore.records import Book, Gap, Level, MarketRecord
from ravenctl import feeds
from simulator.books import VERIFIED_LEVELS

Range = tuple[int, int]
"""First and last id, inclusive."""
Issued = tuple[int | None, int]
"""An identity, and when its frame was made."""
COUNTING = {TRADES: 1, KLINES: 60_000_000}
"""Channels whose identities count up, trades by one and candles by a minute: their Gaps name numbers."""


class Name(NamedTuple):
    """One symbol of a channel of a venue."""

    venue: str
    channel: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.venue} {self.channel} {self.symbol}"


@cache
def feed_of(name: Name) -> Name:
    """The feed that brings it: its own, or one of many symbols."""
    source = SOURCES[feeds.source_of(feeds.Name(name.venue, name.channel))]
    return name._replace(symbol=source.feed(name.channel, name.symbol).symbol)


@cache
def is_polled(venue: str, channel: str) -> bool:
    """Whether it is asked for over REST, again and again."""
    return isinstance(SOURCES[feeds.source_of(feeds.Name(venue, channel))], Poll)


TOLD_BYTES = 60
"""So much of a dead letter is told."""


def count_of(channel: str, identity: int | None) -> int | None:
    """The number that a Gap knows a record by, None where it knows none."""
    return identity // COUNTING[channel] if identity is not None and channel in COUNTING else None


class Fault(NamedTuple):
    """What the simulator did to a feed, or with `channel` "" to all of a venue, from `from_us` to `to_us`.

    `ids` are the identities of the records it was done to, of a symbol that may be `*`; `lost`, those that reached
    nobody because of a fault of whole connections. `announced`: the venue could say beforehand that it would be so.
    """

    number: str
    kind: str
    venue: str
    channel: str
    symbol: str
    from_us: int
    to_us: int
    ids: tuple[int, ...] = ()
    lost: tuple[tuple[Name, tuple[int, ...]], ...] = ()
    announced: bool = True

    @property
    def origin(self) -> str:
        """The number without its part: a fault of several symbols is told once for each."""
        return self.number.partition(".")[0]

    @property
    def taken(self) -> tuple[tuple[Name, tuple[int, ...]], ...]:
        """The records that nobody was sent because of it, by symbol."""
        withheld = self.ids if self.kind in ("gap", "mute") else ()
        return (*self.lost, (Name(self.venue, self.channel, self.symbol), withheld)) if withheld else self.lost

    def __str__(self) -> str:
        where = " ".join(filter(None, (self.channel, self.symbol))) or "all of it"
        ids = f", ids {min(self.ids)} to {max(self.ids)}" if self.ids else ""
        return f"{self.kind} {self.number} of {self.venue} {where} from {self.from_us} to {self.to_us}{ids}"


class Letter(NamedTuple):
    """A frame that nobody could read: the connection it came on, its bytes, and what is wrong with it."""

    connection: str
    payload: bytes
    detail: str

    def __str__(self) -> str:
        return f"{self.detail}: {self.payload[:TOLD_BYTES]!r} on {self.connection}"


class Kept(NamedTuple):
    """A published book that Raven keeps itself: the key of its last update, and what it holds."""

    key: int
    digest: str
    received_us: int


@dataclass
class Log:
    """The records of one symbol in the order of their topic, column by column; `contents` tells equal ones apart."""

    identities: list[int | None] = field(default_factory=list)
    received_us: list[int] = field(default_factory=list)
    contents: list[int] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)

    def add(self, record: MarketRecord) -> None:
        """Note a record."""
        self.identities.append(feeds.identity_of(record))
        self.received_us.append(record.received_time)
        self.contents.append(hash(replace(record, received_time=0, connection_time=0, connection_sequence=0)))
        if isinstance(record, Book) and record.source == "MAINTAINED":
            key = record.sequence if record.sequence is not None else record.event_time or 0
            verified = VERIFIED_LEVELS.get(record.venue, len(record.bids) + len(record.asks))
            self.kept.append(Kept(key, digest(record.bids[:verified], record.asks[:verified]), record.received_time))


def digest(bids: Sequence[Level], asks: Sequence[Level]) -> str:
    """First 16 digits of the SHA-256 of `price:quantity,...|price:quantity,...`: bids, then asks, best first."""
    sides = (",".join(f"{to_text(one.price)}:{to_text(one.quantity)}" for one in side) for side in (bids, asks))
    return hashlib.sha256("|".join(sides).encode()).hexdigest()[:16]


class Hole(NamedTuple):
    """A Gap through all its entries: the newest, which stands, and every range of ids that one of them has named."""

    gap: Gap
    named: tuple[Range, ...]

    @property
    def name(self) -> Name:
        """Of its feed; of trades, of the symbol."""
        return Name(self.gap.venue, self.gap.channel, self.gap.symbol)

    @property
    def missing(self) -> Range | None:
        """The ids that are still missing."""
        first, last = self.gap.from_sequence, self.gap.to_sequence
        return (first, last) if first is not None and last is not None else None

    def has_named(self, number: int) -> bool:
        """Whether an id was missing once."""
        return any(first <= number <= last for first, last in self.named)

    def __str__(self) -> str:
        gap, ids = self.gap, ""
        if self.named:
            ids = f", ids {self.named[0][0]} to {self.named[0][1]}"
        times = f"from {gap.from_time} to {gap.to_time}"
        return f"{gap.cause} {gap.gap_id} {times}{ids}, {gap.missing} missing, {gap.repair} ({gap.detail})"


def holes_of(entries: Iterable[Gap]) -> list[Hole]:
    """Each Gap once, of its entries in the order of the topic."""
    found: dict[str, Hole] = {}
    for gap in entries:
        before = found[gap.gap_id].named if gap.gap_id in found else ()
        hole = Hole(gap, before)
        if hole.missing is not None and hole.missing not in before:
            hole = Hole(gap, (*before, hole.missing))
        found[gap.gap_id] = hole
    return list(found.values())


@dataclass
class Evidence:
    """All that a verdict is made of."""

    began_us: int
    ended_us: int
    """When the market began and ended."""
    issued: Mapping[Name, Sequence[Issued]]
    """Since a symbol was first subscribed."""
    logs: Mapping[Name, Log]
    gaps: Sequence[Gap]
    """Every entry."""
    faults: Sequence[Fault]
    letters: Mapping[str, Sequence[Letter]] = field(default_factory=dict)
    """The frames among the dead letters, by venue."""
    digests: Mapping[Name, Mapping[int, str]] = field(default_factory=dict)
    """The simulator's books, by the key of each update."""
    served: Mapping[Name, Sequence[int]] = field(default_factory=dict)
    """Ids that are in no topic although REST would still tell them."""
    patience_us: int = 500_000
    """How long the collector waits for an id that is out of order."""
    troubles: Sequence[str] = ()
    """What the collector did that is no record: it ended by itself, or would not end."""

    def missing(self) -> dict[Name, list[int]]:
        """By symbol of the channels that count, the numbers that were issued and are in no topic."""
        found: dict[Name, list[int]] = {}
        for name, issued in self.issued.items():
            there = set(self.logs[name].identities) if name in self.logs else set()
            counts = {count_of(name.channel, one) for one, _ in issued if one not in there}
            if numbers := sorted(number for number in counts if number is not None):
                found[name] = numbers
        return found
