"""Demands at work: written to `raven.control`, and seen to have happened in `raven.status`."""

import getpass
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, Message

from producers.contract import ALL, KLINES, LIQUIDATIONS, TRADES
from ravencore import kafka
from ravencore.codec import Codec
from ravencore.config import KafkaSettings, RoutingSettings, Settings
from ravencore.demands import SHUTDOWN
from ravencore.errors import Unavailable, Unreadable
from ravencore.graph import NEEDS, STORES, made_for, origin
from ravencore.records import Demand, FeedName, ServiceStatus
from ravencore.topics import CONTROL
from ravenctl import demands as asking
from ravenctl.cluster import QUIET, stack_of
from ravenctl.demands import Changes, Wanted, feeds_of
from ravenctl.plans import Plan
from ravenctl.services import down, heard, seen
from ravenctl.shell import START_ALL, CommandFailed, Telling, now_us, shell_word
from ravenctl.statusview import GONE_US, StatusFeed

OPTIONAL = frozenset({"redis"})
"""Stores that are waited for only where they are named: a cache may be away."""
SELDOM = frozenset({KLINES, LIQUIDATIONS, TRADES})
"""Channels of whole markets that may bring nothing for a minute: closed candles, liquidations, trades of options."""
FLUSH_S = 60.0
"""A broker that has only just started, on a machine that starts much else, may take half a minute."""
SILENT_S = 10.0
"""Services report every second: who has heard some, and then none for so long, has lost Kafka."""
ODD = "surrogateescape"
"""How a key that is no text becomes text and bytes again, as in the arguments of a command."""
SEEN = "control_offset"
"""Gauge of every service: as far as it has read `raven.control`."""


