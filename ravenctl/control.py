"""Demands: what people want running, written to `raven.control` and seen to happen in `raven.status`."""

import difflib
import getpass
import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from producers import routing as routes
from producers.contract import ALL, KLINES, LIQUIDATIONS, TRADES
from producers.registry import SOURCES
from ravencore import kafka, topics
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, RoutingSettings, Settings
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import Demand, FeedName, ServiceStatus
from ravencore.topics import CONTROL
from ravenctl.cluster import QUIET
from ravenctl.shell import CommandFailed, WrongUse
from ravenctl.statusview import GONE_US, StatusFeed

NEEDED = ("collector", "engine", "sink-influx", "sink-timescale")
"""Services that a demand for trades and all that is made of them needs, in the order of the stream."""
SELDOM = frozenset({KLINES, LIQUIDATIONS, TRADES})
"""Channels of whole markets that may bring nothing for a minute: closed candles, liquidations, trades of options."""
FLUSH_S = 60.0
"""A broker that has only just started, on a machine that starts much else, may take half a minute."""
SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9._/-]{0,63}")

Changes = Mapping[str, Demand | None]
"""Demands by id as they shall be; None withdraws."""


@dataclass(frozen=True)
class Wanted:
    """Who wants which symbols of which venues or sources; no venues means `routing.venues`.

    The symbol `*` means all that a venue has as a whole: klines, liquidations, funding, options.
    """

    user: str
    symbols: tuple[str, ...]
    venues: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()

    def demands(self, now_us: int) -> list[Demand]:
        """As they are written."""
        return [make(self.user, self.venues, symbol, self.outputs, now_us) for symbol in self.symbols]


def known_venues() -> tuple[str, ...]:
    """Names that a demand may choose from: venues, and single sources of them."""
    return tuple(dict.fromkeys(name for source in SOURCES.values() for name in (source.venue, source.name)))


def named_venues(names: Iterable[str] | None) -> tuple[str, ...]:
    """Venues and sources as their names are, in order; raises WrongUse on one that there is not, naming the nearest."""
    chosen = tuple(sorted({name.strip().upper() for name in names or ()}))
    known = known_venues()
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            meant = f"did you mean {near[0]}? " if near else ""
            raise WrongUse(f"venue {name} is unknown: {meant}known are {', '.join(known)}")
    return chosen


def wanted(
    symbols: Iterable[str] | None, venues: Iterable[str] | None, user: str | None, outputs: Iterable[str] = ()
) -> Wanted:
    """What the options mean; raises WrongUse on a name that cannot be one."""
    named = tuple(dict.fromkeys(symbol.strip().upper() for symbol in symbols or ()))
    wrong = [symbol for symbol in named if not SYMBOL.fullmatch(symbol)]
    if wrong:
        raise WrongUse(f"{wrong[0]!r} is no symbol: write it as the venue does, for example BTCUSDT")
    chosen = named_venues(venues)
    channels = tuple(sorted({output.strip().lower() for output in outputs}))
    if strange := [channel for channel in channels if channel not in topics.CHANNELS]:
        raise WrongUse(f"{strange[0]} is nothing that is collected: there are {', '.join(topics.CHANNELS)}")
    want = Wanted(user or whoami(), named or (ALL,), chosen, channels)
    if not named:
        _check_market(want)
    return want


def _check_market(want: Wanted) -> None:
    """Raises WrongUse where a demand without a symbol names nothing that is collected as a whole."""
    markets = [source for source in SOURCES.values() if source.scope == "market"]
    names = [source.name for source in markets]
    if not want.venues and not want.outputs:
        raise WrongUse(f"name a --symbol, for example BTCUSDT, or a --venue that needs none: {', '.join(names)}")
    if want.venues and not any({source.name, source.venue} & set(want.venues) for source in markets):
        raise WrongUse(f"{', '.join(want.venues)} is collected by symbol: add --symbol, for example BTCUSDT")


