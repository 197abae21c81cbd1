"""Demands: what people want running, written to `raven.control` and seen to happen in `raven.status`."""

import getpass
import hashlib
import json
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, Settings, VenuesSettings
from ravencore.errors import Unavailable, Unreadable
from ravencore.records import Demand, ServiceStatus
from ravencore.topics import CONTROL
from ravenctl.cluster import QUIET
from ravenctl.shell import CommandFailed, WrongUse
from ravenctl.statusview import GONE_US, StatusFeed

CHANNELS = ("trades", "books")
NEEDED = ("collector", "engine", "sink-influx", "sink-timescale")
"""Services that a demand for everything needs, in the order of the stream."""
FLUSH_S = 15.0
SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9._/-]{0,63}")

Changes = Mapping[str, Demand | None]
"""Demands by id as they shall be; None withdraws."""


@dataclass(frozen=True)
class Wanted:
    """Who wants which symbols of which venues; no venues means all that are configured."""

    user: str
    symbols: tuple[str, ...]
    venues: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def known_venues() -> tuple[str, ...]:
    """Venues that can be configured."""
    return tuple(VenuesSettings.model_fields)


def wanted(symbols: Iterable[str], venues: Iterable[str] | None, user: str | None) -> Wanted:
    """What the options mean; raises WrongUse on a name that cannot be one."""
    named = tuple(dict.fromkeys(symbol.strip().upper() for symbol in symbols))
    wrong = [symbol for symbol in named if not SYMBOL.fullmatch(symbol)]
    if wrong:
        raise WrongUse(f"{wrong[0]!r} is no symbol: write it as the venue does, for example BTCUSDT")
    chosen = tuple(sorted({venue.strip().upper() for venue in venues or ()}))
    unknown = [venue for venue in chosen if venue not in known_venues()]
    if unknown:
        raise WrongUse(f"venue {unknown[0]} is unknown: known are {', '.join(known_venues())}")
    return Wanted(user or whoami(), named, chosen)


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
    made = (make(want.user, want.venues, symbol, want.outputs, now_us) for symbol in want.symbols)
    return {demand.demand_id: demand for demand in made if demand.demand_id not in standing}


def to_stop(want: Wanted, standing: Mapping[str, Demand], *, all_users: bool, now_us: int) -> Changes:
    """Withdraws what is wanted no more; a demand for more venues than are stopped is narrowed to the rest."""
    changes: dict[str, Demand | None] = {}
    for name, demand in standing.items():
        if demand.symbol not in want.symbols or not (all_users or demand.user == want.user):
            continue
        venues = set(demand.venues or known_venues())
        rest = venues - set(want.venues or known_venues())
        if rest == venues:
            continue
        changes[name] = None
        if rest:
            narrowed = make(demand.user, sorted(rest), demand.symbol, demand.outputs, now_us)
            changes[narrowed.demand_id] = replace(narrowed, created_time=demand.created_time)
    return changes


def needing(want: Wanted, standing: Iterable[Demand]) -> dict[tuple[str, str], list[str]]:
    """Users that still want each (venue, symbol) of those named."""
    left: dict[tuple[str, str], set[str]] = {}
    for demand in standing:
        for venue in demand.venues or known_venues():
            if demand.symbol in want.symbols and venue in (want.venues or known_venues()):
                left.setdefault((venue, demand.symbol), set()).add(demand.user)
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
    """What is still missing, one sentence each, and what will not come however long one waits."""

    missing: tuple[str, ...]
    refused: tuple[str, ...] = ()


def starting(want: Wanted, statuses: Collection[ServiceStatus]) -> Progress:
    """How far the streams wanted are from running, told from fresh statuses."""
    services = [reason for name in NEEDED if (reason := _service(name, statuses))]
    feeds = {
        (feed.venue, feed.symbol, feed.channel): feed.state for status in statuses for feed in status.subscriptions
    }
    missing, refused = [], []
    for venue in want.venues or known_venues():
        for symbol in want.symbols:
            for channel in CHANNELS:
                state = feeds.get((venue, symbol, channel))
                if state == "REFUSED":
                    refused.append(_refusal(venue, symbol, channel, statuses))
                elif state != "FLOWING":
                    missing.append(f"{channel} of {venue}:{symbol}: {_FEED.get(state or '', 'not subscribed yet')}")
    # Without its service, a feed's own state says nothing more.
    no_collector = any(reason.startswith("collector") for reason in services)
    return Progress(tuple(services if no_collector else [*services, *missing]), tuple(dict.fromkeys(refused)))