def whoami() -> str:
    """The name of whoever runs this."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"


def standing_demands(settings: KafkaSettings, codec: Codec) -> tuple[dict[str, Demand], dict[str, str]]:
    """Demands by id as they stand, and of those that cannot be read why, by id; raises Unavailable."""
    demands: dict[str, Demand] = {}
    unreadable: dict[str, str] = {}
    for key, value in kafka.compacted(settings, CONTROL, "ravenctl").items():
        name = key.decode(errors=ODD)
        if name.startswith(SHUTDOWN):
            continue
        try:
            demands[name] = codec.decode_as(Demand, value)
        except Unreadable as error:
            unreadable[name] = str(error)
    return demands, unreadable


def apply(settings: KafkaSettings, codec: Codec, changes: Changes) -> int:
    """Write the changes and return when the broker has them: the offset after the last; raises Unavailable."""
    return write(settings, {name: codec.encode(demand) if demand else None for name, demand in changes.items()})


def write(settings: KafkaSettings, records: Mapping[str, bytes | None]) -> int:
    """Write records of `raven.control` by key; the offset after the last; raises Unavailable."""
    client = kafka.producer(settings, **QUIET)
    reached = [0]
    noted = partial(_note_offset, reached)
    for key, value in records.items():
        client.produce(CONTROL, value, key.encode(errors=ODD), on_delivery=noted)
    if client.flush(FLUSH_S):
        client.purge()
        raise Unavailable(f"Kafka at {settings.bootstrap} did not take it within {FLUSH_S:.0f} s: try again")
    return reached[0]


def _note_offset(reached: list[int], error: KafkaError | None, message: Message) -> None:
    if error is None:
        reached[0] = max(reached[0], (message.offset() or 0) + 1)


# What has become of it


@dataclass(frozen=True)
class Progress:
    """What is still missing, one sentence each; what will not come however long one waits; and what need not."""

    missing: tuple[str, ...]
    refused: tuple[str, ...] = ()
    unlisted: tuple[str, ...] = ()
    """Venues that nobody named and that do not list the symbol."""


def services_of(demands: Collection[Demand]) -> tuple[str, ...]:
    """The services that demands need, in the safe order: stores, engine, collector."""
    outputs = {output for demand in demands for output in _outputs(demand)}
    stores = {store for demand in demands for store in demand.stores or STORES.keys() - OPTIONAL}
    keeping = [f"sink-{store}" for store in STORES if store in stores and STORES[store] & outputs]
    derived = any(NEEDS.get(output) for output in outputs)
    return (*keeping, *(["engine"] if derived else []), "collector")


def _outputs(demand: Demand) -> set[str]:
    """What is made of the feeds of a demand."""
    channels = {feed.channel for feed in demand.feeds}
    return {output for output in made_for(demand) if output in NEEDS and origin(output) in channels}


def starting(
    demands: Collection[Demand],
    statuses: Collection[ServiceStatus],
    routing: RoutingSettings,
    *,
    strict: bool = False,
    offset: int = 0,
    away: Mapping[str, str] = {},
) -> Progress:
    """How far demands that were written up to an offset are from running, told from fresh statuses.

    `strict`: a venue that does not list what is wanted is a failure; else only where none does. `away`: why services
    are not there, by name.
    """
    states = {
        FeedName(feed.venue, feed.channel, feed.symbol): feed.state
        for status in statuses
        for feed in status.subscriptions
    }
    feeds = _expected(feeds_of(demands, routing), states, strict=strict)
    refused = [feed for feed in feeds if states.get(feed) == "REFUSED"]
    said = tuple(dict.fromkeys(_refusal(feed, statuses) for feed in refused))
    failed = [feed for feed in feeds if states.get(feed) == "FAILED"]
    missing = [
        f"{feed.channel} of {feed.venue}:{feed.symbol}: {_not_yet(feed, states.get(feed, ''))}"
        for feed in feeds
        if feed not in (*refused, *failed) and not _runs(feed, states)
    ]
    missing += [f"{feed.channel} of {feed.venue}:{feed.symbol}: {_why_failed(feed, statuses)}" for feed in failed]
    services = [reason for name in services_of(demands) if (reason := _service(name, statuses, offset, away))]
    # Without its service, a feed's own state says nothing more; a collector that flows here may lack another venue.
    if feeds and (failed or not missing):
        services = [reason for reason in services if not reason.startswith("collector: DEGRADED")]
    no_collector = any(reason.startswith("collector") for reason in services)
    left = tuple(services if no_collector else [*services, *missing])
    fatal = strict or len(refused) == len(feeds)
    return Progress(left, said, ()) if fatal else Progress(left, (), said)


def _expected(feeds: list[FeedName], states: Collection[FeedName], *, strict: bool) -> list[FeedName]:
    """Feeds that are waited for: where no venue is named, those that the collector has taken up."""
    taken = [feed for feed in feeds if feed in states]
    return feeds if strict or not taken else taken


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


def _not_yet(feed: FeedName, state: str) -> str:
    told = _FEED.get(state, "not subscribed yet")
    return f"{told}; many symbols take minutes" if feed.symbol == ALL and state == "CONNECTING" else told


def _service(
    name: str, statuses: Collection[ServiceStatus], offset: int = 0, away: Mapping[str, str] = {}
) -> str | None:
    """Why a service is not running, or has not read the demands up to an offset; None when all is well."""
    instances = [status for status in statuses if status.service == name]
    if any(status.state == "RUNNING" for status in instances):
        behind = any(status.gauges.get(SEEN, 0) < offset for status in instances)
        return f"{name}: it has not taken the demand yet" if behind else None
    if not instances and name in away:
        return f"{name}: {away[name]}: see `ravenctl local logs {name}`, and `ravenctl doctor`"
    if not instances:
        return f"{name}: not seen in raven.status; start what is down with {START_ALL}, else see its log"
    worst = instances[0]
    if worst.state == "STOPPED":
        return f"{name}: it has been asked to end; start it again with {START_ALL}"
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


# Commands


class Watch:
    """The statuses of services from now on, until a deadline; close it when done."""

    def __init__(self, settings: Settings, codec: Codec, timeout_s: float, telling: Telling) -> None:
        self._settings, self._codec, self._timeout_s, self._telling = settings, codec, timeout_s, telling
        self._deadline = time.monotonic() + timeout_s
        self._feed = StatusFeed(settings.kafka, codec, only_new=True)
        self._heard_at = time.monotonic()

    def close(self) -> None:
        """Let go of the broker."""
        self._feed.close()

    def until(self, progress: Callable[[Collection[ServiceStatus]], Progress], otherwise: str) -> Progress:
        """Return when nothing is missing, or something will never come; raises CommandFailed when it is not in time."""
        found = Progress(("nothing was heard from any service",))
        while time.monotonic() < self._deadline:
            before = dict(self._feed.latest)
            self._feed.poll(0.25)
            if self._feed.latest != before:
                self._heard_at = time.monotonic()
            found = progress(self._feed.latest.values())
            if found.refused or not found.missing:
                return found
            if self._feed.latest and time.monotonic() - self._heard_at > SILENT_S:
                raise Unavailable(
                    f"Kafka at {self._settings.kafka.bootstrap} has brought nothing for {SILENT_S:.0f} s; "
                    f"{otherwise}: look with `ravenctl doctor`"
                )
            # At first, not all services have been heard of.
            if reasons := [reason for reason in found.missing if "not seen" not in reason]:
                self._telling.wait(reasons)
        lines = "".join(f"\n  {reason}" for reason in found.missing)
        raise CommandFailed(f"not done after {self._timeout_s:g} s; {otherwise}:{lines}")


def start(
    settings: Settings, codec: Codec, want: Wanted, timeout_s: float, telling: Telling, *, strict: bool
) -> list[Demand]:
    """Make the demands and return them when all is seen running; raises CommandFailed that says what is not, and why.

    What is configured, where no symbol is named, is demanded in the safe order: first its services must run, and each
    step waits until the one before it runs.
    """
    kafka.ensure_topics(settings.kafka)
    standing, _ = standing_demands(settings.kafka, codec)
    at_us = now_us()
    changes = asking.to_start(want, standing, settings.routing, at_us)
    watch = Watch(settings, codec, timeout_s, telling)
    try:
        steps = want.steps(settings.routing, at_us)
        if not want.symbols:
            demands = [demand for _, step in steps for demand in step]
            watch.until(partial(_services_run, settings, demands), "nothing was demanded")
        for title, step in steps:
            written = {one.demand_id: changes.get(one.demand_id) or standing[one.demand_id] for one in step}
            # One that stands is told once more: a collector then tries again what it has given up.
            offset = apply(settings.kafka, codec, written)
            asked = "demanded" if written.keys() & changes.keys() else "already demanded"
            telling.say(f"{title}: {asked} by {want.user} at {settings.kafka.bootstrap}; waiting until it runs")
            started = _Started(settings, codec, step, strict=strict, offset=offset)
            _settled(watch.until(started.progress, "the demand stands"), step, telling)
    finally:
        watch.close()
    return [demand for _, step in steps for demand in step]


class _Started:
    """Demands that were written up to an offset, and that somebody may withdraw meanwhile."""

    def __init__(
        self, settings: Settings, codec: Codec, demands: Sequence[Demand], *, strict: bool, offset: int
    ) -> None:
        self._settings, self._codec, self._demands = settings, codec, demands
        self._strict, self._offset, self._checked = strict, offset, offset

    def progress(self, statuses: Collection[ServiceStatus]) -> Progress:
        """How far they are; raises CommandFailed when they no longer stand."""
        read = max((int(status.gauges.get(SEEN, 0)) for status in statuses), default=0)
        if read > self._checked:
            self._checked = read
            self._check()
        there, away = _as_seen(self._settings, statuses)
        routing = self._settings.routing
        return starting(self._demands, there, routing, strict=self._strict, offset=self._offset, away=away)

    def _check(self) -> None:
        standing, _ = standing_demands(self._settings.kafka, self._codec)
        if any(demand.demand_id not in standing for demand in self._demands):
            raise CommandFailed("somebody withdrew it meanwhile: `ravenctl user` shows what stands")


def _services_run(settings: Settings, demands: Collection[Demand], statuses: Collection[ServiceStatus]) -> Progress:
    there, away = _as_seen(settings, statuses)
    return Progress(tuple(reason for name in services_of(demands) if (reason := _service(name, there, away=away))))


def _as_seen(settings: Settings, statuses: Collection[ServiceStatus]) -> tuple[list[ServiceStatus], dict[str, str]]:
    """Statuses that are still true, and why other services of the local stack are not there, by name."""
    found = seen({status.instance: status for status in statuses}, stack_of(settings), now_us())
    return heard(found), down(found)


def _settled(progress: Progress, demands: Sequence[Demand], telling: Telling) -> None:
    if progress.refused:
        raise CommandFailed(f"{'; '.join(progress.refused)}: withdraw it with `{_withdrawal(demands)}`")
    for reason in progress.unlisted:
        telling.say(f"  {reason}")


def _withdrawal(demands: Sequence[Demand]) -> str:
    """The command that withdraws just these, of one user."""
    who = demands[0].user
    ids = " ".join(f"--id {demand.demand_id}" for demand in demands)
    return f"ravenctl stop {ids}" + (f" --user {shell_word(who)}" if who != whoami() else "")


def stop(
    settings: Settings,
    codec: Codec,
    planned: Callable[[Mapping[str, Demand], Collection[str]], Plan],
    timeout_s: float,
    telling: Telling,
) -> Plan:
    """Do what is planned of what stands, and return when all has ended that shall; raises CommandFailed otherwise.

    `planned` is asked with the demands by id, and with the ids of those that cannot be read.
    """
    kafka.ensure_topics(settings.kafka)
    standing, unreadable = standing_demands(settings.kafka, codec)
    found = planned(standing, unreadable)
    if not found.changes:
        telling.say(f"no demands withdrawn at {settings.kafka.bootstrap}: `ravenctl user` lists what stands")
        _say_stays(found, telling)
        return found
    watch = Watch(settings, codec, timeout_s, telling)
    try:
        offset = apply(settings.kafka, codec, found.changes)
        withdrawn = sum(demand is None for demand in found.changes.values())
        telling.say(f"{withdrawn} demand{'s' * (withdrawn != 1)} withdrawn at {settings.kafka.bootstrap}")
        _say_stays(found, telling)
        ended = [thing for thing in found.ends if isinstance(thing, FeedName)]
        began = time.monotonic()
        watch.until(partial(_stopped, ended, offset, began), "withdrawn it is")
        gone = dict.fromkeys(f"{one.venue}:{one.symbol}" for one in ended)
        telling.say(f"{', '.join(gone)} not subscribed" if gone else "nothing else to end")
    finally:
        watch.close()
    return found


def _say_stays(found: Plan, telling: Telling) -> None:
    for name, users in _by_symbol(found.stays).items():
        telling.say(f"{name} stays: {', '.join(users)} still want{'s' * (len(users) == 1)} it")


def _by_symbol(stays: Mapping[FeedName, Sequence[str]]) -> dict[str, list[str]]:
    users: dict[str, set[str]] = {}
    for feed, who in stays.items():
        users.setdefault(f"{feed.venue}:{feed.symbol}", set()).update(who)
    return {name: sorted(who) for name, who in users.items()}


def _stopped(ended: Collection[FeedName], offset: int, began: float, statuses: Collection[ServiceStatus]) -> Progress:
    """Every service that runs has taken the withdrawal, and no collector lists what ended."""
    if not any(status.service == "collector" for status in statuses):
        waited = time.monotonic() - began
        return Progress(() if waited > GONE_US / 1e6 else ("no collector has reported yet",))
    running = (status for status in statuses if status.state != "STOPPED")
    behind = [status.service for status in running if status.gauges.get(SEEN, offset) < offset]
    left = stopping(ended, statuses)
    return Progress((*left, *(f"{name}: it has not taken the withdrawal yet" for name in behind)))


def stopping(ended: Collection[FeedName], statuses: Iterable[ServiceStatus]) -> tuple[str, ...]:
    """Subscriptions that should have ended and have not, told from fresh statuses."""
    return tuple(
        f"{feed.channel} of {feed.venue}:{feed.symbol}: {feed.state}"
        for status in statuses
        for feed in status.subscriptions
        if FeedName(feed.venue, feed.channel, feed.symbol) in ended
    )
