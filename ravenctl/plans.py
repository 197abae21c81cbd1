"""What demands come to, and so what a start or a stop would begin and end; pure."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from processors.registry import FOLDS
from ravencore.config import BarsSettings, RoutingSettings, Settings
from ravencore.graph import ALL, NEEDS, SHORT, STORES, made_for, origin, output_of
from ravencore.records import Demand, FeedName
from ravenctl.demands import Changes, Wanted, after, feeds_of, to_stop

MANY_BARS = 4
"""So many kinds of bars are told in a word."""


class Made(NamedTuple):
    """An output of a feed's symbol; of a channel itself: that channel."""

    venue: str
    symbol: str
    output: str


class Kept(NamedTuple):
    """An output of a feed's symbol in a store."""

    store: str
    venue: str
    symbol: str
    output: str


Thing = FeedName | Made | Kept
"""Something that runs because somebody demands it."""


@dataclass(frozen=True)
class Plan:
    """What changes of demands would do: what begins and ends, and what was named for an end and stays, for whom."""

    changes: Changes
    begins: tuple[Thing, ...]
    ends: tuple[Thing, ...]
    stays: Mapping[FeedName, tuple[str, ...]]


def running(demands: Iterable[Demand], settings: Settings) -> dict[Thing, tuple[str, ...]]:
    """All that demands come to with these settings, each with the users that want it."""
    users: dict[Thing, dict[str, None]] = {}
    unmade = without_profile(settings.bars)
    for demand in demands:
        for thing in _things(demand, made_for(demand) - unmade, settings.routing):
            users.setdefault(thing, {})[demand.user] = None
    return {thing: tuple(sorted(who)) for thing, who in users.items()}


def without_profile(bars: BarsSettings) -> frozenset[str]:
    """Outputs of which nothing is made, as the settings have no profile of them."""
    return frozenset(output_of(kind.topic) or "" for kind in FOLDS if not kind.parameters(bars, "VENUE", "SYMBOL"))


def _things(demand: Demand, outputs: Collection[str], routing: RoutingSettings) -> Iterable[Thing]:
    for feed in feeds_of([demand], routing):
        yield feed
        for output in sorted(outputs):
            if origin(output) != feed.channel:
                continue
            yield Made(feed.venue, feed.symbol, output)
            for store in demand.stores or STORES:
                if output in STORES[store]:
                    yield Kept(store, feed.venue, feed.symbol, output)


def plan(standing: Mapping[str, Demand], changes: Changes, settings: Settings, named: Collection[str] = ()) -> Plan:
    """What becomes of what runs when the changes are made.

    `named`: the demands that an end was asked of, by whomever they are; what they come to and goes on is said.
    """
    before = running(standing.values(), settings)
    now = running(after(standing, changes).values(), settings)
    narrowed = running([demand for demand in changes.values() if demand], settings)
    meant = running([standing[name] for name in named if name in standing], settings).keys() - narrowed.keys()
    return Plan(
        changes,
        begins=tuple(thing for thing in now if not wanting(before, thing)),
        ends=tuple(thing for thing in before if not wanting(now, thing)),
        stays={thing: users for thing in meant if isinstance(thing, FeedName) and (users := wanting(now, thing))},
    )


def wanting(things: Mapping[Thing, tuple[str, ...]], thing: Thing) -> tuple[str, ...]:
    """The users that want a thing, by its name or with every symbol of its venue."""
    users = {*things.get(thing, ()), *things.get(_of_all(thing), ())}
    return tuple(sorted(users))


def _of_all(thing: Thing) -> Thing:
    if isinstance(thing, FeedName):
        return FeedName(thing.venue, thing.channel, ALL)
    return thing._replace(symbol=ALL)


def plan_stop(want: Wanted, standing: Mapping[str, Demand], settings: Settings, *, all_users: bool = False) -> Plan:
    """What a stop would do; of others' demands for the same, what stays for them."""
    changes = to_stop(want, standing, settings.routing, all_users=all_users)
    return plan(standing, changes, settings, to_stop(want, standing, settings.routing, all_users=True))


