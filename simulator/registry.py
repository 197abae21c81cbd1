"""The venues this simulator speaks for, one line each, and what a synthetic one is made of."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from simulator.contract import Dialect, Part, SimulatorError
from simulator.dialects.binance_futures import BinanceFutures
from simulator.dialects.binance_options import BinanceOptions
from simulator.dialects.binance_spot import BinanceSpot
from simulator.dialects.coinbase import Coinbase
from simulator.dialects.deribit import Deribit
from simulator.dialects.kraken import Kraken
from simulator.markets.options import BINANCE_BTC, DERIBIT_BTC, OptionChain
from simulator.markets.perpetuals import Perpetuals, ThinFlow, thin_listings
from simulator.synthetic import SyntheticMarket, flows

DIALECTS: dict[str, Callable[[], Dialect]] = {
    "BINANCE_SPOT": BinanceSpot,
    "BINANCE_FUTURES": BinanceFutures,
    "BINANCE_OPTIONS": BinanceOptions,
    "DERIBIT": Deribit,
    "KRAKEN": Kraken,
    "COINBASE": Coinbase,
}
"""Each run makes its own: a dialect may keep state."""


class Plan(NamedTuple):
    """What synthetic markets are to be."""

    symbols: Sequence[str]
    seed: int
    perpetuals: int
    duration_ns: int | None
    begins_ns: int


def synthetic_market(dialect: Dialect, plan: Plan) -> SyntheticMarket:
    """The market of one venue. Raises SimulatorError where the venue has none of the symbols."""
    if dialect.venue == "BINANCE_FUTURES":
        market = SyntheticMarket(dialect, lambda: _perpetuals(dialect, plan), plan.duration_ns, _thin(dialect, plan))
    elif dialect.venue in CHAINS:
        market = SyntheticMarket(dialect, lambda: _options(dialect, plan), plan.duration_ns)
    else:
        market = SyntheticMarket(dialect, lambda: flows(dialect, plan.symbols, plan.seed), plan.duration_ns)
    if not market.instruments:
        raise SimulatorError(f"{dialect.venue} lists none of {', '.join(plan.symbols)}")
    return market


CHAINS = {"BINANCE_OPTIONS": BINANCE_BTC, "DERIBIT": DERIBIT_BTC}


def _options(dialect: Dialect, plan: Plan) -> Sequence[Part]:
    """Those, and the perpetuals of the symbols where the venue has them."""
    chain = OptionChain(plan.seed, CHAINS[dialect.venue], plan.begins_ns)
    return [chain, *flows(dialect, plan.symbols, plan.seed)]


def _thin(dialect: Dialect, plan: Plan) -> ThinFlow:
    taken = [market.symbol for market in flows(dialect, plan.symbols, plan.seed)]
    return ThinFlow(plan.seed, thin_listings(plan.perpetuals, plan.seed, taken))


def _perpetuals(dialect: Dialect, plan: Plan) -> Sequence[Part]:
    """Those of the symbols, and the thin ones beside them."""
    traded, thin = flows(dialect, plan.symbols, plan.seed), _thin(dialect, plan)
    prices = {market.symbol: market.listing.price for market in traded}
    prices |= {listing.symbol: listing.price for listing in thin.listings}
    return [Perpetuals(plan.seed, [*traded, thin], prices)]
