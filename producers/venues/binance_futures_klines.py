"""Binance USD-M futures: the closed 1-minute candles of all USDT perpetuals.

Protocol: https://developers.binance.com/docs/derivatives/usds-margined-futures/websocket-market-streams/Kline-Candlestick-Streams

    {"stream":"btcusdt@kline_1m","data":{"e":"kline","E":1638747660000,"s":"BTCUSDT","k":{"t":1638747660000,
     "T":1638747719999,"s":"BTCUSDT","i":"1m","f":100,"L":200,"o":"0.0010","c":"0.0020","h":"0.0025","l":"0.0015",
     "v":"1000","n":100,"x":false,"q":"1.0000","V":"500","Q":"0.500","B":"123456"}}}

A candle comes up to four times a second while it is open (`x` false), which says nothing yet, and once when it closes.
A minute without trades has `f` and `L` -1.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

import msgspec

from producers.contract import KLINES, Event, Feed, Limits, Receipt, Scope
from producers.protocols.binance import (
    FEEDS_PER_MESSAGE,
    Framed,
    Id,
    Millis,
    Number,
    Read,
    same_symbol,
)
from producers.protocols.binance_futures import CONNECTS, MESSAGES, REST, VENUE, FuturesStream
from producers.values import MILLISECONDS_TO_US, happened, not_negative, positive, refuse
from ravencore.records import Instrument, Kline

FEEDS_PER_CONNECTION = 50
"""Of 550 perpetuals that makes eleven connections: a lost one loses a few candles, not all."""
QUOTE = "USDT"

IdOrNone = Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)]


class Candle(msgspec.Struct, gc=False):
    """`k` of a kline."""

    t: Millis
    T: Millis
    s: str
    i: Literal["1m"]
    f: IdOrNone
    L: IdOrNone
    o: Number
    c: Number
    h: Number
    l: Number  # noqa: E741 - Binance's name
    v: Number
    n: Id
    x: bool
    q: Number
    V: Number
    Q: Number


class KlineData(msgspec.Struct, gc=False):
    """`data` of a kline."""

    e: Literal["kline"]
    E: Millis
    s: str
    k: Candle


_kline = msgspec.json.Decoder(Framed[KlineData])


def _read_kline(frame: bytes, symbol: str, receipt: Receipt) -> Sequence[Event]:
    data = _kline.decode(frame).data
    candle = data.k
    same_symbol(data.s, symbol)
    same_symbol(candle.s, symbol)
    if not candle.x:
        return ()
    if candle.t >= candle.T:
        refuse(f"candle closes at {candle.T}, before it opens at {candle.t}")
    return (
        Kline(
            venue=VENUE,
            symbol=symbol,
            event_time=happened(data.E * MILLISECONDS_TO_US, receipt.received_us),
            received_time=receipt.received_us,
            interval=candle.i,
            open_time=happened(candle.t * MILLISECONDS_TO_US, receipt.received_us),
            close_time=happened(candle.T * MILLISECONDS_TO_US, receipt.received_us),
            open=positive(candle.o),
            high=positive(candle.h),
            low=positive(candle.l),
            close=positive(candle.c),
            volume=not_negative(candle.v),
            quote_volume=not_negative(candle.q),
            trade_count=candle.n,
            taker_buy_volume=not_negative(candle.V),
            taker_buy_quote_volume=not_negative(candle.Q),
            first_trade_id=_id(candle.f),
            last_trade_id=_id(candle.L),
            connection_time=receipt.connection_us,
            connection_sequence=receipt.sequence,
        ),
    )


def _id(number: int) -> str | None:
    return str(number) if number >= 0 else None


class BinanceFuturesKlines(FuturesStream):
    """Candles of the whole USDT-margined market (`producers.contract.Stream`)."""

    name = "BINANCE_FUTURES_KLINES"
    channels: tuple[str, ...] = (KLINES,)
    scope: Scope = "market"
    selection: str | None = None
    limits = Limits(
        rest=REST,
        connects=CONNECTS,
        messages=MESSAGES,
        feeds_per_connection=FEEDS_PER_CONNECTION,
        feeds_per_message=FEEDS_PER_MESSAGE,
    )
    streams: ClassVar[Mapping[str, str]] = {KLINES: "@kline_1m"}
    readers: ClassVar[Mapping[str, Read]] = {"@kline_1m": _read_kline}

    def market_feeds(self, instruments: Sequence[Instrument], selected: Sequence[str]) -> Sequence[Feed]:
        """Every USDT perpetual in trade."""
        return [
            Feed(KLINES, one.symbol)
            for one in instruments
            if one.kind == "PERPETUAL" and one.quote == QUOTE and one.status == "TRADING"
        ]
