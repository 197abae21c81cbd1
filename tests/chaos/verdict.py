"""Whether every id that was issued is received, repaired or listed as missing, and every book right. Pure.

`judge` holds the evidence of a run against each rule, and tells what breaks it by feed, id and fault, with the Gap that
is nearest. docs/continuity.md says what is promised.
"""

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from producers.contract import BOOKS, KLINES, LIQUIDATIONS, TRADES
from tests.chaos.case import COUNTED, SLACK_US, Case, allowed, may_befall
from tests.chaos.evidence import COUNTING, Evidence, Fault, Hole, Name, count_of, is_polled

BOOK_PAUSE_US = 5_000_000
"""A kept book that is not published for so long, while its market changes, needs a Gap or a fault."""
FULL_US = 500_000_000
"""Runs of at least this long must have met every fault."""
FEED_KINDS = ("duplicate", "garbage", "mute")
VENUE_KINDS = ("cut", "stall", "close", "limit")
"""Faults of any feed that streams, and of all of a venue at once."""
POLL_KINDS = ("garbage", "limit")
"""Faults that an answer over REST can have."""
MOST_CONNECTIONS = 2
"""While a connection is being replaced, the old and the new one bring the same frame."""
TAIL_US = 15_000_000
"""The last part of a run, in which the simulator begins nothing new."""
LEAST_ISSUED = 20
"""A feed that has issued fewer records in it may have been quiet where somebody listened."""
EXAMPLES = 5
"""Breaches of one rule by one feed that are told one by one."""


class Finding(NamedTuple):
    """What breaks a rule: where, in a sentence, and the Gap nearest to it."""

    rule: str
    name: Name
    what: str
    nearest: str = ""

    def __str__(self) -> str:
        return f"[{self.rule}] {self.name}: {self.what}" + (f"; nearest Gap: {self.nearest}" if self.nearest else "")


def judge(evidence: Evidence) -> list[Finding]:
    """Everything that breaks a rule."""
    case = Case(evidence)
    return [finding for rule in RULES for finding in rule(case)]


def unexplained(case: Case) -> Iterator[Finding]:
    """a. Every id issued is in its topic or in a standing Gap."""
    for name, account in case.accounts.items():
        for number, time_us in account.unexplained[:EXAMPLES]:
            what = f"{_told(number)}, issued at {time_us}, is neither in the topic nor in a Gap"
            yield _finding("unexplained", case, name, what, time_us)
        yield from _others("unexplained", name, len(account.unexplained))


def repairable(case: Case) -> Iterator[Finding]:
    """b. What REST would still tell is in its topic."""
    for name, numbers in case.evidence.served.items():
        times = case.issue_times(name)
        for number in numbers[:EXAMPLES]:
            what = f"id {number} is missing, and REST would still tell it"
            yield _finding("repairable", case, name, what, times.get(number * COUNTING[name.channel], 0))
        yield from _others("repairable", name, len(numbers))


def minimal(case: Case) -> Iterator[Finding]:
    """c. No record that is there lies inside a Gap; a Gap counts what it names, and names what was issued."""
    for name in case.names:
        if name.channel in COUNTING:
            yield from _minimal_ids(case, name)
    for hole in case.holes:
        if hole.name.channel not in COUNTING and hole.gap.from_time is not None:
            times = case.received(hole.name)
            at = bisect_right(times, hole.gap.from_time)
            if at < len(times) and times[at] < hole.gap.to_time:
                yield Finding("minimal", hole.name, f"a record received at {times[at]} lies inside a Gap", str(hole))


def _minimal_ids(case: Case, name: Name) -> Iterator[Finding]:
    there = sorted({*_counts(name, case.log(name).identities)})
    issued = {*_counts(name, case.issue_times(name))}
    since = min(issued, default=0)
    named: Counter[int] = Counter()
    for hole in case.holes_of(name):
        if hole.missing is None:
            continue
        first, last = hole.missing
        if inside := there[bisect_right(there, first - 1) : bisect_right(there, last)]:
            yield Finding("minimal", name, f"id {inside[0]} is in the topic and in a Gap", str(hole))
        if hole.gap.missing != last - first + 1:
            what = f"a Gap names {last - first + 1} ids and counts {hole.gap.missing}"
            yield Finding("minimal", name, what, str(hole))
        if never := [number for number in range(max(first, since), last + 1) if number not in issued]:
            yield Finding("minimal", name, f"a Gap names id {never[0]}, which was never issued", str(hole))
        named.update(range(first, last + 1))
    for number in [number for number, times in named.items() if times > 1][:EXAMPLES]:
        yield Finding("minimal", name, f"id {number} is in two Gaps")


