"""Feeds as the exchange counted them, held against Kafka id by id. Pure.

An id tells a record apart from others of its venue, channel and symbol: a trade's counting id, the update id of a book
or quote that has one, the open time of a kline, else the event time. Where a venue gives none of these, records are
only counted. Books that Raven keeps from differences are published at its own pace: each must equal the exchange's own
at the same update, and the last one the exchange's last.
"""

from array import array
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from producers.contract import TRADES, Poll
from producers.registry import SOURCES
from ravencore.decimals import to_text
from ravencore.records import Book, Kline, Level, MarketRecord, Quote, Trade
from simulator.books import DIGESTED_LEVELS, VERIFIED_LEVELS, digest

Range = tuple[int, int]
"""First and last id, inclusive."""
Digests = Mapping[int, str] | None
"""What a book of the exchange's was after each of its last changes (simulator.books), by update id or time; None: it
keeps none itself, but tells differences as they were recorded."""


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
    kept: list[tuple[int, str]] = field(default_factory=list)
    """Books that Raven keeps: the id or time of the last update, and a digest."""

    def add(self, record: MarketRecord) -> None:
        """Count a record."""
        self.records += 1
        number = identity_of(record)
        if isinstance(record, Book) and record.source == "MAINTAINED":
            self.kept.append(
                (
                    number or 0,
                    digest(
                        _texts(record.bids), _texts(record.asks), VERIFIED_LEVELS.get(record.venue, DIGESTED_LEVELS)
                    ),
                )
            )
            return
        if number is not None:
            self.numbers.append(number)
        if isinstance(record, Trade):
            self.ids.add(record.trade_id)

    @property
    def late(self) -> int:
        """Records that came after one with a higher id."""
        highest, late = LEAST, 0
        for number in self.numbers:
            late += number < highest
            highest = max(highest, number)
        return late


def _texts(levels: Sequence[Level]) -> list[tuple[str, str]]:
    return [(to_text(level.price), to_text(level.quantity)) for level in levels]


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

    What it told over REST is sent, too. `repeated` holds the ids that were sent more often than once, as snapshots
    after a reconnect and polls may be; `withheld` those made since somebody subscribed that nobody was sent.
    """

    issued: int
    delivered: int
    ids: Sequence[int]
    repeated: Collection[int] = ()
    withheld: Sequence[int] = ()


class Ledger(NamedTuple):
    """What Gaps say of a feed.

    `named` are the ids that are missing, by symbol; `cold` the symbols of which nothing is known from before the first
    record. `repaired` counts ids that were missing once and came over REST, `renewed` breaks of kept books that a new
    book has ended. `broke_off`: a Gap says that the collector was away for a time, and nobody can name what it missed.
    """

    named: Mapping[str, Sequence[Range]] = {}
    cold: Collection[str] = ()
    repaired: int = 0
    renewed: int = 0
    broke_off: bool = False


@dataclass(frozen=True)
class Row:
    """A feed and what was found of it; every count is of distinct ids, or of records where those have none.

    `issued` and `sent` are the exchange's counts, None where it does not count for us; `once` are in Kafka once,
    `missing` not at all and no Gap names them, `in_gaps` Gaps name, `twice` are there more often than once, `again`
    too, but the venue itself sent them again, `strange` were never sent. `withheld` were never sent either, are not
    there, and Gaps name them. `repaired` came over REST, `late` after later ones. `kept_books` are books that Raven
    keeps and that equal the exchange's, `wrong` those that do not, `unchecked` those that nobody can hold against
    any; `renewed` is how often one was begun anew.
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
    withheld: int = 0
    late: int = 0
    kept_books: int = 0
    wrong: int = 0
    unchecked: int = 0
    repaired: int = 0
    renewed: int = 0
    example: str = ""
    """A symbol and id that is wrong."""

    @property
    def source(self) -> str:
        """The collector's name for where it comes from."""
        return source_of(self.name)

    @property
    def kept(self) -> bool:
        """Whether Kafka holds what was sent, all of it, once, and every kept book is right."""
        return not (self.missing or self.twice or self.strange or self.wrong)

    @property
    def open(self) -> int:
        """Ids that the exchange made, and that Gaps name as missing."""
        return self.in_gaps + self.withheld

    @property
    def verdict(self) -> str:
        """Whether it holds, in words; what does not, and an example."""
        if not self.kept:
            counts = {"missing": self.missing, "twice": self.twice, "never sent": self.strange, "wrong": self.wrong}
            return f"{', '.join(f'{count:,} {word}' for word, count in counts.items() if count)}: {self.example}"
        if not self.once + self.again + self.open:
            return f"none of {self.issued:,} was sent to us" if self.issued else "nothing was sent"
        return ", ".join(self._told())

    def _told(self) -> Iterator[str]:
        if self.once > self.kept_books + self.unchecked or self.again or self.open:
            yield "each once"
        if self.kept_books:
            yield "kept by Raven, each the exchange's own"
        elif self.unchecked:
            yield "kept by Raven, with nothing to hold them against"
        if self.renewed:
            yield f"begun anew {self.renewed:,} time{'s' * (self.renewed != 1)}"
        if self.repaired:
            yield f"{self.repaired:,} fetched over REST"
        if self.open:
            yield f"{self.open:,} in Gaps"
        if self.again:
            yield f"{self.again:,} as often as they came"
        unsent = (self.issued or 0) - (self.sent or 0) - self.withheld
        if unsent > 0 and self.sent is not None:
            yield f"{unsent:,} not sent to us"


