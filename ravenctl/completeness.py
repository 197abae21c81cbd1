"""How complete feeds are, hour by hour: what venues issued, what is there, what Gaps name. Pure.

Ids of a symbol count up by one, so the first id after each edge of an hour tells how many were issued between two
edges, and no record in between need be read:

    edge      10:00              11:00              12:00
    ids         105 ... 230 | [Gap 231-250] | 251 ... 400 ...
    issued          130 to 11:00       ... and of the Gap, the part that falls before 11:00

Where an edge lies within a Gap, its ids are taken as spread evenly over its time. Feeds without such ids are measured
in time: the share of an hour that no Gap covers, for each symbol. Nobody knows what was before the first record of a
feed that is found, or after the last: that time is not covered.
"""

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from producers.contract import ALL, KLINES, TRADES
from producers.registry import SOURCES
from producers.tape import CANDLE_US
from ravencore.records import Gap
from ravenctl.feeds import Name, Range
from ravenctl.readback import merged

HOUR_US = 3_600_000_000
COUNTING = (TRADES, KLINES)
"""Channels whose records count: trades by their ids, klines by their minutes."""
PAUSE_US = 60_000_000
"""A feed that was seen within a minute of an edge is taken to have been there at it."""

CLOCKS_US = 1_000_000
"""How far the time of a Gap and that of the same record in Kafka may be apart."""


class Mark(NamedTuple):
    """A record: its counting id, where it has one, and its time in microseconds."""

    sequence: int | None
    time_us: int


@dataclass
class Seen:
    """What was found of one symbol: by the number of an edge, the first record at or after it and before the next.

    `empty` are the edges between which and the next there is certainly no record.
    """

    first: dict[int, Mark] = field(default_factory=dict)
    empty: set[int] = field(default_factory=set)
    oldest: Mark | None = None
    newest: Mark | None = None
    """The one with the highest id, or the latest."""

    def add(self, edge: int | None, mark: Mark) -> None:
        """Take a record; `edge` is the number of the one it was sought after, None where it is of the tail."""
        self.oldest = mark if self.oldest is None else min(self.oldest, mark, key=_time)
        self.newest = mark if self.newest is None else max(self.newest, mark, key=_order)
        if edge is not None:
            self.first[edge] = min(self.first.get(edge, mark), mark, key=_order)

    def times(self) -> list[int]:
        """When it was seen, in order."""
        marks = (self.oldest, *self.first.values(), self.newest)
        return sorted(mark.time_us for mark in marks if mark is not None)


def _time(mark: Mark) -> int:
    return mark.time_us


def _order(mark: Mark) -> tuple[int, int]:
    return mark.sequence or 0, mark.time_us


Survey = Mapping[Name, Mapping[str, Seen]]
"""What was found, by feed and symbol."""


@dataclass(frozen=True, kw_only=True)
class Hour:
    """A feed within an hour, or within the part of one that was asked for.

    `issued` and `missing` count ids and are None where a feed has none; `covered_us` then is the average of all
    symbols, and `worst` names the one with least. `gaps` miss something, or cannot know; `unknown` of them do not
    know how much, first starts not counted: those are `first_starts`. `known` is the time in which anything at all
    is known, None where there is none. `estimated`: the border to the hour before or after is reckoned, not read.
    """

    name: Name
    symbol: str | None
    from_us: int
    to_us: int
    symbols: int
    issued: int | None = None
    missing: int | None = None
    covered_us: int | None = None
    worst: tuple[str, int] | None = None
    gaps: int = 0
    unknown: int = 0
    first_starts: int = 0
    repaired: int = 0
    repaired_gaps: int = 0
    known: tuple[int, int] | None
    estimated: bool = False

    @property
    def length_us(self) -> int:
        """How long it is."""
        return self.to_us - self.from_us

    @property
    def there(self) -> int | None:
        """How many of the ids that were issued are in the topic."""
        return None if self.issued is None else self.issued - (self.missing or 0)

    @property
    def all_known(self) -> bool:
        """Whether something is known of all of it."""
        return self.known == (self.from_us, self.to_us)

    @property
    def complete(self) -> bool:
        """Whether nothing is missing, and that is certain."""
        if not self.all_known or self.unknown or self.first_starts:
            return False
        return not self.missing if self.issued is not None else self.covered_us == self.length_us


