"""From what a person demands to what a source collects: symbols as each venue spells them, sources by their names."""

from collections.abc import Collection, Iterable, Mapping

from producers.contract import ALL, Source
from ravencore.config import RoutingSettings
from ravencore.graph import NEEDS, made_for, origin
from ravencore.pairs import pair_of
from ravencore.records import Demand, FeedName

SymbolMap = Mapping[str, Mapping[str, str]]


def venue_symbol(source: Source, symbol: str, symbol_map: SymbolMap) -> str:
    """A demanded symbol as the source's venue spells it.

    `routing.symbol_map` comes first, by `BASE/QUOTE` or by the symbol as it was demanded; a symbol that is no pair of
    currencies goes as it is.
    """
    renamed = symbol_map.get(source.venue, {})
    pair = pair_of(symbol)
    if pair is None:
        return renamed.get(symbol, symbol)
    return renamed.get(symbol) or renamed.get("/".join(pair)) or source.symbol_of(*pair)


Wants = Mapping[str, frozenset[str]]
"""Channels that are wanted of a source, by symbol as its venue spells it; the symbol ALL: of every one."""


def wanted(demands: Iterable[Demand], sources: Collection[Source], routing: RoutingSettings) -> dict[str, Wants]:
    """By source, what the demands want of it."""
    found: dict[str, Wants] = {}
    names = {(source.venue, channel): source.name for source in sources for channel in source.channels}
    for demand in demands:
        for feed in demand.feeds or feeds_of(demand, sources, routing):
            if (name := names.get((feed.venue, feed.channel))) is not None:
                symbols = found.get(name, {})
                found[name] = {**symbols, feed.symbol: symbols.get(feed.symbol, frozenset()) | {feed.channel}}
    return found


def feeds_of(demand: Demand, sources: Collection[Source], routing: RoutingSettings) -> list[FeedName]:
    """The feeds that a demand comes to, in the order of the sources."""
    needed = {origin(output) for output in made_for(demand) if output in NEEDS}
    by_symbol = {channel for source in sources if source.scope == "symbol" for channel in source.channels}
    return [
        FeedName(source.venue, channel, _symbol(source, demand, routing))
        for source in sources
        for channel in source.channels
        if channel in needed
        and is_named(source, channel, demand.venues or routing.venues)
        and (source.scope == "symbol" or _whole(demand, source, channel, by_symbol))
    ]


def is_named(source: Source, channel: str, venues: Collection[str]) -> bool:
    """Whether venues name what a source brings on a channel."""
    return not names_of(source, channel).isdisjoint(venues)


def names_of(source: Source, channel: str) -> set[str]:
    """Venues are named whole (DERIBIT), by source (BINANCE_FUTURES_KLINES) or by channel (KRAKEN:TRADES)."""
    return {source.name, source.venue, f"{source.venue}:{channel.upper()}"}


def _whole(demand: Demand, source: Source, channel: str, by_symbol: Collection[str]) -> bool:
    """Whether a demand wants a channel of a whole market.

    Everything of all symbols is, and so is what an output is made of that no venue brings for a single symbol, or whose
    source is named. A demand for one symbol alone does not start five hundred others.
    """
    for_output = bool(demand.outputs) and (channel not in by_symbol or source.name in demand.venues)
    return demand.symbol == ALL or for_output


def _symbol(source: Source, demand: Demand, routing: RoutingSettings) -> str:
    if source.scope == "market" or demand.symbol == ALL:
        return ALL
    return venue_symbol(source, demand.symbol, routing.symbol_map)
