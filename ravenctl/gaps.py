"""Reads the continuity ledger, and as much of the records' topics as it takes to say how complete they are."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple, get_args

from confluent_kafka import Consumer, KafkaException, Message
from msgspec.structs import replace
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from producers.contract import ALL
from producers.registry import SOURCES
from producers.routing import venue_symbol
from ravencore import kafka, topics
from ravencore.codec import EPOCH, Codec, iso_time
from ravencore.config import UNITS_US, KafkaSettings, RoutingSettings, Settings, interval_us
from ravencore.errors import ConfigError, Unavailable, Unreadable
from ravencore.pairs import pair_of
from ravencore.records import Gap, GapCause, ServiceStatus, Subscription
from ravenctl import reading, tail
from ravenctl.cluster import QUIET
from ravenctl.completeness import HOUR_US, Hour, edges_of, hours
from ravenctl.demands import named_venues
from ravenctl.feeds import Name
from ravenctl.shell import WrongUse
from ravenctl.statusview import fresh
from ravenctl.survey import Say, Surveyor, offsets

WINDOW_US = 24 * HOUR_US
LONGEST_US = 7 * WINDOW_US
"""How far back completeness is reckoned: trades are kept for so long."""
STATUSES = 40
FLOWING = ("FLOWING", "SUBSCRIBED")
PATIENCE_S = 1.5
"""How long a command may take before it shows how far it is."""
FETCHES = {
    "fetch.wait.max.ms": reading.WAIT_MS,
    "fetch.message.max.bytes": 131_072,
    "queued.max.messages.kbytes": 4_096,
}
"""Small ones: after each edge little is read of much."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is asked for: empty means all. `since_us` is the earliest time of what is listed."""

    venues: frozenset[str] = frozenset()
    symbols: tuple[str, ...] = ()
    channels: frozenset[str] = frozenset()
    causes: frozenset[str] = frozenset()
    since_us: int
    routing: RoutingSettings

    def takes_feed(self, name: Name) -> bool:
        """Whether a venue's channel is asked for; a venue may be named by one of its sources."""
        if self.channels and name.channel not in self.channels:
            return False
        named = (SOURCES[venue] for venue in self.venues if venue in SOURCES)
        by_source = any(source.venue == name.venue and name.channel in source.channels for source in named)
        return not self.venues or name.venue in self.venues or by_source

    def wants(self, name: Name, symbol: str) -> bool:
        """Whether a symbol of a feed is asked for, in whatever spelling."""
        return self.takes_feed(name) and (
            not self.symbols or any(self._same(name, wanted, symbol) for wanted in self.symbols)
        )

    def takes(self, gap: Gap) -> bool:
        """Whether a Gap's feed is asked for; one of a whole market concerns each of its symbols."""
        name = Name(gap.venue, gap.channel)
        return self.takes_feed(name) if gap.symbol == ALL else self.wants(name, gap.symbol)

    def _same(self, name: Name, wanted: str, symbol: str) -> bool:
        pair = pair_of(wanted)
        if symbol == wanted or (pair is not None and pair == pair_of(symbol)):
            return True
        sources = (s for s in SOURCES.values() if s.venue == name.venue and name.channel in s.channels)
        return any(
            symbol in (venue_symbol(source, wanted, self.routing.symbol_map), source.feed(name.channel, wanted).symbol)
            for source in sources
        )


class BadEntry(NamedTuple):
    """A record of the ledger that nobody can read."""

    partition: int
    offset: int
    why: str


@dataclass
class Report:
    """The ledger and what was reckoned from it; `gaps` are those asked for, oldest first.

    `open` are the ids of Gaps whose feed has not come back: these last until now, whatever was written as they were
    detected; `outside` are Gaps that were written since then but tell
    of earlier times; `silent` are feeds that do not flow now.
    """

    since_us: int
    now_us: int
    gaps: list[Gap] = field(default_factory=list)
    all_gaps: list[Gap] = field(default_factory=list)
    hours: list[Hour] = field(default_factory=list)
    open: frozenset[str] = frozenset()
    outside: list[Gap] = field(default_factory=list)
    silent: list[Subscription] = field(default_factory=list)
    unreadable: list[BadEntry] = field(default_factory=list)
    hours_since_us: int = 0