def edges_of(since_us: int, now_us: int) -> list[int]:
    """Where hours begin between two times, those themselves included."""
    first = (since_us // HOUR_US + 1) * HOUR_US
    return [since_us, *range(first, now_us, HOUR_US), now_us]


def feeds_of(name: Name, symbol: str) -> set[str]:
    """By which symbols a symbol's records are subscribed to: its own, a currency, or ALL."""
    sources = (source for source in SOURCES.values() if source.venue == name.venue and name.channel in source.channels)
    return {source.feed(name.channel, symbol).symbol for source in sources} or {symbol}


def hours(
    edges: Sequence[int],
    survey: Survey,
    gaps: Iterable[Gap],
    alive: Mapping[Name, Mapping[str, int]],
    *,
    by_symbol: bool = False,
) -> list[Hour]:
    """Every feed in every hour between the edges, the oldest first.

    `alive` says until when feeds are known to run although nothing may have come, by the symbols of their
    subscriptions. `by_symbol`: each symbol by itself.
    """
    named: dict[Name, dict[str, list[Gap]]] = {}
    for gap in gaps:
        named.setdefault(Name(gap.venue, gap.channel), {}).setdefault(gap.symbol, []).append(gap)
    out: list[Hour] = []
    for name in sorted({*survey, *named}):
        members = _members(name, survey.get(name, {}), named.get(name, {}), alive.get(name, {}))
        for group in [[member] for member in members] if by_symbol else [members]:
            out += _hours(Group(name, group[0].symbol if by_symbol else None, group), edges)
    return sorted(out, key=lambda hour: hour.from_us)


class Member(NamedTuple):
    """A symbol of a feed, what was found of it, the Gaps that concern it, and from when to when its feed is known.

    `own`: the feed brings this symbol alone, and so is no longer there when the symbol is not.
    """

    symbol: str
    seen: Seen
    gaps: Sequence[Gap]
    known: Range | None
    own: bool


class Group(NamedTuple):
    """Symbols that are counted together."""

    name: Name
    label: str | None
    members: Sequence[Member]

    @property
    def gaps(self) -> list[Gap]:
        """All of its Gaps, each once."""
        return list({gap.gap_id: gap for member in self.members for gap in member.gaps}.values())


def _members(
    name: Name, found: Mapping[str, Seen], gaps: Mapping[str, Sequence[Gap]], alive: Mapping[str, int]
) -> list[Member]:
    """Every symbol; one of which nothing but a Gap is known is one as well."""
    concern = {symbol: {symbol, ALL, *feeds_of(name, symbol)} for symbol in found}
    alone = gaps.keys() - set(itertools.chain.from_iterable(concern.values()))
    concern |= {symbol: {symbol, ALL} for symbol in alone}
    of_all = [time_us for seen in found.values() for time_us in seen.times()]
    out = []
    for symbol, feeds in sorted(concern.items()):
        seen, own = found.get(symbol, Seen()), symbol in feeds_of(name, symbol)
        times = seen.times() if own else of_all
        running = max((alive[feed] for feed in feeds if feed in alive), default=0)
        known = (min(times), max(*times, running)) if times else None
        out.append(Member(symbol, seen, [gap for feed in sorted(feeds) for gap in gaps.get(feed, ())], known, own))
    return out


def _hours(group: Group, edges: Sequence[int]) -> list[Hour]:
    newest = (member.seen.newest for member in group.members)
    has_ids = any(mark is not None and mark.sequence is not None for mark in newest)
    return _by_ids(group, edges) if has_ids and group.name.channel in COUNTING else _by_time(group, edges)


def _within(span: Range | None, from_us: int, to_us: int) -> Range | None:
    """The part of an hour of which anything is known."""
    if span is None:
        return None
    first = from_us if span[0] <= from_us + PAUSE_US else span[0]
    last = to_us if span[1] >= to_us - PAUSE_US else span[1]
    return (first, last) if first < last else None


# Feeds whose ids count


def ids_of(gap: Gap) -> Range | None:
    """Ids that a Gap misses, as its channel counts.

    A Gap of klines names none, only their number: they are the minutes before that of the kline which came at its end.
    """
    if gap.from_sequence is not None and gap.to_sequence is not None:
        return gap.from_sequence, gap.to_sequence
    if gap.channel != KLINES or not gap.missing:
        return None
    # A candle comes as it closes, a moment after the next minute has begun.
    after = (gap.to_time + CANDLE_US // 2) // CANDLE_US - 1
    return after - gap.missing, after - 1


def next_ids(edges: Sequence[int], seen: Seen, gaps: Sequence[Gap]) -> tuple[list[int | None], set[int]]:
    """The first id issued at or after each edge, None where that is before all that is known; never falling.

    Also the numbers of the edges at which it is reckoned and not read.
    """
    holes = [(ids, gap) for gap in gaps if (ids := ids_of(gap)) is not None]
    known = [seen.newest.sequence] if seen.newest and seen.newest.sequence is not None else []
    end = max([*known, *(ids[1] for ids, _ in holes)], default=None)
    found = [_id_at(number, edge, seen, holes) for number, edge in enumerate(edges)]
    found[-1] = None if end is None else end + 1
    _fill_empty(found, edges, seen, gaps)
    reckoned = _fill_between(found, edges) | {n for n, edge in enumerate(edges) if _inside(edge, holes) is not None}
    highest = None
    for number, value in enumerate(found):
        if value is not None:
            highest = found[number] = value if highest is None else max(highest, value)
    return found, reckoned


def _id_at(number: int, edge: int, seen: Seen, holes: Sequence[tuple[Range, Gap]]) -> int | None:
    inside = _inside(edge, holes)
    if inside is not None:
        return inside
    mark = seen.first.get(number)
    return mark.sequence if mark else None


def _inside(edge: int, holes: Sequence[tuple[Range, Gap]]) -> int | None:
    for (first, last), gap in holes:
        if gap.from_time is not None and gap.from_time < edge <= gap.to_time:
            return first + (last - first + 1) * (edge - gap.from_time) // (gap.to_time - gap.from_time)
    return None


def _fill_empty(found: list[int | None], edges: Sequence[int], seen: Seen, gaps: Sequence[Gap]) -> None:
    """Where nothing came between two edges, nothing was issued; but what was repaired came after its time."""
    first_known = next((number for number, value in enumerate(found) if value is not None), len(found))
    for number in range(len(found) - 2, first_known, -1):
        late = any(g.repaired and (g.from_time or 0) < edges[number + 1] and g.to_time > edges[number] for g in gaps)
        if found[number] is None and number in seen.empty and not late:
            found[number] = found[number + 1]


def _fill_between(found: list[int | None], edges: Sequence[int]) -> set[int]:
    """Edges between two known ones are reckoned as if ids were issued at an even pace."""
    known = [number for number, value in enumerate(found) if value is not None]
    reckoned = set()
    for number in range(known[0] if known else len(found), len(found)):
        if found[number] is None:
            right = known[bisect_left(known, number)]
            left = known[bisect_left(known, number) - 1]
            low, high = found[left] or 0, found[right] or 0
            found[number] = low + (high - low) * (edges[number] - edges[left]) // (edges[right] - edges[left])
            reckoned.add(number)
    return reckoned


@dataclass
class _Count:
    issued: int = 0
    missing: int = 0
    known: bool = False
    estimated: bool = False
    gaps: set[str] = field(default_factory=set)


def _by_ids(group: Group, edges: Sequence[int]) -> list[Hour]:
    counts = [_Count() for _ in edges[1:]]
    for member in group.members:
        _count_member(counts, edges, member)
    gaps = group.gaps
    return [
        Hour(
            name=group.name,
            symbol=group.label,
            from_us=edges[number],
            to_us=edges[number + 1],
            symbols=len(group.members),
            issued=count.issued,
            missing=count.missing,
            known=_hull(group.members, edges[number], edges[number + 1]) if count.known else None,
            estimated=count.estimated,
            **(told := _told(gaps, edges, number)) | {"gaps": len(count.gaps) + told["unknown"]},
        )
        for number, count in enumerate(counts)
    ]


def _count_member(counts: list[_Count], edges: Sequence[int], member: Member) -> None:
    marks, reckoned = next_ids(edges, member.seen, member.gaps)
    named = [(ids, gap.gap_id) for gap in member.gaps if (ids := ids_of(gap)) is not None]
    holes = merged(ids for ids, _ in named)
    for number, count in enumerate(counts):
        first, end = marks[number], marks[number + 1]
        if first is None or end is None:
            continue
        count.issued += end - first
        count.missing += sum(max(0, min(high + 1, end) - max(low, first)) for low, high in holes)
        count.gaps |= {gap_id for (low, high), gap_id in named if low < end and high >= first}
        count.known = True
        count.estimated |= bool({number, number + 1} & reckoned)


def _hull(members: Iterable[Member], low: int, high: int) -> Range | None:
    """From when to when anything is known of any of them."""
    spans = [span for member in members if (span := _within(member.known, low, high))]
    return (min(span[0] for span in spans), max(span[1] for span in spans)) if spans else None


def _told(gaps: Sequence[Gap], edges: Sequence[int], number: int) -> dict[str, Any]:
    """How many Gaps an hour has, of which kind, and what came after all."""
    low, high = edges[number], edges[number + 1]
    here = [gap for gap in gaps if _touches(gap, low, high)]
    repaired = [gap for gap in here if gap.repaired and low <= min(gap.to_time, edges[-1] - 1) < high]
    return {
        "gaps": sum(gap.missing != 0 for gap in here if gap.cause != "COLD_START"),
        "unknown": sum(gap.missing is None for gap in here if gap.channel in COUNTING and gap.cause != "COLD_START"),
        "first_starts": sum(gap.cause == "COLD_START" and low <= gap.to_time < high for gap in here),
        "repaired": sum(gap.repaired for gap in repaired),
        "repaired_gaps": len(repaired),
    }


def _touches(gap: Gap, low: int, high: int) -> bool:
    from_us = gap.to_time if gap.from_time is None else gap.from_time
    return from_us < high and gap.to_time >= low


# Feeds that are measured in time


def _by_time(group: Group, edges: Sequence[int]) -> list[Hour]:
    holes = {member.symbol: _holes(member) for member in group.members}
    gaps = group.gaps
    return [_hour_by_time(group, edges, number, holes, gaps) for number in range(len(edges) - 1)]


def _hour_by_time(
    group: Group, edges: Sequence[int], number: int, holes: Mapping[str, Sequence[Range]], gaps: Sequence[Gap]
) -> Hour:
    low, high = edges[number], edges[number + 1]
    came = any(_came(member, number) for member in group.members)
    there = [
        member for member in group.members if _counts(member, number, holes[member.symbol], (low, high), came=came)
    ]
    covered = {member.symbol: _uncut(_within(member.known, low, high), holes[member.symbol]) for member in there}
    worst = min(covered, key=lambda symbol: (covered[symbol], symbol), default=None)
    return Hour(
        name=group.name,
        symbol=group.label,
        from_us=low,
        to_us=high,
        symbols=len(covered),
        covered_us=sum(covered.values()) // len(covered) if covered else 0,
        worst=(worst, covered[worst]) if worst is not None else None,
        known=_hull(there, low, high),
        **_told(gaps, edges, number),
    )


def _came(member: Member, number: int) -> bool:
    """Whether a record came in an hour, as far as was read."""
    return bool(member.seen.newest) and (number in member.seen.first or number not in member.seen.empty)


def _counts(member: Member, number: int, holes: Sequence[Range], hour: Range, *, came: bool) -> bool:
    """Whether an hour says anything of a symbol: it came, or it should have; else nobody had asked for it."""
    should = any(begin < hour[1] and end > hour[0] for begin, end in holes)
    within = came and _within(member.known, *hour) is not None
    return should or (within and (_came(member, number) or not member.own))


def _holes(member: Member) -> list[Range]:
    """Times without records, in order and apart; where nothing was lost there is none."""
    times = member.seen.times()
    return merged((_start(gap, times), gap.to_time) for gap in member.gaps if gap.missing != 0)


def _start(gap: Gap, times: Sequence[int]) -> int:
    """When a hole begins: where the collector did not know, with the last record found before it."""
    if gap.from_time is not None:
        return min(gap.from_time, gap.to_time)
    before = bisect_left(times, gap.to_time - CLOCKS_US)
    return times[before - 1] if before else 0


def _uncut(span: Range | None, holes: Sequence[Range]) -> int:
    """How much of a span no hole covers; holes do not overlap."""
    if span is None:
        return 0
    low, high = span
    return high - low - sum(max(0, min(high, end) - max(low, begin)) for begin, end in holes)