def for_scripts(found: Plan) -> dict[str, Any]:
    """A plan as JSON values."""
    return {
        "withdraws": [name for name, demand in found.changes.items() if demand is None],
        "writes": [demand_for_scripts(demand) for demand in found.changes.values() if demand],
        "begins": _by_kind(found.begins),
        "ends": _by_kind(found.ends),
        "stays": [{**_names(feed), "users": list(users)} for feed, users in found.stays.items()],
    }


def started_for_scripts(made: Iterable[Demand], feeds: Iterable[FeedName], woken: Iterable[str]) -> dict[str, Any]:
    """What a start has come to, as JSON values; `woken`: services that it had to start."""
    return {
        "demands": [demand_for_scripts(demand) for demand in made],
        "feeds": [_names(feed) for feed in feeds],
        "services_started": list(woken),
    }


def demand_for_scripts(demand: Demand) -> dict[str, Any]:
    """A demand as JSON values."""
    return {
        "demand_id": demand.demand_id,
        "user": demand.user,
        "symbol": demand.symbol,
        "venues": list(demand.venues),
        "outputs": list(demand.outputs),
        "stores": list(demand.stores),
    }


def _by_kind(things: Iterable[Thing]) -> dict[str, list[dict[str, str]]]:
    kinds: dict[str, list[dict[str, str]]] = {"feeds": [], "outputs": [], "kept": []}
    for thing in things:
        kind = "feeds" if isinstance(thing, FeedName) else "outputs" if isinstance(thing, Made) else "kept"
        kinds[kind].append(_names(thing))
    return kinds


def _names(thing: Thing) -> dict[str, str]:
    if isinstance(thing, FeedName):
        return {"venue": thing.venue, "channel": thing.channel, "symbol": thing.symbol}
    return thing._asdict()


# For a person


def show(found: Plan) -> RenderableType:
    """A plan as a person reads it: by symbol, what begins and ends."""
    parts: list[RenderableType] = []
    for title, things, style in (("begins", found.begins, "green"), ("ends", found.ends, "red")):
        if things:
            parts += [Text(f"{title}:", style=f"bold {style}"), _table(things), Text()]
    if found.stays:
        parts.append(Text("stays:", style="bold"))
        parts += [Text(f"  {line}") for line in _stays(found.stays)]
    return Group(*parts) if parts else Text("nothing would change")


def _stays(stays: Mapping[FeedName, tuple[str, ...]]) -> Iterator[str]:
    """A line for each symbol of a venue and those who want it."""
    channels: dict[tuple[str, str], list[str]] = {}
    for feed, users in stays.items():
        channels.setdefault((f"{feed.venue}:{feed.symbol}", ", ".join(users)), []).append(feed.channel)
    for (instrument, who), named in channels.items():
        yield f"{instrument}  {', '.join(named)}, for {who}"


def _table(things: Iterable[Thing]) -> Table:
    """A line for each symbol of a venue: its feeds, what is made of them, and the stores that keep any of it."""
    rows: dict[str, list[Thing]] = {}
    for thing in things:
        rows.setdefault(f"{thing.venue}:{thing.symbol}", []).append(thing)
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("  INSTRUMENT", no_wrap=True, overflow="fold")
    for name in ("COLLECTED", "MADE OF IT", "KEPT IN"):
        table.add_column(name, overflow="fold")
    for instrument, those in rows.items():
        feeds = [thing.channel for thing in those if isinstance(thing, FeedName)]
        made = {thing.output for thing in those if isinstance(thing, Made) and origin(thing.output) != thing.output}
        stores = {thing.store for thing in those if isinstance(thing, Kept)}
        columns = (feeds, _short(made), [store for store in STORES if store in stores])
        table.add_row(f"  {instrument}", *(", ".join(column) or "-" for column in columns))
    return table


def _short(outputs: set[str]) -> list[str]:
    """Outputs in the order of the graph; all kinds of bars in a word."""
    bars = outputs.intersection(SHORT["bars"])
    named = [output for output in NEEDS if output in outputs]
    if len(bars) < MANY_BARS:
        return named
    return [f"{len(bars)} kinds of bars", *(output for output in named if output not in bars)]
