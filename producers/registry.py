"""The sources this room can collect from, by the name they have in demands."""

from collections.abc import Mapping

from producers.contract import Source
from producers.venues.binance_futures import BinanceFutures
from producers.venues.binance_futures_funding import BinanceFuturesFunding
from producers.venues.binance_futures_klines import BinanceFuturesKlines
from producers.venues.binance_futures_liquidations import BinanceFuturesLiquidations
from producers.venues.binance_futures_oi import BinanceFuturesOi
from producers.venues.binance_options import BinanceOptions
from producers.venues.binance_spot import BinanceSpot
from producers.venues.coinbase import Coinbase
from producers.venues.coinbase_books import CoinbaseBooks
from producers.venues.deribit_books import DeribitBooks
from producers.venues.deribit_index import DeribitIndex
from producers.venues.deribit_options import DeribitOptions
from producers.venues.deribit_trades import DeribitTrades
from producers.venues.kraken import Kraken
from ravencore.config import VenuesSettings

_ALL: tuple[Source, ...] = (
    BinanceSpot(),
    BinanceFutures(),
    BinanceFuturesKlines(),
    BinanceFuturesLiquidations(),
    BinanceFuturesFunding(),
    BinanceFuturesOi(),
    BinanceOptions(),
    DeribitOptions(),
    DeribitTrades(),
    DeribitIndex(),
    DeribitBooks(),
    Kraken(),
    Coinbase(),
    CoinbaseBooks(),
)

SOURCES: Mapping[str, Source] = {source.name: source for source in _ALL}


def configured(venues: VenuesSettings) -> Mapping[str, Source]:
    """The sources as the settings want them: which symbols' books they keep from differences."""
    kept: tuple[Source, ...] = (
        BinanceSpot(venues.BINANCE_SPOT.maintained_books),
        BinanceFutures(venues.BINANCE_FUTURES.maintained_books),
    )
    return {**SOURCES, **{source.name: source for source in kept}}
