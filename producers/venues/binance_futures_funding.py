"""Binance USD-M futures: funding rate, mark price and index price of all symbols, once a second.

Protocol: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Mark-Price-Stream-for-All-market

    {"stream":"!markPrice@arr@1s","data":[{"e":"markPriceUpdate","E":1562305380000,"s":"BTCUSDT","p":"11794.15000000",
     "i":"11784.62659091","P":"11784.25641265","r":"0.00038167","T":1562306400000,"st":1}]}

Dated futures have no funding: their `T` is 0 and their `r` empty or 0. Frames before 2020 have no index price `i`, and
where it is 0 there is none. One symbol's stream (btcusdt@markPrice@1s) sends the same without the array.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from producers.contract import ALL, FUNDING, Event, Feed, Limits, Receipt, Scope
from producers.protocols.binance import Framed, Millis, Name, Number, Read, same_symbol
from producers.protocols.binance_futures import CONNECTS, MESSAGES, REST, VENUE, FuturesStream
from producers.values import MILLISECONDS_TO_US, happened, not_negative, optional
from ravencore.decimals import from_text
from ravencore.records import Funding, Instrument

QUIET_SECONDS = 30.0


class MarkPrice(msgspec.Struct, gc=False):
    """One element of `data`, or all of it on one symbol's stream."""

    e: Literal["markPriceUpdate"]
    E: Millis
    s: Name
    p: Number
    r: Number
    T: Millis
    i: Number | None = None


_market = msgspec.json.Decoder(Framed[Annotated[list[MarkPrice], msgspec.Meta(min_length=1)]])
_single = msgspec.json.Decoder(Framed[MarkPrice])


def _read_market(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    return [_funding(data, receipt) for data in _market.decode(frame).data]


def _read_single(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _single.decode(frame).data
    same_symbol(data.s, symbol)
    return (_funding(data, receipt),)


def _funding(data: MarkPrice, receipt: Receipt) -> Funding:
    rate = optional(from_text, data.r)
    return Funding(
        venue=VENUE,
        symbol=data.s,
        event_time=happened(data.E * MILLISECONDS_TO_US, receipt.received_us),
        received_time=receipt.received_us,
        rate=rate if data.T else None,
        mark_price=not_negative(data.p) or None,
        index_price=optional(not_negative, data.i) or None,
        next_funding_time=data.T * MILLISECONDS_TO_US or None,
        connection_time=receipt.connection_us,
        connection_sequence=receipt.sequence,
    )


class BinanceFuturesFunding(FuturesStream):
    """Funding of the whole market (`producers.contract.Stream`)."""

    name = "BINANCE_FUTURES_FUNDING"
    channels: tuple[str, ...] = (FUNDING,)
    scope: Scope = "market"
    selection: str | None = None
    limits = Limits(rest=REST, connects=CONNECTS, messages=MESSAGES, silence_seconds=QUIET_SECONDS)
    streams: ClassVar[Mapping[str, str]] = {FUNDING: "!markPrice@arr@1s"}
    readers: ClassVar[Mapping[str, Read]] = {
        "!markPrice@arr@1s": _read_market,
        "!markPrice@arr": _read_market,
        "@markPrice@1s": _read_single,
        "@markPrice": _read_single,
    }

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """The one stream of all symbols."""
        return (Feed(FUNDING, ALL),)