def source_of(name: Name) -> str:
    """The source that brings a venue's channel."""
    found = (s.name for s in SOURCES.values() if s.venue == name.venue and name.channel in s.channels)
    return next(found, name.venue)


def seen(name: Name, there: Mapping[str, Ids], ledger: Ledger) -> Row:
    """A feed of an exchange that does not count for us: only that no trade is there twice can be told."""
    records = sum(ids.records for ids in there.values())
    twice = sum(ids.records - len(ids.ids) for ids in there.values()) if name.channel == TRADES else 0
    return Row(
        name,
        len(there),
        once=records - twice,
        twice=twice,
        late=_late(name, there),
        unchecked=sum(len(ids.kept) for ids in there.values()),
        repaired=ledger.repaired,
        renewed=ledger.renewed,
        example=next(iter(there), ""),
    )


def compare(
    name: Name,
    sent: Mapping[str, Sent],
    there: Mapping[str, Ids],
    ledger: Ledger,
    books: Mapping[str, Digests] | None = None,
) -> Row:
    """What was sent of a feed against what is in Kafka; `books` are the exchange's own of symbols that are kept."""
    total: Counter[str] = Counter()
    example = ""
    kept = books or {}
    for symbol in sorted({*sent, *there, *kept}):
        ids = there.get(symbol, Ids())
        if symbol in kept:
            found, wrong = _compare_books(kept[symbol], ids)
        else:
            named = list(_named(name, symbol, ids, ledger))
            found, wrong = _compare_symbol(sent.get(symbol, NOTHING), ids, named, polled=_is_polled(name))
        total.update(found)
        if wrong and not example:
            example = f"{symbol} {wrong}"
    printed = [row for symbol, row in sent.items() if symbol not in kept]
    rows = [row for row in printed if row.delivered]
    # Of a kept book nobody counts what was sent: differences, of which several may come to one book.
    changes = sum(len(told or ()) for told in kept.values()) if kept and not printed else None
    issued = sum(row.issued for row in printed) if changes is None else changes
    count = sum(len(row.ids) or row.delivered for row in rows) if changes is None else None
    return Row(
        name,
        len(rows) + sum(bool(told) or symbol in there for symbol, told in kept.items()),
        issued,
        count,
        late=_late(name, there),
        repaired=ledger.repaired,
        renewed=ledger.renewed,
        example=example,
        **total,
    )