_FEED = {
    "WAITING": "waiting for its instrument",
    "CONNECTING": "connecting to the venue",
    "SUBSCRIBED": "subscribed, but nothing has come yet",
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


def _refusal(venue: str, symbol: str, channel: str, statuses: Collection[ServiceStatus]) -> str:
    why = next(
        (s.last_error for s in statuses if s.service == "collector" and s.last_error and symbol in s.last_error), None
    )
    return why or f"{venue} does not list {symbol} ({channel} REFUSED)"


def stopping(want: Wanted, kept: Collection[tuple[str, str]], statuses: Collection[ServiceStatus]) -> tuple[str, ...]:
    """Subscriptions that should have ended and have not, told from fresh statuses."""
    return tuple(
        f"{feed.channel} of {feed.venue}:{feed.symbol}: {feed.state}"
        for status in statuses
        for feed in status.subscriptions
        if feed.symbol in want.symbols
        and feed.venue in (want.venues or known_venues())
        and (feed.venue, feed.symbol) not in kept
    )


def start(settings: Settings, codec: Codec, want: Wanted, timeout_s: float, say: Callable[[str], None]) -> None:
    """Make the demands and return when all is seen running; raises CommandFailed that says what is not, and why."""
    kafka.ensure_topics(settings.kafka)
    standing, _ = standing_demands(settings.kafka, codec)
    changes = to_start(want, standing, time.time_ns() // 1000)
    feed = StatusFeed(settings.kafka, codec, only_new=True)
    try:
        apply(settings.kafka, codec, changes)
        names = ", ".join(want.symbols)
        asked = f"{'demanded' if changes else 'already demanded'} by {want.user} at {settings.kafka.bootstrap}"
        say(f"{names}: {asked}; waiting until it runs")
        _await_running(feed, want, timeout_s, say)
    finally:
        feed.close()


def _await_running(feed: StatusFeed, want: Wanted, timeout_s: float, say: Callable[[str], None]) -> None:
    deadline = time.monotonic() + timeout_s
    told: set[str] = set()
    progress = Progress(("nothing was heard from any service",))
    while time.monotonic() < deadline:
        feed.poll(0.25)
        progress = starting(want, feed.latest.values())
        if progress.refused:
            flag = " ".join(f"--symbol {symbol}" for symbol in want.symbols)
            raise CommandFailed(f"{'; '.join(progress.refused)}: withdraw it with `ravenctl stop {flag}`")
        if not progress.missing:
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
    changes = to_stop(want, standing, all_users=all_users, now_us=time.time_ns() // 1000)
    after = {name: demand for name, demand in {**standing, **changes}.items() if demand}
    kept = needing(want, after.values())
    feed = StatusFeed(settings.kafka, codec, only_new=True)
    try:
        apply(settings.kafka, codec, changes)
        withdrawn = sum(demand is None for demand in changes.values())
        told = f"{withdrawn} demand{'s' * (withdrawn != 1)} withdrawn" if withdrawn else _nothing_of(want, all_users)
        say(f"{told} at {settings.kafka.bootstrap}")
        for (venue, symbol), users in kept.items():
            say(f"{venue}:{symbol} stays: {', '.join(users)} still want{'s' * (len(users) == 1)} it")
        _await_stopped(feed, want, kept, timeout_s, say)
    finally:
        feed.close()


def _nothing_of(want: Wanted, all_users: bool) -> str:
    who = "anybody" if all_users else want.user
    return f"no demand of {who} for {', '.join(want.symbols)} stands"


def _await_stopped(
    feed: StatusFeed, want: Wanted, kept: Collection[tuple[str, str]], timeout_s: float, say: Callable[[str], None]
) -> None:
    """One report of the collector that was written after the withdrawal and lists none of it."""
    began = time.monotonic()
    left: tuple[str, ...] = ()
    while time.monotonic() - began < timeout_s:
        feed.poll(0.25)
        collectors = [status for status in feed.latest.values() if status.service == "collector"]
        left = stopping(want, kept, collectors)
        if collectors and not left:
            ended = [f"{v}:{s}" for v in want.venues or known_venues() for s in want.symbols if (v, s) not in kept]
            say(f"{', '.join(ended)} not subscribed" if ended else "nothing else to end")
            return
        if not collectors and time.monotonic() - began > GONE_US / 1e6:
            say("no collector reports: nothing is subscribed")
            return
    lines = "".join(f"\n  {reason}" for reason in left)
    raise CommandFailed(f"still subscribed after {timeout_s:g} s:{lines}")
