"""From what a person demands to what a source collects: symbols as each venue spells them, sources by their names."""

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from producers.contract import ALL, Source
from ravencore.config import RoutingSettings
from ravencore.records import Demand

QUOTES = (
    *("FDUSD", "USDT", "USDC", "TUSD", "BUSD", "USD1", "USDP", "USDE", "EURI", "DAI", "USD", "EUR", "GBP", "JPY"),
    *("TRY", "BRL", "AUD", "CAD", "CHF", "MXN", "PLN", "ARS", "UAH", "ZAR", "BTC", "ETH", "BNB", "SOL"),
)
"""Currencies that symbols without a separator may end with."""
SymbolMap = Mapping[str, Mapping[str, str]]


class Pair(NamedTuple):
    """A base and a quote currency."""

    base: str
    quote: str


def pair_of(symbol: str) -> Pair | None:
    """The currencies that a symbol like BTCUSDT, BTC-USDT or BTC/USDT names; None where it names none known."""
    for separator in "/-":
        base, found, quote = symbol.partition(separator)
        if found:
            return Pair(base, quote) if base.isalnum() and quote.isalnum() else None
    quotes = [quote for quote in QUOTES if symbol.endswith(quote) and symbol != quote]
    quote = max(quotes, key=len, default="")
    return Pair(symbol.removesuffix(quote), quote) if quote else None


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


def wanted(demands: Iterable[Demand], sources: Collection[Source], routing: RoutingSettings) -> dict[str, set[str]]:
    """By source, what the demands want of it: symbols as its venue spells them, or ALL of one with scope `market`."""
    found: dict[str, set[str]] = {}
    for demand in demands:
        for source in sources:
            if not serves(source, demand, routing.venues):
                continue
            symbol = ALL if source.scope == "market" else venue_symbol(source, demand.symbol, routing.symbol_map)
            found.setdefault(source.name, set()).add(symbol)
    return found


def serves(source: Source, demand: Demand, default_venues: Collection[str]) -> bool:
    """Whether a demand wants anything of this source.

    A demand names sources (BINANCE_FUTURES_KLINES) or all of a venue (DERIBIT), or none and means the default. What
    is collected as a whole is wanted by a demand for the symbol `*`, and by one that names a channel of it as output;
    a demand for one symbol alone does not start five hundred others.
    """
    venues = demand.venues or default_venues
    named = source.name in venues or source.venue in venues
    if source.scope == "symbol":
        return named and demand.symbol != ALL
    return named and (demand.symbol == ALL or bool(set(source.channels) & set(demand.outputs)))
