"""The venues this simulator speaks for: one line each."""

from simulator.contract import Dialect
from simulator.dialects.binance_spot import BinanceSpot

DIALECTS: dict[str, Dialect] = {dialect.venue: dialect for dialect in (BinanceSpot(),)}
