"""Feeds as the exchange counted them, held against Kafka id by id. Pure.

An id tells a record apart from others of its venue, channel and symbol: a trade's counting id, the update id of a book
or quote that has one, the open time of a kline, else the event time. Where a venue gives none of these, records are
only counted.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from producers.contract import TRADES
from producers.registry import SOURCES
from ravencore.records import Book, Kline, MarketRecord, Quote, Trade

Range = tuple[int, int]
"""First and last id, inclusive."""


class Name(NamedTuple):
    """A feed of a venue."""

    venue: str
    channel: str


@dataclass
class Ids:
    """Records of one symbol as they stand somewhere: how many, their ids as they came, and trades' ids as text."""

    records: int = 0
    numbers: "array[int]" = field(default_factory=lambda: array("q"))
    ids: set[str] = field(default_factory=set)

    def add(self, record: MarketRecord) -> None:
        """Count a record."""
        self.records += 1
        number = identity_of(record)
        if number is not None:
            self.numbers.append(number)
        if isinstance(record, Trade):
            self.ids.add(record.trade_id)


def identity_of(record: MarketRecord) -> int | None:
    """What tells a record apart from others of its symbol."""
    match record:
        case Trade():
            return record.sequence
        case Book() | Quote() if record.sequence is not None:
            return record.sequence
        case Kline():
            return record.open_time
        case _:
            return record.event_time


class Sent(NamedTuple):
    """Records of one symbol that an exchange made and sent to somebody: how many, and the distinct ids, in order.

    `repeated` holds the ids that were sent more often than once, as snapshots after a reconnect and polls may be.
    """

    issued: int
    delivered: int
    ids: Sequence[int]
    repeated: Collection[int] = ()


@dataclass(frozen=True)
class Row:
    """A feed and what was found of it; every count is of distinct ids, or of records where those have none.

    `issued` and `sent` are the exchange's counts, None where it does not count for us; `once` are in Kafka once,
    `missing` not at all and no Gap names them, `in_gaps` Gaps name, `twice` are there more often than once, `again`
    too, but the venue itself sent them again, `strange` were never sent.
    """

    name: Name
    symbols: int = 0
    issued: int | None = None
    sent: int | None = None
    once: int = 0
    missing: int = 0
    in_gaps: int = 0
    twice: int = 0
    again: int = 0
    strange: int = 0
    example: str = ""
    """A symbol and id that is wrong."""

    @property
    def source(self) -> str:
        """The collector's name for where it comes from."""
        return source_of(self.name)

    @property
    def kept(self) -> bool:
        """Whether Kafka holds what was sent, all of it, once."""
        return not (self.missing or self.twice or self.strange)

    @property
    def verdict(self) -> str:
        """Whether it holds, in words; what does not, and an example."""
        if not self.kept:
            counts = {"missing": self.missing, "twice": self.twice, "never sent": self.strange}
            return f"{', '.join(f'{count:,} {word}' for word, count in counts.items() if count)}: {self.example}"
        if not self.once + self.again + self.in_gaps:
            return f"none of {self.issued:,} was sent to us" if self.issued else "nothing was sent"
        told = ["each once"]
        if self.in_gaps:
            told.append(f"{self.in_gaps:,} in Gaps")
        if self.again:
            told.append(f"{self.again:,} as often as they came")
        if (unsent := (self.issued or 0) - (self.sent or 0)) > 0:
            told.append(f"{unsent:,} not sent to us")
        return ", ".join(told)


def source_of(name: Name) -> str:
    """The source that brings a venue's channel."""
    found = (s.name for s in SOURCES.values() if s.venue == name.venue and name.channel in s.channels)
    return next(found, name.venue)


def seen(name: Name, there: Mapping[str, Ids]) -> Row:
    """A feed of an exchange that does not count for us: only that no trade is there twice can be told."""
    records = sum(ids.records for ids in there.values())
    twice = sum(ids.records - len(ids.ids) for ids in there.values()) if name.channel == TRADES else 0
    return Row(name, len(there), once=records - twice, twice=twice, example=next(iter(there), ""))


def compare(
    name: Name,
    sent: Mapping[str, Sent],
    there: Mapping[str, Ids],
    gaps: Mapping[str, Sequence[Range]],
    *,
    broke_off: bool = False,
) -> Row:
    """What was sent of a feed against what is in Kafka; `gaps` holds the ids that Gaps name, by symbol.

    `broke_off`: a Gap says that the collector was away for a time. Nobody can name what it missed, but for trades
    between two others of their symbol.
    """
    total: Counter[str] = Counter()
    example = ""
    for symbol in sorted({*sent, *there}):
        named = [*gaps.get(symbol, ()), *(_unnamed(name, there.get(symbol)) if broke_off else ())]
        found, wrong = _compare_symbol(sent.get(symbol, NOTHING), there.get(symbol, Ids()), named)
        total.update(found)
        if wrong and not example:
            example = f"{symbol} {wrong}"
    rows = [row for row in sent.values() if row.delivered]
    count = sum(len(row.ids) or row.delivered for row in rows)
    return Row(name, len(rows), sum(row.issued for row in sent.values()), count, example=example, **total)


NOTHING = Sent(0, 0, ())
LEAST, GREATEST = -(1 << 63), (1 << 63) - 1


def _unnamed(name: Name, there: Ids | None) -> Sequence[Range]:
    """Ids of which a Gap may say no more than that there were some."""
    if name.channel != TRADES or there is None or not there.numbers:
        return [(LEAST, GREATEST)]
    return [(LEAST, min(there.numbers)), (max(there.numbers), GREATEST)]


def _compare_symbol(sent: Sent, there: Ids, gaps: Sequence[Range]) -> tuple[dict[str, int], str]:
    if not sent.ids and not there.numbers:
        return _compare_counts(sent.delivered, there.records, away=bool(gaps))
    if there.records == len(there.numbers) and array("q", sent.ids) == there.numbers:
        return {"once": len(sent.ids)}, ""
    counts, expected = Counter(there.numbers), set(sent.ids)
    absent = expected - counts.keys()
    named = {number for number in absent if within(gaps, number)}
    more = {number for number, times in counts.items() if times > 1 and number in expected}
    again = more.intersection(sent.repeated)
    strange = counts.keys() - expected
    found = {
        "once": len(expected) - len(absent) - len(more),
        "missing": len(absent) - len(named),
        "in_gaps": len(named),
        "twice": len(more) - len(again),
        "again": len(again),
        "strange": len(strange) + there.records - len(there.numbers),
    }
    return found, _example(absent - named, more - again, strange)


def _compare_counts(delivered: int, records: int, *, away: bool) -> tuple[dict[str, int], str]:
    short, twice = max(delivered - records, 0), max(records - delivered, 0)
    told = f"{delivered} sent, {records} there" if short or twice else ""
    return {"once": min(delivered, records), "in_gaps" if away else "missing": short, "twice": twice}, told


def _example(missing: Collection[int], twice: Collection[int], strange: Collection[int]) -> str:
    for numbers, word in ((missing, "is missing"), (twice, "is there twice"), (strange, "was never sent")):
        if numbers:
            return f"{min(numbers)} {word}"
    return ""


def within(ranges: Iterable[Range], number: int) -> bool:
    """Whether a number is in any of the ranges."""
    return any(low <= number <= high for low, high in ranges)