def whoami() -> str:
    """The name of whoever runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def demand_id(user: str, venues: Sequence[str], symbol: str, outputs: Sequence[str]) -> str:
    """Id of a demand: the same user, selector and outputs have the same, in whatever order they are named."""
    told = json.dumps([user, sorted(venues), symbol, sorted(outputs)], separators=(",", ":"))
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def make(user: str, venues: Sequence[str], symbol: str, outputs: Sequence[str], now_us: int) -> Demand:
    """A demand as it is written."""
    return Demand(
        demand_id=demand_id(user, venues, symbol, outputs),
        user=user,
        venues=tuple(sorted(venues)),
        symbol=symbol,
        outputs=tuple(sorted(outputs)),
        created_time=now_us,
    )


def to_start(want: Wanted, standing: Mapping[str, Demand], now_us: int) -> Changes:
    """The demands that are not made yet."""
    return {demand.demand_id: demand for demand in want.demands(now_us) if demand.demand_id not in standing}


def to_stop(
    want: Wanted, standing: Mapping[str, Demand], routing: RoutingSettings, *, all_users: bool, now_us: int
) -> Changes:
    """Withdraws what is wanted no more; a demand for more venues than are stopped is narrowed to the rest."""
    changes: dict[str, Demand | None] = {}
    stopped = set(_sources(want.venues or known_venues()))
    for name, demand in standing.items():
        if demand.symbol not in want.symbols or not (all_users or demand.user == want.user):
            continue
        whole = _sources(demand.venues or routing.venues, demand.symbol)
        rest = [source for source in whole if source not in stopped]
        if rest == whole and whole:
            continue
        changes[name] = None
        if rest:
            narrowed = make(demand.user, rest, demand.symbol, demand.outputs, now_us)
            changes[narrowed.demand_id] = replace(narrowed, created_time=demand.created_time)
    return changes


def _sources(names: Collection[str], symbol: str | None = None) -> list[str]:
    """The sources that venues and sources so named mean; with a symbol, only those that serve such a demand."""
    return [
        source.name
        for source in SOURCES.values()
        if {source.name, source.venue} & set(names)
        and (symbol is None or (source.scope == "market") == (symbol == ALL))
    ]


def feeds_of(demands: Iterable[Demand], routing: RoutingSettings) -> list[FeedName]:
    """The subscriptions that demands come to."""
    found = (feed for demand in demands for feed in demand.feeds or routes.feeds_of(demand, SOURCES.values(), routing))
    return list(dict.fromkeys(found))


def needing(want: Wanted, standing: Iterable[Demand], routing: RoutingSettings) -> dict[FeedName, list[str]]:
    """Users that still want each feed of those named."""
    left: dict[FeedName, set[str]] = {}
    named = set(feeds_of(want.demands(0), routing))
    for demand in standing:
        for feed in named.intersection(feeds_of([demand], routing)):
            left.setdefault(feed, set()).add(demand.user)
    return {feed: sorted(users) for feed, users in left.items()}


def standing_demands(settings: KafkaSettings, codec: Codec) -> tuple[dict[str, Demand], list[str]]:
    """Demands by id as they stand, and ids of those that cannot be read; raises Unavailable."""
    demands: dict[str, Demand] = {}
    unreadable = []
    for key, value in kafka.compacted(settings, CONTROL, "ravenctl").items():
        name = key.decode(errors="replace")
        try:
            demands[name] = codec.decode_as(Demand, value)
        except Unreadable:
            unreadable.append(name)
    return demands, unreadable


def apply(settings: KafkaSettings, codec: Codec, changes: Changes) -> None:
    """Write the changes and return when the broker has them; raises Unavailable."""
    client = kafka.producer(settings, **QUIET)
    for name, demand in changes.items():
        client.produce(CONTROL, codec.encode(demand) if demand else None, name.encode())
    if client.flush(FLUSH_S):
        client.purge()
        raise Unavailable(f"Kafka at {settings.bootstrap} did not take the demand within {FLUSH_S:.0f} s: try again")


# What has become of it


@dataclass(frozen=True)
class Progress:
    """What is still missing, one sentence each; what will not come however long one waits; and what need not."""

    missing: tuple[str, ...]
    refused: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    """Venues that nobody named and that do not list the symbol."""


def repeated(want: Wanted, standing: Mapping[str, Demand]) -> Changes:
    """Standing demands as they are: told once more, they let a collector try again what it has given up."""
    wanted_ids = {demand.demand_id for demand in want.demands(0)}
    return {name: demand for name, demand in standing.items() if name in wanted_ids}


def starting(want: Wanted, statuses: Collection[ServiceStatus], routing: RoutingSettings) -> Progress:
    """How far the streams wanted are from running, told from fresh statuses."""
    states = {
        FeedName(feed.venue, feed.channel, feed.symbol): feed.state
        for status in statuses
        for feed in status.subscriptions
    }
    feeds = _expected(want, states, routing)
    needed = NEEDED if any(feed.channel == TRADES for feed in feeds) else NEEDED[:1]
    services = [reason for name in needed if (reason := _service(name, statuses))]
    refused = [feed for feed in feeds if states.get(feed) == "REFUSED"]
    said = tuple(dict.fromkeys(_refusal(feed, statuses) for feed in refused))
    failed = [feed for feed in feeds if states.get(feed) == "FAILED"]
    missing = [
        f"{feed.channel} of {feed.venue}:{feed.symbol}: {_FEED.get(states.get(feed, ''), 'not subscribed yet')}"
        for feed in feeds
        if feed not in (*refused, *failed) and not _runs(feed, states)
    ]
    missing += [f"{feed.channel} of {feed.venue}:{feed.symbol}: {_why_failed(feed, statuses)}" for feed in failed]
    # Without its service, a feed's own state says nothing more; a collector that flows here may lack another venue.
    if feeds and (failed or not missing):
        services = [reason for reason in services if not reason.startswith("collector: DEGRADED")]
    no_collector = any(reason.startswith("collector") for reason in services)
    left = tuple(services if no_collector else [*services, *missing])
    fatal = bool(want.venues) or len(refused) == len(feeds)
    return Progress(left, said, ()) if fatal else Progress(left, (), said)


def _expected(want: Wanted, states: Collection[FeedName], routing: RoutingSettings) -> list[FeedName]:
    """Feeds that are waited for: where no venue is named, those that the collector has taken up."""
    feeds = feeds_of(want.demands(0), routing)
    taken = [feed for feed in feeds if feed in states]
    return feeds if want.venues or not taken else taken


def _runs(feed: FeedName, states: Mapping[FeedName, str]) -> bool:
    """Some markets have nothing to say for a while."""
    quiet = feed.symbol == ALL and feed.channel in SELDOM
    return states.get(feed) == "FLOWING" or (quiet and states.get(feed) == "SUBSCRIBED")


_FEED = {
    "WAITING": "waiting for its instrument",
    "CONNECTING": "connecting to the venue",
    "SUBSCRIBED": "subscribed, but nothing has come yet",
    "SILENT": "silent for longer than is usual: the collector subscribes to it anew",
}


def _service(name: str, statuses: Collection[ServiceStatus]) -> str | None:
    """Why a service is not running, None when it is."""
    instances = [status for status in statuses if status.service == name]
    if any(status.state == "RUNNING" for status in instances):
        return None
    if not instances:
        return f"{name}: not seen in raven.status; is it started? (`ravenctl local up` starts all)"
    worst = instances[0]
    return f"{name}: {worst.state}, {worst.last_error or 'it gives no reason'}"


def _refusal(feed: FeedName, statuses: Collection[ServiceStatus]) -> str:
    why = next(
        (
            status.last_error
            for status in statuses
            if status.service == "collector" and status.last_error and {feed.symbol, feed.venue} <= _words(status)
        ),
        None,
    )
    return why or f"{feed.venue} does not list {feed.symbol}"


def _why_failed(feed: FeedName, statuses: Collection[ServiceStatus]) -> str:
    """In the words of the collector that has given it up."""
    holders = (
        status
        for status in statuses
        for one in status.subscriptions
        if FeedName(one.venue, one.channel, one.symbol) == feed
    )
    why = next((status.last_error for status in holders if status.last_error), "it gives no reason")
    return f"FAILED, {why}"


def _words(status: ServiceStatus) -> set[str]:
    return set((status.last_error or "").replace(":", " ").split())


def stopping(ended: Collection[FeedName], statuses: Collection[ServiceStatus]) -> tuple[str, ...]:
    """Subscriptions that should have ended and have not, told from fresh statuses."""
    return tuple(
        f"{feed.channel} of {feed.venue}:{feed.symbol}: {feed.state}"
        for status in statuses
        for feed in status.subscriptions
        if FeedName(feed.venue, feed.channel, feed.symbol) in ended
    )


def start(settings: Settings, codec: Codec, want: Wanted, timeout_s: float, say: Callable[[str], None]) -> None:
    """Make the demands and return when all is seen running; raises CommandFailed that says what is not, and why."""
    kafka.ensure_topics(settings.kafka)
    standing, _ = standing_demands(settings.kafka, codec)
    changes = to_start(want, standing, time.time_ns() // 1000)
    feed = StatusFeed(settings.kafka, codec, only_new=True)
    try:
        apply(settings.kafka, codec, {**repeated(want, standing), **changes})
        names = told(want)
        asked = f"{'demanded' if changes else 'already demanded'} by {want.user} at {settings.kafka.bootstrap}"
        say(f"{names}: {asked}; waiting until it runs")
        _await_running(feed, want, settings.routing, timeout_s, say)
    finally:
        feed.close()


def _await_running(
    feed: StatusFeed, want: Wanted, routing: RoutingSettings, timeout_s: float, say: Callable[[str], None]
) -> None:
    deadline = time.monotonic() + timeout_s
    told: set[str] = set()
    progress = Progress(("nothing was heard from any service",))
    while time.monotonic() < deadline:
        feed.poll(0.25)
        progress = starting(want, feed.latest.values(), routing)
        if progress.refused:
            raise CommandFailed(f"{'; '.join(progress.refused)}: withdraw it with `ravenctl stop {_flags(want)}`")
        if not progress.missing:
            for reason in progress.unlisted:
                say(f"  {reason}")
            return
        for reason in progress.missing:
            if feed.latest and reason not in told and "not seen" not in reason:
                say(f"  {reason}")
                told.add(reason)
    lines = "".join(f"\n  {reason}" for reason in progress.missing)
    raise CommandFailed(f"not running after {timeout_s:g} s; the demand stands:{lines}")


def stop(
    settings: Settings, codec: Codec, want: Wanted, *, all_users: bool, timeout_s: float, say: Callable[[str], None]
) -> None:
    """Withdraw the demands and return when the exchange is no longer subscribed; raises CommandFailed otherwise."""
    standing, _ = standing_demands(settings.kafka, codec)
    changes = to_stop(want, standing, settings.routing, all_users=all_users, now_us=time.time_ns() // 1000)
    after = {name: demand for name, demand in {**standing, **changes}.items() if demand}
    kept = needing(want, after.values(), settings.routing)
    feed = StatusFeed(settings.kafka, codec, only_new=True)
    try:
        apply(settings.kafka, codec, changes)
        withdrawn = sum(demand is None for demand in changes.values())
        told = f"{withdrawn} demand{'s' * (withdrawn != 1)} withdrawn" if withdrawn else _nothing_of(want, all_users)
        say(f"{told} at {settings.kafka.bootstrap}")
        for name, users in {f"{one.venue}:{one.symbol}": users for one, users in kept.items()}.items():
            say(f"{name} stays: {', '.join(users)} still want{'s' * (len(users) == 1)} it")
        ended = [one for one in feeds_of(want.demands(0), settings.routing) if one not in kept]
        _await_stopped(feed, ended, timeout_s, say)
    finally:
        feed.close()


def told(want: Wanted) -> str:
    """What is wanted, in a person's words."""
    if want.symbols != (ALL,):
        return ", ".join(want.symbols)
    return f"all {', '.join(want.outputs)}" if want.outputs else ", ".join(want.venues)