def choose(
    *,
    venues: Iterable[str] | None,
    symbols: Iterable[str] | None,
    channels: Iterable[str] | None,
    causes: Iterable[str] | None,
    since_us: int,
    routing: RoutingSettings,
) -> Choice:
    """What the options mean; raises WrongUse on a name that cannot be one."""
    named = [channel.strip().lower().replace("-", "_") for channel in channels or ()]
    why = [cause.strip().upper().replace("-", "_") for cause in causes or ()]
    return Choice(
        venues=frozenset(named_venues(venues)),
        symbols=tuple(symbol.strip().upper() for symbol in symbols or ()),
        channels=_known(named, topics.CHANNELS, "channel"),
        causes=_known(why, get_args(GapCause), "cause"),
        since_us=since_us,
        routing=routing,
    )


def _known(given: Sequence[str], there: Iterable[str], what: str) -> frozenset[str]:
    strange = [name for name in given if name not in there]
    if strange:
        raise WrongUse(f"{what} {strange[0]!r} is unknown: there are {', '.join(there)}")
    return frozenset(given)


def since(text: str, now_us: int) -> int:
    """The time that `24h`, `7d` or `2026-11-20T10:00` means, in UTC where it names no zone; raises WrongUse."""
    try:
        return now_us - interval_us(text.strip())
    except ConfigError:
        pass
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        units = ", ".join(UNITS_US)
        raise WrongUse(f"{text!r} is no time: write it like 24h ({units}) or 2026-11-20T10:00") from None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    since_us = int((moment - EPOCH).total_seconds() * 1_000_000)
    if since_us >= now_us:
        raise WrongUse(f"{text!r} has not been yet: it is {iso_time(now_us)[:16]} now, in UTC")
    return since_us


def report(settings: Settings, codec: Codec, choice: Choice, now_us: int, say: Say) -> Report:
    """The ledger since the time asked for, and completeness per hour; raises Unavailable."""
    found = Report(choice.since_us, now_us)
    client = kafka.reader(settings.kafka, "ravenctl", **QUIET, **FETCHES)
    try:
        chosen = _entries(client, codec, choice, found.unreadable, say)
        statuses = _statuses(client, codec, now_us)
        feeds = [feed for status in statuses for feed in status.subscriptions]
        found.open = still_open(chosen, feeds)
        found.silent = [f for f in feeds if f.state not in FLOWING and choice.wants(Name(f.venue, f.channel), f.symbol)]
        lasting = [replace(gap, to_time=now_us) if gap.gap_id in found.open else gap for gap in chosen]
        found.all_gaps = sorted((gap for gap in lasting if gap.to_time >= choice.since_us), key=_end)
        found.gaps = [gap for gap in found.all_gaps if not choice.causes or gap.cause in choice.causes]
        found.outside = [gap for gap in lasting if gap.to_time < choice.since_us]
        found.hours_since_us = max(choice.since_us, now_us - LONGEST_US)
        # An hour more: what runs through the first edge was there before it.
        edges = [found.hours_since_us - HOUR_US, *edges_of(found.hours_since_us, now_us)]
        surveyor = Surveyor(client, codec, edges, choice.wants)
        surveyor.run(choice.channels, say)
    except KafkaException as error:
        raise Unavailable(f"Kafka at {settings.kafka.bootstrap} does not answer: {error.args[0].str()}") from None
    finally:
        client.close()
    every = hours(edges, surveyor.found, found.all_gaps, _alive(statuses), by_symbol=len(choice.symbols) == 1)
    found.hours = [hour for hour in every if hour.from_us >= found.hours_since_us]
    return found


# The ledger