def _counts(name: Name, identities: Iterable[int | None]) -> Iterator[int]:
    counts = (count_of(name.channel, identity) for identity in identities)
    return (number for number in counts if number is not None)


def causes(case: Case) -> Iterator[Finding]:
    """d. Each Gap has the cause of a fault, or needs none."""
    patience_us = case.evidence.patience_us
    for hole in case.holes:
        if _needs_no_fault(case, hole):
            continue
        touching = case.touching(hole)
        possible = {cause for fault in touching for cause in allowed(fault, hole, patience_us)}
        if not touching:
            yield Finding("cause", hole.name, "a Gap and no fault", str(hole))
        elif hole.gap.cause not in possible:
            expected = " or ".join(sorted(possible)) or "no Gap"
            told = "; ".join(map(str, touching[:EXAMPLES]))
            yield Finding("cause", hole.name, f"{hole.gap.cause} where {expected} was to be: {told}", str(hole))


def _needs_no_fault(case: Case, hole: Hole) -> bool:
    """Whether it is a cold start, the end of the market or of a demand, or a poll that came too late to be made."""
    gap = hole.gap
    after_the_end = gap.detected_time > case.evidence.ended_us + SLACK_US
    if gap.cause == "COLD_START" or (after_the_end and gap.cause in ("SILENCE", "DISCONNECT")):
        return True
    if "not demanded" in gap.detail:
        return gap.to_time >= case.evidence.ended_us - SLACK_US
    return is_polled(gap.venue, gap.channel) and gap.cause == "SILENCE"


def unnoticed(case: Case) -> Iterator[Finding]:
    """d. Each fault that takes something, or breaks off a feed that had flowed, has a Gap, even if all came later."""
    for fault in case.evidence.faults:
        name = Name(fault.venue, fault.channel, fault.symbol)
        if fault.kind == "gap" and fault.channel in COUNTING:
            yield from _unnoticed_ids(case, fault, name)
        elif (fault.kind == "gap" and case.is_kept(name)) or (fault.kind == "mute" and fault.ids):
            if not any(fault in case.touching(hole) for hole in case.holes_of(name)):
                yield _finding("unnoticed", case, name, f"{fault} left no Gap", fault.from_us)
        elif fault.kind in ("cut", "limit"):
            yield from _unnoticed_loss(case, fault)


def _unnoticed_ids(case: Case, fault: Fault, name: Name) -> Iterator[Finding]:
    times, holes = case.issue_times(name), case.holes_of(name)
    for identity in fault.ids:
        if identity in times and not any(_notices(hole, identity, times[identity]) for hole in holes):
            what = f"id {identity} was left out by {fault}, and no Gap tells of it"
            yield Finding("unnoticed", name, what, case.nearest(name, times[identity]))


def _notices(hole: Hole, identity: int, time_us: int) -> bool:
    """Whether a Gap names an id, has named it, or is of its time: what it would have named may have come before it."""
    number = count_of(hole.name.channel, identity)
    if number is not None and hole.has_named(number):
        return True
    return (hole.gap.from_time or 0) - SLACK_US <= time_us <= hole.gap.to_time + SLACK_US


def _unnoticed_loss(case: Case, fault: Fault) -> Iterator[Finding]:
    for feed, names in case.members.items():
        if is_polled(feed.venue, feed.channel):
            continue
        for name in names if feed.channel == TRADES else [feed]:
            if not may_befall(fault, name):
                continue
            times = [case.market_time(time_us) for time_us in (*case.received(name)[:1], *case.received(name)[-1:])]
            flowed = bool(times) and times[0] < fault.from_us - SLACK_US and times[1] > fault.to_us + SLACK_US
            if flowed and not any(fault in case.touching(hole) for hole in case.holes_of(name)):
                yield _finding("unnoticed", case, name, f"{fault} left no Gap", fault.from_us)