NOTHING = Sent(0, 0, ())
LEAST, GREATEST = -(1 << 63), (1 << 63) - 1


def _late(name: Name, there: Mapping[str, Ids]) -> int:
    return sum(ids.late for ids in there.values()) if name.channel == TRADES else 0


def _named(name: Name, symbol: str, there: Ids, ledger: Ledger) -> Iterator[Range]:
    """Ids that Gaps name, or of which one may say no more than that there were some."""
    yield from ledger.named.get(symbol, ())
    if name.channel == TRADES:
        if symbol in ledger.cold and there.numbers:
            yield LEAST, min(there.numbers)
    elif ledger.broke_off:
        yield LEAST, GREATEST


def _is_polled(name: Name) -> bool:
    source = SOURCES.get(source_of(name))
    return source is not None and isinstance(source, Poll)


def _compare_symbol(
    sent: Sent, there: Ids, gaps: Sequence[Range], *, polled: bool = False
) -> tuple[dict[str, int], str]:
    if not sent.ids and not there.numbers and not sent.withheld:
        return _compare_counts(sent.delivered, there.records, away=bool(gaps), polled=polled)
    if not sent.withheld and there.records == len(there.numbers) and array("q", sent.ids) == there.numbers:
        return {"once": len(sent.ids)}, ""
    counts, expected, withheld = Counter(there.numbers), set(sent.ids), set(sent.withheld)
    absent = expected - counts.keys()
    named = {number for number in absent if within(gaps, number)}
    unsaid = {number for number in withheld if not within(gaps, number)}
    more = {number for number, times in counts.items() if times > 1 and number in expected}
    again = more.intersection(sent.repeated)
    strange = counts.keys() - expected
    found = {
        "once": len(expected) - len(absent) - len(more),
        "missing": len(absent) - len(named) + len(unsaid),
        "in_gaps": len(named),
        "twice": len(more) - len(again),
        "again": len(again),
        "strange": len(strange) + there.records - len(there.numbers),
        "withheld": len(withheld) - len(unsaid),
    }
    return found, _example((absent - named) | unsaid, more - again, strange)


def _compare_counts(delivered: int, records: int, *, away: bool, polled: bool) -> tuple[dict[str, int], str]:
    """A poll may ask for two answers, of which the exchange counts one: a symbol may be in the other alone."""
    short, more = max(delivered - records, 0), max(records - delivered, 0)
    told = f"{delivered} sent, {records} there" if short or (more and not polled) else ""
    found = {"once": min(delivered, records), "in_gaps" if away else "missing": short}
    return found | {"again" if polled else "twice": more}, told


def _compare_books(digests: Digests, there: Ids) -> tuple[dict[str, int], str]:
    """Kept books against the exchange's own at the same update; it may have forgotten the oldest."""
    if digests is None:
        return {"once": len(there.kept), "unchecked": len(there.kept), "strange": there.records - len(there.kept)}, ""
    oldest = min(digests, default=LEAST)
    wrong = [key for key, told in there.kept if digests.get(key) != told and key >= oldest]
    printed = there.records - len(there.kept)
    newest = digests[max(digests)] if digests else None
    behind = newest is not None and (not there.kept or there.kept[-1][1] != newest)
    right = sum(digests.get(key) == told for key, told in there.kept)
    example = f"at {wrong[0]}" if wrong else "is not the exchange's last book" if behind else ""
    return {
        "once": right,
        "kept_books": right,
        "wrong": len(wrong),
        "missing": int(behind),
        "strange": printed,
    }, example


def _example(missing: Collection[int], twice: Collection[int], strange: Collection[int]) -> str:
    for numbers, word in ((missing, "is missing"), (twice, "is there twice"), (strange, "was never sent")):
        if numbers:
            return f"{min(numbers)} {word}"
    return ""


def within(ranges: Iterable[Range], number: int) -> bool:
    """Whether a number is in any of the ranges."""
    return any(low <= number <= high for low, high in ranges)