def _entries(client: Consumer, codec: Codec, choice: Choice, unreadable: list[BadEntry], say: Say) -> list[Gap]:
    """The newest entry of each Gap that is asked for; all of one are in one partition, in the order of writing."""
    newest: dict[str, Gap] = {}
    for message in _written(client, choice.since_us, say):
        try:
            gap = codec.decode_as(Gap, message.value())
        except Unreadable as error:
            unreadable.append(BadEntry(message.partition() or 0, message.offset() or 0, str(error)))
        else:
            newest[gap.gap_id] = gap
    return sorted((gap for gap in newest.values() if choice.takes(gap)), key=_end)


def _end(gap: Gap) -> tuple[int, str]:
    return gap.to_time, gap.gap_id


def _written(client: Consumer, since_us: int, say: Say) -> Iterator[Message]:
    edges = reading.bounds(client, topics.GAPS)
    starts = offsets(client, [(topics.GAPS, number) for number in edges], since_us)
    left = {number: high - max(low, starts[topics.GAPS, number]) for number, (low, high) in edges.items()}
    total = sum(left.values())
    begin = {number: edges[number][1] - count for number, count in left.items() if count > 0}
    for done, message in enumerate(reading.read(client, topics.GAPS, begin)):
        say("reading the ledger", done, total)
        yield message


# What runs now


def _statuses(client: Consumer, codec: Codec, now_us: int) -> list[ServiceStatus]:
    """What services that run have said last."""
    latest: dict[str, ServiceStatus] = {}
    for message in tail.newest(client, topics.STATUS, STATUSES):
        try:
            status = codec.decode_as(ServiceStatus, message.value())
        except Unreadable:
            continue  # `ravenctl status` counts them
        latest[status.instance] = status
    return fresh(latest, now_us)


def _alive(statuses: Iterable[ServiceStatus]) -> dict[Name, dict[str, int]]:
    """Until when each subscription is known to run."""
    alive: dict[Name, dict[str, int]] = {}
    for status in statuses:
        for feed in status.subscriptions:
            if feed.state in FLOWING:
                alive.setdefault(Name(feed.venue, feed.channel), {})[feed.symbol] = status.reported_time
    return alive


def still_open(gaps: Iterable[Gap], feeds: Iterable[Subscription]) -> frozenset[str]:
    """Gaps whose feed has not come back: written as they were detected, the last of a feed that does not flow."""
    last = {(gap.venue, gap.channel, gap.symbol): gap for gap in gaps if gap.to_time == gap.detected_time}
    found = set()
    for feed in feeds:
        gap = last.get((feed.venue, feed.channel, feed.symbol))
        if gap is not None and (feed.state not in FLOWING or (feed.last_received_time or 0) < gap.to_time):
            found.add(gap.gap_id)
    return frozenset(found)


def entries(settings: KafkaSettings, codec: Codec, choice: Choice) -> Iterator[Gap]:
    """Entries of the ledger as they come, from now on, until interrupted; raises Unavailable."""
    client = reading.reader(settings)
    try:
        for message in tail.follow(client, topics.GAPS):
            try:
                gap = codec.decode_as(Gap, message.value())
            except Unreadable:
                continue
            if choice.takes(gap) and (not choice.causes or gap.cause in choice.causes):
                yield gap
    finally:
        client.close()


class Waiting:
    """Says on a terminal how far a command is, once that takes a while; use it as a context."""

    def __init__(self) -> None:
        screen = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"))
        self._progress = Progress(*columns, console=screen, transient=True)
        self._shown = screen.is_terminal
        self._task = self._progress.add_task("", total=None)
        self._start_s = time.monotonic()

    def __enter__(self) -> "Waiting":
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:  # stopped elsewhere, it would write an empty line
            self._progress.stop()

    def say(self, what: str, done: int, total: int) -> None:
        """Note how far it is."""
        if self._shown and time.monotonic() > self._start_s + PATIENCE_S:
            self._progress.start()
            self._progress.update(self._task, description=what, completed=done, total=total)