def _flags(want: Wanted) -> str:
    symbols = [f"--symbol {symbol}" for symbol in want.symbols if symbol != ALL]
    return " ".join([*symbols, *(f"--venue {venue}" for venue in want.venues)])


def _nothing_of(want: Wanted, all_users: bool) -> str:
    who = "anybody" if all_users else want.user
    return f"no demand of {who} for {told(want)} stands"


def _await_stopped(feed: StatusFeed, ended: Collection[FeedName], timeout_s: float, say: Callable[[str], None]) -> None:
    """One report of the collector that was written after the withdrawal and lists none of it."""
    began = time.monotonic()
    left: tuple[str, ...] = ()
    while time.monotonic() - began < timeout_s:
        feed.poll(0.25)
        collectors = [status for status in feed.latest.values() if status.service == "collector"]
        left = stopping(ended, collectors)
        if collectors and not left:
            gone = dict.fromkeys(f"{one.venue}:{one.symbol}" for one in ended)
            say(f"{', '.join(gone)} not subscribed" if gone else "nothing else to end")
            return
        if not collectors and time.monotonic() - began > GONE_US / 1e6:
            say("no collector reports: nothing is subscribed")
            return
    lines = "".join(f"\n  {reason}" for reason in left)
    raise CommandFailed(f"still subscribed after {timeout_s:g} s:{lines}")
