"""Demands as people make them: from options to records, and what a start or a stop changes of what stands; pure."""

import hashlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace as changed

from producers import routing as routes
from producers.contract import ALL, Poll
from producers.registry import SOURCES
from ravencore.config import RoutingSettings
from ravencore.graph import SHORT, STORES, origin
from ravencore.pairs import pair_of
from ravencore.records import Demand, FeedName
from ravenctl.shell import WrongUse, nearest

SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9._/-]{0,63}")
VENUES = tuple(dict.fromkeys(source.venue for source in SOURCES.values()))
_MARKETS = [source for source in SOURCES.values() if source.scope == "market"]
_OTHERS = [source for source in _MARKETS if source.venue != "DERIBIT"]
STEPS: Mapping[str, tuple[str, ...]] = {
    "whole markets": tuple(source.name for source in _OTHERS if not isinstance(source, Poll)),
    "what is asked for over REST": tuple(source.name for source in _OTHERS if isinstance(source, Poll)),
    "Deribit": tuple(source.name for source in _MARKETS if source.venue == "DERIBIT"),
}
"""Sources of whole markets in the order in which they are safely started, after the instruments."""
INSTRUMENTS = "instruments"

Changes = Mapping[str, Demand | None]
"""Demands by id as they shall be; None withdraws."""
Place = tuple[str, str]
"""A venue and a channel of it: what one source collects."""


@dataclass(frozen=True)
class Wanted:
    """Who wants what of which symbols, from which venues, and in which stores.

    No symbols means all that is configured: `routing.symbols`, and whole markets. The symbol `*` means all that a venue
    lists. No venues means `routing.venues`, no outputs everything, no stores every one.
    """

    user: str
    symbols: tuple[str, ...]
    venues: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    stores: tuple[str, ...] = ()

    def demands(self, routing: RoutingSettings, now_us: int) -> list[Demand]:
        """As they are written: of what is configured, those that come to something.

        Raises WrongUse where every symbol is wanted, and of no venue in particular.
        """
        if ALL in self.symbols and not self.venues:
            raise WrongUse("--symbol '*' is every symbol of a venue: name it with --venue")
        if self.symbols:
            return [self._demand(self.venues, symbol, routing, now_us) for symbol in self.symbols]
        return [demand for _, step in self.steps(routing, now_us) for demand in step]

    def steps(self, routing: RoutingSettings, now_us: int) -> list[tuple[str, list[Demand]]]:
        """The demands in the order in which they are safely made, those of a step together, with what to call it."""
        if self.symbols:
            return [(told(self), self.demands(routing, now_us))]
        chosen = places(self.venues or routing.venues)
        found = {INSTRUMENTS: [self._demand(self.venues, symbol, routing, now_us) for symbol in routing.symbols]}
        for title, names in STEPS.items():
            markets = tuple(name for name in names if places([name]) <= chosen)
            found[title] = [self._demand(markets, ALL, routing, now_us)] if markets else []
        some = {title: [demand for demand in step if demand.feeds] for title, step in found.items()}
        return [(title, step) for title, step in some.items() if step]

    def _demand(self, venues: Sequence[str], symbol: str, routing: RoutingSettings, now_us: int) -> Demand:
        return make(self.user, venues, symbol, self.outputs, self.stores, routing=routing, now_us=now_us)


# From options


def wanted(
    symbols: Iterable[str] | None,
    venues: Iterable[str] | None,
    user: str,
    outputs: Iterable[str] | None = None,
    stores: Iterable[str] | None = None,
) -> Wanted:
    """What the options mean; raises WrongUse on a name that cannot be one, naming the nearest."""
    named = tuple(dict.fromkeys(symbol.strip().upper() for symbol in symbols or ()))
    wrong = [symbol for symbol in named if symbol != ALL and not SYMBOL.fullmatch(symbol)]
    if wrong:
        raise WrongUse(f"{wrong[0]!r} is no symbol: write it as the venue does, for example BTCUSDT")
    chosen = named_venues(venues)
    return Wanted(user, named, chosen, named_outputs(outputs), named_stores(stores))


def listed(values: Iterable[str] | None) -> Iterator[str]:
    """Values of an option that is repeated, or holds several with commas between; raises WrongUse on an empty one."""
    for value in values or ():
        parts = [part.strip() for part in value.split(",")]
        if not all(parts):
            raise WrongUse(f"{value!r} names nothing: leave the option out to mean all")
        yield from parts


