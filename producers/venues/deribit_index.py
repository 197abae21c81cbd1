"""Deribit's price indices and DVOL, its index of implied volatility.

Protocol: https://docs.deribit.com/subscriptions/market-data/deribit_price_indexindex_name
DVOL: https://docs.deribit.com/subscriptions/market-data/deribit_volatility_indexindex_name
Listing: https://docs.deribit.com/api-reference/market-data/public-get_index_price_names

    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"deribit_price_index.btc_usd",
     "data":{"index_name":"btc_usd","price":3937.89,"timestamp":1550588002899}}}
    {"jsonrpc":"2.0","method":"subscription","params":{"channel":"deribit_volatility_index.btc_usd",
     "data":{"volatility":129.36,"timestamp":1619777946007,"index_name":"btc_usd"}}}

Both name the index alike, btc_usd; records have it in upper case. Not every currency has a DVOL: Deribit then leaves
the channel out of its reply.
"""

from collections.abc import Sequence
from functools import lru_cache

import msgspec

from producers.contract import INDEX_PRICES, VOLATILITY_INDEX, BadFrame, Event, Feed, Get, Receipt
from producers.protocols.deribit import VENUE, Deribit, Millis, Name, Notification, Reader
from producers.values import MILLISECONDS_TO_US, counted, happened, reading, refuse
from ravencore.records import IndexPrice, Instrument, VolatilityIndex

PREFIXES = {INDEX_PRICES: "deribit_price_index", VOLATILITY_INDEX: "deribit_volatility_index"}
MISSING = msgspec.Raw(b"null")
CHANNELS = {prefix: channel for channel, prefix in PREFIXES.items()}


class IndexData(msgspec.Struct, gc=False):
    """`data` of either; the one has a price, the other a volatility."""

    index_name: Name
    timestamp: Millis
    price: msgspec.Raw = MISSING
    volatility: msgspec.Raw = MISSING


class IndexNames(msgspec.Struct):
    """The body of GET public/get_index_price_names: {"jsonrpc":"2.0","result":["btc_usd","eth_usd"]}."""

    result: list[Name]


_names = msgspec.json.Decoder(IndexNames)


@lru_cache(maxsize=4096)
def _feed_of(channel: str) -> Feed | None:
    prefix, _, index = channel.partition(".")
    return Feed(CHANNELS[prefix], index.upper()) if prefix in CHANNELS and index else None


def _read(data: IndexData, feed: Feed, receipt: Receipt) -> Sequence[Event]:
    if data.index_name.upper() != feed.symbol:
        raise BadFrame(f"index {data.index_name!r} on the channel of {feed.symbol!r}")
    event_us = happened(data.timestamp * MILLISECONDS_TO_US, receipt.received_us)
    if feed.channel == INDEX_PRICES:
        price = IndexPrice(
            venue=VENUE,
            symbol=feed.symbol,
            event_time=event_us,
            received_time=receipt.received_us,
            price=_above_zero(data.price, "price"),
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        )
        return (price,)
    volatility = VolatilityIndex(
        venue=VENUE,
        symbol=feed.symbol,
        event_time=event_us,
        received_time=receipt.received_us,
        volatility=_above_zero(data.volatility, "volatility"),
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )
    return (volatility,)


def _above_zero(raw: msgspec.Raw, field: str) -> int:
    text = str(raw, "ascii")
    if text == "null":
        raise BadFrame(f"an index without its {field}")
    units = counted(text)
    if not units:
        refuse(f"{field} {text} is not above zero")
    return units


def _instrument(name: str, received_us: int) -> Instrument:
    base, _, quote = name.upper().partition("_")
    return Instrument(
        venue=VENUE,
        symbol=name.upper(),
        received_time=received_us,
        base=base,
        quote=quote,
        kind="UNKNOWN",
        status="",
    )


class DeribitIndex(Deribit):
    """Index prices and volatility indices (`producers.contract.Stream`)."""

    name = "DERIBIT_INDEX"
    channels: tuple[str, ...] = (INDEX_PRICES, VOLATILITY_INDEX)
    reader = Reader(msgspec.json.Decoder(Notification[IndexData]), _feed_of, _feed_of, _read)

    def listing(self, base: str, symbol: str | None) -> Get:
        """The names of all indices; there is no description of one."""
        return Get(f"{base.rstrip('/')}/public/get_index_price_names")

    def instruments(self, body: bytes, received_us: int) -> Sequence[Instrument]:
        """An instrument of unknown kind for each index; raises BadFrame."""
        with reading():
            return [_instrument(name, received_us) for name in _names.decode(body).result]

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """Both of each currency against USD; no listing is needed for it."""
        return [Feed(channel, f"{currency.upper()}_USD") for currency in selected for channel in PREFIXES]

    def channel_of(self, feed: Feed) -> str:
        """`deribit_price_index.btc_usd`."""
        return f"{PREFIXES[feed.channel]}.{feed.symbol.lower()}"
