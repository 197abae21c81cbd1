"""Binance USD-M futures: the liquidations of all symbols.

Protocol: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/All-Market-Liquidation-Order-Streams

    {"stream":"!forceOrder@arr","data":{"e":"forceOrder","E":1568014460893,"o":{"s":"BTCUSDT","S":"SELL","o":"LIMIT",
     "f":"IOC","q":"0.014","p":"9910","ap":"9910","X":"FILLED","l":"0.014","z":"0.014","T":1568014460893}}}

For all its name the stream sends one order a frame: the latest of a symbol within a second; those before it Binance
keeps to itself. `p` is where the position would be bankrupt, `ap` what it was sold for, 0 while nothing is filled. The
frames of one symbol's stream (btcusdt@forceOrder) are the same.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import msgspec

from producers.contract import ALL, LIQUIDATIONS, Event, Feed, Limits, Receipt, Scope
from producers.protocols.binance import Framed, Millis, Name, Number, Read, same_symbol
from producers.protocols.binance_futures import CONNECTS, MESSAGES, REST, VENUE, FuturesStream
from producers.values import MILLISECONDS_TO_US, happened, not_negative, optional, positive
from ravencore.records import Instrument, Liquidation

QUIET_SECONDS = 1800.0
"""Hours without a liquidation do not happen, half hours nearly never."""


class Order(msgspec.Struct, gc=False):
    """`o` of a forceOrder."""

    s: Name
    S: Literal["BUY", "SELL"]
    q: Number
    p: Number
    X: Name
    T: Millis
    ap: Number | None = None
    z: Number | None = None


class OrderData(msgspec.Struct, gc=False):
    """`data` of a forceOrder."""

    e: Literal["forceOrder"]
    o: Order


_order = msgspec.json.Decoder(Framed[OrderData])


def _read_order(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    order = _order.decode(frame).data.o
    if symbol != ALL:
        same_symbol(order.s, symbol)
    return (
        Liquidation(
            venue=VENUE,
            symbol=order.s,
            event_time=happened(order.T * MILLISECONDS_TO_US, receipt.received_us),
            received_time=receipt.received_us,
            side=order.S,
            price=positive(order.p),
            quantity=positive(order.q),
            average_price=optional(not_negative, order.ap) or None,
            filled_quantity=optional(not_negative, order.z),
            status=order.X,
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


class BinanceFuturesLiquidations(FuturesStream):
    """Liquidations of the whole market (`producers.contract.Stream`)."""

    name = "BINANCE_FUTURES_LIQUIDATIONS"
    channels: tuple[str, ...] = (LIQUIDATIONS,)
    scope: Scope = "market"
    selection: str | None = None
    limits = Limits(rest=REST, connects=CONNECTS, messages=MESSAGES, silence_seconds=QUIET_SECONDS)
    streams: ClassVar[Mapping[str, str]] = {LIQUIDATIONS: "!forceOrder@arr"}
    readers: ClassVar[Mapping[str, Read]] = {"!forceOrder@arr": _read_order, "@forceOrder": _read_order}

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """The one stream of all symbols."""
        return (Feed(LIQUIDATIONS, ALL),)