def named_venues(names: Iterable[str] | None) -> tuple[str, ...]:
    """Venues, sources and VENUE:CHANNEL as they are written, in order."""
    chosen = {name.upper() for name in listed(names)}
    return tuple(sorted(_known(name, known_venues(), "venue") for name in chosen))


def named_outputs(names: Iterable[str] | None) -> tuple[str, ...]:
    """Outputs by their full names, in order; `bars` are all bars, `tib` is `bars.tib`."""
    found = {output for name in listed(names) for output in SHORT[_known(name.lower(), SHORT, "output")]}
    return tuple(sorted(found))


def named_stores(names: Iterable[str] | None) -> tuple[str, ...]:
    """Stores, in order."""
    return tuple(sorted({_known(name.lower(), STORES, "store") for name in listed(names)}))


def chosen_venues(
    venues: Iterable[str] | None,
    include: Iterable[str] | None,
    exclude: Iterable[str] | None,
    routing: RoutingSettings,
) -> tuple[str, ...]:
    """Those named, else the configured ones, with some more and some less; none where nothing is said.

    Raises WrongUse where nothing is left.
    """
    named, more, less = named_venues(venues), named_venues(include), named_venues(exclude)
    if not more and not less:
        return named
    left = places([*(named or routing.venues), *more]) - places(less)
    if not left:
        raise WrongUse(f"--venue-exclude {', '.join(less)} leaves no venue")
    return names_of(left)


def known_venues() -> tuple[str, ...]:
    """Names that a demand may choose from: venues, single sources of them, and their channels."""
    composite = (f"{source.venue}:{channel.upper()}" for source in SOURCES.values() for channel in source.channels)
    return tuple(dict.fromkeys((*VENUES, *SOURCES, *composite)))


def _known(name: str, known: Iterable[str], what: str) -> str:
    names = list(known)
    if name not in names:
        alike = [one for one in names if (":" in one) == (":" in name)]
        raise WrongUse(f"{what} {name} is unknown: {nearest(name, alike)}")
    return name


def places(names: Iterable[str]) -> frozenset[Place]:
    """The channels of venues that names mean."""
    chosen = set(names)
    return frozenset(
        (source.venue, channel)
        for source in SOURCES.values()
        for channel in source.channels
        if routes.is_named(source, channel, chosen)
    )


def names_of(chosen: Collection[Place]) -> tuple[str, ...]:
    """The fewest names that mean these channels of venues."""
    names: list[str] = []
    for venue in VENUES:
        if places([venue]) <= set(chosen):
            names.append(venue)
            continue
        left = {place for place in chosen if place[0] == venue}
        for source in SOURCES.values():
            whole = {(source.venue, channel) for channel in source.channels}
            if source.name != venue and whole <= left:
                names.append(source.name)
                left -= whole
        names += [f"{venue}:{channel.upper()}" for _, channel in left]
    return tuple(sorted(names))


# As they are written


def demand_id(user: str, venues: Sequence[str], symbol: str, outputs: Sequence[str], stores: Sequence[str] = ()) -> str:
    """Id of a demand: the same user, selector, outputs and stores have the same, in whatever order they are named."""
    parts = [user, sorted(venues), symbol, sorted(outputs), *([sorted(stores)] if stores else [])]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()[:16]


def make(
    user: str,
    venues: Sequence[str],
    symbol: str,
    outputs: Sequence[str] = (),
    stores: Sequence[str] = (),
    *,
    routing: RoutingSettings,
    now_us: int,
) -> Demand:
    """A demand as it is written, with the feeds that it comes to."""
    demand = Demand(
        demand_id=demand_id(user, venues, symbol, outputs, stores),
        user=user,
        venues=tuple(sorted(venues)),
        symbol=symbol,
        outputs=tuple(sorted(outputs)),
        stores=tuple(sorted(stores)),
        created_time=now_us,
    )
    return changed(demand, feeds=tuple(routes.feeds_of(demand, SOURCES.values(), routing)))


def feeds_of(demands: Iterable[Demand], routing: RoutingSettings) -> list[FeedName]:
    """The subscriptions that demands come to; of one that an older version wrote, by these settings."""
    found = (feed for demand in demands for feed in demand.feeds or routes.feeds_of(demand, SOURCES.values(), routing))
    return list(dict.fromkeys(found))


# What they change


