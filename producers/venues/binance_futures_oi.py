"""Binance USD-M futures: the open interest of selected symbols, and its value, asked for every five seconds.

Open interest: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Open-Interest
Mark price: https://developers.binance.com/docs/derivatives/usds-margined-futures/market-data/rest-api/Mark-Price

    GET /fapi/v1/openInterest?symbol=BTCUSDT   {"openInterest":"10659.509","symbol":"BTCUSDT","time":1589437530011}
    GET /fapi/v1/premiumIndex?symbol=BTCUSDT   {"symbol":"BTCUSDT","markPrice":"11793.63104562",
     "indexPrice":"11781.80495970","lastFundingRate":"0.00038246","nextFundingTime":1597392000000,"time":1597370495002}

Binance gives no value: it is the open interest times the mark price of the same moment, exact.
"""

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from producers.contract import OPEN_INTEREST, BadFrame, Feed, Get, Limits, Receipt, Scope
from producers.protocols.binance import Millis, Name, Number, same_symbol
from producers.protocols.binance_futures import CONNECTS, REST, VENUE, FuturesListing
from producers.values import MILLISECONDS_TO_US, happened, not_negative, positive, product, reading
from ravencore.records import Instrument, OpenInterest

PATHS = ("openInterest", "premiumIndex")


class OpenInterestBody(msgspec.Struct, gc=False):
    """The body of GET /fapi/v1/openInterest."""

    openInterest: Number
    symbol: Name
    time: Millis


class PremiumIndexBody(msgspec.Struct, gc=False):
    """The body of GET /fapi/v1/premiumIndex of one symbol."""

    markPrice: Number
    symbol: Name


_open_interest = msgspec.json.Decoder(OpenInterestBody)
_premium_index = msgspec.json.Decoder(PremiumIndexBody)


class BinanceFuturesOi(FuturesListing):
    """Open interest of USD-M futures (`producers.contract.Poll`)."""

    name = "BINANCE_FUTURES_OI"
    channels: tuple[str, ...] = (OPEN_INTEREST,)
    scope: Scope = "market"
    selection: str | None = "open_interest_symbols"
    limits = Limits(rest=REST, connects=CONNECTS)
    interval_seconds = 5.0

    def feed(self, channel: str, symbol: str) -> Feed:
        """One feed per symbol."""
        return Feed(channel, symbol)

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """Every symbol that is selected; one that Binance does not know shows as a request that it refuses."""
        return [Feed(OPEN_INTEREST, symbol) for symbol in selected]

    def requests(self, base: str, feed: Feed) -> Sequence[Get]:
        """Open interest and mark price of a symbol."""
        symbol = quote(feed.symbol, safe="")
        return [Get(f"{base.rstrip('/')}/fapi/v1/{path}?symbol={symbol}") for path in PATHS]

    def parse_bodies(self, feed: Feed, bodies: Sequence[bytes], receipt: Receipt) -> Sequence[OpenInterest]:
        """One record of both answers; raises BadFrame."""
        if len(bodies) != len(PATHS):
            raise BadFrame(f"{len(bodies)} answers to {len(PATHS)} requests")
        with reading():
            interest, premium = _open_interest.decode(bodies[0]), _premium_index.decode(bodies[1])
            same_symbol(interest.symbol, feed.symbol)
            same_symbol(premium.symbol, feed.symbol)
            open_interest, mark_price = not_negative(interest.openInterest), positive(premium.markPrice)
            return (
                OpenInterest(
                    venue=VENUE,
                    symbol=feed.symbol,
                    event_time=happened(interest.time * MILLISECONDS_TO_US, receipt.received_us),
                    received_time=receipt.received_us,
                    open_interest=open_interest,
                    open_interest_value=product(open_interest, mark_price),
                    mark_price=mark_price,
                    connection_time=receipt.connection_us,
                    connection_sequence=receipt.sequence,
                ),
            )
