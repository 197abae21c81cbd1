"""What Binance's USD-M futures sources share: their limits, their two routes, and exchangeInfo.

Routes: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Important-WebSocket-Change-Notice
Limits: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams
REST: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Exchange-Information

Since 2026-04-23 books are served on /public/stream, and trades, klines, mark prices and liquidations on /market/stream.
The wrong one acknowledges a subscription and stays silent.
"""

from collections.abc import Sequence
from typing import Literal

import msgspec

from producers.contract import BOOKS, Get, Rate
from producers.protocols.binance import CombinedStream, Filter, Millis, Name, refusal, steps
from producers.values import MILLISECONDS_TO_US, reading
from ravencore.records import Instrument

VENUE = "BINANCE_FUTURES"
# Weights of 2400 a minute. 300 attempts to connect in 5 minutes are documented for spot only, and kept here as well.
REST = Rate(2000, 60.0)
CONNECTS = Rate(240, 300.0)
# 10 messages a second per connection; 1024 streams are documented, but more than 200 were seen to be dropped.
MESSAGES = Rate(8, 1.0)
FEEDS_PER_CONNECTION = 200
PUBLIC = frozenset({BOOKS})


class SymbolInfo(msgspec.Struct):
    """One of exchangeInfo's `symbols`.

    {"symbol":"BTCUSDT","contractType":"PERPETUAL","deliveryDate":4133404800000,"status":"TRADING","baseAsset":"BTC",
     "quoteAsset":"USDT","filters":[...],...}; "PERPETUAL" stands in other types too (TRADIFI_PERPETUAL).
    """

    symbol: Name
    contractType: str
    deliveryDate: Millis
    status: str
    baseAsset: Name
    quoteAsset: Name
    filters: list[Filter]


class ExchangeInfo(msgspec.Struct):
    """The body of GET /fapi/v1/exchangeInfo, which describes all symbols, whatever it is asked."""

    symbols: list[SymbolInfo]


_exchange_info = msgspec.json.Decoder(ExchangeInfo)


class FuturesListing:
    """How a USD-M futures source lists its symbols (part of `producers.contract.Source`)."""

    venue = VENUE

    def symbol_of(self, base: str, quote: str) -> str:
        """BTCUSDT."""
        return base + quote

    def listing(self, base: str, symbol: str | None) -> Get:
        """exchangeInfo of all symbols: it knows no other."""
        return Get(f"{base.rstrip('/')}/fapi/v1/exchangeInfo")

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """Instruments of an exchangeInfo body; raises BadFrame."""
        with reading():
            return [_instrument(info, received_us) for info in _exchange_info.decode(body).symbols]

    def refusal(self, status: int, body: bytes) -> str | None:
        """`{"code":-1121,"msg":"Invalid symbol."}` with status 400 is for good."""
        return refusal(status, body)


class FuturesStream(FuturesListing, CombinedStream):
    """A source on one of the two combined streams of USD-M futures."""

    def socket_url(self, base: str, channel: str) -> str:
        """Books on /public/stream, all else on /market/stream."""
        route = "public" if channel in PUBLIC else "market"
        return f"{base.rstrip('/')}/{route}/stream"


def _instrument(info: SymbolInfo, received_us: int) -> Instrument:
    tick_size, lot_size = steps(info.filters)
    kind = _kind(info.contractType)
    return Instrument(
        venue=VENUE,
        symbol=info.symbol,
        received_time=received_us,
        base=info.baseAsset,
        quote=info.quoteAsset,
        kind=kind,
        status=info.status,
        tick_size=tick_size,
        lot_size=lot_size,
        expiry=info.deliveryDate * MILLISECONDS_TO_US if kind == "FUTURE" else None,
    )


def _kind(contract_type: str) -> Literal["PERPETUAL", "FUTURE", "UNKNOWN"]:
    """An empty type is one that is not decided yet: the symbol is not in trade."""
    if "PERPETUAL" in contract_type:
        return "PERPETUAL"
    return "FUTURE" if contract_type else "UNKNOWN"