def to_start(want: Wanted, standing: Mapping[str, Demand], routing: RoutingSettings, now_us: int) -> dict[str, Demand]:
    """The demands that are not made yet, or that come to other feeds by now; these keep the time they were made at.

    Raises WrongUse where one comes to nothing.
    """
    changes = {}
    for demand in want.demands(routing, now_us):
        if not demand.feeds:
            raise WrongUse(_nothing(demand))
        before = standing.get(demand.demand_id)
        if before is None:
            changes[demand.demand_id] = demand
        elif set(before.feeds) != set(demand.feeds):
            changes[demand.demand_id] = changed(demand, created_time=before.created_time)
    if not changes and not want.demands(routing, now_us):
        raise WrongUse("nothing is configured of what is asked for: name a --symbol, for example BTCUSDT")
    return changes


def _nothing(demand: Demand) -> str:
    """Why a demand comes to no feed, with the way out."""
    where = ", ".join(demand.venues) or "the configured venues"
    if demand.outputs:
        return f"{where} brings nothing that {', '.join(demand.outputs)} is made of: leave out --venue, or --with"
    channels = sorted({channel for _, channel in places(demand.venues)})
    return (
        f"{where} is collected as a whole: leave --symbol out, or say with --with what of it you want: "
        f"{', '.join(channels)}"
    )


def to_stop(
    want: Wanted, standing: Mapping[str, Demand], routing: RoutingSettings, *, all_users: bool = False
) -> dict[str, Demand | None]:
    """Withdraws what is wanted no more; a demand for more venues than are stopped is narrowed to the rest.

    No symbols means any, `*` only demands for every symbol. With outputs or stores, only demands that were made with
    just these.
    """
    changes: dict[str, Demand | None] = {}
    stopped = places(want.venues or known_venues())
    for name, demand in standing.items():
        if not _is_meant(want, demand, all_users=all_users):
            continue
        feeds = feeds_of([demand], routing)
        if feeds and not any((feed.venue, feed.channel) in stopped for feed in feeds):
            continue
        changes[name] = None
        left = tuple(feed for feed in feeds if (feed.venue, feed.channel) not in stopped)
        if want.venues and left:
            narrowed = _narrowed(demand, left, stopped)
            changes[narrowed.demand_id] = narrowed
    return changes


def passed_over(
    want: Wanted, standing: Mapping[str, Demand], routing: RoutingSettings, *, all_users: bool = False
) -> list[Demand]:
    """What a stop would withdraw, were it not for the outputs or stores that it names."""
    anyhow = Wanted(want.user, want.symbols, want.venues)
    withdrawn = to_stop(want, standing, routing, all_users=all_users)
    without = to_stop(anyhow, standing, routing, all_users=all_users)
    return [standing[name] for name in without if name in standing and name not in withdrawn]


def _is_meant(want: Wanted, demand: Demand, *, all_users: bool) -> bool:
    return (
        (all_users or demand.user == want.user)
        and (not want.symbols or any(same_symbol(symbol, demand.symbol) for symbol in want.symbols))
        and (not want.outputs or want.outputs == demand.outputs)
        and (not want.stores or want.stores == demand.stores)
    )


def same_symbol(one: str, other: str) -> bool:
    """Whether two ways to write a symbol mean one: BTCUSDT is BTC/USDT."""
    return one == other or (pair_of(one) is not None and pair_of(one) == pair_of(other))


def _narrowed(demand: Demand, left: tuple[FeedName, ...], stopped: Collection[Place]) -> Demand:
    """The demand for the feeds that are left of it, whatever the settings here are."""
    own = places(demand.venues) if demand.venues else {(feed.venue, feed.channel) for feed in left}
    venues = names_of(own - set(stopped))
    name = demand_id(demand.user, venues, demand.symbol, demand.outputs, demand.stores)
    return changed(demand, demand_id=name, venues=venues, feeds=left)


def after(standing: Mapping[str, Demand], changes: Changes) -> dict[str, Demand]:
    """What stands when the changes are made."""
    return {name: demand for name, demand in {**standing, **changes}.items() if demand}


# In a person's words


def told(want: Wanted, unmade: Collection[str] = ()) -> str:
    """What is wanted, in a few words; of outputs that nothing makes, what they would be made of."""
    of_venues = f" of {', '.join(want.venues)}" if want.venues else ""
    what = ", ".join(want.symbols) if want.symbols else f"all that is configured{of_venues}"
    what = what.replace(ALL, f"every symbol of {', '.join(want.venues)}")
    made = [output for output in want.outputs if output not in unmade]
    if want.outputs and not made:
        made = sorted({origin(output) for output in unmade})
    return f"{', '.join(made)} of {what}" if made else what
