"""The point of one record, as line protocol and the issue say it, made in the plainest way: what columns must give."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any, NamedTuple

from hypothesis import strategies as st

from ravencore.decimals import LIMIT, ONE
from ravencore.records import Book, Kline, Level, Record, Trade
from sinks.contract import Refused
from sinks.stores.influx_lines import BEST, LATEST_US, MEASUREMENTS

Value = str | float | int


class Point(NamedTuple):
    """A series as it is written, the values of the fields in their order, a nanosecond."""

    series: str
    fields: dict[str, Value]
    time_ns: int


def encode(record: Record, offset: int = 0) -> Point:
    """The point of a record; raises Refused where there is none."""
    known, row = MEASUREMENTS[type(record)], record
    series = f"{known.name},{known.symbol}={tag(row.symbol)},exchange={tag(row.venue)}"  # type: ignore[attr-defined]
    if known.tag is not None:
        series += f",{known.tag}={tag(getattr(row, known.tag))}"
    found = _of_book(record) if isinstance(record, Book) else _fields(record)
    fields = {name: value for name, value in found if value is not None}
    if not fields:
        raise Refused("nothing to write")
    return Point(series, fields, _time_ns(record, offset))


def tag(text: str) -> str:
    if not text or "\\" in text or _has_control(text):
        raise Refused(text)
    return text.replace(",", "\\,").replace("=", "\\=").replace(" ", "\\ ")


def _has_control(text: str) -> bool:
    return any(ord(character) < 32 or ord(character) == 127 for character in text)


def _fields(record: Any) -> Iterator[tuple[str, Value | None]]:
    for name, source in MEASUREMENTS[type(record)].fields.items():
        value = getattr(record, source)
        if value is None:
            yield name, None
        elif isinstance(value, str):
            if _has_control(value):
                raise Refused(value)
            yield name, value
        elif isinstance(value, float):
            yield name, value if math.isfinite(value) else None
        elif name == "trade_count":
            yield name, value
        elif name == "next_funding_time":
            yield name, _within(value) * 1000
        else:
            yield name, float(Fraction(value, ONE))


def _of_book(book: Book) -> Iterator[tuple[str, float | None]]:
    best = [side[0] if side else None for side in (book.bids, book.asks)]
    numbers = [Fraction(n, ONE) for level in best if level for n in (level.price, level.quantity)]
    names = BEST if all(best) else BEST[:2] if best[0] else BEST[2:]
    yield from ((name, float(number)) for name, number in zip(names, numbers, strict=False))
    if all(best):
        bid, bid_quantity, ask, ask_quantity = numbers
        both = bid_quantity + ask_quantity
        yield "spread", float(ask - bid)
        yield "mid_price", float((bid + ask) / 2)
        yield "imbalance", float((bid_quantity - ask_quantity) / both) if both else None


def _time_ns(record: Any, offset: int) -> int:
    if isinstance(record, Kline):
        return _within(record.open_time) * 1000
    counting = offset
    if isinstance(record, Trade) and record.sequence is not None:
        counting = record.sequence
    time_us = _within(record.received_time if record.event_time is None else record.event_time)
    return time_us * 1000 + counting % (1_000_000 if time_us % 1000 == 0 else 1000)


def _within(time_us: int) -> int:
    if abs(time_us) > LATEST_US:
        raise Refused("beyond int64")
    return time_us


# Records to hold them against.

UNITS38 = st.integers(-LIMIT + 1, LIMIT - 1)
HUNDRED_MILLIONTHS = st.one_of(
    st.integers(-(10**6), 10**12),
    st.integers(-(2**54), 2**54),
    st.sampled_from([2**52 - 1, 2**52, 2**53 + 1, -(2**52)]),
).map(lambda number: number * 10**10)
MICROS = st.one_of(st.integers(0, 2**51), st.integers(-LATEST_US - 2, LATEST_US + 2), st.just(2**63 - 1))
ODD = ["A B", "a,b=c", "é😀", '"', "", "back\\slash", "tab\t", "\x7f"]
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "venue": st.sampled_from(["BINANCE_SPOT", "A B"]),
    "symbol": st.sampled_from(["BTCUSDT", "ETHUSDT", "BTC-25DEC26-100000-C"] * 4 + ODD),
    "side": st.sampled_from(["BUY", "SELL"]),
    "source": st.just("MAINTAINED"),
    "interval": st.sampled_from(["1m", "1h", "1 m"]),
    "status": st.just("FILLED"),
    "underlying": st.just("BTC"),
    "option_side": st.just("PUT"),
    "price_currency": st.just("BTC"),
    "trade_id": st.integers(0, 10**12).map(str) | st.sampled_from(ODD) | st.text(max_size=70),
    "trade_count": st.integers(-(2**63), 2**63 - 1),
    "sequence": st.integers(-(2**63), 2**63 - 1),
    "update_id": st.none() | st.just("u"),
    "next_funding_time": MICROS,
    "event_time": MICROS,
    "received_time": MICROS,
    "open_time": MICROS,
    "close_time": MICROS,
    "expiry": MICROS,
}
DOUBLES = ("mark_iv", "bid_iv", "ask_iv")


def records_of(cls: type[Record], units: st.SearchStrategy[int] = UNITS38) -> st.SearchStrategy[Record]:
    """Any records of a kind, nulls wherever there may be one."""
    drawn: dict[str, st.SearchStrategy[Any]] = {}
    for name in cls.__struct_fields__:
        annotation = str(cls.__annotations__[name])
        plain: st.SearchStrategy[Any] = st.floats() if name in DOUBLES else FIELDS.get(name, units)
        if name in {"bids", "asks"}:
            drawn[name] = st.lists(st.builds(Level, units, units), max_size=3).map(tuple)
        elif name in FIELDS or "int" in annotation or "float" in annotation:
            drawn[name] = st.none() | plain if "None" in annotation else plain
    for name in ("connection_time", "connection_sequence", "delta", "gamma", "theta", "vega", "rho"):
        drawn.pop(name, None)
    return st.builds(cls, **drawn)