def letters(case: Case) -> Iterator[Finding]:
    """d. Each frame that nobody can read is a dead letter of each connection that brought it; nothing else is."""
    garbage = {(fault.venue, fault.origin) for fault in case.evidence.faults if fault.kind == "garbage"}
    spoilt = Counter(venue for venue, _ in garbage)
    for venue in sorted({*spoilt, *case.evidence.letters}):
        name, found = Name(venue, "", ""), case.evidence.letters.get(venue, ())
        if len({letter.payload for letter in found}) != spoilt[venue]:
            what = f"{spoilt[venue]} unreadable frames were sent, {len(found)} are dead letters"
            yield Finding("dead letters", name, f"{what}: {'; '.join(map(str, found))}")
        again = Counter(letter.payload for letter in found)
        for payload in (one for one, times in again.items() if times > MOST_CONNECTIONS):
            yield Finding("dead letters", name, f"a frame is a dead letter {again[payload]} times: {payload!r}")


def twice(case: Case) -> Iterator[Finding]:
    """d. Nothing is in its topic twice: no trade id, no record that differs only in how it came.

    Records without id or time, which are polled, may be as they were; and a kept book that was doubted is told again.
    """
    for name in case.names:
        log = case.log(name)
        told: Sequence[object] = log.identities if name.channel == TRADES else log.contents
        told_anew = {hole.gap.to_time for hole in case.holes_of(name)} if case.is_kept(name) else set()
        first: dict[object, int] = {}
        again = [
            at
            for at, value in enumerate(told)
            if log.identities[at] is not None
            and log.received_us[at] not in told_anew
            and first.setdefault(value, at) != at
        ]
        if again:
            number, time_us = log.identities[again[0]], log.received_us[again[0]]
            what = f"{len(again)} records are there again, the first is {_told(number)}, received at {time_us}"
            yield _finding("twice", case, name, what, case.market_time(time_us))


def books(case: Case) -> Iterator[Finding]:
    """e. Each book that Raven keeps is the venue's, until the end; what broke it is a Gap, and a new book ended it."""
    for name in case.names:
        if case.is_kept(name):
            yield from _wrong_books(case, name)
            yield from _pauses(case, name)
    for hole in case.holes:
        begin, _ = case.span(hole)
        was_due = begin < case.evidence.ended_us - BOOK_PAUSE_US and hole.gap.cause != "COLD_START"
        if case.is_kept(hole.name) and was_due and hole.gap.repair != "RESNAPSHOT":
            yield Finding("book", hole.name, "no new book ended a break", str(hole))


def _wrong_books(case: Case, name: Name) -> Iterator[Finding]:
    digests = case.evidence.digests.get(name, {})
    wrong = [book for book in case.log(name).kept if digests.get(book.key) != book.digest]
    for book in wrong[:EXAMPLES]:
        how = "differs from the venue's" if book.key in digests else "is of an update that the venue never made"
        yield _finding("book", case, name, f"the book at {book.key} {how}", case.market_time(book.received_us))
    yield from _others("book", name, len(wrong))


def _pauses(case: Case, name: Name) -> Iterator[Finding]:
    changes = sorted(time_us for _, time_us in case.evidence.issued.get(name, ()))
    published = sorted(case.market_time(book.received_us) for book in case.log(name).kept)
    for before, after in pairwise([case.evidence.began_us, *published, case.evidence.ended_us]):
        changed = bisect_right(changes, after - BOOK_PAUSE_US) - bisect_right(changes, before)
        if after - before > BOOK_PAUSE_US and changed and not _explains_pause(case, name, before, after):
            what = f"nothing was published from {before} to {after}, while {changed} changes were issued"
            yield _finding("book", case, name, what, before)


def _explains_pause(case: Case, name: Name, before: int, after: int) -> bool:
    spans = map(case.span, case.holes_of(name))
    if any(begin <= after and end >= before for begin, end in spans):
        return True
    stalls = (one for one in case.evidence.faults if one.kind in ("stall", "mute") and may_befall(one, name))
    return any(one.from_us <= after and one.to_us >= before for one in stalls)


def alive(case: Case) -> Iterator[Finding]:
    """i. A feed that nothing is done to any more flows again: a Gap that never ends explains all and repairs nothing.

    Kept books have rule e.
    """
    since_us = case.evidence.ended_us - TAIL_US
    for feed, names in case.members.items():
        if any(map(case.is_kept, names)):
            continue
        issued = sum(time_us > since_us for name in names for _, time_us in case.evidence.issued.get(name, ()))
        came = case.received(feed)
        if issued < LEAST_ISSUED or (came and case.market_time(came[-1]) > since_us):
            continue
        if not any(fault.to_us > since_us - TAIL_US and may_befall(fault, feed) for fault in case.evidence.faults):
            what = f"nothing came after {since_us}, where {issued} records were issued and nothing was done to it"
            yield Finding("alive", feed, what, case.nearest(feed, since_us))


def order(case: Case) -> Iterator[Finding]:
    """f. Trades and candles are in the order of their ids, but for late repairs, each of which is of a Gap."""
    for name in case.names:
        if name.channel not in COUNTING:
            continue
        repaired = case.repaired(name)
        seen: set[int] = set()
        numbers = list(_counts(name, case.log(name).identities))
        highest = numbers[0] if numbers else 0
        for number in numbers:
            if number < highest and number not in seen | repaired:
                what = f"id {number} comes after {highest}, and no Gap says that it was repaired"
                yield _finding(
                    "order", case, name, what, case.issue_times(name).get(number * COUNTING[name.channel], 0)
                )
                break
            seen.add(number)
            highest = max(number, highest)


def strange(case: Case) -> Iterator[Finding]:
    """h. Nothing is in a topic that was never issued."""
    for name in case.names:
        if case.is_kept(name):
            continue
        times, log = case.issue_times(name), case.log(name)
        since = min(times, default=0)
        never = [one for one in log.identities if one is not None and one > since and one not in times]
        if never:
            yield Finding("strange", name, f"{len(never)} records were never issued, the first is {_told(never[0])}")


def coverage(case: Case) -> Iterator[Finding]:
    """g. In a run of ten minutes each feed has met each fault that it can have."""
    if case.evidence.ended_us - case.evidence.began_us < FULL_US:
        return
    for (venue, channel), met in case.matrix.items():
        for kind in possible_kinds(venue, channel):
            if not met[kind]:
                yield Finding("coverage", Name(venue, channel, ""), f"no {kind} was ever put upon this feed")


def possible_kinds(venue: str, channel: str) -> Sequence[str]:
    """The faults that a feed can have: nothing is left out or changes places where nobody could notice.

    A venue that numbers the frames of a connection numbers them as they go out: what changes places there is noticed
    only where records have ids. Liquidations come so seldom that their silence is not strange.
    """
    if is_polled(venue, channel):
        return POLL_KINDS
    can_skip = venue in COUNTED or channel in (TRADES, KLINES, BOOKS)
    can_swap = channel == TRADES or (channel == BOOKS and venue not in COUNTED)
    kinds = ("gap",) * can_skip + ("reorder",) * can_swap + FEED_KINDS + VENUE_KINDS
    return [kind for kind in kinds if kind != "mute" or channel != LIQUIDATIONS]


def services(case: Case) -> Iterator[Finding]:
    """The collector ran to its end, and ended when it was told to."""
    return (Finding("collector", Name("", "", ""), trouble) for trouble in case.evidence.troubles)


RULES: tuple[Callable[[Case], Iterable[Finding]], ...] = (
    unexplained,
    repairable,
    minimal,
    causes,
    unnoticed,
    letters,
    twice,
    books,
    alive,
    order,
    strange,
    coverage,
    services,
)


def _finding(rule: str, case: Case, name: Name, what: str, time_us: int) -> Finding:
    """With the faults of that time, and the Gap nearest to it."""
    once = {fault.origin: fault for fault in reversed(case.faults_at(name, time_us))}
    faults = "; ".join(str(fault) for _, fault in sorted(once.items())[:EXAMPLES])
    return Finding(rule, name, what + (f" (at that time: {faults})" if faults else ""), case.nearest(name, time_us))


def _others(rule: str, name: Name, count: int) -> Iterator[Finding]:
    if count > EXAMPLES:
        yield Finding(rule, name, f"and {count - EXAMPLES} more")


def _told(number: int | None) -> str:
    return "a record" if number is None else f"id {number}"
